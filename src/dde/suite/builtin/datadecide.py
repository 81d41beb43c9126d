"""DataDecide: its evaluation tables and the W&B runs that post-train its models."""

from __future__ import annotations

from dde.suite.declare import Suite

__all__ = ["declare"]


def declare() -> Suite:
    """Return the suite whose runs DataDecide's own resolver identifies.

    Examples
    --------
    >>> declare().producer
    'datadecide'
    """
    return Suite("datadecide", lineage="{data}-{params}-{seed_name}", producer="datadecide")
