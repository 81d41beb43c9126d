"""Lineages: the run table that every suite makes, the graph of its runs, and selecting runs."""
