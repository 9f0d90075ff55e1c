"""A directory on a local disk, by plain system calls."""
