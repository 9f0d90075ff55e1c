"""Mend damaged checkpoints from other copies of the same bytes."""
