"""What a picture of curves is made of: each run's own stretch, the base's, and what joins them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.combine import with_object_text
from dde.arrays.provenance import CHECKPOINT_TYPES, checkpoint_type, support
from dde.errors import SourceError
from dde.relations.treatments import PRETRAINING

__all__ = ["INTERPOLATED", "OBSERVED", "Segment", "find_segments"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

OBSERVED, INTERPOLATED = 1, 2
_OUTSIDE, _BASE = 0, CHECKPOINT_TYPES.index(PRETRAINING)


@dataclass(frozen=True)
class Segment:
    """A stretch of one run's curve, trained in one way.

    Attributes
    ----------
    run_id : str
        Run whose curve it is taken from.
    kind : str
        What was training: pretraining, supervised_ft, dpo, other.
    tokens : (point,) float array
        Cumulative tokens; only cells with a value.
    x : (point,) float array
        The same points on the axis of the picture.
    values : (point,) float array
    support : (point,) int8 array
        1 observed, 2 interpolated.
    breaks : (break,) int array
        Points before which the line is interrupted, because cells between have no value.
    start : float
        Where on the axis the stretch branches off; NaN for a base.
    origin : float
        Where on the axis the chain of runs left its base; NaN for a base.
    anchor : tuple of float, or None
        The parent's last point, from where a picture may draw a connection that the data does not claim.
    is_log : bool
        Whether the metric is one of a training log, not an evaluation.
    facts : mapping
        Coordinates of the run, by name.
    """

    run_id: str
    kind: str
    tokens: Floats
    x: Floats
    values: Floats
    support: npt.NDArray[np.int8]
    breaks: npt.NDArray[np.intp]
    start: float
    origin: float
    anchor: tuple[float, float] | None
    is_log: bool
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def is_base(self) -> bool:
        """Whether it is a stretch of pretraining."""
        return self.kind == PRETRAINING

    def until(self, x: float) -> Segment:
        """Return the segment up to a place on the axis."""
        n = int((self.x <= x).sum())
        return replace(
            self,
            tokens=self.tokens[:n],
            x=self.x[:n],
            values=self.values[:n],
            support=self.support[:n],
            breaks=self.breaks[self.breaks < n],
        )

    def lines(self, since: float = 0.0) -> list[tuple[Floats, Floats]]:
        """Return the uninterrupted lines, x counted from `since`; a lone point is none."""
        parts = zip(np.split(self.x - since, self.breaks), np.split(self.values, self.breaks), strict=True)
        return [(x, values) for x, values in parts if len(x) > 1]


def find_segments(
    dataset: xr.Dataset, metric: str, x: str = "cumulative_tokens", positive: bool = False
) -> list[Segment]:
    """Return the segments of all runs for one metric, lineage by lineage.

    Parameters
    ----------
    dataset : xarray.Dataset
        Dimensions ``(lineage, run, cumulative_tokens)``; scalar where one was selected away.
    metric : str
        Name of a data variable.
    x : str
        Coordinate along ``cumulative_tokens``, and possibly ``lineage``, that is the axis of the picture.
    positive : bool
        Leave out points at zero, which a logarithmic axis has no place for.

    Returns
    -------
    list of Segment
        A base is there once per lineage, first. Of a derived run there is its own stretch; those of its
        ancestors as well, once, where they are not in the Dataset themselves.
    """
    dataset = with_object_text(dataset)
    if "cumulative_tokens" in dataset.dims:
        dataset = dataset.sortby("cumulative_tokens")
    tokens = np.atleast_1d(dataset["cumulative_tokens"].values).astype(np.float64)
    sizes = {"lineage": dataset.sizes.get("lineage", 1), "run": dataset.sizes.get("run", 1)}
    cells = {**sizes, "cumulative_tokens": len(tokens)}
    points = {dim: cells[dim] for dim in ("lineage", "cumulative_tokens")}
    axes = _spread(dataset[x], points).astype(np.float64)
    values = _spread(dataset[metric], cells)
    if positive:
        values = np.where(axes[:, None, :] > 0, values, np.nan)
    known, kinds = _support(dataset, metric, cells), _kinds(dataset, cells)
    facts = {str(n): _spread(c, sizes) for n, c in dataset.coords.items() if "cumulative_tokens" not in c.dims}
    # Losses of two training jobs are different quantities: nothing joins them.
    joins = bool(dataset[metric].attrs.get("task"))
    found: list[Segment] = []
    for i in range(sizes["lineage"]):
        row = {name: all_facts[i] for name, all_facts in facts.items()}
        found += _Curves(row, tokens, axes[i], values[i], known[i], kinds[i], joins).segments()
    return found


def _spread(array: xr.DataArray, sizes: Mapping[str, int]) -> npt.NDArray[Any]:
    """Return values over the dimensions `sizes`, also where some were selected away or never there."""
    broadcast: xr.Variable = array.variable.set_dims(dict(sizes))  # type: ignore[no-untyped-call]
    return np.asarray(broadcast.transpose(*sizes).values)


@dataclass(frozen=True)
class _Curves:
    """Curves of one lineage; facts are arrays (run,), the others (run, cumulative_tokens)."""

    facts: Mapping[str, npt.NDArray[Any]]
    tokens: Floats
    axis: Floats
    values: Floats
    support: npt.NDArray[np.int8]
    kinds: npt.NDArray[np.int8]
    joins: bool

    def segments(self) -> Iterator[Segment]:
        run_ids, parents = self.facts["run_id"].tolist(), self.facts["parent_run_id"].tolist()
        branches = self.facts["branch_tokens"].astype(np.float64)
        number = {run_id: j for j, run_id in enumerate(run_ids) if run_id}
        if not number:
            return
        derived = [j for j in number.values() if np.isfinite(branches[j])]
        bases = [j for j in number.values() if j not in derived]
        origins = {j: self._origin(j, number, parents, branches) for j in derived}
        # Where the base was selected away, the run that left it last shows the most of it.
        shown = bases or [max(derived, key=origins.__getitem__)]
        for j in shown:
            yield from self._stretch(j, _BASE, self.kinds[j] == _BASE, np.nan, np.nan)
        drawn: set[tuple[str, int]] = set()
        for j in derived:
            own = self.tokens > branches[j]
            for kind in dict.fromkeys(self.kinds[j].tolist()):
                if kind in (_OUTSIDE, _BASE):
                    continue
                where = self.kinds[j] == kind
                if parents[j] not in number and (parents[j], kind) not in drawn:
                    drawn.add((parents[j], kind))
                    yield from self._stretch(j, kind, where & ~own, origins[j], origins[j])
                yield from self._stretch(j, kind, where & own, branches[j], origins[j])

    def _origin(self, j: int, number: Mapping[str, int], parents: list[str], branches: Floats) -> float:
        """Return the tokens at which the chain of a run left its base."""
        while parents[j] in number and np.isfinite(branches[number[parents[j]]]):
            j = number[parents[j]]
        before = self.tokens <= branches[j]
        hidden = before & (self.kinds[j] > _BASE)
        if not hidden.any():
            return float(branches[j])
        # An ancestor is not in the Dataset. Exact where the token axis holds its branch, as an automatic one does.
        base = self.tokens[before & (self.kinds[j] == _BASE)]
        return float(base[-1]) if len(base) else 0.0

    def _stretch(self, j: int, kind: int, where: Mask, start: float, origin: float) -> Iterator[Segment]:
        cells = np.flatnonzero(where & np.isfinite(self.values[j]))
        if not len(cells):
            return
        support, anchor = self.support[j].copy(), None
        if self.joins and kind != _BASE:
            before = np.flatnonzero(np.isfinite(self.values[j, : cells[0]]))
            if len(before) and before[-1] == cells[0] - 1 and support[cells[0]] == INTERPOLATED:
                # The data itself joins the two. The point stays the parent's, which shows it.
                cells = np.concatenate([before[-1:], cells])
                support[before[-1]] = INTERPOLATED
            elif len(before):
                anchor = (float(self.axis[before[-1]]), float(self.values[j, before[-1]]))
        yield Segment(
            run_id=str(self.facts["run_id"][j]),
            kind=CHECKPOINT_TYPES[kind],
            tokens=self.tokens[cells],
            x=self.axis[cells],
            values=self.values[j, cells],
            support=support[cells],
            breaks=np.flatnonzero(np.diff(cells) > 1) + 1,
            start=self._on_axis(start),
            origin=self._on_axis(origin),
            anchor=anchor,
            is_log=not self.joins,
            facts={name: values[j] for name, values in self.facts.items()},
        )

    def _on_axis(self, tokens: float) -> float:
        return float(np.interp(tokens, self.tokens, self.axis)) if np.isfinite(tokens) else np.nan


def _support(dataset: xr.Dataset, metric: str, cells: Mapping[str, int]) -> npt.NDArray[np.int8]:
    try:
        return _spread(support(dataset, metric), cells)
    except SourceError:
        # Saved and opened again, so which cells were observed is not known any more; one without neighbours was.
        some = np.isfinite(_spread(dataset[metric], cells))
        beside = np.zeros_like(some)
        beside[..., 1:] |= some[..., :-1]
        beside[..., :-1] |= some[..., 1:]
        return np.where(some & ~beside, OBSERVED, INTERPOLATED).astype(np.int8)


def _kinds(dataset: xr.Dataset, cells: Mapping[str, int]) -> npt.NDArray[np.int8]:
    """Return codes into CHECKPOINT_TYPES."""
    try:
        return _spread(checkpoint_type(dataset), cells)
    except SourceError:
        types = dataset["run_type"]
        codes = [
            CHECKPOINT_TYPES.index(t) if t in CHECKPOINT_TYPES else len(CHECKPOINT_TYPES) - 1
            for t in np.atleast_1d(types.values)
        ]
        own = types.copy(data=np.reshape(codes, types.shape))
        after = dataset["cumulative_tokens"] > dataset["branch_tokens"]
        return np.where(_spread(after, cells), _spread(own, cells), _BASE).astype(np.int8)
