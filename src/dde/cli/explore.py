"""``dde explore``: explore lineages in the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr

from dde.cli.imports import paused_collection
from dde.cli.options import (
    CacheDir,
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
    parse_run_types,
    repository_of_arguments,
    selection,
)
from dde.cli.output import busy, note, say
from dde.explore.choices import Opened, check_dataset, text_literal
from dde.explore.listing import starting_lineages, starting_metric
from dde.explore.server import is_loopback, serve
from dde.sources.connection import CONNECTION_VARIABLE, Connection
from dde.suite.finding import find_suite

__all__ = ["explore"]


def explore(
    ctx: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder or URL of the DataDecide tables; '-' for none. Without it, a generated suite.",
            metavar="[DATA]",
        ),
    ] = None,
    db: Db = None,
    schema: Schema = None,
    run_type: RunTypeTexts = None,
    suite: SuiteName = None,
    demo: Annotated[bool, typer.Option("--demo", help="Explore a generated suite.")] = False,
    params: Params = None,
    recipe: Recipes = None,
    seed: Seeds = None,
    method: Methods = None,
    learning_rate: LearningRates = None,
    state: States = None,
    where: Where = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC", help="Metrics to choose from: name, or glob. Repeatable. By default all."),
    ] = None,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 for any free one.")] = 0,
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to serve on.")] = "127.0.0.1",
    views: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of saved views. By default views.json in the folder of the cache."),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address of the page.")] = False,
    cache_dir: CacheDir = "data_cache",
    no_cache: NoCache = False,
) -> None:
    """Explore lineages in the browser: choose what to plot, and export it as code, picture or table.

    A metric is read only when it is chosen. By default the page is served to this machine only, until Ctrl-C.

    \b
    Examples:
      dde explore
      dde explore data ./wandb_export
      dde explore data postgresql://localhost/wandb --params 150M --method supervised_ft --port 8123 --no-browser
    """
    if demo and data is not None:
        raise typer.BadParameter("--demo explores a generated suite, so DATA would be ignored. Leave out one of them.")
    options: dict[str, Any] = selection(params, recipe, seed, method, learning_rate, state, where)
    dataset_options: dict[str, Any] = {
        **options,
        "metrics": list(metrics) if metrics and "all" not in metrics else "all",
    }
    with busy("reading the registry of runs") as progress:
        if data is None:
            cache = None if no_cache else Path(cache_dir) / "demo"
            progress("generating the suite")
            # Only this needs the generator.
            from dde.tutorial import open_repository

            repository = open_repository("small", cache_dir=cache)
            opened = Opened(
                "dde.tutorial.open_lineages", ('"small"',), _options(options, None if cache is None else str(cache))
            )
        else:
            repository = repository_of_arguments(ctx, data, db, cache_dir, no_cache, schema, suite, run_type)
            types = parse_run_types(run_type)
            python_options = options | {"run_types": types} if types else options
            opened = _opened(ctx, data, db, schema, suite, _options(python_options, None if no_cache else cache_dir))
        dataset = repository.to_dataset(**dataset_options)
        check_dataset(dataset)

        # Pages that are opened after a refresh show the new runs, too.
        latest = [(dataset, repository)]

        def reopened() -> tuple[xr.Dataset, Any]:
            if data is not None:
                anew = repository_of_arguments(ctx, data, db, cache_dir, no_cache, schema, suite, run_type)
                latest[0] = anew.to_dataset(**dataset_options), anew
            return latest[0]

        progress("reading the first metric")
        first = starting_metric(dataset, starting_lineages(dataset))
    if not is_loopback(address):
        note(f"warning: everyone who can reach {address} can see these runs; the page requires no password.")
    # Imported late, so that errors in options appear at once.
    with paused_collection():
        from dde.explore.page import Explorer

    def ready(url: str) -> None:
        say(f"Exploring at {url} (Ctrl-C ends it)")
        if not no_browser:
            webbrowser.open(url)

    if views is None and not no_cache and "://" not in cache_dir:
        views = Path(cache_dir) / "views.json"

    def make_page() -> Explorer:
        dataset, repository = latest[0]
        return Explorer(dataset, opened, source=reopened, repository=repository, views=views, metrics=first)

    serve(make_page, address, port, "dde explore", ready)


def _options(filters: dict[str, Any], cache_dir: str | None) -> tuple[tuple[str, Any], ...]:
    cache = {} if cache_dir == "data_cache" else {"cache_dir": cache_dir}
    return tuple({**filters, **cache}.items())


def _opened(
    ctx: typer.Context,
    data: str,
    db: str | None,
    schema: str | None,
    suite: str | None,
    options: tuple[tuple[str, Any], ...],
) -> Opened:
    """Return the Python call that opens the stores, without passwords."""
    options = (
        *options,
        *((name, value) for name, value in (("schema", schema), ("suite", suite)) if value is not None),
    )
    # As in `repository_of_arguments`: a suite without `checkpoints` ignores a store in the environment.
    ignores_environment = suite is not None and not find_suite(suite).checkpoints
    arguments = ["None" if data == "-" else _source(data)]
    if db and (data == "-" or Connection(data).kind != "postgres"):
        if getattr(ctx.get_parameter_source("db"), "name", "") == "ENVIRONMENT":
            if ignores_environment:
                return Opened("dde.open_lineages", tuple(arguments), options)
            return Opened(
                "dde.open_lineages", (*arguments, f'os.environ["{CONNECTION_VARIABLE}"]'), options, imports=("os",)
            )
        arguments.append(_source(db))
    return Opened("dde.open_lineages", tuple(arguments), options)


def _source(argument: str) -> str:
    return text_literal(Connection(argument).redacted)
