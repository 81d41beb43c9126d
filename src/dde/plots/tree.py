"""The tree of a family: each run a line from where it branches off to where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from dde.arrays.loss_reductions import is_train_loss, warn_of_reductions
from dde.arrays.outcomes import final
from dde.arrays.provenance import metric_named
from dde.arrays.samples import metrics_alone
from dde.errors import SelectionError
from dde.plots.axes import axis_label, short_number
from dde.plots.backends import Backend, BackendName, drawing_with
from dde.plots.colours import EDGE, INK, NEUTRAL, colours_of, label_of, shades
from dde.plots.families import Member, find_members
from dde.plots.legends import ColourBar, Legend, LegendEntry, text_inches
from dde.plots.panels import coloured_lines, framed
from dde.plots.places import Axis, Frame, Place
from dde.plots.run_rows import Reduce, run_rows
from dde.schema import PRETRAINING, is_datadecide

__all__ = ["plot_tree"]

_ROW_PIXELS, _WIDTH = 19, 560
_MOST_ROWS = 160
# Part of the width that pretraining has, and the gap behind it. Post-training is a hundredth of it, and would be lost.
_PRETRAINING, _GAP = 0.36, 0.05
_NAMES = {"supervised_ft": "supervised finetuning", "dpo": "DPO"}


def plot_tree(
    dataset: xr.Dataset,
    metric: str | None = None,
    *,
    reduce: Reduce | None = None,
    backend: BackendName = "bokeh",
    frame_size: tuple[int, int] | None = None,
) -> Any:
    """Draw the tree of each lineage: every run a line from its branch to its end, below the run it started from.

    The axis is broken. At the left pretraining, with each branch point; at the right, on a scale of its own, the
    tokens that runs and their descendants saw since they left the base. A dot at a run's end has the colour of
    what it ends at, and is hollow where it has no value.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, a selection or a sweep of it, or saved and opened again.
    metric : str, optional
        Colours runs by what they end at; by what trained them when None.
    reduce : callable, optional
        Gives each run its value: a function of Dataset and metric, such as
        ``lambda ds, m: ds[m].max("cumulative_tokens")``; the last value, as by ``ds.dde.final``, when None.
    backend : {"bokeh", "matplotlib"}
    frame_size : tuple of int, optional
        Width and height, in pixels; high enough for a row for each run when None.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    UnknownNameError
        When a metric or backend does not exist.
    SelectionError
        When there is no run, or more than can be looked at.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", state="all", metrics=["arc_easy"])
    >>> picture = ds.dde.plot_tree("arc_easy", backend="matplotlib")
    """
    if metric is None:
        values = xr.full_like(dataset["branch_tokens"], np.nan, dtype=np.float64)
        values = values.broadcast_like(dataset["run_id"])
        label = ""
    else:
        name = metric_named(dataset, metric)
        values = final(metrics_alone(dataset, [name]), name) if reduce is None else reduce(dataset, name)
        label = axis_label(dataset[name])
    rows = run_rows(values)
    if metric is not None and reduce is not None and is_train_loss(dataset[name]):
        warn_of_reductions(rows.loc[rows["value"].notna()].get("reduce_loss", ()))
    members = find_members(rows)
    if not members or len(members) > _MOST_ROWS:
        few = "params=..., data=..., seed=0" if is_datadecide(dataset) else "lineage=[...]"
        raise SelectionError(
            f"the Dataset has {len(members)} runs, {'more than can be looked at' if members else 'so no tree'}. "
            f"Select a few lineages: ds.dde.sel({few})."
        )
    with drawing_with(backend) as drawing:
        return _drawn(members, _broken(members), label, drawing, frame_size)


@dataclass(frozen=True)
class _Broken:
    """A broken axis: pretraining up to `whole` tokens, then post-training up to `reach` tokens since the base."""

    whole: float
    reach: float

    @property
    def edge(self) -> float:
        """Where pretraining ends on it."""
        return _PRETRAINING if self.reach else 1.0

    def before(self, tokens: float) -> float:
        """Return the place of tokens of pretraining."""
        return self.edge * tokens / self.whole

    def after(self, tokens: float) -> float:
        """Return the place of tokens since the base was left."""
        start = _PRETRAINING + _GAP
        return start + (1 - start) * tokens / (self.reach or 1.0)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Return ticks of both parts; a plus marks those that count from the base."""
        first = [(self.before(t), short_number(t)) for t in _even(self.whole, 3)]
        if not self.reach:
            return tuple(first)
        return (*first, *((self.after(t), f"+{short_number(t)}") for t in _even(self.reach, 5)))


def _even(most: float, count: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(0, most)
    return [float(t) for t in ticks if 0 <= t <= most * (1 + 1e-9)]


def _broken(members: Sequence[Member]) -> _Broken:
    whole = max((m.end for m in members if m.is_base and np.isfinite(m.end)), default=1.0)
    reach = max((m.end - m.origin for m in members if not m.is_base and np.isfinite(m.end)), default=0.0)
    return _Broken(whole or 1.0, reach)


def _drawn(
    members: Sequence[Member], broken: _Broken, label: str, backend: Backend, frame_size: tuple[int, int] | None
) -> Any:
    import holoviews as hv

    count = len(members)
    size = frame_size or (_WIDTH, max(_ROW_PIXELS * count, 130))
    labels = [m.label for m in members]
    bases = {m.run_type for m in members if m.is_base}
    first = PRETRAINING if bases == {PRETRAINING} else "the base"
    x_label = f"tokens of {first}" + (", then since the base was left (+)" if broken.reach else "")
    frame = Frame(
        Axis("tree_place", x_label, shown=(-0.015, 1.03), ticks=broken.ticks()),
        Axis("tree_row", "", shown=(-count + 0.4, 0.6), ticks=tuple((-float(k), t) for k, t in enumerate(labels))),
        grid=False,
    )
    bar = _bar(members, label) if label else None
    legend = _legend(members, bar, backend)
    beside = 0.25 + max(map(text_inches, labels)) * 1.02
    place = Place(size, 0, 0, 1, 1, beside, 0.8, legend.inches(size[1]))
    drawn = framed(_elements(hv, members, broken, bar, frame, label, backend), frame, backend, place, legend)
    return hv.Layout([drawn]).cols(1).opts(hv.opts.Layout(**backend.layout(place)))


def _bar(members: Sequence[Member], label: str) -> ColourBar | None:
    from matplotlib.ticker import MaxNLocator

    values = [m.value for m in members if np.isfinite(m.value)]
    if not values:
        return None
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    ticks = [float(t) for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
    return ColourBar(label, shades(), (low, high), [(t, short_number(t)) for t in ticks])


def _type_colours(members: Sequence[Member]) -> dict[str, str]:
    bases = list(dict.fromkeys(m.run_type for m in members if m.is_base))
    derived = list(dict.fromkeys(m.run_type for m in members if not m.is_base and m.run_type not in bases))
    if len(bases) > 1:
        # Colours distinguish several types of bases, too.
        return colours_of([*bases, *derived])
    return {bases[0]: NEUTRAL, **colours_of(sorted(derived, reverse=True))}


def _legend(members: Sequence[Member], bar: ColourBar | None, backend: Backend) -> Legend:
    colours = _type_colours(members)
    kinds = [LegendEntry(label_of(t, _NAMES), backend.line(c)) for t, c in colours.items()]
    entries = kinds if len(kinds) > 1 else []
    if bar is not None and any(m.is_listed and np.isnan(m.value) for m in members):
        entries.append(LegendEntry("no value", backend.hollow(), "marker"))
    if not all(m.is_listed for m in members):
        entries.append(LegendEntry("not in the Dataset", backend.line(INK, dashed=True)))
    return Legend("", entries, bar)


def _elements(
    hv: Any,
    members: Sequence[Member],
    broken: _Broken,
    bar: ColourBar | None,
    frame: Frame,
    label: str,
    backend: Backend,
) -> list[Any]:
    dims = [hv.Dimension(frame.x.name), hv.Dimension(frame.y.name)]
    bottom, top = frame.y.shown or (0.0, 1.0)
    colours = _type_colours(members)
    lines: list[tuple[Any, Any, str]] = []
    missing: list[tuple[Any, Any, str]] = []
    joints: list[tuple[Any, Any, str]] = []
    dots: dict[bool, list[Any]] = {True: [], False: []}
    for m in members:
        y = -float(m.row)
        if m.parent is None:
            start, end = broken.before(0.0), broken.before(m.end) if np.isfinite(m.end) else np.nan
        else:
            since = m.start - m.origin
            start = broken.after(since)
            end = broken.after(m.end - m.origin) if np.isfinite(m.end) else start
            if m.parent.is_base:
                at = broken.before(m.branch)
                joints.append(([at, at, start], [-float(m.parent.row), y, y], EDGE))
            else:
                row, before = -float(m.parent.row), min(m.parent.end, m.start)
                # A merge stands behind the end of each of its parents.
                path = ([broken.after(before - m.origin), start, start], [row, row, y])
                joints.append((*(path if before < m.start else ([start, start], [row, y])), EDGE))
            for other in _other_parents(m, members):
                row, leaves = -float(other.row), min(other.end, m.start)
                at = broken.before(leaves) if other.is_base else broken.after(leaves - m.origin)
                joints.append(([at, start, start], [row, row, y], EDGE))
        if not np.isfinite(end):
            continue
        (lines if m.is_listed else missing).append(([start, end], [y, y], colours[m.run_type]))
        if m.is_listed:
            known = bar is None or not np.isnan(m.value)
            dots[known].append((end, y, _dot_colour(m, bar, colours), *_told(m)))
    elements: list[Any] = []
    if broken.reach:
        elements.append(hv.Rectangles([(-0.015, bottom, broken.edge + _GAP / 2, top)]).opts(**backend.window()))
    elements += coloured_lines(dims, joints, backend.branch() | {"color": "colour"})
    elements += coloured_lines(dims, missing, backend.line("colour", dashed=True))
    elements += coloured_lines(dims, lines, backend.line("colour") | backend.thick())
    tooltips = [(name.replace("_", " "), f"@{name}") for name in _TOLD]
    if label:
        tooltips.append((label, "@value"))
    for known, points in dots.items():
        if points:
            look = backend.points("colour", _MARKER[backend.name], False, tooltips)
            elements.append(
                hv.Points(points, dims, ["colour", *_TOLD, "value"]).opts(
                    **(look if known else look | backend.hollow())
                )
            )
    return elements


def _other_parents(member: Member, members: Sequence[Member]) -> list[Member]:
    """Return the parents of a merge but for the one that its row stands below."""
    ids = str(member.facts.get("parent_run_ids", "")).split(" & ")
    drawn = None if member.parent is None else member.parent.run_id
    return [m for m in members if m.run_id in ids and m.run_id != drawn and m.row != member.row]


_TOLD = ("run", "run_id", "state", "branch_tokens", "end_tokens")
_MARKER = {"bokeh": "circle", "matplotlib": "o"}


def _told(member: Member) -> tuple[str, ...]:
    """Return what a dot answers to the pointer."""
    told = [str(member.facts.get(name, "")) for name in ("run", "run_id", "state")]
    tokens = ["" if not np.isfinite(t) else short_number(t) for t in (member.branch, member.end)]
    return (*told, *tokens, "none" if np.isnan(member.value) else f"{member.value:.4f}")


def _dot_colour(member: Member, bar: ColourBar | None, colours: dict[str, str]) -> str:
    if bar is None:
        return colours[member.run_type]
    if np.isnan(member.value):
        return "#ffffff"
    low, high = bar.span
    # What is infinite has the colour of the end of the bar that it lies behind.
    return bar.colours[round(float(np.clip((member.value - low) / (high - low), 0, 1)) * (len(bar.colours) - 1))]
