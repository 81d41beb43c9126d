"""Tables as any program writes them: the same values from every type and encoding, or an error that names the file."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dde
from dde.errors import DdeError, FormatError, SourceError
from dde.suite.datadecide.tables.pretraining_tables import DataDecide

STEPS = (0, 1250, 2500, 5000)
TASKS = ("arc_easy", "mmlu_anatomy")
ENTRIES = ("primary_metric", "acc_raw")
PILE, ICE = "eval/pile-validation/Perplexity", "eval/ice-validation/Perplexity"


def value(step: int, task: str, entry: str) -> float:
    return 0.1 + step / 1e5 + TASKS.index(task) / 10 + ENTRIES.index(entry) / 100


def entries(step: int, task: str) -> dict[str, float | None]:
    return {"primary_metric": value(step, task, "primary_metric"), "odd": None, "acc_raw": value(step, task, "acc_raw")}


def raw_table(data: str = "C4", steps: tuple[int, ...] = STEPS, **columns: Any) -> pa.Table:
    """Return rows of one run, of texts; `columns` replace those of the same names."""
    rows = [(step, task) for step in steps for task in TASKS]
    plain = {
        "params": ["4M"] * len(rows),
        "data": [data] * len(rows),
        "task": [task for _, task in rows],
        "step": [float(step) for step, _ in rows],
        "seed": ["default"] * len(rows),
        "metrics": [repr(entries(*row)) for row in rows],
    }
    return pa.table({**plain, **columns})


def check(folder: Path, steps: tuple[int, ...] = STEPS, **options: Any) -> DataDecide:
    """Compare all values of the run of C4."""
    dd = DataDecide(folder, **options)
    frame = dd.select_subset(data="C4", metrics=["arc_easy", "arc_easy_acc_raw", "mmlu_anatomy"])
    assert frame["step"].tolist() == list(steps)
    for step, a, b, c in zip(steps, frame["arc_easy"], frame["arc_easy_acc_raw"], frame["mmlu_anatomy"], strict=True):
        assert a == value(step, "arc_easy", "primary_metric")
        assert b == value(step, "arc_easy", "acc_raw")
        assert c == value(step, "mmlu_anatomy", "primary_metric")
    return dd


def replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def as_objects(table: pa.Table) -> list[dict[str, float | None]]:
    return [entries(int(s), t) for s, t in zip(table["step"].to_pylist(), table["task"].to_pylist(), strict=True)]


def typed(texts: list[str], kind: pa.DataType) -> pa.Array:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    plain = pa.array([t.encode() for t in texts] if "binary" in str(inner) else texts, inner)
    return plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain


TEXT_TYPES = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.large_string()),
]  # fmt: skip


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_text_of_any_type(kind: pa.DataType, tmp_path: Path) -> None:
    table = raw_table()
    for name in ("params", "data", "task", "seed", "metrics"):
        table = replaced(table, name, typed(table[name].to_pylist(), kind))
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet", row_group_size=3)
    check(tmp_path)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("form", ["struct", "map", "string_view", "dictionary"])
def test_metrics_of_any_type_with_and_without_kernels(form: str, native: bool, tmp_path: Path) -> None:
    table = raw_table()
    objects = as_objects(table)
    column = {
        "struct": lambda: pa.array(objects),
        "map": lambda: pa.array([list(o.items()) for o in objects], pa.map_(pa.string(), pa.float64())),
        "string_view": lambda: table["metrics"].cast(pa.string_view()),
        "dictionary": lambda: table["metrics"].dictionary_encode(),
    }[form]()
    pq.write_table(replaced(table, "metrics", column), tmp_path / "0.parquet", row_group_size=3)
    if native:
        assert {m.name for m in check(tmp_path).metrics()} >= {"arc_easy", "arc_easy_acc_raw", "mmlu_anatomy"}
        return
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from test_table_formats import check; check(Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)],
        check=True,
        env={**os.environ, "DDE_NATIVE": "0"},
    )


def test_rows_of_structs_and_maps_that_cannot_be_read(tmp_path: Path) -> None:
    table = raw_table()
    objects: list[Any] = as_objects(table)
    pairs: list[Any] = [list(o.items()) for o in objects]
    objects[0], pairs[0] = None, None
    pairs[2] = [*pairs[2], ("primary_metric", 0.5)]
    map_type = pa.map_(pa.string(), pa.float64())
    for number, column in enumerate((pa.array(objects), pa.array(pairs, map_type))):
        path = tmp_path / str(number)
        path.mkdir()
        pq.write_table(replaced(table, "metrics", column), path / "a.parquet")
        with pytest.raises(FormatError, match=r"a\.parquet, row [02] .*(it is null|occurs twice)"):
            DataDecide(path).select_subset(metrics="arc_easy")
        dd = DataDecide(path, on_error="skip")
        frame = dd.select_subset(metrics="arc_easy")
        assert frame["arc_easy"].isna().tolist() == [True, number == 1, False, False]
        assert dd.left_out == {"rows whose metrics can't be read": 1 + number}


def test_numbers_of_structs_of_any_type(tmp_path: Path) -> None:
    kinds = pa.struct([("primary_metric", pa.decimal128(20, 10)), ("acc_raw", pa.string())])
    rows = [{"primary_metric": Decimal("0.1"), "acc_raw": "0.7"}, {"primary_metric": None, "acc_raw": "much"}]
    table = raw_table(steps=(0,))
    pq.write_table(replaced(table, "metrics", pa.array(rows, kinds)), tmp_path / "a.parquet")
    frame = DataDecide(tmp_path).select_subset(metrics=["arc_easy", "arc_easy_acc_raw"])
    np.testing.assert_array_equal(frame[["arc_easy", "arc_easy_acc_raw"]], [[0.1, 0.7]])
    assert np.isnan(DataDecide(tmp_path).select_subset(metrics="mmlu_anatomy")["mmlu_anatomy"][0])
    with pytest.raises(FormatError, match="the entry 'acc_raw' is not a number"):
        DataDecide(tmp_path).select_subset(metrics=["mmlu_anatomy_acc_raw"])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[True]] * 8), pa.array([1.5] * 8), pa.array([["a"] * 2] * 8, pa.list_(pa.string(), 2)),
        pa.array([{"metadata": b"a", "value": b"b"}] * 8),
        pa.array([[("a", 1)]] * 8, pa.list_(pa.struct([("key", pa.string()), ("value", pa.float64())]))),
    ],
    ids=lambda c: str(c.type)[:20],
)  # fmt: skip
def test_metrics_that_are_none_are_refused_by_name(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(replaced(raw_table(), "metrics", column), tmp_path / "odd.parquet")
    dd = DataDecide(tmp_path)
    assert len(dd.catalog().step) == len(STEPS)
    with pytest.raises(FormatError, match=r"the column 'metrics' of .*odd\.parquet (has the type|holds objects)"):
        dd.select_subset(metrics="arc_easy")
    with pytest.raises(DdeError, match=r"odd\.parquet"):
        dd.metrics()


OPTIONS: list[dict[str, Any]] = [
    {"version": "1.0"},
    {"version": "2.4", "data_page_version": "2.0"},
    {"version": "2.6", "compression": "zstd", "write_page_checksum": True},
    {"compression": "none", "use_dictionary": False, "data_page_size": 64},
    {"compression": "gzip", "row_group_size": 1},
    {
        "use_dictionary": False,
        "column_encoding": {
            "params": "DELTA_BYTE_ARRAY", "data": "DELTA_LENGTH_BYTE_ARRAY", "metrics": "DELTA_BYTE_ARRAY",
            "step": "BYTE_STREAM_SPLIT",
        },
    },
    {"write_statistics": False, "store_schema": False},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values()))[:40])
def test_versions_and_encodings(options: dict[str, Any], tmp_path: Path) -> None:
    pq.write_table(raw_table(), tmp_path / "a.parquet", **options)
    check(tmp_path)


@pytest.mark.parametrize(
    "step",
    [
        pa.array([s for s in STEPS for _ in TASKS], pa.int32()),
        pa.array([s for s in STEPS for _ in TASKS], pa.uint64()),
        pa.array([Decimal(s) for s in STEPS for _ in TASKS], pa.decimal128(12, 2)),
        pa.array([str(s) for s in STEPS for _ in TASKS]),
        pa.array([f"{s}.0" for s in STEPS for _ in TASKS]).dictionary_encode(),
        pa.array([float(s) for s in STEPS for _ in TASKS], pa.float32()),
    ],
    ids=lambda c: str(c.type)[:20],
)
def test_keys_of_another_type_in_one_shard(step: pa.Array, tmp_path: Path) -> None:
    table = replaced(raw_table(), "step", step)
    for number, seed in enumerate((pa.array([0] * 8), pa.array([0.0] * 8), pa.array(["0"] * 8))):
        path = tmp_path / str(number)
        path.mkdir()
        first = replaced(table, "seed", seed)
        # Other order of columns, one more, and one less.
        pq.write_table(first.select(["metrics", "task", "seed", "step", "data", "params"]), path / "a.parquet")
        other = raw_table("Falcon").append_column("tokens", pa.array([1] * 8))
        pq.write_table(other, path / "b.parquet")
        dd = check(path)
        assert [b.label for b in dd.catalog().bases] == ["c4-4M-default", "falcon-4M-default"]
        assert dd.left_out == {}


def wide(folder: Path, name: str, steps: list[int], **columns: Any) -> None:
    n = len(steps)
    keys = {"params": ["4M"] * n, "data": ["C4"] * n, "seed": [0] * n, "step": steps}
    pq.write_table(pa.table({**keys, **columns}), folder / name)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([Decimal("10.1"), None], pa.decimal128(20, 5)),
        pa.array(["10.1", None], pa.string_view()),
        pa.array(["10.1", None]).dictionary_encode(),
        pa.array([10.1, None]).dictionary_encode(),
        pa.array([10.1, None]),
        pa.array([b"10.1", None]),
    ],
    ids=lambda c: str(c.type)[:20],
)
def test_numbers_of_any_type(values: pa.Array, tmp_path: Path) -> None:
    wide(tmp_path, "a.parquet", [1250, 2500], **{PILE: values})
    wide(tmp_path, "b.parquet", [3750], **{PILE: [3]})
    frame = DataDecide(tmp_path).select_subset(metrics="pile_valppl")
    np.testing.assert_array_equal(frame["pile_valppl"], [10.1, np.nan, 3.0])


def test_a_number_that_is_none_is_named_or_counted(tmp_path: Path) -> None:
    wide(tmp_path, "a.parquet", [1250, 2500, 3750], **{PILE: ["9.5", "much", "8.5"], ICE: [2**53 + 1, 2, 3]})
    with pytest.raises(
        FormatError, match=r"a\.parquet, row 1 \(c4-4M-default at step 2500\).*'eval/pile.* not a number"
    ):
        DataDecide(tmp_path).select_subset(metrics="pile_valppl")
    with pytest.raises(FormatError, match=r"row 0 .* has more digits than a double"):
        DataDecide(tmp_path).select_subset(metrics="ice_valppl")
    dd = DataDecide(tmp_path, on_error="skip")
    np.testing.assert_array_equal(dd.select_subset(metrics="pile_valppl")["pile_valppl"], [9.5, np.nan, 8.5])
    assert dd.left_out == {"rows whose metrics can't be read": 1}
    wide(tmp_path, "a.parquet", [1250], **{PILE: [[1.5]]})
    with pytest.raises(FormatError, match=r"the column 'eval/pile.*a\.parquet has the type list"):
        DataDecide(tmp_path).select_subset(metrics="pile_valppl")


def test_columns_of_one_row_in_two_files(tmp_path: Path) -> None:
    # The same runs and steps, one metric a file: neither repeats the other.
    wide(tmp_path, "a.parquet", [1250, 2500], **{PILE: [10.0, 9.0]})
    wide(tmp_path, "b.parquet", [2500, 1250], **{ICE: [8.0, 7.0]})
    dd = DataDecide(tmp_path)
    frame = dd.select_subset(metrics=["pile_valppl", "ice_valppl"])
    assert frame["pile_valppl"].tolist() == [10.0, 9.0]
    assert frame["ice_valppl"].tolist() == [7.0, 8.0]
    assert dd.left_out == {}
    # One metric under two names of columns, in two files.
    wide(tmp_path, "b.parquet", [3750], **{"pile-valppl": [5.0], ICE: [6.0]})
    assert DataDecide(tmp_path).select_subset(metrics="pile_valppl")["pile_valppl"].tolist() == [10.0, 9.0, 5.0]
    wide(tmp_path, "b.parquet", [3750], **{"pile-valppl": [5.0], PILE: [6.0]})
    with pytest.raises(FormatError, match=r"b\.parquet has several columns of the metric 'pile_valppl'"):
        DataDecide(tmp_path).select_subset(metrics="pile_valppl")


def test_rows_without_usable_keys_are_counted_and_block_nothing(tmp_path: Path) -> None:
    good = raw_table()
    odd = pa.table(
        {
            "params": ["4M"] * 9 + ["5M", None],
            "data": ["C4"] * 8 + ["Nowhere", "C4", "C4"],
            "task": ["arc_easy"] * 11,
            "step": [None, float("nan"), 0.5, -1.0, 2.0**32, 2.0**32 + 1250, 1e300, float("inf"), 1.0, 1.0, 1.0],
            "seed": ["default"] * 11,
            "metrics": ["{'primary_metric': 0.999}"] * 11,
        }
    )
    pq.write_table(pa.concat_tables([odd, good]), tmp_path / "a.parquet")
    pq.write_table(raw_table("FineWeb-Pro"), tmp_path / "b.parquet")
    dd = check(tmp_path)
    assert [b.label for b in dd.catalog().bases] == ["c4-4M-default", "fineweb-pro-4M-default"]
    assert {reason.partition(". ")[0].partition(" Did")[0]: count for reason, count in dd.left_out.items()} == {
        "rows whose step is missing": 2,
        "rows whose step is not a whole number": 2,
        "rows whose step is below 0": 1,
        "rows whose step is above 4294967295": 3,
        "unknown size '5M'": 1,
        "unknown recipe 'Nowhere'": 1,
        "rows without a size": 1,
    }


def test_steps_beyond_a_key_land_in_no_other_run(tmp_path: Path) -> None:
    steps = [2**32 + 1250, 2**33 + 1250, 2**53, 2**62, 2**63 - 1]
    for kind in (pa.int64(), pa.float64(), pa.string()):
        column = pa.array([str(s) if kind == pa.string() else s for s in steps]).cast(kind, safe=False)
        rows = raw_table(steps=(0, 1250, 2500)).slice(0, 5)
        beyond = replaced(replaced(rows, "step", column), "metrics", pa.array(["{'primary_metric': 0.999}"] * 5))
        clean = raw_table()
        clean = replaced(clean, "step", clean["step"].cast(kind) if kind != pa.string() else pa.array(
            [str(int(s)) for s in clean["step"].to_pylist()]))  # fmt: skip
        pq.write_table(pa.concat_tables([clean, beyond]), tmp_path / "a.parquet")
        pq.write_table(raw_table("FineWeb-Pro", steps=(0, 2500)), tmp_path / "b.parquet")
        dd = check(tmp_path)
        assert dd.select_subset(data="FineWeb-Pro")["step"].tolist() == [0, 2500]
        assert dd.left_out == {"rows whose step is above 4294967295": 5}
        assert len(dd.select_subset(data="C4", steps=[2**70, -5, 1250])) == 1


def test_names_that_are_many_long_or_no_text(tmp_path: Path) -> None:
    n = 100
    table = pa.table(
        {
            "params": ["4M"] * n, "data": [f"{k}{'x' * 200}" for k in range(n - 1)] + ["C4"], "task": ["arc_easy"] * n,
            "step": [0] * n, "seed": ["-1"] * 1 + ["default"] * (n - 1), "metrics": ["{'primary_metric': 0.5}"] * n,
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    dd = DataDecide(tmp_path)
    assert [b.label for b in dd.catalog().bases] == ["c4-4M-default"]
    assert len(dd.left_out) < 30
    assert max(map(len, dd.left_out)) < 200
    assert sum(count for reason, count in dd.left_out.items() if "recipe" in reason) == n - 1
    # A dash before a digit is a sign: no seed is -1.
    assert any("unknown seed '-1'" in reason for reason in dd.left_out)
    bad = pa.array([b"C4"] * (n - 1) + [b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(replaced(table, "data", bad), tmp_path / "a.parquet")
    with pytest.raises(FormatError, match=r"the column 'data' of .*a\.parquet has bytes that are not UTF-8"):
        DataDecide(tmp_path).catalog()


def test_categories_of_no_row_are_no_tasks(tmp_path: Path) -> None:
    frame = raw_table().to_pandas()
    frame["task"] = pd.Categorical(frame["task"], categories=[*TASKS, "mmlu", "olmes_10_macro_avg"])
    frame.to_parquet(tmp_path / "a.parquet")
    dd = check(tmp_path)
    assert not any(m.task == "mmlu" for m in dd.metrics())


def test_a_metric_text_that_is_no_utf8_is_one_row(tmp_path: Path) -> None:
    texts = [t.encode() for t in raw_table()["metrics"].to_pylist()]
    texts[0] = b"{'\xff': oops}"
    for kind in (pa.binary(), pa.string()):
        column = pa.array(texts, pa.binary())
        pq.write_table(
            replaced(raw_table(), "metrics", column if kind == pa.binary() else column.view(kind)),
            tmp_path / "a.parquet",
        )
        with pytest.raises(FormatError, match=r"a\.parquet, row 0 "):
            DataDecide(tmp_path).select_subset(metrics="arc_easy")
        dd = DataDecide(tmp_path, on_error="skip")
        assert dd.select_subset(metrics="arc_easy")["arc_easy"].isna().tolist() == [True, False, False, False]


def damage_footer(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    metadata = pq.ParquetFile(path).metadata
    for group in range(metadata.num_row_groups):
        for k in range(metadata.num_columns):
            column = metadata.row_group(group).column(k)
            start = column.dictionary_page_offset or column.data_page_offset
            content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "magic alone": lambda path: path.write_bytes(b"PAR1"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "csv": lambda path: path.write_text("params,data\n4M,C4\n"),
    "footer": damage_footer,
    "pages": damage_pages,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("table", ["dict", "wide"])
def test_damage_is_an_error_that_names_the_file(damage: str, table: str, tmp_path: Path) -> None:
    for name, data in (("good.parquet", "C4"), ("bad.parquet", "Falcon")):
        if table == "dict":
            pq.write_table(raw_table(data), tmp_path / name, compression="snappy")
        else:
            wide(tmp_path, name, list(STEPS), **{PILE: [1.0, 2.0, 3.0, 4.0], "data": [data] * 4})
    DAMAGE[damage](tmp_path / "bad.parquet")
    with pytest.raises(SourceError, match=r"bad\.parquet .*remove it"):
        DataDecide(tmp_path).select_subset(metrics="arc_easy" if table == "dict" else "pile_valppl")


@pytest.mark.parametrize("column", ["step", "metrics"])
def test_a_flipped_bit_is_found_where_the_writer_left_checksums(column: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(raw_table(), path, compression="none", use_dictionary=False, write_page_checksum=True)
    check(tmp_path)
    metadata = pq.ParquetFile(path).metadata.row_group(0)
    [chunk] = [metadata.column(k) for k in range(metadata.num_columns) if metadata.column(k).path_in_schema == column]
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.parquet is not a readable parquet file"):
        DataDecide(tmp_path).select_subset(metrics="arc_easy")


def test_an_encrypted_table_is_refused_by_name(tmp_path: Path) -> None:
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key: bytes, _: str) -> bytes:
            return key.hex().encode()

        def unwrap_key(self, key: bytes, _: str) -> bytes:
            return bytes.fromhex(key.decode())

    factory = encryption.CryptoFactory(lambda _: Keys())
    config = encryption.EncryptionConfiguration(footer_key="footer", column_keys={"column": ["metrics"]})
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    with pq.ParquetWriter(tmp_path / "a.parquet", raw_table().schema, encryption_properties=properties) as writer:
        writer.write_table(raw_table())
    with pytest.raises(SourceError, match=r"a\.parquet"):
        DataDecide(tmp_path).catalog()


@pytest.mark.parametrize("name", ["params", "data", "task", "seed", "step"])
@pytest.mark.parametrize("cell", [["4M"], {"a": 1}, True], ids=["list", "struct", "bool"])
def test_keys_of_a_type_that_holds_none_are_refused_by_name(name: str, cell: object, tmp_path: Path) -> None:
    pq.write_table(replaced(raw_table(), name, pa.array([cell] * 8)), tmp_path / "a.parquet")
    with pytest.raises(FormatError, match=rf"the column '{name}' of .*a\.parquet has the type (list|struct|bool)"):
        DataDecide(tmp_path).catalog()


def test_columns_of_one_name_and_lacking_columns(tmp_path: Path) -> None:
    table = raw_table()
    twice = pa.Table.from_arrays([*table.columns, table["metrics"]], names=[*table.column_names, "metrics"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(FormatError, match=r"twice\.parquet has 2 columns named 'metrics'"):
        DataDecide(tmp_path)
    (tmp_path / "twice.parquet").unlink()
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(raw_table("Falcon").drop_columns(["seed"]), tmp_path / "b.parquet")
    dd = check(tmp_path)
    assert [s for s in dd.set_aside if "b.parquet: without the column seed" in s]


def test_a_dataset_of_structs(tmp_path: Path) -> None:
    table = raw_table()
    pq.write_table(replaced(table, "metrics", pa.array(as_objects(table))), tmp_path / "a.parquet")
    for _ in range(2):
        ds = dde.open_lineages(tmp_path, None, metrics=["arc_easy"], cache_dir=tmp_path / "cache")
        expected = [value(s, "arc_easy", "primary_metric") for s in STEPS]
        assert ds.arc_easy.to_series().dropna().tolist()[: len(STEPS)] == pytest.approx(expected)
