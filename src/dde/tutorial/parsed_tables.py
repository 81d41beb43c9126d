"""Writer of the already parsed layout: the wide tables that the `datadec` package leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dde.suite.datadecide.names import MMLU_SUBJECTS, PERPLEXITY_SETS, Base, training_flops
from dde.tutorial.base_values import base_values, entries_of
from dde.tutorial.tasks import ENTRY_INDEX, NO_UNCONDITIONED, RAW_ENTRIES, RAW_TASKS, UNCONDITIONED_ENTRIES

__all__ = ["WIDE_ENTRIES", "write_parsed_tables"]

#: Entries that the wide table has columns for.
WIDE_ENTRIES: tuple[str, ...] = tuple(
    entry for entry in RAW_ENTRIES if not entry.startswith("predicted_index") and entry != "logits_per_byte_corr"
)
_WIDE_TASKS = tuple(sorted((*RAW_TASKS, "mmlu_average")))
_CELLS = tuple(
    (task, entry)
    for entry in WIDE_ENTRIES
    for task in _WIDE_TASKS
    if not (task in NO_UNCONDITIONED and entry in UNCONDITIONED_ENTRIES)
)
_NUMBERS = (
    *(f"{name}-valppl" for name in PERPLEXITY_SETS),
    *(f"{task}_{entry}" for task, entry in _CELLS),
)
_SUBJECTS = [RAW_TASKS.index(name) for name in MMLU_SUBJECTS]
_SPREAD = [_WIDE_TASKS.index(name) for name in RAW_TASKS]


def _numbers(seed: int, base: Base) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the steps of a run's rows and their values, (row, column); NaN where a raw table has none."""
    values = base_values(seed, base)
    evaluated, perplexity = values.checkpoints.evaluated, np.unique(values.checkpoints.perplexity)
    steps = np.union1d(evaluated, perplexity)
    at = values.rows(steps)
    tasks = np.full((len(steps), len(_WIDE_TASKS), len(RAW_ENTRIES)), np.nan)
    tasks[:, _SPREAD] = values.tasks[at]
    tasks[:, _WIDE_TASKS.index("mmlu_average")] = values.tasks[at][:, _SUBJECTS].mean(axis=1)
    tasks[~np.isin(steps, evaluated)] = np.nan
    lacking = [ENTRY_INDEX[entry] for entry in RAW_ENTRIES if entry not in entries_of(base)]
    tasks[..., lacking] = np.nan
    # Repeated perplexity rows collapse to the first, as the package does.
    shown = np.where(np.isin(steps, perplexity)[:, np.newaxis], values.perplexity[at], np.nan)
    cells = tasks[:, [_WIDE_TASKS.index(task) for task, _ in _CELLS], [ENTRY_INDEX[entry] for _, entry in _CELLS]]
    return steps, np.concatenate([shown, cells], axis=1)


def _details(base: Base) -> dict[str, Any]:
    """Return model details, nominal sizes among them as the package has them: traps for the unwary."""
    nominal = int(float(base.size.name[:-1]) * (1e9 if base.size.name.endswith("B") else 1e6))
    sequences = nominal * 100 // 2048
    return {
        "total_steps": sequences // base.size.batch_size,
        "warmup_steps": nominal // (base.size.batch_size * 2048),
        "lr_max": round(0.0047 * (108e6 / nominal) ** (1 / 3), 6),
        "batch_size": base.size.batch_size,
        "default_seed": 6198,
        "length_str": "5xC",
        "mlp_ratio": 8,
        "weight_tying": False,
        "rope": True,
        "layer_norm_type": "rms",
        "layer_norm_eps": 1e-6,
        "activation_type": "swiglu",
        "max_sequence_length": 2048,
        "vocab_size": 50280,
        "params_numeric": float(nominal),
        "true_model_size": nominal,
        "total_tokens": nominal * 100,
        "total_seqs": sequences,
    }


def _wide_table(seed: int, bases: Sequence[Base]) -> pa.Table:
    found = [_numbers(seed, base) for base in bases]
    counts = [len(steps) for steps, _ in found]

    def spread(values: Sequence[Any]) -> pa.Array:
        return pa.array([value for value, count in zip(values, counts, strict=True) for _ in range(count)])

    steps = np.concatenate([steps for steps, _ in found])
    tokens = [base.size.tokens_at(int(step)) for base, (own, _) in zip(bases, found, strict=True) for step in own]
    flops = [
        training_flops(base.size.n_params, base.size.tokens_at(int(step)))
        for base, (own, _) in zip(bases, found, strict=True)
        for step in own
    ]
    columns = {
        "params": spread([base.size.name for base in bases]),
        "data": spread([base.recipe.name for base in bases]),
        "seed": spread([base.seed.index for base in bases]),
        "step": pa.array(steps.astype(np.float64)),
        "tokens": pa.array(np.array(tokens, dtype=np.float64)),
        "compute": pa.array(np.array(flops, dtype=np.float64)),
    }
    matrix = np.ascontiguousarray(np.concatenate([values for _, values in found]).T)
    columns |= {name: pa.array(row, from_pandas=True) for name, row in zip(_NUMBERS, matrix, strict=True)}
    details = [_details(base) for base in bases]
    columns |= {name: spread([detail[name] for detail in details]) for name in details[0]}
    return pa.table(columns)


def write_parsed_tables(path: Path, seed: int, bases: Sequence[Base], *, rows: int = 1024) -> None:
    """Write ``full_eval.parquet`` and ``mean_eval.parquet`` under ``<path>/datadecide``.

    Parameters
    ----------
    path : Path
        Folder of the suite.
    seed : int
        Seed of the suite.
    bases : sequence of Base
        Pretraining runs, in table order.
    rows : int
        About as many rows are in a row group.
    """
    folder = path / "datadecide"
    folder.mkdir(parents=True, exist_ok=True)
    schema = _wide_table(seed, bases[:1]).schema
    # Runs of one size and recipe stay together, so that their mean over seeds is made in one go.
    groups: dict[tuple[str, str], list[Base]] = {}
    for base in bases:
        groups.setdefault((base.size.name, base.recipe.name), []).append(base)
    held: list[pa.Table] = []
    means: list[pa.Table] = []
    with pq.ParquetWriter(folder / "full_eval.parquet", schema, use_dictionary=["params", "data"]) as writer:
        for group in groups.values():
            table = _wide_table(seed, group)
            held.append(table)
            means.append(_seed_means(table))
            if sum(part.num_rows for part in held) >= rows:
                writer.write_table(pa.concat_tables(held))
                held = []
        if held:
            writer.write_table(pa.concat_tables(held))
    pq.write_table(pa.concat_tables(means), folder / "mean_eval.parquet")


def _seed_means(table: pa.Table) -> pa.Table:
    keys = ["params", "data", "step", "tokens", "compute"]
    names = ["pile-valppl", *(f"{task}_primary_metric" for task in _WIDE_TASKS)]
    grouped = table.select([*keys, *names]).group_by(keys, use_threads=False)
    means = grouped.aggregate([(name, "mean") for name in names])
    means = means.rename_columns([name.removesuffix("_mean") for name in means.column_names])
    return means.take(pc.sort_indices(means["step"])).select([*keys, *names])
