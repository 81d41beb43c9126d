"""One page: its widgets, tabs and marks. Each browser session has its own."""

from __future__ import annotations

import asyncio
import html
import importlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import panel as pn
import xarray as xr

from dde.errors import DdeError
from dde.explore.address import SavedViews, marks_in, query_of, states_in, texts_in
from dde.explore.choices import Choices, Opened, apply, code_of
from dde.explore.controls import PINNED, Controls
from dde.explore.curves_view import CurvesView
from dde.explore.drawing import Drawing, Loaded, draw, picture_bytes, table_bytes
from dde.explore.tabs import Marks, Shown, State, Tab
from dde.plots.captions import counted
from dde.printable import printable

__all__ = ["Session", "served_document"]

_log = logging.getLogger(__name__)
_WIDE: dict[str, Any] = {"sizing_mode": "stretch_width"}
_CURVES, _EXPORT = "Curves", "Export"


@dataclass(frozen=True)
class _Failure:
    """Why nothing is shown."""

    text: str


class Session:
    """A page for one Dataset.

    Parameters
    ----------
    dataset : xarray.Dataset
    opened : Opened or None
        How it was opened, for the code that opens it again.
    initial : mapping
        Initial values of choices.
    repository : RunRepository or None
        Where the runs come from.
    views : SavedViews or None
        Where views are saved; None for nowhere.
    refresh : callable or None
        Called when the page should show new runs; None when the stores are unknown.
    query : str
        Query of the address; overrides `initial`.
    """

    def __init__(
        self,
        dataset: xr.Dataset,
        opened: Opened | None,
        initial: Mapping[str, Any],
        repository: Any = None,
        views: SavedViews | None = None,
        refresh: Callable[[], None] | None = None,
        query: str = "",
    ) -> None:
        self.dataset, self.opened, self.repository = dataset, opened, repository
        self._loaded, self._views = Loaded(dataset), views
        self.drawing: Drawing | None = None
        self._requested = self._drawn = 0
        self._task: asyncio.Task[None] | None = None
        self._early: tuple[Choices | _Failure, asyncio.Task[Drawing | _Failure]] | None = None
        self.marks = Marks()
        self.controls = Controls(dataset, initial, self.redraw, self.marks)
        self._defaults = self.controls.values
        self._tabs: dict[str, Tab] = {}
        self._make_parts(refresh)
        self._problems: list[str] = []
        self._pending: Mapping[str, Sequence[str]] | None = None
        # What an address says of tabs that have not been shown since.
        self._states: dict[str, State] = {}
        if query:
            self._go_to(query)
        self.marks.param.watch(self._on_marks, ["hidden", "selected", "baseline", "opened"])
        document = served_document()
        is_served = document is not None
        self._location, self._written = (pn.state.location if is_served else None), query
        self.curves.param.watch(self._on_address, "address")
        self.curves.param.watch(lambda _: self._write_address(), "zoomed")
        if is_served:
            self._set_busy(True)
            self._draw_early(document.session_context)
            pn.state.onload(self._on_load)
        else:
            self.redraw(at_once=True)

    @property
    def choices(self) -> Choices:
        """The current choices."""
        return self.controls.choices

    @property
    def selected(self) -> xr.Dataset:
        """The current selection; lazy."""
        return apply(self.dataset, self.choices)

    @property
    def code(self) -> str:
        """Code for the selection and its picture."""
        return code_of(self.dataset, self.choices, self.opened)

    @property
    def query(self) -> str:
        """What the page shows, as the query of an address: what differs from its start."""
        return self._query(self._defaults)

    @property
    def complete_query(self) -> str:
        """What the page shows, as a query that does not depend on its start."""
        return self._query({})

    def _query(self, defaults: Mapping[str, Any]) -> str:
        runs = [look.run_id for look in self.drawing.looks] if self.drawing else []
        tab = self._tab.value
        states = {title.lower(): self._state(title) for title in (_CURVES, *_TABS)}
        return query_of(self.controls.values, defaults, self.marks, runs, "" if tab == _CURVES else tab, states)

    def _state(self, title: str) -> State:
        """Return the choices within a tab; of one that was not opened yet, those of the address."""
        if title in self._states:
            return self._states[title]
        if title == _CURVES:
            return self.curves.state
        return self._tabs[title].state if title in self._tabs else {}

    def _restore(self, title: str, tab: Tab | CurvesView) -> None:
        """Make the choices of the address within a tab, once after it was opened."""
        for name, texts in tab.restore(self._states.pop(title)).items() if title in self._states else ():
            self._problems += [_not_among(f"{title.lower()}.{name}", text) for text in texts]

    # Elements of the page

    def _make_parts(self, refresh: Callable[[], None] | None) -> None:
        """Create the panes and widgets of the page, and arrange them."""
        # Not Panel's alerts: these show Markdown, whose import takes a tenth of a second.
        self._alert = pn.pane.HTML("", visible=False, css_classes=["alert"], stylesheets=[_WARNING], **_WIDE)
        self._notes = pn.pane.HTML("", visible=False, css_classes=["alert"], stylesheets=[_NOTE], **_WIDE)
        self._summary = pn.pane.HTML("", stylesheets=[_SUMMARY], **_WIDE)
        self.curves = CurvesView(self.marks)
        self._tab = pn.widgets.RadioButtonGroup(
            options=[_CURVES, *_TABS, _EXPORT], value=_CURVES, stylesheets=[_TAB_BUTTONS]
        )
        self._tab.param.watch(self._on_tab, "value")
        self._views_bar = self._make_views_bar()
        self._pages = {
            _CURVES: self.curves,
            **{title: pn.Column(margin=0, **_WIDE) for title in _TABS},
            _EXPORT: self._make_export(),
        }
        for title, page in self._pages.items():
            page.visible = title == _CURVES
        self._shown = pn.Column(*self._pages.values(), **_WIDE)
        side = pn.Column(self.controls.panel(), width=290, stylesheets=[_SIDE])
        fold = pn.widgets.Button(label="☰", width=38, description="Show or hide the choices", stylesheets=[_FOLD])
        fold.js_on_click(args={"side": side}, code="side.visible = !side.visible")
        again = pn.widgets.Button(label="Refresh", width=84, visible=refresh is not None)
        if refresh is not None:
            again.on_click(lambda _: refresh())
        head = pn.Row(fold, self._summary, again, *self._views_bar, stylesheets=[_HEAD], **_WIDE)
        main = pn.Column(
            self._tab, self._alert, self._notes, self._shown, styles={"flex": "1 1 400px", "min-width": "0"}
        )
        self.layout = pn.Column(head, pn.Row(side, main, self._code_text, stylesheets=[_PAGE], **_WIDE), **_WIDE)

    def _make_export(self) -> Any:
        """Return the tab with code and files."""
        self._code = pn.pane.HTML("", stylesheets=[_CODE], **_WIDE)
        self._code_text = pn.widgets.TextAreaInput(value="", visible=False)
        copy = pn.widgets.Button(label="Copy code", width=110)
        copy.js_on_click(args={"source": self._code_text, "button": copy}, code=_COPY)
        files = [
            self._download(label, suffix)
            for label, suffix in (
                ("PNG", ".png"),
                ("SVG", ".svg"),
                ("PDF", ".pdf"),
                ("CSV", ".csv"),
                ("Parquet", ".parquet"),
            )
        ]
        hint = pn.pane.HTML(
            "<p>The picture for print, the values as a long table, and code that gives the same.</p>",
            stylesheets=[_SUMMARY],
            **_WIDE,
        )
        return pn.Column(hint, pn.FlexBox(*files, copy), self._code, **_WIDE)

    def _download(self, label: str, suffix: str) -> Any:
        def file() -> io.BytesIO:
            if self.drawing is None:
                raise DdeError("nothing is shown, so there is nothing to download. Change the choices first.")
            make = picture_bytes if suffix in (".png", ".svg", ".pdf") else table_bytes
            return io.BytesIO(make(self.drawing, suffix))

        return pn.widgets.FileDownload(callback=file, filename=f"dde-selection{suffix}", label=label, width=100)

    def _make_views_bar(self) -> list[Any]:
        """Return widgets to open, save and remove views; none when there is no file for them."""
        if self._views is None:
            return []
        views = self._views
        pick = pn.widgets.Select(options=["Views"], width=130)
        name = pn.widgets.TextInput(placeholder="name of this view", width=130)
        save, remove = pn.widgets.Button(label="Save view", width=84), pn.widgets.Button(label="✕", width=34)
        remove.description = "Remove the view that is chosen"

        def listed(chosen: str = "Views") -> None:
            try:
                names = list(views.queries())
            except DdeError as error:
                self._show_problems([str(error)])
                names = []
            pick.param.update(options=["Views", *names], value=chosen if chosen in names else "Views")

        def attempt(act: Callable[[], None], chosen: str = "Views") -> None:
            try:
                act()
            except DdeError as error:
                self._show_problems([str(error)])
            listed(chosen)

        def open_view(event: Any) -> None:
            query = views.queries().get(event.new) if event.new != "Views" else None
            if query is not None:
                self._go_to(query)
                self.redraw()

        listed()
        pick.param.watch(open_view, "value")
        save.on_click(
            lambda _: attempt(lambda: views.save(name.value_input or "", self.query), (name.value_input or "").strip())
        )
        remove.on_click(lambda _: attempt(lambda: views.remove(pick.value)))
        return [pick, name, save, remove]

    # From choices to the page

    def redraw(self, at_once: bool = False) -> None:
        """Redraw the current selection: in a thread when an event loop runs, else at once."""
        self._requested += 1
        try:
            loop = None if at_once else asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None:
            self._show(self._draw(self._chosen()))
            self._drawn = self._requested
        elif self._task is None or self._task.done():
            self._task = loop.create_task(self._draw_newest())

    def _draw_early(self, context: Any) -> None:
        """Draw while the browser loads the scripts, so that the page has its picture from the start."""
        chosen = self._chosen()

        async def drawn() -> Drawing | _Failure:
            made = await asyncio.to_thread(self._draw, chosen)
            # Changes of a document that is being sent may be lost; it is complete when the browser says so.
            if context.session is not None and not context.session.connection_count:
                self._early = None
                self._show(made)
                self._set_busy(False)
            return made

        # Without an event loop the picture is drawn when the browser is ready.
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            self._early = chosen, loop.create_task(drawn())

    def _on_load(self) -> None:
        if self.drawing is None:
            self.redraw()

    async def _drawn_of(self, chosen: Choices | _Failure) -> Drawing | _Failure:
        early, self._early = self._early, None
        if early is not None and early[0] == chosen:
            return await early[1]
        return await asyncio.to_thread(self._draw, chosen)

    async def _draw_newest(self) -> None:
        """Draw until the latest request is drawn; outdated drawings are never shown."""
        # A choice that is answered at once shows no sign of waiting.
        waiting = asyncio.get_running_loop().call_later(_PATIENCE, self._set_busy, True)
        try:
            while self._drawn != self._requested:
                request = self._requested
                made = await self._drawn_of(self._chosen())
                if request == self._requested:
                    self._drawn = request
                    self._show(made)
        finally:
            waiting.cancel()
            self._set_busy(False)

    def _chosen(self) -> Choices | _Failure:
        """Return the choices; they are read before a thread draws them, because widgets may change meanwhile."""
        try:
            return self.choices
        except DdeError as error:
            return _Failure(str(error))

    def _draw(self, choices: Choices | _Failure) -> Drawing | _Failure:
        if isinstance(choices, _Failure):
            return choices
        try:
            drawing = draw(self._loaded, choices)
            self.curves.make_figures(drawing.panels)
            return drawing
        except DdeError as error:
            return _Failure(str(error))
        except Exception as error:
            _log.exception("drawing failed")
            return _Failure(f"This can't be drawn ({type(error).__name__}: {error}). The log of the server says more.")

    def _show(self, made: Drawing | _Failure) -> None:
        if isinstance(made, _Failure):
            self.drawing = None
            # Hide the previous picture, which belongs to other choices.
            self._alert.param.update(object=_paragraph(made.text), visible=True)
            self._show_problems(self._problems)
            self._problems = []
            self._shown.visible = False
            self._summary.object = self._code.object = self._code_text.value = ""
            return
        with pn.io.hold():
            self.drawing = made
            self._alert.visible = False
            self._shown.visible = True
            self.curves.draw(made.panels, made.looks, made.hue_label, made.caption)
            if self._pending is not None:
                self._mark_as(self._pending, made)
                self._restore(_CURVES, self.curves)
            code = code_of(self.dataset, made.choices, self.opened)
            self._code.object = f"<pre>{html.escape(code)}</pre>"
            self._code_text.value = code
            self._summary.object = _summary_of(made)
            self._show_tab()
            self._show_problems([*self._problems, *made.notes])
            self._problems, self._pending = [], None
        self._write_address()

    def report(self, text: str) -> None:
        """Show a text above the picture, which stays."""
        self._show_problems([text])

    def _show_problems(self, texts: list[str]) -> None:
        self._notes.param.update(object="".join(map(_paragraph, texts)), visible=bool(texts))

    def _set_busy(self, busy: bool) -> None:
        if self._shown.loading != busy:
            self._shown.loading = busy

    def _on_tab(self, event: Any) -> None:
        with pn.io.hold():
            for title, page in self._pages.items():
                page.visible = title == event.new
            for title, tab in self._tabs.items():
                tab.view.visible = title == event.new
            # While an address is being followed, the tab is shown with the drawing.
            if self._pending is None:
                self._show_tab()
                if self._problems and self.drawing is not None:
                    self._show_problems([*self._problems, *self.drawing.notes])
                    self._problems = []
        self._write_address()

    def _show_tab(self) -> None:
        """Bring the tab that is open up to date; the others follow when they are opened."""
        made = self.drawing
        if made is None:
            return
        title = self._tab.value
        if title not in _TABS:
            return
        tab = self._tabs.get(title) or _make_tab(title, self.marks)
        colours = {look.run_id: look.colour for look in made.looks}
        shown = Shown(self.dataset, made.shown, made.choices, made.table, colours, self.opened, self.repository)
        tab.show(shown)
        self._restore(title, tab)
        if title not in self._tabs:
            # Only now: the browser would not know widgets that are replaced in the message that brings them.
            self._tabs[title] = tab
            self._pages[title].append(tab.view)
            tab.param.watch(lambda _: self._write_address(), "state")

    def _on_marks(self, *events: Any) -> None:
        changed = {event.name: event.new for event in events}
        if changed.get("opened"):
            self._tab.value = "Run"
        if "baseline" in changed and self.controls.widgets["relative_to"].value == PINNED:
            self.redraw()
        else:
            self._write_address()

    # Address and views

    def _go_to(self, query: str) -> None:
        """Set choices, marks and tab as a query says; what it can't set is reported with the next drawing."""
        texts = self._pending = texts_in(query)
        states = states_in(texts, [title.lower() for title in (_CURVES, *_TABS)])
        self._states = {title: states[title.lower()] for title in (_CURVES, *_TABS)}
        values, self._problems = self.controls.parse(texts)
        with self.controls.silently():
            self.controls.set(self._defaults | values)
        # Differences may be to the baseline; other marks are of runs that are known once they are drawn.
        self.marks.baseline = marks_in(texts, [])["baseline"]

    def _mark_as(self, texts: Mapping[str, Sequence[str]], drawn: Drawing) -> None:
        """Set marks and tab as a query says."""
        self.marks.param.update(**marks_in(texts, [look.run_id for look in drawn.looks]))
        tab = texts.get("tab", [_CURVES])[-1]
        if tab not in self._pages:
            self._problems.append(_not_among("tab", tab))
        self._tab.value = tab if tab in self._pages else _CURVES

    def _write_address(self) -> None:
        # While an address is being followed, the page shows a part of it.
        if self._location is not None and self.drawing is not None and self._pending is None:
            query = self.query
            self._written = f"?{query}" if query else ""
            self._location.search = self._written

    def _on_address(self, event: Any) -> None:
        """Show what an earlier address names when a person goes back to it."""
        query = event.new.partition("?")[2]
        if query != self._written.removeprefix("?"):
            self._go_to(query)
            self.redraw()


def served_document() -> Any:
    """Return the document of the browser session that is served; None in a notebook or a script."""
    document = pn.state.curdoc
    return document if document is not None and document.session_context is not None else None


def _not_among(name: str, text: str) -> str:
    return f"{name}={text} is not among the choices, so the address can't choose it."


# Seconds after which the page shows that it is at work.
_PATIENCE = 0.4


def _make_tab(title: str, marks: Marks) -> Tab:
    """Return a new tab. The modules of tabs are imported when they are opened first, so that the page starts sooner."""
    module, name = _TABS[title]
    tab: Tab = getattr(importlib.import_module(f"dde.explore.{module}"), name)(marks)
    return tab


# Module and class of each tab between the curves and the export.
_TABS = {
    "Table": ("table_tab", "TableTab"),
    "Scatter": ("scatter_tab", "ScatterTab"),
    "Parallel": ("parallel_tab", "ParallelTab"),
    "Run": ("run_tab", "RunTab"),
    "Answers": ("answers_tab", "AnswersTab"),
}


def _summary_of(drawing: Drawing) -> str:
    lineages, runs = drawing.table["lineage"].nunique(), len(drawing.table)
    points = drawing.shown.sizes["cumulative_tokens"]
    metrics = ", ".join(drawing.choices.metrics)
    return (
        f"<h1>{html.escape(metrics)}</h1><p>{counted(lineages, 'lineage')}, {counted(runs, 'run')}, "
        f"a grid of {counted(points, 'point')}</p>"
    )


def _paragraph(text: str) -> str:
    """Return text as a paragraph of HTML that shows it literally."""
    return f"<p>{html.escape(printable(' '.join(text.split())))}</p>"


_FONT = 'font-family: system-ui, "Helvetica Neue", Arial, sans-serif; color: #3b4252;'
_PAGE = ":host { flex-wrap: wrap; gap: 12px; }"
_HEAD = ":host { align-items: center; gap: 2px; border-bottom: 1px solid #e3e6ec; flex-wrap: wrap; }"
_FOLD = ".bk-btn { font-size: 17px; padding: 2px 6px; border: 0; background: none; }"
_TAB_BUTTONS = ":host { max-width: 100%; } .bk-btn-group { flex-wrap: wrap; } .bk-btn { font-size: 13px; }"
# In a narrower window the picture goes below the controls.
_SIDE = """
:host { background: #f7f8fa; border-radius: 6px; padding: 4px 0 12px; }
@media (max-width: 860px) { :host { width: 100% !important; } }
"""
_SUMMARY = f"""
:host {{ {_FONT} }}
h1 {{ font-size: 17px; font-weight: 600; margin: 2px 0 0; overflow-wrap: anywhere; }}
p {{ font-size: 12.5px; margin: 0; color: #5b6474; }}
"""
_MESSAGE = """
:host {{ {font} background: {background}; border: 1px solid {edge}; border-radius: 6px; }}
p {{ font-size: 13.5px; line-height: 1.4; margin: 6px 12px; overflow-wrap: anywhere; }}
"""
_WARNING = _MESSAGE.format(font=_FONT, background="#fff6dc", edge="#ecd488")
_NOTE = _MESSAGE.format(font=_FONT, background="#eaf4f8", edge="#bcdbe6")
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
