"""Who derives from whom: evidence about a run, its parent, its place on the token axis, its treatment."""
