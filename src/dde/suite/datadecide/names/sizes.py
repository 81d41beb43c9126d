"""The 14 model sizes of the DataDecide suite: exact parameters, batch, schedule."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from dde.errors import UnknownNameError, near_names

__all__ = [
    "SEQUENCE_LENGTH",
    "SIZES",
    "ModelSize",
    "find_size",
    "find_size_by_params",
    "resolve_size",
    "training_flops",
]

#: Tokens in one pretraining sequence.
SEQUENCE_LENGTH = 2048

#: Steps past the schedule that a job may take before it counts as an overrun.
STOP_MARGIN = 20


@dataclass(frozen=True, slots=True)
class ModelSize:
    """One model size.

    Attributes
    ----------
    name : str
        Nominal size (``"150M"``); a label, never a number to compute with.
    n_params : int
        Exact count of non-embedding parameters.
    batch_size : int
        Sequences of 2,048 tokens in a training step.
    last_step : int
        Last scheduled training step; the checkpoint of the Hub revision ``main``.
    last_evaluated_step : int
        Last step of the schedule in the evaluation tables.
    """

    name: str
    n_params: int
    batch_size: int
    last_step: int
    last_evaluated_step: int

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one training step consumes."""
        return self.batch_size * SEQUENCE_LENGTH

    def tokens_at(self, step: int) -> int:
        """Return the tokens seen after `step` training steps."""
        return step * self.tokens_per_step

    def overruns(self, step: int) -> bool:
        """Return whether `step` is past the schedule.

        Jobs stop up to 20 steps after the last scheduled one (4M at 5,735), which counts as its end. The
        checkpoint lists have 55 such steps; the next one is 463 past the schedule.
        """
        return step > self.last_step + STOP_MARGIN

    @property
    def scheduled_tokens(self) -> int:
        """Tokens seen at the last scheduled step."""
        return self.tokens_at(self.last_step)


# Parameters, batch and schedule: the suite's model cards; 6 N tokens reproduces the table's `compute` to the digit.
SIZES: tuple[ModelSize, ...] = (
    ModelSize("4M", 3_744_832, 32, 5_725, 5_725),
    ModelSize("6M", 6_010_464, 32, 9_182, 9_182),
    ModelSize("8M", 8_538_240, 32, 13_039, 13_039),
    ModelSize("10M", 9_900_432, 32, 15_117, 15_117),
    ModelSize("14M", 14_380_224, 32, 21_953, 20_000),
    ModelSize("16M", 16_004_560, 32, 24_432, 24_432),
    ModelSize("20M", 19_101_888, 64, 14_584, 14_584),
    ModelSize("60M", 57_078_144, 96, 29_042, 29_042),
    ModelSize("90M", 97_946_640, 160, 29_901, 29_901),
    ModelSize("150M", 151_898_880, 192, 38_157, 37_500),
    ModelSize("300M", 319_980_544, 320, 45_787, 45_000),
    ModelSize("530M", 530_074_944, 448, 57_786, 51_250),
    ModelSize("750M", 681_297_408, 576, 63_589, 26_250),
    ModelSize("1B", 1_176_832_000, 704, 69_369, 69_369),
)

_BY_NAME = {size.name.casefold(): size for size in SIZES}

# Stores round the count (3,700,000 for 4M) and some have the nominal one (1e9 for 1B, 15% below the exact
# one); neighboring sizes are at least 11% apart, so the nearest on a log scale is unambiguous.
_LOG_TOLERANCE = math.log(1.25)


def find_size(name: str) -> ModelSize | None:
    """Return the size called `name` (``"150M"``), or None."""
    return _BY_NAME.get(str(name).strip().casefold())


def resolve_size(name: str) -> ModelSize:
    """Return the size called `name`.

    Raises
    ------
    UnknownNameError
        When the suite has no such size; lists them.

    Examples
    --------
    >>> resolve_size("150M").scheduled_tokens
    15003942912
    """
    size = find_size(name)
    if size is None:
        names = [s.name for s in SIZES]
        raise UnknownNameError(
            f"{name!r} is not a model size of the DataDecide suite, so no run can match it."
            f"{near_names(name, names)} The sizes are {', '.join(names)}."
        )
    return size


@functools.lru_cache(maxsize=4096)
def find_size_by_params(n_params: float) -> ModelSize | None:
    """Return the size whose exact parameter count is nearest to `n_params`, or None if none is near.

    Examples
    --------
    >>> find_size_by_params(3_700_000).name
    '4M'
    """
    if not (n_params >= 1 and math.isfinite(n_params)):
        return None
    size = min(SIZES, key=lambda s: abs(math.log(n_params / s.n_params)))
    return size if abs(math.log(n_params / size.n_params)) <= _LOG_TOLERANCE else None


def training_flops(n_params: int, tokens: int) -> int:
    """Return the FLOPs of training `n_params` parameters on `tokens` tokens: 6 N tokens."""
    return 6 * n_params * tokens
