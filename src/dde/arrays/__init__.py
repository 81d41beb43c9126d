"""Labeled arrays: the lazy Dataset of lineages and what is done with it."""
