"""Runs and lineages as objects that know their data and, through the repository, each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from dde.curves.frames import continuous_curves, own_rows
from dde.errors import SelectionError, near_names
from dde.names import find_base_by_label
from dde.relations.metric_choice import choose_metrics
from dde.relations.selection import filter_runs
from dde.relations.treatments import PRETRAINING

if TYPE_CHECKING:
    import xarray as xr

    from dde.relations.registry import DerivedRun
    from dde.repository import RunRepository
    from dde.sources.datadecide import DataDecide
    from dde.sources.protocols import PosttrainingSource

__all__ = ["LineageList", "PosttrainingRun", "PretrainingRun", "TrainingLineage", "TrainingRun"]


class TrainingRun:
    """Any training run.

    Parameters
    ----------
    run_id : str
        W&B's id; the lineage's label for a pretraining run.
    run_type : str
        ``pretraining``, ``supervised_ft`` or ``dpo``.
    repository : RunRepository
        Resolves relations; a run holds ids, never other runs.

    Examples
    --------
    >>> import dde
    >>> repository = dde.tutorial.open_repository("tiny")
    >>> run = repository.get_run("dolma1_7-4M-default")
    >>> run.run_type
    'pretraining'
    """

    def __init__(self, run_id: str, run_type: str, *, repository: RunRepository) -> None:
        self.run_id = run_id
        self.run_type = run_type
        self._repository = repository

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.run_id!r}, {self.run_type!r})"

    def _repr_html_(self) -> str:
        from dde.html import run_html

        return run_html(self)

    @property
    def parent_run_id(self) -> str | None:
        """Id of the run it starts from; None for a pretraining run, and where no parent was found."""
        derived = self._derived
        return (derived.parent_run_id or None) if derived else None

    @property
    def child_run_ids(self) -> list[str]:
        """Ids of the runs that start directly from this one."""
        return list(self._repository.registry.children.get(self.run_id, []))

    @property
    def _derived(self) -> DerivedRun | None:
        return self._repository.registry.derived.get(self.run_id)

    def get_training_progression(self, metrics: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Return the run's own observed rows: one per position, with the metrics asked for.

        Parameters
        ----------
        metrics : str or iterable of str, optional
            Names, globs or "all"; the default metrics when None.

        Returns
        -------
        pandas.DataFrame
            The seed's columns; see :func:`dde.curves.frames.continuous_curves`.
        """
        registry = self._repository.registry
        return own_rows(registry, self.run_id, choose_metrics(registry, metrics))

    def get_evaluations(self, metrics: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Return the run's own rows that hold an evaluation; training logs are left out."""
        registry = self._repository.registry
        chosen = [m for m in choose_metrics(registry, metrics) if m.kind != "log"]
        frame = own_rows(registry, self.run_id, chosen)
        return frame.dropna(subset=[m.name for m in chosen], how="all").reset_index(drop=True)

    def get_full_lineage(self) -> TrainingLineage:
        """Return the whole lineage that the run belongs to."""
        return self._repository.get_lineage(self.run_id)

    def to_dataset(self, **options: Any) -> xr.Dataset:
        """Return the run's continuous curve as a Dataset; `options` as in :func:`dde.open_lineages`."""
        return self._repository.to_dataset(run_ids=[self.run_id], **options)


class PretrainingRun(TrainingRun):
    """A pretraining run: sparse, evaluated checkpoints in the tables of DataDecide.

    Parameters
    ----------
    run_id : str
        The lineage's label.
    dd : DataDecide
        Tables it is read from.
    """

    def __init__(self, run_id: str, dd: DataDecide | None, *, repository: RunRepository | None = None) -> None:
        super().__init__(run_id, PRETRAINING, repository=repository or _repository(dd, None))
        self.data_source = dd


class PosttrainingRun(TrainingRun):
    """A finetuning or DPO run: dense training logs and final evaluations in a store of W&B runs.

    Parameters
    ----------
    run_id : str
        W&B's id.
    wandb_store : PosttrainingSource
        Store it is read from.
    parent_run_id : str, optional
        Parent, settled by the caller; found from the evidence when None.
    """

    def __init__(
        self,
        run_id: str,
        wandb_store: PosttrainingSource | None,
        parent_run_id: str | None = None,
        *,
        repository: RunRepository | None = None,
    ) -> None:
        if repository is None:
            repository = _repository(None, wandb_store, {run_id: parent_run_id} if parent_run_id else None)
            if parent_run_id and find_base_by_label(parent_run_id) is not None:
                # A label names no step: where the evidence finds the same lineage, it knows the checkpoint, too.
                plain = _repository(None, wandb_store)
                found = plain.registry.derived.get(run_id)
                if found is None or found.parent_run_id == parent_run_id:
                    repository = plain
        super().__init__(run_id, repository.run_type(run_id), repository=repository)
        self.data_source = wandb_store

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Hyperparameters by name; what nothing says is absent."""
        derived = self._derived
        return dict(derived.hyperparameters) if derived else {}

    @property
    def label(self) -> str:
        """Treatment, as along the dimension ``run``."""
        derived = self._derived
        return derived.label if derived else ""


class TrainingLineage:
    """A pretraining run and every run derived from it, at any depth.

    Parameters
    ----------
    base_run : PretrainingRun

    Examples
    --------
    >>> import dde
    >>> lineage = dde.tutorial.open_repository("tiny").get_lineage("dolma1_7-4M-default")
    >>> lineage.base_run.run_id
    'dolma1_7-4M-default'
    """

    def __init__(self, base_run: PretrainingRun) -> None:
        self.base_run = base_run
        self._repository = base_run._repository

    def __repr__(self) -> str:
        return f"TrainingLineage({self.lineage_id!r}, {len(self._member_ids)} derived runs)"

    def _repr_html_(self) -> str:
        from dde.html import lineage_html

        return lineage_html(self)

    @property
    def lineage_id(self) -> str:
        """Label of the lineage."""
        return self.base_run.run_id

    @property
    def _member_ids(self) -> list[str]:
        return self._repository.registry.members.get(self.lineage_id, [])

    @property
    def derived_runs(self) -> list[PosttrainingRun]:
        """Derived runs, parents before children; those that can't be placed included (see coverage())."""
        runs = [self._repository.get_run(run_id) for run_id in self._member_ids]
        return [r for r in runs if isinstance(r, PosttrainingRun)]

    def filter_derived_runs(
        self,
        posttraining_method: object = None,
        learning_rates: object = None,
        **hyperparameters: object,
    ) -> list[PosttrainingRun]:
        """Return the derived runs that match; changes nothing.

        Parameters
        ----------
        posttraining_method : str or several, optional
        learning_rates : float, several, or slice, optional
            Compared as numbers.
        **hyperparameters
            Any other key of a run's config; a value, several, a ``slice`` with both ends included, or a function.

        Raises
        ------
        UnknownNameError
            When no run of the store has such a hyperparameter, or is of such a method.
        """
        wanted = {"learning_rate": learning_rates, **hyperparameters}
        kept = filter_runs(self._repository.registry, self._member_ids, posttraining_method, wanted)
        return [run for run in self.derived_runs if run.run_id in kept]

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
            Observed rows only. A derived run's rows repeat the base prefix with its own hyperparameters.
        """
        registry = self._repository.registry
        if runs is None:
            usable = [r for r in self._member_ids if registry.placed[r].status == "used"]
            run_ids = [self.lineage_id, *usable]
        else:
            run_ids = [self._run_id(run) for run in ([runs] if isinstance(runs, (str, TrainingRun)) else runs)]
        return continuous_curves(registry, run_ids, choose_metrics(registry, metrics))

    def _run_id(self, run: TrainingRun | str) -> str:
        wanted = run.run_id if isinstance(run, TrainingRun) else run
        names = {self.lineage_id: self.lineage_id, PRETRAINING: self.lineage_id}
        for run_id in self._member_ids:
            names[run_id] = run_id
            names[self._repository.registry.derived[run_id].label] = run_id
        if wanted not in names:
            raise SelectionError(
                f"{wanted!r} is no run of the lineage {self.lineage_id}, so it has no curve here."
                f"{near_names(wanted, names)} lineage.derived_runs lists its runs."
            )
        return names[wanted]

    def to_dataset(self, **options: Any) -> xr.Dataset:
        """Return the lineage as a Dataset; `options` as in :func:`dde.open_lineages`."""
        return self._repository.to_dataset(lineages=[self.lineage_id], **options)


class LineageList(list[TrainingLineage]):
    """Lineages, with what can be done to all of them at once."""

    def _repr_html_(self) -> str:
        from dde.html import lineages_html

        return lineages_html(self)

    def to_dataset(self, **options: Any) -> xr.Dataset:
        """Return the lineages as one Dataset; `options` as in :func:`dde.open_lineages`."""
        if not self:
            raise SelectionError(
                "the list holds no lineage, so there is nothing to open. Widen the filters of find_lineages()."
            )
        return self[0]._repository.to_dataset(lineages=[lineage.lineage_id for lineage in self], **options)

    def get_continuous_curves(self, metrics: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Return the continuous curves of all lineages in one frame."""
        frames = [lineage.get_continuous_curves(metrics=metrics) for lineage in self]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _repository(
    dd: DataDecide | None, store: PosttrainingSource | None, parents: dict[str, str] | None = None
) -> RunRepository:
    from dde.repository import RunRepository

    return RunRepository(dd, store, parents=parents)
