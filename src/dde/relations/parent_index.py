"""Looking runs up by what other runs call their parent: id, name, or output folder, perhaps cut short."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from dde.relations.evidence import Evidence
from dde.relations.run_names import NameFacts, is_run_name
from dde.sources.values import as_text

__all__ = ["ParentIndex"]


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Runs that a cut path may mean.

    Attributes
    ----------
    past_group : set of str
        Those that fit it behind the group's name.
    every : list of str
        All, sorted.
    rates : mapping of float or None to list of (float, str)
        Learning rates with their runs, ascending, by token budget; under None those of all budgets.
    """

    past_group: set[str]
    every: list[str]
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
                # Without the run's name at its end the command's folder is that of the whole group.
                self._folders.setdefault(launched, set()).add(record.run_id)
        self._sorted_folders = sorted(self._folders)
        self._sorted_names = sorted(self._by_key)
        # Runs of a sweep are launched with one path, cut at one place: each path is looked up once.
        self._cut: dict[str, _Candidates] = {}

    def find(self, key: str) -> str | None:
        """Return the run with that id or name, when there is exactly one."""
        found = self._by_key.get(key, set())
        return next(iter(found)) if len(found) == 1 else None

    def find_by_folder(self, path: str, child: NameFacts) -> tuple[str | None, str, list[str]]:
        """Return the run whose output a path is, how it was recognised, and the candidates of a cut path.

        Parameters
        ----------
        path : str
            Model path; may be cut short anywhere behind the group's folder.
        child : NameFacts
            Name of the run that starts from it: that of a DPO run states rate and budget of its SFT run.
        """
        folder = _plain_folder(path)
        exact = self._folders.get(folder, set())
        if len(exact) == 1:
            return next(iter(exact)), "", []
        tail = PurePosixPath(folder).name
        if not exact and (named := self.find(tail)) is not None:
            return named, "", []
        found = self._cut.get(path)
        if found is None:
            found = self._cut[path] = self._candidates(path, folder, tail, exact)
        if len(found.past_group) == 1:
            return next(iter(found.past_group)), ", cut short", []
        told = self._told(found, child)
        if told is not None:
            return told, ", cut short, and the run name", []
        return None, "", list(found.every)

    def _candidates(self, path: str, folder: str, tail: str, exact: set[str]) -> _Candidates:
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
        every = sorted(below | past_group | exact)
        rates: dict[float | None, list[tuple[float, str]]] = {}
        for run_id in every:
            rate, budget = _rate_and_budget(self._evidence[run_id])
            if not math.isnan(rate):
                rates.setdefault(None, []).append((rate, run_id))
                rates.setdefault(budget, []).append((rate, run_id))
        for listed in rates.values():
            listed.sort()
        return _Candidates(past_group, every, rates)

    def _told(self, found: _Candidates, child: NameFacts) -> str | None:
        """Return the one candidate with the learning rate and budget that a DPO run's name gives for its SFT run."""
        rate = child.parent_learning_rate
        if not child.starts_from_sft or rate is None:
            return None
        listed = found.rates.get(child.budget_tokens, [])
        told: list[str] = []
        for own, run_id in listed[bisect_left(listed, (rate * (1 - 2 * _CLOSE), "")) :]:
            if own > rate * (1 + 2 * _CLOSE) or len(told) > 1:
                break
            if math.isclose(own, rate, rel_tol=_CLOSE):
                told.append(run_id)
        return told[0] if len(told) == 1 else None


# Learning rates this near are one: they are written with few digits.
_CLOSE = 1e-6


def _beginning_with(texts: list[str], beginning: str) -> Iterator[str]:
    """Yield those of sorted texts that begin so."""
    for at in range(bisect_left(texts, beginning), len(texts)):
        if not texts[at].startswith(beginning):
            return
        yield texts[at]


def _rate_and_budget(item: Evidence) -> tuple[float, float]:
    held = item.hyperparameters
    return float(held.get("learning_rate", math.nan)), float(held.get("finetune_tokens", math.nan))


def _plain_folder(path: str) -> str:
    """Return an output folder without trailing slashes and without the ``model`` level that some paths have."""
    parts = [p for p in path.split("/") if p]
    if len(parts) >= 2 and parts[-2] == "model":
        del parts[-2]
    elif parts and parts[-1] == "model":
        del parts[-1]
    return "/" + "/".join(parts) if parts else ""
