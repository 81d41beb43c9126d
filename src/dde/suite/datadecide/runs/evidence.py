"""Evidence about a post-training run: what its record states, by source and in order of trust."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from dde.lineage.counts import MOST, as_count, shortened
from dde.sources.protocols import CONFIG_GROUPS, TRAINING_STEP, RunRecord
from dde.sources.values import as_float, as_int, as_object, as_text
from dde.suite.datadecide.runs.run_names import NameFacts, parse_run_name

__all__ = [
    "ALIASES",
    "USED_EXTRAS",
    "USED_OPTIONS",
    "Evidence",
    "Fork",
    "branch_point",
    "gather_evidence",
    "is_training_program",
    "key_values",
    "lifted",
    "parse_command",
    "with_known_names",
]

#: Our name of a key, and the names in other programs, the most trusted first.
#: open-instruct's finetune.py and, until January 2026, its dpo_tune_cache.py use our names; since then its
#: DPOExperimentConfig and TrainingConfig use num_epochs, beta, loss_type and mixer_list. TRL's DPOConfig has beta,
#: loss_type and max_length (TRL 1.16). LLaMA-Factory has pref_beta, pref_loss and cutoff_len, axolotl sequence_len.
ALIASES: dict[str, tuple[str, ...]] = {
    "num_train_epochs": ("num_epochs",),
    "dataset_mixer_list": ("mixer_list",),
    "max_seq_length": ("max_length", "cutoff_len", "sequence_len"),
    "dpo_beta": ("beta", "pref_beta"),
    "dpo_loss_type": ("loss_type", "pref_loss"),
}
_GROUPS, _OTHERS = frozenset(CONFIG_GROUPS), frozenset().union(*ALIASES.values())
# beta and loss_type mean other things to other methods.
_OF_DPO = frozenset({"dpo_beta", "dpo_loss_type"})


def lifted(config: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any]:
    """Return a config with its groups, such as ``{"training": {"learning_rate": ...}}``, flattened.

    open-instruct's olmo_core_finetune.py logs its dataclasses by name; LLaMA-Factory logs ``model_args``, ``data_args``
    and so on beside the flat arguments of transformers. A key outside of a group takes precedence.

    Parameters
    ----------
    config : mapping
    problems : list of str
        Receives a note for each key that has different values in two places.
    """
    if _GROUPS.isdisjoint(config):
        return config
    groups = {name: as_object(config[name]) for name in CONFIG_GROUPS if name in config}
    if not any(groups.values()):
        return config
    flat = {key: value for key, value in config.items() if not groups.get(key)}
    source = dict.fromkeys(flat, "config")
    for name, group in groups.items():
        for key, value in group.items():
            if value is None:
                continue
            if flat.get(key) is None:
                flat[key], source[key] = value, f"config.{name}"
            elif flat[key] != value:
                problems.append(
                    f"{key}: {source[key]} {shortened(as_text(flat[key]))}, config.{name} {shortened(as_text(value))}; "
                    f"{source[key]} believed"
                )
    return flat


def with_known_names(config: Mapping[str, Any], is_dpo: bool, problems: list[str], where: str) -> Mapping[str, Any]:
    """Return a config, or the options of a command, with values under our names added.

    Parameters
    ----------
    config : mapping
    is_dpo : bool
    problems : list of str
        Receives a note for each key that has different values under two names.
    where : str
        Name of the mapping in notes.
    """
    if _OTHERS.isdisjoint(config):
        return config
    named: dict[str, Any] = {}
    for ours, others in ALIASES.items():
        if ours in _OF_DPO and not is_dpo:
            continue
        value, source = config.get(ours), ours
        for other in others:
            found = config.get(other)
            # Without truncation_mode, which TRL's configs have, max_length limits what a model generates.
            if found is None or found == "" or (other == "max_length" and "truncation_mode" not in config):
                continue
            if value is None or value == "":
                value, source = found, other
                named[ours] = found
            elif as_text(value) != as_text(found):
                problems.append(
                    f"{ours}: {where} {source} {shortened(as_text(value))}, {other} {shortened(as_text(found))}; "
                    f"{source} believed"
                )
    return {**config, **named} if named else config


# olmo_core_finetune.py is open-instruct's; run_sft.py and run_dpo.py are those of the alignment handbook.
_SFT_PROGRAM = re.compile(r"(?:olmo_core_|run_)?(?:finetune|sft|supervised_?f)", re.IGNORECASE)
_DPO_PROGRAM = re.compile(r"(?:run_)?dpo", re.IGNORECASE)
# LLaMA-Factory states the method as its stage, and so does the first argument of TRL's command line.
_METHODS = {"sft": "supervised_ft", "dpo": "dpo"}
# Losses of open-instruct's DPOLossType.
_DPO_LOSSES = frozenset({"dpo", "dpo_norm", "simpo", "wpo"})


@dataclass(frozen=True, slots=True)
class Fork:
    """The run and step from which W&B forked another run.

    Attributes
    ----------
    run_id : str
    step : int or None
        None if the stated step is not a number.
    stated : str
        The step as written.
    """

    run_id: str
    step: int | None
    stated: str


@dataclass(slots=True)
class Evidence:
    """Everything known about one run before its parent is resolved.

    Attributes
    ----------
    record : RunRecord
        Its config is flat and has our names of keys, whatever the program calls them.
    name : NameFacts
        Facts in the run's name.
    command : mapping of str to str or list of str
        Options of the launch command; empty where the program was not a training program.
    extras : mapping of str to str
        Keys of the ``wandb_config`` text.
    run_type : str
        "supervised_ft", "dpo", the type given in `run_types`, or "other" if no evidence states one.
    hyperparameters : dict of str to object
        Numbers and texts by the names of the coordinates; a key is absent if nothing states it.
    contradictions : list of str
        Facts on which sources disagree, with the one that was believed, and facts that can't be believed.
    sequences_per_step : int or None
        Sequences of one training step over all GPUs; None where a factor is unknown, or can't be believed.
    fork : Fork or None
        Where W&B forked the run from another.
    refused : str
        Why the treatment is unknown, though evidence states it; "" where it is known.
    """

    record: RunRecord
    name: NameFacts
    command: Mapping[str, str | list[str]]
    extras: Mapping[str, str]
    run_type: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)
    sequences_per_step: int | None = None
    fork: Fork | None = None
    refused: str = ""

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
    def most_tokens_per_sequence(self) -> float:
        """Tokens of a sequence of the batch at most, NaN where unknown; DPO reads a chosen and a rejected answer."""
        return as_float(self.config_or_command("max_seq_length")) * (2 if self.run_type == "dpo" else 1)

    def refuse_batch(self, tokens: float, step: float) -> bool:
        """Discard the batch size if the run's token count is impossible with it; return whether it was discarded.

        W&B records the GPUs of one machine. Several machines read more tokens per step than one can.

        Parameters
        ----------
        tokens, step : float
            Token count since the start of the run, and the training step at which it was logged.
        """
        batch, most = self.sequences_per_step, self.most_tokens_per_sequence
        if batch is None or not (step > 0 and most > 0):
            return False
        per_sequence = tokens / (float(step) * batch)
        if not per_sequence > most:
            return False
        self.sequences_per_step = None
        self.contradictions.append(
            f"batch: {batch} sequences a step on {self.record.gpu_count} GPUs of one machine would have "
            f"{per_sequence:.0f} tokens each, more than the {most:.0f} of max_seq_length, so there were several "
            "machines; not used"
        )
        return True


def parse_command(arguments: Sequence[str]) -> dict[str, str | list[str]]:
    """Return the options of a launch command; the last value of a repeated option wins.

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


def gather_evidence(record: RunRecord, given_type: str = "") -> Evidence:
    """Return what a record says: run type, hyperparameters and the contradictions between its parts.

    Parameters
    ----------
    record : RunRecord
    given_type : str
        Run type given by the user, which overrides all evidence; "" for none.
    """
    name = parse_run_name(record.run_name or record.run_id)
    problems: list[str] = []
    config = lifted(record.config, problems)
    of_program = _run_type_of_program(record.program) or _run_type_of_trl(record)
    # A run that another program touched later has that program's command, which says nothing about the training.
    command: Mapping[str, str | list[str]] = parse_command(record.command) if of_program else {}
    found_type = of_program or _run_type(record, config, name)
    run_type = given_type or found_type
    if found_type not in (run_type, "other"):
        problems.append(f"run type: {found_type} by its evidence, {run_type} as given; the given type is used")
    config = with_known_names(config, run_type == "dpo", problems, "config")
    command = with_known_names(command, run_type == "dpo", problems, "launch command")
    if config is not record.config:
        record = replace(record, config=config)
    extras = key_values(config.get("wandb_config") or command.get("wandb_config"))
    evidence = Evidence(record, name, command, extras, run_type, contradictions=problems)
    problems += record.notes
    if name.model_problem:
        problems.append(name.model_problem)
    problems += name.problems
    evidence.hyperparameters = _hyperparameters(evidence)
    evidence.sequences_per_step = _sequences_per_step(evidence)
    _refuse_impossible_batch(evidence)
    evidence.fork = _fork(record)
    return evidence


def is_training_program(program: str) -> bool:
    """Return whether the command of a launched program is evidence of the training."""
    return bool(_run_type_of_program(program)) or PurePosixPath(program).name == _TRL


def _run_type_of_program(program: str) -> str:
    name = PurePosixPath(program).name
    return "dpo" if _DPO_PROGRAM.match(name) else "supervised_ft" if _SFT_PROGRAM.match(name) else ""


# Program of TRL's command line: trl sft --model_name_or_path ...
_TRL = "trl"


def _run_type_of_trl(record: RunRecord) -> str:
    is_trl = PurePosixPath(record.program).name == _TRL and record.command
    return _METHODS.get(record.command[0], "") if is_trl else ""


def _run_type(record: RunRecord, config: Mapping[str, Any], name: NameFacts) -> str:
    """Return the run type stated by config, tags or name, in that order, if the program states none."""
    if config.get("dpo_beta") is not None or config.get("dpo_loss_type") is not None:
        return "dpo"
    if config.get("beta") is not None and as_text(config.get("loss_type")) in _DPO_LOSSES:
        return "dpo"
    if method := _METHODS.get(as_text(config.get("stage"))):
        return method
    tags = {t.strip() for t in (*record.tags, *as_text(config.get("wandb_tags")).split(","))}
    if any(t.startswith("dpo") for t in tags):
        return "dpo"
    if name.run_type:
        return name.run_type
    return "supervised_ft" if tags & {"finetune", "sft"} else "other"


def _sequences_per_step(evidence: Evidence) -> int | None:
    factors = [
        as_int(evidence.config_or_command("per_device_train_batch_size")),
        as_int(evidence.config_or_command("gradient_accumulation_steps")),
        evidence.record.gpu_count,
    ]
    known = [f for f in factors if f is not None and f > 0]
    if len(known) == len(factors):
        if (product := math.prod(known)) <= MOST:
            return product
        said = " x ".join(shortened(str(f), 24) for f in known)
        evidence.contradictions.append(f"batch: {said} sequences a step are beyond 64 bits; not used")
    elif any(f is not None and f <= 0 for f in factors):
        said = " x ".join("?" if f is None else shortened(str(f), 24) for f in factors)
        evidence.contradictions.append(f"batch: {said} is not a number of sequences a step; not used")
    return None


def branch_point(record: RunRecord) -> tuple[str, object]:
    """Return the run and the step that W&B forked or rewound a run from, as written; ("", None) for other runs.

    ``wandb.init(fork_from="<run>?_step=<n>")`` stores both as ``_wandb.branch_point`` of the config, and so does
    ``resume_from``, which rewinds a run and names the run itself (wandb 0.31, sdk/wandb_init.py).
    """
    if "_wandb" not in record.config:
        return "", None
    internal = as_object(record.config["_wandb"])
    point = as_object(as_object(internal.get("value", internal)).get("branch_point"))
    return as_text(point.get("run_id")), point.get("step")


def _fork(record: RunRecord) -> Fork | None:
    """Return the origin of a forked run; None for a run that was not forked."""
    run_id, stated = branch_point(record)
    if not run_id or run_id == record.run_id:
        return None
    return Fork(run_id, as_count(as_float(stated)), shortened(as_text(stated), 40))


def _refuse_impossible_batch(evidence: Evidence) -> None:
    """Discard a batch size that is impossible with the last counts of the summary."""
    summary = evidence.record.summary
    step = summary.get(TRAINING_STEP)
    if step is None:
        evidence.refuse_batch(as_float(summary.get("total_tokens")), as_float(summary.get("_step")))
    else:
        evidence.refuse_batch(as_float(summary.get("train/num_tokens")), as_float(step))


def key_values(value: object) -> dict[str, str]:
    """Return the pairs of a ``key=value,key=value`` text, or of a list of them."""
    text = ",".join(map(str, value)) if isinstance(value, list) else as_text(value)
    pairs = (piece.split("=", 1) for piece in text.split(",") if "=" in piece)
    return {key.strip(): content.strip() for key, content in pairs}


# Coordinate name of a hyperparameter, and its key in config and command.
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

#: Options of the launch command that are read, and those that filters on coordinates need.
USED_OPTIONS = frozenset(
    "model_name_or_path model_revision output_dir dataset_mixer_list per_device_train_batch_size "
    "gradient_accumulation_steps finetune_tokens wandb_config logging_steps truncation_mode".split()
).union(_NUMBERS, _NUMBERS.values(), _TEXTS, _TEXTS.values(), *ALIASES.values())


def _hyperparameters(evidence: Evidence) -> dict[str, Any]:
    """Return the hyperparameters that config, command and name state; disagreements are recorded as evidence."""
    name, is_dpo = evidence.name, evidence.run_type == "dpo"
    config, command = evidence.record.config, evidence.command
    found: dict[str, Any] = {}
    for field_name, key in _NUMBERS.items():
        in_name = _name_number(name, field_name, is_dpo)
        stated, in_command = config.get(key), as_float(_scalar(command.get(key)))
        in_config = as_float(stated)
        if stated is not None and not math.isfinite(in_config):
            _note_unusable(evidence, field_name, "config", stated)
        value = _agree(evidence, field_name, in_config, in_command, in_name)
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
    refused = [] if is_dpo else [p for p in name.problems if _OF_TREATMENT.get(p.partition(":")[0], "") not in found]
    for field_name in _COUNTS:
        value = found.get(field_name, 0)
        if not 0 <= value <= MOST:
            refused.append(f"{field_name}: {value:g}, which is not a 64-bit count; not used")
            evidence.contradictions.append(refused[-1])
            del found[field_name]
    evidence.refused = "; ".join(refused)
    of_contract = set(found)
    for key, value in config.items():
        if key not in _APART and key not in of_contract and isinstance(value, (int, float, str)):
            number = as_float(value)
            found[key] = number if math.isfinite(number) and not isinstance(value, bool) else value
    return found


# Config keys that identify a run or its origin, not how it was trained.
_NOT_HYPERPARAMETERS = frozenset(
    "parent_run_id model_name_or_path model_revision output_dir run_name exp_name wandb_config wandb_tags "
    "pretrain_steps pretrain_tokens pretrain_compute total_compute_est model_size finetune_tokens "
    "finetune_sequences finetune_unique_sequences".split()
)
# Keys of other programs whose values are also under our names.
_OF_PROGRAMS = frozenset("stage logging_steps truncation_mode _name_or_path _wandb".split()).union(
    CONFIG_GROUPS, *ALIASES.values()
)
_APART = _NOT_HYPERPARAMETERS.union(_NUMBERS.values(), _TEXTS.values(), _OF_PROGRAMS)

_COUNTS = ("epochs", "max_train_samples", "finetune_tokens")
# Facts in a run name that belong to the treatment, and the hyperparameters that state the same.
_OF_TREATMENT = {
    "tokens": "finetune_tokens",
    "epochs": "epochs",
    "learning_rate": "learning_rate",
    "lr": "learning_rate",
}


def _note_unusable(evidence: Evidence, what: str, where: str, value: object) -> None:
    if value != "":
        evidence.contradictions.append(
            f"{what}: {where} {shortened(as_text(value), 40)}, which is not a number; not used"
        )


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
