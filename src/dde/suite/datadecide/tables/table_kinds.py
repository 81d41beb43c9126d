"""What a parquet file holds of the suite, by its columns and rows; its name counts where these leave it open."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Literal, cast, get_args
from urllib.parse import unquote

import pyarrow.parquet as pq

from dde.errors import FormatError
from dde.sources.arrow_columns import encode_texts
from dde.suite.datadecide.names import MMLU_SUBJECTS, PLAIN_TASKS, wide_column_metric

__all__ = ["AGGREGATED_TASKS", "TableKind", "file_family", "path_keys", "probe_kind", "settle_kinds"]

TableKind = Literal["raw", "macro", "perplexity", "wide"]

#: Tasks that macro averages alone have, and the tasks of the train shards that each is the mean of.
AGGREGATED_TASKS: Mapping[str, tuple[str, ...]] = {
    "mmlu": MMLU_SUBJECTS,
    "olmes_10_macro_avg": (*PLAIN_TASKS, *MMLU_SUBJECTS),
}

# What is found of a file, beside its kind.
_OPEN, _LACKS = "open", "lacks "
_RUN_KEYS = ("params", "data", "seed", "step")
_SUBJECTS = frozenset(MMLU_SUBJECTS)
_ROWS_AT_ONCE = 1024
# Hive's folders: params=150M/task=arc_easy/part-0.parquet. Columns of a folder's name are not in its files.
_PARTITION = re.compile(r"(?P<key>params|data|seed|step|task)=(?P<value>[^/]*)")
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# Numbers of shards and hashes of their content, which programs put into names.
_NUMBERS = re.compile(r"[0-9a-f]{8,}|[0-9a-f]+(?:-[0-9a-f]+){4}|\d+")


def path_keys(path: str) -> dict[str, str | None]:
    """Return the keys of a table that the folders of its path name, as Hive, Spark and dask write them.

    Examples
    --------
    >>> path_keys("tables/params=4M/data=Dolma1.7%20%28no code%29/part-0.parquet")
    {'params': '4M', 'data': 'Dolma1.7 (no code)'}
    """
    matches = (_PARTITION.fullmatch(part) for part in PurePosixPath(path).parts[:-1])
    values = {m["key"]: unquote(m["value"]) for m in matches if m is not None}
    return {key: None if value == _NULL_PARTITION else value for key, value in values.items()}


def file_family(path: str) -> tuple[str, str]:
    """Return folder and name of a file without the numbers and hashes in which those of one writing differ.

    Examples
    --------
    >>> file_family("data/train-00001-of-00004-ffee11223344aabb.parquet")
    ('data', 'train-#-of-#-#')
    """
    pure = PurePosixPath(path)
    return str(pure.parent), _NUMBERS.sub("#", pure.stem)


def probe_kind(parquet: pq.ParquetFile, path: str) -> str | None:
    """Return what a file tells of its kind.

    Parameters
    ----------
    parquet : pyarrow.parquet.ParquetFile
    path : str
        Where the file is, without credentials.

    Returns
    -------
    str or None
        The kind, where columns and tasks tell it. ``"open"`` where its rows may be train shards or macro averages.
        ``"lacks"`` and names of columns, where these keep a table of metrics from being read. None for a table that
        is none of the suite.

    Raises
    ------
    FormatError
        When two columns have one name.
    """
    counts = Counter(parquet.schema_arrow.names)
    columns = {*counts, *path_keys(path)}
    # A table with run ids is somebody's export, perhaps our own: not a table of the suite.
    if "run_id" in columns:
        return None
    is_dict = {"task", "metrics"} <= columns
    lacking = [key for key in _RUN_KEYS if key not in columns]
    if lacking:
        return f"{_LACKS}{', '.join(lacking)}" if is_dict and len(lacking) < len(_RUN_KEYS) else None
    for name in (*_RUN_KEYS, "task", "metrics"):
        if counts[name] > 1:
            raise FormatError(
                f"{path} has {counts[name]} columns named {name!r}, so which of them counts is unknown. "
                "Rename or remove the others."
            )
    if is_dict:
        return _tell_by_tasks(parquet, path) or _OPEN
    metric_columns = [c for c in columns - {*_RUN_KEYS} if wide_column_metric(c) is not None]
    if any(c.startswith("eval/") for c in metric_columns):
        return "perplexity"
    return "wide" if metric_columns else None


def settle_kinds(found: Mapping[str, str | None]) -> tuple[dict[str, TableKind], list[str]]:
    """Return the kind of each table, and a sentence for each that lacks columns.

    Some rows fit train shards and macro averages alike. Their file is what the files are that were written along with
    it; else what its name says; else a train shard.

    Parameters
    ----------
    found : mapping of str to str or None
        What :func:`probe_kind` returned, by path.
    """
    told = {path: kind for path, kind in found.items() if kind is not None}
    kinds = {path: cast("TableKind", kind) for path, kind in told.items() if kind in get_args(TableKind)}
    families: dict[tuple[str, str], set[TableKind]] = {}
    for path, decided in kinds.items():
        families.setdefault(file_family(path), set()).add(decided)
    notes: list[str] = []
    for path, kind in told.items():
        if kind == _OPEN:
            siblings = families.get(file_family(path), set())
            kinds[path] = next(iter(siblings)) if len(siblings) == 1 else _kind_by_name(path)
        elif kind.startswith(_LACKS):
            notes.append(f"{path}: without the column {kind.removeprefix(_LACKS)}, rows are of no known run")
    return kinds, notes


def _kind_by_name(path: str) -> TableKind:
    return "macro" if any("macro" in part.casefold() for part in PurePosixPath(path).parts[-2:]) else "raw"


def _tell_by_tasks(parquet: pq.ParquetFile, path: str) -> TableKind | None:
    """Return the kind that the tasks of the first row group that tells it are of."""
    names = parquet.schema_arrow.names
    if "task" not in names:
        return _kind_of_tasks({path_keys(path)["task"]})
    leaf = next(k for k in range(len(parquet.schema)) if parquet.schema.column(k).path.partition(".")[0] == "task")
    for group in range(parquet.num_row_groups):
        statistics = parquet.metadata.row_group(group).column(leaf).statistics
        if statistics is not None and statistics.has_min_max and isinstance(statistics.min, str):
            least, greatest = statistics.min, statistics.max
            if not any(least <= task <= greatest for task in (*AGGREGATED_TASKS, *MMLU_SUBJECTS)):
                continue
        # The first rows mostly tell.
        batches = parquet.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=["task"], use_threads=False)
        for batch in batches:
            names_of_tasks = encode_texts(batch.column(0), f"the column 'task' of {path}", numbers=True)[1]
            if kind := _kind_of_tasks(names_of_tasks):
                return kind
    return None


def _kind_of_tasks(tasks: Iterable[str | None]) -> TableKind | None:
    tasks = set(tasks)
    if not tasks.isdisjoint(_SUBJECTS):
        return "raw"
    return "macro" if not tasks.isdisjoint(AGGREGATED_TASKS) else None
