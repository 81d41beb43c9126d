"""What a store's record says of a post-training run, gathered by source and order of trust."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from dde.relations.run_names import NameFacts, parse_run_name
from dde.sources.protocols import RunRecord
from dde.sources.values import as_float, as_int, as_text

__all__ = [
    "USED_EXTRAS",
    "USED_OPTIONS",
    "Evidence",
    "gather_evidence",
    "is_training_program",
    "key_values",
    "parse_command",
]

_SFT_PROGRAM = re.compile(r"^(?:finetune|sft|supervised_?f)", re.IGNORECASE)
_DPO_PROGRAM = re.compile(r"^dpo", re.IGNORECASE)


@dataclass(slots=True)
class Evidence:
    """All that is known of one run before its parent is looked for.

    Attributes
    ----------
    record : RunRecord
    name : NameFacts
        What the run's name says.
    command : mapping of str to str or list of str
        Options of the launch command; empty where the program was not a training program.
    extras : mapping of str to str
        Keys of the ``wandb_config`` text.
    run_type : str
        "supervised_ft", "dpo", or "other".
    hyperparameters : dict of str to object
        Numbers and texts by the names of the coordinates; a key is absent where nothing says it.
    contradictions : list of str
        Facts on which sources disagree, with the one that was believed.
    """

    record: RunRecord
    name: NameFacts
    command: Mapping[str, str | list[str]]
    extras: Mapping[str, str]
    run_type: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)

    def config_or_command(self, key: str) -> object:
        """Return the value of a key in config, else in the launch command; None where neither has it."""
        value = self.record.config.get(key)
        return self.command.get(key) if value is None or value == "" else value

    @property
    def dataset(self) -> str:
        """The training mixture, as text that is equal for equal mixtures; "" where unknown."""
        value = self.config_or_command("dataset_mixer_list")
        if isinstance(value, str):
            value = value.split()
        return " ".join(map(str, value)) if isinstance(value, Sequence) else ""

    @property
    def sequences_per_step(self) -> int | None:
        """Sequences of one training step over all GPUs; None where a factor is unknown."""
        factors = [
            as_int(self.config_or_command("per_device_train_batch_size")),
            as_int(self.config_or_command("gradient_accumulation_steps")),
            self.record.gpu_count,
        ]
        known = [f for f in factors if f is not None and f > 0]
        return math.prod(known) if len(known) == len(factors) else None


def parse_command(arguments: Sequence[str]) -> dict[str, str | list[str]]:
    """Return the options of a launch command; of a repeated option the last counts.

    Dashes inside an option's name count as underscores. An option without a value is "true", one with several
    values a list.

    Examples
    --------
    >>> parse_command(["--lr", "1", "--add-bos", "--mix", "a", "1.0", "--lr=2"])
    {'lr': '2', 'add_bos': 'true', 'mix': ['a', '1.0']}
    """
    options: dict[str, list[str]] = {}
    current: list[str] | None = None
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            current = options[key.replace("-", "_")] = [value] if equals else []
        elif current is not None:
            current.append(argument)
    return {k: "true" if not v else v[0] if len(v) == 1 else v for k, v in options.items()}


def gather_evidence(record: RunRecord) -> Evidence:
    """Return what a record says: run type, hyperparameters and the contradictions between its parts."""
    name = parse_run_name(record.run_name or record.run_id)
    of_program = _run_type_of_program(record.program)
    # A run touched later by another program shows that one's command: no evidence of the training.
    command = parse_command(record.command) if of_program else {}
    extras = key_values(record.config.get("wandb_config") or command.get("wandb_config"))
    evidence = Evidence(record, name, command, extras, of_program or _run_type(record, name))
    evidence.contradictions += record.notes
    evidence.hyperparameters = _hyperparameters(evidence)
    return evidence


def is_training_program(program: str) -> bool:
    """Return whether the command of a launched program is evidence of the training."""
    return bool(_run_type_of_program(program))


def _run_type_of_program(program: str) -> str:
    name = PurePosixPath(program).name
    return "dpo" if _DPO_PROGRAM.match(name) else "supervised_ft" if _SFT_PROGRAM.match(name) else ""


def _run_type(record: RunRecord, name: NameFacts) -> str:
    """Return the run type that config, tags and name tell, in that order, where the program tells none."""
    if record.config.get("dpo_beta") is not None or record.config.get("dpo_loss_type") is not None:
        return "dpo"
    tags = {t.strip() for t in (*record.tags, *as_text(record.config.get("wandb_tags")).split(","))}
    if any(t.startswith("dpo") for t in tags):
        return "dpo"
    if name.run_type:
        return name.run_type
    return "supervised_ft" if tags & {"finetune", "sft"} else "other"


def key_values(value: object) -> dict[str, str]:
    """Return the pairs of a ``key=value,key=value`` text, or of a list of them."""
    text = ",".join(map(str, value)) if isinstance(value, list) else as_text(value)
    pairs = (piece.split("=", 1) for piece in text.split(",") if "=" in piece)
    return {key.strip(): content.strip() for key, content in pairs}


# The contract's name of a hyperparameter, and the key of config and command that holds it.
_NUMBERS = {
    "learning_rate": "learning_rate",
    "epochs": "num_train_epochs",
    "max_train_samples": "max_train_samples",
    "dpo_beta": "dpo_beta",
    "training_seed": "seed",
    "weight_decay": "weight_decay",
    "warmup_ratio": "warmup_ratio",
    "max_seq_length": "max_seq_length",
}
_TEXTS = {
    "reduce_loss": "reduce_loss",
    "lr_scheduler_type": "lr_scheduler_type",
    "dpo_loss_type": "dpo_loss_type",
}

#: Keys of the ``wandb_config`` text that are read.
USED_EXTRAS = ("finetune_sequences", "model_pretrain_steps")

#: Options of the launch command that are read, and those that a filter by the name of a coordinate finds.
USED_OPTIONS = frozenset(
    "model_name_or_path model_revision output_dir dataset_mixer_list per_device_train_batch_size "
    "gradient_accumulation_steps finetune_tokens wandb_config".split()
).union(_NUMBERS, _NUMBERS.values(), _TEXTS, _TEXTS.values())


def _hyperparameters(evidence: Evidence) -> dict[str, Any]:
    name, is_dpo = evidence.name, evidence.run_type == "dpo"
    config, command = evidence.record.config, evidence.command
    found: dict[str, Any] = {}
    for field_name, key in _NUMBERS.items():
        in_name = _name_number(name, field_name, is_dpo)
        value = _agree(evidence, field_name, as_float(config.get(key)), as_float(_scalar(command.get(key))), in_name)
        if math.isfinite(value):
            found[field_name] = value
    for field_name, key in _TEXTS.items():
        for text in (as_text(config.get(key)), as_text(_scalar(command.get(key))), name.options.get(key, "")):
            if text:
                found[field_name] = text
                break
    # A DPO name states the budget of the SFT run it starts from, not its own.
    if not is_dpo and name.budget_tokens is not None:
        found["finetune_tokens"] = name.budget_tokens
    elif math.isfinite(nominal := as_float(config.get("finetune_tokens"))):
        found["finetune_tokens"] = nominal
    if evidence.run_type != "dpo":
        found.pop("dpo_beta", None)
    of_contract = set(found)
    for key, value in config.items():
        if key not in _APART and key not in of_contract and isinstance(value, (int, float, str)):
            number = as_float(value)
            found[key] = number if math.isfinite(number) and not isinstance(value, bool) else value
    return found


# Config keys that say where a run comes from or what it is called, not how it was trained.
_NOT_HYPERPARAMETERS = frozenset(
    "parent_run_id model_name_or_path model_revision output_dir run_name exp_name wandb_config wandb_tags "
    "pretrain_steps pretrain_tokens pretrain_compute total_compute_est model_size finetune_tokens "
    "finetune_sequences finetune_unique_sequences".split()
)
_APART = _NOT_HYPERPARAMETERS.union(_NUMBERS.values(), _TEXTS.values())


def _name_number(name: NameFacts, field_name: str, is_dpo: bool) -> float:
    if field_name == "learning_rate":
        return math.nan if name.learning_rate is None else name.learning_rate
    if field_name == "epochs" and not is_dpo:
        return math.nan if name.epochs is None else float(name.epochs)
    if field_name in ("max_train_samples", "dpo_beta"):
        return as_float(name.options.get(field_name))
    return math.nan


def _agree(evidence: Evidence, what: str, config: float, command: float, name: float) -> float:
    """Return the most trusted of three readings of one number; note a disagreement."""
    if math.isnan(command) and math.isnan(name):
        return config if math.isfinite(config) else math.nan
    readings = [("config", config), ("launch command", command), ("run name", name)]
    known = [(source, value) for source, value in readings if math.isfinite(value)]
    if not known:
        return math.nan
    source, value = known[0]
    for other, reading in known[1:]:
        if not math.isclose(reading, value, rel_tol=1e-6):
            evidence.contradictions.append(f"{what}: {source} {value:g}, {other} {reading:g}; {source} believed")
    return value


def _scalar(value: str | list[str] | None) -> object:
    return json.dumps(value) if isinstance(value, list) else value
