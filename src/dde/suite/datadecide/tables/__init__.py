"""Evaluation tables of DataDecide: finding the files, what rows they have, and reading their metrics."""
