"""Numbers of parsed result files, kept in one file for a suite: opening it again parses what is new."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from dde.cache.kept_files import read_kept, write_kept
from dde.cache.places import Place
from dde.suite.result_files import ParsedNumbers

__all__ = ["ParsedCache"]

#: Raised whenever what is stored, or how it is parsed, changes its meaning.
_FORMAT = 1
_NAME = "parsed.npz"

#: Name of a file, its version, and the format that it was parsed as.
FileKey = tuple[str, str, str]


@dataclass(frozen=True)
class ParsedCache:
    """Numbers of parsed files of one suite.

    Parameters
    ----------
    folder : Place
    """

    folder: Place

    def load(self) -> dict[FileKey, ParsedNumbers]:
        """Return what is kept, by name, version and format of the file; nothing where nothing whole is."""
        found = read_kept(self.folder, _NAME)
        if found is None or found[0].get("format") != _FORMAT:
            return {}
        facts, arrays = found
        kept: dict[FileKey, ParsedNumbers] = {}
        try:
            names = facts["columns"]
            numbers, values = arrays["column"], arrays["value"]
            at = place = 0
            for name, version, kind, n_columns, n_rows, notes in facts["files"]:
                columns = tuple(names[i] for i in numbers[at : at + n_columns].tolist())
                size = n_columns * n_rows
                block = values[place : place + size].reshape(n_columns, n_rows)
                kept[name, version, kind] = ParsedNumbers(columns, block, tuple(notes))
                at, place = at + n_columns, place + size
        except (KeyError, IndexError, TypeError, ValueError):
            return {}
        return kept

    def save(self, files: Mapping[FileKey, ParsedNumbers]) -> None:
        """Keep what was parsed, in the place of what is there; where it can't be written, it is parsed again."""
        number: dict[str, int] = {}
        facts: list[list[Any]] = []
        columns: list[int] = []
        for (name, version, kind), parsed in files.items():
            facts.append([name, version, kind, *parsed.values.shape, list(parsed.notes)])
            columns += [number.setdefault(column, len(number)) for column in parsed.columns]
        values = [np.ascontiguousarray(parsed.values).ravel() for parsed in files.values()]
        arrays = {
            "column": np.array(columns, np.int32),
            "value": np.concatenate([np.empty(0), *values]),
        }
        with suppress(OSError):
            write_kept(
                self.folder,
                _NAME,
                {"title": "numbers of result files", "format": _FORMAT, "files": facts, "columns": list(number)},
                arrays,
            )
