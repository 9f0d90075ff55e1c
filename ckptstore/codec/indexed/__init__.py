"""Pickles whose arrays can be found, verified and mapped by themselves."""
