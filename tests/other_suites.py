"""Datasets of suites other than DataDecide, small enough to be written down.

`make_dataset` builds what opening such a suite gives: its dimensions, coordinates and flags of observations, from a
few runs whose rows are given. `ladder` has several roots in a lineage, decays of one of them, a merge and a rewind;
`optimizers` states no parameter counts and has a factor that differs within labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from dde.curves.axes import AXES, TOKENS
from dde.dataset.samples import check_variable, flag_attrs, with_samplings
from dde.lineage.chain_texts import Stage, format_chain
from dde.schema import FACTOR_OF, sampled_names


@dataclass(frozen=True)
class Run:
    """A run: its rows are pairs of cumulative tokens and values."""

    run_id: str
    lineage: str
    label: str
    run_type: str
    rows: Mapping[int, float]
    parents: Sequence[str] = ()
    branch: float = np.nan
    start: float = 0.0
    factors: Mapping[str, Any] = field(default_factory=dict)
    replicate: int = 1
    schedule: float = np.nan

    @property
    def end(self) -> int:
        return max(self.rows)


def make_dataset(
    runs: Sequence[Run], factor_of: Mapping[str, str], n_params: Mapping[str, int] | None, metric: str = "loss"
) -> xr.Dataset:
    """Return the Dataset of some runs.

    Parameters
    ----------
    runs : sequence of Run
        Parents before their children.
    factor_of : mapping
        What each factor tells apart.
    n_params : mapping of lineage to int, or None
    metric : str
        Name of the only variable; an evaluation, so that it may join at branches.
    """
    by_id = {r.run_id: r for r in runs}
    lineages, labels = list(dict.fromkeys(r.lineage for r in runs)), list(dict.fromkeys(r.label for r in runs))
    tokens = np.unique([t for r in runs for t in (*r.rows, *([r.branch] if r.branch == r.branch else []))])
    tokens = tokens.astype(np.int64)
    cells = (len(lineages), len(labels))
    values, flags = np.full((*cells, len(tokens)), np.nan), np.zeros((*cells, len(tokens)), np.int8)
    texts = {n: np.full(cells, "", object) for n in (
        "run_id", "parent_run_id", "root_run_id", "state", "token_source", "parent_evidence", "chain")}  # fmt: skip
    numbers = {n: np.full(cells, np.nan) for n in (
        "branch_tokens", "origin_tokens", "start_tokens", "end_tokens", "schedule_tokens",
        "last", "base", "own", "count")}  # fmt: skip
    curves: dict[str, dict[int, float]] = {}
    for r in runs:
        at = (lineages.index(r.lineage), labels.index(r.label))
        path = [r]
        while path[-1].parents:
            above = by_id[path[-1].parents[0]]
            while len(path[-1].parents) > 1 and above.branch >= path[-1].branch:
                # The curve of a merge is that of the run that its parents have in common.
                above = by_id[above.parents[0]]
            path.append(above)
        inherited = {t: v for t, v in curves[r.parents[0]].items() if t <= r.branch} if r.parents else {}
        seen = curves[r.run_id] = {**inherited, **r.rows}
        place = sorted(seen)
        inside = (tokens >= place[0]) & (tokens <= place[-1])
        curve = np.where(inside, np.interp(tokens, place, [seen[t] for t in place]), np.nan)
        if len(r.parents) > 1:
            # Nothing is joined across a merge.
            curve[(tokens > r.branch) & (tokens < r.start)] = np.nan
        values[at], flags[at] = curve, np.isin(tokens, place)
        origin = path[-2].branch if len(path) > 1 else np.nan
        stages = [
            Stage(p.run_type, 0 if np.isnan(p.branch) else int(p.branch), int(p.start) if len(p.parents) > 1 else None)
            for p in path[::-1]
        ]
        before = [t for t in seen if t <= origin]
        facts: dict[str, Any] = {
            "run_id": r.run_id, "parent_run_id": r.parents[0] if r.parents else "", "root_run_id": path[-1].run_id,
            "state": "finished", "token_source": "logged", "parent_evidence": "declared" if r.parents else "",
            "chain": format_chain(stages), "branch_tokens": r.branch, "origin_tokens": origin, "start_tokens": r.start,
            "end_tokens": r.end, "schedule_tokens": r.schedule, "last": max(r.rows),
            "base": max(before, default=np.nan), "own": len(r.rows), "count": len(seen),
        }  # fmt: skip
        for name, fact in facts.items():
            (texts if name in texts else numbers)[name][at] = fact
    names = sampled_names(metric)
    coords: dict[str, Any] = {
        "lineage": ("lineage", np.array(lineages, object)),
        "run": ("run", np.array(labels, object)),
        "cumulative_tokens": ("cumulative_tokens", tokens, TOKENS.attrs),
        "position_check": check_variable(tokens, TOKENS),
        "run_type": ("run", np.array([_first(runs, "label", n).run_type for n in labels], object)),
        "replicate": ("run", np.array([_first(runs, "label", n).replicate for n in labels], np.float64)),
        **{n: (("lineage", "run"), v) for n, v in texts.items()},
        **{n: (("lineage", "run"), v, {"units": "tokens"}) for n, v in numbers.items() if n.endswith("_tokens")},
        **{names[n]: (("lineage", "run"), numbers[n]) for n in ("last", "base", "own", "count")},
        names[""]: (("lineage", "run", "cumulative_tokens"), flags, flag_attrs(metric, joins=True)),
        **{n: _factor(runs, n, of, lineages, labels) for n, of in factor_of.items()},
    }
    if n_params is not None:
        counts = np.array([n_params[n] for n in lineages], np.float64)
        coords["n_params"] = ("lineage", counts, {"long_name": "parameters", "units": "1"})
        compute = 6.0 * counts[:, None] * tokens
        coords["cumulative_compute"] = (("lineage", "cumulative_tokens"), compute, AXES["cumulative_compute"].attrs)
    attrs = {"long_name": f"{metric} on held-out text", "units": "nats", "task": metric, "direction": "lower"}
    dims = ("lineage", "run", "cumulative_tokens")
    return xr.Dataset({metric: (dims, values, with_samplings(attrs, [metric]))}, coords, {"left_out": ""})


def _first(runs: Sequence[Run], name: str, value: str) -> Run:
    return next(r for r in runs if getattr(r, name) == value)


def _factor(runs: Sequence[Run], name: str, of: str, lineages: list[str], labels: list[str]) -> xr.Variable:
    blank: Any = "" if any(isinstance(r.factors.get(name), str) for r in runs) else np.nan
    attrs = {"long_name": name.replace("_", " "), FACTOR_OF: of}
    if of == "cell":
        out = np.full((len(lineages), len(labels)), blank, object if blank == "" else np.float64)
        for r in runs:
            out[lineages.index(r.lineage), labels.index(r.label)] = r.factors.get(name, blank)
        return xr.Variable(("lineage", "run"), out, attrs)
    where = lineages if of == "lineage" else labels
    field_name = "lineage" if of == "lineage" else "label"
    values = [_first(runs, field_name, label).factors.get(name, blank) for label in where]
    out = np.empty(len(values), object if blank == "" else np.float64)
    out[:] = values
    return xr.Variable(of, out, attrs)


SIZES = {"190M": 190_354_176, "370M": 371_262_464, "1B": 1_279_395_840}


def ladder() -> xr.Dataset:
    """Return sizes with two cosine runs of other lengths, a trunk, two decays of it, a merge of these and a rewind."""
    runs: list[Run] = []
    for k, size in enumerate(SIZES):
        for seed in (0, 1):
            lineage = f"{size}-s{seed}"
            level, unit = 4.0 - 0.4 * k + 0.02 * seed, 1_000_000 * (k + 1)

            def rows(at: Sequence[int], shift: float, level: float = level, unit: int = unit) -> dict[int, float]:
                return {t * unit: level / (1 + t / 40) ** 0.3 - shift for t in at}

            def run(
                label: str, kind: str, found: Mapping[int, float], lineage: str = lineage, size: str = size,
                seed: int = seed, **more: Any,
            ) -> Run:  # fmt: skip
                parents = [f"{lineage}/{p}" for p in more.pop("of", ())]
                budget = more.pop("budget", np.nan)
                factors = {"size": size, "seed": seed, "budget": budget, "warmup": 100.0 + 50 * SIZES_AT[size]}
                return Run(f"{lineage}/{label}", lineage, label, kind, found, parents, factors=factors, **more)

            for budget in (1.0, 2.0):
                end = int(100 * budget)
                found = rows(range(0, end + 1, 20), 0.1 * budget)
                runs.append(run(f"cosine-{budget:g}xC", "cosine", found, budget=budget, schedule=end * unit))
            runs.append(run("constant", "constant", rows(range(0, 221, 20), 0.0)))
            for budget in (1.0, 2.0):
                at = int(80 * budget)
                own = rows(range(at + 5, int(100 * budget) + 1, 5), 0.15 * budget)
                runs.append(
                    run(f"decay-{budget:g}xC", "decay", own, budget=budget, of=["constant"], branch=at * unit,
                        start=at * unit, schedule=100 * budget * unit)
                )  # fmt: skip
            if seed == 0:
                runs.append(
                    run("(decay-1xC & decay-2xC)+merge", "merge", rows([240], 0.4), of=["decay-1xC", "decay-2xC"],
                        branch=80 * unit, start=240 * unit)
                )  # fmt: skip
                runs.append(
                    run("rewound", "constant", rows(range(130, 201, 10), 0.05), of=["constant"], branch=120 * unit,
                        start=120 * unit)
                )  # fmt: skip
    factor_of = {"size": "lineage", "seed": "lineage", "budget": "run", "warmup": "cell"}
    return make_dataset(runs, factor_of, {f"{s}-s{seed}": n for s, n in SIZES.items() for seed in (0, 1)})


SIZES_AT = {size: k for k, size in enumerate(SIZES)}


def optimizers() -> xr.Dataset:
    """Return trials of optimisers, with repetitions, of a suite that states no parameter counts."""
    runs = []
    for data in ("", "-deduped"):
        for optimizer in ("adamw", "muon"):
            for rate in (1e-3, 3e-3):
                for replicate in (1, 2):
                    shift = 0.1 * (optimizer == "muon") + 20 * rate + 0.05 * (data != "") + 0.01 * replicate
                    label = f"{optimizer}_lr={rate:g}"
                    factors = {"data": data, "optimizer": optimizer, "learning_rate": rate, "params": "tiny"}
                    runs.append(
                        Run(
                            f"{label}{data}/{replicate}",
                            f"tiny{data}",
                            label + (f"#{replicate}" * (replicate > 1)),
                            "pretraining",
                            {t: 3.0 - t / 1000 - shift for t in range(0, 801, 100)},
                            factors=factors,
                            replicate=replicate,
                        )
                    )
    factor_of = {"params": "lineage", "data": "lineage", "optimizer": "run", "learning_rate": "run"}
    return make_dataset(runs, factor_of, None)
