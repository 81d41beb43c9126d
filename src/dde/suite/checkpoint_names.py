"""Which run and step of a suite the name of a checkpoint means, by the patterns that the suite declares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dde.suite.declare import Suite
from dde.suite.declared_runs import DeclaredRuns
from dde.suite.patterns import Pattern, Template

__all__ = ["CheckpointNames", "NamedCheckpoint"]

_STEP = "step"
# Revisions that mean the last checkpoint.
_LAST = frozenset({"", "main", "final", "latest"})


@dataclass(frozen=True, slots=True)
class NamedCheckpoint:
    """What the name of a checkpoint means.

    Attributes
    ----------
    run_id : str
        "" where several runs fit.
    step : float or None
        Step of the run; None for its last one.
    candidates : tuple of str
        Runs that fit, where more than one does.
    """

    run_id: str
    step: float | None = None
    candidates: tuple[str, ...] = ()


class CheckpointNames:
    """Looks up runs of a suite by the names of their checkpoints.

    Parameters
    ----------
    suite : Suite
        Its `checkpoints` are the patterns. The part of a pattern from ``@`` on is the revision; a name without one, or
        with ``@main``, means the last checkpoint.
    declared : sequence of DeclaredRuns
        The suite's runs.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"size": ["70m"], "step": [1000], "tokens": [10], "loss": [3.0]})
    >>> table = {"files": frame}
    >>> suite = Suite("s", lineage="{size}", run_id="{size}", checkpoints="org/model-{size}@step{step:int}",
    ...               tables=[table])
    >>> from dde.suite.read_runs import SuiteTables
    >>> names = CheckpointNames(suite, SuiteTables(suite).runs())
    >>> names.find("org/model-70m", "step1000")
    NamedCheckpoint(run_id='70m', step=1000.0, candidates=())
    >>> names.find("/models/org/model-70m/step500").step
    500.0
    >>> names.find("org/model-70m").step is None
    True
    """

    def __init__(self, suite: Suite, declared: Sequence[DeclaredRuns]) -> None:
        self._patterns: list[tuple[Pattern, tuple[str, ...]]] = []
        for pattern in suite.checkpoint_patterns:
            for text in (pattern.text, pattern.text.partition("@")[0]):
                # The model alone names the last checkpoint, if it says which run.
                whole = Pattern(text, "checkpoints", pattern.specs) if text != pattern.text else pattern
                fields = tuple(f for f in whole.fields if f != _STEP)
                if fields and (whole, fields) not in self._patterns:
                    self._patterns.append((whole, fields))
        self._runs: dict[tuple[str, ...], dict[tuple[str, ...], list[str]]] = {}
        self._unnamed: dict[str, dict[str, str]] = {}
        self._roots: set[str] = set()
        path_fields = {f for table in suite.tables for p in table.patterns for f in p.fields}
        for _, fields in self._patterns:
            self._runs.setdefault(fields, {})
        for d in declared:
            for i, run_id in enumerate(d.run_ids):
                said = {name: _text(values[i]) for name, values in d.fields.items()}
                self._unnamed[run_id] = {name: said.get(name, "") for name in path_fields}
                if not d.parents[i]:
                    self._roots.add(run_id)
                for fields, runs in self._runs.items():
                    if all(name in said for name in fields):
                        runs.setdefault(tuple(said[name] for name in fields), []).append(run_id)

    def find(self, name: str, revision: str = "") -> NamedCheckpoint | None:
        """Return what a model's name, with its revision, or a path to a checkpoint means; None where no pattern fits.

        Parameters
        ----------
        name : str
            ``EleutherAI/pythia-70m``, ``EleutherAI/pythia-70m@step1000`` or a path that ends with such parts.
        revision : str
            Where it stands apart from the name.
        """
        for text in _readings(name, revision):
            for pattern, fields in self._patterns:
                said = pattern.match(text)
                if said is None:
                    continue
                key = tuple(_text(said[f]) for f in fields)
                runs = self._narrowed(self._runs[fields].get(key, []), fields)
                if not runs:
                    continue
                step = said.get(_STEP)
                if len(runs) > 1:
                    return NamedCheckpoint("", candidates=tuple(runs))
                return NamedCheckpoint(runs[0], None if step is None else float(step))
        return None

    def _narrowed(self, runs: list[str], fields: tuple[str, ...]) -> list[str]:
        """Return those of several runs that have none of the factors that the name does not state, else the roots."""
        for keep in (self._has_no_other(fields), self._roots.__contains__):
            if len(runs) > 1:
                runs = [r for r in runs if keep(r)] or runs
        return runs

    def _has_no_other(self, fields: tuple[str, ...]) -> Any:
        def holds(run_id: str) -> bool:
            return all(not value or name in fields for name, value in self._unnamed[run_id].items())

        return holds


def _readings(name: str, revision: str) -> Iterator[str]:
    """Yield the texts that patterns may match: the name with its revision, then the ends of a path."""
    name = name.rstrip("/")
    stated, _, own = name.partition("@")
    revision = own or revision
    parts = [p for p in stated.split("/") if p not in ("", ".")]
    heads = ["/".join(parts[-n:]) for n in (len(parts), 2, 1) if 0 < n <= len(parts)]
    if revision not in _LAST:
        yield from _distinct(f"{head}@{revision}" for head in heads)
        return
    # A folder of checkpoints has the revision below the model's name.
    if len(parts) > 1:
        above = parts[:-1]
        yield from _distinct(f"{'/'.join(above[-n:])}@{parts[-1]}" for n in (len(above), 2, 1) if 0 < n <= len(above))
    yield from _distinct(heads)


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    yield from dict.fromkeys(texts)


_VALUE = Template("{value}")


def _text(value: object) -> str:
    said: Mapping[str, object] = {"value": value}
    return _VALUE.format(said)
