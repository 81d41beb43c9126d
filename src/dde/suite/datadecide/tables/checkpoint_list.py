"""The suite's checkpoint list: all trained checkpoints, evaluated or not."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass

import fsspec
import pandas as pd

from dde.errors import FormatError, UnknownNameError
from dde.suite.datadecide.names import parse_training_name

__all__ = ["CheckpointList", "read_checkpoint_list"]

_REVISION = re.compile(r"step(?P<step>\d+)(?:-unsharded)?(?:-hf)?")


@dataclass(frozen=True)
class CheckpointList:
    """Trained checkpoints, under the labels of their runs.

    Attributes
    ----------
    checkpoints : pandas.DataFrame
        One row per run and step: lineage, params, data, seed, step, tokens, revision, overrun.
    names : int
        Number of entries in the list.
    listed : int
        Number of checkpoints in the list; those of runs with two names are counted under each.
    double_names : dict of str to list of str
        Names of runs with several names, by label.
    unknown : list of str
        Names and revisions that could not be parsed, each with the reason.
    overruns : int
        Number of listed checkpoints past the schedule of their size.
    """

    checkpoints: pd.DataFrame
    names: int
    listed: int
    double_names: dict[str, list[str]]
    unknown: list[str]
    overruns: int


def read_checkpoint_list(path: str | os.PathLike[str]) -> CheckpointList:
    """Return the runs and checkpoints of a checkpoint list.

    Parameters
    ----------
    path : str or path
        JSON lines with the keys model_name and revisions; compressed or not, local or an fsspec URL.

    Raises
    ------
    FormatError
        When a line is not such an entry.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "checkpoints.jsonl"
    >>> _ = path.write_text(json.dumps({"model_name": "dolma17-4M-6198", "revisions": ["step5725-unsharded-hf"]}))
    >>> read_checkpoint_list(path).checkpoints.loc[0, "revision"]
    'step5725-seed-default'
    """
    rows: dict[tuple[str, int], dict[str, object]] = {}
    spellings: dict[str, list[str]] = {}
    unknown: list[str] = []
    listed = overruns = names = 0
    with fsspec.open(os.fspath(path), "rt", compression="infer", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                name, revisions = str(entry["model_name"]), list(entry["revisions"])
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(
                    f"{os.fspath(path)}, line {number}, is not an entry of a checkpoint list ({error!r}), so its "
                    "checkpoints are unknown. Write an object with model_name and revisions."
                ) from error
            names += 1
            listed += len(revisions)
            try:
                base = parse_training_name(name)
            except UnknownNameError as error:
                unknown.append(str(error))
                continue
            spellings.setdefault(base.label, []).append(name)
            for revision in map(str, revisions):
                match = _REVISION.fullmatch(revision)
                if match is None:
                    unknown.append(f"{name}: the revision {revision!r} names no step")
                    continue
                step = int(match["step"])
                overrun = base.size.overruns(step)
                overruns += overrun
                rows[base.label, step] = {
                    "lineage": base.label,
                    "params": base.size.name,
                    "data": base.recipe.name,
                    "seed": base.seed.index,
                    "step": step,
                    "tokens": base.size.tokens_at(step),
                    "revision": f"step{step}-seed-{base.seed.dashed}",
                    "overrun": overrun,
                }
    columns = ["lineage", "params", "data", "seed", "step", "tokens", "revision", "overrun"]
    frame = pd.DataFrame([rows[key] for key in sorted(rows)], columns=columns)
    double = {label: names_of_run for label, names_of_run in spellings.items() if len(names_of_run) > 1}
    return CheckpointList(frame, names, listed, double, unknown, overruns)
