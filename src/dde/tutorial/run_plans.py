"""What one post-training run of the tutorial is, in truth: parent, treatment, length and irregularities."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dde.suite.datadecide.names import Base, resolve_recipe, resolve_size
from dde.suite.datadecide.names.seeds import SEEDS

__all__ = [
    "FULL_SEQUENCES",
    "LAB",
    "TOKENS_PER_SEQUENCE",
    "RunPlan",
    "base_of",
    "launch_stamp",
    "rate_text",
]

#: Root of every path in the tutorial's runs.
LAB = "/scratch/lab"

#: Mean length of a sequence of the finetuning mixture, as the real one has it.
TOKENS_PER_SEQUENCE = 712

#: Sequences of the whole finetuning mixture.
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
    """One post-training run as it truly was, whatever its record says.

    Attributes
    ----------
    run_id : str
        Id and name.
    group : str
        Folder of outputs: the name without the part that tells runs of a sweep apart.
    run_type : {"supervised_ft", "dpo", "other"}
        What was done.
    base : Base or None
        Pretraining run of the lineage; None where the run has none that anyone could find.
    branch_step : int
        Step of the base that the chain started from.
    parent : RunPlan or None
        Run that this one continues, when it is not a base.
    absent_parent : str
        Name of the parent run when the store does not hold it.
    learning_rate : float
        Peak learning rate.
    budget : str
        Tokens an epoch and epochs (``"100Mtx1"``), or ``"Ft"``.
    sequences : int
        Sequences an epoch.
    epochs : int
        Passes over them.
    launched : datetime
        Start, in UTC.
    state : {"finished", "running", "crashed", "failed"}
        Last state.
    done : float
        Share of the planned steps that ran.
    reduce_loss : {"sum", "mean"}
        How losses were reduced.
    training_seed : int
        Seed of the finetuning program.
    beta : float
        DPO's beta; NaN otherwise.
    quirks : frozenset of str
        Irregularities of the record.
    matched : tuple of str
        Size and metric that the starting checkpoint was matched by, or ().
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
        """Tokens an epoch that the name states; NaN where it states none."""
        millions = self.budget.split("M")[0]
        stated = any(f"_{part}_" in f"{self.run_id}_" for part in (self.budget, f"{millions}M_toks"))
        return float(millions) * 1e6 if stated and self.budget != "Ft" else float("nan")

    @property
    def known_epochs(self) -> float:
        """Epochs; NaN where neither config, command nor name has them."""
        return float("nan") if self.has("name_only") else float(self.epochs)

    @property
    def output_dir(self) -> str:
        """Folder that the run wrote to."""
        return f"{LAB}/open-finetune/models/{self.group}/{self.run_id}"

    @property
    def saved_model(self) -> str:
        """Folder of the final model, as another run's model path names it."""
        return f"{LAB}/open-finetune/models/{self.group}/model/{self.run_id}/"

    @property
    def planned_steps(self) -> int:
        """Steps of the complete run."""
        return max(self.sequences * self.epochs // BATCH, 1)

    @property
    def last_step(self) -> int:
        """Steps that ran."""
        return max(int(self.planned_steps * self.done), 1)

    @property
    def logging_interval(self) -> int:
        """Steps between two rows of the log."""
        return 1 if self.run_type == "dpo" else 100

    @property
    def logged_steps(self) -> int:
        """Rows of the log."""
        silent = self.run_type == "other" or self.has("no_history") or self.has("no_data")
        return 0 if silent else self.last_step // self.logging_interval

    @property
    def evaluated(self) -> bool:
        """Whether final evaluations were uploaded."""
        if self.run_type == "other" or self.quirks & {"no_evaluations", "no_data"}:
            return False
        return self.state == "finished"
