"""Options of questions as texts, as a command line or an input field gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dde.errors import UnknownNameError

__all__ = ["parse_conditions", "parse_place", "parse_target", "parse_value"]


def parse_value(text: str) -> float | str | slice:
    """Convert a text to a number, a range such as 1e-6:1e-4, or itself.

    Examples
    --------
    >>> parse_value("2"), parse_value("1e-6:1e-4"), parse_value("1B")
    (2.0, slice(1e-06, 0.0001, None), '1B')
    """
    low, colon, high = text.partition(":")
    try:
        if colon:
            return slice(float(low) if low else None, float(high) if high else None)
        return float(text)
    except ValueError:
        return text


def parse_place(text: str | None) -> Any:
    """Convert the place of a comparison: a word, a number of tokens, or AXIS=POSITION; None stays None.

    Examples
    --------
    >>> parse_place("last"), parse_place("2e9"), parse_place("fraction_of_training=0.5")
    ('last', 2000000000.0, {'fraction_of_training': 0.5})
    """
    if text is None:
        return None
    name, equals, value = text.partition("=")
    if equals:
        return {name: parse_value(value)}
    return parse_value(text)


def parse_conditions(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Convert texts NAME=VALUE, where a repeated name collects its values.

    Parameters
    ----------
    texts : sequence of str
    option : str
        Name of the option, for the error.

    Raises
    ------
    UnknownNameError
        When a text is not NAME=VALUE.

    Examples
    --------
    >>> parse_conditions(["params=1B", "seed=0", "seed=1"], "target")
    {'params': '1B', 'seed': [0.0, 1.0]}
    """
    conditions: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UnknownNameError(f"{option} {text!r} is not NAME=VALUE, such as params=1B.")
        conditions.setdefault(name, []).append(parse_value(value))
    return {name: values[0] if len(values) == 1 else values for name, values in conditions.items()}


def parse_target(texts: Sequence[str], option: str) -> Any:
    """Convert a target: numbers, the label of a run, or conditions NAME=VALUE.

    Parameters
    ----------
    texts : sequence of str
    option : str
        Name of the option, for the error.

    Raises
    ------
    UnknownNameError
        When several targets are not numbers, or one of several conditions is not NAME=VALUE.

    Examples
    --------
    >>> parse_target(["0.5", "0.6"], "target"), parse_target(["pretraining"], "target")
    ([0.5, 0.6], 'pretraining')
    """
    if any("=" in text for text in texts):
        return parse_conditions(texts, option)
    values = [parse_value(text) for text in texts]
    if len(values) > 1 and any(isinstance(v, str) for v in values):
        raise UnknownNameError(f"{option}: several targets must be numbers. Ask for each run by itself.")
    return values[0] if len(values) == 1 else values
