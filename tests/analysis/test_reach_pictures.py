"""Pictures of crossings and matches: what is drawn is what the answer says, and all of it can be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.analysis.crossings import CENSORED, REACHED, reach
from dde.analysis.matching import match
from dde.errors import SelectionError, UnknownNameError
from dde.plots.answers.match import plot_match
from dde.plots.answers.reach import _reached_share, plot_reach
from other_suites import ladder, optimizers
from picture_checks import (
    assert_nothing_is_cut_off,
    caption_of,
    drawn,
    figures_of,
    legend_entries,
    printed,
    tick_labels,
)

PRINT = "matplotlib"


@pytest.fixture(scope="module")
def bases() -> xr.Dataset:
    return dde.tutorial.open_lineages("small", data="Dolma1.7", metrics=["arc_easy", "hellaswag"]).dde.base_curves()


def points_of(figure: Any) -> list[tuple[str, float, float, str]]:
    """Return run id, position and status of the points of a Bokeh figure that have tooltips."""
    found = []
    for renderer in drawn(figure, "Scatter"):
        data = renderer.data_source.data
        if "run_id" in data:
            found += list(zip(data["run_id"], data["tokens"], data["group"], data["status"], strict=True))
    return found


def test_crossings_stand_at_their_tokens(bases: xr.Dataset) -> None:
    answer = reach(bases, "arc_easy", 0.35)
    crossings, shares = figures_of(plot_reach(answer))
    found = {run_id: (x, status) for run_id, x, _, status in points_of(crossings)}
    for k, run_id in enumerate(answer.run_id.values):
        status = answer.status.values[k]
        if status == REACHED:
            assert found[run_id] == (answer.tokens.values[k], REACHED)
        elif status == CENSORED:
            assert found[run_id] == (answer.last_tokens.values[k], CENSORED)
        else:
            assert run_id not in found
    # Rows of members do not overlap: each run has a height of its own.
    heights = [y for _, _, y, _ in points_of(crossings)]
    assert len(set(heights)) == len(heights) == int((answer.status != "missing").sum())
    assert shares.title.text == "reached by {} of {} runs".format(
        int((answer.status == REACHED).sum()), int((answer.status != "missing").sum())
    )
    assert crossings.title.text == "ARC-Easy, primary metric ≥ 0.35"
    text = caption_of(plot_reach(answer))
    assert text.startswith("ARC-Easy (primary metric), first crossing; ")
    assert text.endswith(" runs; left out: 1 (missing).")


def test_a_share_ends_where_its_runs_do(bases: xr.Dataset) -> None:
    answer = reach(bases, "arc_easy", 0.4)
    _, shares = figures_of(plot_reach(answer, x="compute"))
    lines = [r.data_source.data for r in drawn(shares, "MultiLine")]
    curves = [np.array([x, y]) for data in lines for x, y in zip(data["xs"], data["ys"], strict=True)]
    assert len(curves) == len(
        {p for p, s in zip(answer.params.values, answer.status.values, strict=True) if s != "missing"}
    )
    by_end = sorted((float(y[-1]), float(x[-1])) for x, y in curves)
    # No run of 4M or 20M reaches it, and their curves go on to the last observation.
    for size in ("4M", "20M"):
        here = answer.sel(lineage=answer.params == size)
        end = float((6 * here.n_params * here.last_tokens).max())
        assert any(share == 0.0 and x == pytest.approx(end) for share, x in by_end)
    assert by_end[-1][0] == 1.0
    assert all((np.diff(y) >= 0).all() and (np.diff(x) >= 0).all() for x, y in curves)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=0, max_size=8), st.lists(st.integers(1, 12), min_size=0, max_size=8)
)  # fmt: skip
def test_the_share_is_the_product_limit_estimate(reached: list[int], censored: list[int]) -> None:
    if not reached + censored:
        return
    at, share = _reached_share(np.array(reached, float), np.array(censored, float))
    for x, found in zip(at, share, strict=True):
        left = 1.0
        for t in sorted({r for r in reached if r <= x}):
            at_risk = sum(r >= t for r in reached + censored)
            left *= 1 - reached.count(t) / at_risk
        assert found == pytest.approx(1 - left)
    assert at[-1] == max(reached + censored)


@pytest.mark.parametrize(
    "make",
    [
        lambda ds: plot_reach(reach(ds, ["arc_easy", "hellaswag"], {"params": "150M"}), hue_by="data", backend=PRINT),
        lambda ds: plot_reach(reach(ladder(), "loss", 2.6), hue_by=None, log_x=False, backend=PRINT),
        lambda ds: plot_match(match(ds, ["arc_easy", "hellaswag"], {"params": "150M"}), backend=PRINT),
        lambda ds: plot_match(match(ladder(), "loss", 2.6), hue_by=None, log_x=False, backend=PRINT),
    ],
)
def test_everything_can_be_seen(make: Any, bases: xr.Dataset) -> None:
    with printed(make(bases)) as figure:
        assert_nothing_is_cut_off(figure)
        assert any(", n = " in entry for entry in legend_entries(figure))
        for axis in figure.axes:
            assert len(tick_labels(axis.xaxis)) >= 1


def test_an_answer_that_was_saved_draws_the_same(bases: xr.Dataset, tmp_path: Path) -> None:
    reached, matched = reach(bases, "arc_easy", 0.4), match(bases, "arc_easy", {"params": "150M"})
    reached.to_netcdf(tmp_path / "reach.nc")
    matched.to_zarr(tmp_path / "match.zarr", consolidated=False)
    pairs = (
        (plot_reach, reached, xr.open_dataset(tmp_path / "reach.nc")),
        (plot_match, matched, xr.open_zarr(tmp_path / "match.zarr", consolidated=False)),
    )
    for plot, answer, again in pairs:
        texts = []
        for one in (answer, again):
            with printed(plot(one, backend=PRINT)) as figure:  # type: ignore[operator]
                texts.append((legend_entries(figure), [axis.get_title(loc="left") for axis in figure.axes]))
        assert texts[0] == texts[1]


def test_matches_are_joined_to_their_targets(bases: xr.Dataset) -> None:
    answer = match(bases, "hellaswag", {"params": "150M"})
    (figure,) = figures_of(plot_match(answer))
    matched = (answer.status == "matched").values
    (points,) = [r.data_source.data for r in drawn(figure, "Scatter") if "run_id" in r.data_source.data]
    assert sorted(points["run_id"]) == sorted(answer.run_id.values[matched])
    np.testing.assert_array_equal(np.sort(points["hellaswag"]), np.sort(answer.value.values[matched]))
    assert all(r.startswith("step") for r in points["revision"])
    lines = [r.data_source.data for r in drawn(figure, "MultiLine")]
    heights = {tuple(y) for data in lines for y in data["ys"]}
    for value, target in zip(answer.value.values[matched], answer.target.values[matched], strict=True):
        assert (target, value) in heights
    out_of_range = int((answer.status == "out of range").sum())
    assert caption_of(plot_match(answer)).endswith(f"out of range: {out_of_range}.")


def test_runs_without_a_match_are_drawn_where_none_has_one(bases: xr.Dataset) -> None:
    answer = match(bases, "hellaswag", 0.9)
    (figure,) = figures_of(plot_match(answer))
    (points,) = [r.data_source.data for r in drawn(figure, "Scatter") if "run_id" in r.data_source.data]
    assert len(points["run_id"]) == int((answer.status == "out of range").sum())
    assert "out of range" not in caption_of(plot_match(answer))


def test_errors_say_what_to_do(bases: xr.Dataset) -> None:
    answer = reach(bases, "arc_easy", 0.35)
    with pytest.raises(SelectionError, match="no answer of match but an answer of reach"):
        plot_match(answer)
    with pytest.raises(SelectionError, match="no answer of reach but without attributes"):
        plot_reach(bases)
    with pytest.raises(UnknownNameError, match="Did you mean params"):
        plot_reach(answer, hue_by="parms")
    with pytest.raises(UnknownNameError, match="There are tokens, compute"):
        plot_reach(answer, x="steps")  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match="Pass x='tokens'"):
        plot_reach(reach(optimizers(), "loss", 2.8), x="compute")
    with pytest.raises(SelectionError, match="nothing to draw"):
        plot_reach(answer.isel(lineage=(answer.status == "missing").values))
    with pytest.raises(SelectionError, match="more panels than can be looked at"):
        plot_reach(reach(bases, "arc_easy", np.linspace(0.2, 0.5, 30).tolist()))
    with pytest.raises(UnknownNameError, match="is not a backend"):
        plot_reach(answer, backend="boker")  # type: ignore[arg-type]
