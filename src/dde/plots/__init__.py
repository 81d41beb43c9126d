"""Pictures of a Dataset of lineages, on Bokeh (to explore) and on matplotlib (to print)."""
