"""The table of runs, with columns to choose, filters, and downloads of the rows that match."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import panel as pn
import param

from dde.errors import DdeError
from dde.explore.columns_tab import RunsTab
from dde.explore.run_columns import RunColumns
from dde.explore.tabs import Marks, State, StateReader
from dde.printable import printable, spreadsheet_safe

__all__ = ["TableTab", "chosen_names", "file_bytes"]

_WIDE: dict[str, Any] = {"sizing_mode": "stretch_width"}
# Pixels of a character, of the space around the text of a cell, and of the arrow that shows the order.
_CHARACTER, _PADDING, _ARROW = 7.2, 14, 14
_NARROWEST, _WIDEST = 78, 210
# Longest number as the table shows it, such as -1.234e-5.
_NUMBER_LENGTH = 9.0
# Prefix of the name of a filter in the state, before the name of its column.
_FILTER = "filter."


class TableTab(RunsTab):
    """The table of runs.

    Parameters
    ----------
    marks : Marks
        Rows that are ticked are its selected runs; each row has buttons to hide its run, to pin it as the baseline,
        and to open its page.

    Attributes
    ----------
    title : str
    view : Panel viewable
    """

    title = "Table"

    def __init__(self, marks: Marks) -> None:
        super().__init__(marks)
        pn.extension("tabulator")
        self._names: list[str] = []
        # Fields of Tabulator by name of a column: a name may have dots and other characters that mean something there.
        self._fields: dict[str, str] = {}
        self._table = RunTable(marks)
        self._table.param.watch(lambda _: self._fill(), "chosen")
        self._table.param.watch(lambda _: self._on_view(), "view")
        files = [self._download(label, suffix) for label, suffix in (("CSV", ".csv"), ("Parquet", ".parquet"))]
        self.view = pn.Column(self._table, pn.Row(*files), **_WIDE)

    def restore(self, state: State) -> State:
        """Choose columns, filters and order."""
        columns = self._columns
        if columns is None:
            return {}
        reader = StateReader(state)
        every = columns.names()
        chosen = {
            **dict.fromkeys(reader.several("add", every) or [], True),
            **dict.fromkeys(reader.several("drop", every) or [], False),
        }
        shown = chosen_names(columns, chosen)
        filters = {name: text for name in shown if (text := reader.text(f"{_FILTER}{name}"))}
        ends = {f"{name}:{end}": [name, end] for name in shown for end in ("asc", "desc")}
        sort = [ends[text] for text in reader.several("sort", ends) or []]
        view = {
            "search": reader.text("search"),
            "filters": filters,
            "sort": sort,
            "order": reader.several("order", every) or [],
        }
        self._table.param.update(chosen=chosen, view=view)
        return reader.unknown

    def _on_view(self) -> None:
        if self._columns is not None and self._ordered(self._columns) != self._names:
            self._fill()
        else:
            self._set_state()

    def _ordered(self, columns: RunColumns) -> list[str]:
        """Return the columns that are shown, in the order of a person; others follow."""
        rank = {name: k for k, name in enumerate(self._table.view["order"])}
        return sorted(chosen_names(columns, self._table.chosen), key=lambda name: rank.get(name, len(rank)))

    def _set_state(self) -> None:
        """Note the choices for the address."""
        columns, view = self._columns, self._table.view
        if columns is None:
            return
        shown, defaults = chosen_names(columns, self._table.chosen), chosen_names(columns, {})
        state = {
            "add": [name for name in shown if name not in defaults],
            "drop": [name for name in defaults if name not in shown],
            "order": self._names if self._names != shown else [],
            "sort": [f"{name}:{end}" for name, end in view["sort"] if name in shown],
            "search": [view["search"]] if view["search"] else [],
            **{f"{_FILTER}{name}": [view["filters"][name]] for name in shown if view["filters"].get(name)},
        }
        self.state = {name: texts for name, texts in state.items() if texts}

    def _show_columns(self, columns: RunColumns) -> None:
        self._fill()

    def _fill(self) -> None:
        columns = self._columns
        if columns is None:
            return
        self._names = self._ordered(columns)
        shown = set(self._names)
        for name in columns.names():
            self._fields.setdefault(name, f"c{len(self._fields)}")
        sent: list[dict[str, Any]] = []
        data: dict[str, Any] = {}
        for name in self._names:
            column, values = columns[name], columns.frame[name]
            if column.kind == "number":
                data[self._fields[name]] = values.to_numpy(np.float64)
                longest = _NUMBER_LENGTH
            else:
                times = column.kind == "time"
                texts = values.astype(str).replace("NaT", "").tolist() if times else list(map(printable, values))
                data[self._fields[name]] = texts
                # Most texts fit; a few long ones don't widen the column for all.
                longest = float(np.quantile([len(text) for text in texts], 0.9)) if texts else 0.0
            width = max(_CHARACTER * longest, _CHARACTER * len(column.title) + _ARROW) + _PADDING
            sent.append(
                {
                    "field": self._fields[name],
                    "name": name,
                    "title": printable(column.title),
                    "hint": printable(column.hint),
                    "kind": column.kind,
                    "width": int(min(max(width, _NARROWEST), _WIDEST)),
                }
            )
        choosable = [
            {"name": c.name, "title": printable(c.title), "hint": printable(c.hint), "shown": c.name in shown}
            for c in columns.columns
        ]
        self._table.payload = {
            "columns": sent,
            "data": data,
            "run_ids": columns.frame["run_id"].tolist(),
            "choosable": choosable,
            "version": self._table.payload.get("version", 0) + 1,
        }
        self._set_state()

    @property
    def rows(self) -> pd.DataFrame:
        """The rows that match the filters, in the order of the table, with the columns shown.

        Raises
        ------
        DdeError
            While nothing is shown, or the browser has not filtered the latest rows yet.
        """
        if self._columns is None:
            raise DdeError("nothing is shown, so there are no rows. Change the choices first.")
        frame = self._columns.frame[self._names]
        matches = self._table.matches
        if matches is None:
            return frame
        if matches["version"] != self._table.payload["version"]:
            raise DdeError("the table is being filled, so it is not known which rows match. Try again in a moment.")
        matching: pd.DataFrame = frame.iloc[matches["rows"]].reset_index(drop=True)
        return matching

    def _download(self, label: str, suffix: str) -> Any:
        return pn.widgets.FileDownload(
            callback=lambda: io.BytesIO(file_bytes(self.rows, suffix)),
            filename=f"dde-runs{suffix}",
            label=label,
            description="The rows that match, with the columns shown and exact values",
            width=100,
        )


def chosen_names(columns: RunColumns, chosen: Mapping[str, bool]) -> list[str]:
    """Return the columns that are shown: those of the table of runs, unless chosen otherwise.

    Parameters
    ----------
    columns : RunColumns
    chosen : mapping of str to bool
        Whether a column is shown, for columns that were ticked or unticked; it may name columns that are not there.

    Examples
    --------
    >>> import dde
    >>> from dde.explore.listing import run_table
    >>> from dde.explore.run_columns import columns_of
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> columns = columns_of(ds, run_table(ds))
    >>> chosen_names(columns, {"params": True, "budget": False, "state": False, "arc_easy": False})
    ['lineage', 'run', 'run_id', 'learning_rate', 'branch_tokens', 'end_tokens', 'piqa', 'params']
    """
    return [c.name for c in columns.columns if chosen.get(c.name, c.group != "other")]


def file_bytes(rows: pd.DataFrame, suffix: str) -> bytes:
    """Return rows as a file: ``.csv``, with texts that a spreadsheet would compute escaped, or ``.parquet``.

    Examples
    --------
    >>> file_bytes(pd.DataFrame({"run": ["=1+1"], "loss": [0.1]}), ".csv")
    b"run,loss\\n'=1+1,0.1\\n"
    """
    if suffix == ".csv":
        return spreadsheet_safe(rows)[0].to_csv(index=False, lineterminator="\n").encode()
    written = io.BytesIO()
    rows.to_parquet(written, index=False)
    return written.getvalue()


class RunTable(pn.custom.JSComponent):
    """A Tabulator with a search field and a list of columns.

    Attributes
    ----------
    payload : dict
        ``columns`` with the ``data`` of each by its field, ``run_ids`` of the rows, ``choosable`` columns, ``version``.
    chosen : dict of str to bool
        Whether a column is shown, for columns that were ticked or unticked.
    view : dict
        ``search``; texts of ``filters`` by column; ``sort``, pairs of a column and "asc" or "desc"; ``order`` of
        columns, where a person has moved them.
    matches : dict, or None
        ``rows`` that match the filters, in order, of the ``version`` that is shown; None until there is a browser.
    """

    payload = param.Dict(default={})
    chosen = param.Dict(default={})
    view = param.Dict(default={"search": "", "filters": {}, "sort": [], "order": []})
    matches = param.Dict(default=None, allow_None=True)
    hidden = param.List(default=[])
    selected = param.List(default=[])
    baseline = param.String(default="")
    opened = param.String(default="")

    _esm = "".join(Path(__file__).with_name(name).read_text("utf-8") for name in ("run_lists.js", "table_tab.js"))
    _stylesheets: ClassVar[list[str]] = [Path(__file__).with_suffix(".css").read_text()]

    def __init__(self, marks: Marks, **params: Any) -> None:
        super().__init__(sizing_mode="stretch_width", margin=(5, 10), **params)  # type: ignore[no-untyped-call]
        for name in ("hidden", "selected", "baseline", "opened"):
            setattr(self, name, getattr(marks, name))
            self.param.watch(lambda event, name=name: setattr(marks, name, event.new), name)
            marks.param.watch(lambda event, name=name: setattr(self, name, event.new), name)
