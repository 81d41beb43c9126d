"""Alignment by a kernel, straight into the block that was asked for, a part of the lineages in each thread."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.curves.alignment import Chains, Interpolation, align
from dde.curves.observations import Observations
from dde.native import Alignment, address, library, processors

__all__ = ["align_into"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

# Numbers in curves.c. A monotone cubic is SciPy's.
_METHODS = {"linear": 0, "log": 1, "nearest": 2, "previous": 3}
# Starting a thread takes as long as filling some 100 KB.
_THREADED_BYTES = 4 << 20


def align_into(
    chains: Chains,
    own: Observations,
    grid: Int64,
    how: Interpolation,
    joins_at_branch: bool,
    rows: Sequence[int],
    at: npt.NDArray[np.intp],
    out: Float64,
    codes: npt.NDArray[np.int8] | None = None,
) -> None:
    """Put continuous curves of runs on a grid where they belong.

    Parameters
    ----------
    chains, own, grid, how, joins_at_branch
        As for :func:`dde.curves.alignment.align`.
    rows : sequence of int
        Runs of `chains` that are asked for; one may stand several times.
    at : (asked,) int array
        Row of `out` that each of them goes to.
    out : (row, token) float64 array
        Contiguous.
    codes : (row, token) int8 array, optional
        Where their support goes.
    """
    kernels = library()
    if kernels is None or how.method not in _METHODS or not len(grid):
        curves, support = align(chains, own, grid, how, joins_at_branch, codes is not None, rows)
        out[at] = curves
        if codes is not None and support is not None:
            codes[at] = support
        return
    n_runs = len(chains.run_ids)
    wanted = np.asarray(rows, np.int64)
    first = np.full(n_runs, -1, np.int64)
    # Of a run that is asked for twice the first place is filled, and copied to the others.
    first[wanted[::-1]] = at[::-1]
    ancestors = np.flatnonzero(first < 0)
    spare = np.empty((len(ancestors), len(grid)))
    spare_codes = np.empty(spare.shape if codes is not None else (0, 0), np.int8)
    grid = np.ascontiguousarray(grid, np.int64)
    in_logs = how.method == "log"
    with np.errstate(divide="ignore"):
        log_tokens, log_grid = (np.log(x) if in_logs else None for x in (own.tokens, grid))
    grid_as_double = grid.astype(np.float64)
    held: list[npt.NDArray[Any]] = [
        np.ascontiguousarray(chains.parent, np.int32),
        np.ascontiguousarray(chains.branch, np.int64),
        np.ascontiguousarray(own.offsets, np.int64),
        np.ascontiguousarray(own.tokens, np.int64),
        np.ascontiguousarray(own.values, np.float64),
        _addresses(out, first, spare, ancestors),
    ]
    parent, branch, offsets, tokens, values, targets = [address(array) for array in held]
    support_targets = None if codes is None else _addresses(codes, first, spare_codes, ancestors)
    task = Alignment(
        n_runs=n_runs,
        parent=parent,
        branch=branch,
        offsets=offsets,
        tokens=tokens,
        log_tokens=None if log_tokens is None else address(log_tokens),
        values=values,
        n_points=len(grid),
        grid=address(grid),
        grid_as_double=address(grid_as_double),
        log_grid=None if log_grid is None else address(log_grid),
        method=_METHODS[how.method],
        joins=joins_at_branch,
        bridges=how.bridge,
        max_gap=-1 if how.max_gap is None else int(how.max_gap),
        out=targets,
        codes=None if support_targets is None else address(support_targets),
    )
    longest = int(np.diff(own.offsets).max(initial=0)) + 1

    def align_part(part: int, parts: int) -> None:
        roots, x = np.empty(n_runs, np.int32), np.empty(longest, np.int64)
        x_log, y = np.empty(longest), np.empty(longest)
        kernels.dde_align(ctypes.byref(task), part, parts, address(roots), address(x), address(x_log), address(y))

    parts = processors() if len(wanted) * len(grid) * 8 >= _THREADED_BYTES else 1
    if parts == 1:
        align_part(0, 1)
    else:
        with ThreadPoolExecutor(parts) as threads:
            for _ in threads.map(align_part, range(parts), [parts] * parts):
                pass
    again = first[wanted] != at
    out[at[again]] = out[first[wanted[again]]]
    if codes is not None:
        codes[at[again]] = codes[first[wanted[again]]]


def _addresses(
    block: npt.NDArray[np.generic], row: Int64, spare: npt.NDArray[np.generic], ancestors: Int64
) -> npt.NDArray[np.uint64]:
    """Return where each run's row lies: in the block, or among the spare rows for ancestors that nobody asked for."""
    places = address(block) + row * block.strides[0]
    places[ancestors] = address(spare) + np.arange(len(ancestors)) * (spare.strides[0] if len(ancestors) else 0)
    return places.astype(np.uint64)
