"""Metric: name, unit, direction and kind of the values under a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, get_args

from dde.curves.metric import identifier
from dde.errors import FormatError, UnknownNameError, near_names
from dde.suite.patterns import Template

__all__ = ["Direction", "Metric", "MetricKind"]

MetricKind = Literal["evaluation", "log"]
Direction = Literal["higher", "lower", ""]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a suite.

    Parameters
    ----------
    name : str
        Template of the name (``"{set}_loss"``) with fields of the key's pattern.
    units : str
        Unit; ``"1"`` for a plain number.
    direction : {"higher", "lower", ""}
        Direction of improvement; "" where neither is better.
    task, metric : str
        Templates of the task and of the quantity measured; by default the key's fields of these names, where it has
        them.
    kind : {"evaluation", "log"}
        Curves of evaluations continue their parent's curve at a branch; curves of a trainer's logs never do.
    stderr_of : str
        Template of the name of the metric whose standard error this is.

    Raises
    ------
    UnknownNameError
        When the direction or the kind does not exist.
    FormatError
        When a template is malformed.

    Examples
    --------
    >>> Metric("{set}_loss", "nats", "lower", task="{set}", metric="loss").named({"set": "c4-en"}).name
    'c4_en_loss'
    """

    name: str
    units: str = "1"
    direction: Direction = ""
    _: KW_ONLY
    task: str = ""
    metric: str = ""
    kind: MetricKind = "evaluation"
    stderr_of: str = ""

    def __post_init__(self) -> None:
        for key in ("name", "units", "task", "metric", "stderr_of"):
            value = getattr(self, key)
            if not isinstance(value, str) or (key == "name" and not value):
                raise FormatError(f"{key}: the {key} of a metric must be a text, not {value!r}.")
        for key, words in (("direction", get_args(Direction)), ("kind", get_args(MetricKind))):
            value = getattr(self, key)
            if value not in words:
                known = " or ".join(map(repr, words))
                raise UnknownNameError(
                    f"{key}: {value!r} is not a {key} of a metric; use {known}.{near_names(value, words)}"
                )
        for key in ("name", "task", "metric", "stderr_of"):
            if getattr(self, key):
                Template(getattr(self, key), key)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields in the templates of the metric."""
        texts = [t for t in (self.name, self.task, self.metric, self.stderr_of) if t]
        return frozenset(field for text in texts for field in Template(text).fields)

    def named(self, fields: Mapping[str, object]) -> Metric:
        """Return the metric of one key: templates filled with its fields, names turned into Python identifiers.

        Parameters
        ----------
        fields : mapping of str to object
            Fields that the pattern extracted from the key.

        Raises
        ------
        UnknownNameError
            When a template names a field that the pattern does not have.

        Examples
        --------
        >>> Metric("{task}_bpb", "bits/byte", "lower").named({"task": "arc_easy"}).task
        'arc_easy'
        """
        filled: dict[str, Any] = {}
        for key in ("name", "task", "metric", "stderr_of"):
            text = getattr(self, key) or ("{" + key + "}" if key in ("task", "metric") and key in fields else "")
            made = Template(text, key).format(fields) if text else ""
            filled[key] = _escaped(identifier(made) if made and key in ("name", "stderr_of") else made)
        return replace(self, **filled)

    def to_dict(self) -> dict[str, str]:
        """Return the values that differ from the defaults, by name, as in a TOML file."""
        return {
            key: getattr(self, key)
            for key, default in _DEFAULTS.items()
            if key == "name" or getattr(self, key) != default
        }


_DEFAULTS = {
    "name": "",
    "units": "1",
    "direction": "",
    "task": "",
    "metric": "",
    "kind": "evaluation",
    "stderr_of": "",
}


def _escaped(text: str) -> str:
    # A filled name must parse as a template without fields.
    return text.replace("{", "{{").replace("}", "}}")
