"""Runs of an answer as tables, one for each metric and target, and the factor that groups them in a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.dataset.concat import with_object_text
from dde.dataset.dimensions import broadcast_values, text_values
from dde.errors import SelectionError
from dde.plots.answers.cells import labels_in
from dde.plots.colours import NEUTRAL, PRIMARY, facets_of, is_given
from dde.plots.defaults import AUTO, check_names, run_coordinates, varying_factors
from dde.plots.picture_options import NO_OPTIONS, PictureOptions

__all__ = ["Block", "Groups", "blocks_of", "groups_of", "require_answer"]

# Quantities on the axes of pictures of runs, which labels may name.
_QUANTITIES = ("tokens", "compute", "share")
#: Most groups of a picture, and most pairs of metric and target.
MOST_GROUPS, MOST_BLOCKS = 30, 24
# Factors whose values are repetitions of one experiment, which share a group where anything else differs.
_REPLICATES = ("seed", "seed_name", "replicate")


@dataclass(frozen=True)
class Block:
    """The runs of one metric and target.

    Attributes
    ----------
    metric : str
    title : str
        The metric and the target, where it is a number.
    aim : str
        What the target is where it is no number; else "".
    label : str
        Axis label of values: the metric with its units.
    target : float or None
        None where each run has its own.
    rows : pandas.DataFrame
        A row for each run, with the coordinates and variables of the answer as columns.
    """

    metric: str
    title: str
    aim: str
    label: str
    target: float | None
    rows: pd.DataFrame


@dataclass(frozen=True)
class Groups:
    """The groups of a picture: the values of one coordinate.

    Attributes
    ----------
    by : str
        The coordinate; "" for one group of all runs.
    values : list
        Its values in order; "" for runs without one.
    label : str
        Title of the legend.
    """

    by: str
    values: list[Any]
    label: str
    options: PictureOptions = NO_OPTIONS

    def colours(self) -> dict[Any, str]:
        """Return the colours of values."""
        return self.options.colours(self.by, [v for v in self.values if is_given(v)]) if self.by else {}

    def colour(self, colours: Mapping[Any, str], value: Any) -> str:
        """Return the colour of a value, among those of all values."""
        return colours.get(value, NEUTRAL if self.by else self.options.plain(PRIMARY))

    def parts(self, rows: pd.DataFrame) -> list[pd.DataFrame]:
        """Return the rows of each group."""
        if not self.by:
            return [rows]
        given = np.array([v if is_given(v) else "" for v in rows[self.by]], object)
        return [rows[np.array([g == v for g in given], bool)] for v in self.values]

    def name(self, value: Any) -> str:
        """Return the name of a group."""
        if not self.by:
            return "all runs"
        return self.options.label(value) if is_given(value) else "none"

    def counted_names(self, tables: Sequence[pd.DataFrame]) -> list[str]:
        """Return the names of groups with their number of runs, or the range of it over several tables."""
        names = []
        for k, value in enumerate(self.values):
            counts = [len(self.parts(rows)[k]) for rows in tables]
            n = f"{min(counts)}\N{EN DASH}{max(counts)}" if min(counts) < max(counts) else str(counts[0])
            names.append(f"{self.name(value)}, n = {n}")
        return names


def require_answer(answer: xr.Dataset, name: str) -> None:
    """Raise where a Dataset is no answer of a function.

    Raises
    ------
    SelectionError
    """
    found = answer.attrs.get("answer")
    if found != name or "run_id" not in answer.coords:
        what = f"an answer of {found}" if found and found != name else "without attributes or coordinates of one"
        raise SelectionError(
            f"the Dataset is no answer of {name} but {what}, so this picture can't be drawn. Pass what "
            f"ds.dde.{name}(...) returns, with its attributes and coordinates."
        )


def blocks_of(answer: xr.Dataset, has_direction: bool, options: PictureOptions = NO_OPTIONS) -> list[Block]:
    """Return the runs of each metric and target of an answer.

    Parameters
    ----------
    answer : xarray.Dataset
    has_direction : bool
        Whether values better than the target meet it, too.

    Raises
    ------
    SelectionError
        When there are more of them than panels can show.
    """
    answer = with_object_text(answer.load())
    metrics: Sequence[int | None] = [None]
    if "metric" in answer.dims:
        names = [str(m) for m in answer["metric"].values]
        metrics = [names.index(m) for m in options.ordered("metric", names)]
    targets = range(answer.sizes["target"]) if "target" in answer.dims else [None]
    if len(metrics) * len(targets) > MOST_BLOCKS:
        raise SelectionError(
            f"the answer has {len(metrics)} metrics and {len(targets)} targets, more panels than can be looked at. "
            "Select some of them: answer.sel(metric=[...], target=[...])."
        )
    blocks = []
    for m in metrics:
        for t in targets:
            here = answer if m is None else answer.isel(metric=m)
            blocks.append(_block(here if t is None else here.isel(target=t), has_direction, options))
    return blocks


def _block(answer: xr.Dataset, has_direction: bool, options: PictureOptions) -> Block:
    sizes = {str(d): answer.sizes[d] for d in answer["run_id"].dims}
    columns: dict[str, Any] = {}
    for name, variable in answer.variables.items():
        if set(map(str, variable.dims)) <= set(sizes):
            values = broadcast_values(variable, sizes).ravel()
            columns[str(name)] = text_values(values) if values.dtype.kind in "OTUS" else values
    rows = pd.DataFrame(columns)
    rows = rows[rows["run_id"] != ""].reset_index(drop=True)
    name, units = _text(answer, "metric_label") or _text(answer, "metric"), _text(answer, "units")
    name = options.label(_text(answer, "metric"), name)
    label = f"{name} [{units}]" if units not in ("", "1") and units not in name else name
    if "target_run_id" in answer.coords:
        return Block(_text(answer, "metric"), name, _aim(answer, rows), label, None, rows)
    target = float(answer["target"])
    sign = {"higher": "\N{GREATER-THAN OR EQUAL TO}", "lower": "\N{LESS-THAN OR EQUAL TO}"} if has_direction else {}
    direction = next((d for d in sign if _text(answer, "direction").startswith(d)), "")
    title = f"{name} {sign.get(direction, '=')} {target:.4g}"
    return Block(_text(answer, "metric"), title, "", label, target, rows)


def _text(answer: xr.Dataset, name: str) -> str:
    return str(answer.coords[name].item()) if name in answer.coords else ""


def _aim(answer: xr.Dataset, rows: pd.DataFrame) -> str:
    runs = {r for r in rows["target_run_id"] if r}
    place = {"schedule": "at the end of its schedule", "last": "where it was last observed"}.get(
        str(answer.attrs.get("at", "")), f"at {answer.attrs.get('at', '')}"
    )
    return f"target: value of {next(iter(runs)) if len(runs) == 1 else 'another run'} {place}"


def groups_of(
    answer: xr.Dataset, rows: pd.DataFrame, hue_by: str | None, options: PictureOptions = NO_OPTIONS
) -> Groups:
    """Return the groups of the runs of an answer that are drawn.

    Parameters
    ----------
    answer : xarray.Dataset
    rows : pandas.DataFrame
        The runs that are drawn.
    hue_by : str or None
        Coordinate of runs; when "auto", the first factor of lineages in which runs differ other than the seed, else of
        runs, else the label of the lineage or run.

    Raises
    ------
    UnknownNameError
        When there is no such coordinate.
    SelectionError
        When it has too many values.
    """
    known = run_coordinates(answer)
    name = _default_group(answer) if hue_by == AUTO else hue_by
    check_names({"hue_by": name}, known, "no coordinate of runs, so it can't distinguish them")
    options.check_order(name, ["metric"])
    options.check_labels([*labels_in(answer), *_QUANTITIES])
    if name is None:
        return Groups("", [""], "", options)
    facets = facets_of(rows[name], with_none=True)
    without = [v for v in facets if not is_given(v)]
    values = [*options.ordered(name, facets, is_hue=True), *without] or [""]
    if len(values) > MOST_GROUPS:
        raise SelectionError(
            f"hue_by={name!r} has {len(values)} values, more than can be distinguished. Select fewer runs, or pass "
            "another coordinate or None."
        )
    label = options.label(name, str(answer[name].attrs.get("long_name") or name).replace("_", " "))
    return Groups(name, values, label, options)


def _default_group(answer: xr.Dataset) -> str | None:
    for kinds in (("lineage",), ("run",)):
        names = [n for n in varying_factors(answer, kinds) if n not in _REPLICATES]
        if names:
            return names[0]
    several = [n for n in ("lineage", "run") if n in answer.dims and 1 < answer.sizes[n] <= MOST_GROUPS]
    return several[0] if several else None
