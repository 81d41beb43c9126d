"""Evaluation tables of DataDecide: find the files, index their rows, and read their metrics."""
