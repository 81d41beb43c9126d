"""The registry: every run of both stores with its parent, treatment, position on the token axis and status."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from dde.array_types import Int64
from dde.errors import LineageError
from dde.lineage.counts import MOST
from dde.sources.connection import Connection
from dde.sources.protocols import CONFIG_KEYS, History, PosttrainingSource, RunRecord
from dde.suite.datadecide.names import Base, find_base_by_label
from dde.suite.datadecide.runs.branch_points import Branch, branch_in_run
from dde.suite.datadecide.runs.close_numbers import settle_numbers
from dde.suite.datadecide.runs.derived_columns import CACHED_KEYS, Column, DerivedColumns, PlacedRows
from dde.suite.datadecide.runs.derived_runs import DerivedRun, derived_columns, key_column
from dde.suite.datadecide.runs.evidence import Evidence, gather_evidence
from dde.suite.datadecide.runs.parents import GIVEN, chain_order, resolve_parents
from dde.suite.datadecide.runs.positions import MAX_ROWS_IN_MEMORY, PlacedRun, Placements, has_data, status_of
from dde.suite.datadecide.runs.readers import Readers
from dde.suite.datadecide.runs.run_index import reduced, versions_digest
from dde.suite.datadecide.runs.run_types import RunTypes
from dde.suite.datadecide.runs.token_counts import BEYOND, Placement, planned_tokens
from dde.suite.datadecide.runs.treatments import (
    Treatment,
    number_replicates,
    spelled_labels,
    treatment_of,
    with_variants,
)
from dde.suite.datadecide.runs.worker_runs import RunPositions, SentRuns, TableSteps
from dde.suite.datadecide.tables.pretraining_tables import DataDecide, TableCheckpoints

__all__ = ["RUN_FIELDS", "Registry"]

#: Filters that name a field of the run rather than a hyperparameter.
RUN_FIELDS = ("run_id", "run", "parent_run_id", "project", "entity", "treatment", "replicate", "branch_point")


_NO_STEPS: Int64 = np.empty(0, np.int64)


@dataclass
class Registry:
    """Identity and relations of the runs of both stores; reads identifiers and a few keys only.

    Attributes
    ----------
    tables : DataDecide or None
    store : PosttrainingSource or None
    parents : mapping of run id to str
        Parents given by the user; they override the evidence.
    tokens_per_sequence : float or mapping of str to float, optional
        Overrides the estimate; by run id or run type when a mapping.
    extra_config_keys : set of str
        Config keys that filters need in addition to the usual ones.
    cache_dir : str or path or None
        Folder of the cache; None disables the cache.
    run_types : mapping of str to str
        Run types given by the user; see :class:`dde.suite.datadecide.runs.run_types.RunTypes`.
    all_options : bool
        Whether runs have all options of their launch commands, which are not cached.
    """

    tables: DataDecide | None
    store: PosttrainingSource | None
    parents: Mapping[str, str] = field(default_factory=dict)
    tokens_per_sequence: float | Mapping[str, float] | None = None
    extra_config_keys: frozenset[str] = frozenset()
    cache_dir: str | os.PathLike[str] | Connection | None = None
    all_options: bool = False
    run_types: Mapping[str, str] = field(default_factory=dict)
    _has_all_options: bool = field(default=True, init=False, repr=False)
    # Content of an unpickled registry, so that it does not read the store again.
    _records: list[RunRecord] | None = field(default=None, init=False, repr=False)
    _counters: History | None = field(default=None, init=False, repr=False)
    _opened: str = field(default="", init=False, repr=False)
    _others: dict[tuple[str, ...], History] = field(default_factory=dict, init=False, repr=False)
    _wider: dict[frozenset[str], Registry | None] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # Everything derived from the records is computed again, since it is many times their size. Launch commands are
        # not sent; if a filter in another process names one of their options, that process reads the store.
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__} | {"_wider": {}}
        if self.store is not None:
            self.derived  # noqa: B018 - reads the records
            records = [reduced(record) or record for record in self._records or ()]
            # Compressed, since the same keys and texts occur in all records.
            fields["_records"] = zlib.compress(pickle.dumps((records, self._counters, self._others)), 1)
            fields["_others"] = {}
            fields["_has_all_options"] = False
            fields["_opened"] = self.readers.opened_fingerprint
        return fields

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.store is not None:
            self._records, self._counters, self._others = pickle.loads(zlib.decompress(state["_records"]))

    @property
    def store_fingerprint(self) -> str:
        """Fingerprint of the store when its runs were read; "" for a store without fingerprints.

        A store without a fingerprint of all its content, such as a database, has a version of each run.
        """
        if self.store is None:
            return ""
        columns = self.columns
        if getattr(self.store, "fingerprint", ""):
            return self.readers.store_fingerprint
        return versions_digest(zip(columns.ids.tolist(), columns.version.texts().tolist(), strict=True))

    @cached_property
    def readers(self) -> Readers:
        """Readers of both stores, through the cache."""
        return Readers(self.tables, self.store, self.cache_dir, self._opened)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Version of each derived run, as the store reports it."""
        if "derived" in self.__dict__:
            # Not from the columns: they are computed from positions, and these from logs of these versions.
            return {r.run_id: r.evidence.record.version for r in self.derived.values()}
        return dict(zip(self.columns.ids.tolist(), self.columns.version.texts().tolist(), strict=True))

    @cached_property
    def columns(self) -> DerivedColumns:
        """Derived runs as columns, from the cache if possible, so that opening creates no object per run."""
        known = None if "derived" in self.__dict__ or self.store is None else self._cached_columns()
        if known is None:
            runs = list(self.derived.values())
            known = derived_columns(
                runs, [self.placed[run.run_id] for run in runs], [self._schedule_tokens(run) for run in runs]
            )
            self._cache_columns(known)
        return known

    @property
    def filter_keys(self) -> set[str]:
        """Hyperparameters, and keys of config and launch commands, that filters may name."""
        keys = set(self.columns.keys)
        if "derived" in self.__dict__:
            for run in self.derived.values():
                keys.update(run.evidence.record.config, run.evidence.command)
        return keys

    def key_column(self, key: str) -> Column:
        """Return the values of a key that filters may name, of all derived runs."""
        return self.columns.keys.get(key) or key_column(self.derived.values(), key)

    @cached_property
    def positions(self) -> RunPositions:
        """The part of the registry that is needed to read values."""
        return self if "derived" in self.__dict__ else SentRuns(self.columns, self.readers, self._cached_rows)

    @property
    def _extra_keys(self) -> list[str]:
        """Keys of configs to read beyond the usual ones."""
        return sorted((self.extra_config_keys | RunTypes(self.run_types).config_keys).difference(CONFIG_KEYS))

    @property
    def _settings(self) -> list[Any] | None:
        """Options that the columns depend on, beside the content of the store; None where columns are not cached."""
        if self.all_options or self.extra_config_keys:
            return None
        override = self.tokens_per_sequence
        settings: list[Any] = [
            sorted(self.parents.items()),
            sorted(override.items()) if isinstance(override, Mapping) else override,
        ]
        # In the given order, as the first of several matching patterns is used.
        return [*settings, *([list(self.run_types.items())] if self.run_types else [])]

    def _cached_columns(self) -> DerivedColumns | None:
        settings = self._settings
        if settings is None:
            return None
        if not getattr(self.store, "fingerprint", "") and self._records is None:
            # Such a store has a version of each run instead, which its records contain.
            self._records, self._has_all_options = self.readers.records(self._extra_keys, self.all_options)
        found = self.readers.load_columns(settings, self._records)
        if found is not None and self._records is None:
            self._has_all_options = False
        return found

    def _cache_columns(self, columns: DerivedColumns) -> None:
        settings = self._settings
        if settings is not None and self._records is not None:
            self.readers.save_columns(settings, self._records, columns)
            if len(columns) and int(columns.n_rows.sum()) <= MAX_ROWS_IN_MEMORY:
                placed = self.placements.of(columns.ids.tolist())
                rows = PlacedRows(
                    np.concatenate([[0], np.cumsum(columns.n_rows)]).astype(np.int64),
                    np.concatenate([p.steps for p in placed]),
                    np.concatenate([p.tokens for p in placed]),
                )
                self.readers.save_placed_rows(settings, self._records, rows)

    def _cached_rows(self) -> PlacedRows | None:
        return self.readers.load_placed_rows(self._settings, self._records)

    @cached_property
    def table_checkpoints(self) -> TableCheckpoints:
        """Runs and checkpoints of the tables."""
        return self.readers.table_checkpoints()

    @cached_property
    def checkpoint_steps(self) -> dict[str, Int64]:
        """Evaluated steps of each pretraining run of the tables, by label."""
        return self.table_checkpoints.steps_by_label()

    @cached_property
    def _table_steps(self) -> TableSteps:
        return TableSteps(self.table_checkpoints)

    def table_steps(self, sampling: str) -> Mapping[str, Int64]:
        """Return the steps of each pretraining run with rows in the tables of evaluations, or of perplexities."""
        return self._table_steps.of(sampling)

    def is_evaluated(self, run_id: str) -> bool:
        """Return whether a derived run has final evaluations."""
        return self.derived[run_id].evidence.record.evaluated

    @cached_property
    def derived(self) -> dict[str, DerivedRun]:
        """Post-training runs by id, parents before children."""
        if self.store is None:
            return {}
        if self._records is None:
            self._records, self._has_all_options = self.readers.records(self._extra_keys, self.all_options)
        types = RunTypes(self.run_types)
        types.check(self._records)
        # Keys that only state the type of a run were not requested as hyperparameters.
        of_types = types.config_keys - self.extra_config_keys
        evidence = {r.run_id: gather_evidence(_without(r, of_types), types.of(r)) for r in self._records}
        settle_numbers([item.hyperparameters for item in evidence.values()])
        parents = resolve_parents(evidence, self.parents)
        treatments: dict[str, Treatment] = {}
        for run_id in chain_order(parents):
            found = parents[run_id]
            parent = treatments.get(found.parent_run_id)
            if not evidence[run_id].refused and (found.checkpoint is not None or parent is not None):
                treatments[run_id] = treatment_of(evidence[run_id], found, parent)
        treatments = with_variants(treatments, evidence, {r: parents[r].parent_run_id for r in treatments})
        replicates = number_replicates(
            [
                (run_id, base.label, treatment.identity, evidence[run_id].record.created_at)
                for run_id, treatment in treatments.items()
                if (base := parents[run_id].base) is not None
            ]
        )
        labels = dict(zip(treatments, spelled_labels(list(treatments.values())), strict=True))
        return {
            run_id: DerivedRun(
                run_id,
                evidence[run_id],
                parents[run_id],
                treatments.get(run_id),
                replicates.get(run_id, 0),
                labels.get(run_id, ("", ""))[0],
            )
            for run_id in chain_order(parents)
        }

    @cached_property
    def bases(self) -> dict[str, Base]:
        """Pretraining runs by label: those of the tables, then those that only post-training runs name."""
        found = {b.label: b for b in self.table_checkpoints.bases}
        for label in self.columns.lineage.values:
            base = find_base_by_label(label) if label not in found else None
            if base is not None:
                found[label] = base
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
        """Return this registry, or one with these keys of the runs' config as well."""
        keys = frozenset(keys)
        if keys <= {*self.columns.keys, *RUN_FIELDS}:
            return self
        known = {k for r in self.derived.values() for k in r.hyperparameters}
        read = CONFIG_KEYS if self._has_all_options else CACHED_KEYS.intersection(CONFIG_KEYS)
        unknown = keys.difference(known, read, self.extra_config_keys, RUN_FIELDS)
        if not unknown or self.store is None:
            return self
        if unknown not in self._wider:
            wider = replace(self, extra_config_keys=self.extra_config_keys | unknown, all_options=True)
            found = {k for r in wider.derived.values() for k in r.hyperparameters}
            # Cached records have few options of the launch command; the filter may name any other.
            self._wider[unknown] = wider if found & unknown or not self._has_all_options else None
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
    def placements(self) -> Placements:
        """Rows of derived runs by own tokens; computed in one pass over the counters of the store's logs."""
        evidence = {} if self.store is None else {run_id: run.evidence for run_id, run in self.derived.items()}
        return Placements(evidence, self._read_counters, self._read_other_counters, self._override)

    @cached_property
    def placed(self) -> dict[str, PlacedRun]:
        """Positions of every derived run."""
        ends = self.placements.ends
        rows = self._rows_with_branches()
        placed: dict[str, PlacedRun] = {}
        for run_id, run in self.derived.items():
            end, branch = ends[run_id], self._branch(run, placed, rows)
            status = status_of(run.parentage, run.evidence, branch.tokens, end, placed, branch.problem)
            last = None
            if branch.tokens is not None and end.tokens is not None and has_data(run.evidence, end):
                last = branch.tokens + end.tokens
                last = last if last <= MOST else None
            placed[run_id] = PlacedRun(branch.tokens, last, end, status, branch.estimate)
        return placed

    def _rows_with_branches(self) -> dict[str, Placement]:
        """Return the rows of the runs that others branch from at a step."""
        parents = [r.parent_run_id for r in self.derived.values() if r.parentage.run_checkpoint.step is not None]
        run_ids = [run_id for run_id in dict.fromkeys(parents) if run_id in self.derived]
        return dict(zip(run_ids, self.placements.of(run_ids), strict=True))

    def _read_counters(self, run_ids: Sequence[str]) -> History:
        is_all_runs = len(run_ids) == len(self.derived)
        if self._counters is not None and is_all_runs:
            return self._counters
        rows = self.readers.counters(run_ids, self.versions, use_cache=is_all_runs)
        if is_all_runs and len(rows.step) <= MAX_ROWS_IN_MEMORY:
            self._counters = rows
        return rows

    def _read_other_counters(self, run_ids: Sequence[str]) -> History:
        key = tuple(run_ids)
        if key not in self._others:
            # If the counters of all runs are in memory, the first request is for all runs.
            is_first = self._counters is not None and not self._others
            rows = self.readers.other_counters(run_ids, self.versions, use_cache=is_first)
            if sum(len(cached.step) for cached in self._others.values()) + len(rows.step) > MAX_ROWS_IN_MEMORY:
                return rows
            self._others[key] = rows
        return self._others[key]

    def _override(self, item: Evidence) -> float | None:
        override = self.tokens_per_sequence
        if isinstance(override, Mapping):
            return override.get(item.record.run_id, override.get(item.run_type))
        return override

    def _branch(self, run: DerivedRun, placed: Mapping[str, PlacedRun], rows: Mapping[str, Placement]) -> Branch:
        """Return the branch point of a run, in cumulative tokens."""
        found = run.parentage
        if found.checkpoint is not None:
            return Branch(found.checkpoint.tokens)
        if found.problem:
            return Branch(problem=found.problem)
        parent = placed.get(found.parent_run_id)
        if parent is None or parent.branch_tokens is None or not found.in_store:
            return Branch(problem="the parent's own place is unknown")
        evidence = self.derived[found.parent_run_id].evidence
        inside = branch_in_run(evidence, parent.end, found.run_checkpoint, rows)
        if inside.tokens is None:
            if found.evidence == GIVEN and not found.run_checkpoint.is_final:
                raise LineageError(
                    f"parents= says that {run.run_id!r} starts from {found.run_checkpoint.name} of the run "
                    f"{found.parent_run_id!r}, but {inside.problem}, so the branch is unknown. "
                    "Name a step that its log holds, or the id alone for its end."
                )
            return inside
        if parent.branch_tokens + inside.tokens > MOST:
            return Branch(problem=f"it has {BEYOND}")
        return replace(inside, tokens=parent.branch_tokens + inside.tokens)

    def _schedule_tokens(self, run: DerivedRun) -> int | None:
        """Return the cumulative tokens at the planned end of a derived run; None where unknown.

        A finished run ended as planned. An unfinished finetuning run was planned for its sequences, or its nominal
        budget, times its epochs. The plan of an unfinished DPO run is unknown.
        """
        placed = self.placed[run.run_id]
        if run.state == "finished":
            return placed.end_tokens
        planned = planned_tokens(run.evidence, self.placements.tokens_per_sequence(run.run_id))
        return None if planned is None or placed.branch_tokens is None else placed.branch_tokens + planned

    def base_end_tokens(self, label: str) -> int | None:
        """Return the tokens of the last evaluated checkpoint of a pretraining run; None without any."""
        steps = self.checkpoint_steps.get(label, _NO_STEPS)
        return self.bases[label].size.tokens_at(int(steps[-1])) if len(steps) else None


def _without(record: RunRecord, keys: frozenset[str]) -> RunRecord:
    """Return a record without some keys of its config."""
    if keys.isdisjoint(record.config):
        return record
    return replace(record, config={key: value for key, value in record.config.items() if key not in keys})
