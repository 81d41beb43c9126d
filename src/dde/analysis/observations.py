"""Observed values of runs as dense arrays: the samples of each run in the order of their tokens, without cells between.

A Dataset has one grid for all runs, on which most cells of a run are interpolated. Questions about crossings,
checkpoints and scatter concern samples only, which are few: 20 to 60 of a pretraining run of DataDecide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.array_types import Float64
from dde.dataset.dimensions import broadcast_values
from dde.dataset.metric_rows import MetricRows
from dde.dataset.provenance import metric_named
from dde.dataset.sample_source import require_complete
from dde.dataset.samples import flags_of, samplings_of
from dde.errors import SelectionError, UnknownNameError
from dde.schema import MEMBERS

__all__ = ["Observations", "metric_names", "require_runs"]


@dataclass(frozen=True)
class Observations:
    """The observed values of metrics of one sampling in runs, one row per run.

    Attributes
    ----------
    metrics : tuple of str
        Names of the metrics, which share their samplings.
    cells : tuple of str
        Dimensions of the runs; rows are these dimensions flattened, in this order.
    shape : tuple of int
        Sizes of `cells`.
    run_ids : (row,) object array
        "" where there is no run.
    tokens : (row, sample) float64 array
        Cumulative tokens of the samples, ascending; NaN after a run's last sample.
    values : (metric, row, sample) float64 array
        NaN where a metric has no value at a sample.
    """

    metrics: tuple[str, ...]
    cells: tuple[str, ...]
    shape: tuple[int, ...]
    run_ids: npt.NDArray[np.object_]
    tokens: Float64
    values: Float64

    @classmethod
    def of(cls, dataset: xr.Dataset, metrics: Sequence[str], whole_curve: bool = False) -> Iterator[Observations]:
        """Yield the observations of metrics, those with the same samplings together.

        Parameters
        ----------
        dataset : xarray.Dataset
        metrics : sequence of str
            Names of variables.
        whole_curve : bool, default False
            Include the samples of a run's ancestors up to its branch; otherwise only the run's own samples.

        Raises
        ------
        SelectionError
            When the Dataset holds means, or samples are not points of it.
        SourceError
            When a coordinate is missing.
        """
        require_runs(dataset)
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for name in metrics:
            dims = tuple(map(str, dataset[name].dims))
            groups.setdefault((samplings_of(dataset[name]), dims), []).append(name)
        for (samplings, _), names in groups.items():
            array = dataset[names[0]]
            rows = MetricRows.of(array, samplings, flags_of(array))
            where = rows.sampled if whole_curve else rows.sampled & rows.own
            number = "count" if whole_curve else "own"
            if len(samplings) == 1:
                count = rows.sample_number(samplings[0], number)
                has_place = ~rows.off_axis
                require_complete(rows.run_ids, where.sum(axis=1), np.where(has_place, count, 0.0), samplings[0])
            else:
                # Samples that two samplings share are not counted, so all samples of each must be points.
                complete = rows.is_complete(of_run=not whole_curve) | rows.off_axis
                rows.require_known(~complete, number, "the observations")
            at, there = _packed(where, rows.tokens)
            sizes = {d: array.sizes[d] for d in (*rows.cells, rows.rule.name)}
            tokens = np.where(there, np.take_along_axis(rows.tokens, at, axis=1), np.nan)
            values = np.full((len(names), *tokens.shape), np.nan)
            for k, name in enumerate(names):
                cells = rows.values if k == 0 else _cells(dataset[name].variable, sizes)
                values[k] = np.where(there, np.take_along_axis(cells, at, axis=1), np.nan)
            yield cls(tuple(names), rows.cells, rows.shape, rows.run_ids, tokens, values)

    def of_metric(self, number: int) -> tuple[Float64, Float64]:
        """Return tokens and values of one metric, (row, sample), without samples that have no value of it."""
        values = self.values[number]
        there = ~np.isnan(values)
        if (there == ~np.isnan(self.tokens)).all():
            return self.tokens, values
        at, some = _packed(there, self.tokens)
        return (
            np.where(some, np.take_along_axis(self.tokens, at, axis=1), np.nan),
            np.where(some, np.take_along_axis(values, at, axis=1), np.nan),
        )


def _packed(where: npt.NDArray[np.bool_], tokens: Float64) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return the positions of the chosen points of each row in the order of their tokens, and which of them exist."""
    count = where.sum(axis=1)
    most = int(count.max(initial=0))
    row, point = np.nonzero(where)
    if len(row) > 1 and not _ascends(row, tokens[row, point]):
        order = np.lexsort((tokens[row, point], row))
        row, point = row[order], point[order]
    there = np.arange(most) < count[:, None]
    at = np.zeros((len(where), most), np.intp)
    at[there] = point
    return at, there


def _ascends(row: npt.NDArray[np.intp], tokens: Float64) -> bool:
    return bool(((np.diff(tokens) > 0) | (np.diff(row) > 0)).all())


def _cells(variable: xr.Variable, sizes: dict[str, int]) -> Float64:
    *cells, points = sizes.values()
    return np.asarray(broadcast_values(variable, sizes), np.float64).reshape(int(np.prod(cells)), points)


def metric_names(dataset: xr.Dataset, metric: str | Sequence[str] | None) -> list[str]:
    """Return the names of the variables that a question concerns.

    Parameters
    ----------
    dataset : xarray.Dataset
    metric : str, several or None
        Names or aliases; the only variable of the Dataset when None.

    Raises
    ------
    UnknownNameError
        When there is no such variable, none is given, or None is ambiguous.
    SelectionError
        When it is not a Dataset.
    """
    _require_dataset(dataset)
    if metric is None:
        if len(dataset.data_vars) != 1:
            raise UnknownNameError(
                f"the Dataset has {len(dataset.data_vars)} metrics, so which one is meant is ambiguous. Name one or "
                f"several. There are {', '.join(map(str, dataset.data_vars)) or 'none'}."
            )
        return [str(next(iter(dataset.data_vars)))]
    given = [metric] if isinstance(metric, str) or not isinstance(metric, Iterable) else list(metric)
    names = [metric_named(dataset, name) for name in given]
    if not names:
        raise UnknownNameError("no metric is given, so there is nothing to answer. Name one or several.")
    return list(dict.fromkeys(names))


def _require_dataset(dataset: object) -> None:
    if not isinstance(dataset, xr.Dataset):
        raise SelectionError(
            f"a {type(dataset).__name__} is given, but questions are functions of a Dataset. Pass one, or call the "
            "method of a DataArray, such as array.dde.reach(...)."
        )


def require_runs(dataset: xr.Dataset) -> None:
    """Raise where a Dataset holds means, which have no observations of their own, or is not a Dataset.

    Raises
    ------
    SelectionError
    """
    _require_dataset(dataset)
    if MEMBERS in dataset.coords:
        raise SelectionError(
            "the Dataset holds means of runs, which have no observations of their own. Pass the Dataset of the runs: "
            "this function takes repetitions into account itself."
        )
