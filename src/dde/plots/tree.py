"""Plot the tree of a family: each run as a line from its branch point to its end, below its parent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.dataset.finals import final
from dde.dataset.loss_reductions import is_train_loss, warn_of_reductions
from dde.dataset.naming import title_of
from dde.dataset.provenance import metric_named
from dde.dataset.samples import metrics_alone
from dde.errors import SelectionError
from dde.lineage.chain_texts import Stage, parse_chain
from dde.plots.axis_format import axis_label, short_number, tick_labels
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, counted, in_words, runs_text
from dde.plots.cells import Reduce, rows_of_runs
from dde.plots.colours import EDGE, INK, NEUTRAL, colours_of, label_of
from dde.plots.defaults import known_labels
from dde.plots.figure_layout import Axis, Frame, PanelLayout
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import ColourBar, Legend, LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import coloured_lines
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable
from dde.plots.times import require_numbers
from dde.schema import PRETRAINING, is_datadecide, without_replicate

__all__ = [
    "Member",
    "find_members",
    "plot_tree",
]


@dataclass(frozen=True)
class Member:
    """A run in its family.

    Attributes
    ----------
    run_id, run_type, label : str
        `label` is the last stage of its treatment; for a base, the title of the lineage.
    depth : int
        Number of runs between it and its base.
    row : int
        Its row, from 0 at the top; its descendants follow.
    parent : Member or None
    branch, end : float
        Cumulative tokens; the branch of a base is 0.
    origin : float
        Cumulative tokens at which its chain left the base; NaN for a base.
    value : float
        Value of the metric; NaN where there is none.
    is_listed : bool
        Whether the run is in the Dataset. Ancestors that are not connect the others.
    facts : mapping
        Coordinates of the run, by name.
    start : float
        Cumulative tokens at its own token 0: its branch, or the position of a merge of several parents.
    """

    run_id: str
    run_type: str
    label: str
    depth: int
    row: int
    parent: Member | None
    branch: float
    end: float
    origin: float
    value: float = np.nan
    is_listed: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    start: float = 0.0

    @property
    def is_base(self) -> bool:
        """Whether it started from no other run."""
        return self.parent is None


def find_members(rows: pd.DataFrame) -> list[Member]:
    """Return the runs of all families: each base followed by its descendants, earliest branch first.

    Parameters
    ----------
    rows : DataFrame
        As returned by :func:`dde.plots.cells.rows_of_runs`, of one or several lineages. Ancestors that are not among
        them follow from the coordinate ``chain``, up to the point at which the next run of the chain branches off.
    """
    members: list[Member] = []
    for lineage, family in rows.groupby("lineage", sort=False):
        nodes = {str(row["run_id"]): row for row in family.to_dict("records")}
        members += list(_family(str(lineage), nodes, len(members)))
    return members


def _family(lineage: str, nodes: dict[str, Any], first: int) -> Iterator[Member]:
    """Yield the runs of a lineage: each of its bases, followed by its descendants."""
    bases = [i for i, row in nodes.items() if _is_base(row)]
    listed = set(nodes)
    some = next(iter(nodes.values()))
    # Parents first: their ids are coordinates, those of other ancestors are not.
    for run_id in list(nodes):
        _add_parent(run_id, nodes)
    for run_id in list(nodes):
        _add_ancestors(run_id, nodes)
    families: dict[str, dict[str, Any]] = {i: {} for i in bases}
    for run_id, row in nodes.items():
        # DataDecide states no id of the base: each lineage has one base, which may not be listed.
        root = str(row.get("root_run_id", "")) or (bases[0] if bases else lineage)
        families.setdefault(run_id if run_id in families else root, {})[run_id] = row
    for root, family in families.items():
        label = title_of(some)
        if len(families) > 1:
            own = family.get(root, {}).get("run", "") or _base_type(family)
            label = f"{label} {own}"
        for member in _descendants_of(root, family, label, first, listed, lineage):
            yield member
            first += 1


def _is_base(row: Mapping[str, Any]) -> bool:
    if "root_run_id" in row:
        return not np.isfinite(float(row["branch_tokens"]))
    return bool(row["run_type"] == PRETRAINING)


def _base_type(nodes: Mapping[str, Any]) -> str:
    """Return the type of the base from which the runs started."""
    chains = (parse_chain(str(row.get("chain", ""))) for row in nodes.values())
    return next((stages[0].run_type for stages in chains if stages), PRETRAINING)


def _descendants_of(
    base_id: str, nodes: dict[str, Any], label: str, first: int, listed: set[str], lineage: str
) -> Iterator[Member]:
    base = nodes.get(base_id, {})
    # A base, listed or not, extends at least to the last branch of its runs.
    direct = [
        float(row["branch_tokens"])
        for i, row in nodes.items()
        if i != base_id and row["parent_run_id"] not in nodes.keys() - {base_id}
    ]
    finite = [t for t in (float(base.get("end_tokens", np.nan)), *direct) if np.isfinite(t)]
    end = max(finite, default=np.nan)
    root = Member(
        base_id, str(base.get("run_type") or _base_type(nodes)), label, 0, first, None, 0.0, end, np.nan,
        base.get("value", np.nan), base_id in listed, base or {"lineage": lineage}, _start_of_base(base),
    )  # fmt: skip
    children: dict[str, list[str]] = {}
    for run_id, row in nodes.items():
        if run_id != base_id:
            parent = str(row["parent_run_id"])
            children.setdefault(parent if parent in nodes and parent != base_id else root.run_id, []).append(run_id)
    yield from _descend(root, nodes, children, listed)


def _start_of_base(base: Mapping[str, Any]) -> float:
    """Return where a base starts: at 0, and a merge of several bases, which is its own base, after theirs."""
    is_merge = len(str(base.get("parent_run_ids", "")).split(_ALSO)) > 1
    start = float(base.get("start_tokens", 0.0)) if is_merge else 0.0
    return start if np.isfinite(start) else 0.0


def _descend(
    member: Member, nodes: Mapping[str, Any], children: Mapping[str, list[str]], listed: set[str]
) -> Iterator[Member]:
    yield member
    row = member.row + 1
    # Sorting is stable: runs of one branch stay in the order of their hyperparameters.
    for run_id in sorted(children.get(member.run_id, []), key=lambda r: float(nodes[r]["branch_tokens"])):
        facts = nodes[run_id]
        branch = float(facts["branch_tokens"])
        child = Member(
            run_id, str(facts["run_type"]), str(facts["run"]).rpartition("+")[2], member.depth + 1, row, member,
            branch, float(facts["end_tokens"]), branch if member.is_base else member.origin, facts["value"],
            run_id in listed, facts, max(branch, float(facts.get("start_tokens", branch))),
        )  # fmt: skip
        for descendant in _descend(child, nodes, children, listed):
            yield descendant
            row += 1


def _add_parent(run_id: str, nodes: dict[str, Any]) -> None:
    """Add the parent of a run if it is neither among the rows nor a base."""
    row = nodes[run_id]
    stages = parse_chain(str(row.get("chain", "")))
    parent = str(row["parent_run_id"])
    if len(stages) > 2 and parent and parent not in nodes:
        nodes[parent] = _ancestor(parent, row, stages, 1)


def _add_ancestors(run_id: str, nodes: dict[str, Any]) -> None:
    """Add the ancestors between a run and its base that are not among the rows."""
    row = nodes[run_id]
    stages = parse_chain(str(row.get("chain", "")))
    child = row
    for above in range(1, len(stages) - 1):
        if not child["parent_run_id"]:
            child["parent_run_id"] = _id_of_ancestor(row, stages, above, nodes)
        ancestor = str(child["parent_run_id"])
        if ancestor not in nodes:
            nodes[ancestor] = _ancestor(ancestor, row, stages, above)
        child = nodes[ancestor]


def _id_of_ancestor(row: Mapping[str, Any], stages: Sequence[Stage], above: int, nodes: Mapping[str, Any]) -> str:
    """Return the id of the ancestor that is `above` runs above a run, by its label and branch."""
    label, branch = _label_of_ancestor(row, above), float(stages[-1 - above].start)
    same = [
        run_id
        for run_id, node in nodes.items()
        if without_replicate(node["run"]) == label
        and float(node["branch_tokens"]) == branch
        and node.get("root_run_id") == row.get("root_run_id")
    ]
    if label and len(same) == 1:
        return same[0]
    # Labels of ancestors have no replicate numbers, so which of several replicates is the ancestor is unknown.
    return f"{label or f'ancestor {above}'} of {row['lineage'] if label else row['run_id']}"


def _label_of_ancestor(row: Mapping[str, Any], above: int) -> str:
    """Return the label of the ancestor that is `above` runs above a run; "" where the label has too few parts."""
    label, *links = without_replicate(row["run"]).rsplit("+", above)
    return label if len(links) == above else ""


def _ancestor(run_id: str, row: Mapping[str, Any], stages: Sequence[Stage], above: int) -> dict[str, Any]:
    """Return the row of the ancestor that is `above` runs above a run; it ends where the next run branches off."""
    stage = stages[-1 - above]
    return {
        "run_id": run_id, "run": _label_of_ancestor(row, above), "run_type": stage.run_type, "value": np.nan,
        "lineage": row["lineage"], "parent_run_id": "", "branch_tokens": float(stage.start),
        "end_tokens": float(stages[-above].start),
        **({"root_run_id": row["root_run_id"]} if "root_run_id" in row else {}),
    }  # fmt: skip


# Height of a row; with more rows than the first number it is less, but no less than a label needs.
_ROW_PIXELS, _MANY_ROWS, _LOW_ROW_PIXELS, _WIDTH = 19, 60, 15, 560
_MOST_ROWS = 320
# Shares of the width for pretraining and the gap after it. On one scale, post-training would be too short to see.
_PRETRAINING, _GAP = 0.36, 0.05
# Least distance between the last tick of pretraining and the first one after it.
_TICK_GAP = 0.07
# Separates the ids of the parents of a merge.
_ALSO = " & "
_NAMES = {"supervised_ft": "supervised finetuning", "dpo": "DPO"}


@redrawable
@with_picture_options
def plot_tree(
    dataset: xr.Dataset,
    metric: str | None = None,
    *,
    reduce: Reduce | None = None,
    backend: BackendName = "bokeh",
    frame_size: tuple[int, int] | None = None,
    title: str | None = None,
    labels: Mapping[str, str] | None = None,
    palette: Palette | None = None,
    order: Order | None = None,
    size: tuple[float, float] | None = None,
    font_size: float | None = None,
    xlim: Limits | None = None,
    ylim: Limits | None = None,
    legend: LegendPlace = "right",
    caption: bool | str = True,
) -> Any:
    """Draw the tree of each lineage: each run as a line from its branch to its end, below its parent.

    The axis is broken: pretraining with each branch point on the left; on the right, on a scale of its own, the
    tokens that runs and their descendants saw since they left the base. A dot at the end of a run has the colour of
    its value, and is hollow when it has none. A merge of several runs is below its first parent; dashed lines join it
    with its other parents.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, a selection or a sweep of it, or saved and opened again.
    metric : str, optional
        Colours runs by their final value; by their type when None.
    reduce : callable, optional
        Function of Dataset and metric that returns one value for each run, such as
        ``lambda ds, m: ds[m].max("cumulative_tokens")``; the last value, as by ``ds.dde.final``, when None.
    backend : {"bokeh", "matplotlib"}
    frame_size : tuple of int, optional
        Width and height, in pixels; when None, the height follows from the number of runs.

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
    options = PictureOptions.of(locals())
    if metric is None:
        values = xr.full_like(dataset["branch_tokens"], np.nan, dtype=np.float64)
        values = values.broadcast_like(dataset["run_id"])
        label = ""
    else:
        name = metric_named(dataset, metric)
        require_numbers(dataset[name])
        values = final(metrics_alone(dataset, [name]), name) if reduce is None else reduce(dataset, name)
        label = axis_label(dataset[name])
    rows = rows_of_runs(values)
    if metric is not None and reduce is not None and is_train_loss(dataset[name]):
        warn_of_reductions(rows.loc[rows["value"].notna()].get("reduce_loss", ()))
    members = find_members(rows)
    if not members or len(members) > _MOST_ROWS:
        few = "params=..., data=..., seed=0" if is_datadecide(dataset) else "lineage=[...]"
        raise SelectionError(
            f"the Dataset has {len(members)} runs, {'more than can be looked at' if members else 'so there is no tree'}"
            f". Select a few lineages: ds.dde.sel({few})."
        )
    types = list(dict.fromkeys(m.run_type for m in members))
    options.check_order("run_type", [])
    options.check_labels(known_labels(dataset, [*([] if metric is None else [name]), *types], ["run_type", "run"]))
    if label:
        label = options.label(name, label)
    subject = f"{in_words(label)} at the end of each run" if label else "runs by their type"
    listed = [m for m in members if m.is_listed]
    families = {m.facts.get("lineage", "") for m in listed}
    unknown = _unknown_parents(members)
    merges = f"not drawn: parents outside the Dataset of {counted(unknown, 'merge')}" if unknown else ""
    runs = runs_text((m.run_id for m in listed), families)
    text = caption_of(subject, runs, "lines span the tokens of runs", merges)
    with drawing_with(backend) as drawing:
        return _drawn(members, _broken_axis(members), label, text, drawing, frame_size, options)


@dataclass(frozen=True)
class _BrokenAxis:
    """A broken axis: tokens of pretraining, then tokens of post-training since the base was left."""

    pretraining_tokens: float
    posttraining_tokens: float

    @property
    def edge(self) -> float:
        """Position at which pretraining ends."""
        return _PRETRAINING if self.posttraining_tokens else 1.0

    def before(self, tokens: float) -> float:
        """Return the position of tokens of pretraining."""
        return self.edge * tokens / self.pretraining_tokens

    def after(self, tokens: float) -> float:
        """Return the position of tokens since the base was left."""
        start = _PRETRAINING + _GAP
        return start + (1 - start) * tokens / (self.posttraining_tokens or 1.0)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Return the ticks of both parts; a plus marks tokens since the base."""
        before, after = _even(self.pretraining_tokens, 3), _even(self.posttraining_tokens, 5)
        first = [(self.before(t), label) for t, label in zip(before, tick_labels(before), strict=True)]
        if not self.posttraining_tokens:
            return tuple(first)
        # A tick shortly before the break would stand in the way of the first one after it.
        first = [(place, label) for place, label in first if place == 0 or self.after(0) - place > _TICK_GAP]
        return (*first, *((self.after(t), f"+{label}") for t, label in zip(after, tick_labels(after), strict=True)))


def _even(most: float, count: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(0, most)
    return [float(t) for t in ticks if 0 <= t <= most * (1 + 1e-9)]


def _broken_axis(members: Sequence[Member]) -> _BrokenAxis:
    pretraining = max((m.end for m in members if m.is_base and np.isfinite(m.end)), default=1.0)
    posttraining = max((m.end - m.origin for m in members if not m.is_base and np.isfinite(m.end)), default=0.0)
    return _BrokenAxis(pretraining or 1.0, posttraining)


def _drawn(
    members: Sequence[Member],
    axis: _BrokenAxis,
    label: str,
    caption: str,
    backend: Backend,
    frame_size: tuple[int, int] | None,
    options: PictureOptions,
) -> Any:
    import holoviews as hv

    count = len(members)
    row_pixels = _ROW_PIXELS if count <= _MANY_ROWS else _LOW_ROW_PIXELS
    size = frame_size or (_WIDTH, max(row_pixels * count, 130))
    labels = [options.label(m.label, m.label) for m in members]
    bases = {m.run_type for m in members if m.is_base}
    first = PRETRAINING if bases == {PRETRAINING} else "the base"
    x_label = f"tokens of {first}" + (", then since the base was left (+)" if axis.posttraining_tokens else "")
    frame = Frame(
        Axis("tree_place", x_label, limits=(-0.015, 1.03), ticks=axis.ticks()),
        Axis("tree_row", "", limits=(-count + 0.4, 0.6), ticks=tuple((-float(k), t) for k, t in enumerate(labels))),
        grid=False,
    )
    values = [m.value for m in members]
    bar = None
    if label and np.isfinite(values).any():
        bar = ColourBar.of_values(label, values)
        bar = replace(bar, colours=options.map_colours(bar.colours))
    colours = _type_colours(members, options)
    legend = _legend(members, bar, colours, options, backend)
    content = Content.of_elements(
        frame, "", partial(_elements, hv, members, axis, bar, colours, label, backend), backend
    )
    # Labels of runs are one below the other.
    return draw_figure([[content]], size, legend, caption, options, backend, (200, int(0.65 * _ROW_PIXELS * count)))


def _type_colours(members: Sequence[Member], options: PictureOptions) -> dict[str, str]:
    bases = list(dict.fromkeys(m.run_type for m in members if m.is_base))
    derived = list(dict.fromkeys(m.run_type for m in members if not m.is_base and m.run_type not in bases))
    if len(bases) > 1 or options.palette is not None or options.order is not None:
        # Colours distinguish several types of bases, too.
        return options.colours("run_type", [*bases, *sorted(derived, reverse=True)])
    return {bases[0]: NEUTRAL, **colours_of(sorted(derived, reverse=True))}


def _legend(
    members: Sequence[Member],
    bar: ColourBar | None,
    colours: Mapping[str, str],
    options: PictureOptions,
    backend: Backend,
) -> Legend:
    names = _NAMES | options.names(colours)
    kinds = [LegendEntry(label_of(t, names), backend.line(c)) for t, c in colours.items()]
    entries = kinds if len(kinds) > 1 else []
    if bar is not None and any(m.is_listed and np.isnan(m.value) for m in members):
        entries.append(LegendEntry("no value", backend.hollow_point(), "marker"))
    if any(_other_parents(m, members) for m in members):
        entries.append(LegendEntry("another parent of a merge", backend.line(INK, dashed=True) | _thin(backend)))
    if not all(m.is_listed for m in members):
        entries.append(LegendEntry("not in the Dataset", backend.line(INK, dashed=True)))
    return Legend("", entries, bar)


def _elements(
    hv: Any,
    members: Sequence[Member],
    axis: _BrokenAxis,
    bar: ColourBar | None,
    colours: Mapping[str, str],
    label: str,
    backend: Backend,
    frame: Frame,
    layout: PanelLayout,
) -> list[Any]:
    """Return the elements of a tree: lines of runs, joints at branches, and points at ends."""
    dims = [hv.Dimension(frame.x.name), hv.Dimension(frame.y.name)]
    bottom, top = frame.y.limits or (0.0, 1.0)
    lines: list[tuple[Any, Any, str]] = []
    missing: list[tuple[Any, Any, str]] = []
    joints: list[tuple[Any, Any, str]] = []
    merged: list[tuple[Any, Any, str]] = []
    dots: dict[bool, list[Any]] = {True: [], False: []}
    for m in members:
        y = -float(m.row)
        others = _other_parents(m, members)
        if m.parent is None:
            start, end = axis.before(m.start), axis.before(m.end) if np.isfinite(m.end) else np.nan
        else:
            since = m.start - m.origin
            start = axis.after(since)
            end = axis.after(m.end - m.origin) if np.isfinite(m.end) else start
            if m.parent.is_base:
                at = axis.before(m.branch)
                joints.append(([at, at, start], [-float(m.parent.row), y, y], EDGE))
            else:
                row, before = -float(m.parent.row), min(m.parent.end, m.start)
                # A merge starts after the end of each of its parents.
                path = ([axis.after(before - m.origin), start, start], [row, row, y])
                joints.append((*(path if before < m.start else ([start, start], [row, y])), EDGE))
        for other in others:
            row, leaves = -float(other.row), min(other.end, m.start)
            at = axis.before(leaves) if other.is_base else axis.after(leaves - other.origin)
            merged.append(([at, start, start], [row, row, y], INK))
        if not np.isfinite(end):
            continue
        (lines if m.is_listed else missing).append(([start, end], [y, y], colours[m.run_type]))
        if m.is_listed:
            known = bar is None or not np.isnan(m.value)
            dots[known].append((end, y, _dot_colour(m, bar, colours), *_tooltip_values(m)))
    elements: list[Any] = []
    if axis.posttraining_tokens:
        elements.append(hv.Rectangles([(-0.015, bottom, axis.edge + _GAP / 2, top)]).opts(**backend.window_rectangle()))
    elements += coloured_lines(dims, joints, backend.branch_line() | {"color": "colour"})
    elements += coloured_lines(dims, merged, backend.line("colour", dashed=True) | _thin(backend))
    elements += coloured_lines(dims, missing, backend.line("colour", dashed=True))
    elements += coloured_lines(dims, lines, backend.line("colour") | backend.thick_line())
    tooltips = [(name.replace("_", " "), f"@{name}") for name in _TOOLTIP_FIELDS]
    if label:
        tooltips.append((label, "@value"))
    for known, points in dots.items():
        if points:
            look = backend.points("colour", _MARKER[backend.name], False, tooltips)
            elements.append(
                hv.Points(points, dims, ["colour", *_TOOLTIP_FIELDS, "value"]).opts(
                    **(look if known else look | backend.hollow_point())
                )
            )
    return elements


def _other_parents(member: Member, members: Sequence[Member]) -> list[Member]:
    """Return the parents of a merge other than the one that its row is drawn below."""
    ids = str(member.facts.get("parent_run_ids", "")).split(_ALSO)
    drawn = None if member.parent is None else member.parent.run_id
    return [m for m in members if m.run_id in ids and m.run_id != drawn and m.row != member.row]


def _unknown_parents(members: Sequence[Member]) -> int:
    """Return the number of merges that have a parent which is not drawn, because it is not in the Dataset."""
    known = {m.run_id for m in members}
    parents = [str(m.facts.get("parent_run_ids", "")).split(_ALSO) for m in members]
    return sum(len(ids) > 1 and not known.issuperset(ids) for ids in parents)


def _thin(backend: Backend) -> dict[str, Any]:
    """Return options that make a line thinner and paler."""
    return {"alpha": 0.75, "line_width" if backend.name == "bokeh" else "linewidth": 0.8}


_TOOLTIP_FIELDS = ("run", "run_id", "state", "branch_tokens", "end_tokens")
_MARKER = {"bokeh": "circle", "matplotlib": "o"}


def _tooltip_values(member: Member) -> tuple[str, ...]:
    """Return the values in the tooltip of a dot."""
    facts = [str(member.facts.get(name, "")) for name in ("run", "run_id", "state")]
    tokens = ["" if not np.isfinite(t) else short_number(t) for t in (member.branch, member.end)]
    return (*facts, *tokens, "none" if np.isnan(member.value) else f"{member.value:.4f}")


def _dot_colour(member: Member, bar: ColourBar | None, colours: Mapping[str, str]) -> str:
    if bar is None:
        return colours[member.run_type]
    if np.isnan(member.value):
        return "#ffffff"
    return bar.colour(member.value)
