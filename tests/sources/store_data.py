"""Small generated stores with what real ones have of oddities, in every form that dde reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

#: A key with every sign that SQL, COPY or CSV could trip over.
ODD_KEY = """eval/50%s "it's", a\\b %(x)s"""

RUNS: list[dict[str, Any]] = [
    {
        "run_id": "b_sft",
        "run_name": "b sft",
        "state": "finished",
        "project": "p",
        "entity": "e",
        "created_at": "2025-09-02T13:45:51.123456Z",
        "config": {
            "model_name_or_path": "allenai/DataDecide-c4-4M",
            "learning_rate": 5e-05,
            "model_size": "530100000",
            "num_train_epochs": None,
            "pretrain_compute": 1.5e18,
            "custom": {"nested": [1, 2.5]},
            ODD_KEY: "odd",
            **{f"pretrain_eval_{i}": i / 7 for i in range(400)},
        },
        "summary": {
            "_step": 300,
            "total_tokens": "894174859",
            "learning_rate": 1e-09,
            "oe_eval_metrics/csqa": {
                "acc_raw": 0.4864864865,
                "primary_score": 0.4864864865,
                "acc_per_byte": "NaN",
                "num_instances": 1221,
                "extra_metrics": {"no_answer": 0},
                "task_config": {"padding": "x" * 2000, "primary_metric": "acc_raw"},
            },
            "oe_eval_metrics/csqa/acc_raw": 0.25,
            "oe_eval_metrics/csqa/margin": "Infinity",
            "oe_eval_metrics/csqa/acc_uncond": None,
            "oe_eval_metrics/core_9mcqa:rc::olmes:full": {"primary_score": 0.1 + 0.2, "acc_raw_macro": 1 / 3},
        },
        "wandb_metadata": {"args": ["--learning_rate", "5e-05", 7], "program": "finetune.py", "gpu_count": "2"},
        "system_metrics": {"system.cpu": 0.7},
        "system_attrs": {"padding": "y" * 100_000, "tags": ["150M", "finetune"]},
        "sweep_info": {"sweep_id": None},
    },
    {
        "run_id": "a_dpo",
        "run_name": "a dpo",
        "state": "running",
        "project": "p",
        "entity": "e",
        "created_at": None,
        "config": {"learning_rate": 2e-07, "seed": 8},
        "summary": {},
        "wandb_metadata": {},
        "system_metrics": {},
        "system_attrs": {},
        "sweep_info": {},
    },
    {
        "run_id": "c_no_log",
        "run_name": "c",
        "state": "failed",
        "project": "p",
        "entity": "e",
        "created_at": "2025-01-01T00:00:00",
        "config": {"learning_rate": 1e-4},
        "summary": {"oe_eval_metrics/boolq/acc_raw": "0.5"},
        "wandb_metadata": {"args": "not a list"},
        "system_metrics": {},
        "system_attrs": {"tags": None},
        "sweep_info": {},
    },
]

# Out of order, with a step that stands twice, and values of every kind that a log has held.
ROWS: list[tuple[str, int | None, dict[str, Any]]] = [
    ("b_sft", 200, {"train_loss": 2.5, "learning_rate": 3e-05, "total_tokens": 200, ODD_KEY: 1}),
    ("b_sft", 100, {"train_loss": "NaN", "learning_rate": 4e-05, "total_tokens": "100"}),
    ("a_dpo", 1, {"train_loss": 0.1, "rewards/chosen": "Infinity"}),
    ("b_sft", 100, {"train_loss": 0.1 + 0.2, "note": "a\nb,c", "flag": True}),
    ("b_sft", None, {"train_loss": 99.0}),
    ("a_dpo", 2, {"train_loss": None, "rewards/chosen": "-Infinity"}),
    ("b_sft", 300, {"train_loss": 1e-300, "learning_rate": 1e-09, "histogram": {"bins": [1, 2]}}),
    ("unknown", 1, {"train_loss": 1.0}),
]

KEYS = ["train_loss", "learning_rate", "total_tokens", "rewards/chosen", ODD_KEY, "note", "flag", "histogram", "absent"]
NAN, INF = math.nan, math.inf

#: What a history of (b_sft, a_dpo) holds: run, step, and per key the values.
EXPECTED_RUN = [0, 0, 0, 0, 1, 1]
EXPECTED_STEP = [100, 100, 200, 300, 1, 2]
EXPECTED = {
    "train_loss": [NAN, 0.1 + 0.2, 2.5, 1e-300, 0.1, NAN],
    "learning_rate": [4e-05, NAN, 3e-05, 1e-09, NAN, NAN],
    "total_tokens": [100.0, NAN, 200.0, NAN, NAN, NAN],
    "rewards/chosen": [NAN, NAN, NAN, NAN, INF, -INF],
    ODD_KEY: [NAN, NAN, 1.0, NAN, NAN, NAN],
    "note": [NAN] * 6,
    "flag": [NAN, 1.0, NAN, NAN, NAN, NAN],
    "histogram": [NAN] * 6,
    "absent": [NAN] * 6,
}

#: Final evaluations of (a_dpo, b_sft, c_no_log).
EXPECTED_EVALUATIONS = {
    ("csqa", "primary_metric"): [NAN, 0.4864864865, NAN],
    ("csqa", "acc_raw"): [NAN, 0.25, NAN],  # the flat key counts before the object
    ("csqa", "acc_per_byte"): [NAN, NAN, NAN],
    ("csqa", "acc_uncond"): [NAN, NAN, NAN],
    ("csqa", "margin"): [NAN, INF, NAN],
    ("csqa", "no_answer"): [NAN, 0.0, NAN],
    ("csqa", "num_instances"): [NAN, 1221.0, NAN],
    ("core_9mcqa", "primary_metric"): [NAN, 0.1 + 0.2, NAN],
    ("core_9mcqa", "acc_raw_macro"): [NAN, 1 / 3, NAN],
    ("boolq", "acc_raw"): [NAN, NAN, 0.5],
    ("boolq", "primary_metric"): [NAN, NAN, NAN],
    ("nothing", "acc_raw"): [NAN, NAN, NAN],
}
EVALUATION_NAMES = [
    ("boolq", "acc_raw"),
    ("core_9mcqa", "acc_raw_macro"),
    ("core_9mcqa", "primary_metric"),
    ("csqa", "acc_per_byte"),
    ("csqa", "acc_raw"),
    ("csqa", "acc_uncond"),
    ("csqa", "margin"),
    ("csqa", "no_answer"),
    ("csqa", "primary_metric"),
]

TABLES = {
    "0.1": """
        CREATE TABLE wandb_runs (run_id varchar PRIMARY KEY, run_name varchar, state varchar, project varchar,
            entity varchar, created_at timestamp, config jsonb, summary jsonb, wandb_metadata jsonb,
            system_metrics jsonb, system_attrs jsonb, sweep_info jsonb);
        CREATE TABLE wandb_history (id serial PRIMARY KEY, run_id varchar, step integer, timestamp timestamp,
            runtime integer, wandb_metadata jsonb, metrics jsonb)
        """,
    "old": """
        CREATE TABLE wandb_runs (run_id varchar PRIMARY KEY, run_name varchar, state varchar, project varchar,
            entity varchar, created_at timestamp, runtime integer, raw_data jsonb);
        CREATE TABLE wandb_history (id serial PRIMARY KEY, run_id varchar, step integer, timestamp timestamp,
            metrics jsonb)
        """,
}


def with_json_text(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary as older stores have it: objects of evaluations as JSON text."""
    return {key: json.dumps(value) if isinstance(value, dict) else value for key, value in summary.items()}


def fill_tables(dsn: str, layout: str, *, schema: str = "public") -> None:
    """Make the tables in a layout and fill them, without any code of dde."""
    with psycopg.connect(dsn) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}; {TABLES[layout]}")
        names = ["run_id", "run_name", "state", "project", "entity", "created_at"]
        for run in RUNS:
            row = {name: run[name] for name in names}
            if layout == "old":
                row["raw_data"] = json.dumps({**run["config"], **with_json_text(run["summary"])})
            else:
                row |= {name: json.dumps(value) for name, value in run.items() if name not in names}
            connection.execute(
                f"INSERT INTO wandb_runs ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})",
                list(row.values()),
            )
        for run_id, step, metrics in ROWS:
            extra = {} if layout == "old" else {"wandb_metadata": "{}"}
            row = {"run_id": run_id, "step": step, "metrics": json.dumps(metrics), **extra}
            connection.execute(
                f"INSERT INTO wandb_history ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})",
                list(row.values()),
            )


def write_parquet(folder: Path, *, layout: str = "0.1", history: bool = True) -> Path:
    """Write the export that dr_wandb 0.1 makes of these runs: JSON columns as text, a wide log."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for run in RUNS:
        if layout == "0.1":
            rows.append({key: json.dumps(value) if isinstance(value, dict) else value for key, value in run.items()})
            continue
        flat = {**run["config"], **with_json_text(run["summary"])}
        own = {key: value for key, value in run.items() if not isinstance(value, dict)}
        if layout == "raw_data":
            rows.append({**own, "raw_data": json.dumps(flat)})
        else:
            rows.append({**own, **{key: json.dumps(v) if isinstance(v, dict) else v for key, v in flat.items()}})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    pq.write_table(
        pa.table({key: _column([row.get(key) for row in rows]) for key in columns}), folder / "runs_metadata.parquet"
    )
    if history:
        keys = list(dict.fromkeys(key for _, _, metrics in ROWS for key in metrics))
        table = {
            "run_id": pa.array([run_id for run_id, _, _ in ROWS]),
            "step": pa.array([step for _, step, _ in ROWS], pa.float64()),
            "timestamp": pa.array([1.7e9 + i for i in range(len(ROWS))]),
            "runtime": pa.array([float(i) for i in range(len(ROWS))]),
            **{key: _column([metrics.get(key) for _, _, metrics in ROWS]) for key in keys},
        }
        pq.write_table(pa.table(table), folder / "runs_history.parquet", row_group_size=3)
    return folder


def _column(values: list[Any]) -> pa.Array:
    if any(isinstance(value, str) for value in values):
        return pa.array([None if value is None else str(value) for value in values], pa.large_string())
    if any(isinstance(value, dict) for value in values):
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.large_string())
    return pa.array(values)


def write_jsonl(folder: Path, *, plain: bool = False, history: bool = True) -> Path:
    """Write what dr_wandb 3 does: a snapshot per line, keys sorted; or the plain form."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for run in RUNS:
        if plain:
            lines.append({**run, "config": json.dumps(run["config"]), "tags": run["system_attrs"].get("tags")})
            continue
        snapshot = {key: run[key] for key in ("run_id", "entity", "project", "state", "created_at", "config")}
        snapshot |= {
            "name": run["run_name"],
            "summary_metrics": run["summary"],
            "metadata": run["wandb_metadata"] or None,
            "tags": run["system_attrs"].get("tags") or [],
            "system_metrics": run["system_metrics"],
        }
        lines.append({"run": snapshot, "exported_at": "2026-01-01T00:00:00+00:00"})
    _write_lines(folder / "runs.jsonl", lines)
    if history:
        rows = []
        for number, (run_id, step, metrics) in enumerate(ROWS):
            if plain:
                rows.append({"run_id": run_id, "_step": step, "_runtime": number, **metrics})
            else:
                rows.append(
                    {
                        "run_id": run_id,
                        "step": step,
                        "timestamp": str(1.7e9 + number),
                        "runtime": float(number),
                        "wandb_metadata": {},
                        "metrics": {k: math.nan if v == "NaN" else v for k, v in metrics.items()},
                        "extra": {},
                    }
                )
        _write_lines(folder / "history.jsonl", rows)
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, "name": folder.name}))
    return folder


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


class Traffic:
    """Statements that were sent and bytes that came back."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.received = 0


@contextmanager
def watched_traffic(monkeypatch: Any) -> Iterator[Traffic]:
    """Watch every statement of psycopg and the bytes of its results."""
    traffic = Traffic()
    execute, copy, stream = psycopg.Cursor.execute, psycopg.Cursor.copy, psycopg.Cursor.stream

    def count(result: Any) -> None:
        traffic.received += sum(
            len(result.get_value(row, column) or b"")
            for row in range(result.ntuples)
            for column in range(result.nfields)
        )

    def watched_execute(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        traffic.statements.append(str(query))
        answer = execute(self, query, *args, **options)
        count(self.pgresult)
        return answer

    def watched_stream(self: Any, query: Any, *args: Any, **options: Any) -> Iterator[Any]:
        traffic.statements.append(str(query))
        for row in stream(self, query, *args, **options):
            count(self.pgresult)
            yield row

    @contextmanager
    def watched_copy(self: Any, statement: Any, *args: Any, **options: Any) -> Any:
        traffic.statements.append(str(statement))
        with copy(self, statement, *args, **options) as blocks:
            if "TO STDOUT" not in str(statement):
                yield blocks
                return
            yield [block for block in map(bytes, blocks) if (_count(traffic, block), True)[1]]

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", watched_execute)
        patch.setattr(psycopg.Cursor, "copy", watched_copy)
        patch.setattr(psycopg.Cursor, "stream", watched_stream)
        yield traffic


def _count(traffic: Traffic, block: bytes) -> None:
    traffic.received += len(block)
