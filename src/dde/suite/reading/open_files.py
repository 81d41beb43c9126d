"""Find the files of all tables of a suite, and open each file once, however many tables read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dde.cache.storage import Storage
from dde.errors import SourceError, list_names
from dde.sources.connection import Connection
from dde.suite.patterns import Template
from dde.suite.reading.arrow_tables import frame_content
from dde.suite.reading.contents import Content
from dde.suite.reading.declared_runs import Report
from dde.suite.reading.formats import PARSED_FORMATS, file_format, open_content, parse_file
from dde.suite.reading.result_files import FileKey, ParsedCache, ParsedNumbers, ResultsFile, with_keys
from dde.suite.reading.row_values import OpenedFile, run_together
from dde.suite.reading.suite_files import Listing, SuiteFile, read_versions
from dde.suite.table import Table

__all__ = ["FoundFile", "find_files", "frame_contents", "keep_results", "open_tables"]

#: A file, and the fields of its path.
FoundFile = tuple[SuiteFile, Mapping[str, str | int | float]]
# Name of a file, and the format that it is read as.
_Key = tuple[str, str]


def find_files(tables: Sequence[Table], place: Connection, suite: str, report: Report) -> list[list[FoundFile]]:
    """Return the files of each table below a folder or URL, sorted by path; none for frames.

    Parameters
    ----------
    tables : sequence of Table
    place : Connection
    suite : str
        Name of the suite, for errors.
    report : Report
        Receives patterns that match no file, and files and folders that no pattern matches.

    Raises
    ------
    SourceError
        When a folder is absent or can't be listed, or no pattern matches any file.
    """
    listing = Listing(place)
    found: list[list[FoundFile]] = [[] for _ in tables]
    names: dict[str, dict[int, Mapping[str, str | int | float]]] = {}
    for number, table in enumerate(tables):
        for pattern in table.patterns:
            matches = [(name, pattern.match(name)) for name in listing.find(pattern.glob())]
            for name, fields in matches:
                if fields is not None:
                    names.setdefault(name, {}).setdefault(number, fields)
            if all(fields is None for _, fields in matches):
                report.notes.append(f"the pattern {pattern.text!r} of tables[{number}] names no file")
    if not names:
        patterns = [pattern.text for table in tables for pattern in table.patterns]
        files, folders = listing.unmatched()
        beside = [*files, *(f"{folder}/" for folder in folders)]
        hint = f"hold {list_names(beside)}" if beside else "are empty"
        raise SourceError(
            f"{place.redacted!r} holds no file that matches a pattern of the suite {suite!r}, such as {patterns[0]!r}, "
            "so there is nothing to open. Pass the folder that the patterns are relative to, or correct them. "
            f"The folders of the patterns {hint}."
        )
    versions = read_versions(listing, names)
    for name in sorted(names):
        for number, of_path in names[name].items():
            found[number].append((listing.file(name, versions[name]), of_path))
    listing.take(names)
    for what, unmatched in zip(("files", "folders"), listing.unmatched(), strict=True):
        if unmatched:
            report.add_names(f"{what} that no pattern names", unmatched)
    return found


def open_tables(
    tables: Sequence[Table],
    files: Sequence[Sequence[FoundFile]],
    frames: Mapping[int, Content],
    cache: Storage | None,
    report: Report,
) -> list[list[OpenedFile]]:
    """Return the opened files of each table; reads headers, footers and schemas, and result files completely.

    Parameters
    ----------
    tables : sequence of Table
    files : sequence of sequences of FoundFile
        Files of each table.
    frames : mapping of int to Content
        Frames, by the number of their table.
    cache : Storage or None
        Storage for the numbers of result files.
    report : Report
        Receives notes on the content of result files that is not numbers.

    Raises
    ------
    SourceError, FormatError
        When a file can't be read, is damaged, or has another format; names the file.
    """
    keys: list[list[_Key]] = []
    distinct: dict[_Key, SuiteFile] = {}
    for table, of_table in zip(tables, files, strict=True):
        keys.append([(file.name, file_format(file.name, table.format)) for file, _ in of_table])
        for key, (file, _) in zip(keys[-1], of_table, strict=True):
            distinct.setdefault(key, file)
    parsed = _parse({key: file for key, file in distinct.items() if key[1] in PARSED_FORMATS}, cache, report)
    plain = [(key, file) for key, file in distinct.items() if key[1] not in PARSED_FORMATS]
    contents = dict(zip((key for key, _ in plain), _read_all(plain, open_content), strict=True))
    opened: list[list[OpenedFile]] = []
    for number, table in enumerate(tables):
        if number in frames:
            opened.append([OpenedFile(frames[number], None, {})])
            continue
        make_key = Template(table.key or "{task}/{metric}", f"tables[{number}].key").format
        # Most files of a suite have the same results, so their keys are made once.
        made: dict[tuple[str, ...], tuple[str, ...]] = {}
        of_files: list[OpenedFile] = []
        for key, (file, fields) in zip(keys[number], files[number], strict=True):
            if key in contents:
                of_files.append(OpenedFile(contents[key], file, fields))
                continue
            numbers = parsed[key]
            if key[1] == "lm_eval":
                if numbers.columns not in made:
                    made[numbers.columns] = with_keys(numbers, make_key, file.path).columns
                numbers = ParsedNumbers(made[numbers.columns], numbers.values, numbers.notes)
            of_files.append(OpenedFile(ResultsFile(file.path, numbers), file, fields))
        opened.append(of_files)
    return opened


def frame_contents(tables: Sequence[Table]) -> dict[int, Content]:
    """Return the columns of the frames by the number of their table; tables with the same frame share them."""
    found: dict[int, Content] = {}
    by_frame: dict[int, Content] = {}
    for number, table in enumerate(tables):
        if table.is_frame:
            key = id(table.files)
            if key not in by_frame:
                by_frame[key] = frame_content(table.files, f"the frame of tables[{number}]")
            found[number] = by_frame[key]
    return found


def keep_results(tables: Sequence[Table], files: Sequence[Sequence[FoundFile]], cache: Storage | None) -> bool:
    """Return whether some of the files are result files, whose numbers `open_tables` put into the cache.

    Raises
    ------
    SourceError
        When the cache does not have some of these numbers because it can't be written.
    """
    keys = {
        (file.name, file.version, kind)
        for table, of_table in zip(tables, files, strict=True)
        for file, _ in of_table
        if (kind := file_format(file.name, table.format)) in PARSED_FORMATS
    }
    if cache is None or not keys:
        return False
    if missing := len(keys - ParsedCache(cache).load().keys()):
        raise SourceError(
            f"the cache {cache} can't be written, so the numbers of {missing} result files were not cached. Free "
            "space, or pass cache_dir= with a folder or URL that can be written."
        )
    return True


def _parse(files: Mapping[_Key, SuiteFile], cache: Storage | None, report: Report) -> dict[_Key, ParsedNumbers]:
    """Return the numbers of result files, from the cache where it has their current versions."""
    if not files:
        return {}
    parsed_cache = None if cache is None else ParsedCache(cache)
    cached = {} if parsed_cache is None else parsed_cache.load()
    keys: dict[_Key, FileKey] = {key: (key[0], file.version, key[1]) for key, file in files.items()}
    missing = [(key, file) for key, file in files.items() if keys[key] not in cached]
    parsed = dict(zip((key for key, _ in missing), _read_all(missing, parse_file), strict=True))
    numbers = {key: parsed[key] if key in parsed else cached[keys[key]] for key in files}
    if parsed_cache is not None and parsed:
        # Entries of other files stay, as other suites may read them; older versions of these files are dropped.
        own = {(key[0], key[1]) for key in files}
        others = {key: of_file for key, of_file in cached.items() if (key[0], key[2]) not in own}
        parsed_cache.save({**others, **{keys[key]: of_file for key, of_file in numbers.items()}})
    report.notes += dict.fromkeys(note for of_file in numbers.values() for note in of_file.notes)
    return numbers


def _read_all(files: Sequence[tuple[_Key, SuiteFile]], read: Callable[[SuiteFile, str], Any]) -> list[Any]:
    """Call `read` with each file and its format, and return the results in order."""

    def read_one(item: tuple[_Key, SuiteFile]) -> Any:
        (_, kind), file = item
        with file.unchanged():
            return read(file, kind)

    return run_together(files, read_one, is_remote=any(file.is_remote for _, file in files))
