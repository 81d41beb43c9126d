"""``dde coverage``: what became of every run."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from dde.cli.options import (
    CacheDir,
    Data,
    Db,
    ExactText,
    NoCache,
    RunTypeTexts,
    Schema,
    States,
    SuiteName,
    open_repository,
    state_filter,
)
from dde.cli.output import busy, note, print_table, say
from dde.cli.writing import check_target, write_frame

__all__ = ["coverage"]

_COLUMNS = ("run_id", "run_type", "lineage", "token_source", "status")


def coverage(
    ctx: typer.Context,
    data: Data,
    db: Db = None,
    schema: Schema = None,
    run_type: RunTypeTexts = None,
    suite: SuiteName = None,
    state: States = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            help="Only runs with this status, such as used or 'no data*'; '!used' for all others. Repeatable."
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write the whole table to a .csv or .parquet file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where it exists.")] = False,
    exact_text: ExactText = False,
    cache_dir: CacheDir = "data_cache",
    no_cache: NoCache = False,
) -> None:
    """Say of every run that was seen whether it is used, or why not, and where its parent stands written.

    \b
    Examples:
      dde coverage data ./wandb_export
      dde coverage data ./wandb_export --status '!used'
      dde coverage data postgresql://localhost/wandb --state all --to coverage.csv
    """
    if to is not None:
        check_target(to, (".csv", ".parquet"), overwrite)
    with busy("reading the registry of runs"):
        repository = open_repository(ctx, data, db, cache_dir, no_cache, schema, suite, run_type)
        frame = repository.coverage(**state_filter(state))
    # What follows a colon is of one run alone.
    counts = frame["status"].str.partition(":")[0].value_counts()
    if status:
        frame = frame[[any(_matches(s, wanted) for wanted in status) for s in frame["status"]]].reset_index(drop=True)
    if to is not None:
        write_frame([frame], to, exact_text)
        say(f"wrote {len(frame)} rows to {to}")
    else:
        # Whole numbers, so that tokens are not rounded when they are printed.
        print_table(frame.astype({"branch_tokens": "Int64", "end_tokens": "Int64"}), _COLUMNS)
    note(f"{counts.sum()} runs: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def _matches(status: str, wanted: str) -> bool:
    if wanted.startswith("!"):
        return not fnmatchcase(status, wanted[1:])
    return fnmatchcase(status, wanted)
