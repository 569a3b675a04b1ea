"""What ``linestop bus`` does: set up an outside broker, plan its disk, find the runs that may be removed."""
