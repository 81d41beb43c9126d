"""Cache of the row indexes and file kinds of tables, so that opening again reads neither keys nor footers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.cache.index_files import read_index_file, write_index_file
from dde.cache.storage import Storage
from dde.suite.datadecide.names import RECIPES, SEEDS, SIZES, Base
from dde.suite.datadecide.tables.evaluation_tables import EVALUATED, PERPLEXITY
from dde.suite.datadecide.tables.pretraining_tables import TableCheckpoints
from dde.suite.datadecide.tables.row_index import IndexHead, RowIndex

__all__ = ["FileKindsCache", "TableIndexCache"]

#: Version of the stored form; increased whenever its meaning changes.
_FORMAT = 5
# A process that opened the tables before they changed may still read their rows.
_KEEP_SECONDS = 600.0
_ROWS = ("base", "step", "task", "group_starts", "group_files")
_FILES, _CHECKPOINTS = "files.npz", "catalog.npz"


@dataclass(frozen=True)
class FileKindsCache:
    """Cache of the kinds of the files in one folder.

    Parameters
    ----------
    folder : Storage
    """

    folder: Storage

    def load(self) -> Mapping[str, tuple[str, str | None]]:
        """Return version and kind of each file, by path."""
        stored = read_index_file(self.folder, _FILES)
        if stored is None or stored[0].get("format") != _FORMAT:
            return {}
        try:
            return {path: (version, kind) for path, version, kind in stored[0]["files"]}
        except (KeyError, TypeError, ValueError):
            return {}

    def save(self, kinds: Mapping[str, tuple[str, str | None]]) -> None:
        """Store the kinds; a failure to write is ignored, as the files can be opened again."""
        files = [[path, version, kind] for path, (version, kind) in kinds.items()]
        with suppress(OSError):
            facts = {"title": "kinds of pretraining tables", "format": _FORMAT, "files": files}
            write_index_file(self.folder, _FILES, facts, {})


@dataclass(frozen=True)
class TableIndexCache:
    """The row indexes of one folder of tables, by the fingerprint of its files.

    Parameters
    ----------
    folder : Storage
        Has a small file with the checkpoints and the head of each table's index, which every opening reads,
        and for each table a file with its rows, which only reading metrics needs, and one with the names of its
        entries, which only listing metrics needs.
    """

    folder: Storage

    def load_checkpoints(self, fingerprint: str) -> tuple[TableCheckpoints, list[IndexHead]] | None:
        """Return the checkpoints and the head of each table's index; None without a complete cache file."""
        stored = read_index_file(self.folder, _CHECKPOINTS)
        if stored is None:
            return None
        facts, arrays = stored
        if (facts.get("format"), facts.get("fingerprint")) != (_FORMAT, fingerprint):
            return None
        try:
            recipes, sizes, seeds = _NAMES
            # Columns of names: a list per run would double the number of objects for the garbage collector.
            columns = zip(facts["recipe"], facts["params"], facts["seed"], strict=True)
            bases = tuple(Base(recipes[r], sizes[p], seeds[s]) for r, p, s in columns)
            checkpoints = TableCheckpoints(bases, arrays["base"], arrays["step"], arrays["sampled"])
            heads = [
                IndexHead(
                    tuple(bases[at] for at in table["bases"]),
                    tuple(table["tasks"]),
                    {reason: int(count) for reason, count in table["left_out"]},
                    tuple(tuple(facts["columns"][at]) for at in table["columns"]),
                    tuple(table["copies"]),
                )
                for table in facts["tables"]
            ]
        except (KeyError, IndexError, TypeError, ValueError):
            # For example, written when the suite had other names.
            return None
        return checkpoints, heads

    def load_rows(self, fingerprint: str, table: int) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays of a table's index, by name; None if they are incomplete."""
        stored = read_index_file(self.folder, _rows_name(fingerprint, table))
        if stored is None or stored[0].get("format") != _FORMAT or stored[1].keys() != set(_ROWS):
            return None
        return stored[1]

    def save(self, fingerprint: str, checkpoints: TableCheckpoints, indexes: list[RowIndex]) -> None:
        """Store the indexes of all tables; raises OSError if they can't be written."""
        # Rows before the checkpoints, so that a process that reads the checkpoints finds the rows.
        for k, index in enumerate(indexes):
            rows = {name: np.asarray(getattr(index, name)) for name in _ROWS}
            facts: dict[str, Any] = {"title": "rows of pretraining tables", "format": _FORMAT}
            write_index_file(self.folder, _rows_name(fingerprint, k), facts, rows)
        index_of = {base: i for i, base in enumerate(checkpoints.bases)}
        # Most files of a table have the same columns, which are stored once.
        columns: dict[tuple[str, ...], int] = {}
        facts = {
            "title": "checkpoints of pretraining tables",
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "recipe": [b.recipe.slug for b in checkpoints.bases],
            "params": [b.size.name for b in checkpoints.bases],
            "seed": [b.seed.name for b in checkpoints.bases],
            "tables": [
                {
                    "bases": [index_of[b] for b in index.bases],
                    "tasks": list(index.tasks),
                    "left_out": [[reason, count] for reason, count in index.left_out.items()],
                    "columns": [columns.setdefault(names, len(columns)) for names in index.columns],
                    "copies": list(index.copies),
                }
                for index in indexes
            ],
        }
        facts["columns"] = [list(names) for names in columns]
        sampled = np.full(len(checkpoints.step), EVALUATED | PERPLEXITY, np.uint8)
        arrays: dict[str, npt.NDArray[Any]] = {
            "base": checkpoints.base,
            "step": checkpoints.step,
            "sampled": sampled if checkpoints.sampled is None else checkpoints.sampled,
        }
        write_index_file(self.folder, _CHECKPOINTS, facts, arrays)
        current = {name(fingerprint, k) for name in (_rows_name, _entries_name) for k in range(len(indexes))}
        current |= {_FILES, _CHECKPOINTS}
        for entry in self.folder.names():
            if entry not in current:
                (self.folder / entry).remove_if_older(_KEEP_SECONDS)

    def load_entry_names(self, fingerprint: str, table: int) -> frozenset[str] | None:
        """Return the names of the entries in the rows of a table; None if they are not cached."""
        stored = read_index_file(self.folder, _entries_name(fingerprint, table))
        names = stored[0].get("entries") if stored is not None and stored[0].get("format") == _FORMAT else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        return frozenset(names)

    def save_entry_names(self, fingerprint: str, table: int, names: frozenset[str]) -> None:
        """Store the names of the entries in the rows of a table; raises OSError if they can't be written."""
        facts = {"title": "entries of pretraining tables", "format": _FORMAT, "entries": sorted(names)}
        write_index_file(self.folder, _entries_name(fingerprint, table), facts, {})


_NAMES = ({r.slug: r for r in RECIPES}, {p.name: p for p in SIZES}, {s.name: s for s in SEEDS})


def _rows_name(fingerprint: str, table: int) -> str:
    return f"rows-{fingerprint}-{table}.npz"


def _entries_name(fingerprint: str, table: int) -> str:
    return f"entries-{fingerprint}-{table}.npz"
