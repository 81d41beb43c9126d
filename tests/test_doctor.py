"""The doctor: each planted fault is found with run, place and size, and clean suites have no findings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.cli import main
from dde.curves.observations import Observations
from dde.doctor import CHECKS, identical
from dde.doctor.branches import FEWEST_RESIDUALS, THRESHOLD, trunk_noise
from dde.doctor.examination import CHEAP_CHECKS
from dde.doctor.examined_suite import examined_suite_runs
from dde.errors import UnknownNameError
from dde.suite.builtin import olmo3_32b
from dde.tutorial import Suite
from fakes import FakeStore, sft
from samples import sample_folder

COLUMNS = ["check", "run_id", "finding", "metric", "place", "step", "size", "compared_with"]
PER_STEP = 512


@pytest.fixture(scope="module")
def suites() -> Path:
    """The folder of real suites."""
    return sample_folder("suites")


# Synthetic suites: trunks of several widths and seeds, and decays of each


def trunk_loss(width: int, step: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray(2 + (3 - 0.3 * width) * (step / 100.0) ** -0.5)


def make_suite(
    seed: int,
    *,
    noise: float = 0.004,
    digits: int | None = None,
    items: int = 300,
    counter_noise: float = 0.0,
    n_rows: int = 60,
    widths: int = 3,
    seeds: int = 3,
    decays: int = 2,
) -> pd.DataFrame:
    """Return the rows of a suite without faults: 100 steps apart, decays 50 steps apart."""
    rng = np.random.default_rng(seed)
    parts: list[pd.DataFrame] = []

    def add(
        name: str, width: int, number: int, parent: str, at: float, step: object, tokens: object, shift: object
    ) -> None:
        step = np.asarray(step, np.int64)
        loss = trunk_loss(width, step) + shift + noise * rng.standard_normal(len(step))
        accuracy = rng.binomial(items, 0.25 + 0.3 * np.sqrt(step / (100.0 * n_rows)).clip(max=1)) / items
        columns = {"name": name, "width": width, "seed": number, "parent": parent, "at": at, "step": step}
        loss = loss if digits is None else np.round(loss, digits)
        parts.append(pd.DataFrame({**columns, "tokens": tokens, "loss": loss, "accuracy": accuracy}))

    for width in range(widths):
        for number in range(seeds):
            step = np.arange(1, n_rows + 1) * 100
            grown = np.rint(100 * PER_STEP * (1 + counter_noise * rng.standard_normal(n_rows)))
            tokens = np.cumsum(grown).astype(np.int64)
            trunk = f"w{width}-{number}"
            add(trunk, width, number, "", np.nan, step, tokens, 0.0)
            for k in range(decays):
                row = n_rows * (k + 2) // (decays + 2)
                after = np.arange(1, 16) * 50
                own = tokens[row - 1] + after * PER_STEP
                # A decay's loss begins at its trunk's and falls.
                add(f"{trunk}-d{k}", width, number, trunk, 100.0 * row, 100 * row + after, own, -0.1 * after / 750)
    return pd.concat(parts, ignore_index=True)


def open_suite(frame: pd.DataFrame, **options: object) -> dde.RunRepository:
    declared: dict[str, object] = {
        "run": "name",
        "lineage": "w{width}-s{seed}",
        "label": "d{at}",
        "step": "step",
        "tokens": "tokens",
        "parent": "{parent}",
        "at": {"step": "at"},
        "counts": "cumulative",
        "metrics": {
            "loss": dde.Metric("loss", "nats", "lower"),
            "accuracy": dde.Metric("accuracy", "1", "higher"),
        },
    }
    return dde.RunRepository.from_suite(dde.Suite.from_frame(frame, **{**declared, **options}))  # type: ignore[arg-type]


def rows_of(frame: pd.DataFrame, name: str) -> npt.NDArray[np.int64]:
    return np.flatnonzero(frame["name"] == name)


def only(found: pd.DataFrame) -> pd.Series:
    assert len(found) == 1, found.to_string()
    return found.iloc[0]


# Clean suites


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"digits": 2},
        {"digits": 1, "items": 20},
        {"counter_noise": 0.01},
        {"counter_noise": 0.05},
        {"n_rows": 20, "noise": 0.02},
        {"noise": 0.0},
    ],
    ids=str,
)
def test_a_clean_suite_has_no_findings(options: dict[str, float]) -> None:
    for seed in range(3):
        found = open_suite(make_suite(seed, **options)).doctor(outliers=True)  # type: ignore[arg-type]
        assert not len(found), found.to_string()
        assert found.columns.tolist() == COLUMNS


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.floats(1e-4, 0.05),
    digits=st.sampled_from([None, 4, 3, 2, 1]),
    items=st.sampled_from([20, 100, 1000]),
    counter_noise=st.floats(0, 0.05),
    n_rows=st.integers(8, 80),
)
def test_clean_suites_of_any_scatter_have_at_most_one_finding_in_a_hundred_runs(
    seed: int, noise: float, digits: int | None, items: int, counter_noise: float, n_rows: int
) -> None:
    frame = make_suite(
        seed, noise=noise, digits=digits, items=items, counter_noise=counter_noise, n_rows=n_rows, widths=5
    )
    assert len(open_suite(frame).doctor()) <= 0.01 * frame["name"].nunique() + 1


def test_findings_have_their_types_even_where_there_are_none() -> None:
    found = open_suite(make_suite(0)).doctor()
    assert found.dtypes.astype(str).to_dict() == {
        **dict.fromkeys(COLUMNS, "object"),
        "place": "Int64",
        "step": "Int64",
        "size": "float64",
    }


# Counters


def test_a_counter_that_falls() -> None:
    frame = make_suite(0, decays=0)
    rows = rows_of(frame, "w1-1")
    frame.loc[rows[40:], "tokens"] -= frame.loc[rows[39], "tokens"]
    found = only(open_suite(frame).doctor())
    assert (found.check, found.run_id, found.step) == ("counter_falls", "w1-1", 4100)
    assert found["size"] == 39 * 100 * PER_STEP
    assert "2,048,000 at step 4000 to 51,200 at step 4100" in found.finding


@pytest.mark.parametrize("late", [1, 3, -2])
def test_a_counter_that_lags_from_the_first_row_on(late: int) -> None:
    frame = make_suite(0, decays=0)
    rows = rows_of(frame, "w2-0")
    frame.loc[rows, "tokens"] -= late * 100 * PER_STEP
    found = only(open_suite(frame[frame["tokens"] >= 0]).doctor())
    assert (found.check, found.run_id) == ("counter_lags", "w2-0")
    assert found["size"] == late * 100 * PER_STEP
    assert f"{'lags' if late > 0 else 'leads'} by {abs(late) * 100 * PER_STEP:,} tokens" in found.finding


def test_steps_that_go_on_from_the_parent_are_no_lag_and_missing_ones_are() -> None:
    frame = make_suite(0)
    assert not len(open_suite(frame).doctor("counter_lags"))
    rows = rows_of(frame, "w0-2-d1")
    frame.loc[rows, "tokens"] += 500 * PER_STEP
    found = only(open_suite(frame).doctor("counter_lags"))
    assert (found.run_id, found["size"]) == ("w0-2-d1", -500 * PER_STEP)


def test_a_start_between_checkpoints_of_the_parent_is_no_lead() -> None:
    frame = make_suite(0)
    is_decay = frame["parent"] != ""
    # Decays that begin 60 steps after their trunk's last checkpoint before, count steps from 0, and log each 5th.
    decays = frame[is_decay].copy()
    own = decays.groupby("name").cumcount() + 1
    decays["tokens"] = ((decays["at"] + 60 + own * 5) * PER_STEP).astype(int)
    decays["step"] = own * 5
    whole = pd.concat([frame[~is_decay], decays], ignore_index=True)
    assert not len(open_suite(whole, at="checkpoint").doctor("counter_lags"))
    found = open_suite(whole).doctor("counter_lags")
    assert set(found["run_id"]) == set(decays["name"])
    assert set(found["size"]) == {-60 * PER_STEP}


def test_a_counter_that_jumps_or_stands_still() -> None:
    frame = make_suite(0, decays=0, counter_noise=0.02)
    rows = rows_of(frame, "w0-0")
    frame.loc[rows[30:], "tokens"] += 70 * PER_STEP
    found = only(open_suite(frame).doctor())
    assert (found.check, found.run_id, found.step) == ("counter_jumps", "w0-0", 3000)
    assert found["size"] == pytest.approx(70 * PER_STEP, rel=0.2)
    assert found.place == frame.loc[rows[29], "tokens"]

    frame = make_suite(0, decays=0)
    rows = rows_of(frame, "w0-1")
    frame.loc[rows[30:], "tokens"] -= 100 * PER_STEP
    found = only(open_suite(frame).doctor())
    assert (found.check, found.run_id, found["size"]) == ("counter_jumps", "w0-1", -100 * PER_STEP)
    assert "stands still from step 3000 to 3100" in found.finding


def test_a_batch_that_changes() -> None:
    frame = make_suite(0, decays=0)
    rows = rows_of(frame, "w1-0")
    frame.loc[rows[45:], "tokens"] += np.arange(1, 16) * 25 * PER_STEP
    found = only(open_suite(frame).doctor())
    assert (found.check, found.run_id, found.step) == ("counter_rate", "w1-0", 4500)
    assert found["size"] == 15 * 25 * PER_STEP
    assert "grows by 640 tokens per step from step 4500 to 6000" in found.finding
    assert "512 tokens per step" in found.finding
    # What is declared is not a finding.
    pieces = {"tokens": {"per_step": [[0, PER_STEP], [4500, 640]]}}
    assert not len(open_suite(frame.drop(columns="tokens"), **pieces).doctor())


def test_a_counter_of_noisy_sequences_has_no_jumps() -> None:
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(5, 300))
        tokens = np.cumsum(rng.gamma(rng.uniform(200, 4000), size=n) * 1000).astype(np.int64)
        frame = pd.DataFrame({"name": "a", "step": np.arange(1, n + 1) * 10, "tokens": tokens, "loss": 1.0})
        suite = dde.Suite.from_frame(frame, run="name", lineage="{name}")
        found += len(dde.RunRepository.from_suite(suite).doctor(CHEAP_CHECKS))
    assert found == 0


# Steps and schedules


def test_rows_off_the_spacing_and_beyond_the_plan() -> None:
    frame = make_suite(0, decays=0)
    rows = rows_of(frame, "w2-2")
    frame.loc[rows[[20, 35]], "step"] += 17
    frame.loc[rows[[20, 35]], "tokens"] += 17 * PER_STEP
    frame["plan"] = 6000 * PER_STEP
    frame.loc[rows_of(frame, "w1-1"), "plan"] = 5800 * PER_STEP
    found = open_suite(frame, schedule_tokens="plan").doctor()
    assert found["check"].tolist() == ["beyond_schedule", "step_spacing"]
    assert found["run_id"].tolist() == ["w1-1", "w2-2"]
    assert found["size"].tolist() == [200 * PER_STEP, 2]
    assert found["place"].tolist() == [5900 * PER_STEP, 2117 * PER_STEP]
    assert found["step"].tolist() == [5900, 2117]


def test_dense_rows_at_first_and_a_last_row_are_regular() -> None:
    step = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 21000, 1000), 20725, 20735])
    frame = pd.DataFrame({"name": "a", "step": step, "tokens": step * 8, "loss": 1.0})
    suite = dde.Suite.from_frame(frame, run="name", lineage="{name}")
    assert not len(dde.RunRepository.from_suite(suite).doctor("step_spacing"))


def test_the_planned_end_is_no_irregular_row() -> None:
    step = np.array([*range(1000, 21000, 1000), 20_500, *range(21000, 24000, 1000)])
    frame = pd.DataFrame({"name": "a", "step": step, "tokens": step * 8, "loss": 1.0, "plan": 20_500 * 8})
    options = {"run": "name", "lineage": "{name}"}
    planned = dde.RunRepository.from_suite(dde.Suite.from_frame(frame, schedule_tokens="plan", **options)).doctor()
    assert planned["check"].tolist() == ["beyond_schedule"]
    found = only(dde.RunRepository.from_suite(dde.Suite.from_frame(frame, **options)).doctor())
    assert (found.check, found.step, found["size"]) == ("step_spacing", 20_500, 1)


# Branches


def test_a_branch_at_no_row_of_the_trunk() -> None:
    frame = make_suite(0)
    rows = rows_of(frame, "w1-2-d0")
    frame.loc[rows, "at"] += 30
    found = only(open_suite(frame).doctor("branch_row"))
    assert (found.run_id, found.compared_with) == ("w1-2-d0", "w1-2")
    assert found.place == 3030 * PER_STEP
    assert found["size"] == 30 * PER_STEP
    assert f"{3000 * PER_STEP:,} and {3100 * PER_STEP:,}" in found.finding


def test_a_branch_beyond_the_parent() -> None:
    frame = make_suite(0)
    frame.loc[rows_of(frame, "w1-2-d0"), "at"] = 9000.0
    found = only(open_suite(frame).doctor("branch_row"))
    assert (found.run_id, found.compared_with) == ("w1-2-d0", "w1-2")
    assert "step 9000 lies beyond the parent's last row at step 6000" in found.finding


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_decay_that_begins_off_its_trunk(shift: float) -> None:
    frame = make_suite(0)
    frame.loc[rows_of(frame, "w0-1-d1"), "loss"] += shift
    found = only(open_suite(frame).doctor())
    assert (found.check, found.run_id, found.metric) == ("branch_value", "w0-1-d1", "loss")
    assert found.compared_with == "w0-1"
    assert found["size"] == pytest.approx(shift, abs=0.03)
    assert 4500 * PER_STEP <= found.place <= 4550 * PER_STEP


def test_a_first_row_that_is_not_the_parents_state() -> None:
    frame = make_suite(0)
    # Decays begin with a row at the branch.
    first = frame[frame["parent"] != ""].groupby("name").head(1).copy()
    trunks = frame[frame["parent"] == ""].set_index(["name", "step"])
    first["step"] = first["at"].astype(int)
    states = trunks.loc[list(zip(first["parent"], first["step"], strict=True)), ["tokens", "loss", "accuracy"]]
    first[["tokens", "loss", "accuracy"]] = states.to_numpy()
    first["tokens"] = first["tokens"].astype(int)
    frame = pd.concat([frame, first]).sort_values(["name", "step"], ignore_index=True)
    options = {"at": "first_row"}
    assert not len(open_suite(frame, **options).doctor())
    row = rows_of(frame, "w2-1-d0")[0]
    frame.loc[row, "loss"] -= 0.05
    found = only(open_suite(frame, **options).doctor())
    assert (found.check, found.run_id, found.place) == ("branch_value", "w2-1-d0", 3000 * PER_STEP)
    assert found["size"] == pytest.approx(-0.05)


def test_what_all_runs_of_a_type_do_is_no_fault() -> None:
    frame = make_suite(0)
    is_decay = frame["parent"] != ""
    frame.loc[is_decay, "accuracy"] += 0.5
    assert not len(open_suite(frame).doctor())


def test_fewer_than_one_start_in_a_thousand_is_a_false_alarm() -> None:
    # The worst case is the fewest residuals that are believed.
    rng = np.random.default_rng(7)
    n = 20_000
    tokens = np.arange(FEWEST_RESIDUALS + 2) * 10
    scores = np.zeros(n)
    for k, values in enumerate(rng.standard_normal((n, len(tokens) + 1))):
        spread = trunk_noise(tokens, values[:-1], int(tokens[5]))
        assert spread is not None
        scores[k] = abs(values[-1] - values[5]) / (spread * np.sqrt(2))
    assert (scores > THRESHOLD).sum() <= n / 1000
    # The bound is no empty one: with three spreads it would not hold.
    assert (scores > 3).sum() > n / 1000


def test_a_trunk_of_few_rows_or_one_value_has_no_spread() -> None:
    tokens = np.arange(FEWEST_RESIDUALS + 2) * 10
    assert trunk_noise(tokens, np.zeros(len(tokens)), 50) is None
    assert trunk_noise(tokens[1:], np.arange(len(tokens) - 1) % 3.0, 50) is None


# Equal curves


def test_a_duplicated_log() -> None:
    frame = make_suite(0, digits=2)
    source, copy = rows_of(frame, "w0-0"), rows_of(frame, "w2-2")
    frame.loc[copy, ["loss", "accuracy"]] = frame.loc[source, ["loss", "accuracy"]].to_numpy()
    found = open_suite(frame).doctor("duplicate_log")
    assert only(found).run_id == "w2-2"
    assert only(found).compared_with == "w0-0"
    assert only(found)["size"] == 60
    assert only(found).place == 100 * PER_STEP
    assert "all 60 rows are equal in every one of 2 metrics" in only(found).finding


def test_a_log_that_is_equal_in_a_part() -> None:
    frame = make_suite(0, decays=0)
    source, copy = rows_of(frame, "w0-0")[20:32], rows_of(frame, "w1-0")[20:32]
    frame.loc[copy, ["loss", "accuracy"]] = frame.loc[source, ["loss", "accuracy"]].to_numpy()
    found = only(open_suite(frame).doctor("identical_rows"))
    assert (found.run_id, found.compared_with, found["size"]) == ("w1-0", "w0-0", 12)
    assert found.place == 2100 * PER_STEP
    assert "at 12 of 60 common steps" in found.finding


def trials(seed: int, n_runs: int, n_rows: int, digits: int, metrics: int, spread: float) -> list[pd.DataFrame]:
    rng = np.random.default_rng(seed)
    step = np.arange(1, n_rows + 1) * 10
    parts = []
    for run in range(n_runs):
        off = spread * rng.standard_normal()
        values = {
            f"m{m}": np.round(2 + m + 3 * step**-0.3 + off + 0.01 * rng.standard_normal(n_rows), digits)
            for m in range(metrics)
        }
        parts.append(pd.DataFrame({"name": f"r{run:03d}", "step": step, "tokens": step * 100, **values}))
    return parts


def open_trials(parts: list[pd.DataFrame]) -> dde.RunRepository:
    frame = pd.concat(parts, ignore_index=True)
    metrics = {name: dde.Metric(name, "nats", "lower") for name in frame if str(name).startswith("m")}
    suite = dde.Suite.from_frame(frame, run="name", lineage="{name}", step="step", tokens="tokens", metrics=metrics)
    return dde.RunRepository.from_suite(suite)


@pytest.mark.parametrize("spread", [0.0, 0.05])
@pytest.mark.parametrize(("digits", "metrics"), [(1, 1), (2, 1), (3, 1), (2, 3)])
def test_rounded_values_that_many_runs_share_are_no_finding(digits: int, metrics: int, spread: float) -> None:
    parts = trials(1, 200, 40, digits, metrics, spread)
    table = np.stack([part["m0"].to_numpy() for part in parts])
    shared = (table[:, None] == table[None]).sum(axis=2)[np.triu_indices(len(table), 1)]
    assert (shared >= 2).sum() >= 12, "the suite shares too little to show anything"
    checks = ["duplicate_log", "identical_rows"]
    assert not len(open_trials(parts).doctor(checks))


@pytest.mark.parametrize(("digits", "metrics"), [(2, 1), (3, 1), (2, 3)])
def test_exact_duplicates_are_found_among_many_similar_runs(digits: int, metrics: int) -> None:
    parts = trials(2, 200, 50, digits, metrics, 0.05)
    parts += [parts[100].assign(name="x"), parts[100].assign(name="y"), parts[7].assign(name="z")]
    found = open_trials(parts).doctor(["duplicate_log", "identical_rows"])
    pairs = list(zip(found["check"], found["run_id"], found["compared_with"], strict=True))
    assert pairs == [("duplicate_log", *pair) for pair in (("x", "r100"), ("y", "r100"), ("z", "r007"))]


def test_two_runs_alone_can_be_duplicates() -> None:
    parts = trials(3, 1, 12, 5, 1, 0.0)
    found = only(open_trials([*parts, parts[0].assign(name="again")]).doctor())
    assert (found.check, found.run_id, found.compared_with) == ("duplicate_log", "again", "r000")


def test_a_learning_rate_that_runs_share_is_no_evidence() -> None:
    parts = trials(4, 60, 30, 1, 1, 0.05)
    for part in parts:
        part["mrate"] = 0.5 * (1 + np.cos(np.pi * part["step"] / 300))
    assert not len(open_trials(parts).doctor(["duplicate_log", "identical_rows"]))


def test_rows_up_to_the_branch_are_shared_on_purpose() -> None:
    frame = make_suite(0)
    # Both decays of a trunk repeat its last row before the branch, and a rewound run its past.
    assert not len(open_suite(frame).doctor(["duplicate_log", "identical_rows"]))
    past = frame[frame["name"] == "w0-0"].head(30)
    repeated = past.assign(name="w0-0-d1", parent="w0-0", at=4500.0)
    with_past = pd.concat([frame, repeated], ignore_index=True).sort_values(["name", "step"], ignore_index=True)
    assert not len(open_suite(with_past).doctor(["duplicate_log", "identical_rows"]))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pairs_in_counts_pairs(data: st.DataObject) -> None:
    keys = np.array(data.draw(st.lists(st.integers(0, 4), max_size=30)), np.int64)
    expected = sum(keys[i] == keys[j] for i in range(len(keys)) for j in range(i))
    assert identical._pairs_in(np.argsort(keys), keys) == expected


def test_schedules_are_told_from_losses() -> None:
    tokens = np.arange(50) * 10
    offsets = np.array([0, 50])
    step = np.arange(50)

    def is_schedule(values: npt.NDArray[np.float64]) -> bool:
        return identical._is_schedule(Observations(offsets, tokens, step, values))

    assert is_schedule(0.5 * (1 + np.cos(np.pi * step / 50)))
    assert is_schedule(tokens.astype(np.float64))
    assert is_schedule(np.minimum(step / 10, 1.0) * np.maximum(1 - step / 50, 0.1))
    assert not is_schedule(3 * (step + 1.0) ** -0.3 + 0.01 * np.random.default_rng(0).standard_normal(50))


# Outliers


def test_an_outlier_among_replicates() -> None:
    frame = make_suite(0)
    row = rows_of(frame, "w1-1")[40]
    frame.loc[row, "loss"] += 0.2
    repository = open_suite(frame)
    assert not len(repository.doctor())
    found = only(repository.doctor(outliers=True))
    assert (found.check, found.run_id, found.metric) == ("outlier", "w1-1", "loss")
    assert found.place == 4100 * PER_STEP
    assert found["size"] == pytest.approx(0.2, abs=0.03)
    # Early rows bend too much to say.
    early = make_suite(0)
    early.loc[rows_of(early, "w1-1")[3], "loss"] += 0.2
    assert not len(open_suite(early).doctor("outlier"))


def test_an_outlier_by_the_error_of_its_items() -> None:
    frame = make_suite(0, seeds=1, decays=0, items=400)
    frame["accuracy_stderr"] = np.sqrt(frame["accuracy"] * (1 - frame["accuracy"]) / 400)
    metrics = {
        "accuracy": dde.Metric("accuracy", "1", "higher"),
        "accuracy_stderr": dde.Metric("accuracy_stderr", stderr_of="accuracy"),
        "loss": dde.Metric("loss", "nats", "lower"),
    }
    assert not len(open_suite(frame, metrics=metrics).doctor(outliers=True))
    row = rows_of(frame, "w2-0")[30]
    frame.loc[row, "accuracy"] -= 0.35
    # Without replicates and without an error nothing says what is far off.
    frame.loc[rows_of(frame, "w1-0")[30], "loss"] += 5
    found = only(open_suite(frame, metrics=metrics).doctor(outliers=True))
    assert (found.run_id, found.metric, found.place) == ("w2-0", "accuracy", 3100 * PER_STEP)
    assert found["size"] == pytest.approx(-0.35, abs=0.1)


# What is asked for


def test_checks_by_name_and_near_names() -> None:
    repository = open_suite(make_suite(0))
    with pytest.raises(UnknownNameError, match=r"'counter_lag' is not a check.*Did you mean counter_lags"):
        repository.doctor("counter_lag")
    with pytest.raises(UnknownNameError, match="'los' is not a metric"):
        repository.doctor(metrics="los")


def test_cheap_checks_read_no_values() -> None:
    repository = open_suite(make_suite(0))
    assert repository.suite_runs is not None
    runs = examined_suite_runs(repository.suite_runs)
    for name in CHECKS:
        list(CHECKS[name](runs))
        assert ("observed" in vars(runs)) == (name not in CHEAP_CHECKS)
        vars(runs).pop("observed", None)
        identical._PAIRS.pop(runs, None)


def test_metrics_that_are_looked_at() -> None:
    frame = make_suite(0)
    frame.loc[rows_of(frame, "w0-1-d1"), "loss"] += 0.1
    repository = open_suite(frame)
    assert not len(repository.doctor(metrics="accuracy"))
    assert only(repository.doctor(metrics="l*")).metric == "loss"


# Real suites


def test_olmo3_counters_lag_by_a_thousand_steps(suites: Path) -> None:
    found = dde.RunRepository.from_suite("olmo3_32b", suites / "olmo3_checkpoints").doctor(outliers=True)
    assert found["check"].tolist() == ["counter_lags"] * 3
    assert dict(zip(found["run_id"], found["size"], strict=True)) == {
        "stage2_midtraining_ingredient1": 4_194_304_000,
        "stage2_midtraining_ingredient2": 4_194_304_000,
        "stage3_longcontext": 8_388_608_000,
    }
    assert all("1,000 steps" in finding for finding in found["finding"])


def test_olmo3_by_steps_has_no_findings(suites: Path) -> None:
    suite = olmo3_32b.declare(by_steps=True)
    assert not len(dde.RunRepository.from_suite(suite, suites / "olmo3_checkpoints").doctor(outliers=True))


def test_the_olmo_ladder_begins_its_decays_on_their_trunks(suites: Path) -> None:
    repository = dde.RunRepository.from_suite("olmo_ladder", suites / "olmo_ladder")
    found = repository.doctor()
    # A trial with a looser rule had 17 in noisy task metrics; losses agree.
    assert set(found["check"]) <= {"branch_value"}
    assert len(found) <= 17
    assert not found["metric"].str.endswith("_loss").any()
    assert len(repository.doctor("outlier")) <= 10


def test_a_decay_of_the_ladder_that_begins_off_its_trunk_is_found(suites: Path, tmp_path: Path) -> None:
    for name in ("constant/1B-10xC", "decay/1B-1xC", "decay/1B-2xC", "cosine/1B-1xC"):
        file = tmp_path / f"{name}.csv"
        file.parent.mkdir(exist_ok=True)
        frame = pd.read_csv(suites / "olmo_ladder" / f"{name}.csv")
        if name == "decay/1B-2xC":
            frame["eval/c4_en-validation/CrossEntropyLoss"] += 0.05
        frame.to_csv(file, index=False)
    found = only(dde.RunRepository.from_suite("olmo_ladder", tmp_path).doctor())
    assert (found.check, found.run_id, found.metric) == ("branch_value", "decay/1B-2xC", "c4_en_loss")
    assert found.compared_with == "constant/1B-10xC"
    assert found["size"] == pytest.approx(0.05, abs=0.01)


def test_pythia_has_no_equal_models(suites: Path) -> None:
    repository = dde.RunRepository.from_suite("pythia", suites / "pythia")
    assert not len(repository.doctor())


def test_pythia_checkpoints_of_another_model_are_found(suites: Path, tmp_path: Path) -> None:
    # As in the published suite, in which 2.8b equals 2.8b-deduped at 12 checkpoints.
    steps = [3000, 13000, 23000, 33000, 43000, 53000, 63000, 73000, 83000, 93000, 103000, 113000]
    for model in ("pythia-160m", "pythia-160m-deduped", "pythia-70m-deduped"):
        for file in (suites / "pythia" / model / "zero-shot").iterdir():
            target = tmp_path / model / "zero-shot" / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            step = int(file.stem.rpartition("_step")[2])
            source = file
            if model == "pythia-160m" and step in steps:
                (source,) = (suites / "pythia" / "pythia-160m-deduped" / "zero-shot").glob(f"*_step{step}.json")
            os.symlink(source, target)
    found = only(dde.RunRepository.from_suite("pythia", tmp_path).doctor())
    assert found.check == "identical_rows"
    assert {found.run_id, found.compared_with} == {"160m-pretraining", "160m-deduped-pretraining"}
    assert found["size"] == 12
    assert found.place == 3000 * 2_097_152


# DataDecide


def test_the_tutorial_has_the_faults_that_it_plants(tiny_suite: Suite) -> None:
    suite = tiny_suite
    repository = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=None).repository
    with pytest.warns(dde.errors.ConflictWarning, match="disagree"):
        found = repository.doctor(outliers=True)
    overrun = suite.bases.loc[suite.bases["overruns"], "lineage"].tolist()
    resumed = suite.runs.loc[suite.runs["quirks"].str.contains("resumed"), "run_id"].tolist()
    assert len(overrun) == len(resumed) == 1
    assert found["check"].tolist() == ["counter_falls", "beyond_schedule"]
    assert found["run_id"].tolist() == [*resumed, *overrun]
    # Its last checkpoint lies at step 188,750 of 38,157 planned ones.
    assert found["size"].tolist()[1] == (188_750 - 38_157) * 393_216


def test_a_store_alone_does_not_lack_its_bases(tiny_suite: Suite) -> None:
    found = dde.DataDecideEvolved(None, tiny_suite.wandb, cache_dir=None).repository.doctor()
    assert found["check"].tolist() == ["counter_falls"]


def test_the_real_samples(real_data: Path) -> None:
    repository = dde.DataDecideEvolved(real_data, real_data, cache_dir=None).repository
    found = only(repository.doctor(outliers=True))
    assert found.check == "counter_falls"
    assert found.run_id == "2025_08_18-22_30_05_allenai--DataDecide-dolma1_7-4M_main_default"
    assert (found.step, found["size"]) == (9900, 894_174_859 - 237_150_468)


# The command


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDE_DB_CONNECTION", "postgresql://localhost/no_such_store")

    def run_command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dde", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), captured.out, captured.err

    return run_command


def write_suite(folder: Path, frame: pd.DataFrame) -> Path:
    (folder / "runs").mkdir()
    frame.to_csv(folder / "runs" / "rows.csv", index=False)
    path = folder / "mine.toml"
    path.write_text(
        'name = "mine"\nlineage = "w{width}-s{seed}"\nrun_id = "{name}"\nrun = { pretraining = "d{at}" }\n'
        'counts = "cumulative"\n[[tables]]\nfiles = "rows.csv"\nparent = "{parent}"\nat = { step = "at" }\n'
        'metrics.loss = { name = "loss", units = "nats", direction = "lower" }\n'
    )
    return path


def test_the_command_ends_with_1_where_it_finds_something(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    frame = make_suite(0, decays=0)
    frame.loc[rows_of(frame, "w1-0")[45:], "tokens"] += 1000 * PER_STEP
    path = write_suite(tmp_path, frame)
    code, out, err = run("doctor", tmp_path / "runs", "--suite", path, "--no-cache")
    assert code == 1
    assert err == "1 findings: 1 counter_jumps\n"
    lines = out.splitlines()
    assert lines[0].split("\t") == COLUMNS
    assert lines[1].startswith("counter_jumps\tw1-0\t")
    code, _, err = run("doctor", tmp_path / "runs", "--suite", path, "--no-cache", "--check", "branch_row")
    assert (code, err) == (0, "nothing found\n")


def test_the_command_says_what_is_wrong_with_its_options(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = write_suite(tmp_path, make_suite(0, decays=0))
    code, _, err = run("doctor", tmp_path / "runs", "--suite", "mine")
    assert (code, "'mine' is not a known suite" in err) == (1, True)
    code, _, err = run("doctor", tmp_path / "runs", "store", "--suite", path)
    assert (code, "'store' does not exist" in err) == (1, True)
    code, out, _ = run("doctor", "--help")
    assert code == 0
    assert "dde doctor" in out.split("Examples:\n")[1]
    assert "The exit code is 0 if there are no findings" in " ".join(out.split())
    # A check that is new is named there, too.
    assert [name for name in CHECKS if name not in out] == []


def test_the_command_writes_a_file(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    frame = make_suite(0, decays=0)
    frame.loc[rows_of(frame, "w1-0")[45:], "tokens"] += 1000 * PER_STEP
    path = write_suite(tmp_path, frame)
    code, out, _ = run("doctor", tmp_path / "runs", "--suite", path, "--to", tmp_path / "found.parquet")
    assert (code, out) == (1, f"wrote 1 rows to {tmp_path / 'found.parquet'}\n")
    assert pd.read_parquet(tmp_path / "found.parquet")["run_id"].tolist() == ["w1-0"]


# Post-training runs on a declared suite


def test_runs_of_a_store_on_a_suite() -> None:
    rows = [{"size": "70m", "step": step, "acc": 0.2 + step / 1e6} for step in (0, 1000, 2000, 3000)]
    suite = dde.Suite(
        "mini",
        lineage="mini-{size}",
        run_id="{size}-pre",
        tokens={"per_step": 1000},
        counts="own",
        checkpoints="lab/mini-{size}@step{step:int}",
        metrics={"acc": dde.Metric("acc", "1", "higher")},
        tables=[dde.Table(pd.DataFrame(rows))],
    )
    counters = tuple(range(1000, 13_000, 1000))
    start = {"model_name_or_path": "lab/mini-70m", "learning_rate": 1e-5}
    runs = [
        sft("sound", counters, **start),
        sft("resumed", (*counters[:8], *counters[:4]), **{**start, "learning_rate": 2e-5}),
        sft("between", counters, **{**start, "learning_rate": 3e-5}, model_revision="step1500"),
    ]
    found = dde.RunRepository.from_suite(suite, None, FakeStore(runs, "fake")).doctor(CHEAP_CHECKS)
    assert list(zip(found["check"], found["run_id"], strict=True)) == [
        ("counter_falls", "resumed"),
        ("branch_row", "between"),
    ]
    assert found["size"].tolist() == [7000, 500_000]
    assert found["place"].tolist() == [3_000_000 + 8000, 1_500_000]
    assert found["compared_with"].tolist()[1] == "70m-pre"
    whole = dde.RunRepository.from_suite(suite, None, FakeStore(runs, "fake")).doctor(outliers=True)
    assert set(whole["check"]) >= {"counter_falls", "branch_row"}
