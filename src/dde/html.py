"""What a notebook shows of runs, lineages and repositories: HTML that follows the notebook's own colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape_html
from typing import TYPE_CHECKING, Any

import pandas as pd

from dde.errors import DdeError
from dde.names import Base
from dde.plots.axes import short_number
from dde.printable import printable
from dde.relations.treatments import PRETRAINING
from dde.sources.connection import redact

if TYPE_CHECKING:
    from dde.entities import TrainingLineage, TrainingRun
    from dde.relations.registry import DerivedRun, Registry
    from dde.repository import RunRepository

__all__ = ["lineage_html", "lineages_html", "repository_html", "run_html", "runs_html"]

# Rows that a page shows of a long list; what is beyond is counted.
_MOST_RUNS = 30
_MOST_UNPLACED = 10
_MOST_LINEAGES = 30
_MOST_REASONS = 15
_MOST_NAMES = 8

# Notebooks are light or dark: text keeps their colour, lines and stripes are translucent. The doubled class goes
# before what notebooks set for the tables of a page.
_STYLE = """<style>
.dde-html.dde-html { color: inherit; line-height: 1.35; max-width: 100%; overflow-x: auto; }
.dde-html.dde-html table { border-collapse: collapse; margin: .3em 0 .6em 0; border: none; font-size: .92em; }
.dde-html.dde-html th, .dde-html.dde-html td { text-align: left; vertical-align: top; padding: .15em .9em .15em 0;
  border: none; background: none; color: inherit; }
.dde-html.dde-html thead th { border-bottom: 1px solid rgba(128, 128, 128, .6); white-space: nowrap; }
.dde-html.dde-html tbody tr { background: none; }
.dde-html.dde-html tbody tr + tr td { border-top: 1px solid rgba(128, 128, 128, .2); }
.dde-html.dde-html table.dde-facts td, .dde-html.dde-html table.dde-facts tr + tr td { border: none; }
.dde-html.dde-html table.dde-facts td:first-child { opacity: .65; white-space: nowrap; }
.dde-html.dde-html .dde-number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.dde-html.dde-html .dde-name { font-family: monospace; overflow-wrap: anywhere; }
.dde-html.dde-html td.dde-name { min-width: 12em; }
.dde-html.dde-html tr.dde-aside td { opacity: .7; }
.dde-html.dde-html .dde-note { opacity: .75; margin: .2em 0; font-size: .92em; }
</style>"""


def lineage_html(lineage: TrainingLineage) -> str:
    """Return a lineage for a notebook: its base, and the tree of the runs derived from it.

    Examples
    --------
    >>> import dde
    >>> lineage = dde.tutorial.open_repository("tiny").get_lineage("dolma1_7-4M-default")
    >>> "3,744,832" in lineage_html(lineage)
    True
    """
    repository, label = lineage._repository, lineage.lineage_id
    registry = repository.registry
    runs = _coverage_by_id(repository, registry.members.get(label, []))
    placed = [r for r, row in runs.items() if not math.isnan(row["end_tokens"])]
    unplaced = [r for r in runs if r not in set(placed)]
    parts = [
        _title("TrainingLineage", label),
        _facts([*_base_facts(registry, label), ("derived runs", _counted(row["status"] for row in runs.values()))]),
    ]
    if placed:
        rows = [_run_row(registry, r, runs[r], depth) for r, depth in _tree(registry, placed)]
        parts.append(_table(_RUN_COLUMNS, rows[:_MOST_RUNS]))
        parts.append(_not_shown(len(rows) - _MOST_RUNS, "derived run", "lineage.derived_runs"))
        if any(row["status"].startswith("state ") for row in runs.values()):
            parts.append(_note('Runs in another state than "finished" are opened with state="all".'))
    if unplaced:
        parts.append(_note("No place on the token axis, so not in any Dataset:"))
        rows = [_unplaced_row(registry, r, runs[r]) for r in unplaced]
        parts.append(_table(_UNPLACED_COLUMNS, rows[:_MOST_UNPLACED]))
        parts.append(_not_shown(len(rows) - _MOST_UNPLACED, "run", "repository.coverage()"))
    return _page(parts)


def lineages_html(lineages: Sequence[TrainingLineage]) -> str:
    """Return several lineages for a notebook: a row for each, with its base and the counts of its derived runs.

    Examples
    --------
    >>> import dde
    >>> found = dde.tutorial.open_repository("tiny").find_lineages(base_params="4M")
    >>> "dolma1_7-4M-default" in lineages_html(found)
    True
    """
    parts = [_title("LineageList", _plural(len(lineages), "lineage"))]
    if not lineages:
        return _page([*parts, _note("No lineage matched. repository.find_lineages() returns all of them.")])
    shown = lineages[:_MOST_LINEAGES]
    covered: dict[int, dict[str, dict[str, Any]]] = {}
    rows = []
    for lineage in shown:
        repository, label = lineage._repository, lineage.lineage_id
        registry = repository.registry
        if id(repository) not in covered:
            covered[id(repository)] = _coverage_by_id(repository, registry.derived)
        runs = [covered[id(repository)][r] for r in registry.members.get(label, [])]
        base, end = registry.bases[label], registry.base_end_tokens(label)
        rows.append(
            [
                _name(label),
                _text(base.recipe.name),
                _number(base.size.name),
                _number(f"{base.seed.index} ({base.seed.name})"),
                _tokens(end),
                _number(f"{len(registry.checkpoint_steps.get(label, ())):,}"),
                _text(_counted(r["run_type"] for r in runs if r["status"] == "used") or "none"),
                _text(_counted(r["status"] for r in runs if r["status"] != "used")),
            ]
        )
    columns = "lineage,recipe,>size,>seed,>tokens trained,>evaluated,derived runs,not used".split(",")
    parts.append(_table(columns, rows))
    parts.append(_not_shown(len(lineages) - len(shown), "lineage", "[lineage.lineage_id for lineage in lineages]"))
    parts.append(_note("Each is a TrainingLineage; .to_dataset() opens all of them as one Dataset."))
    return _page(parts)


def runs_html(runs: Sequence[TrainingRun]) -> str:
    """Return several runs for a notebook: a row for each, with its lineage, its place and its status.

    Examples
    --------
    >>> import dde
    >>> run = dde.tutorial.open_repository("tiny").get_run("dolma1_7-4M-default")
    >>> "supervised_ft" in runs_html(run.same_base())
    True
    """
    parts = [_title("RunList", _plural(len(runs), "run"))]
    if not runs:
        return _page([*parts, _note("No run is related in this way.")])
    shown = runs[:_MOST_RUNS]
    covered: dict[int, dict[str, dict[str, Any]]] = {}
    rows = []
    for run in shown:
        repository = run._given_repository
        if repository is None:
            rows.append([_name(run.run_id), _text(run.run_type), *(_text("") for _ in range(6))])
            continue
        if id(repository) not in covered:
            same = (other.run_id for other in shown if other._given_repository is repository)
            covered[id(repository)] = _coverage_by_id(repository, dict.fromkeys(same))
        row = covered[id(repository)][run.run_id]
        texts = [_name(run.run_id), _text(row["run_type"]), _name(row["lineage"]), _name(row["run"])]
        numbers = [_tokens(row["branch_tokens"]), _tokens(row["end_tokens"])]
        rows.append([*texts, *numbers, _text(row["state"]), _text(row["status"])])
    columns = "run id,method,lineage,run,>branches at,>ends at,state,status".split(",")
    parts.append(_table(columns, rows))
    parts.append(_not_shown(len(runs) - len(shown), "run", "[run.run_id for run in runs]"))
    return _page([*parts, _note("Each is a TrainingRun; .to_dataset() opens all of them as one Dataset.")])


def run_html(run: TrainingRun) -> str:
    """Return a run for a notebook: where it starts and ends, what was done, and how that is known.

    Examples
    --------
    >>> import dde
    >>> "evaluated checkpoints" in run_html(dde.tutorial.open_repository("tiny").get_run("dolma1_7-4M-default"))
    True
    """
    if run._given_repository is None:
        note = _note("Made without a repository: repository.get_run() gives a run that knows its relations and data.")
        return _page([_title(type(run).__name__, run.run_id), _facts([("run type", run.run_type)]), note])
    repository, registry = run._repository, run._repository.registry
    children = run.child_run_ids
    facts: list[tuple[str, str]] = []
    if run.run_type == PRETRAINING:
        facts += _base_facts(registry, run.run_id)
    else:
        row = _coverage_by_id(repository, [run.run_id])[run.run_id]
        checkpoint = registry.derived[run.run_id].parentage.checkpoint
        inside = registry.derived[run.run_id].parentage.run_checkpoint
        step = "" if inside.is_final else f", {inside.name}"
        step = step if checkpoint is None else f", step {checkpoint.step:,}"
        known = {k: v for k, v in registry.derived[run.run_id].hyperparameters.items() if v not in ("", None)}
        facts += [
            ("treatment", row["run"]),
            ("lineage", row["lineage"]),
            ("starts from", row["parent_run_id"] + step if row["parent_run_id"] else ""),
            ("branches at", _spelled(row["branch_tokens"])),
            ("ends at", _spelled(row["end_tokens"])),
            ("token source", "; ".join(t for t in (row["token_source"], row["estimate"]) if t)),
            ("hyperparameters", ", ".join(f"{k}={_plain(v)}" for k, v in known.items())),
            ("state", row["state"]),
            ("status", row["status"]),
            ("parent known from", row["parent_evidence"]),
            ("contradictions", row["contradictions"]),
        ]
    some = ", ".join(children[:_MOST_NAMES])
    more = f", and {len(children) - _MOST_NAMES} more in .child_run_ids" if len(children) > _MOST_NAMES else ""
    facts.append(("runs starting here", some + more or "none"))
    return _page([_title(type(run).__name__, run.run_id), _facts([("type", run.run_type), *facts])])


def repository_html(repository: RunRepository, title: str = "RunRepository") -> str:
    """Return a repository for a notebook: its sources, its lineages by size, its runs by method and status.

    Identifiers, a few keys and positions are read where they were not yet; metrics are not.

    Examples
    --------
    >>> import dde
    >>> "find_lineages" in repository_html(dde.tutorial.open_repository("tiny"))
    True
    """
    tables, store = repository.pretraining_source, repository.posttraining_source
    sources = [
        ("pretraining", "none" if tables is None else redact(tables) or type(tables).__name__),
        ("post-training", "none" if store is None else redact(store) or type(store).__name__),
    ]
    try:
        registry = repository.registry
        coverage = repository.coverage()
    except DdeError as problem:
        # A page that fails leaves a notebook with a traceback in place of what could be said.
        return _page([_title(title, "can't be read"), _facts([*sources, ("error", str(problem))])])
    sources[0] = ("pretraining", f"{sources[0][1]} ({_plural(len(registry.catalog.step), 'checkpoint')})")
    sources[1] = ("post-training", f"{sources[1][1]} ({_plural(len(registry.derived), 'run')})")
    aside = [] if tables is None else [*(f"{n} rows: {r}" for r, n in sorted(tables.left_out.items()))]
    aside += [] if tables is None else tables.set_aside
    if aside:
        more = f"; and {len(aside) - _MOST_NAMES} more" if len(aside) > _MOST_NAMES else ""
        sources.append(("not read", "; ".join(aside[:_MOST_NAMES]) + more))
    parts = [_title(title, _plural(len(registry.bases), "lineage")), _facts(sources)]
    parts.append(_table(_SIZE_COLUMNS, _size_rows(registry)))
    derived = coverage[coverage["run_type"] != PRETRAINING]
    counts = derived.groupby(["run_type", "status"]).size().reset_index(name="runs")
    # By method, that of most runs first; used runs, then the reasons that concern most.
    counts["of_method"] = counts.groupby("run_type")["runs"].transform("sum")
    counts["unused"] = counts["status"] != "used"
    order = {"of_method": False, "run_type": True, "unused": True, "runs": False, "status": True}
    counts = counts.sort_values(list(order), ascending=list(order.values()))
    rows = [
        _row([_name(method), _number(f"{runs:,}"), _text(status)], aside=status != "used")
        for method, status, runs in zip(counts["run_type"], counts["status"], counts["runs"], strict=True)
    ]
    if rows:
        parts.append(_table(["method", ">runs", "status"], rows[:_MOST_REASONS]))
        parts.append(_not_shown(len(rows) - _MOST_REASONS, "reason", "repository.coverage()"))
    absent = int((coverage["status"] == "no data: not in the tables").sum())
    if absent:
        parts.append(_note(f"{_plural(absent, 'base')} known from post-training runs alone, without checkpoints."))
    parts.append(_next_steps(registry))
    return _page(parts)


_RUN_COLUMNS = (
    "run,method,>learning rate,>budget × epochs,>branches at,>own tokens,>ends at,token source,state,status".split(",")
)
_UNPLACED_COLUMNS = "run id,method,starts from,state,status".split(",")
_SIZE_COLUMNS = ">size,>parameters,>lineages,>recipes,>seeds,>with derived runs,>derived runs".split(",")


def _base_facts(registry: Registry, label: str) -> list[tuple[str, str]]:
    base: Base = registry.bases[label]
    end, steps = registry.base_end_tokens(label), registry.checkpoint_steps.get(label, ())
    trained = "not in the tables" if end is None else _spelled(end)
    return [
        ("recipe", base.recipe.name),
        ("size", f"{base.size.name}, {base.size.n_params:,} parameters"),
        ("seed", f"{base.seed.index} ({base.seed.name})"),
        ("tokens trained", f"{trained}; the schedule has {short_number(base.size.scheduled_tokens)}"),
        ("evaluated checkpoints", f"{len(steps):,}"),
    ]


def _coverage_by_id(repository: RunRepository, run_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of coverage() of some runs, in their order."""
    coverage: pd.DataFrame = repository.coverage()
    wanted = list(run_ids)
    rows = {str(row["run_id"]): row for row in coverage[coverage["run_id"].isin(wanted)].to_dict("records")}
    return {r: {str(k): v for k, v in rows[r].items()} for r in wanted}


def _tree(registry: Registry, run_ids: Sequence[str]) -> list[tuple[str, int]]:
    """Return runs with their depth, children under their parents, siblings by branch point and treatment."""
    held = set(run_ids)

    def order(run_id: str) -> tuple[Any, ...]:
        run, branch = registry.derived[run_id], registry.placed[run_id].branch_tokens
        numbers = [run.hyperparameters.get(k, math.inf) for k in ("learning_rate", "finetune_tokens", "epochs")]
        rank = [x if isinstance(x, (int, float)) else math.inf for x in (branch, *numbers)]
        return (rank[0], run.run_type != "supervised_ft", rank[1:], run.label, run_id)

    roots = [r for r in run_ids if registry.derived[r].parent_run_id not in held]
    found: list[tuple[str, int]] = []
    waiting = [(r, 0) for r in sorted(roots, key=order, reverse=True)]
    while waiting:
        run_id, depth = waiting.pop()
        found.append((run_id, depth))
        children = [c for c in registry.children.get(run_id, ()) if c in held]
        waiting += [(c, depth + 1) for c in sorted(children, key=order, reverse=True)]
    return found


def _run_row(registry: Registry, run_id: str, row: Mapping[str, Any], depth: int) -> str:
    run = registry.derived[run_id]
    branch, end = row["branch_tokens"], row["end_tokens"]
    rate = run.hyperparameters.get("learning_rate", math.nan)
    cells = [
        _name(row["run"], title=f"{run_id}, starts from {row['parent_run_id']}", depth=depth),
        _text(row["run_type"]),
        _number("" if math.isnan(rate) else f"{rate:g}"),
        _number(_budget(run)),
        _tokens(branch),
        _tokens(end - branch, sign="+"),
        _tokens(end),
        _text(row["token_source"], title=row["estimate"]),
        _text(row["state"]),
        _text(row["status"]),
    ]
    return _row(cells, aside=row["status"] != "used")


def _unplaced_row(registry: Registry, run_id: str, row: Mapping[str, Any]) -> str:
    parent = row["parent_run_id"]
    cells = [_name(run_id, title=row["run"]), _text(row["run_type"]), _name(parent), _text(row["state"])]
    return _row([*cells, _text(row["status"], title=registry.derived[run_id].parentage.evidence)], aside=True)


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
        rows.append(_row([_number(size.name), _number(f"{size.n_params:,}"), *(_number(f"{n:,}") for n in counts)]))
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
    rows = [_row([_name(call), _text(meaning)]) for call, meaning in calls.items()]
    return _table(["next", ""], rows)


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


def _counted(words: Iterable[str]) -> str:
    """Return how often each word occurs: ``3 used, 1 state crashed``."""
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (item[0] != "used", -item[1], item[0]))
    return ", ".join(f"{n:,} {word}" for word, n in ordered)


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _spelled(tokens: float) -> str:
    return "" if math.isnan(tokens) else f"{short_number(tokens)} tokens ({tokens:,.0f})"


def _escaped(text: str) -> str:
    return escape_html(printable(text))


def _text(text: str, title: str = "", kind: str = "", style: str = "") -> str:
    attributes = "".join(
        f' {name}="{_escaped(value)}"' for name, value in (("class", kind), ("title", title), ("style", style)) if value
    )
    return f"<td{attributes}>{_escaped(text)}</td>"


def _name(text: str, title: str = "", depth: int = 0) -> str:
    # The label is what .sel(run=) takes: it is never cut, and copies without the mark of its depth.
    return _text(text, title, "dde-name", f"padding-left: {1.6 * depth}em" if depth else "")


def _number(text: str, title: str = "") -> str:
    return _text(text, title, "dde-number")


def _tokens(tokens: float | None, sign: str = "") -> str:
    if tokens is None or math.isnan(tokens):
        return _number("")
    return _number(sign + short_number(tokens), f"{tokens:,.0f} tokens")


def _row(cells: Iterable[str], aside: bool = False) -> str:
    return f"{'<tr class=dde-aside>' if aside else '<tr>'}{''.join(cells)}</tr>"


def _table(columns: Sequence[str], rows: Iterable[str | Sequence[str]]) -> str:
    """Return a table; the heading of a column of numbers starts with ``>``."""
    heads = "".join(
        f'<th class="dde-number">{_escaped(c[1:])}</th>' if c.startswith(">") else f"<th>{_escaped(c)}</th>"
        for c in columns
    )
    body = "".join(row if isinstance(row, str) else _row(row) for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(_row([_text(name), _text(said)]) for name, said in pairs if said)
    return f'<table class="dde-facts"><tbody>{rows}</tbody></table>'


def _title(kind: str, name: str) -> str:
    return f'<div>{_escaped(kind)} <b class="dde-name">{_escaped(name)}</b></div>'


def _note(text: str) -> str:
    return f'<div class="dde-note">{_escaped(text)}</div>'


def _not_shown(count: int, what: str, where: str) -> str:
    return _note(f"Not shown: {_plural(count, f'more {what}')}. {where} has all of them.") if count > 0 else ""


def _page(parts: Iterable[str]) -> str:
    return f'{_STYLE}<div class="dde-html">{"".join(parts)}</div>'
