"""The suites that dde names: the published declarations, against the real files, and those of packages."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import dde
from dde.curves.metric import identifier
from dde.errors import SourceError, UnknownNameError
from dde.suite import builtin
from dde.suite.builtin import olmo3_32b
from dde.suite.declare import Metric, Suite, Table
from dde.suite.patterns import Pattern
from samples import sample_folder


@pytest.fixture(scope="module")
def real_suites() -> Path:
    """The folder of real public suites."""
    return sample_folder("suites")


def files_of(folder: Path, pattern: Pattern) -> dict[str, dict[str, Any]]:
    """Fields of every file below a folder that a pattern matches, by path."""
    paths = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.*")) if p.is_file()]
    found = {path: pattern.match(path) for path in paths}
    listed = {p.relative_to(folder).as_posix() for p in folder.glob(pattern.glob())}
    matched = {path: fields for path, fields in found.items() if fields is not None}
    assert matched.keys() <= listed
    return matched


def metric_of(metrics: Mapping[str, Metric], key: str) -> Metric | None:
    """The metric of the first pattern that matches a key."""
    matches = ((Pattern(text).match(key), metric) for text, metric in metrics.items())
    return next((metric.named(fields) for fields, metric in matches if fields is not None), None)


def test_the_mapping() -> None:
    assert isinstance(dde.suites, Mapping)
    assert list(dde.suites) == ["datadecide", "olmo3_32b", "olmo_ladder", "pythia"]
    assert len(dde.suites) == 4
    assert {name: suite.name for name, suite in dde.suites.items()} == {name: name for name in dde.suites}
    assert dde.suites["pythia"] is dde.suites["pythia"]
    assert "pythia" in dde.suites
    assert "Pythia" not in dde.suites
    assert 5 not in dde.suites
    assert dde.suites.get("none") is None
    assert "olmo3_32b" in repr(dde.suites)


def test_an_unknown_suite_says_the_near_ones() -> None:
    for error in (KeyError, UnknownNameError):
        with pytest.raises(error) as caught:
            dde.suites["olmo_lader"]
        assert str(caught.value).startswith(
            "There is no suite 'olmo_lader'. Suites: datadecide, olmo3_32b, olmo_ladder"
        )
        assert "Did you mean olmo_ladder" in str(caught.value)


def test_nothing_is_declared_before_it_is_asked_for() -> None:
    code = (
        "import sys, dde; dde.suites; list(dde.suites); repr(dde.suites); "
        "from dde.suite.builtin import suites; print(suites._read); suites['pythia']; print(list(suites._read))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split("\n")[:2] == ["{}", "['pythia']"]


@pytest.mark.parametrize("name", ["datadecide", "olmo3_32b", "olmo_ladder", "pythia"])
def test_every_suite_goes_through_a_file_and_a_process(name: str, tmp_path: Path) -> None:
    suite = dde.suites[name]
    suite.to_toml(tmp_path / "suite.toml")
    again = Suite.from_toml(tmp_path / "suite.toml")
    assert again == suite
    assert again.digest == suite.digest
    assert pickle.loads(pickle.dumps(suite)) == suite
    assert Suite.from_dict(json.loads(json.dumps(suite.to_dict()))) == suite


def test_digests_tell_the_suites_apart() -> None:
    digests = [suite.digest for suite in dde.suites.values()] + [olmo3_32b.declare(by_steps=True).digest]
    assert len(set(digests)) == 5


def test_datadecide_is_made_by_its_own_resolver() -> None:
    suite = dde.suites["datadecide"]
    assert suite.producer == "datadecide"
    assert suite.tables == ()
    assert suite.lineage_template.format({"data": "c4", "params": "1B", "seed_name": "default"}) == "c4-1B-default"


# --- OLMo ladder


def test_files_of_the_ladder(real_suites: Path) -> None:
    suite, folder = dde.suites["olmo_ladder"], real_suites / "olmo_ladder"
    sizes = {"190M", "370M", "760M", "1B", "3B"}
    counts = {}
    for table in suite.tables:
        (pattern,) = table.patterns
        fields = files_of(folder, pattern)
        counts[table.run_type] = len(fields)
        assert {f["size"] for f in fields.values()} == sizes
    assert counts == {"cosine": 30, "constant": 5, "decay": 25}
    cosine = files_of(folder, suite.tables[0].patterns[0])
    assert {f["budget"] for f in cosine.values()} == {0.5, 1.0, 2.0, 5.0, 10.0}
    assert sum(f["rerun"] == "-rerun" for f in cosine.values()) == 5
    template = suite.run_template("cosine")
    assert template.format(cosine["cosine/190M-0.5xC.csv"]) == "cosine-0.5xC"
    assert template.format(cosine["cosine/3B-10xC.csv"]) == "cosine-10xC"


def test_ids_of_the_ladder_tell_all_runs_apart(real_suites: Path) -> None:
    suite = dde.suites["olmo_ladder"]
    ids, parents = [], set()
    for table in suite.tables:
        resolved = suite.resolved(table)
        (pattern,) = table.patterns
        for fields in files_of(real_suites / "olmo_ladder", pattern).values():
            values = {"rerun": "", "run_type": table.run_type} | fields
            ids.append(_template(resolved.run_id).format(values))
            parents |= {template.format(values) for template, _ in table.parents}
    assert len(ids) == len(set(ids)) == 60
    assert parents == {f"constant/{size}-10xC" for size in ("190M", "370M", "760M", "1B", "3B")}
    assert parents <= set(ids)


def test_numbers_of_the_ladder_are_the_published_ones(real_suites: Path) -> None:
    published = json.loads((real_suites / "olmo_ladder" / "const.json").read_text())
    by_file = {entry["path"].rpartition("/")[2].partition("-")[0]: entry["n"] for entry in published.values()}
    assert dde.suites["olmo_ladder"].n_params == {"size": by_file}


def test_metrics_of_the_ladder(real_suites: Path) -> None:
    suite = dde.suites["olmo_ladder"]
    columns = list(pd.read_csv(real_suites / "olmo_ladder" / "cosine" / "190M-1xC.csv", nrows=0))
    named = {column: metric_of(suite.metrics or {}, column) for column in columns}
    found = {column: metric for column, metric in named.items() if metric is not None}
    names = [metric.name for metric in found.values()]
    assert len(names) == len(set(names))
    assert found["eval/c4_en-validation/CrossEntropyLoss"] == Metric(
        "c4_en_loss", "nats", "lower", task="c4_en", metric="loss"
    )
    assert found["eval/downstream_bpb/arc_easy_test_rc_5shot_bpb"].name == "arc_easy_test_rc_5shot_bpb"
    assert sum(metric.kind == "log" for metric in found.values()) == 1
    assert sum(metric.name.endswith("_loss") for metric in found.values()) == 11
    # Every column of an accuracy is one metric of its task.
    accuracies = [c for c in columns if c.startswith("eval/downstream/")]
    assert [found[c].name for c in accuracies] == [identifier(found[c].task) for c in accuracies]
    assert {found[c].metric for c in accuracies} == {"len_norm", "acc"}
    assert {"_step", "throughput/total_tokens", "batch_size_in_tokens"} <= set(columns) - set(found)


# --- Pythia


def test_files_of_pythia(real_suites: Path) -> None:
    suite, folder = dde.suites["pythia"], real_suites / "pythia"
    zero, five, intervention = (files_of(folder, table.patterns[0]) for table in suite.tables)
    assert not five
    runs = {(f["size"], f["batch"], f["data"]) for f in zero.values()}
    assert runs == {
        ("70m", "", "-deduped"),
        ("160m", "", ""),
        ("160m", "", "-deduped"),
        ("410m", "", "-deduped"),
        ("1.4b", "", "-deduped"),
    }
    assert {f["step"] for f in zero.values()} >= {0, 1, 128, 1000, 143_000}
    assert {(f["size"], f["data"]) for f in intervention.values()} == {
        ("70m", "-deduped"),
        ("410m", "-deduped"),
        ("1.4b", "-deduped"),
    }
    assert {f["long"] for f in intervention.values()} <= {"", "-long"}
    # Everything but the baselines of the interventions is some table's.
    every = {p.relative_to(folder).as_posix() for p in folder.rglob("*.json")}
    assert {path.split("/")[1] for path in every - {*zero, *intervention}} == {"baseline"}


def test_labels_of_pythia(real_suites: Path) -> None:
    suite, folder = dde.suites["pythia"], real_suites / "pythia"
    table = suite.tables[2]
    labels, parents = set(), set()
    for fields in files_of(folder, table.patterns[0]).values():
        values = fields | {"run_type": table.run_type}
        labels.add((suite.lineage_template.format(values), suite.run_template(table.run_type).format(values)))
        parents |= {template.format(values) for template, _ in table.parents}
    assert ("pythia-70m-deduped", "intervention") in labels
    assert parents == {f"{size}-deduped-pretraining" for size in ("70m", "410m", "1.4b")}
    with_step = {"size": "70m", "batch": "", "data": "-deduped", "run_type": "pretraining", "long": ""}
    assert _template(suite.run_id).format(with_step) == "70m-deduped-pretraining"


def test_metrics_of_pythia(real_suites: Path) -> None:
    suite = dde.suites["pythia"]
    path = real_suites / "pythia" / "pythia-160m" / "zero-shot" / "160m_step128.json"
    results = json.loads(path.read_text())["results"]
    keys = [f"{task}/{metric}" for task, entries in results.items() for metric in entries]
    for table, suffix in zip(suite.tables[:2], ["", "_5shot"], strict=True):
        metrics = suite.resolved(table).metrics or {}
        named = [metric_of(metrics, key) for key in keys]
        assert all(metric is not None for metric in named)
        names = [metric.name for metric in named if metric]
        assert len(names) == len(set(names)) == len(keys)
        by_key = dict(zip(keys, named, strict=True))
        stderr = by_key["hendrycksTest-global_facts/acc_stderr"]
        assert stderr is not None
        assert stderr.name == f"hendrycksTest_global_facts_acc{suffix}_stderr"
        assert stderr.stderr_of == f"hendrycksTest_global_facts_acc{suffix}"
        assert stderr.stderr_of in names
        perplexities = [m for k, m in by_key.items() if k.endswith("/ppl")]
        assert {m.direction for m in perplexities if m} == {"lower"}
        assert {m.direction for k, m in by_key.items() if m and k.endswith(("/acc", "/acc_norm"))} == {"higher"}
        # Standard errors of theirs have none either.
        assert {m.direction for k, m in by_key.items() if m and k.startswith("crows_pairs")} == {""}


def test_the_smallest_batch_is_its_share_of_the_largest() -> None:
    tokens = dde.suites["pythia"].tokens
    assert isinstance(tokens, Mapping)
    per_step = tokens["per_step"]["batch"]
    assert per_step[""] == 1024 * 2048
    assert [per_step[f"-{m}MtokBS"] * d for m, d in (("1", 2), ("0.5", 4), ("0.25", 8))] == [per_step[""]] * 3
    assert per_step[""] * 143_000 == 299_892_736_000


def test_checkpoints_of_pythia_on_the_hub() -> None:
    (pattern,) = dde.suites["pythia"].checkpoint_patterns
    assert pattern.match("EleutherAI/pythia-1.4b-deduped@step143000") == {
        "size": "1.4b",
        "data": "-deduped",
        "step": 143_000,
    }
    assert pattern.match("EleutherAI/pythia-160m@step0") == {"size": "160m", "data": "", "step": 0}


# --- OLMo 3


@pytest.mark.parametrize("by_steps", [False, True])
def test_stages_of_olmo3(real_suites: Path, by_steps: bool) -> None:
    suite = olmo3_32b.declare(by_steps)
    rows = pd.read_csv(real_suites / "olmo3_checkpoints" / "OLMo-3-1025-32B.csv")
    taken = {stage: [] for stage in rows["Stage"].unique()}
    for index, table in enumerate(suite.tables):
        pattern = table.parse_patterns["Stage"]
        for stage in taken:
            if pattern.match(stage) is not None:
                taken[stage].append(index)
    # Every stage is of one table, and every parent is a stage.
    assert {stage: len(tables) for stage, tables in taken.items()} == dict.fromkeys(taken, 1)
    assert {t.text for table in suite.tables for t, _ in table.parents} <= set(taken)
    ingredient = suite.tables[1].parse_patterns["Stage"].match("stage2_midtraining_ingredient2")
    assert suite.run_template("midtraining").format(ingredient or {}) == "midtrain-2"
    assert [at for _, at in suite.tables[4].parents] == [{"step": 11_921}, {"step": 11_000}, {"step": 10_000}]
    assert {suite.resolved(t).counts for t in suite.tables} == {"own" if by_steps else "cumulative"}


def test_batches_of_olmo3_are_what_the_list_grows_by(real_suites: Path) -> None:
    rows = pd.read_csv(real_suites / "olmo3_checkpoints" / "OLMo-3-1025-32B.csv")
    for table in olmo3_32b.declare(by_steps=True).tables:
        if isinstance(table.tokens, Mapping):
            matches = [table.parse_patterns["Stage"].match(s) is not None for s in rows["Stage"]]
            for _, own in rows[matches].groupby("Stage"):
                grown = (own["Tokens Seen"].diff() / own["Step"].diff()).dropna()
                assert (grown == table.tokens["per_step"]).all()


# --- suites of packages


class Package:
    """A distribution of a package that adds suites."""

    name, version = "trials", "1.2"


EXTRA = Suite("extra", lineage="l", run_id="{id}", tables=[Table("{id}.csv")])


def make_extra() -> Suite:
    return dataclasses.replace(EXTRA, name="made")


def broken() -> Suite:
    raise RuntimeError("no licence file")


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points that packages are to have; a test adds them."""
    entries: list[EntryPoint] = []

    def find(*, group: str) -> list[EntryPoint]:
        return entries if group == "dde.suites" else []

    monkeypatch.setattr(builtin, "entry_points", find)
    return entries


def entry(name: str, value: str) -> EntryPoint:
    made = EntryPoint(name, value, "dde.suites")
    vars(made)["dist"] = Package
    return made


def test_suites_of_packages(packages: list[EntryPoint]) -> None:
    packages += [entry("extra", f"{__name__}:EXTRA"), entry("made", f"{__name__}:make_extra")]
    packages.append(entry("absent", "no_such_module_anywhere:SUITE"))
    # Listing and asking for another one imports nothing.
    assert list(dde.suites) == ["datadecide", "olmo3_32b", "olmo_ladder", "pythia", "absent", "extra", "made"]
    assert "absent" in dde.suites
    assert "(of the package trials 1.2)" in repr(dde.suites)
    assert dde.suites["extra"] == EXTRA
    assert dde.suites["made"].name == "made"
    assert dde.suites["pythia"].name == "pythia"
    with pytest.raises(KeyError, match="Did you mean extra"):
        dde.suites["extr"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "no_such_module_anywhere:SUITE",
            r"'bad' of the package trials 1\.2 can't be loaded from no_such_module_anywhere:SUITE: ModuleNotFoundError",
        ),
        ("test_builtin:NOTHING", r"AttributeError"),
        ("test_builtin:broken", r"RuntimeError: no licence file"),
        ("test_builtin:Package", r"is a Package, not a dde\.Suite"),
        ("test_builtin:__name__", r"is a str, not a dde\.Suite"),
    ],
)
def test_a_package_whose_suite_can_not_be_loaded(packages: list[EntryPoint], value: str, message: str) -> None:
    packages.append(entry("bad", value))
    with pytest.raises(SourceError, match=message):
        dde.suites["bad"]
    assert dde.suites["pythia"].name == "pythia"


@pytest.mark.parametrize("name", ["twice", "pythia"])
def test_two_suites_of_one_name_are_an_error_where_it_is_read(packages: list[EntryPoint], name: str) -> None:
    packages += [entry(name, f"{__name__}:EXTRA"), entry(name, f"{__name__}:make_extra")]
    assert list(dde.suites).count(name) == 1
    assert "declared more than once" in repr(dde.suites)
    with pytest.raises(
        SourceError, match=r"declared more than once, by .*the package trials 1\.2 and the package trials"
    ):
        dde.suites[name]
    assert dde.suites["olmo_ladder"].name == "olmo_ladder"


def test_public_names() -> None:
    assert {"Suite", "Table", "Metric", "suites"} <= set(dde.__all__)
    assert dde.Suite is Suite
    assert dde.Table is Table
    assert dde.Metric is Metric


def _template(text: str | None) -> Any:
    from dde.suite.patterns import Template

    assert text is not None
    return Template(text)
