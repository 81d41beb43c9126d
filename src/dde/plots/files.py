"""Pictures as files: a page to explore that needs no network, and PNG, SVG or PDF for print."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dde.atomic_files import atomic_path
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.plots.backends.base import BackendName
from dde.plots.backends.choice import drawing_with
from dde.printable import printable

__all__ = ["pdf_bytes", "png_bytes", "save_page", "save_picture", "svg_bytes"]

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
<h1>{{ title | e }}</h1>
<p>{{ text | e }}</p>
{{ super() }}
{% endblock %}
"""


def save_page(picture: Any, path: str | os.PathLike[str], title: str, text: str = "") -> Path:
    """Write a picture drawn with Bokeh as a self-contained page: opening it fetches nothing.

    Parameters
    ----------
    picture : HoloViews object
        As :func:`dde.plots.curves.plot_curves` gives it.
    path : path-like
        File to write; an existing one is replaced atomically.
    title, text : str
        Heading, and a paragraph below it; shown literally.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SelectionError
        When the picture was drawn with Matplotlib.
    """
    with drawing_with("bokeh"):
        _check_backend(picture, "bokeh", "save_picture writes one that was drawn with matplotlib")
        import holoviews as hv
        from bokeh.embed import file_html
        from bokeh.resources import INLINE, Resources

        model = hv.render(picture, backend="bokeh")
        # Otherwise Bokeh would add scripts and styles of every imported extension, used or not, some of them as URLs.
        used = Resources(mode="inline", components=["bokeh"])
        scripts = "".join(f"<script>{script}</script>" for script in used.js_raw)
        variables = {"text": printable(text), "scripts": scripts}
        html = file_html(model, INLINE, printable(title), template=_PAGE, template_variables=variables)
    return _replace(Path(path), html.encode("utf-8"))


def save_picture(picture: Any, path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Write a picture drawn with matplotlib as a PNG, SVG or PDF, by the suffix of the file's name.

    Parameters
    ----------
    picture : HoloViews object
        As :func:`dde.plots.curves.plot_curves` gives it with ``backend="matplotlib"``.
    path : path-like
        File to write; an existing one is replaced atomically. ``.png`` has a palette of 256 colours; ``.svg`` stores
        text as text, shown in the fonts of the viewer; ``.pdf`` embeds its fonts (TrueType). SVG and PDF are vectors.
    dpi : int
        Pixels per inch of a PNG; vectors have none.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UnknownNameError
        When the suffix is not one of these.
    SelectionError
        When the picture was drawn with Bokeh.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy"])
    >>> save_picture(ds.dde.plot("arc_easy", backend="matplotlib"), "curves.pdf").read_bytes()[:5]
    b'%PDF-'
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise UnknownNameError(
            f"{path.name!r} has no suffix of a supported format, so no file is written."
            f"{near_names(kind, _KINDS)} Let its name end in {', '.join(_KINDS)}."
        )
    return _replace(path, png_bytes(picture, dpi) if kind == ".png" else _KINDS[kind](picture))


def png_bytes(picture: Any, dpi: int = 150) -> bytes:
    """Return a picture drawn with matplotlib as a PNG, in a palette of 256 colours."""
    from PIL import Image

    # A palette makes the file a third of the size without a visible loss: pictures are lines on white.
    with Image.open(io.BytesIO(_printed(picture, format="png", dpi=dpi))) as image:
        packed = io.BytesIO()
        image.convert("RGB").quantize(256).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def svg_bytes(picture: Any) -> bytes:
    """Return a picture drawn with matplotlib as an SVG with text as text; the same picture gives the same bytes."""
    return _printed(picture, format="svg", metadata={"Date": None})


def pdf_bytes(picture: Any) -> bytes:
    """Return a picture drawn with matplotlib as a PDF with embedded fonts; the same picture gives the same bytes."""
    return _printed(picture, format="pdf", metadata={"CreationDate": None})


_KINDS: dict[str, Callable[[Any], bytes]] = {".png": png_bytes, ".svg": svg_bytes, ".pdf": pdf_bytes}


def _printed(picture: Any, **options: Any) -> bytes:
    with drawing_with("matplotlib"):
        _check_backend(picture, "matplotlib", "save_page writes one that was drawn with Bokeh")
        import holoviews as hv
        import matplotlib
        import matplotlib.pyplot as plt

        drawn = io.BytesIO()
        # Journals reject Type 3 fonts, Matplotlib's default in a PDF; 42 is TrueType.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dde", "pdf.fonttype": 42}):
            # hv.render would draw the picture twice.
            figure = hv.renderer("matplotlib").get_plot(picture).state
            try:
                figure.savefig(drawn, bbox_inches="tight", pad_inches=0.15, facecolor="white", **options)
            finally:
                plt.close(figure)
    return drawn.getvalue()


def _check_backend(picture: Any, expected: BackendName, otherwise: str) -> None:
    """Raise when a picture has options of the other backend only: this one would draw it without any."""
    import holoviews as hv

    parts = {part.id for part in picture.traverse(lambda part: part) if part.id is not None}
    drawn = [name for name in hv.Store.registry if parts & set(hv.Store.custom_options(backend=name))]
    if drawn and expected not in drawn:
        raise SelectionError(
            f"the picture was drawn with backend={drawn[0]!r}, so its colours, markers and layout would be lost here. "
            f"Draw it with backend={expected!r}; {otherwise}."
        )


def _replace(path: Path, content: bytes) -> Path:
    # Readers see the old file or the new one, never part of one, even when several threads write it.
    with atomic_path(path) as part:
        part.write_bytes(content)
    return path
