"""Names of runs as launchers write them, and as anybody may: facts, models, numbers, and the work that a name makes."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from dde.errors import UnknownNameError
from dde.lineage.counts import MOST, as_count, whole_number
from dde.names import names_step_beyond_range, parse_revision, parse_run_checkpoint, resolve_checkpoint
from dde.suite.datadecide.runs.run_names import parse_run_name

LONG = "9" * 5000


@pytest.mark.parametrize(
    ("name", "tokens", "epochs"),
    [
        ("250902-101010_exp_1Gtx1_DD-c4-1B-20000-3_lr=1e-05", 1e9, 1),
        ("250902-101010_exp_1.5Btx2_DD-c4-1B-20000-3_lr=1e-05", 1.5e9, 2),
        ("250902-101010_exp_500Ktx10_DD-c4-1B-20000-3_lr=1e-05", 5e5, 10),
        ("250902-101010_exp_1Ttx1_DD-c4-1B-20000-3_lr=1e-05", 1e12, 1),
        ("2025_08_21-15_03_00_test_finetune_DD-dolma1_7-4M_main_100M_tokens_--learning_rate=5e-06", 1e8, None),
        ("2025_08_21-15_03_00_test_finetune_DD-dolma1_7-4M_main_1Gt", 1e9, None),
    ],
)
def test_budgets_in_every_unit(name: str, tokens: float, epochs: int | None) -> None:
    facts = parse_run_name(name)
    assert (facts.budget_tokens, facts.epochs) == (tokens, epochs)


@pytest.mark.parametrize(
    ("name", "model", "step", "problem"),
    [
        # What stands behind _match_ is what the checkpoint was chosen to equal.
        ("250911-101010_match_DD-c4-150M_finetune_Ft_DD-d17-300M-17500-0_lr=5e-05", ("dolma1_7", "300M"), 17500, ""),
        ("250911-101010_DD-d17-300M-17500-0_match_DD-c4-150M-2500-0_Ft_lr=5e-05", ("dolma1_7", "300M"), 17500, ""),
        ("250911-101010_DD-d17-300M_match_DD-c4-150M_Ft_lr=5e-05", ("dolma1_7", "300M"), None, ""),
        # Beside one with step and seed, a model without them is what was compared.
        ("250911-101010_x_DD-c4-150M_Ft_DD-d17-300M-17500-0_lr=5e-05", ("dolma1_7", "300M"), 17500, ""),
        ("250911-101010_x_DD-d17-300M_Ft_DD-d17-300M_lr=5e-05", ("dolma1_7", "300M"), None, ""),
        ("250911-101010_DD-c4-150M-2500-0_Ft_DD-d17-300M-17500-0", None, None, "several models"),
        ("250911-101010_DD-c4-150M_Ft_DD-d17-300M", None, None, "several models"),
        ("250911-101010_match_DD-c4-150M_Ft", None, None, "matched alone"),
    ],
)
def test_names_with_two_models(name: str, model: tuple[str, str] | None, step: int | None, problem: str) -> None:
    facts = parse_run_name(name)
    assert (facts.recipe and facts.size and (facts.recipe.slug, facts.size.name)) == model
    assert facts.step == step
    assert problem in facts.model_problem
    assert bool(problem) == bool(facts.model_problem)


@pytest.mark.parametrize(
    ("short", "slug"),
    [
        ("d17", "dolma1_7"),
        ("dclm_qc7fw2", "dclm-baseline-qc-7p-fw2"),
        ("dclm_25_d17_75", "dclm-baseline-25p-dolma1.7-75p"),
        ("falcon_cc_qc10p", "falcon-and-cc-qc-10p"),
    ],
)
def test_short_names_of_recipes(short: str, slug: str) -> None:
    facts = parse_run_name(f"250909-220627_test_match_60M_finetune_100Mtx1_DD-{short}-150M-10000-0_lr=5e-06")
    assert (facts.recipe and facts.recipe.slug, facts.size and facts.size.name, facts.step) == (slug, "150M", 10000)


def test_numbers_of_any_length_are_refused_by_name() -> None:
    facts = parse_run_name(f"x_{LONG}Mtx{LONG}_DD-c4-4M-{LONG}-0_lr={LONG}_--learning_rate={LONG}")
    assert (facts.step, facts.epochs, facts.budget_tokens, facts.learning_rate) == (None, None, None, None)
    assert facts.step_in_doubt
    assert "beyond 64 bits" in facts.model_problem
    assert [p.partition(":")[0] for p in facts.problems] == ["lr", "learning_rate", "tokens", "epochs"]
    assert max(map(len, (facts.model_problem, *facts.problems))) < 200
    # What fits is taken.
    assert parse_run_name(f"x_1Mtx{MOST}_DD-c4-4M").epochs == MOST
    assert parse_run_name(f"x_1Mtx{'0' * 400}7_DD-c4-4M").epochs == 7


def test_whole_numbers_end_at_64_bits() -> None:
    assert (whole_number(str(MOST)), whole_number(str(MOST + 1)), whole_number("0" * 9000)) == (MOST, None, 0)
    assert (as_count(float(2**63)), as_count(10**400), as_count(-0.6), as_count(-0.4)) == (None, None, None, 0)
    for name in (f"step_{LONG}", f"epoch_{LONG}", f"checkpoint-{10**20}"):
        assert parse_run_checkpoint(name) is None
    assert parse_revision(f"step{LONG}-seed-default") is None
    assert names_step_beyond_range(f"step{LONG}-seed-default")
    assert not names_step_beyond_range("step25000-seed-default")
    for name in (f"c4-4M-default@{LONG}", f"c4-4M-default@{MOST}", f"allenai/DataDecide-c4-4M@step{MOST}-seed-default"):
        with pytest.raises(UnknownNameError) as caught:
            resolve_checkpoint(name)
        assert len(str(caught.value)) < 1000


# Pieces at which a pattern begins, and which lead it on without an end.
PIECES = (
    "_DD-x-4M-1-", "_DD-x", "_DD-c4-4M", "-4M-1", "_match_4M_x", "_match_DD-c4-4M", "_--a=", "_--", "_--aaaa", "_lr=1",
    "_lr=1.1e", "_1Mt", "_1.9", "_", "-4M_", "-", "1", "DD-", "dd__", "_dpo", "x", "/", "model/", "step_1/", "hf/",
    "seed-", "step", "-aux-1", "DataDecide-", "models--allenai--DataDecide-c4-4M/", "a,b=c,", "\n", "é",
)  # fmt: skip

_PARSE_ALL = """
import sys
from dde.names import find_base_by_label, find_hub_model, parse_run_checkpoint, parse_metric
from dde.names import parse_revision
from dde.suite.datadecide.runs.evidence import gather_evidence
from dde.suite.datadecide.runs.parents import resolve_parents
from dde.sources.protocols import RunRecord
for piece in {pieces!r}:
    text = (piece * {size})[:{size}]
    config = dict.fromkeys(("model_name_or_path", "model_revision", "output_dir", "dataset_mixer_list", "wandb_config",
                            "wandb_tags", "parent_run_id", "_name_or_path", "loss_type", "stage"), text)
    records = [RunRecord(text, text), RunRecord("b", "b", config=config, command=("--x", text), program="sft.py")]
    for key, value in config.items():
        records.append(RunRecord(key, text + key, config={{key: value}}, program=text, tags=(text,)))
    resolve_parents({{record.run_id: gather_evidence(record) for record in records}})
    for parse in (find_base_by_label, find_hub_model, parse_revision, parse_run_checkpoint, parse_metric):
        parse(text)
"""


def test_the_work_of_a_text_is_linear_in_its_length() -> None:
    # Of 100,000 characters each, all of these take a few seconds of processor time; squares of that take hours.
    code = _PARSE_ALL.format(pieces=PIECES, size=100_000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))

    subprocess.run([sys.executable, "-c", code], check=True, preexec_fn=limit)
