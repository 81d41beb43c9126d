"""Bokeh and Matplotlib: the options that each needs for the same picture."""
