"""Files of every format give the same columns, and damaged ones are errors that name them."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import pickle
import random
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dde.errors import ConflictWarning, DdeError, FormatError, SourceError, UnknownNameError
from dde.sources.connection import Connection
from dde.suite.reading.arrow_tables import frame_content, is_frame
from dde.suite.reading.contents import Content
from dde.suite.reading.fields import encode_columns, parse_number
from dde.suite.reading.formats import file_format, open_content, parse_file
from dde.suite.reading.result_files import result_column, trainer_rows, with_keys
from dde.suite.reading.suite_files import Listing, SuiteFile, read_versions

STEPS = [0, 10, 20]
LOSSES = [9.25, float("nan"), 0.1 + 0.2]
FRAME = pd.DataFrame({"step": STEPS, "loss": LOSSES, "corpus": ["c4", None, "dolma, v1"]})


def found_file(folder: Path | str, name: str) -> SuiteFile:
    listing = Listing(Connection(folder))
    return listing.file(name, read_versions(listing, [name])[name])


def opened(folder: Path | str, name: str, declared: str | None = None) -> Content:
    return open_content(found_file(folder, name), file_format(name, declared))


def write_arrow_stream(path: Path) -> None:
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def json_rows() -> str:
    rows = FRAME.to_dict("records")
    # As Python's json writes them: NaN is not JSON, and trainers log it.
    return "".join(json.dumps({**row, "corpus": row["corpus"] or None}) + "\n" for row in rows)


WRITERS = {
    "a.csv": lambda path: FRAME.to_csv(path, index=False),
    "a.csv.gz": lambda path: path.write_bytes(gzip.compress(FRAME.to_csv(index=False).encode())),
    "a.csv.bz2": lambda path: path.write_bytes(bz2.compress(FRAME.to_csv(index=False).encode())),
    "a.tsv": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "marked.csv": lambda path: path.write_bytes(b"\xef\xbb\xbf" + FRAME.to_csv(index=False).encode()),
    "a.parquet": lambda path: FRAME.to_parquet(path, index=False),
    "a.jsonl": lambda path: path.write_text(json_rows()),
    "plain.jsonl": lambda path: path.write_text(json_rows().replace("NaN", "null")),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(json_rows().encode())),
    "a.feather": lambda path: feather.write_feather(FRAME, path),
    "a.arrow": write_arrow_stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_columns(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    content = opened(tmp_path, name)
    assert list(content.columns) == ["step", "loss", "corpus"]
    numbers = content.read_numbers(["loss", "step", "nothing"])
    assert set(numbers) == {"loss", "step"}
    np.testing.assert_array_equal(numbers["loss"].values, LOSSES)
    np.testing.assert_array_equal(numbers["step"].values, STEPS)
    assert not numbers["loss"].problems
    kinds = content.kinds()
    assert {name: kinds[name] for name in kinds} == {"step": "number", "loss": "number", "corpus": "text"}
    field = encode_columns([content.read(["corpus"])["corpus"]], [3], [content.untyped], [name])
    assert field.objects().tolist() == ["c4", "", "dolma, v1"]
    assert content.n_rows in (None, 3)


@pytest.mark.parametrize("name", WRITERS)
def test_formats_are_read_behind_urls(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    memory = fsspec.filesystem("memory")
    folder = f"/formats/{tmp_path.name}"
    memory.pipe(f"{folder}/{name}", (tmp_path / name).read_bytes())
    content = opened(f"memory:/{folder}", name)
    np.testing.assert_array_equal(content.read_numbers(["loss"])["loss"].values, LOSSES)
    assert pickle.loads(pickle.dumps(content)).read_numbers(["step"])["step"].values.tolist() == STEPS


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=30))
def test_csv_and_json_lines_keep_each_double(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    folder = tmp_path_factory.mktemp("exact")
    (folder / "a.csv").write_text("x\n" + "".join(f"{value!r}\n" for value in values))
    (folder / "a.jsonl").write_text("".join(json.dumps({"x": value}) + "\n" for value in values))
    for name in ("a.csv", "a.jsonl"):
        np.testing.assert_array_equal(opened(folder, name).read_numbers(["x"])["x"].values, values)


def test_csv_texts_among_numbers_are_counted_and_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('step,loss\n0,1.5\n1,N/A\n2,"2.5"\n3,oops\n4,inf\n')
    content = opened(tmp_path, "a.csv")
    loss = content.read_numbers(["loss"])["loss"]
    np.testing.assert_array_equal(loss.values, [1.5, np.nan, 2.5, np.nan, np.inf])
    assert loss.problems["is not a number"].tolist() == [False, False, False, True, False]
    assert content.kinds()["loss"] == "text"


def test_csv_values_may_hold_line_breaks_and_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"a, b",text\n1,"two\nlines"\n2,"x,y"\n')
    content = opened(tmp_path, "a.csv")
    assert list(content.columns) == ["a, b", "text"]
    assert content.read(["text"])["text"].to_pylist() == ["two\nlines", "x,y"]


def test_a_declared_format_counts_before_the_name(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("step\tloss\n0\t1.5\n")
    assert opened(tmp_path, "log.txt", "tsv").read_numbers(["loss"])["loss"].values.tolist() == [1.5]
    (tmp_path / "data").write_bytes((tmp_path / "log.txt").read_bytes().replace(b"\t", b","))
    assert opened(tmp_path, "data", "csv").read_numbers(["loss"])["loss"].values.tolist() == [1.5]


def test_two_columns_of_one_name_are_refused_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("step,loss,loss\n0,1,2\n")
    content = opened(tmp_path, "a.csv")
    assert content.read_numbers(["step"])["step"].values.tolist() == [0]
    with pytest.raises(FormatError, match=r"a\.csv has 2 columns 'loss'.*ambiguous"):
        content.read_numbers(["loss"])


DAMAGED = {
    "empty.csv": (b"", "is empty"),
    "short.csv": (b"step,loss\n0,1\n1\n", "not readable CSV.*2 columns, got 1"),
    "latin.csv": b"step,corpus\n0,caf\xe9\n",
    "cut.csv.gz": (gzip.compress(b"step,loss\n" + os.urandom(4096))[:200], "can't be decompressed"),
    "no.csv.gz": (b"step,loss\n0,1\n", "can't be decompressed"),
    "empty.jsonl": (b"", "is empty"),
    "cut.jsonl": (b'{"step": 0}\n{"step": 1, "lo', "line 2, is not a JSON object"),
    "list.jsonl": (b"[1, 2]\n", "line 1, is not a JSON object"),
    "no.arrow": (b"ARROW1\0\0 and nothing of Arrow", "not a readable Arrow file"),
    "empty.feather": (b"", "not a readable Arrow file"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_errors_that_name_them(tmp_path: Path, name: str) -> None:
    found = DAMAGED[name]
    content, message = found if isinstance(found, tuple) else (found, "not readable CSV|UTF-8")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        opened(tmp_path, name).read(["step", "loss", "corpus"])
    assert name in str(caught.value)


def test_a_damaged_parquet_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-20])
    with pytest.raises(FormatError, match=r"a\.parquet is not a readable parquet file"):
        opened(tmp_path, "a.parquet")


def test_json_lines_of_mixed_types_and_nested_objects(tmp_path: Path) -> None:
    rows = [
        {"step": 0, "eval": {"loss": 2, "deep": {"x": 1.5}}, "day": "2024-01-01", "mixed": 1},
        {"step": 1, "eval": {"loss": 2.5}, "day": "2024-01-02", "mixed": "NaN"},
        {"step": 9007199254740993, "mixed": 0.1},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    content = opened(tmp_path, "a.jsonl")
    numbers = content.read_numbers(["eval.loss", "eval.deep.x", "mixed"])
    np.testing.assert_array_equal(numbers["eval.loss"].values, [2, 2.5, np.nan])
    np.testing.assert_array_equal(numbers["eval.deep.x"].values, [1.5, np.nan, np.nan])
    np.testing.assert_array_equal(numbers["mixed"].values, [1, np.nan, 0.1])
    assert not numbers["mixed"].problems
    assert content.read(["day"])["day"].to_pylist() == ["2024-01-01", "2024-01-02", None]
    # More digits than a double has: as a counter it stays exact.
    assert content.read(["step"])["step"].to_pylist()[2] == 9007199254740993


def test_dates_of_json_lines_stay_the_texts_that_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"run": "2024-01-01", "x": 1}\n{"run": "2024-01-02T00:00:00", "x": 2}\n')
    assert opened(tmp_path, "a.jsonl").read(["run"])["run"].to_pylist() == ["2024-01-01", "2024-01-02T00:00:00"]


@pytest.mark.parametrize("name", [*WRITERS, "trainer_state.json", "results.json"])
def test_damage_of_any_kind_is_an_error_of_dde_or_none(tmp_path: Path, name: str) -> None:
    if name in WRITERS:
        WRITERS[name](tmp_path / name)
    else:
        content = {"log_history": [{"step": 1, "loss": 0.5}]} if name == "trainer_state.json" else OLD_RESULTS
        (tmp_path / name).write_text(json.dumps(content))
    whole = (tmp_path / name).read_bytes()
    chance = random.Random(name)
    refused: list[str] = []
    for _ in range(40):
        damaged = bytearray(whole)
        if chance.random() < 0.4:
            damaged = damaged[: chance.randrange(len(whole))]
        for _ in range(chance.choice([0, 1, 3, 20])):
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            if name in WRITERS:
                content = opened(tmp_path, name)
                content.read_numbers(content.columns)
                encode_columns([content.read(["corpus"]).get("corpus")], [3], [content.untyped], [name])
            else:
                kind = "trainer_state" if name == "trainer_state.json" else "lm_eval"
                parse_file(found_file(tmp_path, name), kind)
        except DdeError as error:
            refused.append(str(error))
    assert len(refused) > 5
    assert all(name in message for message in refused)


# Results of lm-evaluation-harness

OLD_RESULTS = {
    "results": {
        "piqa": {"acc": 0.7, "acc_stderr": 0.01, "acc_norm": 0.75, "acc_norm_stderr": 0.01},
        "lambada_openai": {"ppl": 5, "ppl_stderr": 0.2, "acc": 0.5},
    },
    "versions": {"piqa": 0},
    "config": {"num_fewshot": 0},
}
NEW_RESULTS = {
    "results": {
        "piqa": {"alias": "piqa", "acc,none": 0.7, "acc_stderr,none": 0.01, "acc_norm,none": 0.75},
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.25,
            "exact_match_stderr,strict-match": 0.02,
            "exact_match,flexible-extract": 0.5,
        },
        "mmlu": {"alias": "mmlu", "acc,none": 0.3, "acc_stderr,none": "N/A"},
    },
    "groups": {"mmlu": {"acc,none": 0.3, "alias": "mmlu"}, "all": {"acc,none": 0.6}},
    "n-shot": {"piqa": 0},
    "versions": {"piqa": 1},
}


def results(folder: Path, content: object) -> dict[str, float]:
    (folder / "results.json").write_text(json.dumps(content))
    file = found_file(folder, "results.json")
    keyed = with_keys(parse_file(file, "lm_eval"), lambda fields: f"{fields['task']}/{fields['metric']}", file.path)
    return dict(zip(keyed.columns, keyed.values[:, 0].tolist(), strict=True))


def test_old_results_of_the_harness(tmp_path: Path) -> None:
    assert results(tmp_path, OLD_RESULTS) == {
        "piqa/acc": 0.7,
        "piqa/acc_stderr": 0.01,
        "piqa/acc_norm": 0.75,
        "piqa/acc_norm_stderr": 0.01,
        "lambada_openai/ppl": 5.0,
        "lambada_openai/ppl_stderr": 0.2,
        "lambada_openai/acc": 0.5,
    }


def test_new_results_of_the_harness(tmp_path: Path) -> None:
    assert results(tmp_path, NEW_RESULTS) == {
        "mmlu/acc": 0.3,
        "all/acc": 0.6,
        "piqa/acc": 0.7,
        "piqa/acc_stderr": 0.01,
        "piqa/acc_norm": 0.75,
        "gsm8k/exact_match_strict-match": 0.25,
        "gsm8k/exact_match_strict-match_stderr": 0.02,
        "gsm8k/exact_match_flexible-extract": 0.5,
    }


def test_results_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"results": {"a": {"acc": "high", "f1": 0.5}, "b": 3}}))
    parsed = parse_file(found_file(tmp_path, "r.json"), "lm_eval")
    assert parsed.columns == (result_column("a", "f1"),)
    [note] = parsed.notes
    assert note.startswith("2 results of")


def test_a_key_that_two_results_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(OLD_RESULTS))
    file = found_file(tmp_path, "r.json")
    with pytest.raises(FormatError, match=r"two results of the key 'piqa'.*acc.*acc_stderr.*key="):
        with_keys(parse_file(file, "lm_eval"), lambda fields: str(fields["task"]), file.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"results": {"a"', "is not valid JSON|is not JSON"),
        ("[1]", "is not a JSON object"),
        ("{}", "no object 'results'"),
    ],
)
def test_files_without_results_are_errors(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(FormatError, match=message):
        parse_file(found_file(tmp_path, "r.json"), "lm_eval")


# State of a trainer


def test_rows_of_a_trainer_are_joined_by_step(tmp_path: Path) -> None:
    log = [
        {"epoch": 0.5, "step": 10, "loss": 2.0, "learning_rate": 1e-4},
        {"epoch": 0.5, "step": 10, "eval_loss": 2.1, "eval_runtime": 3.0},
        {"epoch": 1.0, "step": 20, "loss": float("nan"), "learning_rate": 0.0},
        {"epoch": 1.0, "step": 20, "train_runtime": 99.0, "train_loss": 1.5, "total_flos": 1e15},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log, "global_step": 20}))
    parsed = parse_file(found_file(tmp_path, "trainer_state.json"), file_format("trainer_state.json", None))
    frame = pd.DataFrame(parsed.values.T, columns=list(parsed.columns))
    assert sorted(frame.columns) == ["epoch", "eval_loss", "eval_runtime", "learning_rate", "loss", "step"]
    np.testing.assert_array_equal(frame["step"], [10, 20])
    np.testing.assert_array_equal(frame["eval_loss"], [2.1, np.nan])
    np.testing.assert_array_equal(frame["loss"], [2.0, np.nan])


def test_values_of_one_step_that_differ_are_reported() -> None:
    log = [{"step": 10, "eval_loss": 2.0}, {"step": 10, "eval_loss": 2.5}, {"step": 10, "eval_loss": 2.0, "note": "x"}]
    with pytest.warns(ConflictWarning, match=r"eval_loss at step 10: 2\.0 and 2\.5"):
        rows = trainer_rows(log, "the log")
    assert rows.values.tolist() == [[10.0], [2.0]]
    assert len(rows.notes) == 2


@pytest.mark.parametrize("content", [{}, {"log_history": {}}, {"log_history": [1]}, {"log_history": [{"loss": 1}]}])
def test_files_without_a_log_are_errors(tmp_path: Path, content: object) -> None:
    (tmp_path / "trainer_state.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"trainer_state\.json"):
        parse_file(found_file(tmp_path, "trainer_state.json"), "trainer_state")


# Frames


class WithStream:
    """Stands for polars and DuckDB: Arrow's C stream and nothing else."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        FRAME.set_index("step"),
        FRAME.to_dict("list"),
        FRAME.to_dict("records"),
        pa.Table.from_pandas(FRAME),
        WithStream(pa.Table.from_pandas(FRAME)),
    ],
    ids=["pandas", "index", "mapping", "rows", "arrow", "stream"],
)
def test_frames_of_every_kind(frame: object) -> None:
    assert is_frame(frame)
    content = frame_content(frame, "the frame")
    for read in (content, pickle.loads(pickle.dumps(content))):
        np.testing.assert_array_equal(read.read_numbers(["loss"])["loss"].values, LOSSES)
        assert read.read_numbers(["step"])["step"].values.tolist() == STEPS
        assert read.n_rows == 3
    assert content.kinds()["corpus"] == "text"


def test_a_column_of_mixed_types_fails_when_it_is_asked_for() -> None:
    content = frame_content(pd.DataFrame({"step": [0, 1], "odd": [1, "x"]}), "the frame of tables[0]")
    assert content.read_numbers(["step"])["step"].values.tolist() == [0, 1]
    assert content.kinds() == {"step": "number", "odd": "text"}
    for read in (content, pickle.loads(pickle.dumps(content))):
        with pytest.raises(FormatError, match=r"'odd' of the frame of tables\[0\]"):
            read.read(["odd"])
        assert read.read_numbers(["step"])["step"].values.tolist() == [0, 1]


def test_frames_that_are_none_are_errors() -> None:
    with pytest.raises(FormatError, match="different numbers of rows"):
        frame_content({"a": [1], "b": [1, 2]}, "the frame")
    with pytest.raises(FormatError, match="occur more than once"):
        frame_content(pd.DataFrame([[1, 2]], columns=["a", "a"]), "the frame")


# Names of formats, and finding files


def test_formats_by_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean parquet"):
        file_format("a.csv", "parquett")
    with pytest.raises(FormatError, match="lm_eval"):
        file_format("results.json", None)
    with pytest.raises(FormatError, match="implies no format"):
        file_format("data.bin", None)


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("step\n0\n")


def test_globs_find_files_and_say_what_else_is_there(tmp_path: Path) -> None:
    make_files(tmp_path, "a/1.csv", "a/x.txt", "a/.hidden.csv", "b/deep/2.csv", "b/deep/er/3.csv", "c/4.csv")
    listing = Listing(Connection(tmp_path))
    assert listing.find("a/*.csv") == ["a/1.csv"]
    assert listing.find("b/**/*.csv") == ["b/deep/2.csv", "b/deep/er/3.csv"]
    assert listing.find("a/1.csv") == ["a/1.csv"]
    assert listing.find("a/2.csv") == []
    listing.take(["a/1.csv", "b/deep/2.csv"])
    files, folders = listing.unmatched()
    assert files == ["a/x.txt", "b/deep/er/3.csv"]
    assert folders == ["c"]
    listing = Listing(Connection(tmp_path))
    assert listing.find("[ab]/*.csv") == ["a/1.csv"]
    listing.take(["a/1.csv"])
    assert listing.unmatched() == (["a/x.txt"], ["b/deep", "c"])


def test_remote_and_local_listings_agree(tmp_path: Path) -> None:
    names = ["a/1.csv", "a/x.txt", "b/deep/2.csv", "b/deep/er/3.csv", "top.csv", "b/.hidden/5.csv"]
    make_files(tmp_path, *names)
    memory = fsspec.filesystem("memory")
    for name in names:
        memory.pipe(f"/listing/{tmp_path.name}/{name}", b"step\n0\n")
    local, remote = Listing(Connection(tmp_path)), Listing(Connection(f"memory://listing/{tmp_path.name}"))
    for glob in ("*.csv", "*/*.csv", "**/*.csv", "b/**", "b/**/er/*.csv", "a/1.csv", "nothing/*.csv"):
        assert local.find(glob) == remote.find(glob), glob


def test_links_that_go_round_in_a_circle_end(tmp_path: Path) -> None:
    make_files(tmp_path, "a/1.csv")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "self.csv").symlink_to("self.csv")
    listing = Listing(Connection(tmp_path))
    assert listing.find("**/*.csv") == ["a/1.csv", "a/self.csv"]
    with pytest.raises(SourceError, match=r"self\.csv is a link and can't be read"):
        read_versions(listing, ["a/self.csv"])


def test_links_to_nothing_among_folders_are_named(tmp_path: Path) -> None:
    make_files(tmp_path, "a/1.csv", "note.txt")
    (tmp_path / "b").symlink_to(tmp_path / "gone", target_is_directory=True)
    (tmp_path / "c").symlink_to("c", target_is_directory=True)
    listing = Listing(Connection(tmp_path))
    listing.take(listing.find("*/*.csv"))
    assert listing.unmatched() == (["b", "c"], [])


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may enter every folder")
def test_a_folder_that_may_not_be_entered_is_an_error(tmp_path: Path) -> None:
    make_files(tmp_path, "a/1.csv", "b/2.csv")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(SourceError, match="b' can't be listed"):
            Listing(Connection(tmp_path)).find("*/*.csv")
    finally:
        (tmp_path / "b").chmod(0o700)


def test_a_folder_that_is_absent_or_a_file_is_an_error(tmp_path: Path) -> None:
    make_files(tmp_path, "a.csv")
    with pytest.raises(SourceError, match="does not exist"):
        Listing(Connection(tmp_path / "nothing"))
    with pytest.raises(SourceError, match="is not a folder"):
        Listing(Connection(tmp_path / "a.csv"))


def test_errors_of_urls_show_no_password() -> None:
    with pytest.raises(SourceError) as caught:
        Listing(Connection("http://ada:topsecret@127.0.0.1:9/suite")).find("*.csv")
    assert "topsecret" not in str(caught.value)


def test_texts_that_stand_for_numbers() -> None:
    assert [parse_number(text) for text in ("0", "-3", "1.50", "1e+16", ".5")] == [0, -3, 1.5, 1e16, 0.5]
    # Ids: nothing of them may be lost.
    ids = ("007", "1e5", "1_000", "0x10", "", "nan", "inf", "9" * 19, "٣", " 1")
    assert [parse_number(text) for text in ids] == [None] * len(ids)


def test_a_column_is_of_numbers_where_all_files_say_so() -> None:
    texts = [pa.chunked_array([["1", "2.50", None]]), pa.chunked_array([["NaN"]])]
    field = encode_columns(texts, [3, 1], [True, True], ["a", "b"])
    assert field.values == (1, 2.5)
    assert field.codes.tolist() == [0, 1, -1, -1]
    field = encode_columns([*texts, pa.chunked_array([["1B"]])], [3, 1, 1], [True] * 3, ["a", "b", "c"])
    assert field.values == ("1", "2.50", "NaN", "1B")
    field = encode_columns([pa.chunked_array([[10.0, float("nan")]]), texts[0]], [2, 3], [False, True], ["a", "b"])
    assert field.values == (10.0, 1, 2.5)
    # Of typed columns, a text of digits is a text.
    assert encode_columns([texts[0]], [3], [False], ["a"]).values == ("1", "2.50")
    with pytest.raises(FormatError, match="neither a text nor a number"):
        encode_columns([pa.chunked_array([[[1]]])], [1], [False], ["a"])


def test_parquet_is_read_by_column(tmp_path: Path) -> None:
    table = pa.table({"step": STEPS, "broken": [{"a": 1}] * 3, "flag": [True, False, None]})
    pq.write_table(table, tmp_path / "a.parquet")
    content = opened(tmp_path, "a.parquet")
    assert content.kinds() == {"step": "number", "broken": "text", "flag": "text"}
    assert list(content.read(["step"])) == ["step"]
    flags = encode_columns([content.read(["flag"])["flag"]], [3], [False], ["flag"])
    assert flags.objects().tolist() == ["True", "False", ""]
