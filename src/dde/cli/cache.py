"""``dde cache``: what is kept, and clearing it."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
import typer

from dde.cache import cache_size, clear_cache
from dde.cli.output import note, print_table
from dde.sources.connection import redact

__all__ = ["app"]

_CacheDir = Annotated[str, typer.Option("--cache-dir", metavar="FOLDER", help="Folder or URL of what was parsed.")]

app = typer.Typer(no_args_is_help=True, help="See what is kept in data_cache, or clear it.", rich_markup_mode=None)


@app.command()
def size(cache_dir: _CacheDir = "data_cache") -> None:
    """Show what the cache holds and how large it is.

    \b
    Examples:
      dde cache size
      dde cache size --cache-dir s3://bucket/dde
    """
    entries = cache_size(cache_dir)
    columns = ["name", "kind", "bytes", "files", "last_used"]
    rows = [(e.name, e.kind, e.bytes, e.files, str(e.last_used)) for e in entries]
    print_table(pd.DataFrame(rows, columns=columns))
    note(f"{redact(cache_dir)} holds {_size(sum(e.bytes for e in entries))}")


@app.command()
def clear(cache_dir: _CacheDir = "data_cache") -> None:
    """Remove what dde keeps; it is made again when needed. Files that dde has not made stay.

    \b
    Examples:
      dde cache clear
      dde cache clear --cache-dir /scratch/dde
    """
    typer.echo(f"freed {_size(clear_cache(cache_dir))} in {redact(cache_dir)}")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        count /= 1000
    return f"{count:.3g} GB"
