"""``dde ingest``: load an export into PostgreSQL."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import typer

from dde.cli.output import note, progress_bar, say
from dde.sources.connection import CONNECTION_VARIABLE, Connection
from dde.sources.ingest import ingest as load

__all__ = ["ingest"]

_REMARKS = 40


def ingest(
    export: Annotated[str, typer.Argument(help="Folder of a parquet or jsonl export.", metavar="EXPORT")],
    dsn: Annotated[str, typer.Argument(help="PostgreSQL DSN to load into.", envvar=CONNECTION_VARIABLE, metavar="DSN")],
    schema: Annotated[
        str | None, typer.Option(metavar="SCHEMA", help="Schema of the tables, which must exist.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Layout of the tables: 0.1 or old. By default that of existing tables, else that of the export."
        ),
    ] = None,
) -> None:
    """Load an export into PostgreSQL: add new runs, replace changed ones, leave all others as they are.

    Running it a second time changes nothing. Leave the password out of the DSN, where process lists would show it;
    use PGPASSWORD or a password file.

    \b
    Examples:
      dde ingest ./wandb_export postgresql://localhost/wandb
      DDE_DB_CONNECTION=postgresql://localhost/wandb dde ingest ./wandb_export
    """
    if layout not in (None, "0.1", "old"):
        raise typer.BadParameter(f"--layout {layout!r} is neither '0.1' nor 'old'.")
    with progress_bar("loading runs") as advance:
        report = load(
            export, Connection(dsn, schema), layout=cast(Literal["0.1", "old"] | None, layout), progress=advance
        )
    say(str(report))
    remarks = report.remarks()
    for remark in remarks[:_REMARKS]:
        note(remark)
    if len(remarks) > _REMARKS:
        note(f"and {len(remarks) - _REMARKS} more; dde.ingest() in Python returns all of them")
