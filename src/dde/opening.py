"""Open lineages as a lazy Dataset: `open_lineages`, and the xarray engine `dde`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from xarray.backends import BackendEntrypoint
from xarray.core.indexing import LazilyIndexedArray

from dde.curves.alignment import Method
from dde.curves.grids import DEFAULT_MAX_POINTS
from dde.entities.catalog import Grid
from dde.entities.repository import DataDecideEvolved, RunRepository
from dde.errors import SourceError
from dde.sources.connection import Connection, redact
from dde.sources.protocols import PosttrainingSource
from dde.sources.wandb.store import WandBStore
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from dde.suite.declare import Suite
from dde.suite.finding import find_suite, is_suite

__all__ = [
    "DdeBackendEntrypoint",
    "open_lineages",
    "repository_of",
]


class DdeBackendEntrypoint(BackendEntrypoint):
    """Opens lineages of two stores; options as for :func:`dde.open_lineages`."""

    description: ClassVar[str] = "Lineages of pretraining and post-training runs"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = ("filename_or_obj", "drop_variables", "db")
    url: ClassVar[str] = ""

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: Tables,
        *,
        drop_variables: str | Iterable[str] | None = None,
        db: Store = None,
        **options: Any,
    ) -> xr.Dataset:
        """Return the lazy Dataset; `filename_or_obj` and `db` are the two stores."""
        repository = repository_of(filename_or_obj, db, options)
        dataset = repository.to_dataset(**options)
        if drop_variables is not None:
            names = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables)
            dataset = dataset.drop_vars(names, errors="ignore")
        # Set here, because xarray would record its first argument, which may contain a password.
        dataset.encoding["source"] = (
            redact(os.fspath(filename_or_obj))
            if isinstance(filename_or_obj, (str, os.PathLike))
            else _described(repository)
        )
        return dataset

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Return False: a folder of tables looks like many other things."""
        return False


def _described(repository: RunRepository) -> str:
    if repository.suite_runs is not None:
        return repository.suite_runs.tables.description
    sources = (repository.pretraining_source, repository.posttraining_source)
    return " + ".join(s.description for s in sources if s is not None)


Tables = str | os.PathLike[str] | DataDecide | RunRepository | Suite | None
Store = str | os.PathLike[str] | PosttrainingSource | None
Chunks = int | Literal["auto"] | Mapping[Any, Any] | None
Names = str | Iterable[str] | None
#: A filter on a factor: a value, several, a range with both ends included, or a function of the value.
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
    max_gap: float | None = None,
    bridge: bool = False,
    lineages: Iterable[str] | None = None,
    run_ids: Iterable[str] | None = None,
    parents: Mapping[str, str] | None = None,
    tokens_per_sequence: float | Mapping[str, float] | None = None,
    run_types: Mapping[str, str] | None = None,
    schema: str | None = None,
    cache_dir: str | os.PathLike[str] | None = "data_cache",
    chunks: Chunks = None,
    suite: Suite | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    **factors: Filter,
) -> xr.Dataset:
    """Open lineages of a suite of training runs as one lazy Dataset.

    Parameters
    ----------
    source : str, path, DataDecide, RunRepository, Suite or None
        Tables of the DataDecide suite, raw or parsed: a folder or an fsspec URL. With `suite`, the folder or URL of
        that suite's files. Otherwise a PostgreSQL DSN, which opens that store without tables; or a :class:`dde.Suite`
        or a name in ``dde.suites``, whose declaration names its files.
    db : str, path, PosttrainingSource or None
        Post-training runs: a PostgreSQL DSN, or a folder of exported parquet or jsonl.
    params, data : str or several, optional
        Filters on the base: size, and recipe by any of its names. In another suite, filters on factors of these names.
    seed : int, str or several, optional
        Filter on the base: index or name of the pretraining seed.
    method : str or several, optional
        Run types of derived runs: "supervised_ft", "dpo", or the stages that another suite declares.
    learning_rate : float, several, slice or function, optional
        Filter on derived runs; numbers compare by closeness.
    state : str or several, default "finished"
        States of W&B, or "all". A selected run whose ancestors are in another state still has its complete curve.
    metrics : str, iterable of str, or None
        Names, globs or "all"; None for training loss, the ten OLMES tasks and the eleven perplexities, or for all
        metrics of another suite.
    grid : "auto", "union", int, array of points, or TokenGrid
        Points of the axis; see :class:`dde.TokenGrid`.
    axis : str, default "cumulative_tokens"
        Axis by which runs are aligned, and name of the last dimension; see :func:`dde.dataset.align.align`. Values are
        computed from all observations, of which an automatic grid of tokens has only a part for dense logs.
    max_points : int, default 1024
        Largest number of points of an auto grid, unless its required points are more.
    interp : {"linear", "log", "nearest", "previous", "pchip"}
        Interpolation between observations; see :class:`dde.curves.alignment.Interpolation`.
    max_gap : int, optional
        Longest distance in tokens between two observations that is filled; None and ``math.inf`` fill all.
    bridge : bool, default False
        Join evaluations across branches that the parent was not evaluated at.
    lineages : iterable of str, optional
        Labels of the lineages to choose from.
    run_ids : iterable of str, optional
        Derived runs to choose from, in any state; the base stays.
    parents : mapping of run id to str, optional
        Overrides where runs start: run id, lineage label or Hub revision.
    tokens_per_sequence : float or mapping, optional
        Overrides the estimate for runs without a counter; by run id or run type when a mapping.
    run_types : mapping of str to str, optional
        Overrides the type of runs whose evidence is missing or wrong, such as ``{"my_run": "supervised_ft"}``. Keys are
        the id or name of a run, a pattern of either (``"grpo_*"``), or a key of the config with its value
        (``"config.stage=rl"``). See :class:`dde.RunRepository`; ``coverage()`` lists the runs that need it.
    schema : str, optional
        Schema of the tables in PostgreSQL; by default the one that the DSN names (``?schema=``), else the server's
        search path. It needs no startup option, so it works through connection poolers.
    cache_dir : str or path or None, default "data_cache"
        Folder or URL of the cache of parsed values; None for no cache.
    chunks : int, "auto", mapping or None
        Dask chunks, as in xarray; None for lazy arrays without dask.
    suite : Suite, mapping, str or path, optional
        The suite whose files are at `source`: a :class:`dde.Suite`, the mapping that :meth:`dde.Suite.from_dict`
        takes, a name of ``dde.suites``, or the path of a TOML file that declares it. DataDecide when None.
    **factors : value, several, slice or function
        Filters on derived runs by any other hyperparameter (``finetune_tokens=``, ``epochs=``, ``dpo_beta=``,
        ``reduce_loss=``, ...), or by any factor of another suite. A filter on a factor of lineages selects lineages,
        one on another factor selects runs. A root without that factor stays if a run that derives from it matches.

    Returns
    -------
    xarray.Dataset
        Dimensions ``(lineage, run, axis)``, the last one with the name `axis`; a float64 variable per metric, NaN where
        a run has no value. No metric has been read. :mod:`dde.schema` lists the coordinates.

    Raises
    ------
    SourceError
        When a store is absent or unreachable.
    UnknownNameError
        When a filter, metric, grid or method does not exist.
    SelectionError
        When no lineage matches, or a run of `run_ids` can't be placed on its lineage.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["mmlu_average"])
    >>> ds.mmlu_average.dims
    ('lineage', 'run', 'cumulative_tokens')
    """
    overrides = {
        "parents": parents, "tokens_per_sequence": tokens_per_sequence, "run_types": run_types, "schema": schema,
        "suite": suite,
    }  # fmt: skip
    store_options: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    if cache_dir != "data_cache":
        store_options["cache_dir"] = cache_dir
    if learning_rate is not None:
        factors["learning_rate"] = learning_rate
    options: dict[str, Any] = {
        "params": params, "data": data, "seed": seed, "method": method, "state": state, "metrics": metrics,
        "grid": grid, "axis": axis, "max_points": max_points, "interp": interp, "max_gap": max_gap, "bridge": bridge,
        "lineages": lineages, "run_ids": run_ids, **factors,
    }  # fmt: skip
    repository: Any = repository_of(source, db, store_options)
    # The Dataset has its indexes; xarray would look for others among all coordinates.
    dataset = xr.open_dataset(repository, engine=DdeBackendEntrypoint, create_default_indexes=False, **options)
    # xarray treats every variable as lazy, with a cache of its own for each copy. Without that wrapper, printing shows
    # coordinates that are in memory, and merging recognises copies of a lazy variable instead of reading them.
    for name in set(dataset.coords).difference(dataset.xindexes):
        variable: Any = dataset.variables[name]
        content = variable._data
        while not isinstance(content, (np.ndarray, LazilyIndexedArray)):
            content = content.array
        # Not by the property `data`, which would import dask.array; that takes longer than opening.
        variable._data = content
    if chunks is None:
        return dataset
    # Only metrics become dask arrays: coordinates are small, and "auto" can't determine the size of text.
    by_dim = chunks if isinstance(chunks, Mapping) else dict.fromkeys(dataset.dims, chunks)
    return dataset.assign(
        {n: v.variable.chunk({d: c for d, c in by_dim.items() if d in v.dims}) for n, v in dataset.data_vars.items()}
    )


# Options that apply to the runs of a store of post-training runs.
_OF_RUNS = ("parents", "tokens_per_sequence", "run_types")
# Options that determine how stores are read, not which of their content is opened.
_OF_STORES = ("parents", "tokens_per_sequence", "run_types", "schema", "suite", "cache_dir")


def repository_of(source: Tables, db: Store, options: dict[str, Any]) -> RunRepository:
    """Return the repository of two stores, and remove its options from `options`.

    Parameters
    ----------
    source, db
        As for :func:`open_lineages`.
    options : dict
        ``parents``, ``tokens_per_sequence``, ``run_types``, ``schema``, ``suite`` and ``cache_dir`` are used and
        removed.

    Returns
    -------
    RunRepository
        `source` itself if it is a repository.

    Raises
    ------
    SourceError
        When no store is given, when both arguments are stores of post-training runs, or when options are given
        together with a RunRepository; and when a store is absent or unreachable.
    """
    repository_options = {k: options.pop(k) for k in _OF_STORES if k in options}
    if isinstance(source, RunRepository):
        if db is not None or repository_options:
            names = [*(["db"] if db is not None else []), *repository_options]
            raise SourceError(
                f"a RunRepository was given together with {', '.join(names)}, so which of them "
                "counts is unclear. Pass those to RunRepository or DataDecideEvolved instead."
            )
        return source
    suite = repository_options.pop("suite", None)
    if suite is None and is_suite(source):
        suite, source = source, None
    if suite is not None:
        declared = find_suite(suite)
        if declared.producer != "datadecide":
            return _repository_of_suite(declared, source, db, repository_options)
    assert not isinstance(source, Suite)
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


def _repository_of_suite(suite: Suite, root: Tables, db: Store, options: dict[str, Any]) -> RunRepository:
    """Return the repository of a declared suite."""
    if not isinstance(root, (str, os.PathLike, type(None))):
        raise SourceError(
            f"a {type(root).__name__} was given in place of the files of the suite {suite.name!r}, so these can't be "
            "found. Pass the folder or URL of its files first: dde.open_lineages(folder, suite=...)."
        )
    schema = options.pop("schema", None)
    of_store = [*(["schema"] if schema is not None else []), *(k for k in options if k in _OF_RUNS)]
    if db is None and of_store:
        raise SourceError(
            f"{', '.join(of_store)} was given without a store of post-training runs, so it has no effect. Name the "
            "store as the second argument, or declare parents and tokens in the suite."
        )
    store = WandBStore(db, schema=schema) if isinstance(db, (str, os.PathLike)) else db
    options.setdefault("cache_dir", "data_cache")
    return RunRepository.from_suite(suite, root, store, **options)
