"""The 25 data recipes of the DataDecide suite, with all their names."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from dde.errors import UnknownNameError, near_names

__all__ = ["RECIPES", "Recipe", "find_recipe", "resolve_recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One pretraining data recipe.

    Attributes
    ----------
    name : str
        Display name, as in the evaluation tables (``"Dolma1.7 (no code)"``).
    slug : str
        Name in Hub repositories (``"dolma1_7-no-code"``).
    family : str
        Corpus of which the recipe is a variant.
    training_names : tuple of str
        Names in checkpoint lists and training configurations.
    """

    name: str
    slug: str
    family: str
    training_names: tuple[str, ...]


# Sources: display name and slug, the dataset and model cards of allenai/DataDecide; training names, its checkpoint
# list, then names of finetuning runs (hadasah/open-instruct-fts, ml/scripts/constants.py) and their parser (dr_ingest).
RECIPES: tuple[Recipe, ...] = (
    Recipe("Dolma1.7", "dolma1_7", "Dolma1.7", ("dolma17", "d17", "baseline")),
    Recipe("Dolma1.7 (no code)", "dolma1_7-no-code", "Dolma1.7", ("no_code",)),
    Recipe("Dolma1.7 (no math, code)", "dolma1_7-no-math-code", "Dolma1.7", ("no_math_no_code",)),
    Recipe("Dolma1.7 (no Reddit)", "dolma1_7-no-reddit", "Dolma1.7", ("no_reddit",)),
    Recipe("Dolma1.7 (no Flan)", "dolma1_7-no-flan", "Dolma1.7", ("no_flan",)),
    Recipe("Dolma1.6++", "dolma1_6plus", "Dolma1.6++", ("dolma-v1-6-and-sources-baseline", "d16")),
    Recipe("C4", "c4", "C4", ("c4",)),
    Recipe("FineWeb-Pro", "fineweb-pro", "FineWeb-Pro", ("prox_fineweb_pro",)),
    Recipe("FineWeb-Edu", "fineweb-edu", "FineWeb-Edu", ("fineweb_edu_dedup",)),
    Recipe("Falcon", "falcon", "Falcon", ("falcon",)),
    Recipe("Falcon+CC", "falcon-and-cc", "Falcon+CC", ("falcon_and_cc", "falcon_cc")),
    Recipe(
        "Falcon+CC (QC 10%)", "falcon-and-cc-qc-10p", "Falcon+CC", ("falcon_and_cc_eli5_oh_top10p", "falcon_cc_qc10p")
    ),
    Recipe(
        "Falcon+CC (QC 20%)", "falcon-and-cc-qc-20p", "Falcon+CC", ("falcon_and_cc_eli5_oh_top20p", "falcon_cc_qc20p")
    ),
    Recipe(
        "Falcon+CC (QC Orig 10%)",
        "falcon-and-cc-qc-orig-10p",
        "Falcon+CC",
        ("falcon_and_cc_og_eli5_oh_top10p", "falcon_cc_qcorig10p"),
    ),
    Recipe(
        "Falcon+CC (QC Tulu 10%)",
        "falcon-and-cc-qc-tulu-10p",
        "Falcon+CC",
        ("falcon_and_cc_tulu_qc_top10", "falcon_cc_qctulu10p"),
    ),
    Recipe("DCLM-Baseline", "dclm-baseline", "DCLM-Baseline", ("DCLM-baseline", "dclm")),
    Recipe(
        "DCLM-Baseline 25% / Dolma 75%",
        "dclm-baseline-25p-dolma1.7-75p",
        "DCLM-Baseline / Dolma",
        ("dolma17-75p-DCLM-baseline-25p", "DCLM-baseline-25p", "dclm_25_d17_75", "dclm25_dolma75"),
    ),
    Recipe(
        "DCLM-Baseline 50% / Dolma 50%",
        "dclm-baseline-50p-dolma1.7-50p",
        "DCLM-Baseline / Dolma",
        ("dolma17-50p-DCLM-baseline-50p", "DCLM-baseline-50p", "dclm_50_d17_50", "dclm50_dolma50"),
    ),
    Recipe(
        "DCLM-Baseline 75% / Dolma 25%",
        "dclm-baseline-75p-dolma1.7-25p",
        "DCLM-Baseline / Dolma",
        ("dolma17-25p-DCLM-baseline-75p", "DCLM-baseline-75p", "dclm_75_d17_25", "dclm75_dolma25"),
    ),
    Recipe(
        "DCLM-Baseline (QC 7%, FW2)",
        "dclm-baseline-qc-7p-fw2",
        "DCLM-Baseline",
        ("dclm_ft7percentile_fw2", "dclm_qc7fw2", "dclm_qc7p_fw2"),
    ),
    Recipe(
        "DCLM-Baseline (QC 7%, FW3)",
        "dclm-baseline-qc-7p-fw3",
        "DCLM-Baseline",
        ("dclm_ft7percentile_fw3", "dclm_qc7fw3", "dclm_qc7p_fw3"),
    ),
    Recipe("DCLM-Baseline (QC FW 10%)", "dclm-baseline-qc-fw-10p", "DCLM-Baseline", ("dclm_fw_top10", "dclm_qcfw10p")),
    Recipe("DCLM-Baseline (QC FW 3%)", "dclm-baseline-qc-fw-3p", "DCLM-Baseline", ("dclm_fw_top3", "dclm_qcfw3p")),
    Recipe(
        "DCLM-Baseline (QC 10%)",
        "dclm-baseline-qc-10p",
        "DCLM-Baseline",
        ("pos_eli5_oh_neg_dclm_refinedweb_steps_2000_lr3e4_top10p", "dclm_qc10p"),
    ),
    Recipe(
        "DCLM-Baseline (QC 20%)",
        "dclm-baseline-qc-20p",
        "DCLM-Baseline",
        ("pos_eli5_oh_neg_dclm_refinedweb_steps_2000_lr3e4_top20p", "dclm_qc20p"),
    ),
)


def _fold(name: str) -> str:
    # "+" and "%" distinguish display names; every other character is only a separator.
    return re.sub(r"[^a-z0-9+%]+", "-", name.casefold()).strip("-")


_BY_NAME: dict[str, Recipe] = {
    _fold(alias): recipe for recipe in RECIPES for alias in (recipe.name, recipe.slug, *recipe.training_names)
}


@functools.lru_cache(maxsize=4096)
def find_recipe(name: str) -> Recipe | None:
    """Return the recipe called `name` (display name, slug or training name), or None."""
    return _BY_NAME.get(_fold(name))


def resolve_recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises
    ------
    UnknownNameError
        When no recipe has that name; lists the nearest ones.

    Examples
    --------
    >>> resolve_recipe("no_code").name
    'Dolma1.7 (no code)'
    """
    recipe = find_recipe(str(name))
    if recipe is None:
        near = near_names(name, [r.name for r in RECIPES] + [r.slug for r in RECIPES])
        raise UnknownNameError(
            f"{name!r} is not a data recipe of the DataDecide suite, so no run can match it.{near} "
            f"The {len(RECIPES)} recipes are listed by dde.names.RECIPES."
        )
    return recipe
