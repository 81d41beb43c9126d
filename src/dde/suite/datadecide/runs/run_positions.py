"""What making values of runs asks for, and no more: who descends from whom, where runs branch and end, their rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dde.schema import EVALUATIONS, PERPLEXITIES
from dde.sources.protocols import PosttrainingSource
from dde.suite.datadecide.names import Base
from dde.suite.datadecide.runs.positions import PlacedRun
from dde.suite.datadecide.runs.readers import Readers
from dde.suite.datadecide.runs.token_counts import Placement
from dde.suite.datadecide.tables.evaluation_tables import EVALUATED, PERPLEXITY
from dde.suite.datadecide.tables.pretraining_tables import Catalog, DataDecide

__all__ = ["LoggedPlaces", "RunPositions", "TableSteps"]

Int64 = npt.NDArray[np.int64]


class LoggedPlaces(Protocol):
    """Gives the rows of runs on the axes of their own tokens."""

    def of(self, run_ids: Sequence[str]) -> list[Placement]:
        """Return the rows of runs, in that order."""
        ...

    def some_tokens(self, run_ids: Sequence[str], at_most: int) -> list[Int64]:
        """Return the own tokens of the rows of runs; of a store that is too large to hold, so many of each run."""
        ...


class RunPositions(Protocol):
    """Runs as far as their values are concerned; attributes as of `Registry`."""

    tables: DataDecide | None
    store: PosttrainingSource | None

    @property
    def readers(self) -> Readers:
        """Rows of both stores, through the cache."""
        ...

    @property
    def derived(self) -> Collection[str]:
        """Ids of the post-training runs."""
        ...

    @property
    def bases(self) -> Mapping[str, Base]:
        """Pretraining runs by label."""
        ...

    @property
    def checkpoint_steps(self) -> Mapping[str, Int64]:
        """Evaluated steps of each pretraining run of the tables, by label."""
        ...

    def table_steps(self, sampling: str) -> Mapping[str, Int64]:
        """Return the steps that tables have rows of, of each pretraining run: of evaluations, or of perplexities."""
        ...

    def is_evaluated(self, run_id: str) -> bool:
        """Return whether a derived run has final evaluations."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """What the store says of each derived run's content."""
        ...

    @property
    def placed(self) -> Mapping[str, PlacedRun]:
        """Positions of derived runs."""
        ...

    @property
    def placements(self) -> LoggedPlaces:
        """Rows of derived runs on the axes of their own tokens."""
        ...

    def chain(self, run_id: str) -> list[str]:
        """Return the run's ancestors in the store, from the base on, then the run itself."""
        ...


#: Bit of the catalog of each sampling of tables.
_KINDS = {EVALUATIONS: EVALUATED, PERPLEXITIES: PERPLEXITY}


class TableSteps:
    """Steps of pretraining runs by label, of each sampling of the tables; made when they are needed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._made: dict[str, dict[str, Int64]] = {}

    def of(self, sampling: str) -> dict[str, Int64]:
        """Return the steps that the tables of a sampling have rows of, by label."""
        if sampling not in self._made:
            self._made[sampling] = self._catalog.steps_by_label(_KINDS[sampling])
        return self._made[sampling]
