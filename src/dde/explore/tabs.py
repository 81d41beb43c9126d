"""The contract between the page and its tabs: what a tab shows, and the marks of runs that all tabs share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import param
import xarray as xr

from dde.explore.choices import Choices, Opened

__all__ = ["Marks", "Shown", "State", "StateReader", "Tab", "value_text"]


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


#: Choices by name, as texts of an address; an empty list is a choice as well.
State = Mapping[str, Sequence[str]]


def value_text(value: Any) -> str:
    """Return a value as the text of an address.

    Examples
    --------
    >>> value_text(True), value_text(None), value_text(0.5)
    ('true', '', '0.5')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


class Tab(param.ParameterizedABC):
    """A tab of the page.

    Attributes
    ----------
    title : str
    view : Panel viewable
        Made once.
    state : dict of str to list of str
        The choices of a person that differ from the defaults, for the address of the page. The tab sets it.
    """

    state = param.Dict(default={})
    title: ClassVar[str] = ""
    view: Any

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @abstractmethod
    def show(self, shown: Shown) -> None:
        """Show a selection by changing what is there."""

    def restore(self, state: State) -> State:
        """Make the choices of a state, and set all others to their defaults; called after :meth:`show`.

        Parameters
        ----------
        state : mapping of str to sequence of str
            As :attr:`state` had it.

        Returns
        -------
        mapping of str to sequence of str
            The part of the state that can't be chosen, because what it names does not exist.
        """
        return state


class StateReader:
    """Reads the texts of a state, and remembers those that name nothing.

    Parameters
    ----------
    state : mapping of str to sequence of str

    Attributes
    ----------
    unknown : dict of str to list of str
        What was not read, or names nothing.

    Examples
    --------
    >>> read = StateReader({"x": ["loss"], "log_x": ["true"], "axes": ["loss", "gone"], "new": ["1"]})
    >>> read.one("x", ["loss"]), read.flag("log_x"), read.several("axes", ["loss"]), read.one("y", ["loss"])
    ('loss', True, ['loss'], None)
    >>> read.unknown
    {'new': ['1'], 'axes': ['gone']}
    """

    def __init__(self, state: State) -> None:
        self.unknown = {name: list(texts) for name, texts in state.items()}

    def several(self, name: str, known: Collection[str]) -> list[str] | None:
        """Return those texts of a choice that are known; None when the state has none of them."""
        texts = self.unknown.pop(name, None)
        if texts is None:
            return None
        found = [text for text in texts if text in known]
        unknown = [text for text in texts if text not in known and text]
        if unknown:
            self.unknown[name] = unknown
        # No text, or a single empty one, is an empty list.
        return found if found or not unknown else None

    def one(self, name: str, known: Collection[str]) -> str | None:
        """Return the last text of a choice that is known; None without one."""
        found = self.several(name, known)
        return found[-1] if found else None

    def text(self, name: str) -> str:
        """Return the text of a choice that may be anything; "" without one."""
        return self.unknown.pop(name, [""])[-1]

    def flag(self, name: str) -> bool | None:
        """Return a choice between true and false; None without one."""
        text = self.one(name, ("true", "false"))
        return None if text is None else text == "true"
