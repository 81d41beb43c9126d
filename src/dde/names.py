"""Names of the DataDecide suite, with all their aliases: recipes, sizes, seeds, checkpoints and metrics."""

from dde.curves.metric import Metric, identifier
from dde.suite.datadecide import names
from dde.suite.datadecide.names import *  # noqa: F403

__all__ = [*names.__all__, "Metric", "identifier"]
