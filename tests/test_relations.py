"""Run names, parents, tokens, treatments: each rule on the case that it is for."""

from __future__ import annotations

import inspect
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dde
from dde.entities.repository import RunRepository
from dde.errors import LineageError, SelectionError, UnknownNameError
from dde.lineage.filters import matches
from dde.schema import TREATMENT
from dde.suite.datadecide.runs.evidence import gather_evidence, parse_command
from dde.suite.datadecide.runs.parents import LONGEST_CHAIN
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.run_names import parse_run_name
from dde.suite.datadecide.runs.select_runs import _OPTIONS, select_runs
from dde.suite.datadecide.runs.token_counts import restore_counter
from dde.suite.datadecide.runs.treatments import _SHORT_NAMES
from fakes import HUB, FakeRun, FakeStore, FakeTables, sft

FINAL_4M = 5_725 * 32 * 2048


def registry(*runs: FakeRun, **options: object) -> Registry:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}, 5725: {"piqa": 0.6}}})
    return Registry(tables, FakeStore(list(runs)), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "2025_08_18-22_30_05_allenai--DataDecide-dolma1_7-4M_main_default",
            {"recipe": "dolma1_7", "size": "4M", "step": None},
        ),
        (
            "2025_08_21-08_24_43_test_finetune_DD-dolma1_7-4M_main_1Mtx1_--learning_rate=5e-07",
            {
                "recipe": "dolma1_7",
                "budget_tokens": 1e6,
                "epochs": 1,
                "learning_rate": 5e-7,
                "run_type": "supervised_ft",
            },
        ),
        (
            "2025_08_21-15_03_00_test_finetune_DD-dolma1_7-4M_main_100M_toks_--learning_rate=5e-06",
            {"budget_tokens": 1e8, "epochs": None, "learning_rate": 5e-6},
        ),
        (
            "2025_08_27-07_52_26_test_dpo_tune_cache_dd__dolma1_7-4M__main__100Mt_lr=5e-06_default_--learning_rate=2e-07",
            {"recipe": "dolma1_7", "size": "4M", "run_type": "dpo", "learning_rate": 2e-7, "starts_from_sft": True},
        ),
        (
            "250901-155734_test_finetune_DD-dclm-baseline-150M_Ft_learning_rate=5e-05",
            {"recipe": "dclm-baseline", "size": "150M", "full": True, "learning_rate": 5e-5, "step": None},
        ),
        (
            "250902-101010_exp_100Mtx2_DD-c4-1B-20000-3_lr=1e-05",
            {"recipe": "c4", "size": "1B", "step": 20000, "seed": "large aux 2", "budget_tokens": 1e8, "epochs": 2},
        ),
        (
            "250902-101010_exp_Ft_DD-falcon-and-cc-qc-10p-60M-29042-1_lr=1e-05",
            {"recipe": "falcon-and-cc-qc-10p", "step": 29042, "seed": "small aux 2"},
        ),
        (
            "250902-101010_match_150M_hellaswag_finetune_10Mtx1_DD-dclm-baseline-25p-dolma1.7-75p-300M-12500-0",
            {
                "recipe": "dclm-baseline-25p-dolma1.7-75p",
                "size": "300M",
                "step": 12500,
                "match": "match_150M_hellaswag",
            },
        ),
        (
            "2025_08_21-08_24_43_exp_DD-dolma1_7-4M_main_default_--max_train_samples=1400_--reduce_loss=mean",
            {"options": {"max_train_samples": "1400", "reduce_loss": "mean"}, "size": "4M"},
        ),
    ],
)
def test_every_form_of_run_name(name: str, expected: dict[str, object]) -> None:
    facts = parse_run_name(name)
    found = {
        "recipe": facts.recipe and facts.recipe.slug,
        "size": facts.size and facts.size.name,
        "seed": facts.seed and facts.seed.name,
        **{k: getattr(facts, k) for k in expected if k not in ("recipe", "size", "seed")},
    }
    assert {k: found[k] for k in expected} == expected


def test_the_last_of_a_repeated_option_counts() -> None:
    assert parse_command(["--a", "1", "--b", "--a", "2", "--c-d", "x", "y"]) == {
        "a": "2",
        "b": "true",
        "c_d": ["x", "y"],
    }


def test_a_later_visitors_command_is_no_evidence() -> None:
    run = sft("r", program="update_wandb.py", command=["--learning_rate", "9"], learning_rate=None)
    assert "learning_rate" not in gather_evidence(run.record).hyperparameters
    run = sft("r", program="x/finetune.py", command=["--learning_rate", "9"], learning_rate=None)
    assert gather_evidence(run.record).hyperparameters["learning_rate"] == 9


def test_config_is_believed_before_command_and_name_and_the_rest_reported() -> None:
    name = "250901-155734_test_finetune_DD-c4-4M_Ft_lr=3e-05"
    run = sft(
        name,
        program="finetune.py",
        command=["--learning_rate", "2e-05", "--model_name_or_path", "allenai/DataDecide-c4-4M"],
    )
    found = registry(run).derived[name]
    assert found.hyperparameters["learning_rate"] == 1e-5
    assert found.lineage == "dolma1_7-4M-default"
    said = " / ".join(found.evidence.contradictions + found.parentage.contradictions)
    assert "launch command 2e-05" in said
    assert "run name 3e-05" in said
    assert "DataDecide-c4-4M" in said


def test_the_step_of_the_name_beats_config() -> None:
    name = "250901-155734_test_finetune_100Mtx1_DD-dolma1_7-4M-2500-2_lr=1e-05"
    run = registry(sft(name, [100.0], pretrain_steps=69369, model_size=1_176_800_000)).derived[name]
    assert run.parentage.checkpoint is not None
    assert run.parentage.checkpoint.revision == "step2500-seed-small-aux-3"
    assert run.lineage == "dolma1_7-4M-small-aux-3"
    assert run.label.endswith("@2500")
    said = " / ".join(run.parentage.contradictions)
    assert "pretrain_steps: config 69369, run name 2500" in said
    assert "model_size: config 1B, parent 4M" in said


def test_rounded_model_size_and_copied_steps_agree_with_the_final_checkpoint() -> None:
    run = registry(sft("a", [10.0], model_size="3700000", pretrain_steps=5725, pretrain_tokens=375193600.0)).derived[
        "a"
    ]
    assert not run.parentage.contradictions


@pytest.mark.parametrize(
    ("path", "parent", "evidence"),
    [
        (
            "/m/2025_08_21-15_03_00_g/model/2025_08_21-15_03_00_g_lr=5e-06/",
            "2025_08_21-15_03_00_g_lr=5e-06",
            "config.model_name_or_path",
        ),
        (
            "/m/2025_08_21-15_03_00_g/2025_08_21-15_03_00_g_lr=5e-06",
            "2025_08_21-15_03_00_g_lr=5e-06",
            "config.model_name_or_path",
        ),
        ("/other/2025_08_21-15_03_00_g_lr=5e-06", "2025_08_21-15_03_00_g_lr=5e-06", "config.model_name_or_path"),
        ("/m/2025_08_21-15_03_00_g/model/2025_08_21-15_03_00_g_lr=5e", "2025_08_21-15_03_00_g_lr=5e-06", "cut short"),
    ],
)
def test_another_runs_output_folder_is_the_parent(path: str, parent: str, evidence: str) -> None:
    first = sft(
        "2025_08_21-15_03_00_g_lr=5e-06",
        [100.0, 200.0],
        output_dir="/m/2025_08_21-15_03_00_g/model/2025_08_21-15_03_00_g_lr=5e-06",
    )
    dpo = sft("child", program="dpo_tune_cache.py", model_name_or_path=path, dpo_beta=5)
    found = registry(first, dpo).derived["child"]
    assert found.parent_run_id == parent
    assert evidence in found.parentage.evidence
    assert found.label == "sft_lr=1e-05_fullx1+dpo_lr=1e-05_fullx1_beta=5"


def test_an_ambiguous_cut_path_is_reported_not_guessed() -> None:
    runs = [
        sft(
            f"2025_08_21-15_03_00_g_lr={r}",
            [100.0],
            output_dir=f"/m/2025_08_21-15_03_00_g/model/2025_08_21-15_03_00_g_lr={r}",
        )
        for r in ("5e-06", "5e-05")
    ]
    cut = sft(
        "child", program="dpo.py", model_name_or_path="/m/2025_08_21-15_03_00_g/model/2025_08_21-15_03_00_g_lr=5e"
    )
    group = sft("child2", program="dpo.py", model_name_or_path="/m/2025_08_21-15_03_00_g/")
    resolved = registry(*runs, cut, group)
    assert resolved.placed["child"].status.startswith("no parent found: model path cut short fits 2 runs")
    assert resolved.placed["child2"].status != "used"
    assert resolved.derived["child"].label == ""


def test_a_path_cut_to_the_group_is_settled_by_what_the_name_says_of_the_parent() -> None:
    group = "2025_08_21-15_03_00_test_finetune_DD-dolma1_7-4M_main"
    runs = [
        sft(
            f"{group}_100M_toks_--learning_rate={r}",
            [100.0],
            learning_rate=float(r),
            output_dir=f"/m/{group}/model/{group}_100M_toks_--learning_rate={r}",
        )
        for r in ("5e-06", "5e-05")
    ]
    name = "2025_08_27-07_52_26_test_dpo_tune_cache_dd__dolma1_7-4M__main__100Mt_lr=5e-05_default_--learning_rate=2e-07"
    dpo = sft(name, program="dpo_tune_cache.py", model_name_or_path=f"/m/{group}/model/", learning_rate=2e-7)
    found = registry(*runs, dpo).derived[name]
    assert found.parent_run_id == f"{group}_100M_toks_--learning_rate=5e-05"
    assert found.parentage.evidence == "config.model_name_or_path, cut short, and the run name"


def test_a_folder_of_the_models_name_may_hold_the_revision() -> None:
    run = sft("x", [10.0], model_name_or_path="/data/DataDecide-c4-4M/step2500-seed-small-aux-2")
    found = registry(run).derived["x"].parentage
    assert found.checkpoint is not None
    assert (found.base and found.base.label, found.checkpoint.step) == ("c4-4M-small-aux-2", 2500)


def test_a_parent_known_by_name_but_absent() -> None:
    name = "2025_08_21-15_03_00_test_finetune_DD-dolma1_7-4M_main_100M_toks_--learning_rate=5e-06"
    dpo = sft("d", [1.0], program="dpo.py", model_name_or_path=f"/m/g/model/{name}/")
    resolved = registry(dpo)
    assert resolved.derived["d"].parent_run_id == name
    assert resolved.derived["d"].lineage == "dolma1_7-4M-default"
    assert resolved.placed["d"].branch_tokens is None
    assert resolved.placed["d"].status == "parent not in store"


def test_circles_are_set_aside_by_name_and_all_else_opens() -> None:
    runs = [sft(name, [100.0], parent_run_id=parent) for name, parent in ("ab", "ba", "cc", "da")]
    resolved = registry(*runs, sft("sound", [100.0]))
    placed = resolved.placed
    circle = "the runs 'a', 'b' derive from each other in a cycle (config.parent_run_id)"
    assert {r: placed[r].status for r in "abcd"} == {
        "a": f"no parent found: {circle}",
        "b": f"no parent found: {circle}",
        "c": "no parent found: the run 'c' is its own parent (config.parent_run_id)",
        "d": f"parent not usable: no parent found: {circle}",
    }
    assert placed["sound"].status == "used"
    assert [resolved.chain(r) for r in "abcd"] == [["a"], ["b"], ["c"], ["a", "d"]]
    assert select_runs(resolved).left_out == {"no parent found": 3, "parent not usable": 1}
    # The user's word settles it; a cycle of the user's own is an error.
    assert registry(*runs[:2], parents={"a": HUB}).placed["b"].status == "used"
    with pytest.raises(LineageError, match="'a' is its own parent"):
        _ = registry(sft("a"), parents={"a": "a"}).derived
    with pytest.raises(LineageError, match="in a cycle"):
        _ = registry(sft("a"), sft("b"), parents={"a": "b", "b": "a"}).derived


def test_long_circles_and_chains_are_set_aside() -> None:
    n = 10_000
    circle = [sft(f"r{i}", [100.0], parent_run_id=f"r{(i + 1) % n}") for i in range(n)]
    statuses = {p.status for p in registry(*circle, sft("sound", [100.0])).placed.values()}
    assert len(statuses) == 2
    assert "used" in statuses
    named = next(status for status in statuses if status != "used")
    assert "and 9996 more derive from each other in a cycle" in named

    chain = [sft(f"r{i:05}", [100.0], parent_run_id=f"r{i - 1:05}" if i else HUB) for i in range(n)]
    resolved = registry(*chain)
    counts = Counter(placed.status for placed in resolved.placed.values())
    assert counts["used"] == LONGEST_CHAIN
    assert sum(counts.values()) == n
    assert len(counts) == 3
    assert resolved.placed[f"r{LONGEST_CHAIN - 1:05}"].end_tokens == FINAL_4M + 100 * LONGEST_CHAIN
    assert "chain of 1,000 runs" in resolved.placed[f"r{LONGEST_CHAIN:05}"].status
    # Neither labels nor reasons grow with the square of the depth.
    assert sum(len(run.label) for run in resolved.derived.values()) < 50 * LONGEST_CHAIN**2
    assert max(map(len, counts)) < 200


def test_the_user_settles_what_evidence_cannot() -> None:
    orphan = sft("o", [100.0, 200.0], model_name_or_path=None)
    resolved = registry(orphan)
    assert resolved.placed["o"].status.startswith("no parent found")
    corrected = registry(orphan, parents={"o": f"{HUB}@step1250-seed-default"})
    assert corrected.placed["o"].branch_tokens == 1250 * 32 * 2048
    assert corrected.placed["o"].status == "used"
    with pytest.raises(UnknownNameError, match="not in the store"):
        _ = registry(orphan, parents={"x": HUB}).derived
    with pytest.raises(UnknownNameError, match="Hub revision"):
        _ = registry(orphan, parents={"o": "nonsense"}).derived


def test_replicates_do_not_depend_on_state_or_selection() -> None:
    runs = [
        sft("late", [10.0], created="2025-08-03"),
        sft("early", [10.0], created="2025-08-01", state="crashed"),
        sft("middle", [10.0], created="2025-08-02"),
    ]
    resolved = registry(*runs)
    assert {k: r.label for k, r in resolved.derived.items()} == {
        "early": "sft_lr=1e-05_fullx1",
        "middle": "sft_lr=1e-05_fullx1#2",
        "late": "sft_lr=1e-05_fullx1#3",
    }
    assert select_runs(resolved).runs == ("pretraining", "sft_lr=1e-05_fullx1#2", "sft_lr=1e-05_fullx1#3")


def test_tokens_are_logged_restored_or_estimated() -> None:
    samples = {
        "dataset_mixer_list": ["mix", "1.0"],
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 16,
    }
    logged = sft("logged", [9_000_000.0, 18_000_000.0], **samples)
    fell = sft("fell", [100.0, 200.0, 50.0, 150.0])
    untracked = sft(
        "untracked",
        max_train_samples=1400,
        evaluations={"piqa": 0.5},
        dataset_mixer_list=["mix", "1.0"],
        gpu_count=None,
    )
    other_mix = sft(
        "other_mix", max_train_samples=1400, evaluations={"piqa": 0.5}, dataset_mixer_list=["else"], gpu_count=None
    )
    dpo = sft("dpo", program="dpo.py", **samples)
    dpo.rows.extend([(1, {"train_loss": 0.7}), (2, {"train_loss": 0.6})])
    resolved = registry(logged, fell, untracked, other_mix, dpo)
    ends = {k: (p.end_tokens or 0) - FINAL_4M for k, p in resolved.placed.items()}
    per_sequence = round(18_000_000 / (200 * 4 * 16 * 2))
    assert ends == {
        "logged": 18_000_000,
        "fell": 400,
        "untracked": 1400 * per_sequence,
        "other_mix": 1400 * 712,
        "dpo": 2 * 4 * 16 * 2 * 2 * per_sequence,
    }
    assert {k: p.token_source for k, p in resolved.placed.items()} == {
        "logged": "logged",
        "fell": "restored",
        "untracked": "estimated",
        "other_mix": "estimated",
        "dpo": "estimated",
    }
    corrected = registry(dpo, tokens_per_sequence={"dpo": 100.0})
    assert corrected.placed["dpo"].end_tokens == FINAL_4M + 2 * 4 * 16 * 2 * 2 * 100


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=30), st.sets(st.integers(1, 29), max_size=3))
def test_restored_counts_never_fall_and_keep_increments(increments: list[int], resumes: set[int]) -> None:
    raw, total = [], 0
    for i, step in enumerate(increments):
        # A resume starts the counter at zero; it shows only where the next count is below the one before.
        total = step if i in resumes else total + step
        raw.append(float(total))
    counter = np.array(raw)
    tokens, source = restore_counter(np.arange(1, len(raw) + 1) * 100, counter)
    assert (np.diff(tokens) >= 0).all()
    falls = np.flatnonzero(np.diff(counter) < 0)
    first = falls[0] + 1 if len(falls) else len(raw)
    np.testing.assert_array_equal(tokens[:first], counter[:first])
    assert (source[:first] == 0).all()
    assert (source[first:] == 1).all()
    sound = np.diff(counter) >= 0
    np.testing.assert_allclose(np.diff(tokens)[sound], np.diff(counter)[sound], atol=1)


def test_filters_compare_numbers_as_numbers() -> None:
    assert matches(5e-6, "5e-06")
    assert matches(5e-6, [1e-5, 0.000005])
    assert matches(5e-6, slice(5e-6, None))
    assert not matches(math.nan, slice(None, None))
    assert not matches(math.nan, [1.0])
    assert matches(3.0, lambda v: v > 2)
    assert matches(10**400, slice(1, None))
    assert not matches(10**400, [1.0])


def test_a_filter_on_derived_runs_drops_lineages_without_a_match() -> None:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}}, "c4-4M-default": {0: {"piqa": 0.5}}})
    resolved = Registry(tables, FakeStore([sft("a", [10.0]), sft("b", [10.0], state="crashed", learning_rate=1e-4)]))  # type: ignore[arg-type]
    assert select_runs(resolved).lineages == ("dolma1_7-4M-default", "c4-4M-default")
    chosen = select_runs(resolved, filters={"learning_rate": 1e-5})
    assert chosen.lineages == ("dolma1_7-4M-default",)
    assert chosen.run_ids.tolist() == [["dolma1_7-4M-default", "a"]]
    assert chosen.left_out == {"state crashed": 1, "lineages without a matching run": 1}
    with pytest.raises(SelectionError, match="learning_rate") as caught:
        select_runs(resolved, filters={"learning_rate": 7e-5})
    assert "1e-05" in str(caught.value)
    with pytest.raises(UnknownNameError, match="Did you mean weight_decay"):
        select_runs(Registry(tables, FakeStore([sft("a", [10.0], weight_decay=0)])), filters={"weight_deacy": 0})  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="supervised_ft"):
        select_runs(resolved, method="sft_")


def test_an_ambiguous_path_is_not_settled_by_weaker_evidence() -> None:
    folder = "/m/2025_08_21-15_03_00_g/model/2025_08_21-15_03_00_g_lr"
    runs = [sft(f"2025_08_21-15_03_00_g_lr={r}", [100.0], output_dir=f"{folder}={r}") for r in ("5e-06", "5e-05")]
    name = "250901-155734_test_finetune_DD-dolma1_7-4M_Ft_lr=1e-05"
    resolved = registry(*runs, sft(name, [10.0], model_name_or_path=f"{folder}=5e"))
    assert resolved.placed[name].status.startswith("no parent found: model path cut short fits 2 runs")


def test_an_explicit_parent_is_compared_with_the_rest() -> None:
    name = "250901-155734_test_finetune_DD-dolma1_7-4M-2500-0_lr=1e-05"
    found = registry(
        sft(name, [10.0], parent_run_id="dolma1_7-4M-default", model_name_or_path="allenai/DataDecide-c4-4M")
    ).derived[name]
    assert found.parentage.checkpoint is not None
    assert found.parentage.checkpoint.step == 2500
    assert found.parentage.evidence == "config.parent_run_id"
    assert any("DataDecide-c4-4M" in c for c in found.parentage.contradictions)


def test_labels_tell_near_numbers_apart() -> None:
    resolved = registry(sft("a", [10.0], learning_rate=1.2345678e-5), sft("b", [10.0], learning_rate=1.23457e-5))
    assert resolved.derived["a"].label != resolved.derived["b"].label
    assert {r.replicate for r in resolved.derived.values()} == {1}


def test_finding_lineages_lists_the_store_once_more_at_most() -> None:
    tables = FakeTables({f"{slug}-4M-default": {0: {"piqa": 0.5}} for slug in ("c4", "falcon", "dolma1_7")})
    store = FakeStore([sft("a", [10.0], max_grad_norm=1.0)])
    repository = RunRepository(tables, store)  # type: ignore[arg-type]
    assert [x.lineage_id for x in repository.find_lineages(max_grad_norm=1.0)] == ["dolma1_7-4M-default"]
    assert store.listed <= 2


def test_any_key_of_config_or_command_can_be_filtered_on() -> None:
    runs = [
        sft("a", [10.0], use_lora=False, exp_name="x", command=["--clip", "3"]),
        sft("b", [10.0], use_lora="true", exp_name="y", learning_rate=1e-4),
    ]
    resolved = registry(*runs)
    for filters in (
        {"use_lora": "false"},
        {"use_lora": False},
        {"exp_name": "x"},
        {"clip": 3},
        {"num_train_epochs": [1], "learning_rate": np.array([1e-5])},
    ):
        assert select_runs(resolved, filters=filters).run_ids.tolist() == [["dolma1_7-4M-default", "a"]]
    assert select_runs(resolved, method="sft").run_ids.shape == (1, 3)
    assert select_runs(resolved, seed=range(2)).lineages == ("dolma1_7-4M-default",)
    with pytest.raises(UnknownNameError, match="Did you mean interp"):
        select_runs(resolved, filters={"intrep": "log"})


def test_a_run_that_cannot_be_placed_says_why() -> None:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}}})
    repository = RunRepository(tables, FakeStore([sft("empty")]))  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match="no data"):
        repository.get_run("empty").to_dataset()
    with pytest.raises(UnknownNameError, match="positive"):
        RunRepository(tables, None, tokens_per_sequence=-5)  # type: ignore[arg-type]
    assert list(RunRepository(None, FakeStore([])).coverage().columns[:2]) == ["run_id", "run_type"]  # type: ignore[arg-type]


def test_the_launch_command_is_believed_before_the_run_name() -> None:
    name = "250901-155734_test_finetune_100Mtx2_DD-dolma1_7-4M_lr=3e-05_--reduce_loss=mean_--max_train_samples=7"
    command = ["--learning_rate", "2e-05", "--model_name_or_path", "allenai/DataDecide-c4-4M", "--reduce_loss", "sum"]
    command += ["--num_train_epochs", "3", "--max_train_samples", "9"]
    run = sft(name, [10.0], command=command, model_name_or_path=None, learning_rate=None, num_train_epochs=None)
    found = registry(run).derived[name]
    assert found.lineage == "c4-4M-default"
    assert found.parentage.evidence == "launch command"
    expected = {"learning_rate": 2e-5, "epochs": 3.0, "reduce_loss": "sum", "max_train_samples": 9.0}
    assert {key: found.hyperparameters[key] for key in expected} == expected
    said = " / ".join(found.evidence.contradictions + found.parentage.contradictions)
    assert "launch command 2e-05, run name 3e-05; launch command believed" in said
    assert "launch command c4-4M, run name dolma1_7-4M; launch command believed" in said


def test_a_state_hides_runs_but_not_what_derives_from_them() -> None:
    crashed = sft("parent", [100.0, 200.0], state="crashed", output_dir="/m/parent")
    child = sft("child", [50.0], model_name_or_path="/m/parent", learning_rate=2e-5)
    below = sft("below", [30.0], model_name_or_path="/other/child", learning_rate=3e-5)
    resolved = registry(crashed, child, below)
    chosen = select_runs(resolved)
    assert chosen.run_ids.tolist() == [["dolma1_7-4M-default", "child", "below"]]
    assert chosen.left_out == {"state crashed": 1}
    assert resolved.chain("below") == ["dolma1_7-4M-default", "parent", "child", "below"]
    ds = RunRepository(resolved.tables, resolved.store).to_dataset(metrics=["train_loss"], grid="union")
    row = ds.train_loss.sel(run=resolved.derived["below"].label)[0]
    tokens = ds.cumulative_tokens.values - FINAL_4M
    # The hidden parent's rows are in the curves of what derives from it.
    assert tokens[row.notnull().values].tolist() == [100, 200, 250, 280]


def test_of_a_repeated_step_the_first_count_is_kept() -> None:
    run = sft("a", [900.0, 2000.0])
    run.rows[:1] = [(100, {"train_loss": 1.0}), (100, {"total_tokens": 900.0}), (100, {"total_tokens": 9000.0})]
    resolved = registry(run)
    (placement,) = resolved.placements.of(["a"])
    assert (placement.steps.tolist(), placement.tokens.tolist()) == ([100, 200], [900, 2000])
    # The count did not fall back.
    assert resolved.placed["a"].token_source == "logged"
    assert resolved.placed["a"].end_tokens == FINAL_4M + 2000


def test_rows_before_between_and_after_the_counts_are_placed_by_their_steps() -> None:
    nan = math.nan
    resolved = registry(sft("a", [nan, 2000.0, nan, 4400.0, nan, nan]))
    (placement,) = resolved.placements.of(["a"])
    assert placement.steps.tolist() == [100, 200, 300, 400, 500, 600]
    # Behind the last count they go on at the run's rate: 4,400 tokens in 400 steps.
    assert placement.tokens.tolist() == [1000, 2000, 3200, 4400, 5500, 6600]
    assert placement.source.tolist() == [2, 0, 2, 0, 2, 2]
    assert resolved.placed["a"].end_tokens == FINAL_4M + 6600
    assert resolved.placed["a"].token_source == "estimated"


def test_what_makes_a_variant_is_a_coordinate_of_the_treatment() -> None:
    # These two are filters alone, and stand in the coordinate variant.
    assert set(_SHORT_NAMES) - {"lr_scheduler_type", "dpo_loss_type"} <= TREATMENT


def test_misspelt_options_are_compared_with_all_there_are() -> None:
    options = inspect.signature(dde.open_lineages).parameters.values()
    assert sorted(_OPTIONS) == sorted(p.name for p in options if p.kind is p.KEYWORD_ONLY)
    for wrong, right in (("axes", "axis"), ("lineage_s", "lineages"), ("run_id_s", "run_ids")):
        with pytest.raises(UnknownNameError, match=f"Did you mean .*{right}"):
            select_runs(registry(sft("a", [1e6])), filters={wrong: "x"})
