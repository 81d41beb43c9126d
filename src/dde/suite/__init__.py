"""Suites of training runs: what they say of their files, and those that dde knows.

A :class:`Suite` is a declaration in plain data. :mod:`dde.suite.builtin` holds the ones that ``dde.suites`` names.
"""

from dde.suite.declare import Suite, Table
from dde.suite.metric import Metric

__all__ = ["Metric", "Suite", "Table"]
