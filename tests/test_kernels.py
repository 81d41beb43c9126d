"""Kernels in C against Python's own arithmetic, bit for bit, and what serves where they are not compiled."""

from __future__ import annotations

import ctypes
import math
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dde import native
from dde.curves.alignment import Chains, Interpolation, align
from dde.curves.fast_alignment import plan_alignment
from dde.curves.observations import Observations
from dde.suite.datadecide.tables.dict_tables import exact_mean, scatter
from dde.suite.datadecide.tables.dict_text import parse_dicts
from dde.tutorial import make_suite


def bits(value: float) -> bytes:
    return b"nan" if math.isnan(value) else struct.pack("<d", value)


def read(texts: list[str]) -> list[float]:
    parsed = parse_dicts(pa.array([f"{{'a': {t}}}" for t in texts]), ["a"])
    assert not parsed.malformed
    return parsed.values[:, 0].tolist()


@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_numbers_as_python_writes_them_are_read_bit_for_bit(numbers: list[float]) -> None:
    assert [bits(v) for v in read([repr(n) for n in numbers])] == [bits(n) for n in numbers]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "-", "+"]),
            st.integers(0, 10**22) | st.integers(2**53 - 5, 2**54) | st.integers(2**63, 2**64),
            st.integers(0, 25),
            st.none() | st.integers(-400, 400),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_decimal_is_the_nearest_double(parts: list[tuple[str, int, int, int | None]]) -> None:
    texts = []
    for sign, digits, point, power in parts:
        written = str(digits).rjust(point + 1, "0")
        written = f"{written[: len(written) - point]}.{written[len(written) - point :]}"
        texts.append(f"{sign}{written}" + ("" if power is None else f"e{power}"))
    assert [bits(v) for v in read(texts)] == [bits(float(t)) for t in texts]


def test_numbers_near_the_middle_of_two_doubles_round_to_even() -> None:
    draw = random.Random(0)
    texts = []
    for _ in range(20_000):
        mantissa, shift = draw.getrandbits(53) | 1 << 52, draw.randint(1, 10)
        middle = (2 * mantissa + 1) << shift >> 1
        texts += [str(middle + d) for d in (-1, 0, 1)]
        # Single precision, written in double: what the suite's tables are full of.
        texts.append(repr(struct.unpack("<f", struct.pack("<I", draw.getrandbits(30)))[0]))
    assert [bits(v) for v in read(texts)] == [bits(float(t)) for t in texts]


huge = st.floats(-1e300, 1e300)
terms = st.lists(st.lists(huge | st.floats(-1, 1), min_size=7, max_size=7), min_size=1, max_size=20)


@given(terms)
def test_means_are_rounded_once(columns: list[list[float]]) -> None:
    table = np.array(columns).T
    expected = [math.fsum(c) / 7 for c in columns]
    assert exact_mean(table).tolist() == expected


def test_sums_that_cancel_are_exact() -> None:
    columns = [[1e100, 1.0, -1e100], [1.0, 1e-20, -1.0], [1e16, 1.0, 1.0], [2.0**53, 1.0, 2.0**-60]]
    assert exact_mean(np.array(columns).T).tolist() == [math.fsum(c) / 3 for c in columns]


def test_means_of_what_is_not_finite() -> None:
    table = np.array([[1.0, np.nan, np.inf, np.inf], [2.0, 1.0, 1.0, -np.inf]])
    np.testing.assert_array_equal(exact_mean(table), [1.5, np.nan, np.inf, np.nan])


@given(st.integers(0, 20), st.integers(1, 8), st.randoms())
def test_rows_go_into_columns(rows: int, width: int, draw: random.Random) -> None:
    table = np.arange(1.0, rows * width + 1).reshape(rows, width)
    columns = draw.sample(range(rows + 3), rows)
    base = np.array([c if draw.random() < 0.8 else -1 for c in columns], np.int64)
    out = np.zeros((width, rows + 3))
    scatter(table, base, rows + 3, out)
    expected = np.zeros_like(out)
    for row, column in zip(table, base, strict=True):
        if column >= 0:
            expected[:, column] = row
    np.testing.assert_array_equal(out, expected)


def test_without_kernels_the_same_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = rng.random((5, 40))
    texts = pa.array([repr({"a": v, "b": None}) for v in table[0].tolist()] + ["{'b': 1, \"a\": inf}"])
    chains = Chains(("base", "run"), np.array([-1, 0], np.int32), np.array([-1, 20], np.int64))
    tokens = np.array([0, 10, 20, 25, 40])
    own = Observations(np.array([0, 3, 5]), tokens, tokens, rng.random(5))

    def everything() -> list[np.ndarray]:
        out = np.zeros((2, 50))
        plan = plan_alignment(chains, own, np.arange(50), Interpolation("log"), True)
        plan.fill(own, [1, 0], np.array([0, 1]), out)
        placed = np.zeros((40, 5))
        scatter(table, np.array([4, -1, 2, 0, 1]), 5, placed)
        return [parse_dicts(texts, ["a", "b", "c"]).values, exact_mean(table), placed, out]

    fast = everything()
    monkeypatch.setattr("dde.native.library._load", lambda: None)
    for a, b in zip(fast, everything(), strict=True):
        np.testing.assert_array_equal(a, b)
    made = align(chains, own, np.arange(50), Interpolation("log"), True)
    np.testing.assert_array_equal(fast[3], made[[1, 0]])


_WHOLE = """
import hashlib, sys, warnings, dde, dde.native
warnings.simplefilter("ignore")
print(dde.native.is_compiled())
for grid, interp in (("union", "linear"), (200, "log"), (300, "nearest"), ("auto", "previous")):
    names = "arc_easy mmlu_average mmlu_average_acc_per_char olmes_10_macro_avg pile_valppl train_loss csqa".split()
    ds = dde.open_lineages(*sys.argv[1:], cache_dir=None, state="all", grid=grid, interp=interp, metrics=names)
    for name in sorted(map(str, ds.data_vars)):
        print(name, ds[name].shape, hashlib.sha256(ds[name].values.tobytes()).hexdigest())
"""


def test_a_whole_suite_is_the_same_without_kernels(tmp_path: Path) -> None:
    suite = make_suite(tmp_path, "tiny")
    said = [
        subprocess.run(
            [sys.executable, "-c", _WHOLE, suite.data, suite.wandb],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "DDE_NATIVE": native_or_not},
        ).stdout.splitlines()
        for native_or_not in ("1", "0")
    ]
    assert [lines[0] for lines in said] == ["True", "False"]
    assert said[0][1:] == said[1][1:]
    assert len(said[0]) == 1 + 4 * 7


def test_kernels_can_be_left_out() -> None:
    code = "import dde.native; print(dde.native.is_compiled())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"DDE_NATIVE": "0"}
    )
    assert done.stdout.strip() == "False"
    assert native.is_compiled()


def test_the_table_of_powers_outlives_the_call_that_copies_it() -> None:
    # MALLOC_PERTURB_ overwrites memory as soon as it is freed, so that a table copied from freed memory is garbage.
    code = (
        "import pyarrow as pa; from dde.native import is_compiled;"
        "from dde.suite.datadecide.tables.dict_text import parse_dicts;"
        "assert is_compiled();"
        "texts = [f\"{{'a': {x!r}}}\" for x in (0.1, 1/3, 1e-300, 1.7e308, 123456789.123456789)];"
        "print(parse_dicts(pa.array(texts), ['a']).values[:, 0].tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_PERTURB_": "1"},
    )
    assert out.stdout.strip() == str([0.1, 1 / 3, 1e-300, 1.7e308, 123456789.123456789])


def plan(**changes: object) -> native.CurvePlan:
    """Make a plan of a base of three observations and a run of two, with some arguments replaced."""
    grid = np.arange(0, 50, 10)
    arguments: dict[str, object] = {
        "parent": np.array([-1, 0], np.int32),
        "root": np.array([0, 0], np.int32),
        "branch": np.array([-1, 20]),
        "offsets": np.array([0, 3, 5]),
        "tokens": np.array([0, 10, 20, 25, 40]),
        "places": np.array([0.0, 10.0, 20.0, 25.0, 40.0, np.nan, np.nan, np.nan]),
        "grid": grid,
        "points": grid.astype(float),
        "log_points": grid.astype(float),
        "method": "linear",
        "joins": np.ones(2, np.uint8),
        "bridges": False,
        "max_gap": -1,
    }
    return native.CurvePlan(**{**arguments, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"parent": np.array([-1, 0])},
        {"parent": np.array([-1, 1], np.int32)},
        {"root": np.array([0, 7], np.int32)},
        {"root": np.array([0, -1], np.int32)},
        {"branch": np.array([-1, 20, 3])},
        {"branch": np.array([-1.0, 20.0])},
        {"offsets": np.array([0, 5, 3])},
        {"offsets": np.array([0, 3, 6])},
        {"offsets": np.array([-1, 3, 5])},
        {"tokens": np.array([0, 10, 20, 25, 40], np.uint64)},
        {"tokens": np.arange(0, 10, 2).repeat(2)[::2]},
        {"tokens": np.array([0, 10, 20, 25, 40]).astype(">i8")},
        {"places": np.zeros(5)},
        {"points": np.zeros(4)},
        {"grid": np.arange(0, 100, 10)[::2]},
        {"max_gap": 2**63},
    ],
)
def test_no_plan_is_made_of_arrays_that_a_kernel_would_leave(changes: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError), match="no kernel is called"):
        plan(**changes)


def test_curves_are_filled_inside_of_their_arrays_alone() -> None:
    whole = plan()
    whole.place(0, 1)

    def fill(values: object = None, rows: object = None, at: object = None, out: object = None, lines: int = 8) -> bool:
        return whole.fill(
            np.arange(5.0) if values is None else values,
            np.array([0, 1]) if rows is None else rows,
            np.array([1, 0]) if at is None else at,
            np.zeros((2, 5)) if out is None else out,
            is_simple=True,
            room=(np.empty((lines, 4)), np.empty(lines, np.int32)),
            part=0,
            parts=1,
        )

    assert fill()
    for wrong in (
        {"values": np.arange(4.0)},
        {"rows": np.array([1, 0])},
        {"rows": np.array([0, 2])},
        {"rows": np.array([-1, 0])},
        {"at": np.array([0, 2])},
        {"at": np.array([0])},
        {"out": np.zeros((2, 4))},
        {"lines": 7},
    ):
        with pytest.raises(ValueError, match="no kernel is called"):
            fill(**wrong)
    frozen = np.zeros((2, 5))
    frozen.flags.writeable = False
    for wrong in ({"out": np.zeros((5, 2)).T}, {"out": np.zeros((2, 5), np.float32)}, {"out": frozen}):
        with pytest.raises(ctypes.ArgumentError):
            fill(**wrong)


def test_texts_and_rows_are_read_inside_of_their_arrays_alone() -> None:
    data, out = np.frombuffer(b"{'a': 1}{'a': 2}", np.uint8), np.zeros((2, 1))

    def parse(offsets: list[int], target: list[int], out: np.ndarray = out, keys: tuple[bytes, ...] = (b"a",)) -> None:
        native.parse_dicts(data, np.array(offsets), keys, np.array(target), out)

    parse([0, 8, 16], [1, 0])
    assert out[:, 0].tolist() == [2.0, 1.0]
    for offsets in ([0, 8, 17], [0, 20, 16], [-1, 8, 16], [0, 8]):
        with pytest.raises(ValueError, match="no kernel is called"):
            parse(offsets, [0, 1])
    with pytest.raises(ValueError, match="no kernel is called"):
        parse([0, 8, 16], [0, 2])
    with pytest.raises(ValueError, match="no kernel is called"):
        parse([0, 8, 16], [0, 1], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="no kernel is called"):
        parse([0, 8, 16], [0, 1], np.zeros((2, 2)), (b"a", b"a"))
    for wrong in (np.zeros((2, 1), np.float32), np.zeros((4, 1))[::2]):
        with pytest.raises(ctypes.ArgumentError):
            parse([0, 8, 16], [0, 1], wrong)
    table = np.ones((2, 3))
    for base, step, size in (([0, 1], 2, 5), ([0, 6], 0, 6), ([0, 1], -1, 9)):
        with pytest.raises(ValueError, match="no kernel is called"):
            native.scatter_rows(table, np.array(base), step, np.zeros(size))
    with pytest.raises(ValueError, match="no kernel is called"):
        native.means_of_columns(np.zeros(3))
    with pytest.raises(ctypes.ArgumentError):
        native.means_of_columns(np.zeros((3, 4)).T)


def test_rows_are_never_put_into_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dde.native.library._load", lambda: None)
    with pytest.raises(ValueError):
        scatter(np.ones((1, 2)), np.array([0]), 1, np.zeros((4, 4))[:, :2])


def test_a_library_compiled_from_other_sources_is_left_alone() -> None:
    code = (
        "import dde.native.library as library; library._INTERFACE += 1;"
        "from dde.native import is_compiled; print(is_compiled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"
