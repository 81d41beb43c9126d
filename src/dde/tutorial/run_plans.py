"""Plans of the tutorial's post-training runs: true parents, treatments, lengths, names and launch times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dde.suite.datadecide.names import Base, resolve_recipe, resolve_size
from dde.suite.datadecide.names.seeds import SEEDS
from dde.tutorial.latent_curves import random_stream

__all__ = [
    "FULL_SEQUENCES",
    "LAB",
    "TOKENS_PER_SEQUENCE",
    "PlanBook",
    "RunPlan",
    "base_of",
    "budget_sequences",
    "launch_stamp",
    "rate_text",
]

#: Root of every path in the tutorial's runs.
LAB = "/scratch/lab"

#: Mean length of a sequence of the finetuning mixture, as in the real one.
TOKENS_PER_SEQUENCE = 712

#: Number of sequences in the complete finetuning mixture.
FULL_SEQUENCES = 934_407

#: Sequences in a finetuning step: 4 on each of 2 GPUs, accumulated 16 times.
BATCH = 128


def rate_text(rate: float) -> str:
    """Return a learning rate as run names write it (``"5e-06"``)."""
    return repr(float(rate))


def launch_stamp(when: datetime, short: bool = False) -> str:
    """Return a launch time in one of the two forms of run names."""
    return when.strftime("%y%m%d-%H%M%S" if short else "%Y_%m_%d-%H_%M_%S")


def base_of(recipe: str, params: str, seed: int = 0) -> Base:
    """Return the base of a recipe, a size and the index of a seed."""
    return Base(resolve_recipe(recipe), resolve_size(params), SEEDS[seed])


@dataclass(frozen=True, eq=False)
class RunPlan:
    """One post-training run as it truly was; its record may differ.

    Attributes
    ----------
    run_id : str
        Id and name.
    group : str
        Folder of outputs: the name without the part that distinguishes runs of a sweep.
    run_type : {"supervised_ft", "dpo", "other"}
        Type of training.
    base : Base or None
        Pretraining run of the lineage; None if its record gives no evidence of one.
    branch_step : int
        Step of the base at which the chain of runs branches off.
    parent : RunPlan or None
        Run that this one continues, if that is not a base.
    absent_parent : str
        Name of the parent run if it is not in the store.
    learning_rate : float
        Peak learning rate.
    budget : str
        Tokens per epoch and epochs (``"100Mtx1"``), or ``"Ft"``.
    sequences : int
        Sequences per epoch.
    epochs : int
        Number of epochs.
    launched : datetime
        Start, in UTC.
    state : {"finished", "running", "crashed", "failed"}
        Last state.
    done : float
        Fraction of the planned steps that ran.
    reduce_loss : {"sum", "mean"}
        How losses were reduced.
    training_seed : int
        Seed of the finetuning program.
    beta : float
        Beta of DPO; NaN for other types.
    quirks : frozenset of str
        Irregularities of the record.
    matched : tuple of str
        Size and metric by which the starting checkpoint was matched, or ().
    """

    run_id: str
    group: str
    run_type: str
    base: Base | None
    branch_step: int
    learning_rate: float
    budget: str
    sequences: int
    epochs: int
    launched: datetime
    parent: RunPlan | None = None
    absent_parent: str = ""
    state: str = "finished"
    done: float = 1.0
    reduce_loss: str = "sum"
    training_seed: int = 8
    beta: float = float("nan")
    quirks: frozenset[str] = frozenset()
    matched: tuple[str, ...] = ()

    def has(self, quirk: str) -> bool:
        """Return whether the record has an irregularity."""
        return quirk in self.quirks

    @property
    def nominal_tokens(self) -> float:
        """Tokens per epoch in the name; NaN where it gives none."""
        millions = self.budget.split("M")[0]
        stated = any(f"_{part}_" in f"{self.run_id}_" for part in (self.budget, f"{millions}M_toks"))
        return float(millions) * 1e6 if stated and self.budget != "Ft" else float("nan")

    @property
    def known_epochs(self) -> float:
        """Number of epochs; NaN where neither config, command nor name gives it."""
        return float("nan") if self.has("name_only") else float(self.epochs)

    @property
    def output_dir(self) -> str:
        """Output folder of the run."""
        return f"{LAB}/open-finetune/models/{self.group}/{self.run_id}"

    @property
    def saved_model(self) -> str:
        """Folder of the final model, as in the model path of another run."""
        return f"{LAB}/open-finetune/models/{self.group}/model/{self.run_id}/"

    @property
    def planned_steps(self) -> int:
        """Number of steps of the complete run."""
        return max(self.sequences * self.epochs // BATCH, 1)

    @property
    def last_step(self) -> int:
        """Number of steps that ran."""
        return max(int(self.planned_steps * self.done), 1)

    @property
    def logging_interval(self) -> int:
        """Steps between two rows of the log."""
        return 1 if self.run_type == "dpo" else 100

    @property
    def logged_steps(self) -> int:
        """Number of rows in the log."""
        silent = self.run_type == "other" or self.has("no_history") or self.has("no_data")
        return 0 if silent else self.last_step // self.logging_interval

    @property
    def evaluated(self) -> bool:
        """Whether final evaluations were uploaded."""
        if self.run_type == "other" or self.quirks & {"no_evaluations", "no_data"}:
            return False
        return self.state == "finished"


_FIRST_LAUNCH = datetime(2025, 8, 18, 22, 30, 5)


def budget_sequences(budget: str) -> tuple[int, int]:
    """Return the sequences per epoch and the number of epochs of a token budget."""
    if budget == "Ft":
        return FULL_SEQUENCES, 2
    millions, epochs = budget.split("Mtx")
    return 1400 * int(millions), int(epochs)


@dataclass
class PlanBook:
    """Builder of plans, which adds them in the order of launch and assigns launch times.

    Attributes
    ----------
    seed : int
        Seed of the suite.
    plans : list of RunPlan
        Plans so far.
    """

    seed: int
    plans: list[RunPlan] = field(default_factory=list)

    def launch(self) -> datetime:
        """Return the launch time of the next run."""
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
            Pretraining run to start from, if any.
        rate : float
            Learning rate.
        budget : str
            Token budget.
        form : str
            Form of the run's name, a template with the fields ``date``, ``short``, ``slug``, ``params``,
            ``step``, ``index``, ``budget``, ``millions``, ``lr``, ``reduce``, ``samples``. The part after ``|`` is
            not in the group's name.
        step : int, optional
            Step of the checkpoint; the last scheduled one by default.
        quirks : iterable of str
            Irregularities.
        epochs : int, optional
            Number of epochs; by default that of the budget.
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
            The run to start from, or the name of one that is not in the store.
        base : Base
            Pretraining run of the lineage.
        rate : float
            Learning rate.
        sequences : int
            Number of pairs of answers.
        absent : tuple of float and str
            Learning rate and budget of a parent that is not in the store.
        quirks : iterable of str
            Irregularities.
        beta : float
            Beta of DPO.
        branch_step : int, optional
            Step of the base at which the chain branches off; the last scheduled one by default.
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
            absent_parent="" if isinstance(parent, RunPlan) else parent,
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
