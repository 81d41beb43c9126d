"""From choices to what the page shows: the columns of panels, the looks and the table of runs, and files of both."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import pandas as pd
import xarray as xr

from dde.errors import collected_warnings, warn_caller
from dde.explore.choices import GRIDS, Choices, apply, plot_options
from dde.explore.listing import run_table
from dde.plots.backends.choice import writing_with
from dde.plots.columns import PanelColumns, RunLook, columns_of, has_same_columns, looks_of
from dde.plots.curve_caption import curves_caption
from dde.plots.curve_segments import Segment, run_blocks, segments_by_metric
from dde.plots.curves import CurveFinder, curve_panels
from dde.plots.files import pdf_bytes, png_bytes, svg_bytes
from dde.plots.panels import Panel
from dde.printable import spreadsheet_safe

__all__ = ["Drawing", "Loaded", "Selection", "draw", "picture_bytes", "table_bytes"]

# Number of selections cached in memory, so that changing a colour or scale reads nothing.
_MOST_CACHED = 4
# Cells of a selection that are in memory at once, 8 bytes each. Of a larger one, most cells hold no run.
_MOST_CELLS = 2**23
# Panels whose columns are cached.
_MOST_PANELS = 12
# Points of curves that are cached, 25 bytes each.
_MOST_POINTS = 4_000_000

# Curves of a metric, and the warnings of finding them.
Found = tuple[list[Segment], list[str]]


@dataclass(frozen=True)
class Selection:
    """The chosen part of a Dataset.

    Attributes
    ----------
    dataset : xarray.Dataset
        In memory unless it is large.
    blocks : tuple of xarray.Dataset
        The same in memory, in blocks of lineages without the runs that none of them has.
    table : pandas.DataFrame
        A row for each run.
    notes : tuple of str
        Texts of warnings.
    """

    dataset: xr.Dataset
    blocks: tuple[xr.Dataset, ...]
    table: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were read, in order."""
        return tuple(map(str, self.dataset.data_vars))


class Loaded:
    """Cache of the latest selections of one Dataset: values that were read, and the curves found in them.

    Parameters
    ----------
    dataset : xarray.Dataset
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset
        self._selections: OrderedDict[tuple[object, ...], Selection] = OrderedDict()
        self._curves: OrderedDict[tuple[object, ...], Found] = OrderedDict()
        self._columns: list[tuple[Panel, dict[str, int], PanelColumns]] = []

    def get(self, choices: Choices) -> Selection:
        """Return the selection, read on the first request only."""
        key = choices.data_key
        if key not in self._selections:
            with collected_warnings() as notes:
                selected, blocks, table = self._read(choices)
            self._selections[key] = Selection(selected, blocks, table, tuple(notes))
        self._selections.move_to_end(key)
        while len(self._selections) > _MOST_CACHED:
            self._selections.popitem(last=False)
        return self._selections[key]

    def finder(self, choices: Choices) -> CurveFinder:
        """Return what finds the curves of a selection, those of each metric on the first request only."""
        return _RememberingFinder(self._curves, self.get(choices), choices)

    def columns(self, panels: Sequence[Panel], numbers: dict[str, int]) -> list[PanelColumns]:
        """Return the columns of panels: the same object where a panel of the last drawings has the same columns."""
        found: list[PanelColumns] = []
        for panel in panels:
            known = (c for p, n, c in self._columns if has_same_columns(p, panel) and n == numbers)
            columns = next(known, None) or columns_of(panel, numbers)
            # The latest first.
            self._columns = [(panel, numbers, columns), *(part for part in self._columns if part[2] is not columns)]
            found.append(columns)
        del self._columns[max(_MOST_PANELS, len(panels)) :]
        return found

    def _read(self, choices: Choices) -> tuple[xr.Dataset, tuple[xr.Dataset, ...], pd.DataFrame]:
        selected = apply(self.dataset, choices)
        similar = self._similar(choices)
        # compute() copies: the selection shares its lazy arrays with the Dataset, which must stay lazy.
        if sum(array.size for array in selected.data_vars.values()) <= _MOST_CELLS:
            selected = _with_values_of(selected, similar.dataset if similar else None).compute()
            blocks = tuple(run_blocks(selected))
        else:
            known = similar.blocks if similar else ()
            parts = zip_longest(run_blocks(selected), known)
            blocks = tuple(_with_values_of(block, of_similar).compute() for block, of_similar in parts)
        table = pd.concat([run_table(block) for block in blocks])
        order = {label: k for k, label in enumerate(selected["lineage"].values.tolist())}
        table = table.sort_values("lineage", key=lambda labels: labels.map(order), kind="stable", ignore_index=True)
        return selected, blocks, table

    def _similar(self, choices: Choices) -> Selection | None:
        """Return a cached selection of the same cells, whose values need not be read again."""
        if choices.grid != GRIDS[0]:
            # A grid may depend on the metrics that are aligned on it.
            return None
        same = [
            selection
            for key, selection in self._selections.items()
            if replace(choices, metrics=selection.metrics).data_key == key
        ]
        return max(same, key=lambda s: len({*s.metrics} & {*choices.metrics}), default=None)


@dataclass(frozen=True)
class _RememberingFinder(CurveFinder):
    """Find the curves of a selection, and remember them while nothing but their looks changes."""

    remembered: OrderedDict[tuple[object, ...], Found]
    selection: Selection
    choices: Choices

    def blocks(self, dataset: xr.Dataset) -> Iterable[xr.Dataset]:
        """Return the blocks of the selection where these hold the values of the Dataset; else those of the Dataset."""
        return self.selection.blocks if self._is_plain or dataset is self.selection.dataset else run_blocks(dataset)

    def find(
        self,
        blocks: Iterable[xr.Dataset],
        metrics: Sequence[str],
        x: str,
        positive: bool,
        positive_values: bool,
        lineages: Sequence[str],
    ) -> dict[str, list[Segment]]:
        """Return the segments of metrics; without reading the blocks where they are remembered."""
        if self.choices.smooth:
            # They are found twice, also in the values before they are smoothed.
            return segments_by_metric(blocks, metrics, x, positive, positive_values, lineages)
        choices = self.choices
        # A grid may depend on all metrics that are aligned on it.
        others = () if choices.grid == GRIDS[0] else choices.metrics
        changes = None if self._is_plain else (choices.band, choices.relative_to, choices.group_by, choices.min_count)
        chosen = replace(choices, metrics=()).data_key, others, changes
        keys = {metric: (*chosen, metric, x, positive, positive_values) for metric in metrics}
        missing = [metric for metric, key in keys.items() if key not in self.remembered]
        if missing:
            with collected_warnings() as notes:
                found = segments_by_metric(blocks, missing, x, positive, positive_values, lineages)
            self.remembered.update({keys[metric]: (of_metric, notes) for metric, of_metric in found.items()})
        curves = {metric: self.remembered[key][0] for metric, key in keys.items()}
        for key in keys.values():
            self.remembered.move_to_end(key)
            for note in self.remembered[key][1]:
                warn_caller(note)
        while len(self.remembered) > len(keys) and self._points() > _MOST_POINTS:
            self.remembered.popitem(last=False)
        return curves

    @property
    def _is_plain(self) -> bool:
        """Whether the curves are those of the selection, neither means over lineages nor differences."""
        changed = self.choices.band or self.choices.relative_to or self.choices.smooth
        return not changed and (self.choices.group_by is None or self.choices.x == "cumulative_tokens")

    def _points(self) -> int:
        return sum(len(segment.x) for curves, _ in self.remembered.values() for segment in curves)


def _with_values_of(dataset: xr.Dataset, similar: xr.Dataset | None) -> xr.Dataset:
    """Return a Dataset with the values that another one has in memory of the same cells."""
    if similar is None:
        return dataset
    known = {
        name: similar[name].variable
        for name in dataset.data_vars
        if name in similar.data_vars and similar[name].variable._in_memory
    }
    return dataset.assign(known)


@dataclass
class Drawing:
    """What the page shows of a selection.

    Attributes
    ----------
    choices : Choices
    selection : Selection
    panels : list of PanelColumns
    looks : list of RunLook
        Of the runs to which the columns refer by number.
    hue_label : str
        What the colours stand for; "" for nothing.
    caption : str
        As that of the picture of ``ds.dde.plot``.
    notes : list of str
        Texts of warnings.
    """

    choices: Choices
    selection: Selection
    panels: list[PanelColumns]
    looks: list[RunLook]
    hue_label: str
    caption: str
    notes: list[str] = field(default_factory=list)

    @property
    def shown(self) -> xr.Dataset:
        """The selection."""
        return self.selection.dataset

    @property
    def table(self) -> pd.DataFrame:
        """A row for each run of the selection."""
        return self.selection.table


def draw(loaded: Loaded, choices: Choices) -> Drawing:
    """Return what the page shows of the current selection.

    Raises
    ------
    DdeError
        When nothing is selected, nothing matches, or there is nothing to draw.
    """
    with collected_warnings() as notes:
        selection = loaded.get(choices)
        options = plot_options(choices, loaded.dataset)
        rows = curve_panels(selection.dataset, **options, finder=loaded.finder(choices))
    panels = _each_labelled([panel for row in rows for panel in row])
    looks = looks_of(panels)
    columns = loaded.columns(panels, {look.run_id: look.number for look in looks})
    is_thinned = any(panel.is_thinned for panel in columns)
    shown: dict[str, Any] = {name: options.get(name) for name in ("band", "group_by", "relative_to", "smooth")}
    return Drawing(
        choices,
        selection,
        columns,
        looks,
        panels[0].look.hue_label if panels[0].look.colours else "",
        curves_caption(selection.dataset, rows, **shown, is_thinned=is_thinned),
        list(dict.fromkeys([*selection.notes, *notes])),
    )


def _each_labelled(panels: list[Panel]) -> list[Panel]:
    """Return panels with a title and a label each: on a page they wrap, so none stands below or beside another."""
    labels = {p.frame.x.name: p.frame.x.label for p in panels if p.frame.x.label}
    title, labelled = "", []
    for panel in panels:
        title = panel.title or title
        x = replace(panel.frame.x, label=panel.frame.x.label or labels.get(panel.frame.x.name, ""))
        labelled.append(replace(panel, title=title, frame=replace(panel.frame, x=x)))
    return labelled


def picture_bytes(drawing: Drawing, suffix: str) -> bytes:
    """Return the picture drawn with Matplotlib: ``.png``; ``.svg`` or ``.pdf`` with text as text."""
    make: Callable[[Any], bytes] = {".png": png_bytes, ".svg": svg_bytes, ".pdf": pdf_bytes}[suffix]
    with writing_with("matplotlib"):
        picture = drawing.shown.dde.plot(**plot_options(drawing.choices, drawing.shown), backend="matplotlib")
        return make(picture)


def table_bytes(drawing: Drawing, suffix: str = ".parquet") -> bytes:
    """Return the long table of the selection as Parquet, or as CSV."""
    frame = drawing.shown.dde.to_frame()
    if suffix == ".csv":
        return str(spreadsheet_safe(frame)[0].to_csv(index=False)).encode()
    written = io.BytesIO()
    frame.to_parquet(written, index=False)
    return written.getvalue()
