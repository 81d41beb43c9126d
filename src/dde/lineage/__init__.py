"""Lineages: the run table that every suite provides, the graph of its runs, and the selection of runs."""
