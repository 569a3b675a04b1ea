"""Tools: functions with a contract, the registry of them, and the performing of their calls."""
