"""Colours and styles of lines tell values apart: in print, in grey, and with each type of colour blindness."""

from __future__ import annotations

import io
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import dde
from dde.errors import DdeWarning
from dde.plots.backends.base import NO_DATA, dash_pattern
from dde.plots.colours import INK, LineColour, colours_of, dash_of, label_of, markers_of
from dde.plots.files import png_bytes
from dde.plots.panels import coloured_lines, coloured_points
from picture_checks import drawn, figures_of, printed

# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as seen without one type of cones.
VISION = {
    "all cones": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
_TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                    [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip


def lab(colour: str, vision: str = "all cones") -> np.ndarray:
    """CIE L*a*b* of a colour (D65)."""
    rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = _TO_XYZ @ np.clip(VISION[vision] @ linear, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: str, other: str, vision: str = "all cones") -> float:
    return float(np.linalg.norm(lab(one, vision) - lab(other, vision)))


RATES = [2e-7, 5e-7, 1e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4]


@pytest.mark.parametrize("vision", VISION)
def test_neighbours_of_nine_learning_rates_are_far_apart(vision: str) -> None:
    colours = list(colours_of(RATES).values())
    assert min(distance(a, b, vision) for a, b in pairwise(colours)) > 8


def test_learning_rates_have_an_order_in_grey() -> None:
    lightness = [lab(colour)[0] for colour in colours_of(RATES).values()]
    assert max(np.diff(lightness)) < -8
    # All of them can be seen on white.
    assert max(lightness) < 82


@pytest.mark.parametrize("vision", ["all cones", "protanopia", "deuteranopia"])
def test_ten_names_have_colours_that_are_far_apart(vision: str) -> None:
    colours = list(colours_of([f"recipe {k}" for k in range(10)]).values())
    assert len(set(colours)) == 10
    assert min(distance(a, b, vision) for a, b in combinations(colours, 2)) > 15


@pytest.mark.parametrize("count", [11, 25, 60])
def test_more_names_differ_in_colour_or_style(count: int) -> None:
    colours = colours_of([f"recipe {k}" for k in range(count)])
    assert len({(c, dash_pattern(dash_of(c))) for c in colours.values()}) == count
    assert NO_DATA not in {dash_pattern(dash_of(c)) for c in colours.values()}


@pytest.fixture(scope="module")
def recipes() -> xr.Dataset:
    """A base of each recipe."""
    base = dde.tutorial.open_lineages("small", params="4M", seed=0, metrics=["arc_easy"]).dde.sel(run="pretraining")
    names = [f"recipe {k}" for k in range(25)]
    of_each = base.isel(lineage=[0] * 25).load()
    of_each = of_each.assign_coords({name: ("lineage", names) for name in ("lineage", "data", "run_id")})
    values = of_each.arc_easy + xr.DataArray(np.arange(25) / 1000, dims="lineage")
    return of_each.assign(arc_easy=values.assign_attrs(of_each.arc_easy.attrs))


def _styles_in_matplotlib(figure: Any) -> tuple[set[Any], set[Any]]:
    """Colours and styles of lines that are drawn, and of those in the legend."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_hex

    lines = {
        (to_hex(colour), str(collection.get_linestyle()))
        for axis in figure.axes
        for collection in axis.collections
        if isinstance(collection, LineCollection)
        for colour in collection.get_edgecolors()
    }
    (legend,) = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    entries = {(to_hex(line.get_color()), str(line._dash_pattern)) for line in legend.get_lines()}
    return lines, entries


def _dashes(glyph: Any) -> str:
    """The dashes and gaps of a line in Bokeh, which takes a text or numbers."""
    return glyph.line_dash if isinstance(glyph.line_dash, str) else " ".join(map(str, glyph.line_dash))


@pytest.mark.parametrize("what", ["plot", "plot_scaling"])
def test_twenty_five_recipes_are_told_apart_in_lines_and_legend(recipes: xr.Dataset, what: str) -> None:
    options: dict[str, Any] = {"hue_by": "data"} | ({"facet_by": None} if what == "plot" else {"at": "last"})
    with printed(getattr(recipes.dde, what)("arc_easy", backend="matplotlib", **options)) as figure:
        lines, entries = _styles_in_matplotlib(figure)
        assert len(entries) >= 25
        assert what != "plot" or len(lines) == 25
    (page,) = figures_of(getattr(recipes.dde, what)("arc_easy", **options))
    looks = set()
    for item in page.legend[0].items:
        glyph = item.renderers[0].glyph
        if item.label.value.startswith("recipe"):
            looks.add((glyph.line_color, _dashes(glyph)))
    assert len(looks) == 25
    if what == "plot":
        shown = {
            (colour, _dashes(r.glyph))
            for r in drawn(page, "MultiLine")
            for colour in r.data_source.data[r.glyph.line_color.field]
        }
        assert shown == looks


def test_lines_without_data_look_the_same_in_every_colour() -> None:
    import holoviews as hv

    from dde.plots.backends.choice import drawing_with

    dims = [hv.Dimension("x"), hv.Dimension("y")]
    lines = [([0, 1], [0, 1], LineColour(INK, style)) for style in range(3)]
    for name, key in (("bokeh", "line_dash"), ("matplotlib", "linestyle")):
        with drawing_with(name) as backend:
            plain, dashed = (
                [
                    hv.Store.lookup_options(name, e, "style").kwargs.get(key)
                    for e in coloured_lines(dims, lines, options)
                ]
                for options in (backend.line("colour"), backend.line("colour", dashed=True))
            )
        assert len(set(map(str, plain))) == 3
        assert len(set(map(str, dashed))) == 1
        assert not set(map(str, dashed)) & set(map(str, plain))


def test_a_png_has_the_colours_of_its_curves() -> None:
    ds = dde.tutorial.open_lineages("small", params="150M", data="Dolma1.7", seed=0, metrics=["arc_easy"])
    with Image.open(io.BytesIO(png_bytes(ds.dde.plot("arc_easy", backend="matplotlib", zoom=False)))) as image:
        counted = image.convert("RGB").getcolors(1 << 24)
    shown = np.array([colour for _, colour in counted or []], float)
    rates = np.unique(ds.learning_rate.values[np.isfinite(ds.learning_rate.values)])
    assert len(rates) == 9
    for colour in colours_of(rates).values():
        wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert np.abs(shown - wanted).max(axis=1).min() <= 16, colour


@pytest.mark.parametrize(("name", "marker"), [("bokeh", "circle"), ("matplotlib", "o")])
def test_points_without_lines_differ_in_colour_or_marker(name: str, marker: str) -> None:
    import holoviews as hv

    from dde.plots.backends.choice import drawing_with

    rows = [(k, k, colour, v) for k, (v, colour) in enumerate(colours_of([f"recipe {k}" for k in range(25)]).items())]
    with drawing_with(name) as backend:
        dims = [hv.Dimension("x"), hv.Dimension("y")]
        elements = coloured_points(dims, rows, ["colour", "name"], backend.points("colour", marker))
        looks = set()
        for element in elements:
            shown = hv.Store.lookup_options(name, element, "style").kwargs["marker"]
            looks |= {(colour, shown) for colour in element.dimension_values("colour")}
        hv.render(hv.Overlay(elements), backend=name)
    assert sum(len(element) for element in elements) == 25
    assert len(looks) == 25


def test_a_legend_shows_the_marker_of_a_colour() -> None:
    from dde.plots.backends.choice import drawing_with

    for name, marker in (("bokeh", "circle"), ("matplotlib", "o")):
        with drawing_with(name) as backend:
            markers = [backend.points(LineColour(INK, style), marker)["marker"] for style in range(3)]
        assert len(set(markers)) == 3
        assert markers[0] == marker


def test_values_that_share_a_marker_are_a_warning(recipes: xr.Dataset) -> None:
    assert len(set(markers_of(range(8), "bokeh").values())) == 8
    with pytest.warns(DdeWarning, match="25 values have 8 markers"):
        recipes.dde.plot("arc_easy", style_by="data", facet_by=None, hue_by=None)


def test_labels_of_close_values_differ() -> None:
    rates = [3.333e-5, 3.334e-5, 2e-4]
    assert [label_of(r) for r in rates] == ["3.333e-5", "3.334e-5", "2e-4"]
