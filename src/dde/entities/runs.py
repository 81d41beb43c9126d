"""Runs and lineages as objects, each with its id and a catalog from which it reads its data and its relations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dde.entities.catalog import RunCatalog
from dde.entities.lists import LineageList, RunList
from dde.entities.views import (
    compare,
    curves_of,
    filter_members,
    hyperparameters_of,
    metrics_of,
    rows_of_run,
    runs_of_same_base,
    runs_of_same_parent,
    runs_of_same_treatment,
)
from dde.errors import LineageError, SelectionError, near_names
from dde.lineage.related import base_rows, children_of, parents_of
from dde.schema import PRETRAINING
from dde.sources.protocols import PretrainingSource

if TYPE_CHECKING:
    import xarray as xr

    from dde.lineage.run_table import RunTable
    from dde.sources.protocols import PosttrainingSource
    from dde.suite.datadecide.tables.pretraining_tables import DataDecide

__all__ = [
    "LineageList",
    "PosttrainingRun",
    "PretrainingRun",
    "RunList",
    "TrainingLineage",
    "TrainingRun",
    "make_lineage",
    "make_run",
]


class TrainingRun:
    """Any training run.

    Parameters
    ----------
    run_id : str
        W&B's id; the lineage's label for a pretraining run. In another suite, the id that its declaration gives.
    run_type : str
        ``pretraining``, ``supervised_ft`` or ``dpo``; in another suite, a type of that suite.
    repository : RunRepository, optional
        Resolves relations; a run stores ids, never other runs. Without a repository, a run has only its id and type.

    Notes
    -----
    Runs are equal when they have the same id and type and come from the same sources, opened in the same way.

    Examples
    --------
    >>> import dde
    >>> repository = dde.tutorial.open_repository("tiny")
    >>> run = repository.get_run("dolma1_7-4M-default")
    >>> run.run_type, run.state, run.branch_tokens
    ('pretraining', 'finished', None)
    """

    def __init__(self, run_id: str, run_type: str, *, repository: RunCatalog | None = None) -> None:
        self.run_id = run_id
        self.run_type = run_type
        self._given_catalog = repository

    @property
    def _catalog(self) -> RunCatalog:
        if self._given_catalog is None:
            raise LineageError(
                f"the run {self.run_id!r} was made without a repository, so its relations and its data are unknown. "
                f"Use repository.get_run({self.run_id!r}), which gives a run that has both."
            )
        return self._given_catalog

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.run_id!r}, {self.run_type!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TrainingRun):
            return NotImplemented
        if (self.run_id, self.run_type) != (other.run_id, other.run_type):
            return False
        ours, theirs = self._given_catalog, other._given_catalog
        return ours is theirs or (ours is not None and theirs is not None and ours.has_same_content(theirs))

    def __hash__(self) -> int:
        return hash(self.run_id)

    def _repr_html_(self) -> str:
        from dde.entities.notebook_html import run_html

        return run_html(type(self).__name__, self.run_id, self.run_type, self._given_catalog)

    @property
    def parent_run_id(self) -> str | None:
        """Id of the run it starts from, the first of several; None for a base, and where no parent was found."""
        return next(iter(self.parent_run_ids), None)

    @property
    def parent_run_ids(self) -> list[str]:
        """Ids of all runs that it starts from: several for a merge, none for a pretraining run."""
        table, row = self._place
        return parents_of(table, row)

    @property
    def child_run_ids(self) -> list[str]:
        """Ids of the runs that start directly from this one."""
        table, row = self._place
        return children_of(table, row)

    @property
    def lineage_id(self) -> str | None:
        """Label of the lineage that the run belongs to; None where its base is unknown."""
        table, row = self._place
        return str(table.lineage[row]) or None

    @property
    def label(self) -> str:
        """Treatment, as along the dimension ``run``; "" where no parent was found."""
        table, row = self._place
        return str(table.labels[row])

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Hyperparameters by name; those that no source states are absent.

        For a pretraining run, and for any run of another suite, the factors for which it has a value.
        """
        return hyperparameters_of(self._catalog, self.run_id)

    @property
    def state(self) -> str:
        """State that W&B or the declaration of the suite gives; ``finished`` where neither states one."""
        table, row = self._place
        return str(table.state[row])

    @property
    def branch_tokens(self) -> int | None:
        """Cumulative tokens at which it leaves its parent; None for a pretraining run, and where unknown.

        For a run with several parents, the tokens up to which its curve is that of its parents.
        """
        table, row = self._place
        return _known(table.branch_tokens[row])

    @property
    def start_tokens(self) -> int | None:
        """Cumulative tokens at its own token 0, which is 0 for a pretraining run; None where unknown."""
        table, row = self._place
        return _known(table.start_tokens[row])

    @property
    def end_tokens(self) -> int | None:
        """Cumulative tokens of its last row; None where unknown, and for a run without data."""
        table, row = self._place
        return _known(table.end_tokens[row])

    @property
    def _place(self) -> tuple[RunTable, int]:
        """The run table and the row of this run; raises SelectionError when there is no such run."""
        return self._catalog.table, self._catalog.row_of(self.run_id)

    def same_treatment(self) -> RunList[TrainingRun]:
        """Return the runs with the same treatment on other bases, in the order of the suite.

        Returns
        -------
        RunList
            Runs of all states with the label of this one's treatment, repetitions included. Runs with a stated
            hyperparameter that differs from this one's, in themselves or in their parents, have another treatment; the
            seed of the training is not compared. For a pretraining run, all other pretraining runs. In a suite other
            than DataDecide, the runs with this label in other lineages.
        """
        return self._related(runs_of_same_treatment(self._catalog, self.run_id))

    def same_base(self) -> RunList[TrainingRun]:
        """Return the runs of other treatments on the same base, parents before children.

        Returns
        -------
        RunList
            Derived runs of the lineage, of all states; repetitions of this run are left out. Where a lineage has
            several bases, only runs that derive from the base of this run.
        """
        return self._related(runs_of_same_base(self._catalog, self.run_id))

    def siblings(self) -> RunList[TrainingRun]:
        """Return the other runs that start from the same parent, or from one of several, at any of its checkpoints.

        Returns
        -------
        RunList
            Runs of all states, repetitions of this run included; none for a pretraining run.
        """
        return self._related(runs_of_same_parent(self._catalog, self.run_id))

    def _related(self, run_ids: Iterable[str]) -> RunList[TrainingRun]:
        return RunList(make_run(self._catalog, run_id) for run_id in run_ids)

    def get_training_progression(self, metrics: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Return the run's own observed rows: one per position, with the requested metrics.

        Parameters
        ----------
        metrics : str or iterable of str, optional
            Names, globs or "all"; the default metrics when None.

        Returns
        -------
        pandas.DataFrame
            Columns as in :func:`dde.suite.datadecide.store_frames.continuous_curves`, or for a suite other than
            DataDecide as in :func:`dde.suite.frames.suite_curves`.

        Warns
        -----
        DdeWarning
            When the run can't be placed on its lineage, so that it has no rows; the warning gives the reason and the
            remedy.
        """
        return rows_of_run(self._catalog, self.run_id, metrics_of(self._catalog, metrics))

    def get_evaluations(self, metrics: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Return the run's own rows that hold an evaluation; training logs are left out.

        Parameters
        ----------
        metrics : str or iterable of str, optional
            As in :meth:`get_training_progression`.

        Returns
        -------
        pandas.DataFrame
            As :meth:`get_training_progression` gives it.

        Warns
        -----
        DdeWarning
            When the run can't be placed on its lineage, so that it has no rows; the warning gives the reason and the
            remedy.
        """
        chosen = [m for m in metrics_of(self._catalog, metrics) if m.kind != "log"]
        frame = rows_of_run(self._catalog, self.run_id, chosen)
        return frame.dropna(subset=[m.name for m in chosen], how="all").reset_index(drop=True)

    def get_full_lineage(self) -> TrainingLineage:
        """Return the lineage that the run belongs to."""
        return make_lineage(self._catalog, self._catalog.lineage_of(self.run_id))

    def to_dataset(self, **options: Any) -> xr.Dataset:
        """Return the run's continuous curve as a Dataset; `options` as in :func:`dde.open_lineages`."""
        return self._catalog.to_dataset(run_ids=[self.run_id], **options)


class PretrainingRun(TrainingRun):
    """A run without parents; in DataDecide, the evaluated checkpoints of the tables.

    Parameters
    ----------
    run_id : str
        The lineage's label; in another suite, the run's id.
    dd : DataDecide or PretrainingSource
        Tables that it is read from.
    """

    def __init__(
        self, run_id: str, dd: DataDecide | PretrainingSource | None, *, repository: RunCatalog | None = None
    ) -> None:
        repository = repository or _catalog_of(dd, None)
        of_suite = repository.suite_runs is not None
        super().__init__(run_id, repository.run_type(run_id) if of_suite else PRETRAINING, repository=repository)
        self.data_source = dd


class PosttrainingRun(TrainingRun):
    """A run with parents; in DataDecide, the training log and final evaluations of a run in a W&B store.

    Parameters
    ----------
    run_id : str
        W&B's id.
    wandb_store : PosttrainingSource or PretrainingSource
        Store that it is read from; in another suite, its tables.
    parent_run_id : str, optional
        Overrides the parent; derived from the evidence when None.
    """

    def __init__(
        self,
        run_id: str,
        wandb_store: PosttrainingSource | PretrainingSource | None,
        parent_run_id: str | None = None,
        *,
        repository: RunCatalog | None = None,
    ) -> None:
        if repository is None:
            repository = _catalog_of(None, wandb_store, {run_id: parent_run_id} if parent_run_id else None)
            if parent_run_id:
                # The id of a parent names no checkpoint. Where the evidence gives the same parent, it also gives the
                # checkpoint, and is used instead.
                without_override = _catalog_of(None, wandb_store)
                derived = without_override.registry.derived.get(run_id)
                if derived is None or derived.parent_run_id == parent_run_id:
                    repository = without_override
        super().__init__(run_id, repository.run_type(run_id), repository=repository)
        self.data_source = wandb_store


class TrainingLineage:
    """A pretraining run and every run derived from it, at any depth; in general, all runs with one lineage label.

    Parameters
    ----------
    base_run : PretrainingRun
        The first base, where a lineage of a suite has several.
    lineage_id : str, optional
        The label; that of `base_run` by default. A merge of runs of several lineages is a lineage of its own, whose
        base is the first base that it derives from.

    Notes
    -----
    Lineages are equal when their bases are and they have the same label, from the same sources, opened in the same way.

    Examples
    --------
    >>> import dde
    >>> lineage = dde.tutorial.open_repository("tiny").get_lineage("dolma1_7-4M-default")
    >>> lineage.base_run.run_id
    'dolma1_7-4M-default'
    """

    def __init__(self, base_run: PretrainingRun, lineage_id: str | None = None) -> None:
        self.base_run = base_run
        self._catalog = base_run._catalog
        self._given_id = lineage_id

    def __repr__(self) -> str:
        return f"TrainingLineage({self.lineage_id!r}, {len(self._member_ids)} derived runs)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TrainingLineage):
            return NotImplemented
        return self.base_run == other.base_run and self.lineage_id == other.lineage_id

    def __hash__(self) -> int:
        return hash(self.base_run)

    def _repr_html_(self) -> str:
        from dde.entities.notebook_html import lineage_html

        return lineage_html(self._catalog, self.lineage_id)

    @property
    def lineage_id(self) -> str:
        """Label of the lineage."""
        if self._given_id is None:
            self._given_id = self.base_run.lineage_id or self.base_run.run_id
        return self._given_id

    @property
    def base_runs(self) -> list[PretrainingRun]:
        """All runs without parents, `base_run` first; for a merge across lineages, the bases that it derives from."""
        table = self._catalog.table
        runs = [make_run(self._catalog, str(table.run_id[row])) for row in base_rows(table, self.lineage_id)]
        return [r for r in runs if isinstance(r, PretrainingRun)]

    @property
    def _member_ids(self) -> list[str]:
        """Ids of the derived runs, parents before children."""
        table = self._catalog.table
        rows = table.members[self.lineage_id]
        return [str(run_id) for run_id in table.run_id[rows[~table.is_root[rows]]].tolist()]

    @property
    def derived_runs(self) -> list[PosttrainingRun]:
        """Derived runs, parents before children; those that can't be placed included (see coverage())."""
        runs = [make_run(self._catalog, run_id) for run_id in self._member_ids]
        return [r for r in runs if isinstance(r, PosttrainingRun)]

    def filter_derived_runs(
        self,
        posttraining_method: object = None,
        learning_rates: object = None,
        **hyperparameters: object,
    ) -> list[PosttrainingRun]:
        """Return the derived runs that match; the lineage is unchanged.

        Parameters
        ----------
        posttraining_method : str or several, optional
        learning_rates : float, several, or slice, optional
            Compared as numbers.
        **hyperparameters
            Any other key of a run's config, or factor of another suite; a value, several, a ``slice`` with both ends
            included, or a function.

        Raises
        ------
        UnknownNameError
            When no run of the store has such a hyperparameter, or is of such a method.
        """
        filters = {"learning_rate": learning_rates, **hyperparameters}
        matches = filter_members(self._catalog, self._member_ids, posttraining_method, filters)
        return [run for run in self.derived_runs if run.run_id in matches]

    def get_continuous_curves(
        self,
        runs: Iterable[TrainingRun | str] | None = None,
        metrics: str | Iterable[str] | None = None,
    ) -> pd.DataFrame:
        """Return the continuous curves of the base and its derived runs, joined at their branch points.

        Parameters
        ----------
        runs : iterable of TrainingRun or str, optional
            Runs, run ids or run labels; the base and all usable derived runs when None.
        metrics : str or iterable of str, optional
            As in :meth:`TrainingRun.get_training_progression`.

        Returns
        -------
        pandas.DataFrame
            Observed rows only. The rows of a derived run begin with those of its base up to the branch, with the
            hyperparameters of the derived run; see :func:`dde.suite.datadecide.store_frames.continuous_curves`, or for
            a suite other than DataDecide :func:`dde.suite.frames.suite_curves`.

        Raises
        ------
        SelectionError
            When one of `runs` is not a run of the lineage.

        Warns
        -----
        DdeWarning
            When one of `runs` can't be placed, so that it has no rows; when runs of one method reduced `train_loss` in
            different ways, so that the values can't be compared.
        """
        if runs is None:
            run_ids = self._curve_ids
        else:
            run_ids = [self._run_id(run) for run in ([runs] if isinstance(runs, (str, TrainingRun)) else runs)]
        return curves_of(self._catalog, run_ids, metrics_of(self._catalog, metrics))

    @property
    def _curve_ids(self) -> list[str]:
        """Ids of the runs that have a curve; a base that is not in the tables has none."""
        table = self._catalog.table
        rows = table.members[self.lineage_id]
        return [str(run_id) for run_id in table.run_id[rows[table.is_used[rows]]].tolist()]

    def _run_id(self, run: TrainingRun | str) -> str:
        name = run.run_id if isinstance(run, TrainingRun) else run
        table = self._catalog.table
        base, rows = self.base_run.run_id, table.members[self.lineage_id].tolist()
        # Later entries win: an id takes precedence over a label, and both over the names of the base.
        names = {self.lineage_id: base, PRETRAINING: base} if base in table.run_id[rows] else {}
        names |= {str(table.labels[row]): str(table.run_id[row]) for row in rows if table.labels[row]}
        names |= {str(table.run_id[row]): str(table.run_id[row]) for row in rows}
        if name not in names:
            raise SelectionError(
                f"{name!r} is not a run of the lineage {self.lineage_id}, so it has no curve here."
                f"{near_names(name, names)} lineage.derived_runs lists its runs."
            )
        return names[name]

    def compare(self, other: TrainingLineage) -> pd.DataFrame:
        """Return the runs of this lineage beside those of another one, by treatment.

        Parameters
        ----------
        other : TrainingLineage
            May come from other sources.

        Returns
        -------
        pandas.DataFrame
            One row per run label of either lineage: ``pretraining`` first, then as along the dimension ``run``. A
            label is a treatment, with ``#2``, ``#3`` for its repetitions, so a row has at most one run of each lineage.
            Runs of all states are included.

            - `run`: the label.
            - `run_id`, `other_run_id`: ids of the runs; "" where a lineage has no such run.
            - `end_tokens`, `other_end_tokens`: cumulative tokens of their last rows, float; NaN where the lineage has
              no such run, or its end is unknown.
            - `differs`: hyperparameters that both runs state and in which they differ, as ``name: here, there``,
              joined by "; ". ``sequences_per_step`` is the batch over all GPUs, ``dataset`` the training mixture; the
              seed of the training and the hyperparameters of parent runs are not compared. For the bases: params,
              data and seed.

            Derived runs that have no label, because their parent is absent from the store, are left out; their ids are
            in ``frame.attrs["left_out"]``.

            For suites other than DataDecide, `differs` lists the factors in which both runs differ. Factors of lineages
            are listed for the bases only; ids of runs and the factor that numbers repetitions are not listed.

        Examples
        --------
        >>> import dde
        >>> repository = dde.tutorial.open_repository("tiny")
        >>> one, other = (repository.get_lineage(f"{x}-150M-default") for x in ("dolma1_7", "dclm-baseline"))
        >>> one.compare(other).loc[0, ["run", "differs"]].tolist()
        ['pretraining', 'data: Dolma1.7, DCLM-Baseline']
        """
        return compare(self._catalog, self.lineage_id, other._catalog, other.lineage_id)

    def to_dataset(self, **options: Any) -> xr.Dataset:
        """Return the lineage as a Dataset; `options` as in :func:`dde.open_lineages`."""
        return self._catalog.to_dataset(lineages=[self.lineage_id], **options)


def _known(tokens: np.int64) -> int | None:
    return int(tokens) if tokens >= 0 else None


def make_run(catalog: RunCatalog, run_id: str) -> TrainingRun:
    """Return a run of a catalog by its id; the same object while a reference to it exists.

    Raises
    ------
    SelectionError
        When there is no such run; names the nearest ones.
    """
    run = catalog._runs.get(run_id)
    if not isinstance(run, TrainingRun):
        row = catalog.row_of(run_id)
        runs = catalog.suite_runs
        source = None if runs is None or runs.made.is_attached[row] else runs.tables
        if catalog.table.is_root[row]:
            run = PretrainingRun(run_id, source or catalog.pretraining_source, repository=catalog)
        else:
            run = PosttrainingRun(run_id, source or catalog.posttraining_source, repository=catalog)
        catalog._runs[run_id] = run
    return run


def make_lineage(catalog: RunCatalog, label: str) -> TrainingLineage:
    """Return a lineage of a catalog by its label."""
    base = make_run(catalog, str(catalog.table.run_id[base_rows(catalog.table, label)[0]]))
    assert isinstance(base, PretrainingRun)
    return TrainingLineage(base, label)


def _catalog_of(
    dd: DataDecide | PretrainingSource | None,
    store: PosttrainingSource | PretrainingSource | None,
    parents: dict[str, str] | None = None,
) -> RunCatalog:
    for reader in (dd, store):
        if isinstance(reader, PretrainingSource):
            raise LineageError(
                f"a run of the {reader.description} needs the run table of its suite, so it can't be created from "
                "tables alone. Use dde.RunRepository.from_suite(suite, folder).get_run(run_id)."
            )
    assert not isinstance(dd, PretrainingSource)
    assert not isinstance(store, PretrainingSource)
    return RunCatalog(dd, store, parents=parents)
