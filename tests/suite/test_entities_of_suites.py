"""Runs and lineages of declared suites: views of the run table, with curves as frames, relations, and pages."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.entities.repository import RunRepository
from dde.entities.runs import PosttrainingRun, PretrainingRun, RunList, TrainingLineage
from dde.errors import DdeWarning, LineageError, SelectionError, UnknownNameError
from dde.tutorial import Suite
from fakes import FakeRun, FakeStore, sft
from samples import SUITES, needs_suites

SOUP = "(sft & sft+dpo)+merge"


def frame(rows: list[tuple[str, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "step", "acc"])


def worked(n_params: Any = None, name: str = "worked", last: float = 0.9) -> dde.Suite:
    """Declare the contract's example: a batch that changes, a rewind, a branch inside finetuning, and a soup."""
    pieces: dict[str, Any] = {"per_step": [[0, 4], [20, 8]]}
    ten: dict[str, Any] = {"tokens": {"per_step": 10}, "counts": "own"}
    rewound = frame([("rewound", s, 0.5 + s / 100) for s in (30, 50)])
    return dde.Suite(
        name,
        lineage="L",
        run={n: n for n in ("pretraining", "rewound", "sft", "dpo", "merge")},
        run_id="{id}",
        n_params=n_params,
        metrics={"acc": dde.Metric("acc", "1", "higher")},
        tables=[
            dde.Table(frame([("base", s, s / 100) for s in (0, 10, 20, 30, 40)]), tokens=pieces, counts="own"),
            dde.Table(rewound, run_type="rewound", parent="base", at={"step": 25}, tokens=pieces, counts="cumulative"),
            dde.Table(frame([("sft", s, 0.6 + s / 100) for s in (1, 2, 3, 4)]), run_type="sft", parent="base", **ten),
            dde.Table(
                frame([("dpo", s, 0.7 + s / 100) for s in (1, 2)]),
                run_type="dpo",
                parent="sft",
                at={"step": 2},
                **ten,
            ),
            dde.Table(frame([("soup", 0, last)]), run_type="merge", parent=["sft", "dpo"], **ten),
        ],
    )


def opened(**options: Any) -> RunRepository:
    return RunRepository.from_suite(worked(**options))


def ids(runs: list[Any]) -> list[str]:
    return [run.run_id for run in runs]


# Runs and lineages


def test_runs_are_rows_of_the_run_table() -> None:
    repository = opened()
    base, sft, soup = (repository.get_run(r) for r in ("base", "sft", "soup"))
    assert isinstance(base, PretrainingRun)
    assert isinstance(soup, PosttrainingRun)
    assert repository.get_run("base") is base
    assert [r.run_type for r in (base, sft, soup)] == ["pretraining", "sft", "merge"]
    assert repository.run_type("rewound") == "rewound"
    assert (base.parent_run_id, base.parent_run_ids, base.child_run_ids) == (None, [], ["rewound", "sft"])
    assert (soup.parent_run_id, soup.parent_run_ids, soup.child_run_ids) == ("sft", ["sft", "dpo"], [])
    assert sft.child_run_ids == ["dpo", "soup"]
    table = {r: repository.get_run(r) for r in ("base", "rewound", "sft", "dpo", "soup")}
    assert {r: (run.start_tokens, run.branch_tokens, run.end_tokens) for r, run in table.items()} == {
        "base": (0, None, 240),
        "rewound": (120, 120, 320),
        "sft": (240, 240, 280),
        "dpo": (260, 260, 280),
        "soup": (300, 260, 300),
    }
    assert type(soup.branch_tokens) is int
    assert (soup.label, soup.state, soup.lineage_id) == (SOUP, "finished", "L")
    assert soup.hyperparameters == {"id": "soup"}
    assert soup.data_source is repository.suite_runs.tables  # type: ignore[attr-defined, union-attr]
    with pytest.raises(SelectionError, match=r"no run 'sooup'.*mean soup"):
        repository.get_run("sooup")
    with pytest.raises(LineageError, match=r"RunRepository\.from_suite"):
        PretrainingRun("base", base.data_source)


def test_a_lineage_is_all_runs_of_one_label() -> None:
    repository = opened()
    lineage = repository.get_lineage("dpo")
    assert lineage == repository.get_lineage("L") == repository.get_run("soup").get_full_lineage()
    assert (lineage.lineage_id, ids([lineage.base_run]), ids(lineage.base_runs)) == ("L", ["base"], ["base"])
    assert ids(lineage.derived_runs) == ["rewound", "sft", "dpo", "soup"]
    assert repository.lineage_of("soup") == repository.lineage_of("L") == "L"
    assert ids(lineage.filter_derived_runs("sft")) == ["sft"]
    assert ids(lineage.filter_derived_runs(["dpo", "merge"], id="soup")) == ["soup"]
    with pytest.raises(UnknownNameError, match=r"'sfd' is not a run type of this suite"):
        lineage.filter_derived_runs("sfd")
    with pytest.raises(SelectionError, match=r"no run 'M'"):
        repository.get_lineage("M")
    assert repr(lineage) == "TrainingLineage('L', 4 derived runs)"
    assert lineage.to_dataset().run.values.tolist() == ["pretraining", "rewound", "sft", "sft+dpo", SOUP]
    assert repository.get_run("dpo").to_dataset().run.values.tolist() == ["pretraining", "sft+dpo"]


def crossed() -> dde.Suite:
    """Declare two seeds of two sizes, tuned at two rates, one of them twice, and a merge of two seeds."""
    rows: list[dict[str, Any]] = []
    for size, n in (("8M", 8e6), ("80M", 80e6)):
        for seed in (0, 1):
            root = {"size": size, "seed": seed, "n": n, "stage": "base", "id": f"{size}-{seed}"}
            rows += [root | {"step": s, "loss": 4 - s / 10 - seed / 100} for s in (0, 5, 10)]
            for lr, again in ((0.1, 1), (0.1, 2), (0.01, 1)):
                tuned = {
                    "stage": "tune",
                    "id": f"{size}-{seed}-{lr}-{again}",
                    "lr": lr,
                    "again": again,
                    "up": root["id"],
                }
                rows += [root | tuned | {"step": s, "loss": 3 - s / 10 - lr} for s in (1, 2)]
    every = pd.DataFrame(rows)
    merged = pd.DataFrame({"id": ["both"], "step": [0], "loss": [2.0], "n": [8e6], "left": ["8M-0"], "right": ["8M-1"]})
    return dde.Suite(
        "crossed",
        lineage="{size}-s{seed}",
        run={"pretraining": "base", "tune": "lr={lr}", "merge": "merge"},
        run_id="{id}",
        replicate="again",
        n_params="n",
        tokens={"per_step": 100},
        counts="own",
        metrics={"loss": dde.Metric("loss", "nats", "lower")},
        tables=[
            dde.Table(every[every["stage"] == "base"].drop(columns=["lr", "again", "up"])),
            dde.Table(every[every["stage"] == "tune"], run_type="tune", parent="{up}"),
            dde.Table(merged, run_type="merge", parent=["{left}", "{right}"]),
        ],
    )


def test_lineages_are_found_by_factors() -> None:
    repository = RunRepository.from_suite(crossed())

    def found(**filters: Any) -> list[str]:
        return [lineage.lineage_id for lineage in repository.find_lineages(**filters)]

    every = ["8M-s0", "8M-s0 & 8M-s1", "8M-s1", "80M-s0", "80M-s1"]
    assert sorted(found()) == sorted(every)
    assert found(base_seed=1) == found(seed=[1]) == ["8M-s1", "80M-s1"]
    assert found(size="80M", base_seed=slice(0, 0)) == ["80M-s0"]
    assert found(posttraining_method="tune", size="8M") == ["8M-s0", "8M-s1"]
    assert found(posttraining_method="merge") == ["8M-s0 & 8M-s1"]
    assert found(lr=0.01) == ["8M-s0", "8M-s1", "80M-s0", "80M-s1"]
    assert found(lr=0.5) == []
    with pytest.raises(UnknownNameError, match=r"'params' is neither an option nor a factor of this suite"):
        found(base_params="8M")
    with pytest.raises(UnknownNameError, match=r"base_seed= and seed= both filter"):
        found(base_seed=1, seed=1)
    with pytest.raises(UnknownNameError, match=r"'learning_rate' is neither an option.*There are size, seed, lr"):
        found(learning_rates=0.1)


def test_a_merge_of_lineages_is_a_lineage_of_its_own() -> None:
    repository = RunRepository.from_suite(crossed())
    lineage = repository.get_lineage("both")
    assert (lineage.lineage_id, ids([lineage.base_run])) == ("8M-s0 & 8M-s1", ["8M-0"])
    assert ids(lineage.base_runs) == ["8M-0", "8M-1"]
    assert ids(lineage.derived_runs) == ["both"]
    assert lineage != repository.get_lineage("8M-0")
    assert lineage.base_run == repository.get_lineage("8M-0").base_run
    assert ids(repository.get_lineage("8M-0").derived_runs) == ["8M-0-0.01-1", "8M-0-0.1-1", "8M-0-0.1-2"]
    rows = lineage.get_continuous_curves()
    assert rows[["run_id", "cumulative_tokens", "loss"]].values.tolist() == [["both", 2000, 2.0]]
    assert rows["cumulative_compute"].tolist() == [6 * 8e6 * 2000]
    ds = lineage.to_dataset()
    assert ds.lineage.values.tolist() == ["8M-s0 & 8M-s1"]
    assert ds.loss.sel(run=lineage.derived_runs[0].label, cumulative_tokens=2000).item() == 2.0
    with pytest.raises(SelectionError, match=r"'pretraining' is not a run of the lineage"):
        lineage.get_continuous_curves(["pretraining"])


# Frames


def test_the_frames_of_the_worked_example() -> None:
    repository = opened(n_params=5)
    lineage = repository.get_lineage("L")
    curves = lineage.get_continuous_curves()
    assert curves.columns.tolist() == [
        *("lineage_id", "run", "run_id", "run_type", "id", "step", "cumulative_tokens", "cumulative_compute"),
        *("acc", "checkpoint_type"),
    ]
    assert curves["run"].unique().tolist() == ["pretraining", "rewound", "sft", "sft+dpo", SOUP]
    soup = lineage.get_continuous_curves([SOUP])
    assert soup[["run_id", "checkpoint_type", "step", "cumulative_tokens", "acc"]].values.tolist() == [
        *(["base", "pretraining", s, t, s / 100] for s, t in ((0, 0), (10, 40), (20, 80), (30, 160), (40, 240))),
        ["sft", "sft", 1, 250, 0.61],
        ["sft", "sft", 2, 260, 0.62],
        ["soup", "merge", 0, 300, 0.9],
    ]
    assert set(soup["run_type"]) == {"merge"}
    assert set(soup["id"]) == {"soup"}
    assert soup["cumulative_compute"].tolist() == [6.0 * 5 * t for t in soup["cumulative_tokens"]]
    rewound = lineage.get_continuous_curves("rewound")
    assert rewound[["run_id", "step", "cumulative_tokens", "acc"]].values.tolist() == [
        *(["base", s, t, s / 100] for s, t in ((0, 0), (10, 40), (20, 80))),
        ["rewound", 30, 160, 0.8],
        ["rewound", 50, 320, 1.0],
    ]
    dpo = repository.get_run("dpo")
    assert dpo.get_training_progression()["cumulative_tokens"].tolist() == [270, 280]
    pd.testing.assert_frame_equal(dpo.get_evaluations(), dpo.get_training_progression())
    [one, other] = repository.get_scaling_analysis(["dpo", "soup"])
    assert one["cumulative_tokens"].tolist() == [0, 40, 80, 160, 240, 250, 260, 270, 280]
    pd.testing.assert_frame_equal(other, soup)
    pd.testing.assert_frame_equal(repository.find_lineages().get_continuous_curves(), curves)
    assert curves.dtypes.equals(lineage.get_continuous_curves([]).dtypes)
    with pytest.raises(SelectionError, match=r"'sfd' is not a run of the lineage L.*mean sft"):
        lineage.get_continuous_curves("sfd")
    with pytest.raises(UnknownNameError, match=r"'ac' is not a metric of the suite 'worked'"):
        lineage.get_continuous_curves(metrics="ac")
    with pytest.raises(SelectionError, match=r"no run 'spoon'"):
        repository.get_scaling_analysis(["dpo", "spoon"])


def assert_frame_is_what_the_dataset_observes(lineage: TrainingLineage, metric: str) -> None:
    ds, rows = lineage.to_dataset(metrics=[metric]), lineage.get_continuous_curves(metrics=[metric])
    seen = (ds[metric].dde.support() == 1).isel(lineage=0).values
    values = ds[metric].isel(lineage=0).values
    compute = ds.get("cumulative_compute")
    n_rows = 0
    for j, label in enumerate(ds.run.values):
        of_run = rows[(rows["run"] == label) & rows[metric].notna()]
        np.testing.assert_array_equal(of_run["cumulative_tokens"], ds.cumulative_tokens.values[seen[j]])
        np.testing.assert_array_equal(of_run[metric], values[j][seen[j]])
        if compute is not None:
            # Along runs, too, where the size changes.
            flops = compute.broadcast_like(ds[metric]).transpose(*ds[metric].dims).values[0, j]
            np.testing.assert_allclose(of_run["cumulative_compute"], flops[seen[j]], rtol=1e-14)
        n_rows += len(of_run)
    assert n_rows == rows[metric].notna().sum() > 0


def test_frames_hold_what_datasets_observe() -> None:
    assert_frame_is_what_the_dataset_observes(opened().get_lineage("L"), "acc")
    for label in ("8M-s0", "80M-s1"):
        assert_frame_is_what_the_dataset_observes(RunRepository.from_suite(crossed()).get_lineage(label), "loss")


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_frames_of_any_graph_hold_what_datasets_observe(data: st.DataObject) -> None:
    rows: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []
    for k in range(data.draw(st.integers(2, 7))):
        steps = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True))
        n = data.draw(st.sampled_from([10, 10, 30]))
        rows += [{"id": f"r{k}", "step": s, "tokens": 7 * s, "loss": 100 * k + s, "n": n} for s in sorted(steps)]
        above = data.draw(st.lists(st.integers(0, k - 1), max_size=3, unique=True)) if k else []
        ats = [data.draw(st.sampled_from(["end", {"step": 3}, {"tokens": 14}])) for _ in above]
        if above:
            parents = [[f"r{p}", at] for p, at in zip(above, ats, strict=True)]
            edges.append({"run": f"r{k}", "parents": parents})
    frame_of_all = pd.DataFrame(rows).astype({"loss": float})
    suite = dde.Suite(
        "graph",
        lineage="L",
        run="{id}",
        run_id="{id}",
        counts="own",
        n_params="n",
        edges=edges,
        metrics={"loss": dde.Metric("loss", "nats", "lower")},
        tables=[dde.Table(frame_of_all)],
    )
    repository = RunRepository.from_suite(suite)
    lineage = repository.get_lineage("L")
    assert_frame_is_what_the_dataset_observes(lineage, "loss")
    curves = lineage.get_continuous_curves()
    for run in [*lineage.base_runs, *lineage.derived_runs]:
        if run.label not in set(curves["run"]):
            continue
        curve = curves[curves["run"] == run.label]
        assert curve["cumulative_tokens"].is_monotonic_increasing
        assert curve["cumulative_tokens"].is_unique
        own = curve[curve["run_id"] == run.run_id].reset_index(drop=True)
        pd.testing.assert_frame_equal(run.get_training_progression(), own)


def test_compute_is_summed_where_the_size_changes() -> None:
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
    rows = RunRepository.from_suite(suite).get_lineage("L").get_continuous_curves("grown")
    assert rows["cumulative_tokens"].tolist() == [0, 100, 150, 200]
    assert rows["cumulative_compute"].tolist() == [0, 6 * 1000, 6 * (1000 + 40 * 50), 6 * (1000 + 4000)]


def test_without_parameter_counts_frames_have_no_compute() -> None:
    assert "cumulative_compute" not in opened().get_lineage("L").get_continuous_curves()


def test_logs_are_no_evaluations() -> None:
    rows = pd.DataFrame({"id": "a", "step": [1, 2], "tokens": [10, 20], "lr_now": [0.1, 0.2], "acc": [np.nan, 0.5]})
    metrics = {"lr_now": dde.Metric("lr_now", kind="log"), "acc": dde.Metric("acc", "1", "higher")}
    run = RunRepository.from_suite(dde.Suite.from_frame(rows, run="id", lineage="{id}", metrics=metrics)).get_run("a")
    assert run.get_training_progression()[["cumulative_tokens", "lr_now"]].values.tolist() == [[10, 0.1], [20, 0.2]]
    evaluations = run.get_evaluations()
    assert evaluations[["cumulative_tokens", "acc"]].values.tolist() == [[20, 0.5]]
    assert "lr_now" not in evaluations


def without_place() -> RunRepository:
    suite = worked()
    rows = frame([("late", 1, 0.1)])
    late = dde.Table(
        rows, run_type="sft", parent="base", at={"step": 900}, tokens={"per_step": 10}, counts="own", run_id="{id}"
    )
    rest = {k: getattr(suite, k) for k in ("lineage", "run_id", "metrics")}
    run = {**{n: n for n in ("pretraining", "rewound", "dpo", "merge")}, "sft": "{id}"}
    return RunRepository.from_suite(dde.Suite("late", run=run, tables=[*suite.tables, late], **rest))


def test_a_run_without_a_place_has_no_rows_and_says_why() -> None:
    repository = without_place()
    run = repository.get_run("late")
    assert (run.branch_tokens, run.end_tokens) == (None, None)
    answers = (
        run.get_training_progression,
        run.get_evaluations,
        lambda: repository.get_scaling_analysis(["late"])[0],
        lambda: repository.get_lineage("L").get_continuous_curves(["late"]),
    )
    for ask in answers:
        with pytest.warns(DdeWarning, match=r"'late' can't be placed.*step 900.*Correct the declaration") as caught:
            rows = ask()
        assert rows.empty
        assert {w.filename for w in caught} == {__file__}
    lineage = repository.get_lineage("late")
    assert "late" in ids(lineage.derived_runs)
    assert "late" not in set(lineage.get_continuous_curves()["run"])
    with pytest.warns(DdeWarning, match=r"1 of 2 runs can't be placed .*late \(branch unknown.*suite declares"):
        ds = RunList([run, repository.get_run("sft")]).to_dataset()
    assert ds.run.values.tolist() == ["pretraining", "sft"]
    with pytest.raises(SelectionError, match=r"'late' can't be placed"):
        RunList([run]).to_dataset()
    page = lineage._repr_html_()
    assert "branch unknown: step 900" in page


# Related runs


def test_related_runs() -> None:
    repository = RunRepository.from_suite(crossed())
    run = repository.get_run
    assert ids(run("8M-0-0.1-1").same_treatment()) == [
        f"{where}-0.1-{again}" for where in ("8M-1", "80M-0", "80M-1") for again in (1, 2)
    ]
    assert ids(run("8M-0").same_treatment()) == ["8M-1", "80M-0", "80M-1"]
    assert ids(run("8M-0-0.1-2").same_base()) == ["8M-0-0.01-1"]
    assert ids(run("8M-0").same_base()) == ["8M-0-0.01-1", "8M-0-0.1-1", "8M-0-0.1-2"]
    # A repetition is a sibling, and so is the merge of this parent and another.
    assert sorted(ids(run("8M-0-0.1-1").siblings())) == ["8M-0-0.01-1", "8M-0-0.1-2", "both"]
    assert ids(run("80M-1").siblings()) == []
    assert sorted(ids(run("both").siblings())) == [
        f"8M-{s}-{lr}" for s in (0, 1) for lr in ("0.01-1", "0.1-1", "0.1-2")
    ]
    ds = run("8M-0-0.1-1").same_treatment()[:2].to_dataset()
    assert ds.lineage.values.tolist() == ["8M-s1"]
    assert ds.run.values.tolist() == ["base", "lr=0.1", "lr=0.1#2"]


def test_the_same_base_is_one_that_runs_derive_from() -> None:
    rows = [
        {"id": f"root{k}", "up": "", "step": s, "tokens": s, "loss": 1.0, "what": f"root{k}"}
        for k in (1, 2)
        for s in (0, 9)
    ]
    rows += [
        {"id": f"tuned{k}{x}", "up": f"root{k}", "step": 5, "tokens": 5, "loss": 1.0, "what": f"tuned{k}{x}"}
        for k in (1, 2)
        for x in "xy"
    ]
    suite = dde.Suite.from_frame(
        pd.DataFrame(rows), run="id", lineage="L", label="{what}", parent="{up}", at="end", counts="own"
    )
    repository = RunRepository.from_suite(suite)
    assert ids(repository.get_lineage("L").base_runs) == ["root1", "root2"]
    assert ids(repository.get_run("tuned1x").same_base()) == ["tuned1y"]
    assert ids(repository.get_run("root2").same_base()) == ["tuned2x", "tuned2y"]


def test_two_lineages_side_by_side() -> None:
    repository = RunRepository.from_suite(crossed())
    one, other = repository.get_lineage("8M-s0"), repository.get_lineage("80M-s1")
    compared = one.compare(other)
    assert compared.values.tolist() == [
        ["base", "8M-0", "80M-1", 1000.0, 1000.0, "size: 8M, 80M; seed: 0, 1"],
        ["lr=0.01", "8M-0-0.01-1", "80M-1-0.01-1", 1200.0, 1200.0, ""],
        ["lr=0.1", "8M-0-0.1-1", "80M-1-0.1-1", 1200.0, 1200.0, ""],
        ["lr=0.1#2", "8M-0-0.1-2", "80M-1-0.1-2", 1200.0, 1200.0, ""],
    ]
    assert compared.attrs["left_out"] == []
    elsewhere = one.compare(opened().get_lineage("L"))
    assert elsewhere["run"].tolist() == ["pretraining", "rewound", "sft", "sft+dpo", SOUP, *compared["run"]]
    assert elsewhere["other_run_id"].tolist() == ["base", "rewound", "sft", "dpo", "soup", "", "", "", ""]
    datadecide = dde.tutorial.open_repository("tiny").get_lineage("dolma1_7-4M-default")
    mixed = opened().get_lineage("L").compare(datadecide)
    assert mixed.loc[mixed["run"] == "pretraining", ["run_id", "other_run_id"]].values.tolist() == [
        ["base", "dolma1_7-4M-default"]
    ]


# With a store of post-training runs


def sizes() -> dde.Suite:
    """Declare two sizes whose checkpoints post-training runs name."""
    rows = [
        {"size": size, "step": step, "acc": 0.2 + step / 1e6, "n": n}
        for size, n in (("70m", 70_000_000), ("410m", 400_000_000))
        for step in (0, 1000, 3000)
    ]
    return dde.Suite(
        "sizes",
        lineage="pythia-{size}",
        run_id="{size}-pre",
        tokens={"per_step": 1000},
        counts="own",
        n_params="n",
        checkpoints="EleutherAI/pythia-{size}@step{step:int}",
        metrics={"acc": dde.Metric("acc", "1", "higher")},
        tables=[dde.Table(pd.DataFrame(rows))],
    )


def tuned(run_id: str, path: str, **options: Any) -> FakeRun:
    return sft(run_id, (1000, 2000, 3000), model_name_or_path=path, **options)


def with_store(**options: Any) -> RunRepository:
    small, large = "EleutherAI/pythia-70m", "EleutherAI/pythia-410m"
    store = FakeStore(
        [
            tuned("a", small, reduce_loss="sum", evaluations={"arc_easy": 0.5}),
            tuned("b", small, reduce_loss="mean", learning_rate=3e-5),
            tuned("c", large, reduce_loss="sum", state="crashed"),
            tuned("early", f"{large}@step1000", learning_rate=2e-5),
            tuned("second", "anything", parent_run_id="a", learning_rate=4e-7),
            tuned("unknown", "some/other-model"),
        ],
        "fake",
    )
    return RunRepository.from_suite(sizes(), None, store, **options)  # type: ignore[arg-type]


def test_runs_of_a_store_are_entities_of_the_suite() -> None:
    repository = with_store()
    run = repository.get_run
    a, second, unknown = run("a"), run("second"), run("unknown")
    assert (a.parent_run_ids, a.child_run_ids, a.branch_tokens) == (["70m-pre"], ["second"], 3_000_000)
    assert a.data_source is repository.posttraining_source  # type: ignore[attr-defined]
    assert run("70m-pre").child_run_ids == ["a", "b"]
    assert run("70m-pre").data_source is repository.suite_runs.tables  # type: ignore[attr-defined, union-attr]
    assert second.lineage_id == "pythia-70m"
    assert isinstance(unknown, PosttrainingRun)
    assert (unknown.lineage_id, unknown.parent_run_id, unknown.branch_tokens) == (None, None, None)
    with pytest.raises(SelectionError, match=r"'unknown' has no known base \(parent unknown.*Pass parents="):
        unknown.get_full_lineage()
    assert ids(unknown.same_treatment()) == []
    assert ids(repository.get_lineage("a").filter_derived_runs("supervised_ft", learning_rates=3e-5)) == ["b"]
    assert [x.lineage_id for x in repository.find_lineages(learning_rates=2e-5)] == ["pythia-410m"]
    assert [x.lineage_id for x in repository.find_lineages()] == ["pythia-70m", "pythia-410m"]
    assert ids(a.siblings()) == ["b"]
    curve = repository.get_lineage("a").get_continuous_curves(["second"], ["acc", "train_loss", "arc_easy"])
    assert curve["run_id"].tolist() == ["70m-pre"] * 3 + ["a"] * 3 + ["second"] * 3
    assert curve["checkpoint_type"].tolist() == ["pretraining"] * 3 + ["supervised_ft"] * 6
    assert curve["cumulative_tokens"].tolist()[3:] == [3_001_000, 3_002_000, 3_003_000, 3_004_000, 3_005_000, 3_006_000]
    assert curve["cumulative_compute"].tolist() == [6.0 * 70e6 * t for t in curve["cumulative_tokens"]]
    with pytest.warns(DdeWarning, match=r"train_loss in different ways \(mean, sum\)"):
        repository.get_lineage("a").get_continuous_curves(["a", "b"], ["train_loss"])
    with pytest.warns(DdeWarning, match=r"'unknown' can't be placed.*Pass parents="):
        assert unknown.get_training_progression(["train_loss"]).empty
    compared = repository.get_lineage("a").compare(repository.get_lineage("c"))
    assert compared.loc[0, "differs"] == "size: 70m, 410m"
    assert "c" in compared["other_run_id"].tolist()


def test_repositories_with_other_stores_are_other_content() -> None:
    repository = with_store()
    assert repository.has_same_content(with_store())
    # A store that does not say what it is, is the same only where it is one object.
    unnamed = RunRepository.from_suite(sizes(), None, FakeStore([tuned("a", "EleutherAI/pythia-70m")]))  # type: ignore[arg-type]
    assert not unnamed.has_same_content(
        RunRepository.from_suite(sizes(), None, FakeStore([tuned("a", "EleutherAI/pythia-70m")]))  # type: ignore[arg-type]
    )
    assert not repository.has_same_content(RunRepository.from_suite(sizes()))
    store = repository.posttraining_source
    assert repository.has_same_content(RunRepository.from_suite(sizes(), None, store))
    settled = RunRepository.from_suite(sizes(), None, store, parents={"unknown": "410m-pre"})
    assert not repository.has_same_content(settled)
    assert settled.get_run("unknown").parent_run_ids == ["410m-pre"]


def test_pages_of_a_suite_with_a_store() -> None:
    repository = with_store()
    page = text_of(repository._repr_html_())
    assert "2 lineages" in page
    assert "|8, 6 of them used|" in page
    assert "parent unknown" in page
    large = text_of(repository.get_lineage("c")._repr_html_())
    assert "state crashed" in large
    assert "opened with state=&quot;all&quot;" in large
    unknown = text_of(repository.get_run("unknown")._repr_html_())
    assert "parent unknown" in unknown


# Equality, pickles


def test_entities_of_the_same_content_are_equal_and_survive_pickles() -> None:
    one, other = opened(), opened()
    for get in (lambda r: r.get_run("dpo"), lambda r: r.get_lineage("L"), lambda r: r.get_run("base")):
        assert get(one) == get(other)
        assert len({get(one), get(other)}) == 1
        for unlike in (opened(last=0.8), opened(name="other"), opened(n_params=7)):
            assert get(one) != get(unlike)
        copy = pickle.loads(pickle.dumps(get(one)))
        assert copy == get(one)
    assert not one.has_same_content(dde.tutorial.open_repository("tiny"))
    assert not dde.tutorial.open_repository("tiny").has_same_content(one)
    copied = pickle.loads(pickle.dumps(one))
    assert copied.has_same_content(one)
    pd.testing.assert_frame_equal(
        copied.get_lineage("L").get_continuous_curves(), one.get_lineage("L").get_continuous_curves()
    )
    both = one.find_lineages() + other.find_lineages()
    assert len(both.get_continuous_curves()) == len(one.get_lineage("L").get_continuous_curves())


def test_files_that_change_are_other_content(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,tokens,loss\n1,10,2.0\n")
    suite = dde.Suite("files", lineage="{id}", run_id="{id}", run="base", tables=[dde.Table("{id}.csv")])

    def run() -> Any:
        return RunRepository.from_suite(suite, tmp_path).get_run("a")

    before = run()
    assert before == run()
    path.write_text("step,tokens,loss\n1,10,2.0\n2,20,1.5\n")
    assert before != run()


# Pages


def text_of(page: str) -> str:
    return re.sub(r"<[^>]+>", "|", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))


def test_pages_say_what_the_run_table_says() -> None:
    repository = opened(n_params=5)
    page = text_of(repository._repr_html_())
    assert "|5, 5 of them used|" in page
    assert "repository.get_lineage(&#x27;L&#x27;)" in page
    lineage = text_of(repository.get_lineage("L")._repr_html_())
    assert re.search(r"\|sft, dpo\|+260\|+\+0\|+300\|+declared\|+used\|", lineage)
    order = [lineage.index(f"|{label}|") for label in ("sft", "sft+dpo", "(sft &amp; sft+dpo)+merge")]
    assert order == sorted(order)
    soup = text_of(repository.get_run("soup")._repr_html_())
    assert "|sft, its end; dpo, its end|" in soup
    assert re.search(r"\|follows its parents to\|+260 tokens \(260\)\|", soup)
    assert "20 of its own tokens" in text_of(repository.get_run("dpo")._repr_html_())
    assert "|rewound, sft|" in text_of(repository.get_run("base")._repr_html_())
    assert re.search(
        r"\|L\|+1\|+320\|+1 dpo, 1 merge, 1 rewound, 1 sft\|", text_of(repository.find_lineages()._repr_html_())
    )
    assert "1 run|" in text_of(repository.get_run("dpo").siblings()._repr_html_())
    merged = RunRepository.from_suite(crossed())
    assert "it is a lineage of its own" in merged.get_lineage("both")._repr_html_()
    assert re.search(r"\|8M-s0\|+8M\|+0\|+1\|+1\.2k\|+3 tune\|", text_of(merged.find_lineages()._repr_html_()))
    mixed = dde.tutorial.open_repository("tiny").find_lineages() + repository.find_lineages()
    assert "dolma1_7-4M-default" in mixed._repr_html_()


def test_pages_escape_names() -> None:
    hostile = '<img src=x onerror="alert(1)">'
    rows = pd.DataFrame(
        {
            "id": [f"{hostile}a", f"{hostile}b"],
            "f": hostile,
            "up": ["", f"{hostile}a"],
            "step": 1,
            "tokens": 5,
            "loss": 1.0,
        }
    )
    suite = dde.Suite.from_frame(
        rows, run="id", lineage="{f}", label="{id}", parent="{up}", counts="own", metrics={"loss": dde.Metric("loss")}
    )
    repository = RunRepository.from_suite(suite)
    child = repository.get_run(f"{hostile}b")
    lineages = repository.find_lineages()
    for thing in (repository, child, child.get_full_lineage(), lineages, RunList([child])):
        page = thing._repr_html_()
        assert "<img" not in page
        assert "&lt;img" in page
    assert repository.find_lineages(f=hostile)[0].lineage_id == hostile


def test_a_page_of_a_suite_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("step,loss\n1,2.0\n")
    suite = dde.Suite(
        "broken", lineage="{id}", run_id="{id}", run="base", tokens="tokens", tables=[dde.Table("{id}.csv")]
    )
    page = RunRepository.from_suite(suite, tmp_path)._repr_html_()
    assert "can&#x27;t be read" in page
    assert "tokens" in text_of(page)


# DataDecide


def test_entities_of_datadecide_need_no_evidence_for_what_the_table_has(tiny_suite: Suite, tmp_path: Path) -> None:

    def evolved() -> RunRepository:
        return dde.DataDecideEvolved(tiny_suite.data, tiny_suite.wandb, cache_dir=tmp_path / "cache").repository

    first = evolved()
    expected = first.get_lineage("dolma1_7-4M-default").derived_runs
    # Columns come from the cache now.
    repository = evolved()
    lineage = repository.get_lineage("dolma1_7-4M-default")
    assert ids(lineage.derived_runs) == ids(expected)
    for run, other in zip(lineage.derived_runs, expected, strict=True):
        assert (run.parent_run_ids, run.child_run_ids) == (other.parent_run_ids, other.child_run_ids)
        assert (run.label, run.state, run.end_tokens) == (other.label, other.state, other.end_tokens)
    assert lineage.base_runs == [lineage.base_run]
    assert "derived" not in repository.registry.__dict__
    assert lineage.derived_runs[0].hyperparameters == expected[0].hyperparameters
    assert "derived" in repository.registry.__dict__
    assert lineage.base_run.hyperparameters["params"] == "4M"
    derived = first.registry.derived
    assert all(run.label == derived[run.run_id].label for run in expected)
    assert all(run.parent_run_id == derived[run.run_id].parent_run_id for run in expected)


# Real files


@needs_suites
def test_the_olmo_ladder() -> None:
    repository = RunRepository.from_suite("olmo_ladder", SUITES / "olmo_ladder")
    lineages = repository.find_lineages()
    assert [lineage.lineage_id for lineage in lineages] == ["190M", "370M", "760M", "1B", "3B"]
    assert [len(lineage.base_runs) for lineage in lineages] == [7] * 5
    lineage = repository.get_lineage("1B")
    assert lineage.base_run.run_id == "cosine/1B-0.5xC"
    assert [run.label for run in lineage.derived_runs] == [f"decay-{b}xC" for b in ("0.5", "1", "2", "5", "10")]
    assert ids(lineage.filter_derived_runs("decay", budget=slice(2, 5))) == ["decay/1B-2xC", "decay/1B-5xC"]
    decay = repository.get_run("decay/1B-1xC")
    assert (decay.parent_run_ids, decay.hyperparameters) == (["constant/1B-10xC"], {"size": "1B", "budget": 1.0})
    assert ids(decay.same_treatment()) == [f"decay/{size}-1xC" for size in ("190M", "370M", "760M", "3B")]
    assert len(decay.siblings()) == len(decay.same_base()) == 4
    assert repository.find_lineages(size=["1B", "190M"], budget=1)[0].lineage_id == "190M"
    for metric in ("c4_en_loss", "lr_at_step"):
        assert_frame_is_what_the_dataset_observes(lineage, metric)
    rows = decay.get_training_progression(["c4_en_loss"])
    assert rows["cumulative_tokens"].min() > decay.branch_tokens  # type: ignore[operator]
    compared = repository.get_lineage("190M").compare(lineage)
    assert (len(compared), compared["differs"].tolist()) == (12, ["size: 190M, 1B"] * 7 + [""] * 5)


@needs_suites
def test_a_soup_of_olmo_3() -> None:
    repository = RunRepository.from_suite("olmo3_32b", SUITES / "olmo3_checkpoints")
    [lineage] = repository.find_lineages()
    soup = repository.get_run("stage2_midtraining_souped")
    assert soup.parent_run_ids == ["stage2_midtraining_ingredient1", "stage2_midtraining_ingredient2"]
    assert (soup.start_tokens, soup.end_tokens) == (5_887_477_415_936, 5_887_477_415_936)
    last = repository.get_run("stage3_longcontext_souped")
    assert last.parent_run_ids == ["stage3_longcontext"]
    assert (last.branch_tokens, last.end_tokens) == (5_962_974_887_936, 5_979_089_403_904)
    curve = lineage.get_continuous_curves([last])
    assert curve["cumulative_tokens"].iloc[-2:].tolist() == [5_962_974_887_936, 5_979_089_403_904]
    assert curve["run_id"].iloc[-2:].tolist() == ["stage3_longcontext", "stage3_longcontext_souped"]
    assert "stage2_midtraining_ingredient1" not in set(curve["run_id"])
