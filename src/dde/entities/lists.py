"""Lists of runs and of lineages, with operations on all members at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, SupportsIndex, TypeVar, overload

import pandas as pd

from dde.dataset.loss_reductions import warn_of_reductions
from dde.entities.catalog import RunCatalog
from dde.entities.views import curves_of, metrics_of
from dde.errors import SelectionError, warn_caller
from dde.lineage.run_table import RunTable
from dde.suite.datadecide.metric_choice import choose_metrics
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.store_frames import empty_curves

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LineageList", "RunList"]


class _Member(Protocol):
    """A member of a list: a run or a lineage of a catalog."""

    @property
    def _catalog(self) -> RunCatalog: ...


class _Lineage(_Member, Protocol):
    @property
    def lineage_id(self) -> str: ...

    @property
    def _curve_ids(self) -> list[str]: ...


class _Run(_Member, Protocol):
    run_id: str
    run_type: str
    _given_catalog: RunCatalog | None


_Entity = TypeVar("_Entity", bound=_Member)
_LineageT = TypeVar("_LineageT", bound=_Lineage)
_RunT = TypeVar("_RunT", bound=_Run)


class _EntityList(list[_Entity]):
    """A list whose slices and sums have its own type."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> _Entity: ...
    @overload
    def __getitem__(self, index: slice, /) -> Self: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> _Entity | Self:
        item = super().__getitem__(index)
        return type(self)(item) if isinstance(item, list) else item

    def __add__(self, other: list[_Entity], /) -> Self:  # type: ignore[override]
        return type(self)([*self, *other])

    def copy(self) -> Self:
        """Return a copy."""
        return type(self)(self)

    def _one_catalog(self) -> RunCatalog:
        """Return the catalog of all members; raise SelectionError where they come from several."""
        first = self[0]._catalog
        for entity in self:
            if entity._catalog is not first and not first.has_same_content(entity._catalog):
                raise SelectionError(
                    f"the list has members of different repositories ({first!r} and {entity._catalog!r}), so they "
                    "can't be opened as one Dataset. Open those of each repository, and join them: dde.concat([...])."
                )
        return first


class LineageList(_EntityList[_LineageT]):
    """Lineages, with operations on all of them at once; slices and sums are lists of lineages, too.

    Examples
    --------
    >>> import dde
    >>> lineages = dde.tutorial.open_repository("tiny").find_lineages(base_params="4M")
    >>> lineages[:1].to_dataset(metrics=["piqa"]).sizes["lineage"]
    1
    """

    def _repr_html_(self) -> str:
        from dde.entities.notebook_html import lineages_html

        return lineages_html([(lineage._catalog, lineage.lineage_id) for lineage in self])

    def to_dataset(self, **options: Any) -> xr.Dataset:
        """Return the lineages as one Dataset; `options` as in :func:`dde.open_lineages`.

        Raises
        ------
        SelectionError
            When the list is empty, or has lineages of different repositories.
        """
        if not self:
            raise SelectionError(
                "the list holds no lineage, so there is nothing to open. Widen the filters of find_lineages()."
            )
        return self._one_catalog().to_dataset(lineages=[lineage.lineage_id for lineage in self], **options)

    def get_continuous_curves(self, metrics: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Return the continuous curves of all lineages in one frame; a lineage that is repeated counts once.

        Warns
        -----
        DdeWarning
            When runs of one method reduced `train_loss` in different ways, so that the values can't be compared.
        """
        by_catalog: dict[int, list[_LineageT]] = {}
        for lineage in dict.fromkeys(self):
            by_catalog.setdefault(id(lineage._catalog), []).append(lineage)
        frames = []
        for lineages in by_catalog.values():
            catalog = lineages[0]._catalog
            run_ids = [run_id for lineage in lineages for run_id in lineage._curve_ids]
            frames.append(curves_of(catalog, run_ids, metrics_of(catalog, metrics)))
        if not frames:
            return empty_curves(choose_metrics(Registry(None, None), metrics))
        if len(frames) == 1:
            return frames[0]
        frame = pd.concat(frames, ignore_index=True)
        if "train_loss" in frame and "reduce_loss" in frame:
            own = frame[frame["train_loss"].notna() & (frame["run_type"] == frame["checkpoint_type"])]
            for _, rows in own.groupby("run_type"):
                warn_of_reductions(rows["reduce_loss"])
        return frame


class RunList(_EntityList[_RunT]):
    """Related runs, with operations on all of them at once; slices and sums are lists of runs, too.

    Examples
    --------
    >>> import dde
    >>> run = dde.tutorial.open_repository("tiny").get_run("dolma1_7-4M-default")
    >>> run.same_base()[:2].to_dataset(metrics=["piqa"]).run.values[0]
    'pretraining'
    """

    def _repr_html_(self) -> str:
        from dde.entities.notebook_html import runs_html

        return runs_html([(run.run_id, run.run_type, run._given_catalog) for run in self])

    def to_dataset(self, **options: Any) -> xr.Dataset:
        """Return the continuous curves of the runs as one Dataset, each on its base.

        Parameters
        ----------
        **options
            As in :func:`dde.open_lineages`, without the stores.

        Raises
        ------
        SelectionError
            When no run of the list can be placed on its lineage; when runs are of different repositories; and when the
            list mixes bases with derived runs of other bases.

        Warns
        -----
        DdeWarning
            When runs can't be placed on their lineages, so that they are left out.
        """
        if not self:
            raise SelectionError("the list holds no run, so there is nothing to open. Select runs that exist.")
        catalog = self._one_catalog()
        table = catalog.table
        row = {run.run_id: catalog.row_of(run.run_id) for run in self}
        if catalog.suite_runs is None:
            self._check_bases(table, row)
        unplaced = [f"{run_id} ({table.status[r]})" for run_id, r in row.items() if not _is_opened(table, r)]
        placed = [run_id for run_id, r in row.items() if _is_opened(table, r)]
        remedy = "Correct what the suite declares of their parents and tokens."
        if catalog.posttraining_source is not None or catalog.suite_runs is None:
            remedy = "Pass parents={run id: parent} or tokens_per_sequence= to the repository if these are known."
        if unplaced and placed:
            warn_caller(
                f"{len(unplaced)} of {len(self)} runs can't be placed on their lineages, so they are left out: "
                f"{', '.join(unplaced[:4])}{', ...' if len(unplaced) > 4 else ''}. {remedy}"
            )
        # Where no run is left, opening raises an error with the reason.
        return catalog.to_dataset(run_ids=placed or list(row), **options)

    def _check_bases(self, table: RunTable, row: Mapping[str, int]) -> None:
        """Raise where the list has bases of which it has no derived run: a Dataset would leave them out."""
        derived = [r for r in row.values() if not table.is_root[r]]
        bases = {run_id for run_id, r in row.items() if table.is_root[r]}
        apart = sorted(bases - {str(table.lineage[r]) for r in derived})
        if derived and apart:
            raise SelectionError(
                f"the list has the pretraining runs {', '.join(apart)} and only derived runs of other bases, so they "
                "can't be opened as one Dataset. Open both, and join them: dde.concat([...])."
            )


def _is_opened(table: RunTable, row: int) -> bool:
    """Return whether a run has a position or is a base; a base without rows is a lineage, too."""
    return bool(table.is_used[row] or table.is_root[row])
