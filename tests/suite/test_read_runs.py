"""Declared suites are read as they say; what does not fit is an error, or left out and counted."""

from __future__ import annotations

import csv
import itertools
import json
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dde import Metric, Suite, Table
from dde.errors import ConflictWarning, DdeWarning, FormatError, SourceError, UnknownNameError
from dde.suite.reading.arrow_tables import ParquetFile
from dde.suite.reading.counters import tokens_at_steps
from dde.suite.reading.read_runs import DeclaredRuns, SuiteTables
from dde.suite.reading.text_tables import CsvFile
from http_server import running_http
from samples import SUITES, sample_folder

LOSS = {"loss": Metric("loss", "nats", "lower")}


def real_suite(name: str, folder: str) -> SuiteTables:
    from dde.suite.builtin import suites

    return SuiteTables(suites[name], sample_folder(f"suites/{folder}"))


def one_table(tmp_path: Path, files: Mapping[str, Any], pattern: str, **declared: Any) -> SuiteTables:
    """Write files, a frame or a text each, and return the suite of one table that reads them."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else pd.DataFrame(content).to_csv(index=False)
        (tmp_path / name).write_text(text)
    of_table = {
        key: declared.pop(key)
        for key in ("format", "parse", "where", "factors", "key", "value", "parent", "at")
        if key in declared
    }
    declared.setdefault("lineage", "{size}")
    declared.setdefault("run_id", "{size}")
    return SuiteTables(Suite("trial", tables=[Table(pattern, **of_table)], **declared), tmp_path)


def exact_frame(path: Path) -> pd.DataFrame:
    """Return a CSV of numbers with each of them as Python reads it: older pandas rounds some wrongly."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return pd.DataFrame([[float(text) if text else np.nan for text in row] for row in rows], columns=header)


def ends(runs: DeclaredRuns) -> dict[str, tuple[int, int]]:
    last = runs.row_offsets[1:] - 1
    return dict(zip(runs.run_ids, zip(runs.step[last].tolist(), runs.tokens[last].tolist(), strict=True), strict=True))


# Real suites


def test_the_ladder_has_its_runs_with_their_ends() -> None:
    tables = real_suite("olmo_ladder", "olmo_ladder")
    cosine, constant, decay = tables.runs()
    assert [len(runs.run_ids) for runs in (cosine, constant, decay)] == [30, 5, 25]
    assert [runs.run_type for runs in (cosine, constant, decay)] == ["cosine", "constant", "decay"]
    sizes = ("190M", "370M", "760M", "1B", "3B")
    steps = (72_625, 94_427, 115_706, 162_694, 201_524)
    tokens = (38_076_416_000, 74_260_414_464, 151_658_168_320, 255_895_535_616, 633_939_689_472)
    trunks = {f"constant/{s}-10xC": (n, t) for s, n, t in zip(sizes, steps, tokens, strict=True)}
    assert ends(constant) == trunks
    assert ends(decay)["decay/190M-1xC"] == (7_272, 3_812_622_336)
    first = decay.step[decay.row_offsets[decay.run_ids.index("decay/190M-1xC")]]
    assert first == 6_100
    assert set(decay.parents) == {((f"constant/{size}-10xC", "checkpoint", None),) for size in sizes}
    assert sorted(set(cosine.fields["budget"].tolist())) == [0.5, 1.0, 2.0, 5.0, 10.0]
    assert set(cosine.fields["rerun"].tolist()) == {"", "-rerun"}
    assert constant.n_params[constant.run_ids.index("constant/190M-10xC")] == 190_354_176
    assert all(runs.counts == "cumulative" for runs in (cosine, constant, decay))
    assert tables.left_out == {"files that no pattern names": 12}
    assert "cosine/peteish" in tables.notes[0]


def test_the_ladder_opens_within_a_second() -> None:
    real_suite("olmo_ladder", "olmo_ladder").runs()
    begun = time.perf_counter()
    tables = real_suite("olmo_ladder", "olmo_ladder")
    tables.runs()
    tables.metrics()
    # 0.1 s on an idle core; one and a half is what opening may take.
    assert time.perf_counter() - begun < 1.5


def test_each_value_of_the_ladder_is_that_of_its_file() -> None:
    tables = real_suite("olmo_ladder", "olmo_ladder")
    known = tables.metrics()
    assert known["c4_en_loss"].units == "nats"
    assert known["c4_en_loss"].source_name == "eval/c4_en-validation/CrossEntropyLoss"
    assert known["lr_at_step"].kind == "log"
    for runs in tables.runs():
        values = tables.values_of(list(known), runs)
        for number, run_id in enumerate(runs.run_ids):
            frame = exact_frame(SUITES / "olmo_ladder" / f"{run_id}.csv").sort_values("_step", kind="stable")
            rows = slice(runs.row_offsets[number], runs.row_offsets[number + 1])
            np.testing.assert_array_equal(runs.step[rows], frame["_step"])
            np.testing.assert_array_equal(runs.tokens[rows], frame["throughput/total_tokens"].astype(np.int64))
            for name, metric in known.items():
                np.testing.assert_array_equal(values[name][rows], frame[metric.source_name], err_msg=f"{run_id} {name}")


def test_each_value_of_pythia_is_that_of_its_json(tmp_path: Path) -> None:
    tables = real_suite("pythia", "pythia")
    pretraining, five_shot, intervention = tables.runs()
    assert ends(pretraining) == dict.fromkeys(pretraining.run_ids, (143_000, 299_892_736_000))
    assert not five_shot.run_ids
    assert dict(zip(intervention.run_ids, intervention.parents, strict=True))["1.4b-deduped-intervention-long"] == (
        ("1.4b-deduped-pretraining", "step", 113_000),
    )
    known = tables.metrics()
    assert known["piqa_acc_stderr"].stderr_of == "piqa_acc"
    assert known["lambada_openai_ppl"].direction == "lower"
    compared = 0
    for runs, folder in ((pretraining, "zero-shot"), (intervention, "intervention")):
        values = tables.values_of(list(known), runs)
        by_key = {metric.keys[runs.table]: name for name, metric in known.items()}
        for number, run_id in enumerate(runs.run_ids):
            size, _, kind = run_id.rpartition("-pretraining" if folder == "zero-shot" else "-intervention")
            stem = size if folder == "zero-shot" else f"intervention-{size}{kind}"
            for row in range(runs.row_offsets[number], runs.row_offsets[number + 1]):
                path = SUITES / "pythia" / f"pythia-{size}" / folder / f"{stem}_step{runs.step[row]}.json"
                results = json.loads(path.read_text())["results"]
                for task, of_task in results.items():
                    for metric, value in of_task.items():
                        assert values[by_key[f"{task}/{metric}"]][row] == value
                        compared += 1
    assert compared > 50_000


def test_olmo3_has_three_rows_where_a_stage_has_three_runs() -> None:
    tables = real_suite("olmo3_32b", "olmo3_checkpoints")
    trunk, ingredients, soup, long, long_soup = tables.runs()
    assert [int(np.diff(runs.row_offsets).sum()) for runs in tables.runs()] == [680, 48, 1, 12, 1]
    assert ends(trunk)["stage1_pretraining"][1] == 5_695_864_832_000
    assert [t - 5_695_864_832_000 for _, t in ends(ingredients).values()] == [95_806_291_968] * 2
    assert ends(soup)["stage2_midtraining_souped"][1] == 5_887_477_415_936
    assert ends(long)["stage3_longcontext"][1] == 5_979_089_403_904
    assert ingredients.fields["ingredient"].tolist() == [1, 2]
    assert soup.parents[0] == tuple((f"stage2_midtraining_ingredient{i}", "end", None) for i in (1, 2))
    assert long_soup.parents[0] == tuple(("stage3_longcontext", "step", step) for step in (11921, 11000, 10000))
    assert tables.left_out == {}
    # A pattern that is the column's own name makes a metric of a counter.
    np.testing.assert_array_equal(tables.values("tokens_listed", trunk), trunk.tokens)


# Tokens


def rows(n: int = 4) -> dict[str, list[float]]:
    return {"step": [10.0 * i for i in range(n)], "loss": [9.0 - i for i in range(n)]}


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"per_step": 4}, [0, 40, 80, 120]),
        ({"per_step": [[0, 4], [20, 8]]}, [0, 40, 80, 160]),
        ({"per_step": {"size": {"1B": 4, "7B": 16}}}, [0, 40, 80, 120]),
        ("step * batch", [0, 20, 40, 60]),
        ("0 * step", [0, 0, 0, 0]),
        (lambda values: values["step"] * 3, [0, 30, 60, 90]),
    ],
)
def test_tokens_are_counted_as_declared(tmp_path: Path, tokens: Any, expected: list[int]) -> None:
    tables = one_table(tmp_path, {"1B.csv": {**rows(), "batch": 2}}, "{size}.csv", tokens=tokens, metrics=LOSS)
    [runs] = tables.runs()
    assert runs.tokens.dtype == np.int64
    assert runs.tokens.tolist() == expected
    assert tables.values("loss", runs).tolist() == [9.0, 8.0, 7.0, 6.0]


@given(
    pieces=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 10**6)), min_size=1, max_size=5),
    steps=st.lists(st.integers(0, 400), min_size=1, max_size=20),
)
def test_pieces_are_the_sum_of_their_steps(pieces: list[tuple[int, int]], steps: list[int]) -> None:
    starts = np.cumsum([0, *(length for length, _ in pieces)])[:-1].tolist()
    declared = [[start, rate] for start, (_, rate) in zip(starts, pieces, strict=True)]
    rate_at = [next(rate for start, rate in reversed(declared) if start <= step) for step in range(401)]
    found = tokens_at_steps(declared, np.array(steps, np.int64), "tokens")
    assert found.tolist() == [sum(rate_at[:step]) for step in steps]


def test_a_value_without_tokens_is_an_error_that_names_it(tmp_path: Path) -> None:
    tables = one_table(
        tmp_path, {"13B.csv": rows()}, "{size}.csv", tokens={"per_step": {"size": {"1B": 4, "3B": 8}}}, metrics=LOSS
    )
    with pytest.raises(UnknownNameError, match=r"size='13B'.*13B\.csv.*Did you mean 3B.*'1B', '3B'"):
        tables.runs()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("step / 3", r"3\.33.* in row 1 of .*1B\.csv, which is not a whole number.*2 rows"),
        ("step - 15", r"-15\.0 in row 0 of .*is below 0"),
        ("step * 1e15", r"1e\+16 .*is above 2\*\*53"),
        ("loss_text", r"none of 4 rows, such as row 0 of .*1B\.csv, has a usable tokens \(it is not a number in 4\)"),
        ("stepp * 2", r"'stepp'.*Did you mean step"),
        ({"per_step": 2**60}, "more tokens than int64"),
    ],
)
def test_counters_that_are_no_whole_numbers_are_refused(tmp_path: Path, tokens: Any, message: str) -> None:
    files = {"1B.csv": {**rows(), "loss_text": list("abcd")}}
    with pytest.raises((FormatError, UnknownNameError), match=message):
        one_table(tmp_path, files, "{size}.csv", tokens=tokens, metrics=LOSS).runs()


@pytest.mark.parametrize(
    ("per_step", "message"),
    [
        ([[10, 4]], "Begin with step 0"),
        ([[0, 4], [20, 8], [20, 9]], "ascending order"),
        ([], "begin at nothing"),
        ([4, 8], "4 is not a piece"),
        (2.5, r"2\.5 is not a whole number"),
        (-1, "-1 is not a whole number"),
    ],
)
def test_tokens_of_steps_that_are_none_are_errors(per_step: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        tokens_at_steps(per_step, np.array([0, 10]), "tables[0].tokens")


def test_counters_of_more_digits_than_a_double_stay_exact(tmp_path: Path) -> None:
    step, tokens = 2**53 + 1, 2**62 + 1
    tables = one_table(tmp_path, {"1B.csv": f"step,tokens\n0,0\n{step},{tokens}\n"}, "{size}.csv", metrics=LOSS)
    assert ends(tables.runs()[0]) == {"1B": (step, tokens)}


def test_rows_without_a_place_are_left_out_and_counted(tmp_path: Path) -> None:
    text = "step,tokens,loss\n0,0,9\n,10,8\n2,NaN,7\n3,30,6\n4.5,40,5\n-1,50,4\n"
    tables = one_table(tmp_path, {"1B.csv": text}, "{size}.csv", metrics=LOSS)
    [runs] = tables.runs()
    assert runs.step.tolist() == [0, 3]
    assert tables.values("loss", runs).tolist() == [9.0, 6.0]
    assert tables.left_out == {
        "rows whose step is missing, in tables[0]": 1,
        "rows whose step is not a whole number, in tables[0]": 1,
        "rows whose step is below 0, in tables[0]": 1,
        "rows whose tokens is missing, in tables[0]": 1,
    }


def test_files_without_any_place_are_named(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(), "tokens": 0}, "3B.csv": {**rows(), "tokens": np.nan}}
    tables = one_table(tmp_path, files, "{size}.csv", metrics=LOSS)
    assert tables.runs()[0].run_ids == ("1B",)
    assert tables.left_out == {
        "rows whose tokens is missing, in tables[0]": 4,
        "files of which no row has a usable tokens (3B.csv), in tables[0]": 1,
    }


def test_a_file_without_a_column_of_the_rule_is_an_error(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(), "batch": 2}, "3B.csv": {**rows(), "batches": 2}}
    tables = one_table(tmp_path, files, "{size}.csv", tokens="step * batch", metrics=LOSS)
    with pytest.raises(FormatError, match=r"3B\.csv has no column 'batch', which .*tokens.*Did you mean batches"):
        tables.runs()


def test_names_of_any_signs_are_read(tmp_path: Path) -> None:
    odd = "a [1]#?*{x}é\n"
    files = {f"[{size}] #?.csv": {**rows(), "tokens": 0, odd: 0.5, "id {}": "r{un}\u2028"} for size in ("1B", "3B")}
    tables = one_table(tmp_path, files, "[{size}] #?.csv", factors={"who": "`id {}`"}, run_id="{size}/{who}")
    [runs] = tables.runs()
    assert runs.run_ids == ("1B/r{un}\u2028", "3B/r{un}\u2028")
    [name] = set(tables.metrics()) - {"loss"}
    assert name.isidentifier()
    assert tables.metrics()[name].source_name == odd
    assert tables.values(name, runs).tolist() == [0.5] * 8


def test_a_file_without_the_counter_is_an_error(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(), "tokens": 0}, "3B.csv": rows()}
    with pytest.raises(FormatError, match=r"3B\.csv has no column 'tokens', which tables\[0\]\.tokens names"):
        one_table(tmp_path, files, "{size}.csv", metrics=LOSS).runs()


# Runs, fields, parents


def test_steps_out_of_order_are_sorted_and_values_follow(tmp_path: Path) -> None:
    files = {"1B.csv": {"step": [20, 0, 10], "tokens": [80, 0, 40], "loss": [7.0, 9.0, 8.0]}}
    tables = one_table(tmp_path, files, "{size}.csv", metrics=LOSS)
    [runs] = tables.runs()
    assert runs.step.tolist() == [0, 10, 20]
    assert tables.values("loss", runs).tolist() == [9.0, 8.0, 7.0]


def test_repeated_steps_take_the_first_value(tmp_path: Path) -> None:
    # A training row and an evaluation row of one step, an identical repeat, and one that differs.
    text = "step,tokens,loss,acc\n0,0,9,\n0,0,,0.5\n1,4,8,0.6\n1,4,8,0.6\n2,8,7,\n2,8,7.5,0.7\n"
    tables = one_table(tmp_path, {"1B.csv": text}, "{size}.csv", metrics={**LOSS, "acc": Metric("acc", "1", "higher")})
    [runs] = tables.runs()
    assert runs.step.tolist() == [0, 1, 2]
    assert tables.notes == ["3 rows of tables[0] repeat a step of their run; each metric takes the first value there"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tables.values("acc", runs).tolist() == [0.5, 0.6, 0.7]
    with pytest.warns(ConflictWarning, match=r"1 values of loss differ.*'1B' at step 2: 7\.0, 7\.5"):
        assert tables.values("loss", runs).tolist() == [9.0, 8.0, 7.0]
    assert tables.left_out == {"values of loss that differ from the first of their step": 1}


def test_other_tokens_at_a_repeated_step_are_reported(tmp_path: Path) -> None:
    text = "step,tokens,loss\n0,0,9\n1,4,8\n1,5,8\n"
    tables = one_table(tmp_path, {"1B.csv": text}, "{size}.csv", metrics=LOSS)
    with pytest.warns(ConflictWarning, match=r"4 in row 1 of .*1B\.csv, 5 in row 2"):
        [runs] = tables.runs()
    assert runs.tokens.tolist() == [0, 4]


def test_the_toml_of_the_contract_reads_jsonl_branches(tmp_path: Path) -> None:
    (tmp_path / "trunks").mkdir()
    (tmp_path / "cooldowns").mkdir()
    trunk = pd.DataFrame({"step": [0, 1000, 2000], "tokens": [0, 10**10, 2 * 10**10], "loss": [9.0, 4, 3]})
    trunk["n_non_embedding"] = 1_000_000
    trunk.to_csv(tmp_path / "trunks" / "c4-1M.csv", index=False)
    lines = [
        {"corpus": "c4", "size": "1M", "step": 1000, "tokens": 10**10, "loss": 4.0, "n_non_embedding": 1_000_000},
        {"corpus": "c4", "size": "1M", "step": 1100, "tokens": 11 * 10**9, "loss": 3.5, "n_non_embedding": 1_000_000},
    ]
    (tmp_path / "cooldowns" / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "suite.toml").write_text(
        """
        name = "two_corpora"
        lineage = "{corpus}-{size}"
        run = { pretraining = "pretraining", cooldown = "cooldown@{at_b}B" }
        run_id = "{corpus}-{size}"
        counts = "cumulative"
        n_params = "n_non_embedding"
        metrics.loss = { name = "loss", units = "nats", direction = "lower" }
        [[tables]]
        files = "trunks/{corpus}-{size}.csv"
        [[tables]]
        files = "cooldowns/*.jsonl"
        run_type = "cooldown"
        run_id = "{corpus}-{size}@{at_b}B"
        factors.at_b = "10 * round(tokens / 1e10)"
        parent = "{corpus}-{size}"
        at = "first_row"
        """
    )
    tables = SuiteTables(Suite.from_toml(tmp_path / "suite.toml"), tmp_path)
    trunks, cooldowns = tables.runs()
    assert trunks.run_ids == ("c4-1M",)
    assert cooldowns.run_ids == ("c4-1M@10B",)
    assert cooldowns.fields["at_b"].tolist() == [10.0]
    assert cooldowns.parents == ((("c4-1M", "first_row", None),),)
    assert cooldowns.n_params.tolist() == [1e6]
    assert tables.values("loss", cooldowns).tolist() == [4.0, 3.5]
    assert list(tables.metrics()) == ["loss"]


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run_id": ["a"] * 3 + ["b"] * 2 + ["c"] * 2,
            "width": [64] * 7,
            "seed": [1] * 7,
            "lr": [0.1] * 3 + [1e-5] * 2 + [0.5] * 2,
            "step": [0, 10, 20, 12, 14, 10, 30],
            "tokens": [0, 40, 80, 8, 16, 0, 80],
            "n_params": [1000] * 7,
            "parent": [""] * 3 + ["a"] * 2 + ["a"] * 2,
            "at": [np.nan] * 3 + [10] * 2 + [20] * 2,
            "val_loss": np.arange(7) / 8,
        }
    )


def test_the_frame_of_the_contract() -> None:
    suite = Suite.from_frame(
        frame(), run="run_id", lineage="w{width}-s{seed}", label="lr={lr}", step="step", tokens="tokens",
        n_params="n_params", parent="{parent}", at={"step": "at"}, counts="own",
        metrics={"val_loss": Metric("val_loss", "nats", "lower")},
    )  # fmt: skip
    tables = SuiteTables(suite)
    [runs] = tables.runs()
    assert runs.run_ids == ("a", "b", "c")
    assert runs.row_offsets.tolist() == [0, 3, 5, 7]
    assert runs.parents == ((), (("a", "step", 10),), (("a", "step", 20),))
    assert runs.fields["lr"].tolist() == [0.1, 1e-5, 0.5]
    assert runs.fields["width"].tolist() == [64, 64, 64]
    assert runs.n_params.tolist() == [1000.0] * 3
    assert runs.counts == "own"
    assert tables.values("val_loss", runs).tolist() == (np.arange(7) / 8).tolist()
    assert tables.values("val_loss", runs, [2, 0]).tolist() == [5 / 8, 6 / 8, 0, 1 / 8, 2 / 8]
    assert tables.values("val_loss", runs, []).tolist() == []
    assert tables.description == "suite frame"
    assert tables.fingerprint == SuiteTables(suite).fingerprint


def test_rules_of_branches_may_name_first_and_last_rows() -> None:
    def branches(at: Any) -> list[int | None]:
        suite = Suite.from_frame(frame(), run="run_id", lineage="w{width}", label="lr={lr}", parent="{parent}", at=at,
                                 counts="own", metrics={})  # fmt: skip
        return [parents[0][2] for parents in SuiteTables(suite).runs()[0].parents if parents]

    assert branches({"step": "first_step - 2"}) == [10, 8]
    assert branches({"tokens": "last_tokens / 2"}) == [8, 40]
    assert branches({"cumulative": 7}) == [7, 7]
    assert branches("checkpoint") == [None, None]
    with pytest.raises(FormatError, match=r"-15 for the run 'b'.*non-negative whole number"):
        branches({"step": "first_step - 27"})
    with pytest.raises(FormatError, match=r"changes within a run.*first_step"):
        branches({"step": "step"})
    with pytest.raises(UnknownNameError, match=r"first_stepp.*Did you mean first_step"):
        branches({"step": "first_stepp - 1"})


def test_a_branch_that_is_not_said_is_an_error() -> None:
    df = frame()
    df.loc[df.run_id == "b", "at"] = np.nan
    suite = Suite.from_frame(df, run="run_id", lineage="w{width}", parent="{parent}", at={"step": "at"}, counts="own")
    with pytest.raises(FormatError, match=r"gives nothing for the run 'b'.*parent"):
        SuiteTables(suite).runs()


def test_ids_that_do_not_tell_runs_apart_are_errors(tmp_path: Path) -> None:
    files = {"1B-a.csv": {**rows(), "tokens": 0}, "1B-b.csv": {**rows(), "tokens": 0}}
    tables = one_table(tmp_path, files, "{size}-{copy}.csv", metrics=LOSS)
    with pytest.raises(FormatError, match=r"'1B' is ambiguous: copy is 'a' in .*1B-a\.csv and 'b' in .*1B-b\.csv"):
        tables.runs()
    tables = one_table(tmp_path, files, "{size}-{copy}.csv", replicate="copy", metrics=LOSS)
    with pytest.raises(FormatError, match=r"ambiguous.*Name \{copy\} in run_id="):
        tables.runs()
    tables = one_table(tmp_path, files, "{size}-{copy}.csv", run_id="{size}-{copy}", metrics=LOSS)
    assert tables.runs()[0].run_ids == ("1B-a", "1B-b")


def test_ids_of_two_combinations_that_are_one_text_are_errors(tmp_path: Path) -> None:
    files = {"1/11.csv": {**rows(), "tokens": 0}, "11/1.csv": {**rows(), "tokens": 0}}
    tables = one_table(tmp_path, files, "{size}/{seed}.csv", run_id="{size}{seed}", metrics=LOSS)
    with pytest.raises(FormatError, match=r"'111' is ambiguous: (size|seed)"):
        tables.runs()


def test_a_field_that_changes_within_a_run_is_no_factor(tmp_path: Path) -> None:
    files = {f"1B_{name}_step{step}.csv": {"tokens": [step], "loss": [9.0]} for name, step in (("x", 0), ("y", 5))}
    tables = one_table(tmp_path, files, "{size}_{name}_step{step:int}.csv", metrics=LOSS)
    [runs] = tables.runs()
    assert runs.step.tolist() == [0, 5]
    assert runs.fields["name"].tolist() == [""]
    assert "step" not in runs.fields
    assert tables.notes == ["tables[0]: name has several values in 1 runs (1B), so it is not a factor there"]


def test_a_label_with_two_values_in_a_run_is_an_error(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(2), "tokens": 0, "lr": [0.1, 0.2]}}
    tables = one_table(tmp_path, files, "{size}.csv", run="lr={lr}", metrics=LOSS)
    with pytest.raises(FormatError, match=r"lr is 0\.1 in row 0 of .* and 0\.2 in row 1"):
        tables.runs()


def test_a_field_that_no_table_has_is_an_error_and_one_that_one_lacks_is_empty(tmp_path: Path) -> None:
    files = {"a/1B.csv": {**rows(), "tokens": 0}, "b/1B-x.csv": {**rows(), "tokens": 0}}
    one_table(tmp_path, files, "a/{size}.csv")
    both = [Table("a/{size}.csv"), Table("b/{size}-{kind}.csv", run_type="other")]
    suite = Suite("two", lineage="{size}", run="{run_type}{kind}", run_id="{size}{kind}", metrics=LOSS, tables=both)
    first, second = SuiteTables(suite, tmp_path).runs()
    assert (first.run_ids, second.run_ids) == (("1B",), ("1Bx",))
    with pytest.raises(UnknownNameError, match=r"'kindd'.*Did you mean kind"):
        SuiteTables(
            Suite("two", lineage="{size}", run="{kindd}", run_id="{size}{kind}", metrics=LOSS, tables=both), tmp_path
        ).runs()


def test_a_run_of_two_tables_has_the_rows_of_both(tmp_path: Path) -> None:
    for name, data in {
        "train/1B.csv": {"step": [0, 1, 2], "tokens": [0, 4, 8], "loss": [9.0, 8, 7]},
        "train/7B.csv": {"step": [0], "tokens": [0], "loss": [5.0]},
        "eval/1B.csv": {"step": [2, 3], "tokens": [8, 12], "acc": [0.5, 0.6]},
        "eval/9B.csv": {"step": [0], "tokens": [0], "acc": [0.1]},
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pd.DataFrame(data).to_csv(tmp_path / name, index=False)
    metrics = {"loss": Metric("loss", "nats", "lower", kind="log"), "acc": Metric("acc", "1", "higher")}
    tables = SuiteTables(
        Suite("two", lineage="{size}", run_id="{size}", metrics=metrics,
              tables=[Table("train/{size}.csv"), Table("eval/{size}.csv")]),
        tmp_path,
    )  # fmt: skip
    train, evaluated = tables.runs()
    assert (train.run_ids, evaluated.run_ids) == (("1B", "7B"), ("9B",))
    assert train.step.tolist() == [0, 1, 2, 3, 0]
    assert train.tokens.tolist() == [0, 4, 8, 12, 0]
    np.testing.assert_array_equal(tables.values("loss", train), [9, 8, 7, np.nan, 5])
    np.testing.assert_array_equal(tables.values("acc", train), [np.nan, np.nan, 0.5, 0.6, np.nan])
    np.testing.assert_array_equal(tables.values("acc", evaluated), [0.1])
    assert not tables.notes


def test_runs_of_two_tables_that_differ_are_errors(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        pd.DataFrame({**rows(), "tokens": 0}).to_csv(tmp_path / folder / "1B.csv", index=False)
    both = [Table("a/{size}.csv"), Table("b/{size}.csv", run_type="other")]
    with pytest.raises(FormatError, match=r"'1B' is ambiguous: .*a/1B\.csv.*b/1B\.csv.*differ in run_type"):
        SuiteTables(Suite("two", lineage="{size}", run_id="{size}", metrics=LOSS, tables=both), tmp_path).runs()


def test_rows_that_no_table_takes_are_counted(tmp_path: Path) -> None:
    text = "name,step,tokens,split,loss\n" + "".join(
        f"{name},{step},{step},{split},{step}\n"
        for name in ("sft-1", "dpo-2", "odd")
        for step in (0, 1)
        for split in ("val", "test")
    )
    (tmp_path / "all.csv").write_text(text)
    of_method = [
        Table("all.csv", parse={"name": f"{method}-{{seed:int}}"}, where="split == 'val'", run_type=method)
        for method in ("sft", "dpo")
    ]
    tables = SuiteTables(Suite("t", lineage="all", run_id="{name}", metrics=LOSS, tables=of_method), tmp_path)
    sft, dpo = tables.runs()
    assert (sft.run_ids, dpo.run_ids) == (("sft-1",), ("dpo-2",))
    assert sft.fields["seed"].tolist() == [1]
    assert tables.left_out == {"rows that belong to no table": 8}
    assert "all.csv" in tables.notes[-1]


def test_files_that_no_pattern_names_and_patterns_that_name_no_file(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(), "tokens": 0}, "notes.csv": "x\n", "deep/3B.csv": "x\n", ".hidden": "x\n"}
    tables = one_table(tmp_path, files, "{size:1B|3B}.csv", metrics=LOSS)
    assert tables.left_out == {"files that no pattern names": 1, "folders that no pattern names": 1}
    assert "notes.csv" in tables.notes[0]
    assert "deep" in tables.notes[1]
    with pytest.raises(SourceError, match=r"no file that matches a pattern .*'\{size\}\.parquet'"):
        one_table(tmp_path, {}, "{size}.parquet", metrics=LOSS)
    with pytest.raises(SourceError, match="no folder to search"):
        SuiteTables(Suite("t", lineage="x", run_id="{size}", tables=[Table("{size}.csv")], metrics=LOSS))
    with pytest.raises(SourceError, match=r"postgresql://ada@.* is a database"):
        SuiteTables(tables.suite, "postgresql://ada:secret@localhost/runs")


# Metrics


def test_keys_that_become_one_name_are_errors(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(), "tokens": 0, "acc-a": 1.0, "acc_a": 2.0}}
    tables = one_table(tmp_path, files, "{size}.csv", metrics={"acc{rest}": Metric("acc{rest}")})
    with pytest.raises(FormatError, match=r"'acc-a' and 'acc_a' both become the metric 'acc_a'"):
        tables.metrics()
    tables = one_table(
        tmp_path, files, "{size}.csv", metrics={"acc-{task}": Metric("other_{task}"), "acc{rest}": Metric("acc{rest}")}
    )
    assert {name: metric.source_name for name, metric in tables.metrics().items()} == {
        "other_a": "acc-a",
        "acc_a": "acc_a",
    }


def test_columns_that_place_rows_are_no_metrics_unless_named(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(), "tokens": [0, 1, 2, 3], "lr": 0.5, "note": "x"}}
    tables = one_table(tmp_path, files, "{size}.csv", run="{lr}")
    assert set(tables.metrics()) == {"loss"}
    tables = one_table(tmp_path, files, "{size}.csv", run="{lr}", metrics={"{any}": Metric("{any}")})
    assert set(tables.metrics()) == {"loss", "note"}
    named = {"tokens": Metric("tokens_logged"), "lr": Metric("lr"), "{any}": Metric("{any}")}
    tables = one_table(tmp_path, files, "{size}.csv", run="{lr}", metrics=named)
    # A coordinate has the name lr.
    assert set(tables.metrics()) == {"loss", "note", "tokens_logged", "lr_at_step"}
    [runs] = tables.runs()
    assert tables.values("tokens_logged", runs).tolist() == [0, 1, 2, 3]
    with pytest.warns(DdeWarning, match=r"'note' has texts that are not numbers, in 4 of 4 rows of .*1B\.csv, so"):
        assert np.isnan(tables.values("note", runs)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.values("note", runs)
    assert tables.left_out["values of note of which each is not a number"] == 4
    with pytest.raises(UnknownNameError, match=r"no metric 'losss'.*Did you mean loss"):
        tables.values("losss", runs)


def test_patterns_of_metrics_that_match_nothing_are_reported(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(), "tokens": 0}}
    tables = one_table(tmp_path, files, "{size}.csv", metrics={**LOSS, "eval/{task}": Metric("{task}")})
    assert set(tables.metrics()) == {"loss"}
    assert tables.left_out == {"patterns of metrics that match no key": 1}
    assert "eval/{task}" in tables.notes[-1]


def test_a_column_behind_a_field_of_the_path_is_noted(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(), "tokens": 0, "size": 7}}
    tables = one_table(tmp_path, files, "{size}.csv", metrics=LOSS)
    assert tables.runs()[0].fields["size"].tolist() == ["1B"]
    assert "gives size, so columns of that name are not read" in tables.notes[0]


def test_notes_are_not_repeated_by_an_opening_that_failed(tmp_path: Path) -> None:
    files = {"1B.csv": "step,tokens,loss\n0,0,1\n,1,2\n", "3B.csv": "step,loss\n0,1\n"}
    tables = one_table(tmp_path, files, "{size}.csv", metrics=LOSS)
    for _ in range(2):
        with pytest.raises(FormatError, match=r"3B\.csv has no column 'tokens'"):
            tables.runs()
    assert tables.left_out == {}
    assert tables.notes == []


def test_rows_may_be_chosen_by_a_metric_which_stays_one(tmp_path: Path) -> None:
    tables = one_table(tmp_path, {"1B.csv": {**rows(), "tokens": 0}}, "{size}.csv", where="loss < 8.5")
    [runs] = tables.runs()
    assert runs.step.tolist() == [10, 20, 30]
    assert tables.values("loss", runs).tolist() == [8.0, 7.0, 6.0]
    with pytest.raises(FormatError, match=r"tables\[0\]\.where gives .* Write a comparison"):
        one_table(tmp_path, {}, "{size}.csv", where="loss").runs()


def test_factors_of_factors_and_of_columns_of_their_name(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(), "tokens": 0, "lr": 0.5}}
    tables = one_table(
        tmp_path, files, "{size}.csv", factors={"twice": "lr * 2", "lr": "lr * 10", "four": "twice * 2"}, metrics=LOSS
    )
    [runs] = tables.runs()
    # Another factor's lr is the factor; that of its own rule is the column.
    assert {name: runs.fields[name].tolist() for name in ("lr", "twice", "four")} == {
        "lr": [5.0],
        "twice": [10.0],
        "four": [20.0],
    }
    with pytest.raises(FormatError, match=r"the factors a, b need each other"):
        one_table(tmp_path, files, "{size}.csv", factors={"a": "b + 1", "b": "a + 1"}, metrics=LOSS).runs()


def test_numbers_of_runs_that_change_within_a_run_are_errors(tmp_path: Path) -> None:
    files = {"1B.csv": {**rows(2), "tokens": 0, "n": [5, 6]}}
    with pytest.raises(FormatError, match=r"names 'n', which has two values in the run '1B': 5 in row 0 .* 6 in row 1"):
        one_table(tmp_path, files, "{size}.csv", n_params="n", metrics=LOSS).runs()
    tables = one_table(tmp_path, files, "{size}.csv", n_params={"size": {"1B": 7, "3B": 9}}, metrics=LOSS)
    assert tables.runs()[0].n_params.tolist() == [7.0]
    tables = one_table(tmp_path, files, "{size}.csv", n_params={"size": {"3B": 9}}, metrics=LOSS)
    with pytest.warns(DdeWarning, match=r"no entry for size = '1B'.*Add an entry to .*which has '3B'"):
        assert np.isnan(tables.runs()[0].n_params).all()
    assert tables.notes == ["tables[0].n_params has no entry for size = '1B', so it is unknown there"]


def test_labels_of_single_precision_are_the_decimals_that_were_meant() -> None:
    df = pd.DataFrame({"id": ["a", "b"], "lr": np.array([1e-5, 0.1], np.float32), "step": 0, "tokens": 0, "loss": 1.0})
    df["kind"] = pd.Categorical(["x", "y"])
    df["depth"] = pd.array([1, None], dtype="Int64")
    suite = Suite.from_frame(df, run="id", lineage="{kind}", label="{lr}-{depth}", metrics=LOSS)
    [runs] = SuiteTables(suite).runs()
    assert runs.fields["lr"].tolist() == [1e-5, 0.1]
    assert runs.fields["kind"].tolist() == ["x", "y"]
    np.testing.assert_array_equal(runs.fields["depth"].astype(float), [1, np.nan])


def test_tables_that_say_different_things_of_a_metric_are_errors(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        pd.DataFrame({**rows(), "tokens": 0}).to_csv(tmp_path / folder / f"{folder}.csv", index=False)
    both = [Table("a/{size}.csv"), Table("b/{size}.csv", metrics={"loss": Metric("loss", "bits", "lower")})]
    tables = SuiteTables(Suite("two", lineage="{size}", run_id="{size}", metrics=LOSS, tables=both), tmp_path)
    with pytest.raises(FormatError, match=r"tables\[1\] declares units 'bits' for the metric 'loss'.*'nats'"):
        tables.metrics()


def test_long_tables_have_a_metric_for_each_key(tmp_path: Path) -> None:
    text = (
        "task,metric,step,tokens,score\n"
        "piqa,acc,0,0,0.5\npiqa,acc,10,40,0.6\npiqa,ppl,0,0,9\nboolq,acc,10,40,0.7\n"
        "boolq,acc,10,40,0.7\n"
    )
    tables = one_table(
        tmp_path, {"1B.csv": text}, "{size}.csv", key="{task}/{metric}", value="score",
        metrics={"{task}/{metric:acc}": Metric("{task}", "1", "higher"), "{task}/ppl": Metric("{task}_ppl")},
    )  # fmt: skip
    [runs] = tables.runs()
    assert runs.step.tolist() == [0, 10]
    assert set(tables.metrics()) == {"piqa", "piqa_ppl", "boolq"}
    values = tables.values_of(["piqa", "piqa_ppl", "boolq"], runs)
    np.testing.assert_array_equal(values["piqa"], [0.5, 0.6])
    np.testing.assert_array_equal(values["piqa_ppl"], [9, np.nan])
    np.testing.assert_array_equal(values["boolq"], [np.nan, 0.7])
    assert tables.notes == ["1 rows of tables[0] repeat a step of their run; each metric takes the first value there"]


def test_trainer_states_are_runs(tmp_path: Path) -> None:
    for seed in (1, 2):
        log = [
            {"step": 10, "epoch": 0.5, "loss": 2.0 + seed, "num_input_tokens_seen": 640},
            {"step": 10, "epoch": 0.5, "eval_loss": 2.5 + seed},
            {"step": 20, "epoch": 1.0, "loss": 1.0 + seed, "num_input_tokens_seen": 1280},
            {"step": 20, "train_runtime": 5.0, "train_loss": 1.5},
        ]
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    metrics = {"loss": Metric("train_loss", "nats", "lower", kind="log"), "eval_loss": Metric("eval_loss", "nats")}
    suite = Suite("trainer", lineage="sft", run_id="{seed}", tokens="num_input_tokens_seen", metrics=metrics,
                  tables=[Table("seed-{seed:int}/trainer_state.json")])  # fmt: skip
    tables = SuiteTables(suite, tmp_path)
    [runs] = tables.runs()
    assert ends(runs) == {"1": (20, 1280), "2": (20, 1280)}
    np.testing.assert_array_equal(tables.values("eval_loss", runs), [3.5, np.nan, 4.5, np.nan])
    np.testing.assert_array_equal(tables.values("train_loss", runs), [3.0, 2.0, 4.0, 3.0])


# Files that change, the cache, other places, threads


def write_results(folder: Path, value: float, name: str = "1B_step0.json") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"results": {"piqa": {"acc": value, "acc_stderr": 0.01}}}))


RESULTS = Suite(
    "results", lineage="{size}", run_id="{size}", tokens={"per_step": 8},
    metrics={"{task}/{metric}": Metric("{task}_{metric}", "1", "higher")},
    tables=[Table("{size}_step{step:int}.json", format="lm_eval", key="{task}/{metric}")],
)  # fmt: skip


def test_results_that_were_parsed_are_kept_by_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    write_results(data, 0.5)
    write_results(data, 0.6, "1B_step5.json")
    parsed: list[str] = []
    from dde.suite.reading import open_files

    parse = open_files.parse_file

    def counted(file: Any, kind: str) -> Any:
        parsed.append(file.name)
        return parse(file, kind)

    monkeypatch.setattr(open_files, "parse_file", counted)

    def read() -> list[float]:
        tables = SuiteTables(RESULTS, data, cache)
        return [float(value) for value in tables.values("piqa_acc", tables.runs()[0])]

    assert read() == [0.5, 0.6]
    assert read() == [0.5, 0.6]
    assert sorted(parsed) == ["1B_step0.json", "1B_step5.json"]
    write_results(data, 0.75, "1B_step5.json")
    assert read() == [0.5, 0.75]
    assert parsed[2:] == ["1B_step5.json"]
    [kept] = cache.rglob("parsed.npz")
    kept.write_bytes(kept.read_bytes()[:-30])
    assert read() == [0.5, 0.75]
    assert len(parsed) == 5
    (data / "1B_step5.json").unlink()
    assert read() == [0.5]
    write_results(data, 0.1, "other_step0.json")
    other = Suite("other", lineage="x", run_id="o", tokens={"per_step": 8}, metrics=RESULTS.metrics,
                  tables=[Table("other_step{step:int}.json", format="lm_eval")])  # fmt: skip
    for _ in range(2):
        SuiteTables(other, data, cache).runs()
    assert parsed[5:] == ["other_step0.json"]
    # What one suite has parsed does not push out what another one has.
    (data / "other_step0.json").unlink()
    assert read() == [0.5]
    assert len(parsed) == 6


def test_a_file_that_changes_after_opening_is_an_error(tmp_path: Path) -> None:
    tables = one_table(tmp_path, {"1B.csv": {**rows(), "tokens": 0}}, "{size}.csv", metrics=LOSS)
    [runs] = tables.runs()
    fingerprint = tables.fingerprint
    (tmp_path / "1B.csv").write_text(pd.DataFrame({**rows(6), "tokens": 0}).to_csv(index=False))
    with pytest.raises(SourceError, match=r"1B\.csv was changed since it was opened"):
        tables.values("loss", runs)
    again = SuiteTables(tables.suite, tmp_path)
    assert again.fingerprint != fingerprint
    assert len(again.runs()[0].step) == 6


def test_a_run_has_another_version_when_its_own_file_changes(tmp_path: Path) -> None:
    files = {f"{size}.csv": {**rows(), "tokens": 0} for size in ("1B", "3B")}
    tables = one_table(tmp_path, files, "{size}.csv", metrics=LOSS)
    before = dict(zip(tables.runs()[0].run_ids, tables.versions(tables.runs()[0]), strict=True))
    (tmp_path / "3B.csv").write_text(pd.DataFrame({**rows(6), "tokens": 0}).to_csv(index=False))
    again = SuiteTables(tables.suite, tmp_path)
    after = dict(zip(again.runs()[0].run_ids, again.versions(again.runs()[0]), strict=True))
    assert before["1B"] == after["1B"]
    assert before["3B"] != after["3B"]


def test_a_column_is_read_once_for_chunks_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    df = pd.DataFrame({"id": np.repeat(np.arange(50), 4), "step": [0, 1, 2, 3] * 50, "loss": np.arange(200) / 8})
    df.assign(tokens=0).to_parquet(tmp_path / "all.parquet")
    suite = Suite("t", lineage="x", run_id="{id}", tables=[Table("all.parquet")], metrics=LOSS)
    tables = SuiteTables(suite, tmp_path)
    [runs] = tables.runs()
    calls: list[object] = []
    read = ParquetFile.read_numbers
    monkeypatch.setattr(
        ParquetFile, "read_numbers", lambda self, columns: (calls.append(columns), read(self, columns))[1]
    )
    found = [tables.values("loss", runs, range(start, start + 10)) for start in range(0, 50, 10)]
    np.testing.assert_array_equal(np.concatenate(found), df["loss"])
    assert calls == [["loss"]]


def test_text_is_parsed_twice_for_any_number_of_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{size}.csv": {**rows(), "tokens": 0, "acc": 0.5, "f1": 0.25, "note": "x"} for size in ("1B", "3B")}
    tables = one_table(tmp_path, files, "{size}.csv", metrics={"{any}": Metric("{any}")})
    [runs] = tables.runs()
    calls: list[Sequence[str]] = []
    read = CsvFile.read_numbers
    monkeypatch.setattr(CsvFile, "read_numbers", lambda self, columns: (calls.append(columns), read(self, columns))[1])
    assert tables.values("loss", runs).tolist() == [9.0, 8.0, 7.0, 6.0] * 2
    assert calls == [["loss"]] * 2
    assert tables.values("acc", runs).tolist() == [0.5] * 8
    assert tables.values("f1", runs).tolist() == [0.25] * 8
    assert tables.values("loss", runs, [1]).tolist() == [9.0, 8.0, 7.0, 6.0]
    assert len(calls) == 4


def test_values_that_differ_count_once_for_each_run(tmp_path: Path) -> None:
    text = "step,tokens,loss\n0,0,1\n0,0,2\n0,0,3\n"
    tables = one_table(tmp_path, {"1B.csv": text, "3B.csv": text}, "{size}.csv", metrics=LOSS)
    [runs] = tables.runs()
    for which, count in (([0], 2), ([0, 1], 4)):
        with pytest.warns(ConflictWarning, match=r"2 values of loss differ"):
            assert set(tables.values("loss", runs, which).tolist()) == {1.0}
        assert tables.left_out == {"values of loss that differ from the first of their step": count}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.values("loss", runs)


def test_fields_of_paths_may_be_parsed(tmp_path: Path) -> None:
    files = {"sft-3.csv": {**rows(), "tokens": 0}, "other.csv": {**rows(), "tokens": 0}}
    tables = one_table(
        tmp_path, files, "{name}.csv", parse={"name": "{recipe}-{trial:int}"}, lineage="{recipe}",
        run_id="{recipe}-{trial}", metrics=LOSS,
    )  # fmt: skip
    [runs] = tables.runs()
    assert runs.run_ids == ("sft-3",)
    assert runs.fields["trial"].tolist() == [3]
    assert tables.left_out == {"rows that belong to no table": 4}


def test_fingerprints_tell_declarations_and_frames_apart() -> None:
    def fingerprint(df: pd.DataFrame, **declared: Any) -> str:
        return SuiteTables(Suite.from_frame(df, run="run_id", lineage="w{width}", metrics={}, **declared)).fingerprint

    other = frame()
    other.loc[3, "val_loss"] += 1e-9
    found = [fingerprint(frame()), fingerprint(other), fingerprint(frame(), label="lr={lr}")]
    assert len(set(found)) == 3
    assert fingerprint(frame()) == found[0]


def test_suites_behind_urls_read_as_local_ones(tmp_path: Path) -> None:
    files = {f"{size}.csv": {**rows(), "tokens": [0, 1, 2, 3]} for size in ("1B", "3B")}
    local = one_table(tmp_path, files, "{size}.csv", metrics=LOSS)
    memory = fsspec.filesystem("memory")
    for name in files:
        memory.pipe(f"/suites/{tmp_path.name}/{name}", (tmp_path / name).read_bytes())
    remote = SuiteTables(local.suite, f"memory://suites/{tmp_path.name}")
    [here], [there] = local.runs(), remote.runs()
    assert here.run_ids == there.run_ids
    np.testing.assert_array_equal(here.tokens, there.tokens)
    np.testing.assert_array_equal(local.values("loss", here), remote.values("loss", there))


def test_a_server_that_wants_a_password_is_read_and_never_shown(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "1B").mkdir(parents=True)
    df = pd.DataFrame({**rows(), "tokens": [0, 1, 2, 3]})
    df.to_csv(data / "1B" / "a.csv", index=False)
    df.to_parquet(data / "1B" / "b.parquet")
    write_results(data, 0.5, "r_step3.json")
    tables = [
        Table("{size}/{name}.csv"),
        Table("{size}/{name}.parquet"),
        Table("{name}_step{step:int}.json", format="lm_eval", tokens={"per_step": 1}),
    ]
    suite = Suite("t", lineage="x", run_id="{name}", tables=tables, metrics={**LOSS, "piqa/acc": Metric("piqa")})
    secret = "ge@heim77"
    with running_http(data, f"ada:{secret}") as host:
        opened = SuiteTables(suite, f"http://ada:{secret}@{host}", tmp_path / "cache")
        found = opened.runs()
        assert [runs.run_ids for runs in found] == [("a",), ("b",), ("r",)]
        for runs in found[:2]:
            assert opened.values("loss", runs).tolist() == [9.0, 8.0, 7.0, 6.0]
        assert opened.values("piqa", found[2]).tolist() == [0.5]
        shown = [
            opened.description,
            opened.location,
            repr(opened),
            *opened.notes,
            pickle.dumps(opened).decode("latin-1"),
        ]
        (data / "1B" / "a.csv").write_text("step,tokens,loss\n0,0\n")
        (data / "1B" / "b.parquet").write_bytes(b"no parquet")
        for kind in ("csv", "parquet"):
            one = Suite("t", lineage="x", run_id="{name}", tables=[Table(f"{{size}}/{{name}}.{kind}")], metrics=LOSS)
            with pytest.raises((FormatError, SourceError), match=f"1B/[ab].{kind}") as caught:
                SuiteTables(one, f"http://ada:{secret}@{host}").runs()
            chain = [caught.value, caught.value.__cause__, caught.value.__context__]
            shown += map(repr, chain)
    assert not any(secret in text or "heim77" in text for text in shown)
    for file in (tmp_path / "cache").rglob("*"):
        assert file.is_dir() or b"heim77" not in file.read_bytes()


def test_tables_and_runs_pickle_and_are_shared_by_threads(tmp_path: Path) -> None:
    files = {f"{size}B.csv": {**rows(), "tokens": 0} for size in range(20)}
    tables = one_table(tmp_path, files, "{size}.csv", metrics=LOSS)
    found: list[list[float]] = []

    def read() -> None:
        [runs] = tables.runs()
        found.append(tables.values("loss", runs).tolist())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[9.0, 8.0, 7.0, 6.0] * 20] * 4
    copy, [runs] = pickle.loads(pickle.dumps((tables, tables.runs())))
    assert copy.values("loss", runs, [19]).tolist() == [9.0, 8.0, 7.0, 6.0]


# Many runs


@settings(max_examples=40)
@given(
    data=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 6), st.floats(allow_nan=True, width=32)), min_size=1, max_size=40
    )
)
def test_any_order_of_rows_gives_the_first_value_of_each_step(data: list[tuple[int, int, float]]) -> None:
    df = pd.DataFrame(data, columns=["id", "step", "loss"])
    df["tokens"] = df["step"] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConflictWarning)
        tables = SuiteTables(Suite.from_frame(df, run="id", lineage="all", metrics=LOSS))
        [runs] = tables.runs()
        values = tables.values("loss", runs)
    expected: dict[tuple[str, int], float] = {}
    for run, step, loss in data:
        key = str(run), step
        if key not in expected or (np.isnan(expected[key]) and not np.isnan(loss)):
            expected[key] = loss
    of_row = np.repeat(np.array(runs.run_ids, object), np.diff(runs.row_offsets))
    found = dict(zip(zip(of_row.tolist(), runs.step.tolist(), strict=True), values.tolist(), strict=True))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_equal(found[key], value)
    assert list(runs.run_ids) == list(dict.fromkeys(str(run) for run, _, _ in data))


RECORDS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from(["a/acc", "b/acc", "a/ppl"]), st.floats(-5, 5)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=20, deadline=None)
@given(
    records=RECORDS, cuts=st.lists(st.integers(0, 30), max_size=3), suffix=st.sampled_from(["csv", "jsonl", "parquet"])
)
def test_long_records_in_any_files_give_the_first_value_of_each_key(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, int, str, float]], cuts: list[int], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("long")
    df = pd.DataFrame(records, columns=["id", "step", "key", "value"])
    df["tokens"] = df["step"] * 4
    bounds = sorted({0, len(df), *(cut for cut in cuts if cut < len(df))})
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        part, path = df.iloc[start:end], folder / f"part-{number}.{suffix}"
        if suffix == "csv":
            part.to_csv(path, index=False)
        elif suffix == "jsonl":
            part.to_json(path, orient="records", lines=True, double_precision=15)
        else:
            part.to_parquet(path, index=False)
    expected: dict[tuple[str, str, int], float] = {}
    for run, step, key, value in records:
        expected.setdefault((str(run), key, step), value)
    suite = Suite(
        "long", lineage="x", run_id="r{id}", metrics={"{task}/{metric}": Metric("{task}_{metric}")},
        tables=[Table(f"part-*.{suffix}", key="{key}", value="value")],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConflictWarning)
        tables = SuiteTables(suite, folder)
        [runs] = tables.runs()
        found: dict[tuple[str, str, int], float] = {}
        of_row = np.repeat(np.array([run_id[1:] for run_id in runs.run_ids], object), np.diff(runs.row_offsets))
        for metric in tables.metrics().values():
            for run, step, value in zip(of_row, runs.step.tolist(), tables.values(metric.name, runs), strict=True):
                if not np.isnan(value):
                    found[run, metric.source_name, step] = float(value)
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(value, abs=1e-14) for key, value in expected.items())


def test_rows_of_many_runs_cost_no_python_each() -> None:
    n_runs, n_rows = 2_000, 500
    run = np.repeat(np.arange(n_runs), n_rows)
    df = pd.DataFrame({"id": run, "lr": run % 7 / 8, "step": np.tile(np.arange(n_rows), n_runs), "loss": 1.0})
    df["tokens"] = df["step"] * 4
    suite = Suite.from_frame(df, run="id", lineage="all", label="lr={lr}", metrics=LOSS)

    def by_column() -> None:
        [runs] = SuiteTables(suite).runs()
        assert len(runs.step) == n_runs * n_rows

    def by_row() -> None:
        found: dict[int, list[tuple[int, int]]] = {}
        for row in df.itertuples(index=False):
            found.setdefault(row.id, []).append((row.step, row.tokens))

    def seconds(read: Callable[[], None]) -> float:
        begun = time.perf_counter()
        read()
        return time.perf_counter() - begun

    assert min(seconds(by_column) for _ in range(3)) < min(seconds(by_row) for _ in range(2))
