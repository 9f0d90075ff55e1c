"""The library with one of its rules broken, for harnesses that have to notice."""
