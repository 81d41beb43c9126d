"""Runs, lineages and repositories as objects, and what notebooks show of them."""
