"""Names as text: no control characters that a terminal obeys, no formulas that a spreadsheet computes."""

from __future__ import annotations

import re

import pandas as pd

__all__ = [
    "printable",
    "spreadsheet_safe",
]

# Control characters, separators of lines, marks that change the direction of text, halves of surrogate pairs.
_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text whose characters are seen, where a terminal would obey them; lines stay lines.

    Examples
    --------
    >>> printable("run \\x1b[31mred")
    'run \\\\x1b[31mred'
    """
    return _OBEYED.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


# What spreadsheets take for the beginning of a formula, full-width forms among them.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def spreadsheet_safe(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return a frame whose texts are seen as they are in a spreadsheet and a terminal, and how many cells were changed.

    A text that begins with ``=``, ``+``, ``-`` or ``@`` and is no number gets ``'`` in front; control characters are
    spelled out. Names of columns are texts, too. Numbers stay as they are.

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
    return f"'{cell}" if cell.startswith(_FORMULA) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
