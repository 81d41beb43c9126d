"""The repository: finds runs and lineages of two stores, and opens them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import pandas as pd

from dde.cache.kept_files import cache_place
from dde.curves.metric import Metric
from dde.entities.runs import LineageList, PosttrainingRun, PretrainingRun, TrainingLineage, TrainingRun
from dde.entities.views import curves_of, find_labels, metrics_of
from dde.errors import DdeWarning, SelectionError, SourceError, UnknownNameError, near_names
from dde.lineage.related import base_rows
from dde.lineage.run_table import RunTable
from dde.lineage.selection import table_coverage
from dde.sources.connection import Connection, absolute_path, redact
from dde.sources.protocols import PosttrainingSource, PretrainingSource
from dde.sources.wandb.store import WandBStore
from dde.suite.datadecide.metric_choice import available_metrics, choose_metrics
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.run_index import versions_digest
from dde.suite.datadecide.runs.run_types import RunTypes
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from dde.suite.datadecide.tables.table_index import FileKindsCache

if TYPE_CHECKING:
    import xarray as xr

    from dde.suite.declare import Suite
    from dde.suite.suite_runs import SuiteRuns

__all__ = ["DataDecideEvolved", "RunRepository"]


class RunRepository:
    """Runs of two stores and their relations.

    Parameters
    ----------
    dd : DataDecide or None
        Tables of the pretraining runs.
    wandb_store : PosttrainingSource or None
        Store of the post-training runs.
    parents : mapping of run id to str, optional
        Settles what evidence can't: run id, lineage label or Hub revision of where a run starts. A checkpoint inside a
        post-training run follows its id: ``run@step_200``, ``run@200``, ``run@epoch_0`` (counted from 0) or
        ``run/step_200``; the id alone means the final checkpoint.
    tokens_per_sequence : float or mapping of str to float, optional
        Tokens of a training sequence, where a run has no counter; by run id or run type when a mapping.
    run_types : mapping of str to str, optional
        Types of runs that evidence does not tell or tells wrong: ``"supervised_ft"``, ``"dpo"``, or a word of one's
        own. By id or name of a run, a pattern of either (``"grpo_*"``), or a key of the config with its value
        (``"config.stage=rl"``); an id or name counts before all others, of these the first that fits. A run of another
        type without a counter of tokens needs `tokens_per_sequence`.
    cache_dir : str or path, optional
        Folder that keeps what was parsed; None for none.

    Examples
    --------
    >>> import dde
    >>> repository = dde.tutorial.open_repository("tiny")
    >>> repository.find_lineages(base_params="4M", base_data="Dolma1.7")
    [TrainingLineage('dolma1_7-4M-default', ... derived runs)...]
    """

    def __init__(
        self,
        dd: DataDecide | None,
        wandb_store: PosttrainingSource | None = None,
        *,
        parents: Mapping[str, str] | None = None,
        tokens_per_sequence: float | Mapping[str, float] | None = None,
        cache_dir: str | os.PathLike[str] | Connection | None = None,
        run_types: Mapping[str, str] | None = None,
    ) -> None:
        told = tokens_per_sequence
        for value in told.values() if isinstance(told, Mapping) else [told]:
            if value is not None and not (isinstance(value, (int, float)) and value > 0):
                raise UnknownNameError(
                    f"tokens_per_sequence={value!r} is no positive number, so no run can be placed by it. "
                    "Pass a number such as 712, or a mapping of run id or run type to one."
                )
        #: Folder or URL of the cache; one with credentials as a `Connection`, which does not show them.
        self.cache_dir: str | Connection | None = None if cache_dir is None else _cache_folder(cache_dir)
        self.pretraining_source = dd
        self.posttraining_source = wandb_store
        self._parents = dict(parents or {})
        self._tokens_per_sequence = tokens_per_sequence
        self._run_types = dict(RunTypes({} if run_types is None else run_types).told)
        #: Runs of a declared suite; None of the two stores of DataDecide.
        self.suite_runs: SuiteRuns | None = None
        # Entities hold the repository; were they held in turn, nothing of it would ever be freed at once.
        self._runs: WeakValueDictionary[str, TrainingRun] = WeakValueDictionary()

    @classmethod
    def from_suite(
        cls,
        suite: Suite | str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        wandb_store: PosttrainingSource | None = None,
        *,
        parents: Mapping[str, str] | None = None,
        tokens_per_sequence: float | Mapping[str, float] | None = None,
        cache_dir: str | os.PathLike[str] | Connection | None = None,
        run_types: Mapping[str, str] | None = None,
    ) -> RunRepository:
        """Return the runs of a declared suite.

        Parameters
        ----------
        suite : Suite, str or path
            A declaration, a name of ``dde.suites``, or the path of a TOML file.
        root : str or path, optional
            Folder or URL that the suite's files are in; the suite's own by default.
        wandb_store : PosttrainingSource, optional
            Post-training runs that start from the suite's checkpoints; its `checkpoints` patterns say which they name.
        parents, tokens_per_sequence, run_types
            As for :class:`RunRepository`; the name of a checkpoint settles where a run starts, too.
        cache_dir : str or path, optional
            Folder that keeps what was parsed; None for none.

        Raises
        ------
        UnknownNameError
            When there is no such suite.
        SourceError
            When its files are absent.

        Examples
        --------
        >>> import dde, pandas as pd
        >>> frame = pd.DataFrame({"name": ["a", "a"], "step": [1, 2], "tokens": [10, 20], "loss": [3.0, 2.5]})
        >>> suite = dde.Suite.from_frame(frame, run="name", lineage="{name}")
        >>> dde.RunRepository.from_suite(suite).coverage()["end_tokens"].tolist()
        [20.0]
        """
        from dde.suite.finding import find_suite
        from dde.suite.suite_runs import SuiteRuns

        options: dict[str, Any] = {
            "parents": parents,
            "tokens_per_sequence": tokens_per_sequence,
            "run_types": run_types,
        }
        repository = cls(None, wandb_store, cache_dir=cache_dir, **options)
        options["run_types"] = repository._run_types
        repository.suite_runs = SuiteRuns(find_suite(suite), root, repository.cache_dir, wandb_store, **options)
        return repository

    @cached_property
    def registry(self) -> Registry:
        """Identity, relations and positions of all runs; read when first asked for."""
        if self.suite_runs is not None:
            raise SelectionError(
                f"runs of the suite {self.suite_runs.suite.name!r} are known by its run table alone, so this is not "
                "known of them. Open them with to_dataset(), or look at coverage()."
            )
        return Registry(
            self.pretraining_source,
            self.posttraining_source,
            self._parents,
            self._tokens_per_sequence,
            cache_dir=self.cache_dir,
            run_types=self._run_types,
        )

    @cached_property
    def table(self) -> RunTable:
        """The run table: one row per run, with identity, relations, factors and place on the axis of tokens."""
        if self.suite_runs is not None:
            return self.suite_runs.table
        from dde.suite.datadecide.runs.store_table import make_store_table

        return make_store_table(self.registry)

    def __repr__(self) -> str:
        if self.suite_runs is not None:
            return f"RunRepository({self.suite_runs.suite.name!r}, {self.suite_runs.tables.description!r})"
        return f"RunRepository({self.pretraining_source!r}, {self.posttraining_source!r})"

    def _repr_html_(self) -> str:
        from dde.entities.html import repository_html

        return repository_html(self)

    def has_same_content(self, other: RunRepository) -> bool:
        """Return whether another repository reads the same content from the same sources, opened in the same way.

        Sources that do not tell when their content changes are the same only where they are one object.
        """
        if self is other:
            return True
        if self.suite_runs is not None or other.suite_runs is not None:
            return self._settings == other._settings and _have_same_suite(self.suite_runs, other.suite_runs)
        settings = self._settings == other._settings
        here, there = self.pretraining_source, other.pretraining_source
        if not settings or (here is None) != (there is None):
            return False
        if here is not None and there is not None and here is not there:
            if not here.description or not here.fingerprint:
                return False
            if (here.description, here.fingerprint) != (there.description, there.fingerprint):
                return False
        stores = self.registry.store, other.registry.store
        return _have_same_runs(*stores, lambda: self.registry.versions, lambda: other.registry.versions)

    @property
    def _settings(self) -> tuple[object, ...]:
        """What was said of the runs beside what the stores hold."""
        return self._parents, self._tokens_per_sequence, list(self._run_types.items())

    def __getstate__(self) -> dict[str, Any]:
        # The run table is made of the registry, or is that of the suite's runs.
        return {k: v for k, v in self.__dict__.items() if k not in ("_runs", "table")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._runs = WeakValueDictionary()

    def row_of(self, run_id: str) -> int:
        """Return the row of a run in the run table; raises SelectionError when there is no such run."""
        row = self.table.number.get(run_id)
        if row is not None:
            return row
        if self.suite_runs is not None:
            return int(self.table.rows([run_id])[0])
        raise SelectionError(
            f"neither store has a run {run_id!r}, so it can't be opened.{near_names(run_id, self.table.number)} "
            "repository.coverage() lists every run."
        )

    def run_type(self, run_id: str) -> str:
        """Return the type of a run, in the suite's words; raises SelectionError when there is no such run."""
        return str(self.table.run_type[self.row_of(run_id)])

    def get_run(self, run_id: str) -> TrainingRun:
        """Return a run by its id; a pretraining run of DataDecide by its lineage's label.

        Raises
        ------
        SelectionError
            When there is no such run; names the nearest ones.
        """
        run = self._runs.get(run_id)
        if run is None:
            row = self.row_of(run_id)
            if self.table.is_root[row]:
                run = PretrainingRun(run_id, self._tables_of(row) or self.pretraining_source, repository=self)
            else:
                run = PosttrainingRun(run_id, self._tables_of(row) or self.posttraining_source, repository=self)
            self._runs[run_id] = run
        return run

    def _tables_of(self, row: int) -> PretrainingSource | None:
        """Return the source of a suite that a run is of; None of a run of one of the two stores."""
        runs = self.suite_runs
        return None if runs is None or runs.made.is_attached[row] else runs.tables

    def get_lineage(self, run_id: str) -> TrainingLineage:
        """Return the whole lineage that a run belongs to, or that of a label; an id counts before a label.

        Raises
        ------
        SelectionError
            When there is no such run or lineage, or the run's base is unknown.
        """
        return self._lineage(self.lineage_of(run_id))

    def _lineage(self, label: str) -> TrainingLineage:
        base = self.get_run(str(self.table.run_id[base_rows(self.table, label)[0]]))
        assert isinstance(base, PretrainingRun)
        return TrainingLineage(base, label)

    def lineage_of(self, run_id: str) -> str:
        """Return the label of the lineage that a run belongs to; a label is its own.

        Raises
        ------
        SelectionError
            When there is no such run or lineage, or the run's base is unknown.
        """
        table = self.table
        if run_id not in table.number and run_id in table.lineages:
            return run_id
        row = self.row_of(run_id)
        label = str(table.lineage[row])
        if not label:
            derived = None if self.suite_runs is not None else self.registry.derived.get(run_id)
            problem = table.status[row] if derived is None else derived.parentage.problem
            raise SelectionError(
                f"the run {run_id!r} has no known base ({problem}), so it belongs to no lineage. "
                "Pass parents={run id: parent} to settle where it starts."
            )
        return label

    def find_lineages(
        self,
        base_params: object = None,
        base_data: object = None,
        base_seed: object = None,
        posttraining_method: object = None,
        learning_rates: object = None,
        **hyperparameters: object,
    ) -> LineageList:
        """Return the lineages that match, in the order of the suite.

        Parameters
        ----------
        base_params, base_data, base_seed : name or several, optional
            Filters on the base; of a suite other than DataDecide, on its factors `params`, `data` and `seed`.
        posttraining_method, learning_rates, **hyperparameters
            Filters on derived runs as in :meth:`TrainingLineage.filter_derived_runs`; a lineage without a
            matching run is left out. Of a suite other than DataDecide, filters on run types and on any factor of
            lineages or runs.

        Raises
        ------
        UnknownNameError
            When a filter names something that no run has.
        """
        labels = find_labels(
            self,
            {"params": base_params, "data": base_data, "seed": base_seed},
            posttraining_method,
            {"learning_rate": learning_rates, **hyperparameters},
        )
        return LineageList(self._lineage(label) for label in labels)

    def get_scaling_analysis(
        self, final_run_ids: Iterable[str], metrics: str | Iterable[str] | None = None
    ) -> list[pd.DataFrame]:
        """Return one frame per run: its continuous curve, from the start of pretraining on.

        Parameters
        ----------
        final_run_ids : iterable of str
        metrics : str or iterable of str, optional
            The default metrics when None.

        Returns
        -------
        list of pandas.DataFrame
            As :meth:`TrainingLineage.get_continuous_curves`; without rows where a run can't be placed.

        Raises
        ------
        SelectionError
            When there is no such run.

        Warns
        -----
        DdeWarning
            When a run can't be placed; when runs of one method in one frame reduced `train_loss` in different ways.
        """
        chosen = metrics_of(self, metrics)
        run_ids = list(final_run_ids)
        for run_id in run_ids:
            self.row_of(run_id)
        return [curves_of(self, [run_id], chosen) for run_id in run_ids]

    def metrics(self) -> dict[str, Metric]:
        """Return every metric by name."""
        if self.suite_runs is not None:
            return self.suite_runs.metrics
        return available_metrics(self.registry)

    @property
    def notes(self) -> list[str]:
        """What of a declared suite's files was left out or is doubtful, as sentences; none of DataDecide.

        Patterns that name no file or fit no metric, factors with several values in a run, values that are no numbers.

        Examples
        --------
        >>> import dde, pandas as pd
        >>> frame = pd.DataFrame({"name": "a", "lr": [1, 2], "step": [0, 1], "tokens": [0, 8], "loss": 2.0})
        >>> suite = dde.Suite.from_frame(frame, run="name", lineage="{name}", factors={"rate": "lr"})
        >>> dde.RunRepository.from_suite(suite).notes
        ['tables[0]: rate has several values in 1 runs (a), so it is no factor there']
        """
        if self.suite_runs is None:
            return []
        # Runs and metrics are found first: what is doubtful shows there.
        self.suite_runs.tables.runs()
        self.suite_runs.tables.metrics()
        return list(self.suite_runs.tables.notes)

    def coverage(self, state: object = "finished") -> pd.DataFrame:
        """Return what became of every run that was seen.

        Parameters
        ----------
        state : str or several
            States that count as used, or "all".

        Returns
        -------
        pandas.DataFrame
            One row per run: run_id, run_type, lineage, parent_run_id, branch_tokens, end_tokens, token_source,
            status, parent_evidence, contradictions, run, state, estimate. `status` is ``used`` or says why not;
            `estimate` says how a branch was found that no logged row gives, and by what rule the end was estimated.
            Text is "" and numbers are NaN where there is nothing: a run without data has no end.
        """
        return table_coverage(self.table, state)

    def fill_cache(self, metrics: str | Iterable[str] | None = "all") -> int:
        """Read metrics of all runs into the cache in one pass over each store, and return how many they are.

        Parameters
        ----------
        metrics : str, iterable of str, or None
            Names, globs or "all"; None for the default metrics.

        Notes
        -----
        Of a declared suite, the cache keeps the numbers of result files (``lm_eval``, ``trainer_state``), which are
        parsed whole, and the runs of a store; columns of tables are read as they lie.

        Raises
        ------
        UnknownNameError
            When there is no cache to fill, or it keeps nothing of these sources.
        SourceError
            When what was read could not be kept.
        """
        if self.cache_dir is None:
            raise UnknownNameError(
                "this repository has cache_dir=None, so nothing that is read could be kept. Pass cache_dir= a folder."
            )
        with warnings.catch_warnings():
            # Here it is an error, and said once.
            warnings.filterwarnings("ignore", message="the cache .* can't be written", category=DdeWarning)
            if self.suite_runs is not None:
                return self.suite_runs.fill_cache(metrics)
            return self._filled(self.registry, choose_metrics(self.registry, metrics))

    def _filled(self, registry: Registry, chosen: list[Metric]) -> int:
        """Read metrics into the cache, and return how many they are."""
        readers, derived = registry.readers, list(registry.columns.number)
        bases = [registry.bases[label] for label in registry.checkpoint_steps]
        keeps_tables = registry.tables is not None and readers.keeps_tables and bool(bases)
        if not keeps_tables and not readers.keeps_store(derived, registry.versions):
            raise UnknownNameError(
                "a cache keeps nothing of these sources: parsed tables are read as they lie, and a store that does not "
                "tell when its runs change is read each time. So there is nothing to fill. Open them as they are."
            )
        if registry.tables is not None and keeps_tables:
            readers.checkpoints(bases, [m for m in chosen if registry.tables.holds(m)])
            readers.check_kept()
        readers.keep_store(derived, registry.versions, chosen)
        return len(chosen)

    def doctor(
        self,
        checks: str | Iterable[str] | None = None,
        metrics: str | Iterable[str] | None = None,
        outliers: bool = False,
    ) -> pd.DataFrame:
        """Return faults of runs that would make a plausible Dataset wrong; a frame without rows where all is well.

        Parameters
        ----------
        checks : str, iterable of str, or None
            Names of ``dde.doctor.CHECKS``; None for all but ``outlier``.
        metrics : str, iterable of str, or None
            Metrics to look at: names, globs or "all"; None for all of a declared suite, and for the default ones of
            DataDecide.
        outliers : bool
            Whether to look for points far off, too.

        Returns
        -------
        pandas.DataFrame
            A row per finding, the gravest check first: ``check, run_id, finding, metric, place`` (cumulative tokens),
            ``step, size, compared_with``. `size` is in tokens, rows, or the metric's unit, as `finding` says.

        Raises
        ------
        UnknownNameError
            When there is no such check or metric; names the nearest ones.

        Examples
        --------
        >>> import dde, pandas as pd
        >>> tokens = [10, 20, 30, 40, 90, 100]
        >>> frame = pd.DataFrame({"name": "a", "step": [1, 2, 3, 4, 5, 6], "tokens": tokens, "loss": 2.0})
        >>> suite = dde.Suite.from_frame(frame, run="name", lineage="{name}")
        >>> dde.RunRepository.from_suite(suite).doctor()[["check", "place", "size"]].values.tolist()
        [['counter_jumps', 40, 40.0]]
        """
        from dde.doctor import examine

        return examine(self, checks, metrics, outliers)

    def to_dataset(self, **options: Any) -> xr.Dataset:
        """Return lineages as a Dataset; `options` as in :func:`dde.open_lineages`, without the stores."""
        from dde.opening import open_repository

        return open_repository(self, **options)


class DataDecideEvolved:
    """Both stores, opened together.

    Parameters
    ----------
    data_dir : str or path or None
        Folder or URL of the DataDecide tables.
    db_connection : str, path, PosttrainingSource or None
        PostgreSQL, or a folder of exported files.
    cache_dir : str or path or None, default "data_cache"
        Folder that keeps what was parsed.
    schema : str, optional
        Schema of the tables in PostgreSQL.
    **options
        As for :class:`RunRepository`.

    Examples
    --------
    >>> dde_ = DataDecideEvolved("data", "postgresql://localhost/wandb")  # doctest: +SKIP
    >>> dde_.repository.find_lineages(base_params="150M", base_data="Dolma1.7")  # doctest: +SKIP
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | DataDecide | None,
        db_connection: str | os.PathLike[str] | PosttrainingSource | None = None,
        cache_dir: str | os.PathLike[str] | None = "data_cache",
        *,
        schema: str | None = None,
        **options: Any,
    ) -> None:
        dd = data_dir if data_dir is None or isinstance(data_dir, DataDecide) else _open_tables(data_dir, cache_dir)
        store: PosttrainingSource | None
        if db_connection is None and schema is not None:
            raise SourceError(
                f"The schema {schema!r} was given without a store of post-training runs, so nothing has it. "
                "Name the database as the second argument, or leave it out."
            )
        if db_connection is None or (isinstance(db_connection, WandBStore) and schema is None):
            store = db_connection
        else:
            store = WandBStore(db_connection, schema=schema)
        self.repository = RunRepository(dd, store, cache_dir=cache_dir, **options)

    def __repr__(self) -> str:
        return f"DataDecideEvolved({self.repository!r})"

    def _repr_html_(self) -> str:
        from dde.entities.html import repository_html

        return repository_html(self.repository, "DataDecideEvolved")

    def get_scaling_analysis(
        self, final_run_ids: Iterable[str], metrics: str | Iterable[str] | None = None
    ) -> list[pd.DataFrame]:
        """Return one frame per run, its continuous curve; as :meth:`RunRepository.get_scaling_analysis`."""
        return self.repository.get_scaling_analysis(final_run_ids, metrics)


def _have_same_suite(here: SuiteRuns | None, there: SuiteRuns | None) -> bool:
    if here is None or there is None:
        return False
    # The fingerprint is of the declaration and of the versions of all files, or the content of all frames.
    if here.tables is not there.tables:
        if not here.tables.fingerprint or here.suite.digest != there.suite.digest:
            return False
        if (here.tables.description, here.tables.fingerprint) != (there.tables.description, there.tables.fingerprint):
            return False
    return _have_same_runs(here.store, there.store, lambda: here.store_versions, lambda: there.store_versions)


def _have_same_runs(
    here: PosttrainingSource | None,
    there: PosttrainingSource | None,
    versions: Callable[[], Mapping[str, str]],
    other_versions: Callable[[], Mapping[str, str]],
) -> bool:
    if here is there or here is None or there is None:
        return here is there
    if not here.description or here.description != there.description:
        return False
    # By what the stores said when their runs were read, not by what they would say now.
    digest, of_other = versions_digest(versions().items()), versions_digest(other_versions().items())
    return bool(digest) and digest == of_other


def _cache_folder(cache_dir: str | os.PathLike[str] | Connection) -> str | Connection:
    if isinstance(cache_dir, Connection):
        return cache_dir
    folder = absolute_path(cache_dir)
    return folder if redact(folder) == folder else Connection(folder)


def _open_tables(data_dir: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None) -> DataDecide:
    folder = cache_place(cache_dir, "index", redact(data_dir))
    return DataDecide(data_dir, kept=None if folder is None else FileKindsCache(folder))
