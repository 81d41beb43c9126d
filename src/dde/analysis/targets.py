"""Targets that values of runs are compared with: numbers, or the value of another run at one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.footing import Place, coordinates_of, count_left_out, resolve_place, values_at
from dde.analysis.observations import Observations
from dde.array_types import Float64
from dde.dataset.dimensions import broadcast_values, text_values
from dde.dataset.select import select
from dde.errors import SelectionError, UnknownNameError
from dde.schema import LINEAGE_COORDINATES, factors_of

__all__ = ["Target", "Targets", "observations_of"]

#: A number, several numbers, the label or id of a run, or filters that select it, such as ``{"params": "150M"}``.
Target = float | Sequence[float] | str | Mapping[str, Any]


@dataclass(frozen=True)
class Targets:
    """The target of each run.

    Attributes
    ----------
    values : (target, metric, row) float64 array
        NaN where a run has no target.
    numbers : float64 array or None
        The targets, (target,), or () for a single one; None where targets are values of other runs.
    reference : (row,) int64 array
        Row of the run whose value is the target; -1 for none.
    place : str
        Place of these values; "" where targets are numbers.
    """

    values: Float64
    numbers: Float64 | None
    reference: npt.NDArray[np.int64]
    place: str

    @classmethod
    def of(cls, dataset: xr.Dataset, metrics: Sequence[str], target: Target, at: Place | None, rows: int) -> Targets:
        """Return the targets of the runs of a Dataset.

        Parameters
        ----------
        dataset : xarray.Dataset
        metrics : sequence of str
            Names of variables.
        target : float, several, str or mapping
            A text is the id of a run or a label along ``run``; a mapping has a filter for each coordinate, as
            ``ds.dde.sel`` takes them. The target of a run is then the value of the run that matches the filters and
            agrees with it in the other factors: ``"pretraining"`` is the base of the run's own lineage, and
            ``{"params": "150M"}`` the run of the same label, recipe and seed at 150M.
        at : place, optional
            Place of the values of other runs; see :func:`dde.analysis.footing.resolve_place`.
        rows : int
            Number of rows, which are the dimensions of the runs flattened.

        Raises
        ------
        UnknownNameError
            When the target is of no such kind, a place is given for numbers, or there is no such coordinate.
        SelectionError
            When no run matches the filters, none of these has a value or agrees with another run, or several do.
        """
        if isinstance(target, (str, Mapping)):
            values = values_at(dataset, list(metrics), resolve_place(dataset, at))
            filters = _filters(dataset, target)
            reference = _references(dataset, tuple(map(str, values["value"].dims[1:])), filters)
            known = values["value"].values.reshape(len(metrics), rows)
            found = np.where(reference >= 0, known[:, reference], np.nan)
            if np.isnan(found).all():
                status = values["status"].values.reshape(len(metrics), rows)[:, np.unique(reference[reference >= 0])]
                raise SelectionError(
                    f"no run of the target {filters!r} has a value at {values.attrs['at']} ({count_left_out(status)}), "
                    "so there is nothing to compare with. Pass another place, such as at='last', or another target."
                )
            return cls(found[None], None, reference, str(values.attrs["at"]))
        numbers = _numbers(target)
        if at is not None:
            raise UnknownNameError(
                f"at={at!r} is the place of another run's value, but the target is a number, so it would do nothing. "
                "Leave it out, or name a run as the target, such as 'pretraining'."
            )
        values_of_all = np.broadcast_to(np.atleast_1d(numbers)[:, None, None], (numbers.size, len(metrics), rows))
        return cls(values_of_all, numbers, np.full(rows, -1), "")

    def answer(
        self,
        dataset: xr.Dataset,
        metrics: Sequence[str],
        cells: Sequence[str],
        arrays: Mapping[str, tuple[npt.NDArray[Any], Mapping[str, str]]],
    ) -> xr.Dataset:
        """Return arrays, (target, metric, row), as variables with the coordinates of runs, metrics and targets.

        Parameters
        ----------
        dataset : xarray.Dataset
        metrics : sequence of str
        cells : sequence of str
            Dimensions of the runs.
        arrays : mapping
            Array and attributes of each variable.
        """
        shape = tuple(dataset.sizes[d] for d in cells)
        coords = coordinates_of(dataset, metrics, cells)
        # Targets that are one number or one run have no dimension.
        several = self.numbers is not None and self.numbers.ndim > 0
        dims = ("metric", *(("target",) if several else ()), *cells)
        attrs = {"long_name": "target", "units": _common_units(dataset, metrics)}

        def variable(array: npt.NDArray[Any], attrs: Mapping[str, str]) -> xr.Variable:
            ordered = np.moveaxis(array, 0, 1) if several else array[0]
            return xr.Variable(dims, ordered.reshape(*ordered.shape[:-1], *shape), dict(attrs))

        if self.numbers is None:
            coords["target"] = variable(self.values, attrs)
            run_ids = text_values(
                broadcast_values(dataset.coords["run_id"].variable, dict(zip(cells, shape, strict=True)))
            )
            chosen = np.where(self.reference >= 0, run_ids.ravel()[self.reference], "")
            coords["target_run_id"] = xr.Variable(
                tuple(cells), chosen.reshape(shape), {"long_name": "run of the target"}
            )
        else:
            coords["target"] = xr.Variable(("target",) if several else (), self.numbers, attrs)
        return xr.Dataset({n: variable(*pair) for n, pair in arrays.items()}, coords)


def observations_of(dataset: xr.Dataset, metrics: Sequence[str]) -> list[Observations]:
    """Return the observations of metrics that have one answer: all along the same dimensions of runs.

    Raises
    ------
    SelectionError
        When their dimensions differ, samples are not points of the Dataset, or it holds means.
    """
    groups = list(Observations.of(dataset, metrics))
    if any(group.cells != groups[0].cells for group in groups):
        raise SelectionError(
            f"the metrics {', '.join(metrics)} have different dimensions, so they have no common answer. Ask for them "
            "one by one."
        )
    return groups


def _common_units(dataset: xr.Dataset, metrics: Sequence[str]) -> str:
    units = {str(dataset[name].attrs.get("units", "")) for name in metrics}
    return units.pop() if len(units) == 1 else ""


def _numbers(target: object) -> Float64:
    """Return numbers as an array, () or (target,).

    Raises
    ------
    UnknownNameError
    """
    try:
        array = np.asarray(target)
    except ValueError:
        # Nested sequences of different lengths.
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or array.ndim > 1 or not array.size or not np.isfinite(array).all():
        raise UnknownNameError(
            f"target={target!r} is not a target. Pass a finite number, several, the label or id of a run, such as "
            "'pretraining', or filters that select a run, such as {'run': 'pretraining'}."
        )
    numbers = array.astype(np.float64)
    if len(np.unique(numbers)) < numbers.size:
        raise UnknownNameError(f"target={target!r} has a number twice, so its labels are ambiguous. Pass each once.")
    return numbers


def _filters(dataset: xr.Dataset, target: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(target, str):
        if not target:
            raise UnknownNameError(
                "the target has no filters, so its run is unknown. Pass a number, the label of a run, or filters such "
                "as {'run': 'pretraining'}."
            )
        return {str(name): value for name, value in target.items()}
    if "run_id" in dataset.coords and target in text_values(np.asarray(dataset.coords["run_id"].values, object)):
        return {"run_id": target}
    return {"run": target}


def _references(dataset: xr.Dataset, cells: tuple[str, ...], filters: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return the row of the run that each run is compared with; -1 where there is none.

    Raises
    ------
    UnknownNameError, SelectionError
    """
    sizes = {d: dataset.sizes[d] for d in cells}
    rows = np.arange(int(np.prod(list(sizes.values())))).reshape(tuple(sizes.values()))
    coords = {n: c for n, c in dataset.coords.items() if set(map(str, c.dims)) <= set(cells)}
    chosen = select(xr.Dataset({"row": (cells, rows)}, coords), **filters)
    run_ids = text_values(broadcast_values(dataset.coords["run_id"].variable, sizes)).ravel()
    found = np.ravel(chosen["row"].values)
    matching = found[~np.isnan(found)].astype(np.int64)
    matching = matching[run_ids[matching] != ""]
    names = _agreeing(dataset, cells, filters)
    columns = [_codes(dataset.coords[name].variable, sizes) for name in names]
    keys = np.stack(columns, axis=1) if columns else np.zeros((rows.size, 1), np.int64)
    group = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    of_group = np.full(int(group.max(initial=0)) + 1, -1, np.int64)
    of_group[group[matching]] = matching
    # A Dataset may have one run at several positions.
    if (twice := run_ids[of_group[group[matching]]] != run_ids[matching]).any():
        one = int(matching[twice][0])
        other = int(of_group[group[one]])
        raise SelectionError(
            f"the target {dict(filters)!r} is ambiguous: {run_ids[one]} and {run_ids[other]} match and agree in "
            f"{', '.join(names) or 'all coordinates'}. Add filters that tell them apart, such as run or run_id."
        )
    reference = np.where(run_ids != "", of_group[group], -1)
    is_other = (reference >= 0) & (reference != rows.ravel())
    if not is_other.any() and (reference[run_ids != ""] < 0).any():
        raise SelectionError(
            f"no run of the target {dict(filters)!r}, such as {run_ids[matching[0]]}, agrees with another run in "
            f"{', '.join(names)}, so no run has a target. Name the run by run_id to compare all runs with it, or add "
            "filters for these coordinates."
        )
    return reference


def _agreeing(dataset: xr.Dataset, cells: tuple[str, ...], filters: Mapping[str, Any]) -> list[str]:
    """Return the coordinates in which a run agrees with the run that it is compared with.

    Filters of lineages leave the other factors of lineages, and filters of runs the other factors of runs. Without a
    filter of lineages, or of runs, their labels agree.
    """
    if "run_id" in filters:
        return []
    factors = factors_of(dataset)
    is_of_lineage = {n: _is_of_lineage(dataset, n, factors.get(n)) for n in filters}
    others = [d for d in cells if d not in ("lineage", "run") and d not in filters]
    names: list[str] = []
    if "lineage" not in filters:
        of_lineage = [n for n, of in factors.items() if of == "lineage" and n not in filters]
        names += of_lineage if any(is_of_lineage.values()) else ["lineage"]
    if "run" not in filters:
        of_runs = [n for n, of in factors.items() if of != "lineage" and n not in filters]
        by_run = not all(is_of_lineage.values())
        names += [*of_runs, *(["replicate"] if "replicate" not in filters else [])] if by_run else ["run"]
    every = dict.fromkeys([*names, *others])
    return [n for n in every if n in dataset.coords and set(map(str, dataset.coords[n].dims)) <= set(cells)]


def _is_of_lineage(dataset: xr.Dataset, name: str, factor: str | None) -> bool:
    if factor is not None:
        return factor == "lineage"
    return name == "lineage" or name in LINEAGE_COORDINATES or dataset.coords[name].dims == ("lineage",)


def _codes(variable: xr.Variable, sizes: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Return a number for each distinct value of a coordinate, (row,); missing values are one."""
    values = broadcast_values(variable, sizes).ravel()
    texts = values.astype(str) if values.dtype.kind in "fiub" else text_values(values).astype(str)
    return np.unique(texts, return_inverse=True)[1].astype(np.int64).ravel()
