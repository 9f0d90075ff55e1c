"""The package's version. It is not the version of any format: those have counters of their own."""

__version__ = "0.1.0"
