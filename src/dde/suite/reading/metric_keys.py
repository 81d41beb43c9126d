"""Which columns, or keys of long tables, are metrics: the first pattern that matches says what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dde.errors import FormatError
from dde.schema import COORDINATES, DIMS, POSITION_CHECK, SAMPLED, TABLE_SAMPLINGS
from dde.suite.metric import Metric
from dde.suite.patterns import Pattern

__all__ = ["MetricSource", "collect_metrics", "match_keys"]

# Names of a Dataset that no data variable can have.
_RESERVED = frozenset((*DIMS, *COORDINATES, *TABLE_SAMPLINGS, POSITION_CHECK, "cumulative_compute"))


@dataclass(frozen=True, slots=True)
class MetricSource:
    """One metric of a suite, and where its values are.

    Attributes
    ----------
    name : str
        Name of the data variable; a Python identifier.
    units, direction, task, metric, kind, stderr_of : str
        As the suite declares them; see :class:`dde.suite.metric.Metric`.
    keys : tuple of str
        Columns, or keys of long tables, of each declared table; "" where a table lacks the metric.
    """

    name: str
    units: str
    direction: str
    task: str
    metric: str
    kind: str
    stderr_of: str
    keys: tuple[str, ...]

    @property
    def source_name(self) -> str:
        """The first of the keys."""
        return next((key for key in self.keys if key), "")


def match_keys(
    keys: Iterable[str],
    patterns: Mapping[str, Metric] | None,
    *,
    used: Collection[str],
    factors: Collection[str],
    what: str,
    matched: set[str] | None = None,
) -> dict[str, tuple[str, Metric]]:
    """Return the metrics of one table, by name: the key of each and what it is.

    Parameters
    ----------
    keys : iterable of str
        Columns, or keys of a long table.
    patterns : mapping of str to Metric, or None
        Declared metrics by pattern. Without any, each key is a metric of its own name and of the kind ``log``, so
        that nothing joins its values across a branch.
    used : collection of str
        Columns that place rows or name runs; only a pattern without fields makes a metric of one.
    factors : collection of str
        Names that are coordinates, so that no data variable can have one: a metric gets ``_at_step`` behind it.
    what : str
        What the table is called in errors.
    matched : set of str, optional
        Takes the patterns that are the first to match a key.

    Raises
    ------
    FormatError
        When two keys become one name; names both.

    Examples
    --------
    >>> found = match_keys(["step", "pile-loss"], {"{set}-loss": Metric("{set}_loss", "nats", "lower")},
    ...                    used=["step"], factors=[], what="tables[0]")
    >>> {name: key for name, (key, _) in found.items()}
    {'pile_loss': 'pile-loss'}
    """
    compiled = None if patterns is None else [(Pattern(text, f"{what}.metrics"), m) for text, m in patterns.items()]
    found: dict[str, tuple[str, Metric]] = {}
    for key in keys:
        if compiled is None:
            # Nobody said that its values can be compared across a branch.
            made = None if key in used else Metric(_literal(key), kind="log").named({})
        else:
            made = _first_match(key, compiled, key in used, matched)
        if made is None:
            continue
        name = made.name
        if name in _RESERVED or name in factors or name.startswith(SAMPLED):
            made = replace(made, name=(name := f"{name}_at_step"))
        if name in found:
            raise FormatError(
                f"{what}: the keys {found[name][0]!r} and {key!r} both become the metric {name!r}, so which values it "
                "has is unknown. Name what tells them apart in its template, or a pattern of its own for one of them."
            )
        found[name] = key, made
    return found


def _first_match(
    key: str, patterns: Sequence[tuple[Pattern, Metric]], is_used: bool, matched: set[str] | None
) -> Metric | None:
    for pattern, metric in patterns:
        if is_used and (pattern.fields or "*" in pattern.text):
            continue
        fields = pattern.match(key)
        if fields is not None:
            if matched is not None:
                matched.add(pattern.text)
            return metric.named(fields)
    return None


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def collect_metrics(by_table: Sequence[Mapping[str, tuple[str, Metric]]]) -> dict[str, MetricSource]:
    """Return the metrics of all tables, by name.

    Raises
    ------
    FormatError
        When two tables say different things of one name.
    """
    found: dict[str, MetricSource] = {}
    facts = ("units", "direction", "task", "metric", "kind", "stderr_of")
    for number, table in enumerate(by_table):
        for name, (key, metric) in table.items():
            said = {fact: getattr(metric, fact) for fact in facts}
            if name not in found:
                found[name] = MetricSource(name, **said, keys=("",) * len(by_table))
            other = {fact: getattr(found[name], fact) for fact in facts}
            if differing := [fact for fact in facts if other[fact] != said[fact]]:
                fact = differing[0]
                raise FormatError(
                    f"tables[{number}] says {fact} {said[fact]!r} of the metric {name!r} ({key!r}), and another table "
                    f"{other[fact]!r} ({found[name].source_name!r}), so what its values are is unknown. "
                    "Say the same in both, or give one of them another name."
                )
            keys = (*found[name].keys[:number], key, *found[name].keys[number + 1 :])
            found[name] = replace(found[name], keys=keys)
    return found
