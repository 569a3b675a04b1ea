"""The configuration of a project: the project file and agent files, and the values that they may have."""
