"""The broker that linestop runs itself: the process, its configuration, its data and its health."""
