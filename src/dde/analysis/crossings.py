"""When runs reach a target: the tokens and compute of the crossing, with the observations on both sides of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.answers import Direction, as_answer, direction_of
from dde.analysis.footing import ENTERED, Place, count_left_out
from dde.analysis.intervals import interval_attrs
from dde.analysis.observations import metric_names
from dde.analysis.targets import Target, Targets, observations_of
from dde.array_types import Float64
from dde.curves.axes import AXES
from dde.dataset.align import interpolation_of
from dde.dataset.dimensions import cells_along
from dde.errors import UnknownNameError, near_names
from dde.schema import CHANGING_PARAMS

__all__ = ["AT_FIRST", "CENSORED", "IN_GAP", "MISSING", "NO_TARGET", "REACHED", "Rule", "reach"]

#: Which crossing counts: the first one, the one after which no observation falls back, or that of an isotonic fit.
Rule = Literal["first", "sustained", "monotone"]

#: Statuses of runs. The first four enter an estimate of the share that has reached the target.
REACHED, AT_FIRST, IN_GAP, CENSORED = "reached", "reached at first observation", "reached in a gap", "censored"
MISSING, NO_TARGET = "missing", "no target"

Positions = npt.NDArray[np.intp]


def reach(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None,
    target: Target,
    *,
    rule: Rule = "first",
    direction: Direction | None = None,
    at: Place | None = None,
) -> xr.Dataset:
    """Return the tokens and compute at which runs reach a target.

    Parameters
    ----------
    dataset : xarray.Dataset
        Runs of :func:`dde.open_lineages`, a selection, sweep or alignment of it that has their samples. It may have
        been saved and opened again.
    metric : str, several or None
        Names or aliases of variables; may be None where there is only one.
    target : float, several, str or mapping
        In the unit of the metric: a number or several, or the value of another run. A text is the label of a run of
        the same lineage, or a run id: ``"pretraining"`` compares each run with its own base. A mapping has a filter
        for each coordinate, as ``ds.dde.sel`` takes them, and compares each run with the one that matches and agrees
        in the other factors: ``{"params": "150M"}`` is the run of the same label, recipe and seed at 150M.
    rule : {"first", "sustained", "monotone"}, default "first"
        Which crossing counts. ``first``: the first observation that meets the target. ``sustained``: the first one
        from which on all observations meet it. ``monotone``: the first one at which the isotonic regression of the
        observations meets it, which averages over noise.
    direction : {"higher", "lower"}, optional
        Which values are better; the attribute ``direction`` of the metric when None.
    at : place, optional
        Where the value of another run is taken: ``"schedule"``, ``"last"``, ``"common"``, a number of tokens, or an
        axis with a position. The end of its schedule when None, or its last observation in suites without schedules.

    Returns
    -------
    xarray.Dataset
        Along the dimensions of the runs, such as ``(lineage, run)``; before them ``metric`` where several are given,
        and ``target`` for several numbers.

        - ``tokens``: cumulative tokens of the crossing; NaN unless two observations enclose it.
        - ``compute``: 6 N ``tokens``, in FLOP, where parameter counts are known; ``answer["compute"]``, because
          ``answer.compute`` is a method of xarray.
        - ``low_tokens``, ``high_tokens``: the last observation before the crossing and the first one after it; the
          first is NaN for a run that meets the target at its first observation.
        - ``last_tokens``: the run's last observation, up to which a censored run did not reach the target.
        - ``status``: "reached"; "reached at first observation", so that the crossing is at or before it; "reached in
          a gap", which is longer than the ``max_gap`` of the metric or at an infinite value, so that the place within
          it is unknown; "censored", observed but not reached; "missing", not observed; "no target", where the run to
          compare with is absent or has no value; or "" where there is no run.

        The coordinate ``target`` has the numbers, or the value that each run is compared with, and ``target_run_id``
        the run that it is of.

    Raises
    ------
    UnknownNameError
        When there is no such metric, rule, direction, place or coordinate, or the direction is unknown.
    SelectionError
        When samples are not points of the Dataset, it holds means, or the run of the target is ambiguous.
    SourceError
        When a coordinate is missing.

    Notes
    -----
    Only a run's own observations count. The clock of a derived run is its cumulative tokens, ancestors included; its
    ``tokens`` minus ``branch_tokens`` is the cost since its branch.

    The crossing is interpolated linearly in tokens between the two observations that enclose it, whatever the
    interpolation of the Dataset, and between fitted values for ``monotone``. It is never extrapolated. A censored run
    is no missing one: drop neither from a mean, which would favour runs that are slow; ``answer.dde.plot()`` draws
    the share that has reached the target by the product-limit estimate [1]_, in which censored runs count.

    The isotonic regression minimises the squared distance to the observations, all of equal weight, among sequences
    that never get worse. It meets the target from the observation k on that maximises the sum of ``value - target``
    over the observations from k, the first one of several, and its values beside k follow from the max-min formulas
    [2]_.

    References
    ----------
    .. [1] Kaplan, E. L., and P. Meier (1958). Nonparametric estimation from incomplete observations. Journal of the
       American Statistical Association 53, 457-481.
    .. [2] Robertson, T., F. T. Wright, and R. L. Dykstra (1988). Order Restricted Statistical Inference. Wiley.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", data="Dolma1.7", seed=0, metrics=["arc_easy"])
    >>> bases = ds.dde.base_curves()
    >>> answer = bases.dde.reach("arc_easy", 0.4)
    >>> answer.status.dde.sel(params=["4M", "1B"]).values.tolist()
    ['censored', 'reached']
    >>> bases.dde.reach("arc_easy", {"params": "150M"}).status.dde.sel(params=["4M", "1B"]).values.tolist()
    ['censored', 'reached']
    """
    if rule not in get_args(Rule):
        raise UnknownNameError(
            f"rule={rule!r} is not a rule for crossings.{near_names(str(rule), get_args(Rule))} "
            f"Pass {', '.join(map(repr, get_args(Rule)))}."
        )
    names = metric_names(dataset, metric)
    directions = [direction_of(dataset, name, direction) for name in names]
    signs = {name: 1.0 if better == "higher" else -1.0 for name, better in zip(names, directions, strict=True)}
    max_gaps = {name: interpolation_of(dataset[[name]]).max_gap for name in names}
    groups = observations_of(dataset, names)
    first = groups[0]
    targets = Targets.of(dataset, names, target, at, len(first.run_ids))
    shape = targets.values.shape
    tokens, low, high, last = (np.full(shape, np.nan) for _ in range(4))
    status = np.full(shape, "", object)
    for group in groups:
        for k, name in enumerate(group.metrics):
            at_metric = names.index(name)
            places, values = group.of_metric(k)
            for t, wanted in enumerate(targets.values[:, at_metric]):
                here = (t, at_metric)
                crossing = _crossings(places, signs[name] * values, signs[name] * wanted, rule, max_gaps[name])
                tokens[here], low[here], high[here], last[here], status[here] = crossing
                status[here][group.run_ids == ""] = ""
    about = {
        "tokens": (tokens, {"long_name": "cumulative tokens at which the target is reached", "units": "tokens"}),
        "low_tokens": (low, {"long_name": "last observation before the target is reached", "units": "tokens"}),
        "high_tokens": (high, {"long_name": "first observation after the target is reached", "units": "tokens"}),
        "last_tokens": (last, {"long_name": "last observation", "units": "tokens"}),
        "status": (status, {"long_name": "whether the target was reached, or why that is unknown"}),
    }
    answer = targets.answer(dataset, names, first.cells, about)
    answer["direction"] = ("metric", np.array(directions, object))
    if "n_params" in dataset.coords and not dataset["n_params"].attrs.get(CHANGING_PARAMS):
        params = xr.Variable(first.cells, cells_along(dataset, "n_params", first.cells))
        compute = (6.0 * answer["tokens"].variable * params).transpose(*answer["tokens"].dims)
        compute.attrs = {**AXES["cumulative_compute"].attrs, "long_name": "compute at which the target is reached"}
        answer["compute"] = compute
        answer = answer[["tokens", "compute", *(n for n in answer.data_vars if n not in ("tokens", "compute"))]]
    # Whether a run was observed does not depend on a number that is the target, so it is counted once.
    entered = np.isin(status[0], (REACHED, AT_FIRST, IN_GAP, CENSORED))
    attrs = {
        "at": targets.place,
        "rule": rule,
        "left_out": count_left_out(xr.DataArray(np.where(entered, ENTERED, status[0]), dims=("metric", "row"))),
        **interval_attrs("none", 0.95, ""),
    }
    return as_answer(answer, "reach", metric, attrs)


def _crossings(
    tokens: Float64, values: Float64, targets: Float64, rule: Rule, max_gap: float | None
) -> tuple[Float64, Float64, Float64, Float64, npt.NDArray[np.object_]]:
    """Return the crossing of each row: its tokens, the observations on both sides, the last one, and the status.

    Parameters
    ----------
    tokens, values : (row, sample) float64 arrays
        Ascending tokens, and values of which higher ones are better; NaN after the last sample of a row.
    targets : (row,) float64 array
        NaN for none.
    rule : {"first", "sustained", "monotone"}
    max_gap : float or None
    """
    rows = np.arange(len(tokens))
    count = (~np.isnan(tokens)).sum(axis=1)
    if not tokens.shape[1]:
        tokens = values = np.full((len(tokens), 1), np.nan)
    at = _first_met(values, targets, rule, count)
    is_met = (at < count) & ~np.isnan(targets)
    is_enclosed = is_met & (at > 0)
    after, before = np.where(is_met, at, 0), np.where(is_enclosed, at - 1, 0)
    low = np.where(is_enclosed, tokens[rows, before], np.nan)
    high = np.where(is_met, tokens[rows, after], np.nan)
    last = np.where(count > 0, tokens[rows, np.maximum(count - 1, 0)], np.nan)
    worse, better = values[rows, before], values[rows, after]
    if rule == "monotone":
        worse, better = _fitted_beside(values, before, after)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A value that equals the target gives its tokens exactly.
        share = np.where(better == targets, 1.0, (targets - worse) / (better - worse))
    is_known = is_enclosed & np.isfinite(worse) & np.isfinite(better)
    if max_gap is not None:
        is_known &= (high - low <= max_gap) | (share == 1.0)
    crossing = np.where(is_known, low + share * (high - low), np.nan)
    status = np.select(
        [count == 0, np.isnan(targets), ~is_met, ~is_enclosed, ~is_known],
        [MISSING, NO_TARGET, CENSORED, AT_FIRST, IN_GAP],
        REACHED,
    ).astype(object)
    return crossing, low, high, last, status


def _first_met(values: Float64, targets: Float64, rule: Rule, count: npt.NDArray[np.intp]) -> Positions:
    """Return the position of the first sample that meets the target by a rule; at least `count` where none does."""
    there = np.arange(values.shape[1]) < count[:, None]
    met = values >= targets[:, None]
    if rule == "first":
        return np.where(met.any(axis=1), met.argmax(axis=1), count)
    if rule == "sustained":
        fails = there & ~met
        after_last = values.shape[1] - fails[:, ::-1].argmax(axis=1)
        return np.where(fails.any(axis=1), after_last, 0)
    # The fit is infinite from an infinitely good sample on, and before it that of the earlier samples.
    is_best = np.isposinf(values)
    there &= np.arange(values.shape[1]) < np.where(is_best.any(axis=1), is_best.argmax(axis=1), count)[:, None]
    excess = np.where(there, values - targets[:, None], 0.0)
    from_here = np.cumsum(excess[:, ::-1], axis=1)[:, ::-1]
    # No sample at all has the sum zero.
    sums = np.concatenate([np.where(there, from_here, 0.0), np.zeros((len(values), 1))], axis=1)
    return np.where(np.isnan(targets), count, sums.argmax(axis=1))


def _fitted_beside(values: Float64, before: Positions, after: Positions) -> tuple[Float64, Float64]:
    """Return the isotonic regression of each row just before a crossing and just after it."""
    at = np.arange(values.shape[1])
    later = at >= after[:, None]
    ahead = np.cumsum(np.where(later & ~np.isnan(values), values, 0.0), axis=1) / np.maximum(at - after[:, None] + 1, 1)
    fitted_after = np.where(later & ~np.isnan(values), ahead, np.inf).min(axis=1)
    earlier = at <= before[:, None]
    behind = np.cumsum(np.where(earlier, values, 0.0)[:, ::-1], axis=1)[:, ::-1] / np.maximum(
        before[:, None] - at + 1, 1
    )
    fitted_before = np.where(earlier, behind, -np.inf).max(axis=1)
    return fitted_before, fitted_after
