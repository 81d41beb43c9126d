"""The five pretraining seeds of the DataDecide suite, with their three names."""

from __future__ import annotations

from dataclasses import dataclass

from dde.errors import UnknownNameError, near_names

__all__ = ["SEEDS", "Seed", "find_seed", "find_seed_by_raw", "resolve_seed"]


@dataclass(frozen=True, slots=True)
class Seed:
    """One pretraining seed.

    Attributes
    ----------
    index : int
        Number in parsed tables and in run names (0 to 4).
    name : str
        Name in the raw tables (``"small aux 2"``).
    raw : int
        Random seed of the training program, used in checkpoint lists.
    """

    index: int
    name: str
    raw: int

    @property
    def dashed(self) -> str:
        """Name with dashes for spaces, as in Hub revisions and lineage labels."""
        return self.name.replace(" ", "-")


SEEDS: tuple[Seed, ...] = (
    Seed(0, "default", 6198),
    Seed(1, "small aux 2", 14),
    Seed(2, "small aux 3", 15),
    Seed(3, "large aux 2", 4),
    Seed(4, "large aux 3", 5),
)

_BY_NAME = {seed.name: seed for seed in SEEDS}
_BY_RAW = {seed.raw: seed for seed in SEEDS}


def find_seed(value: object) -> Seed | None:
    """Return the seed with the index or name `value` (dashes count as spaces), or None."""
    text = str(value).strip().casefold().replace("-", " ").replace("_", " ")
    if text in _BY_NAME:
        return _BY_NAME[text]
    try:
        # Parsed from the original text, in which a minus sign is not replaced by a space.
        number = float(str(value))
    except ValueError:
        return None
    return SEEDS[int(number)] if number.is_integer() and 0 <= number < len(SEEDS) else None


def find_seed_by_raw(raw: int) -> Seed | None:
    """Return the seed whose training program used the random seed `raw`, or None."""
    return _BY_RAW.get(raw)


def resolve_seed(value: object) -> Seed:
    """Return the seed with the index or name `value`.

    Raises
    ------
    UnknownNameError
        When the suite has no such seed; lists them.

    Examples
    --------
    >>> resolve_seed("small-aux-2").index
    1
    """
    seed = find_seed(value)
    if seed is None:
        names = [s.name for s in SEEDS]
        raise UnknownNameError(
            f"{value!r} is not a seed of the DataDecide suite, so no run can match it."
            f"{near_names(value, names)} Seeds are 0 to 4 or {', '.join(names)}."
        )
    return seed
