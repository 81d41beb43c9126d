"""Old import path of :mod:`dde.suite.datadecide.tables.pretraining_tables`."""

from dde.suite.datadecide.tables.pretraining_tables import Catalog, DataDecide

__all__ = ["Catalog", "DataDecide"]
