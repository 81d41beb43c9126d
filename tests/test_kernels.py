"""Kernels in C against Python's own arithmetic, bit for bit, and what serves where they are not compiled."""

from __future__ import annotations

import math
import os
import random
import struct
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dde.curves.alignment import Chains, Interpolation, align
from dde.curves.fast_alignment import plan_alignment
from dde.curves.observations import Observations
from dde.native import library
from dde.sources.dict_text import parse_dicts
from dde.sources.exact_means import exact_mean, scatter


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
    for module in ("dde.sources.dict_text", "dde.sources.exact_means", "dde.curves.fast_alignment"):
        monkeypatch.setattr(f"{module}.library", lambda: None)
    for a, b in zip(fast, everything(), strict=True):
        np.testing.assert_array_equal(a, b)
    made = align(chains, own, np.arange(50), Interpolation("log"), True)
    np.testing.assert_array_equal(fast[3], made[[1, 0]])


def test_kernels_can_be_left_out() -> None:
    code = "import dde.native; print(dde.native.library())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"DDE_NATIVE": "0"}
    )
    assert done.stdout.strip() == "None"
    assert library() is not None


def test_the_table_of_powers_outlives_the_call_that_copies_it() -> None:
    # MALLOC_PERTURB_ overwrites memory as soon as it is freed, so that a table copied from freed memory is garbage.
    code = (
        "import pyarrow as pa; from dde.native import library; from dde.sources.dict_text import parse_dicts;"
        "assert library() is not None;"
        "texts = [f\"{{'a': {x!r}}}\" for x in (0.1, 1/3, 1e-300, 1.7e308, 123456789.123456789)];"
        "print(parse_dicts(pa.array(texts), ['a']).values[:, 0].tolist())"
    )
    if library() is None:
        pytest.skip("the kernels are not compiled here")
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_PERTURB_": "1"},
    )
    assert out.stdout.strip() == str([0.1, 1 / 3, 1e-300, 1.7e308, 123456789.123456789])
