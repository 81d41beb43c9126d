"""Protocols of the two kinds of source, pretraining and post-training, and the records that they return.

To add a kind of store, write a class with these methods and pass an instance in place of a path or a connection
string: ``dde.open_lineages(my_tables, my_store)``.
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
    """Metadata of one post-training run: identifiers and a few keys of config and summary, but no metrics.

    Attributes
    ----------
    run_id, run_name, state, project, entity : str
        As in the store; "" where the store has no value.
    created_at : numpy.datetime64
        UTC, microseconds; NaT where unknown.
    config : mapping of str to object
        The keys of ``CONFIG_KEYS`` that the run's config has, as JSON values. Older stores have config and summary
        in one flat object; the source separates them by key.
    summary : mapping of str to object
        The keys of ``SUMMARY_KEYS`` that the run's summary has.
    command : tuple of str
        Arguments of the launch command.
    program : str
        Program that was launched; the command is evidence only where this is a training program.
    gpu_count : int or None
        Number of GPUs of the machine.
    tags : tuple of str
        Tags set in W&B.
    evaluated : bool
        Whether the summary holds any final evaluation.
    version : str
        Changes whenever the store's content for this run changes; key of the cache.
    rows_without_step : int
        Number of logged rows that `PosttrainingSource.history` leaves out because their step is missing, below 0,
        not a whole number, or at least 2**53. The status and the contradictions of the run report it.
    problem : str
        Why the content of the run makes it unusable; "" for a usable run. It becomes the run's status.
    notes : tuple of str
        Phrases on content that could not be read or is ambiguous; they are listed among the run's contradictions.
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
    """Rows of training logs, ordered by run, then by step, then as in the store.

    Attributes
    ----------
    run : (row,) int32 array
        Index into the requested `run_ids`.
    step : (row,) int64 array
        Step within the run.
    values : mapping of str to (row,) float64 array
        One array per requested key; NaN where a row does not have the key, or its value is null or "NaN".
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

#: Keys of a run's config from which identity, hyperparameters and token counts are derived.
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
    # Names that other programs and later versions use for the same; see dde.suite.datadecide.runs.evidence.
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

#: Keys of training logs that count tokens since the start of the run, most trusted first.
TOKEN_COUNTERS: tuple[str, ...] = (
    "total_tokens",  # open-instruct finetune.py
    "perf/total_tokens",  # open-instruct dpo.py (PerfCallback), since February 2026
    "val/total_tokens",
    "val/num_total_tokens",  # open-instruct grpo_fast.py
    "throughput/total tokens",  # OLMo-core SpeedMonitorCallback, so open-instruct olmo_core_finetune.py
    "throughput/total_tokens",  # the same, as written by exports of the OLMo ladder
    "train/num_tokens",  # TRL SFTTrainer and DPOTrainer, through the W&B callback of transformers
    "train/num_input_tokens_seen",  # transformers Trainer with include_num_input_tokens_seen
    "num_tokens",
    "num_input_tokens_seen",
)

#: Key of the training step in logs of the W&B callback of transformers, where ``_step`` counts calls of ``log``.
TRAINING_STEP = "train/global_step"

#: Keys of a run's summary that give the position of its evaluations when it has no history.
SUMMARY_KEYS: tuple[str, ...] = ("_step", TRAINING_STEP, *TOKEN_COUNTERS)


@runtime_checkable
class PosttrainingSource(Protocol):
    """A store of post-training runs.

    Instances can be pickled (a worker opens its own connection) and show no credential in ``repr`` or errors. A store
    may also have the method ``complete_run`` of :class:`dde.sources.wandb.store.WandBStore`, by which the application
    shows the config of a run with all of its keys.
    """

    @property
    def description(self) -> str:
        """Name of the store, for messages and attributes; without credentials."""
        ...

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        """Return a record of every run, ordered by run_id, in one pass over the store. Reads no metrics."""
        ...

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs with the given keys, in one pass over the store.

        Without keys, only run and step. Unknown run ids have no rows; unknown keys are NaN.
        """
        ...

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return final evaluations from the summaries: a (run,) array per (task, entry), NaN where absent."""
        ...

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the keys of all histories and the (task, entry) of all evaluations, in one pass; for globs."""
        ...


@runtime_checkable
class PretrainingSource(Protocol):
    """Runs of a suite and their values; a suite's `producer` returns it in place of the reader of its tables.

    Instances can be pickled and show no credential in ``repr`` or errors.
    """

    @property
    def description(self) -> str:
        """Name of the source, for messages and attributes; without credentials."""
        ...

    @property
    def fingerprint(self) -> str:
        """Text that changes with the content; "" where the source can't provide one."""
        ...

    @property
    def left_out(self) -> Mapping[str, int]:
        """Number of items that were not read, by reason."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences on content that was left out or is doubtful."""
        ...

    def runs(self) -> Sequence[DeclaredRuns]:
        """Return all runs with the token positions of their rows; reads no values."""
        ...

    def metrics(self) -> Mapping[str, MetricSource]:
        """Return every metric by name."""
        ...

    def values(self, metric: str, runs: DeclaredRuns, which: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return a metric at the rows of the selected runs, NaN where it has no sample."""
        ...
