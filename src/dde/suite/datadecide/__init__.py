"""DataDecide: the one place that knows its recipes, sizes and seeds, its evaluation tables and its W&B runs.

- ``names``: sizes, recipes, seeds, checkpoints and metrics, with all their aliases.
- ``tables``: reading the evaluation tables, raw or parsed.
- ``runs``: post-training runs of a store: evidence, parents, tokens, treatments; pretraining runs beside them.
- The other modules make Datasets, frames and pages of both.
"""
