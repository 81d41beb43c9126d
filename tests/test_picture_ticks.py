"""Labels of ticks differ: in narrow and wide ranges, on both scales, in both backends, before and after zooming."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import dde
from browser import running_chromium
from dde.plots.axis_format import BOKEH_TICKS, linear_ticks, log_ticks, tick_labels
from dde.plots.legends import ColourBar
from picture_checks import assert_nothing_is_cut_off, figures_of, printed
from picture_checks import tick_labels as labels_in

_RANGES = [
    (1.35e19, 1.46e19), (0.2991, 0.3009), (2.5e9, 2.5004e9), (-3e-5, 4e-5), (0.0, 16e9), (1e-7, 3e-6), (1e5, 1.0001e5),
    (999.1, 1000.9), (0.999e6, 1.002e6), (-0.5, 0.5), (1e15 - 40, 1e15 + 40), (5.0, 5.00000001),
]  # fmt: skip


def _ticks(low: float, high: float, is_linear: bool) -> list[float]:
    return linear_ticks(low, high) if is_linear else log_ticks(low, high)


@pytest.mark.parametrize("is_linear", [True, False])
@pytest.mark.parametrize(("low", "high"), _RANGES)
def test_no_two_ticks_have_the_same_label(low: float, high: float, is_linear: bool) -> None:
    ticks = _ticks(low, high, is_linear)
    if low <= 0 and not is_linear:
        assert ticks == []
        return
    assert len(ticks) >= 3
    labels = tick_labels(ticks, is_linear)
    assert len(set(labels)) == len(ticks), labels


def test_a_single_tick_is_short_and_decimals_are_those_of_all() -> None:
    assert tick_labels([1.23456e19]) == ["1.2e19"]
    assert tick_labels([0.25, 0.5, 1.0], is_linear=True) == ["0.25", "0.50", "1.00"]
    assert tick_labels([0.25, 0.5, 1.0]) == ["0.25", "0.5", "1"]
    assert tick_labels([]) == []


def test_labels_are_the_same_in_a_page() -> None:
    cases = [(_ticks(*ends, is_linear), is_linear) for ends in _RANGES for is_linear in (True, False)]
    script = f"""
        const format = new Function("tick", "index", "ticks", "is_linear", {json.dumps(BOKEH_TICKS)})
        return cases.map(([ticks, is_linear]) => ticks.map((t, k) => format(t, k, ticks, is_linear)))
    """
    with running_chromium() as browser:
        shown = browser.new_page().evaluate(f"(cases) => {{{script}}}", cases)
    assert shown == [tick_labels(ticks, is_linear) for ticks, is_linear in cases]


@pytest.fixture(scope="module")
def narrow() -> Any:
    ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy"]).load()
    # Values that differ from the fourth significant digit on.
    return ds.assign(arc_easy=(0.3 + (ds.arc_easy - 0.3) * 1e-4).assign_attrs(ds.arc_easy.attrs))


@pytest.mark.parametrize("log_y", [False, True])
def test_matplotlib_shows_each_label_once(narrow: Any, log_y: bool) -> None:
    with printed(narrow.dde.plot("arc_easy", backend="matplotlib", facet_by=None, log_y=log_y)) as figure:
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                labels = labels_in(axis)
                assert len(labels) >= 3
                assert len(set(labels)) == len(labels), labels
                assert axis.get_offset_text().get_text() == ""


def test_bokeh_formats_every_numeric_axis_by_all_its_ticks(narrow: Any) -> None:
    for log_y in (False, True):
        for figure in figures_of(narrow.dde.plot("arc_easy", facet_by=None, log_y=log_y)):
            assert [axis.formatter.code for axis in figure.axis] == [BOKEH_TICKS] * 2
            assert figure.yaxis[0].formatter.args == {"is_linear": not log_y}


def test_labels_of_a_colour_bar_differ() -> None:
    bar = ColourBar.of_values("loss", np.linspace(2.00001, 2.00002, 7))
    labels = [label for _, label in bar.ticks]
    assert len(set(labels)) == len(labels) >= 3


def test_long_labels_have_room(narrow: Any) -> None:
    values = narrow.arc_easy
    narrower = narrow.assign(arc_easy=(0.3 + (values - 0.3) * 1e-3).assign_attrs(values.attrs))
    with printed(narrower.dde.plot("arc_easy", backend="matplotlib")) as figure:
        assert max(map(len, labels_in(figure.axes[0].yaxis))) > 8
        assert_nothing_is_cut_off(figure)
