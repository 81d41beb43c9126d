"""The legend of a hue by the options of a picture: entries, or a colour bar where an ordered hue has many values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dde.plots.backends.base import Backend
from dde.plots.colours import is_ordered, label_of, markers_of
from dde.plots.legends import MOST_ENTRIES, ColourBar, Legend, LegendEntry
from dde.plots.picture_options import PictureOptions

__all__ = ["hue_legend"]


def hue_legend(
    title: str,
    colours: Mapping[Any, str],
    options: PictureOptions,
    backend: Backend,
    more: Sequence[LegendEntry] = (),
    kind: Literal["line", "marker"] = "line",
) -> Legend:
    """Return the legend of the values of a hue, and further entries.

    Parameters
    ----------
    title : str
        Label of the hue.
    colours : mapping of value to colour
        In order; empty for no hue.
    options : PictureOptions
    backend : Backend
    more : sequence of LegendEntry
    kind : {"line", "marker"}
        What the picture draws of each value.
    """
    if not colours:
        return Legend("", more)
    labels = [options.label(v, label_of(v)) for v in colours]
    if len(colours) > MOST_ENTRIES and is_ordered(colours):
        return Legend("", more, ColourBar.of_ranks(title, colours, labels))
    circle = markers_of([""], backend.name)[""]
    entries = [
        LegendEntry(label, backend.line(colour) if kind == "line" else backend.points(colour, circle), kind)
        for label, colour in zip(labels, colours.values(), strict=True)
    ]
    return Legend(title, [*entries, *more])
