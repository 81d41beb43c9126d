"""Labels beside the ends of lines, moved apart so that none overlaps another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dde.array_types import Float64
from dde.plots.figure_layout import Axis

__all__ = ["moved_apart", "places_of_labels"]


def moved_apart(positions: Sequence[float], gap: float, low: float, high: float) -> Float64 | None:
    """Return positions at least a gap apart, each as near to its own as this allows, in the same order.

    Parameters
    ----------
    positions : sequence of float
    gap : float
    low, high : float
        Ends between which positions must be, half a gap away from each.

    Returns
    -------
    (position,) float64 array, or None
        None where there is no room for all of them.

    Examples
    --------
    >>> moved_apart([1.0, 1.2, 5.0], 1.0, 0.0, 10.0).tolist()
    [0.6, 1.6, 5.0]
    >>> moved_apart([9.9, 9.8], 1.0, 0.0, 10.0).tolist()
    [9.5, 8.5]
    >>> moved_apart([1.0, 2.0], 1.0, 0.0, 1.5) is None
    True
    """
    count = len(positions)
    if count * gap > (high - low) * (1 + 1e-9):
        return None
    order = np.argsort(positions, kind="stable")
    # Positions a gap apart are ascending numbers once the gaps before them are subtracted. The nearest ascending
    # numbers are means of the blocks that a descent joins (pool adjacent violators).
    wanted = np.asarray(positions, np.float64)[order] - gap * np.arange(count)
    blocks: list[tuple[float, int]] = []
    for value in wanted.tolist():
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (upper, n), (lower, m) = blocks.pop(), blocks.pop()
            blocks.append(((upper * n + lower * m) / (n + m), n + m))
    ascending = np.concatenate([np.empty(0), *(np.full(n, value) for value, n in blocks)])
    ascending = np.clip(ascending, low + gap / 2, high - gap / 2 - gap * (count - 1))
    apart = np.empty(count)
    apart[order] = ascending + gap * np.arange(count)
    return apart


def places_of_labels(values: Sequence[float], axis: Axis, pixels: float, line_pixels: float) -> list[float] | None:
    """Return the values of an axis at which labels of some of its values are written.

    Parameters
    ----------
    values : sequence of float
        Finite; on a logarithmic axis positive.
    axis : Axis
    pixels : float
        Length of the axis.
    line_pixels : float
        Height of a line of text.

    Returns
    -------
    list of float, or None
        None where there is no room for all labels.

    Examples
    --------
    >>> places_of_labels([1.0, 100.0], Axis("loss", "loss", True, (1.0, 100.0)), 100, 10)
    [1.2589254117941673, 79.43282347242814]
    """
    low, high = axis.span()
    scaled, ends = np.asarray(values, np.float64), np.array([low, high])
    if axis.is_log:
        scaled, ends = np.log10(scaled), np.log10(ends)
    unit = (ends[1] - ends[0]) / pixels
    apart = moved_apart((np.asarray(scaled) - ends[0]).tolist(), line_pixels * unit, 0.0, ends[1] - ends[0])
    if apart is None:
        return None
    places = apart + ends[0]
    return [float(v) for v in (10.0**places if axis.is_log else places)]
