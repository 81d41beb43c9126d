"""Metrics of the suite: a canonical Python name for each, and the names that stores use for it."""

from __future__ import annotations

import functools
import re

from dde.curves.metric import Metric, identifier
from dde.schema import COORDINATES, DIMS, POSITION_CHECK, SAMPLED, TABLE_SAMPLINGS

__all__ = [
    "DEFAULT_METRICS",
    "ENTRIES",
    "MMLU_SUBJECTS",
    "OLMES_TASKS",
    "PERPLEXITY_SETS",
    "PLAIN_TASKS",
    "SUMMARY_ONLY_ENTRIES",
    "TASKS_WITHOUT_UNCONDITIONAL",
    "lacks_entry",
    "log_metric",
    "parse_metric",
    "perplexity_metric",
    "task_metric",
    "wide_column_metric",
]

#: OLMES tasks other than MMLU, in the order of the suite's tables.
PLAIN_TASKS: tuple[str, ...] = (
    "arc_challenge",
    "arc_easy",
    "boolq",
    "csqa",
    "hellaswag",
    "openbookqa",
    "piqa",
    "socialiqa",
    "winogrande",
)

#: The 57 MMLU subjects as tasks of the raw tables.
MMLU_SUBJECTS: tuple[str, ...] = tuple(
    f"mmlu_{subject}"
    for subject in (
        "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology "
        "college_chemistry college_computer_science college_mathematics college_medicine college_physics "
        "computer_security conceptual_physics econometrics electrical_engineering elementary_mathematics "
        "formal_logic global_facts high_school_biology high_school_chemistry high_school_computer_science "
        "high_school_european_history high_school_geography high_school_government_and_politics "
        "high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics "
        "high_school_psychology high_school_statistics high_school_us_history high_school_world_history "
        "human_aging human_sexuality international_law jurisprudence logical_fallacies machine_learning "
        "management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition "
        "philosophy prehistory professional_accounting professional_law professional_medicine "
        "professional_psychology public_relations security_studies sociology us_foreign_policy virology "
        "world_religions"
    ).split()
)

#: The ten OLMES tasks; ``mmlu_average`` is the unweighted mean over the 57 subjects.
OLMES_TASKS: tuple[str, ...] = ("mmlu_average", *PLAIN_TASKS)

# Aggregates that some stores have in addition to the tasks: post-training's nine-task suite, the tables' macro average.
_AGGREGATES = ("core_9mcqa", "olmes_10_macro_avg", "mmlu")

#: Perplexity sets of the suite.
PERPLEXITY_SETS: tuple[str, ...] = (
    "wikitext_103",
    "pile",
    "c4_en",
    "m2d2_s2orc",
    "ice",
    "dolma_wiki",
    "dolma_stack",
    "dolma_reddit",
    "dolma_pes2o",
    "dolma_common-crawl",
    "dolma_books",
)

#: Entries of an OLMES evaluation in the key order of the raw tables, then entries that only W&B summaries have.
ENTRIES: tuple[str, ...] = (
    "correct_choice",
    "acc_raw",
    "acc_per_token",
    "acc_per_char",
    "acc_per_byte",
    "acc_uncond",
    "no_answer",
    "sum_logits_corr",
    "logits_per_token_corr",
    "logits_per_char_corr",
    "logits_per_byte_corr",
    "bits_per_byte_corr",
    "correct_prob",
    "correct_prob_per_token",
    "correct_prob_per_char",
    "margin",
    "margin_per_token",
    "margin_per_char",
    "total_prob",
    "total_prob_per_token",
    "total_prob_per_char",
    "uncond_correct_prob",
    "uncond_correct_prob_per_token",
    "uncond_correct_prob_per_char",
    "uncond_total_prob",
    "norm_correct_prob",
    "norm_correct_prob_per_token",
    "norm_correct_prob_per_char",
    "predicted_index_raw",
    "predicted_index_per_token",
    "predicted_index_per_char",
    "predicted_index_per_byte",
    "predicted_index_uncond",
    "primary_metric",
    "correct_logit",
    "correct_logit_per_token",
    "correct_logit_per_char",
)

#: Entries that evaluations of post-training runs have and the tables do not.
SUMMARY_ONLY_ENTRIES: tuple[str, ...] = ("correct_logit", "correct_logit_per_token", "correct_logit_per_char")

#: Tasks whose answers are not normalized by an unconditional probability; the tables have no such entries for them.
TASKS_WITHOUT_UNCONDITIONAL: tuple[str, ...] = ("boolq", "winogrande")

# Entries missing in the tables, by size: they were evaluated with three versions of the code.
_LACKING: dict[str, frozenset[str]] = {
    **dict.fromkeys("4M 6M 8M 10M 14M 16M 20M 60M 90M".split(), frozenset({"bits_per_byte_corr"})),
    **dict.fromkeys(
        "150M 300M 530M 750M".split(),
        frozenset(
            {
                "acc_per_byte",
                "no_answer",
                "sum_logits_corr",
                "logits_per_token_corr",
                "logits_per_char_corr",
                "logits_per_byte_corr",
                "bits_per_byte_corr",
                "predicted_index_per_byte",
            }
        ),
    ),
}


def lacks_entry(params: str, task: str, entry: str) -> bool:
    """Return whether an entry is missing in the train shards of the suite for a size and task.

    Parameters
    ----------
    params : str
        Nominal size (``"150M"``).
    task : str
        Task of the train shards (``"boolq"``, ``"mmlu_anatomy"``).
    entry : str
        Entry of the evaluation (``"acc_per_byte"``).

    Examples
    --------
    >>> lacks_entry("150M", "piqa", "acc_per_byte"), lacks_entry("1B", "boolq", "acc_uncond")
    (True, True)
    >>> lacks_entry("4M", "piqa", "acc_per_byte")
    False
    """
    return ("uncond" in entry and task in TASKS_WITHOUT_UNCONDITIONAL) or entry in _LACKING.get(params, ())


_HIGHER = ("acc", "correct_prob", "uncond_correct_prob", "margin", "norm_correct_prob", "primary_metric")
_NATS = ("sum_logits", "logits_per", "correct_logit")
_LABELS = {
    "mmlu_average": "MMLU average",
    "mmlu": "MMLU (published average)",
    "arc_challenge": "ARC-Challenge",
    "arc_easy": "ARC-Easy",
    "boolq": "BoolQ",
    "csqa": "CommonsenseQA",
    "hellaswag": "HellaSwag",
    "openbookqa": "OpenBookQA",
    "piqa": "PIQA",
    "socialiqa": "Social IQa",
    "winogrande": "WinoGrande",
    "core_9mcqa": "OLMES core, nine tasks",
    "olmes_10_macro_avg": "OLMES macro average, ten tasks",
}


@functools.cache
def task_metric(task: str, entry: str = "primary_metric") -> Metric:
    """Return the metric of an OLMES evaluation.

    Parameters
    ----------
    task : str
        Task of the raw tables, ``"mmlu_average"``, or an aggregate.
    entry : str
        Entry of the evaluation; the primary metric has the plain name of the task.
    """
    label = _LABELS.get(task, task.replace("_", " "))
    stem = re.sub(r"_(macro|micro)$", "", entry)
    primary = entry == "primary_metric"
    direction = ""
    if stem.startswith(_HIGHER) or stem.startswith(_NATS):
        direction = "higher"
    elif stem.startswith(("bits_per_byte", "no_answer")):
        direction = "lower"
    units = "bits/byte" if stem.startswith("bits_per_byte") else "nats" if stem.startswith(_NATS) else "1"
    return Metric(
        name=identifier(task) if primary else identifier(f"{task}_{entry}"),
        kind="evaluation",
        task=task,
        entry=entry,
        long_name=f"{label}, primary metric" if primary else f"{label}, {entry.replace('_', ' ')}",
        units=units,
        direction=direction,
    )


@functools.cache
def perplexity_metric(name: str) -> Metric:
    """Return the perplexity metric of an evaluation set (``"pile"``)."""
    return Metric(
        name=identifier(f"{name}_valppl"),
        kind="perplexity",
        task=name,
        entry="perplexity",
        long_name=f"{name.replace('_', ' ')} validation perplexity",
        units="1",
        direction="lower",
    )


# Keys of the training log whose own name would be misleading or collide with a hyperparameter.
_LOG_NAMES = {"learning_rate": "lr_at_step"}
# Names of coordinates and samplings; a logged key with such a name gets the suffix _at_step.
_RESERVED = frozenset((*DIMS, *COORDINATES, *TABLE_SAMPLINGS, POSITION_CHECK, "cumulative_compute"))
_LOG_FACTS: dict[str, tuple[str, str, str]] = {
    "train_loss": ("training loss", "nats", "lower"),
    "lr_at_step": ("learning rate at the step", "1", ""),
    "total_tokens": ("logged token counter", "tokens", ""),
    "total_tokens_including_padding": ("logged token counter, padding included", "tokens", ""),
    "per_device_tps": ("throughput per device", "tokens/s", "higher"),
    "per_device_tps_including_padding": ("throughput per device, padding included", "tokens/s", "higher"),
    "epoch": ("epoch", "1", ""),
    "rewards_accuracy": ("reward accuracy", "1", "higher"),
    "rewards_margin": ("reward margin", "1", "higher"),
    "logps_chosen": ("log probability of the chosen answer", "nats", "higher"),
    "logps_rejected": ("log probability of the rejected answer", "nats", ""),
}


@functools.cache
def log_metric(key: str) -> Metric:
    """Return the metric of a key of the training log (``"train_loss"``, ``"rewards/chosen"``)."""
    name = identifier(_LOG_NAMES.get(key, key))
    if name in _RESERVED or name.startswith(SAMPLED):
        name += "_at_step"
    long_name, units, direction = _LOG_FACTS.get(name, (key.replace("_", " ").replace("/", ", "), "1", ""))
    return Metric(name, "log", "", key, long_name, units, direction)


_PPL_COLUMN = re.compile(r"(?:eval/)?(?P<set>.+?)(?:-validation/Perplexity|[-_]valppl)")
_PPL_BY_IDENTIFIER = {identifier(name): name for name in PERPLEXITY_SETS}
_TASKS = frozenset((*PLAIN_TASKS, *MMLU_SUBJECTS, *OLMES_TASKS, *_AGGREGATES))
_TASKS_LONGEST_FIRST = sorted(_TASKS, key=len, reverse=True)
_ENTRY_SET = frozenset(ENTRIES)


@functools.cache
def wide_column_metric(column: str) -> Metric | None:
    """Return the metric of a column of the parsed wide table, or None for a detail of model or recipe.

    The column `lr_at_step` is the learning rate at the row's step, which is the same metric as `learning_rate` in logs
    of post-training runs. The columns `total_tokens`, `total_steps` and `true_model_size` repeat nominal figures of the
    schedule in every row and are not metrics; the metric `total_tokens` is the counter of a training log.

    Examples
    --------
    >>> wide_column_metric("dolma_common-crawl-valppl").name
    'dolma_common_crawl_valppl'
    >>> wide_column_metric("lr_at_step") == log_metric("learning_rate")
    True
    >>> wide_column_metric("d_model") is None and wide_column_metric("total_tokens") is None
    True
    """
    if column == "lr_at_step":
        return log_metric("learning_rate")
    match = _PPL_COLUMN.fullmatch(column)
    if match is not None:
        name = match["set"]
        return perplexity_metric(_PPL_BY_IDENTIFIER.get(identifier(name), name))
    for task in _TASKS_LONGEST_FIRST:
        if column == task:
            return task_metric(task)
        if column.startswith(task + "_"):
            entry = column[len(task) + 1 :]
            if re.sub(r"_(macro|micro)$", "", entry) in _ENTRY_SET:
                return task_metric(task, entry)
    return None


@functools.cache
def parse_metric(name: str) -> Metric:
    """Return the metric for a name that a user may write.

    Parameters
    ----------
    name : str
        Canonical name, a wide table's column (``"pile-valppl"``, ``"arc_challenge_primary_metric"``), or a
        key of the training log. Any other name is taken as a key of the log, whether a store has it or not.

    Examples
    --------
    >>> parse_metric("pile-valppl").name, parse_metric("lr_at_step").entry
    ('pile_valppl', 'learning_rate')
    """
    metric = wide_column_metric(name)
    if metric is not None:
        return metric
    return log_metric(name)


#: Metrics of ``open_lineages(metrics=None)``: training loss, the ten OLMES tasks, the eleven perplexities.
DEFAULT_METRICS: tuple[Metric, ...] = (
    log_metric("train_loss"),
    *(task_metric(task) for task in OLMES_TASKS),
    *(perplexity_metric(name) for name in PERPLEXITY_SETS),
)
