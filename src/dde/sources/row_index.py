"""Which run, step and task each row of a table holds: read from the key columns alone, never from metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dde.errors import near_names
from dde.names import (
    DEFAULT_METRICS,
    RECIPES,
    SEEDS,
    SIZES,
    Base,
    find_recipe,
    find_seed,
    find_size,
    wide_column_metric,
)
from dde.sources.table_files import TableFile, open_parquet

__all__ = ["IndexHead", "RowIndex", "read_row_index"]

_NAMES = ("params", "data", "seed", "task")


@dataclass(frozen=True, slots=True)
class IndexHead:
    """What a row index says of a table as a whole; attributes as those of :class:`RowIndex`."""

    bases: tuple[Base, ...]
    tasks: tuple[str, ...]
    left_out: dict[str, int]
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowIndex:
    """The keys of every row of a table, over all its files.

    Attributes
    ----------
    files : tuple of TableFile
        Files in the order of the rows.
    bases : tuple of Base
        Distinct runs, ordered by recipe, size, seed as the suite lists them.
    base : (row,) int32 array
        Index into `bases`; -1 where a name of the row is unknown.
    step : (row,) int64 array
        Training step; -1 where the row has none.
    task : (row,) int16 array
        Index into `tasks`; -1 where the table has no such column.
    tasks : tuple of str
        Distinct tasks.
    group_starts : (row group + 1,) int64 array
        First row of each row group, over all files; then the number of rows.
    group_files : (row group,) int32 array
        File of each row group.
    left_out : mapping of str to int
        Rows that can't be used, by reason.
    lacking : tuple of str
        Names of the default metrics that the table has no column for. In a table with a column of texts they lie
        in these.
    """

    files: tuple[TableFile, ...]
    bases: tuple[Base, ...]
    base: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]
    task: npt.NDArray[np.int16]
    tasks: tuple[str, ...]
    group_starts: npt.NDArray[np.int64]
    group_files: npt.NDArray[np.int32]
    left_out: dict[str, int]
    lacking: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.base)

    @property
    def head(self) -> IndexHead:
        """What it says of the table as a whole."""
        return IndexHead(self.bases, self.tasks, self.left_out, self.lacking)


def read_row_index(files: Sequence[TableFile]) -> RowIndex:
    """Return the keys of every row of `files`; reads the key columns alone."""
    left_out: Counter[str] = Counter()
    tables: list[pa.Table] = []
    starts, group_files = [0], []
    columns: dict[str, None] = {}
    for number, file in enumerate(files):
        # Names are few and repeat: as codes they take a tenth of the time, and of the memory.
        with open_parquet(file, read_dictionary=_NAMES) as parquet:
            keys = [c for c in ("params", "data", "seed", "step", "task") if c in parquet.schema_arrow.names]
            tables.append(parquet.read(columns=keys))
            columns.update(dict.fromkeys(parquet.schema_arrow.names))
            for group in range(parquet.num_row_groups):
                starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
                group_files.append(number)
    table = pa.concat_tables(tables, promote_options="permissive")
    params = _codes(table["params"], find_size, SIZES, [s.name for s in SIZES], "size", left_out)
    data = _codes(table["data"], find_recipe, RECIPES, [r.name for r in RECIPES], "recipe", left_out)
    seed = _codes(table["seed"], find_seed, SEEDS, [s.name for s in SEEDS], "seed", left_out)
    known = (params >= 0) & (data >= 0) & (seed >= 0)
    combined = (data * len(SIZES) + params) * len(SEEDS) + seed
    n_codes = len(RECIPES) * len(SIZES) * len(SEEDS)
    distinct = np.flatnonzero(np.bincount(combined[known], minlength=n_codes))
    place = np.full(n_codes, -1, np.int32)
    place[distinct] = np.arange(len(distinct))
    base = np.where(known, place[combined], np.int32(-1))
    bases = tuple(
        Base(
            RECIPES[c // (len(SIZES) * len(SEEDS))],
            SIZES[c // len(SEEDS) % len(SIZES)],
            SEEDS[c % len(SEEDS)],
        )
        for c in distinct.tolist()
    )
    step = _steps(table["step"], left_out)
    tasks: tuple[str, ...] = ()
    task = np.full(len(table), -1, np.int16)
    if "task" in table.column_names:
        encoded = _encoded(table["task"])
        tasks = tuple(encoded.dictionary.to_pylist())
        task = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int16)
    return RowIndex(
        tuple(files),
        bases,
        base,
        step,
        task,
        tasks,
        np.array(starts, np.int64),
        np.array(group_files, np.int32),
        dict(left_out),
        _lacking(columns),
    )


def _lacking(columns: Iterable[str]) -> tuple[str, ...]:
    held = {m.name for m in map(wide_column_metric, columns) if m is not None}
    return tuple(m.name for m in DEFAULT_METRICS if m.name not in held)


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return (
        (column if pa.types.is_dictionary(column.type) else column.dictionary_encode())
        .unify_dictionaries()
        .combine_chunks()
    )


def _codes(
    column: pa.ChunkedArray,
    find: Callable[[str], object | None],
    known: Sequence[object],
    names: Sequence[str],
    kind: str,
    left_out: Counter[str],
) -> npt.NDArray[np.int64]:
    """Return for each row the index into `known` of what its name means, -1 for an unknown name."""
    encoded = _encoded(column)
    indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    order = {id(item): index for index, item in enumerate(known)}
    meaning = np.full(len(encoded.dictionary) + 1, -1, np.int64)
    for code, name in enumerate(encoded.dictionary.to_pylist()):
        found = find(str(name))
        if found is not None:
            meaning[code] = order[id(found)]
        else:
            left_out[f"unknown {kind} {name!r}{near_names(name, names)}"] += int((indices == code).sum())
    if (indices < 0).any():
        left_out[f"rows without a {kind}"] += int((indices < 0).sum())
    codes: npt.NDArray[np.int64] = meaning[indices]
    return codes


def _steps(column: pa.ChunkedArray, left_out: Counter[str]) -> npt.NDArray[np.int64]:
    values = pc.cast(column, pa.float64()).fill_null(np.nan).to_numpy()
    whole = np.isfinite(values) & (values >= 0) & (np.floor(values) == values)
    if not whole.all():
        left_out["rows whose step is no whole number"] += int((~whole).sum())
    whole_steps: npt.NDArray[np.int64] = np.where(whole, values, -1).astype(np.int64)
    return whole_steps
