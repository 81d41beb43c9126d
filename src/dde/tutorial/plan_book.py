"""The book that post-training runs are planned in: names and launch times follow from a run's facts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dde.suite.datadecide.names import Base
from dde.tutorial.curves import random_stream
from dde.tutorial.run_plans import BATCH, FULL_SEQUENCES, RunPlan, launch_stamp, rate_text

__all__ = ["PlanBook", "budget_sequences"]

_FIRST_LAUNCH = datetime(2025, 8, 18, 22, 30, 5)


def budget_sequences(budget: str) -> tuple[int, int]:
    """Return sequences an epoch and epochs of a token budget."""
    if budget == "Ft":
        return FULL_SEQUENCES, 2
    millions, epochs = budget.split("Mtx")
    return 1400 * int(millions), int(epochs)


@dataclass
class PlanBook:
    """Plans in the order of their launch; gives each its launch time.

    Attributes
    ----------
    seed : int
        Seed of the suite.
    plans : list of RunPlan
        What has been planned.
    """

    seed: int
    plans: list[RunPlan] = field(default_factory=list)

    def launch(self) -> datetime:
        """Return the time at which the next run is launched."""
        k = len(self.plans)
        wait = random_stream(self.seed, "launch", k).integers(0, 3000)
        return _FIRST_LAUNCH + timedelta(hours=2 * k, seconds=int(wait) if k else 0)

    def sft(
        self,
        base: Base | None,
        rate: float,
        budget: str,
        form: str,
        *,
        step: int | None = None,
        quirks: Iterable[str] = (),
        epochs: int | None = None,
        **facts: object,
    ) -> RunPlan:
        """Plan a finetuning run.

        Parameters
        ----------
        base : Base or None
            Pretraining run to start from.
        rate : float
            Learning rate.
        budget : str
            Token budget.
        form : str
            Form of the run's name, a template with the fields ``date``, ``short``, ``slug``, ``params``,
            ``step``, ``index``, ``budget``, ``millions``, ``lr``, ``reduce``, ``samples``; what follows ``|``
            is left out of the group's name.
        step : int, optional
            Step of the checkpoint; the last scheduled one by default.
        quirks : iterable of str
            Irregularities.
        epochs : int, optional
            Epochs, where the budget does not say them.
        **facts
            Further fields of the plan.
        """
        when = self.launch()
        sequences, by_budget = budget_sequences(budget)
        fields = {
            "date": launch_stamp(when),
            "short": launch_stamp(when, short=True),
            "budget": budget,
            "millions": budget.split("M")[0],
            "lr": rate_text(rate),
            "reduce": facts.get("reduce_loss", "sum"),
            "samples": sequences,
        }
        if base is not None:
            fields |= {
                "slug": base.recipe.slug,
                "params": base.size.name,
                "step": base.size.last_step if step is None else step,
                "index": base.seed.index,
            }
        name = form.format(**fields)
        plan = RunPlan(
            run_id=name.replace("|", ""),
            group=name.split("|")[0],
            run_type="supervised_ft",
            base=base,
            branch_step=0 if base is None else base.size.last_step if step is None else step,
            learning_rate=rate,
            budget=budget,
            sequences=sequences,
            epochs=by_budget if epochs is None else epochs,
            launched=when,
            quirks=frozenset(quirks),
            **facts,  # type: ignore[arg-type]
        )
        self.plans.append(plan)
        return plan

    def dpo(
        self,
        parent: RunPlan | str,
        base: Base,
        rate: float,
        *,
        sequences: int,
        absent: tuple[float, str] = (0.0, ""),
        quirks: Iterable[str] = (),
        beta: float = 5.0,
        branch_step: int | None = None,
        **facts: object,
    ) -> RunPlan:
        """Plan a DPO run on a finetuning run.

        Parameters
        ----------
        parent : RunPlan or str
            The run to start from, or the name of one that the store does not hold.
        base : Base
            Pretraining run of the lineage.
        rate : float
            Learning rate.
        sequences : int
            Pairs of answers.
        absent : tuple of float and str
            Learning rate and budget of a parent that the store does not hold.
        quirks : iterable of str
            Irregularities.
        beta : float
            DPO's beta.
        branch_step : int, optional
            Step of the checkpoint that the chain started from; the last scheduled one by default.
        **facts
            Further fields of the plan.
        """
        when = self.launch()
        parent_rate, parent_budget = absent
        if isinstance(parent, RunPlan):
            short = parent.budget.split("x")[0].removesuffix("t") + "t"
            parent_budget = "dpo" if parent.run_type == "dpo" else "Ft" if short == "Ft" else short
            parent_rate = parent.learning_rate
        group = (
            f"{launch_stamp(when)}_test_dpo_tune_cache_dd__{base.recipe.slug}-{base.size.name}__main__"
            f"{parent_budget}_lr={rate_text(parent_rate)}"
        )
        here = isinstance(parent, RunPlan)
        plan = RunPlan(
            run_id=f"{group}_default_--learning_rate={rate_text(rate)}",
            group=group,
            run_type="dpo",
            base=base,
            branch_step=base.size.last_step if branch_step is None else branch_step,
            learning_rate=rate,
            budget="Ft",
            sequences=sequences,
            epochs=1,
            launched=when,
            parent=parent if isinstance(parent, RunPlan) else None,
            absent_parent="" if here else str(parent),
            reduce_loss="mean",
            beta=beta,
            quirks=frozenset(quirks),
            **facts,  # type: ignore[arg-type]
        )
        self.plans.append(plan)
        return plan

    def other(self, name: str, **facts: object) -> RunPlan:
        """Plan a run of another program."""
        when = self.launch()
        plan = RunPlan(
            run_id=name.format(date=launch_stamp(when)),
            group=name.format(date=launch_stamp(when)),
            run_type="other",
            base=None,
            branch_step=0,
            learning_rate=float("nan"),
            budget="Ft",
            sequences=BATCH,
            epochs=1,
            launched=when,
            quirks=frozenset({"other_type"}),
            **facts,  # type: ignore[arg-type]
        )
        self.plans.append(plan)
        return plan
