"""Config keys as training programs name them, under the names that evidence is made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dde.relations.counts import shortened
from dde.sources.protocols import CONFIG_GROUPS
from dde.sources.values import as_object, as_text

__all__ = ["ALIASES", "lifted", "with_known_names"]

#: Our name of a key, and what other programs call it, the most trusted first.
#: open-instruct's finetune.py and, until January 2026, its dpo_tune_cache.py have ours; since then its
#: DPOExperimentConfig and TrainingConfig have num_epochs, beta, loss_type and mixer_list. TRL's DPOConfig has beta,
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
    """Return a config whose groups, as ``{"training": {"learning_rate": ...}}``, are flat.

    open-instruct's olmo_core_finetune.py logs its dataclasses by name; LLaMA-Factory logs ``model_args``, ``data_args``
    and so on beside the flat arguments of transformers. A key outside of a group counts more than one in it.

    Parameters
    ----------
    config : mapping
    problems : list of str
        Gets a note of each key that two places have different values of.
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
    """Return a config, or the options of a command, that has values under our names, too.

    Parameters
    ----------
    config : mapping
    is_dpo : bool
    problems : list of str
        Gets a note of each key that two names have different values of.
    where : str
        What the mapping is, for notes.
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
            # Without truncation_mode, which TRL's configs have, max_length is what a model generates at most.
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
