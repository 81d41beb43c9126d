"""Digests of what a suite says."""

from __future__ import annotations

import functools
import hashlib
import json
import types
from typing import TYPE_CHECKING, Any

import pandas as pd

from dde.suite.plain import as_frame, holds_frame, suite_to_dict

if TYPE_CHECKING:
    from dde.suite.declare import Suite

__all__ = ["digest", "function_name"]


def digest(suite: Suite) -> str:
    """Return a short digest of all that a suite says.

    A function counts by its name and code; a data frame by its values.
    """
    text = json.dumps(_digestible(suite_to_dict(suite)), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def function_name(function: Any) -> str:
    """Return module and qualified name of a function, of what a partial calls, or of the type of a callable object."""
    function = function.func if isinstance(function, functools.partial) else function
    made = function if hasattr(function, "__qualname__") else type(function)
    return f"{made.__module__}.{made.__qualname__}"


def _digestible(value: Any, key: str = "") -> Any:
    if holds_frame(key, value):
        return {"frame": _frame_digest(value)}
    if isinstance(value, dict):
        return [[k, _digestible(v, k)] for k, v in value.items()]
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
            # The order of a set is another in every process.
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
            # Values that have no hash of their own, as lists.
            hashes = pd.util.hash_pandas_object(column.map(repr), index=False)
        made.update(hashes.to_numpy().tobytes())
    return made.hexdigest()[:16]
