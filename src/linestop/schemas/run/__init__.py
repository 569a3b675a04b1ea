"""A run as its log says it is: the fold, its rules, and what follows from its state."""
