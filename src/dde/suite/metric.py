"""Metric: what the values under a key are called, and what they are."""

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
        Template of the name (``"{set}_loss"``), of the fields of the key's pattern.
    units : str
        Unit; ``"1"`` for a plain number.
    direction : {"higher", "lower", ""}
        Which way is better; "" where neither is.
    task, metric : str
        Templates of the task and of what is measured there; by default the key's fields of these names, where it has
        them.
    kind : {"evaluation", "log"}
        An evaluation joins its parent's curve at a branch; what a trainer logs never does.
    stderr_of : str
        Template of the name of the metric that this is the standard error of.

    Raises
    ------
    UnknownNameError
        A direction or a kind that there is none of.
    FormatError
        A template is none.

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
                raise FormatError(f"{key}: the {key} of a metric is a text, and {value!r} is none.")
        for key, words in (("direction", get_args(Direction)), ("kind", get_args(MetricKind))):
            value = getattr(self, key)
            if value not in words:
                known = " or ".join(map(repr, words))
                raise UnknownNameError(
                    f"{key}: {value!r} is no {key} of a metric; take {known}.{near_names(value, words)}"
                )
        for key in ("name", "task", "metric", "stderr_of"):
            if getattr(self, key):
                Template(getattr(self, key), key)

    @property
    def fields(self) -> frozenset[str]:
        """Fields that the templates of the metric name."""
        texts = [t for t in (self.name, self.task, self.metric, self.stderr_of) if t]
        return frozenset(field for text in texts for field in Template(text).fields)

    def named(self, fields: Mapping[str, object]) -> Metric:
        """Return the metric that the fields of one key make: every template filled in, names as Python names.

        Parameters
        ----------
        fields : mapping of str to object
            What the pattern of the key found in it.

        Raises
        ------
        UnknownNameError
            A template names a field that the pattern does not have.

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
        """Return what differs from the defaults, by name, as a TOML file holds it."""
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
    # A name that is filled in is a template without fields.
    return text.replace("{", "{{").replace("}", "}}")
