"""Where runs start on the axis of cumulative tokens, against a reference that keeps whole histories."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dde
from dde.errors import LineageError
from dde.lineage.run_graph import BranchAt, Edges, PlacedRuns, RunRows, find_depths, place_runs

NONE = float("nan")


def placed(
    rows: dict[str, list[tuple[int, int]]],
    parents: dict[str, list[tuple[str, BranchAt, float]]],
    cumulative: tuple[str, ...] = (),
    n_params: dict[str, float] | None = None,
) -> tuple[list[str], PlacedRuns]:
    """Place runs given as (step, counter) rows."""
    names = list(rows)
    number = {name: i for i, name in enumerate(names)}
    links = [(number[c], number[p], at, v) for c in names for p, at, v in parents.get(c, [])]
    edges = Edges(
        np.array([x[0] for x in links], np.int32),
        np.array([x[1] for x in links], np.int32),
        np.array([x[2] for x in links], np.int8),
        np.array([x[3] for x in links], np.float64),
    )
    counts = [len(rows[n]) for n in names]
    every = [row for n in names for row in rows[n]]
    run_rows = RunRows(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.array([s for s, _ in every], np.int64),
        np.array([t for _, t in every], np.int64),
        np.array([n in cumulative for n in names], bool),
    )
    depth = find_depths(names, edges.child, edges.parent)
    sizes = np.array([(n_params or {}).get(n, 1.0) for n in names])
    return names, place_runs(run_rows, edges, depth, sizes)


def test_the_worked_example_of_a_rewind_a_branch_inside_and_a_soup() -> None:
    rows = {
        "base": [(0, 0), (10, 40), (20, 80), (30, 160), (40, 240)],
        "rewound": [(30, 160), (50, 320)],
        "sft": [(1, 10), (2, 20), (4, 40)],
        "dpo": [(1, 10), (2, 20)],
        "soup": [(0, 0)],
    }
    parents = {
        "rewound": [("base", BranchAt.STEP, 25)],
        "sft": [("base", BranchAt.END, NONE)],
        "dpo": [("sft", BranchAt.STEP, 2)],
        "soup": [("sft", BranchAt.END, NONE), ("dpo", BranchAt.END, NONE)],
    }
    names, found = placed(rows, parents, ("rewound",))
    table = {n: (found.start[i], found.branch[i], found.end[i]) for i, n in enumerate(names)}
    assert table == {
        "base": (0, -1, 240),
        "rewound": (120, 120, 320),
        "sft": (240, 240, 280),
        "dpo": (260, 260, 280),
        "soup": (300, 260, 300),
    }
    assert found.curve_parent[names.index("soup")] == names.index("sft")
    assert found.estimate[1] == "branch at step 25: between the parent's rows at steps 20 and 30"
    assert set(found.problem) == {""}


def test_a_soup_of_checkpoints_of_one_run_adds_nothing() -> None:
    rows = {"long": [(10, 100), (20, 200), (30, 300)], "soup": [(30, 300)]}
    parents = {"soup": [("long", BranchAt.STEP, 30), ("long", BranchAt.STEP, 20), ("long", BranchAt.STEP, 10)]}
    _, found = placed(rows, parents, ("soup",))
    assert (found.start[1], found.branch[1], found.end[1]) == (300, 100, 300)
    assert found.own.tolist() == [100, 200, 300, 0]


def test_a_merge_of_two_roots_has_no_curve_in_common() -> None:
    rows = {"a": [(1, 10)], "b": [(1, 30)], "merge": [(0, 0)], "sft": [(1, 5)]}
    parents = {
        "merge": [("a", BranchAt.END, NONE), ("b", BranchAt.END, NONE)],
        "sft": [("merge", BranchAt.END, NONE)],
    }
    _, found = placed(rows, parents)
    assert found.start.tolist() == [0, 0, 40, 40]
    assert found.branch.tolist() == [-1, -1, 0, 40]
    assert found.curve_parent.tolist() == [-1, -1, -1, 2]


@pytest.mark.parametrize(
    ("at", "value", "branch"),
    [
        (BranchAt.END, NONE, 300),
        (BranchAt.TOKENS, 250, 250),
        (BranchAt.CUMULATIVE, 250, 250),
        (BranchAt.STEP, 20, 200),
        (BranchAt.STEP, 15, 150),
        (BranchAt.STEP, 5, 50),
        (BranchAt.CHECKPOINT, NONE, 200),
        (BranchAt.FIRST_ROW, NONE, 250),
    ],
)
def test_every_way_to_say_where_a_run_leaves_its_parent(at: BranchAt, value: float, branch: int) -> None:
    rows = {"trunk": [(10, 100), (20, 200), (30, 300)], "decay": [(25, 250), (30, 300), (40, 400)]}
    _, found = placed(rows, {"decay": [("trunk", at, value)]}, ("decay",))
    assert found.problem[1] == ""
    assert found.branch[1] == found.start[1] == branch
    assert found.end[1] == 400


@pytest.mark.parametrize(
    ("at", "value", "cumulative", "problem"),
    [
        (BranchAt.STEP, 50, True, "step 50 lies beyond the parent's last row at step 30"),
        (BranchAt.STEP, NONE, True, "the declared step of the branch is not a number"),
        (BranchAt.TOKENS, 500, True, "500 own tokens of the parent lie beyond its last row at 300"),
        (BranchAt.CUMULATIVE, -5, True, "it lies before the parent's start"),
        (BranchAt.CHECKPOINT, NONE, False, "a counter of the run's own tokens does not say where it starts"),
        (BranchAt.FIRST_ROW, NONE, False, "a counter of the run's own tokens does not say where it starts"),
    ],
)
def test_a_branch_that_can_not_be_is_no_guess(at: BranchAt, value: float, cumulative: bool, problem: str) -> None:
    rows = {"trunk": [(10, 100), (20, 200), (30, 300)], "run": [(25, 250)], "child": [(1, 1)]}
    parents = {"run": [("trunk", at, value)], "child": [("run", BranchAt.END, NONE)]}
    _, found = placed(rows, parents, ("run",) if cumulative else ())
    assert found.problem[1] == f"branch unknown: {problem}"
    assert found.problem[2] == f"parent not usable: branch unknown: {problem}"
    assert found.start[1] == found.end[1] == -1


def test_compute_sums_the_segments_of_each_size() -> None:
    rows = {"small": [(1, 100)], "grown": [(1, 50)]}
    parents = {"grown": [("small", BranchAt.END, NONE)]}
    _, found = placed(rows, parents, n_params={"small": 10.0, "grown": 40.0})
    assert found.compute.tolist() == [0.0, 6.0 * 10 * 100]


def test_a_circle_names_its_runs() -> None:
    child, parent = np.array([0, 1, 2], np.int32), np.array([1, 2, 0], np.int32)
    with pytest.raises(LineageError, match=r"'a', 'b', 'c' derive from each other in a cycle"):
        find_depths(["a", "b", "c"], child, parent)
    with pytest.raises(LineageError, match="'b' is its own parent"):
        find_depths(["a", "b"], np.array([1], np.int32), np.array([1], np.int32))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, list[tuple[int, int]]], dict[str, list[tuple[str, BranchAt, float]]]]:
    """Draw runs of some rows whose parents are any earlier runs, left at any own tokens."""
    rows: dict[str, list[tuple[int, int]]] = {}
    parents: dict[str, list[tuple[str, BranchAt, float]]] = {}
    for k in range(draw(st.integers(1, 7))):
        name = f"r{k}"
        end = draw(st.integers(1, 50))
        rows[name] = [(1, end)]
        above = draw(st.lists(st.sampled_from(sorted(rows)), max_size=3)) if k else []
        above = [p for p in above if p != name]
        if above:
            parents[name] = [(p, BranchAt.TOKENS, draw(st.integers(0, rows[p][0][1]))) for p in above]
    return rows, parents


@given(graphs())
def test_cumulative_tokens_are_the_union_of_ancestral_segments(
    graph: tuple[dict[str, list[tuple[int, int]]], dict[str, list[tuple[str, BranchAt, float]]]],
) -> None:
    rows, parents = graph
    names, found = placed(rows, parents)
    number = {n: i for i, n in enumerate(names)}

    def trained(name: str, own: float) -> set[tuple[str, int]]:
        """Return every token that a run has seen, as (run, number)."""
        seen = {(name, t) for t in range(int(own))}
        for parent, _, at in parents.get(name, []):
            seen |= trained(parent, at)
        return seen

    def curve(name: str, own: float) -> list[tuple[str, int]]:
        """Return the tokens of a curve in order, of a chain of runs with one parent each."""
        tokens = [(name, t) for t in range(int(own))]
        if name in parents:
            (parent, _, at), *others = parents[name]
            if others:
                return [*common(name), (name, -1), *tokens]
            return curve(parent, at) + tokens
        return tokens

    def common(name: str) -> list[tuple[str, int]]:
        curves = [curve(p, at) for p, _, at in parents[name]]
        prefix: list[tuple[str, int]] = []
        for column in zip(*curves, strict=False):
            if len(set(column)) > 1:
                break
            prefix.append(column[0])
        return prefix

    for name in names:
        at = number[name]
        assert found.problem[at] == ""
        assert found.start[at] == len(trained(name, 0))
        assert found.end[at] == len(trained(name, rows[name][0][1]))
        if len(parents.get(name, [])) == 1:
            assert found.branch[at] == found.start[at]
        elif name in parents and not any(t == -1 for _, t in common(name)):
            assert found.branch[at] == len(common(name))


def test_tokens_beyond_64_bits_are_named() -> None:
    big = 2**62
    frame = pd.DataFrame(
        [{"id": "a", "step": s, "tokens": t, "acc": 1.0} for s, t in ((1, 10), (2, big))]
        + [{"id": "b", "step": s, "tokens": t, "acc": 1.0} for s, t in ((1, 10), (2, big))]
    )

    def status(at: object) -> str:
        tables = [
            dde.Table(frame, where="id == 'a'"),
            dde.Table(frame, where="id == 'b'", run_type="b", parent="a", at=at),
        ]
        suite = dde.Suite(
            "big", lineage="l", run_id="{id}", counts="own", metrics={"acc": dde.Metric("acc")}, tables=tables
        )
        coverage = dde.RunRepository.from_suite(suite).coverage().set_index("run_id")
        return str(coverage.status["b"])

    assert status("end") == "tokens unknown: more tokens than 64 bits count"


@pytest.mark.parametrize("unit", ["ep", "step", " tokens"])
def test_labels_are_sorted_by_numbers_with_units_of_any_length(unit: str) -> None:
    frame = pd.DataFrame([{"id": f"r{n}", "n": f"{n}{unit}", "step": 1, "tokens": 8, "acc": 1.0} for n in (100, 5, 10)])
    suite = dde.Suite.from_frame(frame, run="id", lineage="{n}", metrics={"acc": dde.Metric("acc")})
    assert dde.open_lineages(suite, cache_dir=None).lineage.values.tolist() == [f"{n}{unit}" for n in (5, 10, 100)]
