"""Groups of curves: means of runs with one value of a coordinate, and their range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.errors import SelectionError, UnknownNameError
from dde.plots.curve_segments import Segment, find_segments
from dde.plots.curves import curve_panels, plot_curves
from dde.plots.grouped import group_segments
from dde.tutorial import Suite


@pytest.fixture(scope="module")
def dataset(tiny_suite: Suite) -> xr.Dataset:
    return dde.open_lineages(tiny_suite.data, tiny_suite.wandb, cache_dir=None, metrics=["arc_easy"])


def segment(run_id: str, x: list[float], values: list[float], **facts: Any) -> Segment:
    at, known = np.array(x), {"lineage": "a", "run": run_id, "rate": 1.0} | facts
    support, breaks = np.ones(len(x), np.int8), np.empty(0, np.intp)
    return Segment(run_id, "sft", False, at, at, np.array(values), support, breaks, x[0], x[0], None, False, known)


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.lists(st.floats(-10, 10), min_size=1, max_size=6)), min_size=1, max_size=5
    ),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_means_are_those_of_a_loop(runs: list[tuple[int, list[float]]], min_count: int) -> None:
    segments = [
        segment(f"r{k}", [float(start + i) for i in range(len(values))], values)
        for k, (start, values) in enumerate(runs)
    ]
    groups = group_segments(segments, "rate", min_count=min_count)
    expected = {}
    for x in sorted({x for s in segments for x in s.x.tolist()}):
        at = [v for s in segments for a, v in zip(s.x, s.values, strict=True) if a == x]
        if len(at) >= min_count:
            expected[x] = (np.mean(at), min(at), max(at), len(at))
    found = [
        (x, *rest)
        for g in groups
        for x, *rest in zip(g.x.tolist(), g.values, g.low, g.high, g.counts, strict=True)  # type: ignore[arg-type]
    ]
    np.testing.assert_allclose(found or np.empty((0, 5)), [(x, *v) for x, v in expected.items()] or np.empty((0, 5)))


def test_a_line_never_leads_from_one_run_to_another() -> None:
    apart = [segment("early", [1.0, 2.0], [0.1, 0.2]), segment("late", [5.0, 6.0], [0.5, 0.6])]
    (group,) = group_segments(apart, "rate")
    assert [x.tolist() for x, _ in group.lines()] == [[1.0, 2.0], [5.0, 6.0]]
    between = segment("long", [2.0, 5.0], [0.3, 0.3])
    (group,) = group_segments([*apart, between], "rate")
    assert [x.tolist() for x, _ in group.lines()] == [[1.0, 2.0, 5.0, 6.0]]


def test_runs_without_a_value_and_other_types_are_groups_of_their_own(dataset: xr.Dataset) -> None:
    segments = find_segments(dataset, "arc_easy")
    groups = group_segments(segments, "learning_rate")
    assert sum(int(g.facts["n_members"]) for g in groups) == len(segments)
    assert {g.kind for g in groups} == {s.kind for s in segments}
    assert {g.facts["learning_rate"] for g in groups if g.kind == "pretraining"} == {""}


def test_pictures_of_groups_say_so(dataset: xr.Dataset) -> None:
    rows = curve_panels(dataset, "arc_easy", group_by="data", facet_by=None)
    assert len(rows[0]) == 1, "what follows the branch is not enlarged, for groups have no branch"
    assert set(rows[0][0].look.colours) == set(dataset.data.values)
    for backend in ("bokeh", "matplotlib"):
        picture = plot_curves(dataset, "arc_easy", group_by="data", x="cumulative_compute", backend=backend)  # type: ignore[arg-type]
        assert picture is not None
    with pytest.raises(SelectionError, match="both draw means"):
        plot_curves(dataset, "arc_easy", group_by="data", band="seed")
    with pytest.raises(UnknownNameError, match="Did you mean data"):
        plot_curves(dataset, "arc_easy", group_by="dat")
