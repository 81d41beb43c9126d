"""Checks of options that several questions have: names of factors, numbers, draws and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dde.errors import UnknownNameError

__all__ = ["check_draws", "check_number", "check_seed", "check_whole", "names_of"]


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


def check_whole(option: str, value: object, least: int, example: int) -> None:
    """Check that an option is a whole number.

    Parameters
    ----------
    option : str
    value : object
        As the caller passed it.
    least : int
        The smallest number allowed.
    example : int
        A number to pass.

    Raises
    ------
    UnknownNameError
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UnknownNameError(
            f"{option}={value!r} is not a whole number of at least {least}. Pass one, such as {option}={example}."
        )


def check_draws(samples: int, seed: int) -> None:
    """Check the number of draws of a bootstrap, and the seed of their random numbers.

    Raises
    ------
    UnknownNameError
        When the number is not a positive whole number, or the seed is negative or not a whole number.
    """
    check_whole("samples", samples, 1, 1000)
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Check the seed of random numbers.

    Raises
    ------
    UnknownNameError
        When it is not a whole number of at least 0.
    """
    check_whole("seed", seed, 0, 0)


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
