"""The interactive application: choices, the selection they make, code for that selection, and the page."""
