"""Select runs by filters on bases, derived runs and states; everything left out is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from dde.errors import SelectionError, UnknownNameError, near_names
from dde.lineage.filters import as_values, matches
from dde.lineage.selection import Selection
from dde.schema import PRETRAINING
from dde.suite.datadecide.names import Base, choose_bases, suite_order
from dde.suite.datadecide.runs.derived_columns import Column
from dde.suite.datadecide.runs.derived_runs import DerivedRun
from dde.suite.datadecide.runs.registry import RUN_FIELDS, Registry
from dde.suite.datadecide.runs.treatments import Treatment, spelled_labels

__all__ = [
    "METHODS",
    "filter_runs",
    "select_bases",
    "select_runs",
]

#: Run types that ``method=`` may name; more may come.
METHODS = ("supervised_ft", "dpo")

# Options of open_lineages: a misspelt one arrives here as a filter.
_OPTIONS = tuple(
    "params data seed method learning_rate state metrics grid axis max_points interp max_gap bridge lineages "
    "run_ids parents run_types tokens_per_sequence schema cache_dir chunks suite".split()
)
# Names that people use for run types.
_METHOD_ALIASES = {"sft": "supervised_ft", "finetune": "supervised_ft"}


def select_bases(registry: Registry, params: object = None, data: object = None, seed: object = None) -> list[Base]:
    """Return the bases that match, in the order of the suite; a filter is a name or several.

    Raises
    ------
    UnknownNameError
        When a name is not of the suite.
    """
    return sorted(choose_bases(registry.bases.values(), params, data, seed), key=suite_order)


def select_runs(
    registry: Registry,
    params: object = None,
    data: object = None,
    seed: object = None,
    method: object = None,
    state: object = "finished",
    filters: Mapping[str, object] | None = None,
    lineages: Iterable[str] | None = None,
) -> Selection:
    """Return the lineages and runs that match.

    Parameters
    ----------
    registry : Registry
    params, data, seed
        Filters on the base.
    method : str or several, optional
        Run types.
    state : str or several
        States of W&B, or "all". A base counts as finished.
    filters : mapping of str to filter, optional
        Filters on hyperparameters; see :func:`matches`.
    lineages : iterable of str, optional
        Labels that the bases are taken from.

    Raises
    ------
    UnknownNameError
        When a filter names something that no run has.
    SelectionError
        When no lineage is left.
    """
    filters = {k: v for k, v in (filters or {}).items() if v is not None}
    method = _run_types(method)
    _check_filters(registry, method, state, filters)
    bases = select_bases(registry, params, data, seed)
    if lineages is not None:
        requested = set(lineages)
        bases = [b for b in bases if b.label in requested]
    states = None if state == "all" else {str(s) for s in as_values(state)}
    columns = registry.columns
    left_out: Counter[str] = Counter()
    filtered = bool(filters) or method is not None
    labels = [b.label for b in bases]
    selected = set(labels)
    matching = columns.lineage.matching(lambda label: not label or label in selected, "")
    if len(columns) > matching.sum():
        left_out["of another base"] += int(len(columns) - matching.sum())

    def leave_out(mask: npt.NDArray[np.bool_], why: npt.NDArray[np.object_]) -> None:
        gone = matching & mask
        left_out.update(why[gone].tolist())
        matching[gone] = False

    reasons = np.array([status.split(":")[0] for status in columns.status.values] or [""], object)
    leave_out(~columns.is_used, reasons[columns.status.codes])
    if states is not None:
        words = np.array([f"state {word or 'unknown'}" for word in columns.state.values] or [""], object)
        leave_out(~columns.state.matching(states.__contains__, ""), words[columns.state.codes])
    leave_out(~_passing(registry, method, filters), np.full(len(columns), "filtered", object))
    at = np.flatnonzero(matching)
    left_out.update(columns.oddities(at))
    lineages = columns.lineages
    with_runs = set(lineages[at].tolist())
    if filtered:
        left_out_bases = sum(label not in with_runs for label in labels)
        if left_out_bases:
            left_out["lineages without a matching run"] = left_out_bases
        labels = [label for label in labels if label in with_runs]
    if not labels:
        raise SelectionError(_nothing(registry, params, data, seed, method, filters, states))
    # Every run that was chosen has a treatment: without a parent it has no place.
    used = np.unique(columns.treatment[at])
    treatments = [columns.treatments[k] for k in used.tolist()]
    spelled = dict(zip(used.tolist(), spelled_labels(treatments), strict=True))
    # Of each label and replicate, the treatment that sorts them; in the order of lineages, as ties are broken.
    position = {label: i for i, label in enumerate(labels)}
    row_of = np.array([position[x] for x in lineages[at].tolist()], np.int64)
    at, row_of = (x[np.argsort(row_of, kind="stable")] for x in (at, row_of))
    pairs = np.stack([columns.treatment[at].astype(np.int64), columns.replicate[at]])
    distinct, pair_of = np.unique(pairs, axis=1, return_inverse=True)
    names: list[str] = []
    keys: dict[str, tuple[object, ...]] = {}
    for number, replicate in distinct.T.tolist():
        label = spelled[number][0] + (f"#{replicate}" if replicate > 1 else "")
        names.append(label)
        keys[label] = (treatment_order(columns.treatments[number], replicate), label)
    order = [PRETRAINING, *sorted(keys, key=lambda label: keys[label])]
    column = {label: j for j, label in enumerate(order)}
    run_ids = np.full((len(labels), len(order)), "", object)
    run_ids[:, 0] = np.array(labels, object)
    column_of = np.array([column[label] for label in names], np.int64)
    run_ids[row_of, column_of[pair_of.ravel()] if len(at) else []] = columns.ids[at]
    variants = {names[k]: spelled[number][1] for k, (number, _) in enumerate(distinct.T.tolist()) if spelled[number][1]}
    return Selection(tuple(labels), tuple(order), run_ids, dict(left_out), variants)


def _passing(registry: Registry, method: object, filters: Mapping[str, object]) -> npt.NDArray[np.bool_]:
    """Return which derived runs have one of the types and pass all filters on fields or hyperparameters."""
    columns = registry.columns
    passes = np.ones(len(columns), bool)
    if method is not None:
        passes &= columns.run_type.matching(partial(matches, wanted=method), "")
    for key, wanted in filters.items():
        if key == "run_id" and isinstance(wanted, list):
            # Ids are looked up: comparing each with each takes as long as all the rest.
            passes &= np.isin(np.arange(len(columns)), [columns.row_by_id[r] for r in wanted if r in columns.row_by_id])
        else:
            column, absent = _column_of(registry, key)
            passes &= column.matching(partial(matches, wanted=wanted), absent)
    return passes


def _column_of(registry: Registry, key: str) -> tuple[Column, object]:
    """Return the values of a field or hyperparameter of all derived runs, and the value for an absent one."""
    columns = registry.columns
    if key not in RUN_FIELDS:
        return registry.key_column(key), math.nan
    if key in ("treatment", "branch_point"):
        name = "label" if key == "treatment" else key
        return Column(columns.treatment, tuple(getattr(t, name) for t in columns.treatments)), ""
    if key == "replicate":
        return Column.of(columns.replicate.tolist()), 0
    if key == "run":
        return Column.of(columns.labels.tolist()), ""
    column: Column = getattr(columns, key)
    return column, ""


def filter_runs(registry: Registry, run_ids: Iterable[str], method: object, filters: Mapping[str, object]) -> set[str]:
    """Return those of the derived runs that match, whatever their state.

    Raises
    ------
    UnknownNameError
        When a filter names something that no run has.
    """
    filters = {k: v for k, v in filters.items() if v is not None}
    wider = registry.with_config_keys(filters)
    method = _run_types(method)
    _check_filters(wider, method, "all", filters)
    passing = wider.columns.ids[_passing(wider, method, filters)].tolist()
    return set(passing).intersection(run_ids)


def run_order(run: DerivedRun) -> tuple[object, ...]:
    """Return the sort key of a run label: depth, type, then the label's numbers."""
    return (0, run.run_type) if run.treatment is None else treatment_order(run.treatment, run.replicate)


def treatment_order(treatment: Treatment, replicate: int) -> tuple[object, ...]:
    """Return the sort key of the label of a treatment and replicate: depth, type, then the label's numbers."""

    def last(number: float) -> float:
        return math.inf if math.isnan(number) else number

    return (
        treatment.parent_treatment.count("+") + bool(treatment.parent_treatment),
        METHODS.index(treatment.run_type) if treatment.run_type in METHODS else len(METHODS),
        last(treatment.learning_rate),
        last(treatment.finetune_tokens),
        last(treatment.epochs),
        last(treatment.max_train_samples),
        last(treatment.dpo_beta),
        treatment.branch_point,
        treatment.label,
        replicate,
    )


def _run_types(method: object) -> object:
    if method is None or callable(method):
        return method
    return [_METHOD_ALIASES.get(str(m), m) for m in as_values(method)]


def _check_filters(registry: Registry, method: object, state: object, filters: Mapping[str, object]) -> None:
    if method is not None and not callable(method):
        known = sorted({*registry.columns.run_type.values, *METHODS})
        for one in as_values(method):
            if one not in known:
                raise UnknownNameError(
                    f"method={one!r} is not a run type of this store, so no run can match it.{near_names(one, known)} "
                    f"There are {', '.join(known)}."
                )
    if state != "all":
        known = sorted({*registry.columns.state.values, "finished", "running", "crashed", "failed"})
        for one in as_values(state):
            if one not in known:
                raise UnknownNameError(
                    f"state={one!r} is not a state of this store, so no run can match it.{near_names(one, known)} "
                    f"There are {', '.join(s for s in known if s)}, and 'all'."
                )
    keys = {*RUN_FIELDS, *registry.filter_keys} if filters else set()
    for key in filters:
        if key not in keys and len(registry.columns):
            raise UnknownNameError(
                f"{key!r} is not an option, and no run of this store has such a hyperparameter to filter on."
                f"{near_names(key, [*_OPTIONS, *keys])} There are {', '.join(sorted(keys))}."
            )


def _nothing(
    registry: Registry,
    params: object,
    data: object,
    seed: object,
    method: object,
    filters: Mapping[str, object],
    states: set[str] | None,
) -> str:
    """Return why a selection is empty, as the text of an error."""
    filters_given = {"params": params, "data": data, "seed": seed, "method": method, **filters}
    said = ", ".join(f"{k}={v!r}" for k, v in filters_given.items() if v is not None) or "no filter"
    bases = select_bases(registry, params, data, seed)
    if not registry.bases:
        unread = {} if registry.tables is None else registry.tables.left_out
        why = "; ".join(f"{reason}: {count} rows" for reason, count in sorted(unread.items())[:3])
        return (
            "the stores have no lineage at all, so there is nothing to open. "
            f"{f'Of the tables: {why}. ' if why else ''}"
            "repository.coverage() says why runs are not used."
        )
    if not bases:
        bases = sorted(registry.bases.values(), key=suite_order)
        sizes = list(dict.fromkeys(b.size.name for b in bases))
        recipes = list(dict.fromkeys(b.recipe.name for b in bases))
        return (
            f"no lineage of these stores matches {said}, so there is nothing to open. "
            f"They have the sizes {', '.join(sizes)} and the recipes {', '.join(recipes[:8])}"
            f"{', ...' if len(recipes) > 8 else ''}."
        )
    labels = {b.label for b in bases}
    rows = np.flatnonzero(registry.columns.lineage.matching(labels.__contains__, ""))
    present: list[str] = []
    for key in ("learning_rate", *[k for k in filters if k != "learning_rate"]):
        column, absent = _column_of(registry, key)
        codes = np.unique(column.codes[rows]).tolist()
        values = sorted({str(column.values[code] if code >= 0 else absent) for code in codes})
        present.append(f"{key} {', '.join(values[:10])}{', ...' if len(values) > 10 else ''}")
    hidden = "" if states is None else f" in state {' or '.join(sorted(states))}"
    return (
        f"{len(bases)} lineages match the base, but no run{hidden} derived from them matches {said}, so there is "
        f"nothing to open. Their {len(rows)} derived runs have {'; '.join(present)}. "
        "Pass state='all' to see every state."
    )
