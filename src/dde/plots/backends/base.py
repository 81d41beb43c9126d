"""Backend: the options that every backend gives for the elements and panels of a picture."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from dde.plots.figure_layout import Frame, Place
from dde.plots.legends import Legend

__all__ = ["ONE_AT_A_TIME", "Backend", "BackendName", "crowd_look"]

BackendName = Literal["bokeh", "matplotlib"]
Options = dict[str, Any]

#: HoloViews has one current backend in a process, which its options go by, and pyplot one list of figures. Whatever
#: draws a picture or writes one takes this lock first.
ONE_AT_A_TIME = threading.RLock()


class Backend(Protocol):
    """Options of elements and panels, which HoloViews passes on to the backend as they are."""

    name: BackendName
    #: Whether a cell can be looked at with the pointer.
    hovers: bool

    def line(self, colour: str, dashed: bool = False, crowd: int = 1) -> Options:
        """Return options of a line among a crowd; a dashed one stands for what the data does not hold."""
        ...

    def partial(self, colour: str, crowd: int = 1) -> Options:
        """Return options of a line that stands for fewer runs than the rest of its curve."""
        ...

    def band(self, colour: str) -> Options:
        """Return options of the area between the ends of an interval."""
        ...

    def sample(self, colour: str) -> Options:
        """Return options of the point that stands for such an area in a legend."""
        ...

    def outline(self) -> Options:
        """Return options of the point that stands for what stands out in a legend."""
        ...

    def hollow(self) -> Options:
        """Return options of a point that has no value."""
        ...

    def thick(self) -> Options:
        """Return options of a line that stands for a run, not for its values."""
        ...

    def points(
        self, colour: str, marker: str, dense: bool = False, tooltips: Sequence[tuple[str, str]] = (), crowd: int = 1
    ) -> Options:
        """Return options of observed points; smaller where there are many."""
        ...

    def unseen(self, tooltips: Sequence[tuple[str, str]]) -> Options:
        """Return options of points that show only what they are when pointed at."""
        ...

    def branch(self) -> Options:
        """Return options of the lines that mark branch points."""
        ...

    def zero(self) -> Options:
        """Return options of the line that differences are counted from."""
        ...

    def window(self) -> Options:
        """Return options of the rectangle that another panel shows enlarged."""
        ...

    def tiles(self, tooltips: Sequence[tuple[str, str]], best: bool = False) -> Options:
        """Return options of rectangles whose dimension ``colour`` is their colour; `best` ones stand out."""
        ...

    def text(self, colour: str, align: str = "center", bold: bool = False) -> Options:
        """Return options of text at points."""
        ...

    def plain(self, text: str) -> str:
        """Return text so that the backend shows it letter by letter, no part of it as a formula."""
        ...

    def panel(self, place: Place, frame: Frame, legend: Legend) -> Options:
        """Return options of a panel."""
        ...

    def layout(self, place: Place) -> Options:
        """Return options of all panels together."""
        ...


def crowd_look(crowd: int, width: float) -> tuple[float, float]:
    """Return opacity and width of a line among so many, so that those below stay to be seen.

    Examples
    --------
    >>> crowd_look(1, 1.5)
    (0.9, 1.5)
    >>> crowd_look(500, 1.5)
    (0.29, 0.79)
    """
    share = min(20 / max(crowd, 1), 1.0)
    return round(max(0.9 * share**0.35, 0.2), 2), round(max(width * share**0.2, 0.5), 2)
