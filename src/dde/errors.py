"""Errors of dde: each says the cause, what it means, and what to do, in that order."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable

__all__ = [
    "ConflictWarning",
    "DdeError",
    "DdeWarning",
    "FormatError",
    "LineageError",
    "SelectionError",
    "SourceError",
    "UnknownNameError",
    "near_names",
    "warn_caller",
]


class DdeError(Exception):
    """Base of every error that dde raises on purpose."""


class UnknownNameError(DdeError, ValueError):
    """A recipe, size, seed, metric or hyperparameter that dde has no entry for."""


class SourceError(DdeError, OSError):
    """A store that is absent, unreachable or not one that dde reads."""


class FormatError(DdeError, ValueError):
    """Content of a store that does not have the form it should; names file and row."""


class LineageError(DdeError, ValueError):
    """Relations between runs that can't be true: a cycle, or a run that is its own parent."""


class SelectionError(DdeError, KeyError):
    """A selection that matches nothing; says what exists."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would quote and escape the message.
        return str(self.args[0]) if self.args else ""


class DdeWarning(UserWarning):
    """Base of every warning that dde gives."""


class ConflictWarning(DdeWarning):
    """Rows of one run and step that disagree; the first was kept."""


def warn_caller(message: str) -> None:
    """Give a DdeWarning at the line that called dde, however deep inside it the reason was found."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "dde":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, DdeWarning, stacklevel=level)


def near_names(name: object, known: Iterable[str], n: int = 3) -> str:
    """Return a sentence naming the entries of `known` closest to `name`, or "" when none is near.

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
