# ruff: noqa: E501 - wrong declarations are read beside what is said of them
"""Suites as declarations: one thing as dataclass, mapping and TOML, and what is refused before a file is read."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.errors import DdeError, FormatError, SourceError, UnknownNameError
from dde.suite.declare import Metric, Suite, Table, branch_rule
from dde.suite.field_checks import RESERVED
from dde.suite.rules import Rule

TWO_CORPORA = """\
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


def two_corpora(**changes: Any) -> dict[str, Any]:
    """The declaration above as a mapping, with changes; a dotted name changes a table: ``tables_1_at``."""
    declared = tomllib.loads(TWO_CORPORA)
    for key, value in changes.items():
        place, name = declared, key
        if key.startswith("tables_"):
            _, index, name = key.split("_", 2)
            place = declared["tables"][int(index)]
        if value is None:
            del place[name]
        else:
            place[name] = value
    return declared


def frame(**columns: Any) -> pd.DataFrame:
    values = {
        "run_id": ["a", "a", "b", "b"],
        "parent": ["", "", "a", "a"],
        "width": 64,
        "seed": 1,
        "lr": [0.1, 0.1, 0.2, 0.2],
        "step": [0, 1, 0, 1],
        "tokens": [0, 8, 0, 8],
        "n_params": 1000,
        "at": [0, 0, 1, 1],
        "val_loss": [3.0, 2.0, 2.0, 1.0],
    }
    return pd.DataFrame(values | columns)


def test_the_three_forms_are_one(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(TWO_CORPORA)
    from_toml = Suite.from_toml(tmp_path / "suite.toml")
    in_python = Suite(
        "two_corpora",
        lineage="{corpus}-{size}",
        run={"pretraining": "pretraining", "cooldown": "cooldown@{at_b}B"},
        run_id="{corpus}-{size}",
        counts="cumulative",
        n_params="n_non_embedding",
        metrics={"loss": Metric("loss", "nats", "lower")},
        tables=[
            Table("trunks/{corpus}-{size}.csv"),
            Table(
                "cooldowns/*.jsonl",
                run_type="cooldown",
                run_id="{corpus}-{size}@{at_b}B",
                factors={"at_b": "10 * round(tokens / 1e10)"},
                parent="{corpus}-{size}",
                at="first_row",
            ),
        ],
    )
    from_dict = Suite.from_dict(two_corpora())
    assert from_toml == in_python == from_dict
    assert from_toml.to_dict() == two_corpora()
    assert len({s.digest for s in (from_toml, in_python, from_dict)}) == 1
    text = in_python.to_toml(tmp_path / "again.toml")
    assert (tmp_path / "again.toml").read_text() == text
    assert Suite.from_toml(tmp_path / "again.toml") == in_python
    assert tomllib.loads(text) == two_corpora()
    assert pickle.loads(pickle.dumps(in_python)) == in_python
    assert hash(from_toml) == hash(in_python)
    assert len({*from_toml.tables, *in_python.tables}) == 2


# --- round trips of anything that may be said

_NAME = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True).filter(lambda n: n not in RESERVED)
_WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}*/:"), min_size=1, max_size=6).filter(
    str.strip
)
_COUNT = st.integers(1, 2**53)


@st.composite
def _declarations(draw: st.DrawFn) -> dict[str, Any]:
    fields = draw(st.lists(_NAME, min_size=1, max_size=3, unique=True))
    one = st.sampled_from(fields)
    template = st.builds(lambda a, w: f"{w}{{{a}}}", one, _WORD)
    rule = st.one_of(one, st.builds(lambda a, n: f"{a} * {n}", one, _COUNT), _COUNT)
    lookup = st.builds(lambda f, v: {f: v}, one, st.dictionaries(_WORD, _COUNT, min_size=1, max_size=3))
    metric = st.fixed_dictionaries(
        {"name": _NAME.map(lambda n: f"m_{n}")},
        optional={
            "units": st.sampled_from(["nats", 'a"b\\', "µ"]),
            "direction": st.sampled_from(["higher", "lower"]),
            "task": _WORD,
            "kind": st.just("log"),
        },
    )
    metrics = st.dictionaries(_WORD, metric, max_size=3)
    per_step = st.one_of(
        _COUNT,
        lookup,
        st.lists(st.tuples(st.integers(1, 1000), _COUNT), max_size=3, unique_by=lambda p: p[0]).map(
            lambda pieces: [[0, 7], *map(list, sorted(pieces))]
        ),
    ).map(lambda n: {"per_step": n})
    numbers = {
        "step": rule,
        "tokens": st.one_of(rule, per_step),
        "n_params": st.one_of(rule, lookup),
        "schedule_tokens": st.one_of(rule, lookup),
        "metrics": metrics,
    }
    at = st.one_of(
        st.sampled_from(["first_row", "checkpoint"]),
        st.builds(lambda k, r: {k: r}, st.sampled_from(["step", "tokens", "cumulative"]), rule),
    )
    tables = []
    for number in range(draw(st.integers(1, 3))):
        path = "-".join(f"{{{f}}}" for f in fields) + f"/{number}.csv"
        table = draw(
            st.fixed_dictionaries(
                {"files": st.sampled_from([path, [path, f"more/{number}/{{{fields[0]}}}.csv"]])},
                optional={
                    "run_type": st.sampled_from(["cosine", "decay"]),
                    "where": rule.filter(lambda r: isinstance(r, str)),
                    "format": st.just("csv"),
                    **numbers,
                },
            )
        )
        if draw(st.booleans()):
            pair = st.builds(lambda t, a: [t, a], template, at)
            table["parent"] = draw(
                st.one_of(template, st.lists(pair, min_size=2, max_size=3, unique_by=lambda p: p[0]))
            )
            if draw(st.booleans()):
                table["at"] = draw(at)
        tables.append(table)
    suite = draw(
        st.fixed_dictionaries(
            {"name": _WORD, "lineage": template, "run_id": template, "counts": st.sampled_from(["own", "cumulative"])},
            optional={
                "root": _WORD,
                "replicate": one,
                "checkpoints": st.lists(_WORD, min_size=2, max_size=3),
                **numbers,
            },
        )
    )
    run_types = {t.get("run_type", "pretraining") for t in tables}
    if draw(st.booleans()):
        suite["run"] = {r: draw(template) for r in run_types}
    if draw(st.booleans()):
        suite["edges"] = [{"run": "a", "parents": [["b", "end"], ["c", {"step": 5}]], "weight": 0.5}]
    return {**suite, "tables": tables}


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(_declarations())
def test_round_trips(tmp_path_factory: pytest.TempPathFactory, declared: dict[str, Any]) -> None:
    suite = Suite.from_dict(declared)
    assert suite.to_dict() == declared
    assert Suite.from_dict(suite.to_dict()) == suite
    path = tmp_path_factory.getbasetemp() / "suite.toml"
    text = suite.to_toml(path)
    assert tomllib.loads(text) == declared
    again = Suite.from_toml(path)
    assert again == suite
    assert again.digest == suite.digest
    for table in suite.tables:
        assert suite.resolved(table).counts == suite.counts


def test_a_metric_pattern_named_files_is_not_a_data_frame() -> None:
    table = {"files": "{size}.csv", "metrics": {"files": {"name": "loss"}, "edges": {"name": "edges_seen"}}}
    suites = [
        Suite.from_dict({"name": "s", "lineage": "{size}", "run_id": "{size}", "tables": [made]})
        for made in (table, table | {"metrics": {"files": {"name": "accuracy"}}})
    ]
    assert suites[0].digest != suites[1].digest


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(_declarations(), st.data())
def test_what_differs_has_another_digest(declared: dict[str, Any], data: st.DataObject) -> None:
    suite = Suite.from_dict(declared)
    key = data.draw(st.sampled_from(["name", "lineage", "run_id"]))
    other = Suite.from_dict(declared | {key: declared[key] + "!"})
    assert other != suite
    assert other.digest != suite.digest


def test_a_suite_keeps_what_it_was_given() -> None:
    lookup = {"size": {1.0: 5, "b": 6}}
    pieces = [[0, 4], [20, 8]]
    suite = Suite(
        "s",
        lineage="{size}",
        run_id="{size}",
        n_params=lookup,
        tokens={"per_step": pieces},
        tables=[Table("{size}.csv")],
    )
    lookup["size"]["c"] = 7
    pieces.append([30, 9])
    # Values of factors are texts, as they stand in a TOML file.
    assert suite.n_params == {"size": {"1": 5, "b": 6}}
    assert suite.tokens == {"per_step": [[0, 4], [20, 8]]}
    with pytest.raises(dataclasses.FrozenInstanceError):
        suite.name = "other"  # type: ignore[misc]


def test_the_order_of_metrics_counts() -> None:
    a, b = Metric("a"), Metric("b")
    suites = [
        Suite("s", lineage="l", run_id="x", tables=[Table("t.csv")], metrics=m)
        for m in ({"x*": a, "*": b}, {"*": b, "x*": a})
    ]
    assert suites[0] != suites[1]
    assert suites[0].digest != suites[1].digest


# --- what the producer asks


def test_tables_with_what_the_suite_says() -> None:
    suite = Suite.from_dict(
        two_corpora(tables_1_metrics={"lr": {"name": "lr_at_step", "kind": "log"}, "loss": {"name": "cooldown_loss"}})
    )
    trunk, cooldown = map(suite.resolved, suite.tables)
    assert (trunk.run_id, cooldown.run_id) == ("{corpus}-{size}", "{corpus}-{size}@{at_b}B")
    assert (trunk.step, trunk.tokens, trunk.counts, trunk.n_params) == (
        "step",
        "tokens",
        "cumulative",
        "n_non_embedding",
    )
    assert list(trunk.metrics or ()) == ["loss"]
    # The table's patterns come first, and one that both have is the table's.
    assert [(k, m.name) for k, m in (cooldown.metrics or {}).items()] == [
        ("lr", "lr_at_step"),
        ("loss", "cooldown_loss"),
    ]
    assert suite.run_template("cooldown").text == "cooldown@{at_b}B"
    assert suite.lineage_template.fields == ("corpus", "size")
    assert suite.run_types == ("pretraining", "cooldown")
    assert suite.resolved(suite.tables[0]).schedule_tokens is None
    assert cooldown.declared_fields == {"at_b"}
    assert trunk.declared_fields == {"corpus", "size"}
    assert Suite("s", lineage="l", run_id="x", tables=[Table("t.csv")]).resolved(Table("t.csv")).metrics is None


def test_run_templates() -> None:
    plain = Suite("s", lineage="l", run_id="x", tables=[Table("t.csv")])
    assert plain.run_template("anything").text == "{run_type}"
    assert dataclasses.replace(plain, run="lr={lr}").run_template("pretraining").text == "lr={lr}"
    with pytest.raises(UnknownNameError, match=r"'cooldwn'.*Did you mean cooldown\?"):
        Suite.from_dict(two_corpora()).run_template("cooldwn")


@pytest.mark.parametrize(
    ("parent", "at", "expected"),
    [
        (None, "end", []),
        ("a", "end", [("a", "end")]),
        ("a", {"step": "first_step - 1000"}, [("a", {"step": "first_step - 1000"})]),
        (["a", "b"], "checkpoint", [("a", "checkpoint"), ("b", "checkpoint")]),
        ([["a", {"step": 3}], ["a", {"step": 5}]], "end", [("a", {"step": 3}), ("a", {"step": 5})]),
        (["b", ["a", "first_row"]], {"cumulative": "x"}, [("b", {"cumulative": "x"}), ("a", "first_row")]),
    ],
)
def test_parents(parent: Any, at: Any, expected: list[Any]) -> None:
    table = Table("t.csv", parent=parent, at=at)
    assert [(t.text, a) for t, a in table.parents] == expected


def test_rules_of_branches() -> None:
    assert branch_rule("first_row") == ("first_row", None)
    assert branch_rule({"tokens": 5}) == ("tokens", Rule(5))


def test_check_fields() -> None:
    suite = Suite.from_dict(two_corpora())
    trunk, cooldown = {"corpus", "size", "tokens"}, {"at_b", "corpus", "size", "tokens"}
    assert suite.check_fields([trunk, cooldown]) == (frozenset(), frozenset())
    # A field that one table lacks is "" there; the templates of other run types are not its own.
    assert suite.check_fields([trunk, cooldown - {"size"}]) == (frozenset(), frozenset({"size"}))
    with pytest.raises(UnknownNameError) as caught:
        suite.check_fields([{"corpus", "sise"}, {"at_b", "corpus"}])
    assert str(caught.value).startswith("suite 'two_corpora': lineage: no table has the field 'size'")
    assert "Did you mean sise?" in str(caught.value)
    with pytest.raises(UnknownNameError, match=r"run\.cooldown: no table has the field 'at_b'"):
        suite.check_fields([trunk, trunk])
    with pytest.raises(UnknownNameError, match=r"tables\[1\]\.parent: no table has the field 'corpsu'"):
        Suite.from_dict(two_corpora(tables_1_parent="{corpsu}-{size}")).check_fields([trunk, cooldown])
    by_factor = Suite.from_dict(two_corpora(n_params={"szie": {"1B": 5}}))
    with pytest.raises(UnknownNameError, match=r"n_params: no table has the field 'szie'.*Did you mean size"):
        by_factor.check_fields([trunk, cooldown])
    by_factor = Suite.from_dict(two_corpora(tables_0_tokens={"per_step": {"btch": {"1B": 5}}}))
    with pytest.raises(UnknownNameError, match=r"tables\[0\]\.tokens: no table has the field 'btch'"):
        by_factor.check_fields([trunk, cooldown])
    with pytest.raises(UnknownNameError, match=r"replicate: no table has the field 'seed'"):
        Suite.from_dict(two_corpora(replicate="seed")).check_fields([trunk, cooldown])
    with pytest.raises(ValueError, match="1 tables' fields for 2 tables"):
        suite.check_fields([trunk])


def test_names_of_checkpoints_take_the_types_of_the_paths() -> None:
    suite = Suite(
        "s",
        lineage="{size}",
        run_id="{size}{data}",
        tables=[Table("{size}{data:|-deduped}.csv"), Table("b/{size}{data:|-raw}.csv")],
        checkpoints=["org/m-{size}{data}@step{step:int}", "{size}{data}"],
    )
    hub, plain = suite.checkpoint_patterns
    assert hub.match("org/m-1b-raw@step10") == {"size": "1b", "data": "-raw", "step": 10}
    assert plain.match("1b-deduped") == {"size": "1b", "data": "-deduped"}
    assert suite.to_dict()["checkpoints"] == ["org/m-{size}{data}@step{step:int}", "{size}{data}"]


def test_metrics_of_keys() -> None:
    metric = Metric("{task}_{metric}", "1", "higher", stderr_of="{task}_{metric}_x")
    named = metric.named({"task": "arc-easy", "metric": "acc"})
    # Names are Python names, tasks are as the suite has them; both fields go on by themselves.
    assert (named.name, named.task, named.metric, named.stderr_of) == (
        "arc_easy_acc",
        "arc-easy",
        "acc",
        "arc_easy_acc_x",
    )
    assert Metric("loss", task="{set}", metric="loss").named({"set": "{odd}"}).named({}).task == "{odd}".replace(
        "{", "{{"
    ).replace("}", "}}")
    assert Metric("loss").named({}).task == ""
    with pytest.raises(UnknownNameError, match=r"there is no field 'tsak'.*Did you mean task"):
        Metric("{tsak}").named({"task": "x"})


# --- frames


def from_frame(df: Any = None, **changes: Any) -> Suite:
    given = {
        "run": "run_id",
        "lineage": "w{width}-s{seed}",
        "label": "lr={lr}",
        "step": "step",
        "tokens": "tokens",
        "n_params": "n_params",
        "parent": "{parent}",
        "at": {"step": "at"},
        "metrics": {"val_loss": Metric("val_loss", "nats", "lower")},
    }
    return Suite.from_frame(frame() if df is None else df, **(given | changes))


def test_a_suite_of_a_frame() -> None:
    suite = from_frame()
    (table,) = suite.tables
    assert table.is_frame
    assert table.patterns == ()
    assert suite.resolved(table).run_id == "{run_id}"
    # The data settles what its tokens count from; it has not to be said.
    assert suite.counts is None
    assert suite.settle_counts
    assert not from_frame(counts="own").settle_counts
    assert suite == suite
    assert Suite.from_dict(suite.to_dict()) == suite
    assert "<DataFrame>" in repr(table)
    assert from_frame() != from_frame()  # two frames


class Stream:
    """A frame that is known by Arrow's C stream alone, as those of other libraries are."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "make",
    [
        lambda df: df,
        pa.Table.from_pandas,
        lambda df: df.to_dict("list"),
        lambda df: df.to_dict("records"),
        lambda df: Stream(pa.Table.from_pandas(df)),
    ],
    ids=["pandas", "arrow", "columns", "records", "stream"],
)
def test_frames_of_all_kinds(make: Callable[[pd.DataFrame], Any]) -> None:
    suite = from_frame(make(frame()))
    assert suite.tables[0].is_frame
    assert suite.digest == from_frame(make(frame())).digest
    assert suite.digest != from_frame(make(frame(val_loss=[3.0, 2.0, 2.0, 1.5]))).digest
    with pytest.raises(UnknownNameError, match=r"Did you mean width"):
        from_frame(make(frame()), lineage="w{widht}")
    with pytest.raises(FormatError, match=r"tables\[0\]\.files: a data frame can't be written to TOML"):
        _without_metrics(suite).to_toml()


def _without_metrics(suite: Suite) -> Suite:
    return dataclasses.replace(suite, metrics=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "runid"}, r"run_id: no table has the field 'runid'.*Did you mean run_id\?"),
        ({"label": "lr={learning_rate}"}, r"run: no table has the field 'learning_rate'"),
        ({"parent": "{parnt}"}, r"tables\[0\]\.parent: no table has the field 'parnt'.*Did you mean parent"),
        ({"tokens": "tokns"}, r"tokens: the rule 'tokns' names 'tokns'.*Did you mean tokens"),
        ({"tokens": {"per_step": {"widht": {64: 1}}}}, r"tokens: no table has the field 'widht'"),
        ({"n_params": {"widht": {64: 1}}}, r"n_params: no table has the field 'widht'"),
        ({"at": {"step": "att"}}, r"at\.step: the rule 'att' names 'att'"),
        ({"where": "stpe > 1"}, r"where: the rule 'stpe > 1' names 'stpe'.*Did you mean step"),
        ({"parse": {"rnu": "{a}-{b}"}}, r"the frame has no column 'rnu'"),
        ({"factors": {"b": "lrr * 2"}}, r"factors\.b: the rule 'lrr \* 2' names 'lrr'.*Did you mean lr"),
    ],
)
def test_names_that_no_column_of_a_frame_has(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        from_frame(**changes)


def test_rules_of_branches_of_a_frame_may_name_its_first_and_last_rows() -> None:
    assert from_frame(at={"tokens": "first_tokens - 0 * last_step"}).tables[0].parents[0][1] == {
        "tokens": "first_tokens - 0 * last_step"
    }


@pytest.mark.parametrize("df", [5, object(), [], "x.csv"])
def test_what_is_no_frame(df: Any) -> None:
    with pytest.raises(DdeError):
        from_frame(df)


# --- digests of functions and frames


def _suite_with(rule: Any) -> Suite:
    return Suite("s", lineage="l", run_id="x", tokens=rule, tables=[Table("t.csv")])


def _double(values: Any) -> Any:
    return values["step"] * 2 if values["split"] in {"a", "b", "c"} else values["step"]


def test_functions_stand_in_no_toml_and_count_in_the_digest() -> None:
    suite = _suite_with(_double)
    with pytest.raises(FormatError, match=r"tokens: the Python function \S*_double can't be written to TOML"):
        suite.to_toml()
    table = Table("t.csv", factors={"f": lambda v: v["a"]})
    with pytest.raises(FormatError, match=r"tables\[0\]\.factors\.f: the Python function \S*<lambda>"):
        Suite("s", lineage="l", run_id="x", tables=[table]).to_toml()
    assert Suite.from_dict(suite.to_dict()) == suite

    def scaled(n: int) -> Callable[[Any], Any]:
        return lambda values: values["step"] * n

    rules = [_double, scaled(2), scaled(3), functools.partial(_double), np.asarray, "step", "step * 2"]
    assert len({_suite_with(rule).digest for rule in rules}) == len(rules)
    assert _suite_with(scaled(2)).digest == _suite_with(scaled(2)).digest


def test_digests_are_the_same_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_declare as t; "
        "print(t._suite_with(t._double).digest, t.from_frame().digest, t.Suite.from_dict(t.two_corpora()).digest)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(p for p in sys.path if p)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert re.fullmatch(r"[0-9a-f]{16} [0-9a-f]{16} [0-9a-f]{16}\n", printed.pop())


# --- edges


def edged(edges: Any, **changes: Any) -> Suite:
    return Suite(
        **(
            {
                "name": "s",
                "lineage": "l",
                "run_id": "{id}",
                "counts": "own",
                "tables": [Table("{id}.csv")],
                "edges": edges,
            }
            | changes
        )
    )


def test_edges_as_a_list_and_as_a_frame() -> None:
    listed = edged(
        [
            {"run": "soup", "parents": ["a", ["b", {"step": 10}]], "weight": 0.5},
            {"run": "a", "parents": [], "weight": 1},
        ]
    )
    rows = pd.DataFrame(
        {"run": ["soup", "soup", "a"], "parent": ["a", "b", None], "step": [None, 10, None], "weight": [0.5, 0.5, 1.0]}
    )
    as_frame = edged(rows)
    assert [(e.run, e.parents, e.factors) for e in listed.graph] == [
        ("soup", (("a", "end"), ("b", {"step": 10})), {"weight": 0.5}),
        ("a", (), {"weight": 1}),
    ]
    assert as_frame.graph == listed.graph
    words = edged(pd.DataFrame({"run": ["b", "c"], "parent": ["a", "b"], "at": ["checkpoint", ""]}))
    assert [e.parents for e in words.graph] == [(("a", "checkpoint"),), (("b", "end"),)]
    assert Suite("s", lineage="l", run_id="x", tables=[Table("t.csv")]).graph == ()


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([{"rnu": "a", "parents": []}], r"edges\[0\]\.run: the edge has no run.*rnu"),
        ([{"run": "a"}], r"edges\[0\]\.parents: the edge has no parents"),
        ([{"run": "a", "parents": "b"}], r"edges\[0\]\.parents: 'b' is not a list"),
        ([{"run": "a", "parents": ["b", {"step": 5}]}], r"edges\[0\]\.parents\[1\]: .* is not a parent"),
        ([{"run": "a", "parents": ["b", "end"]}], r"edges\[0\]\.parents\[1\]: 'end' is not a parent"),
        ([{"run": "a", "parents": [["b", "ends"]]}], r"edges\[0\]\.parents\[0\]: 'ends' is not a branch.*Did you mean end"),
        ([{"run": "a", "parents": []}, {"run": "a", "parents": ["b"]}], r"edges\[1\]\.run: 'a' has two edges"),
        ([{"run": "a", "parents": [], "lineage": "x"}], r"edges\[0\]: the name 'lineage' is reserved"),
        ([5], r"edges\[0\]: 5 is not an edge"),
        (5, r"edges: 5 is neither"),
        (pd.DataFrame({"run": ["a"], "parnt": ["b"]}), r"no column 'parent'.*Did you mean parnt"),
        (pd.DataFrame({"run": ["a"], "parent": ["b"], "at": ["end"], "step": [5]}), r"at and step both give"),
        (pd.DataFrame({"run": ["a"], "parent": ["b"], "at": ["ends"]}), r"edges, row 0, at: 'ends' is not a branch"),
        (pd.DataFrame({"run": ["a", "a"], "parent": ["b", "c"], "w": [1, 2]}), r"row 1: the run 'a' has an earlier row with other"),
        (pd.DataFrame({"run": ["a", "a"], "parent": ["b", ""]}), r"row 1: the run 'a' has an earlier row with other"),
    ],
)  # fmt: skip
def test_wrong_edges(edges: Any, message: str) -> None:
    with pytest.raises((FormatError, UnknownNameError), match=message):
        edged(edges)


# --- wrong declarations: each says its place and the nearest right thing

WRONG = [
    # unknown keys
    ({"linaege": "x"}, UnknownNameError, r"suite 'two_corpora': linaege: a suite has no field 'linaege'.*Did you mean lineage"),
    ({"tables_1_parnet": "x"}, UnknownNameError, r"tables\[1\]\.parnet: a table has no field 'parnet'.*Did you mean parent"),
    ({"metrics": {"loss": {"name": "l", "direktion": "lower"}}}, UnknownNameError, r"metrics\['loss'\]\.direktion: .*Did you mean direction"),
    ({"tables_0_metrics": {"loss": {"nam": "l"}}}, UnknownNameError, r"tables\[0\]\.metrics\['loss'\]\.nam: .*Did you mean name"),
    # things unsaid
    ({"counts": None}, FormatError, r"tables\[1\]\.counts: the table has a parent.*'own'.*'cumulative'"),
    ({"counts": None, "tables_0_counts": "own"}, FormatError, r"tables\[1\]\.counts: the table has a parent"),
    ({"name": None}, FormatError, r"suite: name: the suite has no name"),
    ({"lineage": None}, FormatError, r"lineage: the suite has no lineage"),
    ({"run_id": None}, FormatError, r"tables\[0\]\.run_id: neither the table nor the suite declares it"),
    ({"tables_1_files": None}, FormatError, r"tables\[1\]\.files: the table has no files"),
    ({"tables": []}, FormatError, r"tables: the suite has no tables"),
    ({"tables": None}, FormatError, r"tables: the suite has no tables"),
    ({"tables": {"files": "x"}}, FormatError, r"tables: the tables of a suite are a list; in TOML"),
    ({"tables": ["x.csv"]}, FormatError, r"tables\[0\]\.table: .* is not a mapping"),
    ({"metrics": {"loss": {"units": "nats"}}}, FormatError, r"metrics\['loss'\]\.name: the metric has no name"),
    ({"tables_1_run_type": "decay"}, UnknownNameError, r"tables\[1\]\.run_type: run has no template for 'decay'"),
    ({"run": {"pretraining": "p", "cooldwn": "c"}}, UnknownNameError, r"tables\[1\]\.run_type: run has no template for 'cooldown'.*Did you mean cooldwn"),
    ({"run": {"pretraining": "p", "cooldown": "c", "decays": "d"}}, UnknownNameError, r"run\.decays: no table has the run type 'decays'"),
    # words that there are none of
    ({"counts": "cumulativ"}, UnknownNameError, r"counts: 'cumulativ' is not a way to count.*Did you mean cumulative"),
    ({"tables_1_counts": "owm"}, UnknownNameError, r"tables\[1\]\.counts: 'owm'.*Did you mean own"),
    ({"tables_1_at": "firstrow"}, UnknownNameError, r"tables\[1\]\.at: 'firstrow' is not a branch.*Did you mean first_row"),
    ({"tables_1_at": {"steps": 5}}, UnknownNameError, r"tables\[1\]\.at: .*'steps'.*Did you mean step"),
    ({"tables_1_at": {"step": 5, "tokens": 5}}, FormatError, r"tables\[1\]\.at: .* is not a branch"),
    ({"tables_1_at": 5}, FormatError, r"tables\[1\]\.at: 5 is not a branch"),
    ({"tables_0_at": "first_row"}, FormatError, r"tables\[0\]\.at: a branch at 'first_row' needs a parent"),
    ({"tables_0_format": "jsnol"}, UnknownNameError, r"tables\[0\]\.format: 'jsnol' is not a supported format.*Did you mean jsonl"),
    ({"metrics": {"loss": {"name": "l", "direction": "up"}}}, UnknownNameError, r"metrics\['loss'\]\.direction: 'up' is not a direction"),
    ({"metrics": {"loss": {"name": "l", "kind": "logs"}}}, UnknownNameError, r"metrics\['loss'\]\.kind: 'logs'.*Did you mean log"),
    # reserved names
    ({"tables_0_files": "{lineage}-{corpus}.csv"}, UnknownNameError, r"tables\[0\]\.files: the name 'lineage' is reserved"),
    ({"tables_0_files": "{run_id}.csv"}, UnknownNameError, r"tables\[0\]\.files: the name 'run_id' is reserved"),
    ({"tables_0_parse": {"x": "{run}"}}, UnknownNameError, r"tables\[0\]\.parse\['x'\]: the name 'run' is reserved"),
    ({"tables_1_factors": {"cumulative_tokens": "tokens"}}, UnknownNameError, r"tables\[1\]\.factors\.cumulative_tokens: the name 'cumulative_tokens' is reserved.*cumulative_tokens_"),
    ({"tables_1_factors": {"run_type": "tokens"}}, UnknownNameError, r"'run_type' is reserved"),
    ({"tables_1_factors": {"sampled_x": "tokens"}}, UnknownNameError, r"'sampled_x' is reserved"),
    ({"tables_1_factors": {"grid": "tokens"}}, UnknownNameError, r"'grid' is reserved"),
    ({"tables_1_factors": {"at b": "tokens"}}, FormatError, r"factors\.at b: 'at b' can't name a factor"),
    ({"metrics": {"x": {"name": "cumulative_compute"}}}, UnknownNameError, r"metrics\['x'\]\.name: the name 'cumulative_compute' is reserved"),
    ({"lineage": "{run}-x"}, UnknownNameError, r"lineage: \{run\} depends on"),
    # ambiguous fields
    ({"tables_0_files": "{corpus}{size}.csv"}, FormatError, r"tables\[0\]\.files '\{corpus\}\{size\}\.csv', character 9: \{corpus\} and \{size\} are side by side"),
    ({"tables_0_factors": {"size": "1"}}, FormatError, r"tables\[0\]\.factors\.size: the field 'size' is ambiguous: files defines it too"),
    ({"tables_0_parse": {"x": "{size}"}}, FormatError, r"tables\[0\]\.parse\['x'\]: the field 'size' is ambiguous"),
    ({"tables_0_files": ["{size}.csv", "x/{size:int}.csv"]}, FormatError, r"tables\[0\]\.files: the field 'size' is a number in one"),
    ({"tables_1_parse": {"x": "{size:int}"}}, FormatError, r"tables\[1\]\.parse\['x'\]: the field 'size' is a number here and text in tables\[0\]\.files"),
    # duplicates
    ({"tables_1_files": "trunks/{corpus}-{size}.csv"}, FormatError, r"tables\[1\]\.files: tables\[0\] reads the same rows"),
    ({"tables_1_parent": [["a", "end"], ["a", "end"]]}, FormatError, r"tables\[1\]\.parent\[1\]: the parent 'a' at 'end' is declared twice"),
    # parents
    ({"tables_1_parent": ["a", "first_row"]}, FormatError, r"tables\[1\]\.parent\[1\]: 'first_row' is not a parent"),
    ({"tables_1_parent": ["a", {"step": 5}]}, FormatError, r"tables\[1\]\.parent\[1\]: .* is not a parent"),
    ({"tables_1_parent": []}, FormatError, r"tables\[1\]\.parent: .* is neither"),
    ({"tables_1_parent": "{corpus"}, FormatError, r"tables\[1\]\.parent '\{corpus', character 1: an opening brace"),
    ({"tables_1_parent": [["a", "ends"]]}, UnknownNameError, r"tables\[1\]\.parent\[0\]: 'ends' is not a branch"),
    # patterns, templates and rules
    ({"tables_0_files": "a/{corpus"}, FormatError, r"tables\[0\]\.files 'a/\{corpus', character 3"),
    ({"tables_0_files": ["a.csv", "{x"]}, FormatError, r"tables\[0\]\.files\[1\] '\{x', character 1"),
    ({"tables_0_files": ""}, FormatError, r"tables\[0\]\.files: '' is neither"),
    ({"tables_0_files": []}, FormatError, r"tables\[0\]\.files: .* is neither"),
    ({"run_id": "{corpus"}, FormatError, r"run_id '\{corpus', character 1"),
    ({"lineage": "{corpus:int}"}, FormatError, r"lineage .*fields of a template have no types"),
    ({"run": {"pretraining": "{", "cooldown": "x"}}, FormatError, r"run\.pretraining '\{', character 1"),
    ({"tokens": "eval('1')"}, UnknownNameError, r"tokens: the rule .* calls 'eval'"),
    ({"tokens": "rond(x)"}, UnknownNameError, r"tokens: .*Did you mean round"),
    ({"tables_1_factors": {"at_b": "x[0]"}}, FormatError, r"tables\[1\]\.factors\.at_b: 'x\[0\]' in"),
    ({"tables_1_where": "split = 'val'"}, FormatError, r"tables\[1\]\.where: .* is not a rule"),
    ({"tables_1_where": True}, FormatError, r"tables\[1\]\.where: a rule is a text"),
    ({"tables_1_at": {"step": "os.system('x')"}}, FormatError, r"tables\[1\]\.at\.step: "),
    ({"metrics": {"{set": {"name": "x"}}}, FormatError, r"metrics\['\{set'\] '\{set', character 1"),
    ({"metrics": {"{set}/x": {"name": "{sett}_loss"}}}, UnknownNameError, r"metrics\['\{set\}/x'\]: the metric names the field 'sett'.*Did you mean set"),
    ({"checkpoints": ["ok", "x-{a}{b}"]}, FormatError, r"checkpoints\[1\] .*side by side"),
    # numbers
    ({"tokens": {"per_stp": 5}}, UnknownNameError, r"tokens: there is no 'per_stp'.*Did you mean per_step"),
    ({"tokens": {"per_step": 0}}, FormatError, r"tokens\.per_step: 0 is not a number of tokens per step"),
    ({"tokens": {"per_step": 1.5}}, FormatError, r"tokens\.per_step: 1\.5 is not a number"),
    ({"tokens": {"per_step": "batch"}}, FormatError, r"tokens\.per_step: 'batch' is not a number"),
    ({"tokens": {"per_step": []}}, FormatError, r"tokens\.per_step: there is no piece"),
    ({"tokens": {"per_step": [[5, 10]]}}, FormatError, r"tokens\.per_step\[0\]: the first piece begins at step 0"),
    ({"tokens": {"per_step": [[0, 10], [5, 10], [5, 20]]}}, FormatError, r"tokens\.per_step\[2\]: steps of pieces ascend"),
    ({"tokens": {"per_step": [[0, 10], [5]]}}, FormatError, r"tokens\.per_step\[1\]: \[5\] is not a piece"),
    ({"tokens": {"per_step": {"a": {}}}}, FormatError, r"tokens\.per_step\.a: "),
    ({"tokens": {"per_step": {"a": {"x": 1}, "b": {"x": 1}}}}, FormatError, r"tokens\.per_step: a lookup is by one factor"),
    ({"tables_0_n_params": {"size": {"1B": "many"}}}, FormatError, r"tables\[0\]\.n_params\.size\['1B'\]: 'many' is not a whole number"),
    ({"n_params": {"size": {"1B": True}}}, FormatError, r"n_params\.size\['1B'\]: True is not a whole number"),
    ({"tables_0_key": "{a}"}, FormatError, r"tables\[0\]\.value: a long table needs both"),
    ({"tables_0_value": "v"}, FormatError, r"tables\[0\]\.key: a long table needs both"),
    ({"tables_0_parse": "x"}, FormatError, r"tables\[0\]\.parse: 'x' is not a mapping"),
    ({"metrics": ["loss"]}, FormatError, r"metrics: \['loss'\] is not a mapping"),
    ({"producer": 5}, FormatError, r"producer: 5 is neither"),
    ({"replicate": ""}, FormatError, r"replicate: "),
    ({"name": ""}, FormatError, r"name: the name of a suite is a text"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_wrong_declarations(changes: dict[str, Any], error: type[DdeError], message: str, tmp_path: Path) -> None:
    Suite.from_dict(two_corpora())
    declared = two_corpora(**changes)
    with pytest.raises(error, match=message) as caught:
        Suite.from_dict(declared)
    assert str(caught.value).startswith("suite")
    assert str(caught.value).count("suite 'two_corpora'") <= 1


def test_errors_of_a_toml_file_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    lines = TWO_CORPORA.splitlines()
    for line, was, now, message in [
        (2, "lineage =", "linaege =", "linaege"),
        (5, '"cumulative"', '"cumulativ"', "counts"),
        (7, "direction", "direktion", "metrics['loss'].direktion"),
        (11, "files", "flies", "tables[1].flies"),
        (14, "round", "rond", "tables[1].factors.at_b"),
        (15, "parent", "parnet", "tables[1].parnet"),
        (16, "first_row", "firstrow", "tables[1].at"),
    ]:
        changed = [*lines]
        assert was in changed[line - 1]
        changed[line - 1] = changed[line - 1].replace(was, now, 1)
        path.write_text("\n".join(changed))
        with pytest.raises((FormatError, UnknownNameError)) as caught:
            Suite.from_toml(path)
        assert str(caught.value).startswith(f"{path}, line {line}: suite 'two_corpora': {message}"), str(caught.value)


def test_toml_may_be_a_text() -> None:
    assert Suite.from_toml(TWO_CORPORA) == Suite.from_dict(two_corpora())
    with pytest.raises(UnknownNameError, match=r"^TOML text, line 15: suite 'two_corpora': tables\[1\]\.parnet"):
        Suite.from_toml(TWO_CORPORA.replace("parent", "parnet"))
    with pytest.raises(FormatError, match=r"^TOML text is not valid TOML: .*line 1"):
        Suite.from_toml("name =\n")


def test_files_that_are_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    with pytest.raises(SourceError, match="can't be read"):
        Suite.from_toml(path)
    with pytest.raises(SourceError, match="can't be read"):
        Suite.from_toml(tmp_path)
    path.write_text("name = x")
    with pytest.raises(FormatError, match=r"suite\.toml is not valid TOML: .*line 1"):
        Suite.from_toml(path)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(FormatError, match="byte 8 is not valid UTF-8"):
        Suite.from_toml(path)


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="can't be written"):
        Suite.from_dict(two_corpora()).to_toml(tmp_path / "absent" / "suite.toml")


def test_a_frame_that_was_changed_has_another_digest() -> None:
    df = frame()
    suite = from_frame(df)
    before = suite.digest
    df.loc[0, "val_loss"] = 7.0
    assert suite.digest != before
    rows = pd.DataFrame({"run": ["a"], "parent": ["b"]})
    with_edges = edged(rows)
    before = with_edges.digest
    rows.loc[0, "parent"] = "c"
    assert with_edges.digest != before


def test_a_stream_is_kept_for_all_who_ask() -> None:
    table = pa.Table.from_pandas(frame())
    suite = from_frame(pa.RecordBatchReader.from_batches(table.schema, table.to_batches()))
    assert suite.digest == from_frame(table).digest
    assert suite.tables[0].files.num_rows == 4


def test_texts_that_are_no_unicode_stand_in_no_toml() -> None:
    with pytest.raises(FormatError, match="surrogate"):
        Suite("s\ud800", lineage="l", run_id="x", tables=[Table("t.csv")]).to_toml()


def test_wrong_tables_and_metrics_in_python_say_their_key() -> None:
    with pytest.raises(UnknownNameError, match=r"^at: 'strat' is not a branch"):
        Table("t.csv", parent="a", at="strat")
    with pytest.raises(UnknownNameError, match=r"^direction: 'down'"):
        Metric("x", "1", "down")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=r"^name: "):
        Metric("")
    with pytest.raises(FormatError, match=r"^format: a data frame has no format"):
        Table(frame(), format="csv")
    with pytest.raises(TypeError):
        Table("t.csv", parnet="x")  # type: ignore[call-arg]


def test_a_suite_with_a_producer_needs_no_tables() -> None:
    suite = Suite("s", lineage="l", run={"sft": "x"}, producer=_double)
    assert suite.tables == ()
    assert suite.run_types == ()


def test_coordinates_of_a_suite_are_no_factors() -> None:
    ds = dde.open_lineages(from_frame(counts="own"), cache_dir=None)
    factors = {"width", "seed", "lr"}
    assert factors <= set(ds.coords)
    others = {str(name) for name in ds.coords} - factors
    assert {name for name in others if not name.startswith("sampled_")} <= RESERVED


def test_options_of_opening_are_no_factors() -> None:
    # Those that are filters on factors themselves are left.
    filters = {"params", "data", "seed", "learning_rate", "factors"}
    options = {p.name for p in inspect.signature(dde.open_lineages).parameters.values()}
    assert options - filters <= RESERVED | {"kwargs", "hyperparameters"}
