"""HTML that notebooks show of DataDecide: lineages by size and recipe, and runs with their treatments and evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dde.html_parts import (
    count_words,
    facts_html,
    name_cell,
    not_shown,
    note_html,
    number_cell,
    page_html,
    plain_text,
    plural,
    row_html,
    spelled_tokens,
    table_html,
    text_cell,
    title_html,
    tokens_cell,
)
from dde.lineage.related import children_of
from dde.lineage.run_table import RunTable
from dde.lineage.selection import table_coverage
from dde.plots.axis_format import short_number
from dde.schema import PRETRAINING
from dde.suite.datadecide.names import Base

if TYPE_CHECKING:
    from dde.suite.datadecide.runs.derived_runs import DerivedRun
    from dde.suite.datadecide.runs.registry import Registry

__all__ = [
    "coverage_by_id",
    "datadecide_lineage_html",
    "datadecide_lineages_html",
    "datadecide_repository_html",
    "datadecide_run_html",
]

# Rows that a page shows of a long list; what is beyond is counted.
_MOST_RUNS = 30
_MOST_UNPLACED = 10
_MOST_LINEAGES = 30
_MOST_REASONS = 15
_MOST_NAMES = 8


def datadecide_lineage_html(registry: Registry, table: RunTable, label: str) -> str:
    """Return a lineage for a notebook: its base, and the tree of the runs derived from it."""
    runs = coverage_by_id(table, registry.members.get(label, []))
    placed = [r for r, row in runs.items() if not math.isnan(row["end_tokens"])]
    unplaced = [r for r in runs if r not in set(placed)]
    parts = [
        title_html("TrainingLineage", label),
        facts_html(
            [*_base_facts(registry, label), ("derived runs", count_words(row["status"] for row in runs.values()))]
        ),
    ]
    if placed:
        rows = [_run_row(registry, r, runs[r], depth) for r, depth in _tree(registry, placed)]
        parts.append(table_html(_RUN_COLUMNS, rows[:_MOST_RUNS]))
        parts.append(not_shown(len(rows) - _MOST_RUNS, "derived run", "lineage.derived_runs"))
        if any(row["status"].startswith("state ") for row in runs.values()):
            parts.append(note_html('Runs in another state than "finished" are opened with state="all".'))
    if unplaced:
        parts.append(note_html("No place on the token axis, so not in any Dataset:"))
        rows = [_unplaced_row(registry, r, runs[r]) for r in unplaced]
        parts.append(table_html(_UNPLACED_COLUMNS, rows[:_MOST_UNPLACED]))
        parts.append(not_shown(len(rows) - _MOST_UNPLACED, "run", "repository.coverage()"))
    return page_html(parts)


def datadecide_lineages_html(lineages: Sequence[tuple[Registry, RunTable, str]]) -> str:
    """Return several lineages for a notebook: a row for each, with its base and the counts of its derived runs."""
    parts = [title_html("LineageList", plural(len(lineages), "lineage"))]
    shown = lineages[:_MOST_LINEAGES]
    covered: dict[int, dict[str, dict[str, Any]]] = {}
    rows = []
    for registry, table, label in shown:
        if id(table) not in covered:
            covered[id(table)] = coverage_by_id(table, registry.derived)
        runs = [covered[id(table)][r] for r in registry.members.get(label, [])]
        base, end = registry.bases[label], registry.base_end_tokens(label)
        rows.append(
            [
                name_cell(label),
                text_cell(base.recipe.name),
                number_cell(base.size.name),
                number_cell(f"{base.seed.index} ({base.seed.name})"),
                tokens_cell(end),
                number_cell(f"{len(registry.checkpoint_steps.get(label, ())):,}"),
                text_cell(count_words(r["run_type"] for r in runs if r["status"] == "used") or "none"),
                text_cell(count_words(r["status"] for r in runs if r["status"] != "used")),
            ]
        )
    columns = "lineage,recipe,>size,>seed,>tokens trained,>evaluated,derived runs,not used".split(",")
    parts.append(table_html(columns, rows))
    parts.append(not_shown(len(lineages) - len(shown), "lineage", "[lineage.lineage_id for lineage in lineages]"))
    parts.append(note_html("Each is a TrainingLineage; .to_dataset() opens all of them as one Dataset."))
    return page_html(parts)


def datadecide_run_html(kind: str, registry: Registry, table: RunTable, row: int) -> str:
    """Return a run for a notebook: where it starts and ends, what was done, and how that is known."""
    run_id, run_type = str(table.run_id[row]), str(table.run_type[row])
    children = children_of(table, row)
    facts: list[tuple[str, str]] = []
    if run_type == PRETRAINING:
        facts += _base_facts(registry, run_id)
    else:
        covered = coverage_by_id(table, [run_id])[run_id]
        checkpoint = registry.derived[run_id].parentage.checkpoint
        inside = registry.derived[run_id].parentage.run_checkpoint
        step = "" if inside.is_final else f", {inside.name}"
        step = step if checkpoint is None else f", step {checkpoint.step:,}"
        known = {k: v for k, v in registry.derived[run_id].hyperparameters.items() if v not in ("", None)}
        facts += [
            ("treatment", covered["run"]),
            ("lineage", covered["lineage"]),
            ("starts from", covered["parent_run_id"] + step if covered["parent_run_id"] else ""),
            ("branches at", spelled_tokens(covered["branch_tokens"])),
            ("ends at", spelled_tokens(covered["end_tokens"])),
            ("token source", "; ".join(t for t in (covered["token_source"], covered["estimate"]) if t)),
            ("hyperparameters", ", ".join(f"{k}={plain_text(v)}" for k, v in known.items())),
            ("state", covered["state"]),
            ("status", covered["status"]),
            ("parent known from", covered["parent_evidence"]),
            ("contradictions", covered["contradictions"]),
        ]
    some = ", ".join(children[:_MOST_NAMES])
    more = f", and {len(children) - _MOST_NAMES} more in .child_run_ids" if len(children) > _MOST_NAMES else ""
    facts.append(("runs starting here", some + more or "none"))
    return page_html([title_html(kind, run_id), facts_html([("type", run_type), *facts])])


def datadecide_repository_html(
    registry: Registry, table: RunTable, sources: Sequence[tuple[str, str]], title: str
) -> str:
    """Return a repository for a notebook: its sources, its lineages by size, its runs by method and status.

    Parameters
    ----------
    registry : Registry
    table : RunTable
        Run table of the registry.
    sources : sequence of (str, str)
        Name and description of the tables, then of the store of post-training runs.
    title : str
        Title of the page.
    """
    counts_of = (plural(len(registry.table_checkpoints.step), "checkpoint"), plural(len(registry.derived), "run"))
    sources = [(name, f"{source} ({count})") for (name, source), count in zip(sources, counts_of, strict=True)]
    coverage, tables = table_coverage(table), registry.tables
    aside = [] if tables is None else [*(f"{n} rows: {r}" for r, n in sorted(tables.left_out.items()))]
    aside += [] if tables is None else tables.set_aside
    if aside:
        more = f"; and {len(aside) - _MOST_NAMES} more" if len(aside) > _MOST_NAMES else ""
        sources.append(("not read", "; ".join(aside[:_MOST_NAMES]) + more))
    parts = [title_html(title, plural(len(registry.bases), "lineage")), facts_html(sources)]
    parts.append(table_html(_SIZE_COLUMNS, _size_rows(registry)))
    derived = coverage[coverage["run_type"] != PRETRAINING]
    counts = derived.groupby(["run_type", "status"]).size().reset_index(name="runs")
    # By method, that of most runs first; used runs, then the reasons that concern most.
    counts["of_method"] = counts.groupby("run_type")["runs"].transform("sum")
    counts["unused"] = counts["status"] != "used"
    order = {"of_method": False, "run_type": True, "unused": True, "runs": False, "status": True}
    counts = counts.sort_values(list(order), ascending=list(order.values()))
    rows = [
        row_html([name_cell(method), number_cell(f"{runs:,}"), text_cell(status)], aside=status != "used")
        for method, status, runs in zip(counts["run_type"], counts["status"], counts["runs"], strict=True)
    ]
    if rows:
        parts.append(table_html(["method", ">runs", "status"], rows[:_MOST_REASONS]))
        parts.append(not_shown(len(rows) - _MOST_REASONS, "reason", "repository.coverage()"))
    absent = int((coverage["status"] == "no data: not in the tables").sum())
    if absent:
        parts.append(note_html(f"{plural(absent, 'base')} known from post-training runs alone, without checkpoints."))
    parts.append(_next_steps(registry))
    return page_html(parts)


def coverage_by_id(table: RunTable, run_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of coverage() of some runs, in their order."""
    coverage = table_coverage(table)
    run_ids = list(run_ids)
    rows = {str(row["run_id"]): row for row in coverage[coverage["run_id"].isin(run_ids)].to_dict("records")}
    return {r: {str(k): v for k, v in rows[r].items()} for r in run_ids}


_RUN_COLUMNS = (
    "run,method,>learning rate,>budget × epochs,>branches at,>own tokens,>ends at,token source,state,status".split(",")
)
_UNPLACED_COLUMNS = "run id,method,starts from,state,status".split(",")
_SIZE_COLUMNS = ">size,>parameters,>lineages,>recipes,>seeds,>with derived runs,>derived runs".split(",")


def _base_facts(registry: Registry, label: str) -> list[tuple[str, str]]:
    base: Base = registry.bases[label]
    end, steps = registry.base_end_tokens(label), registry.checkpoint_steps.get(label, ())
    trained = "not in the tables" if end is None else spelled_tokens(end)
    return [
        ("recipe", base.recipe.name),
        ("size", f"{base.size.name}, {base.size.n_params:,} parameters"),
        ("seed", f"{base.seed.index} ({base.seed.name})"),
        ("tokens trained", f"{trained}; the schedule has {short_number(base.size.scheduled_tokens)}"),
        ("evaluated checkpoints", f"{len(steps):,}"),
    ]


def _tree(registry: Registry, run_ids: Sequence[str]) -> list[tuple[str, int]]:
    """Return runs with their depth, children under their parents, siblings by branch point and treatment."""
    listed = set(run_ids)

    def order(run_id: str) -> tuple[Any, ...]:
        run, branch = registry.derived[run_id], registry.placed[run_id].branch_tokens
        numbers = [run.hyperparameters.get(k, math.inf) for k in ("learning_rate", "finetune_tokens", "epochs")]
        rank = [x if isinstance(x, (int, float)) else math.inf for x in (branch, *numbers)]
        return (rank[0], run.run_type != "supervised_ft", rank[1:], run.label, run_id)

    roots = [r for r in run_ids if registry.derived[r].parent_run_id not in listed]
    found: list[tuple[str, int]] = []
    waiting = [(r, 0) for r in sorted(roots, key=order, reverse=True)]
    while waiting:
        run_id, depth = waiting.pop()
        found.append((run_id, depth))
        children = [c for c in registry.children.get(run_id, ()) if c in listed]
        waiting += [(c, depth + 1) for c in sorted(children, key=order, reverse=True)]
    return found


def _run_row(registry: Registry, run_id: str, row: Mapping[str, Any], depth: int) -> str:
    run = registry.derived[run_id]
    branch, end = row["branch_tokens"], row["end_tokens"]
    rate = run.hyperparameters.get("learning_rate", math.nan)
    cells = [
        name_cell(row["run"], title=f"{run_id}, starts from {row['parent_run_id']}", depth=depth),
        text_cell(row["run_type"]),
        number_cell("" if math.isnan(rate) else f"{rate:g}"),
        number_cell(_budget(run)),
        tokens_cell(branch),
        tokens_cell(end - branch, sign="+"),
        tokens_cell(end),
        text_cell(row["token_source"], title=row["estimate"]),
        text_cell(row["state"]),
        text_cell(row["status"]),
    ]
    return row_html(cells, aside=row["status"] != "used")


def _unplaced_row(registry: Registry, run_id: str, row: Mapping[str, Any]) -> str:
    parent = row["parent_run_id"]
    cells = [
        name_cell(run_id, title=row["run"]),
        text_cell(row["run_type"]),
        name_cell(parent),
        text_cell(row["state"]),
    ]
    return row_html([*cells, text_cell(row["status"], title=registry.derived[run_id].parentage.evidence)], aside=True)


def _size_rows(registry: Registry) -> list[str]:
    by_size: dict[Any, list[Base]] = {}
    for base in registry.bases.values():
        by_size.setdefault(base.size, []).append(base)
    rows = []
    for size, bases in sorted(by_size.items(), key=lambda item: item[0].n_params):
        derived = [len(registry.members[b.label]) for b in bases]
        counts = (
            len(bases),
            len({b.recipe for b in bases}),
            len({b.seed for b in bases}),
            sum(n > 0 for n in derived),
            sum(derived),
        )
        rows.append(
            row_html(
                [number_cell(size.name), number_cell(f"{size.n_params:,}"), *(number_cell(f"{n:,}") for n in counts)]
            )
        )
    return rows


def _next_steps(registry: Registry) -> str:
    """Return calls that work on this repository: with the size that most runs derive from."""
    if not registry.bases:
        return ""
    label = max(registry.bases, key=lambda b: len(registry.members[b]))
    params = registry.bases[label].size.name
    calls = {
        f'repository.find_lineages(base_params="{params}")': "lineages as objects",
        f'repository.get_lineage("{label}")': "one, with the tree of its runs",
        f'repository.to_dataset(params="{params}")': "a lazy Dataset",
        "repository.coverage()": "every run, with what became of it and why",
    }
    rows = [row_html([name_cell(call), text_cell(meaning)]) for call, meaning in calls.items()]
    return table_html(["next", ""], rows)


def _budget(run: DerivedRun) -> str:
    treatment = run.treatment
    if treatment is None:
        return ""
    if not math.isnan(treatment.finetune_tokens):
        budget = short_number(treatment.finetune_tokens)
    elif not math.isnan(treatment.max_train_samples):
        budget = f"{treatment.max_train_samples:,.0f} sequences"
    else:
        budget = "full"
    return budget if math.isnan(treatment.epochs) else f"{budget} × {treatment.epochs:g}"
