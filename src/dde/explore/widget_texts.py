"""Values of widgets as texts, as an address has them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import panel as pn

from dde.explore.tabs import value_text

__all__ = ["parsed", "set_texts", "texts_of"]


def texts_of(widget: Any) -> list[str]:
    """Return the value of a widget as texts: of a list of choices, one for each that is chosen.

    Examples
    --------
    >>> import panel as pn
    >>> texts_of(pn.widgets.MultiChoice(options={"size=4M": ("size", "4M")}, value=[("size", "4M")]))
    ['size=4M']
    >>> texts_of(pn.widgets.Checkbox(value=True)), texts_of(pn.widgets.IntInput(value=None))
    (['true'], [''])
    """
    value = widget.value
    if hasattr(widget, "options"):
        chosen = value if isinstance(value, list) else [value]
        return [text for text, of in _options(widget).items() if of in chosen]
    return [value_text(value)]


def set_texts(widget: Any, texts: Sequence[str]) -> list[str]:
    """Set a widget to the value that :func:`texts_of` gave as texts, and return the texts that are no value of it.

    Nothing is set when none of the texts is a value.

    Examples
    --------
    >>> import panel as pn
    >>> widget = pn.widgets.MultiChoice(options=["a", "b"])
    >>> set_texts(widget, ["b", "gone"]), widget.value
    (['gone'], ['b'])
    >>> set_texts(pn.widgets.FloatInput(), ["many"])
    ['many']
    """
    if hasattr(widget, "options"):
        options = _options(widget)
        found = [options[text] for text in texts if text in options]
        if isinstance(widget.value, list):
            if found or not any(texts):
                widget.value = found
        elif found:
            widget.value = found[-1]
        return [text for text in texts if text not in options and text]
    try:
        widget.value = parsed(widget, texts[-1])
    except ValueError:
        return [texts[-1]]
    return []


def _options(widget: Any) -> dict[str, Any]:
    """Return the options of a widget by their texts: a text that is chosen, or the label of what is no text."""
    options = widget.options
    pairs = options.items() if isinstance(options, dict) else ((str(value), value) for value in options)
    # Labels are HTML to lists with a search.
    return {value if isinstance(value, str) else html.unescape(label): value for label, value in pairs}


def parsed(widget: Any, text: str) -> Any:
    """Return the value of a widget without options from its text.

    Raises
    ------
    ValueError
        When it is not the text of a value.

    Examples
    --------
    >>> parsed(pn.widgets.Checkbox(), "true"), parsed(pn.widgets.IntInput(), ""), parsed(pn.widgets.FloatInput(), "2")
    (True, None, 2.0)
    """
    if isinstance(widget, pn.widgets.Checkbox):
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    if isinstance(widget, pn.widgets.IntInput):
        return int(text) if text else None
    if isinstance(widget, pn.widgets.TextInput):
        return text
    return None if isinstance(widget, pn.widgets.FloatInput) and not text else float(text)
