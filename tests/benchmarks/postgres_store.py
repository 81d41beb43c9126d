"""A generated W&B store in PostgreSQL of the size of real ones, for measuring."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from dde.sources.json_text import as_jsonb_text
from dde.tutorial.posttraining_curves import training_log
from dde.tutorial.posttraining_plan import plan_posttraining
from dde.tutorial.suite import suite_spec
from dde.tutorial.wandb_runs import METADATA_COLUMNS, _record

RUNS, ROWS = 400, 1_000_000

_LOGGED = (
    "train_loss", "learning_rate", "total_tokens", "total_tokens_including_padding", "per_device_tps", "epoch",
    "training_step", "per_device_tps_including_padding",
)  # fmt: skip

_TABLES = """
CREATE TABLE wandb_runs (run_id varchar PRIMARY KEY, run_name varchar NOT NULL, state varchar NOT NULL,
    project varchar NOT NULL, entity varchar NOT NULL, created_at timestamp, config jsonb NOT NULL,
    summary jsonb NOT NULL, wandb_metadata jsonb NOT NULL, system_metrics jsonb NOT NULL,
    system_attrs jsonb NOT NULL, sweep_info jsonb NOT NULL);
CREATE TABLE wandb_history (id serial PRIMARY KEY, run_id varchar NOT NULL, step integer, timestamp timestamp,
    runtime integer, wandb_metadata jsonb NOT NULL, metrics jsonb NOT NULL)
"""

# As dr_wandb writes them: run by run, each in the order of its steps. Three runs of four are finetuning, one is
# DPO, which counts no tokens; in one of a hundred the loss diverges, which W&B writes as text.
_FILL_HISTORY = """
INSERT INTO wandb_history (run_id, step, timestamp, runtime, wandb_metadata, metrics)
SELECT r.run_id, s * 100, timestamp '2025-09-01' + s * interval '3.7 s', s * 37 / 10, '{}',
    jsonb_build_object(
        'train_loss', CASE WHEN r.number %% 100 = 7 AND s > %(steps)s::int / 2 THEN to_jsonb('NaN'::text)
                           ELSE to_jsonb(2 + random()) END,
        'learning_rate', 5e-5 * (1 - s::float8 / %(steps)s::int),
        '_runtime', s * 3.7 + random(), '_timestamp', 1756684800 + s * 3.7 + random(), '_step', s * 100)
    || CASE WHEN r.number %% 4 = 3 THEN jsonb_build_object(
        'epoch', s::float8 / %(steps)s::int, 'training_step', s * 100, 'logps/chosen', -300 * random(),
        'logps/rejected', -300 * random(), 'rewards/accuracy', random(), 'rewards/average', random() - 0.5,
        'rewards/chosen', random(), 'rewards/margin', random(), 'rewards/rejected', -random())
    ELSE jsonb_build_object(
        'total_tokens', s * 71200 * (1 + random() / 1000), 'total_tokens_including_padding', s * 204800,
        'per_device_tps', 9000 * random(), 'per_device_tps_including_padding', 20000 * random(),
        'epoch', s::float8 / %(steps)s::int, 'training_step', s * 100)
    END
FROM unnest(%(run_ids)s::text[]) WITH ORDINALITY AS r(run_id, number), generate_series(1, %(steps)s::int) s
ORDER BY r.number, s
"""


def fill_store(dsn: str, *, runs: int = RUNS, rows: int = ROWS) -> list[str]:
    """Make the tables of dr_wandb 0.1 and fill them; return the run ids, in the order of the log."""
    plans = plan_posttraining(suite_spec("scale:4"), 0)
    plans = list(itertools.islice((p for p in plans if p.evaluated and p.logged_steps), runs))
    assert len(plans) == runs
    columns = ", ".join(METADATA_COLUMNS)
    with psycopg.connect(dsn) as connection:
        connection.execute(_TABLES)
        with connection.cursor().copy(f"COPY wandb_runs ({columns}) FROM STDIN") as copy:
            for plan in plans:
                record = _record(0, plan, training_log(0, plan))
                copy.write_row(
                    [
                        as_jsonb_text(record[name])[0] if record[name][:1] == "{" else record[name]
                        for name in METADATA_COLUMNS
                    ]
                )
        run_ids = [plan.run_id for plan in plans]
        connection.execute("SELECT setseed(0.5)")
        connection.execute(_FILL_HISTORY, {"run_ids": run_ids, "steps": max(2, rows // runs)})
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    return run_ids


def write_exports(folder: Path, count: int, *, runs: int, rows: int) -> list[Path]:
    """Write parquet exports whose runs have names of their own; return their folders."""
    plans = plan_posttraining(suite_spec("scale:4"), 0)
    plans = [p for p in plans if p.evaluated and p.logged_steps][: count * runs]
    steps = rows // runs
    exports = []
    for number in range(count):
        part = plans[number * runs : (number + 1) * runs]
        export = folder / f"export{number}"
        export.mkdir()
        records = [_record(0, plan, training_log(0, plan)) for plan in part]
        pq.write_table(pa.Table.from_pylist(records), export / "runs_metadata.parquet")
        values = np.random.default_rng(number)
        ids = np.repeat([plan.run_id for plan in part], steps)
        log = {"run_id": pa.array(ids.tolist(), pa.large_string()), "step": np.tile(np.arange(steps) * 100, runs)}
        for name in ("timestamp", "runtime", *_LOGGED):
            log[name] = values.uniform(1, 1e9 if name in ("timestamp", "runtime") else 10, len(ids))
        pq.write_table(pa.table(log), export / "runs_history.parquet")
        exports.append(export)
    return exports
