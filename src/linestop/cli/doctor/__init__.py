"""The checks of ``linestop doctor`` and ``linestop health``."""
