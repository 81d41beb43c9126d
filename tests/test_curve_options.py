"""Smoothed curves, limits without outliers, and highlighted runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.errors import SelectionError, UnknownNameError
from dde.plots.curve_options import CurveOptions
from dde.plots.curves import curve_panels
from dde.plots.panels import Panel, x_values
from picture_checks import drawn, figures_of, legend_entries, printed


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    chosen = {"params": "150M", "data": ["DCLM-Baseline", "Dolma1.7"], "seed": 0}
    ds = dde.tutorial.open_lineages("small", metrics=["arc_easy", "train_loss"], grid="union", **chosen)
    # DPO reduces the loss in another way.
    return ds.dde.sel(run_type=["pretraining", "supervised_ft"]).load()


def _panels(ds: xr.Dataset, metric: str, **options: Any) -> list[Panel]:
    return [panel for row in curve_panels(ds, metric, **options) for panel in row]


@pytest.fixture(scope="module")
def spiked(suite: xr.Dataset) -> xr.Dataset:
    """A training loss with one value far above the others, and one far below."""
    values = suite.train_loss.values.copy()
    cells = np.argwhere(np.isfinite(values))
    values[tuple(cells[50])], values[tuple(cells[900])] = 9.0, -3.0
    return suite.assign(train_loss=suite.train_loss.copy(data=values))


# Smoothing


def test_smoothed_curves_are_those_of_the_analysis_with_the_curves_behind(suite: xr.Dataset) -> None:
    plain = _panels(suite, "train_loss")
    expected = _panels(suite.dde.smooth("train_loss", span=2e8), "train_loss")
    for panel, other, original in zip(_panels(suite, "train_loss", smooth=2e8), expected, plain, strict=True):
        for ours, theirs in ((panel.segments, other.segments), (panel.behind, original.segments)):
            assert [s.run_id for s in ours] == [s.run_id for s in theirs]
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a.values, b.values)
        low, high = panel.frame.y_range  # type: ignore[misc]
        assert all(low < s.values.min() and s.values.max() < high for s in [*panel.segments, *panel.behind])
        assert "exponential mean over 2e8 tokens" in panel.frame.y.label


def test_curves_behind_are_faint_lines_in_both_backends(suite: xr.Dataset) -> None:
    one = suite.dde.sel(data="Dolma1.7")
    with printed(one.dde.plot("train_loss", smooth=2e8, backend="matplotlib")) as figure:
        assert "not smoothed" in legend_entries(figure)
        behind, above = (
            [c for c in figure.axes[0].collections if type(c).__name__ == "LineCollection"][k] for k in (0, 1)
        )
        assert behind.get_alpha() < 0.4 < above.get_alpha()
    (page,) = figures_of(one.dde.plot("train_loss", smooth=2e8))
    alphas = [r.glyph.line_alpha for r in drawn(page, "MultiLine")]
    assert alphas[0] < 0.4 < alphas[1]


def test_means_and_differences_are_of_smoothed_values(suite: xr.Dataset) -> None:
    (panel,) = _panels(suite, "arc_easy", smooth=4e9, relative_to="base", facet_by=None, x="post_tokens")
    (other,) = _panels(
        suite.dde.smooth("arc_easy", span=4e9), "arc_easy", relative_to="base", facet_by=None, x="post_tokens"
    )
    assert [s.values.tolist() for s in panel.segments] == [s.values.tolist() for s in other.segments]


@pytest.mark.parametrize("smooth", [0, -1e9, float("nan"), True, "2B"])
def test_a_span_that_is_none_is_an_error(suite: xr.Dataset, smooth: Any) -> None:
    with pytest.raises(SelectionError, match=r"smooth=.* is not a positive number of tokens"):
        curve_panels(suite, "arc_easy", smooth=smooth)


# Outliers


def test_outliers_are_outside_and_counted_in_a_note(suite: xr.Dataset, spiked: xr.Dataset) -> None:
    plain = _panels(suite, "train_loss", facet_by=None)[0].frame.y_range
    wide = _panels(spiked, "train_loss", facet_by=None)[0].frame.y_range
    (panel,) = _panels(spiked, "train_loss", facet_by=None, clip_outliers=True)
    low, high = panel.frame.y_range  # type: ignore[misc]
    assert wide[0] < -3 < plain[0] - 1 < low < high < plain[1] + 1 < 9 < wide[1]  # type: ignore[index]
    count = sum(len(s.x) for s in panel.segments)
    assert panel.frame.note == f"not shown: 2 of {count} values (-3 to 9)"
    # The data keep them.
    assert max(s.values.max() for s in panel.segments) == 9.0
    with printed(spiked.dde.plot("train_loss", facet_by=None, clip_outliers=True, backend="matplotlib")) as figure:
        assert "not shown: 2 of" in figure.axes[0].get_xlabel()


def test_a_note_counts_the_values_of_its_panel(spiked: xr.Dataset) -> None:
    notes = [p.frame.note for p in _panels(spiked, "train_loss", clip_outliers=True)]
    assert sum("not shown: 1 of" in note or "not shown: 2 of" in note for note in notes) in (1, 2)
    assert len({p.frame.y_range for p in _panels(spiked, "train_loss", clip_outliers=True)}) == 1


def test_without_outliers_all_values_are_shown(suite: xr.Dataset) -> None:
    for panel in _panels(suite, "train_loss", clip_outliers=0.001):
        assert panel.frame.note == ""
    even = suite.assign(arc_easy=(suite.arc_easy * 0 + 0.5).assign_attrs(suite.arc_easy.attrs))
    for panel in _panels(even, "arc_easy", clip_outliers=True):
        assert panel.frame.note == ""
        assert panel.frame.y_range[0] < 0.5 < panel.frame.y_range[1]  # type: ignore[index]


def test_the_window_is_what_the_other_panel_shows(suite: xr.Dataset) -> None:
    one = suite.dde.sel(data="Dolma1.7")
    plain, enlarged = _panels(one, "arc_easy", clip_outliers=0.2)
    assert plain.frame.window is not None
    assert plain.frame.window[1::2] == enlarged.frame.y_range


@pytest.mark.parametrize("share", [0.5, -0.1, "yes"])
def test_a_share_that_leaves_no_range_is_an_error(suite: xr.Dataset, share: Any) -> None:
    with pytest.raises(SelectionError, match=r"clip_outliers=.* is not a share of values from 0 to 0.5"):
        curve_panels(suite, "arc_easy", clip_outliers=share)


def test_outliers_on_a_logarithmic_axis(suite: xr.Dataset) -> None:
    values = suite.train_loss.values.copy()
    values[tuple(np.argwhere(np.isfinite(values))[50])] = 1e4
    ds = suite.assign(train_loss=suite.train_loss.copy(data=values))
    (panel,) = _panels(ds, "train_loss", facet_by=None, log_y=True, clip_outliers=True)
    low, high = panel.frame.y_range  # type: ignore[misc]
    assert 0.5 < low < high < 3
    assert "not shown: 1 of" in panel.frame.note


# Highlighted runs

RUN = "sft_lr=5e-05_100Mx1"


def test_highlighted_runs_are_strong_on_top_and_in_the_legend(suite: xr.Dataset) -> None:
    one = suite.dde.sel(data="DCLM-Baseline")
    with printed(one.dde.plot("train_loss", highlight=RUN, backend="matplotlib")) as figure:
        lines = [c for c in figure.axes[0].collections if type(c).__name__ == "LineCollection"]
        assert {RUN, "others"} <= set(legend_entries(figure))
        widths = [c.get_linewidths()[0] for c in lines]
        assert widths == sorted(widths)
        assert lines[-1].get_alpha() > 2 * lines[0].get_alpha()
        ((panel,),) = curve_panels(one, "train_loss", highlight=RUN)
        (strong,) = [s for s in panel.segments if panel.look.is_highlighted(s)]
        assert strong.facts["run"] == RUN
        assert len(lines[-1].get_paths()) == 1
    (page,) = figures_of(one.dde.plot("train_loss", highlight=RUN))
    renderers = drawn(page, "MultiLine")
    assert renderers[-1].glyph.line_width > 2 * renderers[0].glyph.line_width
    assert {RUN, "others"} <= {item.label.value.strip() for item in page.legend[0].items}


@pytest.mark.parametrize("by", ["run", "run_id", "lineage"])
def test_runs_are_highlighted_by_label_id_or_lineage(suite: xr.Dataset, by: str) -> None:
    segments = [s for p in _panels(suite, "arc_easy", zoom=False) for s in p.segments]
    chosen = next(s for s in segments if s.facts["run"] == RUN)
    name = str(chosen.facts[by])
    panels = _panels(suite, "arc_easy", highlight=[name], zoom=False)
    strong = {(s.facts["lineage"], s.run_id, s.is_base) for p in panels for s in p.segments if p.look.is_highlighted(s)}
    assert (chosen.facts["lineage"], chosen.run_id, False) in strong
    assert (len(strong) == 1) == (by == "run_id")
    assert any(is_base for *_, is_base in strong) == (by == "lineage")


def test_an_unknown_run_is_an_error_with_near_names(suite: xr.Dataset) -> None:
    with pytest.raises(UnknownNameError, match=r"highlight='sft_lr=5e-05_100Mx' is no run .*sft_lr=5e-05_100Mx1"):
        curve_panels(suite, "arc_easy", highlight="sft_lr=5e-05_100Mx")


def test_options_that_are_not_given_change_nothing(suite: xr.Dataset) -> None:
    assert CurveOptions.of() == CurveOptions()
    for panel in _panels(suite, "arc_easy"):
        assert (panel.behind, panel.look.highlight, panel.frame.note) == ((), (), "") or not panel.behind
        assert len(x_values(panel.shifted_behind())) == 0


def test_answers_refuse_options_of_curves(suite: xr.Dataset) -> None:
    from dde.analysis import best

    answer = best(suite.dde.sel(run_type="supervised_ft"), "arc_easy", over="learning_rate")
    with pytest.raises(UnknownNameError, match="highlight= is not an option of the picture of best"):
        answer.dde.plot(highlight=RUN)
