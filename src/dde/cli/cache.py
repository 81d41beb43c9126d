"""``dde cache``: show the size of the cache, fill it, compact it and clear it."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
import typer

from dde.cache import cache_size, clear_cache, compact_cache
from dde.cli.options import CacheDir, Data, Db, RunTypeTexts, Schema, SuiteName, repository_of_arguments
from dde.cli.output import note, print_table, say
from dde.errors import SourceError
from dde.sources.connection import redact

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Show the size of the cache, fill, compact or clear it.", rich_markup_mode=None
)

# Reading a metric from so many segments takes some 0.1 s.
_MANY_SEGMENTS = 50


@app.command()
def size(cache_dir: CacheDir = "data_cache") -> None:
    """Show the entries of the cache and their size.

    \b
    Examples:
      dde cache size
      dde cache size --cache-dir s3://bucket/dde
    """
    entries = cache_size(cache_dir)
    columns = ["name", "kind", "bytes", "files", "last_used"]
    rows = [(e.name, e.kind, e.bytes, e.files, str(e.last_used)) for e in entries]
    print_table(pd.DataFrame(rows, columns=columns))
    most = max((e.segments for e in entries), default=0)
    if most > _MANY_SEGMENTS:
        note(f"a source has {most} segments, which makes reading slow; `dde cache compact` merges the small ones")
    note(f"{redact(cache_dir)} holds {_size(sum(e.bytes for e in entries))}")


@app.command()
def fill(
    ctx: typer.Context,
    data: Data,
    db: Db = None,
    schema: Schema = None,
    run_type: RunTypeTexts = None,
    suite: SuiteName = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="Metric, or a glob such as '*_valppl'. Repeatable."),
    ] = None,
    cache_dir: CacheDir = "data_cache",
) -> None:
    """Read all metrics of all runs into the cache, in one pass over each store, so that later reads are fast.

    \b
    Examples:
      dde cache fill data wandb_export
      dde cache fill data --metric "*_valppl" --metric mmlu_average
      dde cache fill pythia --suite pythia
    """
    repository = repository_of_arguments(ctx, data, db, cache_dir, schema=schema, suite=suite, run_types=run_type)
    count = repository.fill_cache(metrics or "all")
    say(f"{count} metrics of {sum(map(bool, repository.table.lineages))} lineages are in {redact(cache_dir)}")


@app.command()
def compact(cache_dir: CacheDir = "data_cache") -> None:
    """Merge small segments of the cache and remove superseded ones, so that later reads are faster.

    \b
    Examples:
      dde cache compact
      dde cache compact --cache-dir s3://bucket/dde
    """
    try:
        done = compact_cache(cache_dir).values()
    except OSError as error:
        raise SourceError(
            f"the cache {redact(cache_dir)} can't be compacted ({error}), so it is slower to read than it could be; "
            "nothing is lost. Free some space, or check the permissions of the folder."
        ) from None
    damaged = sum(c.damaged for c in done)
    if damaged:
        note(f"{damaged} segments can't be read, so they were not merged; their values are read from the sources again")
    before, after = (sum(getattr(c, name) for c in done) for name in ("before", "after"))
    say(f"compacted {before} segments into {after} in {redact(cache_dir)}")


@app.command()
def clear(cache_dir: CacheDir = "data_cache") -> None:
    """Remove all cached values, which are read again when needed. Files that dde did not write are not removed.

    \b
    Examples:
      dde cache clear
      dde cache clear --cache-dir /scratch/dde
    """
    say(f"freed {_size(clear_cache(cache_dir))} in {redact(cache_dir)}")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        count /= 1000
    return f"{count:.3g} GB"
