"""Promises of the documentation name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"


def test_every_promise_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "::" in line]
    promises = [row.split("|")[1:3] for row in rows]
    assert len(promises) > 10
    for promise, tests in promises:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert named, promise
        for module, test in named:
            assert f"def {test}(" in (TESTS / module).read_text(), f"{promise.strip()}: {module}::{test}"


def test_every_row_of_promises_has_a_test() -> None:
    promises = PAGE.read_text().partition("## What is not promised")[0]
    rows = [
        line for line in promises.splitlines() if line.startswith("| ") and not re.match(r"\| (---|promise) ", line)
    ]
    assert all("::" in row for row in rows)
