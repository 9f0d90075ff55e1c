"""From objects to files."""
