"""Values that an axis can't show, booleans, and missing attributes: drawn, or counted and named."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.errors import DdeWarning, SelectionError
from dde.plots.axis_format import padded_range
from dde.plots.colours import label_of, shades
from dde.plots.curve_segments import find_segments
from dde.plots.curves import curve_panels
from picture_checks import assert_nothing_is_cut_off, drawn, figures_of, legend_entries, printed


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    chosen = {"params": ["4M", "150M"], "data": ["C4", "Dolma1.7"]}
    return dde.tutorial.open_lineages("small", metrics=["arc_easy", "train_loss"], **chosen).load()


@pytest.fixture(scope="module")
def bases(suite: xr.Dataset) -> xr.Dataset:
    return suite[["arc_easy"]].dde.sel(run=["pretraining"])


@pytest.fixture(scope="module")
def sweep(suite: xr.Dataset) -> xr.Dataset:
    """Finetuning of one base from its last checkpoint, with one budget."""
    chosen = {"params": "150M", "data": "Dolma1.7", "seed": 0, "epochs": 1, "finetune_tokens": 1e8}
    return suite[["arc_easy"]].dde.sel(run_type="supervised_ft", branch_point="", **chosen)


# Infinite values


def test_infinite_cells_are_counted_and_their_neighbours_not_joined(bases: xr.Dataset) -> None:
    one = bases.dde.sel(lineage=["c4-150M-default"])
    finite = find_segments(one, "arc_easy")[0]
    lost = one.arc_easy.where(~one.cumulative_tokens.isin(finite.tokens[3:5]), np.inf)
    with pytest.warns(DdeWarning, match=r"^2 cells of arc_easy are infinite, so an axis can.t show") as caught:
        ((panel,),) = curve_panels(one.assign(arc_easy=lost), "arc_easy")
    assert len(caught) == 1
    (segment,) = panel.segments
    assert segment.tokens.tolist() == np.delete(finite.tokens, [3, 4]).tolist()
    assert [len(x) for x, _ in segment.lines()] == [3, len(finite.x) - 5]
    with pytest.warns(DdeWarning) as caught:
        curve_panels(one.assign(arc_easy=lost - 0.3), "arc_easy", log_y=True)
    assert sorted(re.sub(r"\d+", "n", str(w.message))[:40] for w in caught) == [
        "n cells of arc_easy are infinite, so an ", "n cells of arc_easy are not positive, so",
    ]  # fmt: skip


@pytest.mark.parametrize("every", [False, True])
def test_infinite_ends_have_the_colour_of_the_end_of_the_bar(sweep: xr.Dataset, every: bool) -> None:
    diverged = sweep.assign(arc_easy=sweep.arc_easy.where((sweep.learning_rate < 3e-5) & (not every), -np.inf))
    (figure,) = figures_of(diverged.dde.plot_heatmap("arc_easy", backend="bokeh"))
    cells = [
        (value, colour)
        for r in drawn(figure, "Quad")
        if "count" in r.data_source.data
        for value, colour in zip(r.data_source.data["value"], r.data_source.data["colour"], strict=True)
    ]
    lost = [colour for value, colour in cells if np.isinf(value)]
    assert len(lost) == (len(cells) if every else 2)
    assert set(lost) == {shades()[0]}
    with printed(diverged.dde.plot_heatmap("arc_easy", backend="matplotlib")) as figure:
        assert [t.get_text() for t in figure.axes[0].texts].count("-inf") == len(lost)
        assert_nothing_is_cut_off(figure)
    (tree,) = figures_of(diverged.dde.plot_tree("arc_easy", backend="bokeh"))
    labels = [v for r in drawn(tree, "Scatter") if "value" in r.data_source.data for v in r.data_source.data["value"]]
    assert labels.count("-inf") == len(lost)
    assert "none" not in labels


def test_runs_that_scaling_has_no_place_for_are_named(bases: xr.Dataset) -> None:
    small = bases.params == "4M"
    picture = r"so they can't be shown and are not drawn\."
    for changed, options, why in (
        (bases.assign(arc_easy=bases.arc_easy.where(~small, np.inf)), {}, "end at infinite values of arc_easy"),
        (bases.assign(arc_easy=bases.arc_easy.where(~small, -1.0)), {"log_y": True}, "are at or below zero"),
        (bases.assign_coords(n_params=bases.n_params.where(~small)), {}, "have no known cumulative compute"),
    ):
        message = rf"^6 runs \(\S+-4M-default, \S+, \S+, \.\.\.\) {why}.*{picture}"
        with pytest.warns(DdeWarning, match=message) as caught:
            (figure,) = figures_of(changed.dde.plot_scaling("arc_easy", backend="bokeh", **options))
        assert len(caught) == 1
        shown = {r for g in drawn(figure, "Scatter") for r in g.data_source.data.get("run_id", [])}
        assert len(shown) == 6
        assert not any("-4M-" in run_id for run_id in shown)


# Logarithmic axes


def test_an_interval_that_reaches_below_zero_holds_its_mean_on_a_logarithmic_axis(bases: xr.Dataset) -> None:
    around = bases.isel(lineage=slice(0, 3)).copy()
    around["arc_easy"] = around.arc_easy * 0 + xr.DataArray([-0.1, 0.2, 0.4], dims="lineage")
    options: dict[str, Any] = {"band": "seed", "log_y": True, "facet_by": None}
    ((panel,),) = curve_panels(around, "arc_easy", **options)
    (low, high) = panel.frame.y_range  # type: ignore[misc]
    assert 0 < low < panel.segments[0].values.min() < high
    (figure,) = figures_of(around.dde.plot("arc_easy", backend="bokeh", **options))
    (band,) = drawn(figure, "Patch")
    edges = np.asarray(band.data_source.data["y"])
    assert (edges > 0).all()
    assert edges.min() < low
    assert edges.max() > panel.segments[0].values.max()
    assert padded_range([-1.0, 0.0], log=True) is None


# Truth values


@pytest.mark.parametrize("argument", ["hue_by", "style_by", "facet_by"])
def test_truth_values_tell_runs_apart(bases: xr.Dataset, sweep: xr.Dataset, argument: str) -> None:
    assert (label_of(True), label_of(np.False_)) == ("True", "False")
    flagged = bases.assign_coords(large=bases.n_params > 1e8)
    for draw in (flagged.dde.plot, flagged.dde.plot_scaling):
        with printed(draw("arc_easy", backend="matplotlib", **{argument: "large"})) as figure:
            written = [*legend_entries(figure), *(a.get_title("left") for a in figure.axes)]
            assert {True, False} <= {value for value in (True, False) for text in written if str(value) in text}
    both = sweep.assign_coords(large=sweep.learning_rate > 1e-5)
    (figure, *_) = figures_of(both.dde.plot_heatmap("arc_easy", "learning_rate", "large", backend="bokeh"))
    assert set(figure.yaxis[0].major_label_overrides.values()) == {"True", "False"}


def test_metrics_of_truth_values_are_drawn(suite: xr.Dataset) -> None:
    passed = suite.assign(passed=(suite.arc_easy > 0.3).drop_attrs().dde.sampled_as("evaluations"))
    for draw in (passed.dde.plot, passed.dde.sel(run="pretraining").dde.plot_scaling):
        with printed(draw("passed", backend="matplotlib")) as figure:
            assert {a.get_ylabel() for a in figure.axes} >= {"passed"}


# Attributes that are gone


def test_what_is_not_known_to_be_a_log_has_points_of_full_size(suite: xr.Dataset) -> None:
    bare = suite[["arc_easy"]].drop_attrs()
    with pytest.warns(DdeWarning, match="no attribute that names its sampling"):
        found = find_segments(bare, "arc_easy")
    for before, after in zip(find_segments(suite, "arc_easy"), found, strict=True):
        assert not before.is_log
        assert not after.is_log
        # Losses of two jobs are not comparable, so nothing is joined that is not known to be an evaluation.
        assert after.anchor is None
        assert after.values.tolist() == before.values[-len(after.values) :].tolist()
    assert all(s.is_log for s in find_segments(suite, "train_loss"))


# Values of pictures of final values


@pytest.fixture(scope="module")
def finetuned(suite: xr.Dataset) -> xr.Dataset:
    return suite[["arc_easy"]].dde.sel(params="150M", run_type="supervised_ft")


def of_final(dataset: xr.Dataset, **options: Any) -> Any:
    return dataset.dde.plot_final("arc_easy", group_by="data", backend="matplotlib", **options)


def of_slopes(dataset: xr.Dataset, **options: Any) -> Any:
    return dataset.dde.plot_slopes("arc_easy", backend="matplotlib", **options)


def of_parallel(dataset: xr.Dataset, **options: Any) -> Any:
    return dataset.dde.plot_parallel("arc_easy", dimensions=["data", "arc_easy"], backend="matplotlib", **options)


@pytest.mark.parametrize("draw", [of_final, of_slopes, of_parallel])
def test_final_values_are_numbers(finetuned: xr.Dataset, draw: Any) -> None:
    start = np.datetime64("2025-01-01", "ns")
    when = finetuned.arc_easy.copy(data=np.full(finetuned.arc_easy.shape, start))
    for values, said in (
        (when, "holds times, and this picture needs numbers"),
        (when - start, "holds durations"),
        (finetuned.arc_easy.astype(str), "holds text"),
        (finetuned.arc_easy.astype(complex), "holds complex numbers"),
    ):
        with pytest.raises(SelectionError, match=said):
            draw(finetuned.assign(arc_easy=values))
    with pytest.raises(SelectionError, match="no run has a value of arc_easy"):
        draw(finetuned.assign(arc_easy=finetuned.arc_easy * np.nan))


@pytest.mark.parametrize(("draw", "log", "noun"), [(of_final, "log_x", "dot"), (of_slopes, "log_y", "line")])
def test_values_that_an_axis_cannot_show_are_counted(finetuned: xr.Dataset, draw: Any, log: str, noun: str) -> None:
    is_lost = (finetuned.data == "C4").broadcast_like(finetuned.arc_easy)
    with printed(draw(finetuned.assign(arc_easy=finetuned.arc_easy.where(~is_lost, np.inf)))) as figure:
        caption = " ".join(figure.texts[-1].get_text().split())
    assert re.search(rf"not drawn: \d+ {noun}s? with infinite values", caption)
    with printed(draw(finetuned.assign(arc_easy=finetuned.arc_easy.where(~is_lost, 0.0)), **{log: True})) as figure:
        caption = " ".join(figure.texts[-1].get_text().split())
    assert re.search(rf"not drawn: \d+ {noun}s? with values at or below zero on a logarithmic axis", caption)
    with pytest.raises(SelectionError, match=rf"{noun}s with infinite values\).*\. Select other runs"):
        draw(finetuned.assign(arc_easy=finetuned.arc_easy + np.inf))
    with pytest.raises(SelectionError, match=rf"at or below zero on a logarithmic axis\).*Pass {log}=False"):
        draw(finetuned.assign(arc_easy=-finetuned.arc_easy), **{log: True})


def test_runs_that_diverged_are_lines_of_parallel_coordinates(finetuned: xr.Dataset) -> None:
    is_lost = (finetuned.learning_rate > 1e-5).broadcast_like(finetuned.arc_easy)
    diverged = finetuned.assign(arc_easy=finetuned.arc_easy.where(~is_lost, np.inf))
    with printed(of_parallel(diverged)) as figure:
        caption = figure.texts[-1].get_text()
        assert any(text.get_text() == "inf" for text in figure.axes[0].texts)
    with printed(of_parallel(finetuned)) as figure:
        assert figure.texts[-1].get_text() == caption, "as many runs"
