"""Load BokehJS and styles in notebooks from the installed packages, so that pictures show without a network."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["load_in_notebook", "running_cell", "use_installed_resources"]

#: Cell that loaded BokehJS, and the count of its execution; None where other code loaded it, or none did.
_loading_cell: tuple[str, int] | None = None


def running_cell() -> tuple[str, int] | None:
    """Return the id of the cell that runs and the count of its execution; None outside of a notebook.

    The id is "" in notebooks that don't send it.
    """
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    parent: dict[str, Any] = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return str(parent.get("metadata", {}).get("cellId", "")), int(shell.execution_count)


def use_installed_resources() -> None:
    """Let Panel and HoloViews use the installed scripts and styles, unless an extension was loaded before.

    Outside of a notebook, nothing changes. The environment variable ``PANEL_INLINE`` has precedence.
    """
    import holoviews as hv
    import panel as pn

    if running_cell() is None:
        return
    config: Any = pn.config
    if not (pn.extension._loaded or hv.extension._loaded):
        config.inline = True
    hooks: Any = pn.viewable.Viewable._preprocessing_hooks
    if _inline_styles not in hooks:
        hooks.append(_inline_styles)


def _inline_styles(view: Any, root: Any, changed: Any, old_models: Any) -> None:
    """Replace links to Panel's styles by the installed files in a new root of Panel, where resources are inline.

    Panel does so for its own objects in a notebook, but HoloViews displays pictures in a row of Panel without it.
    """
    import panel as pn
    from bokeh.models.css import ImportedStyleSheet
    from bokeh.models.ui.ui_element import UIElement
    from panel.io.notebook import replace_inline_css

    config: Any = pn.config
    served = pn.state.curdoc is not None and pn.state.curdoc.session_context is not None
    if not config.inline or served or changed is not view:
        return
    # One model per file: it is written to the notebook once, not once for each part of the row.
    found: dict[str, Any] = {}

    def installed(sheet: Any) -> Any:
        if not isinstance(sheet, ImportedStyleSheet):
            return sheet
        if sheet.url not in found:
            found[sheet.url] = replace_inline_css(sheet)
        return found[sheet.url]

    for model in root.select({"type": UIElement}):
        if any(isinstance(sheet, ImportedStyleSheet) for sheet in model.stylesheets):
            model.stylesheets = [installed(sheet) for sheet in model.stylesheets]


def load_in_notebook(name: str) -> None:
    """Let the notebook display pictures of a backend; for Bokeh, load BokehJS, unless a cell or other code did.

    Scripts are outputs of the cell that loads them, and outputs are replaced when it runs again, so it loads them
    again. What other code passed to ``hv.extension`` stays as it is.

    Parameters
    ----------
    name : {"bokeh", "matplotlib"}
    """
    global _loading_cell
    import holoviews as hv
    import panel as pn
    import param
    import pyviz_comms

    if name != "bokeh":
        # Pictures of Matplotlib are images. With its defaults, HoloViews loads BokehJS for them, too; of the options
        # that prevent it, it logs that they are none of its parameters.
        if not hv.extension._loaded:
            with param.logging_level("ERROR"):
                hv.extension(name, holoviews=False, **{name: False})
        return
    cell = running_cell()
    runs_again = bool(_loading_cell and cell and cell[0] == _loading_cell[0] != "" and cell != _loading_cell)
    use_installed_resources()
    if getattr(hv.Store.renderers.get(name), "_loaded", False) and not runs_again:
        return
    formats = hv.Store.display_formats if hv.extension._loaded else None
    if not (pn.extension._loaded and pn.config.inline):
        # An extension leaves out scripts if one was called in the same execution of a cell, even without scripts.
        pyviz_comms.extension._last_execution_count = None
    hv.extension(name, inline=pn.config.inline or "PANEL_INLINE" not in os.environ, logo=False)
    if formats is not None:
        hv.Store.display_formats = formats
    _loading_cell = cell
