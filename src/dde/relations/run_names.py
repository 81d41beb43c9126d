"""Old import path of :mod:`dde.suite.datadecide.runs.run_names`."""

from dde.suite.datadecide.runs.run_names import NameFacts, is_run_name, parse_run_name

__all__ = ["NameFacts", "is_run_name", "parse_run_name"]
