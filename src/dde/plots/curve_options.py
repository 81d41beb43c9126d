"""Options of curves alone: smoothing, limits without outliers, and highlighted runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.smoothing import smooth as smoothed
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.plots.axis_format import short_number
from dde.plots.curve_segments import Segment
from dde.plots.panels import MARKER_SHARE, Panel, off_points, y_values

__all__ = ["CurveOptions"]

# Share of values at either end that may be outliers with clip_outliers=True.
_USUAL_SHARE = 0.02
# Distance from the quantiles, relative to the distance between them, from which values are outliers; and the share of
# the axis beyond the values that are shown.
_FENCE, _PADDING = 0.5, 0.06


@dataclass(frozen=True)
class CurveOptions:
    """Options of curves, checked.

    Attributes
    ----------
    smooth : float or None
        Span of the exponential mean in tokens.
    outliers : float
        Share of values at either end that may be outliers; 0 to show all values.
    highlight : tuple of str
        Labels or ids of runs, and lineages.
    """

    smooth: float | None = None
    outliers: float = 0.0
    highlight: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        smooth: float | None = None,
        clip_outliers: float | bool = False,
        highlight: str | Sequence[str] | None = None,
    ) -> CurveOptions:
        """Return options as a user passes them.

        Raises
        ------
        SelectionError
            When the span is not a positive number, or the share not between 0 and 0.5.

        Examples
        --------
        >>> CurveOptions.of(smooth=2e9, clip_outliers=True, highlight="main")
        CurveOptions(smooth=2000000000.0, outliers=0.02, highlight=('main',))
        """
        if smooth is not None and not (_is_number(smooth) and 0 < smooth < math.inf):
            raise SelectionError(
                f"smooth={smooth!r} is not a positive number of tokens, so there is no mean over it. Pass the span of "
                "the exponential mean in tokens, such as smooth=2e9."
            )
        share = clip_outliers if not isinstance(clip_outliers, bool) else _USUAL_SHARE * clip_outliers
        if not _is_number(share) or not 0 <= share < 0.5:
            raise SelectionError(
                f"clip_outliers={clip_outliers!r} is not a share of values from 0 to 0.5, so no range follows from it. "
                f"Pass True ({_USUAL_SHARE:g}), or the share of values at either end that may lie outside."
            )
        names = () if highlight is None else (highlight,) if isinstance(highlight, str) else tuple(highlight)
        return cls(None if smooth is None else float(smooth), float(share), names)

    def smoothed(self, dataset: xr.Dataset, metrics: Sequence[str]) -> xr.Dataset:
        """Return the Dataset with smoothed metrics.

        Raises
        ------
        SelectionError, SourceError
            As raised by :func:`dde.analysis.smooth`.
        """
        assert self.smooth is not None
        return smoothed(dataset, list(metrics), span=self.smooth)

    def check_highlight(self, segments: Iterable[Segment]) -> None:
        """Raise when no segment is of a highlighted name.

        Raises
        ------
        UnknownNameError
        """
        known = dict.fromkeys(name for s in segments for name in s.names)
        for name in self.highlight:
            if name not in known:
                raise UnknownNameError(
                    f"highlight={name!r} is no run or lineage in the picture, so nothing would be highlighted."
                    f"{near_names(name, known)} Pass labels or ids of runs, or lineages: ds.run.values, "
                    "ds.lineage.values."
                )

    def ranged(self, panels: Sequence[Panel], is_difference: bool) -> list[Panel]:
        """Return the panels of one metric with ranges that show the curves behind, and no outliers.

        Parameters
        ----------
        panels : sequence of Panel
            With the segments of all facets.
        is_difference : bool
            Whether zero is shown.
        """
        if not self.outliers and not any(p.behind for p in panels):
            return list(panels)
        made = [self._ranged(p, is_difference) for p in panels]
        enlarged = next((p.frame.y.limits for p in made if p.frame.since_branch), None)
        for k, panel in enumerate(made):
            if panel.frame.window is not None and enlarged is not None:
                left, _, right, _ = panel.frame.window
                window = (left, enlarged[0], right, enlarged[1])
                made[k] = replace(panel, frame=replace(panel.frame, window=window))
        return made

    def _ranged(self, panel: Panel, is_difference: bool) -> Panel:
        values = _shown(panel)
        if panel.frame.y.is_log:
            values = values[values > 0]
        if not len(values):
            return panel
        scaled = np.log(values) if panel.frame.y.is_log else values
        low, high = float(scaled.min()), float(scaled.max())
        if self.outliers:
            first, last = np.quantile(scaled, [self.outliers, 1 - self.outliers])
            low, high = max(low, first - _FENCE * (last - first)), min(high, last + _FENCE * (last - first))
        if is_difference and not panel.frame.y.is_log:
            low, high = min(low, 0.0), max(high, 0.0)
        room = _PADDING * (high - low) or _PADDING * abs(high) or _PADDING
        low, high = off_points(scaled, low - room, high + room, MARKER_SHARE)
        limits = (math.exp(low), math.exp(high)) if panel.frame.y.is_log else (low, high)
        return replace(panel, frame=panel.frame.with_limits(y_range=limits))

    def noted(self, panel: Panel) -> Panel:
        """Return a panel of one facet with a note on the values outside of its range."""
        if not self.outliers or panel.frame.y.limits is None:
            return panel
        low, high = panel.frame.y.limits
        values = _shown(panel, intervals=False)
        outside = values[(values < low) | (values > high)]
        if not len(outside):
            return panel
        ends = dict.fromkeys(short_number(float(v)) for v in (outside.min(), outside.max()))
        note = f"not shown: {len(outside)} of {len(values)} values ({' to '.join(ends)})"
        return replace(panel, frame=replace(panel.frame, note="\n".join(filter(None, [panel.frame.note, note]))))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))


def _shown(panel: Panel, intervals: bool = True) -> npt.NDArray[np.float64]:
    """Return the values of a panel within its range of x."""
    shifted = [*panel.shifted_segments(), *panel.shifted_behind()]
    left, right = panel.frame.x.limits or (-np.inf, np.inf)
    if intervals:
        return y_values(shifted, left, right)
    shown = panel.shifted_behind() or panel.shifted_segments()
    parts = [s.values[(s.x - since >= left) & (s.x - since <= right)] for s, since in shown]
    return np.concatenate([np.empty(0), *parts])
