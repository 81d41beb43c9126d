"""The registry: every run of both stores with its parent, treatment, place on the token axis and status."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.names import Base
from dde.relations.evidence import Evidence, gather_evidence
from dde.relations.parents import Parentage, chain_order, resolve_parents
from dde.relations.readers import COUNTER, Readers
from dde.relations.run_index import KEPT_KEYS, reduced
from dde.relations.token_counts import (
    TOKEN_SOURCES,
    Placement,
    measure_tokens_per_sequence,
    place_run,
)
from dde.relations.treatments import Treatment, number_replicates, treatment_of
from dde.sources.datadecide import Catalog, DataDecide
from dde.sources.protocols import CONFIG_KEYS, History, PosttrainingSource, RunRecord

__all__ = ["RUN_FIELDS", "DerivedRun", "PlacedRun", "Registry"]

#: Filters that name a field of the run rather than a hyperparameter.
RUN_FIELDS = ("run_id", "run", "parent_run_id", "project", "entity", "treatment", "replicate", "branch_point")

Int64 = npt.NDArray[np.int64]

_NO_STEPS: Int64 = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class DerivedRun:
    """One post-training run as the registry knows it: identity and relations, no positions.

    Attributes
    ----------
    run_id : str
    evidence : Evidence
    parentage : Parentage
    treatment : Treatment or None
        None where no parent was found.
    replicate : int
        From 1; 0 where there is no treatment.
    label : str
        Treatment with ``#<replicate>`` from the second on; "" where there is no treatment.
    """

    run_id: str
    evidence: Evidence
    parentage: Parentage
    treatment: Treatment | None = None
    replicate: int = 0

    @property
    def run_type(self) -> str:
        """``supervised_ft``, ``dpo`` or ``other``."""
        return self.evidence.run_type

    @property
    def state(self) -> str:
        """State as W&B has it."""
        return self.evidence.record.state

    @property
    def parent_run_id(self) -> str:
        """Id of the parent run, the lineage's label for a pretraining checkpoint; "" where unknown."""
        return self.parentage.parent_run_id

    @property
    def lineage(self) -> str:
        """Label of the lineage; "" where unknown."""
        return self.parentage.base.label if self.parentage.base else ""

    @property
    def label(self) -> str:
        """Label along the dimension ``run``."""
        if self.treatment is None:
            return ""
        return self.treatment.label + (f"#{self.replicate}" if self.replicate > 1 else "")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Hyperparameters by the contract's names, and any other config key that was asked for."""
        return self.evidence.hyperparameters


@dataclass(frozen=True, slots=True)
class PlacedRun:
    """Where a derived run lies on its lineage's axis of cumulative tokens.

    Attributes
    ----------
    branch_tokens, end_tokens : int or None
        None where unknown.
    placement : Placement
        Rows on the axis of the run's own tokens.
    status : str
        ``used``, or why the run can't be in a Dataset.
    """

    branch_tokens: int | None
    end_tokens: int | None
    placement: Placement
    status: str

    @property
    def token_source(self) -> str:
        """How the end is known; "" where it isn't."""
        return "" if self.end_tokens is None else TOKEN_SOURCES[self.placement.end_source]


@dataclass
class Registry:
    """Everything about identity and relation of the runs of two stores; reads identifiers and a few keys.

    Attributes
    ----------
    tables : DataDecide or None
    store : PosttrainingSource or None
    parents : mapping of run id to str
        The user's word on parents.
    tokens_per_sequence : float or mapping of str to float, optional
        Overrides the estimate; by run id or run type when a mapping.
    extra_config_keys : set of str
        Config keys beyond the usual ones that filters ask for.
    cache_dir : str or path or None
        Folder of the cache; None for none.
    whole : bool
        Whether runs are known with all options of their launch commands, which are never kept.
    """

    tables: DataDecide | None
    store: PosttrainingSource | None
    parents: Mapping[str, str] = field(default_factory=dict)
    tokens_per_sequence: float | Mapping[str, float] | None = None
    extra_config_keys: frozenset[str] = frozenset()
    cache_dir: str | os.PathLike[str] | None = None
    whole: bool = False
    _is_whole: bool = field(default=True, init=False, repr=False)
    # What an unpickled registry came with, so that it reads no store for it.
    _records: list[RunRecord] | None = field(default=None, init=False, repr=False)
    _counters: History | None = field(default=None, init=False, repr=False)
    _wider: dict[frozenset[str], Registry | None] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # What follows from the records is made again: it is many times their size. Another process needs no launch
        # commands; where a filter asks for one, it reads the store.
        fields = {name: self.__dict__[name] for name in self.__dataclass_fields__} | {"_wider": {}}
        if self.store is not None:
            self.derived  # noqa: B018 - reads the records
            records = [reduced(record) or record for record in self._records or ()]
            # The same keys and texts stand in all of them.
            fields["_records"] = zlib.compress(pickle.dumps((records, self._counters)), 1)
            fields["_is_whole"] = False
        return fields

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.store is not None:
            self._records, self._counters = pickle.loads(zlib.decompress(state["_records"]))

    @property
    def store_fingerprint(self) -> str:
        """What the store said of its content when its runs were read; "" where what was read is not kept."""
        if self.store is not None:
            self.derived  # noqa: B018 - reads the records
        return self.readers.store_fingerprint

    @cached_property
    def readers(self) -> Readers:
        """Rows of both stores, through the cache."""
        return Readers(self.tables, self.store, self.cache_dir)

    @cached_property
    def versions(self) -> dict[str, str]:
        """What the store says of each derived run's content."""
        return {r.run_id: r.evidence.record.version for r in self.derived.values()}

    @cached_property
    def catalog(self) -> Catalog:
        """Runs and checkpoints of the tables."""
        return self.readers.catalog()

    @cached_property
    def checkpoint_steps(self) -> dict[str, Int64]:
        """Evaluated steps of each pretraining run of the tables, by label."""
        catalog = self.catalog
        bounds = np.searchsorted(catalog.base, np.arange(len(catalog.bases) + 1))
        return {b.label: catalog.step[bounds[i] : bounds[i + 1]] for i, b in enumerate(catalog.bases)}

    @cached_property
    def derived(self) -> dict[str, DerivedRun]:
        """Post-training runs by id, parents before children."""
        if self.store is None:
            return {}
        extra = sorted(self.extra_config_keys.difference(CONFIG_KEYS))
        if self._records is None:
            self._records, self._is_whole = self.readers.records(extra, self.whole)
        evidence = {r.run_id: gather_evidence(r) for r in self._records}
        parents = resolve_parents(evidence, self.parents)
        treatments: dict[str, Treatment] = {}
        for run_id in chain_order(parents):
            found = parents[run_id]
            parent = treatments.get(found.parent_run_id)
            if found.checkpoint is not None or parent is not None:
                treatments[run_id] = treatment_of(evidence[run_id], found, parent)
        replicates = number_replicates(
            [
                (run_id, base.label, treatment.label, evidence[run_id].record.created_at)
                for run_id, treatment in treatments.items()
                if (base := parents[run_id].base) is not None
            ]
        )
        return {
            run_id: DerivedRun(
                run_id, evidence[run_id], parents[run_id], treatments.get(run_id), replicates.get(run_id, 0)
            )
            for run_id in chain_order(parents)
        }

    @cached_property
    def bases(self) -> dict[str, Base]:
        """Pretraining runs by label: those of the tables, then those that only post-training runs name."""
        found = {b.label: b for b in self.catalog.bases}
        for run in self.derived.values():
            if run.parentage.base is not None:
                found.setdefault(run.lineage, run.parentage.base)
        return found

    @cached_property
    def children(self) -> dict[str, list[str]]:
        """Ids of the runs that start directly from each run."""
        found: dict[str, list[str]] = {}
        for run in self.derived.values():
            if run.parent_run_id:
                found.setdefault(run.parent_run_id, []).append(run.run_id)
        return found

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """Ids of all derived runs of each lineage, parents before children."""
        found: dict[str, list[str]] = {label: [] for label in self.bases}
        for run in self.derived.values():
            if run.lineage:
                found[run.lineage].append(run.run_id)
        return found

    def with_config_keys(self, keys: Iterable[str]) -> Registry:
        """Return a registry that also knows these keys of the runs' config, where this one does not."""
        known = {k for r in self.derived.values() for k in r.hyperparameters}
        held = CONFIG_KEYS if self._is_whole else KEPT_KEYS.intersection(CONFIG_KEYS)
        unknown = frozenset(keys).difference(known, held, self.extra_config_keys, RUN_FIELDS)
        if not unknown or self.store is None:
            return self
        if unknown not in self._wider:
            wider = replace(self, extra_config_keys=self.extra_config_keys | unknown, whole=True)
            found = {k for r in wider.derived.values() for k in r.hyperparameters}
            # Kept records have few options of the launch command; any other may be what is asked for.
            self._wider[unknown] = wider if found & unknown or not self._is_whole else None
        return self._wider[unknown] or self

    def chain(self, run_id: str) -> list[str]:
        """Return the run's ancestors in the store, from the base on, then the run itself."""
        chain = [run_id]
        while (run := self.derived.get(chain[-1])) is not None and run.parent_run_id:
            if not run.parentage.in_store:
                break
            chain.append(run.parent_run_id)
        return chain[::-1]

    @cached_property
    def placed(self) -> dict[str, PlacedRun]:
        """Positions of every derived run; one pass over the counters of the store's histories."""
        derived = self.derived
        if self.store is None or not derived:
            return {}
        run_ids = list(derived)
        if self._counters is None:
            self._counters = self.readers.counters(run_ids, self.versions)
        rows = self._counters
        bounds = np.searchsorted(rows.run, np.arange(len(run_ids) + 1))
        logged: dict[str, tuple[Int64, npt.NDArray[np.float64]]] = {}
        for i, run_id in enumerate(run_ids):
            part = slice(bounds[i], bounds[i + 1])
            logged[run_id] = _distinct_steps(rows.step[part], rows.values[COUNTER][part])
        measured = measure_tokens_per_sequence(
            (derived[run_id].evidence, *logged[run_id]) for run_id in run_ids if derived[run_id].state == "finished"
        )
        placed: dict[str, PlacedRun] = {}
        for run_id, run in derived.items():
            placement = place_run(run.evidence, *logged[run_id], measured, self._override(run))
            branch = self._branch_tokens(run, placed)
            end = None if branch is None or placement.end is None else branch + placement.end
            status = _status(run, branch, placement, len(logged[run_id][0]) > 0, placed)
            placed[run_id] = PlacedRun(branch, end, placement, status)
        return placed

    def _override(self, run: DerivedRun) -> float | None:
        told = self.tokens_per_sequence
        if isinstance(told, Mapping):
            return told.get(run.run_id, told.get(run.run_type))
        return told

    def _branch_tokens(self, run: DerivedRun, placed: Mapping[str, PlacedRun]) -> int | None:
        if run.parentage.checkpoint is not None:
            return run.parentage.checkpoint.tokens
        parent = placed.get(run.parent_run_id)
        return None if parent is None else parent.end_tokens

    def base_end_tokens(self, label: str) -> int | None:
        """Return the tokens of the last evaluated checkpoint of a pretraining run; None without any."""
        steps = self.checkpoint_steps.get(label, _NO_STEPS)
        return self.bases[label].size.tokens_at(int(steps[-1])) if len(steps) else None


def _distinct_steps(steps: Int64, counter: npt.NDArray[np.float64]) -> tuple[Int64, npt.NDArray[np.float64]]:
    """Keep one count per step: the first that is a number (rows are ordered by step, then by the store)."""
    if len(steps) < 2 or (np.diff(steps) > 0).all():
        return steps, counter
    order = np.lexsort((np.arange(len(steps)), ~np.isfinite(counter), steps))
    first = np.concatenate([[True], np.diff(steps[order]) > 0])
    return steps[order][first], counter[order][first]


def _status(
    run: DerivedRun,
    branch: int | None,
    placement: Placement,
    has_history: bool,
    placed: Mapping[str, PlacedRun],
) -> str:
    found = run.parentage
    if run.run_type == "other":
        return "unknown run type"
    if found.parent_run_id and not found.in_store:
        return "parent not in store"
    if found.problem or not found.parent_run_id:
        return f"no parent found: {found.problem}" if found.problem else "no parent found"
    parent = placed.get(found.parent_run_id)
    if parent is not None and parent.status != "used":
        return f"parent not usable: {parent.status}"
    if branch is None:
        return "branch unknown: the parent's end is unknown"
    if not has_history and not run.evidence.record.evaluated:
        return "no data"
    if placement.end is None:
        return "tokens unknown: neither counter, sequences, batch nor budget"
    if placement.end <= 0:
        return "no tokens of its own"
    return "used"


def tokens_of_steps(placement: Placement, steps: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Return the run's own tokens at logged steps, and which of the steps are placed at all."""
    if not len(placement.steps):
        return np.zeros(len(steps), np.int64), np.zeros(len(steps), bool)
    at = np.minimum(np.searchsorted(placement.steps, steps), len(placement.steps) - 1)
    return placement.tokens[at], placement.steps[at] == steps
