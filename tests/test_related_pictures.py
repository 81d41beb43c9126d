"""Final values, slopes and parallel coordinates on both backends: what they show, of which runs, and that all fits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import dde
from dde.errors import SelectionError, UnknownNameError
from dde.plots.direct_labels import moved_apart, places_of_labels
from dde.plots.figure_layout import Axis
from dde.plots.parallel_axes import parallel_axis
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

BACKENDS = ("bokeh", "matplotlib")
METRICS = ["arc_easy", "piqa", "train_loss"]


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    return dde.tutorial.open_lineages("small", metrics=METRICS, state="all").load()


@pytest.fixture(scope="module")
def bases(suite: xr.Dataset) -> xr.Dataset:
    return suite.dde.sel(run="pretraining")


@pytest.fixture(scope="module")
def sweep(suite: xr.Dataset) -> xr.Dataset:
    return suite.dde.sel(run_type="supervised_ft", params="150M", seed=0)


def shown(figure: Any, glyph: str, *columns: str) -> list[dict[str, Any]]:
    """What a page holds of glyphs of one kind that have some columns."""
    rows = []
    for renderer in drawn(figure, glyph):
        data = renderer.data_source.data
        if set(columns) <= set(data):
            rows += [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    return rows


def many_runs(count: int) -> xr.Dataset:
    """Trials of one optimiser in which each run has another learning rate."""
    template = optimizers().dde.sel(lineage="tiny", run="adamw_lr=0.001")
    rates = np.geomspace(1e-5, 1e-1, count)
    runs = []
    for k, rate in enumerate(rates):
        one = template.expand_dims([d for d in ("lineage", "run") if d not in template.dims]).transpose(
            "lineage", "run", "cumulative_tokens"
        )
        one = one.assign_coords(
            run=("run", np.array([f"r{k}"], object)),
            learning_rate=("run", [rate], template["learning_rate"].attrs),
            run_id=(("lineage", "run"), np.array([[f"id{k}"]], object)),
        )
        for name in ("parent_run_id", "root_run_id", "state", "token_source", "parent_evidence", "chain"):
            value = template[name].item()
            one = one.assign_coords({name: (("lineage", "run"), np.array([[value]], object))})
        runs.append(one.assign(loss=(one.loss + 0.001 * k).assign_attrs(one.loss.attrs)))
    return xr.concat(runs, "run", data_vars="minimal", coords="minimal", compat="override", join="override")


# Final values


def test_dots_are_means_over_seeds_with_their_interval(bases: xr.Dataset) -> None:
    one = bases.dde.sel(params="4M", data="C4")
    (figure,) = figures_of(one.dde.plot_final("arc_easy"))
    values = one.dde.final("arc_easy", at="schedule").values.ravel()
    assert len(values) == 3
    (mean,) = [p for p in shown(figure, "Scatter", "note") if p["note"] == "mean of 3 runs"]
    assert mean["arc_easy"] == pytest.approx(values.mean(), rel=1e-12)
    singles = [p["arc_easy"] for p in shown(figure, "Scatter", "note") if p["note"] != "mean of 3 runs"]
    assert sorted(singles) == sorted(values)
    low, high = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    (bar,) = drawn(figure, "MultiLine")
    assert np.ravel(bar.data_source.data["xs"]) == pytest.approx([low, high])


def test_each_run_has_a_dot_without_means(bases: xr.Dataset) -> None:
    one = bases.dde.sel(params="4M")
    figures = figures_of(one.dde.plot_final("arc_easy", over=None, hue_by=None))
    values = one.dde.final("arc_easy", at="schedule").values.ravel()
    points = [p["arc_easy"] for p in shown(figures[0], "Scatter", "note")]
    assert sorted(points) == sorted(values[np.isfinite(values)])
    assert "runs over" not in caption_of(one.dde.plot_final("arc_easy", over=None))


@pytest.mark.parametrize(("metric", "best_is_last"), [("arc_easy", True), ("train_loss", False)])
def test_rows_are_sorted_best_first(sweep: xr.Dataset, metric: str, best_is_last: bool) -> None:
    one = sweep.dde.sel(data="DCLM-Baseline")
    with printed(one.dde.plot_final(metric, hue_by=None, backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
        axis = figure.axes[0]
        dots = [c.get_offsets() for c in axis.collections if len(c.get_offsets()) > 3][-1]
        ordered = dots[np.argsort(-dots[:, 1])][:, 0]
    assert (np.diff(ordered) <= 0).all() if best_is_last else (np.diff(ordered) >= 0).all()
    assert len(ordered) > 5


def test_rows_follow_a_given_order_or_their_coordinates(bases: xr.Dataset) -> None:
    few = bases.dde.sel(params="150M")
    order = ["C4", "Dolma1.7", "DCLM-Baseline"]
    for options, expected in [
        ({"order": {"data": order}}, order),
        ({"sort": False}, ["Dolma1.7", "C4", "DCLM-Baseline"]),
        ({"labels": {"C4": "the C4"}, "order": {"data": order}}, ["the C4", *order[1:]]),
    ]:
        with printed(few.dde.plot_final("arc_easy", backend="matplotlib", **options)) as figure:
            # From above.
            assert tick_labels(figure.axes[0].yaxis) == expected
    with pytest.raises(SelectionError, match=r"order= of data misses 'C4'"):
        few.dde.plot_final("arc_easy", order={"data": order[1:]})


def test_metrics_are_panels_with_rows_in_one_order(bases: xr.Dataset) -> None:
    with printed(bases.dde.plot_final(["arc_easy", "piqa"], backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
        panels = [a for a in figure.axes if a.axison][:2]
        assert [a.get_title("left") for a in panels] == ["ARC-Easy", "PIQA"]
        assert tick_labels(panels[0].yaxis) == tick_labels(panels[1].yaxis)
        assert {"4M", "1B", "single run", "95% interval"} <= set(legend_entries(figure))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_caption_counts_what_is_left_out(bases: xr.Dataset, backend: Any) -> None:
    text = caption_of(bases.dde.plot_final("arc_easy", backend=backend))
    found = dde.analysis.footing.values_at(bases, "arc_easy")
    left_out = dde.analysis.footing.count_left_out(found.status)
    assert left_out
    for part in left_out.split("; "):
        reason, _, count = part.rpartition(": ")
        assert f"{count} ({reason})" in text
    assert text.startswith("ARC-Easy (primary metric) at the planned end; means of 1–3 runs over seed")
    assert "Student's t" in text
    assert "at 200M tokens" in caption_of(bases.dde.plot_final("arc_easy", at=2e8, backend=backend))
    assert caption_of(bases.dde.plot_final("arc_easy", caption=False, backend=backend)) == ""


def test_final_values_of_other_suites() -> None:
    sizes, trials = ladder(), optimizers()
    (figure,) = figures_of(trials.dde.plot_final("loss"))
    means = [p for p in shown(figure, "Scatter", "note") if p["note"] == "mean of 2 runs"]
    assert len(means) == 8
    with printed(sizes.dde.plot_final("loss", backend="matplotlib")) as printed_figure:
        assert_nothing_is_cut_off(printed_figure)
        # Lower is better, and larger models are.
        assert tick_labels(printed_figure.axes[0].yaxis)[0].startswith("1B")
    with pytest.raises(UnknownNameError, match=r"over='sede' is not a factor.*Did you mean seed"):
        sizes.dde.plot_final("loss", over="sede")


def test_members_of_means_end_at_the_same_tokens() -> None:
    trials = optimizers()
    cut = trials.loss.where(
        ~((trials["replicate"] == 2) & (trials.cumulative_tokens > 300)) | (trials["learning_rate"] < 2e-3)
    )
    cut.attrs = trials.loss.attrs
    # The last sample of a run that has a value decides.
    with pytest.raises(SelectionError, match=r"end at different tokens, such as 300 and 800.*at='common'"):
        trials.assign(loss=cut).dde.plot_final("loss")
    assert trials.assign(loss=cut).dde.plot_final("loss", at="common", backend="matplotlib")
    assert trials.assign(loss=cut).dde.plot_final("loss", over=None, backend="matplotlib")


def test_a_picture_of_nothing_says_why(bases: xr.Dataset) -> None:
    with pytest.raises(
        SelectionError,
        match=r"no run has a value of arc_easy at 1e18 tokens \(no observation: 2; no value at the place: 39\)",
    ):
        bases.dde.plot_final("arc_easy", at=1e18)
    with pytest.raises(UnknownNameError, match=r"hue_by='dat'.*Did you mean data"):
        bases.dde.plot_final("arc_easy", hue_by="dat")
    with pytest.raises(UnknownNameError, match="group_by='nothing'"):
        bases.dde.plot_final("arc_easy", group_by="nothing")
    with pytest.raises(UnknownNameError, match="labels= has 'nobody'"):
        bases.dde.plot_final("arc_easy", labels={"nobody": "x"})
    with pytest.raises(SelectionError, match="are more than can be looked at"):
        many_runs(250).dde.plot_final("loss", hue_by=None)


# Slopes


def test_lines_join_the_base_at_the_branch_and_the_end(sweep: xr.Dataset) -> None:
    (figure,) = figures_of(sweep.dde.plot_slopes("arc_easy"))
    answer = sweep.dde.effect("arc_easy")
    there = answer.status == "entered"
    expected = sorted(zip(answer.base_value.values[there.values], answer.value.values[there.values], strict=True))
    joined = sorted(tuple(map(float, y)) for y in drawn(figure, "MultiLine")[0].data_source.data["ys"])
    assert len(expected) > 5
    assert np.array(joined) == pytest.approx(np.array(expected))


@pytest.mark.parametrize("backend", BACKENDS)
def test_means_of_slopes_have_intervals_at_both_ends(backend: Any) -> None:
    sizes = ladder()
    picture = sizes.dde.plot_slopes("loss", over="seed", backend=backend)
    assert "means of 2 runs over seed" in caption_of(picture)
    if backend == "bokeh":
        (figure,) = figures_of(picture)
        bars = drawn(figure, "MultiLine")[1].data_source.data
        assert len(bars["xs"]) == 12
    else:
        with printed(picture) as figure:
            assert_nothing_is_cut_off(figure)
            assert "95% interval" in legend_entries(figure)


def test_labels_of_lines_do_not_overlap(sweep: xr.Dataset) -> None:
    picture = sweep.dde.plot_slopes(["arc_easy", "piqa"], backend="matplotlib")
    with printed(picture) as figure:
        assert_nothing_is_cut_off(figure)
        renderer = figure.canvas.get_renderer()
        for axis in [a for a in figure.axes if a.texts]:
            boxes = sorted((t.get_window_extent(renderer) for t in axis.texts), key=lambda b: b.y0)
            assert len(boxes) > 10
            # Boxes have some space above and below their letters.
            assert all(b.y0 - a.y0 > 0.85 * a.height for a, b in pairwise(boxes))
            frame = axis.get_window_extent(renderer)
            assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 + 2 for b in boxes)


def test_many_lines_have_colours_and_no_labels(suite: xr.Dataset) -> None:
    (figure,) = figures_of(suite.dde.plot_slopes("arc_easy", at="last", hue_by="params", max_distance=None))
    assert not drawn(figure, "Text")
    (labelled,) = figures_of(suite.dde.sel(params="20M").dde.plot_slopes("arc_easy", at="last"))
    assert drawn(labelled, "Text")
    (without,) = figures_of(suite.dde.sel(params="20M").dde.plot_slopes("arc_easy", at="last", label_by=None))
    assert not drawn(without, "Text")


def test_slopes_of_bases_alone_say_why(bases: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="no run of the Dataset started from a base"):
        bases.dde.plot_slopes("arc_easy")


def test_a_logarithmic_axis_counts_the_lines_that_it_cannot_show() -> None:
    sizes = ladder()
    shifted = sizes.assign(loss=(sizes.loss - 2.0).assign_attrs(sizes.loss.attrs))
    text = caption_of(shifted.dde.plot_slopes("loss", log_y=True))
    assert "with values at or below zero on a logarithmic axis" in text
    negative = sizes.assign(loss=(sizes.loss - 9.0).assign_attrs(sizes.loss.attrs))
    with pytest.raises(SelectionError, match="log_y=False"):
        negative.dde.plot_slopes("loss", log_y=True)


def test_labels_are_moved_apart_by_as_little_as_possible() -> None:
    rng = np.random.default_rng(5)
    for count in (1, 2, 7, 20):
        wanted = rng.uniform(0, 10, count)
        found = moved_apart(wanted.tolist(), 0.5, 0.0, 10.0)
        assert found is not None
        ordered = found[np.argsort(wanted, kind="stable")]
        assert (np.diff(ordered) >= 0.5 - 1e-9).all()
        assert ordered[0] >= 0.25 - 1e-9
        assert ordered[-1] <= 9.75 + 1e-9
    assert moved_apart([1.0, 9.0], 0.5, 0.0, 10.0).tolist() == [1.0, 9.0]  # type: ignore[union-attr]
    assert places_of_labels([1.0] * 9, Axis("a", "", limits=(0.0, 2.0)), 100, 12) is None


# Parallel coordinates


def test_runs_pass_through_their_hyperparameters_and_values(sweep: xr.Dataset) -> None:
    (figure,) = figures_of(sweep.dde.plot_parallel(["arc_easy", "piqa"]))
    lines = drawn(figure, "MultiLine")[0].data_source.data
    values = sweep.dde.final("arc_easy", at="schedule").values.ravel()
    assert len(lines["ys"]) == np.isfinite(values).sum()
    titles = {t for row in shown(figure, "Text", "text") for t in [row["text"]]}
    assert {"ARC-Easy", "PIQA", "data"} <= titles
    assert {"Dolma1.7", "C4", "1e-3"} <= titles
    ends = sorted(float(y[-2]) for y in lines["ys"])
    finite = values[np.isfinite(values)]
    assert ends == pytest.approx(sorted((finite - finite.min()) / np.ptp(finite)))


def test_axes_are_logarithmic_where_values_span_decades() -> None:
    rates = parallel_axis("lr", "lr", [1e-6, 1e-5, 1e-4])
    assert rates.kind == "log"
    assert rates.places == pytest.approx([0, 0.5, 1])
    assert parallel_axis("lr", "lr", [1e-5, 2e-5]).kind == "linear"
    assert parallel_axis("lr", "lr", [1e-6, 1e-4], log=False).kind == "linear"
    assert parallel_axis("x", "x", [-1.0, 100.0]).kind == "linear"
    shown_ticks = parallel_axis("x", "x", np.geomspace(1, 1e6, 50).tolist()).ticks
    assert 3 <= len(shown_ticks) <= 9
    assert parallel_axis("one", "one", [3.0, 3.0]).places == [0.5, 0.5]


def test_missing_and_infinite_values_have_places_of_their_own() -> None:
    axis = parallel_axis("budget", "budget", [1.0, np.nan, np.inf, 2.0])
    assert axis.has_missing
    assert axis.has_infinite
    assert min(axis.places) < 0
    assert max(axis.places) > 1
    assert {"none", "full"} <= {t for _, t in axis.ticks}
    negative = parallel_axis("x", "x", [0.0, 1.0, 100.0], log=True)
    assert "none or 0" in {t for _, t in negative.ticks}
    names = parallel_axis("data", "data", ["b", "", "a"], ["a", "b"])
    assert names.places == [1.0, min(names.places), 0.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_colour_is_a_metric_or_a_coordinate(sweep: xr.Dataset, backend: Any) -> None:
    by_metric = sweep.dde.plot_parallel("arc_easy", hue_by="piqa", backend=backend)
    by_data = sweep.dde.plot_parallel("arc_easy", hue_by="data", backend=backend)
    if backend == "matplotlib":
        with printed(by_metric) as figure:
            assert_nothing_is_cut_off(figure)
            assert [c.get_title("left") for a in figure.axes for c in a.child_axes] == ["PIQA, primary metric"]
        with printed(by_data) as figure:
            assert {"Dolma1.7", "C4"} <= set(legend_entries(figure))
    else:
        (figure,) = figures_of(by_metric)
        assert len(set(drawn(figure, "MultiLine")[0].data_source.data["color"])) > 5


def test_runs_without_a_value_of_the_colour_are_grey(suite: xr.Dataset) -> None:
    some = suite.dde.sel(params="150M")
    with printed(some.dde.plot_parallel("arc_easy", hue_by="learning_rate", backend="matplotlib")) as figure:
        assert "no value" in legend_entries(figure)


def test_axes_can_be_named(sweep: xr.Dataset) -> None:
    (figure,) = figures_of(sweep.dde.plot_parallel("piqa", dimensions=["piqa", "learning_rate"], log=["learning_rate"]))
    assert {len(x) for x in drawn(figure, "MultiLine")[0].data_source.data["xs"]} == {2}
    for options, message in [
        ({"dimensions": ["piqa", "learning_rat"]}, r"dimensions='learning_rat'.*Did you mean learning_rate"),
        ({"hue_by": "learning_rat"}, r"hue_by='learning_rat'.*Did you mean learning_rate"),
        ({"log": ["data"]}, "log='data' is not an axis of numbers"),
    ]:
        with pytest.raises(UnknownNameError, match=message):
            sweep.dde.plot_parallel("piqa", **options)
    with pytest.raises(SelectionError, match="need 2 to 16 axes"):
        sweep.dde.plot_parallel("piqa", dimensions=["piqa"])


# All of them


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_hundred_runs(backend: Any) -> None:
    runs = many_runs(200)
    pictures = [
        runs.dde.plot_final("loss", backend=backend),
        runs.dde.plot_parallel("loss", backend=backend),
    ]
    for picture in pictures:
        assert "200 runs" in caption_of(picture)
        if backend == "matplotlib":
            with printed(picture) as figure:
                assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_run(sweep: xr.Dataset, backend: Any) -> None:
    dolma = sweep.dde.sel(data="Dolma1.7")
    some = np.isfinite(dolma.dde.final("piqa", at="schedule").values.ravel())
    one = dolma.isel(run=np.flatnonzero(some)[:1])
    assert "1 run" in caption_of(one.dde.plot_final("piqa", backend=backend))
    assert "1 run" in caption_of(one.dde.plot_slopes("piqa", backend=backend))
    assert one.dde.plot_parallel("piqa", dimensions=["learning_rate", "piqa"], backend=backend)
    scalar = one.isel(lineage=0, run=0)
    assert "1 run" in caption_of(scalar.dde.plot_final("piqa", backend=backend))


@pytest.mark.parametrize("method", ["plot_final", "plot_slopes", "plot_parallel"])
def test_reopened_swept_and_single_metrics_draw_the_same(sweep: xr.Dataset, tmp_path: Path, method: str) -> None:
    one = sweep.dde.sel(data="Dolma1.7")
    one.to_netcdf(tmp_path / "saved.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "saved.nc", engine="h5netcdf") as again:
        expected = caption_of(getattr(one.dde, method)("piqa", backend="matplotlib"))
        assert caption_of(getattr(again.dde, method)("piqa", backend="matplotlib")) == expected
    assert caption_of(getattr(one.piqa.dde, method)(backend="matplotlib")) == expected
    rates = one.dde.sel(epochs=1, finetune_tokens=1e8).dde.sweep("learning_rate")
    assert "learning_rate" in rates.dims
    assert getattr(rates.dde, method)("piqa", backend="matplotlib")


@pytest.mark.parametrize("method", ["plot_final", "plot_slopes", "plot_parallel"])
def test_options_of_pictures(sweep: xr.Dataset, method: str) -> None:
    draw = getattr(sweep.dde, method)
    with printed(draw("piqa", backend="matplotlib", title="My runs", font_size=10, legend="bottom")) as figure:
        assert "My runs" in [t.get_text() for t in figure.texts]
        assert_nothing_is_cut_off(figure)
    with printed(draw("piqa", backend="matplotlib", size=(12, 7))) as figure:
        assert tuple(figure.get_size_inches()) == pytest.approx((12, 7))
    with pytest.raises(UnknownNameError, match="palette='virids'"):
        draw("piqa", palette="virids")
    with pytest.raises(UnknownNameError, match="not a variable of this Dataset"):
        draw("piqua")
    with pytest.raises(UnknownNameError, match="is not a place at which runs"):
        draw("piqa", at="end")
    with pytest.raises(UnknownNameError, match="not a backend"):
        draw("piqa", backend="plotly")
