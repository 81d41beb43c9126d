"""Write the pretraining tables: raw evaluation shards, macro averages and perplexities, or the parsed wide layout.

Rows are ordered by size, recipe, seed, step and task, so that each run is one contiguous block of rows. Shards divide
the list of runs into parts with about the same number of rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dde.suite.datadecide.names import MMLU_SUBJECTS, PERPLEXITY_SETS, Base, training_flops
from dde.tutorial.base_values import (
    MACRO_TASKS,
    BaseValues,
    base_values,
    checkpoints_in_tables,
    entries_of,
    macro_values,
)
from dde.tutorial.latent_curves import random_stream
from dde.tutorial.tasks import ENTRY_INDEX, NO_UNCONDITIONED, RAW_ENTRIES, RAW_TASKS, UNCONDITIONED_ENTRIES

__all__ = [
    "ROW_GROUP_ROWS",
    "WIDE_ENTRIES",
    "write_evaluation_tables",
    "write_parsed_tables",
    "write_perplexity_table",
]

Progress = Callable[[str, int, int], None]

#: Rows of raw evaluations per row group: about 4 MB of text, one or a few runs.
ROW_GROUP_ROWS = 4096

_EVALUATIONS = "datadecide/DataDecide-eval-results/data"
_PERPLEXITIES = "datadecide/DataDecide-ppl-results/data"
_SCHEMA = pa.schema(
    [
        ("params", pa.string()),
        ("data", pa.string()),
        ("task", pa.string()),
        ("step", pa.float64()),
        ("seed", pa.string()),
        ("chinchilla", pa.string()),
        ("tokens", pa.int64()),
        ("compute", pa.float64()),
        ("metrics", pa.string()),
    ]
)
# Texts of metrics never repeat, so a dictionary of them would be useless.
_DICTIONARY = ["params", "data", "task", "seed", "chinchilla"]
# The macro averages have no bits_per_byte_corr; other missing entries are zero.
_MACRO_ENTRIES = tuple(entry for entry in RAW_ENTRIES if entry != "bits_per_byte_corr")


@functools.cache
def _dict_template(entries: tuple[str, ...]) -> str:
    return "{" + ", ".join(f"{entry!r}: %r" for entry in entries) + "}"


def _dict_texts(seed: int, values: BaseValues, at: npt.NDArray[np.intp]) -> list[str]:
    """Return the repr of each row's dict, ordered by step and task."""
    entries = entries_of(values.base)
    texts: list[list[str]] = []
    tasks = values.tasks[at]
    odd = _odd_values(seed, values, len(at))
    for k, task in enumerate(RAW_TASKS):
        own = tuple(entry for entry in entries if not (task in NO_UNCONDITIONED and entry in UNCONDITIONED_ENTRIES))
        template = _dict_template(own)
        rows: list[list[float | None]] = tasks[:, k, [ENTRY_INDEX[entry] for entry in own]].tolist()
        for row, entry, value in odd.get(task, ()):
            rows[row][own.index(entry)] = value
        texts.append([template % tuple(row) for row in rows])
    return [text for step_texts in zip(*texts, strict=True) for text in step_texts]


def _odd_values(seed: int, values: BaseValues, rows: int) -> dict[str, list[tuple[int, str, float | None]]]:
    """Return a few values None, NaN and infinity, in entries that are not the primary metric of a task."""
    stream = random_stream(seed, "odd", values.base.label)
    # About a third of the runs have them. The draws are the same for all runs, so that streams stay aligned.
    has, row, task = stream.random(), stream.integers(rows, size=3), stream.integers(len(RAW_TASKS), size=3)
    odd: dict[str, list[tuple[int, str, float | None]]] = {}
    if has < 0.34:
        for k, (entry, value) in enumerate(
            (("margin_per_char", None), ("total_prob_per_char", float("nan")), ("total_prob", float("inf")))
        ):
            odd.setdefault(RAW_TASKS[task[k]], []).append((int(row[k]), entry, value))
    return odd


def _columns(values: BaseValues, tasks: Sequence[str], texts: list[str]) -> pa.Table:
    """Return the rows of a base as a table of the raw layout."""
    base, steps = values.base, values.checkpoints.evaluated
    n, width = len(steps), len(tasks)
    tokens = steps * base.size.tokens_per_step
    # FLOPs exceed 2**63, so they are computed as Python integers and rounded once.
    compute = [float(training_flops(base.size.n_params, int(t))) for t in tokens]
    constant = [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(n * width, dtype=np.int32)), [text]).cast(pa.string())
        for text in (base.size.name, base.recipe.name, base.seed.name, "5xC")
    ]
    return pa.table(
        [
            constant[0],
            constant[1],
            pa.array(list(tasks) * n, pa.string()),
            pa.array(np.repeat(steps.astype(np.float64), width)),
            constant[2],
            constant[3],
            pa.array(np.repeat(tokens, width)),
            pa.array(np.repeat(np.array(compute), width)),
            pa.array(texts, pa.string()),
        ],
        schema=_SCHEMA,
    )


class _Rows:
    """Parquet writer that collects tables until a row group is full."""

    def __init__(self, path: Path, rows: int) -> None:
        self._writer = pq.ParquetWriter(path, _SCHEMA, compression="snappy", use_dictionary=_DICTIONARY)
        self._rows, self._pending, self._count = rows, list[pa.Table](), 0

    def add(self, table: pa.Table) -> None:
        if self._count and self._count + table.num_rows > self._rows:
            self.flush()
        self._pending.append(table)
        self._count += table.num_rows

    def flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending), row_group_size=self._rows)
        self._pending, self._count = [], 0

    def close(self) -> None:
        self.flush()
        self._writer.close()


def _write_shard(seed: int, bases: Sequence[Base], shard: Path, macro: Path, rows: int) -> Iterator[None]:
    """Write one shard and its part of the macro averages, yielding after each base."""
    writer, averages = _Rows(shard, rows), _Rows(macro, rows)
    template = "{" + ", ".join(f'"{entry}": %r' for entry in _MACRO_ENTRIES) + "}"
    columns = [ENTRY_INDEX[entry] for entry in _MACRO_ENTRIES]
    for base in bases:
        values = base_values(seed, base)
        at = values.rows(values.checkpoints.evaluated)
        writer.add(_columns(values, RAW_TASKS, _dict_texts(seed, values, at)))
        means = macro_values(values.tasks[at])
        means[..., _missing_entries(base)] = 0.0
        texts = [template % tuple(row) for row in means[..., columns].reshape(-1, len(columns)).tolist()]
        averages.add(_columns(values, MACRO_TASKS, texts))
        yield
    writer.close()
    averages.close()


def _missing_entries(base: Base) -> list[int]:
    """Return the positions of entries that evaluations of this size do not have."""
    entries = entries_of(base)
    return [ENTRY_INDEX[entry] for entry in RAW_ENTRIES if entry not in entries]


def _write_complete_shard(seed: int, bases: Sequence[Base], shard: Path, macro: Path, rows: int) -> int:
    for _ in _write_shard(seed, bases, shard, macro, rows):
        pass
    return len(bases)


def _split(seed: int, bases: Sequence[Base], shards: int) -> list[list[Base]]:
    """Split bases into consecutive parts with about equal numbers of rows."""
    ends = list(accumulate(len(checkpoints_in_tables(seed, base).evaluated) for base in bases))
    parts: list[list[Base]] = [[] for _ in range(shards)]
    for base, end in zip(bases, ends, strict=True):
        parts[min((end - 1) * shards // ends[-1], shards - 1)].append(base)
    return parts


def write_evaluation_tables(
    path: Path,
    seed: int,
    bases: Sequence[Base],
    *,
    shards: int = 4,
    workers: int = 1,
    row_group_rows: int = ROW_GROUP_ROWS,
    progress: Progress | None = None,
) -> None:
    """Write the shards of raw evaluations and the macro averages under `path`.

    Parameters
    ----------
    path : Path
        Folder of the suite.
    seed : int
        Seed of the suite.
    bases : sequence of Base
        Pretraining runs, in table order.
    shards : int
        Number of files.
    workers : int
        Number of processes; with more than one, a script needs the usual ``if __name__ == "__main__":`` guard.
    row_group_rows : int
        Rows in a row group.
    progress : callable, optional
        Called with the name of the step, the amount done and the total amount.
    """
    folder = path / _EVALUATIONS
    folder.mkdir(parents=True, exist_ok=True)
    parts = _split(seed, bases, shards)
    jobs = [
        (
            seed,
            part,
            folder / f"train-{k:05d}-of-{shards:05d}.parquet",
            folder / f".macro-{k}",
            row_group_rows,
        )
        for k, part in enumerate(parts)
    ]
    done = 0

    def report() -> None:
        if progress is not None:
            progress("evaluations", done, len(bases))

    report()
    if workers > 1:
        # Spawned, because a fork of a process with Arrow's threads may hang.
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            for count in pool.map(_write_complete_shard, *zip(*jobs, strict=True)):
                done += count
                report()
    else:
        for job in jobs:
            for _ in _write_shard(*job):
                done += 1
                report()
    target = folder / "macro_avg-00000-of-00001.parquet"
    with pq.ParquetWriter(target, _SCHEMA, compression="snappy", use_dictionary=_DICTIONARY) as writer:
        for job in jobs:
            with pq.ParquetFile(job[3]) as part_file:
                for group in range(part_file.num_row_groups):
                    writer.write_table(part_file.read_row_group(group))
            job[3].unlink()


def write_perplexity_table(path: Path, seed: int, bases: Sequence[Base]) -> None:
    """Write the perplexity table under `path`."""
    folder = path / _PERPLEXITIES
    folder.mkdir(parents=True, exist_ok=True)
    params: list[str] = []
    data: list[str] = []
    seeds: list[str] = []
    all_steps, all_rows = [], []
    for base in bases:
        values = base_values(seed, base)
        steps = values.checkpoints.perplexity
        rows = values.perplexity[values.rows(steps)]
        # The single conflicting row looks like another evaluation of the checkpoint with other numerics.
        rows[values.checkpoints.conflicting] *= 1.0009765625
        params += [base.size.name] * len(steps)
        data += [base.recipe.name] * len(steps)
        seeds += [base.seed.name] * len(steps)
        all_steps.append(steps)
        all_rows.append(rows)
    table = {
        "params": pa.array(params, pa.string()),
        "data": pa.array(data, pa.string()),
        "seed": pa.array(seeds, pa.string()),
        "step": pa.array(np.concatenate(all_steps)),
    }
    columns = np.concatenate(all_rows).T
    for name, column in zip(PERPLEXITY_SETS, columns, strict=True):
        table[f"eval/{name}-validation/Perplexity"] = pa.array(np.ascontiguousarray(column))
    # The index of a filtered data frame: increasing, with gaps.
    index = np.cumsum(random_stream(seed, "index").integers(1, 4, size=len(params)))
    table["__index_level_0__"] = pa.array(index)
    pq.write_table(pa.table(table), folder / "train-00000-of-00001.parquet", row_group_size=ROW_GROUP_ROWS)


#: Entries with a column in the wide table.
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
    """Return the steps of a run's rows and their values, (row, column); NaN where the raw tables have none."""
    values = base_values(seed, base)
    evaluated, perplexity = values.checkpoints.evaluated, np.unique(values.checkpoints.perplexity)
    steps = np.union1d(evaluated, perplexity)
    at = values.rows(steps)
    tasks = np.full((len(steps), len(_WIDE_TASKS), len(RAW_ENTRIES)), np.nan)
    tasks[:, _SPREAD] = values.tasks[at]
    tasks[:, _WIDE_TASKS.index("mmlu_average")] = values.tasks[at][:, _SUBJECTS].mean(axis=1)
    tasks[~np.isin(steps, evaluated)] = np.nan
    tasks[..., _missing_entries(base)] = np.nan
    # Repeated perplexity rows collapse to the first, as in `datadec`.
    shown = np.where(np.isin(steps, perplexity)[:, np.newaxis], values.perplexity[at], np.nan)
    cells = tasks[:, [_WIDE_TASKS.index(task) for task, _ in _CELLS], [ENTRY_INDEX[entry] for _, entry in _CELLS]]
    return steps, np.concatenate([shown, cells], axis=1)


def _details(base: Base) -> dict[str, Any]:
    """Return model details as `datadec` writes them, including nominal sizes that differ from the true ones."""
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
    """Return the perplexity table of bases, with one column per metric."""
    numbers = [_numbers(seed, base) for base in bases]
    counts = [len(steps) for steps, _ in numbers]

    def spread(values: Sequence[Any]) -> pa.Array:
        return pa.array([value for value, count in zip(values, counts, strict=True) for _ in range(count)])

    steps = np.concatenate([steps for steps, _ in numbers])
    tokens = [base.size.tokens_at(int(step)) for base, (own, _) in zip(bases, numbers, strict=True) for step in own]
    flops = [
        training_flops(base.size.n_params, base.size.tokens_at(int(step)))
        for base, (own, _) in zip(bases, numbers, strict=True)
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
    matrix = np.ascontiguousarray(np.concatenate([values for _, values in numbers]).T)
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
        Approximate number of rows in a row group.
    """
    folder = path / "datadecide"
    folder.mkdir(parents=True, exist_ok=True)
    schema = _wide_table(seed, bases[:1]).schema
    # Runs of one size and recipe stay together, so that their mean over seeds is computed from one table.
    groups: dict[tuple[str, str], list[Base]] = {}
    for base in bases:
        groups.setdefault((base.size.name, base.recipe.name), []).append(base)
    pending: list[pa.Table] = []
    means: list[pa.Table] = []
    with pq.ParquetWriter(folder / "full_eval.parquet", schema, use_dictionary=["params", "data"]) as writer:
        for group in groups.values():
            table = _wide_table(seed, group)
            pending.append(table)
            means.append(_seed_means(table))
            if sum(part.num_rows for part in pending) >= rows:
                writer.write_table(pa.concat_tables(pending))
                pending = []
        if pending:
            writer.write_table(pa.concat_tables(pending))
    pq.write_table(pa.concat_tables(means), folder / "mean_eval.parquet")


def _seed_means(table: pa.Table) -> pa.Table:
    keys = ["params", "data", "step", "tokens", "compute"]
    names = ["pile-valppl", *(f"{task}_primary_metric" for task in _WIDE_TASKS)]
    grouped = table.select([*keys, *names]).group_by(keys, use_threads=False)
    means = grouped.aggregate([(name, "mean") for name in names])
    means = means.rename_columns([name.removesuffix("_mean") for name in means.column_names])
    return means.take(pc.sort_indices(means["step"])).select([*keys, *names])
