"""Pictures of curves over any axis, of means, differences and many panels, on both backends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.errors import DdeWarning, SelectionError, UnknownNameError
from dde.plots.axis_format import BOKEH_LOG_TICKS, BOKEH_MINOR_LOG_TICKS, log_ticks, minor_log_ticks, short_number
from dde.plots.colours import NEUTRAL, PRIMARY, colours_of, shades, text_colour
from dde.plots.curve_segments import LINE_POINTS, MARKERS, find_segments, thinned
from dde.plots.curves import curve_panels, plot_curves
from dde.plots.files import save_page
from dde.plots.legends import MOST_ENTRIES
from picture_checks import (
    assert_nothing_is_cut_off,
    caption_of,
    drawn,
    figures_of,
    legend_entries,
    lightness,
    printed,
    tick_labels,
)

TASKS = ["arc_challenge", "arc_easy", "boolq", "csqa", "hellaswag", "openbookqa", "piqa", "socialiqa", "winogrande",
         "mmlu_average"]  # fmt: skip


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    return dde.tutorial.open_lineages("small", metrics=[*TASKS, "train_loss"])


@pytest.fixture(scope="module")
def sweep(suite: xr.Dataset) -> xr.Dataset:
    """Two recipes at 150M, one seed, with what was finetuned from them."""
    of_one_loss = suite.dde.sel(run_type=["pretraining", "supervised_ft"])
    return of_one_loss.dde.sel(params="150M", data=["Dolma1.7", "DCLM-Baseline"], seed=0).load()


@pytest.fixture(scope="module")
def seeds(suite: xr.Dataset) -> xr.Dataset:
    """Pretraining alone, of two recipes at three sizes, three seeds each."""
    chosen = suite.dde.sel(run="pretraining", params=["4M", "20M", "150M"], data=["Dolma1.7", "C4"])
    return chosen[["arc_easy"]].load()


# Axes


@pytest.mark.parametrize("x", ["cumulative_compute", "tokens_per_parameter", "fraction_of_training", "post_tokens"])
def test_any_axis_holds_what_the_coordinates_say(sweep: xr.Dataset, x: str) -> None:
    segments = find_segments(sweep, "arc_easy", x)
    assert {s.is_base for s in segments} == ({False} if x == "post_tokens" else {True, False})
    for s in segments:
        branch, end = (float(s.facts[name]) for name in ("branch_tokens", "schedule_tokens"))
        start = 0.0 if s.is_base else branch
        expected = {
            "cumulative_compute": 6.0 * s.facts["n_params"] * s.tokens,
            "tokens_per_parameter": s.tokens / s.facts["n_params"],
            "fraction_of_training": (s.tokens - start) / (end - start),
            "post_tokens": s.tokens - branch,
        }[x]
        np.testing.assert_allclose(s.x, expected, rtol=1e-12)


def test_a_connection_comes_from_before_the_branch(sweep: xr.Dataset) -> None:
    run = next(s for s in find_segments(sweep, "arc_easy", "post_tokens") if s.anchor)
    base = next(s for s in find_segments(sweep, "arc_easy") if s.facts["lineage"] == run.facts["lineage"])
    assert run.anchor == (pytest.approx(base.tokens[-1] - run.facts["branch_tokens"]), base.values[-1])
    assert run.start == 0.0
    ((panel,),) = curve_panels(sweep, "arc_easy", "post_tokens", facet_by=None)
    assert panel.frame.x_range is not None
    assert panel.frame.x_range[0] < 0, "room for the connection"


@pytest.mark.parametrize("axis", ["post_tokens", "tokens_per_parameter", "fraction_of_training"])
def test_a_dataset_on_another_axis_is_drawn_on_it(axis: str) -> None:
    chosen = {"params": "150M", "data": ["Dolma1.7", "DCLM-Baseline"], "seed": 0, "reduce_loss": ["sum", ""]}
    aligned = dde.tutorial.open_lineages("small", metrics=["train_loss"], axis=axis, **chosen)
    ((panel, *_),) = curve_panels(aligned, facet_by=None)
    assert panel.frame.x.name == axis
    for s in panel.segments:
        assert not s.is_base
        here = aligned.train_loss.sel(lineage=s.facts["lineage"], run=s.facts["run"])
        np.testing.assert_array_equal(s.values, here.sel({axis: s.x}))


def test_a_sweep_is_flattened_back_to_its_runs(sweep: xr.Dataset) -> None:
    swept = sweep.dde.sel(run_type="supervised_ft", branch_point="").dde.sweep("learning_rate", "epochs")
    kept = {s.run_id: s for s in find_segments(swept, "arc_easy") if not s.is_base}
    flat = {s.run_id: s for s in find_segments(sweep, "arc_easy") if s.run_id in kept}
    assert len(kept) > 5
    for run_id, s in kept.items():
        assert (s.values.tolist(), s.facts["run"]) == (flat[run_id].values.tolist(), flat[run_id].facts["run"])
        assert s.facts["learning_rate"] == pytest.approx(flat[run_id].facts["learning_rate"])
    panel = curve_panels(swept, "arc_easy", zoom=False)[0][0]
    assert list(panel.look.colours) == sorted(panel.look.colours)


def test_other_dimensions_are_named(sweep: xr.Dataset) -> None:
    stacked = sweep[["arc_easy"]].expand_dims(member=2)
    with pytest.raises(SelectionError, match="has the dimension member too"):
        find_segments(stacked, "arc_easy")
    with pytest.raises(SelectionError, match="has no coordinates run_id"):
        find_segments(sweep.mean("run"), "arc_easy")


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.8e9, 2e10, "1B 2B 5B 10B 20B"),
        (1e17, 5e20, "1e17 3e17 1e18 3e18 1e19 3e19 1e20 3e20"),
        (14e9, 17e9, "14B 15B 16B 17B"),
        (1e3, 1e8, "1k 10k 100k 1M 10M 100M"),
        (1e-3, 1e15, "0.001 1 1k 1M 1B 1T 1e15"),
        (0.41, 0.44, "0.41 0.42 0.43 0.44"),
    ],
)
def test_ticks_of_logarithmic_axes(low: float, high: float, labels: str) -> None:
    ticks = log_ticks(low, high)
    assert [short_number(t) for t in ticks] == labels.split()
    assert all(low <= t * (1 + 1e-9) and t <= high * (1 + 1e-9) for t in ticks)


def test_no_logarithmic_range_is_without_ticks_or_full_of_them() -> None:
    generator = np.random.default_rng(0)
    for low, span in zip(generator.uniform(-8, 20, 500), generator.uniform(0.005, 30, 500), strict=True):
        assert 3 <= len(log_ticks(10**low, 10 ** (low + span))) <= 9, (low, span)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to run the ticks of a page with")
def test_a_page_has_the_same_ticks(tmp_path: Path) -> None:
    ranges = [(0.8e9, 2e10), (1e17, 5e20), (14e9, 17e9), (1e-3, 1e15), (0.41, 0.44), (7e7, 4e8), (2.0, 90.0)]
    page = tmp_path / "ticks.html"
    page.write_text(f"""<pre id="out"></pre><script>
        const major = new Function("cb_data", {json.dumps(BOKEH_LOG_TICKS)})
        const minor = new Function("cb_data", {json.dumps(BOKEH_MINOR_LOG_TICKS)})
        const found = {json.dumps(ranges)}.map(([start, end]) => {{
          const major_ticks = major({{start, end}})
          return [major_ticks, minor({{start, end, major_ticks}})]
        }})
        document.getElementById("out").textContent = JSON.stringify(found)</script>""")
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run"
    done = subprocess.run(
        ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        check=True, capture_output=True, timeout=120, text=True,
    )  # fmt: skip
    found = json.loads(re.search(r'<pre id="out">(.*?)</pre>', done.stdout)[1])  # type: ignore[index]
    for (low, high), (major, minor) in zip(ranges, found, strict=True):
        assert major == pytest.approx(log_ticks(low, high))
        assert minor == pytest.approx([t for t in minor_log_ticks(low, high) if t not in major])


def test_log_axes_on_both_backends(sweep: xr.Dataset) -> None:
    options: dict[str, Any] = {"x": "post_tokens", "log_x": True, "log_y": True, "facet_by": None}
    with printed(sweep.dde.plot("train_loss", backend="matplotlib", **options)) as figure:
        (axis,) = figure.axes
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
        assert {"100M", "300M", "1B"} <= set(tick_labels(axis.xaxis))
        assert 3 <= len(tick_labels(axis.yaxis)) <= 8
        assert len(axis.xaxis.get_minorticklocs()) > 10
        assert not any(t.get_text() for t in axis.xaxis.get_minorticklabels())
        assert_nothing_is_cut_off(figure)
    (page,) = figures_of(sweep.dde.plot("train_loss", backend="bokeh", **options))
    for axis, grid in ((page.xaxis[0], page.xgrid[0]), (page.yaxis[0], page.ygrid[0])):
        assert axis.ticker.major_code == BOKEH_LOG_TICKS
        assert grid.ticker is axis.ticker
        assert "toExponential" in axis.formatter.code


def test_what_a_logarithmic_axis_has_no_place_for_is_counted(sweep: xr.Dataset) -> None:
    with pytest.warns(DdeWarning, match=r"\d+ cells of arc_easy are not positive"):
        ((panel,),) = curve_panels(sweep, "arc_easy", relative_to="base", facet_by=None, log_y=True)
    assert all((s.values > 0).all() for s in panel.segments)


def words(figure: Any) -> list[list[str]]:
    """What is written in each panel of a picture on either backend."""
    if hasattr(figure, "axes"):
        return [[text.get_text() for text in axis.texts] for axis in figure.axes if axis.axison]
    return [[str(t) for r in drawn(one, "Text") for t in r.data_source.data["text"]] for one in figure]


@pytest.mark.parametrize("logs", [{"log_y": True}, {"log_x": True}])
def test_panels_without_values_say_so_on_any_scale(suite: xr.Dataset, logs: dict[str, bool]) -> None:
    # The second lineage has no finetuning, so nothing of it is in the panels that enlarge the branch.
    two = suite.dde.sel(lineage=["dolma1_7-150M-default", "c4-150M-default"], run_type=["pretraining", "supervised_ft"])
    two = two.where((two.lineage == "dolma1_7-150M-default") | (two.run == "pretraining"))
    expected = [[], [], [], [], ["no values after the branch"], ["no values after the branch"]]
    metrics = ["arc_easy", "train_loss"]
    with printed(two.dde.plot(metrics, backend="matplotlib", **logs)) as figure:
        assert words(figure) == expected
        assert_nothing_is_cut_off(figure)
        panels = [p for row in curve_panels(two, metrics, **logs) for p in row]
        for axis, panel in zip(figure.axes, panels, strict=True):
            assert (axis.get_xlim(), axis.get_ylim()) == (panel.frame.x_range, panel.frame.y_range)
            assert (axis.get_xscale(), axis.get_yscale()) == tuple(
                "log" if a.is_log else "linear" for a in (panel.frame.x, panel.frame.y)
            )
    assert words(figures_of(two.dde.plot(metrics, backend="bokeh", **logs))) == expected


def test_a_metric_that_one_lineage_lacks_has_an_empty_panel(seeds: xr.Dataset) -> None:
    two = seeds.isel(lineage=[0, 5])
    lacking = two.assign(arc_easy=two.arc_easy.where(two.lineage == two.lineage[0]), other=two.arc_easy)
    for backend in ("matplotlib", "bokeh"):
        picture = lacking.dde.plot(["arc_easy", "other"], log_x=True, log_y=True, zoom=False, backend=backend)
        if backend == "bokeh":
            assert words(figures_of(picture)) == [[], [], ["no values"], []]
            continue
        with printed(picture) as figure:
            assert words(figure) == [[], [], ["no values"], []]


# Means and differences


def test_a_band_is_the_interval_of_the_mean(seeds: xr.Dataset) -> None:
    ((panel,),) = curve_panels(seeds, "arc_easy", hue_by="params", facet_by=None, band="seed")
    means = seeds.dde.mean_over("seed")
    assert len(panel.segments) == 6
    for s in panel.segments:
        here = means.sel(lineage=s.facts["lineage"], cumulative_tokens=s.tokens.astype(np.int64)).squeeze()
        for mine, name in ((s.values, "arc_easy"), (s.low, "arc_easy_low"), (s.high, "arc_easy_high")):
            np.testing.assert_array_equal(mine, here[name])
        # Of three seeds the interval is Student's t, by its quantile at 97.5 %.
        members = [label for label in seeds.lineage.values if label.startswith(f"{s.facts['lineage']}-")]
        theirs = seeds.arc_easy.sel(lineage=members, cumulative_tokens=s.tokens.astype(np.int64)).squeeze()
        half = 4.302652729911275 * theirs.std("lineage", ddof=1) / np.sqrt(3)
        np.testing.assert_allclose(s.low, theirs.mean("lineage") - half)
        assert s.facts["n_members"] == 3


def test_a_band_is_drawn_and_the_legend_says_what_it_is(seeds: xr.Dataset) -> None:
    options: dict[str, Any] = {"hue_by": "params", "facet_by": "data", "band": "seed"}
    with printed(seeds.dde.plot("arc_easy", backend="matplotlib", **options)) as figure:
        assert legend_entries(figure) == ["4M", "20M", "150M", "mean of 3 seeds", "95% interval of the mean"]
        assert [len([c for c in axis.collections if type(c).__name__ == "FillBetweenPolyCollection"]) for axis in
                figure.axes] == [3, 3]  # fmt: skip
        assert figure.axes[0].get_ylabel() == "ARC-Easy, primary metric"
        assert_nothing_is_cut_off(figure)
    # Means that were taken before draw the same.
    ready = plot_curves(seeds.dde.mean_over("seed", interval=0.5), "arc_easy", hue_by="params", facet_by="data")
    pages = figures_of(ready)
    assert [len(drawn(page, "Patch")) + len(drawn(page, "VArea")) for page in pages] == [3, 3]
    labels = [item.label.value.strip() for legend in pages[-1].legend for item in legend.items]
    assert labels[-2:] == ["mean of 3 seeds", "50% interval of the mean"]


def test_means_with_other_things_asked_of_them(seeds: xr.Dataset) -> None:
    means = seeds.dde.mean_over("seed")
    with pytest.raises(SelectionError, match="holds means over seed, so there is no band='replicate'"):
        plot_curves(means, "arc_easy", band="replicate")
    with pytest.raises(SelectionError, match=r"difference_to_base\(\)\.dde\.mean_over"):
        plot_curves(means, "arc_easy", relative_to="base")


@pytest.fixture(scope="module")
def ragged(seeds: xr.Dataset) -> xr.Dataset:
    """Two recipes at 150M with three seeds each, one of which ends early and another begins late."""
    chosen = seeds.dde.sel(params="150M")
    tokens = chosen.cumulative_tokens
    return chosen.where((chosen.seed != 1) | (tokens < 9e9)).where((chosen.seed != 2) | (tokens > 3e9))


def test_a_mean_of_fewer_runs_looks_different(ragged: xr.Dataset) -> None:
    options: dict[str, Any] = {"facet_by": None, "hue_by": "data", "band": "seed", "min_count": 1}
    ((panel,),) = curve_panels(ragged, "arc_easy", **options)
    assert len(panel.segments) == 2
    joined: dict[bool, set[tuple[float, float]]] = {False: set(), True: set()}
    for s in panel.segments:
        theirs = ragged.arc_easy.sel(cumulative_tokens=s.tokens.astype(np.int64))
        theirs = theirs.isel(lineage=(ragged.data == s.facts["data"]).values)
        np.testing.assert_array_equal(s.counts, theirs.notnull().sum("lineage"))
        np.testing.assert_allclose(s.values, theirs.mean("lineage"))
        for part, is_partial in s.complete_and_partial_lines():
            joined[is_partial] |= set(zip(part.values[:-1].tolist(), part.values[1:].tolist(), strict=True))
        whole = theirs.notnull().all("lineage").values
        pairs = list(zip(s.values[:-1].tolist(), s.values[1:].tolist(), strict=True))
        assert {p for p, a, b in zip(pairs, whole[:-1], whole[1:], strict=True) if a and b} <= joined[False]
        assert {p for p, a, b in zip(pairs, whole[:-1], whole[1:], strict=True) if not (a and b)} <= joined[True]
    assert not joined[False] & joined[True], "no stretch is drawn twice"
    with printed(ragged.dde.plot("arc_easy", backend="matplotlib", **options)) as figure:
        assert legend_entries(figure) == ["Dolma1.7", "C4", "mean of 3 seeds", "fewer than all 3 runs",
                                          "95% interval of the mean"]  # fmt: skip
        assert_nothing_is_cut_off(figure)
    (page,) = figures_of(ragged.dde.plot("arc_easy", backend="bokeh", **options))
    dashes = {bool(r.glyph.line_dash): len(r.data_source.data["xs"]) for r in drawn(page, "MultiLine")}
    assert dashes == {False: 2, True: 4}
    counts = {n for r in drawn(page, "Scatter") for n in r.data_source.data.get("count", [])}
    assert counts == {"2", "3"}


def test_a_mean_of_all_its_runs_has_no_such_line(ragged: xr.Dataset) -> None:
    options: dict[str, Any] = {"facet_by": None, "hue_by": "data", "band": "seed"}
    for min_count in (None, 3):
        ((panel,),) = curve_panels(ragged, "arc_easy", min_count=min_count, **options)
        assert all(s.x.min() > 3e9 and s.x.max() < 9e9 and not s.has_fewer.any() for s in panel.segments)
        with printed(ragged.dde.plot("arc_easy", backend="matplotlib", min_count=min_count, **options)) as figure:
            assert not [e for e in legend_entries(figure) if "fewer" in e]
    # Means that were taken before are drawn alike; recipes whose means have other sizes share the words.
    two = ragged.isel(lineage=slice(0, 5))
    with printed(two.dde.mean_over("seed", min_count=1).dde.plot(backend="matplotlib", facet_by=None)) as figure:
        assert {"mean of 2–3 seeds", "fewer than all runs of the mean"} <= set(legend_entries(figure))


def test_what_min_count_has_no_mean_for_is_an_error(seeds: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match=r"without band= or group_by= no mean is drawn\. Pass band='seed'"):
        plot_curves(seeds, "arc_easy", min_count=2)
    with pytest.raises(SelectionError, match=r"min_count=2 comes too late.*mean_over\('seed', min_count=2\)"):
        plot_curves(seeds.dde.mean_over("seed"), "arc_easy", min_count=2)
    with pytest.raises(UnknownNameError, match="min_count=0"):
        plot_curves(seeds, "arc_easy", band="seed", min_count=0)


def test_means_without_their_attributes_are_drawn_as_means(seeds: xr.Dataset) -> None:
    means = seeds.dde.mean_over("seed", interval=0.5).drop_attrs()
    with printed(means.dde.plot("arc_easy", backend="matplotlib", hue_by="params")) as figure:
        assert legend_entries(figure)[-2:] == ["mean of 3 runs", "interval of the mean"]
    with pytest.raises(SelectionError, match="holds means over runs, so there is no band='seed'"):
        plot_curves(means, "arc_easy", band="seed")


def test_differences_are_drawn_from_a_line_at_zero(sweep: xr.Dataset) -> None:
    sweep = sweep[["arc_easy"]]
    changes = sweep.dde.difference_to_base()
    rows = curve_panels(sweep, "arc_easy", relative_to="base")
    assert [[p.frame.since_branch for p in row] for row in rows] == [[True, True]]
    for panel in (p for row in rows for p in row):
        assert panel.zero
        assert panel.frame.y_range is not None
        assert panel.frame.y_range[0] < 0 < panel.frame.y_range[1]
        assert panel.segments
        for s in panel.segments:
            assert not s.is_base
            here = changes.arc_easy.sel(lineage=s.facts["lineage"], run=s.facts["run"])
            np.testing.assert_array_equal(s.values, here.sel(cumulative_tokens=s.tokens.astype(np.int64)))
    with printed(sweep.dde.plot("arc_easy", relative_to="base", backend="matplotlib")) as figure:
        assert figure.axes[0].get_ylabel().replace("\n", " ") == "ARC-Easy, primary metric, change from the base"
        level = [line for line in figure.axes[0].lines if len(set(line.get_ydata())) == 1 and line.get_ydata()[0] == 0]
        assert level
        assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"relative_to": "basis"}, UnknownNameError, "Pass 'base', or None"),
        ({"band": "sed"}, UnknownNameError, "Did you mean seed"),
        ({"x": "post_token"}, UnknownNameError, "Did you mean post_tokens"),
        ({"run": "pretraining", "x": "post_tokens"}, SelectionError, "bases and cells before it have none"),
        ({"run": "pretraining", "relative_to": "base"}, SelectionError, "Bases alone have no change"),
    ],
)
def test_mistakes_are_named(sweep: xr.Dataset, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    chosen = sweep.dde.sel(run=arguments.pop("run")) if "run" in arguments else sweep
    with pytest.raises(error, match=message):
        plot_curves(chosen, "arc_easy", **arguments)


# Colours and legends


def test_model_sizes_are_ordered_colours(seeds: xr.Dataset) -> None:
    colours = colours_of(["1B", "4M", "150M"])
    assert list(colours) == ["4M", "150M", "1B"]
    assert np.all(np.diff([lightness(c) for c in colours.values()]) < -5)
    backwards = seeds.isel(lineage=slice(None, None, -1))
    panel = curve_panels(backwards, "arc_easy", hue_by="params", facet_by=None)[0][0]
    assert list(panel.look.colours) == ["4M", "20M", "150M"]


def test_many_names_have_colours_of_their_own() -> None:
    assert len(set(colours_of([f"recipe {k}" for k in range(10)]).values())) == 10
    assert list(colours_of("abc").values()) == list(colours_of("abcdefghijkl").values())[:3]
    assert all(lightness(c) < 86 for c in colours_of([f"recipe {k}" for k in range(20)]).values())


def test_text_is_readable_on_every_shade() -> None:
    def luminance(colour: str) -> float:
        return float(((lightness(colour) + 16) / 116) ** 3)

    for shade in shades(64):
        light, dark = sorted([luminance(shade), luminance(text_colour(shade))], reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5


def test_many_ordered_values_have_a_bar_of_colours(suite: xr.Dataset) -> None:
    bases = suite[["arc_easy"]].dde.sel(run="pretraining", params=["4M", "20M"]).load()
    rank = xr.DataArray(np.arange(18.0), dims="lineage", attrs={"long_name": "rank", "units": "1"})
    ranked = bases.isel(lineage=slice(0, 18)).assign_coords(rank=rank)
    assert ranked.sizes["lineage"] == 18 > MOST_ENTRIES
    options: dict[str, Any] = {"hue_by": "rank", "facet_by": None}
    with printed(ranked.dde.plot("arc_easy", backend="matplotlib", **options)) as figure:
        main = figure.axes[0]
        (bar,) = main.child_axes
        assert bar.get_title("left") == "rank"
        written = tick_labels(bar.yaxis)
        assert (written[0], written[-1]) == ("0", "17")
        assert 4 <= len(written) <= 10
        assert legend_entries(figure) == []
        assert_nothing_is_cut_off(figure)
    (page,) = figures_of(ranked.dde.plot("arc_easy", backend="bokeh", **options))
    (bar,) = [r for r in page.right if type(r).__name__ == "ColorBar"]
    assert list(bar.color_mapper.palette) == list(colours_of(range(18)).values())


def test_a_long_legend_is_shown_whole(suite: xr.Dataset) -> None:
    bases = suite[["arc_easy"]].dde.sel(run="pretraining").isel(lineage=slice(12, None)).load()
    options: dict[str, Any] = {"hue_by": "lineage", "facet_by": None, "zoom": False}
    with printed(bases.dde.plot("arc_easy", backend="matplotlib", **options)) as figure:
        entries = legend_entries(figure)
        assert len(entries) == len(set(entries)) >= 25
        assert "dolma1_7-1B-default" in entries
        assert_nothing_is_cut_off(figure)
    (page,) = figures_of(bases.dde.plot("arc_easy", backend="bokeh", **options))
    (legend,) = page.legend
    assert legend.ncols == 2
    assert legend in page.right
    assert -(-len(legend.items) // legend.ncols) * 21 < page.frame_height


def test_one_curve_needs_no_legend(sweep: xr.Dataset) -> None:
    alone = sweep.isel(lineage=[0]).dde.sel(run="pretraining")
    with printed(alone.dde.plot("arc_easy", backend="matplotlib")) as figure:
        assert legend_entries(figure) == []
        assert [axis.get_title("left") for axis in figure.axes] == ["150M on Dolma1.7"]
        assert_nothing_is_cut_off(figure)
    assert curve_panels(alone, "arc_easy")[0][0].look.colour(find_segments(alone, "arc_easy")[0]) == PRIMARY
    assert curve_panels(sweep, "arc_easy")[0][0].look.plain == NEUTRAL


# Small multiples


def test_ten_tasks_are_a_grid(sweep: xr.Dataset) -> None:
    one = sweep.isel(lineage=[0])
    rows = curve_panels(one, TASKS)
    assert [len(row) for row in rows] == [5, 5]
    assert [p.title.partition(",")[0] for row in rows for p in row][:4] == [
        "ARC-Challenge", "ARC-Easy", "BoolQ", "CommonsenseQA",
    ]  # fmt: skip
    # The tokens that all share are named below, once for each column.
    assert [bool(p.frame.x.label) for row in rows for p in row] == [False] * 5 + [True] * 5
    # A few runs: what is written at panels is that of all.
    few = one.isel(run=slice(0, 3))
    with printed(few.dde.plot(TASKS, backend="matplotlib")) as figure:
        assert len([axis for axis in figure.axes if axis.axison]) == 10
        assert {axis.get_xlim() for axis in figure.axes} >= {figure.axes[0].get_xlim()}
        assert_nothing_is_cut_off(figure)
        renderer = figure.canvas.get_renderer()
        for axis in figure.axes:
            title, frame = axis._left_title.get_window_extent(renderer), axis.get_window_extent(renderer)
            assert title.width <= 1.1 * frame.width
            assert axis.get_ylabel() == "primary metric"
    assert len(curve_panels(one, TASKS, columns=3)) == 4
    assert sum(p.frame.since_branch for row in curve_panels(one, TASKS, zoom=True) for p in row) == 9


def test_many_lineages_are_wrapped(suite: xr.Dataset) -> None:
    rows = curve_panels(suite[["arc_easy"]], "arc_easy")
    assert [len(row) for row in rows] == [4] * 10 + [1]
    assert len({p.title for row in rows for p in row}) == 41
    with pytest.raises(SelectionError, match="more rows of panels than can be looked at"):
        plot_curves(suite, TASKS)


def test_rows_of_different_length_stand_in_place(sweep: xr.Dataset) -> None:
    bases = sweep.dde.sel(run="pretraining")
    picture = bases.dde.plot(TASKS[:4], columns=3, backend="matplotlib")
    with printed(picture) as figure:
        shown = [axis for axis in figure.axes if axis.axison]
        assert len(shown) == 8
        left = sorted({round(axis.get_window_extent().x0) for axis in shown})
        assert len(left) == 3
        starts = [axis.get_title("left").partition(",")[0] for axis in shown]
        assert starts == ["ARC-Challenge", "ARC-Easy", "BoolQ", "CommonsenseQA"] * 2


# Many curves


def test_thinning_keeps_extremes_and_ends() -> None:
    generator = np.random.default_rng(1)
    x, y = np.arange(20_000.0), generator.normal(size=20_000)
    picked = thinned(x, y, 0.0, 19_999.0, 50)
    assert len(picked) <= 4 * 50
    assert {0, 19_999, int(y.argmin()), int(y.argmax())} <= set(picked.tolist())
    for column in range(50):
        inside = slice(400 * column, 400 * (column + 1))
        mine = y[picked[(picked >= inside.start) & (picked < inside.stop)]]
        assert (mine.min(), mine.max()) == (y[inside].min(), y[inside].max())
    assert thinned(x[:100], y[:100], 0.0, 99.0, 50).tolist() == list(range(100))


@pytest.fixture(scope="module")
def crowd(suite: xr.Dataset) -> xr.Dataset:
    """500 pretraining runs: those of the suite, over and over, each moved a little."""
    bases = suite[["arc_easy"]].dde.sel(run="pretraining", params=["150M", "300M"]).load()
    some = bases.isel(lineage=bases.arc_easy.notnull().any("cumulative_tokens").values.squeeze())
    parts = []
    for k in range(-(-500 // some.sizes["lineage"])):
        part = some.copy(deep=True)
        part["arc_easy"] = part.arc_easy + 1e-3 * k
        labels = [f"{label}-{k}" for label in part.lineage.values]
        ids = (part.run_id.dims, np.array(labels, object).reshape(part.run_id.shape))
        parts.append(part.assign_coords(lineage=np.array(labels, object), run_id=ids))
    joined = xr.concat(parts, "lineage", coords="different", compat="equals", join="outer")
    return joined.isel(lineage=slice(0, 500))


def test_500_curves_make_a_small_page_and_say_so(crowd: xr.Dataset, tmp_path: Path) -> None:
    picture = crowd.dde.plot("arc_easy", hue_by="params", facet_by=None, backend="bokeh")
    (page,) = figures_of(picture)
    assert page.title.text == "500 lineages"
    assert caption_of(picture).endswith("500 runs of 500 lineages, 3 seeds; points thinned.")
    lines = drawn(page, "MultiLine")
    assert sum(len(x) for r in lines for x in r.data_source.data["xs"]) <= 2 * LINE_POINTS
    assert sum(len(r.data_source.data["xs"]) for r in lines) == 500, "each curve is there"
    assert sum(len(r.data_source.data["run"]) for r in drawn(page, "Scatter")) <= 2 * MARKERS
    assert max(r.glyph.line_alpha for r in lines) < 0.5
    highest = max(float(np.max(y)) for r in lines for y in r.data_source.data["ys"])
    assert highest == pytest.approx(float(crowd.arc_easy.max()))
    size = save_page(picture, tmp_path / "crowd.html", "crowd").stat().st_size
    assert size < 3_000_000
    few = crowd.isel(lineage=slice(0, 10)).dde.plot("arc_easy", hue_by="params", facet_by=None, backend="bokeh")
    assert "thinned" not in caption_of(few)
    assert max(r.glyph.line_alpha for r in drawn(figures_of(few)[0], "MultiLine")) == 0.9


def test_hover_says_which_checkpoint_it_is(sweep: xr.Dataset) -> None:
    from bokeh.models import HoverTool

    (page,) = figures_of(sweep.isel(lineage=[0]).dde.plot("arc_easy", zoom=False, backend="bokeh"))
    tooltips = {name for tool in page.select({"type": HoverTool}) for name, _ in tool.tooltips}
    assert tooltips == {"run", "run id", "tokens", "step", "ARC-Easy, primary metric", "support"}
    rows = [r.data_source.data for r in drawn(page, "Scatter") if "step" in r.data_source.data]
    steps = {
        float(x): step
        for data in rows
        for x, step, run in zip(data["cumulative_tokens"], data["step"], data["run"], strict=True)
        if run == "pretraining" and step
    }
    revisions = sweep.isel(lineage=0, run=0).dde.revision()
    for tokens, step in list(steps.items())[:5]:
        assert int(step) == int(revisions.step.sel(cumulative_tokens=int(tokens)))
    assert len(steps) > 20
