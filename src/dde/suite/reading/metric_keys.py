"""Match columns, or keys of long tables, to metrics: the first pattern that matches defines the metric."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dde.errors import FormatError
from dde.schema import COORDINATES, DIMS, POSITION_CHECK, SAMPLED, TABLE_SAMPLINGS
from dde.suite.metric import Metric
from dde.suite.patterns import Pattern

__all__ = ["MetricSource", "collect_metrics", "match_keys"]

# Names that a Dataset uses for other things than metrics.
_RESERVED = frozenset((*DIMS, *COORDINATES, *TABLE_SAMPLINGS, POSITION_CHECK, "cumulative_compute"))


@dataclass(frozen=True, slots=True)
class MetricSource:
    """One metric of a suite, and the columns or keys of its values.

    Attributes
    ----------
    name : str
        Name of the data variable; a Python identifier.
    units, direction, task, metric, kind, stderr_of : str
        As the suite declares them; see :class:`dde.suite.metric.Metric`.
    keys : tuple of str
        Column, or key of a long table, in each declared table; "" where a table does not have the metric.
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
        """First of the keys."""
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
    """Return the metrics of one table by name: the key and the definition of each.

    Parameters
    ----------
    keys : iterable of str
        Columns, or keys of a long table.
    patterns : mapping of str to Metric, or None
        Declared metrics by pattern. If None, each key is a metric of its own name and of the kind ``log``, so that its
        values are not joined across a branch.
    used : collection of str
        Columns that position rows or name runs; only a pattern without fields makes a metric of such a column.
    factors : collection of str
        Names of coordinates; a metric with such a name gets the suffix ``_at_step``.
    what : str
        Name of the table in errors.
    matched : set of str, optional
        Receives the patterns that are the first to match a key.

    Raises
    ------
    FormatError
        When two keys become the same metric; names both.

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
            # Without a declaration, its values may not be comparable across a branch.
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
                f"{what}: the keys {found[name][0]!r} and {key!r} both become the metric {name!r}, so its values are "
                "ambiguous. Name the field that distinguishes them in its template, or give one of them its own "
                "pattern."
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
        When two tables define one name differently.
    """
    found: dict[str, MetricSource] = {}
    facts = ("units", "direction", "task", "metric", "kind", "stderr_of")
    for number, table in enumerate(by_table):
        for name, (key, metric) in table.items():
            own = {fact: getattr(metric, fact) for fact in facts}
            if name not in found:
                found[name] = MetricSource(name, **own, keys=("",) * len(by_table))
            other = {fact: getattr(found[name], fact) for fact in facts}
            if differing := [fact for fact in facts if other[fact] != own[fact]]:
                fact = differing[0]
                raise FormatError(
                    f"tables[{number}] declares {fact} {own[fact]!r} for the metric {name!r} ({key!r}), and another "
                    f"table declares {other[fact]!r} ({found[name].source_name!r}), so its values can't be joined. "
                    "Declare the same in both, or give one of them another name."
                )
            keys = (*found[name].keys[:number], key, *found[name].keys[number + 1 :])
            found[name] = replace(found[name], keys=keys)
    return found
