"""The application without a browser: choices, the code for them, what is read, and widgets to picture."""

from __future__ import annotations

import asyncio
import io
import math
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import dde
import dde.analysis
from dde.cli import explore as cli_explore
from dde.cli import main
from dde.dataset.lazy import BlockReader
from dde.errors import DdeError, SelectionError, UnknownNameError
from dde.explore import session as explore_session
from dde.explore.address import SavedViews, marks_in, query_of, texts_in
from dde.explore.choices import Choices, Opened, apply, code_of, plot_options
from dde.explore.drawing import Drawing, Loaded, draw, picture_bytes, table_bytes
from dde.explore.listing import matching_lineages, matching_runs, run_table, runs_of, starting_lineages, starting_metric
from dde.explore.page import Explorer
from dde.explore.server import origins_of
from dde.explore.session import Session
from dde.plots import columns
from dde.tutorial import Suite
from picture_checks import caption_of

METRICS = ["arc_easy", "mmlu_average", "train_loss"]
LINEAGES = ("dolma1_7-150M-default", "dclm-baseline-150M-default")
SFT = "sft_lr=5e-06_100Mx1"
CHOICES = Choices(LINEAGES, None, ("arc_easy",))


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


@pytest.fixture(scope="module")
def dataset(suite: Suite) -> xr.Dataset:
    return dde.open_lineages(suite.data, suite.wandb, cache_dir=None, metrics=METRICS)


@pytest.fixture(autouse=True)
def _same_backend() -> Iterator[None]:
    before = hv.Store.current_backend
    yield
    assert hv.Store.current_backend in (before, "bokeh")


# Choices, selection, code


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"runs": (SFT,)},
        {"metrics": ("train_loss", "arc_easy"), "facet_by": None, "log_x": True},
        {"grid": "linear", "points": 7},
        {"grid": "quantile", "points": 9, "interp": "pchip", "runs": (SFT,)},
        {"grid": "auto"},
        {"grid": "observed"},
        {"interp": "log"},
    ],
    ids=str,
)
def test_the_code_gives_what_is_shown(suite: Suite, dataset: xr.Dataset, changes: dict[str, Any]) -> None:
    choices = replace(CHOICES, **changes)
    opened = Opened("dde.open_lineages", (repr(suite.data), repr(suite.wandb)), (("cache_dir", None),))
    code = code_of(dataset, choices, opened)
    names: dict[str, Any] = {}
    exec(code.replace("picture = ", "picture = None and "), names)
    xr.testing.assert_identical(names["shown"], apply(dataset, choices))
    exec(code_of(dataset, choices), {"ds": dataset})


def test_the_code_keeps_gaps_open_that_were_opened_so(suite: Suite) -> None:
    dataset = dde.open_lineages(suite.data, suite.wandb, cache_dir=None, metrics=["arc_easy"], max_gap=10**8)
    choices = replace(CHOICES, interp="log")
    shown = apply(dataset, choices)
    assert shown.attrs["max_gap"] == 10**8
    filled = dataset.dde.align(dataset.cumulative_tokens.values, "log", max_gap=math.inf).arc_easy
    assert int(shown.arc_easy.notnull().sum()) < int(filled.sel(lineage=list(LINEAGES)).notnull().sum())


def test_the_base_stays_when_runs_are_chosen(dataset: xr.Dataset) -> None:
    assert apply(dataset, replace(CHOICES, runs=(SFT,))).run.values.tolist() == ["pretraining", SFT]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lineages": ()}, "no lineage is chosen"),
        ({"metrics": ()}, "no metric is chosen"),
        ({"runs": ()}, "no post-training run matches"),
        ({"metrics": ("arc_eazy",)}, "Did you mean arc_easy"),
        ({"grid": "lin"}, "grid='lin' is not known"),
    ],
)
def test_what_selects_nothing_says_so(dataset: xr.Dataset, changes: dict[str, Any], words: str) -> None:
    choices = replace(CHOICES, **changes)
    with pytest.raises((SelectionError, UnknownNameError), match=words):
        apply(dataset, choices)
    with pytest.raises((SelectionError, UnknownNameError), match=words):
        code_of(dataset, choices)


def test_plot_options_leave_out_defaults() -> None:
    assert plot_options(CHOICES) == {"y": ["arc_easy"]}
    assert plot_options(replace(CHOICES, hue_by=None, zoom=False)) == {"y": ["arc_easy"], "hue_by": None, "zoom": False}


def test_lists_of_what_matches(dataset: xr.Dataset) -> None:
    runs = runs_of(dataset)
    assert "pretraining" not in runs["run"].tolist()
    rates = dict(zip(runs["run"], runs["learning_rate"], strict=True))
    assert matching_runs(runs, learning_rates=[5e-6]) == [run for run, rate in rates.items() if np.isclose(rate, 5e-6)]
    assert matching_runs(runs, methods=["supervised_ft"], budgets=["100M × 1"], learning_rates=[5e-6]) == [SFT]
    assert matching_lineages(dataset, params=["150M"]) == dataset.dde.sel(params="150M").lineage.values.tolist()
    with_sft = dataset.lineage.values[(dataset.run_id.sel(run=SFT) != "").values].tolist()
    assert matching_lineages(dataset, with_runs=[SFT]) == with_sft
    assert 0 < len(with_sft) < dataset.sizes["lineage"]


def test_the_start_has_runs_and_values(dataset: xr.Dataset) -> None:
    first = starting_lineages(dataset)
    assert set(dataset.params.sel(lineage=first).values) == {"150M"}
    derived = (dataset.run_id != "").sum("run").to_series() - 1
    assert derived[first].sum() == derived[derived.index.str.contains("-150M-")].nlargest(2).sum()
    # Finetuned models have no MMLU, and a training loss is not a curve of a base.
    assert starting_metric(dataset[["train_loss", "mmlu_average", "arc_easy"]], first) == "arc_easy"
    assert starting_metric(dataset[["mmlu_average"]], first) == "mmlu_average"


def test_the_table_holds_the_last_value_of_each_run_itself(dataset: xr.Dataset) -> None:
    shown = apply(dataset, replace(CHOICES, metrics=("arc_easy", "mmlu_average"))).load()
    table = run_table(shown).set_index(["lineage", "run"])
    assert len(table) == int((shown.run_id != "").sum())
    for (lineage, run), row in table.iterrows():
        curve = shown.arc_easy.sel(lineage=lineage, run=run)
        end = curve.dropna("cumulative_tokens")
        if run != "pretraining":
            end = end[end.cumulative_tokens > row["branch_tokens"]]
            assert np.isnan(row["mmlu_average"]), "what it has of its parent is not its own"
        np.testing.assert_equal(row["arc_easy"], float(end[-1]) if len(end) else np.nan)
        assert row["run_id"] == shown.run_id.sel(lineage=lineage, run=run).item()


# What is read


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, frozenset[str]]]:
    """Metric and runs of each block that is made."""
    found: list[tuple[str, frozenset[str]]] = []
    usual = BlockReader.block

    def block(self: BlockReader, metric: Any, run_ids: Any, *where: Any) -> Any:
        found.append((metric.name, frozenset(map(str, np.unique(run_ids[run_ids != ""])))))
        return usual(self, metric, run_ids, *where)

    monkeypatch.setattr(BlockReader, "block", block)
    return found


def test_nothing_is_read_but_what_is_shown(dataset: xr.Dataset, read: list[tuple[str, frozenset[str]]]) -> None:
    explorer = Explorer(dataset, metrics="arc_easy", lineage=LINEAGES[:1], run=SFT)
    shown = dataset.dde.sel(lineage=list(LINEAGES[:1]), run=["pretraining", SFT])
    runs = frozenset(shown.run_id.values.ravel().tolist()) - {""}
    assert read == [("arc_easy", runs)]
    explorer.controls.widgets["log_x"].value = True
    explorer.controls.widgets["hue_by"].value = "finetune_tokens"
    assert len(read) == 1, "looks read nothing"
    explorer.controls.widgets["metrics"].value = ["train_loss"]
    assert read[1:] == [("train_loss", runs)]


def test_importing_dde_and_its_command_line_imports_no_panel() -> None:
    code = "import sys, dde, dde.cli.app, dde.explore.choices; print('panel' in sys.modules, 'bokeh' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]


# Widgets to picture


def test_components_of_tabs_are_defined_before_a_page_is_open() -> None:
    # Panel sends the definition of a component that comes later to one of the open pages only.
    program = """
import importlib, dde.explore.page, dde.explore.session
from panel.custom import JSComponent
known = set(JSComponent.__subclasses__())
for module, _ in dde.explore.session._TABS.values():
    importlib.import_module(f"dde.explore.{module}")
print([c.__name__ for c in JSComponent.__subclasses__() if c not in known])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def explorer(dataset: xr.Dataset) -> Explorer:
    return Explorer(dataset, metrics="arc_easy", lineage=LINEAGES)


def said(explorer: Explorer) -> list[str]:
    messages = explorer.__panel__().select(lambda pane: "alert" in pane.css_classes and pane.visible)
    return [text for pane in messages for text in re.findall("<p>(.*?)</p>", pane.object)]


def payload(explorer: Explorer) -> dict[str, Any]:
    """What the page was sent to draw."""
    return dict(explorer.session.curves.payload)


def is_shown(explorer: Explorer) -> bool:
    return bool(explorer.session._shown.visible)


def test_widgets_change_choices_picture_table_and_code(explorer: Explorer) -> None:
    before, widgets = payload(explorer), explorer.controls.widgets
    assert said(explorer) == []
    widgets["learning_rate"].value = [5e-6]
    assert explorer.choices.runs == tuple(matching_runs(runs_of(explorer._dataset), learning_rates=[5e-6]))
    assert widgets["run"].options == list(explorer.choices.runs)
    assert explorer.session.drawing is not None
    assert set(explorer.session.drawing.table["run"]) <= {"pretraining", *explorer.choices.runs}
    widgets["facet_by"].value = ""
    assert len(payload(explorer)["panels"]) == 2
    assert payload(explorer)["version"] == before["version"] + 2
    widgets["x"].value = "cumulative_compute"
    assert 'x="cumulative_compute", facet_by=None' in explorer.code
    xr.testing.assert_identical(explorer.dataset, apply(explorer._dataset, explorer.choices))


def test_figures_are_made_once_for_each_kind_of_axis(explorer: Explorer) -> None:
    curves, widgets = explorer.session.curves, explorer.controls.widgets
    linear = list(curves.figures)
    assert [panel["figure"] for panel in payload(explorer)["panels"]] == list(range(len(linear)))
    widgets["log_x"].value = True
    # The panels that enlarge what follows the branch stay linear.
    both = list(curves.figures)
    assert both[: len(linear)] == linear
    widgets["log_x"].value = False
    widgets["metrics"].value = ["mmlu_average"]
    widgets["log_x"].value = True
    assert curves.figures == both


def test_filters_on_lineages_keep_what_matches_and_else_start_anew(explorer: Explorer) -> None:
    widgets = explorer.controls.widgets
    widgets["data"].value = ["Dolma1.7"]
    assert explorer.choices.lineages == LINEAGES[:1]
    assert all(label.startswith("dolma1_7") for label in widgets["lineage"].options)
    widgets["params"].value = ["4M"]
    assert explorer.choices.lineages == ("dolma1_7-4M-default", "dolma1_7-4M-small-aux-2")
    widgets["method"].value, widgets["tuned"].value = ["dpo"], True
    assert set(widgets["lineage"].options) <= set(matching_lineages(explorer._dataset, params=["4M"]))


def test_what_cannot_be_shown_is_said_and_nothing_else_stays(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    widgets = explorer.controls.widgets
    widgets["lineage"].value = []
    assert said(explorer)[0].startswith("no lineage is chosen")
    assert not is_shown(explorer)
    assert explorer.session._code_text.value == ""
    widgets["lineage"].value = list(LINEAGES)
    assert said(explorer) == []
    assert is_shown(explorer)
    monkeypatch.setattr("dde.plots.curves._MOST_ROWS", 1)
    widgets["zoom"].value = False
    assert "than can be looked at" in said(explorer)[0]
    monkeypatch.setattr(explore_session, "draw", lambda *_: 1 / 0)
    widgets["zoom"].value = True
    assert "can&#x27;t be drawn (ZeroDivisionError" in said(explorer)[0]
    assert not is_shown(explorer)


def test_warnings_stand_beside_the_picture(dataset: xr.Dataset) -> None:
    (line,) = said(Explorer(dataset, metrics="train_loss", lineage="dolma1_7-4M-default"))
    assert "reduce train_loss in different ways" in line


def test_the_newest_choice_wins(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bool] = []
    session = explorer.session
    go_on = threading.Event()

    def slow(loaded: Loaded, choices: Choices) -> Drawing:
        drawn.append(choices.log_x)
        assert go_on.wait(30)
        return draw(loaded, choices)

    monkeypatch.setattr(explore_session, "draw", slow)
    show = Session._show
    shown: list[bool] = []
    monkeypatch.setattr(Session, "_show", lambda self, made: (shown.append(made.choices.log_x), show(self, made))[1])

    async def choose() -> None:
        box = explorer.controls.widgets["log_x"]
        for value in (True, False, True):
            box.value = value
            while not drawn:
                await asyncio.sleep(0.01)
        while not session._shown.loading:
            await asyncio.sleep(0.01)
        explorer.controls.widgets["zoom"].value = False
        box.value = False
        go_on.set()
        await session._task

    asyncio.run(choose())
    assert drawn == [True, False], "what was overtaken before it began is not drawn at all"
    assert shown == [False]
    assert session.drawing is not None
    assert session.drawing.choices == explorer.choices
    assert session._shown.loading is False


def lines_of(drawing: Drawing, panel: int, run_id: str) -> list[tuple[float, float]]:
    """The last vertex of each line of a run in a panel."""
    drawn = drawing.panels[panel]
    (run,) = (look.number for look in drawing.looks if look.run_id == run_id)
    ends = drawn.line_start[1:] - 1
    return [(drawn.line_x[e], drawn.line_y[e]) for e, r in zip(ends, drawn.line_run, strict=True) if r == run]


def test_a_choice_sends_only_columns_that_the_page_does_not_have(dataset: xr.Dataset) -> None:
    explorer = Explorer(dataset, lineage=list(LINEAGES), metrics="arc_easy", facet_by="", zoom=False)

    def sent() -> list[bool]:
        return ["line_x" in panel for panel in payload(explorer)["panels"]]

    widgets = explorer.controls.widgets
    assert sent() == [True]
    widgets["hue_by"].value = "data" if widgets["hue_by"].value != "data" else "params"
    assert sent() == [False], "another colour is a look of runs"
    widgets["metrics"].value = ["arc_easy", "mmlu_average"]
    assert sent() == [False, True]
    widgets["log_x"].value = True
    assert sent() == [True, True]
    widgets["log_x"].value = False
    assert sent() == [False, False], "the figures still show them"
    # A page that lacks some asks for them, and one that is made later has all.
    explorer.session.curves.missing = payload(explorer)["version"]
    assert sent() == [True, True]
    widgets["hue_by"].value = ""
    assert sent() == [False, False]
    explorer.session.curves.get_root()
    assert sent() == [True, True]


def test_columns_have_the_values_of_runs(dataset: xr.Dataset) -> None:
    drawing = draw(Loaded(dataset), CHOICES)
    row = drawing.table[drawing.table["run"] == SFT].iloc[0]
    curve = drawing.shown.arc_easy.sel(lineage=row["lineage"], run=SFT).dropna("cumulative_tokens")
    own = curve[curve.cumulative_tokens > row["branch_tokens"]]
    # Once in the panel of all training, once in the one that enlarges what follows the branch.
    expected = float(own.cumulative_tokens[-1]), float(own[-1])
    assert lines_of(drawing, 0, row["run_id"])[-1] == expected
    assert lines_of(drawing, 1, row["run_id"])[-1] == (expected[0] - row["branch_tokens"], expected[1])
    looks = {look.run_id: look for look in drawing.looks}
    assert looks[row["run_id"]].group == "5e-6"
    assert set(looks) == set(drawing.table["run_id"]), "a look for each run of the table"
    assert all(panel.title and panel.x_label for panel in drawing.panels)


def test_differences_to_a_run_are_those_of_the_dataset(dataset: xr.Dataset) -> None:
    with_both = replace(CHOICES, facet_by=None, zoom=False, relative_to=LINEAGES[0])
    drawing = draw(Loaded(dataset), with_both)
    shown = drawing.shown.arc_easy.sel(run="pretraining")
    change = (shown.sel(lineage=LINEAGES[1]) - shown.sel(lineage=LINEAGES[0])).dropna("cumulative_tokens")
    assert lines_of(drawing, 0, LINEAGES[1]) == [(float(change.cumulative_tokens[-1]), float(change[-1]))]
    assert drawing.panels[0].is_difference
    with pytest.raises(UnknownNameError, match="Did you mean"):
        draw(Loaded(dataset), replace(with_both, relative_to=LINEAGES[0][:-1]))


def test_groups_are_means_with_their_range(dataset: xr.Dataset) -> None:
    drawing = draw(Loaded(dataset), replace(CHOICES, facet_by=None, group_by="params"))
    base = next(look for look in drawing.looks if look.run == "pretraining, 2 runs")
    both = drawing.shown.arc_easy.sel(run="pretraining")
    ((x, y),) = lines_of(drawing, 0, base.run_id)[-1:]
    values = both.sel(cumulative_tokens=x).dropna("lineage").values
    np.testing.assert_allclose(y, values.mean())
    assert base.group == "150M"
    assert len(drawing.panels[0].band_run) >= 1
    exec(code_of(dataset, drawing.choices), {"ds": dataset})


@pytest.mark.parametrize(
    "changes",
    [{}, {"band": ("seed",), "min_count": 1}, {"group_by": "data"}, {"relative_to": "base"}, {"runs": (SFT,)}],
    ids=str,
)
def test_the_caption_is_that_of_the_picture(
    dataset: xr.Dataset, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = replace(CHOICES, **changes)
    drawing = draw(Loaded(dataset), choices)
    picture = drawing.shown.dde.plot(**plot_options(choices, drawing.shown), backend="bokeh")
    assert drawing.caption == caption_of(picture)
    assert not drawing.caption.endswith("points thinned.")
    monkeypatch.setattr("dde.plots.panels.MARKERS", 1)
    assert draw(Loaded(dataset), choices).caption.endswith("; points thinned.")


def test_smoothed_curves_have_the_others_behind(dataset: xr.Dataset) -> None:
    drawing = draw(Loaded(dataset), replace(CHOICES, smooth=2e9))
    styles = drawing.panels[0].line_style.tolist()
    assert styles.count(columns.BEHIND) == styles.count(columns.COMPLETE) > 0
    assert "smooth=2000000000.0" in code_of(dataset, drawing.choices)
    # The values are those of `dde.analysis.smooth`, behind them those of the selection.
    at = {"lineage": LINEAGES[0], "run": "pretraining"}
    found = [dde.analysis.smooth(drawing.shown, "arc_easy", span=2e9), drawing.shown]
    ends = [dataset.arc_easy.sel(at).dropna("cumulative_tokens")[-1] for dataset in found]
    assert float(ends[0]) != float(ends[1])
    assert {(float(end.cumulative_tokens), float(end)) for end in ends} <= set(lines_of(drawing, 0, LINEAGES[0]))


def test_a_large_selection_is_read_in_blocks(dataset: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(Loaded(dataset), replace(CHOICES, facet_by=None))
    monkeypatch.setattr("dde.explore.drawing._MOST_CELLS", 0)
    monkeypatch.setattr("dde.plots.curve_segments._BLOCK", 1)
    in_blocks = draw(Loaded(dataset), replace(CHOICES, facet_by=None))
    assert len(in_blocks.selection.blocks) == len(LINEAGES)
    assert in_blocks.looks == whole.looks
    pd.testing.assert_frame_equal(in_blocks.table, whole.table)
    for one, other in zip(in_blocks.panels, whole.panels, strict=True):
        np.testing.assert_array_equal(one.line_y, other.line_y)
        np.testing.assert_array_equal(one.point_x, other.point_x)


def test_files_hold_what_is_shown(dataset: xr.Dataset) -> None:
    drawing = draw(Loaded(dataset), replace(CHOICES, lineages=LINEAGES[:1]))
    frame = pd.read_parquet(io.BytesIO(table_bytes(drawing)))
    pd.testing.assert_frame_equal(frame, apply(dataset, drawing.choices).dde.to_frame())
    with Image.open(io.BytesIO(picture_bytes(drawing, ".png"))) as image:
        assert image.size[0] > 900
    assert b">tokens since the start of pretraining</text>" in picture_bytes(drawing, ".svg")
    assert picture_bytes(drawing, ".pdf").startswith(b"%PDF")
    read = pd.read_csv(io.BytesIO(table_bytes(drawing, ".csv")))
    np.testing.assert_array_equal(read["arc_easy"], frame["arc_easy"])
    labels = ["=1+1", *drawing.shown.run.values[1:].tolist()]
    formula = replace(drawing.selection, dataset=drawing.shown.assign_coords(run=labels))
    assert b",'=1+1," in table_bytes(replace(drawing, selection=formula), ".csv")


# Address, views and sessions


def test_an_address_opens_the_same_view(dataset: xr.Dataset) -> None:
    explorer = Explorer(dataset, metrics="arc_easy", lineage=LINEAGES)
    assert explorer.session.query == ""
    widgets, marks = explorer.controls.widgets, explorer.session.marks
    widgets["params"].value = ["150M"]
    widgets["lineage"].value = [LINEAGES[1]]
    widgets["learning_rate"].value = [5e-6]
    widgets["metrics"].value = ["train_loss", "arc_easy"]
    widgets["log_x"].value, widgets["hue_by"].value, widgets["facet_by"].value = True, "data", ""
    widgets["grid"].value, widgets["points"].value = "linear", 50
    shown = [look.run_id for look in explorer.session.drawing.looks]
    marks.param.update(hidden=shown[1:], selected=shown[:1], baseline=shown[0])
    other = Session(dataset, None, {"metrics": "arc_easy", "lineage": LINEAGES}, query=explorer.session.query)
    assert other.choices == explorer.choices
    assert (other.marks.hidden, other.marks.selected, other.marks.baseline) == (shown[1:], shown[:1], shown[0])
    assert other.query == explorer.session.query


def test_groups_stay_hidden_in_the_address(dataset: xr.Dataset) -> None:
    start = {"metrics": "arc_easy", "lineage": LINEAGES, "group_by": "data", "facet_by": None}
    session = Session(dataset, None, start)
    groups = [look.run_id for look in session.drawing.looks]
    session.marks.hidden = groups[1:]
    other = Session(dataset, None, start, query=session.query)
    assert other.marks.hidden == groups[1:]


def test_an_address_that_names_what_is_gone_says_so(dataset: xr.Dataset) -> None:
    session = Session(dataset, None, {"metrics": "arc_easy"}, query="?metrics=gone&log_x=perhaps&x=post_tokens&new=1")
    assert "metrics=gone is not among the choices" in session._notes.object
    assert "log_x=perhaps" in session._notes.object
    assert session.choices.x == "post_tokens"


@pytest.mark.parametrize("hidden", [["a"], ["a", "b", "c"], list("abcd"), []], ids=len)
def test_marks_survive_the_address(hidden: list[str]) -> None:
    runs = list("abcd")
    query = query_of({}, {}, explore_session.Marks(hidden=hidden, selected=["b"], opened="a&b=c"), runs)
    found = marks_in(texts_in(query), runs)
    assert found == {"hidden": hidden, "selected": ["b"], "baseline": "", "opened": "a&b=c"}


def test_views_are_saved_under_names(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "new" / "views.json"
    explorer = Explorer(dataset, metrics="arc_easy", lineage=LINEAGES, views=path)
    pick, name, save, remove = explorer.session._views_bar
    explorer.controls.widgets["log_x"].value = True
    name.value_input = "log axis"
    save.clicks += 1
    assert SavedViews(path).queries() == {"log axis": "log_x=true"}
    explorer.controls.widgets["log_x"].value = False
    pick.value = "Views"
    pick.value = "log axis"
    assert explorer.choices.log_x
    remove.clicks += 1
    assert SavedViews(path).queries() == {}
    name.value_input = " "
    save.clicks += 1
    assert "the view has no name" in explorer.session._notes.object
    path.write_text("[1]")
    with pytest.raises(DdeError, match="holds no saved views"):
        SavedViews(path).queries()


def test_a_refresh_shows_new_runs_and_keeps_the_view(dataset: xr.Dataset) -> None:
    small = dataset.sel(lineage=list(LINEAGES[:1]))
    explorer = Explorer(small, metrics="arc_easy", source=lambda: (dataset, None), log_x=True)
    explorer.controls.widgets["facet_by"].value = ""
    explorer._own._refresh()
    assert set(explorer.controls.widgets["lineage"].options) >= set(LINEAGES)
    assert explorer.choices.lineages == LINEAGES[:1]
    assert (explorer.choices.facet_by, explorer.choices.log_x) == (None, True)


def test_a_store_that_is_away_leaves_the_page_as_it_is(dataset: xr.Dataset) -> None:
    def away() -> Any:
        raise DdeError("the store does not answer")

    explorer = Explorer(dataset, metrics="arc_easy", source=away)
    before = explorer.session
    explorer._own._refresh()
    assert explorer.session is before
    assert "the store does not answer" in said(explorer)[0]


def test_the_accessor_takes_what_to_start_with(dataset: xr.Dataset) -> None:
    explorer = dataset.dde.explore(params="150M", learning_rate=5e-6, metrics=["train_loss"], log_x=True, facet_by=None)
    assert explorer.choices.metrics == ("train_loss",)
    assert explorer.choices.log_x
    assert explorer.choices.facet_by is None
    assert set(dataset.params.sel(lineage=list(explorer.choices.lineages)).values) == {"150M"}
    assert SFT in explorer.choices.runs
    with pytest.raises(TypeError, match="unexpected keyword argument 'metric'"):
        dataset.dde.explore(metric="train_loss")
    with pytest.raises(UnknownNameError, match="hue_by='learning_rat'"):
        dataset.dde.explore(hue_by="learning_rat")
    with pytest.raises(SelectionError, match="no dimension lineage"):
        dataset.isel(lineage=0).dde.explore()


def test_origins_are_those_of_the_address() -> None:
    assert origins_of("10.1.2.3", 80) == ["10.1.2.3:80"]
    assert all(origin.endswith(":5006") for origin in origins_of("0.0.0.0", 5006))


# Command line


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Any, ...]]:
    """Run `dde explore` up to where it would serve, and return what it would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DDE_DB_CONNECTION", raising=False)
    found: list[Any] = []
    monkeypatch.setattr(cli_explore, "serve", lambda *arguments: found.extend(arguments))

    def run(*words: object) -> tuple[Any, ...]:
        monkeypatch.setattr(sys, "argv", ["dde", "explore", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return tuple(found)

    return run


def test_the_command_opens_what_its_options_say(
    suite: Suite, served: Callable[..., tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    make_page, address, port, *_ = served(
        suite.data, suite.wandb, "--params", "150M", "--metrics", "piqa", "--learning-rate", "1e-6:1e-4", "--no-cache"
    )
    assert (address, port) == ("127.0.0.1", 0)
    page = make_page()
    assert capsys.readouterr().err == ""
    names: dict[str, Any] = {}
    exec(page.code, names)
    assert 'params=["150M"]' in page.code
    assert "learning_rate=slice(1e-06, 0.0001)" in page.code
    xr.testing.assert_identical(names["shown"], page.dataset)


def test_without_data_it_explores_a_generated_suite(
    served: Callable[..., tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    make_page, address, port, *_ = served(
        "--demo", "--address", "0.0.0.0", "--port", 8123, "--params", "4M", "--metrics", "piqa"
    )
    assert (address, port) == ("0.0.0.0", 8123)
    assert "everyone who can reach 0.0.0.0 can see these runs" in capsys.readouterr().err
    names: dict[str, Any] = {}
    page = make_page()
    exec(page.code, names)
    xr.testing.assert_identical(names["shown"], page.dataset)


def test_no_password_is_in_the_code() -> None:
    assert cli_explore._source("postgresql://ada:hunter2@db/wandb") == '"postgresql://ada@db/wandb"'


def test_notes_stay_while_looks_change(dataset: xr.Dataset) -> None:
    broken = dataset.load().copy(deep=True)
    curve = broken["arc_easy"].values[broken["lineage"].values.tolist().index(LINEAGES[0]), 0]
    curve[np.flatnonzero(np.isfinite(curve))[-1]] = np.inf
    explorer = Explorer(broken, metrics="arc_easy", lineage=list(LINEAGES))
    loaded, choices = Loaded(broken), explorer.choices
    (note,) = draw(loaded, choices).notes
    assert "infinite" in note
    assert draw(loaded, replace(choices, hue_by="params")).notes == [note]
