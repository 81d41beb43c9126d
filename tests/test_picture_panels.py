"""What panels show: where runs start, whole markers, lines without specks, and stretches without data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.plots.curve_segments import OBSERVED
from dde.plots.curves import curve_panels
from dde.plots.panels import Panel, off_points
from picture_checks import drawn, figures_of, legend_entries, printed


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    return dde.tutorial.open_lineages("small", params="150M", seed=0, metrics=["arc_easy", "train_loss"]).load()


def _enlarged(rows: list[list[Panel]]) -> list[Panel]:
    return [panel for row in rows for panel in row if panel.frame.since_branch]


def _with_early_last_base(ds: xr.Dataset, distance: float) -> xr.Dataset:
    """Runs of one base, whose values in the last `distance` tokens before the branch are missing."""
    one = ds[["arc_easy"]].dde.sel(data="Dolma1.7")
    branch = float(np.nanmin(one.branch_tokens))
    tokens = one.cumulative_tokens
    is_missing = (tokens > branch - distance) & (tokens <= branch)
    return one.assign(arc_easy=one.arc_easy.where(~is_missing))


@pytest.mark.parametrize("distance", [2e8, 9e8, 4e9])
def test_an_enlarged_panel_shows_where_runs_start(suite: xr.Dataset, distance: float) -> None:
    """The last value of the base is inside, or the line from it crosses the left edge at a height that is shown."""
    for panel in _enlarged(curve_panels(_with_early_last_base(suite, distance), "arc_easy")):
        (left, right), (low, high) = panel.frame.x_range, panel.frame.y_range  # type: ignore[misc]
        joints = [(s.anchor[0] - since, *s.anchor[1:], s) for s, since in panel.shifted_segments() if s.anchor]
        assert joints
        reach = right / 1.05
        for x, value, s in joints:
            if x >= -reach:
                assert left < x
                assert low <= value <= high
            else:
                crossing = np.interp(left, [x, s.x[0] - s.origin], [value, s.values[0]])
                assert low <= crossing <= high


def test_an_enlarged_panel_shows_a_piece_of_each_base_nearby(suite: xr.Dataset) -> None:
    for panel in _enlarged(curve_panels(suite, "arc_easy", facet_by=None)):
        (left, right), (low, high) = panel.frame.x_range, panel.frame.y_range  # type: ignore[misc]
        bases = [(s, since) for s, since in panel.shifted_segments() if s.is_base]
        assert bases
        for s, since in bases:
            last = float(s.x[-1] - since)
            assert last < -right or (left < last and low < s.values[-1] < high)


@pytest.mark.parametrize("log_y", [False, True])
def test_no_marker_is_cut_at_an_edge(suite: xr.Dataset, log_y: bool) -> None:
    for row in curve_panels(suite, "arc_easy", log_y=log_y):
        for panel in row:
            (left, right), (low, high) = panel.frame.x_range, panel.frame.y_range  # type: ignore[misc]
            for s, since in panel.shifted_segments():
                x, y = (s.x - since)[s.support == OBSERVED], s.values[s.support == OBSERVED]
                shown = (x >= left) & (x <= right)
                width, height = right - left, high - low
                # 3.5 of at least 165 pixels.
                assert np.all(np.minimum(abs(x - left), abs(x - right)) > 0.0212 * width)
                assert np.all((y[shown] > low + 0.0212 * height) & (y[shown] < high - 0.0212 * height))


def test_log_axes_are_in_every_panel_or_the_label_says_that_one_is_linear(suite: xr.Dataset) -> None:
    plain, enlarged = curve_panels(suite.dde.sel(data="Dolma1.7"), "arc_easy", log_x=True, log_y=True)[0]
    assert (plain.frame.x.is_log, plain.frame.y.is_log) == (True, True)
    assert (enlarged.frame.x.is_log, enlarged.frame.y.is_log) == (False, True)
    assert enlarged.frame.x.label == "tokens since the branch (linear)"
    assert not plain.frame.x.label.endswith("(linear)")


def test_a_training_log_is_a_line_without_specks(suite: xr.Dataset) -> None:
    one = suite.dde.sel(data="DCLM-Baseline", run_type="supervised_ft")
    (figure,) = figures_of(one.dde.plot("train_loss"))
    assert drawn(figure, "MultiLine")
    # Markers of one run alone, all of whose three values are observations.
    visible = [r.data_source.data for r in drawn(figure, "Scatter") if r.glyph.fill_alpha != 0]
    assert [len(data["run_id"]) for data in visible] == [3]
    assert len(set(visible[0]["run_id"])) == 1
    # Other observations have tooltips.
    hovered = [r.data_source.data for r in drawn(figure, "Scatter") if r.glyph.fill_alpha == 0]
    assert "observed" in set(hovered[0]["support"])
    with printed(one.dde.plot("train_loss", backend="matplotlib")) as printed_figure:
        points = [c for a in printed_figure.axes for c in a.collections if type(c).__name__ == "PathCollection"]
        assert [len(c.get_offsets()) for c in points] == [3]


def test_single_points_of_a_training_log_have_markers(suite: xr.Dataset) -> None:
    one = suite.dde.sel(data="DCLM-Baseline", run_type="supervised_ft")
    ((panel,),) = curve_panels(one, "train_loss")
    longest = max(panel.segments, key=lambda s: len(s.x))
    alone = longest.tokens[longest.support == OBSERVED][20]
    around = one.cumulative_tokens.isin(longest.tokens[abs(longest.tokens - alone) < 4e7]) & (
        one.cumulative_tokens != alone
    )
    (figure,) = figures_of(one.assign(train_loss=one.train_loss.where(~around)).dde.plot("train_loss"))
    visible = [r for r in drawn(figure, "Scatter") if r.glyph.fill_alpha != 0]
    assert 1 <= sum(len(r.data_source.data["run"]) for r in visible) < 20


def _texts(figure: Any) -> list[str]:
    return [t.get_text() for axis in figure.axes for t in axis.texts]


def test_a_facet_without_derived_runs_says_so_and_enlarges_nothing() -> None:
    ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy"])
    with printed(ds.dde.plot("arc_easy", backend="matplotlib")) as figure:
        assert _texts(figure) == ["no values after the branch"]
    windows = [len(drawn(f, "Quad")) for f in figures_of(ds.dde.plot("arc_easy"))[::2]]
    assert windows == [1, 1, 0]


@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
def test_stretches_without_data_look_the_same_within_a_run_and_before_it(suite: xr.Dataset, backend: Any) -> None:
    one = suite[["arc_easy"]].dde.sel(data="C4", run="pretraining")
    tokens = one.cumulative_tokens
    gap = one.assign(arc_easy=one.arc_easy.where((tokens < 4e9) | (tokens > 7e9)))
    ((panel,),) = curve_panels(gap, "arc_easy")
    (segment,) = panel.segments
    ((x, values),) = segment.gaps()
    assert (x[0] < 4e9, x[1] > 7e9, len(values)) == (True, True, 2)
    options = {"backend": backend, "zoom": False}
    if backend == "bokeh":
        (within,) = figures_of(gap.dde.plot("arc_easy", **options))
        before = figures_of(suite.dde.sel(data="C4").dde.plot("arc_easy", **options))[0]
        dashes, expected = (
            [r.glyph.line_dash for r in drawn(f, "MultiLine") if r.glyph.line_dash] for f in (within, before)
        )
        assert dashes == expected
        assert len(dashes) == 1
        entries = [[item.label.value.strip() for item in f.legend[0].items] for f in (within, before)]
        assert all("no data between" in labels for labels in entries)
    else:
        with printed(gap.dde.plot("arc_easy", **options)) as figure:
            assert "no data between" in legend_entries(figure)
            lines = [c for c in figure.axes[0].collections if type(c).__name__ == "LineCollection"]
            assert [bool(c.get_linestyle()[0][1]) for c in lines] == [False, True]


def test_a_curve_without_gaps_has_no_such_line(suite: xr.Dataset) -> None:
    ((panel,),) = curve_panels(suite[["arc_easy"]].dde.sel(data="C4", run="pretraining"), "arc_easy")
    assert [s.gaps() for s in panel.segments] == [[]]


def test_limits_keep_off_markers_but_do_not_follow_dense_points() -> None:
    assert off_points(np.array([-0.01, 0.02, 1.0]), 0.0, 1.0, 0.025) == pytest.approx((-0.035, 1.025))
    # One after the other, these would move the limit to the first of them.
    assert off_points(np.linspace(-5, 0.5, 500), 0.0, 1.0, 0.025) == (0.0, 1.0)
    assert off_points(np.array([]), 0.0, 1.0, 0.025) == (0.0, 1.0)
