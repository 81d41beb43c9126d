"""The caption of curves, and the words for means that their legend has, too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dde.plots.axis_format import axis_label, short_number
from dde.plots.captions import caption_of, counted, in_words, range_text, runs_text, subject_text
from dde.plots.curve_segments import Segment
from dde.plots.panels import Panel
from dde.plots.picture_options import NO_OPTIONS, PictureOptions
from dde.schema import AVERAGED_OVER, MEMBERS

__all__ = ["band_words", "curves_caption", "label_of_curves"]


def curves_caption(
    dataset: xr.Dataset,
    rows: Sequence[Sequence[Panel]],
    band: str | Sequence[str] | None = None,
    group_by: str | None = None,
    relative_to: str | None = None,
    smooth: float | None = None,
    is_thinned: bool = False,
    options: PictureOptions = NO_OPTIONS,
) -> str:
    """Return what curves show: metrics and axis, runs, the interval, and what is left out.

    Parameters
    ----------
    dataset : xarray.Dataset
        The Dataset that is drawn.
    rows : sequence of sequence of Panel
        As :func:`dde.plots.curves.curve_panels` returns them for it.
    band, group_by, relative_to, smooth
        As of :func:`dde.plots.curves.plot_curves`.
    is_thinned : bool, default False
        Whether fewer points are drawn than there are.
    options : PictureOptions, optional

    Examples
    --------
    >>> import dde
    >>> from dde.plots.curves import curve_panels
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> curves_caption(ds, curve_panels(ds), is_thinned=True)[-15:]
    'points thinned.'
    """
    panels = [panel for row in rows for panel in row]
    segments = [s for p in panels for s in p.segments]
    metrics = dict.fromkeys(p.frame.y.name.removesuffix("_since_branch") for p in panels)
    names = [options.label(m, label_of_curves(dataset[m])) for m in metrics]
    subject = subject_text(names)
    axis = next((p.frame.x for p in panels if not p.frame.since_branch), panels[0].frame.x)
    against = axis.label or panels[-1].frame.x.label
    over, _, interval = band_words(dataset, band, group_by).partition("|")
    shown = {s.root if s.is_base else s.run_id for s in segments}
    if over:
        means = {s.run_id for s in segments}
        counts = [int(n) for s in segments if np.isfinite(n := float(s.facts.get(MEMBERS, np.nan)))]
        number = f"{counted(len(means), 'mean')} of {range_text(counts) if counts else 'several'} {over}"
        number += f", band: {interval}" if any(s.low is not None for s in segments) and interval else ""
    else:
        number = runs_text(shown, {s.facts["lineage"] for s in segments}, {s.facts.get("seed", "") for s in segments})
    left_out = ""
    if not over and (missing := _without_values(dataset, segments)):
        left_out = f"left out: {counted(missing, 'run')} without values"
    thinned = "points thinned" if is_thinned else ""
    if relative_to == "base":
        subject = f"change of {subject} from the base"
    elif relative_to:
        subject = f"difference of {subject} to {relative_to}"
    smoothed = "" if smooth is None else f"exponential means over {short_number(float(smooth))} tokens"
    return caption_of(f"{subject} against {in_words(against)}", smoothed, number, left_out, thinned)


def _without_values(dataset: xr.Dataset, segments: Sequence[Segment]) -> int:
    """Return the number of runs of a Dataset of which no curve is drawn."""
    if "run_id" not in dataset.coords:
        return 0
    shown = {s.run_id for s in segments}
    return len({str(r) for r in np.ravel(dataset["run_id"].values) if r} - shown)


def band_words(dataset: xr.Dataset, band: str | Sequence[str] | None, group_by: str | None) -> str:
    """Return what means are over and what their band spans, separated by ``|``; "" when there are no means."""
    if group_by:
        return "runs|lowest to highest"
    if MEMBERS in dataset.coords:
        # Means that lost their attributes don't state what they are over, nor their interval.
        over, interval = dataset.attrs.get(AVERAGED_OVER, "run"), dataset.attrs.get("interval", "")
    elif band:
        over, interval = band if isinstance(band, str) else ", ".join(band), 0.95
    else:
        return ""
    words = " and ".join(f"{name.strip()}s" for name in str(over).split(","))
    if interval == "none":
        return f"{words}|"
    return f"{words}|{f'{float(interval):.0%} ' if interval != '' else ''}interval of the mean"


def label_of_curves(metric: xr.DataArray) -> str:
    """Return the label of a metric without the words that call it a mean, which the legend has."""
    name = str(metric.attrs.get("long_name", metric.name)).partition(", mean over ")[0]
    return axis_label(metric.assign_attrs(long_name=name))
