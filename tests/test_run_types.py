"""Run types that users tell: by id, name, pattern or config, in every door, cache and process."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import dde
from dde.cli import main
from dde.errors import UnknownNameError
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.registry_handle import origin_of
from dde.suite.datadecide.runs.run_types import RunTypes
from fakes import HUB, FakeRun, FakeStore, FakeTables, sft

FINAL_4M = 5_725 * 32 * 2048


def unknown(run_id: str, name: str = "", counts: tuple[float, ...] = (1e6, 2e6), **config: Any) -> FakeRun:
    """Return a run of which neither program, config, tags nor name says what was done."""
    run = sft(run_id, counts, program="train.py", **config)
    run.record = replace(run.record, run_name=name or run_id)
    return run


def registry(*runs: FakeRun, **run_types: str) -> Registry:
    return with_types(runs, run_types)


def with_types(runs: Any, run_types: dict[str, str], **options: Any) -> Registry:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}, 5725: {"piqa": 0.6}}})
    return Registry(tables, FakeStore(list(runs)), run_types=run_types, **options)  # type: ignore[arg-type]


def types(resolved: Registry) -> dict[str, str]:
    return {run_id: run.run_type for run_id, run in resolved.derived.items()}


def test_a_told_type_places_a_run_that_nothing_else_does() -> None:
    resolved = registry(unknown("a"), unknown("b"), a="supervised_ft")
    assert types(resolved) == {"a": "supervised_ft", "b": "other"}
    assert resolved.placed["a"].status == "used"
    assert resolved.placed["a"].end_tokens == FINAL_4M + 2_000_000
    assert resolved.derived["a"].label == "sft_lr=1e-05_fullx1"
    assert resolved.placed["b"].status == (
        "unknown run type: neither program, config, tags nor name says it. Pass run_types={'b': 'supervised_ft'} to "
        "settle it, or another type"
    )


@pytest.mark.parametrize(
    ("key", "typed"),
    [
        ("b1", ["b1"]),
        ("ppo_2", ["b2"]),
        ("ppo_*", ["b1", "b2"]),
        ("b?", ["b1", "b2"]),
        ("config.stage=rl", ["b1"]),
        ("config.trainer.name=PPO*", ["b1", "b2"]),
        ("config.trainer.beta=0.1", ["b2"]),
    ],
)
def test_ids_names_patterns_and_config_keys(key: str, typed: list[str]) -> None:
    runs = [
        unknown("b1", "ppo_1", stage="rl", trainer={"name": "PPOTrainer"}),
        unknown("b2", "ppo_2", trainer={"name": "PPO", "beta": 0.1}),
        unknown("c", "else"),
    ]
    resolved = with_types(runs, {key: "ppo"})
    assert [run_id for run_id, t in types(resolved).items() if t == "ppo"] == typed
    assert resolved.derived[typed[0]].label.startswith("ppo_lr=1e-05")


def test_an_id_counts_before_patterns_and_of_these_the_first() -> None:
    runs = [unknown("b1", "x"), unknown("b2", "x"), unknown("b3", "y")]
    run_types = {"b*": "first", "config.learning_rate=1e-05": "second", "b2": "sft", "x": "named"}
    assert types(with_types(runs, run_types)) == {"b1": "named", "b2": "supervised_ft", "b3": "first"}


def test_what_is_told_counts_before_evidence_and_is_reported() -> None:
    resolved = registry(sft("a", [1e6]), a="dpo")
    assert resolved.derived["a"].run_type == "dpo"
    assert resolved.derived["a"].evidence.contradictions == [
        "run type: supervised_ft by its evidence, dpo as given; the given type is used"
    ]
    assert not registry(sft("a", [1e6]), a="supervised_ft").derived["a"].evidence.contradictions


def test_tokens_of_other_types_are_never_taken_for_those_of_finetuning() -> None:
    silent = unknown("a", counts=(), max_train_samples=100)
    silent.rows[:] = [(100, {"train_loss": 1.0})]
    assert with_types([silent], {"a": "sft"}).placed["a"].end_tokens == FINAL_4M + 71_200
    resolved = with_types([silent], {"a": "grpo"})
    assert resolved.placed["a"].status == (
        "tokens unknown: it logged no counter, and how many tokens a sequence of grpo has is unknown; pass "
        "tokens_per_sequence={'grpo': ...}"
    )
    resolved = with_types([silent], {"a": "grpo"}, tokens_per_sequence={"grpo": 50})
    assert resolved.placed["a"].end_tokens == FINAL_4M + 5_000


@pytest.mark.parametrize(
    ("run_types", "message"),
    [
        ({"aa": "sft"}, r"'aa', which is neither a run of the store.* Did you mean a2 or a1\?"),
        ({"zz*": "sft"}, "'zz\\*', which is neither a run of the store nor a pattern that matches one"),
        ({"config.stage=rl": "sft"}, "'config.stage=rl', which is neither a run"),
    ],
)
def test_what_fits_no_run_is_an_error(run_types: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        _ = with_types([unknown("a1"), unknown("a2")], run_types).derived


@pytest.mark.parametrize("value", ["", "two words", "pretraining", "other", 3])
def test_a_type_that_is_none(value: Any) -> None:
    with pytest.raises(UnknownNameError, match="run_types says"):
        dde.RunRepository(None, FakeStore([]), run_types={"a": value})


def test_run_types_that_are_no_mapping() -> None:
    with pytest.raises(UnknownNameError, match="is not a mapping"):
        RunTypes("a=dpo")  # type: ignore[arg-type]


# Stores on disk: doors, cache, other processes


def write_export(folder: Path) -> Path:
    folder.mkdir()
    config = {"model_name_or_path": HUB, "learning_rate": 1e-5, "num_train_epochs": 1, "trainer": {"kind": "rl"}}
    runs = [
        {"run_id": "plain", "run_name": "plain", "state": "finished", "config": config, "summary": {},
         "wandb_metadata": {}, "created_at": "2026-01-01T00:00:00Z", "project": "p", "entity": "e"},
        {"run_id": "tuned", "run_name": "tuned", "state": "finished", "config": config, "summary": {},
         "wandb_metadata": {"program": "finetune.py"}, "created_at": "2026-01-01T00:00:00Z", "project": "p",
         "entity": "e"},
    ]  # fmt: skip
    (folder / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    rows = [
        {"run_id": run["run_id"], "_step": step, "total_tokens": step * 1000, "train_loss": 1 / step}
        for run in runs
        for step in (10, 20)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export")


def test_every_door_takes_it(export: Path) -> None:
    run_types = {"plain": "grpo"}
    opened = [
        dde.open_lineages(None, export, run_types=run_types, cache_dir=None),
        xr.open_dataset(None, engine="dde", db=export, run_types=run_types, cache_dir=None),
        dde.DataDecideEvolved(None, export, cache_dir=None, run_types=run_types).repository.to_dataset(),
        dde.RunRepository(None, dde.WandBStore(export), run_types=run_types).to_dataset(),
    ]
    for ds in opened:
        assert set(ds.run_type.values.tolist()) == {"pretraining", "supervised_ft", "grpo"}
        at = ds.isel(run=ds.run_type.values.tolist().index("grpo"))
        assert at.train_loss.notnull().any()
    method = dde.open_lineages(None, export, run_types=run_types, cache_dir=None, method="grpo")
    assert method.run_type.values.tolist() == ["pretraining", "grpo"]
    without = dde.open_lineages(None, export, cache_dir=None)
    assert "unknown run type: 1" in without.attrs["left_out"]


def test_the_kept_run_table_is_of_what_was_told(export: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def found(run_types: dict[str, str] | None) -> dict[str, str]:
        repository = dde.RunRepository(None, dde.WandBStore(export), run_types=run_types, cache_dir=cache)
        frame = repository.coverage()
        derived = frame[frame.run_id.isin(["plain", "tuned"])]
        return dict(zip(derived.run_id, derived.run_type, strict=True))

    for _ in range(2):
        assert found(None) == {"plain": "other", "tuned": "supervised_ft"}
        assert found({"plain": "dpo"}) == {"plain": "dpo", "tuned": "supervised_ft"}
        assert found({"config.trainer.kind=rl": "grpo"}) == {"plain": "grpo", "tuned": "grpo"}
        assert found({"plain": "dpo", "*": "ppo"}) == {"plain": "dpo", "tuned": "ppo"}


def test_what_was_told_is_part_of_what_a_repository_is(export: Path, tmp_path: Path) -> None:
    def repository(run_types: dict[str, str] | None) -> dde.RunRepository:
        return dde.RunRepository(None, dde.WandBStore(export), run_types=run_types, cache_dir=tmp_path / "cache")

    one, same, other = repository({"plain": "dpo"}), repository({"plain": "dpo"}), repository({"plain": "ppo"})
    assert one.has_same_content(same)
    assert not one.has_same_content(other)
    assert not one.has_same_content(repository(None))
    origins = [origin_of(r.registry) for r in (one, other)]
    assert origins[0] is not None
    assert origins[1] is not None
    assert origins[0].key != origins[1].key
    again = pickle.loads(pickle.dumps(one))
    assert again.run_type("plain") == "dpo"
    ds = one.to_dataset()
    xr.testing.assert_equal(pickle.loads(pickle.dumps(ds)).load(), ds.load())


def test_the_command_line_takes_it(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ran(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["dde", words[0], "-", str(export), "--no-cache", *words[1:]])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else int(code is not None), shown.out + shown.err

    assert "unknown run type" in ran("coverage")[1]
    code, out = ran("coverage", "--run-type", "config.trainer.kind=rl=grpo")
    assert code == 0, out
    assert "unknown run type" not in out
    assert out.count("grpo") >= 2
    assert "ppo" in ran("ls", "--runs", "--run-type", "plain=ppo")[1]
    assert "run: 3" in ran("open", "--run-type", "plain=ppo")[1]
    assert "run: 2" in ran("open")[1]
    code, wrong = ran("coverage", "--run-type", "plain")
    assert code == 2
    assert "RUN=TYPE" in wrong
