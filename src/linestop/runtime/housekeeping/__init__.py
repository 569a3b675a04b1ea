"""Background work: the sweep, dead letters, left-over timers, the rotation of the log, alerts about space."""
