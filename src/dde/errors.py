"""Errors and warnings of dde; each message gives the cause, its meaning, and a remedy, in that order."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = [
    "ConflictWarning",
    "DdeError",
    "DdeWarning",
    "FormatError",
    "LineageError",
    "SelectionError",
    "SourceError",
    "UnknownNameError",
    "collected_warnings",
    "list_names",
    "near_names",
    "warn",
    "warn_caller",
]


class DdeError(Exception):
    """Base of every error that dde raises on purpose."""


class UnknownNameError(DdeError, ValueError):
    """A name that does not exist, such as a recipe, size or metric, or a value that an option does not allow."""


class SourceError(DdeError, OSError):
    """A store that is absent, unreachable or of a kind that dde does not read; or an object without needed data."""


class FormatError(DdeError, ValueError):
    """Content of a store that does not have the expected format; the message names file and row."""


class LineageError(DdeError, ValueError):
    """Impossible relations between runs: a cycle, or a run that is its own parent."""


class SelectionError(DdeError, KeyError):
    """A selection that matches nothing, or an operation that the selected cells do not allow."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, which quotes and escapes the message.
        return str(self.args[0]) if self.args else ""


class DdeWarning(UserWarning):
    """Base of every warning that dde issues."""


class ConflictWarning(DdeWarning):
    """Rows of one run and step that disagree; the first one is used."""


def warn_caller(message: str, category: type[DdeWarning] = DdeWarning) -> None:
    """Issue a warning that points to the line outside dde that called it."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "dde":
        frame, level = frame.f_back, level + 1
    warn(message, category, stacklevel=level)


def warn(message: str, category: type[DdeWarning], stacklevel: int = 1) -> None:
    """Issue a warning as :func:`warnings.warn` does, or add it to those that are collected."""
    collected = _COLLECTED.get()
    if collected is None:
        warnings.warn(message, category, stacklevel=stacklevel + 1)
    else:
        collected.append(message)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings of dde that this thread or task issues, in place of issuing them.

    The filters of :mod:`warnings` belong to the process, so pages that draw at the same time can't use them.

    Examples
    --------
    >>> with collected_warnings() as messages:
    ...     warn_caller("two runs disagree")
    >>> messages
    ['two runs disagree']
    """
    messages: list[str] = []
    token = _COLLECTED.set(messages)
    try:
        yield messages
    finally:
        _COLLECTED.reset(token)


_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected warnings of dde", default=None)


def near_names(name: object, known: Iterable[str], n: int = 3) -> str:
    """Return a sentence that names the entries of `known` closest to `name`; "" when none is close.

    Examples
    --------
    >>> near_names("dolma17_", ["dolma17", "c4"])
    ' Did you mean dolma17?'
    """
    by_fold: dict[str, str] = {}
    for entry in known:
        by_fold.setdefault(entry.casefold(), entry)
    close = difflib.get_close_matches(str(name).casefold(), list(by_fold), n=n, cutoff=0.5)
    return f" Did you mean {' or '.join(by_fold[c] for c in close)}?" if close else ""


def list_names(names: Iterable[str], most: int = 5) -> str:
    """Return the first names and the number of the others, for messages.

    Examples
    --------
    >>> list_names(["a", "b", "c"], most=2), list_names([])
    ('a, b and 1 more', 'none')
    """
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more
