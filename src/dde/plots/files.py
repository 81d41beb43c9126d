"""Pictures as files: pages to explore that need no network, and PNG, SVG and PDF for print."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dde.atomic_files import atomic_path
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.plots.backends.base import BackendName
from dde.plots.backends.choice import writing_with
from dde.plots.backends.matplotlib_page import FIXED_SIZE, PRINT_DPI
from dde.plots.redrawing import drawn_by
from dde.printable import printable

__all__ = ["SUFFIXES", "backend_of", "pdf_bytes", "png_bytes", "save", "save_page", "save_picture", "svg_bytes"]

#: Suffixes of the formats of pictures.
SUFFIXES = (".png", ".svg", ".pdf", ".html")

_PAGE = """
{% block postamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  body { font-family: system-ui, "Helvetica Neue", Arial, sans-serif; color: #3b4252; margin: 28px 32px; }
  h1 { font-size: 21px; margin: 0 0 6px; }
  p { max-width: 78ch; line-height: 1.5; margin: 0 0 18px; }
</style>
{% endblock %}
{% block css_resources %}{% endblock %}
{% block js_resources %}{{ scripts }}{% endblock %}
{% block contents %}
{% if heading %}<h1>{{ heading | e }}</h1>{% endif %}
{% if text %}<p>{{ text | e }}</p>{% endif %}
{{ super() }}
{% endblock %}
"""


def save(
    picture: Any,
    path: str | os.PathLike[str],
    *,
    dpi: float | None = None,
    title: str | None = None,
    text: str = "",
) -> Path:
    """Write a picture to a file, in the format of its suffix.

    Matplotlib draws PNG, SVG and PDF, and Bokeh draws HTML. A picture of dde that was drawn with the other backend is
    drawn again, from the same Dataset and with the same arguments.

    Parameters
    ----------
    picture : HoloViews object
        As ``ds.dde.plot()`` and its siblings return it, also of an answer; or any other of HoloViews or hvPlot, which
        is written by the backend that it was drawn with.
    path : path-like
        File to write; an existing one is replaced atomically, and missing folders are created. ``.png`` has a palette
        of 256 colours. ``.svg`` and ``.pdf`` consist of vectors and text; a ``.pdf`` embeds its fonts (TrueType), a
        ``.svg`` is shown in fonts of the viewer. ``.html`` is a page to explore that contains all it needs: opening
        it fetches nothing.
    dpi : float, optional
        Pixels per inch of a PNG. When None, 150, or what gives a picture with a size in pixels this size.
    title, text : str, optional
        Heading of a page and a paragraph below it, shown literally; title and description in the metadata of other
        formats.

    Returns
    -------
    Path
        The file. The same picture gives the same bytes, except for the ids in a page.

    Raises
    ------
    UnknownNameError
        When the suffix is not one of these.
    SelectionError
        When the object is not a picture or has several frames; when it was drawn with the other backend and can't be
        drawn again, because it was changed or other code drew it; when `dpi` is not positive.
    OSError
        When the file can't be written.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy"])
    >>> picture = ds.dde.plot("arc_easy")
    >>> dde.save(picture, "curves.pdf").read_bytes()[:5]
    b'%PDF-'
    >>> dde.save(picture, "curves.html", title="A sweep").name
    'curves.html'
    """
    path = Path(path)
    backend = backend_of(path)
    if dpi is not None and not dpi > 0:
        raise SelectionError(f"dpi={dpi!r} is not a positive number, so no file is written. Pass 150 or 300, say.")
    if backend == "bokeh":
        content = _page(picture, path.stem if title is None else title, title, text).encode("utf-8")
    else:
        content = _PRINTED[path.suffix.lower()](picture, dpi, title, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readers see the old file or the new one, never part of one, even when several threads write it.
    with atomic_path(path) as part:
        part.write_bytes(content)
    return path


def backend_of(path: str | os.PathLike[str]) -> BackendName:
    """Return the backend that draws the format of a file.

    Raises
    ------
    UnknownNameError
        When its suffix is not that of a format of pictures.

    Examples
    --------
    >>> backend_of("curves.pdf"), backend_of("curves.HTML")
    ('matplotlib', 'bokeh')
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UnknownNameError(
            f"{path.name!r} has no suffix of a supported format, so no file is written."
            f"{near_names(suffix, SUFFIXES)} Let its name end in {', '.join(SUFFIXES)}."
        )
    return "bokeh" if suffix == ".html" else "matplotlib"


def save_page(picture: Any, path: str | os.PathLike[str], title: str, text: str = "") -> Path:
    """Write a picture as a page; former name of :func:`save` for HTML."""
    return save(picture, path, title=title, text=text)


def save_picture(picture: Any, path: str | os.PathLike[str], dpi: float | None = None) -> Path:
    """Write a picture; former name of :func:`save`."""
    return save(picture, path, dpi=dpi)


def png_bytes(picture: Any, dpi: float | None = None) -> bytes:
    """Return a picture as a PNG, in a palette of 256 colours."""
    return _png(picture, dpi, None, "")


def svg_bytes(picture: Any) -> bytes:
    """Return a picture as an SVG with text as text; the same picture gives the same bytes."""
    return _svg(picture, None, None, "")


def pdf_bytes(picture: Any) -> bytes:
    """Return a picture as a PDF with embedded fonts; the same picture gives the same bytes."""
    return _pdf(picture, None, None, "")


def _png(picture: Any, dpi: float | None, title: str | None, text: str) -> bytes:
    from PIL import Image, PngImagePlugin

    about = PngImagePlugin.PngInfo()
    for name, value in (("Title", title), ("Description", text)):
        if value:
            about.add_itxt(name, value)
    # A palette makes the file a third of the size without a visible loss: pictures are lines on white.
    with Image.open(io.BytesIO(_printed(picture, format="png", dpi=dpi))) as image:
        packed = io.BytesIO()
        _in_palette(image.convert("RGB")).save(packed, "PNG", optimize=True, dpi=image.info["dpi"], pnginfo=about)
    return packed.getvalue()


def _in_palette(image: Any) -> Any:
    """Return an RGB image with 256 colours: its most frequent ones as they are, and others that cover the rest.

    Colours chosen by the number of pixels alone would merge those of thin lines, and colours chosen by coverage alone
    would tint grid lines and grounds.
    """
    from PIL import Image

    pixels = np.asarray(image).astype(np.int32)
    colours, inverse, counts = np.unique(
        pixels @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True, return_counts=True
    )
    known = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
    frequent = known[np.argsort(-counts, kind="stable")[:128]]
    covering = np.array(image.quantize(128, Image.Quantize.MAXCOVERAGE).getpalette()).reshape(-1, 3)
    palette = np.concatenate([frequent, covering])[:256]
    nearest = [np.argmin(((part[:, None] - palette) ** 2).sum(-1), axis=1) for part in np.array_split(known, 16)]
    packed = Image.fromarray(np.concatenate(nearest)[inverse].reshape(pixels.shape[:2]).astype(np.uint8))
    packed.putpalette(palette.astype(np.uint8).ravel().tolist())
    return packed


def _svg(picture: Any, dpi: float | None, title: str | None, text: str) -> bytes:
    about = {name: printable(value) for name, value in (("Title", title), ("Description", text)) if value}
    return _printed(picture, format="svg", metadata={"Date": None, **about})


def _pdf(picture: Any, dpi: float | None, title: str | None, text: str) -> bytes:
    about = {name: value for name, value in (("Title", title), ("Subject", text)) if value}
    return _printed(picture, format="pdf", metadata={"CreationDate": None, **about})


_PRINTED: dict[str, Callable[[Any, float | None, str | None, str], bytes]] = {".png": _png, ".svg": _svg, ".pdf": _pdf}


def _printed(picture: Any, **options: Any) -> bytes:
    """Return a picture as Matplotlib writes it."""
    _check_picture(picture)
    with writing_with("matplotlib"):
        import holoviews as hv
        import matplotlib
        import matplotlib.pyplot as plt

        drawn = io.BytesIO()
        # Journals reject Type 3 fonts, Matplotlib's default in a PDF; 42 is TrueType. Hinting makes text in some sizes
        # wider by a twentieth, which layouts have no room for.
        with matplotlib.rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": "dde", "pdf.fonttype": 42, "text.hinting": "none"}
        ):
            # hv.render would draw the picture twice.
            figure = hv.renderer("matplotlib").get_plot(drawn_by(picture, "matplotlib")).state
            try:
                if figure.get_gid() == FIXED_SIZE:
                    options["dpi"] = options.get("dpi") or figure.dpi
                else:
                    options |= {"dpi": options.get("dpi") or PRINT_DPI, "bbox_inches": "tight", "pad_inches": 0.15}
                figure.savefig(drawn, facecolor="white", **options)
            finally:
                plt.close(figure)
    return drawn.getvalue()


def _page(picture: Any, name: str, heading: str | None, text: str) -> str:
    """Return a picture as a page that Bokeh shows."""
    _check_picture(picture)
    with writing_with("bokeh"):
        import holoviews as hv
        from bokeh.embed import file_html
        from bokeh.resources import INLINE, Resources

        model = hv.render(drawn_by(picture, "bokeh"), backend="bokeh")
        # Otherwise Bokeh would add scripts and styles of every imported extension, used or not, some of them as URLs.
        used = Resources(mode="inline", components=["bokeh"])
        scripts = "".join(f"<script>{script}</script>" for script in used.js_raw)
        variables = {"heading": printable(heading or ""), "text": printable(text), "scripts": scripts}
        return file_html(model, INLINE, printable(name), template=_PAGE, template_variables=variables)


def _check_picture(picture: Any) -> None:
    """Raise when an object is not a picture of HoloViews with a single frame."""
    import holoviews as hv

    if not isinstance(picture, hv.core.Dimensioned) or isinstance(picture, hv.Dimension):
        remedy = (
            "Pass what its method .dde.plot() returns."
            if hasattr(picture, "dde")
            else "Pass what ds.dde.plot() or its siblings return; figures of Matplotlib and applications of Panel have "
            "methods of their own to be saved."
        )
        raise SelectionError(
            f"a {type(picture).__name__} is not a picture of HoloViews, so no file is written. {remedy}"
        )
    frames = [part for part in picture.traverse(lambda part: part) if isinstance(part, hv.HoloMap)]
    if any(len(part) > 1 or isinstance(part, hv.DynamicMap) for part in frames):
        dims = ", ".join(dict.fromkeys(str(d) for part in frames for d in part.kdims))
        raise SelectionError(
            f"the picture has several frames, chosen by widgets for {dims}, and a file would hold one of them. Select "
            "one first, or draw them beside each other: picture.layout()."
        )
