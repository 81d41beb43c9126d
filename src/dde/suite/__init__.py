"""Suites of training runs: their declarations, the readers of their files, and the built-in suites.

A :class:`dde.Suite` is a declaration in plain data. :mod:`dde.suite.builtin` has the suites that ``dde.suites`` lists.
:mod:`dde.suite.datadecide` has everything that is specific to DataDecide: recipes, sizes, tables and runs.
"""
