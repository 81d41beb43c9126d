"""Text that is seen as it is, whatever stands in it: names come from whoever named a run."""

from __future__ import annotations

import re

__all__ = ["printable"]

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
