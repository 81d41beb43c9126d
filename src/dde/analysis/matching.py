"""Checkpoints of runs whose metric is nearest to a target, such as the value of a smaller model at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.answers import as_answer
from dde.analysis.footing import ENTERED, Place, count_left_out
from dde.analysis.intervals import interval_attrs
from dde.analysis.observations import metric_names
from dde.analysis.targets import Target, Targets, observations_of
from dde.array_types import Float64
from dde.dataset.dimensions import broadcast_values, require_axis, tokens_along
from dde.dataset.provenance import revision
from dde.schema import is_datadecide

__all__ = ["MATCHED", "OUT_OF_RANGE", "match"]

#: Statuses of runs that have a nearest observation: values on both sides of the target, or on one side only.
MATCHED, OUT_OF_RANGE = "matched", "out of range"
_IS_TARGET, _MISSING, _NO_TARGET = "the target itself", "missing", "no target"

_CHECKPOINTS = {
    "hub_model": "model on the Hub",
    "revision": "revision on the Hub",
    "step": "step of the checkpoint",
}


def match(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None,
    to: Target,
    *,
    at: Place | None = None,
) -> xr.Dataset:
    """Return the checkpoint of each run whose observed metric is nearest to a target.

    Parameters
    ----------
    dataset : xarray.Dataset
        Runs of :func:`dde.open_lineages`, a selection, sweep or alignment of it that has their samples. It may have
        been saved and opened again.
    metric : str, several or None
        Names or aliases of variables; may be None where there is only one.
    to : float, several, str or mapping
        In the unit of the metric: a number or several, or the value of another run. A text is the label of a run of
        the same lineage, or a run id. A mapping has a filter for each coordinate, as ``ds.dde.sel`` takes them, and
        matches each run to the one that has these and agrees in the other factors: ``{"params": "150M"}`` is the run
        of the same label, recipe and seed at 150M.
    at : place, optional
        Where the value of another run is taken: ``"schedule"``, ``"last"``, ``"common"``, a number of tokens, or an
        axis with a position. The end of its schedule when None, or its last observation in suites without schedules.

    Returns
    -------
    xarray.Dataset
        Along the dimensions of the runs, such as ``(lineage, run)``; before them ``metric`` where several are given,
        and ``target`` for several numbers.

        - ``value``: the value at the checkpoint, in the unit of the metric.
        - ``mismatch``: ``value`` minus the target.
        - ``tokens``: cumulative tokens of the checkpoint.
        - ``ties``: how many other observations are equally near; the earliest one is given.
        - ``status``: "matched", where the run has values on both sides of the target or equal to it; "out of range",
          where all are on one side, so that the checkpoint is the nearest but no match; "missing", not observed;
          "no target", where the run to match is absent or has no finite value; "the target itself", which has no other
          run to match; or "" where there is no run.
        - ``hub_model``, ``revision``, ``step``: the checkpoint on the Hub, as ``ds.dde.revision()`` gives it, in suites
          that declare one; "" and -1 where an observation is no checkpoint of a base.

        The coordinate ``target`` has the numbers, or the value that each run is matched to, and ``target_run_id`` the
        run that it is of.

    Raises
    ------
    UnknownNameError
        When there is no such metric, place or coordinate.
    SelectionError
        When samples are not points of the Dataset, it holds means, or the run of the target is ambiguous.
    SourceError
        When a coordinate is missing.

    Notes
    -----
    Only a run's own observations after 0 tokens are candidates: the value of a checkpoint that was not evaluated is
    unknown, and an untrained model is no checkpoint to start from. Nothing is interpolated. How near a match can be
    follows from the distance of evaluations, so look at ``mismatch``.

    Examples
    --------
    Runs of the suite that start from the checkpoint which matches the 150M model state this in their labels:

    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", data="DCLM-Baseline", seed=0, metrics=["hellaswag"])
    >>> checkpoints = ds.dde.base_curves().dde.match("hellaswag", {"params": "150M"}).dde.sel(params="300M")
    >>> checkpoints.step.values.tolist(), checkpoints.revision.values.tolist()
    ([6250], ['step6250-seed-default'])
    >>> [label for label in ds.run.values if "match" in label]
    ['sft_lr=2e-05_100Mx1@match_150M_hellaswag']
    """
    names = metric_names(dataset, metric)
    groups = observations_of(dataset, names)
    first = groups[0]
    targets = Targets.of(dataset, names, to, at, len(first.run_ids))
    is_target = targets.reference == np.arange(len(first.run_ids))
    shape = targets.values.shape
    value, tokens, ties = (np.full(shape, np.nan) for _ in range(3))
    status = np.full(shape, "", object)
    for group in groups:
        for k, name in enumerate(group.metrics):
            at_metric = names.index(name)
            places, values = group.of_metric(k)
            for t, wanted in enumerate(targets.values[:, at_metric]):
                here = (t, at_metric)
                nearest = _nearest(places, values, np.where(is_target, np.nan, wanted))
                value[here], tokens[here], ties[here], status[here] = nearest
                status[here][is_target & (status[here] != _MISSING)] = _IS_TARGET
                status[here][group.run_ids == ""] = ""
    units = {str(dataset[name].attrs.get("units", "")) for name in names}
    unit = units.pop() if len(units) == 1 else ""
    about: dict[str, tuple[npt.NDArray[Any], dict[str, str]]] = {
        "value": (value, {"long_name": "value of the nearest checkpoint", "units": unit}),
        "mismatch": (value - targets.values, {"long_name": "value minus target", "units": unit}),
        "tokens": (tokens, {"long_name": "cumulative tokens of the nearest checkpoint", "units": "tokens"}),
        "ties": (ties, {"long_name": "other observations that are equally near", "units": "1"}),
        "status": (status, {"long_name": "whether the target was matched, or why not"}),
    }
    if is_datadecide(dataset):
        for variable, array in _checkpoints(dataset, first.cells, tokens).items():
            about[variable] = (array, {"long_name": _CHECKPOINTS[variable]})
    answer = targets.answer(dataset, names, first.cells, about)
    # Whether a run was observed does not depend on a number that is the target, so it is counted once.
    entered = np.isin(status[0], (MATCHED, OUT_OF_RANGE, _IS_TARGET))
    attrs = {
        "at": targets.place,
        "left_out": count_left_out(xr.DataArray(np.where(entered, ENTERED, status[0]), dims=("metric", "row"))),
        **interval_attrs("none", 0.95, ""),
    }
    return as_answer(answer, "match", metric, attrs)


def _nearest(
    tokens: Float64, values: Float64, targets: Float64
) -> tuple[Float64, Float64, Float64, npt.NDArray[np.object_]]:
    """Return value and tokens of the sample of each row that is nearest to its target, the ties, and the status.

    Parameters
    ----------
    tokens, values : (row, sample) float64 arrays
        Ascending tokens; NaN after the last sample of a row.
    targets : (row,) float64 array
        NaN for none.
    """
    if not tokens.shape[1]:
        tokens = values = np.full((len(tokens), 1), np.nan)
    values = np.where(tokens > 0, values, np.nan)
    difference = values - targets[:, None]
    there = ~np.isnan(difference)
    distance = np.where(there, np.abs(difference), np.inf)
    # The first of several equal distances is that of the earliest sample; an infinite value is never the nearest.
    at, rows = distance.argmin(axis=1), np.arange(len(tokens))
    nearest = distance[rows, at]
    found = np.isfinite(nearest)
    ties = (distance == nearest[:, None]).sum(axis=1) - 1.0
    is_enclosed = (there & (difference <= 0)).any(axis=1) & (there & (difference >= 0)).any(axis=1)
    is_missing = np.isnan(values).all(axis=1)
    status = np.select(
        [is_missing, ~np.isfinite(targets), ~found, is_enclosed],
        [_MISSING, _NO_TARGET, _MISSING, MATCHED],
        OUT_OF_RANGE,
    ).astype(object)
    blank = np.full(len(tokens), np.nan)
    value, place, ties = (np.where(found, a, blank) for a in (values[rows, at], tokens[rows, at], ties))
    return value, place, ties, status


def _checkpoints(dataset: xr.Dataset, cells: tuple[str, ...], tokens: Float64) -> dict[str, npt.NDArray[Any]]:
    """Return model, revision and step at tokens of each run, (target, metric, row)."""
    axis = require_axis(dataset).name
    every = tokens_along(dataset, (*cells, axis)).reshape(tokens.shape[-1], -1)
    found = np.array([every == wanted[:, None] for wanted in tokens.reshape(-1, tokens.shape[-1])])
    has_place, point = found.any(axis=-1), found.argmax(axis=-1)
    # Revisions are looked up at the chosen points only.
    used, number = np.unique(point, return_inverse=True)
    revisions = revision(dataset.isel({axis: used}))
    sizes = {**{d: dataset.sizes[d] for d in cells}, axis: len(used)}
    chosen: dict[str, npt.NDArray[Any]] = {}
    for name in _CHECKPOINTS:
        all_points = broadcast_values(revisions[name].variable, sizes).reshape(tokens.shape[-1], -1)
        picked = all_points[np.arange(tokens.shape[-1]), number.reshape(point.shape)]
        chosen[name] = np.where(has_place, picked, -1 if name == "step" else "").reshape(tokens.shape)
    return chosen
