"""Answers: Datasets with the name of their question, the place of the comparison, and the runs that were left out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from dde.analysis.arrangement import REPLICATES
from dde.curves.axes import AXES
from dde.dataset.dimensions import broadcast_values, text_values
from dde.errors import UnknownNameError

__all__ = ["ANSWER", "Direction", "answer_frame", "as_answer", "direction_of", "main_variable"]

#: Attribute of an answer: the name of the function that gave it, by which it is drawn.
ANSWER = "answer"

# Main variable of answers. Formats such as Zarr store variables in the order of their names.
_MAIN = {
    "best": "best",
    "compare": "difference",
    "decision_accuracy": "accuracy",
    "effect": "gain",
    "fit": "coefficient",
    "match": "value",
    "predict": "predicted",
    "ranks": "kendall",
    "reach": "tokens",
    "signal_to_noise": "signal_to_noise",
}

#: Direction in which values of a metric are better.
Direction = Literal["higher", "lower"]


def as_answer(
    variables: xr.Dataset, name: str, metric: str | Sequence[str] | None, attrs: dict[str, Any]
) -> xr.Dataset:
    """Return the variables of an answer, without the dimension ``metric`` where the question named a single metric.

    Parameters
    ----------
    variables : xarray.Dataset
        With the dimension ``metric``.
    name : str
        Function that answers.
    metric : str, several or None
        As in the question.
    attrs : dict
        Place, interval and runs that were left out.
    """
    answer = variables
    if metric is None or isinstance(metric, str):
        answer = variables.isel(metric=0)
        # Text of variable length goes to Zarr without a warning.
        answer["metric"] = ((), np.array(str(answer["metric"].item()), object), answer["metric"].attrs)
    # Coordinates that no member has, such as the learning rate of bases, and those of repetitions say nothing.
    of_members = [n for n, c in answer.coords.items() if n not in answer.dims and _is_blank(c)]
    of_members += [n for n in REPLICATES if n in answer.coords and not answer.coords[n].ndim]
    answer = answer.drop_vars(of_members)
    answer.attrs = {ANSWER: name, **attrs}
    return answer


def direction_of(dataset: xr.Dataset, metric: str, direction: Direction | None) -> Direction:
    """Return the direction in which a metric is better: the one given, or that of its attribute ``direction``.

    Raises
    ------
    UnknownNameError
        When neither says it.
    """
    if direction is not None:
        if direction not in ("higher", "lower"):
            raise UnknownNameError(f"direction={direction!r} is not a direction. Pass 'higher' or 'lower'.")
        return direction
    stated = str(dataset[metric].attrs.get("direction", ""))
    if stated.startswith("higher"):
        return "higher"
    if stated.startswith("lower"):
        return "lower"
    raise UnknownNameError(
        f"whether higher or lower values of {metric!r} are better is unknown: it has no attribute direction. Pass "
        "direction='higher' or direction='lower'."
    )


def _is_blank(coordinate: xr.DataArray) -> bool:
    if coordinate.dtype.kind in "OUT":
        return bool((text_values(np.asarray(coordinate.values, object)) == "").all())
    return bool(coordinate.isnull().all())


def answer_frame(answer: xr.Dataset) -> pd.DataFrame:
    """Return the main numbers of an answer as a table: one row per cell, without cells that have no run.

    Parameters
    ----------
    answer : xarray.Dataset

    Returns
    -------
    pandas.DataFrame
        Columns for the dimensions of the main variable, for the coordinates along them, and for all variables that
        have no other dimension.

    Examples
    --------
    >>> counts = xr.Dataset({"accuracy": ("params", [0.5, 0.75]), "n": ("params", [3, 4])}, {"params": ["4M", "20M"]})
    >>> print(answer_frame(counts).to_string(index=False))
    params  accuracy  n
        4M      0.50  3
       20M      0.75  4
    """
    main = answer[main_variable(answer)]
    dims = [str(d) for d in main.dims]
    names = [str(n) for n, a in answer.data_vars.items() if set(map(str, a.dims)) <= set(dims)]
    labels = [str(n) for n, c in answer.coords.items() if set(map(str, c.dims)) <= set(dims) and str(n) not in dims]
    columns: dict[str, Any] = {}
    sizes = {d: answer.sizes[d] for d in dims}
    for name in [*(d for d in dims if d in answer.coords), *labels, *names]:
        columns[name] = broadcast_values(answer[name].variable, sizes).ravel()
    frame = pd.DataFrame(columns)
    empty = np.logical_and.reduce([_is_empty(frame[name]) for name in names]) if names else np.zeros(len(frame), bool)
    if "run_id" in labels:
        # Variables may fill cells without a run with a number, such as step -1.
        empty |= _is_empty(frame["run_id"])
    for dim in dims:
        # A dimension without labels, such as the checkpoints of runs, is as long as the longest run needs.
        along = [n for n in names if dim in answer[n].dims]
        if dim not in answer.coords and along:
            empty |= np.logical_and.reduce([_is_empty(frame[name]) for name in along])
    if any(d in AXES for d in dims):
        # Differences have the points at which any cell has one; the others were not observed on both sides.
        empty |= _is_empty(frame[str(main.name)])
    return frame[~empty].reset_index(drop=True)


def main_variable(answer: xr.Dataset) -> Hashable:
    """Return the variable that a question asks for; the first one where it was dropped."""
    main = _MAIN.get(str(answer.attrs.get(ANSWER)))
    return main if main in answer.data_vars else next(iter(answer.data_vars))


def _is_empty(column: pd.Series) -> Any:
    """Return which cells hold nothing: NaN, "" or a count of zero."""
    if column.dtype.kind in "iub":
        return (column == 0).to_numpy()
    if column.dtype.kind == "f":
        return column.isna().to_numpy()
    return column.isin(["", None]).to_numpy()
