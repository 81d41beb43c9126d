"""Run types given by the user, where evidence states none or a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dde.errors import UnknownNameError, near_names
from dde.sources.protocols import CONFIG_KEYS, RunRecord
from dde.sources.wandb.records import CONFIG, config_heads, config_text, config_value

__all__ = ["UNKNOWN_TYPE", "RunTypes"]

#: Type of a run of which nothing says what was trained how.
UNKNOWN_TYPE = "other"

# Names that people use for run types.
_ALIASES = {"sft": "supervised_ft", "finetune": "supervised_ft"}
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class RunTypes:
    """Run types given by the user, by run.

    Parameters
    ----------
    by_run : mapping of str to str
        Run type by id or name of a run, by a pattern of either (``"grpo_*"``), or by the value of a key of the config
        or a pattern of it (``"config.stage=rl"``, ``"config.trainer.name=Grpo*"``). An id or name takes precedence
        over all others; of these, the first match wins.

    Raises
    ------
    UnknownNameError
        When a type is not a word, or is that of a base.

    Examples
    --------
    >>> types = RunTypes({"grpo_*": "grpo", "config.stage=sft": "sft"})
    >>> types.of(RunRecord("a", "grpo_1")), types.of(RunRecord("b", config={"stage": "sft"})), types.of(RunRecord("c"))
    ('grpo', 'supervised_ft', '')
    """

    by_run: Mapping[str, str]

    def __post_init__(self) -> None:
        if not isinstance(self.by_run, Mapping):
            raise UnknownNameError(
                f"run_types={self.by_run!r} is not a mapping, so it does not say which runs have which type. "
                "Pass {'my_run': 'supervised_ft'}."
            )
        made = {str(key): _ALIASES.get(value, value) for key, value in self.by_run.items()}
        for key, value in made.items():
            if not (isinstance(value, str) and value.isidentifier()) or value in ("pretraining", UNKNOWN_TYPE):
                why = "is that of a base" if value == "pretraining" else "is not a run type"
                raise UnknownNameError(
                    f"run_types says {value!r} of {key!r}, which {why}, so what was done in the run is unknown. Pass "
                    "'supervised_ft', 'dpo', or a word of your own, of letters, digits and _, such as 'grpo'."
                )
        object.__setattr__(self, "by_run", made)

    @property
    def config_keys(self) -> frozenset[str]:
        """Additional config keys that have to be read."""
        names = [key.partition("=")[0] for key in self.by_run if _is_of_config(key)]
        return frozenset(head for name in names for head in config_heads(name)).difference(CONFIG_KEYS)

    def of(self, record: RunRecord) -> str:
        """Return the given type of a run; "" without one."""
        key = self._key_of(record)
        return "" if key is None else self.by_run[key]

    def check(self, records: Iterable[RunRecord]) -> None:
        """Raise UnknownNameError if a key matches no run of the store."""
        known = list(records)
        unmatched = [key for key in self.by_run if not any(_fits(key, record) for record in known)]
        if not unmatched:
            return
        names = dict.fromkeys(name for record in known for name in (record.run_id, record.run_name) if name)
        key = unmatched[0]
        raise UnknownNameError(
            f"run_types names {key!r}, which is neither a run of the store nor a pattern that matches one, so no run "
            f"would have the type {self.by_run[key]!r}.{near_names(key, names)} Pass the id or name of a run, a "
            "pattern such as 'grpo_*', or a key of the config with its value: 'config.stage=rl'."
        )

    def _key_of(self, record: RunRecord) -> str | None:
        for name in (record.run_id, record.run_name):
            if name and name in self.by_run:
                return name
        return next((key for key in self.by_run if _fits(key, record)), None)


def _is_of_config(key: str) -> bool:
    return key.startswith(CONFIG) and "=" in key


def _fits(key: str, record: RunRecord) -> bool:
    names = [name for name in (record.run_id, record.run_name) if name]
    if key in names:
        return True
    if _is_of_config(key):
        name, _, wanted = key.partition("=")
        value = config_value(record.config, name.removeprefix(CONFIG))
        return value is not None and fnmatchcase(config_text(value), wanted)
    return bool(_WILD & set(key)) and any(fnmatchcase(name, key) for name in names)
