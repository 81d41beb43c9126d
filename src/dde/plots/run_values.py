"""Values of runs at one place as rows of a table, and their means over repetitions with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from dde.analysis.arrangement import REPLICATES
from dde.analysis.effects import derived_runs, effect
from dde.analysis.footing import ENTERED, Place, count_left_out, resolve_place, values_at
from dde.analysis.intervals import Interval, check_interval, interval_attrs, interval_of_mean
from dde.analysis.options import names_of
from dde.array_types import Float64
from dde.dataset.finals import STOP_MARGIN
from dde.dataset.samples import metrics_alone
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.plots.axis_format import axis_label, short_number
from dde.plots.captions import caption_of, counted, left_out_text, range_text, subject_text
from dde.plots.cells import rows_of_runs, varies
from dde.plots.colours import is_given, is_number, label_of
from dde.plots.defaults import task_of
from dde.plots.metric_order import metrics_to_draw
from dde.plots.picture_options import PictureOptions
from dde.plots.times import require_numbers
from dde.schema import FactorOf, factors_of, without_replicate

__all__ = [
    "Means",
    "RunValues",
    "caption_of_means",
    "changes_of",
    "finals_of",
    "labels_of",
    "means_of",
    "metric_texts",
    "metrics_in_panels",
    "metrics_words",
    "not_drawn_words",
    "place_in_words",
    "require_drawable",
    "require_value",
    "resolve_over",
    "short_names",
    "varying_names",
]

# More panels, one for each metric, are unreadable.
_MOST_PANELS = 36
# Coordinates that follow from others: labels of groups leave them out.
_DERIVED = ("seed_name", "recipe_family", "posttraining_method", "n_params", "parent_treatment")
# Names that stand before numbers in labels.
_SHORT = {"learning_rate": "lr", "finetune_tokens": "tokens", "dpo_beta": "beta"}


@dataclass(frozen=True)
class RunValues:
    """Values of runs, one row per run.

    Attributes
    ----------
    rows : DataFrame
        Coordinates of the runs.
    factors : mapping of str to {"lineage", "run", "cell"}
        Coordinates that tell lineages and treatments apart.
    names : tuple of str
        Metrics.
    values : mapping of str to (metric, row) float64 array
        "value"; of changes also "before". NaN where a run has no value.
    tokens : (metric, row) float64 array
        Cumulative tokens of the values.
    left_out : str
        Number of runs without a value, by reason.
    place : Place
    is_chosen : bool
        Whether the caller chose the place.
    """

    rows: pd.DataFrame
    factors: Mapping[str, FactorOf]
    names: tuple[str, ...]
    values: Mapping[str, Float64]
    tokens: Float64
    left_out: str
    place: Place
    is_chosen: bool


@dataclass(frozen=True)
class Means:
    """Means of groups of runs.

    Attributes
    ----------
    rows : DataFrame
        One row per group: its ``members`` (positions of runs), and the coordinates in which all of them agree.
    over : tuple of str
        Factors in which members differ; empty where each group is one run.
    mean, low, high : mapping of str to (metric, group) float64 array
        By the name of the value; bounds are NaN where there are none.
    count : (metric, group) int64 array
        Number of members with a value.
    members : mapping of str to (metric, group, member) float64 array
        NaN where a group has no such member.
    interval : str
        What the bounds are, for a legend; "" for none.
    """

    rows: pd.DataFrame
    over: tuple[str, ...]
    mean: Mapping[str, Float64]
    low: Mapping[str, Float64]
    high: Mapping[str, Float64]
    count: npt.NDArray[np.int64]
    members: Mapping[str, Float64]
    interval: str


def finals_of(dataset: xr.Dataset, names: Sequence[str], at: Place | None) -> RunValues:
    """Return the values of runs at one place; see :func:`dde.analysis.footing.values_at`.

    Raises
    ------
    UnknownNameError, SelectionError, SourceError
        As of :func:`dde.analysis.footing.values_at`, or when a metric holds other values than numbers.
    """
    dataset = _numbers_alone(dataset, names)
    place = resolve_place(dataset, at)
    found = values_at(dataset, names, place)
    return _of_runs(dataset, found, {"value": found.value}, place, at is not None)


def changes_of(
    dataset: xr.Dataset, names: Sequence[str], at: Place | None, max_distance: float | None = 0.05
) -> RunValues:
    """Return the values of derived runs at one place, and of their bases where the runs left them.

    Raises
    ------
    UnknownNameError, SelectionError, SourceError
        As of :func:`dde.analysis.effects.effect`, or when a metric holds other values than numbers.
    """
    dataset = derived_runs(_numbers_alone(dataset, names))
    place = resolve_place(dataset, at)
    found = effect(dataset, list(names), at=place, max_distance=max_distance, forgetting=False)
    entered = found.status == ENTERED
    # An answer has no coordinate without any value.
    found = found.assign({n: found.value * np.nan for n in ("base_value", "tokens") if n not in found.variables})
    values = {"before": found.base_value.where(entered), "value": found.value.where(entered)}
    return _of_runs(dataset, found, values, place, at is not None)


def _numbers_alone(dataset: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    return metrics_alone(dataset.assign({name: require_numbers(dataset[name]) for name in names}), names)


def _of_runs(
    dataset: xr.Dataset, found: xr.Dataset, values: Mapping[str, xr.DataArray], place: Place, is_chosen: bool
) -> RunValues:
    """Return values along ``metric`` and the dimensions of runs as rows, with all coordinates of the runs."""
    cells = [str(d) for d in found.status.dims if d != "metric"]
    count = found.sizes["metric"]

    def along_runs(array: xr.DataArray) -> npt.NDArray[Any]:
        return np.asarray(array.transpose("metric", *cells).values).reshape(count, -1)

    status = along_runs(found.status)
    # Bases have no status in an answer about changes.
    runs = np.flatnonzero((status != "").any(axis=0))
    numbers = dataset["run_id"].transpose(*cells)
    rows = rows_of_runs(numbers.copy(data=np.arange(numbers.size, dtype=np.float64).reshape(numbers.shape)))
    rows = rows[rows["value"].isin(runs)].drop(columns="value").reset_index(drop=True)
    return RunValues(
        rows, {n: of for n, of in factors_of(dataset).items() if n in rows}, tuple(map(str, found["metric"].values)),
        {n: along_runs(a).astype(np.float64)[:, runs] for n, a in values.items()},
        along_runs(found.tokens).astype(np.float64)[:, runs],
        count_left_out(xr.DataArray(status[:, runs], dims=("metric", "run"))), place, is_chosen,
    )  # fmt: skip


def resolve_over(found: RunValues, over: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the factors in which members of a mean may differ: the seed and the replicate when "auto".

    Raises
    ------
    UnknownNameError
        When a name is neither a factor nor ``replicate``.
    """
    if over is None:
        return ()
    known = list(dict.fromkeys([*found.factors, "replicate"]))
    if over == "auto":
        return tuple(n for n in REPLICATES if n in known and n in found.rows)
    names = names_of("over", over)
    for name in names:
        if name not in known or name not in found.rows:
            raise UnknownNameError(
                f"over={name!r} is not a factor of the runs, so there is no mean over it.{near_names(name, known)} "
                f"There are {', '.join(known)}."
            )
    return names


def means_of(found: RunValues, over: Sequence[str], interval: Interval = "t", level: float = 0.95) -> Means:
    """Return the means of runs that agree in all factors but some, with the interval of each mean.

    Parameters
    ----------
    found : RunValues
    over : sequence of str
        Factors, or ``replicate``. Without any, each run is a group.
    interval : {"t", "bootstrap", "none"}, default "t"
    level : float, default 0.95

    Raises
    ------
    UnknownNameError
        When there is no such interval or level.
    SelectionError
        When members end at different tokens and the caller chose no place.
    """
    check_interval(interval, level)
    rows = found.rows
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, key in enumerate(_keys(found, over)):
        groups.setdefault(key, []).append(position)
    members = list(groups.values())
    index = np.full((len(members), max(map(len, members), default=0)), -1)
    for k, positions in enumerate(members):
        index[k, : len(positions)] = positions
    if over:
        _require_same_tokens(found, index)
    there = index >= 0
    stacked = {n: np.where(there, v[:, index], np.nan) for n, v in found.values.items()}
    # A run enters with all its values or none, so that both ends of a change are of the same runs.
    enters = np.all([~np.isnan(v) for v in stacked.values()], axis=0)
    stacked = {n: np.where(enters, v, np.nan) for n, v in stacked.items()}
    statistics = {n: interval_of_mean(v, interval if over else "none", level) for n, v in stacked.items()}
    count = enters.sum(axis=-1)
    some = np.flatnonzero(count.any(axis=0))
    bounds = interval_attrs(interval, level, ", ".join(over))
    has_bounds = any(np.isfinite(low).any() for _, _, low, _ in statistics.values())
    return Means(
        _common(rows, [members[k] for k in some]),
        tuple(over),
        {n: mean[:, some] for n, (mean, _, _, _) in statistics.items()},
        {n: low[:, some] for n, (_, _, low, _) in statistics.items()},
        {n: high[:, some] for n, (_, _, _, high) in statistics.items()},
        count[:, some],
        {n: v[:, some] for n, v in stacked.items()},
        f"{float(bounds['interval']):.0%} interval ({bounds['interval_method']})" if has_bounds else "",
    )


def _keys(found: RunValues, over: Sequence[str]) -> list[tuple[str, ...]]:
    """Return what members of a mean share: all factors but some, and the labels that don't consist of these."""
    rows = found.rows
    if not over:
        return [(str(k),) for k in range(len(rows))]
    columns = [[str(v) if is_given(v) else "" for v in rows[n]] for n in found.factors if n not in over]
    kinds = {found.factors.get(n) for n in over}
    if "lineage" in rows and "lineage" not in kinds:
        columns.append(rows["lineage"].astype(str).tolist())
    if "run" in rows and not kinds & {"run", "cell"}:
        columns.append([without_replicate(str(v)) for v in rows["run"]])
    return list(zip(*columns, strict=True)) if columns else [("",)] * len(rows)


def _require_same_tokens(found: RunValues, index: npt.NDArray[np.int64]) -> None:
    """Raise where members of a mean end at different tokens, and the caller chose no place.

    Raises
    ------
    SelectionError
    """
    if found.is_chosen or found.place != "last" or not index.size:
        return
    start = np.nan_to_num(found.rows["branch_tokens"].to_numpy(np.float64)) if "branch_tokens" in found.rows else 0.0
    tokens = np.where(index >= 0, (found.tokens - start)[:, index], np.nan)
    known = ~np.isnan(tokens).all(axis=-1)
    low, high = np.nanmin(tokens[known], axis=-1), np.nanmax(tokens[known], axis=-1)
    if (differs := high > (1 + STOP_MARGIN) * low).any():
        raise SelectionError(
            f"{int(differs.sum())} means are of runs that end at different tokens, such as {low[differs][0]:.0f} and "
            f"{high[differs][0]:.0f}, so they would mix repetition with the effect of more training. Choose the place "
            "of the comparison: at='common' where all members are, a number of tokens, or at='last' to accept "
            "different ends; or draw each run: over=None."
        )


def _common(rows: pd.DataFrame, members: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Return the coordinates in which all members of each group agree; "" or NaN for others."""
    columns: dict[str, list[Any]] = {"members": [list(m) for m in members]}
    for name in map(str, rows.columns):
        values = rows[name].tolist()
        if name == "run":
            values = [without_replicate(str(v)) for v in values] if any(len(m) > 1 for m in members) else values
        if name == "run_id":
            columns[name] = [", ".join(str(values[k]) for k in m) for m in members]
            continue
        blank: Any = np.nan if all(map(is_number, values)) else ""
        of_groups = [{str(values[k]): values[k] for k in m} for m in members]
        columns[name] = [next(iter(found.values())) if len(found) == 1 else blank for found in of_groups]
    return pd.DataFrame(columns)


def varying_names(means: Means, factors: Mapping[str, FactorOf], *but: str) -> list[str]:
    """Return the factors that tell groups apart, those of lineages first, without some; labels where none does.

    Parameters
    ----------
    means : Means
    factors : mapping
        As of :class:`RunValues`.
    *but : str
        Names that are left out, as the picture shows them in another way.
    """
    rows = means.rows
    order = sorted(factors, key=lambda n: ("lineage", "run", "cell").index(factors[n]))
    # Types of runs mostly follow from their hyperparameters.
    order.sort(key=lambda n: n == "run_type")
    candidates = [n for n in order if n not in (*_DERIVED, *means.over)] + ["replicate", "run", "lineage"]
    names: list[str] = []
    shown = [n for n in but if n in rows]
    known = _distinct(rows, shown)
    for name in candidates:
        if name in rows and name not in but and varies(rows[name]):
            with_name = _distinct(rows, [*shown, *names, name])
            if with_name > known:
                names, known = [*names, name], with_name
    return names


def _distinct(rows: pd.DataFrame, names: Sequence[str]) -> int:
    return len({tuple(map(str, values)) for values in zip(*(rows[n] for n in names), strict=True)}) if names else 1


def labels_of(rows: pd.DataFrame, names: Sequence[str], titles: Mapping[str, str], label: Any = label_of) -> list[str]:
    """Return a label for each row: its values of some coordinates, numbers after the name where there are several.

    Parameters
    ----------
    rows : DataFrame
    names : sequence of str
    titles : mapping of str to str
        Short names of coordinates.
    label : callable
        Returns the text of a value.

    Examples
    --------
    >>> rows = pd.DataFrame({"data": ["C4", "C4"], "learning_rate": [1e-5, np.nan], "run_type": ["sft", "base"]})
    >>> labels_of(rows, ["data", "learning_rate"], {"learning_rate": "lr"})
    ['C4, lr 1e-5', 'C4']
    """
    several = len([n for n in names if n != "replicate"]) > 1
    texts = []
    for row in rows[list(names)].to_dict("records"):
        parts = []
        for name, value in row.items():
            if not is_given(value):
                continue
            if name == "replicate":
                # As in labels of runs, the first one has no number.
                parts += [f"#{int(value)}"] if float(value) > 1 else []
                continue
            text = label(value)
            parts.append(f"{titles.get(str(name), str(name))} {text}" if several and is_number(value) else text)
        texts.append(", ".join(parts))
    types = [label(v) for v in rows["run_type"]] if "run_type" in rows else ["none"] * len(rows)
    return [text or kind for text, kind in zip(texts, types, strict=True)]


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the words that stand before numbers of coordinates in labels.

    Examples
    --------
    >>> short_names(["learning_rate", "weight_decay"])
    {'learning_rate': 'lr', 'weight_decay': 'weight decay'}
    """
    return {n: _SHORT.get(n, n.replace("_", " ")) for n in names}


def place_in_words(place: Place) -> str:
    """Return a place for a caption.

    Examples
    --------
    >>> place_in_words("schedule"), place_in_words(2e9), place_in_words({"fraction_of_training": 0.5})
    ('at the planned end', 'at 2B tokens', 'at fraction of training 0.5')
    """
    if isinstance(place, Mapping):
        ((name, position),) = place.items()
        return f"at {name.replace('_', ' ')} {short_number(position)}"
    if not isinstance(place, str):
        return f"at {short_number(place)} tokens"
    words = {
        "schedule": "at the planned end", "last": "at the last observation",
        "common": "at the furthest tokens that all runs reach",
    }  # fmt: skip
    return words[place]


def metrics_in_panels(dataset: xr.Dataset, metric: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the metrics to draw, or raise when their panels are more than can be looked at."""
    names = tuple(metrics_to_draw(dataset, metric))
    if len(names) > _MOST_PANELS:
        raise SelectionError(
            f"{len(names)} metrics have more panels than can be looked at ({_MOST_PANELS}). Draw fewer, such as "
            "'olmes'."
        )
    return names


def require_value(found: RunValues) -> None:
    """Raise when no run has a value."""
    if np.isnan(found.values["value"]).all():
        remedy = "" if found.place == "last" else "Pass at='last' to see what runs were last observed at, or "
        raise SelectionError(
            f"no run has a value of {', '.join(found.names)} {place_in_words(found.place)} "
            f"({found.left_out or 'no runs'}), so there is nothing to draw. "
            f"{f'{remedy}s' if remedy else 'S'}elect other runs."
        )


def not_drawn_words(noun: str, infinite: int, below: int) -> str:
    """Return what an axis can't show, for a caption.

    Examples
    --------
    >>> not_drawn_words("dot", 1, 2)
    'not drawn: 1 dot with infinite values and 2 dots with values at or below zero on a logarithmic axis'
    """
    parts = [
        f"{counted(infinite, noun)} with infinite values" if infinite else "",
        f"{counted(below, noun)} with values at or below zero on a logarithmic axis" if below else "",
    ]
    return f"not drawn: {' and '.join(filter(None, parts))}" if infinite or below else ""


def require_drawable(contents: Sequence[Any], not_drawn: str, log: str) -> None:
    """Raise when no panel has anything that its axes can show; `log` is the option of a logarithmic axis, or ""."""
    if not contents:
        raise SelectionError(
            f"no run has a value that the axis can show ({not_drawn}), so there is nothing to draw. "
            f"{f'Pass {log}=False, or s' if log else 'S'}elect other runs."
        )


def metric_texts(dataset: xr.Dataset, name: str, in_panels: bool, options: PictureOptions) -> tuple[str, str]:
    """Return the title of the panel of a metric, and the label of its axis: task and measure of one of several."""
    task, measure = task_of(dataset[name]) if in_panels else ("", "")
    return options.label(name, task) if in_panels else "", options.label(name, measure or axis_label(dataset[name]))


def metrics_words(dataset: xr.Dataset, names: Sequence[str], options: PictureOptions) -> str:
    """Return the metrics of a picture, for its caption."""
    return subject_text([options.label(n, axis_label(dataset[n])) for n in names])


def caption_of_means(subject: str, found: RunValues, means: Means, not_drawn: str = "") -> str:
    """Return a caption that says of how many runs means are, what bars are, and what is left out."""
    counts = means.count[means.count > 0]
    members, bars = counted(int((means.count > 0).any(axis=0).sum()), "run"), ""
    if means.over and (counts > 1).any():
        members = f"means of {range_text(counts)} runs over {' and '.join(means.over)}"
        bars = f"bars: {means.interval}" if means.interval else ""
    return caption_of(subject, members, bars, left_out_text(found.left_out), not_drawn)
