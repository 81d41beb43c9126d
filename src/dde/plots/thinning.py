"""Fewer points for many curves: what could not be seen is left out, extremes stay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LINE_POINTS", "MARKERS", "columns_for", "spread_picks", "thinned"]

#: Points of lines in a panel, before they are thinned further than to what its pixels can show.
LINE_POINTS = 30_000
#: Markers in a panel, and cells that answer to the pointer.
MARKERS = 3_600

_FEWEST_COLUMNS = 12

Floats = npt.NDArray[np.float64]


def columns_for(curves: int, width: int) -> int:
    """Return into how many columns each of some curves is thinned: those of pixels where they are few.

    Examples
    --------
    >>> columns_for(1, 330), columns_for(500, 330)
    (330, 15)
    """
    return max(min(width, LINE_POINTS // (4 * max(curves, 1))), _FEWEST_COLUMNS)


def thinned(x: Floats, y: Floats, low: float, high: float, columns: int, log: bool = False) -> npt.NDArray[np.intp]:
    """Return which points of a line to draw: the first, least, largest and last of each column.

    Parameters
    ----------
    x, y : (point,) float array
        `x` ascending, without NaN.
    low, high : float
        Range of the axis that is shown; of what lies outside, the nearest point on either side is drawn.
    columns : int
    log : bool
        Whether columns are even on a logarithmic axis.

    Returns
    -------
    int array
        Ascending. All points inside where they are no more than four a column.

    Examples
    --------
    >>> x = np.arange(1000.0)
    >>> y = np.where(x == 333, 9.0, 0.0)
    >>> picked = thinned(x, y, 0, 999, 10)
    >>> len(picked) <= 40, 333 in picked
    (True, True)
    """
    start = max(int(np.searchsorted(x, low, side="left")) - 1, 0)
    stop = min(int(np.searchsorted(x, high, side="right")) + 1, len(x))
    inside = np.arange(start, stop)
    if len(inside) <= 4 * columns:
        return inside
    place = (np.log(x[inside] / low) / np.log(high / low)) if log else (x[inside] - low) / (high - low)
    # What is outside has columns of its own; the right end belongs to the last one inside.
    column = np.where(place > 1, columns, np.minimum(np.floor(place * columns), columns - 1)).astype(np.intp)
    picks = []
    for key in (y[inside], np.arange(len(inside))):
        order = np.lexsort((key, column))
        edges = np.flatnonzero(np.diff(column[order])) + 1
        picks += [order[np.r_[0, edges]], order[np.r_[edges - 1, len(order) - 1]]]
    return inside[np.unique(np.concatenate(picks))]


def spread_picks(count: int, most: int) -> npt.NDArray[np.intp]:
    """Return at most `most` of `count` positions, evenly spread, the last always among them.

    Examples
    --------
    >>> spread_picks(9, 3).tolist(), spread_picks(2, 5).tolist(), spread_picks(9, 1).tolist()
    ([0, 4, 8], [0, 1], [8])
    """
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(count - 1, 0, most).round().astype(np.intp))
