"""The tab of one run: what it is, where it stands in the tree, how dde knows it, its config and its last values."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import panel as pn

from dde.errors import DdeError
from dde.explore.run_config import complete_config
from dde.explore.run_facts import (
    Fact,
    LastValue,
    RunFacts,
    facts_in_dataset,
    facts_in_repository,
    last_values,
    run_names,
)
from dde.explore.run_page import RunPage
from dde.explore.tabs import Marks, Shown, Tab
from dde.plots.axis_format import short_number
from dde.printable import printable

__all__ = ["RunTab"]

_log = logging.getLogger(__name__)

_NOTHING = "No run is open. Choose one above, or in another tab."
_BUSY = "Reading values and config ..."
_NO_CONFIG = (
    "The config is unknown here: the Dataset does not have it. Open the runs with dde explore DATA STORE to see it."
)


class RunTab(Tab):
    """The page of the run whose id is in ``marks.opened``.

    The facts of the Dataset are shown at once; those of a store follow when a thread has read them.

    Parameters
    ----------
    marks : Marks
        Shared by the tabs of a page.

    Attributes
    ----------
    title : str
    view : Panel viewable
    """

    title = "Run"

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks
        self._shown: Shown | None = None
        self._ids: dict[str, str] = {}
        self._requested = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._follows_marks = True
        self._choice = pn.widgets.AutocompleteInput(
            label="Run (type a part of its label, lineage or id)", options=[], value="", min_characters=0,
            case_sensitive=False, search_strategy="includes", restrict=True, sizing_mode="stretch_width",
            max_width=900, placeholder="type to search",
        )  # fmt: skip
        self._page = RunPage(  # type: ignore[no-untyped-call]
            page={"message": _NOTHING}, sizing_mode="stretch_width", margin=(0, 10)
        )
        self.view = pn.Column(self._choice, self._page, sizing_mode="stretch_width")
        self._choice.param.watch(self._on_choice, "value")
        self._page.param.watch(self._on_link, "chosen")
        marks.param.watch(lambda _: self._open(), "opened")

    def show(self, shown: Shown) -> None:
        """Show the opened run in another selection."""
        self._shown = shown
        names = run_names(shown)
        self._ids = {name: run_id for run_id, name in names.items()}
        if list(self._ids) != list(self._choice.options):
            self._set_choice(options=list(self._ids))
        self._open()

    # From widgets to marks

    def _on_choice(self, event: Any) -> None:
        if self._follows_marks and event.new in self._ids:
            self._marks.opened = self._ids[event.new]

    def _on_link(self, event: Any) -> None:
        if event.new:
            self._page.chosen = ""
            self._marks.opened = event.new

    def _set_choice(self, **values: Any) -> None:
        """Change the list of runs without opening one."""
        self._follows_marks = False
        try:
            self._choice.param.update(**values)
        finally:
            self._follows_marks = True

    # From marks to the page

    def _open(self) -> None:
        """Show the run of the marks: first what the Dataset knows, then what the repository knows."""
        self._requested += 1
        shown, run_id = self._shown, self._marks.opened
        if shown is None or not run_id:
            self._page.page = {"message": _NOTHING}
            return
        name = next((n for n, i in self._ids.items() if i == run_id), "")
        if self._choice.value != name:
            # A run that is not shown, such as an ancestor, is not in the list.
            self._set_choice(value=name)
        if _running_loop() is None:
            self._page.page = _read(shown, run_id)
            return
        before = self._page.page
        # The same run stays visible while it is read again for another selection.
        again = before.get("run_id") == run_id and "config" in before
        self._page.page = {**before, "busy": _BUSY} if again else _first(shown, run_id)
        document = pn.state.curdoc
        if document is not None and document.session_context is not None and not pn.state.loaded:
            # The browser does not have the page yet, and would miss a change of it.
            request = self._requested
            pn.state.onload(lambda: self._start(shown, run_id, request))
        else:
            self._start(shown, run_id, self._requested)

    def _start(self, shown: Shown, run_id: str, request: int) -> None:
        task = asyncio.get_running_loop().create_task(self._complete(shown, run_id, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _complete(self, shown: Shown, run_id: str, request: int) -> None:
        page = await asyncio.to_thread(_read, shown, run_id)
        # A run that was opened later replaces an earlier one.
        if request == self._requested:
            self._page.page = page


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _first(shown: Shown, run_id: str) -> dict[str, Any]:
    """Return the page with what needs no reading."""
    try:
        facts = facts_in_dataset(shown.explored, run_id)
    except DdeError:
        return {"run_id": run_id, "title": printable(run_id), "busy": "Reading the run ..."}
    return {**_page_of(facts), "busy": _BUSY}


def _read(shown: Shown, run_id: str) -> dict[str, Any]:
    """Return the complete page; what can't be read is a text on it."""
    problems: list[str] = []

    def tried(read: Any, default: Any, what: str) -> Any:
        try:
            return read()
        except DdeError as error:
            problems.append(str(error))
        except Exception as error:
            _log.exception("reading %s of the run %r failed", what, run_id)
            problems.append(
                f"The {what} can't be shown ({type(error).__name__}: {error}). The log of the server says more."
            )
        return default

    catalog = shown.repository
    facts: RunFacts | None = None
    if catalog is not None:
        facts = tried(lambda: facts_in_repository(catalog, run_id), None, "facts")
    if facts is None:
        facts = tried(lambda: facts_in_dataset(shown.explored, run_id), None, "facts")
    if facts is None:
        return {"run_id": run_id, "title": printable(run_id), "problems": [printable(p) for p in problems]}
    values = tried(lambda: last_values(shown, run_id), [], "last values")
    config: tuple[list[tuple[str, str, str]], str, str] = ([], "", _NO_CONFIG)
    if catalog is not None:
        config = tried(lambda: complete_config(catalog, run_id), ([], "", "The config could not be read."), "config")
    rows, command, remark = config
    return {
        **_page_of(facts),
        "values": [_value_row(value) for value in values],
        "config": [list(row) for row in rows],
        "command": command,
        "remark": remark,
        "problems": [printable(problem) for problem in problems],
    }


def _page_of(facts: RunFacts) -> dict[str, Any]:
    return {
        "run_id": facts.run_id,
        "title": printable(facts.title),
        "facts": [_fact_row(fact) for fact in facts.facts],
        "hyperparameters": [[printable(name), text] for name, text in facts.hyperparameters],
        "relatives": [
            {"id": r.run_id, "label": printable(r.label), "shown_id": printable(r.run_id), "role": r.role,
             "type": printable(r.run_type), "depth": min(r.depth, _DEEPEST), "detail": printable(r.detail),
             "known": r.known}
            for r in facts.relatives
        ],
    }  # fmt: skip


# Indents of the tree; deeper runs are indented as far.
_DEEPEST = 8


def _fact_row(fact: Fact) -> list[str]:
    return [fact.name, printable(fact.text), fact.kind]


def _value_row(value: LastValue) -> list[str]:
    def number(x: float, sign: str = "") -> str:
        return "" if math.isnan(x) else f"{x:{sign}.6g}"

    tokens = "" if math.isnan(value.tokens) else short_number(value.tokens)
    return [
        printable(value.metric), number(value.value), tokens, value.support, number(value.base),
        number(value.difference, "+"), printable(value.note),
    ]  # fmt: skip
