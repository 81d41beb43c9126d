"""Remember how pictures were drawn, so that the other backend can draw the same ones.

A picture of HoloViews has options of one backend. A file may need the other: PDF needs Matplotlib, a page needs Bokeh.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ParamSpec

import numpy as np
import xarray as xr

from dde.errors import SelectionError
from dde.plots.backends.base import ONE_AT_A_TIME, BackendName

__all__ = ["drawn_by", "redrawable"]

_P = ParamSpec("_P")


@dataclass(frozen=True)
class _Drawing:
    """How a picture was drawn, and the parts and options that it had then."""

    draw: Callable[..., Any]
    arguments: inspect.BoundArguments
    parts: list[tuple[Any, ...]]

    @property
    def backend(self) -> BackendName:
        backend: BackendName = self.arguments.arguments["backend"]
        return backend

    def again(self, backend: BackendName) -> Any:
        """Draw the picture again."""
        given = inspect.BoundArguments(self.arguments.signature, self.arguments.arguments | {"backend": backend})
        return self.draw(*given.args, **given.kwargs)


#: Formats that a backend draws, to name in errors.
_FILES = {"bokeh": "HTML", "matplotlib": "PNG, SVG or PDF"}
# A drawing refers to the Dataset, which stays in memory as long as the picture does.
_DRAWINGS: weakref.WeakKeyDictionary[Any, _Drawing] = weakref.WeakKeyDictionary()
# Panels of pictures, which other layouts may have, with their drawings, their numbers there, and their own parts.
_PANELS: weakref.WeakKeyDictionary[Any, tuple[_Drawing, int, list[tuple[Any, ...]]]] = weakref.WeakKeyDictionary()


def redrawable(draw: Callable[_P, Any]) -> Callable[_P, Any]:
    """Decorate a picture function with a parameter ``backend``, so that :func:`drawn_by` can draw its pictures again.

    The arguments are remembered as they are when the function is called: lists and mappings are copied, and Datasets
    are copied without their arrays.

    Examples
    --------
    >>> import holoviews as hv
    >>> from dde.plots.backends.choice import drawing_with
    >>> @redrawable
    ... def plot(points, *, backend="bokeh"):
    ...     with drawing_with(backend):
    ...         return hv.Layout([hv.Points(points).opts(title=backend)])
    >>> drawn_by(plot([(0, 1)]), "matplotlib").Points.I.opts.get("plot", "matplotlib").kwargs["title"]
    'matplotlib'
    """
    signature = inspect.signature(draw)

    @functools.wraps(draw)
    def redrawable_draw(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        arguments = signature.bind(*args, **kwargs)
        arguments.apply_defaults()
        for name, value in arguments.arguments.items():
            arguments.arguments[name] = _copied(value)
        picture = draw(*args, **kwargs)
        with ONE_AT_A_TIME:
            _DRAWINGS[picture] = drawing = _Drawing(draw, arguments, _parts(picture))
            for number, panel in enumerate(picture.values()):
                _PANELS[panel] = drawing, number, _parts(panel)
        return picture

    return redrawable_draw


def drawn_by(picture: Any, backend: BackendName) -> Any:
    """Return a picture as a backend draws it: itself, or drawn again from the same arguments.

    Parameters
    ----------
    picture : HoloViews object
        Of a picture function of dde, a layout of panels of several such pictures, or any other.
    backend : {"bokeh", "matplotlib"}

    Returns
    -------
    HoloViews object
        The picture itself if it has options of the backend, or no options at all.

    Raises
    ------
    SelectionError
        When the picture has options of another backend only, and was changed after dde drew it, or drawn by others.
    """
    with ONE_AT_A_TIME:
        drawing = _DRAWINGS.get(picture)
        is_changed = drawing is not None and _parts(picture) != drawing.parts
    if drawing is not None and not is_changed:
        if drawing.backend == backend:
            return picture
        _check_values(picture, drawing)
        return drawing.again(backend)
    others = _other_backends(picture, backend)
    if not others:
        return picture
    composed = _composed(picture, backend)
    if composed is not None:
        return composed
    reason = (
        f"was changed after it was drawn with backend={others[0]!r}, and a new drawing would lose the changes"
        if is_changed
        else f"was drawn with backend={others[0]!r}, and how is unknown: other code drew or changed parts of it, or it "
        "is a copy or a part of a picture"
    )
    files = _FILES.get(others[0], "")
    raise SelectionError(
        f"the picture {reason}, so {backend} can't draw it for this format. Draw it with backend={backend!r} and make "
        f"changes there{f', or save it as {files}' if files else ''}."
    )


def _composed(picture: Any, backend: BackendName) -> Any:
    """Return a layout of panels that dde drew with their pictures drawn again; None if it has others or was changed."""
    import holoviews as hv

    if type(picture) is not hv.Layout or picture.id is not None:
        return None
    pictures: dict[int, Any] = {}
    panels: list[Any] = []
    for panel in picture.values():
        if isinstance(panel, hv.Empty):
            panels.append(panel)
            continue
        drawing, number, parts = _PANELS.get(panel, (None, 0, []))
        if drawing is None or _parts(panel) != parts:
            return None
        _check_values(panel, drawing, number)
        if id(drawing) not in pictures:
            pictures[id(drawing)] = drawing.again(backend).values()
        panels.append(pictures[id(drawing)][number])
    return hv.Layout(panels).cols(picture._max_cols)


def _copied(value: Any) -> Any:
    # A copy of arrays may be large; variables that are replaced in the original are not replaced in a shallow copy.
    if isinstance(value, (xr.Dataset, xr.DataArray)):
        return value.copy(deep=False)
    try:
        return deepcopy(value)
    except TypeError:
        # Generators can't be copied; that they are not options is said where options are checked.
        return value


def _parts(picture: Any) -> list[tuple[Any, ...]]:
    """Return what changes with the parts of a picture, their options or their arrangement."""
    return [(type(part), id(part), part.id, getattr(part, "_max_cols", None)) for part in _traversed(picture)]


def _traversed(picture: Any) -> list[Any]:
    parts: list[Any] = picture.traverse(lambda part: part)
    return parts


def _check_values(shown: Any, drawing: _Drawing, panel: int | None = None) -> None:
    """Raise when arrays of the Dataset were written to after a picture, or a panel of it, was drawn from them.

    Only arrays in memory can be; others would be read once more to no purpose.
    """
    datasets = [v for v in drawing.arguments.arguments.values() if isinstance(v, xr.Dataset)]
    if not any(isinstance(d.variables[name]._data, np.ndarray) for d in datasets for name in d.data_vars):
        return
    again = drawing.again(drawing.backend)
    if _values(again if panel is None else again.values()[panel]) != _values(shown):
        raise SelectionError(
            "values of the Dataset were changed in place after the picture was drawn, so a new drawing would not show "
            f"what the picture shows. Draw it again, or save it as {_FILES[drawing.backend]}."
        )


def _values(picture: Any) -> list[str]:
    """Return the values of all elements, as text that is equal for equal values and NaN."""
    import holoviews as hv

    elements = [part for part in _traversed(picture) if isinstance(part, hv.Element)]
    return [
        repr(part.data)
        if isinstance(part, (hv.HLine, hv.VLine))
        else repr([part.dimension_values(k).tolist() for k in range(len(part.dimensions()))])
        for part in elements
    ]


def _other_backends(picture: Any, backend: BackendName) -> list[str]:
    """Return other backends whose options parts of a picture have, where the parts have none of this backend."""
    import holoviews as hv

    ids = {name: set(hv.Store.custom_options(backend=name)) for name in hv.Store.registry}
    lost = {part.id for part in _traversed(picture) if part.id is not None} - ids.get(backend, set())
    return [name for name in ids if lost & ids[name]]
