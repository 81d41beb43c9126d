"""Suites of training runs: what they say of their files, and those that dde knows."""

from dde.suite.declare import Suite, Table
from dde.suite.metric import Metric

__all__ = ["Metric", "Suite", "Table"]
