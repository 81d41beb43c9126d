"""The contract between the page and its tabs: what a tab shows, and the marks of runs that all tabs share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import param
import xarray as xr

from dde.explore.choices import Choices, Opened

__all__ = ["Marks", "Shown", "Tab"]


class Marks(param.Parameterized):
    """Marks of runs, shared by the tabs of one page. Runs are identified by their id.

    Attributes
    ----------
    hidden : list of str
        Runs whose curves are hidden.
    selected : list of str
        Runs that stand out: rows that are ticked, points that are brushed.
    baseline : str
        Run from which differences are shown; "" for none.
    opened : str
        Run whose page is open; "" for none.

    Examples
    --------
    >>> marks = Marks()
    >>> marks.selected = ["a1b2c3"]
    >>> marks.hidden
    []
    """

    hidden = param.List(default=[], item_type=str)
    selected = param.List(default=[], item_type=str)
    baseline = param.String(default="")
    opened = param.String(default="")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Shown:
    """The current selection.

    Attributes
    ----------
    explored : xarray.Dataset
        The Dataset that is explored; lazy.
    dataset : xarray.Dataset
        The selection, in memory.
    choices : Choices
    table : pandas.DataFrame
        A row for each run of the selection, as :func:`dde.explore.listing.run_table` returns it.
    colours : mapping of str to str
        Colour of each run by its id, as in the curves.
    opened : Opened or None
        How the explored Dataset was opened, for code that opens it again.
    repository : RunRepository or None
        Where the runs come from; None when only the Dataset is known.
    """

    explored: xr.Dataset
    dataset: xr.Dataset
    choices: Choices
    table: pd.DataFrame
    colours: Mapping[str, str]
    opened: Opened | None = None
    repository: Any = None


class Tab(Protocol):
    """A tab of the page.

    Attributes
    ----------
    title : str
    view : Panel viewable
        Made once.
    """

    title: str
    view: Any

    def show(self, shown: Shown) -> None:
        """Show a selection by changing what is there."""
