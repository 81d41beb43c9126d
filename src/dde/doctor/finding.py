"""Finding: what one check found of one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import pandas as pd

__all__ = ["Finding", "findings_frame", "number_text"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found of one run.

    Attributes
    ----------
    check : str
    run_id : str
    finding : str
        A sentence with place, size, and what it was compared with.
    metric : str
        "" where it is of no metric.
    place : int or None
        Cumulative tokens; None where unknown.
    step : int or None
        Step of the run.
    size : float
        In the unit that the check says: tokens, rows, or the metric's own.
    compared_with : str
        Id of a run, or a description.
    """

    check: str
    run_id: str
    finding: str
    metric: str = ""
    place: int | None = None
    step: int | None = None
    size: float = float("nan")
    compared_with: str = ""


def findings_frame(found: Iterable[Finding], order: Sequence[str]) -> pd.DataFrame:
    """Return findings as a frame, by check in the given order, then by run, place and metric.

    Examples
    --------
    >>> findings_frame([], ["counter_falls"]).columns.tolist()
    ['check', 'run_id', 'finding', 'metric', 'place', 'step', 'size', 'compared_with']
    """
    ranked = sorted(
        found, key=lambda f: (order.index(f.check), f.run_id, -1 if f.place is None else f.place, f.metric, f.finding)
    )
    columns = [f.name for f in fields(Finding)]
    frame = pd.DataFrame([astuple(f) for f in ranked], columns=columns)
    types = {name: "Int64" for name in ("place", "step")} | {"size": np.float64}
    texts = {name: object for name in columns if name not in types}
    return frame.astype({**types, **texts})


def number_text(value: float) -> str:
    """Return a number as text: whole ones in full with commas, others with four significant digits.

    Examples
    --------
    >>> number_text(4194304000.0), number_text(0.123456)
    ('4,194,304,000', '0.1235')
    """
    if float(value).is_integer() and abs(value) < 1e18:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1e4 else f"{value:.4g}"
