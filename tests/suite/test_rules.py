"""Rules: arithmetic that is walked and never run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dde.errors import FormatError, UnknownNameError
from dde.suite.rules import Rule

STEPS = np.array([0, 1000, 2500], np.int64)
VALUES: dict[str, Any] = {
    "step": STEPS,
    "_step": STEPS,
    "batch_size_in_tokens": np.array([524_288.0] * 3),
    "tokens": np.array([4_194_304_000, 99_614_720_000, 5_000_000_000]),
    "split": np.array(["train", "val", None], object),
    "Tokens Seen": np.array([7, 8, 9]),
    "throughput/total_tokens": np.array([10, 20, 2**60 + 1]),
    "throughput": np.array([1.0, 1.0, 1.0]),
    "total_tokens": np.array([2.0, 2.0, 2.0]),
}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("_step * batch_size_in_tokens", [0, 524_288_000, 1_310_720_000]),
        ("10 * round(tokens / 1e10)", [0, 100, 0]),
        ("0 * step", [0, 0, 0]),
        ("-step + 1", [1, -999, -2499]),
        ("+step", [0, 1000, 2500]),
        ("step // 1000", [0, 1, 2]),
        ("-step // 1000", [0, -1, -3]),
        ("step % 1000", [0, 0, 500]),
        ("-step % 999", [0, 998, 497]),
        ("2 ** (step / 1000)", [1, 2, 2**2.5]),
        ("-2 ** 2 + 0 * step", [-4, -4, -4]),
        ("(step + 1) * 2", [2, 2002, 5002]),
        ("min(step, 1500)", [0, 1000, 1500]),
        ("max(step, 1500, 2000)", [2000, 2000, 2500]),
        ("abs(step - 1000)", [1000, 0, 1500]),
        ("floor(step / 999)", [0, 1, 2]),
        ("log10(step)", [-np.inf, 3, np.log10(2500)]),
        ("round(step / 1024, 2)", [0, 0.98, 2.44]),
        ("step / 0", [np.nan, np.inf, np.inf]),
        ("step", [0, 1000, 2500]),
        ("`Tokens Seen` * 2 - `throughput`", [13, 15, 17]),
        ("throughput/total_tokens", [10, 20, 2**60 + 1]),
        ("throughput / total_tokens", [0.5, 0.5, 0.5]),
        ("Tokens Seen", [7, 8, 9]),
        (" Tokens Seen ", [7, 8, 9]),
        ("9 ** 9 ** 9 + step", [np.inf] * 3),
    ],
)
def test_rules(rule: str, expected: list[float]) -> None:
    got = Rule(rule).evaluate(VALUES)
    np.testing.assert_array_equal(got, np.array(expected))
    np.testing.assert_array_equal(Rule(rule, columns=VALUES).evaluate(VALUES), got)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("step >= 1000", [False, True, True]),
        ("0 < step < 2000", [False, True, False]),
        ("step == 1000 or step == 0", [True, True, False]),
        ("step > 0 and not step == 1000", [False, False, True]),
        ("split == 'val'", [False, True, False]),
        ('split != "val"', [True, False, True]),
        ("split == 'it\\'s'", [False, False, False]),
        ("split == 'back`quote`'", [False, False, False]),
        ("step != step", [False, False, False]),
    ],
)
def test_filters(rule: str, expected: list[bool]) -> None:
    got = Rule(rule).evaluate(VALUES)
    assert got.dtype == bool
    assert list(got) == expected


def test_columns_of_texts_with_gaps() -> None:
    for gap in (None, np.nan, pd.NA):
        values = {
            "split": np.array(["val", gap], object),
            "n": np.array([1, gap], object),
            "none": np.array([gap, gap], object),
        }
        assert list(Rule("split == 'val'").evaluate(values)) == [True, False]
        assert list(Rule("none == 'val'").evaluate(values)) == [False, False]
        assert list(Rule("none != 'val'").evaluate(values)) == [True, True]
        np.testing.assert_array_equal(Rule("n + 1").evaluate(values), [2, np.nan])
    assert list(Rule("s == 'val'").evaluate({"s": np.array(["val", "test"])})) == [True, False]
    assert list(Rule("s == 'val'").evaluate({"s": pd.array(["val", None], "string")})) == [True, False]


@pytest.mark.parametrize(
    ("source", "expected"),
    [(5, 5.0), (0.5, 0.5), ("2 * 3", 6.0), ("n", 3), ("n // 2", 1.0), ("'c4'", "c4"), ("word", "w")],
)
def test_scalars(source: Any, expected: object) -> None:
    got = Rule(source).evaluate({"n": 3, "word": "w"})
    assert got == expected
    assert np.ndim(got) == 0


@given(st.integers(-(2**26), 2**26), st.integers(-(2**26), 2**26), st.integers(1, 2**20))
def test_whole_numbers_stay_exact(a: int, b: int, c: int) -> None:
    values = {"a": np.array([a]), "b": np.array([b]), "c": np.array([c])}
    assert int(Rule("a * b + c").evaluate(values)[0]) == a * b + c
    assert int(Rule("(a * b) // c").evaluate(values)[0]) == (a * b) // c
    assert int(Rule("(a * b) % c").evaluate(values)[0]) == (a * b) % c


def test_numbers_beyond_2_to_53_are_no_silent_approximation() -> None:
    big = {"x": np.array([2**53 + 1]), "y": np.array([2**52])}
    assert Rule("x").evaluate(big)[0] == 2**53 + 1
    with pytest.raises(FormatError, match=r"beyond 2\*\*53"):
        Rule("x - 1").evaluate(big)
    with pytest.raises(FormatError, match=r"beyond 2\*\*53"):
        Rule("x == 9007199254740992").evaluate(big)
    with pytest.raises(FormatError, match=r"beyond 2\*\*53"):
        Rule("(y * 1000) % 7").evaluate(big)
    with pytest.raises(FormatError, match=r"beyond 2\*\*53"):
        Rule("y + 9007199254740993")
    with pytest.raises(FormatError, match=r"2\*\*53"):
        Rule(2**53 + 1)


def test_a_name_that_is_also_arithmetic_is_the_column_where_there_is_one() -> None:
    rule = Rule("throughput/total_tokens")
    assert rule.names == {"throughput", "total_tokens"}
    assert rule.bind(["throughput/total_tokens", "throughput"]).names == {"throughput/total_tokens"}
    assert rule.bind(["throughput", "total_tokens"]).names == {"throughput", "total_tokens"}
    assert not rule.is_name
    assert rule.bind(["throughput/total_tokens"]).is_name
    assert Rule("Tokens Seen").is_name
    assert Rule("a + max(b, `c d`) * a").names == {"a", "b", "c d"}
    assert Rule("3").names == frozenset()


def test_a_function_takes_the_mapping() -> None:
    rule = Rule(lambda values: values["step"] * 2)
    assert rule.is_function
    assert rule.names == frozenset()
    assert rule.bind([]) is rule
    assert list(rule.evaluate(VALUES)) == [0, 2000, 5000]


@pytest.mark.parametrize(
    "rule",
    [
        "__import__('os').system('true')",
        "tokens.__class__",
        "().__class__.__mro__",
        "[1, 2]",
        "tokens[0]",
        "{'a': 1}",
        "(lambda: 1)()",
        "lambda x: x",
        "(x := 5)",
        "f'{tokens}'",
        "b'x'",
        "max(*tokens)",
        "round(x, ndigits=2)",
        "round(x, n)",
        "max(tokens)",
        "abs(1, 2)",
        "max()(1)",
        "a; b",
        "(" * 500 + "x" + ")" * 500,
        "-" * 900 + "(x)",
        "x" * 1001,
        "",
        "  ",
        "a\nb",
        "'open",
        "(x",
        "x = 1",
    ],
)
def test_anything_but_arithmetic_is_refused_at_once(rule: str) -> None:
    with pytest.raises(FormatError, match=r"tables\[0\]\.tokens"):
        Rule(rule, what="tables[0].tokens")


@pytest.mark.parametrize(
    "rule", ["a.b", "a b", "a if b else c", "not", "a in b", "a @ b", "a & b", "~a", "3 +", "1j", "None", "a is b"]
)
def test_words_that_may_be_a_column_are_refused_where_there_is_none(rule: str) -> None:
    made = Rule(rule)
    assert list(made.bind([rule]).evaluate({rule: np.array([1, 2])})) == [1, 2]
    assert list(made.evaluate({rule: np.array([1, 2])})) == [1, 2]
    with pytest.raises(UnknownNameError, match="neither a column nor a rule"):
        made.bind(["a", "b", "c"])
    with pytest.raises(UnknownNameError, match="neither a column nor a rule"):
        Rule(rule, columns=["a", "b", "c"])
    with pytest.raises(UnknownNameError, match="neither a column nor a rule"):
        made.evaluate({"a": 1, "b": 2, "c": 3})


def test_unknown_functions_and_names_say_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"calls 'rond'.*Did you mean round\?"):
        Rule("rond(tokens)")
    with pytest.raises(UnknownNameError, match=r"calls 'eval'"):
        Rule("eval('1')")
    with pytest.raises(UnknownNameError, match=r"names 'tokns'.*Did you mean tokens\?"):
        Rule("tokns * 2", columns=["tokens", "step"])
    with pytest.raises(UnknownNameError, match=r"names 'tokns'.*Did you mean tokens or"):
        Rule("tokns * 2").evaluate(VALUES)


@pytest.mark.parametrize("source", [True, None, [1], float("nan"), float("inf")])
def test_a_rule_is_a_text_a_number_or_a_function(source: Any) -> None:
    with pytest.raises(FormatError):
        Rule(source)


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        ("split + 1", "computes with texts"),
        ("abs(split)", "computes with texts"),
        ("split == 1", "compares texts with numbers"),
        ("step == '1000'", "compares texts with numbers"),
        ("split < 'val'", "orders texts"),
        ("step and split == 'val'", "joins comparisons"),
        ("not step", "joins comparisons"),
        ("day + 1", "datetime64"),
        ("things + 1", "holds"),
    ],
)
def test_values_that_a_rule_can_not_take(rule: str, cause: str) -> None:
    values = VALUES | {"day": np.array(["2025-01-01"] * 3, "datetime64[D]"), "things": np.array([[1], {}, ()], object)}
    with pytest.raises(FormatError, match=cause):
        Rule(rule).evaluate(values)


def test_large_powers_do_not_hang() -> None:
    begin = time.perf_counter()
    assert Rule("9 ** 9 ** 9 ** 9").evaluate({}) == np.inf
    assert Rule("x ** 99999999999").evaluate({"x": np.array([2, 3])})[0] == np.inf
    assert time.perf_counter() - begin < 1
