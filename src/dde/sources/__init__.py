"""Backends: one module per kind of store, one internal model that every one of them produces."""
