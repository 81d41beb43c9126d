"""Constants of evaluation tasks and perplexity sets for the tutorial's curves.

Instance counts and numbers of choices are those of the public benchmarks. All other numbers are chosen so that the
curves have realistic magnitudes; they describe no real model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.suite.datadecide.names import ENTRIES, MMLU_SUBJECTS, PERPLEXITY_SETS, PLAIN_TASKS

__all__ = ["ENTRY_INDEX", "RAW_ENTRIES", "RAW_TASKS", "TASKS", "SetFacts", "TaskFacts", "task_array"]

#: The 66 tasks of the raw tables, in their order.
RAW_TASKS: tuple[str, ...] = tuple(sorted((*PLAIN_TASKS, *MMLU_SUBJECTS)))

#: Entries of the raw tables' dicts, in their order; the remaining ENTRIES are only in W&B summaries.
RAW_ENTRIES: tuple[str, ...] = ENTRIES[: ENTRIES.index("primary_metric") + 1]
ENTRY_INDEX: dict[str, int] = {entry: k for k, entry in enumerate(RAW_ENTRIES)}

#: Tasks scored without an unconditioned pass, which do not have its entries.
NO_UNCONDITIONED = frozenset({"boolq", "winogrande"})
UNCONDITIONED_ENTRIES = frozenset(
    entry for entry in RAW_ENTRIES if entry.startswith("uncond") or entry.endswith("_uncond")
)


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """Parameters of the accuracy and the likelihoods of one task.

    Attributes
    ----------
    name : str
        Task of the raw tables.
    instances : int
        Number of questions; determines the binomial noise.
    choices : int
        Number of answers per question; chance is one over it.
    floor, ceiling : float
        Limits of the accuracy for high and for low loss.
    midpoint : float
        Loss at which accuracy is midway between them.
    width : float
        Width of the sigmoid in loss.
    chars, tokens : float
        Mean length of an answer.
    primary : str
        Entry that is the primary metric.
    """

    name: str
    instances: int
    choices: int
    floor: float
    ceiling: float
    midpoint: float
    width: float
    chars: float
    tokens: float
    primary: str


_PLAIN = (
    TaskFacts("arc_challenge", 1172, 4, 0.235, 0.62, 2.85, 0.32, 26.0, 5.2, "acc_uncond"),
    TaskFacts("arc_easy", 2376, 4, 0.260, 0.80, 3.30, 0.42, 20.0, 3.6, "acc_per_char"),
    TaskFacts("boolq", 3270, 2, 0.590, 0.80, 2.85, 0.20, 3.5, 1.0, "acc_raw"),
    TaskFacts("csqa", 1221, 5, 0.205, 0.75, 3.30, 0.40, 9.8, 1.6, "acc_uncond"),
    TaskFacts("hellaswag", 10042, 4, 0.250, 0.90, 3.00, 0.26, 135.0, 29.7, "acc_per_char"),
    TaskFacts("openbookqa", 500, 4, 0.245, 0.55, 3.15, 0.40, 16.7, 3.2, "acc_uncond"),
    TaskFacts("piqa", 1838, 2, 0.510, 0.85, 3.35, 0.55, 91.0, 21.0, "acc_per_char"),
    TaskFacts("socialiqa", 1954, 3, 0.350, 0.62, 3.00, 0.60, 18.6, 3.4, "acc_per_char"),
    TaskFacts("winogrande", 1267, 2, 0.500, 0.80, 2.75, 0.25, 22.5, 5.6, "acc_raw"),
)

# Questions of the MMLU test split, in the order of MMLU_SUBJECTS.
_MMLU_INSTANCES = (
    "100 135 152 100 265 144 100 100 100 173 102 100 235 114 145 378 126 100 310 203 100 165 198 193 390 "
    "270 238 151 545 216 204 237 223 131 121 108 163 112 103 234 100 783 346 895 306 311 324 282 1534 272 "
    "612 110 245 201 100 166 171"
)


def _mmlu_facts() -> list[TaskFacts]:
    facts = []
    for k, (name, count) in enumerate(zip(MMLU_SUBJECTS, _MMLU_INSTANCES.split(), strict=True)):
        # A fixed low-discrepancy sequence gives subjects different parameters without a table of 57 rows.
        a, b, c = (math.fmod((k + 1) * step, 1.0) for step in (0.6180339887, 0.7548776662, 0.5698402910))
        facts.append(
            TaskFacts(
                name, int(count), 4, 0.215 + 0.035 * a, 0.50 + 0.12 * b, 2.70 + 0.30 * c, 0.30, 18 + 40 * a,
                4 + 8 * a, "acc_raw",
            )
        )  # fmt: skip
    return facts


TASKS: tuple[TaskFacts, ...] = tuple(
    {facts.name: facts for facts in (*_PLAIN, *_mmlu_facts())}[name] for name in RAW_TASKS
)


def task_array(attribute: str) -> npt.NDArray[np.float64]:
    """Return one attribute of every task, (task,), in the order of ``RAW_TASKS``."""
    return np.array([getattr(facts, attribute) for facts in TASKS], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class SetFacts:
    """Parameters of the log perplexity of one set: `level` at a loss of 3.6, `slope` per unit of loss.

    `web` is the increase for a recipe that consists only of filtered web text.
    """

    name: str
    level: float
    slope: float
    web: float


PERPLEXITIES: tuple[SetFacts, ...] = (
    SetFacts("wikitext_103", 3.68, 1.50, 0.17),
    SetFacts("pile", 3.20, 1.20, 0.80),
    SetFacts("c4_en", 3.60, 1.00, -0.12),
    SetFacts("m2d2_s2orc", 4.15, 0.70, 0.15),
    SetFacts("ice", 3.70, 1.15, 1.40),
    SetFacts("dolma_wiki", 3.40, 1.15, 0.05),
    SetFacts("dolma_stack", 2.40, 1.20, 1.95),
    SetFacts("dolma_reddit", 3.75, 0.75, 0.30),
    SetFacts("dolma_pes2o", 3.30, 1.15, 0.06),
    SetFacts("dolma_common-crawl", 3.65, 0.95, -0.06),
    SetFacts("dolma_books", 3.75, 1.20, 1.10),
)

if tuple(facts.name for facts in PERPLEXITIES) != PERPLEXITY_SETS:  # the writer relies on one order
    raise AssertionError("perplexity sets of the tutorial and of dde.names differ")
