"""What post-training changed: the gain of each derived run over its base, its cost, and what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dde.analysis.answers import Direction, as_answer, direction_of
from dde.analysis.footing import ENTERED, Place, count_left_out, place_text, resolve_place, values_at
from dde.analysis.intervals import Interval, check_interval, interval_attrs, interval_of_mean
from dde.analysis.observations import Observations, metric_names, require_runs
from dde.analysis.options import names_of
from dde.analysis.repetitions import arrange_over, require_same_tokens
from dde.analysis.standard_errors import errors_at, stderr_names
from dde.array_types import Float64
from dde.dataset.bases import check_max_distance, last_of_bases
from dde.dataset.dimensions import cells_along, run_dims
from dde.dataset.metric_rows import MetricRows
from dde.dataset.samples import flags_of, samplings_of
from dde.errors import SelectionError
from dde.schema import CHANGING_PARAMS

__all__ = ["derived_runs", "effect"]

_NO_BASE_VALUE = "base has no value before the branch"


def effect(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    *,
    max_distance: float | None = 0.05,
    at: Place | None = None,
    over: str | Sequence[str] | None = None,
    forgetting: bool = True,
    direction: Direction | None = None,
    interval: Interval = "t",
    level: float = 0.95,
) -> xr.Dataset:
    """Return what the training after the base changed in each derived run.

    Parameters
    ----------
    dataset : xarray.Dataset
        Dataset of runs, on any grid that includes the observations that decide the answer.
    metric : str, several or None
        Names or aliases of variables; may be omitted where there is only one.
    max_distance : float or None, default 0.05
        Largest distance of the base's last observation from the branch, as a share of the tokens at the branch; None
        for any. Runs whose base was last observed further away do not enter: the progress of the base up to the branch
        would count as an effect of post-training.
    at : "schedule", "last", "common", number or mapping, optional
        Place of each run's value, see :func:`dde.analysis.footing.resolve_place`; by default its planned end, or its
        last observation where no schedule is known.
    over : str or several, optional
        Factors to average over, such as ``seed``, ``replicate`` or both.
    forgetting : bool, default True
        Whether to give ``forgetting`` and ``worst_forgetting``, which need the direction of the metric and all samples
        of each run.
    direction : {"higher", "lower"}, optional
        Which values are better; the attribute ``direction`` of the metric when None.
    interval : {"t", "bootstrap", "none"}, default "t"
        Of the mean gain, with `over`.
    level : float, default 0.95

    Returns
    -------
    xarray.Dataset
        Along ``(lineage, run)`` or the dimensions that the Dataset has in their place, without labels of bases:

        - ``gain``: value of the run minus that of its base, in the unit of the metric, as
          ``ds.dde.difference_to_base()`` has it at this place. Negative where the metric fell, whether or not this is
          better; the coordinate ``direction`` says which is.
        - ``gain_per_token``, ``gain_per_flop``: the gain divided by the tokens since the chain of runs left its base,
          and by 6 N times these.
        - ``forgetting``: how much worse than its base the run is, 0 where it is not worse, in the unit of the metric.
          ``worst_forgetting``: the largest such amount at any of the run's own samples up to the place.
        - ``value``, and ``status``: "entered", or why the run did not; "" for bases and where there is no run.
        - ``stderr``: the standard error of the gain by those of both evaluations, taken as independent, where the
          Dataset has them (a variable with the attribute ``stderr_of``).

        Coordinates: ``base_value``, ``base_tokens`` and ``base_distance`` (tokens from the base's last observation to
        the branch), ``tokens`` of the value and ``tokens_since_base``. With `over`: means of all of these over the
        runs that entered, with ``low`` and ``high`` of the gain and their number ``n`` instead of ``status``. The
        attribute ``left_out`` counts the runs that did not enter, by reason.

    Raises
    ------
    UnknownNameError
        When a metric, factor or option does not exist, or the direction of a metric is unknown.
    SelectionError
        When there is no derived run, a deciding sample is not a point of the Dataset, or it holds means; and when
        members of a mean end at different tokens and no place is given.
    SourceError
        When a coordinate is missing.

    Notes
    -----
    The interval of the mean is that of :func:`dde.curves.statistics.t_interval`. The gain is counted from the base of a
    chain of runs, also for its later stages: a DPO run after SFT shows what both changed, at the cost of both.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy"])
    >>> found = ds.dde.effect("arc_easy")
    >>> found.gain.dims, "pretraining" in found.run
    (('lineage', 'run'), False)
    >>> last = ds.dde.difference_to_base().dde.final("arc_easy", at="schedule")
    >>> bool((found.gain == last.sel(run=found.run)).where(found.status == "entered", True).all())
    True
    """
    check_interval(interval, level)
    check_max_distance(max_distance)
    names = metric_names(dataset, metric)
    dataset = derived_runs(dataset)
    place = resolve_place(dataset, at)
    values = values_at(dataset, names, place)
    cells = [str(d) for d in values.value.dims if d != "metric"]
    values = _with_bases(dataset, values, names, cells, max_distance)
    if forgetting:
        values = _with_forgetting(dataset, values, names, direction)
    values = _with_costs(dataset, values)
    reasons = [count_left_out(values.status)]
    members: tuple[str, ...] = ()
    if over is not None:
        members = names_of("over", over)
        values, lost = arrange_over(values, members)
        require_same_tokens(values, members, at, place, f"a mean over {', '.join(members)}")
        reasons += [f"{reason}: {count}" for reason, count in lost.items()]
        values = _means(values, members, interval, level)
    _describe(values, dataset, names)
    of_interval = interval_attrs(interval if members else "none", level, ", ".join(members))
    attrs: dict[str, Any] = {
        "at": place_text(place),
        "left_out": "; ".join(filter(None, reasons)),
        **({"averaged_over": ", ".join(members)} if members else {}),
        **of_interval,
    }
    coords = ["base_value", "base_tokens", "base_distance", "tokens", "tokens_since_base"]
    return as_answer(values.set_coords(coords), "effect", metric, attrs)


def derived_runs(dataset: xr.Dataset) -> xr.Dataset:
    """Return a Dataset without labels of bases alone, which have no effect of post-training.

    Raises
    ------
    SelectionError
        When there is no derived run.
    SourceError
        When a coordinate is missing.
    """
    require_runs(dataset)
    dims = run_dims(dataset)
    derived = np.isfinite(cells_along(dataset, "origin_tokens", dims))
    if not derived.any():
        raise SelectionError(
            "no run of the Dataset started from a base, so nothing was changed by post-training. Select derived runs, "
            "such as ds.dde.sel(run_type='supervised_ft')."
        )
    for k, dim in enumerate(dims):
        some = derived.any(axis=tuple(i for i in range(len(dims)) if i != k))
        dataset = dataset if some.all() else dataset.isel({dim: np.flatnonzero(some)})
    return dataset


def _with_bases(
    dataset: xr.Dataset, values: xr.Dataset, names: Sequence[str], cells: Sequence[str], max_distance: float | None
) -> xr.Dataset:
    """Return values with those of the bases and the gains; the status says which bases are unknown or too far away."""
    shape = values.value.shape
    reference, reference_tokens, errors = (np.full(shape, np.nan) for _ in range(3))
    stderr = stderr_names(dataset, names)
    for k, name in enumerate(names):
        rows = MetricRows.of(dataset[name], samplings_of(dataset[name]), flags_of(dataset[name]))
        for into, found in zip((reference, reference_tokens), last_of_bases(rows), strict=True):
            into[k] = xr.DataArray(found.reshape(rows.shape), dims=rows.cells).transpose(*cells).values
        if name in stderr:
            ends = (values.tokens[k], values.tokens[k].copy(data=reference_tokens[k]))
            own, base = (
                errors_at(dataset, stderr[name], t.drop_vars("metric"), own=o)
                for t, o in zip(ends, (True, False), strict=True)
            )
            errors[k] = np.hypot(own, base)
    origin = np.broadcast_to(values.origin_tokens.transpose(*cells).values, shape)
    is_derived = np.isfinite(origin)
    distance = origin - reference_tokens
    with np.errstate(invalid="ignore"):
        is_far = distance > (np.inf if max_distance is None else max_distance * origin)
    status = values.status.values.copy()
    entered = status == ENTERED
    status[entered & np.isnan(reference)] = _NO_BASE_VALUE
    status[entered & is_far] = f"base last observed more than {max_distance or 0:.0%} of its tokens before the branch"
    status[~is_derived] = ""
    enters = status == ENTERED
    with np.errstate(invalid="ignore"):
        # The change between two infinite values is unknown.
        gain = values.value.values - reference
    value = np.where(is_derived, values.value.values, np.nan)
    variables = {
        "gain": np.where(enters, gain, np.nan),
        "value": value,
        "status": status,
        "base_value": np.where(is_derived, reference, np.nan),
        "base_tokens": np.where(is_derived, reference_tokens, np.nan),
        "base_distance": np.where(is_derived, distance, np.nan),
        "tokens": np.where(is_derived, values.tokens.values, np.nan),
        "tokens_since_base": values.tokens.values - origin,
        **({"stderr": np.where(enters, errors, np.nan)} if stderr else {}),
    }
    return xr.Dataset({n: (values.value.dims, v) for n, v in variables.items()}, values.coords, values.attrs)


def _with_forgetting(
    dataset: xr.Dataset, values: xr.Dataset, names: Sequence[str], direction: Direction | None
) -> xr.Dataset:
    """Return values with how far below their base runs are, at the place and at the worst of their own samples."""
    # The direction first: reading samples may take long.
    signs = [1.0 if direction_of(dataset, name, direction) == "higher" else -1.0 for name in names]
    dims = values.value.dims
    enters = values.status.values == ENTERED
    sign = np.array(signs).reshape(-1, *([1] * (len(dims) - 1)))
    loss = np.where(enters, np.maximum(-sign * values.gain.values, 0.0), np.nan)
    worst = np.full(loss.shape, np.nan)
    for seen in Observations.of(dataset, names):
        for k, name in enumerate(seen.metrics):
            number = names.index(name)
            base, end = (
                values[v].isel(metric=number).transpose(*seen.cells).values.reshape(-1, 1)
                for v in ("base_value", "tokens")
            )
            with np.errstate(invalid="ignore"):
                below = np.where(seen.tokens <= end, signs[number] * (base - seen.values[k]), np.nan)
            largest = np.fmax(np.fmax.reduce(below, axis=1, initial=-np.inf), 0.0)
            of_runs = xr.DataArray(largest.reshape(seen.shape), dims=seen.cells)
            # At a place between samples the value itself may be the worst one.
            worst[number] = np.maximum(of_runs.transpose(*dims[1:]).values, loss[number])
    return values.assign(forgetting=(dims, loss), worst_forgetting=(dims, np.where(enters, worst, np.nan)))


def _with_costs(dataset: xr.Dataset, values: xr.Dataset) -> xr.Dataset:
    tokens = values.tokens_since_base.where(values.tokens_since_base > 0)
    values = values.assign(gain_per_token=values.gain / tokens)
    if "n_params" in dataset.coords and not dataset["n_params"].attrs.get(CHANGING_PARAMS):
        compute = 6.0 * dataset["n_params"].reset_coords(drop=True) * tokens
        values = values.assign(gain_per_flop=(values.gain / compute).transpose(*values.gain.dims))
    return values


def _means(values: xr.Dataset, members: Sequence[str], interval: Interval, level: float) -> xr.Dataset:
    """Return means over members that entered, with their number and the interval of the gain."""
    cells = [d for d in values.gain.dims if d not in members]
    enters = values.status == ENTERED

    def rows(array: xr.DataArray) -> Float64:
        wide = array.broadcast_like(values.gain).where(enters).transpose(*cells, *members)
        return np.asarray(wide.values, np.float64).reshape(*(wide.sizes[d] for d in cells), -1)

    variables: dict[str, Any] = {}
    for name, array in values.data_vars.items():
        if name == "status":
            continue
        if name == "stderr":
            squares = rows(array) ** 2
            n = (~np.isnan(rows(values.gain))).sum(axis=-1)
            known = np.where(np.isnan(rows(values.gain)), 0.0, squares)
            with np.errstate(invalid="ignore", divide="ignore"):
                variables["stderr"] = np.sqrt(known.sum(axis=-1)) / n
            continue
        mean, n, low, high = interval_of_mean(rows(array), interval if name == "gain" else "none", level)
        variables[str(name)] = mean
        if name == "gain":
            variables |= {"low": low, "high": high, "n": n}
    runs = values.status != ""
    coords = {n: c.variable for n, c in values.coords.items() if set(c.dims) <= set(cells) and n != "run_id"}
    answer = xr.Dataset({n: (cells, v) for n, v in variables.items()}, coords, values.attrs)
    return answer.assign(n_runs=runs.sum(members).transpose(*cells).variable)


def _describe(answer: xr.Dataset, dataset: xr.Dataset, names: Sequence[str]) -> None:
    """Set long names and units of the variables of an answer."""
    units = set(answer["units"].values.tolist())
    unit = units.pop() if len(units) == 1 else None
    what = str(dataset[names[0]].attrs.get("long_name", names[0])) if len(names) == 1 else "metric"
    texts: dict[str, tuple[str, str | None]] = {
        "gain": (f"{what}, change from the base", unit),
        "low": ("lower bound of the mean change", unit),
        "high": ("upper bound of the mean change", unit),
        "n": ("runs that entered", "1"),
        "n_runs": ("derived runs", "1"),
        "gain_per_token": (f"{what}, change from the base per token", unit and f"{unit if unit != '1' else '1'}/token"),
        "gain_per_flop": (f"{what}, change from the base per FLOP", unit and f"{unit if unit != '1' else '1'}/FLOP"),
        "forgetting": (f"{what}, loss against the base", unit),
        "worst_forgetting": (f"{what}, largest loss against the base at any sample", unit),
        "value": (f"{what}, value of the run", unit),
        "stderr": ("standard error of the change from those of the evaluations", unit),
        "status": ("whether the run entered, or why not", None),
        "base_value": (f"{what}, value of the base before the branch", unit),
        "base_tokens": ("cumulative tokens of the value of the base", "tokens"),
        "base_distance": ("tokens from the base's last observation to the branch", "tokens"),
        "tokens": ("cumulative tokens of the value of the run", "tokens"),
        "tokens_since_base": ("tokens since the chain of runs left its base", "tokens"),
    }
    for name, (long_name, of) in texts.items():
        if name in answer.variables:
            answer[name].attrs = {"long_name": long_name, **({"units": of} if of is not None else {})}
