"""Parts of HTML for notebooks: facts and tables in the notebook's own colours, with all text escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape as escape_html

from dde.plots.axis_format import short_number
from dde.printable import printable

__all__ = [
    "count_words",
    "facts_html",
    "name_cell",
    "not_shown",
    "note_html",
    "number_cell",
    "page_html",
    "plain_text",
    "plural",
    "row_html",
    "spelled_tokens",
    "table_html",
    "text_cell",
    "title_html",
    "tokens_cell",
]

# Notebooks are light or dark: text has their colour, lines and stripes are translucent. The doubled class takes
# precedence over the styles that notebooks set for tables.
_STYLE = """<style>
.dde-html.dde-html { color: inherit; line-height: 1.35; max-width: 100%; overflow-x: auto; }
.dde-html.dde-html table { border-collapse: collapse; margin: .3em 0 .6em 0; border: none; font-size: .92em; }
.dde-html.dde-html th, .dde-html.dde-html td { text-align: left; vertical-align: top; padding: .15em .9em .15em 0;
  border: none; background: none; color: inherit; }
.dde-html.dde-html thead th { border-bottom: 1px solid rgba(128, 128, 128, .6); white-space: nowrap; }
.dde-html.dde-html tbody tr { background: none; }
.dde-html.dde-html tbody tr + tr td { border-top: 1px solid rgba(128, 128, 128, .2); }
.dde-html.dde-html table.dde-facts td, .dde-html.dde-html table.dde-facts tr + tr td { border: none; }
.dde-html.dde-html table.dde-facts td:first-child { opacity: .65; white-space: nowrap; }
.dde-html.dde-html .dde-number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.dde-html.dde-html .dde-name { font-family: monospace; overflow-wrap: anywhere; }
.dde-html.dde-html td.dde-name { min-width: 12em; }
.dde-html.dde-html tr.dde-aside td { opacity: .7; }
.dde-html.dde-html .dde-note { opacity: .75; margin: .2em 0; font-size: .92em; }
</style>"""


def count_words(words: Iterable[str]) -> str:
    """Return how often each word occurs: ``3 used, 1 state crashed``."""
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (item[0] != "used", -item[1], item[0]))
    return ", ".join(f"{n:,} {word}" for word, n in ordered)


def plural(count: int, word: str) -> str:
    """Return a count with its noun: ``2 runs``."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def plain_text(value: object) -> str:
    """Return a value as text, numbers short."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def spelled_tokens(tokens: float) -> str:
    """Return tokens short and in full; "" where unknown."""
    return "" if math.isnan(tokens) else f"{short_number(tokens)} tokens ({tokens:,.0f})"


def _escaped(text: str) -> str:
    return escape_html(printable(text))


def text_cell(text: str, title: str = "", kind: str = "", style: str = "") -> str:
    """Return a cell of text; `title` is shown when the mouse rests on it."""
    attributes = "".join(
        f' {name}="{_escaped(value)}"' for name, value in (("class", kind), ("title", title), ("style", style)) if value
    )
    return f"<td{attributes}>{_escaped(text)}</td>"


def name_cell(text: str, title: str = "", depth: int = 0) -> str:
    """Return a cell of a label or an id, indented by its depth in a tree."""
    # Users copy labels into .sel(run=), so a label is never shortened, and depth is shown by padding, not characters.
    return text_cell(text, title, "dde-name", f"padding-left: {1.6 * depth}em" if depth else "")


def number_cell(text: str, title: str = "") -> str:
    """Return a cell of a number."""
    return text_cell(text, title, "dde-number")


def tokens_cell(tokens: float | None, sign: str = "") -> str:
    """Return a cell of tokens, short; in full when the mouse rests on it."""
    if tokens is None or math.isnan(tokens):
        return number_cell("")
    return number_cell(sign + short_number(tokens), f"{tokens:,.0f} tokens")


def row_html(cells: Iterable[str], aside: bool = False) -> str:
    """Return a row of cells, paler if `aside`."""
    return f"{'<tr class=dde-aside>' if aside else '<tr>'}{''.join(cells)}</tr>"


def table_html(columns: Sequence[str], rows: Iterable[str | Sequence[str]]) -> str:
    """Return a table; the heading of a column of numbers starts with ``>``."""
    heads = "".join(
        f'<th class="dde-number">{_escaped(c[1:])}</th>' if c.startswith(">") else f"<th>{_escaped(c)}</th>"
        for c in columns
    )
    body = "".join(row if isinstance(row, str) else row_html(row) for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def facts_html(pairs: Iterable[tuple[str, str]]) -> str:
    """Return facts as a table of names and texts; those without a text are left out."""
    rows = "".join(row_html([text_cell(name), text_cell(text)]) for name, text in pairs if text)
    return f'<table class="dde-facts"><tbody>{rows}</tbody></table>'


def title_html(kind: str, name: str) -> str:
    """Return the first line of a page."""
    return f'<div>{_escaped(kind)} <b class="dde-name">{_escaped(name)}</b></div>'


def note_html(text: str) -> str:
    """Return a sentence below or above a table."""
    return f'<div class="dde-note">{_escaped(text)}</div>'


def not_shown(count: int, what: str, where: str) -> str:
    """Return a note that counts the rows that a table omits; "" if it has all of them."""
    return note_html(f"Not shown: {plural(count, f'more {what}')}. {where} has all of them.") if count > 0 else ""


def page_html(parts: Iterable[str]) -> str:
    """Return a page that consists of parts."""
    return f'{_STYLE}<div class="dde-html">{"".join(parts)}</div>'
