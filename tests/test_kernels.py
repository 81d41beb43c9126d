"""The kernel in C, exact means and writing to columns against Python's own arithmetic, bit for bit."""

from __future__ import annotations

import ctypes
import math
import os
import random
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dde import native
from dde.suite.datadecide.tables.dict_tables import exact_mean, scatter
from dde.suite.datadecide.tables.dict_text import parse_dicts
from dde.tutorial import Suite


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
    table = np.array([[1.0, np.nan, np.inf, np.inf, 1.7e308], [2.0, 1.0, 1.0, -np.inf, 1.7e308]])
    np.testing.assert_array_equal(exact_mean(table), [1.5, np.nan, np.inf, np.nan, np.inf])


def test_means_of_many_columns() -> None:
    draw = np.random.default_rng(0)
    table = draw.random((57, 10_000)) * 10.0 ** draw.integers(-30, 30, (57, 10_000))
    assert exact_mean(table).tolist() == [math.fsum(column) / 57 for column in table.T.tolist()]


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


def test_without_the_kernel_the_same_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).random(40).tolist()
    texts = pa.array([repr({"a": v, "b": None}) for v in numbers] + ["{'b': 1, \"a\": inf}"])
    fast = parse_dicts(texts, ["a", "b", "c"]).values
    monkeypatch.setattr("dde.native.library._load", lambda: None)
    np.testing.assert_array_equal(fast, parse_dicts(texts, ["a", "b", "c"]).values)
    assert fast[:40, 0].tolist() == numbers


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


def test_a_whole_suite_is_the_same_without_kernels(tiny_suite: Suite) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", _WHOLE, tiny_suite.data, tiny_suite.wandb],
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


def test_texts_are_read_inside_of_their_arrays_only() -> None:
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


def test_rows_are_never_written_to_a_copy() -> None:
    with pytest.raises(ValueError):
        scatter(np.ones((1, 2)), np.array([0]), 1, np.zeros((4, 4))[:, :2])


def test_a_library_compiled_from_other_sources_is_left_alone() -> None:
    code = (
        "import dde.native.library as library; library._INTERFACE += 1;"
        "from dde.native import is_compiled; print(is_compiled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"


def test_cells_on_lines_stay_inside_of_their_arrays() -> None:
    one, tokens, none = np.array([0]), np.array([0, 10]), np.zeros(2, bool)
    right: dict[str, Any] = {
        "parent": one - 1, "begin": one, "first": one, "stop": one + 2, "tokens": tokens, "has_line": ~none,
        "start": np.array([0, 0]), "origin": np.zeros(2), "is_plain": none, "grid": np.array([0, 4]),
        "points": np.array([0.0, 4.0]),
    }  # fmt: skip
    cells = native.LineCells(**right)
    assert not cells.line.flags.writeable
    for name, wrong in (
        ("parent", one), ("begin", one + 3), ("first", one + 3), ("stop", one + 3), ("origin", np.zeros(3)),
        ("start", one), ("points", np.zeros(1)), ("first", one - 1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="no kernel is called"):
            native.LineCells(**{**right, name: wrong})
    lines, out = np.zeros(5), np.zeros((1, 2))
    for rows, at, to in ((one + 1, one, out), (one, one + 1, out), (one - 1, one, out), (one, one, np.zeros((1, 3)))):
        with pytest.raises(ValueError, match="no kernel is called"):
            cells.fill(lines, lines, rows, at, to)
    with pytest.raises(ctypes.ArgumentError):
        cells.fill(lines.astype(np.float32), lines, one, one, out)
