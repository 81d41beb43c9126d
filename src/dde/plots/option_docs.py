"""The text on options of pictures that the docstrings of all pictures share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["with_picture_options"]

_TEXT = """
    title : str, optional
        Title of the picture, above its panels.
    labels : mapping of str to str, optional
        Labels of values, coordinates, metrics and axes by their names, such as
        ``{"learning_rate": "peak LR", "5e-06": "5 micro"}``. Names must be those of something in the picture.
    palette : str, sequence or mapping, optional
        Name of a palette of Matplotlib or Bokeh, colours in the order of the values, or a colour for each value. A
        continuous map also colours heat maps and other values.
    order : sequence or mapping, optional
        All values of the hue in order, or those of hue, facets or categories by the name of their coordinate. Colours
        follow the order. Further values are ignored.
    size : (float, float), optional
        Width and height of the picture with legend and caption: inches when up to 40, else pixels. Replaces
        `frame_size`.
    font_size : float, optional
        Points of the text of ticks and legends, 8.5 when None; titles and labels of axes are in proportion.
    xlim, ylim : (float or None, float or None), optional
        Limits of the axes; None for a limit that follows from the data. They apply to all panels but those that count x
        from the branch of runs, which have their own x.
    legend : {"right", "bottom", "top", "off"}, default "right"
    caption : bool or str, default True
        Caption below the picture: whether it states what the picture shows, or a text to replace it.
"""

F = TypeVar("F", bound=Callable[..., Any])


def with_picture_options(function: F) -> F:
    """Add the parameters that all pictures share to the docstring of a function, after its other parameters.

    Examples
    --------
    >>> @with_picture_options
    ... def plot_nothing(*, title=None):
    ...     '''Draw nothing.
    ...
    ...     Parameters
    ...     ----------
    ...     backend : str
    ...
    ...     Returns
    ...     -------
    ...     None
    ...     '''
    >>> "backend : str\\n    title : str, optional" in plot_nothing.__doc__
    True
    """
    text = function.__doc__
    # Python has no docstrings with the option -OO.
    if text:
        before, section, after = text.partition("\n\n    Returns\n")
        function.__doc__ = f"{before}{_TEXT.rstrip()}{section}{after}"
    return function
