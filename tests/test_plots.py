"""Pictures: what is drawn is what the Dataset holds, on either backend."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from PIL import Image

import dde
from dde.errors import DdeWarning, SelectionError, UnknownNameError
from dde.plots.axis_format import axis_label, padded_range, short_number
from dde.plots.colours import NEUTRAL, colours_of, label_of
from dde.plots.curve_segments import OBSERVED, Segment, find_segments
from dde.plots.curves import curve_panels, plot_curves
from dde.plots.files import save_page, save_picture
from dde.tutorial import Suite

METRICS = ["arc_easy", "train_loss"]
SFT = "sft_lr=5e-06_100Mx1"


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


def open_suite(suite: Suite, **options: Any) -> xr.Dataset:
    return dde.open_lineages(suite.data, suite.wandb, cache_dir=None, **{"metrics": METRICS, **options})


@pytest.fixture(scope="module")
def sweep(suite: Suite) -> xr.Dataset:
    """Two recipes at 150M, each with two finetuning runs of one budget."""
    opened = open_suite(suite, params="150M", seed=0, method="supervised_ft", finetune_tokens=1e8)
    return opened.load()


def curve(dataset: xr.Dataset, metric: str, segment: Segment) -> xr.DataArray:
    """The values of the Dataset that a segment was made from."""
    chosen = dataset[metric].sel(lineage=segment.facts["lineage"], run=segment.facts["run"])
    return chosen.sel(cumulative_tokens=segment.tokens.astype(np.int64))


# Segments


def test_segments_hold_every_value_of_the_dataset_once(sweep: xr.Dataset) -> None:
    for metric in METRICS:
        segments = find_segments(sweep, metric)
        for segment in segments:
            np.testing.assert_array_equal(segment.values, curve(sweep, metric, segment))
        own = sweep[metric].where(
            (sweep.cumulative_tokens > sweep.branch_tokens) | (sweep.run == "pretraining"), drop=False
        )
        assert sum(len(s.x) for s in segments) == int(own.notnull().sum())


def test_the_base_is_one_segment_and_each_run_another(sweep: xr.Dataset) -> None:
    segments = find_segments(sweep, "arc_easy")
    assert [s.kind for s in segments] == ["pretraining", "supervised_ft", "supervised_ft"] * 2
    assert [s.is_base for s in segments] == [True, False, False] * 2


def test_observed_points_are_those_of_the_stores(sweep: xr.Dataset) -> None:
    support = sweep.dde.support("arc_easy")
    for segment in find_segments(sweep, "arc_easy"):
        here = support.sel(lineage=segment.facts["lineage"], run=segment.facts["run"])
        observed = here.cumulative_tokens[here == 1].values
        if not segment.is_base:
            observed = observed[observed > segment.facts["branch_tokens"]]
        assert segment.tokens[segment.support == OBSERVED].tolist() == observed.tolist()


def test_a_connection_starts_at_the_parents_last_observation(sweep: xr.Dataset) -> None:
    segments = find_segments(sweep, "arc_easy")
    base, *derived = segments[:3]
    for run in derived:
        # The base was last evaluated before the branch, so the data holds nothing between.
        assert run.anchor == (base.x[-1], base.values[-1])
        assert run.anchor[0] < run.start < run.x[0]
        assert run.lines() == []


def test_nothing_is_drawn_where_no_cell_says_where_it_is(sweep: xr.Dataset) -> None:
    hours = sweep.assign_coords(hours=("cumulative_tokens", np.sqrt(sweep.cumulative_tokens.values)))
    after = hours.where(hours.cumulative_tokens > hours.branch_tokens.max(), drop=True)
    for part, is_known in ((hours, True), (after.astype(hours.dtypes), False)):
        derived = [s for s in find_segments(part, "arc_easy", "hours") if not s.is_base]
        assert derived
        assert {bool(np.isfinite(s.start)) for s in derived} == {is_known}
        ((panel, *_), *_) = curve_panels(part, "arc_easy", "hours", facet_by=None)
        assert bool(panel.branches()) == is_known
        for s in derived:
            if is_known:
                assert s.start == pytest.approx(float(s.facts["branch_tokens"]) ** 0.5, rel=0.05)
    # An axis that is linear in tokens goes on outside of the cells; from a single one, only if it begins at token 0.
    start = {s.run_id: s.start for s in find_segments(after, "arc_easy", "post_tokens")}
    assert set(start.values()) == {0.0}
    last = after.isel(cumulative_tokens=[-1])
    assert all(np.isnan(s.start) for s in find_segments(last, "arc_easy", "post_tokens"))
    for axis, scale in (("cumulative_tokens", 1.0), ("cumulative_compute", 6.0 * float(last.n_params[0]))):
        for s in find_segments(last, "arc_easy", axis):
            assert s.start == pytest.approx(scale * s.facts["branch_tokens"])
        for panel in curve_panels(last, "arc_easy", axis, facet_by=None)[0]:
            assert np.isfinite(panel.frame.x.limits).all()


def test_losses_of_two_jobs_are_never_joined(suite: Suite) -> None:
    everything = open_suite(suite, params="4M", metrics=["train_loss"], state="all")
    with_dpo = [s for s in find_segments(everything, "train_loss") if s.kind == "dpo"]
    assert with_dpo
    assert all(s.anchor is None for s in with_dpo)
    assert all((s.x > s.start).all() for s in with_dpo)


def test_the_data_joins_a_run_to_a_parent_that_was_evaluated_at_the_branch(suite: Suite) -> None:
    opened = open_suite(suite, params="4M", metrics=["arc_easy"], state="all")
    segments = find_segments(opened, "arc_easy")
    dpo = next(s for s in segments if s.kind == "dpo" and s.facts["parent_run_id"] in opened.run_id.values)
    parent = next(s for s in segments if s.run_id == dpo.facts["parent_run_id"])
    assert dpo.anchor is None
    assert (dpo.x[0], dpo.values[0]) == (parent.x[-1], parent.values[-1])
    # The point stays the parent's: it is not drawn twice.
    assert dpo.support[0] != OBSERVED


def test_ancestors_that_are_not_in_the_dataset_are_drawn_once(suite: Suite) -> None:
    opened = open_suite(suite, params="4M", metrics=["arc_easy"], method="dpo", state="all")
    kinds = [s.kind for s in find_segments(opened, "arc_easy")]
    assert kinds.count("pretraining") == opened.sizes["lineage"]
    assert kinds.count("supervised_ft") == len({p for p in opened.parent_run_id.values.ravel() if p})
    for segment in find_segments(opened, "arc_easy"):
        if segment.kind == "dpo":
            assert segment.origin < segment.start


def test_selected_dimensions_change_nothing(sweep: xr.Dataset) -> None:
    label = "dolma1_7-150M-default"
    wide = [s for s in find_segments(sweep, "arc_easy") if s.facts["lineage"] == label]
    narrow = find_segments(sweep.sel(lineage=label), "arc_easy")
    assert [s.values.tolist() for s in narrow] == [s.values.tolist() for s in wide]
    only = find_segments(sweep.sel(lineage=label, run=SFT), "arc_easy")
    assert [s.kind for s in only] == ["pretraining", "supervised_ft"]
    assert only[0].values.tolist() == wide[0].values.tolist()


def test_a_saved_dataset_is_drawn_without_its_stores(sweep: xr.Dataset, tmp_path: Path) -> None:
    before = find_segments(sweep, "arc_easy")
    sweep.to_zarr(tmp_path / "saved.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "saved.zarr", consolidated=False) as saved:
        after = find_segments(saved, "arc_easy")
    assert [(s.kind, s.start, s.anchor) for s in after] == [(s.kind, s.start, s.anchor) for s in before]
    assert [s.values.tolist() for s in after] == [s.values.tolist() for s in before]


# Panels


def test_panels_of_a_sweep(sweep: xr.Dataset) -> None:
    rows = curve_panels(sweep, METRICS)
    assert [[p.title for p in row] for row in rows] == [
        ["150M on Dolma1.7", "", ""],
        ["150M on DCLM-Baseline", "", ""],
    ]
    # Bases have no training loss, so there is nothing of it but what follows the branch.
    shown = [(p.frame.y.label, p.frame.x.label) for p in rows[0]]
    assert shown == [
        ("ARC-Easy, primary metric", "tokens since the start of pretraining"),
        ("ARC-Easy, primary metric", "tokens since the branch"),
        ("training loss [nats]", "tokens since the branch"),
    ]
    for row in rows:
        assert [len(p.segments) for p in row] == [3, 3, 2]


def test_ranges_hold_all_that_a_panel_shows_and_are_those_of_its_column(sweep: xr.Dataset) -> None:
    rows = curve_panels(sweep, METRICS)
    for column in zip(*rows, strict=True):
        assert len({(p.frame.x_range, p.frame.y_range) for p in column}) == 1
        for panel in column:
            (left, right), (low, high) = panel.frame.x_range, panel.frame.y_range  # type: ignore[misc]
            for segment, since in panel.shifted_segments():
                x = segment.x - since
                inside = (x >= left) & (x <= right)
                assert ((segment.values[inside] >= low) & (segment.values[inside] <= high)).all()
                if not segment.is_base:
                    assert inside.all()


def test_the_enlarged_panel_makes_the_sweep_visible(sweep: xr.Dataset) -> None:
    whole, enlarged = curve_panels(sweep, "arc_easy")[0]

    def share(panel: Any) -> float:
        left, right = panel.frame.x_range
        own = [x - since for s, since in panel.shifted_segments() if not s.is_base for x in (s.start, s.x.max())]
        return float((max(own) - min(own)) / (right - left))

    assert share(whole) < 0.02 < 0.5 < share(enlarged)
    left, bottom, right, top = whole.frame.window  # type: ignore[misc]
    assert (bottom, top) == enlarged.frame.y_range
    assert right - enlarged.segments[1].origin == pytest.approx(enlarged.frame.x_range[1])  # type: ignore[index]
    assert left < enlarged.segments[1].origin < right


def test_a_base_ends_at_the_branch_where_the_branch_is_enlarged(suite: Suite) -> None:
    opened = open_suite(suite, metrics=["arc_easy"], state="all")
    for row in curve_panels(opened, "arc_easy"):
        for segment, since in row[-1].shifted_segments():
            if row[-1].frame.since_branch and segment.is_base:
                assert (segment.x <= since).all()


def test_colours_are_ordered_and_bases_neutral(sweep: xr.Dataset) -> None:
    panel = curve_panels(sweep, "arc_easy")[0][0]
    assert list(panel.look.colours) == [5e-6, 5e-5]
    assert [panel.look.colour(s) for s in panel.segments] == [NEUTRAL, *panel.look.colours.values()]
    by_size = curve_panels(sweep, "arc_easy", hue_by="n_params")[0][0]
    assert {by_size.look.colour(s) for s in by_size.segments} == set(by_size.look.colours.values())


def test_markers_tell_apart_also_what_has_no_value(suite: Suite) -> None:
    opened = open_suite(suite, params="150M", data="DCLM-Baseline", seed=0, metrics=["arc_easy"])
    panel = curve_panels(opened, "arc_easy", style_by="finetune_tokens")[0][0]
    budgets = {s.facts["finetune_tokens"]: panel.look.marker(s) for s in panel.segments}
    assert len({b for b in budgets if b == b}) == 1
    assert any(b != b for b in budgets), "the whole mixture has no nominal budget"
    assert len(set(budgets.values())) == 2


def test_a_logarithmic_axis_leaves_out_zero(sweep: xr.Dataset) -> None:
    panel = curve_panels(sweep, "arc_easy", log_x=True, zoom=False)[0][0]
    assert min(s.x.min() for s in panel.segments) > 0
    assert panel.frame.x_range is not None
    assert panel.frame.x_range[0] > 0


def test_compute_is_an_axis_too(sweep: xr.Dataset) -> None:
    whole, enlarged = curve_panels(sweep, "arc_easy", x="cumulative_compute")[0]
    n_params = int(sweep.n_params[0])
    for segment in whole.segments:
        np.testing.assert_array_equal(segment.x, 6.0 * n_params * segment.tokens)
    assert whole.frame.x.label == "training compute, 6 N tokens [FLOP]"
    assert enlarged.frame.x.label == "FLOP since the branch"


def test_a_base_is_in_every_row_of_a_treatment(sweep: xr.Dataset) -> None:
    rows = curve_panels(sweep, "arc_easy", facet_by="learning_rate")
    assert [row[0].title for row in rows] == ["learning rate: 5e-6", "learning rate: 5e-5"]
    for row in rows:
        assert [s.kind for s in row[0].segments] == ["pretraining", "supervised_ft"] * 2
    # Nothing to tell rows apart by: one row.
    assert len(curve_panels(sweep.sel(run=["pretraining"]), "arc_easy", facet_by="learning_rate")) == 1


def test_one_row_without_facets(sweep: xr.Dataset) -> None:
    ((whole, _),) = curve_panels(sweep, "arc_easy", facet_by=None, hue_by="data")
    assert whole.title == "2 lineages"
    assert len(whole.segments) == 6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y": "arc_eazy"}, UnknownNameError, "arc_eazy.*Did you mean arc_easy"),
        ({"y": "arc_easy", "hue_by": "learning_rat"}, UnknownNameError, "Did you mean learning_rate"),
        ({"y": "arc_easy", "x": "params"}, UnknownNameError, "has no dimension cumulative_tokens"),
        ({"y": "arc_easy", "x": "checkpoint_type"}, UnknownNameError, "has no dimension cumulative_tokens"),
        ({"y": "arc_easy", "facet_by": "checkpoint_type"}, UnknownNameError, "facet_by='checkpoint_type'"),
        ({"y": "arc_easy", "hue_by": "cumulative_compute"}, UnknownNameError, "not a coordinate of runs"),
        ({"y": "arc_easy", "backend": "plotly"}, UnknownNameError, "Pass 'bokeh' or 'matplotlib'"),
        ({"y": []}, SelectionError, "holds no metric"),
    ],
)
def test_mistakes_are_named(sweep: xr.Dataset, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plot_curves(sweep, **arguments)


def test_nothing_to_draw_is_an_error(sweep: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="no cell of train_loss has a value"):
        plot_curves(sweep.sel(run=["pretraining"]), "train_loss")


def test_known_names_of_metrics_are_accepted(sweep: xr.Dataset) -> None:
    assert curve_panels(sweep, "arc_easy_primary_metric")[0][0].frame.y.name == "arc_easy"


def test_losses_that_were_reduced_differently_warn(sweep: xr.Dataset) -> None:
    mixed = sweep.copy()
    mixed["reduce_loss"] = mixed.reduce_loss.copy(data=mixed.reduce_loss.values.copy())
    mixed.reduce_loss.values[0, 1:] = ["mean", "sum"]
    with pytest.warns(DdeWarning, match="mean, sum"):
        curve_panels(mixed, "train_loss")


# Drawn


def glyphs(figure: Any, kind: str) -> list[Any]:
    return [r for r in figure.renderers if type(getattr(r, "glyph", None)).__name__ == kind]


def test_a_page_shows_every_curve_and_point(sweep: xr.Dataset) -> None:
    import holoviews as hv
    from bokeh.models import HoverTool, Plot

    model = hv.render(sweep.dde.plot(METRICS, backend="bokeh"), backend="bokeh")
    figures = {}
    for figure in model.select({"type": Plot}):
        # The first of each kind is that of the first recipe or the second: both have as many curves.
        if figure.xaxis[0].visible:
            figures[figure.xaxis[0].axis_label, figure.yaxis[0].axis_label] = figure
    assert set(figures) == {
        ("tokens since the start of pretraining", "ARC-Easy, primary metric"),
        ("tokens since the branch", "ARC-Easy, primary metric"),
        ("tokens since the branch", "training loss [nats]"),
    }
    whole = figures["tokens since the start of pretraining", "ARC-Easy, primary metric"]
    lines = glyphs(whole, "MultiLine")
    solid = [r for r in lines if not r.glyph.line_dash]
    dashed = [r for r in lines if r.glyph.line_dash]
    assert sum(len(r.data_source.data["xs"]) for r in solid) == 1
    assert sum(len(r.data_source.data["xs"]) for r in dashed) == 2
    observed = [r for r in glyphs(whole, "Scatter") if set(r.data_source.data.get("support", [])) == {"observed"}]
    support = sweep.dde.support("arc_easy")
    by_marker = [len(r.data_source.data["run_id"]) for r in observed]
    assert sorted(by_marker) == [2, int((support[0, 0] == 1).sum())]
    tips = [tip for tool in whole.select({"type": HoverTool}) for tip in tool.tooltips]
    assert {name for name, _ in tips} >= {"run", "run id", "tokens", "step", "support"}
    loss = figures["tokens since the branch", "training loss [nats]"]
    assert sum(len(r.data_source.data["xs"]) for r in glyphs(loss, "MultiLine")) == 2


def test_every_cell_that_answers_names_its_run(sweep: xr.Dataset) -> None:
    import holoviews as hv
    from bokeh.models import Plot

    model = hv.render(sweep.dde.plot("train_loss", backend="bokeh"), backend="bokeh")
    named = {
        run_id
        for figure in model.select({"type": Plot})
        for r in glyphs(figure, "Scatter")
        for run_id in r.data_source.data.get("run_id", [])
    }
    assert named == {r for r in sweep.run_id.values[:, 1:].ravel() if r}


def test_there_is_one_legend_and_it_covers_nothing(sweep: xr.Dataset) -> None:
    import holoviews as hv
    from bokeh.models import Legend, Plot

    model = hv.render(sweep.dde.plot(METRICS, backend="bokeh"), backend="bokeh")
    shown = [(f, g) for f in model.select({"type": Plot}) for g in f.select({"type": Legend}) if g.visible and g.items]
    ((figure, legend),) = shown
    assert legend in figure.right
    entries = [item.label.value for item in legend.items]
    assert entries == ["5e-6", "5e-5", "pretraining", "supervised finetuning", "no data between", "branch"]
    assert legend.title == "peak learning rate"


def test_matplotlib_draws_the_same(sweep: xr.Dataset) -> None:
    import holoviews as hv
    import matplotlib.pyplot as plt

    figure = hv.render(sweep.dde.plot(METRICS, backend="matplotlib"), backend="matplotlib")
    try:
        axes = figure.axes
        assert len(axes) == 6
        assert [a.get_title("left") for a in axes[::3]] == ["150M on Dolma1.7", "150M on DCLM-Baseline"]
        panels = [panel for row in curve_panels(sweep, METRICS) for panel in row]
        for axis, panel in zip(axes, panels, strict=True):
            assert axis.get_xlabel() == panel.frame.x.label
            assert axis.get_ylabel() == panel.frame.y.label
            assert axis.get_xlim() == pytest.approx(panel.frame.x_range)
            assert axis.get_ylim() == pytest.approx(panel.frame.y_range)
        figure.canvas.draw()
        ticks = [t.get_text() for t in axes[0].get_xticklabels()]
        assert {"0", "5B", "10B", "15B"} <= set(ticks)
        assert all(re.fullmatch("|\N{MINUS SIGN}?[0-9.]+[MB]?", t) for t in ticks)
        (legend,) = [a.get_legend() for a in axes if a.get_legend() is not None]
        assert [t.get_text() for t in legend.get_texts()][:3] == ["5e-6", "5e-5", "pretraining"]
        box, frame = legend.get_window_extent(), axes[2].get_window_extent()
        assert box.x0 >= frame.x1
        # Frames have the shape that was asked for, however many there are.
        assert frame.width / frame.height == pytest.approx(330 / 230, rel=0.01)
    finally:
        plt.close(figure)


def test_a_legend_of_many_entries_is_shown(suite: Suite) -> None:
    import holoviews as hv
    import matplotlib.pyplot as plt

    opened = open_suite(suite, metrics=["arc_easy"], state="all")
    figure = hv.render(opened.dde.plot("arc_easy", facet_by="params", backend="matplotlib"), backend="matplotlib")
    legends = [a.get_legend() for a in figure.axes if a.get_legend() is not None]
    plt.close(figure)
    assert len(legends) == 1


def test_a_picture_is_a_small_png_with_the_colours_of_the_sweep(sweep: xr.Dataset, tmp_path: Path) -> None:
    path = save_picture(sweep.dde.plot(METRICS, backend="matplotlib"), tmp_path / "sweep.png", dpi=100)
    assert path.stat().st_size < 150_000
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    panel = curve_panels(sweep, METRICS)[0][0]
    for colour in [NEUTRAL, *panel.look.colours.values()]:
        wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
        assert (np.abs(pixels - wanted).max(axis=1) < 30).sum() > 100, colour


def test_a_page_stands_alone(sweep: xr.Dataset, tmp_path: Path) -> None:
    import panel

    # What the application loads must not get into a page of its own.
    panel.extension("tabulator")
    path = save_page(sweep.dde.plot(METRICS, backend="bokeh"), tmp_path / "sweep.html", "A <sweep>", "What it shows.")
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"<(script|link)[^>]+(src|href)\s*=", html)
    assert "A &lt;sweep&gt;" in html
    assert "What it shows." in html


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to look at the page with")
def test_a_page_as_a_browser_shows_it(sweep: xr.Dataset, tmp_path: Path) -> None:
    page = save_page(sweep.dde.plot(METRICS, backend="bokeh"), tmp_path / "sweep.html", "Sweep")
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    subprocess.run(
        ["chromium", *flags.split(), "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1500,800", "--virtual-time-budget=20000", f"--screenshot={tmp_path / 'page.png'}",
         page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(tmp_path / "page.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in curve_panels(sweep, METRICS)[0][0].look.colours.values():
        wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
        assert (np.abs(pixels - wanted).max(axis=1) < 30).sum() > 100, colour


# Axes and colours


def test_an_ordered_map_falls_steadily_in_lightness() -> None:
    colours = colours_of(np.geomspace(1e-7, 1e-3, 12).tolist())
    rgb = np.array([[int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)] for c in colours.values()])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert (np.diff(lightness) < -1).all()
    assert lightness[0] < 85, "the palest must still be seen on white"


def test_numbers_are_ordered_by_size_and_names_as_they_come() -> None:
    assert list(colours_of([3.0, 1.0, float("nan"), 2.0, 1.0])) == [1.0, 2.0, 3.0]
    assert list(colours_of(["b", "", "a", "b"])) == ["b", "a"]
    assert len(set(colours_of(list("abcdefg")).values())) == 7
    assert len(set(colours_of([np.int64(k) for k in range(14)]).values())) == 14


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (1e9, "1B"), (1.5e10, "15B"), (-2.5e8, "-250M"), (999, "999"), (1000, "1k"), (1e12, "1T"),
        (1.2e21, "1.2e21"), (0.25, "0.25"), (5e-7, "5e-7"), (15003942912, "15B"), (15095057785, "15.1B"),
    ],
)  # fmt: skip
def test_short_numbers(number: float, text: str) -> None:
    assert short_number(number) == text


def test_labels() -> None:
    assert label_of(np.float64(2e-5)) == "2e-5"
    assert label_of("supervised_ft") == "supervised ft"
    assert axis_label(xr.DataArray(0, name="x")) == "x"
    assert axis_label(xr.DataArray(0, attrs={"long_name": "tokens seen", "units": "tokens"})) == "tokens seen"
    assert padded_range([float("nan")]) is None
    assert padded_range([2.0, 2.0], 0.1) == (1.8, 2.2)
    assert padded_range([1.0, 100.0], 0.5, log=True) == (0.1, 1000.0)


def test_pictures_combine_as_layouts_do(sweep: xr.Dataset) -> None:
    one, other = (sweep.dde.plot(metric) for metric in METRICS)
    both = one + other
    assert len(both) == len(one) + len(other)
    hv.render(both)
    assert len(one + other[0]) == len(one) + 1
