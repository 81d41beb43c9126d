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
        Where values come from: an OLMES evaluation, a perplexity table, a training log.
    task : str
        Task or evaluation set; for a log, "".
    entry : str
        Entry of the evaluation (``"acc_raw"``), ``"perplexity"``, or the log's key.
    long_name : str
        What stands at an axis.
    units : str
        Unit; "1" for a plain number.
    direction : {"higher", "lower", ""}
        Which way is better; "" where neither is.
    source_name : str
        Key of the source, where it follows from nothing else.
    stderr_of : str
        Name of the metric that it is the standard error of; "" for none.
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

        Evaluations of one model on one set are comparable across a branch; a training log is not, for
        data, loss reduction and objective change there.
        """
        return self.kind != "log"


def identifier(name: str) -> str:
    """Return `name` as a Python identifier: every other sign becomes an underscore.

    Examples
    --------
    >>> identifier("rewards/chosen")
    'rewards_chosen'
    """
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return f"_{text}" if not text or text[0].isdigit() else text
