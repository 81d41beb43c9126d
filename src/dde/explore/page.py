"""The page: controls, picture, table and downloads."""

from __future__ import annotations

import asyncio
import html
import io
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import panel as pn
import xarray as xr

from dde.errors import DdeError
from dde.explore.choices import Choices, Opened, apply, check_dataset, code_of
from dde.explore.controls import Controls
from dde.explore.drawing import Drawing, Loaded, draw, highlight, picture_bytes, table_bytes
from dde.printable import printable

__all__ = ["Explorer", "explore"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    """Why nothing is shown."""

    text: str


class Explorer(pn.viewable.Viewer):
    """The application for one Dataset; displays itself in a notebook, and ``.servable()`` serves it.

    Parameters
    ----------
    dataset : xarray.Dataset
    opened : Opened, optional
        How it was opened, for the code that opens it again.
    initial : mapping
        Initial values of choices.
    """

    def __init__(self, dataset: xr.Dataset, opened: Opened | None = None, **initial: Any) -> None:
        check_dataset(dataset)
        pn.extension("tabulator")
        super().__init__()  # type: ignore[no-untyped-call]
        self._dataset, self._opened, self._loaded = dataset, opened, Loaded(dataset)
        self._drawing: Drawing | None = None
        self._requested = self._drawn = 0
        self._task: asyncio.Task[None] | None = None
        self.controls = Controls(dataset, initial, self._redraw)
        self._make_parts()
        if pn.state.curdoc is not None and pn.state.curdoc.session_context is not None:
            # The page appears at once, and the picture follows.
            self._set_busy(True)
            pn.state.onload(self._redraw)
        else:
            self._redraw(at_once=True)

    @property
    def choices(self) -> Choices:
        """The current choices."""
        return self.controls.choices

    @property
    def dataset(self) -> xr.Dataset:
        """The current selection; lazy."""
        return apply(self._dataset, self.choices)

    @property
    def code(self) -> str:
        """Code for the selection and its picture."""
        return code_of(self._dataset, self.choices, self._opened)

    def __panel__(self) -> Any:
        """Return the layout."""
        return self._layout

    # Elements of the page

    def _make_parts(self) -> None:
        """Create the panes and widgets of the page, and arrange them."""
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        self._alert = pn.pane.Alert("", alert_type="warning", visible=False, **wide)
        self._notes = pn.pane.Alert("", alert_type="info", visible=False, **wide)
        self._summary = pn.pane.HTML("", stylesheets=[_SUMMARY], **wide)
        self._picture = pn.pane.Bokeh(None)
        self._table = pn.widgets.Tabulator(
            pd.DataFrame(), show_index=False, selectable="checkbox", disabled=True, pagination=None, max_height=330,
            layout="fit_data_stretch", stylesheets=[_TABLE], **wide,
        )  # fmt: skip
        self._table.param.watch(self._on_rows, "selection")
        self._code = pn.pane.HTML("", stylesheets=[_CODE], **wide)
        self._code_text = pn.widgets.TextAreaInput(value="", visible=False)
        copy = pn.widgets.Button(label="Copy code", width=110)
        copy.js_on_click(args={"source": self._code_text, "button": copy}, code=_COPY)
        self._downloads = [
            self._download("PNG", "png", lambda drawing: picture_bytes(drawing, ".png")),
            self._download("SVG", "svg", lambda drawing: picture_bytes(drawing, ".svg")),
            self._download("Parquet", "parquet", table_bytes),
        ]
        self._shown = pn.Column(
            pn.Column(self._picture, stylesheets=[_SCROLLED], **wide),
            _title("Runs shown", "Tick runs to make their curves stand out."),
            self._table,
            _title("Take it away", "The picture for print, the values as a long table, code that selects the same."),
            pn.Row(*self._downloads, copy),
            self._code,
            **wide,
        )  # fmt: skip
        side = pn.Column(self.controls.panel(), width=330, stylesheets=[_SIDE])
        main = pn.Column(
            self._summary, self._alert, self._notes, self._shown, styles={"flex": "1 1 520px", "min-width": "0"}
        )
        self._layout = pn.Row(side, main, self._code_text, stylesheets=[_PAGE], **wide)

    def _download(self, label: str, suffix: str, made: Callable[[Drawing], bytes]) -> Any:
        def file() -> io.BytesIO:
            if self._drawing is None:
                raise DdeError("nothing is shown, so there is nothing to download. Change the choices first.")
            return io.BytesIO(made(self._drawing))

        return pn.widgets.FileDownload(callback=file, filename=f"dde-selection.{suffix}", label=label, width=110)

    # From choices to the page

    def _redraw(self, at_once: bool = False) -> None:
        """Redraw the current selection: in a thread when an event loop runs, else at once."""
        self._requested += 1
        try:
            loop = None if at_once else asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None:
            self._show(self._draw(self.choices))
            self._drawn = self._requested
        elif self._task is None or self._task.done():
            self._set_busy(True)
            self._task = loop.create_task(self._draw_newest())

    async def _draw_newest(self) -> None:
        """Draw until the latest request is drawn; outdated drawings are never shown."""
        try:
            while self._drawn != self._requested:
                request = self._requested
                made = await asyncio.to_thread(self._draw, self.choices)
                if request == self._requested:
                    self._drawn = request
                    self._show(made)
        finally:
            self._set_busy(False)

    def _draw(self, choices: Choices) -> Drawing | _Failure:
        try:
            return draw(self._loaded, choices)
        except DdeError as error:
            return _Failure(str(error))
        except Exception as error:
            _log.exception("drawing %r failed", choices)
            return _Failure(f"This can't be drawn ({type(error).__name__}: {error}). The log of the server says more.")

    def _show(self, made: Drawing | _Failure) -> None:
        if isinstance(made, _Failure):
            self._drawing = None
            # Remove the previous picture, which belongs to other choices.
            self._alert.param.update(object=_as_text(made.text), visible=True)
            self._notes.visible = self._shown.visible = False
            self._summary.object = self._code.object = self._code_text.value = ""
            self._picture.object = None
            return
        self._drawing = made
        self._alert.visible = False
        self._shown.visible = True
        self._notes.param.update(object="\n\n".join(map(_as_text, made.notes)), visible=bool(made.notes))
        self._picture.object = made.model
        self._table.param.update(value=made.table, selection=[], **_format_columns(made.choices.metrics))
        code = code_of(self._dataset, made.choices, self._opened)
        self._code.object = f"<pre>{html.escape(code)}</pre>"
        self._code_text.value = code
        self._summary.object = _summary_of(made)

    def _set_busy(self, busy: bool) -> None:
        self._shown.loading = busy

    def _on_rows(self, event: Any) -> None:
        if self._drawing is not None:
            table = self._drawing.table
            highlight(self._drawing, set(table["run_id"].iloc[event.new]))


def explore(dataset: xr.Dataset, *, opened: Opened | None = None, **initial: Any) -> Explorer:
    """Return the application: widgets for lineages, runs, metrics, axis, grid and looks, with picture and table.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, or a selection with all three dimensions. Metrics are read when
        chosen, for the chosen lineages and runs only.
    opened : Opened, optional
        How it was opened, for the code that opens it again.
    **initial
        Initial choices, one value or several: ``params``, ``data``, ``seed``, ``lineage``, ``method``,
        ``learning_rate``, ``budget``, ``run``, ``metrics``, ``x``, ``log_x``, ``grid``, ``points``, ``interp``,
        ``hue_by``, ``style_by``, ``facet_by``, ``band``, ``zoom``, ``log_y``, ``relative_to``. In suites other
        than DataDecide, varying factors of lineages and runs replace ``params``, ``data``, ``seed``, ``method``,
        ``learning_rate`` and ``budget``.

    Returns
    -------
    Explorer
        Displays itself in a notebook. ``.servable()`` serves it, ``.dataset`` is the selection, ``.code`` its code.

    Raises
    ------
    SelectionError
        When the Dataset has no such dimension, or is empty.
    UnknownNameError
        When an initial choice does not exist.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy", "train_loss"])
    >>> page = ds.dde.explore(metrics="arc_easy", params="150M")
    >>> page.choices.metrics
    ('arc_easy',)
    """
    return Explorer(dataset, opened, **initial)


def _summary_of(drawing: Drawing) -> str:
    lineages, runs = drawing.table["lineage"].nunique(), len(drawing.table)
    points = drawing.shown.sizes["cumulative_tokens"]
    metrics = ", ".join(drawing.choices.metrics)
    return (
        f"<h1>{html.escape(metrics)}</h1><p>{_count(lineages, 'lineage')}, {_count(runs, 'run')}, "
        f"a grid of {_count(points, 'point')}</p>"
    )


# Characters that may be markup in Markdown. The entity of an escaped apostrophe is matched first, so that its # stays
# as it is.
_MARKUP = re.compile(r"&#x27;|[\\`*\[\]#|~]|(?<!\w)_|_(?!\w)")


def _as_text(text: str) -> str:
    """Return text escaped so that a Markdown pane shows it literally."""
    line = html.escape(printable(" ".join(text.split())))
    return _MARKUP.sub(lambda match: match[0] if len(match[0]) > 1 else f"&#{ord(match[0])};", line)


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _title(text: str, hint: str) -> Any:
    return pn.pane.HTML(
        f"<h2>{text}</h2><p>{hint}</p>", stylesheets=[_SUMMARY], sizing_mode="stretch_width", margin=(14, 10, 0, 10)
    )


_FONT = 'font-family: system-ui, "Helvetica Neue", Arial, sans-serif; color: #3b4252;'
_PAGE = ":host { flex-wrap: wrap; gap: 12px; }"
# In a narrower window the picture goes below the controls.
_SIDE = """
:host { background: #f7f8fa; border-radius: 6px; padding: 4px 0 12px; }
@media (max-width: 860px) { :host { width: 100% !important; } }
"""
_TABLE = ":host .tabulator { font-size: 12px; } .tabulator-cell { text-overflow: ellipsis !important; }"
_SCROLLED = ":host { overflow-x: auto; }"
_SUMMARY = f"""
:host {{ {_FONT} }}
h1 {{ font-size: 20px; font-weight: 600; margin: 4px 0 2px; }}
h2 {{ font-size: 15px; font-weight: 600; margin: 0 0 2px; }}
p {{ font-size: 13px; margin: 0; color: #5b6474; }}
"""
_CODE = """
pre {
  font-size: 12.5px; line-height: 1.45; background: #f7f8fa; padding: 12px; border-radius: 6px; overflow-x: auto;
  margin: 0;
}
"""
_COPY = """
const done = () => { button.label = "Copied"; setTimeout(() => { button.label = "Copy code" }, 1500) }
if (navigator.clipboard) {
  navigator.clipboard.writeText(source.value).then(done)
} else {
  const area = document.createElement("textarea")
  area.value = source.value
  document.body.appendChild(area)
  area.select()
  document.execCommand("copy")
  area.remove()
  done()
}
"""

# Numbers are formatted as in the picture; a cell without a number is empty.
_NUMBER = """<%
if (value === null || value === undefined || Number.isNaN(value)) { %><% } else {
  const size = Math.abs(value)
  const units = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]
  const unit = units.find(([least]) => size >= least)
  const text = size > 0 && size < 1e-2 ? value.toExponential(2).replace(/\\.?0+e/, "e")
    : unit ? parseFloat((value / unit[0]).toPrecision(4)) + unit[1] : String(parseFloat(value.toPrecision(4)))
%><%= text %><% } %>"""
_WIDTHS = {"lineage": 168, "run": 190, "run_id": 110, "learning_rate": 65, "budget": 105, "state": 72}
_TITLES = {"run_id": "run id", "learning_rate": "rate", "branch_tokens": "branch", "end_tokens": "end"}
_NUMBERS = ("learning_rate", "branch_tokens", "end_tokens")


def _format_columns(metrics: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a Tabulator for the columns of a run table."""
    from bokeh.models.widgets.tables import HTMLTemplateFormatter

    numbers = [*_NUMBERS, *metrics]
    return {
        "formatters": {name: HTMLTemplateFormatter(template=_NUMBER) for name in numbers},
        "text_align": dict.fromkeys(numbers, "right"),
        "titles": _TITLES | {name: f"last {name}" for name in metrics},
        "widths": _WIDTHS | dict.fromkeys(("branch_tokens", "end_tokens"), 76) | dict.fromkeys(metrics, 120),
    }
