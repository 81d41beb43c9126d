"""Fabricated suites of the kinds that people have: every observed value is compared with what the test computes.

Each suite is written down as files or a frame, declared by the public API, and opened. What a run observed, and at how
many cumulative tokens, is worked out beside it from the numbers that were written, never from what dde says.
"""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dde
from dde.errors import ConflictWarning, DdeWarning, FormatError, LineageError, SourceError, UnknownNameError

Curve = dict[int, float]
LOSS = {"loss": dde.Metric("loss", "nats", "lower")}
ACC = {"acc": dde.Metric("acc", "1", "higher")}


def observed(dataset: xr.Dataset, metric: str) -> dict[tuple[str, str], Curve]:
    """Return the observed cells of a metric, by lineage and run: value at each number of cumulative tokens."""
    array = dataset[metric].transpose("lineage", "run", "cumulative_tokens")
    seen = array.dde.support().transpose(*array.dims).values == 1
    tokens = dataset["cumulative_tokens"].values
    return {
        (str(lineage), str(run)): dict(zip(tokens[seen[i, j]].tolist(), array.values[i, j][seen[i, j]], strict=True))
        for i, lineage in enumerate(dataset["lineage"].values)
        for j, run in enumerate(dataset["run"].values)
        if seen[i, j].any()
    }


def check(dataset: xr.Dataset, metric: str, want: Mapping[tuple[str, str], Curve]) -> None:
    """Check all observed values, that a copy on disk is the same, and that pictures are made of all curves."""
    found = observed(dataset, metric)
    assert set(found) == set(want)
    for cell, curve in want.items():
        assert sorted(found[cell]) == sorted(curve), cell
        np.testing.assert_allclose([found[cell][t] for t in curve], list(curve.values()), rtol=1e-12, err_msg=str(cell))
    finals = dataset[metric].dde.final().transpose("lineage", "run").to_series().dropna()
    assert {cell: curve[max(curve)] for cell, curve in want.items()} == pytest.approx(finals.to_dict())


def check_copy(dataset: xr.Dataset, folder: Path) -> None:
    dataset.to_zarr(folder / "copy.zarr", consolidated=False)
    copy = xr.open_zarr(folder / "copy.zarr", consolidated=False).load()
    for name, variable in dataset.load().variables.items():
        np.testing.assert_array_equal(copy[name].values.astype(variable.dtype), variable.values, err_msg=str(name))


def opened(suite: dde.Suite, root: Path | str | None = None, **options: Any) -> xr.Dataset:
    if root is None:
        return dde.open_lineages(suite, cache_dir=None, **options)
    return dde.open_lineages(root, suite=suite, cache_dir=None, **options)


def rows_of(run_id: str, steps: range | tuple[int, ...], rng: np.random.Generator, **facts: object) -> list[Any]:
    return [{"id": run_id, "step": s, "acc": float(rng.normal()), **facts} for s in steps]


def curve_of(rows: list[Any], per_step: int, start: int = 0) -> Curve:
    return {start + row["step"] * per_step: row["acc"] for row in rows}


def until(curve: Curve, end: int) -> Curve:
    return {t: v for t, v in curve.items() if t <= end}


# Trunks with cooldowns


def test_cooldowns_off_checkpoints_in_one_parquet_without_order(tmp_path: Path) -> None:
    rng, million, rows, want = np.random.default_rng(0), 1_000_000, [], {}
    for size in ("60M", "160M"):
        trunk = {s * million: float(rng.normal(4)) for s in range(0, 201, 10)}
        rows += [("wsd-" + size, size, "stable", np.nan, t // million, t, v) for t, v in trunk.items()]
        want[size, "stable"] = trunk
        for at in (47, 100, 153):
            own = {(at + k) * million: float(rng.normal(3)) for k in (3, 7, 20)}
            rows += [(f"wsd-{size}-{at}", size, "cooldown", at, t // million, t, v) for t, v in own.items()]
            want[size, f"cooldown@{at}"] = until(trunk, at * million) | own
    columns = ["id", "size", "stage", "from_step", "step", "tokens", "loss"]
    pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=1).to_parquet(tmp_path / "all.parquet")

    def suite(at: Any) -> dde.Suite:
        return dde.Suite(
            "wsd", lineage="{size}", run={"stable": "stable", "cooldown": "cooldown@{from_step}"}, run_id="{id}",
            counts="cumulative", metrics=LOSS, tables=[
                dde.Table("all.parquet", run_type="stable", where="stage == 'stable'"),
                dde.Table("all.parquet", run_type="cooldown", where="stage == 'cooldown'", parent="wsd-{size}", at=at),
            ],
        )  # fmt: skip

    for at in ({"step": "from_step"}, {"cumulative": "from_step * 1000000"}, "checkpoint"):
        ds = opened(suite(at), tmp_path)
        check(ds, "loss", want)
    ds = opened(suite({"step": "from_step"}), tmp_path)
    check_copy(ds, tmp_path)
    np.testing.assert_array_equal(ds.branch_tokens.values, [[np.nan, 47e6, 100e6, 153e6]] * 2)
    since = opened(suite({"step": "from_step"}), tmp_path, axis="post_tokens").loss.sel(post_tokens=3 * million)
    assert since.sel(lineage="60M", run="cooldown@100").item() == want["60M", "cooldown@100"][103 * million]
    swept = ds.dde.sweep("from_step").loss.dde.final()
    assert swept.sel(lineage="160M", from_step=153).item() == want["160M", "cooldown@153"][173 * million]
    late = opened(suite({"step": "from_step"}), tmp_path, from_step=slice(100, None))
    assert late.run.values.tolist() == ["stable", "cooldown@100", "cooldown@153"]
    # The index that pandas leaves in a shuffled frame is not a metric.
    bare = dde.Suite("bare", lineage="all", run="{id}", run_id="{id}", tables=[dde.Table("all.parquet")])
    assert "index_level_0" not in opened(bare, tmp_path).data_vars


# Optimizer trials


def test_trials_as_a_long_table(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(2), []
    for optimizer in ("adamw", "muon"):
        for lr in (1e-4, 3e-4, 0.0003162):
            for seed in (1, 2, 3):
                for step in range(0, 401, 200):
                    value = round(float(rng.normal(5)), 3)
                    run = f"{optimizer}-{lr:g}-{seed}"
                    rows.append((run, optimizer, lr, seed, step, "val/loss", value))
                    rows.append((run, optimizer, lr, seed, step, "train/loss", value + 1))
    frame = pd.DataFrame(rows, columns=["trial", "optimizer", "lr", "seed", "step", "key", "value"])
    declared: dict[str, Any] = {
        "run": "trial", "lineage": "{optimizer}", "label": "lr={lr}_s{seed}", "tokens": {"per_step": 512},
        "key": "{key}", "value": "value",
        "metrics": {"val/loss": dde.Metric("val_loss"), "train/loss": dde.Metric("t", kind="log")},
    }  # fmt: skip
    ds = opened(dde.Suite.from_frame(frame.sample(frac=1, random_state=0), **declared))
    val = frame[frame.key == "val/loss"]
    labels = {(lr, s): str(r) for r, lr, s in zip(ds.run.values, ds.lr.values, ds.seed.values, strict=True)}
    want: dict[tuple[str, str], Curve] = {}
    for row in val.itertuples():
        want.setdefault((row.optimizer, labels[row.lr, row.seed]), {})[row.step * 512] = row.value
    check(ds, "val_loss", want)
    check_copy(ds, tmp_path)
    # The column of ids is a coordinate of its own, and no treatment: repetitions differ in it.
    means = ds.dde.mean_over("seed").val_loss.dde.final()
    expected = val[val.step == 400].groupby(["optimizer", "lr"]).value.mean()
    assert means.sizes == {"lineage": 2, "run": 3}
    for (optimizer, lr), mean in expected.items():
        at = np.flatnonzero(means.lr.values == lr)
        assert means.sel(lineage=optimizer).values[at] == pytest.approx([mean])
    best = ds[["val_loss"]].dde.sweep("lr", "seed").val_loss.dde.final().mean("seed").idxmin("lr")
    assert best.to_series().to_dict() == expected.unstack("lr").idxmin(axis=1).to_dict()
    with pytest.raises(
        UnknownNameError,
        match=r"'optimizer' is a coordinate of lineages, and a sweep.*mean_over\('optimizer'\)",
    ):
        ds.dde.sweep("optimizer")
    with pytest.raises(UnknownNameError, match=r"patterns of metrics \(val/los\).*Did you mean val/loss"):
        opened(dde.Suite.from_frame(frame, **{**declared, "metrics": {"val/los": dde.Metric("x")}}))
    with pytest.raises(UnknownNameError, match=r"By default, tokens are the column 'tokens'"):
        dde.Suite.from_frame(frame, **{**declared, "tokens": "tokens"})


# Width sweeps in nested folders


def test_widths_in_nested_folders(tmp_path: Path) -> None:
    rng, want = np.random.default_rng(3), {}
    for width in (64, 128):
        for lr in (0.001, 2**-8):
            for seed in (0, 1):
                folder = tmp_path / f"w{width}" / f"lr{lr:g}" / f"seed{seed}"
                folder.mkdir(parents=True)
                values = rng.normal(size=4).round(6)
                frame = pd.DataFrame({"step": [0, 5, 10, 15], "eval loss": values, "note": "x"})
                frame.loc[1, "eval loss"] = np.nan
                frame.to_csv(folder / "metrics.csv", index=False)
                want[f"w{width}-s{seed}", f"lr={lr}"] = {s * 4096: values[s // 5] for s in (0, 10, 15)}

    def suite(files: str = "w{width:int}/lr{lr:float}/seed{seed:int}/metrics.csv", **changes: Any) -> dde.Suite:
        said: dict[str, Any] = {
            "lineage": "w{width}-s{seed}", "run": "lr={lr}", "run_id": "w{width}-{lr}-{seed}",
            "tokens": {"per_step": 4096}, "n_params": {"width": {64: 1000, 128: 4000}},
            "metrics": {"eval loss": dde.Metric("eval_loss", "nats", "lower")},
        }  # fmt: skip
        return dde.Suite("mup", **{**said, **changes}, tables=[dde.Table(files)])

    ds = opened(suite(), tmp_path)
    check(ds, "eval_loss", want)
    assert ds.cumulative_compute.sel(lineage="w128-s0").values.tolist() == [6 * 4000 * 4096 * s for s in (0, 5, 10, 15)]
    # A mapping declares a suite as well as the dataclass does.
    again = dde.open_lineages(tmp_path, suite=suite().to_dict(), cache_dir=None)
    xr.testing.assert_identical(again.drop_attrs().load(), ds.drop_attrs().load())
    wrong = "w{width:int}/lr{lr:int}/seed{seed:int}/metrics.csv"
    with pytest.raises(SourceError, match=r"The folders of the patterns hold w128/lr0\.001/seed0/metrics\.csv"):
        opened(suite(wrong), tmp_path)
    with pytest.raises(FormatError, match=r"Name \{seed\} in run_id="):
        opened(suite(run_id="w{width}-{lr}"), tmp_path)
    # A size that nobody stated is unknown, and no other size: the axis stays one of lineages.
    with pytest.warns(DdeWarning, match=r"no entry for width = '128'"):
        partly = opened(suite(n_params={"width": {64: 1000}}), tmp_path)
    assert partly.n_params.dims == ("lineage",)
    assert partly.dde.align(axis="tokens_per_parameter").eval_loss.sel(lineage="w64-s0").notnull().any()


# Stages of a trainer


def test_trainer_states_whose_paths_name_their_parents(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)

    def train(path: str, last: int, every: int, per_step: int) -> Curve:
        log: list[dict[str, float]] = []
        for step in range(every, last + 1, every):
            log.append({"step": step, "loss": 1.0, "num_input_tokens_seen": step * per_step})
            log.append({"step": step, "eval_loss": float(rng.normal())})
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps({"log_history": log, "global_step": last}))
        return {int(row["step"]) * per_step: row["eval_loss"] for row in log if "eval_loss" in row}

    base = train("pretrain/llama/trainer_state.json", 1000, 500, 4096)
    want = {("llama", "pretraining"): base}
    for lr in ("1e-5", "2e-5"):
        sft = base | {1000 * 4096 + t: v for t, v in train(
            f"sft/llama__lr{lr}/checkpoint-60/trainer_state.json", 60, 20, 2048).items()}  # fmt: skip
        want["llama", f"sft-{float(lr)}"] = sft
        for beta in (0.1, 0.5):
            dpo = train(f"dpo/llama__lr{lr}__beta{beta}/trainer_state.json", 30, 10, 1024)
            end = 1000 * 4096 + 60 * 2048
            want["llama", f"sft-{float(lr)}+dpo-{beta}"] = sft | {end + t: v for t, v in dpo.items()}

    def suite(counts: str | None) -> dde.Suite:
        return dde.Suite(
            "hf", lineage="{model}", run={"pretraining": "pretraining", "sft": "sft-{lr}", "dpo": "dpo-{beta}"},
            tokens="num_input_tokens_seen", counts=counts, metrics={"eval_loss": dde.Metric("eval_loss")}, tables=[
                dde.Table("pretrain/{model}/trainer_state.json", run_id="{model}"),
                dde.Table("sft/{model}__lr{lr:float}/checkpoint-{last:int}/trainer_state.json", run_type="sft",
                          run_id="{model}-sft-{lr}", parent="{model}"),
                dde.Table("dpo/{model}__lr{lr:float}__beta{beta:float}/trainer_state.json", run_type="dpo",
                          run_id="{model}-sft-{lr}-dpo-{beta}", parent="{model}-sft-{lr}"),
            ],
        )  # fmt: skip

    check(opened(suite("own"), tmp_path), "eval_loss", want)
    with pytest.raises(FormatError, match=r"counts: the table has a parent"):
        suite(None)
    # What counts from each run's start and is said to go on leaves no run behind its branch; the doctor says why.
    repository = dde.RunRepository.from_suite(suite("cumulative"), tmp_path)
    found = repository.doctor("branch_row").set_index("run_id").finding
    assert "none of its 3 rows is after its branch from llama at 4,096,000 tokens" in found["llama-sft-1e-05"]
    assert "declare counts='own'" in found["llama-sft-1e-05"]


# Results of lm-evaluation-harness


def test_results_of_several_shots_filters_and_stages(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    values: dict[tuple[str, int, int], tuple[float, float]] = {}
    for stage, steps in {"base": (1000, 2000), "sft": (100, 200), "dpo": (50,)}.items():
        for step in steps:
            for shots in (0, 5):
                strict, loose = values[stage, step, shots] = tuple(rng.uniform(size=2).tolist())
                folder = tmp_path / f"{shots}shot" / stage / f"step{step}"
                folder.mkdir(parents=True)
                results = {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": strict, "exact_match,none": loose,
                                     "exact_match_stderr,none": 0.01}}  # fmt: skip
                (folder / f"results_2025-01-0{shots + 1}.json").write_text(json.dumps({"results": results}))
                (folder / "samples_gsm8k_2025.jsonl").write_text('{"doc_id": 0}\n')

    def suite(patterns: Mapping[str, str]) -> dde.Suite:
        tables = []
        for shots in (0, 5):
            behind = f"_{shots}shot" if shots else ""
            metrics = {key: dde.Metric(name + behind) for key, name in patterns.items()}
            for stage, parent, per_step in (("base", None, 1000), ("sft", "base", 100), ("dpo", "sft", 10)):
                files = f"{shots}shot/{stage}/step{{step:int}}/results_*.json"
                tables.append(dde.Table(files, format="lm_eval", run_type=stage, run_id=stage, parent=parent,
                                        tokens={"per_step": per_step}, counts="own", metrics=metrics))  # fmt: skip
        return dde.Suite("evaluated", lineage="model", tables=tables)

    ds = opened(suite({"{task}/{metric}": "{task}_{metric}"}), tmp_path)
    place = {"base": (0, 1000), "sft": (2_000_000, 100), "dpo": (2_020_000, 10)}
    for i, name in enumerate(("gsm8k_exact_match_strict_match", "gsm8k_exact_match")):
        for shots in (0, 5):
            own: dict[str, Curve] = {stage: {} for stage in place}
            for (stage, step, n), pair in values.items():
                if n == shots:
                    own[stage][place[stage][0] + step * place[stage][1]] = pair[i]
            want = {
                ("model", "base"): own["base"],
                ("model", "sft"): own["base"] | own["sft"],
                ("model", "sft+dpo"): own["base"] | own["sft"] | own["dpo"],
            }
            check(ds, name + (f"_{shots}shot" if shots else ""), want)
    # A key ends with the filter, except for "none"; a pattern in the form of the file's own keys is an error.
    with pytest.raises(UnknownNameError, match=r"none of them matches a key.*gsm8k/exact_match_strict-match"):
        opened(suite({"{task}/{metric},{filter}": "{task}_{metric}_{filter}"}), tmp_path)


# Batches that grow, and midtraining


def test_midtraining_under_a_growing_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    pieces = [[0, 1_000_000], [1000, 2_000_000], [5000, 4_000_000]]
    after = np.cumsum([0] + [next(n for s, n in reversed(pieces) if s <= step) for step in range(13000)]).tolist()
    trunk = rows_of("trunk", range(0, 10001, 500), rng, phase="web")
    want = {("7B", "pretraining"): {after[r["step"]]: r["acc"] for r in trunk}}
    rows = list(trunk)
    for length in (1000, 2000):
        for at in (4000, 10000):
            own = rows_of(f"mid{length}-{at}", range(at + 500, at + length + 1, 500), rng, phase="mid", n=length, at=at)
            rows += own
            before = until(want["7B", "pretraining"], after[at])
            want["7B", f"mid{length}@{at}"] = before | {after[r["step"]]: r["acc"] for r in own}
    frame = pd.DataFrame(rows)
    suite = dde.Suite(
        "curriculum", lineage="7B", run={"pretraining": "pretraining", "mid": "mid{n}@{at}"}, run_id="{id}",
        tokens={"per_step": pieces}, counts="cumulative", metrics=ACC, tables=[
            dde.Table(frame, where="phase == 'web'"),
            dde.Table(frame, where="phase == 'mid'", run_type="mid", parent="trunk", at={"step": "at"}),
        ],
    )  # fmt: skip
    ds = opened(suite)
    check(ds, "acc", want)
    assert ds.branch_tokens.sel(run="mid1000@10000").item() == after[10000] == 29_000_000_000
    # Means over lengths are of runs of one branch, the column of ids notwithstanding.
    means = ds.dde.mean_over("n")
    assert means.n_members.values.tolist() == [[1, 2, 2]]
    shared = after[10500], [want["7B", f"mid{n}@10000"][after[10500]] for n in (1000, 2000)]
    assert means.acc.sel(cumulative_tokens=shared[0]).values[0, 2] == pytest.approx(np.mean(shared[1]))
    with pytest.warns(DdeWarning, match=r"each mean over n is of one run.*they also differ in .*at"):
        ds.sel(run=["mid1000@4000", "mid2000@10000"]).dde.mean_over("n")
    check_copy(ds, tmp_path)


# Soups


def test_soups_of_soups_and_branches_inside_them() -> None:
    rng = np.random.default_rng(7)
    base = rows_of("base", range(0, 101, 10), rng)
    anneals = {i: rows_of(f"ann{i}", (5, 10), rng, i=i) for i in (1, 2, 3)}
    two, three, merged, mix = (rows_of(n, (0,), rng) for n in ("two", "three", "merged", "mix"))
    sft, dpo, again = rows_of("sft", (1, 2, 3, 4), rng), rows_of("dpo", (1, 2), rng), rows_of("again", (2, 4), rng)

    def table(rows: list[Any], run_type: str, parent: Any = None, per_step: int = 1000, at: Any = "end") -> dde.Table:
        tokens = {"per_step": per_step}
        return dde.Table(pd.DataFrame(rows), run_type=run_type, parent=parent, at=at, tokens=tokens, counts="own")

    of_sft = [["sft", {"step": n}] for n in (2, 3, 4)]
    suite = dde.Suite("soups", lineage="L", run_id="{id}", metrics=ACC, run={
        **{n: n for n in ("pretraining", "two", "three", "merged", "sft", "dpo", "mix", "again")}, "ann": "ann{i}",
    }, tables=[
        table(base, "pretraining"),
        table([row for rows in anneals.values() for row in rows], "ann", "base", at={"step": 90}),
        table(two, "two", ["ann1", "ann2"]),
        table(three, "three", ["ann1", "ann2", ["ann3", {"step": 5}]]),
        table(merged, "merged", ["two", "three"]),
        table(sft, "sft", "merged", 10),
        table(dpo, "dpo", "sft", 10, {"step": 2}),
        table(mix, "mix", of_sft, 10),
        table(again, "again", "mix", 10),
    ])  # fmt: skip
    ds = opened(suite)
    label = dict(zip(ds.run_id.values[0].tolist(), ds.run.values.tolist(), strict=True))
    whole = curve_of(base, 1000)
    shared = until(whole, 90_000)
    # Of the two anneals in each soup, what they share counts once, and so does it in the merge of the soups.
    start = 90_000 + 10_000 + 10_000 + 5_000
    curves = {"base": whole, **{f"ann{i}": shared | curve_of(rows, 1000, 90_000) for i, rows in anneals.items()}}
    curves["two"] = shared | curve_of(two, 1000, 110_000)
    curves["three"] = shared | curve_of(three, 1000, start)
    curves["merged"] = shared | curve_of(merged, 1000, start)
    curves["sft"] = curves["merged"] | curve_of(sft, 10, start)
    curves["dpo"] = until(curves["sft"], start + 20) | curve_of(dpo, 10, start + 20)
    curves["mix"] = until(curves["sft"], start + 20) | curve_of(mix, 10, start + 40)
    curves["again"] = curves["mix"] | curve_of(again, 10, start + 40)
    check(ds, "acc", {("L", label[run_id]): curve for run_id, curve in curves.items()})
    changed = ds.acc.dde.difference_to_base().dde.final().sel(run=label["dpo"])
    assert changed.item() == pytest.approx(dpo[-1]["acc"] - shared[90_000])
    with pytest.raises(LineageError, match=r"'bass'.*Did you mean base"):
        opened(dde.Suite("typo", lineage="L", run_id="{id}", metrics=ACC, tables=[
            table(base, "pretraining"), table(sft, "sft", "bass")]))  # fmt: skip


# Sizes that change, and two teachers


def test_an_upcycled_model_and_a_student_of_two() -> None:
    rng = np.random.default_rng(9)
    dense, teacher = rows_of("dense", range(0, 101, 25), rng, n=100), rows_of("teacher", (0, 100, 200), rng, n=1000)
    moe, student = rows_of("moe", (25, 50), rng, n=400), rows_of("student", (0, 5, 10), rng, n=100)

    def table(rows: list[Any], run_type: str, parent: Any = None, at: Any = "end") -> dde.Table:
        return dde.Table(pd.DataFrame(rows), run_type=run_type, parent=parent, at=at)

    suite = dde.Suite(
        "grown", lineage="{n}", run_id="{id}", n_params="n", metrics=ACC, tokens={"per_step": 1000}, counts="own",
        tables=[
            table(dense, "pretraining"), table(teacher, "pretraining"),
            table(moe, "upcycled", "dense", {"step": 75}), table(student, "distilled", ["dense", "teacher"]),
        ],
    )  # fmt: skip
    ds = opened(suite)
    small, both = curve_of(dense, 1000), ("100 & 1000", "distilled")
    want = {
        ("100", "pretraining"): small,
        ("1000", "pretraining"): curve_of(teacher, 1000),
        ("100", "upcycled"): until(small, 75_000) | curve_of(moe, 1000, 75_000),
        both: curve_of(student, 1000, 300_000),
    }
    check(ds, "acc", want)
    compute = ds.cumulative_compute
    assert compute.sel(lineage="100", run="upcycled", cumulative_tokens=125_000).item() == 6 * (100 * 75e3 + 400 * 50e3)
    at_end = compute.sel(lineage=both[0], run=both[1], cumulative_tokens=310_000)
    assert at_end.item() == 6 * (100 * 100e3 + 1000 * 200e3 + 100 * 10e3)
    # A run of two roots begins with itself and is in pictures all the same, alone as among others.
    from dde.plots.curve_segments import find_segments

    for shown in (ds, ds.isel(lineage=[ds.lineage.values.tolist().index(both[0])])):
        [own] = [s for s in find_segments(shown, "acc") if s.run_id == "student"]
        assert dict(zip(own.tokens.tolist(), own.values.tolist(), strict=True)) == want[both]
        assert not own.is_base
        shown.dde.plot("acc", backend="matplotlib")


# Logs that were cut, joined or spoiled


def test_a_resumed_run_in_two_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    first, second = rng.normal(size=8).round(6), rng.normal(size=6).round(6)
    for name, same in (("a", True), ("b", False)):
        pd.DataFrame({"step": range(0, 80, 10), "loss": first}).to_csv(tmp_path / f"{name}_part1.csv", index=False)
        values = [*first[6:], *second[2:]] if same else second
        frame = pd.DataFrame({"step": range(60, 120, 10), "loss": values})
        frame.to_csv(tmp_path / f"{name}_part2.csv", index=False)
    said: dict[str, Any] = {"lineage": "{log}", "tokens": {"per_step": 1000}, "metrics": LOSS}
    joined = opened(dde.Suite("joined", run_id="{log}", tables=[dde.Table("{log}_*.csv")], **said), tmp_path)
    tokens = [s * 1000 for s in range(0, 120, 10)]
    kept = dict(zip(tokens, [*first, *second[2:]], strict=True))
    with pytest.warns(ConflictWarning, match=r"2 values of loss differ .* run 'b' at step 60"):
        found = observed(joined, "loss")
    assert found == {("a", "pretraining"): kept, ("b", "pretraining"): kept}
    # Said as a run of its own, what was trained again replaces what it came from.
    resumed = dde.Suite(
        "resumed", run={"pretraining": "first", "resumed": "resumed"}, run_id="{log}-{part}", counts="cumulative",
        tables=[dde.Table("{log}_part{part:1}.csv"),
                dde.Table("{log}_part{part:2}.csv", run_type="resumed", parent="{log}-1", at="checkpoint")],
        **said,
    )  # fmt: skip
    ds = opened(resumed, tmp_path, method="resumed")
    assert observed(ds, "loss")["b", "resumed"] == dict(zip(tokens, [*first[:6], *second], strict=True))


def test_a_text_among_numbers_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("step,loss\n0,1.5\n10,diverged\n20,2.5\n")
    suite = dde.Suite("spoiled", lineage="l", run_id="r", tokens={"per_step": 1}, metrics=LOSS, tables=[
        dde.Table("a.csv")])  # fmt: skip
    ds = opened(suite, tmp_path)
    with pytest.warns(DdeWarning, match=r"'loss' has texts that are not numbers, in 1 of 3 rows of .*a\.csv"):
        values = ds.loss.values
    assert values.ravel().tolist() == [1.5, 2.0, 2.5]
    assert ds.loss.dde.support().values.ravel().tolist() == [1, 2, 1]
    repository = dde.RunRepository.from_suite(dde.Suite("spoiled", lineage="l", run_id="r", tokens={"per_step": 1},
        metrics={**LOSS, "acc/{task}": dde.Metric("{task}")}, tables=[dde.Table("a.csv")]), tmp_path)  # fmt: skip
    assert repository.notes == ["1 patterns of metrics that match no key: acc/{task}"]


# Web servers


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder as `python -m http.server` does, which sends complete files only."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_names_on_a_web_server_are_those_on_disk(tmp_path: Path) -> None:
    (tmp_path / "part=1").mkdir()
    frame = pd.DataFrame({"step": [0, 10], "loss": [1.5, 2.5]})
    frame.to_csv(tmp_path / "part=1" / "my run é.csv.gz", index=False)
    frame.to_parquet(tmp_path / "a.parquet")

    def suite(files: str) -> dde.Suite:
        tables = [dde.Table(files)]
        return dde.Suite("web", lineage="{log}", run_id="{log}", tokens={"per_step": 10}, metrics=LOSS, tables=tables)

    want = {("my run é", "pretraining"): {0: 1.5, 100: 2.5}}
    with serving(tmp_path) as address:
        for root in (tmp_path, address):
            check(opened(suite("part={part:int}/{log}.csv.gz"), root), "loss", want)
        with pytest.raises(SourceError, match=r"a server that sends complete files only"):
            opened(suite("{log}.parquet"), address)


# Names


def test_awkward_names(tmp_path: Path) -> None:
    rng, rows, want = np.random.default_rng(12), [], {}
    for name in ("a&b", "c+d", "#1", "x@y", "naïve/π", "(p)", "q, r", " lead", "sft+dpo"):
        for temperature in (0.5, 1.0):
            run = rows_of(f"{name}|{temperature}", (0, 10), rng, name=name, T=temperature, data="d", values=1, loss="h")
            rows += run
            want[name, f"T={temperature:g}-1-h"] = curve_of(run, 10)
    frame = pd.DataFrame(rows)
    suite = dde.Suite.from_frame(
        frame, run="id", lineage="{name}", label="T={T}-{values}-{loss}", tokens={"per_step": 10}, metrics=ACC
    )
    ds = opened(suite)
    check(ds, "acc", want)
    check_copy(ds, tmp_path)
    assert opened(suite, name="a&b", T=0.5).acc.sizes == {"lineage": 1, "run": 1, "cumulative_tokens": 2}
    assert ds.dde.mean_over("T").sizes["run"] == 1
    ds.dde.plot_tree("acc", backend="matplotlib")
    with pytest.raises(UnknownNameError, match=r"factors=\{'run_': 'run'\}, and write \{run_\}"):
        dde.Suite.from_frame(frame.rename(columns={"id": "run"}), run="run", lineage="{run}")
    renamed = frame.rename(columns={"id": "run"})
    own = dde.Suite.from_frame(
        renamed, run="run", lineage="{run_}", factors={"run_": "run"}, tokens={"per_step": 10}, metrics=ACC
    )
    assert opened(own).sizes["lineage"] == 18
