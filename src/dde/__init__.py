"""Pretraining and post-training runs of language models as one labeled, lazy xarray Dataset.

``dde.open_lineages(data, db)`` returns an :class:`xarray.Dataset` with the dimensions ``(lineage, run,
cumulative_tokens)``; ``dde.tutorial.open_lineages()`` returns one of a generated suite.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dde.registration import register_accessors_with_xarray

if TYPE_CHECKING:
    from dde import names as names
    from dde import tutorial as tutorial
    from dde.curves.grids import TokenGrid as TokenGrid
    from dde.dataset.concat import concat as concat
    from dde.entities.repository import DataDecideEvolved as DataDecideEvolved
    from dde.entities.repository import RunRepository as RunRepository
    from dde.entities.runs import PosttrainingRun as PosttrainingRun
    from dde.entities.runs import PretrainingRun as PretrainingRun
    from dde.entities.runs import TrainingLineage as TrainingLineage
    from dde.entities.runs import TrainingRun as TrainingRun
    from dde.opening import open_lineages as open_lineages
    from dde.plots.files import save as save
    from dde.sources.ingest import ingest as ingest
    from dde.sources.wandb.store import WandBStore as WandBStore
    from dde.suite.builtin import suites as suites
    from dde.suite.datadecide.tables.checkpoint_list import read_checkpoint_list as read_checkpoint_list
    from dde.suite.datadecide.tables.pretraining_tables import DataDecide as DataDecide
    from dde.suite.declare import Suite as Suite
    from dde.suite.declare import Table as Table
    from dde.suite.metric import Metric as Metric

# The module of each public name. Modules are imported when first used: the database drivers alone take longer to import
# than xarray, and a worker that opens a saved Dataset needs none of them.
_MODULE_OF = {
    "DataDecide": "dde.suite.datadecide.tables.pretraining_tables",
    "DataDecideEvolved": "dde.entities.repository",
    "Metric": "dde.suite.metric",
    "PosttrainingRun": "dde.entities.runs",
    "PretrainingRun": "dde.entities.runs",
    "RunRepository": "dde.entities.repository",
    "Suite": "dde.suite.declare",
    "Table": "dde.suite.declare",
    "TokenGrid": "dde.curves.grids",
    "TrainingLineage": "dde.entities.runs",
    "TrainingRun": "dde.entities.runs",
    "WandBStore": "dde.sources.wandb.store",
    "compare": "dde.analysis.comparison",
    "concat": "dde.dataset.concat",
    "ingest": "dde.sources.ingest",
    "open_lineages": "dde.opening",
    "read_checkpoint_list": "dde.suite.datadecide.tables.checkpoint_list",
    "save": "dde.plots.files",
    "suites": "dde.suite.builtin",
}
_MODULES = ("analysis", "names", "tutorial")

__all__ = sorted([*_MODULE_OF, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES or name == "accessor":
        return importlib.import_module(f"dde.{name}")
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import version

        return version("dde")
    raise AttributeError(f"module 'dde' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_accessors_with_xarray()
