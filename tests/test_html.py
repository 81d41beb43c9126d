"""What notebooks show of entities: what it says, that it reads no metric, escapes text and shows no credential."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

import dde
from dde.entities.notebook_html import lineages_html, repository_html
from dde.entities.repository import RunRepository
from dde.sources.protocols import TOKEN_COUNTERS, TRAINING_STEP
from fakes import HUB, FakeStore, FakeTables, sft
from small_stores import example


class _Page(HTMLParser):
    """Text of a page: rows of cells, in order, and everything beside tables; tags must close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.indents: list[str] = []
        self.beside = ""
        self._open: list[str] = []
        self.feed(re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            if len(self.rows[-1]) == 1:
                self.indents.append(dict(attrs).get("style") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.beside += data + "\n"

    @property
    def facts(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self.rows if len(row) == 2}

    def row(self, first: str) -> list[str]:
        [found] = [row for row in self.rows if row[0] == first]
        return found


def repository(tables: FakeTables | None = None, store: FakeStore | None = None) -> RunRepository:
    made = example()
    return RunRepository(tables or made[0], store or made[1])  # type: ignore[arg-type]


def test_a_lineage_shows_its_base_and_the_tree_of_its_runs() -> None:
    page = _Page(repository().get_lineage("d")._repr_html_())
    assert page.facts["recipe"] == "Dolma1.7"
    assert page.facts["size"] == "4M, 3,744,832 parameters"
    assert page.facts["seed"] == "0 (default)"
    assert page.facts["tokens trained"] == "375.2M tokens (375,193,600); the schedule has 375.2M"
    assert page.facts["evaluated checkpoints"] == "3"
    assert page.facts["derived runs"] == "2 used, 1 state crashed"
    # Columns: label, method, rate, budget, branch, own tokens, end, token source, state, status.
    assert page.row("sft_lr=1e-05_fullx1")[1:] == [
        *("supervised_ft", "1e-05", "full × 1", "375.2M", "+200M", "575.2M", "logged", "finished", "used")
    ]
    child = "sft_lr=1e-05_fullx1+dpo_lr=1e-05_fullx1_beta=5"
    assert page.row(child)[4:8] == ["575.2M", "+45.57k", "575.2M", "estimated"]
    assert page.row("sft_lr=3e-05_fullx1")[-2:] == ["crashed", "state crashed"]
    names = [row[0] for row in page.rows]
    # A child follows its parent, before the parent's next sibling, and is indented.
    assert names.index("sft_lr=1e-05_fullx1") + 1 == names.index(child) == names.index("sft_lr=3e-05_fullx1") - 1
    assert [bool(i) for i, n in zip(page.indents, names, strict=True) if n.startswith("sft")] == [False, True, False]
    assert 'state="all"' in page.beside


def test_runs_without_a_place_are_shown_with_the_reason() -> None:
    lost = "2025_08_27-07_52_26_test_dpo_tune_cache_dd__dolma1_7-4M__main__100Mt_lr=5e-06_default_--learning_rate=2e-07"
    parent = "2025_08_21-15_03_00_test_finetune_DD-dolma1_7-4M_main_100M_toks_--learning_rate=5e-06"
    tables, store = example()
    path = f"/m/2025_08_21-15_03_00_g/model/{parent}/"
    store.fake_runs.append(sft(lost, program="dpo.py", model_name_or_path=path, evaluations={"piqa": 0.5}))
    page = _Page(repository(tables, store).get_lineage("dolma1_7-4M-default")._repr_html_())
    assert page.row(lost)[2:] == [parent, "finished", "parent not in store"]
    assert "1 parent not in store" in page.facts["derived runs"]
    assert _Page(repository(tables, store).get_run(lost)._repr_html_()).facts["status"] == "parent not in store"


def test_long_lists_are_cut_and_say_by_how_much() -> None:
    tables, _ = example()
    store = FakeStore([sft(f"r{i:02}", [10.0 * (i + 1)], learning_rate=(i + 1) * 1e-6) for i in range(37)])
    found = repository(tables, store)
    page = _Page(found.get_lineage("r00")._repr_html_())
    shown = [row[2] for row in page.rows if row[0].startswith("sft")]
    assert shown == [f"{(i + 1) * 1e-6:g}" for i in range(30)]
    assert "Not shown: 7 more derived runs. lineage.derived_runs" in page.beside
    assert page.facts["derived runs"] == "37 used"
    many = dde.entities.runs.LineageList([found.get_lineage("c4-4M-default")] * 31)
    page = _Page(many._repr_html_())
    assert sum(row[0] == "c4-4M-default" for row in page.rows) == 30
    assert "Not shown: 1 more lineage." in page.beside


def test_lineages_have_a_row_each() -> None:
    lineages = repository().find_lineages(base_params="4M")
    page = _Page(lineages._repr_html_())
    row = page.row("dolma1_7-4M-default")
    assert row[1:] == ["Dolma1.7", "4M", "0 (default)", "375.2M", "3", "1 dpo, 1 supervised_ft", "1 state crashed"]
    assert page.row("c4-4M-default")[-2:] == ["1 supervised_ft", ""]
    assert "find_lineages" in _Page(lineages_html(dde.entities.runs.LineageList())).beside


def test_a_run_says_where_it_starts_and_how_that_is_known() -> None:
    opened = repository()
    base = _Page(opened.get_run("dolma1_7-4M-default")._repr_html_())
    assert base.facts["runs starting here"] == "a, dead"
    run = _Page(opened.get_run("a")._repr_html_())
    assert run.facts["starts from"] == "dolma1_7-4M-default, step 5,725"
    assert run.facts["branches at"] == "375.2M tokens (375,193,600)"
    assert "reduce_loss=sum" in run.facts["hyperparameters"]
    assert run.facts["runs starting here"] == "d"
    chained = _Page(opened.get_run("d")._repr_html_())
    assert chained.facts["starts from"] == "a"
    assert "712" in chained.facts["token source"]


def test_a_repository_counts_lineages_and_runs_and_names_what_to_call() -> None:
    page = _Page(repository()._repr_html_())
    assert page.facts["pretraining"] == "FakeTables (5 checkpoints)"
    assert page.facts["post-training"] == "FakeStore (4 runs)"
    assert page.row("4M") == ["4M", "3,744,832", "2", "2", "1", "2", "4"]
    counts = [row for row in page.rows if row[0] in ("supervised_ft", "dpo")]
    assert counts == [["supervised_ft", "2", "used"], ["supervised_ft", "1", "state crashed"], ["dpo", "1", "used"]]
    calls = [row[0] for row in page.rows if row[0].startswith("repository.")]
    opened = repository()
    for call in calls:
        assert len(eval(call, {"repository": opened}).__repr__())
    assert "DataDecideEvolved" in dde.DataDecideEvolved(None, example()[1], cache_dir=None)._repr_html_()
    assert "known from post-training" not in page.beside
    alone = _Page(RunRepository(None, example()[1])._repr_html_())  # type: ignore[arg-type]
    assert alone.facts["pretraining"] == "none (0 checkpoints)"
    assert "2 bases known from post-training runs alone" in alone.beside


def test_no_metric_is_read() -> None:
    tables, store = example()
    opened = repository(tables, store)
    opened._repr_html_()
    opened.find_lineages()._repr_html_()
    for run_id in ("a", "d", "dead", "c4-4M-default"):
        opened.get_run(run_id)._repr_html_()
        opened.get_lineage(run_id)._repr_html_()
    assert tables.calls == []
    assert store.evaluation_calls == []
    assert {key for _, keys in store.history_calls for key in keys} <= {*TOKEN_COUNTERS, TRAINING_STEP}


def test_text_is_escaped_wherever_it_comes_from() -> None:
    name = '<img src=x onerror="f()">&lt;'
    tables, _ = example()
    store = FakeStore(
        [
            sft(name, [100.0], state="<b>odd</b>", reduce_loss="<i>"),
            sft(f"{name}2", model_name_or_path=f"/x/{name}", state="finished", evaluations={"piqa": 0.5}),
            sft(f"{name}3", program="dpo.py", model_name_or_path=f"{HUB}", evaluations={"piqa": 0.5}),
        ],
        description=f"a store of {name}",
    )
    opened = repository(tables, store)
    pages = [opened._repr_html_(), opened.get_lineage(name)._repr_html_(), opened.find_lineages()._repr_html_()]
    pages += [opened.get_run(r.record.run_id)._repr_html_() for r in store.fake_runs]
    for page in pages:
        assert not re.search(r"<(?:img|b>odd|i>)", page)
        _Page(page)
    assert name in _Page(pages[0]).facts["post-training"]
    assert _Page(pages[3]).facts["state"] == "<b>odd</b>"


@pytest.mark.parametrize("dsn", ["postgresql://ada:s3cr3t@127.0.0.1:1/wandb", "host=127.0.0.1 port=1 password=s3cr3t"])
def test_no_credential_is_shown_and_a_store_that_is_away_is_said(dsn: str) -> None:
    away = dde.DataDecideEvolved(None, dsn, cache_dir=None)
    for page in (away._repr_html_(), away.repository._repr_html_()):
        assert "s3cr3t" not in page
        assert "127.0.0.1" in _Page(page).facts["post-training"]
        assert "127.0.0.1" in _Page(page).facts["error"]
    opened = repository(store=FakeStore([], description=dsn))
    assert "s3cr3t" not in opened._repr_html_()


def test_colours_are_those_of_the_notebook() -> None:
    style = re.search(r"<style>(.*?)</style>", repository_html(repository()), re.DOTALL)
    assert style is not None
    colours = re.findall(r"(?:color|background|border[a-z-]*):\s*([^;}]+)", style[1])
    assert colours
    for colour in colours:
        assert re.fullmatch(r"inherit|none|collapse|1px solid rgba\(128, 128, 128, \.\d\)", colour.strip()), colour
