"""The application's tabs of one run and of answers: what they show, and both in a real Chromium."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import pytest

import dde
import dde.analysis
from browser import Visit
from dde.errors import DdeError, SelectionError, UnknownNameError
from dde.explore.answers_tab import AnswersTab
from dde.explore.choices import Choices, Opened, apply
from dde.explore.listing import run_table
from dde.explore.questions import (
    QUESTIONS,
    Asked,
    answer_question,
    changed_options,
    factor_names,
    has_one_base,
    labelled_conditions,
    options_of,
    picture_of,
    read_option,
    scale_factor,
)
from dde.explore.run_config import complete_config
from dde.explore.run_facts import (
    RunFacts,
    facts_in_dataset,
    facts_in_repository,
    last_values,
    run_names,
)
from dde.explore.run_tab import RunTab
from dde.explore.tabs import Marks, Shown
from dde.sources.wandb.store import WandBStore
from dde.tutorial import Suite
from fakes import FakeStore, sft
from other_suites import ladder
from postgres_server import PostgresServer

pytestmark = pytest.mark.filterwarnings("ignore:the runs reduce train_loss in different ways")

METRICS = ["arc_easy", "train_loss"]
BASE = "dolma1_7-4M-default"


@pytest.fixture(scope="module")
def repository(tiny_suite: Suite) -> dde.RunRepository:
    return dde.DataDecideEvolved(tiny_suite.data, tiny_suite.wandb, cache_dir=None).repository


@pytest.fixture(scope="module")
def shown(repository: dde.RunRepository) -> Shown:
    return shown_of(repository, {"state": "all", "metrics": [*METRICS, "piqa"]}, METRICS)


def shown_of(repository: dde.RunRepository, options: dict[str, Any], metrics: list[str]) -> Shown:
    """What the page gives to its tabs, of all lineages."""
    explored = repository.to_dataset(**options)
    choices = Choices(tuple(explored["lineage"].values.tolist()), None, tuple(metrics))
    part = apply(explored, choices).compute()
    opened = Opened("dde.tutorial.open_lineages", ('"tiny"',), (("state", "all"),))
    return Shown(explored, part, choices, run_table(part), {}, opened, repository)


def dpo_run(repository: dde.RunRepository) -> str:
    return next(i for i, r in repository.registry.derived.items() if r.run_type == "dpo" and r.parentage.in_store)


def texts(facts: RunFacts) -> dict[str, str]:
    return {fact.name: fact.text for fact in facts.facts}


# What is known


def test_a_run_of_a_store_is_known_with_its_evidence(repository: dde.RunRepository) -> None:
    run_id = dpo_run(repository)
    facts = facts_in_repository(repository, run_id)
    coverage = repository.coverage("all").set_index("run_id").loc[run_id]
    known = texts(facts)
    assert known["parent known from"] == coverage["parent_evidence"] == "config.model_name_or_path"
    assert known["tokens counted"] == f"estimated: {coverage['estimate']}"
    assert known["branches at"].endswith(f"({coverage['branch_tokens']:,.0f})")
    assert known["project"] == "tutorial-lab/finetuning-tutorial"
    assert known["status"] == "used"
    assert [(r.role, r.depth) for r in facts.relatives] == [("ancestor", 0), ("ancestor", 1), ("self", 2)]
    base, sft_run, _ = facts.relatives
    assert base.run_id == BASE
    assert sft_run.detail == "branches at 375.2M tokens (375,193,600), step 5,725"
    assert dict(facts.hyperparameters)["dpo_beta"] == "5"
    below = [r.run_id for r in facts_in_repository(repository, sft_run.run_id).relatives if r.role == "child"]
    assert below == repository.get_run(sft_run.run_id).child_run_ids == [run_id]


def test_contradictions_and_doubts_are_warnings(repository: dde.RunRepository) -> None:
    coverage = repository.coverage("all")
    doubtful = coverage[coverage["contradictions"] != ""].iloc[0]
    (fact,) = [f for f in facts_in_repository(repository, doubtful["run_id"]).facts if f.name == "contradictions"]
    assert fact.kind == "warning"
    assert fact.text.split("\n") == doubtful["contradictions"].split("; ")
    unused = coverage[coverage["status"] == "parent not in store"].iloc[0]
    facts = facts_in_repository(repository, unused["run_id"])
    assert [f.kind for f in facts.facts if f.name == "status"] == ["warning"]
    assert next((r.run_id, r.known) for r in facts.relatives) == (unused["parent_run_id"], False)


def test_a_dataset_alone_names_what_it_does_not_know(shown: Shown, repository: dde.RunRepository) -> None:
    run_id = dpo_run(repository)
    facts, known = facts_in_dataset(shown.explored, run_id), facts_in_repository(repository, run_id)
    assert [(r.run_id, r.role, r.depth) for r in facts.relatives] == [
        (r.run_id, r.role, r.depth) for r in known.relatives
    ]
    assert texts(facts)["ends at"] == texts(known)["ends at"]
    unknown = {f.name: f.text for f in facts.facts if f.kind == "unknown"}
    assert "dde explore DATA STORE" in unknown["contradictions"]
    base = facts_in_dataset(shown.explored, BASE)
    children = repository.get_run(BASE).child_run_ids
    assert {r.run_id for r in base.relatives if r.role == "child"} == set(children) & set(shown.table["run_id"])
    with pytest.raises(DdeError, match="is not in the Dataset"):
        facts_in_dataset(shown.explored, "no such run")


def test_last_values_are_those_of_the_run_itself(shown: Shown, repository: dde.RunRepository) -> None:
    run_id = dpo_run(repository)
    arc, loss = last_values(shown, run_id)
    row = shown.table.set_index("run_id").loc[run_id]
    assert (arc.value, loss.value) == (row["arc_easy"], row["train_loss"])
    assert arc.support == "observed"
    rows = repository.get_run(BASE).get_evaluations(["arc_easy"])
    before = rows[rows["cumulative_tokens"] <= row["branch_tokens"]]
    assert arc.base == pytest.approx(before["arc_easy"].iloc[-1])
    assert arc.difference == pytest.approx(arc.value - arc.base)
    # The log of the base is not in the tables.
    assert math.isnan(loss.difference)
    assert "base has no value" in loss.note
    (base,) = [v for v in last_values(shown, BASE) if v.metric == "arc_easy"]
    assert math.isfinite(base.value)
    assert math.isnan(base.difference)


def test_a_run_that_is_not_shown_is_read_for_the_shown_metrics(shown: Shown, repository: dde.RunRepository) -> None:
    run_id = dpo_run(repository)
    other = next(x for x in shown.choices.lineages if x != BASE)
    choices = replace(shown.choices, lineages=(other,))
    fewer = replace(shown, dataset=apply(shown.explored, choices).compute(), choices=choices)
    assert run_id not in fewer.dataset["run_id"].values
    assert last_values(fewer, run_id) == pytest.approx(last_values(shown, run_id), nan_ok=True) or (
        repr(last_values(fewer, run_id)) == repr(last_values(shown, run_id))
    )


def test_the_config_is_complete(repository: dde.RunRepository) -> None:
    run_id = dpo_run(repository)
    rows, command, remark = complete_config(repository, run_id)
    assert remark == ""
    config = {key: value for section, key, value in rows if section == "config"}
    read = repository.registry.derived[run_id].evidence.record
    groups = {key for key, value in read.config.items() if isinstance(value, dict)}
    assert set(config) > set(read.config) - groups
    assert {key.partition(".")[0] for key in config} >= set(read.config)
    assert command.split()[0] == read.program
    assert str(read.config["learning_rate"]) == config["learning_rate"]
    assert complete_config(repository, BASE)[2].startswith("This run comes from tables")


def test_a_source_without_complete_runs_gives_what_dde_reads() -> None:
    store = FakeStore([sft("run-1")])
    repository = dde.RunRepository(None, store)
    rows, _, remark = complete_config(repository, "run-1")
    assert remark == "The store gives only the keys that dde reads."
    assert {key for _, key, _ in rows} == set(repository.registry.derived["run-1"].evidence.record.config)


def test_stores_give_the_same_complete_run(tmp_path: Path) -> None:
    config = {"learning_rate": {"value": 1e-5, "desc": None}, "model": {"layers": 4, "sizes": [1, 2]}}
    run = {"run_id": "a", "run_name": "a", "state": "finished", "config": config, "summary": {"x": 1.0},
           "wandb_metadata": {"program": "finetune.py", "args": ["--name", "two words"]}}  # fmt: skip
    folder = tmp_path / "lines"
    folder.mkdir()
    (folder / "runs.jsonl").write_text("".join(json.dumps({**run, "run_id": i}) + "\n" for i in "ba"))
    store = WandBStore(folder)
    found = store.complete_run("a")
    assert found is not None
    assert json.loads(str(found["config"])) == config
    assert store.complete_run("c") is None
    repository = dde.RunRepository(None, store)
    rows, command, _ = complete_config(repository, "a")
    assert ("config", "model.sizes", "[1, 2]") in rows
    assert ("config", "learning_rate", "1e-05") in rows
    assert command == "finetune.py --name 'two words'"


@pytest.mark.slow
def test_postgres_gives_the_complete_run_of_its_export(
    tiny_suite: Suite, postgres: PostgresServer, tmp_path: Path
) -> None:
    from command_process import run

    url = postgres.new_database()
    code, _, err = run("ingest", tiny_suite.wandb, url, folder=tmp_path)
    assert code == 0, err
    export, database = WandBStore(tiny_suite.wandb), WandBStore(url)
    run_id = export.runs()[0].run_id
    one, other = export.complete_run(run_id), database.complete_run(run_id)
    assert one is not None
    assert other is not None
    assert json.loads(str(one["config"])) == other["config"]
    assert database.complete_run("no such run") is None


def test_runs_of_a_declared_suite_have_a_page() -> None:
    rows = [{"name": "a", "step": s, "tokens": 10 * s, "loss": 3 - s / 10, "from": ""} for s in range(1, 4)]
    rows += [{"name": "b", "step": s, "tokens": 10 * s, "loss": 2 - s / 10, "from": "a"} for s in range(1, 4)]
    frame = pd.DataFrame(rows)
    suite = dde.Suite.from_frame(frame, run="name", lineage="all", label="{name}", counts="own", parent="{from}")
    repository = dde.RunRepository.from_suite(suite)
    facts = facts_in_repository(repository, "b")
    assert [(r.run_id, r.role) for r in facts.relatives] == [("a", "ancestor"), ("b", "self")]
    assert facts.relatives[1].detail == "branches at 30 tokens (30), step 3"
    assert complete_config(repository, "b")[2].startswith("This run comes from the files of the suite")
    shown = shown_of(repository, {}, ["loss"])
    (value,) = last_values(shown, "b")
    assert value.value == pytest.approx(1.7)
    assert value.difference == pytest.approx(1.7 - 2.7)
    assert [r.run_id for r in facts_in_dataset(shown.explored, "b").relatives] == ["a", "b"]


# The tab, without a browser


def test_the_tab_follows_the_marks(shown: Shown, repository: dde.RunRepository) -> None:
    marks = Marks()
    tab = RunTab(marks)
    assert tab.title == "Run"
    tab.show(shown)
    page: Any = tab.view[1]
    assert "Choose one" in page.page["message"]
    marks.opened = dpo_run(repository)
    assert page.page["run_id"] == marks.opened
    assert tab.view[0].value == run_names(shown)[marks.opened]
    tab.view[0].value = run_names(shown)[BASE]
    assert marks.opened == BASE
    page.chosen = dpo_run(repository)
    assert marks.opened == dpo_run(repository)
    assert page.chosen == ""
    marks.opened = "no such run"
    assert "no such run" in page.page["problems"][0]
    assert tab.view[0].value == ""
    marks.opened = ""
    assert "Choose one" in page.page["message"]


def test_a_store_that_fails_is_text_on_the_page(shown: Shown, repository: dde.RunRepository) -> None:
    class Broken:
        """A repository whose store can't be read."""

        def __getattr__(self, name: str) -> Any:
            raise DdeError("the store is gone, so nothing is known. Open it again.")

    marks = Marks(opened=dpo_run(repository))
    tab = RunTab(marks)
    tab.show(replace(shown, repository=Broken()))
    page: Any = tab.view[1].page
    assert page["problems"] == ["the store is gone, so nothing is known. Open it again."] * 2
    assert page["facts"][0][1] == marks.opened


def test_a_run_opened_later_replaces_an_earlier_one(shown: Shown, repository: dde.RunRepository) -> None:
    async def scenario() -> tuple[str, list[Any]]:
        marks = Marks()
        tab = RunTab(marks)
        tab.show(shown)
        marks.opened = dpo_run(repository)
        busy = tab.view[1].page["busy"]
        marks.opened = BASE
        while "config" not in tab.view[1].page:
            await asyncio.sleep(0.01)
        await asyncio.gather(*tab._tasks)
        return busy, [tab.view[1].page["run_id"], marks.opened]

    busy, ids = asyncio.run(scenario())
    assert busy.startswith("Reading")
    assert ids == [BASE, BASE]


# Questions


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_option_of_a_question_is_offered_with_its_default(question: str) -> None:
    parameters = inspect.signature(getattr(dde.analysis, question)).parameters
    options = options_of(question)
    assert [o.name for o in options] == [n for n in parameters if n not in ("dataset", "metric")]
    for option in options:
        given = parameters[option.name]
        assert option.required == (given.default is inspect.Parameter.empty)
        assert option.required or option.default == given.default
        assert not option.required or option.is_main
        # What a widget starts with changes nothing.
        if not option.required:
            blank: Any = [] if option.kind in ("factors", "conditions") else option.default or ""
            assert read_option(option, option.default if option.kind == "flag" else blank) == option.default


def test_options_are_read_from_widgets() -> None:
    rates = [("params", "1B"), ("seed", 0), ("seed", 1)]
    values: dict[str, Any] = {o.name: o.default for o in options_of("decision_accuracy")}
    values |= {"target": rates, "at": " fraction_of_training=0.5 ", "replicates": ["seed"], "small": [], "proxy": ""}
    assert changed_options("decision_accuracy", values) == {
        "target": {"params": "1B", "seed": [0, 1]}, "at": {"fraction_of_training": 0.5}, "replicates": ["seed"],
    }  # fmt: skip
    target, *_ = options_of("reach")
    assert read_option(target, "0.5, 0.6") == [0.5, 0.6]
    assert read_option(target, "pretraining") == "pretraining"
    assert read_option(target, [("run", "pretraining")]) == {"run": "pretraining"}
    with pytest.raises(UnknownNameError, match="Target is not given"):
        read_option(target, "")
    ceiling = next(o for o in options_of("fit") if o.name == "ceiling")
    assert (ceiling.default, read_option(ceiling, None)) == (1.0, None)


def test_factors_and_scales_come_from_the_dataset(shown: Shown) -> None:
    assert factor_names(shown.explored)[:3] == ["params", "data", "seed"]
    assert scale_factor(shown.explored) == ("params", ["4M", "150M"])
    conditions = labelled_conditions(shown.explored)
    assert conditions["params=4M"] == ("params", "4M")
    assert conditions["learning_rate=5e-06"] == ("learning_rate", 5e-6)
    assert scale_factor(shown.explored.drop_vars("n_params")) is None


ASKED = [
    Asked("best", ("arc_easy",)),
    Asked("effect", ("arc_easy", "train_loss"), {"at": "last", "forgetting": False}),
    Asked("reach", ("arc_easy",), {"target": [0.27, 0.3], "rule": "sustained"}),
    Asked("match", ("arc_easy",), {"to": {"run": "pretraining"}}, of_all=True),
    Asked("signal_to_noise", ("piqa",), {"last": 2}, of_all=True, of_bases=True),
    Asked("compare", ("arc_easy",), {"a": {"params": "4M"}, "b": {"params": "150M"}, "at": "last", "over": ["data"]}),
    Asked("compare", ("piqa", "arc_easy"), {"a": {"seed": 0}, "b": {"seed": 1}, "paired": False}, True, True),
    Asked("ranks", ("piqa",), {"a": {"params": "4M"}, "b": {"params": "150M"}, "at": "last"}, True, True),
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.question)
def test_an_answer_is_that_of_its_code(shown: Shown, asked: Asked) -> None:
    answer = answer_question(shown, asked)
    variables: dict[str, Any] = {}
    exec(answer.code, variables)
    pd.testing.assert_frame_equal(variables["table"], answer.frame)
    assert answer.code.startswith("import dde\n")
    assert ("picture = " in answer.code) == bool(answer.picture)
    assert bool(answer.picture) != any(note.startswith("no picture:") for note in answer.notes)
    assert answer.notes[0].startswith("read all that was opened: " if asked.of_all else "asked of what is shown: ")
    if answer.picture:
        assert answer.picture.lstrip().startswith(b"<?xml")
        assert picture_of(answer.dataset, ".pdf").startswith(b"%PDF-")


def test_marked_runs_are_compared_by_default(shown: Shown) -> None:
    marks = Marks()
    tab = AnswersTab(marks)
    tab.show(shown)
    tab._question.value = "compare"
    sides = [tab._widgets["compare"][side] for side in "ab"]
    assert [side.value for side in sides] == [[("data", "Dolma1.7")], [("data", "DCLM-Baseline")]]
    ids = [i for i in shown.table["run_id"] if "4M" in i and i != BASE][:3]
    marks.baseline = BASE
    marks.selected = [BASE, *ids]
    assert [side.value for side in sides] == [[("marks", "baseline")], [("marks", "selected")]]
    tab._widgets["compare"]["at"].value = "last"
    tab._ask()
    assert tab._answer is not None, tab._state.object
    # The pinned run is not compared with itself.
    assert tab._answer.asked.options["a"] == {"run_id": BASE}
    assert tab._answer.asked.options["b"] == {"run_id": ids if len(ids) > 1 else ids[0]}
    variables: dict[str, Any] = {}
    exec(tab._answer.code, variables)
    pd.testing.assert_frame_equal(variables["table"], tab._answer.frame)
    assert variables["answer"].identical(tab._answer.dataset)
    # A side that was chosen stays; marks that are gone are an error in words.
    sides[1].value = [("data", "Dolma1.7"), ("params", "4M")]
    marks.baseline = ""
    assert sides[1].value == [("data", "Dolma1.7"), ("params", "4M")]
    sides[0].value = [("marks", "baseline")]
    tab._ask()
    assert "no run is pinned" in tab._state.object


def test_runs_of_a_side_that_are_not_asked_are_named(shown: Shown) -> None:
    options = {"a": {"run_id": BASE}, "b": {"run_id": [BASE, "<gone>"]}}
    with pytest.raises(SelectionError, match=r"b has <gone>, which is not among the runs that are asked.*mark others"):
        answer_question(shown, Asked("compare", ("arc_easy",), options))


def test_columns_and_intervals_without_any_value_are_not_shown(shown: Shown) -> None:
    derived = [str(i) for i in shown.table["run_id"][shown.table["run"] != "pretraining"]]
    one = {"a": {"run_id": BASE}, "b": {"run_id": derived}, "at": "last"}
    answer = answer_question(shown, Asked("compare", ("arc_easy",), one))
    assert {"low", "high", "p_value"} <= set(answer.empty_columns)
    assert "no value in any row, so not in the table below: low, high, p_value" in answer.notes
    assert not any(note.startswith("interval") for note in answer.notes)
    assert b"95% interval" not in answer.picture
    sizes = {"a": {"params": "4M"}, "b": {"params": "150M"}, "over": ["data", "seed"], "at": "last"}
    several = answer_question(shown, Asked("compare", ("piqa",), sizes, True, True))
    assert "low" not in several.empty_columns
    assert any(note.startswith("interval: ") for note in several.notes)


def test_a_selection_without_runs_is_an_error_in_words(shown: Shown) -> None:
    empty = np.flatnonzero((shown.dataset["run_id"].values == "").all(axis=0) | (shown.dataset["run_id"][0] == ""))
    nothing = replace(shown, dataset=shown.dataset.isel(lineage=[0], run=empty[:2]))
    for question, options in (("match", {"to": 0.3}), ("reach", {"target": 0.3}), ("effect", {})):
        with pytest.raises(SelectionError, match="no run is among those that are asked"):
            answer_question(nothing, Asked(question, ("arc_easy",), options))


def test_sides_of_factors_that_are_no_identifiers_have_code_that_runs(shown: Shown) -> None:
    name = 'data recipe", *os'
    explored = shown.explored.rename(data=name)
    part = apply(explored, shown.choices).compute()
    sides = {"a": {name: "Dolma1.7"}, "b": {name: "DCLM-Baseline"}, "at": "last"}
    answer = answer_question(
        replace(shown, explored=explored, dataset=part, opened=None), Asked("compare", ("arc_easy",), sides)
    )
    variables: dict[str, Any] = {"ds": explored}
    exec(answer.code, variables)
    pd.testing.assert_frame_equal(variables["table"], answer.frame)


def test_what_is_read_for_an_answer_is_counted(shown: Shown) -> None:
    answer = answer_question(shown, Asked("effect", ("piqa",), {"at": "last"}, of_all=True))
    runs = int((shown.explored["run_id"].values != "").sum())
    assert f"{runs} runs (6 lineages, {shown.explored.sizes['run']} labels), 1 metric" in answer.notes[0]
    with pytest.raises(UnknownNameError, match="'piqa' is not among the metrics"):
        answer_question(shown, Asked("effect", ("piqa",)))
    with pytest.raises(UnknownNameError, match="no metric is chosen"):
        answer_question(shown, Asked("effect", ()))


# The tab of answers, without a browser


def test_the_tab_asks_what_its_widgets_say(shown: Shown) -> None:
    marks = Marks()
    tab = AnswersTab(marks)
    assert tab.title == "Answers"
    tab._ask()
    assert not tab._result.visible
    tab.show(shown)
    assert tab._metrics.value == ["arc_easy"]
    tab._ask()
    assert tab._answer is not None
    assert tab._answer.asked == Asked("best", ("arc_easy",))
    assert tab._result.visible
    # A required option that is missing is an error in words, and takes the previous answer away.
    tab._question.value = "reach"
    tab._ask()
    assert "Target is not given" in tab._state.object
    assert not tab._result.visible
    tab._widgets["reach"]["target"].value = "0.27"
    tab._ask()
    assert tab._answer.asked.options == {"target": 0.27}
    tab._widgets["reach"]["runs to reach"].value = [("run", "pretraining")]
    tab._ask()
    assert "has a text and runs" in tab._state.object
    tab._widgets["reach"]["target"].value = ""
    tab._ask()
    # Ticked rows select their runs, and runs that are selected elsewhere are ticked.
    ids = tab._answer.frame["run_id"]
    marks.selected = ["another"]
    tab._runs.selection = [1]
    assert marks.selected == ["another", ids[1]]
    marks.selected = [ids[0], "another"]
    assert tab._runs.selection == [0]
    tab._ask()
    assert tab._runs.selection == [0]
    assert marks.selected == [ids[0], "another"]


def test_defaults_follow_what_is_asked_until_they_are_changed(shown: Shown) -> None:
    one = replace(shown.choices, lineages=tuple(x for x in shown.choices.lineages if "4M" in x))
    tab = AnswersTab(Marks())
    tab.show(replace(shown, choices=one, dataset=apply(shown.explored, one).compute()))
    tab._question.value = "decision_accuracy"
    widgets = tab._widgets["decision_accuracy"]
    assert tab._bases.value
    assert widgets["target"].value == []
    tab._scope.value = "all that was opened"
    assert widgets["target"].value == [("params", "150M")]
    assert widgets["over"].value == "data"
    assert "piqa" in tab._metrics.options
    widgets["target"].value = [("params", "4M")]
    widgets["over"].value = "seed"
    tab._scope.value = "what is shown"
    assert widgets["over"].value == "seed"
    tab._scope.value = "all that was opened"
    tab._question.value = "best"
    tab._question.value = "decision_accuracy"
    assert widgets["over"].value == "seed"


def test_an_answer_of_an_earlier_selection_says_so(shown: Shown) -> None:
    tab = AnswersTab(Marks())
    tab.show(shown)
    tab._ask()
    other = replace(shown.choices, lineages=shown.choices.lineages[:2])
    tab.show(replace(shown, choices=other, dataset=apply(shown.explored, other).compute()))
    assert "earlier selection" in tab._state.object
    tab.show(shown)
    assert "earlier selection" not in tab._state.object
    assert "asked of what is shown" in tab._state.object
    tab.show(replace(shown, choices=other, dataset=apply(shown.explored, other).compute()))
    assert "earlier selection" in tab._state.object
    tab._ask()
    assert "earlier selection" not in tab._state.object


def test_a_selection_that_changes_before_the_answer_comes_is_remarked(shown: Shown) -> None:
    async def scenario() -> tuple[str, str, str]:
        tab = AnswersTab(Marks())
        tab.show(shown)
        tab._ask()
        other = replace(shown.choices, lineages=shown.choices.lineages[:2])
        tab.show(replace(shown, choices=other, dataset=apply(shown.explored, other).compute()))
        state = tab._state.object
        assert tab._task is not None
        await tab._task
        assert tab._answer is not None
        return state, tab._state.object, tab._answer.code

    before, after, code = asyncio.run(scenario())
    assert "Computing" in before
    assert "earlier selection" in after
    assert all(lineage in code for lineage in shown.choices.lineages)


def test_a_later_question_replaces_an_earlier_one(shown: Shown) -> None:
    async def scenario() -> tuple[str, str]:
        tab = AnswersTab(Marks())
        tab.show(shown)
        tab._ask()
        state = tab._state.object
        tab._question.value = "effect"
        tab._ask()
        assert tab._task is not None
        await tab._task
        assert tab._answer is not None
        return state, tab._answer.asked.question

    state, question = asyncio.run(scenario())
    assert "Computing" in state
    assert question == "effect"


def test_an_unexpected_error_is_text(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("<b>surprise</b>")

    monkeypatch.setattr("dde.explore.answers_tab.answer_question", fail)
    tab = AnswersTab(Marks())
    tab.show(shown)
    tab._ask()
    assert "ValueError: &lt;b&gt;surprise" in tab._state.object


def test_answers_of_another_suite_have_defaults_of_its_own() -> None:
    explored = ladder()
    choices = Choices(tuple(explored["lineage"].values.tolist()), None, (str(next(iter(explored.data_vars))),))
    part = apply(explored, choices).compute()
    tab = AnswersTab(Marks())
    tab.show(Shown(explored, part, choices, run_table(part), {}))
    for question in QUESTIONS:
        tab._question.value = question
        for option in options_of(question):
            if option.kind == "factor":
                assert tab._widgets[question][option.name].value in factor_names(part)
    # Several bases share a lineage, so there are no curves of bases.
    assert not has_one_base(part)
    assert not tab._bases.value
    tab._question.value = "signal_to_noise"
    tab._ask()
    assert tab._answer is not None, tab._state.object
    assert tab._answer.code.startswith("import dde\n\n# ds is the Dataset that was explored")


# In a browser


@contextmanager
def served(make: Callable[[], Any]) -> Iterator[str]:
    """A page of Panel on a free port: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pn.extension("tabulator")
    server = pn.serve(make, port=port, address="127.0.0.1", show=False, threaded=True, verbose=False)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.stop()


@pytest.mark.browser
def test_the_page_of_a_run_in_a_browser(shown: Shown, repository: dde.RunRepository, browser: Any) -> None:
    def page() -> Any:
        tab = RunTab(Marks())
        tab.show(shown)
        return tab.view

    with served(page) as address:
        visit = Visit(browser, address, width=1000)
        choice = visit.page.get_by_label("Run (type a part")
        choice.click()
        visit.page.keyboard.type("dpo_lr")
        visit.page.keyboard.press("Enter")
        visit.page.locator(".config tr").first.wait_for()
        assert "dpo_lr" in visit.page.locator("h1").inner_text()
        # The config is searched in the page.
        visit.page.get_by_label("Search the config").fill("dpo_beta")
        assert visit.page.locator(".config tr:visible").all_inner_texts()[0].split() == [
            "config", "dpo_beta", "5.0copy"
        ]  # fmt: skip
        assert visit.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        # By keyboard to the run's parent.
        visit.page.locator(".tree button").first.focus()
        visit.page.keyboard.press("Enter")
        visit.page.locator("h1", has_text=f"pretraining · {BASE}").wait_for()
        visit.page.get_by_text("which have no config").wait_for()
        assert choice.input_value() == run_names(shown)[BASE]
        assert visit.hosts() == {"127.0.0.1"}
        assert visit.complaints == []
        visit.close()


@pytest.mark.browser
def test_the_page_of_a_run_shows_names_as_text(tiny_suite: Suite, browser: Any, tmp_path: Path) -> None:
    name = '<img src=x onerror="window.hacked=1">'
    config = {"parent_run_id": "allenai/DataDecide-dolma1_7-4M", "learning_rate": 1e-5, "num_train_epochs": 1,
              "finetune_tokens": 1e6, name: name, "url": "javascript:window.hacked=2",
              "home": "https://example.org/a?b=1"}  # fmt: skip
    run = {"run_id": name, "run_name": name, "state": name, "config": config, "summary": {},
           "wandb_metadata": {"program": "finetune.py", "args": [name]}}  # fmt: skip
    history = [{"run_id": name, "step": s, "metrics": {"total_tokens": s * 1000, "train_loss": 3.0}} for s in (1, 2)]
    (tmp_path / "runs.jsonl").write_text(json.dumps(run) + "\n")
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    repository = dde.DataDecideEvolved(tiny_suite.data, tmp_path, cache_dir=None).repository
    shown = shown_of(repository, {"state": "all", "metrics": METRICS, "params": "4M"}, METRICS)

    def page() -> Any:
        tab = RunTab(Marks(opened=name))
        tab.show(shown)
        return tab.view

    with served(page) as address:
        visit = Visit(browser, address)
        visit.page.locator(".config tr").first.wait_for()
        assert name in visit.page.locator(".facts").first.inner_text()
        assert visit.page.evaluate("() => window.hacked") is None
        assert visit.page.locator(".config a").evaluate_all("all => all.map((a) => a.href)") == [config["home"]]
        assert visit.page.locator("a[href^='javascript']").count() == 0
        assert visit.complaints == []
        visit.close()


@pytest.mark.browser
def test_a_question_is_answered_in_a_browser(shown: Shown, browser: Any) -> None:
    def page() -> Any:
        tab = AnswersTab(Marks())
        tab.show(shown)
        return tab.view

    with served(page) as address:
        visit = Visit(browser, address, width=1000)
        visit.page.get_by_role("button", name="Answer").click()
        visit.page.locator("img").wait_for()
        assert visit.page.locator("img").evaluate("image => image.complete && image.naturalWidth > 100")
        visit.page.locator("pre", has_text='answer = shown.dde.best("arc_easy")').wait_for()
        # A label ticks its box, and Enter asks.
        visit.page.get_by_text("base runs only").click(force=True)
        visit.choose("Question", QUESTIONS["reach"])
        field = visit.page.get_by_label("Target")
        field.fill("0.27")
        field.press("Enter")
        visit.page.locator("pre", has_text="target=0.27").wait_for()
        table = pd.read_parquet(io.BytesIO(visit.download("Parquet")))
        assert {"tokens", "run_id", "status"} <= set(table)
        assert visit.download("PDF").startswith(b"%PDF-")
        assert len(pd.read_csv(io.BytesIO(visit.download("CSV")))) == len(table)
        field.fill("no such run")
        field.press("Enter")
        visit.page.locator("p.error").wait_for()
        assert "no such run" in visit.page.locator("p.error").inner_text()
        assert visit.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert visit.hosts() == {"127.0.0.1"}
        assert visit.complaints == []
        visit.close()


@pytest.mark.browser
def test_answers_show_names_as_text(shown: Shown, browser: Any) -> None:
    hostile = '<img src=x onerror="window.hacked=1">'
    names = {"arc_easy": hostile, "data": hostile + "2"}
    explored = shown.explored[["arc_easy"]].load().rename({"arc_easy": names["arc_easy"]})
    families = [hostile + str(value) for value in explored["data"].values]
    explored["data"] = ("lineage", np.array(families, object), explored["data"].attrs)
    choices = replace(shown.choices, metrics=(hostile,))
    part = apply(explored, choices).compute()
    other = replace(shown, explored=explored, dataset=part, choices=choices, repository=None)

    def page() -> Any:
        tab = AnswersTab(Marks())
        tab.show(other)
        return tab.view

    with served(page) as address:
        visit = Visit(browser, address)
        visit.choose("Question", QUESTIONS["effect"])
        visit.page.get_by_role("button", name="Answer").click()
        visit.page.locator("img[alt]").wait_for()
        visit.page.locator(".tabulator-cell", has_text=families[0]).first.wait_for()
        visit.choose("Question", QUESTIONS["ranks"])
        visit.page.get_by_role("button", name="Answer").click()
        visit.page.locator("p.note, p.error", has_text="asked of what is shown").first.wait_for()
        assert visit.page.locator("pre").inner_text().count(hostile.replace('"', '\\"')) > 0
        visit.choose("Question", QUESTIONS["compare"])
        visit.page.get_by_role("button", name="Answer").click()
        visit.page.locator("p.error", has_text="is not a data recipe").wait_for()
        assert visit.page.evaluate("() => window.hacked") is None
        assert [c for c in visit.complaints if "hacked" in c] == []
        assert visit.complaints == []
        visit.close()
