"""Determine the format of a suite's file, and open it with the reader of that format."""

from __future__ import annotations

import functools
from collections.abc import Callable

from dde.errors import FormatError, UnknownNameError, near_names
from dde.suite.field_checks import FORMATS
from dde.suite.reading.arrow_tables import ArrowFile, ParquetFile
from dde.suite.reading.contents import Content
from dde.suite.reading.result_files import ParsedNumbers, parse_results, parse_trainer_state
from dde.suite.reading.suite_files import SuiteFile
from dde.suite.reading.text_tables import CsvFile, JsonLines

__all__ = ["PARSED_FORMATS", "file_format", "open_content", "parse_file"]

_OPENERS: dict[str, Callable[[SuiteFile], Content]] = {
    "csv": CsvFile.open,
    "tsv": functools.partial(CsvFile.open, delimiter="\t"),
    "parquet": ParquetFile.open,
    "jsonl": JsonLines.open,
    "arrow": ArrowFile.open,
}
#: Formats whose files are parsed completely into numbers.
PARSED_FORMATS = ("lm_eval", "trainer_state")

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrow",
}
_PACKED = (".gz", ".bz2", ".zst")


def file_format(name: str, declared: str | None) -> str:
    """Return the format of a file: the one that its table declares, else the one that its name implies.

    Parameters
    ----------
    name : str
        Path of the file, for its suffix and for errors.
    declared : str or None
        ``format`` of the table.

    Raises
    ------
    UnknownNameError
        When the declared format does not exist.
    FormatError
        When no format is declared and the name implies none.

    Examples
    --------
    >>> file_format("runs/a.csv.gz", None), file_format("a/trainer_state.json", None), file_format("b.json", "lm_eval")
    ('csv', 'trainer_state', 'lm_eval')
    """
    if declared is not None:
        if declared not in FORMATS:
            raise UnknownNameError(
                f"There is no format {declared!r}, so the files of a table that declares it can't be read."
                f"{near_names(declared, FORMATS)} Formats are {', '.join(FORMATS)}."
            )
        return declared
    file = name.rpartition("/")[2].casefold()
    for packed in _PACKED:
        file = file.removesuffix(packed)
    if file == "trainer_state.json":
        return "trainer_state"
    for suffix, found in _SUFFIXES.items():
        if file.endswith(suffix):
            return found
    if file.endswith(".json"):
        raise FormatError(
            f"{name} may be JSON of any form, so its format is unknown. Declare format='lm_eval' for results of "
            "lm-evaluation-harness, 'trainer_state' for the state of a transformers trainer, or 'jsonl' for one object "
            "per line."
        )
    raise FormatError(
        f"The name of {name} implies no format, so it can't be read. "
        f"Declare format= in its table ({', '.join(FORMATS)}), or narrow its pattern to names that end in "
        f"{', '.join(_SUFFIXES)}."
    )


def open_content(file: SuiteFile, kind: str) -> Content:
    """Open a file of a format that is not in :data:`PARSED_FORMATS`; reads only the names of its columns.

    Raises
    ------
    SourceError
        When the file can't be read.
    FormatError
        When the file is damaged or of another format; names the file.
    """
    return _OPENERS[kind](file)


def parse_file(file: SuiteFile, kind: str) -> ParsedNumbers:
    """Return all numbers of a file of one of the :data:`PARSED_FORMATS`.

    Parameters
    ----------
    file : SuiteFile
    kind : {"lm_eval", "trainer_state"}

    Raises
    ------
    SourceError
        When the file can't be read.
    FormatError
        When the file is damaged or of another format; names the file.
    """
    return parse_trainer_state(file) if kind == "trainer_state" else parse_results(file)
