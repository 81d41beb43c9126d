"""Alignment against the plain reference, under generated gaps, branches and grids."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dde.curves.alignment import Interpolation, align_observations, plan_alignment, without_missing
from dde.curves.chains import Chains, CurvePoints, points_on_curves
from dde.curves.grids import TokenGrid, resolve_grid
from dde.curves.observations import Observations
from dde.errors import SelectionError, UnknownNameError
from reference import ReferenceRun, between

METHODS = ("linear", "log", "nearest", "previous")
values = st.floats(-1e3, 1e3, allow_nan=False)
tokens = st.integers(0, 400)
knots = st.dictionaries(tokens, values, max_size=8)


@st.composite
def families(draw: st.DrawFn) -> list[ReferenceRun]:
    """A base and runs that branch from it and from each other, at, between or past observations."""
    runs = [ReferenceRun(draw(knots))]
    for _ in range(draw(st.integers(0, 4))):
        parent = draw(st.sampled_from(runs))
        earliest = max(parent.branch, 0)
        at_observation = [t for t in parent.own if t >= earliest]
        branch = draw(st.sampled_from(at_observation)) if at_observation and draw(st.booleans()) else None
        if branch is None:
            branch = draw(st.integers(earliest, earliest + 150))
        # Some lie at the branch itself, where the parent's observation counts.
        own = {branch + draw(st.integers(0, 100)): draw(values) for _ in range(draw(st.integers(0, 5)))}
        runs.append(ReferenceRun(own, parent, branch))
    return runs


def as_arrays(runs: list[ReferenceRun], lacking: list[int]) -> tuple[Chains, Observations]:
    """Return the runs as arrays, with places among their observations that the metric has no sample at."""
    parents = [-1 if r.parent is None else runs.index(r.parent) for r in runs]
    places = [sorted({*r.own, *(t for t in lacking if r.own)}) for r in runs]
    x = [np.array(at, np.int64) for at in places]
    y = [np.array([r.own.get(t, np.nan) for t in at]) for r, at in zip(runs, places, strict=True)]
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in x])]).astype(np.int64)
    chains = Chains(
        tuple(map(str, range(len(runs)))), np.array(parents, np.int32), np.array([r.branch for r in runs], np.int64)
    )
    flat = np.concatenate(x)
    return chains, Observations(offsets, flat, flat, np.concatenate(y))


def check_rows(
    chains: Chains, own: Observations, grid: np.ndarray, how: Interpolation, joins: bool, made: np.ndarray
) -> None:
    """A plan fills any choice of runs, in any order and as often as wanted, and no other row."""
    n = len(chains.run_ids)
    own = without_missing(own)
    plan = plan_alignment(chains, own, grid, how, joins)
    for rows in (np.arange(n), np.array([n - 1]), np.array([n - 1, 0, n - 1])):
        at = np.arange(len(rows))[::-1]
        out = np.full((len(rows) + 1, len(grid)), 7.0)
        plan.fill(own.values, rows, at, out)
        np.testing.assert_array_equal(out[at], made[rows])
        assert (out[len(rows)] == 7.0).all()


def interpolate(
    x: np.ndarray, y: np.ndarray, at: np.ndarray, method: str = "linear", max_gap: int | None = None
) -> np.ndarray:
    """Return the curve of one run."""
    chains = Chains(("base",), np.array([-1], np.int32), np.array([-1]))
    own = Observations(np.array([0, len(x)]), x, x, y)
    return align_observations(chains, own, at, Interpolation(method, max_gap), False)[0]  # type: ignore[arg-type]


@given(
    families(),
    st.lists(st.integers(0, 600), max_size=30, unique=True),
    st.sampled_from(METHODS),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(1, 200),
    st.lists(tokens, max_size=6),
)
def test_curves_equal_the_plain_reference(
    runs: list[ReferenceRun],
    points: list[int],
    method: str,
    joins: bool,
    bridge: bool,
    max_gap: int | None,
    lacking: list[int],
) -> None:
    chains, own = as_arrays(runs, lacking)
    grid = np.array(
        sorted({*points, *lacking, *(t for r in runs for t in r.own), *(r.branch for r in runs if r.parent)}), np.int64
    )
    how = Interpolation(method, max_gap, bridge)  # type: ignore[arg-type]
    made = align_observations(chains, own, grid, how, joins)
    check_rows(chains, own, grid, how, joins, made)
    for i, run in enumerate(runs):
        expected = np.array([run.value(int(t), method, joins, bridge, max_gap) for t in grid])
        np.testing.assert_allclose(made[i], expected, rtol=1e-12, atol=1e-12)
        # At an observation the source's own number, bit for bit.
        for j, t in enumerate(grid):
            seen = run.observation(int(t))
            if seen is not None:
                assert made[i, j] == seen
                assert np.signbit(made[i, j]) == np.signbit(seen)
        if run.parent is not None:
            shared = grid <= run.branch
            np.testing.assert_array_equal(made[i][shared], made[runs.index(run.parent)][shared])


def curves_of(runs: list[ReferenceRun], grid: list[int], how: Interpolation, joins: bool = True) -> np.ndarray:
    """Return the curve of every run."""
    chains, own = as_arrays(runs, [])
    return align_observations(chains, own, np.array(grid, np.int64), how, joins)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bridge", [False, True])
@pytest.mark.parametrize("joins", [False, True])
def test_an_observation_at_the_branch_is_the_parents(method: str, bridge: bool, joins: bool) -> None:
    base = ReferenceRun({0: 1.0, 100: 2.0})
    child = ReferenceRun({100: 9.0, 200: 3.0}, base, 100)
    grid = [0, 99, 100, 101, 150, 200]
    how = Interpolation(method, None, bridge)  # type: ignore[arg-type]
    made = curves_of([base, child], grid, how, joins)
    # The child's own 9.0 shows neither at the branch nor in what is made of its neighbours.
    np.testing.assert_array_equal(made[1, :3], made[0, :3])
    assert made[1, 2] == 2.0
    assert made[1, -1] == 3.0
    if joins:
        assert 2.0 <= made[1, 3] <= made[1, 4] <= 3.0
    else:
        assert np.isnan(made[1, 3:5]).all()


def test_an_observation_at_the_branch_does_not_stand_in_for_a_missing_one_of_the_parent() -> None:
    base = ReferenceRun({0: 1.0, 90: 2.0})
    child = ReferenceRun({100: 9.0, 200: 3.0}, base, 100)
    for bridge, expected in ((False, np.nan), (True, 2.0 + 60 / 110)):
        made = curves_of([base, child], [100, 150, 200], Interpolation("linear", None, bridge))
        np.testing.assert_allclose(made[1], [np.nan, expected, 3.0])


@pytest.mark.parametrize("method", [*METHODS, "pchip"])
@pytest.mark.parametrize("gap", [1, 2, 100])
def test_a_gap_of_exactly_the_longest_is_filled_and_one_token_more_is_not(method: str, gap: int) -> None:
    # Distances of `gap`, `gap` + 1 and `gap` again, from 1 on: the logarithm of 0 has no place.
    ends = np.cumsum([1, gap, gap + 1, gap])
    run = ReferenceRun({int(t): float(i) for i, t in enumerate(ends)})
    grid = list(range(1, int(ends[-1]) + 1))
    made = curves_of([run], grid, Interpolation(method, gap))  # type: ignore[arg-type]
    inside = {t for t in grid if ends[1] < t < ends[2]}
    assert inside
    for t, value in zip(grid, made[0], strict=True):
        assert np.isnan(value) == (t in inside), t
    filled = interpolate(ends, np.arange(4.0), np.array(grid), method, gap + 1)
    assert not np.isnan(filled).any()


@pytest.mark.parametrize("bridge", [False, True])
def test_the_longest_gap_counts_from_the_parents_observation(bridge: bool) -> None:
    base = ReferenceRun({0: 1.0, 100: 2.0})
    child = ReferenceRun({150: 3.0}, base, 120 if bridge else 100)
    for max_gap, is_filled in ((50, True), (49, False)):
        made = curves_of([base, child], [149, 150], Interpolation("linear", max_gap, bridge))
        assert np.isnan(made[1, 0]) != is_filled
        assert made[1, 1] == 3.0


@given(knots, st.lists(tokens, min_size=1, max_size=20, unique=True), st.sampled_from(METHODS))
def test_a_curve_is_never_extrapolated(known: dict[int, float], points: list[int], method: str) -> None:
    x = np.array(sorted(known), np.int64)
    at = np.array(sorted(points), np.int64)
    made = interpolate(x, np.array([known[t] for t in sorted(known)]), at, method)
    outside = (at < x[0]) | (at > x[-1]) if len(x) else np.ones(len(at), bool)
    assert np.isnan(made[outside]).all()
    assert not np.isnan(made[~outside]).any()
    expected = [between(sorted(known.items()), int(t), method, None) for t in at]
    np.testing.assert_allclose(made, expected, rtol=1e-12, atol=1e-12)


def test_monotone_cubic_stays_between_its_neighbours() -> None:
    x, y = np.array([0, 100, 200, 300]), np.array([0.0, 1.0, 1.0, 5.0])
    made = interpolate(x, y, np.arange(301), "pchip")
    assert (np.diff(made) >= -1e-12).all()
    assert made[150] == pytest.approx(1.0)
    np.testing.assert_array_equal(made[[0, 100, 200, 300]], y)


FAR = 2**53


@settings(deadline=None)  # the first cubic imports SciPy
@given(
    st.sampled_from([*METHODS, "pchip"]),
    st.booleans(),
    st.sampled_from([FAR, 2**60, 2**63 - 500]) | st.integers(FAR, 2**63 - 500),
    st.dictionaries(tokens, values, min_size=2, max_size=8),
)
def test_tokens_that_floats_do_not_tell_apart_are_interpolated_exactly(
    method: str, compiled: bool, far: int, near: dict[int, float]
) -> None:
    x, y = np.array(sorted(near)), np.array([near[t] for t in sorted(near)])
    points = np.arange(401)
    # So far from zero, log tokens are as good as linear.
    expected = interpolate(x, y, points, "linear" if method == "log" else method)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr("dde.curves.alignment.is_compiled", lambda: False)
        made = interpolate(far + x, y, far + points, method)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("at", [10**12, 10**15])
@pytest.mark.parametrize("gap", [3, 1_000, 10**5, 10**8])
def test_short_lines_far_from_zero_are_as_exact_in_log_tokens(at: int, gap: int) -> None:
    points = at + np.linspace(0, gap, 4).round().astype(np.int64)
    made = interpolate(points[[0, -1]], np.array([0.0, 1.0]), points, "log")
    exact = [math.log1p(int(p - at) / at) / math.log1p(gap / at) for p in points]
    np.testing.assert_allclose(made, exact, rtol=0, atol=1e-6)


def test_a_cubic_over_more_tokens_than_floats_tell_apart_is_refused() -> None:
    x, y = np.array([0, 2**60, 2**60 + 1]), np.array([1.0, 2.0, 3.0])
    with pytest.raises(SelectionError, match=r"run 'base' span 1,152,921,504,606,846,977 tokens.*interp='linear'"):
        interpolate(x, y, np.array([5]), "pchip")
    for method in METHODS:
        np.testing.assert_array_equal(interpolate(x, y, x, method), y)


def test_points_of_a_grid_are_exact_beyond_what_floats_tell_apart() -> None:
    far = np.array([FAR + 1, FAR + 3, 2**63 - 1])
    assert resolve_grid(far).build(far[:1], far[:0]).tolist() == far.tolist()
    assert resolve_grid(far).build(far[:1] * 1.0, far[:0] * 1.0).dtype == np.float64


@pytest.mark.parametrize("method", [*METHODS, "pchip"])
def test_infinite_observations_stay_and_spoil_only_their_stretches(method: str) -> None:
    made = interpolate(np.array([0, 10, 20, 30]), np.array([1.0, np.inf, 3.0, 4.0]), np.arange(31), method)
    assert made[0] == 1.0
    assert made[10] == np.inf
    assert made[20] == 3.0
    assert np.isfinite(made[20:]).all()


@pytest.mark.parametrize("method", ["linear", "log"])
def test_lines_from_and_to_infinity_are_those_of_numpy(method: str) -> None:
    x = np.array([0, 10, 20, 30, 40, 50])
    y = np.array([1.0, np.inf, np.inf, -np.inf, 2.0, 3.0])
    with np.errstate(invalid="ignore"):
        expected = np.interp(np.arange(51), x, y)
    made = interpolate(x, y, np.arange(51), method)
    infinite = slice(1, 40)
    np.testing.assert_array_equal(made[infinite], expected[infinite])
    assert np.isnan(made[infinite]).sum() == 9


def test_the_longest_gap_is_whole_tokens() -> None:
    assert Interpolation(max_gap=1e9).max_gap == 10**9  # type: ignore[arg-type]
    assert Interpolation(max_gap=math.inf).max_gap is None
    for wrong in (1.5, np.nan, -np.inf, -1, "1", True):
        with pytest.raises(UnknownNameError, match="not a whole number of tokens"):
            Interpolation(max_gap=wrong)  # type: ignore[arg-type]


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean linear"):
        Interpolation("linaer")  # type: ignore[arg-type]


@given(st.lists(tokens, max_size=50), st.lists(tokens, max_size=300), st.integers(1, 64))
def test_auto_grid_holds_what_is_required_and_keeps_its_size(required: list[int], dense: list[int], room: int) -> None:
    grid = TokenGrid.auto(room).build(np.array(required, np.int64), np.array(dense, np.int64))
    assert (np.diff(grid) > 0).all()
    assert set(required) <= set(grid.tolist())
    assert set(grid.tolist()) <= {*required, *dense}
    assert len(grid) <= max(room, len(set(required)))


@pytest.mark.parametrize("kind", ["linear", "log", "quantile"])
def test_grids_of_n_points_span_the_positions(kind: str) -> None:
    grid = getattr(TokenGrid, kind)(11).build(np.array([0, 1000]), np.arange(0, 1000, 7))
    assert len(grid) == 11
    assert grid[-1] == 1000
    assert grid[0] == (7 if kind == "log" else 0)


def test_grid_arguments() -> None:
    assert resolve_grid("union") == TokenGrid.observed()
    assert resolve_grid(5) == TokenGrid.linear(5)
    whole, shares = np.array([0, 3], np.int64), np.array([0.0, 1.0])
    assert resolve_grid([3, 1, 1.2]).build(whole, whole).tolist() == [1, 3]
    assert resolve_grid([0.5, 0.25, 0.5]).build(shares, shares).tolist() == [0.25, 0.5]
    with pytest.raises(UnknownNameError, match="auto"):
        resolve_grid("atuo")
    with pytest.raises(ValueError, match="negative"):
        resolve_grid([-1])
    with pytest.raises(ValueError, match="is empty"):
        resolve_grid(0)


def test_points_of_many_runs_and_of_many_tokens_stay_with_their_run() -> None:
    # Run and tokens together have more than 64 bits here.
    draw = np.random.default_rng(0)
    lengths = draw.integers(0, 6, 20_000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.concatenate([np.sort(draw.integers(0, 2**62, n)) for n in lengths])
    points = CurvePoints(offsets, tokens)
    run = draw.integers(0, len(lengths), 500)
    bound = draw.integers(0, 2**62, 500)
    bound[:3] = -1, 2**63 - 1, tokens[offsets[run[2]] : offsets[run[2] + 1]].max(initial=0)
    expected = [
        offsets[r] + np.searchsorted(tokens[offsets[r] : offsets[r + 1]], b, "right")
        for r, b in zip(run, bound, strict=True)
    ]
    assert points.first_after(run, bound).tolist() == expected
    kept = draw.random(len(tokens)) < 0.5
    assert points.are_in(CurvePoints.where(offsets, tokens, kept)).tolist() == kept.tolist()
    parent = np.array([-1, *draw.integers(0, np.arange(1, len(lengths)))], np.int32)
    chains = Chains(
        tuple(map(str, range(len(lengths)))), parent, np.where(parent < 0, -1, draw.integers(0, 2**62, len(parent)))
    )
    row, found = points_on_curves(chains, run, points)
    for i in range(50):
        member, limit, own = int(run[i]), 2**63 - 1, []
        while member >= 0:
            some = tokens[offsets[member] : offsets[member + 1]]
            own += some[(some > chains.branch[member]) & (some <= limit)].tolist()
            limit, member = min(limit, int(chains.branch[member])), int(parent[member])
        assert sorted(found[row == i].tolist()) == sorted(own)


@given(families(), st.lists(tokens, max_size=40), st.sampled_from(METHODS), st.booleans(), st.sampled_from([None, 60]))
def test_numpy_gives_the_bits_of_the_kernel(
    runs: list[ReferenceRun], points: list[int], method: str, bridge: bool, gap: int | None
) -> None:
    chains, own = as_arrays(runs, [])
    grid, how = np.array(sorted(points), np.int64), Interpolation(method, gap, bridge)  # type: ignore[arg-type]
    compiled = align_observations(chains, own, grid, how, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dde.curves.alignment.is_compiled", lambda: False)
        plain = align_observations(chains, own, grid, how, True)
    assert compiled.view(np.int64).tolist() == plain.view(np.int64).tolist()


@pytest.mark.parametrize("change", [{"branch": [-1, 120]}, {"parent": [-1, -1]}])
def test_a_plan_serves_no_other_branches_or_parents(change: dict[str, list[int]]) -> None:
    places = np.array([0, 100, 200, 150, 200])
    own = Observations(np.array([0, 3, 5]), places, places, np.array([0.0, 1.0, 2.0, 5.0, 7.0]))
    chains = Chains(("0", "1"), np.array([-1, 0], np.int32), np.array([-1, 100]))
    other = Chains(
        ("0", "1"), np.array(change.get("parent", [-1, 0]), np.int32), np.array(change.get("branch", [-1, 100]))
    )
    grid, how = np.array([100, 110, 120, 150]), Interpolation()
    plan = plan_alignment(chains, own, grid, how, True)
    assert plan.serves(chains, own, grid, how, True)
    assert not plan.serves(other, own, grid, how, True)
