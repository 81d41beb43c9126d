"""The repository: finds runs and lineages of two stores or of a suite, as objects."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from dde.cache.storage import source_storage
from dde.curves.metric import Metric
from dde.entities.catalog import RunCatalog
from dde.entities.runs import LineageList, TrainingLineage, TrainingRun, make_lineage, make_run
from dde.entities.views import curves_of, find_labels, metrics_of
from dde.errors import DdeWarning, SourceError, UnknownNameError
from dde.sources.connection import Connection, redact
from dde.sources.protocols import PosttrainingSource
from dde.sources.wandb.store import WandBStore
from dde.suite.datadecide.metric_choice import choose_metrics
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from dde.suite.datadecide.tables.table_index import FileKindsCache

if TYPE_CHECKING:
    from dde.suite.declare import Suite

__all__ = ["DataDecideEvolved", "RunRepository"]


class RunRepository(RunCatalog):
    """Runs of two stores, or of a declared suite, and their relations.

    Parameters
    ----------
    dd : DataDecide or None
        Tables of the pretraining runs.
    wandb_store : PosttrainingSource or None
        Store of the post-training runs.
    parents : mapping of run id to str, optional
        Overrides the evidence for where a run starts: a run id, a lineage label or a Hub revision. A checkpoint inside
        a post-training run is written after its id: ``run@step_200``, ``run@200``, ``run@epoch_0`` (counted from 0) or
        ``run/step_200``; the id alone means the final checkpoint.
    tokens_per_sequence : float or mapping of str to float, optional
        Tokens of a training sequence, for runs without a token counter; by run id or run type when a mapping.
    run_types : mapping of str to str, optional
        Overrides the type of runs whose evidence is missing or wrong: ``"supervised_ft"``, ``"dpo"``, or any other
        word. Keys are the id or name of a run, a pattern of either (``"grpo_*"``), or a key of the config with its
        value (``"config.stage=rl"``). An id or name takes precedence; among the other keys, the first that matches is
        used. Runs of types other than these two need `tokens_per_sequence` if they have no token counter.
    cache_dir : str or path, optional
        Folder or URL of the cache of parsed values; None for no cache.

    Examples
    --------
    >>> import dde
    >>> repository = dde.tutorial.open_repository("tiny")
    >>> repository.find_lineages(base_params="4M", base_data="Dolma1.7")
    [TrainingLineage('dolma1_7-4M-default', ... derived runs)...]
    """

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
            Folder or URL with the suite's files; by default, the one that the suite declares.
        wandb_store : PosttrainingSource, optional
            Post-training runs that start from the suite's checkpoints, which they name as the patterns `checkpoints` of
            the suite declare.
        parents, tokens_per_sequence, run_types
            As for :class:`RunRepository`; in `parents`, the name of a checkpoint may be given as well.
        cache_dir : str or path, optional
            Folder or URL of the cache of parsed values; None for no cache.

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

    def _repr_html_(self) -> str:
        from dde.entities.notebook_html import repository_html

        return repository_html(self)

    def get_run(self, run_id: str) -> TrainingRun:
        """Return a run by its id; the id of a pretraining run of DataDecide is the label of its lineage.

        Raises
        ------
        SelectionError
            When there is no such run; the error names the nearest ones.
        """
        return make_run(self, run_id)

    def get_lineage(self, run_id: str) -> TrainingLineage:
        """Return the lineage that a run belongs to, or the lineage of a label; an id takes precedence over a label.

        Raises
        ------
        SelectionError
            When there is no such run or lineage, or the run's base is unknown.
        """
        return make_lineage(self, self.lineage_of(run_id))

    def find_lineages(
        self,
        base_params: object = None,
        base_data: object = None,
        base_seed: object = None,
        posttraining_method: object = None,
        learning_rates: object = None,
        **hyperparameters: object,
    ) -> LineageList[TrainingLineage]:
        """Return the lineages that match, in the order of the suite.

        Parameters
        ----------
        base_params, base_data, base_seed : name or several, optional
            Filters on the base; for a suite other than DataDecide, on its factors `params`, `data` and `seed`.
        posttraining_method, learning_rates, **hyperparameters
            Filters on derived runs as in :meth:`TrainingLineage.filter_derived_runs`; a lineage without a
            matching run is left out. For a suite other than DataDecide, filters on run types and on any factor of
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
        return LineageList(make_lineage(self, label) for label in labels)

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

    @property
    def notes(self) -> list[str]:
        """Remarks on omitted or doubtful content of a declared suite's files; an empty list for DataDecide.

        They name patterns that match no file or metric, factors with several values in a run, and values that are not
        numbers.

        Examples
        --------
        >>> import dde, pandas as pd
        >>> frame = pd.DataFrame({"name": "a", "lr": [1, 2], "step": [0, 1], "tokens": [0, 8], "loss": 2.0})
        >>> suite = dde.Suite.from_frame(frame, run="name", lineage="{name}", factors={"rate": "lr"})
        >>> dde.RunRepository.from_suite(suite).notes
        ['tables[0]: rate has several values in 1 runs (a), so it is not a factor there']
        """
        if self.suite_runs is None:
            return []
        # Remarks are collected while runs and metrics are listed.
        self.suite_runs.tables.runs()
        self.suite_runs.tables.metrics()
        return list(self.suite_runs.tables.notes)

    def fill_cache(self, metrics: str | Iterable[str] | None = "all") -> int:
        """Read metrics of all runs into the cache in one pass over each store, and return the number of metrics.

        Parameters
        ----------
        metrics : str, iterable of str, or None
            Names, globs or "all"; None for the default metrics.

        Notes
        -----
        For a declared suite, the cache stores the values of result files (``lm_eval``, ``trainer_state``), which are
        parsed completely, and of the runs of a store. Columns of tables are read directly and are not cached.

        Raises
        ------
        UnknownNameError
            When there is no cache to fill, or a cache stores nothing of these sources.
        SourceError
            When the cache can't be written.
        """
        if self.cache_dir is None:
            raise UnknownNameError(
                "this repository has cache_dir=None, so there is no cache to fill. Pass a folder or URL as cache_dir=."
            )
        with warnings.catch_warnings():
            # A cache that can't be written is an error here, which is raised below.
            warnings.filterwarnings("ignore", message="the cache .* can't be written", category=DdeWarning)
            if self.suite_runs is not None:
                return self.suite_runs.fill_cache(metrics)
            return self._filled(self.registry, choose_metrics(self.registry, metrics))

    def _filled(self, registry: Registry, chosen: list[Metric]) -> int:
        """Read metrics into the cache, and return their number."""
        readers, derived = registry.readers, list(registry.columns.row_by_id)
        bases = [registry.bases[label] for label in registry.checkpoint_steps]
        caches_tables = registry.tables is not None and readers.caches_tables and bool(bases)
        if not caches_tables and not readers.caches_store(derived, registry.versions):
            raise UnknownNameError(
                "a cache stores nothing of these sources, so there is nothing to fill: parsed tables are read "
                "directly, and a store that does not report changes of its runs is read each time. Open them as they "
                "are."
            )
        if registry.tables is not None and caches_tables:
            readers.evaluations(bases, [m for m in chosen if registry.tables.holds(m)])
            readers.check_caches()
        readers.fill_store_cache(derived, registry.versions, chosen)
        readers.compact_caches()
        return len(chosen)

    def doctor(
        self,
        checks: str | Iterable[str] | None = None,
        metrics: str | Iterable[str] | None = None,
        outliers: bool = False,
    ) -> pd.DataFrame:
        """Return faults of runs that would make a plausible Dataset wrong; a frame without rows if there are none.

        Parameters
        ----------
        checks : str, iterable of str, or None
            Names of ``dde.doctor.CHECKS``; None for all but ``outlier``.
        metrics : str, iterable of str, or None
            Metrics to examine: names, globs or "all". None for all metrics of a declared suite, and for the default
            metrics of DataDecide.
        outliers : bool
            Whether to look for outliers, too.

        Returns
        -------
        pandas.DataFrame
            A row per finding, the most serious check first: ``check, run_id, finding, metric, place`` (cumulative
            tokens), ``step, size, compared_with``. `size` is in tokens, rows, or the metric's unit, as `finding` says.

        Raises
        ------
        UnknownNameError
            When there is no such check or metric; the error names the nearest ones.

        Examples
        --------
        >>> import dde, pandas as pd
        >>> tokens = [10, 20, 30, 40, 90, 100]
        >>> frame = pd.DataFrame({"name": "a", "step": [1, 2, 3, 4, 5, 6], "tokens": tokens, "loss": 2.0})
        >>> suite = dde.Suite.from_frame(frame, run="name", lineage="{name}")
        >>> dde.RunRepository.from_suite(suite).doctor()[["check", "place", "size"]].values.tolist()
        [['counter_jumps', 40, 40.0]]
        """
        from dde.doctor.examination import examine

        runs = self.registry if self.suite_runs is None else self.suite_runs
        return examine(runs, checks, metrics, outliers)


class DataDecideEvolved:
    """The DataDecide tables and a store of post-training runs, opened together.

    Parameters
    ----------
    data_dir : str or path or None
        Folder or URL of the DataDecide tables.
    db_connection : str, path, PosttrainingSource or None
        PostgreSQL DSN, or a folder of exported files.
    cache_dir : str or path or None, default "data_cache"
        Folder or URL of the cache of parsed values; None for no cache.
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
                f"the schema {schema!r} was given without a store of post-training runs, so it has no effect. "
                "Name the database as the second argument, or leave out schema=."
            )
        if db_connection is None or (isinstance(db_connection, WandBStore) and schema is None):
            store = db_connection
        else:
            store = WandBStore(db_connection, schema=schema)
        self.repository = RunRepository(dd, store, cache_dir=cache_dir, **options)

    def __repr__(self) -> str:
        return f"DataDecideEvolved({self.repository!r})"

    def _repr_html_(self) -> str:
        from dde.entities.notebook_html import repository_html

        return repository_html(self.repository, "DataDecideEvolved")

    def get_scaling_analysis(
        self, final_run_ids: Iterable[str], metrics: str | Iterable[str] | None = None
    ) -> list[pd.DataFrame]:
        """Return one frame per run, its continuous curve; as :meth:`RunRepository.get_scaling_analysis`."""
        return self.repository.get_scaling_analysis(final_run_ids, metrics)


def _open_tables(data_dir: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None) -> DataDecide:
    folder = source_storage(cache_dir, "index", redact(data_dir))
    return DataDecide(data_dir, kept=None if folder is None else FileKindsCache(folder))
