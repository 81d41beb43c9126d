"""A store of any number of post-training runs, written block by block: a parquet export with what identity needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dde.names import RECIPES, SEEDS, SIZES

__all__ = ["write_runs"]

_REPLICATES = 2


def write_runs(folder: Path, n_runs: int, n_rows: int) -> int:
    """Write about `n_runs` runs with `n_rows` logged rows each, on every size below 1B, and return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    bases = [(r, p, s) for r in RECIPES for p in SIZES if p.name != "1B" for s in SEEDS[:3]]
    rates = max(round(n_runs / len(bases) / _REPLICATES), 1)
    bases = bases[: max(n_runs // (rates * _REPLICATES), 1)]
    steps = np.arange(1, n_rows + 1, dtype=np.int64) * 100
    rng = np.random.default_rng(0)
    metadata: dict[str, list[str]] = {name: [] for name in _METADATA}
    schema = pa.schema(
        [("run_id", pa.string()), ("step", pa.int64()), ("total_tokens", pa.float64()), ("train_loss", pa.float64())]
    )
    number = 0
    with pq.ParquetWriter(folder / "runs_history.parquet", schema, use_dictionary=["run_id"]) as writer:
        for recipe, size, seed in bases:
            ids = []
            for k in range(rates * _REPLICATES):
                rate = float(f"{10 ** (-6 + 3 * (k // _REPLICATES) / max(rates, 2)):.6g}")
                run_id = f"many-{number:07d}"
                base = f"{recipe.slug}-{size.name}-{size.last_step}-{seed.index}"
                name = f"2025_09_01-00_00_00_many_Ft_DD-{base}_lr={rate:g}"
                config = {"learning_rate": rate, "num_train_epochs": 2, "reduce_loss": "mean"}
                told = (run_id, name, "finished", f"2025-09-01T00:00:{k % 60:02d}Z", json.dumps(config))
                launch = json.dumps({"program": "finetune.py", "args": []})
                for column, value in zip(_METADATA, (*told, "{}", launch), strict=True):
                    metadata[column].append(value)
                ids.append(run_id)
                number += 1
            count = len(ids)
            loss = 2.0 + np.exp(-np.outer(rng.uniform(0.5, 2.0, count), steps / steps[-1]))
            loss += rng.normal(0.0, 0.02, loss.shape)
            writer.write_table(
                pa.table(
                    [
                        pa.array(np.repeat(np.array(ids, object), n_rows)),
                        np.tile(steps, count),
                        np.tile(steps * 9100.0, count),
                        loss.ravel(),
                    ],
                    schema=schema,
                ),
                row_group_size=count * n_rows,
            )
    pq.write_table(pa.table(metadata), folder / "runs_metadata.parquet")
    return number


_METADATA = ("run_id", "run_name", "state", "created_at", "config", "summary", "wandb_metadata")
