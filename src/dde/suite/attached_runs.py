"""Attach post-training runs of a store to a declared suite, by the names of the checkpoints they start from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Int64, Texts
from dde.errors import UnknownNameError, near_names
from dde.sources.values import as_text, text_array
from dde.suite.datadecide.names import RunCheckpoint, parse_run_checkpoint
from dde.suite.datadecide.runs.branch_points import branch_in_run
from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.parent_index import ParentIndex, path_problem
from dde.suite.datadecide.runs.parents import GIVEN, Parentage
from dde.suite.datadecide.runs.positions import has_data
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.token_counts import TOKEN_SOURCES
from dde.suite.datadecide.runs.treatments import Treatment, spelled_labels, treatment_of, with_variants
from dde.suite.declare import Suite
from dde.suite.patterns import Pattern, field_text
from dde.suite.reading.declared_runs import DeclaredRuns

__all__ = [
    "AttachedRuns",
    "CheckpointNames",
    "NamedCheckpoint",
    "attach_runs",
]

_STEP = "step"
# Revisions of the last checkpoint.
_LAST = frozenset({"", "main", "final", "latest"})


@dataclass(frozen=True, slots=True)
class NamedCheckpoint:
    """Run and step that the name of a checkpoint refers to.

    Attributes
    ----------
    run_id : str
        "" where several runs match.
    step : float or None
        Step of the run; None for its last one.
    candidates : tuple of str
        Matching runs, where there are several.
    """

    run_id: str
    step: float | None = None
    candidates: tuple[str, ...] = ()


class CheckpointNames:
    """Lookup of runs of a suite by the names of their checkpoints.

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
    >>> from dde.suite.reading.read_runs import SuiteTables
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
                # The name of the model without a revision means its last checkpoint.
                pattern_part = Pattern(text, "checkpoints", pattern.specs) if text != pattern.text else pattern
                fields = tuple(f for f in pattern_part.fields if f != _STEP)
                if fields and (pattern_part, fields) not in self._patterns:
                    self._patterns.append((pattern_part, fields))
        self._runs: dict[tuple[str, ...], dict[tuple[str, ...], list[str]]] = {}
        self._unnamed: dict[str, dict[str, str]] = {}
        self._roots: set[str] = set()
        path_fields = {f for table in suite.tables for p in table.patterns for f in p.fields}
        for _, fields in self._patterns:
            self._runs.setdefault(fields, {})
        for d in declared:
            for i, run_id in enumerate(d.run_ids):
                fields_of_run = {name: field_text(values[i]) for name, values in d.fields.items()}
                self._unnamed[run_id] = {name: fields_of_run.get(name, "") for name in path_fields}
                if not d.parents[i]:
                    self._roots.add(run_id)
                for fields, runs in self._runs.items():
                    if all(name in fields_of_run for name in fields):
                        runs.setdefault(tuple(fields_of_run[name] for name in fields), []).append(run_id)

    def find(self, name: str, revision: str = "") -> NamedCheckpoint | None:
        """Return the checkpoint of a model's name and revision, or of a path; None where no pattern matches.

        Parameters
        ----------
        name : str
            ``EleutherAI/pythia-70m``, ``EleutherAI/pythia-70m@step1000`` or a path that ends with such parts.
        revision : str
            Revision, where it is not part of the name.
        """
        for text in _readings(name, revision):
            for pattern, fields in self._patterns:
                matched = pattern.match(text)
                if matched is None:
                    continue
                key = tuple(field_text(matched[f]) for f in fields)
                runs = self._narrowed(self._runs[fields].get(key, []), fields)
                if not runs:
                    continue
                step = matched.get(_STEP)
                if len(runs) > 1:
                    return NamedCheckpoint("", candidates=tuple(runs))
                return NamedCheckpoint(runs[0], None if step is None else float(step))
        return None

    def _narrowed(self, runs: list[str], fields: tuple[str, ...]) -> list[str]:
        """Narrow several runs to those without factors that the name does not state, then to roots."""
        for accepts in (self._has_no_other(fields), self._roots.__contains__):
            if len(runs) > 1:
                runs = [r for r in runs if accepts(r)] or runs
        return runs

    def _has_no_other(self, fields: tuple[str, ...]) -> Any:
        def holds(run_id: str) -> bool:
            return all(not value or name in fields for name, value in self._unnamed[run_id].items())

        return holds


def _readings(name: str, revision: str) -> Iterator[str]:
    """Yield the texts to match with patterns: the name with its revision, then the last parts of a path."""
    name = name.rstrip("/")
    stated, _, own = name.partition("@")
    revision = own or revision
    parts = [p for p in stated.split("/") if p not in ("", ".")]
    names = ["/".join(parts[-n:]) for n in (len(parts), 2, 1) if 0 < n <= len(parts)]
    if revision not in _LAST:
        yield from _distinct(f"{name_part}@{revision}" for name_part in names)
        return
    # A folder of checkpoints has the revision as its last part, after the model's name.
    if len(parts) > 1:
        model_parts = parts[:-1]
        yield from _distinct(
            f"{'/'.join(model_parts[-n:])}@{parts[-1]}" for n in (len(model_parts), 2, 1) if 0 < n <= len(model_parts)
        )
    yield from _distinct(names)


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    yield from dict.fromkeys(texts)


#: Fields of a treatment that are factors of a run.
TREATMENT_FIELDS = ("learning_rate", "finetune_tokens", "epochs", "max_train_samples", "dpo_beta", "branch_point")
#: Hyperparameters that are factors of a run.
_HYPERPARAMETERS = ("reduce_loss", "batch_size", "training_seed", "weight_decay", "warmup_ratio", "max_seq_length")


@dataclass(frozen=True, slots=True)
class _Start:
    """Start of a run: a run of the suite and a step, or a run of the store and a checkpoint."""

    parent: str = ""
    step: float | None = None
    checkpoint: RunCheckpoint | None = None
    evidence: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        """The start as text, for messages."""
        if self.checkpoint is not None and not self.checkpoint.is_final:
            return f"{self.parent}@{self.checkpoint.name}"
        return self.parent if self.step is None else f"{self.parent}@step{self.step:g}"


@dataclass(frozen=True, eq=False)
class AttachedRuns:
    """Post-training runs, parents before children.

    Attributes
    ----------
    registry : Registry
        Registry that reads the runs.
    run_ids : tuple of str
    run_types, states, labels, evidence, contradictions, problems, estimates, token_sources : (run,) object arrays
        Texts; `labels` name each run's own treatment, `problems` say why a run can't be placed.
    fields : mapping of str to (run,) object array
        Factors; "" where a run has no value.
    row_offsets : (run + 1,) int64 array
    step, tokens : (row,) int64 arrays
        Logged rows, and the last evaluation, by own tokens.
    parents : tuple of tuples
        Parent of each run, the kind of its branch, and its value.
    schedule : (run,) float64 array
        Own tokens at the planned end; NaN where unknown.
    created : (run,) datetime64 array
    """

    registry: Registry
    run_ids: tuple[str, ...]
    run_types: Texts
    states: Texts
    labels: Texts
    evidence: Texts
    contradictions: Texts
    problems: Texts
    estimates: Texts
    token_sources: Texts
    fields: Mapping[str, Texts]
    row_offsets: Int64
    step: Int64
    tokens: Int64
    parents: tuple[tuple[tuple[str, str, float | None], ...], ...]
    schedule: npt.NDArray[np.float64]
    created: npt.NDArray[np.datetime64]


def attach_runs(
    suite: Suite, declared: Sequence[DeclaredRuns], registry: Registry, parents: Mapping[str, str] | None = None
) -> AttachedRuns:
    """Return the post-training runs of a store, with their starts in a suite.

    Parameters
    ----------
    suite : Suite
    declared : sequence of DeclaredRuns
        The suite's own runs.
    registry : Registry
        Registry of the store alone.
    parents : mapping of run id to str, optional
        Overrides of starts: the id of a run of the suite or the store, with ``@step_200`` or the like for an inner
        checkpoint, or the name of a checkpoint.

    Raises
    ------
    UnknownNameError
        When `parents` names a run or a start that does not exist.
    """
    return _RunAttacher(suite, declared, registry, dict(parents or {})).attach()


class _RunAttacher:
    def __init__(
        self, suite: Suite, declared: Sequence[DeclaredRuns], registry: Registry, parents: dict[str, str]
    ) -> None:
        self.suite, self.registry, self.given = suite, registry, parents
        self.names = CheckpointNames(suite, declared)
        self.own_ids = {run_id for d in declared for run_id in d.run_ids}
        self.evidence: dict[str, Evidence] = {r.run_id: r.evidence for r in registry.derived.values()}
        self.index = ParentIndex(self.evidence.values())
        self.contradictions: dict[str, list[str]] = {}

    def attach(self) -> AttachedRuns:
        for run_id in self.given:
            if run_id not in self.evidence:
                raise UnknownNameError(
                    f"parents= names the run {run_id!r}, which is not in the store, so its parent can't be set."
                    f"{near_names(run_id, self.evidence)}"
                )
        starts = {run_id: self._start(item) for run_id, item in self.evidence.items()}
        run_ids = list(self.evidence)
        ends = self.registry.placements.ends
        inner = [s.parent for s in starts.values() if s.checkpoint is not None and s.checkpoint.step is not None]
        rows = dict(zip(inner, self.registry.placements.of(inner), strict=True))
        parents: list[tuple[tuple[str, str, float | None], ...]] = []
        problems, estimates = [], []
        for run_id, start in starts.items():
            problem, estimate = start.problem, ""
            link: tuple[tuple[str, str, float | None], ...] = ()
            if not problem and start.checkpoint is None:
                link = ((start.parent, "end" if start.step is None else "step", start.step),)
            elif not problem and start.checkpoint is not None:
                inside = branch_in_run(self.evidence[start.parent], ends[start.parent], start.checkpoint, rows)
                problem, estimate = inside.problem and f"branch unknown: {inside.problem}", inside.estimate
                if inside.tokens is not None:
                    link = ((start.parent, "tokens", float(inside.tokens)),)
            end = ends[run_id]
            if not problem and not has_data(self.evidence[run_id], end):
                problem = "no data"
            elif not problem and end.tokens is None:
                problem = f"tokens unknown: {end.problem}"
            parents.append(link if not problem or problem.startswith(("no data", "tokens")) else ())
            problems.append(problem)
            estimates.append("; ".join(filter(None, (estimate, end.estimate))))
        offsets, step, tokens = self._rows(run_ids)
        fields, labels = self._treatments(starts)
        items = list(self.evidence.values())
        return AttachedRuns(
            registry=self.registry,
            run_ids=tuple(run_ids),
            run_types=text_array(i.run_type for i in items),
            states=text_array(i.record.state for i in items),
            labels=labels,
            evidence=text_array(s.evidence for s in starts.values()),
            contradictions=text_array(
                "; ".join([*self.contradictions.get(r, []), *self.evidence[r].contradictions, *ends[r].notes])
                for r in run_ids
            ),
            problems=text_array(problems),
            estimates=text_array(estimates),
            token_sources=text_array("" if ends[r].tokens is None else TOKEN_SOURCES[ends[r].source] for r in run_ids),
            fields=fields,
            row_offsets=offsets,
            step=step,
            tokens=tokens,
            parents=tuple(parents),
            schedule=np.full(len(run_ids), np.nan),
            created=np.array([i.record.created_at for i in items], "datetime64[us]"),
        )

    def _rows(self, run_ids: list[str]) -> tuple[Int64, Int64, Int64]:
        """Return the rows of runs by own tokens, with the last evaluation as a row if the log ends before it."""
        steps: list[Int64] = []
        tokens: list[Int64] = []
        for run_id, placement in zip(run_ids, self.registry.placements.of(run_ids), strict=True):
            end = self.registry.placements.ends[run_id]
            own_steps, own = placement.steps, placement.tokens
            if end.tokens is not None and (not len(own) or own[-1] < end.tokens):
                own_steps = np.append(own_steps, max(end.last_step, int(own_steps[-1]) + 1 if len(own_steps) else 0))
                own = np.append(own, end.tokens)
            steps.append(own_steps)
            tokens.append(own)
        none: Int64 = np.empty(0, np.int64)
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in steps])]).astype(np.int64)
        return offsets, np.concatenate([none, *steps]), np.concatenate([none, *tokens])

    def _treatments(self, starts: Mapping[str, _Start]) -> tuple[dict[str, Texts], Texts]:
        """Return the factors of runs, and the labels of their own treatments, with variants spelled out."""
        treatments: dict[str, Treatment] = {}
        for run_id, item in self.evidence.items():
            found = treatment_of(item, Parentage(), None)
            start = starts[run_id]
            inside = start.checkpoint.branch_point if start.checkpoint is not None else ""
            branch = inside if start.step is None else f"@{start.step:g}"
            ((text, _),) = found.links
            links = ((text, branch),)
            treatments[run_id] = replace(found, label=text + branch, branch_point=branch, links=links)
        distinct = with_variants(treatments, self.evidence, dict.fromkeys(treatments, ""))
        labels = text_array(label for label, _ in spelled_labels(list(distinct.values())))
        fields: dict[str, Texts] = {}
        for name in TREATMENT_FIELDS:
            fields[name] = _blank_as_text([getattr(t, name) for t in treatments.values()])
        for name in _HYPERPARAMETERS:
            values = [
                item.sequences_per_step if name == "batch_size" else item.hyperparameters.get(name)
                for item in self.evidence.values()
            ]
            fields[name] = _blank_as_text(values)
        return {name: values for name, values in fields.items() if (values != "").any()}, labels

    # Starts

    def _start(self, item: Evidence) -> _Start:
        run_id = item.record.run_id
        if run_id in self.given:
            start = self._named(self.given[run_id], GIVEN, item)
            if start is None or start.problem:
                why = start.problem if start is not None else "it is neither a run nor a checkpoint that is known"
                raise UnknownNameError(
                    f"parents= sets the parent of {run_id!r} to {self.given[run_id]!r}, but {why}, so the run can't be "
                    f"placed.{near_names(self.given[run_id].partition('@')[0], [*self.own_ids, *self.evidence])}"
                )
            return start
        readings = [reading for reading in self._readings(item) if reading is not None]
        known = next((r for r in readings if not r.problem), None)
        if known is None:
            tried = self.suite.checkpoint_patterns
            reason = (
                "nothing in config, launch command or fork names a checkpoint of the suite"
                if tried
                else f"the suite {self.suite.name!r} declares no checkpoints by which runs could name theirs"
            )
            return readings[0] if readings else _Start(problem=f"parent unknown: {reason}")
        others = {r.name for r in readings if not r.problem} - {known.name}
        if others:
            self.contradictions[run_id] = [f"parent: {known.evidence} {known.name} believed, not {', '.join(others)}"]
        return known

    def _readings(self, item: Evidence) -> list[_Start | None]:
        """Return the start according to each piece of evidence, the most trusted first."""
        config = item.record.config
        found: list[_Start | None] = []
        if item.fork is not None and item.fork.run_id in self.evidence:
            checkpoint = RunCheckpoint(step=item.fork.step)
            return [_Start(item.fork.run_id, checkpoint=checkpoint, evidence="config._wandb.branch_point")]
        explicit = as_text(config.get("parent_run_id"))
        if explicit:
            found.append(self._named(explicit, "config.parent_run_id", item))
        revision = as_text(item.config_or_command("model_revision"))
        for source, path in (
            ("config.model_name_or_path", as_text(config.get("model_name_or_path"))),
            ("launch command", as_text(item.command.get("model_name_or_path"))),
            ("config._name_or_path", as_text(config.get("_name_or_path"))),
        ):
            if path:
                found.append(self._named(path, source, item, revision))
        return found

    def _named(self, name: str, source: str, item: Evidence, revision: str = "") -> _Start | None:
        """Return the start that a name, an id or a path refers to; None if it is unknown."""
        if path_problem(name):
            return None
        head, _, tail = name.rpartition("@")
        for run_id, rest in ((name, ""), (head, tail)):
            if run_id in self.own_ids:
                inside = parse_run_checkpoint(rest) if rest else RunCheckpoint()
                if inside is None or inside.epoch is not None:
                    return _Start(evidence=source, problem=f"parent unknown: {rest!r} is not a step of {run_id}")
                return _Start(run_id, None if inside.step is None else float(inside.step), evidence=source)
        checkpoint = self.names.find(name, revision)
        if checkpoint is not None and checkpoint.run_id:
            return _Start(checkpoint.run_id, checkpoint.step, evidence=source)
        if checkpoint is not None:
            several = ", ".join(checkpoint.candidates[:4])
            return _Start(evidence=source, problem=f"parent unknown: {name} fits the runs {several} of the suite")
        inner = self.index.find(name)
        if not inner.is_known and "/" in name:
            inner = self.index.find_by_folder(name, item)
        if not inner.is_known or inner.run_id == item.record.run_id:
            return None
        if inner.run_id is None or inner.unknown_part:
            what = inner.unknown_part or f"{len(inner.candidates)} runs are called so"
            return _Start(evidence=source, problem=f"parent unknown: {name}: {what}")
        return _Start(inner.run_id, checkpoint=inner.checkpoint, evidence=source)


def _blank_as_text(values: Sequence[Any]) -> Texts:
    """Return values as objects, with "" for unknown values."""
    out = np.empty(len(values), object)
    out[:] = ["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in values]
    return out
