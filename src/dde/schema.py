"""The schema of Datasets of lineages: names, dimensions and meaning of their coordinates and attributes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = [
    "AVERAGED_OVER",
    "CELLS",
    "CELL_NUMBERS",
    "CELL_TEXTS",
    "CHANGING_PARAMS",
    "COORDINATES",
    "DIMS",
    "EVALUATIONS",
    "FACTOR_OF",
    "IDENTITY",
    "LEADING_COLUMNS",
    "LINEAGE_COORDINATES",
    "MEMBERS",
    "PERPLEXITIES",
    "POSITION_CHECK",
    "PRETRAINING",
    "RUN_COORDINATES",
    "SAMPLED",
    "SAMPLED_NUMBERS",
    "TABLE_SAMPLINGS",
    "TEXT_COORDINATES",
    "TREATMENT",
    "Coordinate",
    "FactorOf",
    "Labelled",
    "factor_of",
    "factors_of",
    "is_datadecide",
    "is_identity",
    "log_sampling",
    "sampled_names",
    "sampling_of",
    "treatment_names",
    "without_replicate",
]

#: Dimensions of an opened Dataset, in order.
DIMS = ("lineage", "run", "cumulative_tokens")

#: Dimensions of its runs.
CELLS = ("lineage", "run")

#: Run type and run label of a base.
PRETRAINING = "pretraining"


@dataclass(frozen=True, slots=True)
class Coordinate:
    """One coordinate of a Dataset of lineages.

    Attributes
    ----------
    name : str
    dims : tuple of str
        Dimensions in an opened Dataset.
    kind : {"text", "number"}
        A cell without a run is "" in a text coordinate and NaN in a numeric one.
    label : str
        Its ``long_name``.
    units : str
        Its ``units``; "" for none.
    """

    name: str
    dims: tuple[str, ...]
    kind: Literal["text", "number"]
    label: str
    units: str = ""

    @property
    def attrs(self) -> dict[str, str]:
        """Attributes of the coordinate."""
        return {"long_name": self.label, **({"units": self.units} if self.units else {})}


def _table(dims: tuple[str, ...], rows: list[tuple[str, Literal["text", "number"], str, str]]) -> dict[str, Coordinate]:
    return {name: Coordinate(name, dims, kind, label, units) for name, kind, label, units in rows}


#: Coordinates of a lineage: its base.
LINEAGE_COORDINATES = _table(
    ("lineage",),
    [
        ("params", "text", "model size", ""),
        ("data", "text", "data recipe", ""),
        ("seed", "number", "pretraining seed", ""),
        ("seed_name", "text", "pretraining seed", ""),
        ("n_params", "number", "non-embedding parameters", "1"),
        ("recipe_family", "text", "family of the data recipe", ""),
    ],
)
#: Coordinates of a treatment: the fields of its label.
RUN_COORDINATES = _table(
    ("run",),
    [
        ("run_type", "text", "type of the run", ""),
        ("posttraining_method", "text", "post-training method", ""),
        ("learning_rate", "number", "peak learning rate", "1"),
        ("finetune_tokens", "number", "nominal token budget of an epoch", "tokens"),
        ("epochs", "number", "epochs", "1"),
        ("max_train_samples", "number", "limit on training sequences", "sequences"),
        ("dpo_beta", "number", "DPO beta", "1"),
        ("branch_point", "text", "starting checkpoint, where it is not the parent's final one", ""),
        ("parent_treatment", "text", "treatment of the parent", ""),
        ("variant", "text", "hyperparameters that act and tell treatments of one label apart", ""),
        ("replicate", "number", "replicate of the treatment, by creation time", ""),
    ],
)
#: Text coordinates of a run of a lineage.
CELL_TEXTS = _table(
    CELLS,
    [
        ("run_id", "text", "id of the run", ""),
        ("parent_run_id", "text", "id of the parent run", ""),
        ("state", "text", "state of the run", ""),
        ("token_source", "text", "how the last token is known", ""),
        ("reduce_loss", "text", "reduction of the training loss", ""),
        ("parent_evidence", "text", "where the parent stands written", ""),
        ("chain", "text", "runs of the curve, each with the token that it begins behind", ""),
    ],
)
#: Numeric coordinates of a run of a lineage.
CELL_NUMBERS = _table(
    CELLS,
    [
        ("branch_tokens", "number", "cumulative tokens at the branch", "tokens"),
        ("origin_tokens", "number", "cumulative tokens where the chain of runs left its base", "tokens"),
        ("end_tokens", "number", "cumulative tokens at the end", "tokens"),
        ("schedule_tokens", "number", "cumulative tokens at the planned end", "tokens"),
        ("batch_size", "number", "training sequences of a step", "sequences"),
        ("training_seed", "number", "random seed of the post-training run", "1"),
        ("weight_decay", "number", "weight decay", "1"),
        ("warmup_ratio", "number", "warmup ratio", "1"),
        ("max_seq_length", "number", "longest training sequence", "tokens"),
    ],
)
#: Attribute of the coordinate ``n_params`` that is set where the parameter count differs between the runs of one curve,
#: so that compute is not a function of the count and tokens.
CHANGING_PARAMS = "changes_along_curves"
#: Attribute of a coordinate of a declared suite: whether it is a factor of a "lineage", "run" or "cell".
FACTOR_OF = "factor_of"
#: Check number of each position along the axis; see :mod:`dde.dataset.samples`.
POSITION_CHECK = "position_check"
#: Prefix of the names of the coordinates that mark samples.
SAMPLED = "sampled_"
#: Samplings of the evaluation tables: every metric of a table is sampled where the table has a row.
EVALUATIONS, PERPLEXITIES = "evaluations", "perplexities"
TABLE_SAMPLINGS = (EVALUATIONS, PERPLEXITIES)
#: Numbers of a sampling along (lineage, run), with their meanings and units.
SAMPLED_NUMBERS = {
    "last": ("tokens of the run's own last sample", "tokens"),
    "base": ("tokens of the base's last sample before the chain of runs left it", "tokens"),
    "own": ("samples of the run itself", "1"),
    "count": ("samples along the whole curve", "1"),
}

#: Every coordinate that a Dataset may have besides its samplings and axes, by name.
COORDINATES: dict[str, Coordinate] = {**LINEAGE_COORDINATES, **RUN_COORDINATES, **CELL_TEXTS, **CELL_NUMBERS}
#: Text coordinates, which are "" where there is no run.
TEXT_COORDINATES = frozenset(name for name, c in COORDINATES.items() if c.kind == "text") | {"lineage", "run"}

#: Coordinate that only Datasets of means have: the number of runs of each mean.
MEMBERS = "n_members"
#: Attribute of a Dataset of means: the averaged factors.
AVERAGED_OVER = "averaged_over"

#: Columns of long tables of DataDecide before the metrics: lineage and run, base, treatment, axis.
LEADING_COLUMNS = (
    "lineage_id",
    "run",
    "run_id",
    "run_type",
    "params",
    "data",
    "seed",
    "learning_rate",
    "posttraining_method",
    "finetune_tokens",
    "epochs",
    "dpo_beta",
    "reduce_loss",
    "step",
    "cumulative_tokens",
    "cumulative_compute",
)

#: Coordinates that identify a run or give its positions, and are not a part of its treatment.
IDENTITY = frozenset(
    {
        "run", "replicate", "run_id", "parent_run_id", "state", "branch_tokens", "origin_tokens", "end_tokens",
        "schedule_tokens", "token_source", "parent_evidence", "training_seed", "chain", "base_distance",
        "last_end_tokens", "final_tokens", "final_compute", "start_tokens", "root_run_id", "parent_run_ids", MEMBERS,
    }
)  # fmt: skip

#: Coordinates of the treatment: runs that differ in one of them are not repetitions of each other.
TREATMENT = frozenset(RUN_COORDINATES) - {"replicate"} | {
    "reduce_loss", "batch_size", "weight_decay", "warmup_ratio", "max_seq_length",
}  # fmt: skip

#: What a factor distinguishes: lineages, runs of a lineage, or each run of each lineage.
FactorOf = Literal["lineage", "run", "cell"]

# Factors of DataDecide, whose coordinates have no attribute `factor_of`.
_DATADECIDE_FACTORS: dict[str, FactorOf] = {
    **dict.fromkeys(("params", "data", "seed"), "lineage"),
    **dict.fromkeys((n for n in RUN_COORDINATES if n not in ("replicate", "posttraining_method")), "run"),
    **dict.fromkeys(sorted(TREATMENT - set(RUN_COORDINATES)), "cell"),
}
# Coordinates that every Dataset of another suite has, and no Dataset of DataDecide.
_OF_OTHER_SUITES = ("start_tokens", "root_run_id")


# Number of the replicate at the end of a label.
_REPLICATE = re.compile(r"#\d+$")


class Labelled(Protocol):
    """An object with coordinates: a Dataset or DataArray."""

    @property
    def coords(self) -> Any:
        """Coordinates by name."""


def _attrs_of(obj: Labelled) -> dict[str, Mapping[Any, Any]]:
    """Return the attributes of all coordinates except samplings, of which there may be thousands."""
    # Variables, because creating a DataArray of each takes longer than reading its attributes.
    return {str(n): v.attrs for n, v in obj.coords.variables.items() if not str(n).startswith(SAMPLED)}


def is_datadecide(obj: Labelled) -> bool:
    """Return whether an object is of the DataDecide suite: none of its coordinates is of another suite.

    Examples
    --------
    >>> import xarray as xr
    >>> width = xr.Variable("lineage", [64, 128], {"factor_of": "lineage"})
    >>> is_datadecide(xr.Dataset()), is_datadecide(xr.Dataset(coords={"width": width}))
    (True, False)
    """
    attrs = _attrs_of(obj)
    return not any(n in attrs for n in _OF_OTHER_SUITES) and not any(FACTOR_OF in a for a in attrs.values())


def factor_of(obj: Labelled, name: str) -> FactorOf | None:
    """Return whether a coordinate is a factor of a lineage, run or cell; None where it is not a factor.

    Examples
    --------
    >>> import xarray as xr
    >>> width = xr.Variable("lineage", [64, 128], {"factor_of": "lineage"})
    >>> factor_of(xr.Dataset(coords={"width": width}), "width")
    'lineage'
    >>> factor_of(xr.Dataset(coords={"learning_rate": ("run", [1e-5])}), "learning_rate")
    'run'
    """
    return factors_of(obj).get(name)


def factors_of(obj: Labelled) -> dict[str, FactorOf]:
    """Return the factors of an object: of a lineage, run or cell, by name.

    A table lists those of DataDecide, in its order; in other suites, each coordinate has the attribute ``factor_of``,
    and factors are in the order of the coordinates. The type of a run is a factor of runs in both.

    Examples
    --------
    >>> import xarray as xr
    >>> factors_of(xr.Dataset(coords={"learning_rate": ("run", [1e-5]), "state": ("run", ["finished"])}))
    {'learning_rate': 'run'}
    """
    factors: dict[str, FactorOf] = {}
    known: dict[str, FactorOf] = _DATADECIDE_FACTORS if is_datadecide(obj) else {"run_type": "run"}
    of_all = _attrs_of(obj)
    # Zarr gives coordinates in any order, and labels of means list factors in theirs.
    ordered = [*(n for n in known if n in of_all), *(n for n in of_all if n not in known)] if len(known) > 1 else of_all
    for name, attrs in ((n, of_all[n]) for n in ordered):
        if (given := attrs.get(FACTOR_OF)) is not None:
            # Datasets that were joined may have different attributes, which are listed in one text.
            factors[name] = given if given in ("lineage", "run") else "cell"
        elif name in known:
            factors[name] = known[name]
    return factors


def treatment_names(obj: Labelled) -> frozenset[str]:
    """Return the coordinates of the treatment, in which repetitions agree.

    Examples
    --------
    >>> import xarray as xr
    >>> budget = xr.Variable("run", [1, 2], {"factor_of": "run"})
    >>> sorted(treatment_names(xr.Dataset(coords={"budget": budget})))
    ['budget', 'run_type']
    """
    if is_datadecide(obj):
        return TREATMENT
    return frozenset(n for n, of in factors_of(obj).items() if of != "lineage") | {"run_type"}


def is_identity(name: str) -> bool:
    """Return whether a coordinate identifies a run or gives its positions; see `IDENTITY`.

    Examples
    --------
    >>> is_identity("run_id"), is_identity("base_distance_piqa"), is_identity("learning_rate")
    (True, True, False)
    """
    return name in IDENTITY or name.startswith("base_distance")


def sampled_names(sampling: str) -> dict[str, str]:
    """Return the names of the coordinates of a sampling: its flags under "", its numbers under their own names.

    Examples
    --------
    >>> sampled_names("evaluations")["last"]
    'sampled_evaluations_last'
    """
    return {"": SAMPLED + sampling, **{n: f"{SAMPLED}{sampling}_{n}" for n in SAMPLED_NUMBERS}}


def log_sampling(metric: str) -> str:
    """Return the sampling of a metric of a training log: its name, with ``_log`` where that would be ambiguous.

    Examples
    --------
    >>> log_sampling("train_loss"), log_sampling("token_count")
    ('train_loss', 'token_count_log')
    """
    return f"{metric}_log" if metric.rpartition("_")[2] in SAMPLED_NUMBERS or metric in TABLE_SAMPLINGS else metric


def sampling_of(name: str) -> str:
    """Return the sampling that a coordinate belongs to; "" for none.

    Examples
    --------
    >>> sampling_of("sampled_train_loss_last"), sampling_of("learning_rate")
    ('train_loss', '')
    """
    if not name.startswith(SAMPLED):
        return ""
    stem = name.removeprefix(SAMPLED)
    head, _, tail = stem.rpartition("_")
    return head if head and tail in SAMPLED_NUMBERS else stem


def without_replicate(label: object) -> str:
    """Return the label of a run without the number of its replicate.

    Examples
    --------
    >>> without_replicate("sft_lr=5e-05_fullx2#2")
    'sft_lr=5e-05_fullx2'
    """
    return _REPLICATE.sub("", str(label))
