"""Accounts shared by all workers: money held, money spent, and holds whose run is gone."""
