"""One metric of a Dataset, under its canonical name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Metric", "MetricKind", "identifier"]

MetricKind = Literal["evaluation", "perplexity", "log"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric under its canonical name.

    Attributes
    ----------
    name : str
        Name of the data variable; a Python identifier (``"pile_valppl"``).
    kind : {"evaluation", "perplexity", "log"}
        Source of the values: an OLMES evaluation, a perplexity table, or a training log.
    task : str
        Task or evaluation set; for a log, "".
    entry : str
        Entry of the evaluation (``"acc_raw"``), ``"perplexity"``, or the log's key.
    long_name : str
        Text for axis labels.
    units : str
        Unit; "1" for a plain number.
    direction : {"higher", "lower", ""}
        Direction in which values are better; "" for neither.
    source_name : str
        Key in the source, where it does not follow from the other attributes.
    stderr_of : str
        Name of the metric whose standard error this is; "" for none.
    """

    name: str
    kind: MetricKind
    task: str
    entry: str
    long_name: str
    units: str
    direction: str
    source_name: str = ""
    stderr_of: str = ""

    @property
    def joins_at_branch(self) -> bool:
        """Whether a derived run's curve may start from its parent's observation at the branch.

        Evaluations on one set are comparable across a branch; a training log is not, because data, loss reduction and
        objective change there.
        """
        return self.kind != "log"


def identifier(name: str) -> str:
    """Return `name` as a Python identifier: sequences of other characters become an underscore.

    Examples
    --------
    >>> identifier("rewards/chosen")
    'rewards_chosen'
    """
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return f"_{text}" if not text or text[0].isdigit() else text
