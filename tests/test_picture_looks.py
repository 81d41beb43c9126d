"""What readers of a paper see: the same picture in both backends, names of metrics and runs, and no hidden point."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import PathCollection
from PIL import Image

import dde
from browser import running_chromium
from dde.errors import SelectionError
from dde.plots.axis_format import linear_ticks
from dde.plots.colours import WINDOW
from dde.plots.curves import curve_panels
from picture_checks import assert_nothing_is_cut_off, caption_of, drawn, figures_of, legend_entries, printed
from picture_checks import tick_labels as labels_in
from test_tree_of_merges import soups

BACKENDS = ["bokeh", "matplotlib"]


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    return dde.tutorial.open_lineages("small", metrics=["arc_easy", "piqa", "train_loss"]).load()


@pytest.fixture(scope="module")
def bases(suite: xr.Dataset) -> xr.Dataset:
    return suite.dde.sel(run="pretraining")


@pytest.fixture(scope="module")
def sweep(suite: xr.Dataset) -> xr.Dataset:
    sweep = suite.dde.sel(params="150M", seed=0, data=["Dolma1.7", "DCLM-Baseline"])
    # A loss that runs reduce in one way.
    return sweep.assign_coords(reduce_loss=xr.where(sweep.run_id != "", "mean", ""))


def titles_of(figure: Any) -> list[str]:
    return [title for axes in figure.axes if (title := axes.get_title("left"))]


# --- both backends


def test_print_has_the_ticks_of_a_page(bases: xr.Dataset, tmp_path: Path) -> None:
    page = dde.save(bases.dde.plot_scaling("arc_easy"), tmp_path / "page.html")
    spans = [(low, span) for low in (-3.0, 0.24) for span in (0.013, 0.4, 7.7)] + [(1e9, 7.7e8), (-1e9, 3e9)]
    cases = [(low, low + span, about) for low, span in spans for about in (2, 3, 5, 6)]
    script = """(cases) => cases.map(([low, high, about]) => {
        const ticker = [...Bokeh.documents[0].all_models].find((model) => model.type == "BasicTicker")
        ticker.desired_num_ticks = about
        return ticker.get_ticks(low, high, null, null).major
    })"""
    with running_chromium() as browser:
        shown = browser.new_page()
        shown.goto(page.resolve().as_uri())
        shown.wait_for_function("() => window.Bokeh && Bokeh.documents.length")
        ticks = shown.evaluate(script, cases)
    for case, of_page in zip(cases, ticks, strict=True):
        assert linear_ticks(*case) == pytest.approx(of_page), case


def test_panels_of_all_metrics_have_the_axis_that_a_page_links(sweep: xr.Dataset) -> None:
    panels = [panel for row in curve_panels(sweep, ["arc_easy", "train_loss"]) for panel in row]
    limits = {p.frame.x.limits for p in panels if p.frame.since_branch}
    assert len([p for p in panels if p.frame.since_branch]) == 4
    # The loss has no values before the branch, the accuracy has.
    assert len(limits) == 1
    assert limits.pop()[0] < -1e8


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_figure_without_titles_leaves_no_room_for_them(bases: xr.Dataset, backend: Any) -> None:
    of_one = bases.dde.plot_scaling("arc_easy", backend=backend)
    of_facets = bases.dde.plot_scaling("arc_easy", facet_by="data", columns=1, backend=backend)
    if backend == "bokeh":
        assert [f.title.text for f in figures_of(of_one)] == [""]
        assert all(f.title.text.strip() for f in figures_of(of_facets))
        return
    for picture, room in ((of_one, (0.1, 0.2)), (of_facets, (0.3, 0.5))):
        with printed(picture) as figure:
            assert_nothing_is_cut_off(figure)
            above = (1 - figure.axes[0].get_position().y1) * figure.get_size_inches()[1]
            assert room[0] <= above <= room[1]


@pytest.mark.parametrize("font_size", [6, 7, 9])
@pytest.mark.parametrize("legend", ["right", "bottom", "top"])
def test_the_least_size_has_room_for_everything(
    bases: xr.Dataset, legend: Any, font_size: float, tmp_path: Path
) -> None:
    def draw(size: tuple[float, float]) -> Any:
        return bases.dde.plot_scaling(
            "arc_easy", size=size, font_size=font_size, legend=legend, backend="matplotlib"
        )  # fmt: skip

    with pytest.raises(SelectionError, match="the least size is") as error:
        draw((1, 1))
    least = re.search(r"least size is \((.*), (.*)\) inches", str(error.value))
    assert least is not None
    picture = draw((float(least[1]), float(least[2])))
    with Image.open(dde.save(picture, tmp_path / "least.png", dpi=150)) as image:
        pixels = np.asarray(image.convert("L"))
    for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert edge.min() == 255
    with printed(picture) as figure:
        assert len(legend_entries(figure)) == 6
        for axes in figure.axes:
            renderer = figure.canvas.get_renderer()
            boxes = [t.get_window_extent(renderer) for t in axes.get_xticklabels() if t.get_text()]
            assert all(a.x1 < b.x0 for a, b in pairwise(sorted(boxes, key=lambda box: box.x0)))


def test_points_are_as_small_as_the_text(bases: xr.Dataset) -> None:
    sizes = []
    for font_size in (8.5, 6):
        picture = bases.dde.plot_scaling("arc_easy", font_size=font_size, backend="matplotlib")
        with printed(picture) as figure:
            points = figure.findobj(PathCollection)
            sizes.append(sorted({round(float(s), 3) for p in points for s in p.get_sizes()}))
    assert sizes[1] == pytest.approx([s * (6 / 8.5) ** 2 for s in sizes[0]], rel=1e-3)


# --- curves


def test_run_types_have_the_same_markers_with_and_without_their_bases(sweep: xr.Dataset) -> None:
    looks = [
        curve_panels(sweep, "arc_easy", relative_to=relative_to)[0][0].look.markers for relative_to in (None, "base")
    ]
    assert set(looks[1]) == {"supervised_ft", "dpo"}
    assert {kind: looks[0][kind] for kind in looks[1]} == looks[1]
    after = curve_panels(sweep, "arc_easy", x="post_tokens")[0][0].look.markers
    assert after == looks[1]


def test_the_start_of_a_change_is_off_the_edge(sweep: xr.Dataset) -> None:
    for row in curve_panels(sweep, "arc_easy", x="post_tokens", relative_to="base"):
        for panel in row:
            low, high = panel.frame.x.span()
            starts = [s.anchor[0] for s in panel.segments if s.anchor]
            assert starts
            assert min(starts) - low > 0.025 * (high - low)


def test_captions_say_what_a_difference_is_to(sweep: xr.Dataset) -> None:
    to_base = caption_of(sweep.dde.plot("arc_easy", relative_to="base"))
    assert to_base.startswith("Change of ARC-Easy (primary metric) from the base against ")
    run_id = str(sweep.run_id.sel(run="pretraining").values[0])
    to_run = caption_of(sweep.dde.plot("arc_easy", relative_to=run_id))
    assert to_run.startswith(f"Difference of ARC-Easy (primary metric) to {run_id} against ")
    assert "base" not in to_run.replace(run_id, "")


def test_captions_keep_metrics_apart(sweep: xr.Dataset) -> None:
    text = caption_of(sweep.dde.plot(["arc_easy", "train_loss"]))
    assert text.startswith("ARC-Easy (primary metric) and training loss against tokens since the start of pretraining;")


def test_captions_say_that_curves_are_smoothed(bases: xr.Dataset) -> None:
    text = caption_of(bases.dde.sel(data="C4", seed=0).dde.plot("arc_easy", smooth=2e9))
    assert "; exponential means over 2B tokens; " in text


# --- final values


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_runs_behind_means_are_in_the_legend(bases: xr.Dataset, backend: Any) -> None:
    picture = bases.dde.plot_scaling("arc_easy", backend=backend)
    if backend == "bokeh":
        entries = [item.label.value.strip() for f in figures_of(picture) for box in f.legend for item in box.items]
    else:
        with printed(picture) as figure:
            entries = legend_entries(figure)
    assert "single run" in entries


def test_types_of_runs_have_their_names(sweep: xr.Dataset) -> None:
    with printed(sweep.dde.plot_scaling("arc_easy", backend="matplotlib")) as figure:
        assert {"pretraining", "supervised finetuning", "DPO"} <= set(legend_entries(figure))


def test_runs_without_a_hue_have_their_own_place_in_a_row(suite: xr.Dataset) -> None:
    finetuned = suite.dde.sel(run_type="supervised_ft", branch_point="", params="150M")
    (figure,) = figures_of(finetuned.dde.plot_final("arc_easy", hue_by="finetune_tokens", group_by="learning_rate"))
    points = [
        (y, str(colour))
        for r in drawn(figure, "Scatter")
        for y, colour in zip(r.data_source.data["final_row"], r.data_source.data["colour"], strict=True)
    ]
    by_colour = {colour: {round(float(y) % 1, 6) for y, c in points if c == colour} for _, colour in points}
    assert len(by_colour) == 2
    first, second = by_colour.values()
    assert first.isdisjoint(second)


def test_long_names_of_recipes_are_complete(suite: xr.Dataset) -> None:
    finetuned = suite.dde.sel(run_type="supervised_ft", branch_point="", params="150M")
    with printed(finetuned.dde.plot_final("arc_easy", backend="matplotlib")) as figure:
        assert "DCLM-Baseline 25% / Dolma 75%, lr 1e-5" in labels_in(figure.axes[0].yaxis)


def test_numbers_beside_a_parallel_axis_have_the_same_decimals(suite: xr.Dataset) -> None:
    finetuned = suite.dde.sel(run_type="supervised_ft", branch_point="", params="150M")
    (figure,) = figures_of(finetuned.dde.plot_parallel("arc_easy"))
    texts = [t for r in drawn(figure, "Text") for t in r.data_source.data["text"]]
    numbers = [t for t in texts if t.startswith("0.")]
    assert len(numbers) >= 3
    assert len({len(t) for t in numbers}) == 1


# --- answers


def test_answers_name_metrics_and_factors_as_curves_do(bases: xr.Dataset) -> None:
    of_sizes = {"a": {"params": "20M"}, "b": {"params": "150M"}}
    ranks = bases.dde.ranks(["arc_easy", "piqa"], over="data", **of_sizes)
    with printed(ranks.dde.plot(backend="matplotlib")) as figure:
        assert [t.partition(",")[0] for t in titles_of(figure)] == ["ARC-Easy", "PIQA"]
        (legend,) = [a.get_legend() for a in figure.axes if a.get_legend()]
        assert legend.get_title().get_text() == "data recipe"
    decisions = bases.dde.decision_accuracy("arc_easy", over="data", target={"params": "150M"})
    with printed(decisions.dde.plot(backend="matplotlib")) as figure:
        assert titles_of(figure) == ["ARC-Easy"]
    assert "line: chance" in caption_of(decisions.dde.plot())
    signal = bases.dde.signal_to_noise(["arc_easy", "piqa"], over="data")
    with printed(signal.dde.plot(backend="matplotlib", labels={"piqa": "PhysicalQA"})) as figure:
        assert labels_in(figure.axes[0].xaxis) == ["ARC-Easy", "PhysicalQA"]
        assert figure.axes[0].get_xlabel() == ""
    text = caption_of(signal.dde.plot())
    assert "signal: std over data recipe" in text
    assert "left out: 2 (ends before its schedule), " in text


def test_a_palette_needs_colours_for_ranked_values_alone(bases: xr.Dataset) -> None:
    ranks = bases.dde.ranks("arc_easy", over="data", a={"params": "20M"}, b={"params": "150M"})
    assert ranks.sizes["data"] == 4
    palette = {"C4": "red", "Dolma1.7": "blue", "DCLM-Baseline": "black"}
    (figure,) = figures_of(ranks.dde.plot(palette=palette))
    assert {c for r in drawn(figure, "Scatter") for c in r.data_source.data["colour"]} == {
        "#ff0000", "#0000ff", "#000000"
    }  # fmt: skip


def test_the_legend_of_dots_has_dots(suite: xr.Dataset) -> None:
    finetuned = suite.dde.sel(run_type="supervised_ft", branch_point="", params="150M")
    with printed(finetuned.dde.effect("arc_easy").dde.plot(backend="matplotlib")) as figure:
        (legend,) = [a.get_legend() for a in figure.axes if a.get_legend()]
        assert {type(handle).__name__ for handle in legend.legend_handles} == {"PathCollection"}


def test_panels_of_runs_have_short_titles(suite: xr.Dataset) -> None:
    finetuned = suite.dde.sel(run_type="supervised_ft", branch_point="", params="150M")
    best = finetuned.dde.best("arc_easy", over="learning_rate")
    assert any(len(v) > 40 for v in best.run.values)
    with printed(best.dde.plot(backend="matplotlib")) as figure:
        assert titles_of(figure) == [
            "DCLM-Baseline, tokens 100M, epochs 1", "DCLM-Baseline, epochs 2", "Dolma1.7, tokens 100M, epochs 1",
            "Dolma1.7, epochs 2",
        ]  # fmt: skip
    one = str(best.run.values[1])
    with printed(best.dde.plot(backend="matplotlib", labels={one: "two epochs"})) as figure:
        assert "Dolma1.7, two epochs" in titles_of(figure)


def test_axes_of_differences_name_the_metric(bases: xr.Dataset) -> None:
    effect = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy", "piqa"]).dde.effect(
        ["arc_easy", "piqa"]
    )
    with printed(effect.dde.plot(backend="matplotlib")) as figure:
        labels = [a.get_xlabel().replace("\n", " ") for a in figure.axes]
        assert {"ARC-Easy, change from the base", "PIQA, change from the base"} == set(labels)
        assert {t.rpartition(", ")[2] for t in titles_of(figure)} == {"ARC-Easy", "PIQA"}
    assert np.isfinite(effect.gain).any()


# --- many points, long names, colours


def test_close_points_are_small(bases: xr.Dataset) -> None:
    def sizes(part: xr.Dataset, **options: Any) -> set[float]:
        with printed(part.dde.plot("arc_easy", backend="matplotlib", zoom=False, caption=False, **options)) as figure:
            points = [p for a in figure.axes for p in a.collections if isinstance(p, PathCollection)]
            return {round(float(s), 3) for p in points if len(p.get_offsets()) > 1 for s in p.get_sizes()}

    part = bases.dde.sel(params="300M", seed=0, data="C4")
    (large,) = sizes(part)
    (small,) = sizes(part, xlim=(0, 1e12))
    assert small < large / 4


def test_long_titles_have_two_lines(bases: xr.Dataset) -> None:
    names = {name: f"{name} of the tasks that are in none of the mixtures" for name in ("C4", "DCLM-Baseline")}
    long = bases.dde.sel(data=["C4", "DCLM-Baseline"], seed=0)
    for backend in BACKENDS:
        picture = long.dde.plot_scaling("arc_easy", facet_by="data", labels=names, backend=backend)
        if backend == "bokeh":
            titles = [f.title.text for f in figures_of(picture)]
        else:
            with printed(picture) as figure:
                assert_nothing_is_cut_off(figure)
                titles = titles_of(figure)
        assert [t.replace("\n", " ") for t in titles] == [f"data: {name}" for name in names.values()]
        assert all(t.count("\n") == 1 for t in titles)


def test_a_png_has_the_colours_of_the_picture(sweep: xr.Dataset, tmp_path: Path) -> None:
    with Image.open(dde.save(sweep.dde.plot_tree("arc_easy"), tmp_path / "tree.png")) as image:
        assert image.mode == "P"
        colours = {f"#{r:02x}{g:02x}{b:02x}": n for n, (r, g, b) in image.convert("RGB").getcolors(1 << 20)}
    assert colours["#ffffff"] > colours[WINDOW] > 10_000
    assert colours["#440154"] > 100


def test_no_tick_is_in_the_way_of_the_first_one_after_a_break() -> None:
    with printed(soups(4).dde.plot_tree("acc", backend="matplotlib")) as figure:
        axis = figure.axes[0].xaxis
        assert {label.get_rotation() for label in axis.get_ticklabels()} == {0.0}
        assert {"0", "+0"} <= set(labels_in(axis))
