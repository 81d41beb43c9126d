"""Plotting backends: the options that Bokeh and Matplotlib need for the same picture."""
