"""What a store must give: one small protocol per half of the data, and the records they exchange.

A third party adds a kind of store by writing a class with these methods and passing an instance where a path
or a connection string goes: ``dde.open_lineages(my_tables, my_store)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dde.suite.reading.declared_runs import DeclaredRuns
    from dde.suite.reading.metric_keys import MetricSource

__all__ = [
    "CONFIG_GROUPS",
    "CONFIG_KEYS",
    "SUMMARY_KEYS",
    "TOKEN_COUNTERS",
    "TRAINING_STEP",
    "History",
    "PosttrainingSource",
    "PretrainingSource",
    "RunRecord",
]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What the registry needs to know of one post-training run: identifiers and a few keys, never metrics.

    Attributes
    ----------
    run_id, run_name, state, project, entity : str
        As the store has them; "" where it has nothing.
    created_at : numpy.datetime64
        UTC, microseconds; NaT where unknown.
    config : mapping of str to object
        Those of the keys in ``CONFIG_KEYS`` that the run's config has, as JSON values. Older stores hold
        config and summary flat in one object; the source tells them apart by key.
    summary : mapping of str to object
        Those of the keys in ``SUMMARY_KEYS`` that the run's summary has.
    command : tuple of str
        Arguments of the launch command.
    program : str
        Program that was launched; the command counts as evidence only where it is a training program.
    gpu_count : int or None
        GPUs of the machine that ran it.
    tags : tuple of str
        Tags set in W&B.
    evaluated : bool
        Whether the summary holds any final evaluation.
    version : str
        Changes whenever the store's content for this run changes; what the cache is keyed by.
    rows_without_step : int
        Logged rows that `PosttrainingSource.history` leaves out, because their step is missing, below 0, no whole
        number or 2**53 and more. They are counted in the status and the contradictions of the run.
    problem : str
        Why the run can't be used, where its own content forbids it; "" for all others. It becomes the run's status.
    notes : tuple of str
        What of the run could not be read or is ambiguous, as phrases; they stand among its contradictions.
    """

    run_id: str
    run_name: str = ""
    state: str = ""
    project: str = ""
    entity: str = ""
    created_at: np.datetime64 = field(default_factory=lambda: np.datetime64("NaT", "us"))
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    program: str = ""
    gpu_count: int | None = None
    tags: tuple[str, ...] = ()
    evaluated: bool = False
    version: str = ""
    rows_without_step: int = 0
    problem: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """Rows of training logs, ordered by run, then step, then the order of the store.

    Attributes
    ----------
    run : (row,) int32 array
        Index into the `run_ids` that were asked for.
    step : (row,) int64 array
        Step of the run itself.
    values : mapping of str to (row,) float64 array
        One array per key asked for; NaN where a row lacks the key or holds null or "NaN".
    """

    run: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]
    values: Mapping[str, npt.NDArray[np.float64]]


#: Groups of a run's config: of open-instruct's olmo_core_finetune.py (SFTArguments), then of LLaMA-Factory.
CONFIG_GROUPS: tuple[str, ...] = (
    "tracking",
    "model",
    "training",
    "dataset",
    "logging",
    "checkpoint",
    "model_args",
    "data_args",
    "training_args",
    "finetuning_args",
)

#: Keys of a run's config that identity, hyperparameters and token accounting are made from.
CONFIG_KEYS: tuple[str, ...] = (
    "parent_run_id",
    "model_name_or_path",
    "model_revision",
    "output_dir",
    "run_name",
    "exp_name",
    "learning_rate",
    "num_train_epochs",
    "max_train_samples",
    "finetune_tokens",
    "finetune_sequences",
    "finetune_unique_sequences",
    "dataset_mixer_list",
    "max_seq_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "reduce_loss",
    "weight_decay",
    "warmup_ratio",
    "lr_scheduler_type",
    "dpo_beta",
    "dpo_loss_type",
    "use_lora",
    "model_size",
    "pretrain_steps",
    "pretrain_tokens",
    "pretrain_compute",
    "total_compute_est",
    "wandb_config",
    "wandb_tags",
    # As other programs, and later versions of them, name the same; see dde.suite.datadecide.runs.evidence.
    "num_epochs",
    "beta",
    "loss_type",
    "mixer_list",
    "max_length",
    "truncation_mode",
    "cutoff_len",
    "sequence_len",
    "pref_beta",
    "pref_loss",
    "stage",
    "logging_steps",
    "_name_or_path",
    "_wandb",
    *CONFIG_GROUPS,
)

#: Keys of training logs that count tokens since the run's own start, the most trusted first.
TOKEN_COUNTERS: tuple[str, ...] = (
    "total_tokens",  # open-instruct finetune.py
    "perf/total_tokens",  # open-instruct dpo.py (PerfCallback), since February 2026
    "val/total_tokens",
    "val/num_total_tokens",  # open-instruct grpo_fast.py
    "throughput/total tokens",  # OLMo-core SpeedMonitorCallback, so open-instruct olmo_core_finetune.py
    "throughput/total_tokens",  # the same as exports of the OLMo ladder write it
    "train/num_tokens",  # TRL SFTTrainer and DPOTrainer, through the W&B callback of transformers
    "train/num_input_tokens_seen",  # transformers Trainer with include_num_input_tokens_seen
    "num_tokens",
    "num_input_tokens_seen",
)

#: Key under which the W&B callback of transformers logs the training step: its rows' own step counts calls of log.
TRAINING_STEP = "train/global_step"

#: Keys of a run's summary that place its evaluations when it has no history.
SUMMARY_KEYS: tuple[str, ...] = ("_step", TRAINING_STEP, *TOKEN_COUNTERS)


@runtime_checkable
class PosttrainingSource(Protocol):
    """A store of post-training runs.

    Instances pickle (a worker opens its own connection) and show no credential in repr or error.
    """

    @property
    def description(self) -> str:
        """What the store is, for people and attributes; without credentials."""
        ...

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        """Return a record of every run, ordered by run_id. One pass over the store; no metrics."""
        ...

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs, with those keys alone. One pass over the store.

        With no keys, run and step alone. Unknown run ids have no rows; unknown keys are NaN.
        """
        ...

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return final evaluations from the summaries: per (task, entry), a (run,) array; NaN where absent."""
        ...

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the keys of all histories and the (task, entry) of all evaluations. One pass; for globs."""
        ...


@runtime_checkable
class PretrainingSource(Protocol):
    """The runs of a suite and their values: what a suite's `producer` returns in place of the reader of its tables.

    Instances pickle and show no credential in repr or error.
    """

    @property
    def description(self) -> str:
        """What the source is, for people and attributes; without credentials."""
        ...

    @property
    def fingerprint(self) -> str:
        """Text that differs wherever the content does; "" where the source can't tell."""
        ...

    @property
    def left_out(self) -> Mapping[str, int]:
        """What was not read, counted by reason."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was left out or is doubtful, as sentences."""
        ...

    def runs(self) -> Sequence[DeclaredRuns]:
        """Return all runs with the positions of their rows; reads no values."""
        ...

    def metrics(self) -> Mapping[str, MetricSource]:
        """Return every metric by name."""
        ...

    def values(self, metric: str, runs: DeclaredRuns, which: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return a metric at the rows of some of the runs, NaN where it has no sample."""
        ...
