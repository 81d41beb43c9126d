"""Which files are tables, and copies of each other: by columns, rows and content, whatever they are called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dde
from dde.errors import ConflictWarning, DdeWarning, SourceError
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from test_table_formats import ICE, PILE, STEPS, check, raw_table, value, wide

RECIPES = ("Dolma1.7", "C4", "FineWeb-Edu", "Falcon")
LABELS = ["dolma1_7-4M-default", "c4-4M-default", "fineweb-edu-4M-default", "falcon-4M-default"]
HASHES = ("0a1b2c3d4e5f6a7b", "ffee11223344aabb", "1234567890abcdef", "deadbeefcafe0001")
UUID = "0b1f3c5e-7a89-4bcd-9e01-23456789abcd"

NAMES = {
    "the Hub": [f"data/train-{k:05d}-of-00004.parquet" for k in range(4)],
    "the Hub's converter": [f"default/train/{k:04d}.parquet" for k in range(4)],
    "the converter, in parts": [f"default/partial-train/{k:04d}.parquet" for k in range(4)],
    "datasets with hashes": [f"data/train-{k:05d}-of-00004-{h}.parquet" for k, h in enumerate(HASHES)],
    "dask": [f"part.{k}.parquet" for k in range(4)],
    "Spark": [f"table.parquet/part-{k:05d}-{UUID}-c000.snappy.parquet" for k in range(4)],
    "Polars": [f"{k:08x}.parquet" for k in range(4)],
    "DuckDB": [f"out/data_{k}.parquet" for k in range(4)],
    "people": ["dolma.parquet", "C4 final.parquet", "neu/fineweb (1).PARQUET", "x.pq"],
}  # fmt: skip


@pytest.mark.parametrize("writer", NAMES)
def test_shards_under_any_name(writer: str, tmp_path: Path) -> None:
    for name, recipe in zip(NAMES[writer], RECIPES, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(raw_table(recipe), tmp_path / name)
    (tmp_path / "_SUCCESS").write_text("")
    dd = check(tmp_path)
    assert [b.label for b in dd.catalog().bases] == LABELS
    assert not [s for s in dd.set_aside if "copy" in s or "-of-" in s]
    # A second opening takes what the files are from the cache.
    for _ in range(2):
        ds = dde.open_lineages(tmp_path, None, metrics=["arc_easy"], cache_dir=tmp_path / "cache")
        assert sorted(set(ds.lineage.values.tolist())) == sorted(LABELS)


def test_missing_shards_are_counted_with_hashes_in_their_names(tmp_path: Path) -> None:
    for name, recipe in list(zip(NAMES["datasets with hashes"], RECIPES, strict=True))[1:]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(raw_table(recipe), tmp_path / name)
    assert "train-00000-of-00004.parquet: missing" in DataDecide(tmp_path).set_aside


def test_folders_that_name_keys(tmp_path: Path) -> None:
    for recipe, folder in (("C4", "C4"), ("Dolma1.7 (no code)", "Dolma1.7 %28no code%29")):
        table = raw_table(recipe).drop_columns(["params", "data", "seed"])
        for task in ("arc_easy", "mmlu_anatomy"):
            path = tmp_path / "params=4M" / f"data={folder}" / "seed=0" / f"task={task}" / f"part-0-{UUID}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            keep = pa.array([t == task for t in table["task"].to_pylist()])
            pq.write_table(table.filter(keep).drop_columns(["task"]), path)
    dd = check(tmp_path)
    assert {b.label for b in dd.catalog().bases} == {"c4-4M-default", "dolma1_7-no-code-4M-default"}


def macro_table(tasks: tuple[str, ...] = ("arc_easy", "mmlu", "olmes_10_macro_avg")) -> pa.Table:
    rows = [(step, task) for step in STEPS for task in tasks]
    n = len(rows)
    return pa.table(
        {
            "params": ["4M"] * n, "data": ["C4"] * n, "task": [t for _, t in rows], "seed": ["default"] * n,
            "step": [float(s) for s, _ in rows], "metrics": [json.dumps({"primary_metric": 0.0, "acc_raw": 0.0})] * n,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [
        ("default/train/0000.parquet", "default/macro_avg/0000.parquet"),
        ("a/0000.parquet", "b/0000.parquet"),
        ("part.1.parquet", "part.0.parquet"),
        # The names say the opposite of the rows.
        ("macro_avg-00000-of-00001.parquet", "train-00000-of-00001.parquet"),
    ],
)
def test_macro_averages_are_told_by_their_rows(names: tuple[str, str], tmp_path: Path) -> None:
    for name, table in zip(names, (raw_table(), macro_table()), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / name)
    dd = check(tmp_path)
    assert {Path(f.path).relative_to(tmp_path).as_posix(): f.kind for f in dd.files} == dict(
        zip(names, ("raw", "macro"), strict=True)
    )
    assert dd.left_out == {}


def test_a_part_of_macro_averages_is_what_its_siblings_are(tmp_path: Path) -> None:
    for name, table in (
        ("one/0.parquet", raw_table()),
        ("two/0.parquet", macro_table(("arc_easy",))),
        ("two/1.parquet", macro_table(("mmlu",))),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / name, row_group_size=2)
    kinds = {Path(f.path).relative_to(tmp_path).as_posix(): f.kind for f in check(tmp_path).files}
    assert kinds == {"one/0.parquet": "raw", "two/0.parquet": "macro", "two/1.parquet": "macro"}


def quietly(folder: Path) -> DataDecide:
    """Open tables of which some are copies."""
    dd = DataDecide(folder)
    with pytest.warns(DdeWarning, match="only have rows that are in other tables too"):
        dd.catalog()
    return dd


def shards(folder: Path, recipes: tuple[str, ...] = RECIPES) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"train-{k:05d}-of-{len(recipes):05d}.parquet" for k in range(len(recipes))]
    for path, recipe in zip(paths, recipes, strict=True):
        pq.write_table(raw_table(recipe), path)
    return paths


def joined(paths: list[Path]) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in paths)


@pytest.mark.parametrize("copy", ["second download", "joined", "joined in another order", "in other groups", "link"])
def test_equal_content_is_read_once(copy: str, tmp_path: Path) -> None:
    paths = shards(tmp_path / "a")
    table = joined(paths)
    other = tmp_path / "other.parquet"
    if copy == "second download":
        shutil.copy(paths[1], tmp_path / "a" / "train-00001-of-00004 (1).parquet")
    elif copy == "link":
        (tmp_path / "a" / "z.parquet").symlink_to(paths[0])
    elif copy == "joined":
        pq.write_table(table, other)
    elif copy == "joined in another order":
        pq.write_table(table.take(pa.array(np.random.default_rng(1).permutation(len(table)))), other)
    else:
        pq.write_table(table, other, row_group_size=3, compression="zstd", version="1.0")
    dd = quietly(tmp_path)
    assert sorted(f.path for f in dd.files) == sorted(map(str, paths))
    [aside] = [s for s in dd.set_aside if "another copy" in s]
    frame = dd.select_subset(metrics="arc_easy")
    assert frame["arc_easy"].tolist() == [value(s, "arc_easy", "primary_metric") for _ in RECIPES for s in STEPS]
    assert dd.left_out == {}
    # The cache keeps what is a copy, and the warning comes again.
    for _ in range(2):
        with pytest.warns(DdeWarning, match="so they are not read"):
            ds = dde.open_lineages(tmp_path, None, metrics=["arc_easy"], cache_dir=tmp_path / "cache")
        assert aside.partition(":")[0] in ds.attrs["pretraining_left_out"]


def test_a_joined_file_beside_some_of_its_shards_is_read(tmp_path: Path) -> None:
    paths = shards(tmp_path / "a")
    pq.write_table(joined(paths), tmp_path / "downstream_eval.parquet")
    for path in paths[2:]:
        path.unlink()
    dd = quietly(tmp_path)
    assert [b.label for b in dd.catalog().bases] == LABELS
    assert [Path(f.path).name for f in dd.files] == ["downstream_eval.parquet"]
    check_values = dd.select_subset(metrics="arc_easy")
    assert len(check_values) == len(RECIPES) * len(STEPS)
    assert check_values["arc_easy"].notna().all()


@pytest.mark.parametrize("change", ["one value", "one row less", "one row more"])
def test_what_only_looks_like_a_copy_is_read_and_conflicts_are_named(change: str, tmp_path: Path) -> None:
    paths = shards(tmp_path / "a", ("C4",))
    table = pq.read_table(paths[0])
    if change == "one value":
        texts = table["metrics"].to_pylist()
        texts[-2] = texts[-2].replace("0.15", "0.99")
        assert texts[-2] != table["metrics"].to_pylist()[-2]
        table = table.set_column(table.schema.get_field_index("metrics"), "metrics", pa.array(texts))
    elif change == "one row less":
        paths[0].unlink()
        pq.write_table(table.slice(1), paths[0])
    else:
        table = pa.concat_tables([table, raw_table("Falcon", steps=(0,))])
    pq.write_table(table, tmp_path / "b.parquet")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dd = check(tmp_path)
    copies = [w for w in caught if "only have rows that are in other tables" in str(w.message)]
    conflicts = [w for w in caught if issubclass(w.category, ConflictWarning)]
    assert bool(copies) == (change != "one value")
    assert bool(conflicts) == (change == "one value")
    if change == "one value":
        assert len(dd.files) == 2
        assert "c4-4M-default at step 5000, arc_easy" in str(conflicts[0].message)
    else:
        assert [Path(f.path).name for f in dd.files] == ["b.parquet"]


def test_variants_of_a_wide_table(tmp_path: Path) -> None:
    pile, ice = [10.0, float("nan"), 9.0], [1.0, 2.0, 3.0]
    wide(tmp_path, "full_eval.parquet", [0, 1250, 2500], **{"pile-valppl": pile, "ice-valppl": ice, "lr": [1, 2, 3]})
    wide(tmp_path, "full_eval_raw.parquet", [2500, 0, 1250], **{"pile-valppl": [9.0, 10.0, None]})
    wide(tmp_path, "other.parquet", [0, 1250], **{"ice-valppl": [1.0, 2.5]})
    dd = quietly(tmp_path)
    assert [Path(f.path).name for f in dd.files] == ["full_eval.parquet", "other.parquet"]
    with pytest.warns(ConflictWarning, match="step 1250"):
        frame = dd.select_subset(metrics=["pile_valppl", "ice_valppl"])
    np.testing.assert_array_equal(frame["pile_valppl"], pile)
    np.testing.assert_array_equal(frame["ice_valppl"], ice)


def test_rows_left_out_are_counted_once_for_copies(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(pa.concat_tables([raw_table(), raw_table("Nowhere")]), tmp_path / name)
    dd = quietly(tmp_path)
    assert len(dd.files) == 1
    assert list(dd.left_out.values()) == [8]
    # The second one has a row of its own that can't be used: it counts.
    pq.write_table(pa.concat_tables([raw_table(), raw_table("Elsewhere")]), tmp_path / "b.parquet")
    dd = DataDecide(tmp_path)
    assert sum(count for reason, count in dd.left_out.items() if "unknown recipe" in reason) == 16


def test_links_loops_and_what_is_no_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shards(data)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "tables").symlink_to(data, target_is_directory=True)
    (data / "round").symlink_to(tmp_path, target_is_directory=True)
    (data / "folder.parquet").mkdir()
    for folder in (tmp_path, data, tmp_path / "linked"):
        assert [b.label for b in DataDecide(folder).catalog().bases] == LABELS
    for name, make in {
        "loop.parquet": lambda p: p.symlink_to(p),
        "dangling.parquet": lambda p: p.symlink_to(tmp_path / "absent"),
        "pipe.parquet": os.mkfifo,
    }.items():
        path = data / name
        make(path)
        with pytest.raises(SourceError, match=name):
            DataDecide(data)
        with pytest.raises(SourceError, match=name.partition(".")[0]):
            DataDecide(path)
        path.unlink()
    (data / "folder.parquet" / "part-0.parquet").write_bytes((data / "train-00000-of-00004.parquet").read_bytes())
    assert len(quietly(data).files) == 4


LOOK = """
import os, sys
from dde.errors import SourceError
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
if os.getuid() == 0:
    # Root may read all. What is imported on the way must be so before it becomes another.
    DataDecide(sys.argv[1])
    os.setgroups([]); os.setgid(1001); os.setuid(1001)
try:
    print("opened", len(DataDecide(sys.argv[1]).files))
except SourceError as error:
    print("refused", error)
"""


@pytest.fixture
def common_folder() -> Iterator[Path]:
    """A folder that any user may enter; those of pytest are its user's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("hidden", ["folder", "root", "file"])
def test_what_may_not_be_read_is_an_error(hidden: str, common_folder: Path) -> None:
    root = common_folder / "root"
    shards(root)
    (root / "inner").mkdir()
    shutil.move(root / "train-00003-of-00004.parquet", root / "inner" / "train-00003-of-00004.parquet")
    for folder in (root, root / "inner"):
        folder.chmod(0o755)
    target = {"folder": root / "inner", "root": root, "file": root / "inner" / "train-00003-of-00004.parquet"}[hidden]

    def look() -> str:
        ran = subprocess.run([sys.executable, "-c", LOOK, str(root)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert look() == "opened 4\n"
    target.chmod(0)
    try:
        assert look().startswith("refused")
        assert target.name in look()
    finally:
        target.chmod(0o755)


def overwrite(path: Path, content: bytes) -> None:
    """Write other content of the same size, and set the times back."""
    time.sleep(0.02)
    times = path.stat()
    assert len(content) == times.st_size
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def two_contents(tmp_path: Path) -> tuple[Path, bytes, bytes]:
    """Return a table and two contents of one size."""
    path = tmp_path / "data" / "a.parquet"
    path.parent.mkdir()
    contents = []
    for number in (8.0, 9.0):
        wide(path.parent, "a.parquet", [0, 1250], **{PILE: [number, number + 0.5], ICE: [1.0, 1.0]})
        contents.append(path.read_bytes())
    assert len(contents[0]) == len(contents[1])
    return path, contents[0], contents[1]


def test_other_content_of_the_same_size_and_time_is_read_anew(tmp_path: Path) -> None:
    path, first, second = two_contents(tmp_path)
    path.write_bytes(first)
    for content, expected in ((first, 8.0), (second, 9.0), (first, 8.0)):
        overwrite(path, content)
        ds = dde.open_lineages(path.parent, None, metrics=["pile_valppl"], cache_dir=tmp_path / "cache")
        assert float(ds.pile_valppl.min()) == expected


def test_a_table_that_changes_while_open_gives_nothing_to_the_cache(tmp_path: Path) -> None:
    path, first, second = two_contents(tmp_path)
    path.write_bytes(first)
    options = {"metrics": ["pile_valppl"], "cache_dir": tmp_path / "cache"}
    ds = dde.open_lineages(path.parent, None, **options)
    overwrite(path, second)
    with pytest.raises(SourceError, match=r"a\.parquet was changed since it was opened"):
        ds.pile_valppl.load()
    overwrite(path, first)
    assert float(dde.open_lineages(path.parent, None, **options).pile_valppl.min()) == 8.0


def test_a_table_that_changes_during_a_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dde.suite.datadecide.tables import row_groups

    path, first, second = two_contents(tmp_path)
    path.write_bytes(first)
    dd = DataDecide(path.parent)
    dd.catalog()
    opened = row_groups.open_parquet

    def changing(*args: object, **options: object) -> object:
        overwrite(path, second)
        return opened(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(row_groups, "open_parquet", changing)
    with pytest.raises(SourceError, match="was changed"):
        dd.select_subset(metrics="pile_valppl")
