"""Arguments and options shared by several commands, and their conversion to arguments of the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from dde.analysis.option_texts import parse_value
from dde.entities.repository import DataDecideEvolved, RunRepository
from dde.sources.connection import CONNECTION_VARIABLE, Connection
from dde.sources.wandb.store import WandBStore
from dde.suite.finding import find_suite

__all__ = [
    "CacheDir",
    "Data",
    "Db",
    "ExactText",
    "LearningRates",
    "Methods",
    "NoCache",
    "Overwrite",
    "Params",
    "Recipes",
    "RunTypeTexts",
    "Schema",
    "Seeds",
    "States",
    "SuiteName",
    "Where",
    "parse_run_types",
    "repository_of_arguments",
    "selection",
    "state_filter",
]

Data = Annotated[
    str,
    typer.Argument(
        help="Folder or URL of the DataDecide tables, or of the files of --suite; '-' for none.", metavar="DATA"
    ),
]
Db = Annotated[
    str | None,
    typer.Argument(
        help="Post-training runs: a PostgreSQL DSN, or a folder of exported parquet or jsonl.",
        envvar=CONNECTION_VARIABLE,
        metavar="DB",
    ),
]
Params = Annotated[list[str] | None, typer.Option(metavar="SIZE", help="Model size, such as 150M. Repeat for several.")]
Recipes = Annotated[
    list[str] | None, typer.Option("--data", metavar="RECIPE", help="Data recipe, by any of its names. Repeatable.")
]
Seeds = Annotated[
    list[str] | None, typer.Option(metavar="SEED", help="Pretraining seed, by name or number. Repeatable.")
]
Methods = Annotated[list[str] | None, typer.Option(metavar="METHOD", help="supervised_ft or dpo. Repeatable.")]
LearningRates = Annotated[
    list[str] | None,
    typer.Option(metavar="RATE", help="Learning rate, or a range such as 1e-6:1e-4, ends included. Repeatable."),
]
States = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STATE", help="State of the run: finished (the default), running, crashed, failed, or all. Repeatable."
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        help="Any other hyperparameter, or factor of a suite: epochs=2, dpo_beta=0.1:5, budget=1. Repeatable.",
        metavar="NAME=VALUE",
    ),
]
Schema = Annotated[str | None, typer.Option("--schema", metavar="SCHEMA", help="Schema of the tables in PostgreSQL.")]
RunTypeTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--run-type",
        metavar="RUN=TYPE",
        help="Type of runs whose type is unknown: my_run=supervised_ft, 'grpo_*=grpo', or by a config key, "
        "config.stage=rl=grpo. Repeatable.",
    ),
]
SuiteName = Annotated[
    str | None,
    typer.Option(
        "--suite",
        metavar="NAME",
        help="Suite of DATA: a name such as olmo_ladder, or a .toml file that declares one. By default DataDecide.",
    ),
]
CacheDir = Annotated[str, typer.Option("--cache-dir", metavar="FOLDER", help="Folder or URL of the cache.")]
ExactText = Annotated[
    bool,
    typer.Option(
        "--exact-text",
        help="Write the text of a .csv unchanged. By default, text that a spreadsheet would take for a formula is "
        "prefixed with ', and control characters are escaped.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write a cache.")]


def repository_of_arguments(
    ctx: typer.Context,
    data: str,
    db: str | None,
    cache_dir: str | None = None,
    no_cache: bool = False,
    schema: str | None = None,
    suite: str | None = None,
    run_types: Sequence[str] | None = None,
) -> RunRepository:
    """Open the repository given by the arguments of a command.

    Parameters
    ----------
    ctx : typer.Context
    data : str
        Tables of DataDecide, or the files of the suite; "-" for none, or for the suite's own folder.
    db, cache_dir, no_cache, schema
    suite : str, optional
        Name of a suite, or a TOML file that declares one; None for DataDecide.
    run_types : sequence of str, optional
        Texts ``RUN=TYPE``.
    """
    types = parse_run_types(run_types)
    tables: str | None = None if data == "-" else data
    cache = None if no_cache else cache_dir
    declared = None if suite is None else find_suite(suite)
    if declared is not None and declared.producer != "datadecide":
        source = ctx.get_parameter_source("db")
        # A store in the environment belongs to DataDecide, unless the suite declares how runs name its checkpoints.
        is_named = bool(db) and (source is None or source.name != "ENVIRONMENT" or bool(declared.checkpoints))
        store = WandBStore(str(db), schema=schema) if is_named else None
        if types and store is None:
            raise typer.BadParameter(
                f"--run-type applies to runs of a store, and the suite {suite} declares the types of its own runs. "
                "Name the store as DB, or leave out --run-type."
            )
        return RunRepository.from_suite(declared, tables, store, cache_dir=cache, run_types=types)
    if tables is not None and Connection(tables).kind == "postgres":
        source = ctx.get_parameter_source("db")
        if db and (source is None or source.name != "ENVIRONMENT"):
            raise typer.BadParameter("both arguments name a store of post-training runs; DATA must be the tables.")
        tables, db = None, tables
    if tables is None and not db:
        raise typer.BadParameter(
            f"neither DATA nor DB was given, so there is nothing to open. Name a store, or set {CONNECTION_VARIABLE}."
        )
    return DataDecideEvolved(tables, db or None, cache_dir=cache, schema=schema, run_types=types).repository


def parse_run_types(texts: Sequence[str] | None) -> dict[str, str] | None:
    """Convert values of ``--run-type`` to the argument ``run_types=``; None if there are none.

    Examples
    --------
    >>> parse_run_types(["my_run=dpo", "config.stage=rl=grpo"])
    {'my_run': 'dpo', 'config.stage=rl': 'grpo'}
    """
    types = {}
    for text in texts or ():
        key, _, value = text.rpartition("=")
        if not key or not value:
            raise typer.BadParameter(
                f"--run-type {text!r} is not RUN=TYPE, so the run or the type is missing. Write it as in "
                "my_run=supervised_ft."
            )
        types[key] = value
    return types or None


def selection(
    params: Sequence[str] | None,
    recipes: Sequence[str] | None,
    seeds: Sequence[str] | None,
    methods: Sequence[str] | None,
    learning_rates: Sequence[str] | None,
    states: Sequence[str] | None,
    where: Sequence[str] | None,
) -> dict[str, Any]:
    """Convert the options of a command to filters of ``dde.open_lineages``."""
    chosen: dict[str, list[Any]] = {
        "params": list(params or []),
        "data": list(recipes or []),
        "seed": [int(s) if s.isdigit() else s for s in seeds or []],
        "method": list(methods or []),
        "learning_rate": [_number(rate, "--learning-rate") for rate in learning_rates or []],
    }
    with_own_option = {*chosen, "state"}
    for condition in where or []:
        name, equals, value = condition.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"--where {condition!r} is not NAME=VALUE, such as epochs=2.")
        if name in with_own_option:
            raise typer.BadParameter(f"--where {condition!r}: use --{name.replace('_', '-')} {value}.")
        chosen.setdefault(name, []).append(parse_value(value))
    filters: dict[str, Any] = {}
    for name, values in chosen.items():
        if len(values) > 1 and any(isinstance(v, slice) for v in values):
            raise typer.BadParameter(f"{name}: a range can't be combined with other values.")
        if values:
            filters[name] = values[0] if isinstance(values[0], slice) else values
    return filters | state_filter(states)


def state_filter(states: Sequence[str] | None) -> dict[str, Any]:
    """Convert values of ``--state`` to a filter on states."""
    return {} if not states else {"state": "all" if "all" in states else list(states)}


def _number(text: str, option: str) -> float | slice:
    value = parse_value(text)
    if isinstance(value, str):
        raise typer.BadParameter(f"{option} {text!r} is neither a number nor a range such as 1e-6:1e-4.")
    return value
