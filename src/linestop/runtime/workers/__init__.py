"""Worker processes: their names, their heartbeats and their capacity."""
