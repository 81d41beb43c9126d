"""Runs and who derives from whom: the run table that every suite makes, its graph, and selecting runs of it."""
