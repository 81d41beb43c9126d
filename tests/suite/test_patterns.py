"""Patterns and templates: what they find in texts, and what they refuse."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import pickle
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dde.errors import FormatError, UnknownNameError
from dde.suite.patterns import Pattern, Template, field_text

PYTHIA = "pythia-{size}{batch:|-1MtokBS|-0.5MtokBS}{data:|-deduped}/zero-shot/{name}_step{step:int}.json"


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("{size}-{budget:float}xC{rerun:|-rerun}.csv", "190M-0.5xC.csv", {"size": "190M", "budget": 0.5, "rerun": ""}),
        (
            "{size}-{budget:float}xC{rerun:|-rerun}.csv",
            "3B-1xC-rerun.csv",
            {"size": "3B", "budget": 1.0, "rerun": "-rerun"},
        ),
        ("{size}-{budget:float}xC{rerun:|-rerun}.csv", "peteish13_eval_full.csv", None),
        (
            "{task}_{metric:len_norm|acc}",
            "arc_easy_test_rc_5shot_len_norm",
            {"task": "arc_easy_test_rc_5shot", "metric": "len_norm"},
        ),
        ("{task}_{metric:len_norm|acc}", "piqa_val_acc", {"task": "piqa_val", "metric": "acc"}),
        ("{task}/{metric}_stderr", "piqa/acc_norm_stderr", {"task": "piqa", "metric": "acc_norm"}),
        ("{task}/{metric:ppl}", "lambada/ppl", {"task": "lambada", "metric": "ppl"}),
        ("{task}/{metric:ppl}", "lambada/acc", None),
        (
            "eval/{set}-validation/CrossEntropyLoss",
            "eval/dolma_common-crawl-validation/CrossEntropyLoss",
            {"set": "dolma_common-crawl"},
        ),
        (
            PYTHIA,
            "pythia-70m-deduped/zero-shot/70m-deduped_step1000.json",
            {"size": "70m", "batch": "", "data": "-deduped", "name": "70m-deduped", "step": 1000},
        ),
        (
            PYTHIA,
            "pythia-160m-1MtokBS-deduped/zero-shot/x_step0.json",
            {"size": "160m", "batch": "-1MtokBS", "data": "-deduped", "name": "x", "step": 0},
        ),
        (
            PYTHIA,
            "pythia-1b-bf16/zero-shot/1b-bf16_step5.json",
            {"size": "1b-bf16", "batch": "", "data": "", "name": "1b-bf16", "step": 5},
        ),
        ("stage2_midtraining_ingredient{ingredient:int}", "stage2_midtraining_ingredient2", {"ingredient": 2}),
        ("stage1_pretraining", "stage1_pretraining", {}),
        ("stage1_pretraining", "stage1_pretraining2", None),
        ("lr={lr:float}", "lr=1e-05", {"lr": 1e-5}),
        ("lr={lr:float}", "lr=-0.5E+2", {"lr": -50.0}),
        ("lr={lr:float}", "lr=.5", None),
        ("lr={lr:float}", "lr=1e999", None),
        ("{n:float}.csv", "10.csv", {"n": 10.0}),
        ("{n:float}.{m:int}.csv", "1.5.2.csv", {"n": 1.5, "m": 2}),
        ("{n:float}.{m:int}.csv", "1.5.csv", {"n": 1.0, "m": 5}),
        ("step{n:int}{rest:|a}", "step1000", {"n": 1000, "rest": ""}),
        ("step{n:int}0", "step1000", None),  # a number does not end inside its digits
        ("{name}{n:int}", "model12", {"name": "model", "n": 12}),
        ("{name}{n:int}", "model-12", {"name": "model-", "n": 12}),  # the sign belongs to the text before
        ("{n:int}{name}", "12b", {"n": 12, "name": "b"}),
        ("{n:int}", "9" * 18, {"n": 10**18 - 1}),
        ("{n:int}", "9" * 19, None),  # no int64
        ("{n:int}", "١٢", None),
        ("a.b+(c)[d]^$|{x}", "a.b+(c)[d]^$|y", {"x": "y"}),
        ("a.b{x}", "acb1", None),
        ("{{{x}}}", "{1}", {"x": "1"}),
        ("{{x}}", "{x}", {}),
        ("{size}/{size}-{n:int}.csv", "1B/1B-3.csv", {"size": "1B", "n": 3}),
        ("{size}/{size}-{n:int}.csv", "1B/2B-3.csv", None),
        ("{a}_{a}", "x_y_x_y", {"a": "x_y"}),
        ("{n:int}-{n:int}", "10-010", {"n": 10}),
        ("{n:float}-{n:float}", "1-2", None),
        ("{d:|x}{d:|x}.csv", "xx.csv", {"d": "x"}),
        ("*/{name}.csv", "a b/c.csv", {"name": "c"}),
        ("*/{name}.csv", "a/b/c.csv", None),
        ("**/{name}.csv", "a/b/c.csv", {"name": "c"}),
        ("**/{name}.csv", "c.csv", {"name": "c"}),
        ("**/{corpus}/**/log.csv", "runs/c4/log.csv", None),  # tested below: two folders may be the corpus
        ("runs/**", "runs/a/b", {}),
        ("cooldowns/*.jsonl", "cooldowns/.jsonl", {}),
        ("{x}", "a\nb", {"x": "a\nb"}),
        ("{x}", "", None),
        ("{größe}", "klein", {"größe": "klein"}),
    ],
)
def test_fields_of_texts(pattern: str, text: str, found: dict[str, object] | None) -> None:
    if pattern == "**/{corpus}/**/log.csv":
        with pytest.raises(FormatError, match=r"corpus='runs' or corpus='c4'"):
            Pattern(pattern).match(text)
        return
    got = Pattern(pattern).match(text)
    assert got == found
    assert got is None or [type(v) for v in got.values()] == [type(v) for v in (found or {}).values()]


def test_a_text_that_splits_in_two_ways_is_refused() -> None:
    with pytest.raises(FormatError) as caught:
        Pattern("{corpus}-{size}.csv", "tables[2].files").match("dolma-v1-150M.csv")
    message = str(caught.value)
    assert message.startswith("tables[2].files '{corpus}-{size}.csv' splits 'dolma-v1-150M.csv' in two ways")
    assert "corpus='dolma', size='v1-150M' or corpus='dolma-v1', size='150M'" in message
    # With one field's texts named, there is one way.
    assert Pattern("{corpus:c4|dolma-v1}-{size}.csv").match("dolma-v1-150M.csv") == {
        "corpus": "dolma-v1",
        "size": "150M",
    }
    # The field is not the same in every split, though it is in the first and in the last.
    with pytest.raises(FormatError, match=r"t='1', y='' or x='', t='11'"):
        Pattern("*{x:|a}{t}{y:|a}*").match("11")
    assert Pattern("*-*/{name}.csv").match("a-b-c/x.csv") == {"name": "x"}
    # A middle field that may be empty leaves two text fields side by side.
    with pytest.raises(FormatError, match="two ways"):
        Pattern("{a}{x:|-y}{b}").match("abc")


@pytest.mark.parametrize(
    ("pattern", "position", "cause"),
    [
        ("a{b", 2, "no closing"),
        ("a}b", 2, "no opening"),
        ("{a{b}}", 1, "no closing"),
        ("x{}", 2, "no name"),
        ("x{:int}", 2, "no name"),
        ("{a b}", 1, "can't name a field"),
        ("{1a}", 1, "can't name a field"),
        ("{a:}", 1, "empty type"),
        ("{a:integer}", 1, r"write \{a:int\}"),
        ("{a:str}", 1, r"write \{a\}"),
        ("{a:x|x}", 1, "twice"),
        ("{a:x/y|z}", 1, "ends a field"),
        ("-{a}{b}", 5, r"\{a\} and \{b\} are side by side"),
        ("-{a}*", 5, "side by side"),
        ("*{a}", 2, "side by side"),
        ("{a:int}{b:float}", 8, "side by side"),
        ("{a}-{a:int}", 5, "two types"),
        ("a**", 2, "complete component"),
        ("a/**.csv", 3, "complete component"),
        ("***", 1, "complete component"),
    ],
)
def test_wrong_patterns_are_refused_with_their_place(pattern: str, position: int, cause: str) -> None:
    with pytest.raises(FormatError, match=cause) as caught:
        Pattern(pattern, "parse['run']")
    assert f"parse['run'] {pattern!r}, character {position}:" in str(caught.value)


@pytest.mark.parametrize("value", ["", None, 3])
def test_a_pattern_is_a_text(value: object) -> None:
    with pytest.raises(FormatError, match="a pattern is a text"):
        Pattern(value)  # type: ignore[arg-type]


def test_types_of_fields_that_say_none() -> None:
    pattern = Pattern(
        "EleutherAI/pythia-{size}{data}@step{step:int}", types={"data": "|-deduped", "size": "", "step": "float"}
    )
    assert pattern.match("EleutherAI/pythia-70m-deduped@step3000") == {"size": "70m", "data": "-deduped", "step": 3000}
    with pytest.raises(FormatError, match="side by side"):
        Pattern("EleutherAI/pythia-{size}{data}@step{step:int}")


@pytest.mark.parametrize(
    ("pattern", "glob"),
    [
        ("pythia-{size}{batch:|-a}{data:|-deduped}/{name}_step{step:int}.json", "pythia-*/*_step*.json"),
        ("{a}/**/[x]?{{.csv", "*/**/[[]x][?]{.csv"),
        ("a.csv", "a.csv"),
        ("runs/**", "runs/**"),
    ],
)
def test_globs(pattern: str, glob: str) -> None:
    assert Pattern(pattern).glob() == glob


# Parts of a pattern with what they match, for a search that tries everything.
_PARTS = st.lists(
    st.sampled_from(["-", "a", "ab", "/", "T", "T", "I", "F", "C", "*", "1", "R", "R", "**/"]), min_size=1, max_size=6
)


def _pattern_text(parts: list[str]) -> str:
    specs = {"T": "", "I": ":int", "F": ":float", "C": ":|a|a-"}
    return "".join("{r}" if p == "R" else f"{{f{i}{specs[p]}}}" if p in specs else p for i, p in enumerate(parts))


def _splits(
    parts: list[str], text: str, index: int = 0, start: int = 0, repeated: str = ""
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of the fields of every split of a text, by trying every end of every part."""
    if index == len(parts):
        if start == len(text):
            yield ()
        return
    part, behind_text = (
        parts[index],
        index > 0 and (parts[index - 1] in "T*" or parts[:index].count("R") == 1 == (parts[index - 1] == "R")),
    )
    for end in range(start, len(text) + 1):
        piece = text[start:end]
        value: tuple[Any, ...] = ()
        if part == "T" or (part == "R" and not repeated):
            fits, value = piece != "" and "/" not in piece, (piece,)
        elif part == "R":
            fits = piece == repeated
        elif part == "*":
            fits = "/" not in piece
        elif part == "**/":
            fits = piece == "" or piece.endswith("/")
        elif part == "C":
            fits, value = piece in ("", "a", "a-"), (piece,)
        elif part in ("I", "F"):
            # Behind free text a number has no sign; it neither begins nor ends inside of digits.
            sign = "" if behind_text else "-?"
            number = "[0-9]+" if part == "I" else "[0-9]+([.][0-9]+)?(e-?[0-9]+)?"
            fits = re.fullmatch(sign + number, piece) is not None and not text[end : end + 1].isdigit()
            fits = fits and not (behind_text and text[start - 1 : start].isdigit() and start > 0)
            value = ((int if part == "I" else float)(piece),) if fits else ()
        else:
            fits = piece == part
        if fits:
            known = piece if part == "R" and not repeated else repeated
            yield from (value + more for more in _splits(parts, text, index + 1, end, known))


@pytest.mark.slow
@settings(max_examples=800, deadline=None)
@given(parts=_PARTS, text=st.text("aab--/12.e", max_size=9))
def test_a_match_is_what_trying_every_split_finds(parts: list[str], text: str) -> None:
    try:
        pattern = Pattern(_pattern_text(parts))
    except FormatError:
        assume(False)
    assume(not any(a == "*" and b[0] == "*" for a, b in itertools.pairwise(parts)))
    every = set(_splits(parts, text))
    # The regular expression and the search find the same.
    ways: list[Any] = []
    for find in (pattern.match, pattern._search):
        try:
            ways.append(find(text))
        except FormatError as error:
            ways.append(str(error))
    assert ways[0] == ways[1]
    found = ways[0]
    if isinstance(found, str):
        assert len(every) > 1
        return
    if found is None:
        assert not every
        return
    values = tuple(found.values())
    assert values in every
    # Other splits differ in a number or in one of several texts, never in free text alone.
    fixed = [i for i, name in enumerate(found) if pattern.kinds[name] != "text"]
    assert all(v == values or any(v[i] != values[i] for i in fixed) for v in every)
    assert "**/" in parts or fnmatch.fnmatchcase(text, pattern.glob())


def test_a_repeated_field_depends_on_where_it_begins() -> None:
    pattern = Pattern("{x:|a-}{a}_{a}")
    for find in (pattern.match, pattern._search):
        assert find("a-b_a-b") == {"x": "", "a": "a-b"}
        assert find("a-b_b") == {"x": "a-", "a": "b"}


def test_most_texts_take_no_search() -> None:
    pattern = Pattern("{date}_{model}-{data}_lr={lr:float}_seed={seed:int}")
    text = "20250901_llama-c4_lr=5e-06_seed=3"
    seconds = {}
    for name, find in [("match", pattern.match), ("search", pattern._search)]:
        begin = time.process_time()
        for _ in range(500):
            find(text)
        seconds[name] = time.process_time() - begin
    assert seconds["match"] * 2 < seconds["search"]


@pytest.mark.parametrize(
    "pattern",
    ["{a}-{b}-{c}-{d}-{e}-{f}x", "*-*-*-*-*{z:int}!", "**/{a}-{b}/**/{c}_{d}.csv", "{a:|-|--}{b:|-|--}{c:|-|--}-{d}x!"],
)
@pytest.mark.parametrize("text", ["a-" * 4000, "-" * 8000, "a/" * 4000, "a-a/" * 2000, "1" * 8000])
def test_hostile_texts_take_no_long_time(pattern: str, text: str) -> None:
    begin = time.process_time()
    assert Pattern(pattern).match(text) is None
    # The steps of a backtracking search would be 8,000 to the power of the fields.
    assert time.process_time() - begin < 5


@pytest.mark.slow
def test_a_repeated_field_in_a_hostile_text_is_an_error_or_an_answer() -> None:
    begin = time.process_time()
    for text in ("a-" * 3000, "a" * 6000 + "-" + "a" * 6000):
        with contextlib.suppress(FormatError):
            assert Pattern("{a}-{b}{n:int}-{a}{c:x|y}").match(text) is None
    assert time.process_time() - begin < 20


def test_patterns_and_templates_compare_by_their_text_and_travel() -> None:
    assert Pattern("{a}", "x") == Pattern("{a}", "y") != Pattern("{b}")
    assert len({Template("{a}"), Template("{a}"), Template("{b}")}) == 2
    travelled = pickle.loads(pickle.dumps(Pattern("{a}-{n:int}")))
    assert travelled.match("x-3") == {"a": "x", "n": 3}
    assert pickle.loads(pickle.dumps(Template("{a}!"))).format({"a": 1}) == "1!"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10.0, "10"), (0.5, "0.5"), (1e-5, "1e-05"), (5e-6, "5e-06"), (3, "3"), (-0.0, "0"), (1e300, "1e+300"),
        (float("inf"), "inf"), (float("nan"), ""), (None, ""), ("", ""), ("c4", "c4"), (np.float32(0.1), "0.1"),
        (np.float64(0.1), "0.1"), (np.int64(7), "7"), (pd.NA, ""), (pd.NaT, ""), (np.nan, ""), (2**60, str(2**60)),
        (np.str_("x"), "x"), (0.1 + 0.2, "0.30000000000000004"),
    ],
)  # fmt: skip
def test_values_as_text(value: object, text: str) -> None:
    assert field_text(value) == text
    assert Template("<{x}>").format({"x": value}) == f"<{text}>"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_number_gives_it_back(value: float) -> None:
    assert float(field_text(value)) == value


def test_templates() -> None:
    template = Template("{{{Tokens Seen}}}-{throughput/total_tokens}-{Tokens Seen}")
    assert template.fields == ("Tokens Seen", "throughput/total_tokens")
    assert template.format({"Tokens Seen": 1, "throughput/total_tokens": 2.5}) == "{1}-2.5-1"


def test_a_template_without_its_field_says_which() -> None:
    with pytest.raises(UnknownNameError) as caught:
        Template("{size}-{buget}", "run.cosine").format({"size": "1B", "budget": 1})
    assert str(caught.value) == (
        "run.cosine '{size}-{buget}': there is no field 'buget', so the text can't be formatted. Fields: size, budget. "
        "Did you mean budget?"
    )


@pytest.mark.parametrize(
    ("template", "cause"), [("{a:int}", "no types"), ("{a", "no closing"), ("{}", "no name"), ("", "a text")]
)
def test_wrong_templates_are_refused(template: str, cause: str) -> None:
    with pytest.raises(FormatError, match=cause):
        Template(template, "run_id")
