"""Entities made by hand, with the seed's constructors, without a repository."""

from __future__ import annotations

import pytest

from dde.entities import PosttrainingRun
from dde.errors import SelectionError
from fakes import FakeStore, sft

AT_STEP = "250901-155734_test_finetune_1Mtx1_DD-dolma1_7-4M-2000-0_lr=1e-05"


@pytest.mark.parametrize("parent", [None, "dolma1_7-4M-default"])
def test_a_lineage_as_parent_keeps_the_checkpoint_that_the_evidence_names(parent: str | None) -> None:
    run = PosttrainingRun(AT_STEP, FakeStore([sft(AT_STEP, [100.0])]), parent)
    assert run.parent_run_id == "dolma1_7-4M-default"
    rows = run.get_training_progression(["train_loss"])
    assert rows["cumulative_tokens"].tolist() == [2000 * 32 * 2048 + 100]


def test_a_parent_that_disagrees_with_the_evidence_is_the_callers_word() -> None:
    run = PosttrainingRun(AT_STEP, FakeStore([sft(AT_STEP, [100.0])]), "dolma1_7-4M-default@1000")
    assert run.get_training_progression(["train_loss"])["cumulative_tokens"].tolist() == [1000 * 32 * 2048 + 100]
    with pytest.raises(SelectionError, match="Did you mean"):
        PosttrainingRun(AT_STEP + "x", FakeStore([sft(AT_STEP, [100.0])]), "dolma1_7-4M-default")
