"""Former import path of :mod:`dde.suite.datadecide.tables.pretraining_tables`."""

from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from dde.suite.datadecide.tables.pretraining_tables import TableCheckpoints as Catalog

__all__ = ["Catalog", "DataDecide"]
