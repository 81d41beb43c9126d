"""``dde open``: print the Dataset or write it to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dde.cli.options import (
    CacheDir,
    Data,
    Db,
    ExactText,
    LearningRates,
    Methods,
    NoCache,
    Overwrite,
    Params,
    Recipes,
    RunTypeTexts,
    Schema,
    Seeds,
    States,
    SuiteName,
    Where,
    repository_of_arguments,
    selection,
)
from dde.cli.output import busy, note, progress_bar, say
from dde.cli.writing import DATASET_SUFFIXES, check_target, write_dataset
from dde.curves.grids import TokenGrid

__all__ = ["open_dataset"]


def open_dataset(
    ctx: typer.Context,
    data: Data,
    db: Db = None,
    schema: Schema = None,
    run_type: RunTypeTexts = None,
    suite: SuiteName = None,
    params: Params = None,
    recipe: Recipes = None,
    seed: Seeds = None,
    method: Methods = None,
    learning_rate: LearningRates = None,
    state: States = None,
    where: Where = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="Metric, glob such as '*_valppl', or all. Repeatable. By default loss, OLMES, perplexities.",
        ),
    ] = None,
    grid: Annotated[
        str,
        typer.Option(
            metavar="GRID", help="Token axis: auto, union, a number of points, or tokens separated by commas."
        ),
    ] = "auto",
    max_points: Annotated[
        int, typer.Option(metavar="N", min=1, help="Size of an auto grid, where evaluations allow.")
    ] = 1024,
    interp: Annotated[
        str, typer.Option(metavar="METHOD", help="Between observations: linear, log, nearest, previous, pchip.")
    ] = "linear",
    max_gap: Annotated[
        int | None, typer.Option(metavar="TOKENS", min=0, help="Longest gap in tokens that is filled.")
    ] = None,
    bridge: Annotated[bool, typer.Option("--bridge", help="Join evaluations across branches.")] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the Dataset to a .zarr or .nc file, or its long table to a .parquet or .csv."
        ),
    ] = None,
    overwrite: Overwrite = False,
    exact_text: ExactText = False,
    cache_dir: CacheDir = "data_cache",
    no_cache: NoCache = False,
) -> None:
    """Open lineages as a Dataset, and print it or write it to a file.

    Printing reads no metric. The options are those of dde.open_lineages in Python.

    \b
    Examples:
      dde open data ./wandb_export --params 150M
      dde open data postgresql://localhost/wandb --method supervised_ft --learning-rate 5e-6 --learning-rate 5e-5
      dde open data ./wandb_export --metrics train_loss --metrics 'mmlu_*' --to sweep.zarr
      dde open data ./wandb_export --params 4M --where epochs=2 --grid 500 --interp log --to curves.parquet
      dde open runs --suite mine.toml --metrics '*_loss' --to losses.zarr
    """
    options: dict[str, Any] = selection(params, recipe, seed, method, learning_rate, state, where)
    options |= {"grid": _grid(grid), "max_points": max_points, "interp": interp, "max_gap": max_gap, "bridge": bridge}
    if metrics:
        options["metrics"] = "all" if "all" in metrics else list(metrics)
    if to is not None:
        check_target(to, DATASET_SUFFIXES, overwrite)
    with busy("reading the registry of runs"):
        dataset = repository_of_arguments(ctx, data, db, cache_dir, no_cache, schema, suite, run_type).to_dataset(
            **options
        )
    if to is None:
        say(str(dataset))
        return
    with progress_bar(f"writing {to.name}") as advance:
        write_dataset(dataset, to, advance, exact_text)
    sizes = ", ".join(f"{dim} {size}" for dim, size in dataset.sizes.items())
    say(f"wrote {len(dataset.data_vars)} metrics ({sizes}) to {to}")
    if dataset.attrs["left_out"]:
        note(f"left out: {dataset.attrs['left_out']} (dde coverage says which)")


def _grid(text: str) -> str | TokenGrid:
    # Names are checked later, where the error lists the valid ones.
    if not text[:1].isdigit():
        return text
    try:
        if text.isdigit():
            return TokenGrid.linear(int(text))
        # Whole numbers beyond 2**53 are exact as integers only.
        return TokenGrid.explicit(int(point) if point.isdigit() else float(point) for point in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"--grid {text!r}: {error}") from None
