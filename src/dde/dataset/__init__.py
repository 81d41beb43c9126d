"""Datasets of lineages: build them lazily, and the operations of `ds.dde`."""
