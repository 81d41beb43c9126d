"""Answers to the questions that runs are trained for, each with the runs that entered and with its uncertainty."""
