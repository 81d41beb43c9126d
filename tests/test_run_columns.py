"""Columns of the table of runs: kinds, differences to a baseline, and places on axes."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from dde.explore.listing import run_coordinates, run_table
from dde.explore.run_columns import DIFFERENCE, RunColumns, columns_of, place, wants_log
from dde.explore.table_tab import chosen_names, file_bytes


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
