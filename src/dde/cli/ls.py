"""``dde ls``: list lineages or runs."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd
import typer
import xarray as xr

from dde.cli.options import (
    CacheDir,
    Data,
    Db,
    LearningRates,
    Methods,
    NoCache,
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
from dde.cli.output import busy, note, print_table
from dde.schema import factors_of, is_datadecide

__all__ = ["lineage_table", "ls", "run_table"]

# Columns that fit a terminal; ids are long.
_LINEAGE_FACTORS = ("params", "data", "seed")
_RUN_COLUMNS = ("lineage", "run", "run_id", "state", "branch_tokens", "end_tokens")


def ls(
    ctx: typer.Context,
    data: Data,
    db: Db = None,
    schema: Schema = None,
    run_type: RunTypeTexts = None,
    suite: SuiteName = None,
    runs: Annotated[bool, typer.Option("--runs", help="A row per run instead of one per lineage.")] = False,
    params: Params = None,
    recipe: Recipes = None,
    seed: Seeds = None,
    method: Methods = None,
    learning_rate: LearningRates = None,
    state: States = None,
    where: Where = None,
    cache_dir: CacheDir = "data_cache",
    no_cache: NoCache = False,
) -> None:
    """List lineages, or with --runs the runs of each, as `dde open` with the same options would select them.

    \b
    Examples:
      dde ls data ./wandb_export
      dde ls data postgresql://localhost/wandb --params 150M --data Dolma1.7 --runs
      dde ls data ./wandb_export --method supervised_ft --learning-rate 1e-6:1e-4 --state all
      dde ls data ./wandb_export --runs | cut -f 3        (columns are separated by tabs when piped)
      dde ls ladder --suite olmo_ladder --where budget=1 --runs
    """
    filters = selection(params, recipe, seed, method, learning_rate, state, where)
    with busy("reading the registry of runs"):
        repository = repository_of_arguments(ctx, data, db, cache_dir, no_cache, schema, suite, run_type)
        first_metric = None if repository.suite_runs is None else list(repository.metrics())[:1]
        dataset = repository.to_dataset(metrics=first_metric or ["train_loss"], **filters)
        table = run_table(dataset) if runs else lineage_table(dataset)
    print_table(table, _RUN_COLUMNS if runs else ("lineage", *lineage_factors(dataset), "base_end_tokens", "runs"))
    if dataset.attrs["left_out"]:
        note(f"left out: {dataset.attrs['left_out']} (dde coverage says which)")


def lineage_factors(dataset: xr.Dataset) -> tuple[str, ...]:
    """Return the factors of lineages of a suite."""
    if is_datadecide(dataset):
        return _LINEAGE_FACTORS
    return tuple(n for n, of in factors_of(dataset).items() if of == "lineage" and dataset[n].dims == ("lineage",))


def lineage_table(dataset: xr.Dataset) -> pd.DataFrame:
    """Return a row per lineage: its factors, the last token of its base, and the number of runs derived from it.

    For suites other than DataDecide, all runs are counted, and the base with the most tokens is used if there are
    several. A factor with the name of another column gets the suffix ``_factor``.
    """
    has_run = dataset["run_id"].values != ""
    is_base = has_run & np.isnan(dataset["branch_tokens"].values)
    names = ("lineage", *lineage_factors(dataset), *(("seed_name",) if is_datadecide(dataset) else ()))
    table = pd.DataFrame({name: dataset[name].values for name in names})
    ends = np.where(is_base, np.nan_to_num(dataset["end_tokens"].values, nan=-1.0), -1.0).max(axis=1, initial=-1.0)
    counts = {"base_end_tokens": pd.array(np.where(ends >= 0, ends, np.nan), "Int64")}
    # Other suites may have many bases per lineage, with treatments of their own.
    counted = has_run & ~is_base if is_datadecide(dataset) else has_run
    counts["runs"] = counted.sum(axis=1)
    types = np.broadcast_to(dataset["run_type"].values, has_run.shape)
    for kind in dict.fromkeys(types[counted].tolist()):
        counts[str(kind)] = (counted & (types == kind)).sum(axis=1)
    table = table.rename(columns={name: f"{name}_factor" for name in names if name in counts})
    return table.assign(**counts)


def run_table(dataset: xr.Dataset) -> pd.DataFrame:
    """Return a row per run, with all of its coordinates."""
    coords = [str(n) for n, c in dataset.coords.items() if "cumulative_tokens" not in c.dims]
    rows, columns = np.nonzero(dataset["run_id"].values != "")
    at = {"lineage": xr.DataArray(rows, dims="row"), "run": xr.DataArray(columns, dims="row")}
    table = pd.DataFrame(
        {name: dataset[name].isel({d: at[str(d)] for d in dataset[name].dims}).values for name in coords}
    )
    token_columns = [name for name in ("branch_tokens", "end_tokens") if name in table]
    table[token_columns] = table[token_columns].astype("Int64")
    leading = [*_RUN_COLUMNS, "token_source", "parent_run_id", "run_type"]
    leading += ["learning_rate"] if is_datadecide(dataset) else [n for n in factors_of(dataset) if n not in leading]
    return table[[*leading, *(name for name in coords if name not in leading)]]
