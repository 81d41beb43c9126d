"""The coordinate `chain`: the runs that a curve consists of, such as ``pretraining@0 > supervised_ft@786432``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from dde.errors import FormatError

__all__ = ["Stage", "format_chain", "parse_chain"]

_BETWEEN, _AT = " > ", "@"


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of a chain.

    Attributes
    ----------
    run_type : str
    start : int
        Cumulative tokens that it begins behind; 0 for a pretraining run, whose first token is its own.
    """

    run_type: str
    start: int


def format_chain(stages: Iterable[Stage]) -> str:
    """Return the text of a chain, from its base on.

    Examples
    --------
    >>> format_chain([Stage("pretraining", 0), Stage("supervised_ft", 786432)])
    'pretraining@0 > supervised_ft@786432'
    """
    return _BETWEEN.join(f"{s.run_type}{_AT}{s.start}" for s in stages)


@lru_cache(maxsize=4096)
def parse_chain(text: str) -> tuple[Stage, ...]:
    """Return the stages of a chain; none of "".

    Raises
    ------
    FormatError
        When the text is no chain.

    Examples
    --------
    >>> parse_chain("pretraining@0 > dpo@786432")[1].start
    786432
    """
    stages = []
    for part in text.split(_BETWEEN) if text else []:
        run_type, _, start = part.rpartition(_AT)
        if not run_type or not start.isdecimal():
            raise FormatError(
                f"the coordinate chain holds {text!r}, which does not name runs and where they begin, so which run a "
                "cell is of is unknown. Keep the coordinate as dde.open_lineages() gives it."
            )
        stages.append(Stage(run_type, int(start)))
    return tuple(stages)
