"""Columns of the table of runs: what each is, and how it is placed on an axis. Shared by the tabs that show runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from dde.explore.listing import run_coordinates
from dde.plots.axis_format import axis_label
from dde.plots.colours import is_given, is_number, label_of, sorted_values
from dde.schema import factors_of, is_identity

__all__ = ["DIFFERENCE", "Kind", "Placed", "RunColumn", "RunColumns", "columns_of", "place", "wants_log"]

#: What the values of a column are.
Kind = Literal["number", "text", "time"]
#: Prefix of the names of columns that hold the difference of a metric to the baseline.
DIFFERENCE = "difference:"

_TITLES = {"run_id": "run id", "learning_rate": "rate", "branch_tokens": "branch", "end_tokens": "end"}
# Values that differ by more than this factor are easier to distinguish on a logarithmic axis.
_LOG_RATIO = 20.0
# An axis or a legend of more names can't be read.
_MOST_NAMES = 40


@dataclass(frozen=True)
class RunColumn:
    """A column of the table of runs.

    Attributes
    ----------
    name : str
        In the frame.
    title : str
        As shown; differs from the titles of the other columns.
    hint : str
        Meaning and units.
    kind : {"number", "text", "time"}
    group : {"run", "metric", "difference", "other"}
        "other" for coordinates that are shown when chosen.
    is_factor : bool
        Whether it is a factor of the suite.
    varies : bool
        Whether runs have different values.
    """

    name: str
    title: str
    hint: str
    kind: Kind
    group: Literal["run", "metric", "difference", "other"]
    is_factor: bool
    varies: bool


@dataclass(frozen=True)
class RunColumns:
    """The table of runs with all its columns.

    Attributes
    ----------
    frame : pandas.DataFrame
        A row for each run. Numbers are float64, NaN where missing; texts are str, "" where missing; times are
        datetime64, NaT where missing.
    columns : tuple of RunColumn
        In the order of the frame.
    """

    frame: pd.DataFrame
    columns: tuple[RunColumn, ...]

    def __contains__(self, name: object) -> bool:
        """Return whether there is a column of that name."""
        return any(column.name == name for column in self.columns)

    def __getitem__(self, name: str) -> RunColumn:
        """Return a column by its name."""
        return next(column for column in self.columns if column.name == name)

    def names(self, *groups: str) -> list[str]:
        """Return the names of columns, of some groups only or of all."""
        return [column.name for column in self.columns if not groups or column.group in groups]

    def axes(self, most: int = 8) -> list[str]:
        """Return the columns that tell runs apart: factors that vary, then metrics; each at most `most`."""
        frame = self.frame
        factors = [
            c.name
            for c in self.columns
            if c.is_factor and c.varies and not (c.kind == "text" and frame[c.name].nunique() > _MOST_NAMES)
        ]
        return [*factors[:most], *self.names("metric")[:most]]


def columns_of(dataset: xr.Dataset, table: pd.DataFrame, baseline: str = "") -> RunColumns:
    """Return all columns of the runs of a selection.

    Parameters
    ----------
    dataset : xarray.Dataset
        The selection, in memory.
    table : pandas.DataFrame
        Its table of runs, as :func:`dde.explore.listing.run_table` returns it.
    baseline : str, default ""
        Id of a run. If it is in the table, there is a column for each metric with the last value minus the last value
        of the baseline.

    Returns
    -------
    RunColumns
        Columns of the table, then differences, then all other coordinates of lineages and runs, constant ones too.

    Examples
    --------
    >>> import dde
    >>> from dde.explore.listing import run_table
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> columns = columns_of(ds, run_table(ds), baseline=ds["run_id"].values[0, 0])
    >>> columns.names("metric", "difference")
    ['piqa', 'difference:piqa']
    >>> columns["params"].varies, columns["learning_rate"].kind
    (False, 'number')
    """
    metrics = [str(name) for name in dataset.data_vars if str(name) in table]
    values: dict[str, Any] = {name: table[name] for name in table.columns}
    at = np.flatnonzero(table["run_id"].to_numpy() == baseline).tolist() if baseline else []
    if at:
        for name in metrics:
            values[DIFFERENCE + name] = table[name] - table[name].iloc[at[0]]
    others = run_coordinates(dataset)
    values |= {str(name): others[name] for name in others if name not in values}
    factors = factors_of(dataset)
    columns: list[RunColumn] = []
    clean: dict[str, Any] = {}
    titles: set[str] = set()
    for name, given in values.items():
        clean[name], kind = _cleaned(np.asarray(given))
        plain = name.removeprefix(DIFFERENCE)
        group: Any = "run" if name in table else "other"
        title = _TITLES.get(name, name.replace("_", " ") if name in ("lineage", "run", "state", "budget") else name)
        if name in metrics:
            group, title = "metric", f"last {name}"
        elif name.startswith(DIFFERENCE) and plain in metrics:
            group, title = "difference", f"Δ {plain}"
        while title in titles:
            title += "′"
        titles.add(title)
        columns.append(
            RunColumn(
                name,
                title,
                _hint(dataset, plain, group),
                kind,
                group,
                name in factors and not is_identity(name),
                pd.Series(clean[name]).nunique(dropna=False) > 1,
            )
        )
    return RunColumns(pd.DataFrame(clean), tuple(columns))


def wants_log(values: npt.ArrayLike) -> bool:
    """Return whether numbers are shown better on a logarithmic axis: all positive, over more than a decade.

    Missing and infinite values don't count.

    Examples
    --------
    >>> wants_log([1e-6, 1e-4, float("nan")]), wants_log([0.3, 0.7]), wants_log([0.0, 1e9])
    (True, False, False)
    """
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    return bool(len(numbers) and numbers.min() > 0 and numbers.max() / numbers.min() >= _LOG_RATIO)


@dataclass(frozen=True)
class Placed:
    """Values of a column as positions on an axis.

    Attributes
    ----------
    positions : numpy.ndarray of float64, (runs,)
        Numbers themselves; milliseconds since 1970 of times; the rank of a text among `names`. NaN where there is no
        value, and on a logarithmic axis where it is not positive.
    names : tuple of str
        Texts in order; empty for numbers and times.
    texts : list of str, length runs
        Each value for a tooltip.
    log : bool
        Whether the axis is logarithmic.
    kind : {"number", "text", "time"}
    """

    positions: npt.NDArray[np.float64]
    names: tuple[str, ...]
    texts: list[str]
    log: bool
    kind: Kind

    @property
    def given(self) -> npt.NDArray[np.bool_]:
        """Whether each run has a finite position."""
        return np.isfinite(self.positions)


def place(columns: RunColumns, name: str, log: bool | None = None) -> Placed:
    """Return the values of a column as positions on an axis.

    Parameters
    ----------
    columns : RunColumns
    name : str
        Of a column.
    log : bool, optional
        Whether the axis of a number is logarithmic; by default as :func:`wants_log` says.

    Examples
    --------
    >>> columns = RunColumns(
    ...     pd.DataFrame({"size": ["150M", "4M", ""], "rate": [1e-6, 0.0, 1e-4]}),
    ...     (
    ...         RunColumn("size", "size", "", "text", "other", True, True),
    ...         RunColumn("rate", "rate", "", "number", "other", True, True),
    ...     ),
    ... )
    >>> place(columns, "size").names, place(columns, "size").positions.tolist()
    (('4M', '150M'), [1.0, 0.0, nan])
    >>> place(columns, "rate", log=True).positions.tolist()
    [1e-06, nan, 0.0001]
    """
    column, values = columns[name], columns.frame[name]
    if column.kind == "text":
        names = tuple(sorted_values(values))
        rank = {text: k for k, text in enumerate(names)}
        positions = np.array([rank.get(text, np.nan) for text in values], np.float64)
        return Placed(positions, names, [text or "none" for text in values], False, "text")
    if column.kind == "time":
        times = values.to_numpy().astype("datetime64[ms]")
        positions = np.where(np.isnat(times), np.nan, times.astype(np.int64).astype(np.float64))
        return Placed(positions, (), ["none" if np.isnat(t) else str(t) for t in times], False, "time")
    numbers = values.to_numpy(np.float64)
    is_log = wants_log(numbers) if log is None else log
    # A logarithmic axis has no place for zero, and no axis has one for infinite values.
    fits = np.isfinite(numbers) & ((numbers > 0) | (not is_log))
    return Placed(np.where(fits, numbers, np.nan), (), list(map(_text_of, numbers)), is_log, "number")


def _text_of(number: float) -> str:
    if np.isnan(number):
        return "none"
    # `label_of` says "full" for the budget of a run on the full mixture.
    return label_of(number) if np.isfinite(number) else f"{number:+g}"


def _cleaned(values: npt.NDArray[Any]) -> tuple[Any, Kind]:
    """Return values of one type, and their kind."""
    if values.dtype.kind in "iuf":
        return values.astype(np.float64), "number"
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]"), "time"
    if values.dtype.kind == "m":
        return pd.to_timedelta(values).total_seconds().to_numpy(), "number"
    given = [v for v in values.tolist() if _is_there(v)]
    if given and all(map(is_number, given)):
        return _floats(values.tolist()), "number"
    return np.array([str(v) if _is_there(v) else "" for v in values.tolist()], object), "text"


def _is_there(value: object) -> bool:
    return is_given(value) and value is not pd.NaT and value is not pd.NA


def _floats(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    return np.array([float(v) if _is_there(v) else np.nan for v in values], np.float64)


def _hint(dataset: xr.Dataset, name: str, group: str) -> str:
    """Return the meaning of a column in a few words."""
    label = axis_label(dataset[name]) if name in dataset.variables else name
    start: Iterable[str] = {
        "metric": ("last value of the run itself: ",),
        "difference": ("last value minus that of the baseline: ",),
    }.get(group, ())
    return "".join([*start, label])
