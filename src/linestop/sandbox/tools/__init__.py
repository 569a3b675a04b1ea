"""Tools: how a function becomes one, what its contract says, and how a call of it is performed."""
