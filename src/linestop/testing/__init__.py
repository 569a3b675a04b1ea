"""For tests of linestop and of agents built on it: virtual time, an in-memory broker, real servers."""
