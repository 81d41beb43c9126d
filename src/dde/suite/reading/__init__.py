"""Read the files, frames and stores that a suite declares: runs, positions of their rows, values of metrics."""
