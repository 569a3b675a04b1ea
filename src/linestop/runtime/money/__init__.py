"""Accounts shared by all workers: what is held, what is spent, and holds whose run is gone."""
