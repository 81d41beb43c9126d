"""Output of commands: formatted for people on a terminal, plain and complete otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dde.cli.signals import stop_on_signal
from dde.plots.axis_format import short_number
from dde.printable import printable, spreadsheet_safe

__all__ = ["Advance", "busy", "note", "print_table", "progress_bar", "say"]

#: Progress callback; its arguments are the amount done and the total amount.
Advance = Callable[[int, int], None]


def say(text: str) -> None:
    """Write lines of output, with control characters escaped."""
    typer.echo(printable(text))


def note(text: str) -> None:
    """Write a remark to stderr, with control characters escaped."""
    typer.echo(printable(text), err=True)


def print_table(frame: pd.DataFrame, columns: Sequence[str] | None = None) -> None:
    """Print a frame.

    Parameters
    ----------
    frame : pandas.DataFrame
    columns : sequence of str, optional
        Columns to show on a terminal. Other output has all columns, separated by tabs, without cutting or rounding;
        text is written as in a CSV, see :func:`dde.printable.spreadsheet_safe`.
    """
    if not sys.stdout.isatty():
        safe, _ = spreadsheet_safe(frame)
        typer.echo(safe.to_csv(sep="\t", index=False, lineterminator="\n"), nl=False)
        return
    shown = frame[list(columns)] if columns else frame
    table = Table(header_style="bold", show_edge=False, pad_edge=False)
    for name in shown.columns:
        right = pd.api.types.is_numeric_dtype(shown[name])
        # Long ids are folded rather than cut, because users copy them.
        table.add_column(printable(str(name)), justify="right" if right else "left", overflow="fold")
    for row in shown.itertuples(index=False):
        table.add_row(*map(_cell, row))
    # Names may look like markup or emoji codes.
    Console(markup=False, highlight=False, emoji=False).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return printable(value)
    if pd.isna(value):
        return ""
    return short_number(float(value)) if abs(value) >= 1e6 else f"{value:g}"


@contextmanager
def busy(doing: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner on a terminal; yields a function that changes its text."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda doing: None
        return
    with console.status(doing) as status, stop_on_signal(status.stop):
        yield lambda doing: status.update(doing)


@contextmanager
def progress_bar(doing: str) -> Iterator[Advance]:
    """Show a progress bar on a terminal; yields the callback that advances it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar, stop_on_signal(bar.stop):
        task = bar.add_task(printable(doing), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
