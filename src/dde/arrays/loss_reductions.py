"""Training losses that can't be compared; see :mod:`dde.curves.loss_reductions`."""

from dde.curves.loss_reductions import warn_of_reductions

__all__ = ["warn_of_reductions"]
