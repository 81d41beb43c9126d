"""Pictures added to others: flat layouts in which no panel covers another, with titles, captions and labels."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holoviews as hv
import matplotlib.pyplot as plt
import pytest
import xarray as xr

import dde
from dde.errors import SelectionError

BACKENDS = ["bokeh", "matplotlib"]


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return dde.tutorial.open_lineages("tiny", metrics=["arc_easy", "boolq"], params="4M", data="Dolma1.7").load()


def curves(ds: xr.Dataset, backend: str, **options: Any) -> Any:
    return ds.dde.plot("arc_easy", zoom=False, backend=backend, **options)


def tiles(ds: xr.Dataset, backend: str, **options: Any) -> Any:
    return ds.dde.plot_heatmap("arc_easy", backend=backend, **options)


def texts(picture: Any, backend: str) -> list[str]:
    """The texts of a drawn picture."""
    drawn = hv.render(picture, backend=backend)
    if backend == "matplotlib":
        from matplotlib.text import Text

        found = [text.get_text() for text in drawn.findobj(Text)]
        plt.close(drawn)
        return found
    return [m.text for m in drawn.references() if isinstance(getattr(m, "text", None), str)]


COMPOSED: dict[str, tuple[Callable[[Any, Any, Any], Any], int]] = {
    "two": (lambda a, b, mine: a + b, 3),
    "three": (lambda a, b, mine: (a + b) + a, 5),
    "the last two first": (lambda a, b, mine: a + (b + a), 5),
    "a panel and a picture": (lambda a, b, mine: a.values()[0] + b, 2),
    "an element and a picture": (lambda a, b, mine: mine + b + a, 4),
    "a list": (lambda a, b, mine: hv.Layout([a, b, mine]), 4),
    "columns": (lambda a, b, mine: (a + b + mine).cols(2), 4),
    "a picture in one column": (lambda a, b, mine: a.cols(1), 2),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", COMPOSED)
def test_panels_are_beside_each_other(ds: xr.Dataset, backend: str, name: str) -> None:
    compose, count = COMPOSED[name]
    composed = compose(curves(ds, backend), tiles(ds, backend), hv.Curve([1, 3, 2], label="mine"))
    assert type(composed) is hv.Layout
    assert len(composed) == count
    assert not any(isinstance(panel, hv.Layout) for panel in composed)
    drawn = hv.render(composed, backend=backend)
    if backend == "bokeh":
        figures = [m for m in drawn.references() if type(m).__name__ == "figure" and m.toolbar.tools]
        assert len(figures) == count
        return
    drawn.canvas.draw()
    # Insets are colour bars.
    boxes = [axes.get_tightbbox() for axes in drawn.axes]
    assert len(boxes) == count
    for left, right in itertools.combinations(boxes, 2):
        # The letters that HoloViews writes beside panels may touch the next one.
        assert not left.shrunk(0.9, 0.9).overlaps(right.shrunk(0.9, 0.9))
    plt.close(drawn)


@pytest.mark.parametrize("backend", BACKENDS)
def test_titles_and_captions_of_pictures_stay(ds: xr.Dataset, backend: str) -> None:
    first = curves(ds, backend, title="First", labels={"arc_easy": "Easy"})
    second = tiles(ds, backend, title="Second $x$ <b>", caption="Mine.", font_size=11)
    found = "\n".join(texts(first + second, backend))
    for text in ("First", "Second", "4M on Dolma1.7", "Easy against tokens", "Mine."):
        assert text in found
    # Part of a picture has no caption of the complete one.
    part = "\n".join(texts(first.values()[1] + second, backend))
    assert "First" not in part
    assert "Easy against tokens" not in part
    assert "Mine." in part


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", ["top", "bottom"])
def test_legends_across_a_picture_are_refused(ds: xr.Dataset, backend: str, place: str) -> None:
    composed = curves(ds, backend, legend=place) + tiles(ds, backend)
    with pytest.raises(SelectionError, match=rf"legend='{place}'.*no place for it.*legend='right'"):
        hv.render(composed, backend=backend)
    hv.render(curves(ds, backend, legend="off") + tiles(ds, backend), backend=backend)


def test_a_composed_picture_is_drawn_by_the_other_backend(ds: xr.Dataset, tmp_path: Path) -> None:
    def composed(backend: str) -> Any:
        first, second = curves(ds, backend, title="First"), tiles(ds, backend)
        return (first.values()[1] + second + first).cols(2)

    again = dde.save(composed("bokeh"), tmp_path / "again.png")
    assert again.read_bytes() == dde.save(composed("matplotlib"), tmp_path / "same.png").read_bytes()
    changed = curves(ds, "bokeh")
    changed.values()[0].opts(title="changed")
    for other in (changed, hv.Curve([1, 2]).opts(color="red", backend="bokeh")):
        with pytest.raises(SelectionError, match=r"how is unknown.*backend='matplotlib'"):
            dde.save(tiles(ds, "bokeh") + other, tmp_path / "lost.pdf")


def test_values_that_changed_in_place_are_not_drawn_again(ds: xr.Dataset, tmp_path: Path) -> None:
    mine = ds.copy(deep=True)
    composed = curves(mine, "bokeh") + tiles(ds, "bokeh")
    mine["arc_easy"].values[:] += 1
    with pytest.raises(SelectionError, match="changed in place"):
        dde.save(composed, tmp_path / "lost.pdf")


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_of_others_stay_as_they_are(ds: xr.Dataset, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    curves(ds, backend)
    mine = hv.Curve([1, 2]) + hv.Curve([2, 1])
    module = importlib.import_module(f"holoviews.plotting.{'mpl' if backend == 'matplotlib' else backend}.plot")

    def size() -> Any:
        drawn = hv.render(mine, backend=backend)
        if backend == "bokeh":
            return type(drawn), [(f.width, f.height, f.frame_width) for f, *_ in drawn.children]
        return tuple(drawn.get_size_inches()), [axes.get_position().bounds for axes in drawn.axes]

    after = size()
    monkeypatch.setitem(hv.Store.registry[backend], hv.Layout, module.LayoutPlot)
    assert size() == after
