"""What making values of runs asks for, and no more: who descends from whom, where runs branch and end, their rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dde.names import Base
from dde.relations.positions import PlacedRun
from dde.relations.readers import Readers
from dde.relations.token_counts import Placement
from dde.sources.datadecide import Catalog, DataDecide
from dde.sources.protocols import PosttrainingSource

__all__ = ["LoggedPlaces", "RunPositions", "steps_by_label"]

Int64 = npt.NDArray[np.int64]


class LoggedPlaces(Protocol):
    """Gives the rows of runs on the axes of their own tokens."""

    def of(self, run_ids: Sequence[str]) -> list[Placement]:
        """Return the rows of runs, in that order."""
        ...


class RunPositions(Protocol):
    """Runs as far as their values are concerned; attributes as of :class:`dde.relations.registry.Registry`."""

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

    def base_end_tokens(self, label: str) -> int | None:
        """Return the tokens of the last evaluated checkpoint of a pretraining run; None without any."""
        ...


def steps_by_label(catalog: Catalog) -> dict[str, Int64]:
    """Return the evaluated steps of each pretraining run, by label."""
    bounds = np.searchsorted(catalog.base, np.arange(len(catalog.bases) + 1))
    return {b.label: catalog.step[bounds[i] : bounds[i + 1]] for i, b in enumerate(catalog.bases)}
