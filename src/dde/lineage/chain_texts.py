"""Format and parse the coordinate `chain`: the runs of a curve, such as ``pretraining@0 > supervised_ft@786432``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from dde.errors import FormatError

__all__ = ["Stage", "extend_chain", "format_chain", "parse_chain"]

_BETWEEN, _AT, _TO = " > ", "@", ".."


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of a chain.

    Attributes
    ----------
    run_type : str
    start : int
        Cumulative tokens after which it begins; 0 for a root, whose first token is its own. For a merge, the tokens up
        to which its curve is that of its parents.
    merged_at : int or None
        Cumulative tokens of a merge of several parents: between `start` and `merged_at` it has no curve. None for a run
        with one parent.
    """

    run_type: str
    start: int
    merged_at: int | None = None


def format_chain(stages: Iterable[Stage]) -> str:
    """Return the text of a chain, beginning with its base.

    Examples
    --------
    >>> format_chain([Stage("pretraining", 0), Stage("supervised_ft", 786432)])
    'pretraining@0 > supervised_ft@786432'
    >>> format_chain([Stage("pretraining", 0), Stage("merge", 260, 300)])
    'pretraining@0 > merge@260..300'
    """
    return _BETWEEN.join(
        f"{s.run_type}{_AT}{s.start}" + ("" if s.merged_at is None else f"{_TO}{s.merged_at}") for s in stages
    )


def extend_chain(chain: str, stage: Stage) -> str:
    """Return the text of a chain with one more run.

    Examples
    --------
    >>> extend_chain("pretraining@0", Stage("dpo", 786432))
    'pretraining@0 > dpo@786432'
    """
    return f"{chain}{_BETWEEN}{format_chain([stage])}"


@lru_cache(maxsize=4096)
def parse_chain(text: str) -> tuple[Stage, ...]:
    """Return the stages of a chain; () for "".

    Raises
    ------
    FormatError
        When the text is not a chain.

    Examples
    --------
    >>> parse_chain("pretraining@0 > dpo@786432")[1].start
    786432
    >>> parse_chain("pretraining@0 > merge@260..300")[1].merged_at
    300
    """
    stages = []
    for part in text.split(_BETWEEN) if text else []:
        run_type, _, tokens = part.rpartition(_AT)
        start, is_merge, merged_at = tokens.partition(_TO)
        if not run_type or not start.isdecimal() or (is_merge and not merged_at.isdecimal()):
            raise FormatError(
                f"the coordinate chain contains {text!r}, which does not name runs and the tokens at which they begin, "
                "so the runs of its cells are unknown. Keep the coordinate as dde.open_lineages() gives it."
            )
        stages.append(Stage(run_type, int(start), int(merged_at) if is_merge else None))
    return tuple(stages)
