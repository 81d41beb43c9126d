"""The tutorial suite has the forms and defects of the real tables, and its truth agrees with its files."""

from __future__ import annotations

import ast
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dde.errors import DdeError, UnknownNameError
from dde.names import (
    MMLU_SUBJECTS,
    PERPLEXITY_SETS,
    PLAIN_TASKS,
    RECIPES,
    SIZES,
    find_base_by_label,
    find_hub_model,
    resolve_size,
    training_flops,
)
from dde.sources.values import as_float, as_object, evaluation_value
from dde.tutorial import Suite, SuiteSpec, make_suite, open_lineages, suite_spec
from dde.tutorial.base_values import MACRO_TASKS, base_values, checkpoints_in_tables, primary_of
from dde.tutorial.latent_curves import chinchilla_loss
from dde.tutorial.posttraining_curves import training_log
from dde.tutorial.posttraining_plan import plan_posttraining
from dde.tutorial.run_plans import base_of
from dde.tutorial.tasks import RAW_TASKS, TASKS
from dde.tutorial.wandb_runs import truth_of_runs

#: HellaSwag and C4 perplexity of the last checkpoint of 150M C4, seed 0 of the suite.
GOLDEN = (0.3249352718581956, 28.92975616455078)

EVALUATIONS = "DataDecide-eval-results/data"
PERPLEXITY = "DataDecide-ppl-results/data/train-00000-of-00001.parquet"
MIDDLE_LACKS = {
    "acc_per_byte",
    "no_answer",
    "sum_logits_corr",
    "logits_per_token_corr",
    "logits_per_char_corr",
    "logits_per_byte_corr",
    "bits_per_byte_corr",
    "predicted_index_per_byte",
}
UNCONDITIONED = {
    "acc_uncond",
    "predicted_index_uncond",
    "uncond_correct_prob",
    "uncond_correct_prob_per_token",
    "uncond_correct_prob_per_char",
    "uncond_total_prob",
}


def parse_dict(text: str) -> dict[str, float | None]:
    """Parse the repr of a dict as a slow, sure reader would."""
    return ast.literal_eval(re.sub(r"\b(nan|inf)\b", "1e999", text))


@pytest.fixture(scope="session")
def tiny(tiny_suite: Suite) -> Suite:
    return tiny_suite


@pytest.fixture(scope="session")
def small(small_suite: Suite) -> Suite:
    return small_suite


@pytest.fixture(scope="session")
def raw(small: Suite) -> pd.DataFrame:
    return pd.read_parquet(sorted(Path(small.data, EVALUATIONS).glob("train-*")))


@pytest.fixture(scope="session")
def perplexity(small: Suite) -> pd.DataFrame:
    return pd.read_parquet(Path(small.data, PERPLEXITY))


@pytest.fixture(scope="session")
def metadata(small: Suite) -> pd.DataFrame:
    frame = pd.read_parquet(Path(small.wandb, "runs_metadata.parquet")).set_index("run_id")
    for column in ("config", "summary", "wandb_metadata", "system_attrs"):
        frame[column] = frame[column].map(json.loads)
    return frame


@pytest.fixture(scope="session")
def history(small: Suite) -> pd.DataFrame:
    return pd.read_parquet(Path(small.wandb, "runs_history.parquet"))


@pytest.fixture(scope="session")
def parsed(parsed_suite: Suite) -> Suite:
    return parsed_suite


def of_quirk(suite: Suite, quirk: str) -> pd.DataFrame:
    runs = suite.runs[suite.runs["quirks"].str.split(",").map(lambda names: quirk in names)]
    assert len(runs), quirk
    return runs


class TestRawTables:
    def test_files_are_named_as_on_the_hub(self, small: Suite) -> None:
        names = sorted(path.name for path in Path(small.data, EVALUATIONS).iterdir())
        assert names == [
            "macro_avg-00000-of-00001.parquet",
            *(f"train-{k:05d}-of-00004.parquet" for k in range(4)),
        ]

    def test_columns_and_types(self, small: Suite) -> None:
        schema = pq.read_schema(Path(small.data, EVALUATIONS, "train-00000-of-00004.parquet"))
        assert {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)} == {
            "params": "string",
            "data": "string",
            "task": "string",
            "step": "double",
            "seed": "string",
            "chinchilla": "string",
            "tokens": "int64",
            "compute": "double",
            "metrics": "string",
        }

    def test_every_checkpoint_has_all_tasks(self, small: Suite, raw: pd.DataFrame) -> None:
        assert len(raw) == 66 * small.bases["evaluated_checkpoints"].sum()
        groups = raw.groupby(["params", "data", "seed", "step"], sort=False)["task"]
        assert (groups.nunique() == 66).all()
        assert set(raw["task"]) == {*PLAIN_TASKS, *MMLU_SUBJECTS}
        assert set(raw["chinchilla"]) == {"5xC"}
        assert set(raw["seed"]) == {"default", "small aux 2", "small aux 3"}

    def test_tokens_and_compute_are_exact(self, raw: pd.DataFrame) -> None:
        for row in raw.drop_duplicates(["params", "step"]).itertuples():
            size = resolve_size(row.params)
            assert row.tokens == int(row.step) * size.batch_size * 2048
            assert row.compute == float(training_flops(size.n_params, row.tokens))

    @pytest.mark.parametrize(
        ("params", "lacking"),
        [("4M", {"bits_per_byte_corr"}), ("150M", MIDDLE_LACKS), ("750M", MIDDLE_LACKS), ("1B", set())],
    )
    def test_keys_by_size_and_task(self, raw: pd.DataFrame, params: str, lacking: set[str]) -> None:
        rows = raw[(raw["params"] == params) & (raw["step"] == raw[raw["params"] == params]["step"].max())]
        keys = {row.task: list(parse_dict(row.metrics)) for row in rows.itertuples()}
        full = set(keys["hellaswag"])
        assert len(full) == 34 - len(lacking)
        assert not full & lacking
        for task, found in keys.items():
            expected = full - UNCONDITIONED if task in ("boolq", "winogrande") else full
            assert set(found) == expected
            assert found == [key for key in keys["hellaswag"] if key in expected]

    def test_dicts_are_python_and_about_a_kilobyte(self, raw: pd.DataFrame) -> None:
        lengths = raw["metrics"].str.len()
        assert 900 < lengths.mean() < 1500
        assert raw["metrics"].str.startswith("{'correct_choice': ").all()
        # Values that no JSON or literal reader takes occur, but never as a primary metric.
        assert raw["metrics"].str.contains(": nan").any()
        assert raw["metrics"].str.contains(": inf").any()
        assert raw["metrics"].str.contains(": None").any()
        assert not raw["metrics"].str.contains("'primary_metric': (?:nan|inf|None)").any()

    def test_digits_are_those_of_repr(self, raw: pd.DataFrame) -> None:
        text = raw["metrics"].iloc[1000]
        numbers = re.findall(r": ([^,}]+)", text)
        assert all(repr(float(number)) == number for number in numbers)

    def test_primary_metric_repeats_the_tasks_own_accuracy(self, raw: pd.DataFrame) -> None:
        primary = {"arc_challenge": "acc_uncond", "csqa": "acc_uncond", "openbookqa": "acc_uncond"}
        primary |= {"boolq": "acc_raw", "winogrande": "acc_raw"}
        counts = {facts.name: facts.instances for facts in TASKS}
        for row in raw.iloc[::97].itertuples():
            values = parse_dict(row.metrics)
            entry = primary.get(row.task, "acc_raw" if row.task.startswith("mmlu_") else "acc_per_char")
            assert values["primary_metric"] == values[entry]
            answered = values["primary_metric"] * counts[row.task]
            assert answered == pytest.approx(round(answered), abs=1e-6)

    def test_macro_averages(self, small: Suite, raw: pd.DataFrame) -> None:
        macro = pd.read_parquet(Path(small.data, EVALUATIONS, "macro_avg-00000-of-00001.parquet"))
        assert len(macro) * 6 == len(raw)
        assert set(macro["task"]) == set(MACRO_TASKS) >= {"mmlu", "olmes_10_macro_avg"}
        keys = {"params": "150M", "data": "C4", "seed": "default", "step": 37500.0}
        rows = macro.loc[(macro[list(keys)] == pd.Series(keys)).all(axis=1)].set_index("task")["metrics"]
        values = {task: json.loads(text) for task, text in rows.items()}
        assert "bits_per_byte_corr" not in values["mmlu"]
        assert values["boolq"]["acc_uncond"] == 0.0  # a zero stands for what the task lacks
        assert values["piqa"]["acc_per_byte"] == 0.0  # and for what the size lacks
        ours = raw.loc[(raw[list(keys)] == pd.Series(keys)).all(axis=1)].set_index("task")["metrics"]
        primary = {task: parse_dict(text)["primary_metric"] for task, text in ours.items()}
        assert values["piqa"]["primary_metric"] == primary["piqa"]
        mmlu = np.mean([primary[subject] for subject in MMLU_SUBJECTS])
        assert values["mmlu"]["primary_metric"] == pytest.approx(mmlu, rel=1e-12)

    def test_row_groups_hold_few_runs(self, tmp_path: Path) -> None:
        suite = make_suite(tmp_path, "tiny", row_group_rows=500)
        for path in Path(suite.data, EVALUATIONS).glob("train-*"):
            found = pq.ParquetFile(path).metadata
            assert max(found.row_group(k).num_rows for k in range(found.num_row_groups)) <= 500

    def test_parts_of_the_schedule(self, raw: pd.DataFrame) -> None:
        last = raw.groupby(["params", "data", "seed"])["step"].max()
        assert last["750M", "Dolma1.7", "default"] == 26_250
        assert last["150M", "C4", "default"] == 37_500
        assert last["1B", "Dolma1.7", "default"] == 69_369
        assert last["1B", "Dolma1.7", "small aux 2"] == 17_339
        assert (raw.groupby(["params", "data", "seed"])["step"].min() == 0).all()


class TestPerplexityTable:
    def test_columns(self, perplexity: pd.DataFrame) -> None:
        names = [f"eval/{name}-validation/Perplexity" for name in PERPLEXITY_SETS]
        assert list(perplexity.columns) == ["params", "data", "seed", "step", *names, "__index_level_0__"]
        assert perplexity["__index_level_0__"].is_monotonic_increasing
        assert perplexity.drop(columns=["params", "data", "seed"]).notna().all(axis=None)

    def test_no_first_step_and_the_late_one_of_4m(self, perplexity: pd.DataFrame, raw: pd.DataFrame) -> None:
        assert (perplexity["step"] > 0).all()
        assert 5735 in set(perplexity.loc[perplexity["params"] == "4M", "step"])
        assert 5735 not in set(raw.loc[raw["params"] == "4M", "step"])

    def test_each_side_has_rows_that_the_other_lacks(
        self, small: Suite, perplexity: pd.DataFrame, raw: pd.DataFrame
    ) -> None:
        keys = ["params", "data", "seed", "step"]
        ours = set(map(tuple, perplexity[keys].to_numpy()))
        theirs = set(map(tuple, raw[keys].drop_duplicates().to_numpy()))
        assert ours - theirs
        assert {key for key in theirs - ours if key[3] > 0}
        assert any("evaluation_without_perplexity" in quirks for quirks in small.bases["quirks"])

    def test_rows_past_the_schedule(self, small: Suite, perplexity: pd.DataFrame) -> None:
        past = perplexity[[resolve_size(row.params).overruns(row.step) for row in perplexity.itertuples(index=False)]]
        assert set(past["params"]) == {"150M", "300M"}
        assert "default" not in set(past["seed"])
        assert small.bases["overruns"].sum() == past.drop_duplicates(["params", "data", "seed"]).shape[0]

    def test_repeated_rows(self, perplexity: pd.DataFrame) -> None:
        keys = ["params", "data", "seed", "step"]
        plain = perplexity.drop(columns="__index_level_0__")
        repeated = plain[plain.duplicated(keys)]
        conflicting = repeated[~plain.duplicated()[repeated.index]]
        assert len(repeated) == 12
        assert len(conflicting) == 1


class TestSpec:
    def test_full_suite_has_the_published_number_of_rows(self) -> None:
        spec = suite_spec("full")
        assert len(spec.bases()) == 25 * 14 * 3 + 10
        assert spec.evaluated_checkpoints() == 21_375
        assert spec.evaluated_checkpoints() * 66 == 1_410_750
        assert spec.evaluated_checkpoints() * len(MACRO_TASKS) == 235_125
        assert spec.perplexity_rows() == 22_709

    def test_counts_hold_for_other_seeds(self) -> None:
        assert suite_spec("full").evaluated_checkpoints(seed=7) == 21_375
        assert suite_spec("full").perplexity_rows(seed=7) == 22_709

    def test_full_store_is_like_the_surveyed_one(self) -> None:
        truth = truth_of_runs(0, plan_posttraining(suite_spec("full"), 0))
        assert len(truth) == 341
        assert truth["run_id"].is_unique
        assert truth["run_type"].value_counts().to_dict() == {"supervised_ft": 332, "dpo": 6, "other": 3}
        assert truth["state"].value_counts().to_dict() == {
            "finished": 255,
            "running": 54,
            "crashed": 25,
            "failed": 7,
        }
        grid = truth[(truth["run_type"] == "supervised_ft") & truth["learning_rate"].isin([5e-7, 5e-6, 5e-5, 5e-4])]
        cells = grid.groupby(["lineage", "learning_rate", grid["finetune_tokens"].fillna(0)]).size()
        assert (cells.head(144) >= 1).all()
        assert (cells >= 2).mean() > 0.8

    def test_scale_multiplies_the_runs(self) -> None:
        plans = plan_posttraining(suite_spec("scale:3"), 0)
        assert len(plans) == 3 * 341
        assert len({plan.run_id for plan in plans}) == len(plans)

    def test_all_sizes_and_recipes_have_a_family(self) -> None:
        labels = {base.label for base in suite_spec("full").bases()}
        assert len(labels) == 1060
        for recipe in RECIPES:
            for size in SIZES:
                assert f"{recipe.slug}-{size.name}-default" in labels

    @pytest.mark.parametrize("name", ["tinny", "scale:0", ""])
    def test_unknown_size(self, name: str) -> None:
        with pytest.raises(UnknownNameError, match="is not a size of the tutorial suite"):
            suite_spec(name)

    def test_unknown_format(self, tmp_path: Path) -> None:
        with pytest.raises(DdeError, match="'csv' is not a form"):
            make_suite(tmp_path, "tiny", formats=["csv"])


class TestDeterminism:
    def test_same_seed_same_bytes(self, tiny: Suite, tmp_path: Path) -> None:
        again = make_suite(tmp_path, "tiny")
        names = sorted(path.relative_to(tiny.path) for path in tiny.path.rglob("*.parquet"))
        assert len(names) == 8
        for name in names:
            assert (tiny.path / name).read_bytes() == (again.path / name).read_bytes(), name

    def test_other_seed_other_values(self, tiny: Suite, tmp_path: Path) -> None:
        other = make_suite(tmp_path, "tiny", seed=1)
        ours, theirs = (pd.read_parquet(Path(s.data, PERPLEXITY)) for s in (tiny, other))
        assert (ours["eval/pile-validation/Perplexity"] != theirs["eval/pile-validation/Perplexity"]).any()

    def test_values_do_not_depend_on_other_bases(self, tiny: Suite, raw: pd.DataFrame) -> None:
        keys = ["params", "data", "seed", "step", "task"]
        few = pd.read_parquet(sorted(Path(tiny.data, EVALUATIONS).glob("train-*")))
        both = few.merge(raw, on=keys, suffixes=("", "_small"))
        assert len(both) == len(few)
        assert (both["metrics"] == both["metrics_small"]).all()

    def test_golden_values(self) -> None:
        """Values stay what they are from release to release; a change must raise GENERATION."""
        values = base_values(0, base_of("C4", "150M"))
        assert primary_of(values.tasks)[-1, RAW_TASKS.index("hellaswag")] == pytest.approx(GOLDEN[0], abs=1e-12)
        assert values.perplexity[-1, 2] == pytest.approx(GOLDEN[1], rel=1e-6)

    def test_workers_write_the_same(self, tiny: Suite, tmp_path: Path) -> None:
        again = make_suite(tmp_path, "tiny", workers=2)
        for path in Path(tiny.data, EVALUATIONS).iterdir():
            assert path.read_bytes() == Path(again.data, EVALUATIONS, path.name).read_bytes()


class TestCurves:
    def test_loss_falls_with_tokens_and_size(self) -> None:
        tokens = np.geomspace(1e7, 1e11, 50)
        losses = np.array([chinchilla_loss(size.n_params, tokens) for size in SIZES])
        assert (np.diff(losses, axis=1) < 0).all()
        assert (np.diff(losses, axis=0) < 0).all()
        assert chinchilla_loss(SIZES[0].n_params, 0.0) == pytest.approx(10.83)

    def test_perplexities_fall_over_training(self) -> None:
        for params in ("4M", "150M", "1B"):
            values = base_values(0, base_of("Dolma1.7", params))
            assert (values.perplexity[-1] < values.perplexity[1]).all()
        small, large = (base_values(0, base_of("Dolma1.7", p)).perplexity[-1] for p in ("4M", "1B"))
        assert (large < small / 3).any()
        assert (large < small).all()

    def test_accuracy_leaves_chance_late(self) -> None:
        column = RAW_TASKS.index("hellaswag")
        curves = {
            params: primary_of(base_values(0, base_of("DCLM-Baseline", params)).tasks)[:, column]
            for params in ("4M", "150M", "1B")
        }
        assert np.abs(curves["4M"] - 0.25).max() < 0.03
        assert abs(curves["1B"][0] - 0.25) < 0.03
        assert curves["4M"][-1] < curves["150M"][-1] - 0.03 < curves["1B"][-1] - 0.1

    def test_seeds_scatter_less_than_sizes(self) -> None:
        column = RAW_TASKS.index("arc_easy")
        finals = [primary_of(base_values(0, base_of("C4", "150M", seed)).tasks)[-1, column] for seed in range(3)]
        assert 0 < np.std(finals) < 0.03
        other = primary_of(base_values(0, base_of("C4", "1B")).tasks)[-1, column]
        assert other - np.mean(finals) > 3 * np.std(finals)

    def test_learning_rate_has_an_optimum(self, small: Suite, metadata: pd.DataFrame) -> None:
        runs = small.runs[
            (small.runs["lineage"] == "dclm-baseline-150M-default")
            & small.runs["finetune_tokens"].isna()
            & (small.runs["run_type"] == "supervised_ft")
            & (small.runs["replicate"] == 1)
        ].sort_values("learning_rate")
        scores = [
            evaluation_value(metadata.loc[run_id, "summary"], "csqa", "primary_metric") for run_id in runs["run_id"]
        ]
        rates = runs["learning_rate"].to_numpy()
        assert len(rates) == 5
        assert rates[int(np.argmax(scores))] not in (rates[0], rates[-1])
        assert scores[-1] < scores[0]

    def test_training_loss_falls(self) -> None:
        plan = next(
            plan
            for plan in plan_posttraining(suite_spec("small"), 0)
            if plan.budget == "Ft" and plan.learning_rate == 2e-5 and plan.run_type == "supervised_ft"
        )
        loss = training_log(0, plan).columns["train_loss"]
        assert loss[-20:].mean() < loss[:20].mean() - 0.03


class TestPosttrainingFiles:
    def test_columns_and_types(self, small: Suite) -> None:
        schema = pq.read_schema(Path(small.wandb, "runs_metadata.parquet"))
        assert set(map(str, schema.types)) == {"large_string"}
        assert schema.names[:6] == ["run_id", "run_name", "state", "project", "entity", "created_at"]
        assert schema.names[6:] == [
            "config",
            "summary",
            "wandb_metadata",
            "system_metrics",
            "system_attrs",
            "sweep_info",
        ]
        log = pq.read_schema(Path(small.wandb, "runs_history.parquet"))
        assert [str(log.field(name).type) for name in ("run_id", "step", "total_tokens")] == [
            "large_string",
            "int64",
            "double",
        ]
        assert {"train_loss", "learning_rate", "rewards/chosen", "logps/rejected", "epoch"} <= set(log.names)

    def test_records_are_about_as_heavy_as_real_ones(self, small: Suite) -> None:
        frame = pd.read_parquet(Path(small.wandb, "runs_metadata.parquet"))
        lengths = frame[["config", "summary", "system_attrs"]].map(len).median()
        assert lengths["config"] > 20_000
        assert lengths["summary"] > 25_000
        assert lengths["system_attrs"] > 70_000

    def test_summary_has_objects_and_flat_keys(self, small: Suite, metadata: pd.DataFrame) -> None:
        run_id = of_quirk(small, "hub_id")["run_id"].iloc[0]
        summary = metadata.loc[run_id, "summary"]
        flat = [key for key in summary if key.startswith("oe_eval_metrics/piqa/")]
        nested = summary["oe_eval_metrics/piqa"]
        assert len(flat) == 35
        assert "primary_score" in nested
        assert not any(key.endswith("primary_score") for key in flat)
        assert {"correct_prob", "margin"}.isdisjoint(nested)
        core = summary["oe_eval_metrics/core_9mcqa:rc::olmes:full"]
        scores = [summary[f"oe_eval_metrics/{task}"]["primary_score"] for task in PLAIN_TASKS]
        assert core["primary_score"] == pytest.approx(np.mean(scores), abs=1e-9)

    def test_dpo_logs_have_no_counter(self, small: Suite, history: pd.DataFrame) -> None:
        dpo = small.runs.loc[small.runs["run_type"] == "dpo", "run_id"]
        rows = history[history["run_id"].isin(dpo)]
        assert rows["total_tokens"].isna().all()
        assert rows[["train_loss", "epoch", "rewards/margin", "training_step"]].notna().all(axis=None)
        assert (rows.groupby("run_id")["step"].diff().dropna() == 1).all()

    def test_pretrain_eval_keys_have_mixed_provenance(self, small: Suite, metadata: pd.DataFrame) -> None:
        run = of_quirk(small, "matched").iloc[0]
        config = metadata.loc[run["run_id"], "config"]
        assert 350 <= sum(key.startswith("pretrain_eval") for key in config) <= 410
        base = find_base_by_label(run["lineage"])
        assert base is not None
        values = base_values(0, base)
        at = values.rows(np.array([run["branch_step"]]))[0]
        shown = config["pretrain_eval/pile-validation/Perplexity"]
        assert shown == pytest.approx(values.perplexity[at, 1], rel=1e-9)
        final = primary_of(values.tasks)[-1, RAW_TASKS.index("piqa")]
        assert config["pretrain_eval_piqa_primary_metric"] == pytest.approx(final, abs=1e-9)


class TestTruth:
    def test_rows_agree_with_the_files(self, small: Suite, metadata: pd.DataFrame, history: pd.DataFrame) -> None:
        assert list(metadata.index) == list(small.runs["run_id"])
        rows = history.groupby("run_id").size()
        for run in small.runs.itertuples():
            record = metadata.loc[run.run_id]
            assert record["state"] == run.state
            assert rows.get(run.run_id, 0) == run.logged_rows
            assert any(key.startswith("oe_eval_metrics/") for key in record["summary"]) == run.evaluated

    def test_logged_tokens(self, small: Suite, history: pd.DataFrame) -> None:
        last = history.groupby("run_id")["total_tokens"].last()
        logged = small.runs[small.runs["token_source"] == "logged"].set_index("run_id")
        assert len(logged) > 20
        pd.testing.assert_series_equal(last[logged.index], logged["own_tokens"].astype(float), check_names=False)
        assert (logged["end_tokens"] == logged["branch_tokens"] + logged["own_tokens"])[
            logged["branch_tokens"].notna()
        ].all()

    @pytest.mark.parametrize(("quirk", "falls"), [("resumed_once", 1), ("resumed_twice", 2)])
    def test_counter_falls_while_the_truth_rises(
        self, small: Suite, history: pd.DataFrame, quirk: str, falls: int
    ) -> None:
        run = of_quirk(small, quirk).iloc[0]
        log = history[history["run_id"] == run["run_id"]]
        counter = log["total_tokens"].to_numpy()
        drops = np.diff(counter) < 0
        assert drops.sum() == falls
        assert (np.diff(log["step"]) == 100).all()
        assert (np.diff(log["timestamp"]) > 0).all()
        # Restoring the lost stretches at the run's own rate comes to the truth.
        gains = np.diff(counter)
        gains[drops] = np.median(gains)
        assert counter[0] + gains.sum() == pytest.approx(run["own_tokens"], rel=0.002)

    def test_branches(self, small: Suite) -> None:
        runs = small.runs.set_index("run_id")
        for run in runs[runs["expected_status"] == "used"].itertuples():
            base = find_base_by_label(run.lineage)
            assert base is not None
            if run.parent_run_id == base.label:
                assert run.branch_tokens == base.size.tokens_at(run.branch_step)
            else:
                parent = runs.loc[run.parent_run_id]
                assert parent["lineage"] == run.lineage
                assert run.branch_tokens == parent["end_tokens"]

    def test_statuses(self, small: Suite) -> None:
        assert set(small.runs["expected_status"]) == {
            "used",
            "no data",
            "parent not in store",
            "no parent found",
            "unknown run type",
        }
        absent = small.runs[small.runs["expected_status"] == "parent not in store"].iloc[0]
        assert absent["parent_run_id"] not in set(small.runs["run_id"])
        assert np.isnan(absent["branch_tokens"])
        assert absent["lineage"] == "dolma1_7-4M-default"

    def test_written_beside_the_data(self, tiny: Suite) -> None:
        read = pd.read_parquet(tiny.path / "truth" / "runs.parquet")
        assert list(read["run_id"]) == list(tiny.runs["run_id"])
        assert len(pd.read_parquet(tiny.path / "truth" / "bases.parquet")) == len(tiny.bases) == 6


class TestQuirks:
    def test_names_say_where_runs_start(self, small: Suite) -> None:
        for run in small.runs[small.runs["run_id"].str.contains(r"_DD-.*-\d+-\d(?:_|$)")].itertuples():
            match = re.search(r"_DD-(.+)-(\d+)-(\d)(?:_|$)", run.run_id)
            base = find_base_by_label(run.lineage)
            assert match is not None
            assert base is not None
            assert match[1] == f"{base.recipe.slug}-{base.size.name}"
            assert int(match[2]) == run.branch_step
            assert int(match[3]) == base.seed.index

    def test_all_forms_of_names(self, small: Suite) -> None:
        date, short = r"\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d", r"\d{6}-\d{6}"
        forms = [
            rf"{date}_allenai--DataDecide-dolma1_7-4M_main_default",
            rf"{date}_test_finetune_DD-dolma1_7-4M_main_1Mtx1_--learning_rate=5e-07",
            rf"{date}_test_finetune_DD-dolma1_7-4M_main_100M_toks_--learning_rate=5e-06",
            rf"{date}_test_dpo_tune_cache_dd__dolma1_7-4M__main__100Mt_lr=5e-06_default_--learning_rate=2e-07",
            rf"{short}_test_finetune_DD-dclm-baseline-150M_Ft_learning_rate=5e-05",
            rf"{date}_lr_sweep_100Mtx1_DD-dolma1_7-150M-38157-0_lr=1e-05",
            rf"{short}_lr_sweep_Ft_DD-dolma1_7-150M-38157-0_lr=1e-05",
            rf"{date}_match_150M_pile-valppl_finetune_100Mtx1_DD-dolma1_7-300M-\d+-0",
            rf"{date}_.*_default_--max_train_samples=14000_--reduce_loss=mean",
        ]
        for form in forms:
            assert small.runs["run_id"].str.fullmatch(form).any(), form

    def test_command_only(self, small: Suite, metadata: pd.DataFrame) -> None:
        run = of_quirk(small, "pretrain_steps_of_another_size").iloc[0]
        record = metadata.loc[run["run_id"]]
        assert not {"model_name_or_path", "learning_rate", "output_dir"} & set(record["config"])
        assert record["config"]["pretrain_steps"] == 69_369
        assert run["branch_step"] == 38_157
        assert run["contradicts_config"]
        arguments = record["wandb_metadata"]["args"]
        assert arguments[arguments.index("--learning_rate") + 1] == "5e-05"
        found = find_hub_model(arguments[arguments.index("--model_name_or_path") + 1])
        assert found is not None
        assert found[0].slug == "dclm-baseline"

    def test_repeated_option(self, small: Suite, metadata: pd.DataFrame) -> None:
        run = of_quirk(small, "repeated_option").iloc[0]
        arguments = metadata.loc[run["run_id"], "wandb_metadata"]["args"]
        given = [b for a, b in pairwise(arguments) if a == "--learning_rate"]
        assert given == ["0.001", "2e-05"]
        assert run["learning_rate"] == 2e-5

    def test_what_no_record_tells_is_unknown(self, small: Suite) -> None:
        assert of_quirk(small, "name_only")["epochs"].isna().all()
        assert of_quirk(small, "options_in_name")["finetune_tokens"].isna().all()
        # One sums its loss and the other averages it, so that neither repeats the other.
        assert of_quirk(small, "options_in_name")["replicate"].tolist() == [1, 1]

    def test_bases_that_the_tables_lack(self, small: Suite) -> None:
        absent = set(of_quirk(small, "base_not_in_small_tables")["lineage"])
        assert absent == {"dolma1_7-530M-default", "dclm-baseline-25p-dolma1.7-75p-150M-default"}
        assert absent.isdisjoint(small.bases["lineage"])

    def test_touched_later(self, small: Suite, metadata: pd.DataFrame) -> None:
        for run_id in of_quirk(small, "touched_later")["run_id"]:
            record = metadata.loc[run_id, "wandb_metadata"]
            assert record["program"].endswith("update_wandb.py")
            assert "--learning_rate" not in record["args"]
            assert "gpu_count" not in record

    def test_numbers(self, small: Suite, metadata: pd.DataFrame) -> None:
        text = metadata.loc[of_quirk(small, "numbers_as_text")["run_id"].iloc[0], "config"]
        assert text["model_size"] == "530100000"
        assert text["learning_rate"] == "5e-06"
        floats = metadata.loc[of_quirk(small, "integers_as_floats")["run_id"].iloc[0], "config"]
        assert isinstance(floats["pretrain_tokens"], float)
        special = metadata.loc[of_quirk(small, "special_floats_as_text")["run_id"].iloc[0], "summary"]
        assert special["train_loss"] == "NaN"
        assert as_float(special["oe_eval_metrics/piqa/total_prob"]) == np.inf

    def test_objects_as_text(self, small: Suite, metadata: pd.DataFrame) -> None:
        summary = metadata.loc[of_quirk(small, "objects_as_text")["run_id"].iloc[0], "summary"]
        nested = summary["oe_eval_metrics/hellaswag"]
        assert isinstance(nested, str)
        assert as_object(nested)["num_instances"] == 10_042
        assert 0.2 < evaluation_value(summary, "hellaswag", "primary_metric") < 0.5

    def test_paths_of_parents(self, small: Suite, metadata: pd.DataFrame) -> None:
        runs = small.runs.set_index("run_id")

        def paths(quirk: str) -> tuple[str, str]:
            run_id = of_quirk(small, quirk)["run_id"].iloc[0]
            parent = metadata.loc[runs.loc[run_id, "parent_run_id"], "config"]
            return metadata.loc[run_id, "config"]["model_name_or_path"], parent["output_dir"]

        path, output = paths("trailing_slash")
        assert path == output + "/"
        path, output = paths("third_in_chain")
        assert path.rstrip("/").replace("/model/", "/") == output
        path, output = paths("path_cut_short")
        cut = path.replace("/model/", "/")
        assert output.startswith(cut)
        assert output != cut
        chain = of_quirk(small, "third_in_chain").iloc[0]
        parent = runs.loc[chain["parent_run_id"]]
        assert parent["run_type"] == "dpo"
        assert runs.loc[parent["parent_run_id"], "run_type"] == "supervised_ft"

    def test_summed_losses_are_in_the_thousands(self, small: Suite, history: pd.DataFrame) -> None:
        mean = history.groupby("run_id")["train_loss"].mean()
        summed = set(of_quirk(small, "summed_loss")["run_id"])
        sft = small.runs[(small.runs["run_type"] == "supervised_ft") & (small.runs["logged_rows"] > 0)]
        assert set(sft["reduce_loss"]) == {"sum", "mean"}
        for run_id in sft["run_id"]:
            assert (mean[run_id] > 1000) == (run_id in summed)

    def test_one_part_of_the_data_only(self, small: Suite, history: pd.DataFrame) -> None:
        logged = set(history["run_id"])
        assert logged.isdisjoint(of_quirk(small, "no_history")["run_id"])
        unlogged = small.runs[small.runs["evaluated"] & ~small.runs["run_id"].isin(logged)]
        unevaluated = small.runs[~small.runs["evaluated"] & small.runs["run_id"].isin(logged)]
        assert len(unlogged)
        assert len(unevaluated)
        assert set(small.runs["state"]) == {"finished", "running", "crashed", "failed"}


class TestParsedLayout:
    def test_wide_table(self, parsed: Suite, tiny: Suite) -> None:
        wide = pd.read_parquet(Path(parsed.data, "full_eval.parquet"))
        assert not Path(parsed.data, "DataDecide-eval-results").exists()
        assert wide.shape[1] > 1_880
        assert wide["seed"].dtype == "int64"
        assert not wide.duplicated(["params", "data", "seed", "step"]).any()
        assert wide["boolq_acc_raw"].notna().any()
        assert "boolq_acc_uncond" not in wide
        raw = pd.read_parquet(sorted(Path(tiny.data, EVALUATIONS).glob("train-*")))
        rows = raw[(raw["params"] == "4M") & (raw["seed"] == "small aux 2") & (raw["task"] == "piqa")]
        ours = wide[(wide["params"] == "4M") & (wide["seed"] == 1)].set_index("step")
        for row in rows.itertuples():
            values = parse_dict(row.metrics)
            assert ours.loc[row.step, "piqa_primary_metric"] == values["primary_metric"]
            assert ours.loc[row.step, "piqa_correct_prob"] == values["correct_prob"]
        assert np.isnan(ours.loc[5735, "piqa_primary_metric"])
        assert np.isnan(ours.loc[0, "pile-valppl"])
        assert ours.loc[5735, "pile-valppl"] > 1

    def test_means_over_seeds_have_no_seed(self, parsed: Suite) -> None:
        means = pd.read_parquet(Path(parsed.data, "mean_eval.parquet"))
        assert "seed" not in means
        assert not means.duplicated(["params", "data", "step"]).any()


class TestOpenLineages:
    def test_makes_the_suite_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[tuple[str, ...], dict[str, object]]] = []

        def opened(*paths: str, **options: object) -> str:
            calls.append((paths, options))
            assert all(Path(path).is_dir() for path in paths)
            return "opened"

        monkeypatch.setattr("dde.opening.open_lineages", opened)
        assert open_lineages("tiny", cache_dir=tmp_path, params="4M") == "opened"
        made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
        assert open_lineages("tiny", cache_dir=tmp_path, params="4M") == "opened"
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == made
        assert calls[0] == calls[1]
        assert calls[0][1] == {"cache_dir": tmp_path, "params": "4M"}
        open_lineages("tiny", suite_seed=1, cache_dir=tmp_path)
        assert calls[2][0] != calls[0][0]
        assert len(list((tmp_path / "tutorial").iterdir())) == 2

    def test_the_suite_and_its_cache_share_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dde.opening.open_lineages", lambda *_, **options: options)
        monkeypatch.chdir(tmp_path)
        assert open_lineages("tiny", metrics="csqa") == {"cache_dir": "data_cache", "metrics": "csqa"}
        assert len(list((tmp_path / "data_cache" / "tutorial").iterdir())) == 1

    def test_a_failure_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dde.tutorial.write_perplexity_table", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_lineages("tiny", cache_dir=tmp_path)
        assert list((tmp_path / "tutorial").iterdir()) == []


def test_progress_is_told(tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    spec = SuiteSpec("one", ("C4",), ("4M",), 0, sweep_rates=(), special_runs="few", shards=1)
    make_suite(tmp_path, spec, progress=lambda *what: reported.append(what))
    assert reported[0] == ("evaluations", 0, 1)
    assert ("evaluations", 1, 1) in reported
    assert reported[-1] == ("post-training runs", 8, 8)


def test_a_base_has_the_same_rows_in_every_suite() -> None:
    base = base_of("C4", "150M", 1)
    rows = checkpoints_in_tables(0, base)
    assert len(rows.evaluated) == 24
    assert rows.perplexity[-1] == 188_750
    assert not checkpoints_in_tables(0, base_of("Dolma1.6++", "20M")).quirks


def test_seed_filters_bases_as_it_does_elsewhere(tmp_path: Path) -> None:
    ds = open_lineages("tiny", params="150M", seed="default", cache_dir=tmp_path, metrics=["piqa"])
    assert set(ds["seed"].values) == {0}
    again = open_lineages("tiny", params="150M", seed=0, cache_dir=tmp_path, metrics=["piqa"])
    assert again["lineage"].values.tolist() == ds["lineage"].values.tolist()
    other = open_lineages("tiny", params="150M", seed=0, suite_seed=1, cache_dir=tmp_path, metrics=["piqa"])
    assert not np.array_equal(other["piqa"].isel(lineage=0, run=0), ds["piqa"].isel(lineage=0, run=0), equal_nan=True)
