"""Moments: every line, and in the main thread every bytecode, at which an operation may be met."""
