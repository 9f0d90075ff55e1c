"""Bytes to plain data and back, without running code. Pure."""
