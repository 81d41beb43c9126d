"""Opening: from two stores to the lazy Dataset."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.core.indexing import LazilyIndexedArray

from dde.arrays.store_dataset import build_dataset
from dde.curves.alignment import Interpolation, Method
from dde.curves.axes import resolve_axis
from dde.curves.grids import DEFAULT_MAX_POINTS, TokenGrid, resolve_grid
from dde.errors import SelectionError, SourceError
from dde.relations.metric_choice import choose_metrics, metrics_without_source
from dde.relations.selection import select_runs
from dde.repository import DataDecideEvolved, RunRepository
from dde.sources.connection import Connection
from dde.sources.datadecide import DataDecide
from dde.sources.protocols import PosttrainingSource

__all__ = ["open_lineages", "open_repository", "repository_of"]

Tables = str | os.PathLike[str] | DataDecide | RunRepository | None
Store = str | os.PathLike[str] | PosttrainingSource | None
Grid = Literal["auto", "union"] | int | npt.ArrayLike | TokenGrid
Chunks = int | Literal["auto"] | Mapping[Any, Any] | None
Names = str | Iterable[str] | None
#: A filter on a hyperparameter: a value, several, a range with both ends included, or a function of the value.
Filter = float | str | Iterable[float | str] | slice | Callable[[Any], bool] | None


def open_lineages(
    source: Tables,
    /,
    db: Store = None,
    *,
    params: Names = None,
    data: Names = None,
    seed: str | int | Iterable[str | int] | None = None,
    method: Names = None,
    learning_rate: Filter = None,
    state: str | Iterable[str] = "finished",
    metrics: str | Iterable[str] | None = None,
    grid: Grid = "auto",
    axis: str = "cumulative_tokens",
    max_points: int = DEFAULT_MAX_POINTS,
    interp: Method = "linear",
    max_gap: int | None = None,
    bridge: bool = False,
    lineages: Iterable[str] | None = None,
    run_ids: Iterable[str] | None = None,
    parents: Mapping[str, str] | None = None,
    tokens_per_sequence: float | Mapping[str, float] | None = None,
    schema: str | None = None,
    cache_dir: str | os.PathLike[str] | None = "data_cache",
    chunks: Chunks = None,
    **hyperparameters: Filter,
) -> xr.Dataset:
    """Open lineages of two stores as one lazy Dataset.

    Parameters
    ----------
    source : str, path, DataDecide, RunRepository or None
        Tables of the DataDecide suite, raw or parsed: a folder or an fsspec URL. A PostgreSQL DSN here means
        that store alone.
    db : str, path, PosttrainingSource or None
        Post-training runs: a PostgreSQL DSN, or a folder of exported parquet or jsonl.
    params, data : str or several, optional
        Filters on the base: size, recipe (any of its names).
    seed : int, str or several, optional
        Filter on the base: index or name of the pretraining seed.
    method : str or several, optional
        Run types of derived runs: "supervised_ft", "dpo".
    learning_rate : float, several, slice or function, optional
        Filter on derived runs; numbers compare by closeness.
    state : str or several, default "finished"
        States of W&B, or "all". Hidden ancestors of what is kept still feed its curve.
    metrics : str, iterable of str, or None
        Names, globs or "all"; None for training loss, the ten OLMES tasks and the eleven perplexities.
    grid : "auto", "union", int, array of points, or TokenGrid
        Points of the axis; see :class:`dde.TokenGrid`.
    axis : str, default "cumulative_tokens"
        What runs are aligned by, and the name of the last dimension; see :func:`dde.arrays.regrid.align`. Values are
        made of all observations, which a dense log on an automatic grid of tokens no longer holds.
    max_points : int, default 1024
        Size of an auto grid, where its required points allow.
    interp : {"linear", "log", "nearest", "previous", "pchip"}
        Values between observations; see :class:`dde.curves.alignment.Interpolation`.
    max_gap : int, optional
        Longest distance in tokens between two observations that is filled.
    bridge : bool, default False
        Join evaluations across branches that the parent was not evaluated at.
    lineages : iterable of str, optional
        Labels of the lineages to choose from.
    run_ids : iterable of str, optional
        Derived runs to choose from, in any state; the base stays.
    parents : mapping of run id to str, optional
        Settles where runs start: run id, lineage label or Hub revision.
    tokens_per_sequence : float or mapping, optional
        Overrides the estimate for runs without a counter; by run id or run type when a mapping.
    schema : str, optional
        Schema of the tables in PostgreSQL; by default that which the DSN names (``?schema=``), else what the server
        searches. Needs no startup option, so it works through poolers.
    cache_dir : str or path or None, default "data_cache"
        Folder that keeps what was parsed; None for none.
    chunks : int, "auto", mapping or None
        Dask chunks, as xarray takes them; None for lazy NumPy arrays.
    **hyperparameters : value, several, slice or function
        Filters on derived runs by any other hyperparameter (``finetune_tokens=``, ``epochs=``, ``dpo_beta=``,
        ``reduce_loss=``, ...).

    Returns
    -------
    xarray.Dataset
        Dimensions ``(lineage, run, axis)``, the last called as `axis` says; a float64 variable per metric, NaN where
        a run has no value. Nothing of a metric has been read. :mod:`dde.schema` lists the coordinates.

    Raises
    ------
    SourceError
        When a store is absent or unreachable.
    UnknownNameError
        When a filter, metric, grid or method names nothing.
    SelectionError
        When no lineage matches, or a run of `run_ids` has no place on its lineage.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["mmlu_average"])
    >>> ds.mmlu_average.dims
    ('lineage', 'run', 'cumulative_tokens')
    """
    from dde.backend import DdeBackendEntrypoint

    places = {"parents": parents, "tokens_per_sequence": tokens_per_sequence, "schema": schema}
    given: dict[str, Any] = {name: value for name, value in places.items() if value is not None}
    if cache_dir != "data_cache":
        given["cache_dir"] = cache_dir
    if learning_rate is not None:
        hyperparameters["learning_rate"] = learning_rate
    options: dict[str, Any] = {
        "params": params, "data": data, "seed": seed, "method": method, "state": state, "metrics": metrics,
        "grid": grid, "axis": axis, "max_points": max_points, "interp": interp, "max_gap": max_gap, "bridge": bridge,
        "lineages": lineages, "run_ids": run_ids, **hyperparameters,
    }  # fmt: skip
    repository: Any = repository_of(source, db, given)
    dataset = xr.open_dataset(repository, engine=DdeBackendEntrypoint, **options)
    # xarray takes every variable for lazy, and caches each copy of it apart. Coordinates in memory should be shown when
    # printed, and copies of lazy ones be known for the same: else merging parts of a Dataset compares them, by reading.
    for name in set(dataset.coords).difference(dataset.xindexes):
        variable: Any = dataset.variables[name]
        content = variable._data
        while not isinstance(content, (np.ndarray, LazilyIndexedArray)):
            content = content.array
        # As `data` it would be looked at by dask.array, whose import takes longer than opening.
        variable._data = content
    if chunks is None:
        return dataset
    # Metrics alone become dask arrays: text has no size that "auto" could go by, and coordinates are small.
    wanted = chunks if isinstance(chunks, Mapping) else dict.fromkeys(dataset.dims, chunks)
    return dataset.assign(
        {n: v.variable.chunk({d: c for d, c in wanted.items() if d in v.dims}) for n, v in dataset.data_vars.items()}
    )


# Options that say how stores are read, rather than what of them is opened.
_OF_STORES = ("parents", "tokens_per_sequence", "schema", "cache_dir")


def repository_of(source: Tables, db: Store, options: dict[str, Any]) -> RunRepository:
    """Return the repository of two stores; takes what concerns it out of `options`.

    Parameters
    ----------
    source, db
        As for :func:`open_lineages`.
    options : dict
        ``parents``, ``tokens_per_sequence``, ``schema`` and ``cache_dir`` are removed from it.

    Returns
    -------
    RunRepository
        `source` itself where it is one.

    Raises
    ------
    SourceError
        When no store is given, two of post-training runs are, or options beside a RunRepository; or when a store is
        absent or unreachable.
    """
    repository_options = {k: options.pop(k) for k in _OF_STORES if k in options}
    if isinstance(source, RunRepository):
        if db is not None or repository_options:
            given = [*(["db"] if db is not None else []), *repository_options]
            raise SourceError(
                f"a RunRepository was given together with {', '.join(given)}, so which of them "
                "counts is unclear. Give those to RunRepository or DataDecideEvolved instead."
            )
        return source
    if isinstance(source, (str, os.PathLike)) and Connection(source).kind == "postgres":
        if db is not None:
            raise SourceError(
                "both arguments name a store of post-training runs, so there are no pretraining tables. "
                "Pass the tables first: dde.open_lineages('data', 'postgresql://...')."
            )
        source, db = None, source
    if source is None and db is None:
        raise SourceError(
            "neither tables nor a store were given, so there is nothing to open. "
            "dde.tutorial.open_lineages() opens a generated suite."
        )
    return DataDecideEvolved(source, db, **repository_options).repository


def open_repository(
    repository: RunRepository,
    *,
    params: object = None,
    data: object = None,
    seed: object = None,
    method: object = None,
    state: object = "finished",
    metrics: str | Iterable[str] | None = None,
    grid: Grid = "auto",
    axis: str = "cumulative_tokens",
    max_points: int = DEFAULT_MAX_POINTS,
    interp: Method = "linear",
    max_gap: int | None = None,
    bridge: bool = False,
    lineages: Iterable[str] | None = None,
    run_ids: Iterable[str] | None = None,
    **filters: Any,
) -> xr.Dataset:
    """Return lineages of a repository as a lazy Dataset; arguments as for :func:`open_lineages`.

    Parameters
    ----------
    repository : RunRepository

    Returns
    -------
    xarray.Dataset
        As :func:`open_lineages` gives it.

    Raises
    ------
    SourceError
        When a store is unreachable.
    UnknownNameError
        When a filter, metric, grid, axis or method names nothing.
    SelectionError
        When no lineage matches, or a run of `run_ids` has no place on its lineage.
    """
    how = Interpolation(interp, max_gap, bridge)
    token_grid, rule = resolve_grid(grid, max_points), resolve_axis(axis)
    registry = repository.registry.with_config_keys(filters)
    if run_ids is not None:
        wanted = list(run_ids)
        lineages = [repository.get_lineage(r).lineage_id for r in wanted]
        derived = [r for r in wanted if r in registry.derived]
        for run_id in derived:
            status = registry.placed[run_id].status
            if status != "used":
                raise SelectionError(
                    f"the run {run_id!r} can't be placed on its lineage ({status}), so it has no curve. "
                    "Pass parents={run id: parent} or tokens_per_sequence= where that settles it."
                )
        state, filters = "all", {**filters, "run_id": derived or [""]} if derived else filters
    selection = select_runs(registry, params, data, seed, method, state, filters, lineages)
    if run_ids is not None and not derived:
        selection = selection.only_base()
    chosen = choose_metrics(registry, metrics)
    attrs = _source_attrs(repository)
    if missing := metrics_without_source(registry, chosen):
        attrs["metrics_left_out"] = missing
    return build_dataset(registry, selection, chosen, token_grid, how, attrs, rule)


def _source_attrs(repository: RunRepository) -> dict[str, str]:
    tables, store = repository.pretraining_source, repository.posttraining_source
    versions = [f"{r.run_id}|{r.evidence.record.version}" for r in repository.registry.derived.values()]
    aside = [] if tables is None else tables.set_aside
    rows = {} if tables is None else tables.left_out
    return {
        "pretraining_source": "" if tables is None else tables.description,
        "pretraining_fingerprint": "" if tables is None else tables.fingerprint,
        "pretraining_left_out": "; ".join([*(f"{reason}: {n}" for reason, n in sorted(rows.items())), *aside]),
        "posttraining_source": "" if store is None else store.description,
        "posttraining_fingerprint": ""
        if store is None
        else hashlib.sha256("\n".join(sorted(versions)).encode()).hexdigest()[:16],
    }
