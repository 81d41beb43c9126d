"""Index of runs by the ways in which other runs name their parent: id, name, or output folder, which may be truncated.

A path may continue after the output folder to one of the run's checkpoints.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dde.sources.values import as_text
from dde.suite.datadecide.names import RunCheckpoint, find_hub_model, parse_run_checkpoint
from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.run_names import NameFacts, is_run_name

__all__ = ["FoundRun", "ParentIndex", "hub_depth", "path_parts", "path_problem"]

# Bytes of a path on Linux (PATH_MAX); keys of object stores have 1,024. Longer texts are not paths.
_LONGEST_PATH = 4096
# Each folder above the last is looked up as well, so that a path takes a time that grows with the square of its depth.
_DEEPEST_PATH = 255

_FINAL = RunCheckpoint()


@dataclass(frozen=True, slots=True)
class FoundRun:
    """The run of the store that a path or a name means.

    Attributes
    ----------
    run_id : str or None
        None where there is none, or where several fit.
    how : str
        How a path that was cut short was recognised.
    candidates : tuple of str
        Runs that fit, where more than one does.
    checkpoint : RunCheckpoint
        The checkpoint of the run; its final one where nothing else is named.
    unknown_part : str
        Rest of the path after the run, if it names no checkpoint.
    """

    run_id: str | None = None
    how: str = ""
    candidates: tuple[str, ...] = ()
    checkpoint: RunCheckpoint = _FINAL
    unknown_part: str = ""

    @property
    def is_known(self) -> bool:
        """Whether the path or name means any run of the store."""
        return self.run_id is not None or bool(self.candidates)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Runs that a cut path may mean.

    Attributes
    ----------
    past_group : set of str
        Those that match it beyond the name of the group.
    run_ids : list of str
        All, sorted.
    rates : mapping of float or None to list of (float, str)
        Learning rates with their runs, ascending, by token budget; under None those of all budgets.
    """

    past_group: set[str]
    run_ids: list[str]
    rates: dict[float | None, list[tuple[float, str]]]


class ParentIndex:
    """Looks runs up by id, name and output folder."""

    def __init__(self, evidence: Iterable[Evidence]) -> None:
        self._by_key: dict[str, set[str]] = {}
        self._folders: dict[str, set[str]] = {}
        self._evidence: dict[str, Evidence] = {}
        for item in evidence:
            record = item.record
            self._evidence[record.run_id] = item
            names = {record.run_id, record.run_name} - {""}
            for name in names:
                self._by_key.setdefault(name, set()).add(record.run_id)
            own = _plain_folder(as_text(record.config.get("output_dir")))
            launched = _plain_folder(as_text(item.command.get("output_dir")))
            if own:
                self._folders.setdefault(own, set()).add(record.run_id)
            elif PurePosixPath(launched).name in names:
                # A folder of the command that does not end with the run's name is shared by the group.
                self._folders.setdefault(launched, set()).add(record.run_id)
        self._sorted_folders = sorted(self._folders)
        self._sorted_names = sorted(self._by_key)
        # Runs of a sweep are launched with one path, cut at one place: each path is looked up once.
        self._cut: dict[str, _Candidates] = {}

    def find(self, name: str) -> FoundRun:
        """Return the run that a complete name, id or path means, which may end with one of the run's checkpoints.

        Parameters
        ----------
        name : str
            ``run``, ``run@step_200``, ``run@200``, ``run/epoch_0``; or a path to an output folder or below it.
        """
        known = self._by_key.get(name.rstrip("/"))
        if known is not None:
            return _one_of(known)
        head, _, revision = name.rpartition("@")
        if (known := self._by_key.get(head)) is not None:
            checkpoint = _revision(revision)
            return _one_of(known, unknown_part=revision) if checkpoint is None else _one_of(known, checkpoint)
        if path_problem(name):
            return FoundRun()
        parts = path_parts(name)
        found = self._find_whole(parts)
        if found.is_known or not parts:
            return found
        if (known := self._by_key.get("/".join(parts[:-1]))) is not None:
            return _one_of(known, unknown_part=parts[-1])
        return self._find_unknown_part(parts)

    def find_by_folder(self, path: str, child: Evidence) -> FoundRun:
        """Return the run whose output a path is.

        Parameters
        ----------
        path : str
            Model path; may be truncated anywhere after the group's folder, or continue to a checkpoint.
        child : Evidence
            The run that starts from it; another run is preferred as its parent. The name of a DPO run states rate
            and budget of its SFT run.
        """
        parts = path_parts(path)
        own = child.record.run_id
        found = self._find_whole(parts, own)
        if found.candidates:
            match = _match_by_name(_rates(self._evidence, found.candidates), child.name)
            return found if match is None else FoundRun(match, ", and the run name", checkpoint=found.checkpoint)
        if found.is_known:
            return found
        if not hub_depth(parts):
            cut = self._cut.get(path)
            if cut is None:
                cut = self._cut[path] = self._candidates(path)
            past_group = cut.past_group - {own}
            if len(past_group) == 1:
                return FoundRun(next(iter(past_group)), ", cut short")
            match = _match_by_name(cut.rates, child.name)
            if match is not None:
                return FoundRun(match, ", cut short, and the run name")
            candidates = tuple(run_id for run_id in cut.run_ids if run_id != own)
            if candidates:
                return FoundRun(None, ", cut short", candidates)
        return self._find_unknown_part(parts, own)

    def _find_whole(self, parts: list[str], own: str = "") -> FoundRun:
        """Return the run whose output folder, or a checkpoint in it, a path is; the run `own` comes last."""
        own_checkpoint = None
        for end in range(len(parts), hub_depth(parts), -1):
            checkpoint = parse_run_checkpoint("/".join(parts[end:]))
            if checkpoint is None:
                break
            runs = self._named(parts[:end])
            if runs - {own}:
                return _one_of(runs - {own}, checkpoint)
            if runs:
                own_checkpoint = checkpoint
        # No other run is called so.
        return FoundRun() if own_checkpoint is None else FoundRun(own, checkpoint=own_checkpoint)

    def _find_unknown_part(self, parts: list[str], own: str = "") -> FoundRun:
        """Return the run whose output folder begins a path that continues to something other than a checkpoint."""
        for end in range(len(parts) - 1, hub_depth(parts), -1):
            if is_run_name(parts[end]):
                # The path means this run, which the store does not have.
                break
            runs = self._folders.get(_plain_folder("/".join(parts[:end])), set())
            if not runs and is_run_name(parts[end - 1]):
                runs = self._by_key.get(parts[end - 1], set())
            if runs - {own}:
                return _one_of(runs - {own}, unknown_part="/".join(parts[end:]))
        return FoundRun()

    def _named(self, parts: list[str]) -> set[str]:
        """Return the runs with that output folder, else those that the folder or its last part is the name of."""
        folder = _plain_folder("/".join(parts))
        exact = self._folders.get(folder, set())
        if exact:
            return exact
        return self._by_key.get("/".join(parts)) or self._by_key.get(folder.rpartition("/")[2], set())

    def _candidates(self, path: str) -> _Candidates:
        folder = _plain_folder(path)
        tail = PurePosixPath(folder).name
        below: set[str] = set()
        # Past the group's name, which all runs of a sweep share, a cut name that fits one run alone means it.
        past_group: set[str] = set()
        for known in _beginning_with(self._sorted_folders, folder):
            below |= self._folders[known]
            if len(folder) > len(str(PurePosixPath(known).parent)) + 1:
                past_group |= self._folders[known]
        if is_run_name(tail) and "/model/" in path:
            for name in _beginning_with(self._sorted_names, tail):
                past_group |= self._by_key[name]
        candidates = sorted(below | past_group)
        return _Candidates(past_group, candidates, _rates(self._evidence, candidates))


def hub_depth(parts: Sequence[str]) -> int:
    """Return how many parts of a path lead to the name of a Hub model, itself included; 0 where none is named."""
    for depth, part in enumerate(parts, 1):
        if find_hub_model(part) is not None:
            return depth
    return 0


def path_problem(path: str) -> str:
    """Return why a text can't be the path of any run; "" where it may be one."""
    if len(path) > _LONGEST_PATH:
        return f"{len(path):,} characters are more than any path has ({_LONGEST_PATH:,})"
    depth = path.count("/")
    return f"{depth} folders are more than any path is looked up in ({_DEEPEST_PATH})" if depth > _DEEPEST_PATH else ""


def path_parts(path: str) -> list[str]:
    """Return the parts of a path without those that mean nothing."""
    return [part for part in path.split("/") if part not in ("", ".")]


def _rates(evidence: Mapping[str, Evidence], run_ids: Iterable[str]) -> dict[float | None, list[tuple[float, str]]]:
    """Return learning rates with their runs, ascending, by token budget; under None those of all budgets."""
    rates: dict[float | None, list[tuple[float, str]]] = {}
    for run_id in run_ids:
        rate, budget = _rate_and_budget(evidence[run_id])
        if not math.isnan(rate):
            rates.setdefault(None, []).append((rate, run_id))
            rates.setdefault(budget, []).append((rate, run_id))
    for listed in rates.values():
        listed.sort()
    return rates


def _match_by_name(rates: Mapping[float | None, list[tuple[float, str]]], child: NameFacts) -> str | None:
    """Return the one candidate with the learning rate and budget that a DPO run's name gives for its SFT run."""
    rate = child.parent_learning_rate
    if not child.starts_from_sft or rate is None:
        return None
    listed = rates.get(child.budget_tokens, [])
    matches: list[str] = []
    for own, run_id in listed[bisect_left(listed, (rate * (1 - 2 * _CLOSE), "")) :]:
        if own > rate * (1 + 2 * _CLOSE) or len(matches) > 1:
            break
        if math.isclose(own, rate, rel_tol=_CLOSE):
            matches.append(run_id)
    return matches[0] if len(matches) == 1 else None


# Learning rates this near are one: they are written with few digits.
_CLOSE = 1e-6


def _beginning_with(texts: list[str], beginning: str) -> Iterator[str]:
    """Yield those of sorted texts that begin so."""
    for at in range(bisect_left(texts, beginning), len(texts)):
        if not texts[at].startswith(beginning):
            return
        yield texts[at]


def _rate_and_budget(item: Evidence) -> tuple[float, float]:
    numbers = item.hyperparameters
    return float(numbers.get("learning_rate", math.nan)), float(numbers.get("finetune_tokens", math.nan))


def _one_of(runs: set[str], checkpoint: RunCheckpoint = _FINAL, unknown_part: str = "") -> FoundRun:
    if len(runs) == 1:
        return FoundRun(next(iter(runs)), checkpoint=checkpoint, unknown_part=unknown_part)
    return FoundRun(None, "", tuple(sorted(runs)), checkpoint, unknown_part)


def _revision(text: str) -> RunCheckpoint | None:
    """Return the checkpoint that follows an ``@``: written as in a path, as a step alone, or as ``main``."""
    return parse_run_checkpoint(f"step_{text}" if text.isdecimal() else "final" if text == "main" else text)


def _plain_folder(path: str) -> str:
    """Return an output folder without trailing slashes and without the ``model`` levels that some paths have."""
    parts = path_parts(path)
    while len(parts) > 1 and parts[-1] == "model":
        del parts[-1]
    if len(parts) > 1 and parts[-2] == "model":
        del parts[-2]
    return "/" + "/".join(parts) if parts else ""
