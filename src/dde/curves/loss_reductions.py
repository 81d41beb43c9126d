"""Training losses that can't be compared: reduced over the batch in different ways."""

from __future__ import annotations

from collections.abc import Iterable

from dde.errors import warn_caller

__all__ = ["warn_of_reductions"]


def warn_of_reductions(reductions: Iterable[object]) -> None:
    """Warn when training losses of one view are reduced in different ways, such as ``sum`` and ``mean``.

    Parameters
    ----------
    reductions : iterable of str
        ``reduce_loss`` of the runs whose ``train_loss`` is shown, averaged or put into one frame; "" where there is
        no run, or nothing says.

    Warns
    -----
    DdeWarning
        When there is more than one.
    """
    ways = sorted({str(r) for r in reductions} - {""})
    if len(ways) > 1:
        warn_caller(
            f"the runs reduce train_loss in different ways ({', '.join(ways)}), so their values can't be compared. "
            "Select one: ds.dde.sel(reduce_loss=...), or in a frame the rows that runs of one reduction logged."
        )
