"""Choose metrics by name, alias, glob or "all"."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from dde.curves.metric import Metric
from dde.errors import UnknownNameError, near_names, warn_caller
from dde.suite.datadecide.names import DEFAULT_METRICS, log_metric, parse_metric, task_metric
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.tables.pretraining_tables import DataDecide

__all__ = ["available_metrics", "choose_metrics", "metrics_without_source"]


def available_metrics(registry: Registry) -> dict[str, Metric]:
    """Return every metric of both stores by name, the default ones first; one pass over the store's keys.

    Keys that become one name, as ``train/loss`` and ``train_loss`` do, stay separate: the key that is the name itself
    gets it, the others are numbered, as ``train_loss_2``.
    """
    found = {m.name: m for m in DEFAULT_METRICS}
    if registry.tables is not None:
        found |= {m.name: m for m in registry.tables.metrics() if m.name not in found}
    if registry.store is not None:
        keys, evaluations = registry.readers.metric_names()
        metrics = [*map(log_metric, keys), *(task_metric(t, e) for t, e in evaluations)]
        names, owned = {m.name for m in metrics}, {m.name for m in metrics if m.kind == "log" and m.name == m.entry}
        for metric in metrics:
            is_other = metric.kind == "log" and metric.name in owned and metric.name != metric.entry
            if not is_other and found.setdefault(metric.name, metric) == metric:
                continue
            free = (f"{metric.name}_{n}" for n in itertools.count(2))
            name = next(name for name in free if name not in found and name not in names)
            key = metric.entry if metric.kind == "log" else metric.task
            found[name] = replace(metric, name=name, long_name=f"{metric.long_name} ({key})")
    return found


def choose_metrics(registry: Registry, metrics: str | Iterable[str] | None) -> list[Metric]:
    """Return the metrics that a request means, in its order, each once.

    Parameters
    ----------
    registry : Registry
    metrics : str, iterable of str, or None
        Names, aliases (``"pile-valppl"``), globs (``"*_valppl"``) or "all"; None for the default ones, which
        always exist.

    Raises
    ------
    UnknownNameError
        When neither store has a requested metric; lists near names.

    Warns
    -----
    DdeWarning
        When no pretraining table has some of the default metrics.
    """
    chosen = list(DEFAULT_METRICS) if metrics is None else _named(registry, metrics)
    absent = getattr(registry.tables, "absent_metrics", ())
    names = [m.name for m in chosen if m in absent]
    if registry.tables is not None and names:
        missing = "".join(f"; {s}" for s in registry.tables.set_aside if s.endswith(": missing"))
        warn_caller(
            f"no pretraining table has {len(names)} of the {len(chosen)} metrics ({', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}){missing}. All their cells of pretraining runs are NaN. "
            "Add the tables that have them, or choose other metrics with metrics=."
        )
    return chosen


def metrics_without_source(registry: Registry, metrics: Iterable[Metric]) -> str:
    """Return the text of the attribute that names metrics without a source; "" if each has one.

    Reads no metrics. The default metrics exist in every Dataset, so some may have no source: the training loss
    without a store of post-training runs, perplexities without the table of them.

    Parameters
    ----------
    registry : Registry
    metrics : iterable of Metric
    """
    tables, store = registry.tables, registry.store
    names = []
    # Any other metric was chosen because a source has it.
    for metric in (m for m in metrics if m in DEFAULT_METRICS):
        if store is not None and metric.kind != "perplexity":
            continue
        if tables is None or (
            tables.lacks_default(metric) if isinstance(tables, DataDecide) else not tables.holds(metric)
        ):
            names.append(metric.name)
    return f"metrics that no source holds, all NaN: {len(names)} ({', '.join(names)})" if names else ""


def _named(registry: Registry, metrics: str | Iterable[str]) -> list[Metric]:
    """Return the metrics that names, aliases and globs mean."""
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    default = {m.name: m for m in DEFAULT_METRICS}
    known: dict[str, Metric] | None = None
    chosen: dict[str, Metric] = {}
    for name in names:
        parsed = parse_metric(name)
        # An unknown name parses as a log key, and an identifier drops the signs of a glob. Therefore an
        # identifier that differs from its name, as of "piqa_*" and "arc-easy", is not accepted as a log key.
        if default.get(parsed.name) == parsed:
            chosen.setdefault(parsed.name, parsed)
            continue
        if registry.tables is not None and parsed.kind != "log" and registry.tables.holds(parsed):
            chosen.setdefault(parsed.name, parsed)
            continue
        known = available_metrics(registry) if known is None else known
        if name == "all":
            hits = list(known.values())
        elif any(sign in name for sign in "*?["):
            pattern = name.replace("-valppl", "_valppl")
            hits = [m for m in known.values() if fnmatchcase(m.name, pattern) or fnmatchcase(_wide_name(m), name)]
        else:
            hits = [m for m in known.values() if (m.kind, m.task, m.entry) == (parsed.kind, parsed.task, parsed.entry)]
            hits = hits or _of_name(name, parsed, known)
        if not hits:
            raise UnknownNameError(
                f"no store has a metric {name!r}, so there is nothing to read.{near_names(name, known)} "
                "dde.open_lineages(..., metrics='all') opens every metric there is."
            )
        for metric in hits:
            chosen.setdefault(metric.name, metric)
    return list(chosen.values())


def _of_name(name: str, parsed: Metric, known: dict[str, Metric]) -> list[Metric]:
    """Return the metric whose name, but not whose key, is `name`; an empty list without one.

    Raises
    ------
    UnknownNameError
        When several keys become that name.
    """
    metric = known.get(name) or known.get(parsed.name)
    if metric is None:
        return []
    alike = [m.entry for m in known.values() if m.kind == "log" and log_metric(m.entry).name == metric.name]
    if name == metric.name and len(alike) > 1:
        raise UnknownNameError(
            f"{name!r} may be any of {len(alike)} keys of training logs, {', '.join(map(repr, sorted(alike)))}, so "
            "the name is ambiguous. Name the key as it was logged."
        )
    return [metric]


def _wide_name(metric: Metric) -> str:
    return f"{metric.task}-valppl" if metric.kind == "perplexity" else f"{metric.task}_{metric.entry}"
