"""Options of pictures: what they mean, and what is said of those without a meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dde.errors import SelectionError, UnknownNameError
from dde.plots.picture_options import PictureOptions, palette_colours


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"legend": "botom"}, UnknownNameError, "Did you mean bottom"),
        ({"size": (900, 5)}, SelectionError, "mixes inches"),
        ({"size": (0, 5)}, SelectionError, "two positive numbers"),
        ({"size": 5}, SelectionError, "not a pair of numbers"),
        ({"size": ("6", "4")}, SelectionError, "does not hold numbers"),
        ({"font_size": 0}, SelectionError, "points from 3 to 40"),
        ({"font_size": "large"}, SelectionError, "points from 3 to 40"),
        ({"xlim": (1, 1)}, SelectionError, "empty or infinite"),
        ({"ylim": (float("nan"), None)}, SelectionError, "empty or infinite"),
        ({"palette": "virids"}, UnknownNameError, "Did you mean viridis"),
        ({"palette": ["steelblu"]}, UnknownNameError, "Did you mean steelblue"),
        ({"palette": {"C4": "#12"}}, UnknownNameError, "not a colour"),
        ({"order": "C4"}, SelectionError, "no order in it"),
        ({"order": {"data": "C4"}}, SelectionError, "'C4' is not a list"),
        ({"order": {"data", "params"}}, SelectionError, "is not a list"),
        ({"order": 3}, SelectionError, "3 is not a list"),
        ({"palette": 3}, SelectionError, "palette=3 is not a palette.*list of colours"),
        ({"palette": {"red", "blue"}}, SelectionError, "is not a palette"),
        ({"palette": ["red", None]}, UnknownNameError, r"None is not a colour, so nothing is drawn\. Pass"),
        ({"title": 3}, SelectionError, "title=3 is not a text"),
        ({"labels": "arc_easy"}, SelectionError, "does not say what labels are of.*by name"),
        ({"labels": ["arc_easy"]}, SelectionError, "does not say what labels are of"),
        ({"labels": {"arc_easy": None}}, SelectionError, "'arc_easy' the label None, which is not a text"),
        ({"caption": 5}, SelectionError, "caption=5 is neither"),
    ],
)
def test_options_without_a_meaning_are_errors(options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        PictureOptions(**options).check()


def test_arrays_are_lists() -> None:
    options = PictureOptions(
        size=np.array([7, 5]), xlim=np.array([0.0, 1.0]), palette=np.array(["red", "blue"]), order=np.array(["b", "a"])
    ).check()
    assert options.inches() == (7.0, 5.0)
    assert options.limits("x", (0.5, 2.0)) == (0.0, 1.0)
    assert options.colours("data", ["a", "b"]) == {"b": "#ff0000", "a": "#0000ff"}


def test_colours_of_values_need_a_hue() -> None:
    with pytest.raises(SelectionError, match=r"gives colours to values \(C4\).*no hue.*palette=\['steelblue'\]"):
        PictureOptions(palette={"C4": "red"}).plain("#000000")
    assert PictureOptions(palette=["red"]).plain("#000000") == "#ff0000"


def test_palettes_give_a_colour_for_each_value_or_say_why_not() -> None:
    assert palette_colours("Viridis256", 3)[::2] == ["#440154", "#fde724"]
    assert len(set(palette_colours("Category10", 10))) == 10
    assert palette_colours("Set2_4", 2) == palette_colours("Set2_4", 4)[:2]
    with pytest.raises(SelectionError, match="10 colours for 11 values"):
        palette_colours("tab10", 11)
    with pytest.raises(
        SelectionError, match=r"2 colours for 3 values \(a, b and 1 more\)|2 colours for 3 values \(a, b, c\)"
    ):
        PictureOptions(palette=["red", "blue"]).colours("data", ["a", "b", "c"])
    with pytest.raises(SelectionError, match=r"no colour for 'Dolma1.7'.*Did you mean Dolma17"):
        PictureOptions(palette={"Dolma17": "red"}).colours("data", ["Dolma1.7"])


def test_values_are_named_by_number_or_by_the_text_that_is_shown() -> None:
    options = PictureOptions(palette={5e-06: "red", "1e-6": "blue", "0.0001": "green"})
    assert options.colours("learning_rate", [1e-6, 1e-4, 5e-6]) == {
        1e-6: "#0000ff",
        5e-6: "#ff0000",
        1e-4: "#008000",
    }
    assert PictureOptions(labels={"5e-6": "five"}).names([5e-6, 1e-6]) == {5e-6: "five"}


def test_an_order_places_every_value_and_decides_the_colours() -> None:
    options = PictureOptions(order={"data": ["C4", "Dolma1.7"], "params": ["1B", "4M"]})
    assert options.ordered("data", ["Dolma1.7", "C4"]) == ["C4", "Dolma1.7"]
    assert options.ordered("params", ["4M", "1B", "4M"]) == ["1B", "4M"]
    usual = PictureOptions().colours("params", ["4M", "1B"])
    turned = options.colours("params", ["4M", "1B"])
    assert list(turned) == ["1B", "4M"]
    assert list(turned.values()) == list(usual.values())
    with pytest.raises(SelectionError, match="misses '150M'"):
        options.ordered("params", ["4M", "150M"])
    with pytest.raises(UnknownNameError, match="Did you mean data"):
        PictureOptions(order={"dat": []}).check_order("data", ["params"])
    with pytest.raises(SelectionError, match="has no hue"):
        PictureOptions(order=["C4"]).check_order(None, ["lineage"])


def test_limits_of_one_side_keep_the_other() -> None:
    assert PictureOptions(ylim=(None, 1)).limits("y", (0.2, 0.7)) == (0.2, 1.0)
    with pytest.raises(SelectionError, match="ends where no data is"):
        PictureOptions(ylim=(0.9, None)).limits("y", (0.2, 0.7))
    with pytest.raises(SelectionError, match="log_x=False"):
        PictureOptions(xlim=(0, 1)).limits("x", (0.1, 2), is_log=True)


def test_labels_of_nothing_are_errors() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean arc_easy"):
        PictureOptions(labels={"arc_esy": "ARC"}).check_labels(["arc_easy", "piqa", 5e-6])
    PictureOptions(labels={"5e-6": "x", "piqa": "y"}).check_labels(["arc_easy", "piqa", 5e-6])
