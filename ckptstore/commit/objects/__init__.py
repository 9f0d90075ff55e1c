"""Commits on object stores: a register that only moves forward, one create-only PUT each."""
