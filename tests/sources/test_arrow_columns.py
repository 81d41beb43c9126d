"""Columns as any program writes them: the same texts, numbers, steps and times, or a refusal by name."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dde.errors import FormatError
from dde.sources.arrow_columns import encode_texts, read_numbers, read_texts, read_times, read_whole_numbers

WHERE = "the column 'x' of a.parquet"
TEXTS = ["4M", None, "Dolma1.7 (no code)", "é", "4M", ""]
TEXT_TYPES = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.uint32(), pa.large_string()),
    pa.dictionary(pa.int32(), pa.binary()), pa.json_(),
]  # fmt: skip


def as_bytes(values: list[str | None]) -> list[bytes | None]:
    return [None if v is None else v.encode() for v in values]


def text_column(values: list[str | None], kind: pa.DataType) -> pa.Array:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_bytes = "binary" in str(inner)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    plain = pa.array(as_bytes(values) if is_bytes else values, inner)
    return plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain


def counted(found: Any) -> dict[str, int]:
    return {reason: int(rows.sum()) for reason, rows in found.problems.items()}


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
@pytest.mark.parametrize("chunks", [1, 2])
def test_text_of_any_type(kind: pa.DataType, chunks: int) -> None:
    whole = text_column(TEXTS, kind)
    column = whole if chunks == 1 else pa.chunked_array([text_column(TEXTS[:2], kind), text_column(TEXTS[2:], kind)])
    texts = read_texts(column, WHERE)
    assert texts.type in (pa.string(), pa.large_string())
    assert texts.to_pylist() == TEXTS
    codes, names = encode_texts(column, WHERE)
    assert [None if c < 0 else names[c] for c in codes] == TEXTS
    assert read_texts(whole[2:5], WHERE).to_pylist() == TEXTS[2:5]
    assert read_texts(whole[:0], WHERE).to_pylist() == encode_texts(whole[:0], WHERE)[1] == []


def test_a_dictionary_of_string_views() -> None:
    views = pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), pa.array(["a", "b"], pa.string_view()))
    assert read_texts(views, WHERE).to_pylist() == ["b", None, "a"]
    holding_null = pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), pa.array(["a", None]))
    assert read_texts(holding_null, WHERE).to_pylist() == [None, None, "a"]


def test_ids_as_numbers_and_uuids() -> None:
    ids = [uuid.UUID(int=7), None]
    raw = [None if i is None else i.bytes for i in ids]
    for column in (pa.array(raw, pa.uuid()), pa.array(raw, pa.binary(16))):
        assert read_texts(column, WHERE).to_pylist() == [str(ids[0]), None]
    for column in (pa.array([0, None, 2]), pa.array([0.0, None, 2.0]), pa.array([Decimal("0.0"), None, Decimal(2)])):
        assert read_texts(column, WHERE, numbers=True).to_pylist() == ["0", None, "2"]
        with pytest.raises(FormatError, match=r"the column 'x' of a\.parquet has the type"):
            read_texts(column, WHERE)
    odd = pa.array([0.5, np.nan, np.inf, 2.0**63, -1.0])
    assert read_texts(odd, WHERE, numbers=True).to_pylist() == ["0.5", None, "inf", str(2**63), "-1"]
    long = pa.array([Decimal("9" * 38), Decimal("1e30")], pa.decimal128(38, 0))
    assert read_texts(long, WHERE, numbers=True).to_pylist() == ["9" * 38, "1" + "0" * 30]
    with pytest.raises(FormatError, match="bool"):
        read_texts(pa.array([True]), WHERE, numbers=True)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_bytes_that_are_no_utf8(kind: pa.DataType) -> None:
    column = pa.array([b"a", b"\xff"], kind)
    with pytest.raises(FormatError, match=r"the column 'x' of a\.parquet has bytes that are not UTF-8"):
        read_texts(column, WHERE)
    with pytest.raises(FormatError, match="not UTF-8"):
        encode_texts(column.cast(pa.binary()).dictionary_encode(), WHERE)
    assert read_texts(column, WHERE, check=False)[0].as_py() == "a"
    text = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
    with pytest.raises(FormatError, match="not UTF-8"):
        read_texts(text, WHERE)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1]]), pa.array([{"a": 1}]), pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([1], pa.duration("s")), pa.array([1], pa.time32("s")), pa.array([[1, 2]], pa.list_(pa.int8(), 2)),
    ],
    ids=lambda c: str(c.type),
)  # fmt: skip
def test_a_type_that_holds_something_else_is_named(column: pa.Array) -> None:
    for read in (read_texts, read_numbers, read_whole_numbers, read_times):
        with pytest.raises(FormatError) as caught:
            read(column, WHERE)
        assert str(column.type)[:20] in str(caught.value)
        assert WHERE in str(caught.value)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, None, 3], kind)
        for kind in (pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64())
    ]
    + [pa.array([Decimal(0), None, Decimal(3)], kind) for kind in (pa.decimal128(38, 10), pa.decimal256(76, 2))]
    + [text_column(["0", None, "3"], kind) for kind in TEXT_TYPES]
    + [pa.array([0, None, 3]).dictionary_encode(), pa.array([0.0, None, 3.0]).dictionary_encode()],
    ids=lambda c: str(c.type),
)
def test_numbers_and_whole_numbers_of_any_type(column: pa.Array) -> None:
    for part in (column, pa.chunked_array([column[:1], column[1:]])):
        found = read_numbers(part, WHERE)
        np.testing.assert_array_equal(found.values, [0.0, np.nan, 3.0])
        assert found.problems == {}
        whole = read_whole_numbers(part, WHERE)
        assert whole.values.tolist() == [0, -1, 3]
        assert counted(whole) == {"is missing": 1}
    assert len(read_numbers(column[:0], WHERE).values) == len(read_whole_numbers(column[:0], WHERE).values) == 0


def test_numbers_are_rounded_correctly_or_marked() -> None:
    digits = ["0.1", "4.35", "8.41", "123456789.123456789", "0.30000000000000004", "-7.7"]
    decimals = pa.array([Decimal(d) for d in digits], pa.decimal128(38, 20))
    assert read_numbers(decimals, WHERE).values.tolist() == [float(d) for d in digits]
    assert read_numbers(pa.array([*digits, "oops"]), WHERE).values[:-1].tolist() == [float(d) for d in digits]
    large = read_numbers(pa.array([2**53 + 1, 2**53 + 2, -(2**62), None]), WHERE)
    assert counted(large) == {"has more digits than a double": 1}
    assert large.problems["has more digits than a double"].tolist() == [True, False, False, False]
    assert read_numbers(pa.array([2**64 - 1], pa.uint64()), WHERE).values.tolist() == [2.0**64]
    odd = read_numbers(pa.array(["NaN", "-Infinity", " 1.5 ", "much", "", "1_0", "1e400"]), WHERE)
    np.testing.assert_array_equal(odd.values, [np.nan, -np.inf, 1.5, np.nan, np.nan, np.nan, np.inf])
    assert odd.problems["is not a number"].tolist() == [False, False, False, True, True, True, False]
    assert read_numbers(pa.array([True, None]), WHERE).values[0] == 1.0
    assert np.isnan(read_numbers(pa.nulls(2), WHERE).values).all()


def test_whole_numbers_that_cannot_be_used_are_marked() -> None:
    found = read_whole_numbers(
        pa.array([0.0, 1.5, -1.0, np.nan, None, np.inf, 2.0**32 - 1, 2.0**32, 1e300]), WHERE, most=2**32 - 1
    )
    assert found.values.tolist() == [0, -1, -1, -1, -1, -1, 2**32 - 1, -1, -1]
    expected = {"is missing": 2, "is not a whole number": 2, "is below 0": 1, "is above 4294967295": 2}
    assert counted(found) == expected
    texts = [
        "0",
        "1.5",
        "-1",
        "nan",
        None,
        "inf",
        "4294967295.0",
        "4294967296",
        "9" * 5000,
        "1e999999",
        "x",
        "٣",
        "1_0",
    ]
    for column in (pa.array(texts), pa.array(texts).dictionary_encode()):
        found = read_whole_numbers(column, WHERE, most=2**32 - 1)
        assert found.values.tolist() == [0, -1, -1, -1, -1, -1, 2**32 - 1] + [-1] * 6
        assert counted(found) == {**expected, "is above 4294967295": 3, "is not a number": 3}
    exact = [2**53 + 1, 2**63 - 1]
    assert read_whole_numbers(pa.array(exact), WHERE).values.tolist() == exact
    assert read_whole_numbers(pa.array([str(n) for n in exact]), WHERE).values.tolist() == exact
    assert counted(read_whole_numbers(pa.array([2.0**63, 1.0]), WHERE)) == {f"is above {2**63 - 1}": 1}
    assert counted(read_whole_numbers(pa.array([2**63], pa.uint64()), WHERE)) == {f"is above {2**63 - 1}": 1}
    assert counted(read_whole_numbers(pa.nulls(2), WHERE)) == {"is missing": 2}
    with pytest.raises(FormatError, match="bool"):
        read_whole_numbers(pa.array([True]), WHERE)


def test_times_of_any_unit() -> None:
    expected = np.array(["2025-08-19T05:36:01", "NaT"], "datetime64[us]")
    for unit in ("s", "ms", "us", "ns"):
        for zone in (None, "UTC", "America/New_York"):
            column = pa.array(
                [int(expected[0].astype(f"datetime64[{unit}]").astype(int)), None], pa.timestamp(unit, zone)
            )
            np.testing.assert_array_equal(read_times(column, WHERE), expected)
            np.testing.assert_array_equal(read_times(column.dictionary_encode(), WHERE), expected)
    days = expected.astype("datetime64[D]")
    np.testing.assert_array_equal(read_times(pa.array(days), WHERE), days.astype("datetime64[us]"))
    assert np.isnat(read_times(pa.nulls(1), WHERE)).all()
    with pytest.raises(FormatError, match="out of range"):
        read_times(pa.array([2**62], pa.timestamp("s")), WHERE)
