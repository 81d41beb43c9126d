"""Protocol: what making values along the curves of runs needs of their source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dde.curves.alignment import Chains
from dde.curves.chains import CurvePoints
from dde.curves.metric import Metric
from dde.curves.observations import Observations

__all__ = ["RunSource"]


class RunSource(Protocol):
    """Runs as far as values along their curves are concerned."""

    def chains(self, run_ids: Sequence[str]) -> Chains:
        """Return runs with all that their curves consist of, parents before children."""
        ...

    def table_sampling(self, metric: Metric) -> str:
        """Return the sampling that a metric shares with others, known without its values; "" for one of its own."""
        ...

    def sampled_points(self, sampling: str, chains: Chains) -> CurvePoints:
        """Return where runs themselves were sampled in a sampling that several metrics share."""
        ...

    def observations(self, metric: Metric, run_ids: tuple[str, ...], variables: Sequence[Metric]) -> Observations:
        """Return the own observations of a metric; those of other `variables` that are read along are cached."""
        ...
