"""Pretraining tables: every layout and place, bit for bit, with only what is asked for read."""

from __future__ import annotations

import ast
import math
import pickle
import shutil
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dde
from dde.cache.storage import Storage
from dde.errors import ConflictWarning, DdeWarning, FormatError, SourceError, UnknownNameError
from dde.names import ENTRIES, MMLU_SUBJECTS, OLMES_TASKS, task_metric
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from dde.suite.datadecide.tables.table_index import FileKindsCache, TableIndexCache
from dde.tutorial import Suite

METRICS = ["mmlu_average", "arc_challenge", "arc_challenge_acc_raw", "boolq_correct_prob", "pile_valppl"]


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


@pytest.fixture(scope="module")
def parsed(parsed_suite: Suite) -> Suite:
    return parsed_suite


def plain_rows(suite: Suite) -> dict[tuple[str, str, str, int, str], dict[str, float]]:
    """Read the raw shards the slow and certain way."""
    rows: dict[tuple[str, str, str, int, str], dict[str, float]] = {}
    for path in sorted(Path(suite.data).rglob("DataDecide-eval-results/data/train-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            text = row["metrics"].replace("nan", "None").replace("-inf", "-1e999").replace("inf", "1e999")
            values = {k: math.nan if v is None else float(v) for k, v in ast.literal_eval(text).items()}
            rows.setdefault((row["params"], row["data"], row["seed"], int(row["step"]), row["task"]), values)
    return rows


def test_raw_shards_read_bit_for_bit(suite: Suite) -> None:
    rows = plain_rows(suite)
    dd = DataDecide(suite.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConflictWarning)
        frame = dd.select_subset(metrics=METRICS)
    assert dd.layout == "raw"
    names = {0: "default", 1: "small aux 2", 2: "small aux 3", 3: "large aux 2", 4: "large aux 3"}
    checked = 0
    for row in frame.itertuples():
        key = (row.params, row.data, names[row.seed], row.step)
        challenge = rows.get((*key, "arc_challenge"))
        if challenge is None:
            assert math.isnan(row.arc_challenge)
            continue
        checked += 1
        assert row.arc_challenge == challenge["primary_metric"]
        assert row.arc_challenge_acc_raw == challenge["acc_raw"]
        np.testing.assert_equal(row.boolq_correct_prob, rows[(*key, "boolq")]["correct_prob"])
        mean = math.fsum(rows[(*key, s)]["primary_metric"] for s in MMLU_SUBJECTS) / 57
        assert row.mmlu_average == mean
    assert checked == len({k[:4] for k in rows})
    assert (
        frame["compute"]
        == [
            float(6 * dde.names.resolve_size(p).n_params * t)
            for p, t in zip(frame["params"], frame["tokens"], strict=True)
        ]
    ).all()


def test_both_layouts_hold_the_same_values(suite: Suite, parsed: Suite) -> None:
    raw, wide = DataDecide(suite.data), DataDecide(parsed.data)
    assert wide.layout == "parsed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConflictWarning)
        a = raw.select_subset(metrics=METRICS).set_index(["params", "data", "seed", "step"])
        b = wide.select_subset(metrics=METRICS).set_index(["params", "data", "seed", "step"])
    shared = a.index.intersection(b.index)
    assert len(shared) == len(b)
    np.testing.assert_array_equal(a.loc[shared, METRICS[1:]], b.loc[shared, METRICS[1:]])
    # The wide table's own mean is taken as it stands; ours is correctly rounded.
    np.testing.assert_allclose(a.loc[shared, "mmlu_average"], b.loc[shared, "mmlu_average"], rtol=1e-14)


def test_only_the_rows_asked_for_are_read(suite: Suite) -> None:
    dd = DataDecide(suite.data)
    dd.catalog()
    assert dd.reads == {"rows": 0, "row_groups": 0, "stored_bytes": 0}
    frame = dd.select_subset(params="4M", data="Dolma1.7", seed=0, metrics="hellaswag")
    assert dd.reads["rows"] == frame["hellaswag"].notna().sum()
    assert dd.reads["row_groups"] <= 2
    with pytest.raises(UnknownNameError, match="hellaswag"):
        dd.select_subset(metrics="helaswag_acc_raw")
    with pytest.raises(UnknownNameError, match="FineWeb-Edu"):
        dd.select_subset(data="FineWeb-Ed")


def test_the_catalog_lists_what_there_is(suite: Suite) -> None:
    frame = DataDecide(suite.data).catalog().to_frame()
    truth = suite.bases.set_index("lineage")
    assert set(frame["lineage"]) == set(truth.index)
    last = frame.groupby("lineage")["step"].max()
    assert (last == truth["last_step"].loc[last.index]).all()
    assert frame["overrun"].any() == truth["overruns"].any()
    assert not frame.duplicated(["lineage", "step"]).any()


def test_metrics_are_listed_and_macro_averages_stand_beside_the_shards(suite: Suite) -> None:
    dd = DataDecide(suite.data)
    names = {m.name for m in dd.metrics()}
    assert {*OLMES_TASKS, "pile_valppl", "olmes_10_macro_avg", "mmlu", "arc_easy_margin_per_char"} <= names
    frame = dd.select_subset(params="4M", metrics=["olmes_10_macro_avg", "mmlu", "mmlu_average"])
    assert frame["olmes_10_macro_avg"].notna().any()
    for entry in ENTRIES[-3:]:
        assert not dd.holds(task_metric("boolq", entry))


def test_repeated_rows_collapse_and_conflicts_are_named(tmp_path: Path) -> None:
    table = pa.table(
        {
            "params": ["4M"] * 4,
            "data": ["C4"] * 4,
            "seed": ["default"] * 4,
            "step": [1250, 1250, 2500, 2500],
            "eval/pile-validation/Perplexity": [10.0, 10.0, 8.0, 9.0],
        }
    )
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    dd = DataDecide(tmp_path)
    with pytest.warns(ConflictWarning, match=r"c4-4M-default at step 2500"):
        frame = dd.select_subset(metrics="pile_valppl")
    assert frame["pile_valppl"].tolist() == [10.0, 8.0]
    assert dd.left_out == {"repeated rows, identical": 1, "repeated rows that disagree, first kept": 1}


def broken_suite(suite: Suite, folder: Path) -> tuple[Path, int]:
    """Copy the suite with one malformed row; returns its number within the file."""
    shutil.copytree(suite.data, folder)
    path = next(folder.rglob("train-00000-of-0000[2-9].parquet"), None) or next(
        folder.rglob("DataDecide-eval-results/data/train-00000-*")
    )
    table = pq.read_table(path)
    texts = table["metrics"].to_pylist()
    number = table["task"].to_pylist().index("arc_easy")
    texts[number] = texts[number].replace("'acc_raw': ", "'acc_raw': oops")
    pq.write_table(table.set_column(table.schema.get_field_index("metrics"), "metrics", pa.array(texts)), path)
    return path, number


def test_a_malformed_row_is_named_or_counted(suite: Suite, tmp_path: Path) -> None:
    path, number = broken_suite(suite, tmp_path / "data")
    with pytest.raises(FormatError) as caught:
        DataDecide(tmp_path / "data").select_subset(metrics="arc_easy_acc_raw")
    message = str(caught.value)
    assert path.name in message
    assert f"row {number} " in message
    assert "oops" in message
    assert "on_error='skip'" in message
    dd = DataDecide(tmp_path / "data", on_error="skip")
    frame = dd.select_subset(metrics="arc_easy_acc_raw")
    clean = DataDecide(suite.data).select_subset(metrics="arc_easy_acc_raw")
    assert frame["arc_easy_acc_raw"].isna().sum() == clean["arc_easy_acc_raw"].isna().sum() + 1
    assert dd.left_out["rows whose metrics can't be read"] == 1
    # Other tasks are not touched by it.
    assert DataDecide(tmp_path / "data").select_subset(metrics="piqa")["piqa"].notna().any()


def test_unknown_names_and_missing_shards_are_counted(suite: Suite, tmp_path: Path) -> None:
    shutil.copytree(suite.data, tmp_path / "data")
    shards = sorted((tmp_path / "data").rglob("DataDecide-eval-results/data/train-*.parquet"))
    table = pq.read_table(shards[0])
    names = ["Dolma1.8" if i < 5 else v for i, v in enumerate(table["data"].to_pylist())]
    pq.write_table(table.set_column(table.schema.get_field_index("data"), "data", pa.array(names)), shards[0])
    if len(shards) > 1:
        shards[-1].unlink()
    dd = DataDecide(tmp_path / "data")
    [reason] = [r for r in dd.left_out if "Dolma1.8" in r]
    assert dd.left_out[reason] == 5
    assert "Did you mean Dolma1.7" in reason
    if len(shards) > 1:
        assert any("missing" in s for s in dd.set_aside)


def test_the_hubs_cache_and_nested_folders(suite: Suite, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    for number, repository in enumerate(("DataDecide-eval-results", "DataDecide-ppl-results")):
        root = hub / f"datasets--allenai--{repository}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("newer")
        for commit in ("older", "newer"):
            blobs = root / "blobs"
            blobs.mkdir(exist_ok=True)
            for file in (Path(suite.data) / repository / "data").glob("*.parquet"):
                blob = blobs / f"{number}{commit}{file.name[:12]}{abs(hash(file.name)) % 97}"
                shutil.copy(file, blob)
                link = root / "snapshots" / commit / "data" / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)
    dd = DataDecide(hub)
    assert all("/newer/" in f.path for f in dd.files)
    assert any("another snapshot" in s for s in dd.set_aside)
    plain = DataDecide(suite.data).select_subset(params="4M", metrics=["piqa"])
    np.testing.assert_array_equal(dd.select_subset(params="4M", metrics=["piqa"])["piqa"], plain["piqa"])


def test_one_copy_of_a_table_is_read(suite: Suite, parsed: Suite, tmp_path: Path) -> None:
    shutil.copytree(suite.data, tmp_path / "a")
    joined = pa.concat_tables(
        pq.read_table(p) for p in sorted((tmp_path / "a").rglob("*eval-results/data/train-*.parquet"))
    )
    pq.write_table(joined, tmp_path / "downstream_eval.parquet")
    dd = DataDecide(tmp_path)
    with pytest.warns(DdeWarning, match=r"downstream_eval\.parquet\), so they are not read"):
        assert [s for s in dd.set_aside if "downstream_eval" in s]
    assert not any("downstream_eval" in f.path for f in dd.files)
    shutil.copytree(parsed.data, tmp_path / "b")
    assert DataDecide(tmp_path).layout == "parsed"
    assert DataDecide(tmp_path, layout="raw").layout == "raw"
    assert any("parsed tables are read instead" in s for s in DataDecide(tmp_path).set_aside)


def test_tables_behind_a_url(suite: Suite) -> None:
    memory = fsspec.filesystem("memory")
    for file in Path(suite.data).rglob("*.parquet"):
        memory.pipe_file(f"/suite/{file.relative_to(suite.data)}", file.read_bytes())
    try:
        dd = DataDecide("memory://suite")
        plain = DataDecide(suite.data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConflictWarning)
            a, b = dd.select_subset(metrics=METRICS), plain.select_subset(metrics=METRICS)
        np.testing.assert_array_equal(a[METRICS], b[METRICS])
        ds = dde.open_lineages("memory://suite", suite.wandb, params="4M", metrics="piqa", cache_dir=None)
        assert ds.piqa.notnull().any()
    finally:
        memory.rm("/suite", recursive=True)


def test_what_is_no_suite_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        DataDecide(tmp_path / "absent")
    with pytest.raises(SourceError, match="holds no raw table"):
        DataDecide(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(SourceError, match="not a readable parquet file"):
        DataDecide(tmp_path)
    with pytest.raises(SourceError, match="fsspec"):
        DataDecide("nosuchprotocol://bucket/x")


def test_a_table_that_changes_under_an_open_dataset_is_an_error(suite: Suite, tmp_path: Path) -> None:
    shutil.copytree(suite.data, tmp_path / "data")
    dd = DataDecide(tmp_path / "data")
    dd.select_subset(params="4M", metrics="piqa")
    for path in (tmp_path / "data").rglob("DataDecide-eval-results/data/train-*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.slice(1), path)
    with pytest.raises(SourceError, match="was changed since it was opened"):
        dd.select_subset(params="4M", metrics="piqa")


def test_entries_of_every_task_are_listed(suite: Suite) -> None:
    names = {m.name for m in DataDecide(suite.data).metrics()}
    assert {"arc_challenge_acc_uncond", "hellaswag_acc_uncond", "boolq_acc_raw"} <= names
    assert "boolq_acc_uncond" not in names
    with pytest.raises(UnknownNameError, match="boolq_acc_uncond"):
        DataDecide(suite.data).select_subset(metrics="boolq_acc_uncond")


def test_pickles_are_small_and_read_the_same(suite: Suite) -> None:
    dd = DataDecide(suite.data)
    before = dd.select_subset(params="4M", metrics=["piqa", "mmlu_average"])
    rows = sum(len(t.index) for t in dd._tables)
    content = pickle.dumps(dd)
    assert len(content) < rows * 4
    again = pickle.loads(content)
    assert again.catalog().bases == dd.catalog().bases
    np.testing.assert_array_equal(
        again.select_subset(params="4M", metrics=["piqa", "mmlu_average"])[["piqa", "mmlu_average"]],
        before[["piqa", "mmlu_average"]],
    )


def test_shards_with_different_columns_and_text_that_is_no_number(tmp_path: Path) -> None:
    keys = {"params": ["4M"], "data": ["C4"], "seed": ["default"]}
    pile, ice = "eval/pile-validation/Perplexity", "eval/ice-validation/Perplexity"
    pq.write_table(pa.table({**keys, "step": [1250], pile: [10.0]}), tmp_path / "train-00000-of-00002.parquet")
    pq.write_table(pa.table({**keys, "step": [2500], ice: ["9.5"]}), tmp_path / "train-00001-of-00002.parquet")
    frame = DataDecide(tmp_path).select_subset(metrics=["pile_valppl", "ice_valppl"])
    np.testing.assert_array_equal(frame["pile_valppl"], [10.0, np.nan])
    np.testing.assert_array_equal(frame["ice_valppl"], [np.nan, 9.5])
    pq.write_table(pa.table({**keys, "step": [2500], ice: ["much"]}), tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(FormatError, match=r"ice-validation.*not a number"):
        DataDecide(tmp_path).select_subset(metrics=["ice_valppl"])


@pytest.mark.parametrize("name", ["catalog.npz", "files.npz", "rows-*.npz"])
def test_an_index_of_another_format_is_made_again(tiny_suite: Suite, tmp_path: Path, name: str) -> None:
    from dde.cache.index_files import read_index_file, write_index_file

    cache = tmp_path / "cache"
    options = {"metrics": ["piqa"], "params": "4M", "cache_dir": cache}
    expected = dde.open_lineages(tiny_suite.data, None, **options).piqa.load()
    (path,) = list(cache.glob(f"index/*/{name}"))[:1]
    folder = Storage(path.parent)
    stored = read_index_file(folder, path.name)
    assert stored is not None
    facts, arrays = stored
    write_index_file(folder, path.name, {**facts, "format": facts["format"] + 1}, arrays)
    kept = TableIndexCache(folder)
    if name == "files.npz":
        assert FileKindsCache(folder).load() == {}
    elif name == "catalog.npz":
        assert kept.load_checkpoints(facts["fingerprint"]) is None
    else:
        _, fingerprint, number = path.stem.split("-")
        assert kept.load_rows(fingerprint, int(number)) is None
    shutil.rmtree(cache / "tables")
    again = dde.open_lineages(tiny_suite.data, None, **options).piqa.load()
    assert again.identical(expected)


def test_names_of_all_metrics_are_read_once(tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dde.suite.datadecide.tables.dict_tables import DictTable

    def names(data: str | Path = tiny_suite.data) -> list[str]:
        ds = dde.open_lineages(data, tiny_suite.wandb, metrics="all", cache_dir=tmp_path / "cache")
        return list(map(str, ds.data_vars))

    reads: list[DictTable] = []
    read = DictTable.read_entry_names
    monkeypatch.setattr(DictTable, "read_entry_names", lambda self: reads.append(self) or read(self))
    first = names()
    assert reads
    assert {"arc_easy", "train_loss", "arc_easy_acc_raw"} < set(first)
    reads.clear()
    assert names() == first
    assert reads == []
    # Damaged and foreign files are read again.
    for path in [
        *(tmp_path / "cache").glob("index/*/entries-*.npz"),
        *(tmp_path / "cache").glob("runs/*/metric_names.npz"),
    ]:
        path.write_bytes(path.read_bytes()[:-10])
    assert names() == first
    assert reads
    # A row that can't be read is reported each time.
    path, _ = broken_suite(tiny_suite, tmp_path / "broken")
    for _ in range(2):
        dd = DataDecide(tmp_path / "broken", on_error="skip")
        dd.keep_index(_cache_of(tmp_path / "index"))
        dd.catalog()
        assert "arc_easy_acc_raw" in {m.name for m in dd.metrics()}
        assert dd.left_out.get("rows whose metrics can't be read", 0) == 1, path


def _cache_of(folder: Path) -> TableIndexCache:
    return TableIndexCache(Storage(folder))


def test_each_table_is_asked_once_for_each_metric_that_is_read_together(
    tiny_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    dd = DataDecide(tiny_suite.data)
    every = dd.metrics()[::20]
    holder = dd._holder
    expected = {}
    for metric in every[:5]:
        table = holder(metric)
        assert table is not None
        others = [m for m in every if m != metric and holder(m) is table] if table.reads_complete_tasks else []
        expected[metric.name] = [metric, *others]
    assert max(map(len, expected.values())) > 50
    asked: list[str] = []
    monkeypatch.setattr(dd, "_holder", lambda metric: (asked.append(metric.name), holder(metric))[1])
    assert {m.name: dd.read_together(m, every) for m in every[:5]} == expected
    assert len(asked) <= len(every) + 5
    # Other metrics are grouped anew.
    assert dd.read_together(every[0], every[:3]) == [m for m in expected[every[0].name] if m in every[:3]]
