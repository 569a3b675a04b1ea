"""What a project says of itself: the project file, agent files, and what may stand in them."""
