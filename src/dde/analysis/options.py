"""Checks of options that several questions have: names of factors, and seeds of random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dde.errors import UnknownNameError

__all__ = ["check_number", "check_seed", "names_of"]


def names_of(option: str, value: object) -> tuple[str, ...]:
    """Return the names that an option has: one text, or several.

    Parameters
    ----------
    option : str
        Name of the option, for the error.
    value : object
        As the caller passed it.

    Raises
    ------
    UnknownNameError
        When it is neither a text nor an iterable of texts.

    Examples
    --------
    >>> names_of("over", "seed"), names_of("over", ["seed", "data", "seed"])
    (('seed',), ('seed', 'data'))
    """
    if isinstance(value, str):
        return (str(value),)
    several = None if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable) else list(value)
    if several is None or not all(isinstance(name, str) for name in several):
        raise UnknownNameError(
            f"{option}={value!r} is neither a name nor several, so what it selects is unknown. Pass a text, or a list "
            f"of texts such as {option}=['seed']."
        )
    return tuple(dict.fromkeys(map(str, several)))


def check_seed(seed: int) -> None:
    """Check the seed of random numbers.

    Raises
    ------
    UnknownNameError
        When it is not a whole number of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UnknownNameError(
            f"seed={seed!r} is not a whole number of at least 0, so random numbers can't be drawn from it. Pass one, "
            "such as 0."
        )


def check_number(option: str, value: object, meaning: str, example: str) -> None:
    """Check that an option is a number, before its range is checked.

    Parameters
    ----------
    option : str
    value : object
        As the caller passed it.
    meaning : str
        What it would be, such as "a share of observations".
    example : str
        What to pass.

    Raises
    ------
    UnknownNameError
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise UnknownNameError(f"{option}={value!r} is not {meaning}. Pass {example}.")
