"""``dde ls``: which lineages and runs there are."""

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
    Schema,
    Seeds,
    States,
    Where,
    open_repository,
    selection,
)
from dde.cli.output import busy, note, print_table

__all__ = ["lineage_table", "ls", "run_table"]

# What a terminal has room for: ids are long.
_LINEAGE_COLUMNS = ("lineage", "params", "data", "seed", "base_end_tokens", "runs")
_RUN_COLUMNS = ("lineage", "run", "run_id", "state", "branch_tokens", "end_tokens")


def ls(
    ctx: typer.Context,
    data: Data,
    db: Db = None,
    schema: Schema = None,
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
    """List lineages, or with --runs the runs of each: what `dde open` with the same options would hold.

    \b
    Examples:
      dde ls data ./wandb_export
      dde ls data postgresql://localhost/wandb --params 150M --data Dolma1.7 --runs
      dde ls data ./wandb_export --method supervised_ft --learning-rate 1e-6:1e-4 --state all
      dde ls data ./wandb_export --runs | cut -f 3        (tabs between columns when piped)
    """
    filters = selection(params, recipe, seed, method, learning_rate, state, where)
    with busy("reading the registry of runs"):
        repository = open_repository(ctx, data, db, cache_dir, no_cache, schema)
        dataset = repository.to_dataset(metrics=["train_loss"], **filters)
        table = run_table(dataset) if runs else lineage_table(dataset)
    print_table(table, _RUN_COLUMNS if runs else _LINEAGE_COLUMNS)
    if dataset.attrs["left_out"]:
        note(f"left out: {dataset.attrs['left_out']} (dde coverage says which)")


def lineage_table(dataset: xr.Dataset) -> pd.DataFrame:
    """Return a row per lineage: its base, how far that goes, and how many runs derive from it."""
    held = dataset["run_id"].values != ""
    derived = dataset["run"].values != "pretraining"
    types = dataset["run_type"].values
    names = ("lineage", "params", "data", "seed", "seed_name")
    table = pd.DataFrame({name: dataset[name].values for name in names})
    table["base_end_tokens"] = pd.array(dataset["end_tokens"].values[:, 0], "Int64")
    table["runs"] = (held & derived).sum(axis=1)
    for kind in dict.fromkeys(types[derived].tolist()):
        table[kind] = (held & (types == kind)).sum(axis=1)
    return table


def run_table(dataset: xr.Dataset) -> pd.DataFrame:
    """Return a row per run, with all that the coordinates say of it."""
    coords = [str(n) for n, c in dataset.coords.items() if "cumulative_tokens" not in c.dims]
    rows, columns = np.nonzero(dataset["run_id"].values != "")
    at = {"lineage": xr.DataArray(rows, dims="row"), "run": xr.DataArray(columns, dims="row")}
    table = pd.DataFrame(
        {name: dataset[name].isel({d: at[str(d)] for d in dataset[name].dims}).values for name in coords}
    )
    whole = [name for name in ("branch_tokens", "end_tokens") if name in table]
    table[whole] = table[whole].astype("Int64")
    leading = [*_RUN_COLUMNS, "token_source", "parent_run_id", "run_type", "learning_rate"]
    return table[[*leading, *(name for name in coords if name not in leading)]]
