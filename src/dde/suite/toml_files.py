"""Suites as TOML files."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dde.errors import FormatError, SourceError, UnknownNameError
from dde.suite.digests import function_name
from dde.suite.plain import holds_frame, suite_from_dict, suite_to_dict, within

if TYPE_CHECKING:
    from dde.suite.declare import Suite, Table

__all__ = ["suite_from_toml", "suite_to_toml"]


def suite_to_toml(suite: Suite, path: str | os.PathLike[str] | None = None) -> str:
    """Return a suite as TOML, and write it to `path` where one is given."""
    said = suite_to_dict(suite)
    sections = {key: said.pop(key) for key in ("metrics", "edges", "tables") if key in said}
    with within(f"suite {suite.name!r} can't be written to TOML: "):
        lines = [f"{_toml_key(k)} = {_toml(v, k)}" for k, v in said.items()]
        if "metrics" in sections:
            lines += ["", "[metrics]", *_toml_metrics(sections["metrics"], "metrics")]
        for key in ("edges", "tables"):
            if key in sections and not isinstance(sections[key], list):
                raise FormatError(f"{key}: a data frame stands in no TOML file. Write it to a file, and name that.")
            for index, one in enumerate(sections.get(key, [])):
                if holds_frame("files", one.get("files")):
                    raise FormatError(
                        f"{key}[{index}].files: a data frame stands in no TOML file. Write it to a file, and name that."
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


def suite_from_toml(cls: type[Suite], table: type[Table], path: str | os.PathLike[str]) -> Suite:
    """Read a suite from a TOML file, or from the text of one."""
    # No path has several lines.
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
        raise FormatError(f"{name} is no TOML: byte {error.start:,} is no UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"{name} is no TOML: {error}.") from error
    try:
        return suite_from_dict(cls, table, declared)
    except (FormatError, UnknownNameError) as error:
        line = _line_of(str(error), text)
        raise type(error)(f"{name}{f', line {line}' if line else ''}: {error}") from error.__cause__


def _line_of(message: str, text: str) -> int | None:
    """Return the line of a TOML text that an error is about, where it can be found."""
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
        raise FormatError(f"{path}: {text!r} is no Unicode text: it holds half of a surrogate pair.") from error
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
            f"{path}: the Python function {function_name(value)} stands in no TOML file. Say it as a rule, or keep "
            "the suite in Python."
        )
    raise FormatError(
        f"{path}: a {type(value).__name__} stands in no TOML file; texts, numbers, lists and mappings do."
    )


def _toml_metrics(metrics: Mapping[str, Any], path: str) -> list[str]:
    return [f"{_toml_key(k)} = {_toml(v, f'{path}[{k!r}]')}" for k, v in metrics.items()]
