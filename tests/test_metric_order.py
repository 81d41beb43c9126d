"""Which metrics a picture shows, and the order of its panels: the OLMES tasks in their published order."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import dde
from dde.errors import SelectionError, UnknownNameError
from dde.names import OLMES_TASKS
from dde.plots.curves import curve_panels
from dde.plots.metric_order import in_olmes_order, metrics_to_draw
from picture_checks import assert_nothing_is_cut_off, printed

ORDER = [
    "arc_challenge", "arc_easy", "boolq", "csqa", "hellaswag", "mmlu_average", "openbookqa", "piqa", "socialiqa",
    "winogrande",
]  # fmt: skip


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    return dde.tutorial.open_lineages("tiny", params="150M", data="Dolma1.7")


def test_panels_of_the_tasks_are_in_their_published_order(suite: xr.Dataset) -> None:
    assert sorted(OLMES_TASKS) == sorted(ORDER)
    shuffled = suite[list(np.random.default_rng(3).permutation(list(suite.data_vars)))]
    for given in ("olmes", ["olmes", "piqa"]):
        rows = curve_panels(shuffled, given, facet_by=None)
        assert [p.frame.y.name for row in rows for p in row] == ORDER
    titles = [p.title.partition(",")[0] for row in curve_panels(shuffled, "olmes", facet_by=None) for p in row]
    assert titles[:4] == ["ARC-Challenge", "ARC-Easy", "BoolQ", "CommonsenseQA"]


def test_what_panels_of_tasks_share_is_the_title_of_the_picture(suite: xr.Dataset) -> None:
    with printed(suite.dde.plot("olmes", backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
        titles = [axis.get_title("left") for axis in figure.axes if axis.get_title("left")]
        assert titles == [
            "ARC-Challenge", "ARC-Easy", "BoolQ", "CommonsenseQA", "HellaSwag", "MMLU average", "OpenBookQA", "PIQA",
            "Social IQa", "WinoGrande",
        ]  # fmt: skip
        assert "150M on Dolma1.7" in [text.get_text() for text in figure.texts]
    with printed(suite.dde.plot("olmes", title="Tasks", backend="matplotlib")) as figure:
        assert figure.axes[0].get_title("left") == "ARC-Challenge, 150M on Dolma1.7"


def test_other_metrics_follow_in_the_order_of_the_dataset(suite: xr.Dataset) -> None:
    found = metrics_to_draw(suite, "*")
    assert found[:10] == ORDER
    assert found[10:] == [n for n in map(str, suite.data_vars) if n not in ORDER]
    assert metrics_to_draw(suite, "arc_*") == ["arc_challenge", "arc_easy"]
    entries = xr.Dataset({n: 0 for n in ("mmlu_average_acc_raw", "mmlu_average", "piqa_acc_raw", "piqa")})
    assert metrics_to_draw(entries, "olmes") == ["mmlu_average", "piqa"]
    assert metrics_to_draw(entries, "*") == ["mmlu_average_acc_raw", "mmlu_average", "piqa_acc_raw", "piqa"]


def test_names_stay_where_they_are_listed(suite: xr.Dataset) -> None:
    assert metrics_to_draw(suite, ["piqa", "arc_easy", "piqa"]) == ["piqa", "arc_easy"]
    assert metrics_to_draw(suite, None) == [str(next(iter(suite.data_vars)))]
    assert metrics_to_draw(suite, "pile-valppl") == ["pile_valppl"]


@pytest.mark.parametrize("names", [
    ["arc_challenge_acc_norm", "ARC_Easy_acc", "commonsense_qa_acc", "mmlu_acc", "mmlu_anatomy_acc", "social_iqa_acc"],
    ["arc_c", "arc_e", "commonsenseqa", "mmlu_avg", "mmlu_formal_logic", "siqa"],
])  # fmt: skip
def test_tasks_of_other_suites_are_known_by_name(names: list[str]) -> None:
    others = ["sciq_acc", "piqability", "loss"]
    mixed = xr.Dataset({n: 0.0 for n in [others[0], *reversed(names), *others[1:]]})
    assert in_olmes_order(mixed, mixed.data_vars) == [*names, *others]


def test_the_attribute_names_the_task_of_a_metric() -> None:
    ds = xr.Dataset({"a": ((), 0, {"task": "winogrande"}), "b": ((), 0, {"task": "ARC-Easy"}), "arc_challenge": 0})
    assert in_olmes_order(ds, ds.data_vars) == ["arc_challenge", "b", "a"]


def test_patterns_skip_spreads_of_means_and_standard_errors(suite: xr.Dataset) -> None:
    means = dde.tutorial.open_lineages("small", params="4M", metrics=["piqa", "arc_easy"]).dde.mean_over("seed")
    assert "piqa_low" in means
    assert metrics_to_draw(means, "*") == ["arc_easy", "piqa"]
    errors = xr.Dataset({"acc": 0, "acc_stderr": ((), 0, {"stderr_of": "acc"})})
    assert metrics_to_draw(errors, "acc*") == ["acc"]
    assert metrics_to_draw(errors, "acc_stderr") == ["acc_stderr"]


def test_a_pattern_without_a_match_says_so(suite: xr.Dataset) -> None:
    with pytest.raises(UnknownNameError, match=r"no variable .* matches 'piqua\*'.*Did you mean piqa\?"):
        metrics_to_draw(suite, "piqua*")
    with pytest.raises(UnknownNameError, match="matches 'olmes'"):
        metrics_to_draw(suite[["train_loss"]], "olmes")
    for nothing in (suite[[]], suite):
        with pytest.raises(SelectionError, match="holds no metric"):
            metrics_to_draw(nothing, None if nothing is not suite else [])
