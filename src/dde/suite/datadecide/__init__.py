"""The DataDecide suite: its recipes, sizes and seeds, its evaluation tables and its W&B runs.

- ``names``: sizes, recipes, seeds, checkpoints and metrics, with all their aliases.
- ``tables``: reading the evaluation tables, raw or parsed.
- ``runs``: post-training runs of a store: evidence, parents, tokens, treatments; and the registry of all runs.
- The other modules build Datasets, frames and pages from tables and runs.
"""
