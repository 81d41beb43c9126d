"""Scaling laws of runs: coefficients with their uncertainty, residuals, leverage, and errors on runs held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from dde.analysis.answers import as_answer
from dde.analysis.estimates import CONVERGED, Estimate
from dde.analysis.fit_answers import FitAnswer
from dde.analysis.fit_members import HELD_OUT, checked_metrics, groups_of, held_out
from dde.analysis.fit_questions import Pack, Question, losses_of, rank_in_group, status_of, usable_members
from dde.analysis.footing import ENTERED, Place, count_left_out
from dde.analysis.intervals import Interval, check_interval
from dde.analysis.laws import Law, LawName, Quantity, law_named
from dde.analysis.loss_estimates import estimate_loss_law
from dde.analysis.options import check_number, check_seed, check_whole
from dde.analysis.sigmoid_estimates import estimate_sigmoid
from dde.array_types import Bool, Float64
from dde.errors import SelectionError, UnknownNameError, near_names

__all__ = ["fit"]


def fit(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    *,
    law: LawName = "power",
    x: Quantity | None = None,
    offset: bool = True,
    loss: str | Sequence[str] | Mapping[str, str] | None = None,
    at: Place | None = None,
    points: Literal["final", "all"] | None = None,
    window: int = 1,
    skip: float = 0.0,
    by: str | Sequence[str] | None = None,
    hold_out: Mapping[str, Any] | None = None,
    delta: float = 1e-3,
    ceiling: float | None = 1.0,
    starts: int = 4,
    interval: Interval = "bootstrap",
    level: float = 0.95,
    samples: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    r"""Fit a scaling law to the runs of a Dataset, one fit per metric and per group of runs.

    Parameters
    ----------
    dataset : xarray.Dataset
        Runs, along ``(lineage, run, cumulative_tokens)`` or swept; or a table: metrics along any dimensions, with
        coordinates or variables ``n_params`` and ``tokens`` (or ``final_tokens``), and ``compute`` where it is not 6 N
        tokens; a DataFrame of one row per run becomes one by ``xarray.Dataset.from_dataframe``.
    metric : str, several or None
        Names or aliases of variables; may be omitted where there is only one.
    law : {"power", "chinchilla", "loss_to_accuracy", "two_step"}
        ``power``: :math:`E + A x^{-\alpha}`. ``chinchilla``: :math:`E + A N^{-\alpha} + B D^{-\beta}`, with N
        parameters and D tokens. ``loss_to_accuracy``: :math:`a / (1 + e^{-k (L - L_0)}) + b`, with L the metric `loss`.
        ``two_step``: the sigmoid of the loss that a law of sizes predicts.
    x : {"compute", "tokens", "n_params"}, optional
        Quantity of ``power``, compute when None; makes the first step of ``two_step`` a power law, too. Compute is
        6 N tokens, in FLOPs.
    offset : bool, default True
        Whether the law of losses has an asymptote E.
    loss : str, several, mapping or None
        Loss that predicts each metric, for ``loss_to_accuracy`` and ``two_step``: one for all, one each in the same
        order, or by the name of the metric.
    at : "schedule", "last", "common", number or mapping, optional
        Place of the value of each run; see :func:`dde.analysis.footing.resolve_place`.
    points : {"final", "all"}, optional
        Whether runs enter with one value, or with all their observations. When None, one value, and in the second step
        of ``two_step`` all observations. Observations of one run are not independent: intervals and leverage take them
        together.
    window : int, default 1
        Take means over this many last observations, and running means where all observations enter.
    skip : float, default 0
        Share of the first observations of each run that do not enter, where all observations do.
    by : str, several or None
        Coordinates of runs that are kept apart, each in a fit of its own. When None: the factors in which runs differ,
        except seeds and replicates, names and functions of the size in laws of parameters or compute, and budgets to
        which tokens are proportional. ``[]`` fits all runs together.
    hold_out : mapping, optional
        Values of coordinates of runs that do not enter and are predicted, such as ``{"params": ["1B"]}``. Numbers may
        be a slice.
    delta : float, default 1e-3
        Residual of the logarithm of a loss at which Huber's loss changes from quadratic to linear; infinite for least
        squares. Sigmoids are fitted by least squares.
    ceiling : float or None, default 1
        Accuracy at a loss of zero, which enters as one more member of a sigmoid and bounds its parameters.
    starts : int, default 4
        Minima that are sought from the best points of a grid; the lowest is taken.
    interval : {"bootstrap", "t", "none"}, default "bootstrap"
    level : float, default 0.95
    samples : int, default 200
        Number of resamples, for ``interval="bootstrap"``.
    seed : int, default 0
        Of the resamples.

    Returns
    -------
    xarray.Dataset
        Per fit, along ``(metric, *by)``: ``coefficient``, ``low`` and ``high`` along ``parameter``; ``covariance``
        along ``(parameter, parameter2)``; ``n``, the members, ``n_runs``, and for ``two_step`` ``n_pairs``, the members
        of the sigmoid; ``converged``, and ``fit_status``, which says why a fit has no coefficients; ``x_low`` and
        ``x_high`` along ``quantity``, the range of sizes that entered.

        Per run, along ``(metric, lineage, run)`` or the dimensions that the Dataset has in their place, and ``sample``
        where all observations enter: ``value``, ``predicted`` along ``predictor`` (the law; the mean of the largest
        runs that entered; a straight line in the logarithm of size), ``residual`` (value less the law's), ``status``
        (entered, held out, or why not), ``tokens``, ``compute``, ``loss``. Per run: ``leverage`` along ``parameter``,
        the change of each coefficient when the run is left out, and ``left_out_residual``, the value less the
        prediction of the fit without the run.

        With `hold_out`: ``error`` and ``relative_error`` along ``(predictor, metric, *by)``, means of absolute values
        over the ``n_held_out`` runs. With ``interval="bootstrap"``: ``sample_coefficient`` along ``sample_number``.

        Without a single metric's dimension when one is named. Attributes ``law``, ``formula``, ``at``, ``left_out``,
        ``interval``, ``interval_method``.

    Raises
    ------
    UnknownNameError
        When there is no such variable, law, option, coordinate or value.
    SelectionError
        When sizes that the law needs are unknown for all runs, and when a Dataset holds means.

    Warns
    -----
    DdeWarning
        When training losses of runs are reduced in different ways, or runs went on beyond their schedule and are
        compared at their last observation; see :func:`dde.dataset.finals.final`.

    See Also
    --------
    dde.analysis.predictions.predict : Values of the laws at other sizes.

    Notes
    -----
    Laws of losses minimise Huber's loss of :math:`\log f - \log y`, as Hoffmann et al. (2022, approach 3) and Besiroglu
    et al. (2024) do, from the best points of a grid of exponents, with analytic second derivatives, for all fits at
    once. Powers may have either sign: A and B are negative where a metric rises with size. E is not below zero. The
    two steps follow Bhagia et al. (2024), whose values are means of the last five observations (``window=5``), and
    whose sigmoid leaves out the first tenth of each run (``skip=0.1``).

    A fit with fewer different sizes than parameters, whose parameters can't be told apart, or whose search ended at no
    minimum has no coefficients: they are NaN, and ``fit_status`` says why.

    Intervals ``"bootstrap"`` are percentiles of fits to runs drawn with replacement, all observations of a run
    together; ``covariance`` is that of these fits. Resamples with fewer different sizes than parameters do not count;
    where these are more than a fifth, there is no interval. It holds for errors that differ between sizes, too: on the
    data of Besiroglu et al. it has the standard errors that they publish, twice those of ``"t"``.

    Intervals ``"t"`` take members to have equal relative errors. The covariance is, for Huber's loss,
    :math:`\tau^2 (J^T J)^{-1}` with the asymptotic variance :math:`\tau^2 = E[\psi^2] / E[\psi']^2` (Huber 1981) at
    normal errors, whose scale is the median of absolute residuals; Student's t has as many degrees of freedom as
    members exceed parameters. Intervals of A and B are symmetric on their logarithm; that of E includes the one that is
    symmetric on the logarithm of the distance from the last value to E. For several observations per run, the
    covariance is that of the delete-one jackknife over runs (Efron and Stein 1981), with one degree of freedom less
    than runs.

    Coverage in simulations of power laws with normal errors, where 95 % is claimed: ``"bootstrap"`` 91 to 93 % for five
    members, 91 to 99 % from seven on; with 20 observations per run, 97 to 99 % from four runs on. ``"t"`` 90 to 98 %
    from five members on, of coefficients and of laws at 100 times the compute; with 20 observations per run, 89 to 99 %
    from four runs on. With as many members as parameters there is no interval.

    References
    ----------
    Hoffmann et al. (2022), Training compute-optimal large language models, arXiv:2203.15556.
    Besiroglu et al. (2024), Chinchilla scaling: a replication attempt, arXiv:2404.10102.
    Bhagia et al. (2024), Establishing task scaling laws via compute-efficient model ladders, arXiv:2412.04403.
    Huber (1981), Robust statistics.
    Efron and Stein (1981), The jackknife estimate of variance, Annals of Statistics 9.

    Examples
    --------
    >>> import dde
    >>> runs = dde.tutorial.open_lineages("small", data=["Dolma1.7", "C4"], metrics=["c4_en_valppl"])
    >>> runs = runs.dde.sel(run="pretraining")
    >>> laws = runs.dde.fit("c4_en_valppl", hold_out={"params": "150M"})
    >>> laws.coefficient.dims, laws.parameter.values.tolist()
    (('data', 'parameter'), ['E', 'A', 'alpha'])
    >>> bool((laws.error.sel(predictor="law") < laws.error.sel(predictor="last value")).all())
    True
    """
    chosen = law_named(law, x, offset)
    _check_options(points, window, skip, delta, ceiling, starts, samples, level, interval, seed)
    names = checked_metrics(dataset, metric)
    losses = losses_of(dataset, names, loss, chosen)
    draws = samples if interval == "bootstrap" else 0
    question = Question.of(dataset, chosen, names, losses, at, points, window, skip)
    if not len(question.finals.n_params):
        raise SelectionError("the Dataset has no run, so there is nothing to fit. Select other runs.")
    hold = held_out(question.finals, hold_out)
    groups = groups_of(dataset, question.finals, by, chosen.features)
    parts: list[Estimate] = []
    status = status_of(chosen, question, hold)
    rank = rank_in_group(groups.code, question.finals, (status == ENTERED).any(axis=0))
    if chosen.loss:
        members = question.of_loss
        usable = usable_members(chosen.loss.features, members, members.values, positive=True)
        pack = Pack.of(groups, rank, usable & ~hold[:, None])
        features = np.stack([pack.take(members.feature(f)) for f in chosen.loss.features])
        parts.append(
            estimate_loss_law(chosen.loss, features, pack.take(members.values), pack.run, pack.entered, delta, starts,
                              draws, seed)
        )  # fmt: skip
    if chosen.has_sigmoid:
        pairs, of_pairs = question.pairs
        usable = np.isfinite(pairs.values) & np.isfinite(of_pairs)
        second = Pack.of(groups, rank, usable & ~hold[:, None])
        parts.append(
            estimate_sigmoid(second.take(of_pairs), second.take(pairs.values), second.run, second.entered, ceiling,
                             max(starts, 2), draws, seed)
        )  # fmt: skip
    fits = _joined(chosen, parts)
    answer = FitAnswer(dataset, chosen, question, groups, rank, bool(hold.any()), status, fits)
    variables, coords = answer.variables(interval, level, ceiling)
    if len(parts) == 2:
        variables["n_pairs"] = answer.of_fits(
            parts[1].n, long_name="pairs of loss and accuracy that entered", units="1"
        )
    attrs = {
        "law": chosen.name,
        "formula": chosen.formula,
        "at": question.at,
        "left_out": count_left_out(xr.DataArray(np.where(status == HELD_OUT, ENTERED, status), dims=("metric", "row"))),
        "points": question.points,
        "by": ", ".join(groups.dims) or "none",
        "held_out": "" if not hold_out else "; ".join(f"{k}: {v}" for k, v in hold_out.items()),
        "delta": float(delta),
        **_interval_attrs(interval, level, samples),
    }
    return as_answer(xr.Dataset(variables, coords), "fit", metric if metric is not None else names[0], attrs)


def _interval_attrs(interval: Interval, level: float, samples: int) -> dict[str, str | float]:
    if interval == "none":
        return {"interval": "none", "interval_method": "none"}
    method = "Student's t" if interval == "t" else f"bootstrap of runs, {samples} samples"
    return {"interval": level, "interval_method": method}


def _check_options(
    points: str | None,
    window: int,
    skip: float,
    delta: float,
    ceiling: float | None,
    starts: int,
    samples: int,
    level: float,
    interval: str,
    seed: int,
) -> None:
    """Check the options that name no coordinate.

    Raises
    ------
    UnknownNameError
    """
    check_interval(interval, level)
    if points not in (None, "final", "all"):
        raise UnknownNameError(
            f"points={points!r} is not a choice of members.{near_names(str(points), ('final', 'all'))} Pass 'final', "
            "one value per run, or 'all', its observations."
        )
    check_whole("window", window, 1, 5)
    check_whole("starts", starts, 1, 4)
    check_whole("samples", samples, 2, 200)
    check_seed(seed)
    check_number("skip", skip, "a share of observations", "a number from 0 to below 1")
    check_number("delta", delta, "a residual at which Huber's loss becomes linear", "a positive number")
    if ceiling is not None:
        check_number("ceiling", ceiling, "the accuracy at a loss of zero", "a positive number such as 1.0, or None")
    if not 0 <= skip < 1:
        raise UnknownNameError(f"skip={skip!r} is not a share of observations. Pass a number from 0 to below 1.")
    if not delta > 0:
        raise UnknownNameError(
            f"delta={delta!r} is not a residual at which Huber's loss becomes linear. Pass a positive number, or "
            "float('inf') for least squares."
        )
    if ceiling is not None and not (np.isfinite(ceiling) and ceiling > 0):
        raise UnknownNameError(
            f"ceiling={ceiling!r} is not the accuracy at a loss of zero. Pass a positive number such as 1.0, or None."
        )


def _joined(law: Law, parts: Sequence[Estimate]) -> Estimate:
    """Return the estimates of both steps as one: a fit has coefficients where both steps have."""
    if len(parts) == 1:
        return parts[0]
    first, second = parts
    good = [np.char.startswith(p.status.astype(str), CONVERGED) for p in parts]
    status = np.where(good[0], np.where(good[1], first.status, "sigmoid: " + second.status.astype(str)), first.status)
    count, p1, p2 = len(first.n), first.coefficient.shape[1], second.coefficient.shape[1]
    covariance = np.zeros((count, p1 + p2, p1 + p2))
    covariance[:, :p1, :p1], covariance[:, p1:, p1:] = first.covariance, second.covariance
    coefficient = np.concatenate([first.coefficient, second.coefficient], axis=1)
    bad = ~(good[0] & good[1])
    coefficient[bad] = covariance[bad] = np.nan
    runs = max(first.without.shape[1], second.without.shape[1])

    def without(estimate: Estimate) -> Float64:
        # A run without members in one step leaves that step as it is.
        found = np.full((count, runs, estimate.coefficient.shape[1]), np.nan)
        found[:, : estimate.without.shape[1]] = estimate.without
        absent = np.ones((count, runs), bool)
        absent[:, : estimate.present.shape[1]] = ~estimate.present
        return np.where(absent[..., None], estimate.coefficient[:, None, :], found)

    return Estimate(
        coefficient,
        status.astype(object),
        first.n,
        np.maximum(first.runs, second.runs),
        covariance,
        np.concatenate([first.degrees, second.degrees], axis=1),
        np.concatenate([first.samples, second.samples], axis=2),
        np.concatenate([without(first), without(second)], axis=2),
        _either_present(first.present, second.present, runs),
    )


def _either_present(one: Bool, other: Bool, runs: int) -> Bool:
    present = np.zeros((len(one), runs), bool)
    present[:, : one.shape[1]] |= one
    present[:, : other.shape[1]] |= other
    return present
