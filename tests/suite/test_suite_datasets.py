"""Declared suites as Datasets: the contract's declarations, real files with known facts, and what must not open."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dde
from dde.errors import LineageError, SelectionError, SourceError, UnknownNameError
from samples import SUITES, needs_suites


def frame(rows: list[tuple[str, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "step", "acc"])


def worked_example() -> dde.Suite:
    """Declare a run whose batch changes, a rewind, finetuning, a branch inside it, and a soup of both."""
    pieces: dict[str, Any] = {"per_step": [[0, 4], [20, 8]]}
    base = frame([("base", s, s / 100) for s in (0, 10, 20, 30, 40)])
    rewound = frame([("rewound", s, 0.5 + s / 100) for s in (30, 50)])
    sft = frame([("sft", s, 0.6 + s / 100) for s in (1, 2, 3, 4)])
    dpo = frame([("dpo", s, 0.7 + s / 100) for s in (1, 2)])
    return dde.Suite(
        "worked",
        lineage="L",
        run={n: n for n in ("pretraining", "rewound", "sft", "dpo", "merge")},
        run_id="{id}",
        metrics={"acc": dde.Metric("acc", "1", "higher")},
        tables=[
            dde.Table(base, tokens=pieces, counts="own"),
            dde.Table(rewound, run_type="rewound", parent="base", at={"step": 25}, tokens=pieces, counts="cumulative"),
            dde.Table(sft, run_type="sft", parent="base", tokens={"per_step": 10}, counts="own"),
            dde.Table(dpo, run_type="dpo", parent="sft", at={"step": 2}, tokens={"per_step": 10}, counts="own"),
            dde.Table(
                frame([("soup", 0, 0.9)]),
                run_type="merge",
                parent=["sft", "dpo"],
                tokens={"per_step": 10},
                counts="own",
            ),
        ],
    )


def test_the_worked_example_of_the_rules() -> None:
    ds = dde.open_lineages(worked_example(), cache_dir=None)
    soup = "(sft & sft+dpo)+merge"
    assert ds.run.values.tolist() == ["pretraining", "rewound", "sft", "sft+dpo", soup]
    assert ds.start_tokens.values[0].tolist() == [0, 120, 240, 260, 300]
    np.testing.assert_array_equal(ds.branch_tokens.values[0], [np.nan, 120, 240, 260, 260])
    assert ds.end_tokens.values[0].tolist() == [240, 320, 280, 280, 300]
    curve = ds.acc.sel(lineage="L", run=soup).to_series()
    assert curve.dropna().index.max() == 300
    assert curve[300] == 0.9
    assert curve[[270, 280]].isna().all()
    np.testing.assert_array_equal(curve[[0, 40, 240, 250, 260]], [0, 0.1, 0.4, 0.61, 0.62])
    rewound = ds.acc.sel(lineage="L", run="rewound").to_series()
    np.testing.assert_array_equal(rewound[[0, 40, 80, 160, 320]], [0, 0.1, 0.2, 0.8, 1.0])
    np.testing.assert_allclose(
        ds.acc.sel(run="sft+dpo", cumulative_tokens=[260, 270, 280]).values[0], [0.62, 0.71, 0.72]
    )


def test_nothing_joins_a_merge_even_where_branches_are_bridged() -> None:
    ds = dde.open_lineages(worked_example(), cache_dir=None, bridge=True)
    soup = ds.acc.isel(lineage=0, run=-1).to_series()
    assert soup[[270, 280]].isna().all()
    assert ds.acc.dde.support().isel(lineage=0, run=-1).to_series()[[260, 270, 280, 300]].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("axis", ["cumulative_tokens", "post_tokens", "fraction_of_training"])
def test_aligning_makes_what_opening_makes(axis: str) -> None:
    suite = worked_example()
    opened = dde.open_lineages(suite, cache_dir=None, axis=axis)
    aligned = dde.open_lineages(suite, cache_dir=None).dde.align(axis=axis)
    np.testing.assert_array_equal(aligned[axis], opened[axis])
    np.testing.assert_allclose(aligned.acc, opened.acc)


def test_the_own_tokens_of_a_merge_begin_where_it_stands() -> None:
    ds = dde.open_lineages(worked_example(), cache_dir=None, axis="post_tokens")
    assert ds.acc.isel(lineage=0, run=-1).sel(post_tokens=0) == 0.9


def test_saved_sent_and_chunked_alike(tmp_path: Path) -> None:
    suite = worked_example()
    ds = dde.open_lineages(suite, cache_dir=None)
    ds.to_zarr(tmp_path / "saved.zarr", consolidated=False)
    for other in (
        xr.open_zarr(tmp_path / "saved.zarr", consolidated=False),
        pickle.loads(pickle.dumps(dde.open_lineages(suite, cache_dir=None))),
        dde.open_lineages(suite, cache_dir=None, chunks={"run": 2}),
    ):
        np.testing.assert_array_equal(other.acc.compute(), ds.acc)
        np.testing.assert_array_equal(other.dde.final("acc").compute(), ds.dde.final("acc"))


TOML = """
name = "two_corpora"
lineage = "{corpus}-{size}"
run = { pretraining = "pretraining", cooldown = "cooldown@{at_b}B" }
run_id = "{corpus}-{size}"
counts = "cumulative"
n_params = "n_non_embedding"
metrics.loss = { name = "loss", units = "nats", direction = "lower" }
[[tables]]
files = "trunks/{corpus}-{size}.csv"
[[tables]]
files = "cooldowns/*.jsonl"
run_type = "cooldown"
run_id = "{corpus}-{size}@{at_b}B"
factors.at_b = "10 * round(tokens / 1e10)"
parent = "{corpus}-{size}"
at = "first_row"
"""


@pytest.fixture
def two_corpora(tmp_path: Path) -> Path:
    """Write the files of two corpora and sizes, with two cooldowns of each trunk, and the declaration."""
    (tmp_path / "trunks").mkdir()
    (tmp_path / "cooldowns").mkdir()
    sizes = {"70m": 70_000_000, "160m": 160_000_000}
    lines = []
    for corpus in ("web", "code"):
        for size, n in sizes.items():
            steps = np.arange(11)
            columns = {"step": steps * 100, "tokens": steps * 10**10, "loss": 4 - steps / 10, "n_non_embedding": n}
            pd.DataFrame(columns).to_csv(tmp_path / "trunks" / f"{corpus}-{size}.csv", index=False)
            for start in (20, 50):
                for k in range(4):
                    row = {"corpus": corpus, "size": size, "step": 10 * (start + k), "tokens": (start + k) * 10**9}
                    lines.append(json.dumps({**row, "loss": 3.5 - k / 10, "n_non_embedding": n}))
    (tmp_path / "cooldowns" / "all.jsonl").write_text("\n".join(lines))
    (tmp_path / "suite.toml").write_text(TOML)
    return tmp_path


def test_a_suite_as_toml(two_corpora: Path) -> None:
    ds = dde.open_lineages(two_corpora, suite=two_corpora / "suite.toml", cache_dir=None)
    assert ds.lineage.values.tolist() == ["code-70m", "code-160m", "web-70m", "web-160m"]
    assert ds.run.values.tolist() == ["pretraining", "cooldown@20B", "cooldown@50B"]
    assert ds.n_params.values.tolist() == [70_000_000, 160_000_000] * 2
    np.testing.assert_array_equal(ds.branch_tokens.values[0], [np.nan, 20e9, 50e9])
    assert ds.at_b.attrs["factor_of"] == "run"
    # The first row is the parent's state: the trunk's own value stands there.
    cooldown = ds.loss.sel(lineage="web-70m", run="cooldown@20B")
    assert cooldown.sel(cumulative_tokens=20 * 10**9) == 3.8
    assert cooldown.sel(cumulative_tokens=23 * 10**9) == pytest.approx(3.2)
    assert float(ds.cumulative_compute.sel(lineage="web-160m")[-1]) == 6.0 * 160e6 * 100e9


def test_filters_on_factors(two_corpora: Path) -> None:
    suite = two_corpora / "suite.toml"

    def labels(**filters: Any) -> tuple[list[str], list[str], str]:
        ds = dde.open_lineages(two_corpora, suite=suite, cache_dir=None, **filters)
        return ds.lineage.values.tolist(), ds.run.values.tolist(), ds.attrs["left_out"]

    every = ["code-70m", "code-160m", "web-70m", "web-160m"]
    assert labels(corpus="web") == (every[2:], ["pretraining", "cooldown@20B", "cooldown@50B"], "of another lineage: 6")
    # A trunk has no such factor, and stays as the base of those that match.
    assert labels(at_b=slice(30, None)) == (every, ["pretraining", "cooldown@50B"], "filtered: 4")
    assert labels(method="cooldown")[1] == ["pretraining", "cooldown@20B", "cooldown@50B"]
    assert labels(method="pretraining")[1] == ["pretraining"]
    assert labels(run_ids=["web-70m@20B"])[:2] == (["web-70m"], ["pretraining", "cooldown@20B"])
    assert labels(lineages=["web-70m"], size=["70m"])[0] == ["web-70m"]
    with pytest.raises(UnknownNameError, match=r"'corpsu' is neither an option nor a factor.*mean corpus"):
        labels(corpsu="web")
    with pytest.raises(UnknownNameError, match=r"'cooldwn' is not a run type of this suite.*mean cooldown"):
        labels(method="cooldwn")
    with pytest.raises(SelectionError, match=r"no run of the suite matches at_b=70.*at_b has 20, 50"):
        labels(at_b=70)
    with pytest.raises(SelectionError, match=r"no run 'web-70m@2B'.*mean web-70m@20B"):
        labels(run_ids=["web-70m@2B"])
    with pytest.raises(UnknownNameError, match=r"'web-70' is not a lineage"):
        labels(lineages=["web-70"])
    with pytest.raises(UnknownNameError, match=r"'los' is not a metric of the suite 'two_corpora'.*mean loss"):
        labels(metrics="los")


def trials() -> pd.DataFrame:
    """Return runs of two widths, seeds and rates, and a branch of each first rate, as one frame."""
    rows: list[dict[str, Any]] = []
    for width in (64, 128):
        for seed in (0, 1):
            for lr in (0.1, 0.01):
                run = {"run_id": f"{width}-{seed}-{lr}", "width": width, "seed": seed, "n_params": 1000 * width}
                rows += [
                    run | {"lr": lr, "step": 10 * k, "tokens": 1000 * k, "parent": "", "val_loss": 5 - k / 5}
                    for k in range(6)
                ]
            run |= {"run_id": f"{width}-{seed}-branch", "parent": f"{width}-{seed}-0.1", "at": 30}
            rows += [
                run | {"lr": 0.001, "step": 30 + 10 * k, "tokens": 3000 + 1000 * k, "val_loss": 4 - k / 5}
                for k in range(1, 4)
            ]
    return pd.DataFrame(rows)


def from_trials(**options: Any) -> dde.Suite:
    declared: dict[str, Any] = {
        "run": "run_id",
        "lineage": "w{width}-s{seed}",
        "label": "lr={lr}",
        "step": "step",
        "tokens": "tokens",
        "n_params": "n_params",
        "parent": "{parent}",
        "at": {"step": "at"},
        "metrics": {"val_loss": dde.Metric("val_loss", "nats", "lower")},
    }
    return dde.Suite.from_frame(trials(), **{**declared, **options})


def test_a_data_frame() -> None:
    ds = dde.open_lineages(from_trials(), cache_dir=None)
    assert ds.lineage.values.tolist() == ["w64-s0", "w64-s1", "w128-s0", "w128-s1"]
    assert sorted(ds.run.values) == ["lr=0.001", "lr=0.01", "lr=0.1"]
    curve = ds.val_loss.sel(lineage="w64-s0", run="lr=0.001").values
    np.testing.assert_allclose(curve, [5, 4.8, 4.6, 4.4, 3.8, 3.6, 3.4])
    assert ds.parent_run_id.sel(lineage="w64-s0", run="lr=0.001") == "64-0-0.1"
    assert ds.parent_evidence.sel(lineage="w64-s0", run="lr=0.001") == "tables[0].parent"
    assert ds.width.values.tolist() == [64, 64, 128, 128]
    assert dde.open_lineages(from_trials(), cache_dir=None, lr=0.01).sizes["run"] == 1


def test_counts_that_rows_settle_are_not_guessed() -> None:
    other = trials()
    # A counter that begins anew, with a first row that lies within one interval of both starts.
    own = other["parent"] != ""
    other.loc[own, "tokens"] -= 3000
    suite = dde.Suite.from_frame(
        other, run="run_id", lineage="w{width}-s{seed}", label="lr={lr}", parent="{parent}", at={"step": "at"}
    )
    ds = dde.open_lineages(suite, cache_dir=None)
    assert float(ds.end_tokens.sel(lineage="w64-s0", run="lr=0.001")) == 6000
    early = trials()
    early = early[(early["parent"] == "") | (early["step"] == 60)]
    early.loc[early["parent"] != "", ["at", "tokens"]] = [0, 6000]
    suite = dde.Suite.from_frame(
        early, run="run_id", lineage="w{width}-s{seed}", label="lr={lr}", parent="{parent}", at={"step": "at"}
    )
    with pytest.raises(LineageError, match=r"counts is not declared.*both are possible.*counts='own'"):
        dde.open_lineages(suite, cache_dir=None)


def test_wrong_declarations_end_in_errors() -> None:
    with pytest.raises(LineageError, match=r"tables\[0\].parent says that the run '64-0-0.1' starts from 'trunk-'"):
        dde.open_lineages(from_trials(parent="trunk-{parent}", at="end", counts="cumulative"), cache_dir=None)
    with pytest.raises(UnknownNameError, match=r"have the label .fixed.*declare replicate="):
        dde.open_lineages(from_trials(label="fixed"), cache_dir=None)
    # Runs of which some are apart by the declared factor: those that are not are named, with what sets them apart.
    twins = pd.DataFrame(
        [
            {"id": run, "seed": seed, "host": host, "step": step, "tokens": step, "loss": 1.0}
            for run, seed, host in (("a", "1", "x"), ("b", "2", "x"), ("c", "02", "y"), ("d", "2", "z"))
            for step in (1, 2)
        ]
    )
    suite = dde.Suite.from_frame(twins, run="id", lineage="L", label="base", replicate="seed", factors={"host": "host"})
    with pytest.raises(
        UnknownNameError,
        match=r"^3 runs of the lineage 'L' have the label 'base' and not each its own seed, which numbers replicates "
        r"\(2, 02\): 'b', 'c', 'd'\. So their labels are ambiguous\. Add \{host\} to the template of run or "
        r"lineage, or give each its own seed\.$",
    ):
        dde.open_lineages(suite, cache_dir=None)
    with pytest.raises(UnknownNameError, match="hieght"):
        from_trials(lineage="w{hieght}")
    circle = pd.DataFrame(
        {"id": ["a", "b"], "up": ["b", "a"], "step": 1, "tokens": 1, "loss": 1.0},
    )
    suite = dde.Suite.from_frame(circle, run="id", lineage="L", label="{id}", parent="{up}", counts="own")
    with pytest.raises(LineageError, match=r"'a', 'b' derive from each other in a cycle"):
        dde.open_lineages(suite, cache_dir=None)
    falling = pd.DataFrame({"id": "a", "step": [1, 2, 3], "tokens": [10, 30, 20], "loss": 1.0})
    suite = dde.Suite.from_frame(falling, run="id", lineage="L")
    with pytest.raises(SelectionError, match=r"tokens unknown: 1"):
        dde.open_lineages(suite, cache_dir=None)
    assert dde.RunRepository.from_suite(suite).coverage()["status"].tolist() == [
        "tokens unknown: the counter falls at step 3"
    ]


def test_a_branch_that_is_unknown_leaves_its_run_out() -> None:
    other = trials()
    other.loc[other["parent"] != "", "at"] = 90
    suite = dde.Suite.from_frame(
        other,
        run="run_id",
        lineage="w{width}-s{seed}",
        label="lr={lr}",
        parent="{parent}",
        at={"step": "at"},
        counts="cumulative",
    )
    ds = dde.open_lineages(suite, cache_dir=None)
    assert ds.attrs["left_out"] == "branch unknown: 4"
    assert ds.sizes["run"] == 2
    status = dde.RunRepository.from_suite(suite).coverage().set_index("run_id")["status"]
    assert status["64-0-branch"] == "branch unknown: step 90 lies beyond the parent's last row at step 50"


def test_a_size_that_changes_along_a_lineage() -> None:
    small = pd.DataFrame({"id": "small", "step": [0, 10], "tokens": [0, 100], "n": 10, "loss": [3.0, 2.0]})
    grown = pd.DataFrame({"id": "grown", "step": [5, 10], "tokens": [50, 100], "n": 40, "loss": [1.8, 1.5]})
    suite = dde.Suite(
        "upcycled",
        lineage="L",
        run={"pretraining": "small", "grown": "grown"},
        run_id="{id}",
        n_params="n",
        tables=[dde.Table(small), dde.Table(grown, run_type="grown", parent="small", counts="own")],
    )
    ds = dde.open_lineages(suite, cache_dir=None)
    assert ds.n_params.values.tolist() == [[10, 40]]
    compute = ds.cumulative_compute.sel(lineage="L")
    assert compute.sel(run="grown").values.tolist() == [0, 6 * 10 * 100, 6 * (10 * 100 + 40 * 50), 6 * (1000 + 4000)]
    assert compute.sel(run="small", cumulative_tokens=100) == 6000
    with pytest.raises(SelectionError, match="the parameter count changes along the curves"):
        dde.open_lineages(suite, cache_dir=None, axis="compute")
    with pytest.raises(SelectionError, match="the parameter count changes along the curves"):
        ds.dde.align(axis="compute")


def test_without_parameter_counts_there_is_no_compute() -> None:
    ds = dde.open_lineages(worked_example(), cache_dir=None)
    assert "cumulative_compute" not in ds.coords
    with pytest.raises(SelectionError, match="states no parameter counts"):
        dde.open_lineages(worked_example(), cache_dir=None, axis="tokens_per_parameter")


def test_what_is_given_beside_a_suite(two_corpora: Path) -> None:
    with pytest.raises(SourceError, match=r"parents was given without a store of post-training runs"):
        dde.open_lineages(two_corpora, suite=two_corpora / "suite.toml", parents={"a": "b"}, cache_dir=None)
    with pytest.raises(UnknownNameError, match=r"'pythja' is not a known suite.*mean pythia"):
        dde.open_lineages(two_corpora, suite="pythja")
    with pytest.raises(SourceError, match=r"no file .*absent.toml"):
        dde.open_lineages(two_corpora, suite="absent.toml")


@needs_suites
def test_the_olmo_ladder() -> None:
    ds = dde.open_lineages(SUITES / "olmo_ladder", suite="olmo_ladder", cache_dir=None)
    assert int((ds.run_id != "").sum()) == 60
    assert ds.lineage.values.tolist() == ["190M", "370M", "760M", "1B", "3B"]
    ends = [38_076_416_000, 74_260_414_464, 151_658_168_320, 255_895_535_616, 633_939_689_472]
    assert ds.end_tokens.sel(run="constant").values.tolist() == ends
    assert "cosine-1xC#2" in ds.run.values
    final = ds.dde.final("c4_en_loss")
    steps = {"190M": 72_625, "370M": 94_427, "760M": 115_706, "1B": 162_694, "3B": 201_524}
    differences = []
    for size in ds.lineage.values.tolist():
        for budget, share in (("0.5", 0.05), ("1", 0.1), ("2", 0.2), ("5", 0.5), ("10", 1.0)):
            decay = float(final.sel(lineage=size, run=f"decay-{budget}xC"))
            differences.append(float(final.sel(lineage=size, run=f"cosine-{budget}xC")) - decay)
            branch = float(ds.branch_tokens.sel(lineage=size, run=f"decay-{budget}xC"))
            tokens_per_step = ends[list(steps).index(size)] / steps[size]
            assert branch / tokens_per_step <= 0.9 * share * steps[size] + 1
            # The branch is a checkpoint of the trunk.
            trunk = ds.c4_en_loss.dde.support().sel(lineage=size, run="constant")
            assert int(trunk.sel(cumulative_tokens=branch)) == 1
    assert len(differences) == 25
    assert min(differences) == pytest.approx(0.0005, abs=5e-5)
    assert max(differences) == pytest.approx(0.0402, abs=5e-5)
    budget = dde.open_lineages(SUITES / "olmo_ladder", suite="olmo_ladder", cache_dir=None, budget=1)
    # The trunks have a budget of their own, and are filtered by it; the curves of their decays begin with them.
    assert budget.run.values.tolist() == ["cosine-1xC", "cosine-1xC#2", "decay-1xC"]
    assert budget.c4_en_loss.sel(lineage="1B", run="decay-1xC").notnull().sum() > 20


@needs_suites
def test_every_value_of_pythia_equals_its_json(tmp_path: Path) -> None:
    ds = dde.open_lineages(SUITES / "pythia", suite="pythia", cache_dir=tmp_path)
    branch = ds.branch_tokens / 2_097_152
    at = branch.sel(run=["intervention", "intervention-long"])
    assert set(at.values[np.isfinite(at.values)].tolist()) == {133_000, 113_000}
    assert float(branch.sel(lineage="pythia-1.4b-deduped", run="intervention-long")) == 113_000
    cells = {run_id: at for at, run_id in np.ndenumerate(ds.run_id.values) if run_id}
    values = {str(name): ds[name].values for name in ds.data_vars}
    points = ds.cumulative_tokens.values
    checked = 0
    for path in [*SUITES.glob("pythia/*/zero-shot/*.json"), *SUITES.glob("pythia/*/intervention/intervention-*.json")]:
        folder, (stem, _, step) = path.parts[-3].removeprefix("pythia-"), path.stem.rpartition("_step")
        kind = "pretraining" if path.parts[-2] == "zero-shot" else "intervention"
        run_id = f"{folder}-{kind}" + ("-long" if stem.endswith("-long") else "")
        k = int(np.searchsorted(points, int(step) * 2_097_152))
        for task, results in json.loads(path.read_text())["results"].items():
            for key, value in results.items():
                name = "".join(c if c.isalnum() else "_" for c in f"{task}_{key}")
                assert values[name][(*cells[run_id], k)] == value
                checked += 1
    assert checked > 50_000
    assert ds.piqa_acc_stderr.attrs["stderr_of"] == "piqa_acc"


@needs_suites
def test_the_soups_of_olmo_3() -> None:
    ds = dde.open_lineages(SUITES / "olmo3_checkpoints", suite="olmo3_32b", cache_dir=None).isel(lineage=0)
    ingredients = "(midtrain-1 & midtrain-2)+merge"
    assert int(ds.start_tokens.sel(run="midtrain-1")) == 5_695_864_832_000
    assert int((ds.end_tokens - ds.start_tokens).sel(run="midtrain-2")) == 95_806_291_968
    assert int(ds.end_tokens.sel(run=ingredients)) == 5_887_477_415_936
    assert int(ds.end_tokens.sel(run=f"{ingredients}+longcontext")) == 5_979_089_403_904
    soup = ds.sel(run=f"{ingredients}+longcontext+merge")
    assert int(soup.start_tokens) == int(soup.end_tokens) == 5_979_089_403_904
    assert int(soup.branch_tokens) == 5_962_974_887_936
    seen = soup.tokens_listed.dropna("cumulative_tokens").cumulative_tokens.values
    assert seen[-1] == 5_979_089_403_904
    assert seen[-2] == 5_962_974_887_936
    by_steps = dde.suites["olmo3_32b"]
    assert by_steps.name == "olmo3_32b"


def test_the_curve_of_a_parent_outside_the_selection_goes_to_its_last_child() -> None:
    from dde.plots.curve_segments import find_segments

    def rows(run: str, tokens: range, **fields: object) -> list[dict[str, object]]:
        return [{"id": run, "step": t, "tokens": t, "acc": t / 100, **fields} for t in tokens]

    base = pd.DataFrame(rows("base", range(0, 101, 20)))
    tuned = pd.DataFrame(rows("tuned", range(110, 201, 10)))
    last = pd.DataFrame([*rows("a", range(130, 151, 10), at=120), *rows("b", range(190, 211, 10), at=180)])
    suite = dde.Suite(
        "family", lineage="l", run_id="{id}", run={"pretraining": "base", "sft": "sft", "dpo": "dpo@{at}"},
        counts="cumulative", metrics={"acc": dde.Metric("acc")}, tables=[
            dde.Table(base), dde.Table(tuned, run_type="sft", parent="base", at="end"),
            dde.Table(last, run_type="dpo", parent="tuned", at={"cumulative": "at"}),
        ],
    )  # fmt: skip
    ds = dde.open_lineages(suite, cache_dir=None, grid="union")
    drawn = find_segments(ds.dde.sel(run_type="dpo"), "acc")
    # Up to the branch of the second run, once.
    assert [sum(tokens in s.tokens.tolist() for s in drawn) for tokens in (110, 160, 170, 180)] == [1, 1, 1, 1]
