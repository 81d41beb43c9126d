"""Answers: Datasets with the name of their question, the place of the comparison, and the runs that were left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from dde.analysis.arrangement import REPLICATES
from dde.dataset.dimensions import text_values
from dde.errors import UnknownNameError

__all__ = ["ANSWER", "Direction", "as_answer", "direction_of"]

#: Attribute of an answer: the name of the function that gave it, by which it is drawn.
ANSWER = "answer"

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
    answer = variables.isel(metric=0) if metric is None or isinstance(metric, str) else variables
    # Coordinates that no member has, such as the learning rate of bases, and those of repetitions say nothing.
    of_members = [n for n, c in answer.coords.items() if n not in answer.dims and _is_blank(c)]
    of_members += [n for n in REPLICATES if n in answer.coords and n not in answer.dims]
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
