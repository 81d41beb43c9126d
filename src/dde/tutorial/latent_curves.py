"""Latent curves of the tutorial: loss, perplexities and task accuracies that behave like real ones.

Loss follows a law of the Chinchilla form, E + A / N^a + B / D^b, shifted by recipe and seed. Perplexities are
computed from the loss. The accuracy of a task is a sigmoid of the loss that exceeds chance only late, with binomial
noise according to its number of questions. All other entries are consistent with accuracy and loss.

Every random stream is keyed by names (of the recipe, the base, ...), so that the values of a base do not depend on
which others are generated. Results of exp and log are rounded to single precision, like perplexities of real tables.
Mathematics libraries differ in the last bits of a double, which rounding almost certainly removes, so that the same
seed gives the same values on all machines.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import numpy.typing as npt

from dde.suite.datadecide.names import Base, ModelSize, Recipe
from dde.tutorial.tasks import (
    ENTRY_INDEX,
    NO_UNCONDITIONED,
    PERPLEXITIES,
    RAW_ENTRIES,
    RAW_TASKS,
    TASKS,
    UNCONDITIONED_ENTRIES,
    task_array,
)

__all__ = ["base_loss", "evaluations", "perplexities", "question_luck", "random_stream", "task_loss"]

Floats = npt.NDArray[np.float64]

# Fitted by eye to the magnitudes of real perplexities between 4M and 1B.
_ENTROPY, _A, _ALPHA, _B, _BETA = 2.36, 51.6, 0.22, 330.0, 0.30
# Loss of an untrained model: all tokens of a vocabulary of 50,304 are equally likely.
_UNTRAINED = 10.83

# By recipe family: how much of the corpus is plain web text (0: it has code, books and papers, 1: it has none), and
# by how much the loss of its models on tasks is lower.
_FAMILIES = {
    "Dolma1.7": (0.0, 0.00),
    "Dolma1.6++": (0.0, 0.02),
    "C4": (1.0, -0.03),
    "FineWeb-Pro": (0.7, 0.08),
    "FineWeb-Edu": (0.6, 0.12),
    "Falcon": (0.8, -0.02),
    "Falcon+CC": (0.5, 0.01),
    "DCLM-Baseline": (0.1, 0.12),
    "DCLM-Baseline / Dolma": (0.05, 0.07),
}


def random_stream(seed: int, *names: object) -> np.random.Generator:
    """Return a random generator that depends only on `seed` and `names`."""
    digest = hashlib.blake2b("\0".join(map(str, names)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64([seed, *np.frombuffer(digest, dtype="<u4").tolist()]))


def single(values: npt.ArrayLike) -> Floats:
    """Round values to single precision; the result has doubles."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def chinchilla_loss(n_params: int, tokens: npt.ArrayLike) -> Floats:
    """Return the loss of a model of the average recipe after `tokens` tokens."""
    limit = _ENTROPY + _A / n_params**_ALPHA
    # Tokens are shifted so that the law starts at the untrained loss instead of infinity.
    shift = (_B / (_UNTRAINED - limit)) ** (1 / _BETA)
    return np.asarray(limit + _B / (np.asarray(tokens, dtype=np.float64) + shift) ** _BETA)


@functools.cache
def _recipe_effects(seed: int, recipe: Recipe) -> tuple[float, float, Floats, Floats]:
    """Return the shift of the loss, the gain on tasks, the gain by task and the shift of log perplexity by set."""
    web, gain = _FAMILIES[recipe.family]
    stream = random_stream(seed, "recipe", recipe.slug)
    by_set = np.array([facts.web for facts in PERPLEXITIES]) * web + 0.03 * stream.standard_normal(11)
    names = [facts.name for facts in PERPLEXITIES]
    if "no-code" in recipe.slug or "no-math-code" in recipe.slug:
        by_set[names.index("dolma_stack")] += 0.9
    if recipe.slug.endswith("no-reddit"):
        by_set[names.index("dolma_reddit")] += 0.2
    shift = 0.03 * stream.standard_normal()
    gain += 0.03 * stream.standard_normal()
    return float(shift), float(gain), 0.04 * stream.standard_normal(len(TASKS)), by_set


def base_loss(seed: int, base: Base, steps: npt.NDArray[np.int64]) -> Floats:
    """Return the latent loss of a pretraining run at `steps`, (step,)."""
    size: ModelSize = base.size
    shift = _recipe_effects(seed, base.recipe)[0]
    own = 0.012 * random_stream(seed, "seed", base.label).standard_normal()
    tokens = steps.astype(np.float64) * size.tokens_per_step
    loss = chinchilla_loss(size.n_params, tokens)
    # Effects of recipe and seed grow with training; an untrained model has neither.
    return np.asarray(loss + (shift + own) * np.minimum(tokens / (0.02 * size.scheduled_tokens), 1.0))


def task_loss(seed: int, recipe: Recipe, loss: Floats) -> Floats:
    """Return the effective loss of each task, (..., task), from the latent loss, (...)."""
    _, gain, by_task, _ = _recipe_effects(seed, recipe)
    return np.asarray(loss[..., np.newaxis] - gain - by_task)


def perplexities(seed: int, recipe: Recipe, loss: Floats, stream: np.random.Generator) -> Floats:
    """Return perplexities, (..., set), from the latent loss, (...)."""
    by_set = _recipe_effects(seed, recipe)[3]
    level = np.array([facts.level for facts in PERPLEXITIES])
    slope = np.array([facts.slope for facts in PERPLEXITIES])
    noise = 0.008 * stream.standard_normal((*loss.shape, len(PERPLEXITIES)))
    return single(np.exp(level + by_set + slope * (loss[..., np.newaxis] - 3.6) + noise))


def accuracy_curve(loss: Floats) -> Floats:
    """Return the expected accuracy of models of this loss, (..., task): a sigmoid that exceeds chance late."""
    turn = 1.0 / (1.0 + np.exp((loss - task_array("midpoint")) / task_array("width")))
    lowest = task_array("floor")
    return np.asarray(lowest + (task_array("ceiling") - lowest) * turn)


def question_luck(seed: int, base: Base) -> Floats:
    """Return the effect of each task's questions on models of a lineage, (task,) standard normals."""
    return random_stream(seed, "questions", base.label).standard_normal(len(TASKS))


def evaluations(loss: Floats, luck: Floats, stream: np.random.Generator) -> Floats:
    """Return evaluations of models with the given losses.

    Parameters
    ----------
    loss : (model, task) array
        Effective loss of each task, see `task_loss`.
    luck : (task,) array
        See `question_luck`.
    stream : numpy.random.Generator
        Random generator of the models.

    Returns
    -------
    (model, task, entry) array
        In the order of ``RAW_TASKS`` and ``RAW_ENTRIES``; NaN for entries that a task never has.
    """
    out = np.full((*loss.shape, len(RAW_ENTRIES)), np.nan)
    counts, choices = task_array("instances"), task_array("choices")
    noise = stream.standard_normal((*loss.shape, 14))
    # All checkpoints of a lineage answer the same questions, so they share most of the binomial noise. Curves are
    # smoother than the differences between seeds suggest.
    noise[..., 0] = np.sqrt(0.75) * luck + np.sqrt(0.25) * noise[..., 0]

    def put(entry: str, values: npt.ArrayLike) -> None:
        out[..., ENTRY_INDEX[entry]] = values

    def share(probability: Floats, k: int, common: float = 0.0) -> Floats:
        # A rounded normal approximates the binomial well, with fewer operations that differ between mathematics
        # libraries. `common` is the fraction of the noise that all ways of scoring share.
        draw = np.sqrt(common) * noise[..., 0] + np.sqrt(1.0 - common) * noise[..., k]
        spread = np.sqrt(counts * probability * (1 - probability))
        return np.asarray(np.clip(np.round(counts * probability + spread * draw), 0, counts) / counts)

    accuracy = accuracy_curve(loss)
    boolq = RAW_TASKS.index("boolq")
    # Small models answer BoolQ all yes or all no, and flip between checkpoints.
    unsure = 1.0 / (1.0 + np.exp((3.4 - loss[:, boolq]) / 0.15))
    accuracy[:, boolq] -= unsure * np.where(noise[:, boolq, 13] > 0.3, 0.21, -0.03)
    chance = 1.0 / choices
    primary = np.array([facts.primary for facts in TASKS])
    for k, (entry, offset) in enumerate(
        [("acc_raw", -0.012), ("acc_per_token", 0.002), ("acc_per_char", 0.004), ("acc_uncond", -0.006)], 1
    ):
        # The curve describes the task's primary scoring; the others differ slightly.
        put(entry, share(np.clip(accuracy + np.where(primary == entry, 0.0, offset), 0.02, 0.98), k, 0.9))
    per_char = out[..., ENTRY_INDEX["acc_per_char"]]
    put("acc_per_byte", np.clip(np.round(per_char * counts + noise[..., 5]), 0, counts) / counts)
    put("primary_metric", np.take_along_axis(out, _primary_index()[np.newaxis, :, np.newaxis], axis=2)[..., 0])

    # Gold answers do not change with the model.
    put(
        "correct_choice",
        np.round(counts * ((choices - 1) / 2 + 0.03 * np.sin(np.arange(len(TASKS))))) / counts,
    )
    put("no_answer", 0.0)
    for k, way in enumerate(("raw", "per_token", "per_char", "per_byte", "uncond"), 6):
        mean = (choices - 1) / 2 + 0.08 * noise[..., k]
        put(f"predicted_index_{way}", np.round(counts * np.clip(mean, 0, choices - 1)) / counts)

    chars, tokens = task_array("chars"), task_array("tokens")
    per_char_logit = -0.42 * np.maximum(loss - 1.68, 0.2) * (1 + 0.01 * noise[..., 11])
    logit = per_char_logit * chars
    put("sum_logits_corr", single(logit))
    put("logits_per_token_corr", single(logit / tokens))
    put("logits_per_char_corr", single(per_char_logit))
    put("logits_per_byte_corr", single(0.994 * per_char_logit))
    put("bits_per_byte_corr", single(-0.994 * per_char_logit / np.log(2.0)))

    # Probability of the correct answer relative to all answers, which accuracy thresholds.
    lean = chance + 0.85 * (out[..., ENTRY_INDEX["acc_raw"]] - chance)
    jitter = 1 + 0.03 * noise[..., 12]
    for way, scaled, sharp in (
        ("", -(np.abs(logit) ** 0.68), 1.0),
        ("_per_token", 0.8 * logit / tokens, 0.35),
        ("_per_char", per_char_logit, 0.08),
    ):
        correct = np.exp(scaled) * jitter
        norm = np.clip(chance + sharp * (lean - chance), 0.01, 0.99)
        put(f"correct_prob{way}", single(correct))
        put(f"norm_correct_prob{way}", single(norm))
        put(f"total_prob{way}", single(correct / norm))
        put(f"margin{way}", single(correct * (norm - (1 - norm) / (choices - 1) * (1.1 + 0.2 * chance))))
        unconditioned = correct * np.exp(-0.15 * np.maximum(5.5 - loss, 0.0))
        put(f"uncond_correct_prob{way}", single(unconditioned))
        if not way:
            put("uncond_total_prob", single(unconditioned * choices * 1.2))
    rows = [k for k, name in enumerate(RAW_TASKS) if name in NO_UNCONDITIONED]
    for entry in UNCONDITIONED_ENTRIES:
        out[:, rows, ENTRY_INDEX[entry]] = np.nan
    return out


@functools.cache
def _primary_index() -> npt.NDArray[np.intp]:
    return np.array([ENTRY_INDEX[facts.primary] for facts in TASKS], dtype=np.intp)
