"""The pretraining tables of the DataDecide suite, raw or parsed, in a folder or at a URL."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from dde.curves.metric import Metric
from dde.errors import SourceError, UnknownNameError, list_names, near_names, warn_caller
from dde.sources.connection import Connection
from dde.sources.protocols import History
from dde.suite.datadecide.names import (
    DEFAULT_METRICS,
    ENTRIES,
    Base,
    choose_bases,
    parse_metric,
    suite_order,
    task_metric,
    training_flops,
)
from dde.suite.datadecide.tables.dict_tables import DictTable
from dde.suite.datadecide.tables.evaluation_tables import EVALUATED, PERPLEXITY, EvaluationTable, OnError
from dde.suite.datadecide.tables.macro_table import MacroTable
from dde.suite.datadecide.tables.row_index import MAX_STEP, IndexHead, RowIndex, join_keys, key_runs, key_steps
from dde.suite.datadecide.tables.table_files import FileKinds, TableFile, TableKind, find_table_files, missing_shards
from dde.suite.datadecide.tables.wide_table import WideTable

__all__ = ["DataDecide", "IndexKeeper", "TableCheckpoints"]

# Names of the tables of the raw layout, with their files in the published suite.
_PUBLISHED: dict[TableKind, str] = {
    "raw": "evaluation shards (DataDecide-eval-results/data/train-*.parquet)",
    "macro": "macro averages (DataDecide-eval-results/data/macro_avg-*.parquet)",
    "perplexity": "perplexity table (DataDecide-ppl-results/data/train-*.parquet)",
}


@dataclass(frozen=True, slots=True)
class TableCheckpoints:
    """Checkpoints in the tables, without their metrics.

    Attributes
    ----------
    bases : tuple of Base
        Pretraining runs, by recipe, size and seed in the order of the suite.
    base : (checkpoint,) int32 array
        Index into `bases`; ascending.
    step : (checkpoint,) int64 array
        Training step; ascending within a run. Distinct.
    sampled : (checkpoint,) uint8 array or None
        Kinds of tables that have a row of the checkpoint: the sum of `EVALUATED` and `PERPLEXITY`. None if both kinds
        have rows of all checkpoints.
    """

    bases: tuple[Base, ...]
    base: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]
    sampled: npt.NDArray[np.uint8] | None = None

    def steps_by_label(self, kind: int = 0) -> dict[str, npt.NDArray[np.int64]]:
        """Return the steps of each run, by label; with `kind`, only steps that have a row in tables of the kind."""
        base, step = self.base, self.step
        if kind and self.sampled is not None:
            some = (self.sampled & kind) > 0
            base, step = base[some], step[some]
        bounds = np.searchsorted(base, np.arange(len(self.bases) + 1))
        return {b.label: step[bounds[i] : bounds[i + 1]] for i, b in enumerate(self.bases)}

    def to_frame(self) -> pd.DataFrame:
        """Return one row per checkpoint: params, data, seed, step, tokens, overrun."""
        per_step = np.array([b.size.tokens_per_step for b in self.bases], np.int64)
        last = np.array([b.size.last_step for b in self.bases], np.int64)
        pick = self.base
        return pd.DataFrame(
            {
                "lineage": np.array([b.label for b in self.bases], object)[pick],
                "params": np.array([b.size.name for b in self.bases], object)[pick],
                "data": np.array([b.recipe.name for b in self.bases], object)[pick],
                "seed": np.array([b.seed.index for b in self.bases], np.int64)[pick],
                "step": self.step,
                "tokens": self.step * per_step[pick],
                "overrun": [self.bases[b].size.overruns(s) for b, s in zip(pick, self.step, strict=True)],
                "past_schedule": self.step - last[pick],
            }
        )


class IndexKeeper(Protocol):
    """Protocol of a cache of the row indexes of tables."""

    def load_checkpoints(self, fingerprint: str) -> tuple[TableCheckpoints, list[IndexHead]] | None:
        """Return the checkpoints and the head of each table's index; None if they are not cached."""
        ...

    def load_rows(self, fingerprint: str, table: int) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays of a table's index; None if they are not cached."""
        ...

    def save(self, fingerprint: str, checkpoints: TableCheckpoints, indexes: list[RowIndex]) -> None:
        """Store the checkpoints and the indexes."""
        ...

    def load_entry_names(self, fingerprint: str, table: int) -> frozenset[str] | None:
        """Return the names of the entries in the rows of a table; None if they are not cached."""
        ...

    def save_entry_names(self, fingerprint: str, table: int, names: frozenset[str]) -> None:
        """Store the names of the entries in the rows of a table."""
        ...


class DataDecide:
    """Tables of the DataDecide suite.

    Parameters
    ----------
    data_dir : str or path
        Folder, file or fsspec URL with the Hub's raw tables (nested to any depth, or the Hub's own cache),
        or with the tables of the package datadec.
    layout : {"auto", "raw", "parsed"}
        Tables to read if there are both; "auto" prefers the parsed wide table.
    on_error : {"raise", "skip"}
        Handling of malformed rows: raise FormatError, or count them in `left_out`.
    kept : FileKinds, optional
        Cached kinds of the files; see :func:`dde.suite.datadecide.tables.table_files.find_table_files`.

    Raises
    ------
    SourceError
        When the folder does not exist or has no table of the suite.

    Examples
    --------
    >>> dd = DataDecide("data")  # doctest: +SKIP
    >>> dd.select_subset(params="150M", data="C4", metrics=["mmlu_average"])  # doctest: +SKIP
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        layout: Literal["auto", "raw", "parsed"] = "auto",
        on_error: OnError = "raise",
        kept: FileKinds | None = None,
    ) -> None:
        self._place = Connection(data_dir)
        files, aside = find_table_files(self._place, kept)
        kinds = {f.kind for f in files}
        has_raw = bool(kinds & {"raw", "macro", "perplexity"})
        if layout == "auto":
            layout = "parsed" if "wide" in kinds else "raw"
        requested = {"wide"} if layout == "parsed" else {"raw", "macro", "perplexity"}
        if not kinds & requested:
            other = "raw" if has_raw else "parsed"
            other_layout = f" It holds tables of the other layout: pass layout={other!r}." if kinds else ""
            hint = _hint(self._place)
            raise SourceError(
                f"{self.data_dir!r} holds no {layout} table of the DataDecide suite, so there are no "
                f"pretraining runs to open.{other_layout}{hint} Pass a folder with parquet files with the columns "
                "params, data, seed, step and either task and metrics, or metric columns."
            )
        self._set_aside = aside + [
            f"{f.path}: the {layout} tables are read instead" for f in files if f.kind not in requested
        ]
        if layout == "raw":
            self._set_aside += [f"{what}: missing" for kind, what in _PUBLISHED.items() if kind not in kinds]
        self.layout = layout
        self.on_error = on_error
        self._tables: list[EvaluationTable] = []
        for kind in ("wide", "raw", "perplexity", "macro"):
            of_kind = [f for f in files if f.kind == kind and kind in requested]
            if of_kind:
                self._tables.append(self._table(kind, of_kind))
        self._found = self.files
        self._checkpoints: TableCheckpoints | None = None
        self._keeper: IndexKeeper | None = None
        # The metrics of the last request, by the table that has them.
        self._grouped: tuple[tuple[Metric, ...], dict[EvaluationTable | None, list[Metric]]] = (), {}

    def _table(self, kind: TableKind, files: list[TableFile]) -> EvaluationTable:
        if kind == "raw":
            return DictTable(files, self.on_error)
        if kind == "macro":
            # The shards are needed to interpret zeros of the averages.
            shards = next((t for t in self._tables if isinstance(t, DictTable)), None)
            return MacroTable(files, self.on_error, shards)
        return WideTable(files, self.on_error)

    def __repr__(self) -> str:
        return f"DataDecide({self.description!r}, layout={self.layout!r})"

    @property
    def description(self) -> str:
        """Folder or URL of the tables, without credentials."""
        return self.data_dir

    @property
    def data_dir(self) -> str:
        """Folder or URL of the tables, without credentials."""
        return self._place.redacted

    @property
    def location(self) -> str:
        """Absolute location of the tables, without credentials, valid in any working directory."""
        return self._place.location

    @property
    def has_secret(self) -> bool:
        """Whether the tables are read with a credential, which is not sent to other processes."""
        return self._place.has_secret

    @property
    def files(self) -> list[TableFile]:
        """Files that are read, without copies."""
        return [f for table in self._tables for f in table.files]

    @property
    def fingerprint(self) -> str:
        """Digest of names and versions of the files; changes when any of them changes."""
        # Includes copies, so that the digest is the same before and after they are detected.
        facts = sorted(f"{f.path}|{f.version}" for f in self._found)
        return hashlib.sha256("\n".join([self.layout, *facts]).encode()).hexdigest()[:16]

    @property
    def left_out(self) -> dict[str, int]:
        """Number of rows left out so far, by reason; grows as metrics are read."""
        self.catalog()
        total: dict[str, int] = {}
        for table in self._tables:
            for reason, count in table.left_out.items():
                total[reason] = total.get(reason, 0) + count
        return total

    @property
    def set_aside(self) -> list[str]:
        """Tables and shards that are not read, each with the reason, and default metrics that no table has."""
        self.catalog()
        aside = [*self._set_aside, *(f"{path}: {what}" for path, what in self._copies().items())]
        aside += [f"{name}: missing" for table in self._tables for name in missing_shards(table.files)]
        if not self.absent_metrics:
            return aside
        names = ", ".join(m.name for m in self.absent_metrics)
        return [
            *aside,
            f"default metrics that no pretraining table holds: {len(self.absent_metrics)} ({names})",
        ]

    def _copies(self) -> dict[str, str]:
        """Return the files that only repeat rows of others, with the reason for not reading them."""
        kinds = {f.path: f.kind for f in self._found}
        return {
            path: f"another copy of the {kinds[path]} table is read instead, with all of its rows"
            for table in self._tables
            for path in table.head.copies
        }

    @property
    def absent_metrics(self) -> list[Metric]:
        """Evaluations and perplexities among the default metrics that no table has; reads no metrics."""
        self.catalog()
        return [m for m in DEFAULT_METRICS if m.kind != "log" and all(table.lacks_default(m) for table in self._tables)]

    @property
    def conflicts(self) -> list[str]:
        """Names of rows read so far that disagree with the first row of the same run and step."""
        return [table.name_row(row) for table in self._tables for row in sorted(table.conflicting)]

    @property
    def reads(self) -> dict[str, int]:
        """Amount of metrics read so far: rows, row groups, stored bytes."""
        return {
            name: sum(getattr(t.reads, name) for t in self._tables) for name in ("rows", "row_groups", "stored_bytes")
        }

    def keep_index(self, keeper: IndexKeeper) -> None:
        """Load the row indexes from a cache, and store them there after they are read."""
        if self._checkpoints is None:
            self._keeper = keeper

    def catalog(self) -> TableCheckpoints:
        """Return the runs and checkpoints in the tables; reads only key columns, once."""
        if self._checkpoints is not None:
            return self._checkpoints
        if self._keeper is not None:
            self._checkpoints = self._cached_checkpoints(self._keeper)
        if self._checkpoints is None:
            keys: list[npt.NDArray[np.int64]] = []
            kinds: list[npt.NDArray[np.uint8]] = []
            # A stable order, whichever tables exist.
            order = {base: None for table in self._tables for base in table.index.bases}
            bases = tuple(sorted(order, key=suite_order))
            index_of = {base: i for i, base in enumerate(bases)}
            for table in self._tables:
                index = table.index
                meaning = np.array([index_of[b] for b in index.bases] + [-1], np.int64)
                usable = (index.base >= 0) & (index.step >= 0)
                key, sampled = join_keys(meaning[index.base[usable]], index.step[usable]), table.row_kinds()
                for kind in (EVALUATED, PERPLEXITY):
                    of_kind = key if isinstance(sampled, int) else key[(sampled[usable] & kind) > 0]
                    if not isinstance(sampled, int) or sampled & kind:
                        keys.append(np.unique(of_kind))
                        kinds.append(np.full(len(keys[-1]), kind, np.uint8))
                if not isinstance(sampled, int):
                    # Rows without any metric are checkpoints too.
                    keys.append(np.unique(key[sampled[usable] == 0]))
                    kinds.append(np.zeros(len(keys[-1]), np.uint8))
            distinct, number_of = np.unique(np.concatenate(keys), return_inverse=True)
            of_checkpoint = np.zeros(len(distinct), np.uint8)
            np.bitwise_or.at(of_checkpoint, number_of, np.concatenate(kinds))
            self._checkpoints = TableCheckpoints(
                bases, key_runs(distinct).astype(np.int32), key_steps(distinct), of_checkpoint
            )
            if self._keeper is not None:
                # A failure to write is ignored, as the keys can be read again; caching metrics warns of it once.
                with suppress(OSError):
                    self._keeper.save(self.fingerprint, self._checkpoints, [table.index for table in self._tables])
        if copies := self._copies():
            warn_caller(
                f"{len(copies)} pretraining tables only have rows that are in other tables too, with equal content "
                f"({list_names(copies, 3)}), so they are not read. "
                "Remove them to silence this."
            )
        return self._checkpoints

    def _cached_checkpoints(self, keeper: IndexKeeper) -> TableCheckpoints | None:
        fingerprint = self.fingerprint
        cached = keeper.load_checkpoints(fingerprint)
        if cached is None or len(cached[1]) != len(self._tables):
            return None
        for number, (table, head) in enumerate(zip(self._tables, cached[1], strict=True)):
            table.use_cached(head, partial(keeper.load_rows, fingerprint, number))
        return cached[0]

    def metrics(self) -> list[Metric]:
        """Return every metric that the tables may have."""
        for number, table in enumerate(self._tables):
            if self._keeper is not None and isinstance(table, DictTable) and table.entry_names is None:
                table.entry_names = self._entry_names(number, table, self._keeper)
        return list({m.name: m for table in self._tables for m in table.metrics()}.values())

    def _entry_names(self, number: int, table: DictTable, keeper: IndexKeeper) -> frozenset[str]:
        """Return the names of the entries of a table, from the cache, or stored there after they are read."""
        names = keeper.load_entry_names(self.fingerprint, number)
        if names is None:
            malformed = len(table.malformed)
            names = table.read_entry_names()
            # Rows that can't be read are reported each time the tables are opened.
            if len(table.malformed) == malformed:
                with suppress(OSError):
                    keeper.save_entry_names(self.fingerprint, number, names)
        return names

    def holds(self, metric: Metric) -> bool:
        """Return whether some table may have the metric."""
        return self._holder(metric) is not None

    def lacks_default(self, metric: Metric) -> bool:
        """Return whether one of the default metrics is in no table; opens no file once the catalog is loaded."""
        self.catalog()
        return all(table.lacks_default(metric) for table in self._tables)

    def read_together(self, metric: Metric, others: Iterable[Metric]) -> list[Metric]:
        """Return the metric, and those of the others that are read together with it at little cost.

        Texts of all tasks of a run are interleaved, so reading those of one task reads nearly all of them.
        """
        holder = self._holder(metric)
        if holder is None or not holder.reads_complete_tasks:
            return [metric]
        asked = tuple(others)
        listed, by_table = self._grouped
        if listed != asked:
            by_table = {}
            for other in asked:
                by_table.setdefault(self._holder(other), []).append(other)
            # All metrics of a Dataset are requested together with the same others.
            self._grouped = asked, by_table
        return [metric, *(m for m in by_table.get(holder, ()) if m.name != metric.name)]

    def whole_tasks(self, metrics: Iterable[Metric]) -> list[Metric]:
        """Return the metrics, then all other metrics of their tasks that are parsed from the same texts."""
        requested = {m.name: m for m in metrics}
        for metric in list(requested.values()):
            holder = self._holder(metric)
            if holder is not None and holder.reads_complete_tasks:
                siblings = (task_metric(metric.task, entry) for entry in ENTRIES)
                requested |= {m.name: m for m in siblings if m.name not in requested and self._holder(m) is holder}
        return list(requested.values())

    def _holder(self, metric: Metric) -> EvaluationTable | None:
        # The first table with a metric is used: shards before their published averages.
        return next((t for t in self._tables if t.holds(metric)), None)

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric]) -> History:
        """Return the observations of `metrics` for `bases`; reads only the requested rows and columns.

        Returns
        -------
        History
            `run` indexes `bases`; rows are ordered by run, then step. They are all checkpoints of `bases`,
            whatever the metrics. `values` are keyed by the metrics' names.
        """
        checkpoints = self.catalog()
        index_of = {base: i for i, base in enumerate(bases)}
        run = np.array([index_of.get(b, -1) for b in checkpoints.bases] + [-1], np.int64)[checkpoints.base]
        keys = np.sort(join_keys(run[run >= 0], checkpoints.step[run >= 0]))
        out: dict[str, npt.NDArray[np.float64]] = {}
        for table in self._tables:
            own = [m for m in metrics if self._holder(m) is table]
            if own:
                out |= {m.name: v for m, v in zip(own, table.evaluations(bases, own, keys), strict=True)}
        values = {m.name: out[m.name] if m.name in out else np.full(len(keys), np.nan) for m in metrics}
        return History(key_runs(keys).astype(np.int32), key_steps(keys), values)

    def select_subset(
        self,
        params: str | Iterable[str] | None = None,
        data: str | Iterable[str] | None = None,
        seed: object = None,
        steps: Iterable[int] | None = None,
        metrics: str | Iterable[str] | None = None,
    ) -> pd.DataFrame:
        """Return checkpoints and metrics of the runs that match; reads only these runs.

        Parameters
        ----------
        params, data, seed : str, int or iterable, optional
            Sizes, recipes (any of their names), seeds (index or name).
        steps : iterable of int, optional
            Training steps.
        metrics : str or iterable of str, optional
            Metric names; None for none.

        Returns
        -------
        pandas.DataFrame
            One row per checkpoint: params, data, seed, step, tokens, compute, then the metrics.

        Raises
        ------
        UnknownNameError
            When a name is not in the suite, or no table has a metric.
        """
        bases = self.find_bases(params, data, seed)
        parsed = [parse_metric(m) for m in ([metrics] if isinstance(metrics, str) else metrics or [])]
        for metric in parsed:
            if not self.holds(metric):
                raise UnknownNameError(
                    f"No pretraining table has {metric.name!r}, so there is nothing to select."
                    f"{near_names(metric.name, [m.name for m in self.metrics()])} dd.metrics() lists all metrics."
                )
        checkpoints = self.catalog()
        index_of = {b: i for i, b in enumerate(bases)}
        meaning = np.array([index_of.get(b, -1) for b in checkpoints.bases], np.int64)
        run = meaning[checkpoints.base]
        mask = run >= 0
        if steps is not None:
            # Tables have no other steps.
            mask &= np.isin(checkpoints.step, [int(s) for s in steps if 0 <= s <= MAX_STEP])
        run, step = run[mask], checkpoints.step[mask]
        per_step = np.array([b.size.tokens_per_step for b in bases], np.int64)
        n_params = [b.size.n_params for b in bases]
        tokens = step * per_step[run] if len(bases) else step
        frame = pd.DataFrame(
            {
                "params": [bases[r].size.name for r in run],
                "data": [bases[r].recipe.name for r in run],
                "seed": [bases[r].seed.index for r in run],
                "step": step,
                "tokens": tokens,
                "compute": [float(training_flops(n_params[r], int(t))) for r, t in zip(run, tokens, strict=True)],
            }
        )
        if parsed:
            history = self.evaluations(bases, parsed)
            key, requested = join_keys(history.run, history.step), join_keys(run, step)
            at = np.minimum(np.searchsorted(key, requested), max(len(key) - 1, 0))
            hit = key[at] == requested if len(key) else np.zeros(len(requested), bool)
            for metric in parsed:
                values = np.full(len(requested), np.nan)
                values[hit] = history.values[metric.name][at[hit]]
                frame[metric.name] = values
        return frame

    def find_bases(self, params: object = None, data: object = None, seed: object = None) -> list[Base]:
        """Return the runs of the tables that match; each filter is a name or an iterable of names."""
        return choose_bases(self.catalog().bases, params, data, seed)


def _hint(place: Connection) -> str:
    """Return a hint for a folder that looks like an export of W&B runs, else ""."""
    fs, path = fsspec.core.url_to_fs(place.reveal())
    names = {str(name).rpartition("/")[2] for name in fs.find(path)}
    if names & {"runs_metadata.parquet", "runs_history.parquet", "runs.jsonl", "history.jsonl"}:
        return " It looks like an export of W&B runs: pass it as the second argument, db."
    return ""
