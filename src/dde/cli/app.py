"""All commands together, and how their errors and warnings are shown."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from dde.cli.imports import paused_collection
from dde.errors import DdeError, DdeWarning
from dde.sources.connection import Connection, redact

__all__ = ["app"]

#: Base class of usage errors; typer contains a copy of click and does not export it.
_UsageError: Any = typer.BadParameter.__mro__[1]

#: Function or group of each command, and its line in the list of commands. A command is imported when it is called,
#: because its dependencies take seconds to import, and neither --help nor --version needs them.
_COMMANDS = {
    "demo": ("dde.cli.demo:demo", "A generated suite, from nothing to a picture."),
    "ls": ("dde.cli.ls:ls", "Lineages and runs, as a table."),
    "coverage": ("dde.cli.coverage:coverage", "The status of every run, and why."),
    "doctor": ("dde.cli.doctor:doctor", "Faults of runs: counters, duplicated logs, branches."),
    "open": ("dde.cli.open:open_dataset", "The Dataset, printed or written to a file."),
    "ask": ("dde.cli.ask:app", "Answer a question: which recipe, how many tokens, how sure."),
    "plot": ("dde.cli.plot:plot", "Curves as a picture: PNG, SVG, PDF or a page."),
    "explore": ("dde.cli.explore:explore", "Choose and look at runs in the browser."),
    "ingest": ("dde.cli.ingest:ingest", "Load an export into PostgreSQL."),
    "cache": ("dde.cli.cache:app", "Show, fill, compact or clear the cache."),
}


class _Commands(TyperGroup):
    """Commands that are imported when called; their errors and warnings are one line each and show no credentials."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _errors_in_one_line():
            return super().make_context(*args, **kwargs)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else _load_command(name), rest

    def invoke(self, ctx: Any) -> Any:
        with _errors_in_one_line(), warnings.catch_warnings():
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
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except DdeError as error:
        _say("error: ", "red", error)
        raise typer.Exit(1) from None
    except _UsageError as error:
        error.message = _shown(error.message)
        raise
    except _errors_of_others() as error:
        # Caused by a file, a disk or a server rather than by dde; errors of output are handled by `checked_streams`.
        _say("error: ", "red", f"{type(error).__name__}: {error}, so the command was not completed.")
        raise typer.Exit(1) from None


def _errors_of_others() -> tuple[type[Exception], ...]:
    # pyarrow raises only in a command that has imported it.
    pyarrow = sys.modules.get("pyarrow")
    arrow = () if pyarrow is None else (pyarrow.ArrowException,)
    return (OSError, MemoryError, RecursionError, UnicodeError, *arrow)


def _say(head: str, colour: str, message: object) -> None:
    # Not by rich, which would interpret brackets in a message as markup.
    typer.secho(head, fg=colour, bold=True, nl=False, err=True)
    typer.echo(_shown(" ".join(str(message).split())), err=True)


def _shown(message: str) -> str:
    """Return a message, which may quote arguments, without control characters and credentials."""
    from dde.printable import printable

    # Any argument may be a connection with a password.
    for argument in filter(None, sys.argv[1:]):
        if redact(argument) != argument:
            message = Connection(argument).scrub(message)
    return printable(message)


def _load_command(name: str) -> Any:
    module, _, attribute = _COMMANDS[name][0].partition(":")
    with paused_collection():
        loaded = getattr(importlib.import_module(module), attribute)
    group = typer.Typer(rich_markup_mode=None, add_completion=False)
    if isinstance(loaded, typer.Typer):
        group.add_typer(loaded, name=name)
    else:
        group.command(name)(loaded)
    return get_group(group).commands[name]


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # Tracebacks formatted by typer show local variables, which may contain passwords.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_requested: bool) -> None:
    if is_requested:
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
      dde ls data postgresql://localhost/wandb       lineages and runs
      dde coverage data postgresql://localhost/wandb the status of every run
      dde doctor data ./wandb_export                 faults of runs: counters, duplicated logs, branches
      dde open data ./wandb_export --to sweep.zarr   the Dataset, to a file
      dde plot data ./wandb_export --y arc_easy --to fig.pdf   curves as a picture
      dde ask decide data --metric arc_easy --target params=1B   how well small models choose recipes
      dde explore data ./wandb_export                choose and look at runs in the browser

    DATA is a folder or URL of DataDecide tables. DB is a PostgreSQL DSN, or a folder of exported parquet or
    jsonl files; by default, the value of the environment variable DDE_DB_CONNECTION.
    """


def _listed() -> None:
    """Placeholder, in the list of commands, for a command that is not imported yet."""


for _name, (_, _summary) in _COMMANDS.items():
    app.command(_name, short_help=_summary)(_listed)
