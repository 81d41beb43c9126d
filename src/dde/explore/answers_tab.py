"""The tab of answers: a question of `dde.analysis` with its options, and its table, picture and code."""

from __future__ import annotations

import asyncio
import base64
import html
import io
import logging
from collections.abc import Callable
from typing import Any

import pandas as pd
import panel as pn
import xarray as xr

from dde.analysis.answers import main_variable
from dde.analysis.arrangement import REPLICATES
from dde.errors import DdeError, UnknownNameError
from dde.explore.controls import CLICKABLE_LABEL, literal_options
from dde.explore.enter_key import EnterKey
from dde.explore.option_labels import help_text, label_of_none
from dde.explore.questions import (
    OF_BASES,
    QUESTIONS,
    Answer,
    Asked,
    Option,
    answer_question,
    changed_options,
    factor_names,
    has_one_base,
    labelled_conditions,
    options_of,
    picture_of,
    scale_factor,
)
from dde.explore.tabs import Marks, Shown, State, StateReader, Tab
from dde.explore.widget_texts import set_texts, texts_of
from dde.printable import printable, spreadsheet_safe

__all__ = ["AnswersTab"]

_log = logging.getLogger(__name__)

_SHOWN, _ALL = "what is shown", "all that was opened"
# The second widget of a target.
_RUNS = "runs to reach"
_EARLIER = "This answer is of an earlier selection. Press Answer to ask again."
# Variables that say why another one has no value.
_STATES = ("status", "fit_status")
# Runs of a side that are marked on the page when the question is asked.
_BASELINE, _SELECTED = ("marks", "baseline"), ("marks", "selected")
_OF_MARKS = {"the pinned run": _BASELINE, "the selected runs": _SELECTED}


class AnswersTab(Tab):
    """Ask questions of the runs that are shown, or of all that were opened.

    The question is answered in a thread; a later one replaces an earlier one.

    Parameters
    ----------
    marks : Marks
        Shared by the tabs of a page. Rows of an answer that are ticked select their runs.

    Attributes
    ----------
    title : str
    view : Panel viewable
    """

    title = "Answers"

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks
        self._shown: Shown | None = None
        self._answer: Answer | None = None
        self._requested = self._answered = 0
        self._task: asyncio.Task[None] | None = None
        self._waiting: tuple[Shown, Asked] | None = None
        # The selection of the answer that is shown.
        self._asked_of: Shown | None = None
        # Widgets of each question by the names of its options, made when the question is first chosen.
        self._widgets: dict[str, dict[str, Any]] = {}
        # Values of widgets that nobody chose, by question and option.
        self._preferred: dict[str, Any] = {}
        # Whether rows are being ticked for runs that were selected elsewhere.
        self._marks_rows = False
        self._make_parts()
        self._on_question()
        marks.param.watch(lambda _: self._mark_rows(), "selected")
        marks.param.watch(lambda _: self._on_marks(), ["selected", "baseline"])

    def show(self, shown: Shown) -> None:
        """Offer the metrics and factors of another selection; the answer stays, with a remark that it is of another."""
        self._shown = shown
        self._list_choices()
        if self._answer is not None and self._is_answered():
            self._show_notes(self._answer)

    def _is_answered(self) -> bool:
        """Return whether no later question is being answered."""
        return self._answered == self._requested

    def _show_notes(self, answer: Answer) -> None:
        """Show the notes of an answer, after a remark where the selection has changed since it was asked."""
        asked_of, shown = self._asked_of, self._shown
        assert asked_of is not None
        assert shown is not None
        is_earlier = not answer.asked.of_all and (
            asked_of.choices.data_key != shown.choices.data_key or asked_of.explored is not shown.explored
        )
        notes = "".join(_text(note, "note") for note in answer.notes)
        self._state.object = (_text(_EARLIER, "error") if is_earlier else "") + notes

    def restore(self, state: State) -> State:
        """Ask the question of a state; without one, no answer stays."""
        if dict(state) == self.state:
            return {}
        reader = StateReader(state)
        question = reader.one("question", QUESTIONS)
        if question is None:
            self.state, self._answer = {}, None
            # An answer that is still being computed is not shown.
            self._requested += 1
            self._answered, self._waiting = self._requested, None
            self._result.visible, self._state.object = False, ""
            return reader.unknown
        self._question.value = question
        self._scope.value = _ALL if reader.flag("all") else _SHOWN
        for name, widget in self._options().items():
            widget.value = self._defaults().get(name, widget.value)
            if texts := reader.unknown.pop(name, None):
                reader.unknown |= {name: unknown} if (unknown := set_texts(widget, texts)) else {}
        self._ask()
        return reader.unknown

    def _options(self) -> dict[str, Any]:
        """Return the widgets of the question that is chosen, besides its data."""
        return {"metrics": self._metrics, "bases": self._bases, **self._widgets[self._question.value]}

    def _defaults(self) -> dict[str, Any]:
        """Return the values that the widgets of the question have until a person chooses others."""
        question = self._question.value
        own = {name: self._preferred[f"{question} {name}"] for name in self._widgets[question]}
        return own | {"bases": self._preferred["bases"][1]}

    def _asked_state(self) -> dict[str, list[str]]:
        """Return the question with what differs from its defaults."""
        defaults = self._defaults()
        options = {n: texts_of(w) for n, w in self._options().items() if n not in defaults or w.value != defaults[n]}
        of_all = {"all": ["true"]} if self._scope.value == _ALL else {}
        return {"question": [self._question.value], **of_all, **options}

    # Elements of the tab

    def _make_parts(self) -> None:
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        self._question = pn.widgets.Select(
            label="Question", options={label: name for name, label in QUESTIONS.items()}, width=270
        )
        self._metrics = _several("Metrics", 270)
        self._scope = pn.widgets.Select(label="Ask", options=[_SHOWN, _ALL], width=170)
        self._bases = pn.widgets.Checkbox(stylesheets=[CLICKABLE_LABEL], label="base runs only", margin=(24, 10, 0, 10))
        self._about = pn.pane.HTML("", stylesheets=[_TEXTS], **wide)
        self._main, self._more = pn.FlexBox(**wide), pn.FlexBox(**wide)
        self._card = pn.Card(self._more, title="More options", collapsed=True, margin=(4, 10), **wide)
        self._button = pn.widgets.Button(label="Answer", color="primary", width=120)
        self._state = pn.pane.HTML("", stylesheets=[_TEXTS], **wide)
        self._picture = pn.pane.HTML("", stylesheets=[_TEXTS], **wide)
        # Panel can't change whether rows are selectable, so tables with and without runs are two widgets.
        self._runs, self._cells = (
            pn.widgets.Tabulator(
                pd.DataFrame(), show_index=False, disabled=True, pagination="local", page_size=25, layout="fit_data",
                selectable=selectable, configuration={"columnDefaults": {"maxWidth": 280}}, stylesheets=[_TABLE],
                visible=False, **wide,
            )
            for selectable in ("checkbox", False)
        )  # fmt: skip
        self._code = pn.pane.HTML("", stylesheets=[_TEXTS], **wide)
        self._code_text = pn.widgets.TextAreaInput(value="", visible=False)
        copy = pn.widgets.Button(label="Copy code", width=110)
        copy.js_on_click(args={"source": self._code_text, "button": copy}, code=_COPY)
        downloads = [
            self._download("CSV", "csv", _csv),
            self._download("Parquet", "parquet", _parquet),
            self._download("PDF", "pdf", lambda answer: picture_of(answer.dataset, ".pdf")),
        ]
        self._result = pn.Column(
            self._picture, self._runs, self._cells, pn.Row(*downloads, copy), self._code, visible=False, **wide
        )  # fmt: skip
        enter = EnterKey()  # type: ignore[no-untyped-call]
        form = pn.Column(
            pn.FlexBox(self._question, self._metrics, self._scope, self._bases, **wide), self._about, self._main,
            self._card, self._button, enter, **wide,
        )  # fmt: skip
        self.view = pn.Column(form, self._state, self._result, self._code_text, **wide)
        self._question.param.watch(lambda _: self._on_question(), "value")
        self._scope.param.watch(lambda _: self._list_choices(), "value")
        self._button.on_click(lambda _: self._ask())
        self._runs.param.watch(self._on_rows, "selection")
        enter.param.watch(lambda _: self._ask(), "pressed")

    def _download(self, label: str, suffix: str, made: Callable[[Answer], bytes]) -> Any:
        def file() -> io.BytesIO:
            if self._answer is None:
                raise DdeError("nothing was answered, so there is nothing to download. Press Answer first.")
            return io.BytesIO(made(self._answer))

        return pn.widgets.FileDownload(callback=file, filename=f"dde-answer.{suffix}", label=label, width=110)

    # Options

    @property
    def _data(self) -> xr.Dataset | None:
        """The Dataset that the question is about."""
        if self._shown is None:
            return None
        return self._shown.explored if self._scope.value == _ALL else self._shown.dataset

    def _on_question(self) -> None:
        name = self._question.value
        options = options_of(name)
        if name not in self._widgets:
            self._widgets[name] = {option.name: _widget(name, option) for option in options}
            if any(option.kind == "target" for option in options):
                self._widgets[name][_RUNS] = _several("or the value of runs with", 300)
            self._preferred |= {f"{name} {option}": widget.value for option, widget in self._widgets[name].items()}
        widgets = self._widgets[name]
        main = [[o.name, _RUNS] if o.kind == "target" else [o.name] for o in options if o.is_main]
        self._main.objects = [widgets[n] for names in main for n in names]
        self._more.objects = [widgets[o.name] for o in options if not o.is_main]
        self._card.visible = bool(self._more.objects)
        self._about.object = _text(_summary(name), "about")
        self._list_choices()

    def _on_marks(self) -> None:
        """Prefer marked runs as the sides of a comparison."""
        if any(option.kind == "side" for option in options_of(self._question.value)):
            self._list_choices()

    def _list_choices(self) -> None:
        """List the metrics, factors and conditions of the Dataset of the question; choices that remain stay."""
        data, shown = self._data, self._shown
        if data is None or shown is None:
            return
        metrics = [str(name) for name in data.data_vars]
        chosen = [m for m in self._metrics.value if m in metrics]
        _update(
            self._metrics, literal_options(metrics), chosen or [m for m in shown.choices.metrics if m in metrics][:1]
        )
        factors = factor_names(data)
        conditions = {html.escape(label): pair for label, pair in labelled_conditions(data).items()}
        scale = scale_factor(data)
        asks_bases = self._question.value in OF_BASES and has_one_base(data)
        if self._preferred.get("bases") != (self._question.value, asks_bases):
            self._preferred["bases"] = (self._question.value, asks_bases)
            self._bases.value = asks_bases
        for option in options_of(self._question.value):
            widget = self._widgets[self._question.value][option.name]
            if option.kind == "metric":
                none = label_of_none(self._question.value, option.name)
                _update(widget, {none: "", **{m: m for m in metrics}}, widget.value if widget.value in metrics else "")
            elif option.kind == "factor":
                # The default of the function, or else a factor that is not the scale.
                first = [f for f in (option.default, *factors) if f in factors and (scale is None or f != scale[0])]
                self._choose(option, factors or [option.default], (first or factors or [option.default])[0])
            elif option.kind == "factors":
                _update(widget, literal_options(factors), [f for f in widget.value if f in factors])
            elif option.kind == "conditions":
                # From the smallest scale to the largest one.
                ends = [] if scale is None else [(scale[0], scale[1][0 if option.name == "a" else -1])]
                self._choose(option, conditions, ends if option.required else [])
            elif option.kind == "side":
                self._choose(
                    option, _OF_MARKS | conditions, self._preferred_side(option.name, list(conditions.values()))
                )
            elif option.kind == "target":
                runs = {html.escape(printable(f"run={x}")): ("run", str(x)) for x in data["run"].values}
                others = self._widgets[self._question.value][_RUNS]
                pairs = {**runs, **conditions}
                _update(others, pairs, [v for v in others.value if v in list(pairs.values())])

    def _preferred_side(self, side: str, conditions: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Return what a side has when nobody chose: marked runs if both sides have some, or two values of a factor."""
        if self._marks.baseline and set(self._marks.selected) - {self._marks.baseline}:
            return [_BASELINE if side == "a" else _SELECTED]
        scale = None if self._data is None else scale_factor(self._data)
        last = [*REPLICATES, *([] if scale is None else [scale[0]])]
        factors = sorted(dict.fromkeys(name for name, _ in conditions), key=lambda name: name in last)
        pairs = [pair for pair in conditions if factors and pair[0] == factors[0]]
        return pairs[:1] if side == "a" else pairs[1:2]

    def _marked_runs(self, side: str, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Return the conditions of a side, with the ids of marked runs in place of the marks."""
        found: list[tuple[str, Any]] = []
        for pair in pairs:
            ids = {_BASELINE: [self._marks.baseline], _SELECTED: self._marks.selected}.get(pair)
            if ids is None:
                found.append(pair)
                continue
            # A run that is both does not differ from itself.
            ids = [i for i in ids if i and (pair == _BASELINE or i != self._marks.baseline)]
            if not ids:
                raise UnknownNameError(
                    f"{side} is the pinned run, and no run is pinned. Pin one in the list beside the curves, or choose "
                    "conditions."
                    if pair == _BASELINE
                    else f"{side} is the selected runs, and no run besides the pinned one is selected. Select some in "
                    "the list beside the curves or in the table, or choose conditions."
                )
            found += [("run_id", run_id) for run_id in ids]
        return found

    def _choose(self, option: Option, options: Any, preferred: Any) -> None:
        """List the options of a widget; a value that the user chose stays, if it is still listed."""
        question = self._question.value
        widget, key = self._widgets[question][option.name], f"{question} {option.name}"
        value, known = widget.value, list(options.values()) if isinstance(options, dict) else options
        if isinstance(value, list):
            value = [v for v in value if v in known]
        is_own = value not in (None, []) and (isinstance(value, list) or value in known)
        if not is_own or widget.value == self._preferred.get(key):
            value = self._preferred[key] = preferred
        _update(widget, options, value)

    # From a question to its answer

    def _ask(self) -> None:
        """Answer the question: in a thread when an event loop runs, else at once."""
        if self._shown is None:
            return
        self._requested += 1
        try:
            asked = self._asked()
        except DdeError as error:
            self._show(error)
            self._answered, self._waiting = self._requested, None
            return
        self.state = self._asked_state()
        self._waiting = (self._shown, asked)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._answered = self._requested
            self._show(_answered(*self._waiting), self._shown)
            return
        self._state.object = _text("Computing ...", "note")
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._answer_newest())

    async def _answer_newest(self) -> None:
        """Answer until the latest question is answered; outdated answers are never shown."""
        while self._answered != self._requested and self._waiting is not None:
            request = self._requested
            shown, asked = self._waiting
            found = await asyncio.to_thread(_answered, shown, asked)
            if request == self._requested:
                self._answered = request
                try:
                    self._show(found, shown)
                except Exception as error:
                    _log.exception("showing an answer failed")
                    self._show(DdeError(f"This can't be shown ({type(error).__name__}: {error})."))

    def _on_rows(self, event: Any) -> None:
        """Select the runs of ticked rows; runs that the answer does not have stay selected."""
        if self._answer is None or self._marks_rows:
            return
        ids = self._answer.frame["run_id"]
        elsewhere = set(self._marks.selected) - set(ids)
        ticked = [str(run_id) for run_id in ids.iloc[event.new] if run_id]
        kept = [run_id for run_id in self._marks.selected if run_id in elsewhere]
        self._marks.selected = list(dict.fromkeys([*kept, *ticked]))

    def _mark_rows(self) -> None:
        """Tick the rows of the selected runs."""
        if self._answer is None or "run_id" not in self._answer.frame:
            return
        selected = set(self._marks.selected)
        self._marks_rows = True
        try:
            self._runs.selection = [k for k, i in enumerate(self._answer.frame["run_id"]) if i in selected]
        finally:
            self._marks_rows = False

    def _asked(self) -> Asked:
        name = self._question.value
        values = {option: widget.value for option, widget in self._widgets[name].items()}
        runs = values.pop(_RUNS, [])
        for option in options_of(name):
            if option.kind == "target" and runs:
                if values[option.name]:
                    raise UnknownNameError(
                        f"{option.label} has a text and runs, so which counts is unclear. Clear one of both fields."
                    )
                values[option.name] = runs
            if option.kind == "side":
                values[option.name] = self._marked_runs(option.name, values[option.name])
        return Asked(
            name, tuple(self._metrics.value), changed_options(name, values), self._scope.value == _ALL,
            bool(self._bases.value),
        )  # fmt: skip

    def _show(self, found: Answer | Exception, asked_of: Shown | None = None) -> None:
        if isinstance(found, Exception):
            # The previous answer belongs to another question.
            self._answer = None
            self._result.visible = False
            self._state.object = _text(str(found), "error")
            return
        self._answer, self._asked_of = found, asked_of
        picture = base64.b64encode(found.picture).decode()
        about = html.escape(f"picture of the answer of {found.asked.question}", quote=True)
        self._picture.param.update(
            object=f'<img alt="{about}" src="data:image/svg+xml;base64,{picture}">' if picture else "",
            visible=bool(picture),
        )
        names_runs = "run_id" in found.frame
        used, other = (self._runs, self._cells) if names_runs else (self._cells, self._runs)
        other.visible = False
        self._marks_rows = True
        try:
            used.param.update(**_table_settings(_main_first(found)), selection=[], visible=True)
        finally:
            self._marks_rows = False
        self._mark_rows()
        self._code.object = f"<pre>{html.escape(found.code)}</pre>"
        self._code_text.value = found.code
        self._show_notes(found)
        self._result.visible = True


def _answered(shown: Shown, asked: Asked) -> Answer | Exception:
    try:
        return answer_question(shown, asked)
    except DdeError as error:
        return error
    except Exception as error:
        _log.exception("answering %r failed", asked)
        return DdeError(f"This can't be answered ({type(error).__name__}: {error}). The log of the server says more.")


def _widget(question: str, option: Option) -> Any:
    shared: dict[str, Any] = {"label": option.label, "width": 260}
    if option.kind == "flag" and not option.may_be_none:
        return pn.widgets.Checkbox(
            stylesheets=[CLICKABLE_LABEL], label=option.label, value=bool(option.default), margin=(24, 10, 0, 10)
        )
    if text := help_text(question, option.name):
        shared["description"] = text
    none = label_of_none(question, option.name)
    if option.kind == "flag":
        return pn.widgets.Select(options={none: "", "yes": True, "no": False}, value="", **shared)
    if option.kind == "choice":
        values = {v.replace("_", " "): v for v in option.values}
        if option.may_be_none or option.required:
            values = {none: "", **values}
        return pn.widgets.Select(options=values, value=option.default or "", **shared)
    if option.kind in ("metric", "factor"):
        return pn.widgets.Select(options=[], **shared)
    if option.kind in ("factors", "conditions", "side"):
        return _several(**shared)
    if option.kind == "whole":
        return pn.widgets.IntInput(value=option.default, **shared)
    if option.kind == "number":
        return pn.widgets.FloatInput(value=option.default, placeholder=none if option.may_be_none else "", **shared)
    hint = "0.6; or 0.5, 0.6; or pretraining"
    if option.kind == "place":
        hint = "planned end; or last, common, 5e9" if none == "default" else f"{none}; or last, 5e9"
    return pn.widgets.TextInput(placeholder=hint, **shared | {"width": 290})


def _several(label: str, width: int, description: str | None = None) -> Any:
    return pn.widgets.MultiChoice(
        label=label, options=[], placeholder="type to search", option_limit=60, search_option_limit=60, width=width,
        description=description,
    )  # fmt: skip


def _update(widget: Any, options: Any, value: Any) -> None:
    """Set options and value of a widget, if they differ."""
    if widget.options != options or widget.value != value:
        widget.param.update(options=options, value=value)


def _summary(question: str) -> str:
    """Return the first sentence of the documentation of a question."""
    import dde.analysis

    first = " ".join(str(getattr(dde.analysis, question).__doc__).strip().split("\n\n")[0].split())
    first = first.removeprefix("Return ")
    return first[0].upper() + first[1:]


def _text(text: str, kind: str) -> str:
    return f'<p class="{kind}">{html.escape(printable(text))}</p>'


def _csv(answer: Answer) -> bytes:
    return spreadsheet_safe(answer.frame)[0].to_csv(index=False).encode("utf-8", "backslashreplace")


def _parquet(answer: Answer) -> bytes:
    written = io.BytesIO()
    answer.frame.to_parquet(written, index=False)
    return written.getvalue()


def _main_first(answer: Answer) -> pd.DataFrame:
    """Return the columns with values, what is answered before the other coordinates of runs."""
    main = answer.dataset[main_variable(answer.dataset)]
    first = [str(n) for n in (*main.dims, main.name, *_STATES, *answer.dataset.data_vars)]
    names = [n for n in dict.fromkeys(first) if n in answer.frame and n not in answer.empty_columns]
    return answer.frame[[*names, *(n for n in answer.frame if n not in (*names, *answer.empty_columns))]]


def _table_settings(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the value and the columns of the table; titles are markup to Tabulator, and dots nest its fields."""
    from bokeh.models.widgets.tables import HTMLTemplateFormatter

    shown = frame.copy(deep=False)
    fields = [f"c{k}" for k in range(frame.shape[1])]
    shown.columns = pd.Index(fields)
    numbers = [f for f in fields if pd.api.types.is_numeric_dtype(shown[f].dtype) and shown[f].dtype != bool]
    for name in numbers:
        # Columns with missing whole numbers would come as text.
        shown[name] = shown[name].astype("float64")
    for name in set(fields) - set(numbers):
        shown[name] = [printable(str(v)) for v in shown[name]]
    return {
        "value": shown,
        "titles": {f: html.escape(printable(str(n))) for f, n in zip(fields, frame.columns, strict=True)},
        "formatters": {f: HTMLTemplateFormatter(template=_NUMBER if f in numbers else _TEXT) for f in fields},
        "text_align": dict.fromkeys(numbers, "right"),
        "page": 1,
    }


_FONT = 'font-family: system-ui, "Helvetica Neue", Arial, sans-serif; color: #3b4252;'
_TEXTS = f"""
:host {{ {_FONT} font-size: 13px; }}
p {{ margin: 0 0 4px; overflow-wrap: anywhere; }}
.about, .note {{ color: #5b6474; }}
.error {{ background: #fff6e5; color: #8a4b00; border-radius: 4px; padding: 6px 10px; }}
img {{ max-width: 100%; height: auto; }}
pre {{ font-size: 12.5px; line-height: 1.45; background: #f7f8fa; padding: 12px; border-radius: 6px; overflow-x: auto;
  margin: 0; }}
"""
_TABLE = ":host .tabulator { font-size: 12px; } .tabulator-cell { text-overflow: ellipsis !important; }"
# Text that is cut off is complete where the mouse rests; Tabulator's own tooltips would take it as markup.
_TEXT = """<span title="<%- value %>"><%- value %></span>"""
# A cell without a number is empty; whole numbers are in full.
_NUMBER = """<%
if (value !== null && value !== undefined && !Number.isNaN(value) && value !== "NaN") {
  const size = Math.abs(Number(value))
  const text = typeof value !== "number" ? String(value)
    : size >= 1e15 || (size > 0 && size < 1e-4) ? value.toExponential(4).replace(/\\.?0+e/, "e")
    : Number.isInteger(value) || size >= 1e6 ? Math.round(value).toLocaleString("en-US")
    : String(parseFloat(value.toPrecision(6)))
%><%= text %><% } %>"""
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
