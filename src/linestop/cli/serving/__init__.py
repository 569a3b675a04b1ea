"""The processes of ``linestop dev``, ``up`` and ``actor``."""
