"""What is stored beside the run log: agents, idempotency keys, kill switches, checkpoints, heartbeats."""
