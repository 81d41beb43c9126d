from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from store_data import (
    EVALUATION_NAMES,
    EXPECTED,
    EXPECTED_EVALUATIONS,
    EXPECTED_RUN,
    EXPECTED_STEP,
    KEYS,
    ODD_KEY,
    ROWS,
    write_jsonl,
)

from dde.errors import ConflictWarning, FormatError
from dde.sources.wandb.jsonl_export import JsonlStore
from dde.sources.wandb.parquet_export import ExportStore
from dde.sources.wandb.store import WandBStore

_IDS = ["b_sft", "a_dpo", "absent"]


@pytest.fixture(params=["dr_wandb 3", "plain"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> JsonlStore:
    return JsonlStore(write_jsonl(tmp_path, plain=request.param == "plain"))


def test_runs(store: JsonlStore) -> None:
    runs = store.runs(["custom", ODD_KEY])
    assert [run.run_id for run in runs] == ["a_dpo", "b_sft", "c_no_log"]
    assert [run.run_name for run in runs] == ["a dpo", "b sft", "c"]
    assert [run.state for run in runs] == ["running", "finished", "failed"]
    assert [run.evaluated for run in runs] == [False, True, True]
    assert runs[1].created_at == np.datetime64("2025-09-02T13:45:51.123456", "us")
    assert runs[1].config["custom"] == {"nested": [1, 2.5]}
    assert runs[1].config["learning_rate"] == 5e-05
    assert "pretrain_eval_3" not in runs[1].config
    assert runs[1].summary == {"_step": 300, "total_tokens": "894174859"}
    assert runs[1].command == ("--learning_rate", "5e-05", "7")
    assert (runs[1].program, runs[1].gpu_count, runs[1].tags) == ("finetune.py", 2, ("150M", "finetune"))
    assert [run.run_id for run in WandBStore(store).runs()] == [run.run_id for run in runs]


def test_history(store: JsonlStore) -> None:
    history = store.history(_IDS, KEYS)
    assert history.run.tolist() == EXPECTED_RUN
    assert history.step.tolist() == EXPECTED_STEP
    for key, values in EXPECTED.items():
        np.testing.assert_array_equal(history.values[key], values, err_msg=key)
    assert store.history(["a_dpo", "b_sft"], []).run.tolist() == [0, 0, 1, 1, 1, 1]
    assert len(store.history([], ["train_loss"]).run) == len(store.history(["absent"], ["train_loss"]).run) == 0


def test_evaluations(store: JsonlStore) -> None:
    values = store.evaluations(["a_dpo", "b_sft", "c_no_log"], list(EXPECTED_EVALUATIONS))
    for name, expected in EXPECTED_EVALUATIONS.items():
        np.testing.assert_array_equal(values[name], expected, err_msg=str(name))


def test_metric_names(store: JsonlStore) -> None:
    assert store.metric_names() == (sorted({key for _, _, metrics in ROWS for key in metrics}), EVALUATION_NAMES)


def test_no_history_file(tmp_path: Path) -> None:
    store = WandBStore(write_jsonl(tmp_path / "named", history=False).parent)
    assert len(store.runs()) == 3
    assert len(store.history(_IDS, ["train_loss"]).run) == 0
    assert store.metric_names() == ([], EVALUATION_NAMES)


def test_versions_follow_the_content(tmp_path: Path) -> None:
    store = JsonlStore(write_jsonl(tmp_path))

    def versions() -> dict[str, str]:
        return {run.run_id: run.version for run in store.runs()}

    def rewrite(name: str, old: str, new: str) -> None:
        path = tmp_path / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        # Coarse clocks give two writes in one moment the same time.
        os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 1_000_000))

    before = versions()
    rewrite("runs.jsonl", "2026-01-01T00:00:00", "2026-02-02T00:00:00")  # when it was exported
    assert versions() == before
    rewrite("history.jsonl", '"train_loss": 0.1}', '"train_loss": 0.2}')
    after = versions()
    assert {key for key in after if after[key] != before[key]} == {"a_dpo"}
    rewrite("runs.jsonl", '"running"', '"crashed"')
    assert {key for key, version in versions().items() if version != after[key]} == {"a_dpo"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"run_id": "a"}\n\n{"run_id": "b", "con', r"line 3, is not a JSON object: .*truncated"),
        ("[1]\n", "line 1, is not a JSON object"),
        ('{"name": "a"}\n', r"a line without a run_id: \{\"name\": \"a\"\}"),
    ],
)
def test_broken_lines(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "runs.jsonl").write_text(text)
    with pytest.raises(FormatError, match=match):
        JsonlStore(tmp_path).runs()


def test_lines_that_disagree(tmp_path: Path) -> None:
    lines = [{"run_id": "a", "state": "running"}, {"run_id": "a", "state": "finished"}]
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.warns(ConflictWarning, match="lines that disagree for 1 runs"):
        runs = JsonlStore(tmp_path).runs()
    assert [run.state for run in runs] == ["running"]
    assert runs[0].config == {}


def test_real_runs_as_lines_equal_the_export(real_data: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    with (tmp_path / "runs.jsonl").open("w") as lines:
        for row in pq.read_table(real_data / "runs_metadata.parquet").to_pylist():
            run = {key: json.loads(row[key]) for key in ("config", "system_metrics")}
            run |= {key: row[key] for key in ("run_id", "state", "project", "entity", "created_at")}
            run |= {
                "name": row["run_name"],
                "summary_metrics": json.loads(row["summary"]),
                "metadata": json.loads(row["wandb_metadata"]),
                "tags": json.loads(row["system_attrs"])["tags"],
            }
            lines.write(json.dumps({"run": run, "exported_at": "2026-01-01"}, sort_keys=True) + "\n")
    with (tmp_path / "history.jsonl").open("w") as lines:
        for row in pq.read_table(real_data / "runs_history.parquet").to_pylist():
            metrics = {
                key: value
                for key, value in row.items()
                if value is not None and key not in ("run_id", "step", "timestamp", "runtime")
            }
            lines.write(json.dumps({"run_id": row["run_id"], "step": row["step"], "metrics": metrics}) + "\n")
    store, export = WandBStore(tmp_path), ExportStore(real_data)
    ours, theirs = store.runs(), export.runs()
    ids = [run.run_id for run in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name in ("run_id", "state", "created_at", "config", "summary", "command", "gpu_count", "tags", "evaluated"):
            assert getattr(one, name) == getattr(other, name), name
    names = export.metric_names()
    assert store.metric_names() == names
    mine, exported = store.history(ids, names[0]), export.history(ids, names[0])
    assert len(mine.run) == 2393
    np.testing.assert_array_equal(mine.step, exported.step)
    for key in names[0]:
        np.testing.assert_array_equal(mine.values[key], exported.values[key])
    values, expected = store.evaluations(ids, names[1]), export.evaluations(ids, names[1])
    for name in names[1]:
        assert values[name].tobytes() == expected[name].tobytes(), name
    assert values["csqa", "primary_metric"][3] == 0.4864864865
