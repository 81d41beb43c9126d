"""The interactive application: choices, what they select, the code that selects the same, and the page."""
