"""Repetitions of runs as dimensions, and the check that the members of a mean are compared at the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dde.analysis.arrangement import arrange_by
from dde.analysis.footing import ENTERED, Place
from dde.dataset.dimensions import text_values
from dde.dataset.finals import STOP_MARGIN
from dde.errors import SelectionError
from dde.schema import factors_of

__all__ = ["arrange_over", "has_factor", "require_same_tokens"]


def has_factor(values: xr.Dataset, name: str) -> bool:
    """Return whether a factor, or ``replicate``, is a dimension or can become one."""
    if name in values.dims:
        return True
    if name == "replicate":
        return "run" in values.dims
    of = factors_of(values).get(name)
    if of not in ("lineage", "run") or values[name].dims != (of,):
        return False
    return bool((~np.isin(text_values(values[name].values).astype(str), ("", "nan"))).any())


def arrange_over(values: xr.Dataset, names: Sequence[str]) -> tuple[xr.Dataset, dict[str, int]]:
    """Return values of runs with some factors as dimensions, and how many runs have no value of each factor.

    Parameters
    ----------
    values : xarray.Dataset
        With ``run_id`` and ``status`` of :func:`dde.analysis.footing.values_at`.
    names : sequence of str

    Returns
    -------
    values : xarray.Dataset
    left_out : dict of str to int
        Number of entered runs without a value of a factor, by the reason.

    Raises
    ------
    UnknownNameError, SelectionError
        As of :func:`dde.analysis.arrangement.arrange_by`.
    """
    left_out = {}
    for name in names:
        before = _entered(values)
        values = arrange_by(values, name)
        if lost := before - _entered(values):
            left_out[f"no value of {name}"] = lost
    return values, left_out


def _entered(values: xr.Dataset) -> int:
    return int((values.status == ENTERED).sum())


def require_same_tokens(values: xr.Dataset, dims: Sequence[str], at: Place | None, place: Place, what: str) -> None:
    """Raise where members of one mean or comparison are at different tokens and the caller did not choose a place.

    Parameters
    ----------
    values : xarray.Dataset
        With the variable ``tokens``.
    dims : sequence of str
        Dimensions of the members.
    at : place or None
        As the caller gave it.
    place : place
        As :func:`dde.analysis.footing.resolve_place` gives it.
    what : str
        What would be wrong, such as "a mean over seed".

    Raises
    ------
    SelectionError
    """
    if at is not None or place != "last":
        return
    tokens = values.tokens.where(values.status == ENTERED)
    if "branch_tokens" in values.coords:
        tokens = tokens - values.branch_tokens.fillna(0.0)
    here = [d for d in dims if d in tokens.dims]
    least, most = tokens.min(here), tokens.max(here)
    differs = most > (1 + STOP_MARGIN) * least
    if bool(differs.any()):
        low, high = (float(end.where(differs).max()) for end in (least, most))
        raise SelectionError(
            f"{int(differs.sum())} cells have members that end at different tokens, such as {low:.0f} and {high:.0f}, "
            f"so {what} would mix them with the effect of more training. Choose the place of the comparison: "
            "at='common' where all members are, a number of tokens, at='schedule' at their planned ends, or at='last' "
            "to accept different ends."
        )
