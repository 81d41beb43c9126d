"""Looking at pictures in tests: what is drawn, where it stands, and whether all of it can be seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import holoviews as hv
import numpy as np


@contextmanager
def printed(picture: Any) -> Iterator[Any]:
    """The matplotlib figure of a picture, drawn, with its ticks and places settled."""
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = hv.renderer("matplotlib").get_plot(picture).state
    try:
        FigureCanvasAgg(figure).draw()
        yield figure
    finally:
        plt.close(figure)


def figures_of(picture: Any) -> list[Any]:
    """The Bokeh figures of a picture, row by row."""
    model = hv.render(picture, backend="bokeh")
    if not hasattr(model, "children"):
        return [model]
    # A title, legend or caption is above or below the grid of panels.
    model = next((child for child in model.children if type(child).__name__ == "GridPlot"), model)
    return [figure for figure, *_ in sorted(model.children, key=lambda child: child[1:3])]


def drawn(figure: Any, glyph: str) -> list[Any]:
    """The renderers of a kind of glyph in a Bokeh figure that have a place to stand."""
    kinds = [r for r in figure.renderers if type(getattr(r, "glyph", None)).__name__ == glyph]
    return [r for r in kinds if not _is_sample(r.data_source.data)]


def _is_sample(data: Any) -> bool:
    """Whether it is there for its entry in the legend alone."""
    columns = [np.asarray(v) for name, v in data.items() if name not in ("xs", "ys")]
    numbers = [v for v in columns if v.dtype.kind == "f"]
    return bool(numbers) and all(np.isnan(v).all() for v in numbers)


def caption_of(picture: Any) -> str:
    """The caption of a picture of either backend, in one line."""
    model = hv.render(picture, backend=hv.Store.current_backend)
    if hasattr(model, "get_size_inches"):
        texts = [text.get_text() for text in model.texts if text.get_fontweight() == "normal"]
    else:
        strips = [child for child in getattr(model, "children", ()) if type(child).__name__ == "figure"]
        labels = [label for strip in strips for label in strip.center if type(label).__name__ == "Label"]
        texts = [label.text for label in labels if label.text_font_style == "normal"]
    return " ".join(" ".join(texts).replace("\N{ZERO WIDTH SPACE}", "").split())


def legend_entries(figure: Any) -> list[str]:
    """What the legend of a matplotlib figure says."""
    found = [axis.get_legend() for axis in figure.axes if axis.get_legend() is not None]
    assert len(found) <= 1, "panels share one legend"
    return [text.get_text() for legend in found for text in legend.get_texts()]


def tick_labels(axis: Any) -> list[str]:
    """What is written at the major ticks of a matplotlib axis that are shown."""
    low, high = sorted(axis.get_view_interval())
    shown = [low - 1e-9 * abs(low) <= at <= high * (1 + 1e-9) for at in axis.get_majorticklocs()]
    labels = [label.get_text() for label in axis.get_majorticklabels()]
    return [label for label, is_shown in zip(labels, shown, strict=True) if is_shown and label]


def assert_nothing_is_cut_off(figure: Any) -> None:
    """Everything stands within the figure, no frame over another, and the legend over none."""
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert box.x0 >= 0, f"{-box.x0:.2f} inches are cut off at the left"
    assert box.y0 >= 0, f"{-box.y0:.2f} inches are cut off below"
    assert box.x1 <= width, f"{box.x1 - width:.2f} inches are cut off at the right"
    assert box.y1 <= height, f"{box.y1 - height:.2f} inches are cut off above"
    renderer = figure.canvas.get_renderer()
    frames = [axis.get_window_extent(renderer) for axis in figure.axes if axis.axison]
    for k, one in enumerate(frames):
        assert not any(one.overlaps(other) for other in frames[k + 1 :])
    for axis in figure.axes:
        legend = axis.get_legend()
        if legend is not None:
            assert not any(legend.get_window_extent(renderer).overlaps(frame) for frame in frames)
        labels = axis.yaxis.get_tightbbox(renderer)
        if axis.axison and labels is not None:
            assert not any(labels.overlaps(frame) for frame in frames if frame.x0 < labels.x0), axis.get_ylabel()


def lightness(colour: str) -> float:
    """L* of a colour: what is left of it in grey."""
    rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16)
