"""Files of a run: the workspace that tools see, and paths that cannot leave it."""
