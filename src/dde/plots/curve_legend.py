"""The legend that all panels of curves share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dde.plots.backends.base import Backend
from dde.plots.colours import INK, is_given, is_number, is_ordered, label_of
from dde.plots.curve_segments import Segment
from dde.plots.legends import MOST_ENTRIES, ColourBar, Legend, LegendEntry
from dde.plots.panels import PALE, Panel
from dde.schema import MEMBERS

__all__ = ["KINDS", "curve_legend"]

#: Types of runs in words.
KINDS = {"pretraining": "pretraining", "supervised_ft": "supervised finetuning", "dpo": "DPO"}
# Highlighted names that the legend lists.
_MOST_NAMED = 3


def curve_legend(panels: Iterable[Panel], backend: Backend, band: str = "") -> Legend:
    """Return the legend of panels that share a look.

    Parameters
    ----------
    panels : iterable of Panel
    backend : Backend
    band : str
        What means are over and what their band spans, separated by ``|``; "" when no mean is drawn.

    Returns
    -------
    Legend
        Empty where only one kind of curve is drawn and no mark needs an explanation.
    """
    panels = list(panels)
    look, segments = panels[0].look, [s for p in panels for s in p.segments]
    bar = None
    hues: list[LegendEntry] = []
    if len(look.colours) > MOST_ENTRIES and is_ordered(look.colours):
        bar = ColourBar.of_ranks(look.hue_label, look.colours, [label_of(v) for v in look.colours])
    else:
        hues = [LegendEntry(label_of(value), backend.line(colour)) for value, colour in look.colours.items()]
    plain = dict.fromkeys(label_of(s.kind, KINDS) for s in segments if look.colour(s) == look.plain)
    kinds = [LegendEntry(", ".join(plain), backend.line(look.plain))] if plain else []
    # Outside DataDecide, run types may share a colour; then only markers distinguish them.
    is_ambiguous = len(plain) > 1 and any("root_run_id" in s.facts for s in segments)
    marks: list[LegendEntry] = []
    if len(set(look.markers.values())) > 1:
        marks = [
            LegendEntry(_style_label(look.style_by, value), backend.points(INK, marker), "marker")
            for value, marker in look.markers.items()
            if is_given(value) and (label_of(value, KINDS) not in plain or is_ambiguous)
        ]
    if any(s.gaps() for s in segments):
        marks.append(LegendEntry("no data between", backend.line(INK, dashed=True)))
    if any(p.mark_branches and p.branches() for p in panels):
        marks.append(LegendEntry("branch", backend.branch_line()))
    marks += _of_strengths(panels, backend)
    means = _of_means(segments, backend, band)
    if bar is None and len(hues) + len(kinds) < 2 and not marks and not means:
        return Legend()
    return Legend("" if bar or not hues else look.hue_label, [*hues, *kinds, *marks, *means], bar)


def _of_strengths(panels: list[Panel], backend: Backend) -> list[LegendEntry]:
    """Return the entries that explain strong and faint lines."""
    entries = []
    if names := panels[0].look.highlight:
        label = ", ".join(names) if len(names) <= _MOST_NAMED else f"{len(names)} highlighted"
        entries.append(LegendEntry(label, backend.line(INK) | backend.thick_line()))
        entries.append(LegendEntry("others", backend.line(INK, crowd=PALE)))
    if any(p.behind for p in panels):
        entries.append(LegendEntry("not smoothed", backend.line(INK, crowd=PALE)))
    return entries


def _style_label(style_by: str, value: Any) -> str:
    # Beside the numbers of the hue, a bare number would be ambiguous.
    return f"{style_by.replace('_', ' ')} {label_of(value)}" if is_number(value) else label_of(value, KINDS)


def _of_means(segments: list[Segment], backend: Backend, band: str) -> list[LegendEntry]:
    """Return the entries that explain lines and bands of means."""
    if not band:
        return []
    counts = {int(n) for s in segments if np.isfinite(n := float(s.facts.get(MEMBERS, np.nan)))}
    over, _, interval = band.partition("|")
    several = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)}–{max(counts)}" if counts else "several"
    label = f"one {over.removesuffix('s')} each" if counts == {1} else f"mean of {several} {over}"
    entries = [LegendEntry(label, backend.line(INK))]
    if some := {int(s.facts[MEMBERS]) for s in segments if s.has_fewer.any()}:
        of = f"all {min(some)} runs" if len(some) == 1 else "all runs of the mean"
        entries.append(LegendEntry(f"fewer than {of}", backend.partial_line(INK)))
    if any(s.low is not None and np.isfinite(s.low).any() for s in segments):
        entries.append(LegendEntry(interval, backend.interval_sample(INK), "marker"))
    return entries
