"""Heat maps, scaling and trees: what runs end at, on both backends."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.dataset.finals import final
from dde.errors import DdeWarning, SelectionError, UnknownNameError
from dde.plots.cells import rows_of_runs
from dde.plots.colours import shades, text_colour
from dde.plots.tree import find_members
from picture_checks import (
    assert_nothing_is_cut_off,
    caption_of,
    drawn,
    figures_of,
    legend_entries,
    printed,
    tick_labels,
)


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    return dde.tutorial.open_lineages("small", metrics=["arc_easy", "train_loss", "mmlu_average"], state="all").load()


@pytest.fixture(scope="module")
def sweep(suite: xr.Dataset) -> xr.Dataset:
    """Finetuning of two recipes at 150M from their last checkpoints: learning rates and epochs, some missing."""
    chosen = {"params": "150M", "seed": 0, "data": ["Dolma1.7", "DCLM-Baseline"]}
    return suite.dde.sel(run_type="supervised_ft", branch_point="", **chosen)


def tiles(figure: Any) -> list[dict[str, Any]]:
    """The cells of a heat map on a page."""
    return shown(figure, "Quad", "count")


def shown(figure: Any, glyph: str, column: str) -> list[dict[str, Any]]:
    """What a page holds of glyphs of one kind, where it holds that column."""
    rows = []
    for renderer in drawn(figure, glyph):
        data = renderer.data_source.data
        if column in data:
            rows += [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    return rows


# Heat maps


def test_cells_hold_what_runs_end_at(sweep: xr.Dataset) -> None:
    one = sweep.dde.sel(epochs=1).isel(lineage=[0])
    (figure,) = figures_of(one.dde.plot_heatmap("arc_easy", backend="bokeh"))
    final = rows_of_runs(one.dde.final("arc_easy")).query("finetune_tokens == 1e8").set_index("learning_rate").value
    cells = {cell["across"]: cell for cell in tiles(figure)}
    assert list(final.index) == sorted(final.index)
    assert len(cells) == len(final) > 4
    for rate, value in final.items():
        (cell,) = [c for label, c in cells.items() if float(label) == pytest.approx(rate)]
        assert cell["value"] == value
        assert cell["count"] == 1
        # In order, each as wide as the next.
        place = list(final.index).index(rate)
        middle = (cell[next(n for n in cell if n.startswith("learning_rate_place"))], place)
        assert abs(middle[0] - (middle[1] - 0.5)) < 0.1


def test_a_heat_map_is_readable_in_print(sweep: xr.Dataset) -> None:
    picture = sweep.dde.plot_heatmap("arc_easy", y="epochs", average_over=["finetune_tokens", "max_train_samples"],
                                     backend="matplotlib")  # fmt: skip
    with printed(picture) as figure:
        assert_nothing_is_cut_off(figure)
        maps = figure.axes[:2]
        assert [axis.get_title("left") for axis in maps] == ["150M on Dolma1.7", "150M on DCLM-Baseline"]
        rates = tick_labels(maps[0].xaxis)
        assert rates == sorted(rates, key=float)
        assert {"5e-7", "5e-6", "1e-5", "5e-5", "2e-4"} <= set(rates)
        assert tick_labels(maps[0].yaxis) == ["1", "2"]
        assert maps[0].get_xlabel().startswith("peak learning rate")
        texts = [(t.get_text(), t.get_color()) for axis in maps for t in axis.texts]
        assert {c for _, c in texts} <= {"#000000", "#ffffff"}
        # Every written value stands on a cell whose colour it can be read on; missing cells have neither.
        faces = [tuple(face) for axis in maps for c in axis.collections if hasattr(c, "get_facecolor")
                 for face in c.get_facecolor()]  # fmt: skip
        assert len(texts) < 2 * len(rates) * 2
        assert len([f for f in faces if f != (1.0, 1.0, 1.0, 1.0)]) >= len(texts)
        (bar,) = [child for axis in maps for child in axis.child_axes]
        assert bar.get_title("left") == "ARC-Easy, primary metric"
        assert legend_entries(figure) == ["best (highest)"]


def test_the_best_cell_follows_the_direction_of_the_metric(sweep: xr.Dataset) -> None:
    one = sweep.dde.sel(epochs=1).isel(lineage=[0])
    for metric, best in (("arc_easy", max), ("train_loss", min)):
        (figure,) = figures_of(one.dde.plot_heatmap(metric, y="epochs", backend="bokeh",
                                                    average_over=["finetune_tokens", "max_train_samples"]))  # fmt: skip
        thick = [r for r in drawn(figure, "Quad") if r.glyph.line_width == 3]
        ((value,),) = [r.data_source.data["value"].tolist() for r in thick]
        assert value == best(cell["value"] for cell in tiles(figure))


@pytest.mark.parametrize("direction", [None, "", "best"])
def test_no_cell_is_called_best_where_the_direction_is_unknown(sweep: xr.Dataset, direction: str | None) -> None:
    one = sweep.dde.sel(epochs=1).isel(lineage=[0])
    one["train_loss"].attrs.pop("direction")
    if direction is not None:
        one["train_loss"].attrs["direction"] = direction
    options: dict[str, Any] = {"y": "epochs", "average_over": ["finetune_tokens", "max_train_samples"]}
    (figure,) = figures_of(one.dde.plot_heatmap("train_loss", backend="bokeh", **options))
    assert len(tiles(figure)) > 1
    assert not [r for r in drawn(figure, "Quad") if r.glyph.line_width == 3]
    assert not figure.legend
    with printed(one.dde.plot_heatmap("train_loss", backend="matplotlib", **options)) as print_:
        assert legend_entries(print_) == []
        assert not [t for axis in print_.axes for t in axis.texts if t.get_fontweight() == "bold"]


@pytest.mark.parametrize("lost", [lambda ds: ds.drop_attrs(), lambda ds: ds.to_dataarray("m").to_dataset("m")])
def test_attributes_that_an_operation_dropped_are_not_guessed(sweep: xr.Dataset, lost: Any) -> None:
    one = lost(sweep.dde.sel(epochs=1).isel(lineage=[0])[["train_loss", "arc_easy"]])
    (figure,) = figures_of(one.dde.plot_heatmap("train_loss", backend="bokeh"))
    assert not figure.legend


def test_missing_cells_are_empty(sweep: xr.Dataset) -> None:
    picture = sweep.dde.sel(epochs=1).dde.plot_heatmap("arc_easy", backend="bokeh")
    (figure, other) = figures_of(picture)
    there = {cell["across"] for cell in tiles(figure)}
    everything = {label for _, label in figure.xaxis[0].major_label_overrides.items()}
    assert {cell["across"] for cell in tiles(other)} | there == everything
    assert there < everything
    # Runs that neither axis has a place for are counted.
    assert caption_of(picture).endswith("without learning rate or finetune tokens.")


def test_replicates_are_averaged_and_counted(suite: xr.Dataset) -> None:
    twice = suite.dde.sel(lineage="dclm-baseline-150M-default", run=["sft_lr=5e-05_fullx2", "sft_lr=5e-05_fullx2#2"])
    (figure,) = figures_of(twice.dde.plot_heatmap("arc_easy", y="epochs", backend="bokeh"))
    (cell,) = tiles(figure)
    assert cell["count"] == 2
    assert cell["value"] == pytest.approx(float(twice.dde.final("arc_easy").mean()))
    assert len(cell["run_id"].split(", ")) == 2


def test_runs_that_differ_are_not_averaged_without_a_word(suite: xr.Dataset) -> None:
    chosen = suite.dde.sel(params="150M", run_type="supervised_ft", data="DCLM-Baseline", state="finished")
    with pytest.raises(
        SelectionError, match=r"differ in branch_point .*ds\.dde\.sel\(branch_point=''\).*average_over="
    ):
        chosen.dde.plot_heatmap("arc_easy")
    with pytest.raises(SelectionError, match=r"differ in .*seed"):
        chosen.dde.plot_heatmap("arc_easy", facet_by="data")
    over = ["branch_point", "seed", "epochs"]
    (figure,) = figures_of(chosen.dde.plot_heatmap("arc_easy", facet_by="data", average_over=over, backend="bokeh"))
    assert max(cell["count"] for cell in tiles(figure)) > 1


def test_a_sweep_and_means_are_drawn_as_their_runs(sweep: xr.Dataset) -> None:
    one = sweep.dde.sel(epochs=1)
    expected = [[c["value"] for c in tiles(f)] for f in figures_of(one.dde.plot_heatmap("arc_easy"))]
    swept = one.dde.sweep("learning_rate", "finetune_tokens")
    assert [[c["value"] for c in tiles(f)] for f in figures_of(swept.dde.plot_heatmap("arc_easy"))] == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metric": "arc_eazy"}, UnknownNameError, "Did you mean arc_easy"),
        ({"x": "learning_rat"}, UnknownNameError, "Did you mean learning_rate"),
        ({"average_over": "sed"}, UnknownNameError, "Did you mean seed"),
        ({"metric": "mmlu_average"}, SelectionError, "no run has a value of mmlu_average"),
        ({"backend": "plotly"}, UnknownNameError, "Pass 'bokeh' or 'matplotlib'"),
    ],
)
def test_mistakes_are_named(sweep: xr.Dataset, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sweep.dde.sel(epochs=1).dde.plot_heatmap(**{"metric": "arc_easy", **arguments})


def test_losses_that_were_reduced_differently_warn_once(suite: xr.Dataset) -> None:
    chosen = suite.dde.sel(params="150M", data="Dolma1.7", seed=0)
    for draw in (chosen.dde.plot_scaling, chosen.dde.plot_tree):
        with pytest.warns(DdeWarning, match="reduce train_loss in different ways") as caught:
            draw("train_loss")
        assert len(caught) == 1


def test_shades_tell_values_apart() -> None:
    every = shades(11)
    assert len(set(every)) == 11
    assert {text_colour(c) for c in every} == {"#000000", "#ffffff"}


# Scaling


@pytest.fixture(scope="module")
def bases(suite: xr.Dataset) -> xr.Dataset:
    return suite[["arc_easy"]].dde.sel(run=["pretraining"])


@pytest.fixture(scope="module")
def seeded() -> xr.Dataset:
    """Bases of sizes whose other seeds overran their schedule or stopped early."""
    chosen = {"params": ["150M", "1B"], "data": ["C4", "Dolma1.7"]}
    return dde.tutorial.open_lineages("small", metrics=["pile_valppl"], **chosen).dde.sel(run=["pretraining"]).load()


def points(figure: Any) -> list[dict[str, Any]]:
    """Points of a page that answer to the pointer."""
    return shown(figure, "Scatter", "run_id")


@pytest.mark.parametrize("x", ["cumulative_compute", "cumulative_tokens", "tokens_per_parameter", "n_params"])
def test_every_run_stands_at_what_it_cost(bases: xr.Dataset, x: str) -> None:
    (figure,) = figures_of(bases.dde.plot_scaling("arc_easy", x, at="last", band=None, backend="bokeh"))
    rows = rows_of_runs(bases.dde.final("arc_easy")).dropna(subset="value").set_index("run_id")
    found = {point["run_id"]: point for point in points(figure)}
    assert set(found) == set(rows.index)
    cost = {
        "cumulative_compute": 6.0 * rows.n_params * rows.final_tokens,
        "cumulative_tokens": rows.final_tokens,
        "tokens_per_parameter": rows.final_tokens / rows.n_params,
        "n_params": rows.n_params,
    }[x]
    for run_id, point in found.items():
        assert point[x] == pytest.approx(cost[run_id])
        assert point["arc_easy"] == rows.value[run_id]


def test_means_over_seeds_are_joined_in_order_of_size(bases: xr.Dataset) -> None:
    chosen = bases.dde.sel(params=["4M", "20M", "150M"])
    (figure,) = figures_of(chosen.dde.plot_scaling("arc_easy", at="last", backend="bokeh"))
    rows = rows_of_runs(chosen.dde.final("arc_easy")).dropna(subset="value")
    lines = [
        (np.asarray(x), np.asarray(y))
        for r in drawn(figure, "MultiLine")
        for x, y in zip(r.data_source.data["xs"], r.data_source.data["ys"], strict=True)
    ]
    joined = [(x, y) for x, y in lines if len(set(x.tolist())) > 1]
    bars = [(x, y) for x, y in lines if len(set(x.tolist())) == 1]
    recipes = [g for _, g in rows.groupby("data", sort=False) if g.params.nunique() > 1]
    assert len(joined) == len(recipes) == 3
    for (x, y), recipe in zip(joined, recipes, strict=True):
        means = recipe.groupby("n_params").value.mean()
        np.testing.assert_allclose(y, means)
        assert (np.diff(x) > 0).all()
    # Of two and three seeds the interval is Student's t, by its quantiles at 97.5 %.
    ends = {(round(float(y.min()), 9), round(float(y.max()), 9)) for _, y in bars}
    quantile = {2: 12.706204736174707, 3: 4.302652729911275}
    groups = [g for _, g in rows.groupby(["data", "n_params"]).value if len(g) > 1]
    assert ends == {
        (round(g.mean() - quantile[len(g)] * g.sem(), 9), round(g.mean() + quantile[len(g)] * g.sem(), 9))
        for g in groups
    }


def test_scaling_in_print(bases: xr.Dataset) -> None:
    with printed(bases.dde.plot_scaling("arc_easy", backend="matplotlib")) as figure:
        (axis,) = figure.axes
        assert axis.get_xlabel() == "training compute, 6 N tokens [FLOP]"
        assert axis.get_ylabel() == "ARC-Easy, primary metric"
        assert axis.get_xscale() == "log"
        assert {"1e17", "1e18", "1e19", "1e20"} <= set(tick_labels(axis.xaxis))
        assert legend_entries(figure) == ["Dolma1.7", "C4", "DCLM-Baseline", "mean of 1–3 runs",
                                          "95% interval of the mean", "single run"]  # fmt: skip
        assert_nothing_is_cut_off(figure)


STANDING = {
    "schedule": "at the end of the schedule",
    "last": "where each run was last observed",
    "common": "at the last tokens that all runs reach",
    1e10: "at 10B tokens",
}


@pytest.mark.parametrize("at", list(STANDING))
def test_scaling_says_where_values_stand_and_what_is_left_out(bases: xr.Dataset, at: Any) -> None:
    values = final(bases, "arc_easy", at=at)
    rows = rows_of_runs(values).dropna(subset="value").set_index("run_id")
    picture = bases.dde.plot_scaling("arc_easy", "cumulative_tokens", at=at, backend="bokeh")
    (figure,) = figures_of(picture)
    found = {p["run_id"]: (p["cumulative_tokens"], p["arc_easy"]) for p in points(figure)}
    assert found == {run_id: (row.final_tokens, row.value) for run_id, row in rows.iterrows()}
    where = caption_of(picture).removesuffix(".")
    left_out = re.sub(r" \(.*?\)", "", values.attrs["left_out"])
    assert where.endswith(f"{STANDING[at]}; left out: {left_out}" if left_out else STANDING[at])
    assert bool(left_out) == (at in ("schedule", 1e10))


def test_bases_are_compared_on_schedule(seeded: xr.Dataset) -> None:
    def shares(at: str) -> dict[str, float]:
        """The share of its schedule that each run's point stands at."""
        picture = seeded.dde.plot_scaling("pile_valppl", "cumulative_tokens", at=at, band=None, backend="bokeh")
        (figure,) = figures_of(picture)
        sizes = {label: dde.names.find_base_by_label(label).size for label in seeded.lineage.values}
        return {p["run_id"]: p["cumulative_tokens"] / sizes[p["run_id"]].scheduled_tokens for p in points(figure)}

    with pytest.warns(DdeWarning, match=r"runs .* went on beyond their schedule"):
        last = shares("last")
    on_schedule = shares("schedule")
    assert max(on_schedule.values()) <= 1 < max(last.values())
    assert "dolma1_7-1B-default" in on_schedule
    # A seed of the largest size stopped at a quarter of its schedule.
    assert last["dolma1_7-1B-small-aux-2"] < 0.3
    assert "dolma1_7-1B-small-aux-2" not in on_schedule


def test_where_values_stand_belongs_to_final(bases: xr.Dataset) -> None:
    def highest(dataset: xr.Dataset, metric: str) -> xr.DataArray:
        return dataset[metric].max("cumulative_tokens")

    with printed(bases.dde.plot_scaling("arc_easy", "n_params", reduce=highest, backend="matplotlib")) as figure:
        assert figure.axes[0].get_xlabel() == "parameters"
    with pytest.raises(SelectionError, match=r"has no coordinate final_tokens.*or pass x='n_params'"):
        bases.dde.plot_scaling("arc_easy", reduce=highest)
    with pytest.raises(SelectionError, match="at='last' is the position of final values, and reduce= replaces those"):
        bases.dde.plot_scaling("arc_easy", "n_params", at="last", reduce=highest)
    with pytest.raises(SelectionError, match=r"no run has a value of arc_easy at 900B tokens.*Pass at='last'"):
        bases.dde.plot_scaling("arc_easy", at=9e11)


def test_facets_and_treatments_of_scaling(suite: xr.Dataset) -> None:
    chosen = suite.dde.sel(params=["4M", "150M"], data=["Dolma1.7", "C4", "DCLM-Baseline"])
    picture = chosen.dde.plot_scaling("arc_easy", hue_by="learning_rate", facet_by="data", backend="matplotlib")
    with printed(picture) as figure:
        assert [a.get_title("left") for a in figure.axes] == ["data: Dolma1.7", "data: C4", "data: DCLM-Baseline"]
        assert len({(a.get_xlim(), a.get_ylim()) for a in figure.axes}) == 1
        assert {"pretraining", "supervised finetuning", "DPO", "none"} <= set(legend_entries(figure))
        assert_nothing_is_cut_off(figure)
    with pytest.raises(UnknownNameError, match="Did you mean cumulative_compute"):
        suite.dde.plot_scaling("arc_easy", "cumulative_comput")
    with pytest.raises(SelectionError, match="no run has a value of train_loss"):
        suite.dde.sel(run="pretraining").dde.plot_scaling("train_loss")


# Trees


@pytest.fixture(scope="module")
def family(suite: xr.Dataset) -> xr.Dataset:
    """A base with finetuned runs, and runs of preference optimization that branch off one of these."""
    return suite.dde.sel(lineage=["dolma1_7-150M-default"])


def test_runs_stand_below_what_they_branch_off(family: xr.Dataset) -> None:
    members = find_members(rows_of_runs(family.dde.final("arc_easy")))
    assert [m.row for m in members] == list(range(len(members)))
    assert {m.run_id for m in members} == {r for r in family.run_id.values.ravel() if r}
    by_id = {m.run_id: m for m in members}
    parents = rows_of_runs(family.dde.final("arc_easy")).set_index("run_id").parent_run_id
    for m in members[1:]:
        assert m.parent is by_id[parents[m.run_id]]
        assert m.parent.row < m.row
        # Between a run and its parent stand its parent's other descendants alone.
        assert all(other.depth >= m.depth for other in members[m.parent.row + 1 : m.row])
        assert m.branch < m.end
    assert max(m.depth for m in members) >= 2


def test_a_tree_in_print(family: xr.Dataset) -> None:
    count = int((family.run_id != "").sum())
    with printed(family.dde.plot_tree("arc_easy", backend="matplotlib")) as figure:
        axis = figure.axes[0]
        rows = [t.get_text() for t in axis.get_yticklabels()]
        assert rows[0] == "150M on Dolma1.7"
        assert len(rows) == count
        assert "dpo_lr=5e-07_fullx1_beta=5" in rows
        across = [t.get_text() for t in axis.get_xticklabels()]
        assert across[0] == "0"
        assert "+0" in across
        assert axis.get_xlabel() == "tokens of pretraining, then since the base was left (+)"
        assert {"pretraining", "supervised finetuning", "DPO"} <= set(legend_entries(figure))
        heights = np.diff([t.get_window_extent().y0 for t in axis.get_yticklabels()])
        assert (heights < -1.2 * axis.get_yticklabels()[0].get_window_extent().height * 0.8).all(), "labels overlap"
        assert_nothing_is_cut_off(figure)


def test_dots_have_the_colour_of_what_runs_end_at(family: xr.Dataset) -> None:
    (figure,) = figures_of(family.dde.plot_tree("arc_easy", backend="bokeh"))
    found = {point["run_id"]: point for point in points(figure)}
    final = rows_of_runs(family.dde.final("arc_easy")).set_index("run_id").value
    assert set(found) == set(final.index)
    low, high = final.min(), final.max()
    palette = shades()
    for run_id, value in final.items():
        if np.isnan(value):
            assert (found[run_id]["value"], found[run_id]["colour"]) == ("none", "#ffffff")
        else:
            assert found[run_id]["colour"] == palette[round((value - low) / (high - low) * 255)]
    # On its row, at the end of its line.
    ends = {(round(float(x[-1]), 6), float(y[-1])) for r in drawn(figure, "MultiLine") if r.glyph.line_width == 3
            for x, y in zip(r.data_source.data["xs"], r.data_source.data["ys"], strict=True)}  # fmt: skip
    assert {(round(p["tree_place"], 6), p["tree_row"]) for p in found.values()} == ends


def test_trees_of_many_lineages(suite: xr.Dataset) -> None:
    with printed(suite.dde.sel(params="150M").dde.plot_tree(backend="matplotlib")) as figure:
        rows = [t.get_text() for t in figure.axes[0].get_yticklabels()]
        assert sum(" on " in row for row in rows) == 10
        assert len(rows) > 30
        assert_nothing_is_cut_off(figure)
    with pytest.raises(SelectionError, match="the Dataset has 0 runs, so there is no tree"):
        suite.where(suite.run_id == "nothing", drop=True).dde.plot_tree()


def test_ancestors_that_are_not_in_the_dataset_are_drawn_faint(suite: xr.Dataset) -> None:
    alone = suite.dde.sel(run_type="dpo", data="Dolma1.7")
    members = find_members(rows_of_runs(alone.dde.final("arc_easy")))
    assert {m.run_type for m in members if not m.is_listed} == {"pretraining", "supervised_ft"}
    assert all(m.parent is not None and m.origin < m.branch for m in members if m.run_type == "dpo")
    with printed(alone.dde.plot_tree("arc_easy", backend="matplotlib")) as figure:
        assert "not in the Dataset" in legend_entries(figure)
        assert_nothing_is_cut_off(figure)


def test_a_saved_dataset_keeps_its_tree(family: xr.Dataset, tmp_path: Any) -> None:
    before = find_members(rows_of_runs(family.dde.final("arc_easy")))
    family.to_zarr(tmp_path / "saved.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "saved.zarr", consolidated=False) as saved:
        after = find_members(rows_of_runs(saved.dde.final("arc_easy")))
        assert [(m.run_id, m.row, m.branch, m.end) for m in after] == [
            (m.run_id, m.row, m.branch, m.end) for m in before
        ]
        assert figures_of(saved.dde.plot_tree("arc_easy", backend="bokeh"))


def test_a_base_alone_is_a_tree(family: xr.Dataset) -> None:
    with printed(family.dde.sel(run="pretraining").dde.plot_tree("arc_easy", backend="matplotlib")) as figure:
        assert figure.axes[0].get_xlabel() == "tokens of pretraining"
        assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["150M on Dolma1.7"]
        assert legend_entries(figure) == []
        assert_nothing_is_cut_off(figure)


def test_a_heat_map_of_a_sweep_is_laid_out_by_the_sweep(sweep: xr.Dataset) -> None:
    one = sweep.dde.sel(finetune_tokens=[1e8]).isel(lineage=[0])
    with printed(one.dde.sweep("epochs", "learning_rate").dde.plot_heatmap("arc_easy", backend="matplotlib")) as figure:
        assert figure.axes[0].get_xlabel().startswith("epochs")
        assert figure.axes[0].get_ylabel().startswith("peak learning rate")
