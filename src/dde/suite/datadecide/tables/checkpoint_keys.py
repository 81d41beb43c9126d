"""One number for a run and a step, by which rows of tables are ordered and found."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_STEP", "join_keys", "key_runs", "key_steps"]

Int64 = npt.NDArray[np.int64]

_STEP_BITS = 32
#: Largest step that a key can hold. The longest run of the suite has 423,865 steps.
MAX_STEP = 2**_STEP_BITS - 1


def join_keys(runs: npt.NDArray[np.integer], steps: npt.NDArray[np.integer]) -> Int64:
    """Return a number for each run and step that is ordered by run, then step.

    Parameters
    ----------
    runs : (row,) integer array
        At least 0, and below 2**31.
    steps : (row,) integer array
        From 0 to `MAX_STEP`. Whoever reads steps from a store counts and leaves out all others.

    Raises
    ------
    ValueError
        When a run or step is out of these bounds: its key would be that of another run.

    Examples
    --------
    >>> keys = join_keys(np.array([0, 1]), np.array([1250, 0]))
    >>> key_runs(keys).tolist(), key_steps(keys).tolist()
    ([0, 1], [1250, 0])
    """
    for numbers, most in ((runs, 2 ** (63 - _STEP_BITS) - 1), (steps, MAX_STEP)):
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) > most):
            raise ValueError(f"a run or step lies outside of 0 to {most}")
    keys = runs.astype(np.int64) << _STEP_BITS
    keys |= steps.astype(np.int64, copy=False)
    return keys


def key_runs(keys: Int64) -> Int64:
    """Return the run of each key."""
    runs: Int64 = keys >> _STEP_BITS
    return runs


def key_steps(keys: Int64) -> Int64:
    """Return the step of each key."""
    steps: Int64 = keys & MAX_STEP
    return steps
