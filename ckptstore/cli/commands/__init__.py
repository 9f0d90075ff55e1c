"""The commands of ``ckptstore``: a module for each, named after it."""
