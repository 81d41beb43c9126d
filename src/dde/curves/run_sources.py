"""Protocol: what making values along the curves of runs needs of a source; and the two stores of DataDecide as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dde.curves.alignment import Chains
from dde.curves.chains import CurvePoints, build_chains
from dde.curves.observations import Observations, read_observations
from dde.names import Metric
from dde.relations.run_positions import RunPositions
from dde.schema import EVALUATIONS, PERPLEXITIES

__all__ = ["RunSource", "StoreRuns", "table_sampling"]

Int64 = npt.NDArray[np.int64]

_NONE: Int64 = np.empty(0, np.int64)


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


def table_sampling(metric: Metric) -> str:
    """Return the sampling of the evaluation tables that a metric belongs to; "" for one of a log."""
    return {"evaluation": EVALUATIONS, "perplexity": PERPLEXITIES}.get(metric.kind, "")


@dataclass(frozen=True, eq=False)
class StoreRuns:
    """Runs of the tables and of the post-training store.

    Attributes
    ----------
    runs : RunPositions
    """

    runs: RunPositions

    def chains(self, run_ids: Sequence[str]) -> Chains:
        """Return runs with all their ancestors, parents before children."""
        return build_chains(self.runs, list(run_ids))

    def table_sampling(self, metric: Metric) -> str:
        """Return the sampling of the tables that a metric belongs to; "" for one of a log."""
        return table_sampling(metric)

    def sampled_points(self, sampling: str, chains: Chains) -> CurvePoints:
        """Return where runs themselves were sampled in one of the tables."""
        runs = self.runs
        steps, bases, placed = runs.table_steps(sampling), runs.bases, runs.placed
        points: list[Int64] = []
        # Tokens of a step; of a derived run its end stands in place of a step.
        per_step: list[int] = []
        for run_id, parent in zip(chains.run_ids, chains.parent.tolist(), strict=True):
            found, scale = _NONE, 1
            if parent < 0:
                if run_id in steps:
                    found, scale = steps[run_id], bases[run_id].size.tokens_per_step
            elif sampling == EVALUATIONS and runs.is_evaluated(run_id):
                end = placed[run_id].end_tokens
                found = _NONE if end is None else np.array([end], np.int64)
            points.append(found)
            per_step.append(scale)
        lengths = [len(t) for t in points]
        tokens = np.concatenate([_NONE, *points]) * np.repeat(np.array(per_step, np.int64), lengths)
        return CurvePoints(np.concatenate([[0], np.cumsum(lengths)]), tokens)

    def observations(self, metric: Metric, run_ids: tuple[str, ...], variables: Sequence[Metric]) -> Observations:
        """Return the observations of a metric; its siblings that are read along are kept, here or in the cache."""
        runs = self.runs
        if metric.kind == "log":
            found = runs.readers.find_log(run_ids, metric.name)
            if found is None:
                found = read_observations(runs, run_ids, [metric])[metric.name]
                runs.readers.keep_log(run_ids, metric.name, found)
            return found
        found = runs.readers.take_sibling(run_ids, metric.name)
        if found is not None:
            return found
        together = [metric] if runs.tables is None else runs.tables.read_together(metric, variables)
        if runs.readers.keeps_tables:
            return read_observations(runs, run_ids, [metric], together[1:])[metric.name]
        observed = read_observations(runs, run_ids, together)
        for sibling in together[1:]:
            runs.readers.keep_sibling(run_ids, sibling.name, observed[sibling.name])
        return observed[metric.name]
