"""Index of the run, step and task of each row of a table, read from the key columns only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dde.array_types import Int64
from dde.errors import near_names
from dde.sources.arrow_columns import encode_texts, read_whole_numbers
from dde.sources.parquet_files import open_parquet
from dde.suite.datadecide.names import (
    RECIPES,
    SEEDS,
    SIZES,
    Base,
    find_recipe,
    find_seed,
    find_size,
    wide_column_metric,
)
from dde.suite.datadecide.tables.table_files import TableFile, open_unchanged, path_keys

__all__ = ["MAX_STEP", "IndexHead", "RowIndex", "join_keys", "key_runs", "key_steps", "read_row_index"]


_STEP_BITS = 32
#: Largest step that a key can hold. The longest run of the suite has 423,865 steps.
MAX_STEP = 2**_STEP_BITS - 1


def join_keys(runs: npt.NDArray[np.integer], steps: npt.NDArray[np.integer]) -> Int64:
    """Encode run and step as one number, ordered by run, then step.

    Parameters
    ----------
    runs : (row,) integer array
        At least 0, and below 2**31.
    steps : (row,) integer array
        From 0 to `MAX_STEP`. Readers of a store must leave out and count all others.

    Raises
    ------
    ValueError
        When a run or step is out of these bounds, as its key would be that of another run.

    Examples
    --------
    >>> keys = join_keys(np.array([0, 1]), np.array([1250, 0]))
    >>> key_runs(keys).tolist(), key_steps(keys).tolist()
    ([0, 1], [1250, 0])
    """
    for numbers, most in ((runs, 2 ** (63 - _STEP_BITS) - 1), (steps, MAX_STEP)):
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) > most):
            raise ValueError(f"a run or step is outside of 0 to {most}")
    keys = runs.astype(np.int64) << _STEP_BITS
    keys |= steps.astype(np.int64, copy=False)
    return keys


def key_runs(keys: Int64) -> Int64:
    """Return the run of each key."""
    runs: Int64 = keys >> _STEP_BITS
    return runs


def key_steps(keys: Int64) -> Int64:
    """Return the step of each key."""
    steps: Int64 = keys & MAX_STEP
    return steps


_NAMES = ("params", "data", "seed", "task")
# For each key column: kind of its values, lookup by name, all values of the suite, and their names.
_SUITE: Mapping[str, tuple[str, Callable[[str], object | None], Sequence[object], Sequence[str]]] = {
    "params": ("size", find_size, SIZES, [s.name for s in SIZES]),
    "data": ("recipe", find_recipe, RECIPES, [r.name for r in RECIPES]),
    "seed": ("seed", find_seed, SEEDS, [s.name for s in SEEDS]),
}
# Number of unknown names that are listed, and number of characters shown of a long name.
_MOST_NAMED, _LONGEST_SHOWN = 20, 60


@dataclass(frozen=True, slots=True)
class IndexHead:
    """The attributes of a :class:`RowIndex` that describe the table as a whole, without its rows."""

    bases: tuple[Base, ...]
    tasks: tuple[str, ...]
    left_out: dict[str, int]
    columns: tuple[tuple[str, ...], ...] = ()
    copies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowIndex:
    """The keys of every row of a table, over all its files.

    Attributes
    ----------
    files : tuple of TableFile
        Files in the order of the rows.
    bases : tuple of Base
        Distinct runs, by recipe, size and seed in the order of the suite.
    base : (row,) int32 array
        Index into `bases`; -1 where a name of the row is unknown.
    step : (row,) int64 array
        Training step, at most `MAX_STEP`; -1 where the row has none.
    task : (row,) int16 or int32 array
        Index into `tasks`, of 32 bits if there are many; -1 where a row has none.
    tasks : tuple of str
        Distinct tasks.
    group_starts : (row group + 1,) int64 array
        First row of each row group, over all files; then the number of rows.
    group_files : (row group,) int32 array
        File of each row group.
    left_out : mapping of str to int
        Number of unusable rows, by reason.
    columns : tuple of tuple of str
        Names of the columns of each file that are metrics. A table with a column of texts has its metrics in the texts.
    copies : tuple of str
        Paths of files that were not indexed, as they only repeat rows of others.
    """

    files: tuple[TableFile, ...]
    bases: tuple[Base, ...]
    base: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]
    task: npt.NDArray[np.int16] | npt.NDArray[np.int32]
    tasks: tuple[str, ...]
    group_starts: npt.NDArray[np.int64]
    group_files: npt.NDArray[np.int32]
    left_out: dict[str, int]
    columns: tuple[tuple[str, ...], ...] = ()
    copies: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.base)

    @property
    def head(self) -> IndexHead:
        """The attributes that describe the table as a whole."""
        return IndexHead(self.bases, self.tasks, self.left_out, self.columns, self.copies)


def read_row_index(files: Sequence[TableFile]) -> RowIndex:
    """Return the keys of every row of `files`; reads only the key columns.

    Raises
    ------
    SourceError
        When a file can't be read, or has changed since it was found.
    FormatError
        When a key column has an unsuitable type; names the file and column.
    """
    starts, group_files = [0], []
    columns: list[tuple[str, ...]] = []
    keys = _Keys()
    for number, file in enumerate(files):
        # Names repeat a lot: dictionary-encoded, they take a tenth of the time and memory.
        with open_unchanged(file, read_dictionary=_NAMES) as parquet:
            names = parquet.schema_arrow.names
            footer = parquet.metadata
            table = _read_keys(file, parquet, [c for c in (*_NAMES, "step") if c in names])
            columns.append(tuple(name for name in names if wide_column_metric(name) is not None))
            for group in range(footer.num_row_groups):
                starts.append(starts[-1] + footer.row_group(group).num_rows)
                group_files.append(number)
            keys.add(file, table, footer.num_rows)
    params, data, seed = (keys.codes[name] for name in ("params", "data", "seed"))
    known = (params >= 0) & (data >= 0) & (seed >= 0)
    combined = (data.astype(np.int32) * len(SIZES) + params) * len(SEEDS) + seed
    n_codes = len(RECIPES) * len(SIZES) * len(SEEDS)
    distinct = np.flatnonzero(np.bincount(combined[known], minlength=n_codes))
    new_code = np.full(n_codes, -1, np.int32)
    new_code[distinct] = np.arange(len(distinct))
    base = np.where(known, new_code[combined], np.int32(-1))
    bases = tuple(
        Base(
            RECIPES[c // (len(SIZES) * len(SEEDS))],
            SIZES[c // len(SEEDS) % len(SIZES)],
            SEEDS[c % len(SEEDS)],
        )
        for c in distinct.tolist()
    )
    return RowIndex(
        tuple(files),
        bases,
        base,
        keys.codes["step"],
        keys.codes["task"],
        tuple(keys.tasks),
        np.array(starts, np.int64),
        np.array(group_files, np.int32),
        keys.left_out(),
        tuple(columns),
    )


def _read_keys(file: TableFile, parquet: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    try:
        return parquet.read(columns=columns)
    except (pa.ArrowNotImplementedError, OSError):
        # Arrow can't dictionary-encode some encodings, such as DELTA_BYTE_ARRAY. Damaged files fail again here.
        with open_parquet(file, metadata=parquet.metadata) as plain:
            return plain.read(columns=columns)


class _Keys:
    """Collector of the keys of rows as numbers, file by file, and of values that are not keys."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        self._parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in (*_NAMES, "step")}
        self._unknown: dict[str, Counter[str]] = {kind: Counter() for kind, *_ in _SUITE.values()}
        self._left_out: Counter[str] = Counter()

    @cached_property
    def codes(self) -> dict[str, npt.NDArray[Any]]:
        """For each row, index into the suite's sizes, recipes and seeds and into `tasks`, and step; -1 for none."""
        return {name: np.concatenate(parts) if len(parts) > 1 else parts[0] for name, parts in self._parts.items()}

    def add(self, file: TableFile, table: pa.Table, n_rows: int) -> None:
        """Add the rows of a file; keys without a column come from its path."""
        of_path = path_keys(file.path)
        for name, parts in self._parts.items():
            where = file.where(name)
            if name in table.column_names:
                column = table[name]
            elif name in of_path:
                column = pa.DictionaryArray.from_arrays(np.zeros(n_rows, np.int32), pa.array([of_path[name]]))
            else:
                parts.append(np.full(n_rows, -1, np.int16))
                continue
            if name == "step":
                steps = read_whole_numbers(column, where, most=MAX_STEP)
                self._left_out.update(
                    {f"rows whose step {why}": int(rows.sum()) for why, rows in steps.problems.items()}
                )
                parts.append(steps.values)
                continue
            codes, texts = encode_texts(column, where, numbers=True)
            self._count_nulls("task" if name == "task" else _SUITE[name][0], codes)
            meaning = self._tasks_of(texts) if name == "task" else self._suite_of(name, texts, codes)
            # Small integers save memory, as there is one per row.
            kind = np.int16 if max(meaning, default=0) < 2**15 else np.int32
            parts.append(np.array([*meaning, -1], kind)[codes])

    def _count_nulls(self, kind: str, codes: npt.NDArray[Any]) -> None:
        if count := int(np.count_nonzero(codes < 0)):
            self._left_out[f"rows without a {kind}"] += count

    def _tasks_of(self, names: Sequence[str]) -> list[int]:
        return [self.tasks.setdefault(name, len(self.tasks)) for name in names]

    def _suite_of(self, column: str, names: Sequence[str], codes: npt.NDArray[Any]) -> list[int]:
        """Return the index into the suite's list for each name, -1 for an unknown one."""
        kind, find, known, _ = _SUITE[column]
        order = {id(item): index for index, item in enumerate(known)}
        items = [find(name) for name in names]
        meaning = [-1 if item is None else order[id(item)] for item in items]
        if -1 in meaning:
            counts = np.bincount(codes[codes >= 0], minlength=len(names)).tolist()
            for name, number, count in zip(names, meaning, counts, strict=True):
                if number < 0:
                    self._unknown[kind][name] += count
        return meaning

    def left_out(self) -> dict[str, int]:
        """Return the number of unusable rows by reason; rare unknown names are counted together."""
        left_out: Counter[str] = Counter()
        for kind, _, _, names in _SUITE.values():
            unknown = self._unknown[kind]
            most = unknown.most_common(_MOST_NAMED)
            for name, count in most:
                shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
                left_out[f"unknown {kind} {shown!r}{near_names(shown, names)}"] += count
            if len(unknown) > len(most):
                left_out[f"unknown {kind}, {len(unknown) - len(most):,} other names"] += unknown.total() - sum(
                    count for _, count in most
                )
        return dict(left_out + self._left_out)
