"""Make the run table of a suite: identity, lineage, labels, factors and token position of every declared run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64, Texts
from dde.errors import LineageError, near_names
from dde.lineage.run_graph import BranchAt, Edges, PlacedRuns, RunRows, find_depths, place_runs
from dde.lineage.run_table import Along, Factor, RunTable
from dde.sources.values import text_array
from dde.suite.attached_runs import TREATMENT_FIELDS, AttachedRuns
from dde.suite.declare import Suite, branch_rule
from dde.suite.label_order import NO_FACTORS, natural_key, number_replicates
from dde.suite.patterns import Template
from dde.suite.reading.declared_runs import DeclaredRuns

__all__ = ["PositionedTable", "make_run_table"]


@dataclass(frozen=True, eq=False)
class PositionedTable:
    """A run table, and the positions and rows needed to read the values of its runs.

    Attributes
    ----------
    table : RunTable
    rows_of_tables : tuple of int64 arrays
        For each declared table, the row of the run table of each of its runs.
    is_cumulative : (run,) bool array
        Whether the counter of a run continues from its parent.
    positions : (row,) int64 array
        Cumulative tokens of the rows on curves, ordered by run and tokens.
    offsets : (run + 1,) int64 array
        Positions of run `i` are ``offsets[i]`` to ``offsets[i + 1]``.
    is_attached : (run,) bool array
        Whether a run is from a store, so that its rows are dense logs.
    left_out : mapping of str to int
        Rows that are on no curve, by reason.
    """

    table: RunTable
    rows_of_tables: tuple[Int64, ...]
    is_cumulative: npt.NDArray[np.bool_]
    positions: Int64
    offsets: Int64
    is_attached: npt.NDArray[np.bool_]
    left_out: Mapping[str, int]


def make_run_table(
    suite: Suite, declared: Sequence[DeclaredRuns], attached: AttachedRuns | None = None
) -> PositionedTable:
    """Return the run table of a suite.

    Parameters
    ----------
    suite : Suite
    declared : sequence of DeclaredRuns
        Runs of each of the suite's tables.
    attached : AttachedRuns, optional
        Post-training runs of a store that start from runs of the suite.

    Raises
    ------
    LineageError
        When a parent does not exist, runs derive from each other in a cycle, or the origin of their counters is
        ambiguous.
    UnknownNameError
        When several runs have the same labels.
    """
    return _TableBuilder(suite, declared, attached).build()


class _TableBuilder:
    """Columns of all runs while the run table is built."""

    def __init__(self, suite: Suite, declared: Sequence[DeclaredRuns], attached: AttachedRuns | None) -> None:
        self.suite, self.declared, self.attached = suite, declared, attached
        row_by_id: dict[str, int] = {}
        self.rows_of_tables = tuple(
            np.array([row_by_id.setdefault(run_id, len(row_by_id)) for run_id in d.run_ids], np.int64) for d in declared
        )
        self.attached_rows = np.empty(0, np.int64)
        if attached is not None:
            if both := [r for r in attached.run_ids if r in row_by_id]:
                raise LineageError(
                    f"The suite and the store both have a run {both[0]!r}, so the id is ambiguous. Change the template "
                    "run_id= of the suite so that its ids differ from those of the store."
                )
            self.attached_rows = np.array([row_by_id.setdefault(r, len(row_by_id)) for r in attached.run_ids], np.int64)
        self.row_by_id, self.run_ids = row_by_id, list(row_by_id)
        n = len(row_by_id)
        self.state = text_array(["finished"] * n)
        self.problems, self.contradictions = np.full(n, "", object), np.full(n, "", object)
        self.table_of = np.full(n, -1, np.int64)
        self.run_type = np.full(n, "", object)
        self.n_params, self.schedule = np.full(n, np.nan), np.full(n, np.nan)
        self.counts = np.full(n, None, object)
        self.fields: dict[str, Texts] = {}
        for d, rows in zip(declared, self.rows_of_tables, strict=True):
            self._add(d, rows)
        if attached is not None:
            rows = self.attached_rows
            self.run_type[rows], self.state[rows], self.counts[rows] = attached.run_types, attached.states, "own"
            self.problems[rows], self.contradictions[rows] = attached.problems, attached.contradictions
            self.schedule[rows] = attached.schedule
            for name, values in attached.fields.items():
                self.fields.setdefault(name, np.full(n, "", object))[rows] = values
        self.edges = suite.graph
        for k, edge in enumerate(self.edges):
            if edge.run not in row_by_id:
                raise LineageError(
                    f"edges[{k}] declares the parents of the run {edge.run!r}, which no table has, so the edge has "
                    f"no effect.{near_names(edge.run, self.run_ids)} Correct the id, or add a table that has the run."
                )
            for name, value in edge.factors.items():
                self.fields.setdefault(name, np.full(n, "", object))[row_by_id[edge.run]] = value

    def _add(self, d: DeclaredRuns, rows: Int64) -> None:
        """Copy the columns of the runs of one table; each run is in one table."""
        self.run_type[rows], self.counts[rows], self.table_of[rows] = d.run_type, d.counts, d.table
        self.n_params[rows], self.schedule[rows] = d.n_params, d.schedule_tokens
        if d.states is not None:
            self.state[rows] = d.states
        for name, values in d.fields.items():
            column = self.fields.setdefault(name, np.full(len(self.run_ids), "", object))
            # A missing number is NaN, the only value unequal to itself.
            column[rows] = np.where(values != values, "", values)

    def build(self) -> PositionedTable:
        edges, evidence = self._edges()
        depth = find_depths(self.run_ids, edges.child, edges.parent)
        self._inherit_params(edges, depth)
        logged, falling = self._logged_rows()
        logged, placed = self._place(logged, edges, depth)
        placed = self._without_falling(placed, falling)
        roots = np.bincount(edges.child, minlength=len(self.run_ids)) == 0
        roots[self.attached_rows] = False
        lineage, labels = self._labels(edges, depth, roots)
        created: dict[int, np.datetime64] = {}
        if self.attached is not None:
            created = dict(zip(self.attached_rows.tolist(), self.attached.created, strict=True))
        replicate = number_replicates(
            self.run_ids, lineage.tolist(), labels.tolist(), self.suite.replicate, self.fields, created
        )
        status = self._statuses(logged, placed, roots)
        table = RunTable(
            run_id=text_array(self.run_ids),
            run_type=self.run_type,
            state=self.state,
            lineage=lineage,
            run=labels,
            replicate=replicate,
            is_root=roots,
            depth=depth,
            edge_child=edges.child,
            edge_parent=edges.parent,
            edge_tokens=placed.edge_tokens,
            absent_parent=np.full(len(self.run_ids), "", object),
            curve_parent=placed.curve_parent,
            start_tokens=placed.start,
            branch_tokens=placed.branch,
            end_tokens=placed.end,
            n_params=self.n_params,
            schedule_tokens=self._schedules(logged, placed),
            start_compute=placed.compute,
            token_source=self._token_sources(placed),
            status=status,
            parent_evidence=evidence,
            contradictions=self.contradictions,
            estimate=self._estimates(placed),
            factors=self._factors(lineage, labels, roots, edges, depth),
        )
        lineages, runs = self._orders(table)
        return self._with_positions(replace(table, lineages=lineages, runs=runs), logged, placed, roots)

    # Relations

    def _edges(self) -> tuple[Edges, Texts]:
        """Return the parents of all runs, and for each run the source of that information."""
        edges: list[tuple[int, int, int, float]] = []
        evidence = np.full(len(self.run_ids), "", object)

        def add(run: int, parent_id: str, kind: str, value: float | None, where: str) -> None:
            parent = self._row_of_parent(parent_id, run, where)
            edges.append((run, parent, BranchAt[kind.upper()], np.nan if value is None else float(value)))

        for k, edge in enumerate(self.edges):
            where = f"edges[{k}]"
            run = self.row_by_id[edge.run]
            evidence[run] = where
            for parent_id, at_parent in edge.parents:
                kind, rule = branch_rule(at_parent)
                add(run, parent_id, kind, None if rule is None else float(rule.evaluate({})), where)
        explicit = set(np.flatnonzero(evidence != "").tolist())
        for d, rows in zip(self.declared, self.rows_of_tables, strict=True):
            for run, declared in zip(rows.tolist(), d.parents, strict=True):
                if not declared or run in explicit:
                    continue
                evidence[run] = f"tables[{d.table}].parent" if self.suite.tables else "producer"
                for parent_id, kind, count in declared:
                    add(run, parent_id, kind, count, evidence[run])
        if self.attached is not None:
            evidence[self.attached_rows] = self.attached.evidence
            for run, starts in zip(self.attached_rows.tolist(), self.attached.parents, strict=True):
                for parent_id, kind, value in starts:
                    add(run, parent_id, kind, value, str(evidence[run]))
        columns = np.array(sorted(edges, key=lambda edge: edge[0]), np.float64).reshape(-1, 4).T
        return (
            Edges(columns[0].astype(np.int32), columns[1].astype(np.int32), columns[2].astype(np.int8), columns[3]),
            evidence,
        )

    def _row_of_parent(self, parent_id: str, child: int, where: str) -> int:
        row = self.row_by_id.get(parent_id)
        if row is None:
            raise LineageError(
                f"{where} says that the run {self.run_ids[child]!r} starts from {parent_id!r}, and no table has such a "
                f"run, so its position on the token axis is unknown.{near_names(parent_id, self.run_ids)} Correct the "
                "template, or add a table that has the parent."
            )
        return row

    # Positions

    def _logged_rows(self) -> tuple[RunRows, dict[int, int]]:
        """Return the distinct rows of all tables by run and step, and the first step at which each counter falls."""
        n = len(self.run_ids)
        sources: list[tuple[DeclaredRuns | AttachedRuns, Int64]] = list(
            zip(self.declared, self.rows_of_tables, strict=True)
        )
        if self.attached is not None:
            sources.append((self.attached, self.attached_rows))
        run = np.concatenate([np.repeat(rows, np.diff(d.row_offsets)) for d, rows in sources])
        step = np.concatenate([d.step for d, _ in sources])
        counter = np.concatenate([d.tokens for d, _ in sources])
        if len(run) and not _ascends(run, step, counter):
            order = np.lexsort((counter, step, run))
            run, step, counter = run[order], step[order], counter[order]
        is_repeated = np.zeros(len(run), bool)
        is_repeated[1:] = (run[1:] == run[:-1]) & (step[1:] == step[:-1]) & (counter[1:] == counter[:-1])
        run, step, counter = run[~is_repeated], step[~is_repeated], counter[~is_repeated]
        falls = np.flatnonzero((run[1:] == run[:-1]) & (counter[1:] < counter[:-1])) + 1
        falling = {int(run[i]): int(step[i]) for i in falls[::-1].tolist()}
        offsets = np.searchsorted(run, np.arange(n + 1)).astype(np.int64)
        is_cumulative = np.array([c == "cumulative" for c in self.counts.tolist()], bool)
        return RunRows(offsets, step, counter, is_cumulative), falling

    def _place(self, logged: RunRows, edges: Edges, depth: Int64) -> tuple[RunRows, PlacedRuns]:
        """Return the rows of runs with settled counters, and the positions of the runs.

        If a run with a parent does not declare what its counter counts from, both possibilities are tried. It is an
        error unless exactly one of them fits all of these runs.
        """
        undeclared = np.array([c is None for c in self.counts.tolist()], bool)
        open_runs = np.flatnonzero(undeclared & (edges.first_parents(len(self.run_ids)) >= 0))
        if not len(open_runs):
            return logged, place_runs(logged, edges, depth, self.n_params, self.problems)
        fits: list[tuple[str, RunRows, PlacedRuns]] = []
        for word in ("cumulative", "own"):
            tried = replace(logged, is_cumulative=np.where(undeclared, word == "cumulative", logged.is_cumulative))
            placed = place_runs(tried, edges, depth, self.n_params, self.problems)
            if all(self._begins_at_branch(run, tried, placed) for run in open_runs.tolist()):
                fits.append((word, tried, placed))
        if len(fits) != 1:
            example = self.run_ids[int(open_runs[0])]
            why = "both are possible" if fits else "their counters fit neither"
            raise LineageError(
                f"counts is not declared, and {len(open_runs)} runs have a parent, such as {example!r}; the rows do "
                f"not show whether their token counters start at 0 or continue from the parent ({why}). Pass "
                "counts='own' or counts='cumulative'."
            )
        word, tried, placed = fits[0]
        self.counts[undeclared] = word
        return tried, placed

    def _begins_at_branch(self, run: int, logged: RunRows, placed: PlacedRuns) -> bool:
        """Return whether the rows of a run begin within one logging interval after its branch, as they should."""
        if placed.problem[run]:
            return False
        own = placed.own[logged.offsets[run] : logged.offsets[run + 1]]
        if not len(own):
            return True
        intervals = np.diff(own)
        return bool(0 <= own[0] <= (intervals.max() if len(intervals) else own[0]))

    @staticmethod
    def _without_falling(placed: PlacedRuns, falling: Mapping[int, int]) -> PlacedRuns:
        """Return the positions without those of runs whose counter falls at some step."""
        problem, end = placed.problem.copy(), placed.end.copy()
        for run, step in falling.items():
            problem[run] = f"tokens unknown: the counter falls at step {step}"
            end[run] = -1
        return replace(placed, problem=problem, end=end)

    def _statuses(self, logged: RunRows, placed: PlacedRuns, roots: npt.NDArray[np.bool_]) -> Texts:
        status = placed.problem.copy()
        has_rows = np.diff(logged.offsets) > 0
        is_merge = placed.branch < placed.start
        idle = ~roots & ~is_merge & has_rows & (placed.end <= placed.start)
        for mask, text in ((~has_rows, "no data"), (idle, "no tokens of its own")):
            status[mask & (status == "")] = text
        status[status == ""] = "used"
        return status

    def _schedules(self, logged: RunRows, placed: PlacedRuns) -> Float64:
        """Return cumulative tokens at the planned ends: as declared, else at the last rows."""
        start = np.where(logged.is_cumulative, 0, np.maximum(placed.start, 0))
        end = np.where(placed.end >= 0, placed.end.astype(np.float64), np.nan)
        return np.where(np.isnan(self.schedule), end, self.schedule + start)

    def _token_sources(self, placed: PlacedRuns) -> Texts:
        sources = np.full(len(self.run_ids), "", object)
        for d in self.declared:
            # Runs of a producer have no declared table.
            tokens = self.suite.resolved(self.suite.tables[d.table]).tokens if self.suite.tables else None
            sources[(self.table_of == d.table) & (placed.end >= 0)] = (
                "declared" if isinstance(tokens, Mapping) else "logged"
            )
        if self.attached is not None:
            is_known = placed.end[self.attached_rows] >= 0
            sources[self.attached_rows] = np.where(is_known, self.attached.token_sources, "")
        return sources

    def _estimates(self, placed: PlacedRuns) -> Texts:
        estimates = placed.estimate.copy()
        if self.attached is not None:
            pairs = zip(placed.estimate[self.attached_rows], self.attached.estimates, strict=True)
            estimates[self.attached_rows] = text_array(["; ".join(filter(None, pair)) for pair in pairs])
        return estimates

    def _inherit_params(self, edges: Edges, depth: Int64) -> None:
        """Give attached runs the parameter count of their parent, since training continues from its weights."""
        parent = edges.first_parents(len(self.run_ids))
        for run in self.attached_rows[np.argsort(depth[self.attached_rows], kind="stable")].tolist():
            if parent[run] >= 0:
                self.n_params[run] = self.n_params[parent[run]]

    def _with_positions(
        self, table: RunTable, logged: RunRows, placed: PlacedRuns, roots: npt.NDArray[np.bool_]
    ) -> PositionedTable:
        """Return the table with the positions of all rows on curves, and count the other rows."""
        run = np.repeat(np.arange(len(table)), np.diff(logged.offsets))
        tokens = placed.own + np.maximum(placed.start, 0)[run]
        used = table.is_used[run]
        is_merge = (table.n_parents > 1)[run]
        on_curve = np.where(is_merge, placed.own >= 0, (placed.own > 0) | roots[run])
        # The first row of an `at="first_row"` branch is the parent's state by declaration, so it is not counted.
        at_branch = used & ~on_curve & ~((placed.own == 0) & self._first_rows(table)[run])
        left_out: dict[str, int] = {}
        if at_branch.any():
            left_out["rows at or before the branch of their run"] = int(at_branch.sum())
        on_curve_rows = used & on_curve
        run, tokens = run[on_curve_rows], tokens[on_curve_rows]
        offsets = np.searchsorted(run, np.arange(len(table) + 1)).astype(np.int64)
        is_attached = np.isin(np.arange(len(table)), self.attached_rows)
        return PositionedTable(table, self.rows_of_tables, logged.is_cumulative, tokens, offsets, is_attached, left_out)

    def _first_rows(self, table: RunTable) -> npt.NDArray[np.bool_]:
        """Return a mask of the runs that branch at their first row."""
        first = np.zeros(len(table), bool)
        for d, rows in zip(self.declared, self.rows_of_tables, strict=True):
            first[rows] |= np.array([any(kind == "first_row" for _, kind, _ in p) for p in d.parents], bool)
        return first

    # Labels

    def _labels(self, edges: Edges, depth: Int64, roots: npt.NDArray[np.bool_]) -> tuple[Texts, Texts]:
        """Return the labels of runs along both dimensions, without replicate numbers."""
        n = len(self.run_ids)
        of_suite = np.ones(n, bool)
        of_suite[self.attached_rows] = False
        types = set(self.run_type[of_suite].tolist())
        own = self._formatted({t: self.suite.run_template(t) for t in types}, np.where(of_suite, self.run_type, ""))
        if self.attached is not None:
            own[self.attached_rows] = self.attached.labels
        lineage_template = self.suite.lineage_template
        own_lineage = self._formatted({"": lineage_template}, np.full(n, "", object))
        lineage, label = np.full(n, "", object), np.full(n, "", object)
        first = np.searchsorted(edges.child, np.arange(n + 1))
        for run in np.argsort(depth, kind="stable").tolist():
            if roots[run]:
                lineage[run], label[run] = own_lineage[run], own[run]
                continue
            parents = edges.parent[first[run] : first[run + 1]].tolist()
            if not parents:
                # Without a known parent, an attached run has no known lineage.
                label[run] = own[run]
                continue
            lineages = list(dict.fromkeys(lineage[p] for p in parents))
            lineage[run] = lineages[0] if len(lineages) == 1 else " & ".join(lineages)
            label[run] = self._joined(own[run], parents, label, roots)
        return lineage, label

    @staticmethod
    def _joined(own: str, parents: list[int], label: Texts, roots: npt.NDArray[np.bool_]) -> str:
        """Return the label of a derived run: the labels of its parents except roots, then its own."""
        distinct = list(dict.fromkeys(parents))
        if len(distinct) == 1:
            return own if roots[distinct[0]] else f"{label[distinct[0]]}+{own}"
        parent_labels = list(dict.fromkeys(label[p] for p in distinct))
        if len(parent_labels) == 1:
            return own if all(roots[p] for p in distinct) else f"{parent_labels[0]}+{own}"
        return f"({' & '.join(parent_labels)})+{own}"

    def _formatted(self, templates: Mapping[str, Any], kind: Texts) -> Texts:
        """Return the filled template of each run; `kind` selects the template."""
        out = np.full(len(kind), "", object)
        for name, template in templates.items():
            runs = np.flatnonzero(kind == name)
            # A field that a table does not have is empty in its runs.
            fields = {**self.fields, "run_type": self.run_type}
            columns = [fields[f][runs].tolist() if f in fields else [""] * len(runs) for f in template.fields]
            texts: dict[tuple[Any, ...], str] = {}
            values = list(zip(*columns, strict=True)) if columns else [()] * len(runs)
            for key in values:
                if key not in texts:
                    texts[key] = template.format(dict(zip(template.fields, key, strict=True)))
            out[runs] = text_array([texts[key] for key in values])
        return out

    # Factors

    def _factors(
        self, lineage: Texts, labels: Texts, roots: npt.NDArray[np.bool_], edges: Edges, depth: Int64
    ) -> dict[str, Factor]:
        of_lineage = list(self.suite.lineage_template.fields)
        of_run = list(dict.fromkeys(f for t in self.suite.run_types for f in self.suite.run_template(t).fields))
        first_root = self._first_roots(roots, edges, depth)
        factors: dict[str, Factor] = {}
        for name in self._factor_names(of_lineage, of_run):
            values = self.fields.get(name)
            if values is None:
                continue
            if name in of_lineage:
                factors[name] = Factor("lineage", _typed(values[first_root]))
            elif name in of_run or (self.attached is not None and name in TREATMENT_FIELDS):
                factors[name] = Factor("run", _typed(values))
            else:
                factors[name] = Factor(_where_constant(values, lineage, labels), _typed(values))
        return factors

    def _factor_names(self, of_lineage: list[str], of_run: list[str]) -> list[str]:
        """Return the names of factors: fields of paths, records and labels, in the order of the declaration."""
        names: dict[str, None] = dict.fromkeys([*of_lineage, *of_run])
        if self.suite.replicate:
            names[self.suite.replicate] = None
        for table in self.suite.tables:
            for pattern in (*table.patterns, *table.parse_patterns.values()):
                names |= dict.fromkeys(pattern.fields)
            names |= dict.fromkeys(table.factors)
            run_id = self.suite.resolved(table).run_id
            names |= dict.fromkeys(Template(run_id).fields if run_id else ())
        for edge in self.edges:
            names |= dict.fromkeys(edge.factors)
        if not self.suite.tables:
            names |= dict.fromkeys(name for d in self.declared for name in d.fields)
        if self.attached is not None:
            names |= dict.fromkeys(self.attached.fields)
        positions = {self.suite.resolved(t).step for t in self.suite.tables}
        return [n for n in names if n not in NO_FACTORS and n not in positions]

    @staticmethod
    def _first_roots(roots: npt.NDArray[np.bool_], edges: Edges, depth: Int64) -> Int64:
        """Return the root of each run along its first parents."""
        first = np.arange(len(roots))
        parent = edges.first_parents(len(roots))
        for run in np.argsort(depth, kind="stable").tolist():
            if parent[run] >= 0:
                first[run] = first[parent[run]]
        return first

    def _orders(self, table: RunTable) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return labels in the order of the suite: by declared values, else in natural order."""
        ranks = self._declared_ranks()
        types = {t: k for k, t in enumerate(self.suite.run_types)}

        def keys(along: Along) -> list[list[Any]]:
            columns = []
            for name, factor in table.factors.items():
                if factor.along == along:
                    rank = ranks.get(name, {})
                    columns.append([(rank.get(str(v), len(rank)), natural_key(v)) for v in factor.values.tolist()])
            return columns

        def ordered(labels: list[str], columns: list[list[Any]]) -> tuple[str, ...]:
            rows = zip(*columns, strict=True) if columns else [()] * len(labels)
            best: dict[str, Any] = {}
            for label, key in zip(labels, rows, strict=True):
                if label not in best or key < best[label]:
                    best[label] = key
            return tuple(sorted(best, key=lambda label: (best[label], natural_key(label))))

        lineages = ordered(table.lineage.tolist(), keys("lineage"))
        kinds = [types.get(t, len(types)) for t in table.run_type.tolist()]
        runs = ordered(table.labels.tolist(), [table.depth.tolist(), kinds, *keys("run"), table.replicate.tolist()])
        return lineages, runs

    def _declared_ranks(self) -> dict[str, dict[str, int]]:
        """Return the ranks of factor values that are listed in the declaration."""
        ranks: dict[str, dict[str, int]] = {}
        for table in self.suite.tables:
            resolved = self.suite.resolved(table)
            lookups = [resolved.n_params]
            if isinstance(resolved.tokens, Mapping):
                lookups.append(resolved.tokens.get("per_step"))
            for lookup in lookups:
                for name, values in lookup.items() if isinstance(lookup, Mapping) else ():
                    if isinstance(values, Mapping):
                        ranks.setdefault(name, {str(v): k for k, v in enumerate(values)})
        return ranks


def _ascends(run: Int64, step: Int64, counter: Int64) -> bool:
    same = run[1:] == run[:-1]
    later = (step[1:] > step[:-1]) | ((step[1:] == step[:-1]) & (counter[1:] >= counter[:-1]))
    return bool(((run[1:] > run[:-1]) | (same & later)).all())


def _where_constant(values: Texts, lineage: Texts, labels: Texts) -> Along:
    """Return the dimension whose labels determine a factor; "cell" if neither does."""
    candidates: tuple[tuple[Along, Texts], ...] = (("lineage", lineage), ("run", labels))
    for along, labels_along in candidates:
        seen: dict[str, Any] = {}
        pairs = zip(labels_along.tolist(), values.tolist(), strict=True)
        if all(seen.setdefault(label, value) == value for label, value in pairs):
            return along
    return "cell"


def _typed(values: Texts) -> npt.NDArray[Any]:
    """Return numbers as float64 with NaN for missing values, anything else as texts with ""."""
    plain = values.tolist()
    given = [v for v in plain if v != ""]
    if given and all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in given):
        return np.array([np.nan if v == "" else float(v) for v in plain])
    return text_array(["" if v is None else str(v) for v in plain])
