"""``dde coverage``: the status of every run."""

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
    Overwrite,
    RunTypeTexts,
    Schema,
    States,
    SuiteName,
    repository_of_arguments,
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
    to: Annotated[Path | None, typer.Option(help="Write the complete table to a .csv or .parquet file.")] = None,
    overwrite: Overwrite = False,
    exact_text: ExactText = False,
    cache_dir: CacheDir = "data_cache",
    no_cache: NoCache = False,
) -> None:
    """Show for each run whether it is used, or why not, and which evidence names its parent.

    \b
    Examples:
      dde coverage data ./wandb_export
      dde coverage data ./wandb_export --status '!used'
      dde coverage data postgresql://localhost/wandb --state all --to coverage.csv
    """
    if to is not None:
        check_target(to, (".csv", ".parquet"), overwrite)
    with busy("reading the registry of runs"):
        repository = repository_of_arguments(ctx, data, db, cache_dir, no_cache, schema, suite, run_type)
        frame = repository.coverage(**state_filter(state))
    # The part of a status after the colon is specific to the run.
    counts = frame["status"].str.partition(":")[0].value_counts()
    if status:
        frame = frame[[any(_matches(s, pattern) for pattern in status) for s in frame["status"]]].reset_index(drop=True)
    if to is not None:
        write_frame([frame], to, exact_text)
        say(f"wrote {len(frame)} rows to {to}")
    else:
        # Integers, so that tokens are not rounded in print.
        print_table(frame.astype({"branch_tokens": "Int64", "end_tokens": "Int64"}), _COLUMNS)
    note(f"{counts.sum()} runs: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def _matches(status: str, pattern: str) -> bool:
    if pattern.startswith("!"):
        return not fnmatchcase(status, pattern[1:])
    return fnmatchcase(status, pattern)
