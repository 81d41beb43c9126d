"""Reading values of a full suite through a warm cache, beside moving the bytes; curves as a frame; a changed export.

python tests/benchmarks/bench_values.py SUITE WANDB CACHE_DIR
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from measure import in_turns, row, table

import dde

_METRICS = ("arc_easy", "piqa", "boolq", "csqa", "hellaswag")
_FIVE = ["arc_easy", "piqa", "train_loss", "pile_valppl", "mmlu_average"]


def rows(data: str, wandb: str, cache_dir: str) -> list[dict[str, Any]]:
    """Measure what reads values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_five(data, wandb, cache_dir), _frame(data, wandb, cache_dir), _refresh(wandb)]


def _five(data: str, wandb: str, cache_dir: str) -> dict[str, Any]:
    options: dict[str, Any] = {"cache_dir": cache_dir, "grid": 512, "metrics": list(_METRICS)}
    ds = dde.open_lineages(data, wandb, **options).load()
    shape, dtype = ds.arc_easy.shape, ds.arc_easy.dtype
    # What was loaded stays; another opening of the same reads the cache again.
    fresh = dde.open_lineages(data, wandb, **options)

    def ours() -> list[np.ndarray]:
        return [fresh[m].isel(run=slice(None)).values for m in _METRICS]

    def floor() -> list[np.ndarray]:
        return [np.full(shape, np.nan, dtype) for _ in _METRICS]

    seconds = in_turns(3, ours=ours, floor=floor)
    return row(
        "five metrics of all lineages on 512 points, cache warm",
        seconds["ours"],
        floor=seconds["floor"],
        counts={"MB": round(5 * ds.arc_easy.nbytes / 1e6), "cells": int(np.prod(shape))},
        note="floor: filling the same memory once",
    )


def _frame(data: str, wandb: str, cache_dir: str) -> dict[str, Any]:
    repository = dde.DataDecideEvolved(data, wandb, cache_dir=cache_dir).repository
    runs = [r for r in repository.coverage("all").query("status == 'used' and run_type != 'pretraining'").run_id]
    lineages = {r: repository.registry.derived[r].lineage for r in runs}
    from dde.suite.datadecide.metric_choice import choose_metrics
    from dde.suite.datadecide.store_frames import continuous_curves

    chosen = choose_metrics(repository.registry, _FIVE)
    frame = continuous_curves(repository.registry, runs, chosen)
    columns = {name: frame[name].to_numpy() for name in frame.columns}
    seconds = in_turns(
        3,
        ours=lambda: continuous_curves(repository.registry, runs, chosen),
        floor=lambda: pd.DataFrame({name: values.copy() for name, values in columns.items()}),
    )
    return row(
        f"joined continuous curves of {len(runs)} runs as a frame",
        seconds["ours"],
        floor=seconds["floor"],
        counts={"rows": len(frame), "lineages": len(set(lineages.values()))},
        note="floor: copying the columns of the result",
    )


def _refresh(wandb: str) -> dict[str, Any]:
    """One run of an export changes: opening it again and reading the logs of all runs, with a cache and without."""
    from dde.entities.repository import RunRepository
    from dde.sources.wandb.store import WandBStore

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "wandb"
        shutil.copytree(wandb, copy)
        asked: list[int] = []

        class Counting(WandBStore):
            def history(self, run_ids: Any, keys: Any) -> Any:
                found = super().history(run_ids, keys)
                asked.append(len(found.step))
                return found

        def read(export: Path, cache_dir: Path | None) -> float:
            start = time.perf_counter()
            registry = RunRepository(None, Counting(export), cache_dir=cache_dir).registry
            registry.readers.logs(list(registry.derived), registry.versions, ["train_loss", "learning_rate"])
            return time.perf_counter() - start

        read(copy, Path(folder) / "cache")
        every = sum(asked)
        asked.clear()
        history = pq.read_table(copy / "runs_history.parquet")
        loss = history["train_loss"].to_numpy().copy()
        run_ids = history["run_id"].to_pylist()
        changed = next(i for i, r in enumerate(run_ids) if r != run_ids[0])
        loss[changed] += 1.0
        position = history.column_names.index("train_loss")
        pq.write_table(
            history.set_column(position, "train_loss", pa.array(loss, from_pandas=True)), copy / "runs_history.parquet"
        )
        # A copy, since what was decoded of a file stays in memory.
        other = shutil.copytree(copy, Path(folder) / "other")
        part = read(copy, Path(folder) / "cache")
        rows_read = sum(asked)
        whole = read(other, None)
    return row(
        "opening an export of which one run changed, and reading its logs",
        part,
        floor=None,
        peer=whole,
        counts={"rows read": rows_read, "of": every, "share": json.dumps(round(rows_read / every, 4))},
        note="peer: the same without a cache",
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("suite", "wandb", "cache_dir"):
        arguments.add_argument(name)
    told = arguments.parse_args()
    print(table(rows(told.suite, told.wandb, told.cache_dir)))
