"""``dde doctor``: faults of runs that would make a plausible Dataset wrong."""

from __future__ import annotations

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
    SuiteName,
    repository_of_arguments,
)
from dde.cli.output import busy, note, print_table, say
from dde.cli.writing import check_target, write_frame

__all__ = ["doctor"]

# Columns that fit a terminal; the sentence of a finding has the rest.
_COLUMNS = ("check", "run_id", "finding")


def doctor(
    ctx: typer.Context,
    data: Data,
    db: Db = None,
    schema: Schema = None,
    run_type: RunTypeTexts = None,
    suite: SuiteName = None,
    check: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="Only this check, such as counter_lags. Repeatable. By default all."),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC", help="Only this metric, a glob such as '*_loss', or all. Repeatable. By default all."
        ),
    ] = None,
    outliers: Annotated[bool, typer.Option("--outliers", help="Look for outlying points, too.")] = False,
    to: Annotated[Path | None, typer.Option(help="Write the findings to a .csv or .parquet file.")] = None,
    overwrite: Overwrite = False,
    exact_text: ExactText = False,
    cache_dir: CacheDir = "data_cache",
    no_cache: NoCache = False,
) -> None:
    """Look for faults of runs: counters, duplicated logs, branches, steps; each with its position and size.

    Checks, most severe first: counter_falls, duplicate_log, identical_rows, counter_lags, counter_jumps, counter_rate,
    branch_row, branch_value, beyond_schedule, step_spacing, outlier. For DataDecide, the default metrics are checked.

    The exit code is 0 if there are no findings, and 1 if there are any or if the runs can't be read.

    \b
    Examples:
      dde doctor data ./wandb_export
      dde doctor ladder --suite olmo_ladder --outliers
      dde doctor checkpoints --suite olmo3_32b --check counter_lags
      dde doctor runs --suite mine.toml --metrics '*_loss' --to findings.csv
    """
    if to is not None:
        check_target(to, (".csv", ".parquet"), overwrite)
    with busy("checking the runs"):
        repository = repository_of_arguments(ctx, data, db, cache_dir, no_cache, schema, suite, run_type)
        selected = "all" if metrics and "all" in metrics else metrics or None
        frame = repository.doctor(check or None, selected, outliers)
    if to is not None:
        write_frame([frame], to, exact_text)
        say(f"wrote {len(frame)} rows to {to}")
    else:
        print_table(frame, _COLUMNS)
    counts = frame["check"].value_counts(sort=False)
    summary = ", ".join(f"{count} {name}" for name, count in counts.items())
    note(f"{len(frame)} findings: {summary}" if len(frame) else "nothing found")
    if len(frame):
        raise typer.Exit(1)
