"""Restoring into live objects and trees."""
