"""The cube: which runs, on which grid; makes any block of any metric when it is asked for."""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from dde.curves.alignment import OUTSIDE, Chains, Interpolation
from dde.curves.axes import AXES, AxisRule, axis_lines, tokens_at
from dde.curves.fast_alignment import AlignmentPlan, plan_alignment
from dde.curves.grids import Points
from dde.curves.observations import Observations, read_observations
from dde.errors import SourceError
from dde.names import Metric
from dde.relations.registry import Registry
from dde.relations.reopening import Origin, origin_of, reopened, runs_of
from dde.relations.run_positions import RunPositions

__all__ = ["Cube", "build_chains", "find_cube", "keep_cube"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]
TOKENS = AXES["cumulative_tokens"]


@dataclass(frozen=True, eq=False)
class Cube:
    """Two stores and the way their values are made; holds no metric.

    Attributes
    ----------
    source : Registry or Origin
        The stores' runs; in another process than the one that opened them, how to open them again.
    how : Interpolation
    key : str
        Digest of the sources and options: equal for equal content.
    metrics : tuple of Metric
        Variables of the Dataset. In raw tables all entries of a task are one text: a text that is read for one
        variable is parsed for all of them.
    """

    source: Registry | Origin
    how: Interpolation
    key: str
    metrics: tuple[Metric, ...] = ()
    _read: OrderedDict[tuple[tuple[str, ...], str], Observations] = field(default_factory=OrderedDict, repr=False)
    _plans: deque[AlignmentPlan] = field(default_factory=lambda: deque(maxlen=_PLANS), repr=False)

    @property
    def registry(self) -> Registry:
        """The stores' runs; opened when first asked for in another process."""
        return self.source if isinstance(self.source, Registry) else reopened(self.source)

    @property
    def runs(self) -> RunPositions:
        """The runs as far as their values are concerned; sent along to other processes."""
        return self.source if isinstance(self.source, Registry) else runs_of(self.source)

    def __getstate__(self) -> dict[str, Any]:
        source = self.source if isinstance(self.source, Origin) else origin_of(self.source) or self.source
        return {**self.__dict__, "source": source, "_read": OrderedDict(), "_plans": deque(maxlen=_PLANS)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.source, Origin):
            # The arrays of a Dataset arrive one by one: what one of them reads along for another is shared.
            for other in list(_ALIVE[self.key].values()):
                if isinstance(other.source, Origin) and other.source.key == self.source.key:
                    self.__dict__["_read"] = other._read
        _remember(self)

    def __deepcopy__(self, memo: object) -> Cube:
        # It never changes, and its stores are not to be opened twice.
        return self

    def _observations(self, metric: Metric, run_ids: tuple[str, ...]) -> Observations:
        """Return the observations of a metric; its siblings that are read along are kept, here or in the cache."""
        found = self._read.pop((run_ids, metric.name), None)
        if found is not None:
            return found
        tables = self.runs.tables
        together = [metric] if tables is None else tables.read_together(metric, self.metrics)
        if self.runs.readers.keeps_tables:
            return read_observations(self.runs, run_ids, [metric], together[1:])[metric.name]
        observed = read_observations(self.runs, run_ids, together)
        for sibling in together[1:]:
            self._read[run_ids, sibling.name] = observed[sibling.name]
        while len(self._read) > _SIBLINGS:
            self._read.popitem(last=False)
        return observed[metric.name]

    def block(self, metric: Metric, run_ids: Texts, points: Points, rule: AxisRule = TOKENS) -> Float64:
        """Return values of shape ``run_ids.shape + points.shape``; reads the runs and the metric asked for.

        Parameters
        ----------
        metric : Metric
        run_ids : object array of str, of any shape
            "" where there is no run.
        points : (point,) int64 or float64 array
            Places on the axis, in any order.
        rule : AxisRule
        """
        return self._aligned(metric, run_ids, points, rule, support=False)[0]

    def support(self, metric: Metric, run_ids: Texts, points: Points, rule: AxisRule = TOKENS) -> npt.NDArray[np.int8]:
        """Return the support codes of shape ``run_ids.shape + points.shape``."""
        codes = self._aligned(metric, run_ids, points, rule, support=True)[1]
        assert codes is not None
        return codes

    def observations(self, metric: Metric, run_ids: Iterable[str]) -> dict[str, tuple[Int64, Float64]]:
        """Return tokens and values of the own observations of each run, ascending."""
        asked = tuple(dict.fromkeys(r for r in run_ids if r))
        if not asked:
            return {}
        own = self._observations(metric, asked)
        return {run_id: own.of(i) for i, run_id in enumerate(asked)}

    def tokens(self, run_ids: Texts, points: Points, rule: AxisRule) -> Float64:
        """Return the cumulative tokens of each run at each point; NaN where it has no place on the axis."""
        offset, scale = axis_lines(self.runs, run_ids, rule)
        out = np.full((*run_ids.shape, len(points)), np.nan)
        for at in map(tuple, np.argwhere(np.isfinite(scale))):
            out[at] = tokens_at(points, offset[at], scale[at])
        return out

    def _plan(self, chains: Chains, own: Observations, grid: Int64, joins_at_branch: bool) -> AlignmentPlan:
        """Return the plan for these observations; metrics of one source tend to be observed at the same tokens."""
        for plan in list(self._plans):
            if plan.serves(chains, own, grid, self.how, joins_at_branch):
                return plan
        plan = plan_alignment(chains, own, grid, self.how, joins_at_branch)
        # Other threads may add theirs; each is as good.
        if plan.cell.size <= _PLANNED_CELLS:
            self._plans.append(plan)
        return plan

    def _aligned(
        self, metric: Metric, run_ids: Texts, points: Points, rule: AxisRule, support: bool
    ) -> tuple[Float64, npt.NDArray[np.int8] | None]:
        """Return values and support of shape ``run_ids.shape + points.shape``, group by group of equal tokens."""
        shape, run_ids = (*run_ids.shape, len(points)), run_ids.ravel()
        out = np.empty((run_ids.size, len(points)))
        codes = np.full(out.shape, OUTSIDE, np.int8) if support else None
        present = np.flatnonzero(np.asarray(run_ids != "", bool))
        lacking = np.ones(len(run_ids), bool)
        if len(points) and len(present):
            order = np.argsort(points, kind="stable")
            is_ordered = np.array_equal(order, np.arange(len(order)))
            for start in range(0, len(present), _RUNS_AT_ONCE):
                part = present[start : start + _RUNS_AT_ONCE]
                lacking[self._align_part(metric, run_ids, part, points[order], rule, out, codes)] = False
            if not is_ordered:
                back = np.empty_like(order)
                back[order] = np.arange(len(order))
                out, codes = out[:, back], None if codes is None else codes[:, back]
        out[lacking] = np.nan
        return out.reshape(shape), None if codes is None else codes.reshape(shape)

    def _align_part(
        self,
        metric: Metric,
        run_ids: Texts,
        at: npt.NDArray[np.intp],
        points: Points,
        rule: AxisRule,
        out: Float64,
        codes: npt.NDArray[np.int8] | None,
    ) -> npt.NDArray[np.intp]:
        """Fill the rows `at`, group by group of runs whose points are the same tokens; return those that were filled.

        Points are ascending.
        """
        asked = run_ids[at]
        chains = build_chains(self.runs, [str(r) for r in asked])
        own = self._observations(metric, chains.run_ids)
        number = {run_id: i for i, run_id in enumerate(chains.run_ids)}
        rows = np.array([number[str(r)] for r in asked])
        lines = np.stack(axis_lines(self.runs, asked, rule))
        distinct, which = np.unique(lines, axis=1, return_inverse=True)
        for k, (offset, scale) in enumerate(distinct.T.tolist()):
            if not np.isfinite(scale):
                continue
            here = np.flatnonzero(which == k)
            chosen = chains.upward(rows[here].tolist())
            place = {run: i for i, run in enumerate(chosen)}
            whole = len(chosen) == len(chains.run_ids)
            plan = self._plan(
                chains if whole else chains.take(chosen),
                own_chosen := own if whole else own.take(chosen),
                tokens_at(points, offset, scale),
                metric.joins_at_branch,
            )
            plan.fill(own_chosen, [place[r] for r in rows[here].tolist()], at[here], out, codes)
        filled: npt.NDArray[np.intp] = at[np.isfinite(lines[1])]
        return filled


def build_chains(registry: RunPositions, run_ids: list[str]) -> Chains:
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
# Those and any that a lazy array, perhaps an unpickled one, still reads from, by age. Equal ones may come and go.
_ALIVE: defaultdict[str, WeakValueDictionary[int, Cube]] = defaultdict(WeakValueDictionary)
_AGES = itertools.count()
_KEPT = 64

# Plans of the last alignments, 4 bytes a cell: one for evaluations and one for logs, in two blocks at a time.
_PLANS = 4
_PLANNED_CELLS = 1 << 23

# Runs whose observations are in memory at once, some 100 bytes a row while they are put in order. A store without an
# index is scanned as often.
_RUNS_AT_ONCE = 1_024

# Siblings that were read along with a metric and not asked for yet: those of a few blocks.
_SIBLINGS = 256


def _remember(cube: Cube) -> None:
    _ALIVE[cube.key][next(_AGES)] = cube


def keep_cube(registry: Registry, how: Interpolation, metrics: Sequence[Metric], facts: list[str]) -> Cube:
    """Return a cube and remember it under a digest of `facts`."""
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    cube = Cube(registry, how, key, tuple(metrics))
    _remember(cube)
    _CUBES[key] = cube
    _CUBES.move_to_end(key)
    while len(_CUBES) > _KEPT:
        _CUBES.popitem(last=False)
    return cube


def find_cube(key: str) -> Cube:
    """Return the cube with that key; raises SourceError when this process has not opened its sources."""
    held = _ALIVE.get(key)
    # The newest first; other threads may open and forget cubes meanwhile.
    for reference in reversed([] if held is None else held.valuerefs()):
        if (cube := reference()) is not None:
            return cube
    raise SourceError(
        "the stores behind this Dataset are not open in this process, so what its values were made from can't be "
        "looked up. Open them again with dde.open_lineages(...) and the same arguments, or compute this before saving."
    )
