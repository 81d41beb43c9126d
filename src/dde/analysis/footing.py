"""The footing of a comparison: the value of each run at one place, and why runs have no value there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.observations import metric_names, require_runs
from dde.array_types import Float64
from dde.curves.axes import AXES, resolve_axis
from dde.dataset.align import align
from dde.dataset.dimensions import broadcast_values, cells_along, run_ids_along
from dde.dataset.finals import REACHED, STOP_MARGIN, FinalValues, final_values
from dde.dataset.metric_rows import MetricRows
from dde.dataset.samples import flags_of, number_of, samplings_of
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.schema import factors_of, sampling_of

__all__ = [
    "ENTERED",
    "NO_OBSERVATION",
    "Place",
    "coordinates_of",
    "count_left_out",
    "place_text",
    "resolve_place",
    "values_at",
]

#: Place at which runs are compared: each at its planned end, its last observation, the furthest position that all
#: reach, a number of cumulative tokens, or a position on another axis, such as ``{"cumulative_compute": 1e19}``.
Place = Literal["schedule", "last", "common"] | float | Mapping[str, float]

#: Status of a run that has a value at the place of a comparison.
ENTERED = "entered"
#: Status of a run without any observation.
NO_OBSERVATION = "no observation"

_NO_SCHEDULE = "no schedule known"
_NOT_REACHED = "ends before its schedule"
_NO_VALUE = "no value at the place"
_BEYOND = "beyond its schedule"

# Coordinates of the runs that answers keep besides factors.
_IDENTITY = ("run_id", "n_params", "branch_tokens", "origin_tokens")


def resolve_place(dataset: xr.Dataset, at: Place | None) -> Place:
    """Return the place of a comparison, checked: the planned end where any run has a schedule, if none is given.

    Parameters
    ----------
    dataset : xarray.Dataset
    at : "schedule", "last", "common", number, mapping or None
        A number is of cumulative tokens. A mapping has one item, the name of an axis and a position on it.

    Raises
    ------
    UnknownNameError
        When there is no such place.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy"])
    >>> resolve_place(ds, None), resolve_place(ds, {"compute": 1e15})
    ('schedule', {'cumulative_compute': 1000000000000000.0})
    """
    if at is None:
        known = dataset.coords["schedule_tokens"].notnull().any() if "schedule_tokens" in dataset.coords else False
        return "schedule" if bool(known) else "last"
    if isinstance(at, Mapping):
        if len(at) != 1:
            raise UnknownNameError(
                f"at={dict(at)!r} has {len(at)} axes, so the place is ambiguous. Pass one axis and a position on it, "
                "such as at={'cumulative_compute': 1e19}."
            )
        ((name, position),) = at.items()
        return {resolve_axis(str(name)).name: _position(position, at)}
    if isinstance(at, str):
        if at not in ("schedule", "last", "common"):
            raise UnknownNameError(
                f"at={at!r} is not a place at which runs can be compared."
                f"{near_names(at, ('schedule', 'last', 'common'))} Pass 'schedule', 'last', 'common', a number of "
                "tokens, or an axis with a position, such as {'fraction_of_training': 0.5}."
            )
        return at
    return _position(at, at)


def _position(value: Any, at: object) -> float:
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))
    if not is_number or not 0 <= float(value) < np.inf:
        raise UnknownNameError(
            f"at={at!r} does not give a position: a number of at least 0. Pass a number of tokens, an axis with a "
            "position, such as {'fraction_of_training': 0.5}, or 'schedule', 'last' or 'common'."
        )
    return float(value)


def place_text(at: Place) -> str:
    """Return a place as the text of an attribute.

    Examples
    --------
    >>> place_text("schedule"), place_text(2e9), place_text({"fraction_of_training": 0.5})
    ('schedule', 'cumulative_tokens=2000000000', 'fraction_of_training=0.5')
    """
    if isinstance(at, Mapping):
        ((name, position),) = at.items()
        return f"{name}={position:.12g}"
    return at if isinstance(at, str) else f"cumulative_tokens={at:.12g}"


def values_at(dataset: xr.Dataset, metric: str | Sequence[str] | None, at: Place | None = None) -> xr.Dataset:
    """Return the value of each run at one place, with the reason where it has none.

    Parameters
    ----------
    dataset : xarray.Dataset
    metric : str, several or None
        Names or aliases of variables; may be omitted where there is only one.
    at : "schedule", "last", "common", number or mapping, optional
        See :func:`resolve_place`.

    Returns
    -------
    xarray.Dataset
        Variables along ``(metric, lineage, run)``, or the dimensions that the Dataset has in their place: ``value``, in
        the unit of the metric; ``tokens``, the cumulative tokens of the value; ``status``, "entered", the reason why a
        run has no value, or "" where there is no run. Factors, ``run_id`` and ``n_params`` are coordinates; ``units``,
        ``direction`` and ``metric_label`` (the long name) are coordinates along ``metric``. The attribute ``at`` is
        the place.

    Raises
    ------
    UnknownNameError
        When there is no such variable or place.
    SelectionError
        When the sample that decides a value is not a point of the Dataset, and when it holds means.
    SourceError
        When a coordinate is missing.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy", "piqa"])
    >>> values = values_at(ds, ["arc_easy", "piqa"])
    >>> values.value.dims, values.attrs["at"]
    (('metric', 'lineage', 'run'), 'schedule')
    """
    require_runs(dataset)
    names = metric_names(dataset, metric)
    place = resolve_place(dataset, at)
    parts = [_values_of(dataset, name, place) for name in names]
    cells = tuple(map(str, parts[0]["value"].dims))
    if any(part["value"].dims != cells for part in parts):
        raise SelectionError(
            f"the metrics {', '.join(names)} have different dimensions, so they have no common answer. Ask for them "
            "one by one."
        )
    joined = {
        variable: xr.Variable(("metric", *cells), np.stack([part[variable].values for part in parts]))
        for variable in ("value", "tokens", "status")
    }
    joined["value"].attrs = {"long_name": "value at the place of the comparison"}
    joined["tokens"].attrs = {"long_name": "cumulative tokens of the value", "units": "tokens"}
    joined["status"].attrs = {"long_name": "whether the run entered, or why not"}
    return xr.Dataset(joined, coordinates_of(dataset, names, cells), {"at": place_text(place)})


def coordinates_of(dataset: xr.Dataset, metrics: Sequence[str], cells: Sequence[str]) -> dict[str, xr.Variable]:
    """Return the coordinates of values of runs: factors, ``run_id`` and ``n_params``, and those along ``metric``.

    Parameters
    ----------
    dataset : xarray.Dataset
    metrics : sequence of str
        Names of variables.
    cells : sequence of str
        Dimensions of the runs.
    """
    coords = {str(n): c.variable for n, c in dataset.coords.items() if _is_kept(dataset, str(n), cells)}
    coords["metric"] = xr.Variable(("metric",), np.array(metrics, object), {"long_name": "metric"})
    for attr in ("units", "direction"):
        texts = np.array([str(dataset[name].attrs.get(attr, "")) for name in metrics], object)
        coords[attr] = xr.Variable(("metric",), texts)
    labels = [str(dataset[name].attrs.get("long_name", name)) for name in metrics]
    coords["metric_label"] = xr.Variable(("metric",), np.array(labels, object))
    return coords


def _is_kept(dataset: xr.Dataset, name: str, cells: Sequence[str]) -> bool:
    """Return whether a coordinate goes along: those of the runs other than samplings and texts about their evidence."""
    variable = dataset.coords[name].variable
    if not set(variable.dims) <= set(cells) or name in AXES or sampling_of(name):
        return False
    return name in variable.dims or name in factors_of(dataset) or name in _IDENTITY or name == "replicate"


def _values_of(dataset: xr.Dataset, name: str, at: Place) -> dict[str, xr.DataArray]:
    """Return value, tokens and status of each run for one metric."""
    array = dataset[name]
    found = _at_position_on_axis(dataset, name, at) if isinstance(at, Mapping) else final_values(dataset, name, at)
    cells = found.cells
    shape = tuple(array.sizes[d] for d in cells)
    value, tokens = (np.array(v, np.float64).reshape(shape) for v in (found.values, found.tokens))
    status = _status(array, cells, value, at)
    if at not in ("schedule", "last"):
        beyond = tokens > (1 + STOP_MARGIN) * cells_along(array, "schedule_tokens", cells)
        status[beyond & (status == ENTERED)] = _BEYOND
        value[beyond], tokens[beyond] = np.nan, np.nan
    return {
        "value": xr.DataArray(value, dims=cells),
        "tokens": xr.DataArray(tokens, dims=cells),
        "status": xr.DataArray(status, dims=cells),
    }


def _at_position_on_axis(dataset: xr.Dataset, name: str, at: Mapping[str, float]) -> FinalValues:
    """Return own values of runs at a position on any axis, interpolated between their observations."""
    ((axis, position),) = at.items()
    if axis == "cumulative_tokens":
        return final_values(dataset, name, position)
    point = round(position) if AXES[axis].is_whole else position
    aligned = align(dataset[[name]], [point], axis=axis)[name]
    rows = MetricRows.of(aligned, samplings_of(aligned), flags_of(aligned))
    values, tokens, _ = rows.last(rows.own & ~np.isnan(rows.values))
    return FinalValues(aligned, rows.cells, values, tokens, "")


def _status(array: xr.DataArray, cells: tuple[str, ...], values: Float64, at: Place) -> npt.NDArray[np.object_]:
    """Return "entered" for runs with a value, the reason for others, and "" for cells without a run."""
    run_ids = run_ids_along(array, cells)
    status = np.full(values.shape, _NO_VALUE, object)
    sizes = {d: array.sizes[d] for d in cells}

    def number(sampling: str, what: str) -> Float64:
        return np.asarray(broadcast_values(number_of(array, sampling, what), sizes), np.float64)

    schedule = cells_along(array, "schedule_tokens", cells)
    samplings = samplings_of(array)
    last = np.min([number(s, "last") for s in samplings], axis=0)
    if at == "schedule":
        start = np.nan_to_num(cells_along(array, "branch_tokens", cells))
        status[~(last >= start + REACHED * (schedule - start))] = _NOT_REACHED
        status[np.isnan(schedule)] = _NO_SCHEDULE
    elif isinstance(at, Mapping) and "fraction_of_training" in at:
        status[np.isnan(schedule)] = _NO_SCHEDULE
    # Samplings that share no sample have no observation in common, which the value shows.
    own = np.min([np.nan_to_num(number(s, "own")) for s in samplings], axis=0)
    status[own == 0] = NO_OBSERVATION
    status[~np.isnan(values)] = ENTERED
    status[run_ids == ""] = ""
    return status


def count_left_out(status: xr.DataArray | npt.NDArray[Any]) -> str:
    """Return a text that counts the runs that did not enter, by reason; "" for none.

    Parameters
    ----------
    status : xarray.DataArray or array
        Of an array with the dimension ``metric``, a run counts once for each reason.

    Examples
    --------
    >>> count_left_out(np.array(["entered", "no observation", "", "no observation"], object))
    'no observation: 2'
    """
    texts = np.asarray(status.values if isinstance(status, xr.DataArray) else status).astype(str)
    axis = status.dims.index("metric") if isinstance(status, xr.DataArray) and "metric" in status.dims else None
    counts = {}
    for reason in np.unique(texts).tolist():
        if reason not in ("", ENTERED):
            where = texts == reason
            counts[reason] = int((where if axis is None else where.any(axis=axis)).sum())
    return "; ".join(f"{reason}: {count}" for reason, count in counts.items())
