"""Worker processes: their names, their heartbeats, and how much they can take on."""
