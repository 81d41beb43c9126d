"""Options that all pictures share: title, labels, colours, order, size, fonts, limits, legend and caption."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

import numpy as np

from dde.errors import SelectionError, UnknownNameError, list_names, near_names
from dde.plots.colours import colours_of, is_given, is_number, is_ordered, label_of, sorted_values

__all__ = ["NO_OPTIONS", "LegendPlace", "Limits", "Order", "Palette", "PictureOptions", "as_colour", "palette_colours"]

LegendPlace = Literal["right", "bottom", "top", "off"]
Palette = str | Sequence[str] | Mapping[Any, str]
Order = Sequence[Any] | Mapping[str, Sequence[Any]]
Limits = tuple[float | None, float | None]

#: Largest number of a size that is taken as inches; larger ones are pixels.
MOST_INCHES = 40
#: Pixels of an inch on a page.
PIXELS_PER_INCH = 96
#: Points of the text of ticks and legends when no size is given.
USUAL_POINTS = 8.5
_LEAST_POINTS, _MOST_POINTS = 3, 40


@dataclass(frozen=True)
class PictureOptions:
    """Options that all pictures share.

    Attributes
    ----------
    title : str, optional
        Title of the picture, above its panels.
    labels : mapping of str to str, optional
        Labels of values, coordinates, metrics and axes, by their names.
    palette : str, sequence or mapping, optional
        Name of a palette of Matplotlib or Bokeh, colours in the order of the values, or a colour for each value.
    order : sequence or mapping, optional
        Order of the values of the hue, or of coordinates by their names.
    size : (float, float), optional
        Width and height of the picture with legend and caption: inches up to 40, else pixels.
    font_size : float, optional
        Points of the text of ticks and legends; other text is in proportion. 8.5 by default.
    xlim, ylim : (float or None, float or None), optional
        Limits of the axes; None for a limit that follows from the data.
    legend : {"right", "bottom", "top", "off"}, default "right"
    caption : bool or str, default True
        Whether a caption below the picture states what it shows, or another text for it.
    """

    title: str | None = None
    labels: Mapping[str, str] | None = None
    palette: Palette | None = None
    order: Order | None = None
    size: tuple[float, float] | None = None
    font_size: float | None = None
    xlim: Limits | None = None
    ylim: Limits | None = None
    legend: LegendPlace = "right"
    caption: bool | str = True

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> PictureOptions:
        """Return the options among the local names of a function that has them as parameters, checked.

        Examples
        --------
        >>> PictureOptions.of({**vars(PictureOptions()), "title": "A sweep", "metric": "piqa"}).title
        'A sweep'
        """
        return cls(**{option.name: given[option.name] for option in fields(cls)}).check()

    def check(self) -> PictureOptions:
        """Return the options, or raise when one of them has no meaning in any picture.

        Raises
        ------
        UnknownNameError
            When there is no such palette, colour or place of the legend.
        SelectionError
            When a size, font size or limit is not possible, or an option has another type.

        Examples
        --------
        >>> PictureOptions(legend="left").check()
        Traceback (most recent call last):
        ...
        dde.errors.UnknownNameError: legend='left' is not a place for the legend, ...
        """
        if self.legend not in get_args(LegendPlace):
            raise UnknownNameError(
                f"legend={self.legend!r} is not a place for the legend, so nothing is drawn."
                f"{near_names(self.legend, get_args(LegendPlace))} Pass {_listed(get_args(LegendPlace))}."
            )
        if self.size is not None:
            _check_pair("size", self.size, "width and height of the picture, such as size=(6.5, 4) in inches")
            if any(v is None or not v > 0 or v > 20_000 for v in self.size):
                raise SelectionError(
                    f"size={self.size!r} is not a possible width and height, so nothing is drawn. Pass two positive "
                    f"numbers: inches up to {MOST_INCHES}, such as (6.5, 4), or pixels, such as (900, 500)."
                )
            if (self.size[0] > MOST_INCHES) != (self.size[1] > MOST_INCHES):
                raise SelectionError(
                    f"size={self.size!r} mixes inches (up to {MOST_INCHES}) and pixels (larger), so the size is "
                    "ambiguous. Pass both numbers in one unit, such as (6.5, 4) or (900, 500)."
                )
        if self.font_size is not None and not (
            is_number(self.font_size) and _LEAST_POINTS <= self.font_size <= _MOST_POINTS
        ):
            raise SelectionError(
                f"font_size={self.font_size!r} is not a size that can be read, so nothing is drawn. Pass points from "
                f"{_LEAST_POINTS} to {_MOST_POINTS}; {USUAL_POINTS} is usual."
            )
        for name, limits in (("xlim", self.xlim), ("ylim", self.ylim)):
            if limits is not None:
                _check_limits(name, limits)
        self._check_texts()
        if isinstance(self.palette, str):
            palette_colours(self.palette, 1)
        elif self.palette is not None:
            every = self.palette.values() if isinstance(self.palette, Mapping) else self.palette
            if not isinstance(self.palette, Mapping) and not _is_list(self.palette):
                raise SelectionError(
                    f"palette={self.palette!r} is not a palette, so nothing is drawn. Pass the name of one, such as "
                    "'viridis', a list of colours, or a colour for each value: {'adam': 'black'}."
                )
            for colour in every:
                as_colour(colour)
        orders = self.order.values() if isinstance(self.order, Mapping) else [self.order]
        if self.order is not None and (wrong := [order for order in orders if not _is_list(order)]):
            raise SelectionError(
                f"order={self.order!r} has no order in it: {wrong[0]!r} is not a list, so nothing is drawn. Pass a "
                "list of values, or lists by coordinate: {'optimizer': ['adam', 'muon']}."
            )
        return self

    def _check_texts(self) -> None:
        if self.title is not None and not isinstance(self.title, str):
            raise SelectionError(f"title={self.title!r} is not a text, so nothing is drawn. Pass a text, or None.")
        if not isinstance(self.caption, (str, bool, np.bool_, type(None))):
            raise SelectionError(
                f"caption={self.caption!r} is neither a text nor a truth value, so nothing is drawn. Pass the text of "
                "the caption, True for one that states what is shown, or False for none."
            )
        if self.labels is not None and not isinstance(self.labels, Mapping):
            raise SelectionError(
                f"labels={self.labels!r} does not say what labels are of, so nothing is drawn. Pass them by name: "
                "{'arc_easy': 'ARC-Easy accuracy'}."
            )
        for name, label in (self.labels or {}).items():
            if not isinstance(label, str):
                raise SelectionError(
                    f"labels= gives {name!r} the label {label!r}, which is not a text, so nothing is drawn. Pass a "
                    "text, or leave it out for the usual label."
                )

    @property
    def scale(self) -> float:
        """Size of text relative to its usual size."""
        return 1.0 if self.font_size is None else float(self.font_size) / USUAL_POINTS

    @property
    def is_in_pixels(self) -> bool:
        """Whether a size is given, in pixels."""
        return self.size is not None and self.size[0] > MOST_INCHES

    def inches(self) -> tuple[float, float] | None:
        """Return width and height of the picture in inches; None when no size is given.

        Examples
        --------
        >>> PictureOptions(size=(6.5, 4)).inches(), PictureOptions(size=(960, 480)).inches()
        ((6.5, 4.0), (10.0, 5.0))
        """
        if self.size is None:
            return None
        unit = PIXELS_PER_INCH if self.is_in_pixels else 1
        return float(self.size[0]) / unit, float(self.size[1]) / unit

    def label(self, name: object, otherwise: str | None = None) -> str:
        """Return the label of a value, coordinate, metric or axis; `otherwise` where the options have none.

        Examples
        --------
        >>> options = PictureOptions(labels={"learning_rate": "peak LR", "5e-06": "5 micro"})
        >>> options.label("learning_rate", "learning rate"), options.label(5e-6), options.label("base")
        ('peak LR', '5 micro', 'base')
        """
        for key, text in (self.labels or {}).items():
            if _is_named(key, name):
                return str(text)
        return label_of(name) if otherwise is None else otherwise

    def names(self, values: Iterable[Any]) -> dict[Any, str]:
        """Return the labels of those of some values that the options name, as :func:`label_of` takes them."""
        return {v: self.label(v) for v in values if is_given(v) and any(_is_named(k, v) for k in self.labels or {})}

    def check_labels(self, known: Iterable[object]) -> None:
        """Raise when a label is of nothing.

        Parameters
        ----------
        known : iterable
            Names and values that a label may be of.

        Raises
        ------
        UnknownNameError
        """
        if not self.labels:
            return
        things = list(dict.fromkeys(v for v in known if is_given(v)))
        for key in self.labels:
            if not any(_is_named(key, thing) for thing in things):
                names = [str(v) for v in things]
                raise UnknownNameError(
                    f"labels= has {key!r}, and nothing in the picture has this name, so its label would not appear."
                    f"{near_names(key, names)} There are {list_names(names, 12)}."
                )

    def check_order(self, hue_by: str | None, names: Iterable[str | None]) -> None:
        """Raise when the order is of a coordinate that the picture does not show.

        Parameters
        ----------
        hue_by : str or None
            Coordinate that a plain sequence orders.
        names : iterable of str
            Coordinates of facets, styles and axes.

        Raises
        ------
        UnknownNameError
            When the order names another coordinate.
        SelectionError
            When the order is a sequence, and the picture has no hue.
        """
        if self.order is None:
            return
        known = [n for n in dict.fromkeys([hue_by, *names]) if n]
        if not isinstance(self.order, Mapping):
            if not hue_by:
                raise SelectionError(
                    "order= is a sequence, which orders the values of the hue, and this picture has no hue. Pass the "
                    f"coordinate too: order={{{(known or ['data'])[0]!r}: [...]}}."
                )
            return
        for name in self.order:
            if name not in known:
                raise UnknownNameError(
                    f"order= has {name!r}, which is not a coordinate of hue, style, facets or axes of this picture, so "
                    f"nothing would be ordered.{near_names(name, known)} There are {list_names(known, 12)}."
                )

    def ordered(self, by: str | None, values: Iterable[Any], is_hue: bool = False) -> list[Any]:
        """Return the distinct values of a coordinate in the order of the options, else their usual order.

        Parameters
        ----------
        by : str or None
            The coordinate.
        values : iterable
            "" stands for none, which comes last when there is no place for it in the order.
        is_hue : bool, default False
            Whether a plain sequence orders it.

        Raises
        ------
        SelectionError
            When the order does not name all values.

        Examples
        --------
        >>> PictureOptions(order=["C4", "FineWeb", "Dolma1.7"]).ordered("data", ["Dolma1.7", "C4"], is_hue=True)
        ['C4', 'Dolma1.7']
        """
        found = sorted_values(values)
        wanted = self._order_of(by, is_hue)
        if wanted is None:
            return found
        placed: list[Any] = []
        for name in wanted:
            placed += [v for v in found if v not in placed and _is_named(name, v)]
        if missing := [v for v in found if v not in placed]:
            raise SelectionError(
                f"order= of {by} misses {list_names([repr(label_of(v)) for v in missing])}, which the picture shows, "
                f"so there is no place for {'it' if len(missing) == 1 else 'them'}."
                f"{near_names(missing[0], [str(n) for n in wanted])} Name every value, or select those to draw with "
                "ds.dde.sel(...)."
            )
        return placed

    def orders(self, by: str | None, is_hue: bool = False) -> bool:
        """Return whether the options order the values of a coordinate."""
        return self._order_of(by, is_hue) is not None

    def _order_of(self, by: str | None, is_hue: bool) -> list[Any] | None:
        if isinstance(self.order, Mapping):
            return list(self.order[by]) if by is not None and by in self.order else None
        return list(self.order) if self.order is not None and is_hue else None

    def colours(self, by: str | None, values: Iterable[Any]) -> dict[Any, str]:
        """Return a colour for each value of the hue, in their order.

        Parameters
        ----------
        by : str or None
            The coordinate.
        values : iterable

        Raises
        ------
        SelectionError
            When the palette has too few colours, or none for a value.
        UnknownNameError
            When there is no such palette or colour.

        Examples
        --------
        >>> PictureOptions(palette={"C4": "black", "FineWeb": "red"}).colours("data", ["C4"])
        {'C4': '#000000'}
        >>> PictureOptions(palette=["red", "blue"], order=["b", "a"]).colours("data", ["a", "b"])
        {'b': '#ff0000', 'a': '#0000ff'}
        """
        found = self.ordered(by, values, is_hue=True)
        if self.palette is None:
            usual = colours_of(found)
            if self._order_of(by, True) is not None and is_ordered(found):
                # By rank in the order of the options.
                usual = dict(zip(found, usual.values(), strict=True))
            return {v: usual[v] for v in found}
        if not isinstance(self.palette, Mapping):
            return dict(zip(found, _of_values(self.palette, found), strict=True))
        palette = self.palette
        named = {v: [c for key, c in palette.items() if _is_named(key, v)] for v in found}
        if missing := [v for v, colours in named.items() if not colours]:
            raise SelectionError(
                f"palette= has no colour for {list_names([repr(label_of(v)) for v in missing])}, which the picture "
                f"shows.{near_names(missing[0], map(str, palette))} Name every value, or pass a list of "
                f"{len(found)} colours or the name of a palette."
            )
        return {v: as_colour(colours[0]) for v, colours in named.items()}

    def map_colours(self, usual: Sequence[str]) -> Sequence[str]:
        """Return the colours of a continuous map, from low to high values.

        Raises
        ------
        SelectionError
            When the palette gives colours to names, or is a single colour.

        Examples
        --------
        >>> PictureOptions(palette=["white", "black"]).map_colours(["#000000"] * 3)
        ['#ffffff', '#7f7f7f', '#000000']
        """
        if self.palette is None:
            return usual
        if isinstance(self.palette, str):
            return palette_colours(self.palette, len(usual))
        if isinstance(self.palette, Mapping) or len(self.palette) < 2:
            raise SelectionError(
                f"palette={self.palette!r} is not a map from low to high values, which this picture colours. Pass the "
                "name of one, such as 'viridis', or its colours from low to high."
            )
        from matplotlib.colors import LinearSegmentedColormap, to_hex

        shades = LinearSegmentedColormap.from_list("palette", [as_colour(c) for c in self.palette])
        return [to_hex(shades(k / (len(usual) - 1))) for k in range(len(usual))]

    def plain(self, usual: str) -> str:
        """Return the colour of a picture without a hue.

        Raises
        ------
        SelectionError
            When the palette gives colours to names, or is empty.
        """
        if self.palette is None:
            return usual
        if isinstance(self.palette, Mapping):
            raise SelectionError(
                f"palette= gives colours to values ({list_names(map(str, self.palette))}), and this picture has no hue "
                "with values, so they would not be used. Choose a hue, or pass one colour: palette=['steelblue']."
            )
        return _of_values(self.palette, [""])[0]

    def limits(
        self, axis: Literal["x", "y"], found: tuple[float, float] | None, is_log: bool = False
    ) -> tuple[float, float] | None:
        """Return the limits of an axis: those of the options, else those found from the data.

        Raises
        ------
        SelectionError
            When a limit can't be on a logarithmic axis, or lies beyond all data.
        """
        wanted = self.xlim if axis == "x" else self.ylim
        if wanted is None:
            return found
        low, high = ((found or (None, None))[k] if v is None else float(v) for k, v in enumerate(wanted))
        if low is None or high is None:
            return found
        if is_log and low <= 0:
            raise SelectionError(
                f"{axis}lim={wanted!r} has a limit at or below zero, which a logarithmic axis can't show. Pass a "
                f"positive limit, None, or log_{axis}=False."
            )
        if low >= high:
            raise SelectionError(
                f"{axis}lim={wanted!r} ends where no data is (data: {found[0]:.4g} to {found[1]:.4g}), so nothing "
                "would be shown. Pass both limits, or others."
                if found
                else f"{axis}lim={wanted!r} is empty, so nothing would be shown. Pass the lower limit first."
            )
        return low, high


#: Every option at its default.
NO_OPTIONS = PictureOptions()


def as_colour(colour: str) -> str:
    """Return a colour as six hexadecimal digits.

    Raises
    ------
    UnknownNameError
        When there is no such colour.

    Examples
    --------
    >>> as_colour("black"), as_colour("#0af"), as_colour("tab:blue")
    ('#000000', '#00aaff', '#1f77b4')
    """
    from matplotlib.colors import get_named_colors_mapping, is_color_like, to_hex

    if not is_color_like(colour):
        near = near_names(colour, map(str, get_named_colors_mapping())) if isinstance(colour, str) else ""
        raise UnknownNameError(
            f"{colour!r} is not a colour, so nothing is drawn.{near} Pass a name such as 'steelblue', or "
            "six hexadecimal digits such as '#0072B2'."
        )
    return str(to_hex(colour))


def palette_colours(name: str, count: int) -> list[str]:
    """Return `count` colours of a palette of Matplotlib or Bokeh: evenly along a map, the first ones of a list.

    Raises
    ------
    UnknownNameError
        When there is no such palette.
    SelectionError
        When it has fewer colours.

    Examples
    --------
    >>> palette_colours("tab10", 2), palette_colours("viridis", 2), palette_colours("Colorblind", 2)
    (['#1f77b4', '#ff7f0e'], ['#440154', '#fde725'], ['#0072b2', '#e69f00'])
    """
    import matplotlib
    from bokeh import palettes
    from matplotlib.colors import ListedColormap, to_hex

    if name in matplotlib.colormaps:
        colours = matplotlib.colormaps[name]
        if isinstance(colours, ListedColormap) and colours.N < 64:
            listed = [to_hex(colours(k)) for k in range(colours.N)]
        else:
            return [to_hex(colours(k / (count - 1) if count > 1 else 0.5)) for k in range(count)]
    elif name in palettes.all_palettes:
        sized = palettes.all_palettes[name]
        largest = max(sized)
        if largest >= 64:
            return [sized[largest][round(k * (largest - 1) / (count - 1)) if count > 1 else 128] for k in range(count)]
        # Palettes of a size have other colours than the first ones of a larger palette.
        fitting = [n for n in sized if n >= count]
        listed = [str(c).lower() for c in sized[min(fitting) if fitting else largest]]
    else:
        bokeh = getattr(palettes, name, None) if name in palettes.__palettes__ else None
        if bokeh is None:
            known = [*matplotlib.colormaps, *palettes.all_palettes]
            raise UnknownNameError(
                f"palette={name!r} is not a palette of Matplotlib or Bokeh, so nothing is drawn."
                f"{near_names(name, known)} Pass a name such as 'viridis', 'tab10' or 'Colorblind', a list of colours, "
                "or a colour for each value."
            )
        listed = [str(c).lower() for c in bokeh]
        if len(listed) >= 64:
            return [listed[round(k * (len(listed) - 1) / (count - 1)) if count > 1 else 128] for k in range(count)]
    if len(listed) < count:
        raise SelectionError(
            f"palette={name!r} has {len(listed)} colours for {count} values, so some would share one. Pass a map such "
            f"as 'viridis', a list of {count} colours, or a hue with fewer values."
        )
    return listed[:count]


def _of_values(palette: str | Sequence[str], values: Sequence[Any]) -> list[str]:
    if isinstance(palette, str):
        return palette_colours(palette, len(values))
    if len(palette) < len(values):
        raise SelectionError(
            f"palette= has {len(palette)} colours for {len(values)} values "
            f"({list_names([label_of(v) for v in values])}), so some would share one. Pass {len(values)} colours, the "
            "name of a palette such as 'viridis', or a hue with fewer values."
        )
    return [as_colour(c) for c in palette[: len(values)]]


def _is_list(value: object) -> bool:
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, Set, Mapping))


def _is_named(name: object, value: object) -> bool:
    """Return whether a name is that of a value: equal, the same number, or the text that the picture shows."""
    if name == value or name == str(value) or name == label_of(value):
        return True
    if not is_number(value) or isinstance(name, bool):
        return False
    try:
        return math.isclose(float(cast(Any, name)), float(cast(Any, value)), rel_tol=1e-9)
    except (TypeError, ValueError):
        return False


def _check_pair(option: str, pair: Any, meaning: str) -> None:
    if not _is_list(pair) or len(pair) != 2:
        raise SelectionError(f"{option}={pair!r} is not a pair of numbers, so nothing is drawn. Pass {meaning}.")
    if not all(v is None or is_number(v) for v in pair):
        raise SelectionError(f"{option}={pair!r} does not hold numbers, so nothing is drawn. Pass {meaning}.")


def _check_limits(option: str, limits: Any) -> None:
    _check_pair(option, limits, f"a lower and an upper limit, such as {option}=(0, 1), with None for one from the data")
    low, high = limits
    if not all(v is None or math.isfinite(v) for v in limits) or (low is not None and high is not None and low >= high):
        raise SelectionError(
            f"{option}={limits!r} is empty or infinite, so nothing would be shown. Pass the lower limit first, and "
            "None for a limit that follows from the data."
        )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"
