"""All commands together, and what becomes of errors."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any

import pyarrow as pa
import typer
from typer.core import TyperGroup

from dde.cli import cache, coverage, demo, doctor, explore, ingest, ls
from dde.cli import open as open_
from dde.errors import DdeError, DdeWarning
from dde.printable import printable
from dde.sources.connection import Connection, redact

__all__ = ["app"]

#: Base of all mistakes in using a command line; typer carries its own copy of click and does not name it.
_UsageError: Any = typer.BadParameter.__mro__[1]


class _Commands(TyperGroup):
    """Commands whose errors and warnings are one line each, and show no credential."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _told_in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _told_in_one_line(), warnings.catch_warnings():
            warnings.simplefilter("always", DdeWarning)
            others = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
                if issubclass(category, DdeWarning):
                    _say("warning: ", "yellow", message)
                else:
                    others(message, category, *where, **more)

            warnings.showwarning = show
            return super().invoke(ctx)


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    try:
        yield
    except DdeError as error:
        _say("error: ", "red", error)
        raise typer.Exit(1) from None
    except _UsageError as error:
        error.message = printable(_without_secrets(error.message))
        raise
    except (OSError, MemoryError, RecursionError, UnicodeError, pa.ArrowException) as error:
        # No defect of dde's, but a file, a disk or a server that gives no better reason; output has errors of its own.
        _say("error: ", "red", f"{type(error).__name__}: {error}. So the command was not completed.")
        raise typer.Exit(1) from None


def _say(head: str, colour: str, message: object) -> None:
    # Without rich: a message may hold brackets, which it would take for markup.
    typer.secho(head, fg=colour, bold=True, nl=False, err=True)
    typer.echo(printable(_without_secrets(" ".join(str(message).split()))), err=True)


def _without_secrets(message: str) -> str:
    """Return a message, which may quote what was typed, without the credentials in that: a DSN may stand anywhere."""
    for typed in filter(None, sys.argv[1:]):
        if redact(typed) != typed:
            message = Connection(typed).scrub(message)
    return message


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # A traceback of typer's own shows local variables, among them connections.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dde {version('dde')}")
        raise typer.Exit


@app.callback()
def _dde(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Pretraining and post-training runs of language models as one labeled Dataset.

    \b
    Start here:
      dde demo                                       a generated suite, from nothing to a picture
      dde ls data postgresql://localhost/wandb       which lineages and runs there are
      dde coverage data postgresql://localhost/wandb what became of every run
      dde doctor data ./wandb_export                 faults of runs: counters, duplicated logs, branches
      dde open data ./wandb_export --to sweep.zarr   the Dataset, to a file
      dde explore data ./wandb_export                choose and look at runs in the browser

    DATA is a folder or URL of DataDecide tables. DB is a PostgreSQL DSN, or a folder of exported parquet or
    jsonl files; where it is not given, the environment variable DDE_DB_CONNECTION counts.
    """


_COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "demo": (demo.demo, "A generated suite, from nothing to a picture."),
    "ls": (ls.ls, "Lineages and runs, as a table."),
    "coverage": (coverage.coverage, "What became of every run, and why."),
    "doctor": (doctor.doctor, "Faults of runs: counters, duplicated logs, branches."),
    "open": (open_.open_dataset, "The Dataset, printed or written to a file."),
    "explore": (explore.explore, "Choose and look at runs in the browser."),
    "ingest": (ingest.ingest, "Load an export into PostgreSQL."),
}
for _name, (_command, _summary) in _COMMANDS.items():
    app.command(_name, short_help=_summary)(_command)
app.add_typer(cache.app, name="cache")
