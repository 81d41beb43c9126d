"""Datasets of lineages: building them lazily, and what `ds.dde` does with them."""
