"""Make text safe to show: escape control characters for terminals, and formulas for spreadsheets."""

from __future__ import annotations

import re

import pandas as pd

__all__ = [
    "is_number_text",
    "printable",
    "spreadsheet_safe",
]

# Control characters, line separators, marks that change the direction of text, lone surrogates.
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text with control characters escaped, so that a terminal shows them; newlines stay.

    Examples
    --------
    >>> printable("run \\x1b[31mred")
    'run \\\\x1b[31mred'
    """
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


# Characters with which formulas begin in spreadsheets, including full-width forms.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def spreadsheet_safe(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return a frame whose texts are safe in a spreadsheet and a terminal, and the number of changed cells.

    A text that begins with ``=``, ``+``, ``-`` or ``@`` and is not a number gets the prefix ``'``, and control
    characters are escaped. Names of columns are changed in the same way. Numbers stay unchanged.

    Examples
    --------
    >>> safe, changed = spreadsheet_safe(pd.DataFrame({"run": ["a", "=1+1", "-5"], "value": [-1.0, 2.0, 3.0]}))
    >>> safe["run"].tolist(), changed
    (['a', "'=1+1", '-5'], 1)
    """
    safe = frame.copy(deep=False)
    safe.columns = pd.Index([_cell(name) for name in frame.columns])
    changed = 0
    for at in range(frame.shape[1]):
        column = frame.iloc[:, at]
        if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_datetime64_any_dtype(column.dtype):
            continue
        others = {text: cell for text in pd.unique(column) if isinstance(text, str) and (cell := _cell(text)) != text}
        if others:
            changed += int(column.isin(list(others)).sum())
            safe.isetitem(at, column.map(lambda text, others=others: others.get(text, text)).array)
    return safe, changed


def _cell(text: str) -> str:
    cell = printable(text).replace("\n", "\\n")
    return f"'{cell}" if cell.startswith(_FORMULA) and not is_number_text(cell) else cell


def is_number_text(text: str) -> bool:
    """Return whether a text is a number in Python's notation.

    Examples
    --------
    >>> is_number_text("5e-6"), is_number_text("nan"), is_number_text("150M")
    (True, True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return True
