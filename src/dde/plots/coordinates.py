"""What a picture may be of: metrics and coordinates of a Dataset by name, and what facets are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import xarray as xr

from dde.arrays.naming import title_of
from dde.errors import UnknownNameError, near_names
from dde.plots.colours import is_given, label_of

__all__ = ["check_names", "facet_title", "run_coordinates", "task_of"]


def check_names(wanted: Mapping[str, str | None], known: Iterable[str], why: str) -> None:
    """Raise where an argument, by its name, is none of the known coordinates; None always is.

    Raises
    ------
    UnknownNameError
    """
    known = list(dict.fromkeys(known))
    for argument, name in wanted.items():
        if name is not None and name not in known:
            raise UnknownNameError(
                f"{argument}={name!r} is {why}.{near_names(name, known)} There are {', '.join(known)}."
            )


def run_coordinates(dataset: xr.Dataset) -> list[str]:
    """Return the coordinates that whole runs have, by name."""
    return [str(n) for n, c in dataset.coords.items() if set(c.dims) <= set(dataset["run_id"].dims)]


def facet_title(facts: Iterable[Mapping[Any, Any]], facet_by: str | None, facet: object) -> str:
    """Return what stands above the panels of one value of a facet, by the coordinates of the runs in it."""
    if facet_by not in (None, "lineage"):
        return f"{str(facet_by).replace('_', ' ')}: {label_of(facet) if is_given(facet) else 'none'}"
    lineages = {str(f["lineage"]): f for f in facts}
    return title_of(next(iter(lineages.values()))) if len(lineages) == 1 else f"{len(lineages)} lineages"


def task_of(array: xr.DataArray) -> tuple[str, str]:
    """Return what a metric is of, for a title, and how it is measured, for an axis.

    Examples
    --------
    >>> task_of(xr.DataArray(0, attrs={"long_name": "ARC-Easy, primary metric", "task": "arc_easy"}))
    ('ARC-Easy', 'primary metric')
    >>> task_of(xr.DataArray(0, attrs={"long_name": "training loss", "units": "nats"}))
    ('training loss', 'nats')
    """
    name, units = str(array.attrs.get("long_name", array.name)), str(array.attrs.get("units", ""))
    task, _, measure = name.partition(", ")
    return task, measure or (units if units != "1" else "")
