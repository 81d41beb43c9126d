"""What tabs share that show runs by columns of their table: what is shown, colours, marks, and the note below."""

from __future__ import annotations

import html
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import panel as pn
from bokeh.models import ColumnDataSource

from dde.explore.run_colours import Coloured, coloured
from dde.explore.run_columns import RunColumns, columns_of
from dde.explore.tabs import Marks, Shown, State, StateReader, Tab
from dde.plots.captions import counted
from dde.plots.colours import INK
from dde.printable import printable

__all__ = ["TEXT_STYLE", "WIDE", "ColumnsTab", "RunsTab"]

WIDE: dict[str, Any] = {"sizing_mode": "stretch_width"}
#: Style of texts beside a picture, and in its tooltips.
TEXT_STYLE = f"font:12.5px system-ui,sans-serif;color:{INK}"
_OF_CURVES = "as the curves"


class RunsTab(Tab):
    """A tab that shows runs by columns of their table.

    Parameters
    ----------
    marks : Marks
        Columns of differences are to the run that is pinned.
    """

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks
        self._shown: Shown | None = None
        self._columns: RunColumns | None = None
        marks.param.watch(lambda _: self._refresh(), "baseline")

    def show(self, shown: Shown) -> None:
        """Show the runs of a selection; what a person chose stays while its columns exist."""
        self._shown = shown
        self._refresh()

    def _refresh(self) -> None:
        # A tab that is closed is shown again when it is opened.
        if self._shown is not None and self.view.visible:
            self._columns = columns_of(self._shown.dataset, self._shown.table, self._marks.baseline)
            self._show_columns(self._columns)

    @abstractmethod
    def _show_columns(self, columns: RunColumns) -> None:
        """Show the runs by columns that may be others than before."""


class ColumnsTab(RunsTab):
    """A tab that draws runs by columns of their table.

    Subclasses list columns in their widgets, and draw those that are chosen.

    Parameters
    ----------
    marks : Marks
        Runs that are hidden are left out; selected runs stand out.
    """

    def __init__(self, marks: Marks) -> None:
        super().__init__(marks)
        # Whether widgets and sources are being filled, whose events are then no choices of a person.
        self._is_filling = False
        self.colour = pn.widgets.Select(label="Colour", options={_OF_CURVES: ""}, width=210)
        self.colour.param.watch(self._on_choice, "value")
        self._note = pn.pane.HTML("", **WIDE)
        self._legend = pn.pane.HTML("", **WIDE)
        self.view: Any = None
        marks.param.watch(lambda _: self._draw(), "hidden")
        marks.param.watch(lambda _: self._select(), "selected")

    def restore(self, state: State) -> State:
        """Choose axes and colour."""
        columns = self._columns
        if columns is None:
            return {}
        reader = StateReader(state)
        with self._filling():
            self._restore(columns, reader)
            self.colour.value = reader.one("colour", columns.names()) or ""
        self._draw()
        self._restore_ranges(columns, reader)
        return reader.unknown

    # What subclasses define

    @abstractmethod
    def _list(self, columns: RunColumns) -> Mapping[str, str]:
        """List columns in the widgets of axes; return titles of columns by name, in the order of the list."""

    @abstractmethod
    def _restore(self, columns: RunColumns, reader: StateReader) -> None:
        """Set the widgets of axes as a state says, or to their defaults."""

    def _restore_ranges(self, columns: RunColumns, reader: StateReader) -> None:
        """Set ranges of axes as a state says, after runs are drawn; by default there are none."""

    @abstractmethod
    def _axes_state(self, columns: RunColumns) -> dict[str, list[str]]:
        """Return the choices of axes that differ from the defaults."""

    @abstractmethod
    def _fill(self, columns: RunColumns, is_hidden: npt.NDArray[np.bool_], colours: Coloured) -> str:
        """Draw the runs; return a text on what is drawn."""

    @abstractmethod
    def _sources_of_runs(self) -> Sequence[ColumnDataSource]:
        """Return sources with a column ``run_id``, whose selection is that of the runs."""

    # What they share

    @contextmanager
    def _filling(self) -> Iterator[None]:
        before, self._is_filling = self._is_filling, True
        try:
            yield
        finally:
            self._is_filling = before

    def _show_columns(self, columns: RunColumns) -> None:
        with self._filling():
            titles = self._list(columns)
            value = self.colour.value if self.colour.value in columns else ""
            self.colour.param.update(options={_OF_CURVES: "", **{t: name for name, t in titles.items()}}, value=value)
        self._draw()

    def _on_choice(self, event: Any) -> None:
        if not self._is_filling:
            self._draw()

    def _draw(self) -> None:
        columns, shown = self._columns, self._shown
        if columns is None or shown is None or not self.view.visible:
            return
        is_hidden = np.isin(columns.frame["run_id"].to_numpy(), self._marks.hidden)
        colours = coloured(columns, self.colour.value, shown.colours)
        with pn.io.hold():
            with self._filling():
                for source in self._sources_of_runs():
                    source.selected.indices = []
                note = self._fill(columns, is_hidden, colours)
            self._select()
            left = int(is_hidden.sum())
            texts = [note, f"{counted(left, 'run')} hidden, and left out." if left else ""]
            self._note.object = f'<div style="{TEXT_STYLE}">{html.escape(" ".join(filter(None, texts)))}</div>'
            self._legend.object = colours.legend
        # In a notebook, changes of Bokeh's models are not sent by themselves.
        pn.io.push_notebook(self.view)
        self._set_state()

    def _set_state(self) -> None:
        """Note the choices for the address."""
        if self._columns is not None:
            colour = {"colour": [self.colour.value]} if self.colour.value else {}
            self.state = self._axes_state(self._columns) | colour

    def _columns_of_runs(
        self, columns: RunColumns, colours: Coloured, drawn: npt.NDArray[np.intp]
    ) -> dict[str, list[Any]]:
        """Return columns of a source that hold what each of some runs is."""
        frame = columns.frame.iloc[drawn]
        run_ids = frame["run_id"].tolist()
        texts = [colours.texts[k] for k in drawn] if colours.texts else run_ids
        return {
            "color": [colours.colours[k] for k in drawn],
            "run_id": run_ids,
            "name": [printable(f"{run} · {of}") for run, of in zip(frame["run"], frame["lineage"], strict=True)],
            "c_text": list(map(printable, texts)),
        }

    def _on_brush(self, source: ColumnDataSource, indices: Sequence[int]) -> None:
        if not self._is_filling and self._columns is not None:
            brushed = {source.data["run_id"][k] for k in indices}
            self._marks.selected = [run for run in self._columns.frame["run_id"] if run in brushed]

    def _select(self) -> None:
        """Make the selected runs stand out."""
        selected = set(self._marks.selected)
        for source in self._sources_of_runs():
            indices = [k for k, run in enumerate(source.data["run_id"]) if run in selected]
            if sorted(source.selected.indices) != indices:
                with self._filling():
                    source.selected.indices = indices
        pn.io.push_notebook(self.view)
