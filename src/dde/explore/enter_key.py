"""Enter in the fields of a form, as a component that is drawn in the browser."""

from __future__ import annotations

import param
from panel.custom import JSComponent

__all__ = ["EnterKey"]


class EnterKey(JSComponent):
    """Counts Enter in the fields beside it.

    Attributes
    ----------
    pressed : int
    """

    pressed = param.Integer(default=0)

    _esm = """
export function render({model, el}) {
  const on_key = (event) => {
    const path = event.composedPath(), field = path[0]
    // The keys of all fields of the form come through the shadow root that has this component.
    const form = el.getRootNode().host?.parentNode
    const takes_text = field.tagName == "INPUT" && ["text", "number"].includes(field.type)
    // In a list of choices, Enter picks an entry.
    if (event.key == "Enter" && takes_text && path.includes(form) && !field.classList.contains("choices__input"))
      setTimeout(() => { model.pressed += 1 }, 30)
  }
  document.addEventListener("keyup", on_key)
  model.on("remove", () => document.removeEventListener("keyup", on_key))
  return document.createElement("span")
}
"""
