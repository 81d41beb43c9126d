"""The plain way to do it: one run, one point at a time. What dde computes at once is compared with this."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class ReferenceRun:
    """A run with its own observations, and where it branches from its parent."""

    own: dict[int, float] = field(default_factory=dict)
    parent: ReferenceRun | None = None
    branch: int = -1

    def observation(self, tokens: int) -> float | None:
        """Return the observation at exactly these tokens on the run's continuous curve."""
        if self.parent is not None and tokens <= self.branch:
            return self.parent.observation(tokens)
        return self.own.get(tokens)

    def last_before(self, tokens: int) -> int | None:
        """Return the last position with an observation at or before `tokens`."""
        candidates = [t for t in self.positions() if t <= tokens]
        return max(candidates, default=None)

    def positions(self) -> list[int]:
        """Return every position with an observation on the continuous curve."""
        before = [] if self.parent is None else [t for t in self.parent.positions() if t <= self.branch]
        return sorted({*before, *(t for t in self.own if t > self.branch)})

    def value(
        self, tokens: int, method: str = "linear", joins: bool = True, bridge: bool = False, max_gap: int | None = None
    ) -> float:
        """Return the value of the curve at one point; NaN where it has none."""
        if self.parent is not None and tokens <= self.branch:
            return self.parent.value(tokens, method, joins, bridge, max_gap)
        knots = {t: v for t, v in self.own.items() if t > self.branch}
        if self.parent is not None and joins and knots:
            anchor = self.parent.last_before(self.branch)
            if anchor is not None and (bridge or anchor == self.branch):
                at_anchor = self.parent.observation(anchor)
                assert at_anchor is not None
                knots[anchor] = at_anchor
        return between(sorted(knots.items()), tokens, method, max_gap)

    def support(self, tokens: int, value: float) -> int:
        """Return 0 outside, 1 observed, 2 interpolated."""
        return 0 if math.isnan(value) else 1 if self.observation(tokens) is not None else 2


def between(knots: Sequence[tuple[int, float]], tokens: int, method: str, max_gap: int | None) -> float:
    """Return the value at one point from a run's observations alone."""
    exact = dict(knots).get(tokens)
    if exact is not None:
        return exact
    left = [k for k in knots if k[0] < tokens]
    right = [k for k in knots if k[0] > tokens]
    if not left or not right:
        return math.nan
    (x0, y0), (x1, y1) = left[-1], right[0]
    if max_gap is not None and x1 - x0 > max_gap:
        return math.nan
    if method == "previous":
        return y0
    if method == "nearest":
        return y0 if tokens - x0 <= x1 - tokens else y1
    if method == "log" and x0 > 0:
        share = (math.log(tokens) - math.log(x0)) / (math.log(x1) - math.log(x0))
    else:
        share = (tokens - x0) / (x1 - x0)
    return y0 + (y1 - y0) * share
