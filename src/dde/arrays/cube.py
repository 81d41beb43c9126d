"""The cube: which runs, on which grid; makes any block of any metric when it is asked for."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from dde.curves.alignment import Chains, Interpolation, align
from dde.curves.observations import Observations, read_observations
from dde.errors import SourceError
from dde.names import Metric
from dde.relations.registry import Registry

__all__ = ["Cube", "build_chains", "find_cube", "keep_cube"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cube:
    """Two stores and the way their values are made; holds no metric.

    Attributes
    ----------
    registry : Registry
    how : Interpolation
    key : str
        Digest of the sources and options: equal for equal content.
    metrics : tuple of Metric
        Variables of the Dataset. In raw tables all entries of a task are one text: a text that is read for one
        variable is parsed for all of them.
    """

    registry: Registry
    how: Interpolation
    key: str
    metrics: tuple[Metric, ...] = ()
    _read: OrderedDict[tuple[tuple[str, ...], str], Observations] = field(default_factory=OrderedDict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _ALIVE[self.key] = self

    def _observations(self, metric: Metric, run_ids: tuple[str, ...]) -> Observations:
        """Return the observations of a metric; keeps those of its siblings that were read along with it."""
        found = self._read.pop((run_ids, metric.name), None)
        if found is not None:
            return found
        tables = self.registry.tables
        together = [metric] if tables is None else tables.read_together(metric, self.metrics)
        observed = read_observations(self.registry, run_ids, together)
        for sibling in together[1:]:
            self._read[run_ids, sibling.name] = observed[sibling.name]
        while len(self._read) > _SIBLINGS:
            self._read.popitem(last=False)
        return observed[metric.name]

    def block(self, metric: Metric, run_ids: npt.NDArray[np.object_], grid: Int64) -> npt.NDArray[np.float64]:
        """Return values of shape ``run_ids.shape + grid.shape``; reads the runs and the metric asked for."""
        return self._fill(metric, run_ids, grid, support=False)

    def support(self, metric: Metric, run_ids: npt.NDArray[np.object_], grid: Int64) -> npt.NDArray[np.int8]:
        """Return the support codes of shape ``run_ids.shape + grid.shape``."""
        return self._fill(metric, run_ids, grid, support=True).astype(np.int8)

    def _fill(
        self, metric: Metric, run_ids: npt.NDArray[np.object_], grid: Int64, support: bool
    ) -> npt.NDArray[np.float64]:
        present = np.asarray(run_ids != "", bool)
        out = np.full((*run_ids.shape, len(grid)), 0.0 if support else np.nan)
        if not present.any() or not len(grid):
            return out
        order = np.argsort(grid, kind="stable")
        ascending = grid[order]
        asked = [str(r) for r in run_ids[present]]
        chains = build_chains(self.registry, asked)
        own = self._observations(metric, chains.run_ids)
        number = {run_id: i for i, run_id in enumerate(chains.run_ids)}
        values, codes = align(
            chains, own, ascending, self.how, metric.joins_at_branch, support, [number[r] for r in asked]
        )
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        made = values if codes is None else codes.astype(np.float64)
        out[present] = made[:, back]
        return out


def build_chains(registry: Registry, run_ids: list[str]) -> Chains:
    """Return the runs with all their ancestors, parents before children."""
    number: dict[str, int] = {}
    parents: list[int] = []
    branches: list[int] = []
    for run_id in run_ids:
        above = -1
        for member in registry.chain(run_id):
            if member not in number:
                number[member] = len(number)
                parents.append(above)
                placed = registry.placed.get(member)
                branches.append(-1 if placed is None or placed.branch_tokens is None else placed.branch_tokens)
            above = number[member]
    return Chains(tuple(number), np.array(parents, np.int32), np.array(branches, np.int64))


# Cubes of the Datasets opened in this process, newest last, so that ds.dde.support() finds what its values were
# made from after the Dataset has been loaded, sliced or aligned anew.
_CUBES: OrderedDict[str, Cube] = OrderedDict()
# Those and any that a lazy array, perhaps an unpickled one, still reads from.
_ALIVE: WeakValueDictionary[str, Cube] = WeakValueDictionary()
_KEPT = 64

# Siblings that were read along with a metric and not asked for yet: those of a few blocks.
_SIBLINGS = 256


def keep_cube(registry: Registry, how: Interpolation, metrics: Sequence[Metric], facts: list[str]) -> Cube:
    """Return a cube and remember it under a digest of `facts`."""
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    cube = Cube(registry, how, key, tuple(metrics))
    _ALIVE[key] = _CUBES[key] = cube
    _CUBES.move_to_end(key)
    while len(_CUBES) > _KEPT:
        _CUBES.popitem(last=False)
    return cube


def find_cube(key: str) -> Cube:
    """Return the cube with that key; raises SourceError when this process has not opened its sources."""
    if key in _ALIVE:
        return _ALIVE[key]
    raise SourceError(
        "the stores behind this Dataset are not open in this process, so what its values were made from can't be "
        "looked up. Open them again with dde.open_lineages(...) and the same arguments, or compute this before saving."
    )
