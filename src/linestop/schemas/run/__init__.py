"""The state of a run from its log: the fold, its rules, and the results of its state."""
