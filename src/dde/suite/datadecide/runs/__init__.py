"""Runs of DataDecide: evidence about a post-training run, its parent, its place on the token axis, its treatment."""
