"""What the commands about runs do: follow, report, stop and check a run."""
