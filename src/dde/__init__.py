"""Pretraining and post-training runs of language models as one labeled, lazy xarray Dataset."""
