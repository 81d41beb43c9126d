"""Suites as plain data, as TOML files and as digests."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from dde.errors import FormatError, SourceError, UnknownNameError, near_names
from dde.suite.metric import Metric
from dde.suite.patterns import field_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "AT_KINDS",
    "AT_WORDS",
    "as_frame",
    "digest",
    "frame_columns",
    "function_name",
    "holds_frame",
    "is_frame",
    "same",
    "settle",
    "split_parents",
    "suite_from_dict",
    "suite_from_toml",
    "suite_to_toml",
    "table_from_dict",
    "to_dict",
    "within",
]

_Suite = TypeVar("_Suite")
_Table = TypeVar("_Table", bound="DataclassInstance")


def digest(declared: dict[str, Any]) -> str:
    """Return a short digest of a suite, given as the result of `to_dict`.

    A function is represented by its name and code, a data frame by its values.
    """
    text = json.dumps(_digestible_fields(declared), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def function_name(function: Any) -> str:
    """Return module and qualified name of a function, of what a partial calls, or of the type of a callable object."""
    function = function.func if isinstance(function, functools.partial) else function
    made = function if hasattr(function, "__qualname__") else type(function)
    return f"{made.__module__}.{made.__qualname__}"


def _digestible_fields(declared: dict[str, Any]) -> list[Any]:
    """Return the fields of a suite or of a table as plain data; only these may be data frames."""
    fields: list[Any] = []
    for key, value in declared.items():
        if holds_frame(key, value):
            fields.append([key, {"frame": _frame_digest(value)}])
        elif key == "tables":
            fields.append([key, [_digestible_fields(table) for table in value]])
        else:
            fields.append([key, _digestible(value)])
    return fields


def _digestible(value: Any) -> Any:
    if isinstance(value, dict):
        return [[key, _digestible(inner)] for key, inner in value.items()]
    if isinstance(value, list):
        return [_digestible(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return {"function": [function_name(value), _function_digest(value)]}


def _function_digest(function: Any) -> str:
    """Return a digest of the code of a function and of what it closes over."""
    if isinstance(function, functools.partial):
        parts = [_function_digest(function.func), repr(function.args), repr(sorted(function.keywords.items()))]
    elif isinstance(function, types.FunctionType):
        cells = [repr(cell.cell_contents) for cell in function.__closure__ or ()]
        parts = [*_code_parts(function.__code__), repr(function.__defaults__), repr(function.__kwdefaults__), *cells]
    else:
        parts = [function_name(function)]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _code_parts(code: types.CodeType) -> list[str]:
    parts = [code.co_code.hex(), *code.co_names]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            parts += _code_parts(constant)
        else:
            # The order of a set differs between processes.
            parts.append(repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant))
    return parts


def _frame_digest(frame: Any) -> str:
    """Return a digest of the names and values of a data frame."""
    table = as_frame(frame)
    made = hashlib.sha256(repr([(str(c), str(t)) for c, t in table.dtypes.items()]).encode())
    for position in range(table.shape[1]):
        column = table.iloc[:, position]
        try:
            hashes = pd.util.hash_pandas_object(column, index=False)
        except TypeError:
            # Values without a hash, such as lists.
            hashes = pd.util.hash_pandas_object(column.map(repr), index=False)
        made.update(hashes.to_numpy().tobytes())
    return made.hexdigest()[:16]


#: Words for the branch point of a run.
AT_WORDS = ("end", "first_row", "checkpoint")
#: Units of a rule for the branch point.
AT_KINDS = ("step", "tokens", "cumulative")

# Fields whose lists become tuples.
_SEQUENCES = ("files", "tables", "checkpoints")


@contextmanager
def within(path: str) -> Iterator[None]:
    """Prefix errors of a declaration with their position in it."""
    try:
        yield
    except (FormatError, UnknownNameError) as error:
        raise type(error)(f"{path}{error}") from error.__cause__


def is_frame(files: object) -> bool:
    """Return whether the files of a table are a data frame, not patterns of paths.

    Examples
    --------
    >>> is_frame({"step": [0, 1]}), is_frame("a.csv"), is_frame(["a.csv", "b.csv"])
    (True, False, False)
    """
    if isinstance(files, (list, tuple)):
        return bool(files) and all(isinstance(f, Mapping) for f in files)
    return isinstance(files, Mapping) or any(
        hasattr(files, a) for a in ("__arrow_c_stream__", "column_names", "columns")
    )


def frame_columns(frame: Any) -> list[str]:
    """Return the names of the columns of a data frame."""
    if isinstance(frame, Mapping):
        return [str(c) for c in frame]
    if isinstance(frame, (list, tuple)):
        return list(dict.fromkeys(str(c) for row in frame for c in row))
    if hasattr(frame, "column_names"):  # pyarrow's tables
        return [str(c) for c in frame.column_names]
    if hasattr(frame, "columns"):
        return [str(c) for c in frame.columns]
    if hasattr(frame, "__arrow_c_stream__"):
        return list(pa.RecordBatchReader.from_stream(frame).schema.names)
    raise FormatError(
        f"files: a {type(frame).__name__} is not a data frame. Take one of pandas, polars, DuckDB or pyarrow, a "
        "mapping of columns, or a list of mappings."
    )


def as_frame(frame: Any) -> pd.DataFrame:
    """Return any data frame as one of pandas."""
    if isinstance(frame, pd.DataFrame):
        return frame
    if isinstance(frame, (list, tuple, dict)):
        return pd.DataFrame(frame)
    made: pd.DataFrame = pa.table(frame).to_pandas()
    return made


def settle(declared: DataclassInstance, table: type[DataclassInstance] | None = None) -> None:
    """Convert the fields of a suite or a table to plain data, in place; `table` is the class of tables."""
    for spec in dataclasses.fields(declared):
        value = getattr(declared, spec.name)
        if spec.name == "metrics":
            value = None if value is None else _as_metrics(value)
        elif spec.name == "tables":
            assert table is not None
            value = _as_tables(value, table)
        elif isinstance(value, pa.RecordBatchReader):
            # A stream can be read only once, but columns, digest and rows are needed.
            value = value.read_all()
        elif holds_frame(spec.name, value) or callable(value):
            continue
        elif spec.name == "checkpoints" and isinstance(value, str):
            value = (value,)
        else:
            value = _as_plain(value)
            if spec.name in _SEQUENCES and isinstance(value, list):
                value = tuple(value)
        object.__setattr__(declared, spec.name, value)


def split_parents(parent: Any, at: Any) -> list[tuple[str, Any]]:
    """Return template and branch of each parent.

    Raises
    ------
    FormatError
        A parent is neither a template nor ``[template, at]``.
    """
    if parent is None:
        return []
    if isinstance(parent, str):
        return [(parent, at)]
    if not isinstance(parent, (list, tuple)) or not parent:
        raise FormatError(f"parent: a parent is a template, or a list of them, and {parent!r} is neither.")
    pairs: list[tuple[str, Any]] = []
    for index, one in enumerate(parent):
        if isinstance(one, str) and one not in AT_WORDS:
            pairs.append((one, at))
        elif isinstance(one, (list, tuple)) and len(one) == 2 and isinstance(one[0], str):
            pairs.append((one[0], one[1]))
        else:
            raise FormatError(
                f"parent[{index}]: {one!r} is not a parent. A parent is a template, or [template, at]; several are "
                'a list of them: ["a", "b"] or [["a", "end"], ["a", {"step": 10}]].'
            )
    return pairs


def same(a: Any, b: Any, key: str = "") -> bool:
    """Return whether two plain forms are equal; frames are equal if they are the same object."""
    if a is b:
        return True
    if isinstance(a, dict) and isinstance(b, dict):
        # The order of patterns counts, as the first that matches is used.
        keys = list(a) == list(b) if key == "metrics" else set(a) == set(b)
        return keys and all(same(a[k], b[k], k) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and isinstance(a, (str, int, float, bool)) and a == b


def table_from_dict(cls: type[_Table], declared: Any, what: str) -> _Table:
    """Return the table that a mapping declares."""
    _check_keys(declared, cls, what)
    if "files" not in declared:
        raise FormatError("files: the table has no files. Declare a pattern of paths, or a data frame.")
    return cls(**declared)


def suite_from_dict(cls: type[_Suite], table: type[DataclassInstance], declared: Mapping[str, Any]) -> _Suite:
    """Return the suite that a mapping declares; `cls` and `table` are the classes of suites and of tables."""
    name = declared.get("name") if isinstance(declared, Mapping) else None
    with within(f"suite {name!r}: " if isinstance(name, str) else "suite: "):
        _check_keys(declared, cls, "suite")
        for key in ("name", "lineage"):
            if key not in declared:
                raise FormatError(f"{key}: the suite has no {key}, which every suite needs.")
        given = dict(declared)
        tables = given.get("tables", ())
        if not isinstance(tables, (list, tuple)):
            raise FormatError("tables: the tables of a suite are a list; in TOML, each begins with [[tables]].")
        made = []
        for index, one in enumerate(tables):
            with within(f"tables[{index}]."):
                made.append(one if isinstance(one, table) else table_from_dict(table, one, "table"))
        given["tables"] = made
        if given.get("metrics") is not None:
            given["metrics"] = _as_metrics(given["metrics"])
    return cls(**given)


def holds_frame(key: str, value: object) -> bool:
    """Return whether the value of a field of a suite or table is a data frame."""
    if key == "edges":
        return is_frame(value) and not isinstance(value, (list, tuple))
    return key == "files" and is_frame(value)


def _as_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k if isinstance(k, str) else field_text(k): _as_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_metrics(declared: Any) -> dict[str, Metric]:
    if not isinstance(declared, Mapping):
        raise FormatError(f"metrics: {declared!r} is not a mapping of patterns to metrics.")
    made: dict[str, Metric] = {}
    for pattern, metric in declared.items():
        with within(f"metrics[{pattern!r}]."):
            if not isinstance(metric, Metric):
                _check_keys(metric, Metric, "metric")
                if "name" not in metric:
                    raise FormatError("name: the metric has no name, which every metric needs.")
                metric = Metric(**metric)
            made[pattern] = metric
    return made


def _as_tables(declared: Any, table: type[_Table]) -> tuple[_Table, ...]:
    if not isinstance(declared, (list, tuple)):
        raise FormatError(f"tables: the tables of a suite are a list, not a {type(declared).__name__}.")
    made = []
    for index, one in enumerate(declared):
        with within(f"tables[{index}]."):
            made.append(one if isinstance(one, table) else table_from_dict(table, one, "table"))
    return tuple(made)


def _check_keys(declared: Any, cls: type, what: str) -> None:
    if not isinstance(declared, Mapping):
        raise FormatError(f"{what}: {declared!r} is not a mapping of names to values, which a {what} needs.")
    known = [spec.name for spec in dataclasses.fields(cls)]
    for key in declared:
        if key not in known:
            raise UnknownNameError(
                f"{key}: a {what} has no field {key!r}, so its value would be lost. Fields: "
                f"{', '.join(known)}.{near_names(key, known)}"
            )


def to_dict(declared: DataclassInstance) -> dict[str, Any]:
    """Return what a suite or a table declares, by name, without defaults; tables of a suite as mappings."""
    said: dict[str, Any] = {}
    for spec in dataclasses.fields(declared):
        value = getattr(declared, spec.name)
        made = spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default
        if spec.name == "metrics" and value is not None:
            said["metrics"] = {pattern: metric.to_dict() for pattern, metric in value.items()}
        elif spec.name == "tables":
            if value:
                said["tables"] = [to_dict(table) for table in value]
        elif value is made or (isinstance(value, (str, int, float, dict, tuple)) and value == made):
            continue
        elif spec.name == "checkpoints" and len(value) == 1:
            said["checkpoints"] = value[0]
        elif isinstance(value, tuple):
            said[spec.name] = list(value)
        else:
            said[spec.name] = value if holds_frame(spec.name, value) else _as_plain(value)
    return said


def suite_to_toml(said: dict[str, Any], path: str | os.PathLike[str] | None = None) -> str:
    """Return a suite as TOML, given as the result of `to_dict`; also write it to `path` if given."""
    name = said["name"]
    sections = {key: said.pop(key) for key in ("metrics", "edges", "tables") if key in said}
    with within(f"suite {name!r} can't be written to TOML: "):
        lines = [f"{_toml_key(k)} = {_toml(v, k)}" for k, v in said.items()]
        if "metrics" in sections:
            lines += ["", "[metrics]", *_toml_metrics(sections["metrics"], "metrics")]
        for key in ("edges", "tables"):
            if key in sections and not isinstance(sections[key], list):
                raise FormatError(
                    f"{key}: a data frame can't be written to TOML. Write it to a file, and declare that file."
                )
            for index, one in enumerate(sections.get(key, [])):
                if holds_frame("files", one.get("files")):
                    raise FormatError(
                        f"{key}[{index}].files: a data frame can't be written to TOML. Write it to a file, and declare "
                        "that file."
                    )
                metrics = one.pop("metrics", None) if key == "tables" else None
                lines += [
                    "",
                    f"[[{key}]]",
                    *(f"{_toml_key(k)} = {_toml(v, f'{key}[{index}].{k}')}" for k, v in one.items()),
                ]
                if metrics is not None:
                    lines += ["[tables.metrics]", *_toml_metrics(metrics, f"tables[{index}].metrics")]
    text = "\n".join(lines) + "\n"
    if path is not None:
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise SourceError(
                f"{os.fspath(path)}: the suite can't be written there: {error.strerror or error}. Give a path "
                "in a folder that exists and can be written."
            ) from error
    return text


def suite_from_toml(cls: type[_Suite], table: type[DataclassInstance], path: str | os.PathLike[str]) -> _Suite:
    """Read a suite from a TOML file, or from the text of one."""
    # A text of several lines is not a path.
    is_text = isinstance(path, str) and "\n" in path
    name = "TOML text" if is_text else os.fspath(path)
    try:
        text = os.fspath(path) if is_text else Path(path).read_text(encoding="utf-8")
        declared = tomllib.loads(text)
    except OSError as error:
        raise SourceError(
            f"{name}: the suite's file can't be read: {error.strerror or error}. Give the path of a TOML "
            "file, or a name of dde.suites."
        ) from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{name} is not valid TOML: byte {error.start:,} is not valid UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"{name} is not valid TOML: {error}.") from error
    try:
        return suite_from_dict(cls, table, declared)
    except (FormatError, UnknownNameError) as error:
        line = _line_of(str(error), text)
        raise type(error)(f"{name}{f', line {line}' if line else ''}: {error}") from error.__cause__


def _line_of(message: str, text: str) -> int | None:
    """Return the line of a TOML text that an error refers to; None if it can't be found."""
    found = re.match(r"suite(?: '[^']*')?: (?:(tables|edges)\[(\d+)\]\.?)?(\w*)", message)
    if found is None:
        return None
    list_name, index, key = found.groups()
    lines = list(enumerate(text.splitlines(), 1))
    header = None
    if list_name:
        headers = [n for n, line in lines if re.match(rf"\s*\[\[\s*{list_name}\s*\]\]", line)]
        if int(index) >= len(headers):
            return None
        header = headers[int(index)]
        lines = lines[header:]
    for n, line in lines:
        if re.match(rf"\s*(?:\[\s*(?:{list_name}\s*\.\s*)?)?[\"']?{key}\b", line) and key:
            return n
        if re.match(r"\s*\[\[", line):
            break
    return header


def _toml_key(key: str) -> str:
    return key if key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key) else _toml_text(key, key)


def _toml_text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{path}: {text!r} is not Unicode text: it contains half of a surrogate pair.") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(value: Any, path: str) -> str:
    if isinstance(value, str):
        return _toml_text(value, path)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(v, f'{path}[{i}]') for i, v in enumerate(value))}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_toml_key(k)} = {_toml(v, f'{path}.{k}')}" for k, v in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if callable(value):
        raise FormatError(
            f"{path}: the Python function {function_name(value)} can't be written to TOML. Write it as a rule, or keep "
            "the suite in Python."
        )
    raise FormatError(
        f"{path}: a {type(value).__name__} can't be written to TOML, which has texts, numbers, lists and mappings."
    )


def _toml_metrics(metrics: Mapping[str, Any], path: str) -> list[str]:
    return [f"{_toml_key(k)} = {_toml(v, f'{path}[{k!r}]')}" for k, v in metrics.items()]
