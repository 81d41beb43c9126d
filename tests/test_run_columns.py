"""Columns of the table of runs: kinds, differences to a baseline, and places on axes."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from dde.explore.choices import Choices
from dde.explore.listing import run_coordinates, run_table
from dde.explore.parallel_tab import MISSING, ParallelTab, scaled
from dde.explore.run_colours import coloured
from dde.explore.run_columns import DIFFERENCE, Placed, RunColumn, RunColumns, columns_of, place, wants_log
from dde.explore.scatter_tab import ScatterTab, correlation_text
from dde.explore.table_tab import TableTab, chosen_names, file_bytes
from dde.explore.tabs import Marks, Shown
from dde.plots.colours import NEUTRAL
from other_suites import ladder, optimizers


@pytest.fixture
def dataset() -> xr.Dataset:
    """Two lineages with two runs each, one of which is missing, in a suite with factors of its own."""
    cells = ("lineage", "run")
    return xr.Dataset(
        {
            "loss": ((*cells, "cumulative_tokens"), [[[3.0, 2.0], [4.0, np.nan]], [[2.5, 1.5], [np.nan, np.nan]]]),
        },
        coords={
            "lineage": ["a", "b"],
            "run": ["x", "y"],
            "cumulative_tokens": [1, 2],
            "run_id": (cells, [["ax", "ay"], ["bx", ""]]),
            "width": ("lineage", ["1B", "150M"], {"factor_of": "lineage"}),
            "rate": ("run", [1e-6, 1e-3], {"factor_of": "run", "long_name": "learning rate"}),
            "kind": ("run", np.array(["base", None], object), {"factor_of": "run"}),
            "started": (cells, np.array([["2026-01-02", "NaT"], ["2026-01-03", "NaT"]], "datetime64[ns]")),
            "fast": (cells, [[True, False], [True, False]]),
            "constant": ((), 7, {"units": "1"}),
            "sampled_loss": ((*cells, "cumulative_tokens"), np.ones((2, 2, 2), np.int8)),
        },
    )  # fmt: skip


def columns(dataset: xr.Dataset, baseline: str = "") -> RunColumns:
    return columns_of(dataset, run_table(dataset), baseline)


def test_all_coordinates_of_runs_are_columns_with_a_row_for_each_run(dataset: xr.Dataset) -> None:
    found = columns(dataset)
    assert found.frame["run_id"].tolist() == ["ax", "ay", "bx"]
    assert {"width", "rate", "kind", "started", "fast", "constant"} <= set(found.names())
    assert not any(name.startswith("sampled") or name == "cumulative_tokens" for name in found.names())
    assert found.frame["constant"].tolist() == [7, 7, 7]
    kinds = {c.name: c.kind for c in found.columns}
    assert [kinds[n] for n in ("width", "rate", "kind", "started", "fast", "loss")] == [
        "text", "number", "text", "time", "text", "number",
    ]  # fmt: skip
    assert found.frame["kind"].tolist() == ["base", "", "base"]
    assert not found["constant"].varies
    assert found["width"].varies
    assert found.axes() == ["rate", "kind", "width", "loss"]
    # Rows agree with those of the table, whatever the order of dimensions.
    other = dataset.assign_coords(run_id=dataset["run_id"].T, started=dataset["started"].T)
    assert run_coordinates(other).equals(run_coordinates(dataset)[run_coordinates(other).columns])


def test_differences_are_last_values_minus_that_of_the_baseline(dataset: xr.Dataset) -> None:
    found = columns(dataset, "bx")
    assert found.frame["loss"].tolist() == [2.0, 4.0, 1.5]
    assert found.frame[DIFFERENCE + "loss"].tolist() == [0.5, 2.5, 0.0]
    assert found[DIFFERENCE + "loss"].title == "Δ loss"
    assert columns(dataset, "elsewhere").names("difference") == []
    assert columns(dataset).names("difference") == []


def test_titles_differ(dataset: xr.Dataset) -> None:
    found = columns(dataset.assign_coords({"last loss": ("run", [1, 2]), "run id": ("run", [1, 2])}))
    titles = [c.title for c in found.columns]
    assert len(set(titles)) == len(titles)


def test_choices_of_columns_outlast_columns_that_come_and_go(dataset: xr.Dataset) -> None:
    chosen = {"width": False, "constant": True, "piqa": False}
    names = chosen_names(columns(dataset), chosen)
    assert "constant" in names
    assert "loss" in names
    assert "width" not in names
    assert "piqa" not in chosen_names(columns(dataset.rename(loss="piqa")), chosen)


def test_axes_that_span_decades_are_logarithmic() -> None:
    assert wants_log([1e-6, 1e-4])
    assert wants_log([1e-6, 1e-4, np.nan, np.inf])
    assert not wants_log([0.0, 1e9])
    assert not wants_log([-1.0, 1e9])
    assert not wants_log([1.0, 3.0])
    assert not wants_log([np.nan])
    assert not wants_log([])


def test_values_have_places_on_an_axis_and_missing_ones_none(dataset: xr.Dataset) -> None:
    found = columns(dataset)
    width = place(found, "width")
    assert (width.names, width.positions.tolist()) == (("150M", "1B"), [1.0, 1.0, 0.0])
    kind = place(found, "kind")
    assert kind.given.tolist() == [True, False, True]
    assert kind.texts == ["base", "none", "base"]
    assert place(found, "rate").log
    assert not place(found, "rate", log=False).log
    started = place(found, "started")
    assert started.positions[0] == pd.Timestamp("2026-01-02").timestamp() * 1000
    assert np.isnan(started.positions[1])
    frame = found.frame.assign(rate=[0.0, np.inf, 1e-3])
    rate = place(RunColumns(frame, found.columns), "rate", log=True)
    assert rate.given.tolist() == [False, False, True]
    assert rate.texts == ["0", "+inf", "1e-3"]
    assert place(RunColumns(frame, found.columns), "rate", log=False).given.tolist() == [True, False, True]


def test_files_have_exact_values_and_no_formulas(dataset: xr.Dataset) -> None:
    rows = columns(dataset, "bx").frame.assign(run=["=1+1", "@x", "-5"], loss=[1 / 3, np.nan, -1.0])
    csv = pd.read_csv(io.BytesIO(file_bytes(rows, ".csv")))
    assert csv["run"].tolist() == ["'=1+1", "'@x", "-5"]
    assert csv["loss"][0] == 1 / 3
    parquet = pd.read_parquet(io.BytesIO(file_bytes(rows, ".parquet")))
    assert parquet["run"].tolist() == ["=1+1", "@x", "-5"]
    assert parquet["loss"][0] == 1 / 3
    assert parquet["started"].dtype.kind == "M"


def numbers(**values: list[float]) -> RunColumns:
    made = (RunColumn(name, name, "", "number", "other", False, True) for name in values)
    return RunColumns(pd.DataFrame(values), tuple(made))


def test_colours_follow_values_and_missing_ones_are_neutral(dataset: xr.Dataset) -> None:
    found = columns(dataset)
    assert coloured(found, "", {"ax": "#111111"}).colours == ["#111111", NEUTRAL, NEUTRAL]
    kind = coloured(found, "kind", {})
    assert kind.colours[0] == kind.colours[2] != NEUTRAL
    assert kind.colours[1] == NEUTRAL
    assert "base" in kind.legend
    assert "none" in kind.legend
    few = coloured(found, "rate", {})
    assert len({*few.colours}) == 2
    assert "1e-6" in few.legend
    many = coloured(numbers(x=[*map(float, range(1, 30)), np.nan]), "x", {})
    assert len(set(many.colours)) == 30
    assert many.colours[-1] == NEUTRAL
    assert "logarithmic" in many.legend
    assert "gradient" in many.legend
    # Nothing but infinite values has a place on a colour bar.
    assert set(coloured(numbers(x=[np.nan, np.inf]), "x", {}).colours) == {NEUTRAL}


def test_legends_escape_names() -> None:
    column = RunColumn("<b>", "<b>title", "", "text", "other", False, True)
    legend = coloured(RunColumns(pd.DataFrame({"<b>": ["<i>x", "y"]}), (column,)), "<b>", {}).legend
    assert "<b>title" not in legend
    assert "<i>" not in legend
    assert "&lt;i&gt;x" in legend


def test_correlations_say_what_they_are_of() -> None:
    x = [1.0, 2.0, 3.0, 4.0, np.nan, np.inf, 9.0]
    y = [1.0, 4.0, 9.0, 16.0, 1.0, 1.0, 0.0]
    among = np.array([True] * 6 + [False])
    text = correlation_text(numbers(x=x, y=y), "x", "y", among)
    assert text.startswith("Spearman 1.000, Pearson 0.984 of values")
    assert text.endswith("n = 4 runs, 2 without one of the values.")
    tied = correlation_text(numbers(x=[1.0, 1.0, 2.0, 3.0], y=[2.0, 1.0, 3.0, 3.0]), "x", "y", np.ones(4, bool))
    # Ties have their mean rank: (1.5, 1.5, 3, 4) and (2, 1, 3.5, 3.5).
    assert tied.startswith("Spearman 0.889, ")
    constant = correlation_text(numbers(x=[1.0, 2.0, 3.0], y=[2.0, 2.0, 2.0]), "x", "y", np.ones(3, bool))
    assert constant == "No correlation: y is the same in all, n = 3 runs."
    assert correlation_text(numbers(x=[1.0, 2.0], y=[1.0, np.nan]), "x", "y", np.ones(2, bool)).startswith(
        "No correlation: 1 run with both values"
    )
    assert "both axes are the same" in correlation_text(numbers(x=x), "x", "x", among)


def test_correlations_are_of_numbers_only(dataset: xr.Dataset) -> None:
    assert correlation_text(columns(dataset), "width", "loss", np.ones(3, bool)) == ""


@pytest.mark.parametrize(
    ("values", "heights", "labels"),
    [
        ([0.0, 5.0, 10.0], [0.0, 0.5, 1.0], ["0", "5", "10"]),
        ([1.0, 1.0, np.nan], [0.5, 0.5, MISSING], ["1", "none"]),
        ([1e-6, 1e-5, 1e-4], [0.0, 0.5, 1.0], ["1e-6", "1e-5", "1e-4"]),
        ([np.nan, np.nan], [MISSING, MISSING], ["none"]),
        ([0.0, 0.1, 0.17, 0.31, 0.44, 0.62, 1.0], None, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([-1e-9, 1e-9, 3e-9, 4e-9, 5e-9, 6e-9], None, ["0", "2e-9", "4e-9", "6e-9"]),
    ],
)
def test_axes_reach_from_0_to_1_with_a_place_for_missing_values(
    values: list[float], heights: list[float] | None, labels: list[str]
) -> None:
    axis = scaled(place(numbers(x=values), "x"))
    if heights is not None:
        assert axis.heights.tolist() == pytest.approx(heights)
    assert [text for _, text in axis.ticks] == labels
    assert all(0 <= height <= 1 for height, text in axis.ticks if text != "none")


def test_axes_of_texts_and_times_have_ticks(dataset: xr.Dataset) -> None:
    found = columns(dataset)
    assert scaled(place(found, "width")).ticks == [(0.0, "150M"), (1.0, "1B")]
    times = scaled(place(found, "started"))
    assert times.ticks[0] == (0.0, "2026-01-02T00:00")
    assert times.ticks[-1] == (MISSING, "none")
    many = Placed(np.arange(100.0), tuple(map(str, range(100))), list(map(str, range(100))), False, "text")
    assert len(scaled(many).ticks) <= 15


@pytest.mark.parametrize("make", [ladder, optimizers])
@pytest.mark.parametrize("count", [1, None])
def test_tabs_show_other_suites(make: Callable[[], xr.Dataset], count: int | None) -> None:
    selection = make().isel(lineage=slice(count))
    table = run_table(selection)
    choices = Choices(tuple(selection["lineage"].values.tolist()), None, ("loss",))
    shown = Shown(selection, selection, choices, table, {})
    marks = Marks()
    tabs = TableTab(marks), ScatterTab(marks), ParallelTab(marks)
    for tab in tabs:
        tab.show(shown)
    first, last = table["run_id"].iloc[0], table["run_id"].iloc[-1]
    marks.param.update(selected=[last], baseline=first)
    assert tabs[0].rows["run_id"].tolist() == table["run_id"].tolist()
    assert tabs[0].rows["difference:loss"].iloc[0] == 0
    for tab in tabs[1:]:
        for name in columns_of(selection, table).names():
            tab.colour.value = name
    for axis in (tabs[1].x, tabs[1].y):
        for name in columns_of(selection, table).names():
            axis.value = name
            for log in (True, False):
                tabs[1].log_x.value = tabs[1].log_y.value = log
    tabs[2].axes.value = list(tabs[2].axes.values)
    tabs[2].axes.value = []
    marks.hidden = table["run_id"].tolist()
    # Other metrics, none of which has a value.
    empty = selection.rename(loss="other").map(lambda values: values * np.nan)
    for tab in tabs:
        tab.show(Shown(empty, empty, choices, run_table(empty), {}))
    assert marks.selected == [last]
    # Choices outlast columns that come and go; a metric that is new has an axis.
    assert tabs[2].axes.value == ["other"]
    tabs[2].show(shown)
    assert tabs[2].axes.value == []
    tabs[2].show(Shown(empty, empty, choices, run_table(empty), {}))
    assert tabs[2].axes.value == ["other"]
