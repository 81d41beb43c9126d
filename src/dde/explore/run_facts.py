"""What is known about one run: from the explored Dataset, and more from the repository that it was opened from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.dataset.dimensions import broadcast_values
from dde.dataset.samples import metrics_alone
from dde.entities.catalog import RunCatalog
from dde.entities.views import hyperparameters_of
from dde.errors import DdeError, collected_warnings
from dde.explore.tabs import Shown
from dde.lineage.related import children_of, factor_values_of, in_order
from dde.lineage.run_table import RunTable
from dde.plots.axis_format import short_number
from dde.plots.colours import is_given
from dde.printable import printable
from dde.schema import factors_of
from dde.sources.wandb.records import config_text

__all__ = [
    "Fact",
    "LastValue",
    "Relative",
    "RunFacts",
    "facts_in_dataset",
    "facts_in_repository",
    "last_values",
    "run_names",
]

#: Remark on facts that only a repository has.
_NO_STORE = "unknown: the Dataset does not have it; open the runs with dde explore DATA STORE to see it"

# Meaning of the ways in which tokens are counted.
_TOKEN_SOURCES = {
    "logged": "logged by the run",
    "restored": "restored from a counter that was logged wrongly or in part",
    "estimated": "estimated",
}


@dataclass(frozen=True)
class Fact:
    """A fact of a run.

    Attributes
    ----------
    name, text : str
    kind : str
        "" for a known fact, "unknown", or "warning".
    """

    name: str
    text: str
    kind: str = ""


@dataclass(frozen=True)
class Relative:
    """A run of the tree around the run of the page.

    Attributes
    ----------
    run_id, label, run_type : str
    depth : int
        From 0 for the first one listed.
    detail : str
        Where it starts, in tokens and steps.
    role : str
        "ancestor", "self" or "child".
    known : bool
        Whether it can be opened; a parent that is not in the store can't.
    """

    run_id: str
    label: str
    run_type: str
    depth: int
    detail: str
    role: str
    known: bool = True


@dataclass(frozen=True)
class LastValue:
    """The last own value of a metric.

    Attributes
    ----------
    metric : str
    value, tokens : float
        NaN where the run has no value of its own.
    support : str
        "observed" or "interpolated"; "" without a value.
    base, difference : float
        Value of the base before the branch, and the difference to it; NaN where unknown, and for a base.
    note : str
        Why something is unknown.
    """

    metric: str
    value: float
    tokens: float
    support: str = ""
    base: float = np.nan
    difference: float = np.nan
    note: str = ""


@dataclass(frozen=True)
class RunFacts:
    """A run's page without its config.

    Attributes
    ----------
    run_id, title : str
    facts : list of Fact
    hyperparameters : list of (str, str)
    relatives : list of Relative
        Ancestors from the base on, the run, and its children.
    """

    run_id: str
    title: str
    facts: list[Fact]
    hyperparameters: list[tuple[str, str]]
    relatives: list[Relative]


def run_names(shown: Shown) -> dict[str, str]:
    """Return the runs of a selection by id, each with a text that names it uniquely: label, lineage and id.

    Examples
    --------
    >>> import dde, pandas as pd
    >>> from dde.explore.choices import Choices
    >>> table = pd.DataFrame({"lineage": ["a"], "run": ["sft"], "run_id": ["x1"]})
    >>> run_names(Shown(xr.Dataset(), xr.Dataset(), Choices((), None, ()), table, {}))
    {'x1': 'sft · a · x1'}
    """
    rows = zip(shown.table["run_id"], shown.table["run"], shown.table["lineage"], strict=True)
    return {str(i): printable(" · ".join(dict.fromkeys((str(run), str(lineage), str(i))))) for i, run, lineage in rows}


# From the Dataset


def facts_in_dataset(dataset: xr.Dataset, run_id: str) -> RunFacts:
    """Return what a Dataset knows about a run; reads coordinates only.

    Parameters
    ----------
    dataset : xarray.Dataset
        The explored Dataset.
    run_id : str

    Raises
    ------
    DdeError
        When the Dataset has no such run.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["piqa"])
    >>> facts = facts_in_dataset(ds, "dolma1_7-4M-default")
    >>> facts.title, facts.relatives[0].role
    ('pretraining · dolma1_7-4M-default', 'self')
    """
    cells = _Cells(dataset)
    at = cells.row(run_id)
    if at is None:
        raise DdeError(
            f"the run {run_id!r} is not in the Dataset that is explored, so its page is empty. Open the Dataset with "
            "its lineage, or with state='all' for runs that did not finish."
        )
    value = cells.value
    facts = [
        Fact("run id", run_id),
        Fact("name, project, creation", _NO_STORE, "unknown"),
        _fact("state", value("state", at)),
        _fact("type", value("run_type", at)),
        _fact("lineage", value("lineage", at)),
        _fact("run", value("run", at)),
        *_positions(*(_number(value(n, at)) for n in ("start_tokens", "branch_tokens", "end_tokens"))),
        _tokens_fact("planned end", _number(value("schedule_tokens", at))),
        Fact("tokens counted", _token_text(str(value("token_source", at) or ""), ""))
        if value("token_source", at)
        else Fact("tokens counted", _NO_STORE, "unknown"),
        _fact("parent known from", value("parent_evidence", at), "a base has no parent"),
        Fact("contradictions", _NO_STORE, "unknown"),
    ]
    factors = {n: value(n, at) for n in factors_of(dataset)}
    known = [(n, _text(v)) for n, v in factors.items() if is_given(v)]
    title = _title(value("run", at), value("lineage", at), run_id)
    return RunFacts(run_id, title, facts, known, cells.relatives(at))


class _Cells:
    """The runs of a Dataset, by number, and their coordinates."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset
        ids = self._matrix("run_id")
        # Runs of the Dataset; most cells (lineage, run) are empty.
        self._lineage, self._run = np.nonzero(ids != "")
        self.ids: list[str] = ids[self._lineage, self._run].tolist()

    def row(self, run_id: str) -> int | None:
        return self.ids.index(run_id) if run_id in self.ids else None

    def value(self, name: str, at: int) -> Any:
        """Return the value of a coordinate; None where the Dataset does not have it."""
        places = {"lineage": int(self._lineage[at]), "run": int(self._run[at])}
        variable = self._dataset.coords[name].variable if name in self._dataset.coords else None
        if variable is None or not set(variable.dims) <= set(places):
            return None
        value = variable.values[tuple(places[str(d)] for d in variable.dims)]
        return value.item() if isinstance(value, np.generic) else value

    def relatives(self, at: int) -> list[Relative]:
        parents = self._parents()
        above: list[int] = []
        missing: list[str] = []
        waiting = [at]
        while waiting:
            for parent in parents[waiting.pop()]:
                row = self.row(parent)
                if row is None:
                    missing.append(parent)
                elif row not in above and row != at:
                    above.append(row)
                    waiting.append(row)
        lost = [
            Relative(p, p, "", 0, "not in the Dataset that is explored", "ancestor", False)
            for p in dict.fromkeys(missing)
        ]
        ordered = [*above[::-1], at]
        found = [
            self._relative(row, len(lost) + k, "self" if row == at else "ancestor") for k, row in enumerate(ordered)
        ]
        below = [row for row, of_row in enumerate(parents) if self.ids[at] in of_row]
        return [*lost, *found, *(self._relative(row, len(lost) + len(ordered), "child") for row in below)]

    def _relative(self, row: int, depth: int, role: str) -> Relative:
        label, kind = str(self.value("run", row)), str(self.value("run_type", row) or "")
        branch, end = (_number(self.value(n, row)) for n in ("branch_tokens", "end_tokens"))
        return Relative(self.ids[row], label, kind, depth, _start_text(branch, "", end), role)

    def _parents(self) -> list[list[str]]:
        name = next((n for n in ("parent_run_ids", "parent_run_id") if n in self._dataset.coords), None)
        if name is None:
            return [[] for _ in self.ids]
        texts = self._matrix(name)[self._lineage, self._run].tolist()
        separator = _ALSO if name == "parent_run_ids" else None
        return [([t] if separator is None else t.split(separator)) if t else [] for t in map(str, texts)]

    def _matrix(self, name: str) -> npt.NDArray[Any]:
        sizes = {d: self._dataset.sizes[d] for d in ("lineage", "run")}
        return np.asarray(broadcast_values(self._dataset.coords[name].variable, sizes), object)


# Between the ids of several parents in the coordinate parent_run_ids.
_ALSO = " & "


# From the repository


def facts_in_repository(catalog: RunCatalog, run_id: str) -> RunFacts:
    """Return what a repository knows about a run; reads the registry of runs at the first call, but no metrics.

    Parameters
    ----------
    catalog : RunCatalog
    run_id : str

    Raises
    ------
    SelectionError
        When there is no such run.

    Examples
    --------
    >>> import dde
    >>> repository = dde.tutorial.open_repository("tiny")
    >>> run_id = next(iter(repository.registry.derived))
    >>> facts = facts_in_repository(repository, run_id)
    >>> [relative.role for relative in facts.relatives]
    ['ancestor', 'self']
    >>> facts.relatives[1].detail
    'branches at 375.2M tokens (375,193,600), step 5,725'
    """
    table, row = catalog.table, catalog.row_of(run_id)
    derived = None if catalog.suite_runs is not None else catalog.registry.derived.get(run_id)
    record = None if derived is None else derived.evidence.record
    text = {name: str(getattr(table, name)[row]) for name in _TABLE_TEXTS}
    is_root = bool(table.is_root[row])
    facts = [Fact("run id", run_id)]
    if record is not None:
        created = "" if np.isnat(record.created_at) else f"{np.datetime_as_string(record.created_at, unit='s')} UTC"
        facts += [
            _fact("name", record.run_name),
            _fact("project", "/".join(filter(None, (record.entity, record.project)))),
            _fact("created", created),
        ]
        facts += [Fact("tags", ", ".join(record.tags))] if record.tags else []
    facts += [
        _fact("state", text["state"]),
        Fact("status", text["status"], "" if text["status"] == "used" else "warning"),
        _fact("type", text["run_type"]),
        _fact("lineage", text["lineage"], "unknown: the base of the run was not found"),
        _fact("run", str(table.labels[row]), "unknown: without a parent the run has no label"),
        *_positions(*(_number(getattr(table, n)[row]) for n in ("start_tokens", "branch_tokens", "end_tokens"))),
        _tokens_fact("planned end", _number(table.schedule_tokens[row])),
        _fact("tokens counted", _token_text(text["token_source"], text["estimate"]), "unknown: the run has no data"),
    ]
    parameters = _number(table.n_params[row])
    facts += [] if np.isnan(parameters) else [Fact("parameters", f"{parameters:,.0f}")]
    facts.append(_fact("parent known from", text["parent_evidence"], "a base has no parent" if is_root else "unknown"))
    said = [part for part in text["contradictions"].split("; ") if part]
    facts += [Fact("contradictions", "\n".join(said), "warning")] if said else [Fact("contradictions", "none found")]
    known = hyperparameters_of(catalog, run_id) | factor_values_of(table, row, ("lineage",))
    hyperparameters = [(str(n), _text(v)) for n, v in known.items() if is_given(v)]
    title = _title(table.labels[row], text["lineage"], run_id)
    return RunFacts(run_id, title, facts, hyperparameters, _relatives(catalog, table, row))


_TABLE_TEXTS = (
    "state", "status", "run_type", "lineage", "token_source", "estimate", "parent_evidence", "contradictions",
)  # fmt: skip


def _relatives(catalog: RunCatalog, table: RunTable, row: int) -> list[Relative]:
    above: set[int] = set()
    waiting = [row]
    while waiting:
        for parent, _ in table.parents(waiting.pop()):
            if parent not in above:
                above.add(parent)
                waiting.append(parent)
    ordered = [*sorted(in_order(table, np.array(sorted(above), np.int64)), key=lambda r: int(table.depth[r])), row]
    lost = [
        Relative(str(table.absent_parent[r]), str(table.absent_parent[r]), "", 0, "not in the store", "ancestor", False)
        for r in ordered
        if table.absent_parent[r]
    ]
    steps = _Steps(catalog)

    def relative(r: int, depth: int, role: str) -> Relative:
        branch, end = _number(table.branch_tokens[r]), _number(table.end_tokens[r])
        detail = _start_text(branch, steps.of(r), end)
        if role == "child" and table.status[r] != "used":
            detail = f"{detail}; not used: {table.status[r]}" if detail else f"not used: {table.status[r]}"
        label = str(table.labels[r]) or str(table.run_id[r])
        return Relative(str(table.run_id[r]), label, str(table.run_type[r]), depth, detail, role)

    found = [relative(r, len(lost) + k, "self" if r == row else "ancestor") for k, r in enumerate(ordered)]
    children = [table.row_by_id[c] for c in children_of(table, row)]
    return [*lost, *found, *(relative(r, len(lost) + len(ordered), "child") for r in children)]


class _Steps:
    """The steps of parents at which runs start."""

    def __init__(self, catalog: RunCatalog) -> None:
        self._catalog, self._table = catalog, catalog.table

    def of(self, row: int) -> str:
        """Return the step of the parent, as text; "" where it is unknown, and for a base."""
        if self._catalog.suite_runs is not None:
            return ", ".join(filter(None, (self._declared(p, t) for p, t in self._table.parents(row))))
        derived = self._catalog.registry.derived.get(str(self._table.run_id[row]))
        if derived is None:
            return ""
        inside, checkpoint = derived.parentage.run_checkpoint, derived.parentage.checkpoint
        if checkpoint is not None:
            return f"step {checkpoint.step:,}"
        if inside.step is not None:
            return f"step {inside.step:,}"
        if not derived.parentage.in_store:
            return ""
        return "the final checkpoint" if inside.is_final else f"the end of epoch {inside.epoch}"

    def _declared(self, parent: int, tokens: int) -> str:
        """Return the step of a declared run after own tokens; "" where no row has these tokens."""
        run_id, runs = str(self._table.run_id[parent]), self._catalog.suite_runs
        for declared in () if runs is None else runs.declared:
            if run_id in declared.run_ids:
                at = declared.run_ids.index(run_id)
                rows = slice(int(declared.row_offsets[at]), int(declared.row_offsets[at + 1]))
                start = max(int(self._table.start_tokens[parent]), 0) if declared.counts == "cumulative" else 0
                same = np.flatnonzero(declared.tokens[rows] == tokens + start)
                return f"step {int(declared.step[rows][same[-1]]):,}" if len(same) else ""
        return ""


# Last values


def last_values(shown: Shown, run_id: str) -> list[LastValue]:
    """Return the last own value of each shown metric of a run, with the difference to its base at the branch.

    Parameters
    ----------
    shown : Shown
        A run that is not among those shown is read from the explored Dataset, for the chosen metrics only.
    run_id : str
    """
    part = _lineage_of(shown.dataset, run_id)
    if part is None:
        part = _lineage_of(metrics_alone(shown.explored, list(shown.choices.metrics)), run_id)
    if part is None:
        return []
    ids = part["run_id"].values.astype(object)[0]
    column = int(np.flatnonzero(ids == run_id)[0])
    part = part.compute()
    changes, note = None, ""
    branch = part["branch_tokens"].values[0, column] if "branch_tokens" in part.coords else np.nan
    if not np.isnan(branch):
        try:
            # The page says of each metric whether the base has a value.
            with collected_warnings():
                changes = part.isel(run=_columns_needed(part, column)).dde.difference_to_base()
        except DdeError as error:
            note = str(error)
    return [_last_value(part, changes, str(n), run_id, branch, note) for n in part.data_vars]


def _lineage_of(dataset: xr.Dataset, run_id: str) -> xr.Dataset | None:
    """Return the lineage of a run, with all of its runs; None where the Dataset does not have it."""
    rows = np.flatnonzero((dataset["run_id"].transpose("lineage", "run").values == run_id).any(axis=1))
    if not len(rows):
        return None
    return dataset.isel(lineage=rows[:1]).transpose("lineage", "run", "cumulative_tokens", ...)


def _columns_needed(part: xr.Dataset, column: int) -> list[int]:
    """Return the columns of a run and of the bases of its lineage."""
    branch = part["branch_tokens"].values[0]
    bases = np.flatnonzero(np.isnan(branch) & (part["run_id"].values[0] != ""))
    return [*(int(b) for b in bases if b != column), column]


def _last_value(
    part: xr.Dataset, changes: xr.Dataset | None, metric: str, run_id: str, branch: float, note: str
) -> LastValue:
    column = int(np.flatnonzero(part["run_id"].values[0] == run_id)[0])
    tokens = part["cumulative_tokens"].values
    values = np.asarray(part[metric].values[0, column], np.float64)
    own = np.isfinite(values) & ~(tokens <= branch)
    if not own.any():
        return LastValue(metric, np.nan, np.nan, note="no value of its own")
    at = int(np.flatnonzero(own)[-1])
    support = ""
    try:
        flags = part[[metric]].isel(run=[column], cumulative_tokens=[at])[metric].dde.support()
        support = {1: "observed", 2: "interpolated"}.get(int(flags.values.ravel()[0]), "")
    except DdeError as error:
        note = note or str(error)
    difference = np.nan
    if changes is not None and metric in changes:
        difference = float(changes[metric].isel(run=-1).transpose("lineage", "cumulative_tokens").values[0, at])
        if np.isnan(difference):
            note = note or "the base has no value near the branch"
    value = float(values[at])
    return LastValue(metric, value, float(tokens[at]), support, value - difference, difference, note)


# Texts


def _title(label: object, lineage: object, run_id: str) -> str:
    """Return the label of a run in its lineage; its id where it has no label."""
    return " · ".join(str(text) for text in (label, lineage) if text) if label else run_id


def _fact(name: str, value: object, unknown: str = "unknown: not stated") -> Fact:
    return Fact(name, _text(value)) if is_given(value) else Fact(name, unknown, "unknown")


def _text(value: object) -> str:
    """Return a value as text, whole numbers without a fraction."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer() and abs(float(value)) < 1e15:
        value = int(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return printable(config_text(value if isinstance(value, Mapping) else list(value)))
    return printable(f"{value:,}" if isinstance(value, int) and abs(value) >= 1e5 else str(value))


def _number(value: object) -> float:
    """Return a number; NaN for -1, which stands for an unknown count of tokens."""
    number = np.nan if value is None else float(value)  # type: ignore[arg-type]
    return np.nan if number == -1 else number


def _positions(start: float, branch: float, end: float) -> list[Fact]:
    facts = [_tokens_fact("branches at", branch)] if not np.isnan(branch) else []
    if not np.isnan(start) and not np.isnan(branch) and start != branch:
        facts.append(_tokens_fact("starts at", start))
    return [*facts, _tokens_fact("ends at", end)]


def _tokens_fact(name: str, tokens: float) -> Fact:
    return Fact(name, "unknown", "unknown") if np.isnan(tokens) else Fact(name, _spelled(tokens))


def _spelled(tokens: float) -> str:
    return f"{short_number(tokens)} tokens ({tokens:,.0f})"


def _start_text(branch: float, step: str, end: float) -> str:
    if np.isnan(branch):
        return "" if np.isnan(end) else f"ends at {_spelled(end)}"
    return f"branches at {_spelled(branch)}" + (f", {step}" if step else "")


def _token_text(source: str, estimate: str) -> str:
    meaning = _TOKEN_SOURCES.get(source, source)
    return f"{meaning}: {estimate}" if meaning and estimate else meaning or estimate
