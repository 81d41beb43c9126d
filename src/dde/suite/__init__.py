"""Suites of training runs: what they declare of their files, how these are read, and those that dde knows.

A :class:`dde.Suite` is a declaration in plain data. :mod:`dde.suite.builtin` holds the ones that ``dde.suites`` names,
and :mod:`dde.suite.datadecide` all that knows DataDecide's recipes, sizes, tables and runs.
"""
