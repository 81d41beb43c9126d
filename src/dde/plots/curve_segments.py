"""Segments of curves: the stretches of runs and bases, their connections, and the thinning of their points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.curves.axes import AXES
from dde.dataset.align import axis_values
from dde.dataset.samples import has_samplings, joins_at_branch
from dde.errors import warn_caller
from dde.lineage.chain_texts import parse_chain
from dde.plots.cells import INTERPOLATED, OBSERVED, OUTSIDE, Cells, support_of
from dde.plots.colours import is_given
from dde.schema import LINEAGE_COORDINATES, MEMBERS, factors_of, is_datadecide, sampling_of, without_replicate

__all__ = [
    "INTERPOLATED",
    "LINE_POINTS",
    "MARKERS",
    "OBSERVED",
    "OF_LINEAGE",
    "Segment",
    "columns_for",
    "find_segments",
    "lineages_of",
    "run_blocks",
    "segments_by_metric",
    "spread_picks",
    "thinned",
]

#: Points of lines in a panel, above which curves are thinned further than to the resolution of its pixels.
LINE_POINTS = 30_000
#: Maximum number of markers in a panel, and of cells with a tooltip.
MARKERS = 3_600

_FEWEST_COLUMNS = 12

Floats = npt.NDArray[np.float64]


def columns_for(curves: int, width: int) -> int:
    """Return the number of columns to which each of `curves` is thinned: the pixels where there are few curves.

    Examples
    --------
    >>> columns_for(1, 330), columns_for(500, 330)
    (330, 15)
    """
    return max(min(width, LINE_POINTS // (4 * max(curves, 1))), _FEWEST_COLUMNS)


def thinned(x: Floats, y: Floats, low: float, high: float, columns: int, log: bool = False) -> npt.NDArray[np.intp]:
    """Return the points of a line to draw: the first, lowest, highest and last of each column.

    Parameters
    ----------
    x, y : (point,) float array
        `x` ascending, without NaN.
    low, high : float
        Range of the axis that is shown. Of the points outside, the nearest one on either side is drawn.
    columns : int
    log : bool
        Whether columns are of equal width on a logarithmic axis.

    Returns
    -------
    int array
        Indices, ascending; of all points inside when there are at most four per column.

    Examples
    --------
    >>> x = np.arange(1000.0)
    >>> y = np.where(x == 333, 9.0, 0.0)
    >>> picked = thinned(x, y, 0, 999, 10)
    >>> len(picked) <= 40, 333 in picked
    (True, True)
    """
    start = max(int(np.searchsorted(x, low, side="left")) - 1, 0)
    stop = min(int(np.searchsorted(x, high, side="right")) + 1, len(x))
    inside = np.arange(start, stop)
    if len(inside) <= 4 * columns:
        return inside
    share = (np.log(x[inside] / low) / np.log(high / low)) if log else (x[inside] - low) / (high - low)
    # Points outside have columns of their own; the right end belongs to the last column inside.
    column = np.where(share > 1, columns, np.minimum(np.floor(share * columns), columns - 1)).astype(np.intp)
    picks = []
    for key in (y[inside], np.arange(len(inside))):
        order = np.lexsort((key, column))
        edges = np.flatnonzero(np.diff(column[order])) + 1
        picks += [order[np.r_[0, edges]], order[np.r_[edges - 1, len(order) - 1]]]
    return inside[np.unique(np.concatenate(picks))]


def spread_picks(count: int, most: int) -> npt.NDArray[np.intp]:
    """Return at most `most` of `count` positions, evenly spread and always including the last.

    Examples
    --------
    >>> spread_picks(9, 3).tolist(), spread_picks(2, 5).tolist(), spread_picks(9, 1).tolist()
    ([0, 4, 8], [0, 1], [8])
    """
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(count - 1, 0, most).round().astype(np.intp))


#: Coordinates that hold for a base as well. Where the row of a derived run shows the base, its others do not.
OF_LINEAGE = frozenset(LINEAGE_COORDINATES) | {"lineage"}

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Segment:
    """A stretch of the curve of a run, trained by runs of one type.

    Attributes
    ----------
    run_id : str
        Run whose row in the Dataset has the values.
    kind : str
        Type of the run that was training: pretraining, supervised_ft, dpo, other; in other suites, their own types.
    is_base : bool
        Whether the base of the curve was training.
    tokens : (point,) float array
        Cumulative tokens of cells with a value; NaN where unknown.
    x : (point,) float array
        The same points on the axis of the picture.
    values : (point,) float array
    support : (point,) int8 array
        1 observed, 2 interpolated.
    breaks : (break,) int array
        Points before which the line is interrupted, because cells before them have no value.
    start : float
        Position on the axis at which the stretch branches off; NaN for a base.
    origin : float
        Position on the axis at which the chain of runs left its base; NaN for a base.
    anchor : tuple of float, or None
        Last point of the parent, for a connection across which there is no data.
    is_log : bool
        Whether the metric comes from a training log rather than evaluations.
    low, high : (point,) float array, or None
        Interval of a mean, NaN where it averages one run; None when it is not a mean.
    counts : (point,) float array, or None
        Number of averaged runs that have a value; None when it is not a mean.
    facts : mapping
        Coordinates of the run, by name.
    of_lineage : set of str
        Coordinates that hold for the base as well: those of the lineage, and in suites whose bases have treatments,
        those that the row of the base gives.
    """

    run_id: str
    kind: str
    is_base: bool
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
    low: Floats | None = None
    high: Floats | None = None
    counts: Floats | None = None
    of_lineage: frozenset[str] = field(default=OF_LINEAGE, repr=False)

    @property
    def is_of_itself(self) -> bool:
        """Whether `facts` describe the run that was training, and not another run whose row shows it."""
        return not self.is_base or "run" in self.of_lineage

    @property
    def names(self) -> frozenset[str]:
        """Names by which a user means the segment: its lineage, and the label and id of the run that was training."""
        names = {str(self.facts["lineage"])}
        if self.is_of_itself:
            names |= {self.run_id, str(self.facts.get("run", ""))}
        elif self.is_base:
            names |= {self.root}
        return frozenset(names - {""})

    @property
    def root(self) -> str:
        """Id of the base of the curve where the suite states it, else the lineage."""
        return str(self.facts.get("root_run_id") or self.facts["lineage"])

    def starts_with(self, base: Segment) -> bool:
        """Return whether the curve starts with `base`; a mean, with some of the runs that `base` averages."""
        if MEMBERS in self.facts and "root_run_id" in self.facts:
            return set(self.root.split("+")) <= set(base.root.split("+"))
        return self.root == base.root

    def pick(self, cells: npt.NDArray[np.intp] | slice) -> Segment:
        """Return the segment with some of its points only."""
        index = np.arange(len(self.x))[cells]
        breaks = np.unique(np.searchsorted(index, self.breaks))
        return replace(
            self,
            tokens=self.tokens[index],
            x=self.x[index],
            values=self.values[index],
            support=self.support[index],
            breaks=breaks[(breaks > 0) & (breaks < len(index))],
            low=None if self.low is None else self.low[index],
            high=None if self.high is None else self.high[index],
            counts=None if self.counts is None else self.counts[index],
        )

    def until(self, x: float) -> Segment:
        """Return the segment up to a position on the axis."""
        return self.pick(slice(0, int((self.x <= x).sum())))

    def pieces(self) -> list[Segment]:
        """Return the uninterrupted parts, including single points."""
        edges = [0, *self.breaks.tolist(), len(self.x)]
        return [self.pick(slice(a, b)) for a, b in pairwise(edges) if b > a]

    def lines(self, since: float = 0.0) -> list[tuple[Floats, Floats]]:
        """Return the uninterrupted lines of two points or more, with x counted from `since`."""
        parts = zip(np.split(self.x - since, self.breaks), np.split(self.values, self.breaks), strict=True)
        return [(x, values) for x, values in parts if len(x) > 1]

    def gaps(self) -> list[tuple[Floats, Floats]]:
        """Return the connections across which there is no data: from the parent, and between the lines of the segment.

        Returns
        -------
        list of (x, values)
            Two points each.
        """
        ends = [(self.x[k - 1 : k + 1], self.values[k - 1 : k + 1]) for k in self.breaks.tolist()]
        if self.anchor:
            ends.insert(0, (np.array([self.anchor[0], self.x[0]]), np.array([self.anchor[1], self.values[0]])))
        return ends

    @property
    def has_fewer(self) -> Mask:
        """Points at which a mean averages fewer runs than it has; none for a run."""
        if self.counts is None:
            return np.zeros(len(self.x), bool)
        return np.asarray(self.counts < float(self.facts[MEMBERS]))

    def complete_and_partial_lines(self) -> list[tuple[Segment, bool]]:
        """Return the uninterrupted lines, split where a mean starts or ceases to average all of its runs.

        Returns
        -------
        list of (Segment, bool)
            Parts of two points or more; True where one of two neighbouring points averages fewer runs than the mean
            has. Adjacent parts share a point.
        """
        parts: list[tuple[Segment, bool]] = []
        for piece in self.pieces():
            partial = piece.has_fewer[1:] | piece.has_fewer[:-1]
            edges = [0, *(np.flatnonzero(np.diff(partial)) + 1).tolist(), len(partial)]
            parts += [(piece.pick(slice(a, b + 1)), bool(partial[a])) for a, b in pairwise(edges) if b > a]
        return parts


def find_segments(
    dataset: xr.Dataset,
    metric: str,
    x: str = "cumulative_tokens",
    positive: bool = False,
    positive_values: bool = False,
) -> list[Segment]:
    """Return the segments of all runs for one metric, lineage by lineage.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, on any axis; a sweep, with hyperparameters in place of the dimension
        ``run``; or means. Dimensions may have been dropped by a selection.
    metric : str
        Name of a data variable.
    x : str
        One of :data:`dde.curves.axes.AXES`, or another coordinate along the axis of the Dataset; the x axis.
    positive, positive_values : bool
        Leave out points at or below zero on x, or of the metric, which a logarithmic axis can't show.

    Returns
    -------
    list of Segment
        Bases come first in each lineage, once each. A derived run contributes its own stretch, and those of its
        ancestors, once, where they are not in the Dataset themselves. Cells without a position on the axis, such as
        those of a base on ``post_tokens``, belong to no segment.

    Raises
    ------
    SelectionError
        When the metric has a dimension other than those of runs, such as one that a user added.

    Warns
    -----
    DdeWarning
        When cells are infinite, or not positive with `positive_values`: states how many are left out.
    """
    lineages = lineages_of(dataset)
    return segments_by_metric(run_blocks(dataset), [metric], x, positive, positive_values, lineages)[metric]


def lineages_of(dataset: xr.Dataset) -> list[str]:
    """Return the labels of the lineages in the order of the Dataset; none where it has no such dimension."""
    return (
        list(map(str, dataset["lineage"].values)) if "lineage" in dataset.dims and "lineage" in dataset.coords else []
    )


def run_blocks(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
    """Yield a Dataset in blocks of lineages, each without the runs that none of its lineages has.

    Most cells of a Dataset of many lineages hold no run: labels of derived runs belong to a few lineages. Lineages
    with few runs come first, so that they don't share a block with others. Blocks are as lazy as the Dataset.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["piqa"]).isel(lineage=[0])
    >>> [(block.run_id != "").any("lineage").all().item() for block in run_blocks(ds)]
    [True]
    """
    run_ids = dataset["run_id"] if "run_id" in dataset.coords else xr.DataArray("")
    if set(run_ids.dims) != {"lineage", "run"}:
        yield dataset
        return
    has_run = run_ids.transpose("lineage", "run").values != ""
    counts = has_run.sum(axis=1)
    few = counts <= np.median(counts)
    for lineages, size in ((np.flatnonzero(few), _BLOCK), (np.flatnonzero(~few), _BLOCK_OF_MANY)):
        for first in range(0, len(lineages), size):
            at = lineages[first : first + size]
            runs = np.flatnonzero(has_run[at].any(axis=0))
            is_all = len(at) == dataset.sizes["lineage"] and len(runs) in (0, dataset.sizes["run"])
            yield dataset if is_all else dataset.isel(lineage=at, run=runs if len(runs) else slice(None))


def segments_by_metric(
    blocks: Iterable[xr.Dataset],
    metrics: Sequence[str],
    x: str = "cumulative_tokens",
    positive: bool = False,
    positive_values: bool = False,
    lineages: Sequence[str] = (),
) -> dict[str, list[Segment]]:
    """Return the segments of several metrics, as :func:`find_segments` returns those of one.

    Parameters
    ----------
    blocks : iterable of xarray.Dataset
        As :func:`run_blocks` yields them; each is read and released before the next.
    metrics : sequence of str
    x : str
    positive, positive_values : bool
    lineages : sequence of str
        Labels in the order of the segments; that of the blocks by default.
    """
    segments: dict[str, list[Segment]] = {metric: [] for metric in metrics}
    counted: dict[str, dict[str, int]] = {metric: dict.fromkeys(_LOST, 0) for metric in metrics}
    for block in blocks:
        cells = Cells.of(block, metrics[0])
        for metric in metrics:
            segments[metric] += _segments_of(cells, metric, x, positive, positive_values, counted[metric])
    order = {label: k for k, label in enumerate(lineages)}
    for metric in metrics:
        _warn_of_lost(metric, counted[metric])
        if order:
            segments[metric].sort(key=lambda s: order.get(str(s.facts.get("lineage", "")), len(order)))
    return segments


# Lineages that are read together, and those of which have more runs than most.
_BLOCK, _BLOCK_OF_MANY = 64, 8
# Reasons for which a cell with a value is not drawn.
_LOST = ("infinite", "not positive")


def _segments_of(
    cells: Cells, metric: str, x: str, positive: bool, positive_values: bool, counted: dict[str, int]
) -> list[Segment]:
    """Return the segments of a metric in some cells; adds the cells that can't be drawn to `counted`, by reason."""
    cells.check(metric)
    dataset = cells.dataset
    axis = cells.spread_numbers(axis_values(dataset, x) if x in AXES else dataset[x])
    values = cells.spread_numbers(dataset[metric])
    if positive:
        axis = np.where(axis > 0, axis, np.nan)
    lost = {
        "infinite": np.isinf(values),
        "not positive": (values <= 0) & np.isfinite(values) & positive_values,
    }
    values = np.where(np.logical_or.reduce(list(lost.values())), np.nan, values)
    parts = set(dataset.data_vars) if MEMBERS in dataset.coords else set()
    has_bounds, has_counts = {f"{metric}_low", f"{metric}_high"} <= parts, f"{metric}_count" in parts
    bounds = [cells.spread(dataset[f"{metric}_{end}"]) for end in ("low", "high")] if has_bounds else None
    counts = cells.spread_numbers(dataset[f"{metric}_count"]) if has_counts else None
    tokens, known, kinds = cells.tokens, support_of(cells, metric), cells.kinds
    facts = {
        str(n): cells.spread_runs(c)
        for n, c in dataset.coords.items()
        if set(map(str, c.dims)) <= set(cells.sizes) and n not in AXES and not sampling_of(str(n))
    }
    # Including coordinates that a user added.
    along_lineage = {str(n) for n, c in dataset.coords.items() if c.dims == ("lineage",)}
    has_own_treatments = not is_datadecide(dataset)
    if has_own_treatments:
        # When a selection dropped a dimension, factors of the lineage are scalars.
        along_lineage |= {n for n, of in factors_of(dataset).items() if of == "lineage"} | {"lineage", "n_params"}
    of_lineage = frozenset(along_lineage) if has_own_treatments else OF_LINEAGE.union(along_lineage)
    # Losses of two training jobs are different quantities, so they are not joined; nor are metrics of unknown kind.
    array = dataset[metric]
    if has_samplings(array):
        joins = joins_at_branch(array)
        is_log = not joins
    else:
        joins, is_log = bool(array.attrs.get("task")), array.attrs.get("task") == ""
    segments: list[Segment] = []
    for i in range(cells.lineages):
        curves = _Curves(
            facts={name: all_facts[i] for name, all_facts in facts.items()},
            tokens=tokens[i],
            axis=axis[i],
            values=values[i],
            bounds=None if bounds is None else (bounds[0][i], bounds[1][i]),
            counts=None if counts is None else counts[i],
            support=known[i],
            kinds=kinds.codes[i],
            of_base=kinds.of_base[i],
            stages=kinds.stages[i],
            words=kinds.words,
            lost={what: where[i] for what, where in lost.items()},
            counted=counted,
            joins=joins,
            is_log=is_log,
            of_lineage=of_lineage,
            has_own_treatments=has_own_treatments,
            is_linear=x in AXES,
            is_proportional=x in AXES and AXES[x].by != "run",
            is_own_axis=cells.is_own_axis,
        )
        segments += curves.segments()
    return segments


def _warn_of_lost(metric: str, counted: Mapping[str, int]) -> None:
    axes = {"infinite": ("an axis", ""), "not positive": ("a logarithmic axis", " Pass log_y=False to see them.")}
    for what, (axis, remedy) in axes.items():
        if counted[what]:
            warn_caller(
                f"{counted[what]} cells of {metric} are {what}, so {axis} can't show them and they are not "
                f"drawn.{remedy}"
            )


@dataclass(frozen=True)
class _Curves:
    """Curves of one lineage: `facts` are arrays (run,), the other arrays are (run, point).

    `lost` marks the cells that can't be drawn, by reason; `counted` counts them as segments are made.
    """

    facts: Mapping[str, npt.NDArray[Any]]
    tokens: Floats
    axis: Floats
    values: Floats
    bounds: tuple[Floats, Floats] | None
    counts: Floats | None
    support: npt.NDArray[np.int8]
    kinds: npt.NDArray[np.int8]
    of_base: Mask
    stages: npt.NDArray[np.int16]
    words: tuple[str, ...]
    lost: Mapping[str, Mask]
    counted: dict[str, int]
    joins: bool
    is_log: bool
    of_lineage: frozenset[str]
    has_own_treatments: bool
    is_linear: bool
    is_proportional: bool
    is_own_axis: bool

    def segments(self) -> Iterator[Segment]:
        run_ids = self.facts["run_id"].tolist()
        branches = self.facts["branch_tokens"].astype(np.float64)
        row_of = {run_id: j for j, run_id in enumerate(run_ids) if run_id}
        if not row_of:
            return
        derived = [j for j in row_of.values() if np.isfinite(branches[j])]
        bases = [j for j in row_of.values() if not np.isfinite(branches[j])]
        left = self.facts.get("origin_tokens", branches).astype(np.float64)
        # Means over runs that left their bases at different tokens have no common origin.
        origins = {j: float(left[j] if np.isfinite(left[j]) else branches[j]) for j in derived}
        for j in self._rows_of_bases(row_of, bases, origins):
            for kind in dict.fromkeys(self.kinds[j][self.of_base[j]].tolist()):
                yield from self._stretch(j, kind, (self.kinds[j] == kind) & self.of_base[j], np.nan, np.nan)
        own = {
            j: (self.axis[j] > 0 if self.is_own_axis else self.tokens[j] > branches[j]) & ~self.of_base[j]
            for j in derived
        }
        ancestors = self._stretches_of_ancestors(row_of, own)
        for j in derived:
            for start, where in ancestors.get(j, ()):
                at = origins[j] if start is None else start
                yield from self._stretch(j, int(self.kinds[j][where][0]), where, at, origins[j])
            for kind in dict.fromkeys(self.kinds[j][own[j]].tolist()):
                if kind != OUTSIDE:
                    yield from self._stretch(j, kind, (self.kinds[j] == kind) & own[j], branches[j], origins[j])

    def _stretches_of_ancestors(
        self, row_of: Mapping[str, int], own: Mapping[int, Mask]
    ) -> dict[int, list[tuple[float | None, Mask]]]:
        """Return the stretches of derived runs that are not selected, by the row that shows them, each once.

        Parameters
        ----------
        row_of : mapping of str to int
            Row of each run id.
        own : mapping of int to bool array
            Cells of each derived run itself.

        Returns
        -------
        dict
            For each row, the token after which a stretch starts, None where the chain is unknown, and its cells.
        """
        parents, branches = self.facts["parent_run_id"].tolist(), self.facts["branch_tokens"].astype(np.float64)
        starts = {j: tuple(stage.start for stage in parse_chain(str(self.facts["chain"][j]))) for j in own}
        # A parent that is not selected is drawn from the row of the child that leaves it last.
        last_child = {parents[j]: j for j in sorted(own, key=lambda j: branches[j]) if parents[j] not in row_of}
        candidates: list[tuple[int, int, Mask]] = []
        for j in last_child.values():
            inherited = ~own[j] & ~self.of_base[j] & (self.kinds[j] != OUTSIDE)
            stages = set(self.stages[j][inherited].tolist())
            candidates += [(j, stage, inherited & (self.stages[j] == stage)) for stage in stages]
        # The coordinates have no ids of the parents of unselected parents. Two rows show the same one where label,
        # starts and values are the same; values, because labels of ancestors have no replicate numbers.
        drawn: dict[tuple[object, ...], list[tuple[int, Mask, bool]]] = {}
        for j, cells in own.items():
            drawn.setdefault((without_replicate(self._label(j)), starts[j]), []).append((j, cells, True))
        stretches: dict[int, list[tuple[float | None, Mask]]] = {}
        for j, stage, cells in sorted(candidates, key=lambda c: -int(c[2].sum())):
            generations = len(starts[j]) - 1 - stage
            has_id = generations <= 1
            label = without_replicate(self._label(j)).rsplit("+", max(generations, 0))[0]
            same = drawn.setdefault((label, starts[j][: stage + 1]), [])
            if any(
                not (has_id and other_has_id) and self._shows(i, others, j, cells) for i, others, other_has_id in same
            ):
                continue
            same.append((j, cells, has_id))
            stretches.setdefault(j, []).append((float(starts[j][stage]) if stage < len(starts[j]) else None, cells))
        return {j: sorted(of_row, key=lambda s: s[0] or 0.0) for j, of_row in stretches.items()}

    def _label(self, j: int) -> str:
        return str(self.facts["run"][j]) if "run" in self.facts else ""

    def _shows(self, other: int, others: Mask, j: int, cells: Mask) -> bool:
        """Return whether cells of the row `other` have all values of cells of the row `j`, at the same tokens."""
        cells, others = (
            mask & np.isfinite(self.values[row]) & np.isfinite(self.tokens[row])
            for row, mask in ((j, cells), (other, others))
        )
        tokens, shown_tokens = self.tokens[j][cells], self.tokens[other][others]
        at = np.searchsorted(shown_tokens, tokens)
        if not (at < len(shown_tokens)).all() or not np.array_equal(shown_tokens[at], tokens):
            return False
        return np.allclose(self.values[other][others][at], self.values[j][cells], rtol=1e-9, atol=0)

    def _rows_of_bases(self, row_of: Mapping[str, int], bases: list[int], origins: Mapping[int, float]) -> list[int]:
        """Return the rows that show the bases: their own, or that of the last run to leave a base not selected."""
        if "root_run_id" not in self.facts or (MEMBERS in self.facts and bases):
            return bases or [max(origins, key=origins.__getitem__)]
        last: dict[str, int] = {}
        for j, origin in origins.items():
            root = str(self.facts["root_run_id"][j])
            if root not in row_of and (root not in last or origin > origins[last[root]]):
                last[root] = j
        return [*bases, *last.values()]

    def _stretch(self, j: int, kind: int, where: Mask, start: float, origin: float) -> Iterator[Segment]:
        """Yield the segment in the masked cells of a run, joined to its parent; nothing if no cell has a value."""
        where = where & np.isfinite(self.axis[j])
        for what, lost in self.lost.items():
            self.counted[what] += int((where & lost[j]).sum())
        cells = np.flatnonzero(where & np.isfinite(self.values[j]))
        if not len(cells):
            return
        support, anchor = self.support[j].copy(), None
        is_base = bool(self.of_base[j, cells[0]])
        if self.joins and not is_base and not self._is_merge(j):
            before = np.flatnonzero(np.isfinite(self.values[j, : cells[0]]))
            if len(before) and before[-1] == cells[0] - 1 and support[cells[0]] == INTERPOLATED:
                if np.isfinite(self.axis[j, before[-1]]):
                    # The data joins the two runs. The marker of the joining point is drawn with the parent.
                    cells = np.concatenate([before[-1:], cells])
                    support[before[-1]] = INTERPOLATED
            elif len(before):
                at = self._on_axis(j, self.tokens[j, before[-1]])
                anchor = (at, float(self.values[j, before[-1]])) if np.isfinite(at) else None
        yield Segment(
            run_id=str(self.facts["run_id"][j]),
            kind=self.words[kind],
            is_base=is_base,
            tokens=self.tokens[j, cells],
            x=self.axis[j, cells],
            values=self.values[j, cells],
            support=support[cells],
            breaks=np.flatnonzero(np.diff(cells) > 1) + 1,
            start=self._on_axis(j, start),
            origin=self._on_axis(j, origin),
            anchor=anchor,
            is_log=self.is_log,
            facts={name: values[j] for name, values in self.facts.items()},
            low=None if self.bounds is None else self.bounds[0][j, cells],
            high=None if self.bounds is None else self.bounds[1][j, cells],
            counts=None if self.counts is None else self.counts[j, cells],
            of_lineage=self._own_facts(j) if is_base else self.of_lineage,
        )

    def _is_merge(self, j: int) -> bool:
        """Return whether a run has several parents; its curve is joined to none of them."""
        if "start_tokens" not in self.facts:
            return False
        return bool(float(self.facts["start_tokens"][j]) > float(self.facts["branch_tokens"][j]))

    def _own_facts(self, j: int) -> frozenset[str]:
        """Return the coordinates in a row that hold for the base shown by it."""
        if not self.has_own_treatments or np.isfinite(float(self.facts["branch_tokens"][j])):
            return self.of_lineage
        return self.of_lineage | {"run"} | {n for n, values in self.facts.items() if is_given(values[j])}

    def _on_axis(self, j: int, tokens: float) -> float:
        """Return the position on the axis of a number of tokens; NaN where it does not follow from the cells.

        Axes that are linear in tokens are extrapolated; of other coordinates nothing is known outside of the cells.
        """
        both = np.isfinite(self.tokens[j]) & np.isfinite(self.axis[j])
        known, positions = self.tokens[j][both], self.axis[j][both]
        if not np.isfinite(tokens) or not len(known):
            return np.nan
        if known[0] <= tokens <= known[-1]:
            return float(np.interp(tokens, known, positions))
        if self.is_proportional and known[0] > 0:
            return float(tokens * (positions[0] / known[0]))
        if not self.is_linear or len(known) < 2:
            return np.nan
        return float(positions[0] + (tokens - known[0]) * (positions[-1] - positions[0]) / (known[-1] - known[0]))
