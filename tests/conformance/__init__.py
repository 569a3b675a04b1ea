"""A package, so that the buses of its tests end with its last test: their event loop is open until then."""
