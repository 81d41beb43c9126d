"""Load BokehJS in notebooks: once, from the installed packages, so that pictures show without a network."""

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
    """Let Panel take scripts and styles from the installed packages, unless its extension was loaded before.

    Outside of a notebook, nothing changes. The environment variable ``PANEL_INLINE`` has precedence.
    """
    import holoviews as hv
    import panel as pn

    config: Any = pn.config
    if running_cell() is not None and not (pn.extension._loaded or hv.extension._loaded):
        config.inline = True


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
    if getattr(hv.Store.renderers.get(name), "_loaded", False) and not runs_again:
        return
    formats = hv.Store.display_formats if hv.extension._loaded else None
    use_installed_resources()
    if not (pn.extension._loaded and pn.config.inline):
        # An extension leaves out scripts if one was called in the same execution of a cell, even without scripts.
        pyviz_comms.extension._last_execution_count = None
    hv.extension(name, inline=pn.config.inline or "PANEL_INLINE" not in os.environ, logo=False)
    if formats is not None:
        hv.Store.display_formats = formats
    _loading_cell = cell
