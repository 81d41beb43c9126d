"""Names: every alias means one thing, unknown ones are answered with near ones."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

import dde.names as names
from dde.errors import UnknownNameError
from dde.suite.datadecide.tables.checkpoint_list import read_checkpoint_list


def test_recipes_have_distinct_names() -> None:
    assert len(names.RECIPES) == 25
    aliases = Counter(alias for r in names.RECIPES for alias in {r.name, r.slug, *r.training_names})
    assert max(aliases.values()) == 1
    for recipe in names.RECIPES:
        for alias in (recipe.name, recipe.slug, *recipe.training_names):
            assert names.resolve_recipe(alias) is recipe
            assert names.resolve_recipe(alias.upper()) is recipe


@pytest.mark.parametrize(
    ("text", "near"), [("Dolma1.7 (no cod)", "Dolma1.7 (no code)"), ("finweb-edu", "FineWeb-Edu"), ("C44", "C4")]
)
def test_unknown_recipe_lists_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        names.resolve_recipe(text)
    assert near.casefold() in str(caught.value).casefold()


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (3_700_000, "4M"),
        (530_100_000, "530M"),
        (151_900_000, "150M"),
        (1e9, "1B"),
        (750e6, "750M"),
        (7e9, None),
        (0, None),
    ],
)
def test_rounded_parameter_counts_find_the_nearest_size(count: float, size: str | None) -> None:
    found = names.find_size_by_params(count)
    assert (found and found.name) == size


def test_tokens_and_compute_are_exact() -> None:
    size = names.resolve_size("150M")
    assert size.tokens_at(38_157) == 15_003_942_912
    assert names.training_flops(size.n_params, size.tokens_at(38_157)) == 6 * 151_898_880 * 15_003_942_912
    assert not names.resolve_size("4M").overruns(5_735)
    assert names.resolve_size("300M").overruns(46_250)


def test_seeds_go_by_index_name_and_dashes() -> None:
    for seed in names.SEEDS:
        assert (
            names.resolve_seed(seed.index) is names.resolve_seed(seed.name) is names.resolve_seed(seed.dashed) is seed
        )
    with pytest.raises(UnknownNameError, match="small aux 2"):
        names.resolve_seed("small aux 7")


@pytest.mark.parametrize("recipe", names.RECIPES, ids=lambda r: r.slug)
def test_labels_and_revisions_round_trip(recipe: names.Recipe) -> None:
    for size in names.SIZES:
        for seed in names.SEEDS:
            base = names.Base(recipe, size, seed)
            assert names.find_base_by_label(base.label) == base
            checkpoint = names.Checkpoint(base, 1250)
            assert names.resolve_checkpoint(f"{base.hub_model}@{checkpoint.revision}") == checkpoint
            assert names.resolve_checkpoint(f"{base.label}@1250") == checkpoint
            assert names.find_hub_model(f"/x/models--{base.hub_model.replace('/', '--')}/snapshots/ab12") == (
                recipe,
                size,
            )


def test_main_is_the_final_checkpoint_of_the_default_seed() -> None:
    for name in ("allenai/DataDecide-c4-150M", "allenai/DataDecide-c4-150M@main"):
        checkpoint = names.resolve_checkpoint(name)
        assert (checkpoint.step, checkpoint.base.seed.name) == (38_157, "default")


@pytest.mark.parametrize(
    "name", ["gpt2", "allenai/DataDecide-nope-150M", "allenai/DataDecide-c4-150M@stepX", "c4-150M-default@x"]
)
def test_what_names_no_checkpoint_is_an_error(name: str) -> None:
    with pytest.raises(UnknownNameError, match="Hub revision"):
        names.resolve_checkpoint(name)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("pile-valppl", "pile_valppl"),
        ("dolma_common-crawl-valppl", "dolma_common_crawl_valppl"),
        ("eval/pile-validation/Perplexity", "pile_valppl"),
        ("arc_challenge_primary_metric", "arc_challenge"),
        ("mmlu_average", "mmlu_average"),
        ("mmlu_average_primary_metric", "mmlu_average"),
        ("arc_challenge_acc_raw", "arc_challenge_acc_raw"),
        ("core_9mcqa_acc_raw_macro", "core_9mcqa_acc_raw_macro"),
        ("learning_rate", "lr_at_step"),
        ("lr_at_step", "lr_at_step"),
        ("rewards/chosen", "rewards_chosen"),
    ],
)
def test_metrics_have_one_canonical_name(name: str, canonical: str) -> None:
    metric = names.parse_metric(name)
    assert metric.name == canonical
    assert metric.name.isidentifier()
    assert names.parse_metric(canonical).name == canonical


def test_default_metrics_are_the_contracts() -> None:
    found = [m.name for m in names.DEFAULT_METRICS]
    assert found[0] == "train_loss"
    assert len(found) == len(set(found)) == 1 + 10 + 11
    assert {m.direction for m in names.DEFAULT_METRICS[1:11]} == {"higher"}
    assert {m.direction for m in names.DEFAULT_METRICS[11:]} == {"lower"}


def test_checkpoint_list_resolves_every_name(real_data: Path) -> None:
    catalog = read_checkpoint_list(real_data / "checkpoints.jsonl.gz")
    assert catalog.names == 1103
    assert catalog.checkpoints["lineage"].nunique() == 1100
    assert catalog.listed == 31_491
    assert sum(map(len, catalog.double_names.values())) == 6
    assert set(catalog.double_names) == {f"dclm-baseline-{n}p-dolma1.7-{100 - n}p-1B-default" for n in (25, 50, 75)}
    assert catalog.overruns == 6939
    assert not catalog.unknown


def test_checkpoint_list_reports_what_it_does_not_know(tmp_path: Path) -> None:
    entries = [
        {"model_name": "dolma17-4M-6198", "revisions": ["step0-unsharded-hf", "step5725-unsharded-hf"]},
        {"model_name": "baseline-4M-6198", "revisions": ["step0-unsharded-hf"]},
        {"model_name": "mystery-4M-6198", "revisions": ["step0-unsharded-hf"]},
        {"model_name": "c4-4M-6198", "revisions": ["final"]},
    ]
    path = tmp_path / "list.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, entries)).encode()))
    catalog = read_checkpoint_list(path)
    assert list(catalog.double_names) == ["dolma1_7-4M-default"]
    assert len(catalog.unknown) == 2
    assert catalog.listed == 5
    assert len(catalog.checkpoints) == 2
