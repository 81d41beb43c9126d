"""What `ds.dde` and pictures make of suites other than DataDecide: several bases in a lineage, merges, any factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.cli.ls import lineage_table, run_table
from dde.errors import SelectionError, SourceError, UnknownNameError
from dde.plots.cells import rows_of_runs
from dde.plots.curve_segments import find_segments
from dde.plots.curves import curve_panels
from dde.plots.defaults import default_hue, heatmap_coordinates, line_factors
from dde.plots.panels import Panel, value_of
from dde.plots.tree import find_members
from dde.schema import factor_of, factors_of, is_datadecide, treatment_names
from other_suites import SIZES, Run, ladder, make_dataset, optimizers
from picture_checks import assert_nothing_is_cut_off, printed
from samples import sample_folder

MERGE = "(decay-1xC & decay-2xC)+merge"
differing_branches = pytest.mark.filterwarnings("ignore:.*branch at different tokens:dde.errors.DdeWarning")


@pytest.fixture(scope="module")
def sizes() -> xr.Dataset:
    return ladder()


@pytest.fixture(scope="module")
def trials() -> xr.Dataset:
    return optimizers()


# Factors


def test_factors_are_what_coordinates_say(sizes: xr.Dataset) -> None:
    expected = {"run_type": "run", "size": "lineage", "seed": "lineage", "budget": "run", "warmup": "cell"}
    assert factors_of(sizes) == expected
    assert factors_of(sizes.isel(lineage=0, run=1).loss) == expected
    assert factor_of(sizes, "run_id") is None
    assert treatment_names(sizes) == {"run_type", "budget", "warmup"}


def test_datadecide_is_told_by_its_coordinates(sizes: xr.Dataset) -> None:
    suite = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"], cache_dir=None)
    assert is_datadecide(suite)
    assert {n: of for n, of in factors_of(suite).items() if of == "lineage"} == dict.fromkeys(
        ("params", "data", "seed"), "lineage"
    )
    assert factor_of(suite, "learning_rate") == "run"
    assert factor_of(suite, "batch_size") == "cell"
    assert not is_datadecide(sizes)
    assert not is_datadecide(sizes.drop_vars(["size", "seed", "budget", "warmup"]))


# Selecting, sweeping, joining


def test_names_of_datadecide_are_no_names_of_another_suite(trials: xr.Dataset) -> None:
    assert trials.dde.sel(data="-deduped").lineage.values.tolist() == ["tiny-deduped"]
    assert trials.dde.sel(params="tiny").sizes["lineage"] == 2
    with pytest.raises(SelectionError, match="params='150M' matches nothing"):
        trials.dde.sel(params="150M")
    with pytest.raises(UnknownNameError, match="'mmlu' is not a variable"):
        trials.dde.support("mmlu")


def test_a_sweep_over_factors_of_runs(sizes: xr.Dataset, trials: xr.Dataset) -> None:
    swept = trials.dde.sweep("optimizer", "learning_rate")
    assert dict(swept.sizes) == {
        "lineage": 2, "optimizer": 2, "learning_rate": 2, "replicate": 2, "cumulative_tokens": 9,
    }  # fmt: skip
    cell = swept.loss.sel(lineage="tiny", optimizer="muon", learning_rate=3e-3, replicate=2)
    xr.testing.assert_equal(cell.variable, trials.loss.sel(lineage="tiny", run="muon_lr=0.003#2").variable)
    assert factor_of(swept, "optimizer") == "run"
    # The trunk has no budget, and is the base of decays: it is not counted as left out, but merge and rewind are.
    assert sizes.dde.sweep("run_type", "budget").attrs["left_out"] == "not in the sweep over run_type, budget: 6"
    with pytest.raises(UnknownNameError, match=r"sweep\('budget', 'warmup'\)"):
        sizes.dde.sweep()


def test_joining_keeps_the_order_of_lineages_and_needs_no_parameters(sizes: xr.Dataset, trials: xr.Dataset) -> None:
    joined = dde.concat([sizes.isel(lineage=[2, 3]), sizes.isel(lineage=[0])])
    assert joined.lineage.values.tolist() == ["370M-s0", "370M-s1", "190M-s0"]
    xr.testing.assert_equal(joined.loss, sizes.loss.isel(lineage=[2, 3, 0]))
    xr.testing.assert_allclose(joined.cumulative_compute, sizes.cumulative_compute.isel(lineage=[2, 3, 0]))
    one = dde.concat([trials.isel(lineage=1), trials.isel(lineage=[0], run=[0])])
    assert one["optimizer"].dims == ("run",)
    assert one["data"].dims == ("lineage",)
    assert "n_params" not in one.coords
    changed = sizes.isel(lineage=[0]).assign_coords(warmup=sizes.warmup.isel(lineage=[0]) + 1)
    with pytest.raises(SelectionError, match="warmup of the run '190M-s0/cosine-1xC' is"):
        dde.concat([sizes, changed])


def test_a_saved_dataset_is_the_same_suite(sizes: xr.Dataset, tmp_path: Path) -> None:
    sizes.to_zarr(tmp_path / "a.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)
    assert factors_of(again) == factors_of(sizes)
    assert dde.concat([again.isel(lineage=[1]), sizes.isel(lineage=[0])]).sizes["lineage"] == 2


# Means


@differing_branches
def test_means_over_a_factor_of_lineages_or_runs(sizes: xr.Dataset) -> None:
    means = sizes.dde.mean_over("seed")
    assert means.lineage.values.tolist() == list(SIZES)
    pair = sizes.loss.sel(lineage=["370M-s0", "370M-s1"], run="decay-1xC")
    np.testing.assert_allclose(means.loss.sel(lineage="370M", run="decay-1xC"), pair.mean("lineage", skipna=False))
    assert means.n_members.sel(lineage="1B").values.tolist() == [2, 2, 2, 2, 2, 1, 1]
    by_budget = sizes.dde.mean_over("budget")
    # A run without a budget has no part in a mean over budgets.
    assert by_budget.run.values.tolist() == ["cosine", "constant", "decay", MERGE, "rewound"]
    assert by_budget.n_members.sel(lineage="1B-s0").values.tolist() == [2, 1, 2, 1, 1]
    assert by_budget.run_id.sel(lineage="1B-s0", run="decay").item() == "1B-s0/decay-1xC+1B-s0/decay-2xC"


@differing_branches
def test_what_members_differ_in_beside_is_refused_or_named(sizes: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match=r"differ in warmup .*\['size', 'warmup'\]"):
        sizes.dde.mean_over("size")
    means = sizes.dde.mean_over(["size", "warmup"])
    assert means.lineage.values.tolist() == ["seed=0", "seed=1"]
    assert means.attrs["averaged_over"] == "size, warmup"
    with pytest.raises(SelectionError, match=r"sweep\('warmup'\)"):
        sizes.dde.mean_over("warmup")
    with pytest.raises(UnknownNameError, match="Did you mean seed"):
        sizes.dde.mean_over("sead")


def test_repetitions_share_a_label(trials: xr.Dataset) -> None:
    means = trials.dde.mean_over("replicate")
    assert means.run.values.tolist() == ["adamw_lr=0.001", "adamw_lr=0.003", "muon_lr=0.001", "muon_lr=0.003"]
    assert (means.n_members == 2).all()
    both = trials.dde.mean_over(["learning_rate", "replicate"])
    assert both.run.values.tolist() == ["optimizer=adamw", "optimizer=muon"]
    expected = trials.loss.sel(lineage="tiny").groupby("optimizer").mean()
    np.testing.assert_allclose(both.loss.sel(lineage="tiny"), expected)
    kept = trials.dde.mean_over("learning_rate")
    assert kept.run.values.tolist() == ["optimizer=adamw", "optimizer=adamw#2", "optimizer=muon", "optimizer=muon#2"]
    swept = trials.dde.sweep("optimizer", "learning_rate").dde.mean_over("optimizer")
    assert dict(swept.sizes) == {"lineage": 2, "learning_rate": 2, "replicate": 2, "cumulative_tokens": 9}


# Bases, stages, ends


def test_the_base_of_several_is_asked_for(sizes: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="started from 3 bases"):
        sizes.dde.base_curves()
    decays = sizes.dde.sel(run_type="decay")
    bases = decays.dde.base_curves()
    assert bases.run_id.values.tolist() == [f"{x}/constant" for x in sizes.lineage.values]
    assert set(bases.chain.values.tolist()) == {"constant@0"}
    assert "budget" not in bases.coords
    assert factor_of(bases, "size") == "lineage"
    trunk = sizes.loss.sel(run="constant")
    until = decays.branch_tokens.max("run")
    xr.testing.assert_equal(bases.loss.variable, trunk.where(trunk.cumulative_tokens <= until).variable)


def test_stages_are_the_types_of_the_suite(sizes: xr.Dataset) -> None:
    codes = sizes.dde.checkpoint_type()
    assert codes.attrs["flag_meanings"] == "outside cosine constant decay merge"
    words = np.array(codes.attrs["flag_meanings"].split())

    def at(run: str, tokens: list[int]) -> list[str]:
        return words[codes.sel(lineage="190M-s0", run=run, cumulative_tokens=tokens).values].tolist()

    assert at("decay-1xC", [80_000_000, 85_000_000, 120_000_000]) == ["constant", "decay", "outside"]
    # Between the last token that its parents share and a merge, nothing was training.
    assert at(MERGE, [80_000_000, 100_000_000, 240_000_000]) == ["constant", "outside", "merge"]
    table = sizes.dde.to_frame()
    assert {"size", "budget", "warmup"} <= set(table.columns)
    assert set(table.checkpoint_type) == {"cosine", "constant", "decay", "merge"}
    with pytest.raises(SourceError, match="declares no `checkpoints`"):
        sizes.dde.revision()


def test_evaluations_of_their_own_are_points_of_a_grid(trials: xr.Dataset) -> None:
    aligned = trials.dde.align("auto", "log")
    assert set(trials.cumulative_tokens.values) <= set(aligned.cumulative_tokens.values)
    np.testing.assert_allclose(aligned.loss.sel(cumulative_tokens=trials.cumulative_tokens), trials.loss)
    # Between the first observation and the last one, not between branches alone.
    assert trials.dde.align(21).cumulative_tokens.values[[0, -1]].tolist() == [0, 800]
    with pytest.raises(SelectionError, match="states no parameter counts"):
        trials.dde.align(axis="cumulative_compute")


# Pictures


def segments_of(panels: list[list[Panel]]) -> list[Any]:
    return [s for row in panels for panel in row for s in panel.segments]


def test_colours_follow_from_factors(sizes: xr.Dataset, trials: xr.Dataset) -> None:
    assert default_hue(sizes) == "budget"
    assert default_hue(trials) == "optimizer"
    assert default_hue(trials.dde.sel(optimizer="muon")) == "learning_rate"
    assert default_hue(sizes.dde.sel(run=["constant", "rewound"])) == "run"
    assert default_hue(sizes.dde.sel(run="constant")) is None
    assert heatmap_coordinates(sizes)[:2] == ["budget", "size"]
    assert heatmap_coordinates(trials)[:2] == ["learning_rate", "optimizer"]
    assert line_factors(sizes, ["seed"]) == []
    assert line_factors(sizes, []) == ["seed"]


def test_bases_show_their_own_treatments(sizes: xr.Dataset) -> None:
    one = sizes.isel(lineage=[0])
    found = find_segments(one, "loss")
    assert [(s.kind, s.is_base, value_of(s, "budget")) for s in found] == [
        ("cosine", True, 1.0), ("cosine", True, 2.0), ("constant", True, ""), ("decay", False, 1.0),
        ("decay", False, 2.0), ("merge", False, ""), ("constant", False, ""),
    ]  # fmt: skip
    # A rewound run is of the type of its base, and no base.
    rewound = found[-1]
    assert rewound.run_id == "190M-s0/rewound"
    assert rewound.anchor is not None
    # Nothing leads to a merge.
    merge = found[-2]
    assert merge.anchor is None
    assert len(merge.x) == 1
    # Each root that a run left is shown by the run that left it last, where it was selected away.
    derived = find_segments(one.dde.sel(run_type=["decay"]), "loss")
    assert [(s.kind, s.is_base, s.run_id) for s in derived] == [
        ("constant", True, "190M-s0/decay-2xC"), ("decay", False, "190M-s0/decay-1xC"),
        ("decay", False, "190M-s0/decay-2xC"),
    ]  # fmt: skip
    assert value_of(derived[0], "budget") == ""


def test_a_name_of_datadecide_may_be_a_factor_of_runs(sizes: xr.Dataset) -> None:
    renamed = sizes.isel(lineage=[0]).drop_vars("seed").rename(budget="seed")
    base, *decays = find_segments(renamed.dde.sel(run_type="decay"), "loss")
    assert base.is_base
    assert value_of(base, "seed") == ""
    assert [value_of(s, "seed") for s in decays] == [1.0, 2.0]
    assert "seed" not in renamed.dde.sel(run_type="decay").dde.base_curves().coords


@differing_branches
def test_means_of_some_runs_show_no_base_of_their_own(sizes: xr.Dataset) -> None:
    # The merge and the rewind are of one seed, the trunk of two.
    means = sizes.dde.mean_over("seed").isel(lineage=[0])
    bases = [s.run_id for s in find_segments(means, "loss") if s.is_base]
    assert len(bases) == len(set(bases)) == 3
    (row,) = curve_panels(means)
    assert [since for s, since in row[1].shifted_segments() if s.is_base] == [80e6, 120e6, 160e6]


def test_a_run_is_compared_with_the_base_it_left(sizes: xr.Dataset) -> None:
    (row,) = curve_panels(sizes.isel(lineage=[0]))
    zoomed = row[1].shifted_segments()
    assert {s.run_id for s, _ in zoomed if s.is_base} == {"190M-s0/constant"}


def test_no_facet_loses_a_run(sizes: xr.Dataset, trials: xr.Dataset) -> None:
    panels = curve_panels(trials, facet_by="data", zoom=False)
    assert [p.title for row in panels for p in row] == ["data: -deduped", "data: none"]
    assert len(segments_of(panels)) == len(find_segments(trials, "loss"))
    by_budget = curve_panels(sizes.isel(lineage=[0]), facet_by="budget", zoom=False)
    assert [p.title for row in by_budget for p in row] == ["budget: 1", "budget: 2", "budget: none"]
    # The trunk, which has no budget, stands with every decay of it.
    assert [sum(s.run_id.endswith("constant") for s in p.segments) for row in by_budget for p in row] == [1, 1, 1]


def test_trees_begin_with_every_base(sizes: xr.Dataset) -> None:
    members = find_members(rows_of_runs(sizes.isel(lineage=[0]).dde.final()))
    assert [(m.label, m.depth, m.parent.run_id if m.parent else "") for m in members] == [
        ("190M-s0 cosine-1xC", 0, ""),
        ("190M-s0 cosine-2xC", 0, ""),
        ("190M-s0 constant", 0, ""),
        ("decay-1xC", 1, "190M-s0/constant"),
        ("merge", 2, "190M-s0/decay-1xC"),
        ("rewound", 1, "190M-s0/constant"),
        ("decay-2xC", 1, "190M-s0/constant"),
    ]
    assert members[4].start == 240_000_000
    alone = find_members(rows_of_runs(sizes.isel(lineage=[0]).dde.sel(run=MERGE).dde.final()))
    assert [(m.label, m.run_type, m.is_listed) for m in alone] == [
        ("190M-s0", "constant", False), ("merge", "merge", True),
    ]  # fmt: skip


@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
def test_pictures_are_drawn_without_arguments(sizes: xr.Dataset, trials: xr.Dataset, backend: Any) -> None:
    import holoviews as hv

    few = sizes.isel(lineage=[0, 1])
    drawn = [
        few.dde.plot(backend=backend),
        few.dde.plot(backend=backend, x="post_tokens", band="seed"),
        trials.dde.plot(backend=backend, band=["replicate", "learning_rate"]),
        sizes.dde.plot_scaling("loss", backend=backend),
        trials.dde.plot_scaling("loss", "cumulative_tokens", backend=backend),
        trials.dde.plot_heatmap("loss", backend=backend),
        sizes.dde.sel(run_type="decay").dde.plot_heatmap("loss", average_over="seed", backend=backend),
        few.dde.plot_tree("loss", backend=backend),
    ]
    for picture in drawn:
        assert hv.render(picture, backend=backend) is not None


def test_pictures_that_need_parameters_say_so(trials: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="states no parameter counts"):
        trials.dde.plot_scaling("loss")
    with pytest.raises(SelectionError, match="differ in data"):
        trials.dde.plot_heatmap("loss", facet_by=None)
    with pytest.raises(UnknownNameError, match="band='optimizer' is not a factor of lineages"):
        trials.dde.plot_scaling("loss", "cumulative_tokens", band="optimizer")


# The application and lists


def test_the_application_has_the_filters_of_the_suite(sizes: xr.Dataset, trials: xr.Dataset) -> None:
    page = sizes.dde.explore(size="1B", budget=1.0)
    assert page.choices.lineages == ("1B-s0", "1B-s1")
    assert page.choices.runs == ("cosine-1xC", "decay-1xC")
    assert page.session.drawing is not None
    assert page.session.drawing.table["budget"].tolist() == [1.0] * 4
    scope: dict[str, Any] = {"ds": sizes}
    exec(page.code, scope)
    xr.testing.assert_identical(scope["shown"], page.dataset)
    page = trials.dde.explore(data="")
    assert page.choices.lineages == ("tiny",)
    assert {"data", "optimizer", "learning_rate"} <= set(page.controls.widgets)
    assert page.controls.widgets["band"].options == ["data", "optimizer", "learning_rate", "replicate"]
    with pytest.raises(UnknownNameError, match="'params' is not the name of a choice"):
        trials.dde.explore(params="tiny")
    with pytest.raises(TypeError, match="unexpected keyword argument 'warmth'"):
        trials.dde.explore(warmth=1)


def test_lists_have_the_factors_of_the_suite(sizes: xr.Dataset) -> None:
    lineages = lineage_table(sizes)
    assert lineages.columns[:5].tolist() == ["lineage", "size", "seed", "base_end_tokens", "runs"]
    assert lineages.loc[0, ["base_end_tokens", "runs", "decay", "constant"]].tolist() == [220_000_000, 7, 2, 2]
    runs = run_table(sizes)
    assert len(runs) == int((sizes.run_id != "").sum())
    assert {"size", "budget", "warmup"} <= set(runs.columns)


# Real suites


@pytest.fixture(scope="module")
def olmo() -> xr.Dataset:
    ladder = sample_folder("suites/olmo_ladder")
    return dde.open_lineages(str(ladder), suite="olmo_ladder", metrics=["c4_en_loss"], cache_dir=None).load()


def test_a_real_ladder(olmo: xr.Dataset) -> None:
    assert default_hue(olmo) == "budget"
    means = olmo.dde.mean_over(["replicate", "rerun"])
    assert means.n_members.sel(run="cosine-1xC").values.tolist() == [2] * 5
    bases = olmo.dde.sel(run_type="decay").dde.base_curves()
    assert bases.run_id.values.tolist() == [f"constant/{size}-10xC" for size in olmo["size"].values]
    # Decays end below the cosine run of their budget, in every cell.
    ends = olmo.dde.final("c4_en_loss")
    for budget in (0.5, 1, 2, 5, 10):
        gain = ends.sel(run=f"cosine-{budget:g}xC").values - ends.sel(run=f"decay-{budget:g}xC").values
        assert ((gain > 0.0004) & (gain < 0.0403)).all()
    assert {s.kind for s in segments_of(curve_panels(olmo))} == {"cosine", "constant", "decay"}


def test_a_real_soup() -> None:
    checkpoints = sample_folder("suites/olmo3_checkpoints")
    ds = dde.open_lineages(str(checkpoints), suite="olmo3_32b", cache_dir=None)
    members = find_members(rows_of_runs(ds.dde.final("tokens_listed")))
    assert [(m.label, m.depth, m.start) for m in members] == [
        ("olmo3-32B", 0, 0),
        ("midtrain-1", 1, 5_695_864_832_000),
        ("merge", 2, 5_887_477_415_936),
        ("longcontext", 3, 5_887_477_415_936),
        ("merge", 4, 5_979_089_403_904),
        ("midtrain-2", 1, 5_695_864_832_000),
    ]
    found = find_segments(ds, "tokens_listed")
    assert [s.kind for s in found] == ["pretraining", "midtraining", "midtraining", "merge", "longcontext", "merge"]
    assert [s.is_base for s in found] == [True] + [False] * 5
    assert all(s.anchor is None for s in found)


def forks() -> xr.Dataset:
    """Return a base, a run of it, two replicates that start from this run, and a run that starts from each of these."""
    rows = {t: 3.0 - t / 1000 for t in range(0, 101, 10)}
    runs = [
        Run("base", "L", "base", "pretraining", rows),
        Run("mid", "L", "mid", "mid", {110: 2.5, 120: 2.4}, ["base"], branch=100, start=100),
        Run("sft1", "L", "mid+sft", "sft", {130: 2.2, 140: 2.1}, ["mid"], branch=120, start=120),
        Run("sft2", "L", "mid+sft#2", "sft", {120: 2.3, 140: 2.0}, ["mid"], branch=110, start=110, replicate=2),
        Run("rl1", "L", "mid+sft+rl", "rl", {150: 1.5}, ["sft1"], branch=140, start=140),
        Run("rl2", "L", "mid+sft+rl#2", "rl", {150: 1.4}, ["sft2"], branch=140, start=140, replicate=2),
    ]
    return make_dataset(runs, {}, None)


@pytest.mark.parametrize(
    "selected", [["rl1", "rl2"], ["mid", "rl1"], ["sft1", "rl2"], ["sft2", "rl1"], ["base", "rl1"]]
)
def test_ancestors_of_ancestors_are_drawn_once(selected: list[str]) -> None:
    ds = forks().dde.sel(run_id=selected)
    found = [s.kind for s in find_segments(ds, "loss")]
    assert found.count("pretraining") == 1
    assert found.count("mid") == 1
    assert found.count("sft") == len({run[-1] for run in selected if run[-1] in "12"})
    members = find_members(rows_of_runs(ds.dde.final()))
    assert [m.run_type for m in members].count("mid") == 1
    assert [m.depth for m in members if m.run_type == "rl"] == [3] * sum(run.startswith("rl") for run in selected)


def test_different_ancestors_of_one_label_are_both_drawn() -> None:
    # Replicates of the same treatment, of which neither is selected, and whose ids are unknown.
    runs = [Run("base", "L", "base", "pretraining", {t: 3.0 - t / 1000 for t in range(0, 101, 10)})]
    for k in (1, 2):
        number = f"#{k}" * (k > 1)
        runs += [
            Run(f"mid{k}", "L", f"mid{number}", "mid", {120: 2.5 - 0.1 * k}, ["base"], branch=100, start=100),
            Run(f"sft{k}", "L", f"mid+sft{number}", "sft", {140: 2.0}, [f"mid{k}"], branch=120, start=120),
            Run(f"rl{k}", "L", f"mid+sft+rl{number}", "rl", {150: 1.5}, [f"sft{k}"], branch=140, start=140),
        ]
    ds = make_dataset(runs, {}, None).dde.sel(run_type=["rl"])
    middles = [s for s in find_segments(ds, "loss") if s.kind == "mid"]
    assert sorted(s.values[-1] for s in middles) == pytest.approx([2.3, 2.4])


@pytest.mark.parametrize(
    "names", [("cosine", "trapezoidal"), ("cosine, no decay", "trapezoidal"), ("a" * 30, "b" * 40)]
)
def test_long_labels_of_a_heat_map_do_not_overlap(trials: xr.Dataset, names: tuple[str, str]) -> None:
    renamed = np.where(trials.optimizer == "muon", *names).astype(object)
    ds = trials.assign_coords(optimizer=("run", renamed, trials.optimizer.attrs))
    with printed(ds.dde.plot_heatmap("loss", x="optimizer", facet_by=None, y="data", backend="matplotlib",
                                     average_over="learning_rate", frame_size=(130, 130))) as figure:  # fmt: skip
        labels = figure.axes[0].get_xticklabels()
        first, second = (text.get_window_extent() for text in labels)
        if labels[0].get_rotation() == 45:
            # The boxes around slanted labels overlap; the labels are parallel lines that end at their ticks.
            distance = (second.x1 - first.x1) * np.sin(np.pi / 4)
            assert distance > labels[0].get_fontsize() * figure.dpi / 72
        else:
            assert not first.overlaps(second)
        assert_nothing_is_cut_off(figure)
