"""Writer of the raw pretraining tables: evaluation shards, macro averages and perplexities.

Rows are ordered by size, recipe, seed, step and task, so every run is one stretch of rows; shards cut the
list of runs into parts of about the same number of rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dde.suite.datadecide.names import PERPLEXITY_SETS, Base, training_flops
from dde.tutorial.base_values import MACRO_TASKS, BaseValues, base_values, entries_of, macro_values
from dde.tutorial.checkpoints import checkpoints_of
from dde.tutorial.curves import random_stream
from dde.tutorial.tasks import ENTRY_INDEX, NO_UNCONDITIONED, RAW_ENTRIES, RAW_TASKS, UNCONDITIONED_ENTRIES

__all__ = ["ROW_GROUP_ROWS", "write_evaluation_tables", "write_perplexity_table"]

Progress = Callable[[str, int, int], None]

#: Rows of raw evaluations in a row group: about 4 MB of text, one or a few runs.
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
# Texts of metrics never repeat: a dictionary of them would be built for nothing.
_DICTIONARY = ["params", "data", "task", "seed", "chinchilla"]
# No bits_per_byte_corr in the macro averages; zeros stand for what else is missing.
_MACRO_ENTRIES = tuple(entry for entry in RAW_ENTRIES if entry != "bits_per_byte_corr")


@functools.cache
def _dict_template(entries: tuple[str, ...]) -> str:
    return "{" + ", ".join(f"{entry!r}: %r" for entry in entries) + "}"


def _dict_texts(seed: int, values: BaseValues, at: npt.NDArray[np.intp]) -> list[str]:
    """Return the repr of every row's dict, by step and task."""
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
    """Return a few values that are no ordinary numbers, in entries that no primary metric repeats."""
    stream = random_stream(seed, "odd", values.base.label)
    # About one run in three has them; draws are made in any case, so that streams stay aligned.
    has, row, task = stream.random(), stream.integers(rows, size=3), stream.integers(len(RAW_TASKS), size=3)
    odd: dict[str, list[tuple[int, str, float | None]]] = {}
    if has < 0.34:
        for k, (entry, value) in enumerate(
            (("margin_per_char", None), ("total_prob_per_char", float("nan")), ("total_prob", float("inf")))
        ):
            odd.setdefault(RAW_TASKS[task[k]], []).append((int(row[k]), entry, value))
    return odd


def _columns(values: BaseValues, tasks: Sequence[str], texts: list[str]) -> pa.Table:
    base, steps = values.base, values.checkpoints.evaluated
    n, width = len(steps), len(tasks)
    tokens = steps * base.size.tokens_per_step
    # FLOPs pass 2**63; exact integers first, rounded once.
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
        self._rows, self._held, self._count = rows, list[pa.Table](), 0

    def add(self, table: pa.Table) -> None:
        if self._count and self._count + table.num_rows > self._rows:
            self.flush()
        self._held.append(table)
        self._count += table.num_rows

    def flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held), row_group_size=self._rows)
        self._held, self._count = [], 0

    def close(self) -> None:
        self.flush()
        self._writer.close()


def _write_shard(seed: int, bases: Sequence[Base], shard: Path, macro: Path, rows: int) -> Iterator[None]:
    """Write one shard and its part of the macro averages; yields after each base."""
    writer, averages = _Rows(shard, rows), _Rows(macro, rows)
    template = "{" + ", ".join(f'"{entry}": %r' for entry in _MACRO_ENTRIES) + "}"
    columns = [ENTRY_INDEX[entry] for entry in _MACRO_ENTRIES]
    for base in bases:
        values = base_values(seed, base)
        at = values.rows(values.checkpoints.evaluated)
        writer.add(_columns(values, RAW_TASKS, _dict_texts(seed, values, at)))
        lacking = [ENTRY_INDEX[entry] for entry in RAW_ENTRIES if entry not in entries_of(base)]
        means = macro_values(values.tasks[at])
        means[..., lacking] = 0.0
        texts = [template % tuple(row) for row in means[..., columns].reshape(-1, len(columns)).tolist()]
        averages.add(_columns(values, MACRO_TASKS, texts))
        yield
    writer.close()
    averages.close()


def _write_whole_shard(seed: int, bases: Sequence[Base], shard: Path, macro: Path, rows: int) -> int:
    for _ in _write_shard(seed, bases, shard, macro, rows):
        pass
    return len(bases)


def _cut(seed: int, bases: Sequence[Base], parts: int) -> list[list[Base]]:
    ends = list(accumulate(len(checkpoints_of(seed, base).evaluated) for base in bases))
    found: list[list[Base]] = [[] for _ in range(parts)]
    for base, end in zip(bases, ends, strict=True):
        found[min((end - 1) * parts // ends[-1], parts - 1)].append(base)
    return found


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
        Processes; with more than one, a script needs the usual ``if __name__ == "__main__":`` guard.
    row_group_rows : int
        Rows in a row group.
    progress : callable, optional
        Called with what is being done, how much is done and how much there is.
    """
    folder = path / _EVALUATIONS
    folder.mkdir(parents=True, exist_ok=True)
    parts = _cut(seed, bases, shards)
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

    def say() -> None:
        if progress is not None:
            progress("evaluations", done, len(bases))

    say()
    if workers > 1:
        # Fresh processes: a fork of a process with Arrow's threads may hang.
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            for count in pool.map(_write_whole_shard, *zip(*jobs, strict=True)):
                done += count
                say()
    else:
        for job in jobs:
            for _ in _write_shard(*job):
                done += 1
                say()
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
    steps, found = [], []
    for base in bases:
        values = base_values(seed, base)
        wanted = values.checkpoints.perplexity
        rows = values.perplexity[values.rows(wanted)]
        # The one conflicting row: as if the checkpoint had been evaluated again with other numerics.
        rows[values.checkpoints.conflicting] *= 1.0009765625
        params += [base.size.name] * len(wanted)
        data += [base.recipe.name] * len(wanted)
        seeds += [base.seed.name] * len(wanted)
        steps.append(wanted)
        found.append(rows)
    table = {
        "params": pa.array(params, pa.string()),
        "data": pa.array(data, pa.string()),
        "seed": pa.array(seeds, pa.string()),
        "step": pa.array(np.concatenate(steps)),
    }
    columns = np.concatenate(found).T
    for name, column in zip(PERPLEXITY_SETS, columns, strict=True):
        table[f"eval/{name}-validation/Perplexity"] = pa.array(np.ascontiguousarray(column))
    # What is left of a data frame's index after rows were filtered away: rising, with gaps.
    index = np.cumsum(random_stream(seed, "index").integers(1, 4, size=len(params)))
    table["__index_level_0__"] = pa.array(index)
    pq.write_table(pa.table(table), folder / "train-00000-of-00001.parquet", row_group_size=ROW_GROUP_ROWS)
