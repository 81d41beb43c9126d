"""Sources in memory: what they hold is known, and every read of a metric is counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dde.curves.metric import Metric
from dde.names import Base, find_base_by_label, parse_metric
from dde.sources.protocols import History, RunRecord
from dde.suite.datadecide.tables.evaluation_tables import EVALUATED, PERPLEXITY
from dde.suite.datadecide.tables.pretraining_tables import TableCheckpoints


@dataclass
class FakeTables:
    """Pretraining tables: ``{label: {step: {metric: value}}}``."""

    rows: Mapping[str, Mapping[int, Mapping[str, float]]]
    calls: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    description: str = ""
    fingerprint: str = "f"
    on_error: str = "raise"
    layout: str = "raw"

    def __post_init__(self) -> None:
        self.set_aside: list[str] = []
        self.left_out: dict[str, int] = {}
        self.conflicts: list[str] = []

    def catalog(self) -> TableCheckpoints:
        bases = [find_base_by_label(label) for label in self.rows]
        assert all(bases)
        pairs = [(i, step) for i, label in enumerate(self.rows) for step in sorted(self.rows[label])]
        kinds = {"evaluation": EVALUATED, "perplexity": PERPLEXITY, "log": 0}
        labels = list(self.rows)
        return TableCheckpoints(
            tuple(b for b in bases if b),
            np.array([p[0] for p in pairs], np.int32),
            np.array([p[1] for p in pairs], np.int64),
            np.array([sum({kinds[parse_metric(m).kind] for m in self.rows[labels[i]][s]}) for i, s in pairs], np.uint8),
        )

    def metrics(self) -> list[Metric]:
        names = {n for steps in self.rows.values() for values in steps.values() for n in values}
        return [parse_metric(n) for n in sorted(names)]

    def holds(self, metric: Metric) -> bool:
        return metric.name in {m.name for m in self.metrics()}

    def read_together(self, metric: Metric, others: Iterable[Metric]) -> list[Metric]:
        return [metric]

    def whole_tasks(self, metrics: Iterable[Metric]) -> list[Metric]:
        return list(metrics)

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric]) -> History:
        self.calls.append((tuple(b.label for b in bases), tuple(m.name for m in metrics)))
        pairs = [(i, step) for i, b in enumerate(bases) for step in sorted(self.rows[b.label])]
        values = {
            m.name: np.array([self.rows[bases[i].label][s].get(m.name, np.nan) for i, s in pairs]) for m in metrics
        }
        run = np.array([p[0] for p in pairs], np.int32)
        return History(run, np.array([p[1] for p in pairs], np.int64), values)


@dataclass
class FakeRun:
    """A post-training run of a :class:`FakeStore`."""

    record: RunRecord
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    evaluations: dict[tuple[str, str], float] = field(default_factory=dict)


@dataclass
class FakeStore:
    """A store of post-training runs that counts what is read."""

    fake_runs: list[FakeRun]
    description: str = ""
    listed: int = 0
    history_calls: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    evaluation_calls: list[tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = field(default_factory=list)

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        self.listed += 1
        return sorted((r.record for r in self.fake_runs), key=lambda r: r.run_id)

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        self.history_calls.append((tuple(run_ids), tuple(keys)))
        by_id = {r.record.run_id: r for r in self.fake_runs}
        rows = [
            (i, step, values)
            for i, run_id in enumerate(run_ids)
            if run_id in by_id
            for step, values in sorted(by_id[run_id].rows, key=lambda row: row[0])
        ]
        return History(
            np.array([r[0] for r in rows], np.int32),
            np.array([r[1] for r in rows], np.int64),
            {k: np.array([r[2].get(k, np.nan) for r in rows], np.float64) for k in keys},
        )

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        self.evaluation_calls.append((tuple(run_ids), tuple(names)))
        by_id = {r.record.run_id: r for r in self.fake_runs}
        return {
            n: np.array([by_id[r].evaluations.get(n, np.nan) if r in by_id else np.nan for r in run_ids]) for n in names
        }

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        keys = {k for r in self.fake_runs for _, values in r.rows for k in values}
        return sorted(keys), sorted({n for r in self.fake_runs for n in r.evaluations})


HUB = "allenai/DataDecide-dolma1_7-4M"


def sft(
    run_id: str,
    counts: Sequence[float] = (),
    losses: Sequence[float] | None = None,
    *,
    every: int = 100,
    state: str = "finished",
    created: str = "2025-08-01",
    version: str = "1",
    evaluations: Mapping[str, float] | None = None,
    program: str = "finetune.py",
    command: Sequence[str] = (),
    gpu_count: int | None = 2,
    **config: object,
) -> FakeRun:
    """Return a finetuning run on the final 4M Dolma1.7 checkpoint, unless its config says otherwise."""
    losses = [1.0 / (i + 1) for i in range(len(counts))] if losses is None else losses
    rows = [
        (every * (i + 1), {"total_tokens": float(c), "train_loss": float(y), "learning_rate": 1e-5})
        for i, (c, y) in enumerate(zip(counts, losses, strict=True))
    ]
    settings: dict[str, object] = {"model_name_or_path": HUB, "learning_rate": 1e-5, "num_train_epochs": 1}
    settings.update(config)
    scores = {(parse_metric(k).task, parse_metric(k).entry): v for k, v in (evaluations or {}).items()}
    record = RunRecord(
        run_id,
        run_id,
        state,
        created_at=np.datetime64(created, "us"),
        config={k: v for k, v in settings.items() if v is not None},
        command=tuple(command),
        program=program,
        gpu_count=gpu_count,
        evaluated=bool(scores),
        version=version,
    )
    return FakeRun(record, rows, scores)


__all__ = ["HUB", "FakeRun", "FakeStore", "FakeTables", "sft"]
