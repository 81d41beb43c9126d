"""What opening DataDecide gives stays the same to the bit: values, labels, texts and frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datadecide_digests import (
    STORED,
    TUTORIALS,
    Digests,
    digests_of_real_samples,
    digests_of_tutorial,
)

pytestmark = [
    # The suites have defects, which are reported; other tests say how.
    pytest.mark.filterwarnings("ignore::dde.errors.ConflictWarning"),
    pytest.mark.filterwarnings("ignore::dde.errors.DdeWarning"),
]


def _assert_unchanged(found: Digests, suite: str) -> None:
    stored: Digests = json.loads(STORED.read_text())[suite]
    assert len(stored) > 200
    changed = [name for name in stored if name in found and found[name] != stored[name]]
    assert (sorted(stored.keys() - found), sorted(found.keys() - stored), changed) == ([], [], [])


@pytest.mark.parametrize("suite", TUTORIALS)
def test_the_tutorial_suites_are_unchanged(suite: str, tmp_path: Path) -> None:
    _assert_unchanged(digests_of_tutorial(folder=tmp_path, **TUTORIALS[suite]), suite)


def test_the_real_samples_are_unchanged(real_data: Path) -> None:
    _assert_unchanged(digests_of_real_samples(real_data), "real")
