"""Commits on a local disk: staged, synced, renamed into place."""
