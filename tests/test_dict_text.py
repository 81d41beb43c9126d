"""Dict text: the fast path agrees with Python's own reading, odd rows are named."""

from __future__ import annotations

import ast
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dde.errors import FormatError
from dde.names import ENTRIES
from dde.suite.datadecide.tables.dict_text import parse_dict_row, parse_dicts

numbers = st.floats() | st.none() | st.integers(-(10**6), 10**6)
keys = st.sampled_from(ENTRIES)


def plain(text: str) -> dict[str, float]:
    """Read a dict text the slow and certain way."""
    body = text.replace("nan", "None").replace("NaN", "null")
    try:
        read = ast.literal_eval(body.replace("-inf", "-1e999").replace("inf", "1e999"))
    except (ValueError, SyntaxError):
        read = json.loads(text)
    return {k: math.nan if v is None else float(v) for k, v in read.items()}


@given(
    st.lists(st.dictionaries(keys, numbers, max_size=6), min_size=1, max_size=8),
    st.lists(keys, unique=True, max_size=4),
)
def test_any_rows_read_as_python_reads_them(rows: list[dict[str, float | None]], entries: list[str]) -> None:
    texts = [json.dumps(r) if i % 3 == 2 else repr(r) for i, r in enumerate(rows)]
    parsed = parse_dicts(pa.array(texts), entries)
    assert not parsed.malformed
    for i, text in enumerate(texts):
        expected = plain(text)
        for j, entry in enumerate(entries):
            np.testing.assert_array_equal(parsed.values[i, j], expected.get(entry, math.nan))


@given(st.integers(0, 2**32 - 1))
def test_alike_rows_read_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.random((40, len(ENTRIES))) * 10.0 ** rng.integers(-300, 300, (40, len(ENTRIES)))
    matrix[rng.random(matrix.shape) < 0.02] = np.nan
    matrix[rng.random(matrix.shape) < 0.02] = -np.inf
    texts = pa.array([repr(dict(zip(ENTRIES, row.tolist(), strict=True))) for row in matrix])
    # A slice, so that offsets into the buffer do not begin at zero.
    parsed = parse_dicts(texts[3:], ENTRIES)
    np.testing.assert_array_equal(parsed.values, matrix[3:])


def test_reordered_keys_of_one_length_are_not_confused() -> None:
    rows = ["{'acc_per_char': 1.0, 'acc_per_byte': 2.0}", "{'acc_per_byte': 3.0, 'acc_per_char': 4.0}"]
    parsed = parse_dicts(pa.array(rows * 50), ["acc_per_char"])
    assert parsed.values[:2, 0].tolist() == [1.0, 4.0]


def test_a_replaced_key_of_the_same_length_is_absent() -> None:
    rows = ["{'acc_raw': 1.0, 'margina': 2.0}", "{'acc_raw': 1.0, 'marginb': 3.0}"]
    parsed = parse_dicts(pa.array(rows), ["marginb"])
    np.testing.assert_array_equal(parsed.values[:, 0], [np.nan, 3.0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{'a': 1.0", "braces"),
        ("", "braces"),
        ("{'a': x}", "no key with a number"),
        ("{'a': 1_0}", "no comma"),
        ("{'a': 1, 'a': 2}", "twice"),
        ("{'a': __import__('os')}", "no key with a number"),
        ("{'a': 1,}", "no key with a number"),
        ("['a', 1]", "braces"),
    ],
)
def test_malformed_rows_are_named_and_the_others_read(text: str, reason: str) -> None:
    parsed = parse_dicts(pa.array(["{'a': 1.5}", text, "{'a': 2.5}"]), ["a"])
    assert list(parsed.malformed) == [1]
    assert reason in parsed.malformed[1]
    np.testing.assert_array_equal(parsed.values[:, 0], [1.5, np.nan, 2.5])
    with pytest.raises(ValueError, match=reason):
        parse_dict_row(text)


def test_null_rows_and_no_rows() -> None:
    parsed = parse_dicts(pa.array(["{'a': None}", None]), ["a"])
    assert parsed.malformed == {1: "it is null"}
    assert parse_dicts(pa.array([], pa.string()), ["a"]).values.shape == (0, 1)


@pytest.fixture(params=["kernels", "NumPy"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "NumPy":
        monkeypatch.setattr("dde.native.library._load", lambda: None)


def text_array(texts: list[bytes | None], beneath: bytes = b"") -> pa.Array:
    """Return texts as they lie in a file: not checked to be UTF-8, nulls with bytes of their own."""
    raw = [beneath if t is None else t for t in texts]
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in raw])]).astype(np.int32)
    valid = np.packbits([t is not None for t in texts], bitorder="little")
    buffers = [pa.py_buffer(b) for b in (valid.tobytes(), offsets.tobytes(), b"".join(raw))]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


@pytest.mark.usefixtures("_either_way")
def test_bytes_beneath_a_null_are_no_text() -> None:
    parsed = parse_dicts(text_array([b"{'a': 1}", None, b"{'a': 3}"], b"{'a': 2}"), ["a"])
    np.testing.assert_array_equal(parsed.values[:, 0], [1.0, np.nan, 3.0])
    assert parsed.malformed == {1: "it is null"}


@pytest.mark.usefixtures("_either_way")
def test_bytes_that_are_no_utf_8_are_named() -> None:
    parsed = parse_dicts(text_array([b"{'a': 1, 'caf\xe9': 2}", "{'a': 1, 'café': 2}".encode()]), ["a", "café"])
    np.testing.assert_array_equal(parsed.values, [[np.nan, np.nan], [1.0, 2.0]])
    assert list(parsed.malformed) == [0]
    assert "utf-8" in parsed.malformed[0]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize(
    "text",
    [
        '{"a\\u0062": 1.5}',
        "{'a\\x62': 1.5}",
        '{"\\u0061b": 1.5, "it\'s": 2, "back\\\\slash": 3, "quo\\"te": 4}',
        "{'\\x61b': 1.5, 'it\\'s': 2}",
        "{'a\\u0062': 1.5, '\\d': 2}",
    ],
)
def test_escaped_keys_are_the_keys_that_they_stand_for(text: str) -> None:
    parsed = parse_dicts(pa.array([text]), ["ab"])
    assert not parsed.malformed
    assert parsed.values.tolist() == [[1.5]]


@pytest.mark.usefixtures("_either_way")
def test_texts_that_were_encoded_once_more_are_read() -> None:
    texts = [json.dumps(json.dumps({"a": 1.5})), json.dumps(repr({"a": 2.5, "b": None})), json.dumps("{'a': x}"), '"{']
    parsed = parse_dicts(pa.array(texts), ["a"])
    np.testing.assert_array_equal(parsed.values[:, 0], [1.5, 2.5, np.nan, np.nan])
    assert list(parsed.malformed) == [2, 3]


@pytest.mark.usefixtures("_either_way")
def test_one_key_written_in_two_ways_stands_twice() -> None:
    parsed = parse_dicts(pa.array(["{'ab': 1, '\\x61b': 2}"]), ["ab"])
    assert "twice" in parsed.malformed[0]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("text", ["{'a': \u0663}", "{'a':\u00a01}", "\u2003{'a': 1}", "{'a': 1\u2028}"])
def test_digits_and_spaces_of_other_scripts_make_no_number(text: str) -> None:
    assert list(parse_dicts(pa.array([text]), ["a"]).malformed) == [0]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"{'a': 1}"]),
        pa.array([[1, 2]]),
        pa.array([[True] * 1000] * 3),
        pa.array([{"a": 1.0}]),
        pa.array([1.0]),
        pa.array(["{'a': 1}"]).dictionary_encode(),
        pa.array(["{'a': 1}"], pa.string_view()),
        pa.nulls(2),
    ],
    ids=lambda c: str(c.type),
)
def test_columns_that_are_no_plain_text_are_refused_by_type(column: pa.Array) -> None:
    with pytest.raises(FormatError, match=r"Arrow type .* holds no dict texts"):
        parse_dicts(column, ["a"])


@pytest.mark.usefixtures("_either_way")
def test_large_texts_slices_and_empty_texts() -> None:
    texts = ["{'a': 1}", "", "{'a': 2}", "{}", "{'a': 3}"]
    for kind in (pa.string(), pa.large_string()):
        parsed = parse_dicts(pa.array(texts, kind)[1:4], ["a"])
        np.testing.assert_array_equal(parsed.values[:, 0], [np.nan, 2.0, np.nan])
        assert list(parsed.malformed) == [0]
        assert parse_dicts(pa.array(["", ""], kind), ["a"]).malformed.keys() == {0, 1}
