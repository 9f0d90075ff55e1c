"""Decode pickles of every protocol without running what they name."""
