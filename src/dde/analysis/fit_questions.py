"""The members that a fit is asked for: values, sizes and losses of runs, their status, and rows of fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.fit_members import (
    HELD_OUT,
    Groups,
    Members,
    is_table,
    members_of_all,
    members_of_finals,
    members_of_table,
)
from dde.analysis.footing import ENTERED, Place, count_left_out
from dde.analysis.laws import QUANTITIES, Law
from dde.analysis.observations import metric_names, require_runs
from dde.array_types import Bool, Float64, Int64
from dde.dataset.dimensions import text_values
from dde.dataset.provenance import metric_named
from dde.errors import SelectionError, UnknownNameError

__all__ = ["Pack", "Question", "losses_of", "rank_in_group", "status_of", "usable_members"]


def losses_of(
    dataset: xr.Dataset, names: Sequence[str], loss: str | Sequence[str] | Mapping[str, str] | None, law: Law
) -> list[str]:
    """Return the loss of each metric; an empty list for laws without one.

    Raises
    ------
    UnknownNameError
        When it is missing, superfluous, or of another number.
    """
    if not law.has_sigmoid:
        if loss is not None:
            raise UnknownNameError(
                f"loss={loss!r} predicts accuracies, and law={law.name!r} predicts the metric from sizes alone. Leave "
                "it out, or pass law='two_step' or 'loss_to_accuracy'."
            )
        return []
    if loss is None:
        raise UnknownNameError(
            f"law={law.name!r} predicts the metric from a loss, and none is named. Pass loss=, such as the bits per "
            "byte of the task."
        )
    if isinstance(loss, Mapping):
        by_name = {metric_named(dataset, k): v for k, v in loss.items()}
        if missing := [n for n in names if n not in by_name]:
            raise UnknownNameError(
                f"loss= names no loss for {', '.join(missing)}, so it can't be predicted. Add it to the mapping."
            )
        found = [by_name[n] for n in names]
    else:
        found = [loss] * len(names) if isinstance(loss, str) or not isinstance(loss, Iterable) else list(loss)
    if not all(isinstance(name, str) for name in found):
        raise UnknownNameError(
            f"loss={loss!r} does not name a loss for each metric. Pass a name, a list of names, or a mapping from "
            "metrics to names."
        )
    if len(found) != len(names):
        raise UnknownNameError(
            f"loss= names {len(found)} losses for {len(names)} metrics. Name one for all, or one each."
        )
    return [metric_names(dataset, name)[0] for name in found]


@dataclass(frozen=True)
class Question:
    """The members of a question.

    Attributes
    ----------
    finals : Members
        Values of the metrics that are predicted, with the sizes of runs.
    of_loss : Members
        Values that the law of losses is fitted to.
    loss : (metric, row, sample) float64 array or None
        Loss of each member of `finals`.
    pairs : tuple of Members and (metric, row, sample) float64 array
        Accuracies and losses that the sigmoid is fitted to.
    at, points : str
    """

    finals: Members
    of_loss: Members
    loss: Float64 | None
    pairs: tuple[Members, Float64]
    at: str
    points: str

    @classmethod
    def of(
        cls,
        dataset: xr.Dataset,
        law: Law,
        names: Sequence[str],
        losses: Sequence[str],
        at: Place | None,
        points: str | None,
        window: int,
        skip: float,
    ) -> Question:
        """Return the members of a Dataset of runs, or of a table."""
        every = list(dict.fromkeys([*names, *losses]))
        if is_table(dataset, every):
            for option, given in {"at": at is not None, "points": points == "all", "window": window != 1}.items():
                if given:
                    raise UnknownNameError(
                        f"{option}= chooses among observations of runs, and each run of this Dataset has one value. "
                        "Leave it out."
                    )
            table, place, what = members_of_table(dataset, every), "table", "final"
            return cls._assembled(law, names, losses, table, table, place, what)
        require_runs(dataset)
        if points == "all" and at is not None:
            raise UnknownNameError(
                f"at={at!r} chooses one value per run, and points='all' takes all observations. Leave out one of the "
                "two."
            )
        if points == "all" and law.name != "two_step":
            members = members_of_all(dataset, every, skip, window)
            return cls._assembled(law, names, losses, members, members, "all observations", "all")
        finals, place = members_of_finals(dataset, every, at, window)
        if law.name == "two_step" and points != "final":
            # Pairs of each metric with its loss: other metrics must not decide which observations are skipped.
            parts = [members_of_all(dataset, [n, m], skip, window) for n, m in zip(names, losses, strict=True)]
            return cls._assembled(law, names, losses, finals, parts, place, "final, sigmoid: all")
        return cls._assembled(law, names, losses, finals, finals, place, "final")

    @classmethod
    def _assembled(
        cls,
        law: Law,
        names: Sequence[str],
        losses: Sequence[str],
        finals: Members,
        pairs: Members | Sequence[Members],
        at: str,
        points: str,
    ) -> Question:
        of_names = finals.of(names)
        if not law.has_sigmoid:
            return cls(of_names, of_names, None, (of_names, of_names.values), at, points)
        of_loss = finals.of(losses)
        # A loss that was measured elsewhere says nothing about the accuracy here.
        near = np.abs(of_loss.tokens - of_names.tokens) <= 0.005 * np.abs(of_names.tokens)
        near |= np.isnan(of_names.tokens) | np.isnan(of_loss.tokens)
        loss = np.where(near, of_loss.values, np.nan)
        if isinstance(pairs, Members):
            both = (of_names, loss)
        else:
            most = max(p.values.shape[2] for p in pairs)

            def padded(k: int) -> Float64:
                return np.stack([
                    np.pad(p.values[k], ((0, 0), (0, most - p.values.shape[2])), constant_values=np.nan) for p in pairs
                ])  # fmt: skip

            accuracy, of_pairs = padded(0), padded(1)
            both = (_with_values(of_names, accuracy), of_pairs)
        return cls(of_names, of_loss, loss, both, at, points)


def _with_values(members: Members, values: Float64) -> Members:
    empty = np.full(values.shape, np.nan)
    return Members(members.metrics, members.cells, members.shape, values, empty, members.n_params, empty,
                   members.status, members.coords)  # fmt: skip


def usable_members(features: Sequence[str], members: Members, values: Float64, positive: bool) -> Bool:
    """Return which members (metric, row, sample) have a value and all sizes."""
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(values) & ((values > 0) | (not positive))
        for name in features:
            size = members.feature(name)
            usable &= np.isfinite(size) & (size > 0)
    return np.asarray(usable & (members.status == ENTERED)[..., None])


def status_of(law: Law, question: Question, hold: Bool) -> npt.NDArray[np.object_]:
    """Return the status of each run (metric, row).

    Raises
    ------
    SelectionError
        When no run has the sizes that the law needs.
    """
    members = question.finals
    status = members.status.copy()
    entered = status == ENTERED
    sizes = question.of_loss
    for name in law.loss.features if law.loss else ():
        known = np.isfinite(sizes.feature(name)) & (sizes.feature(name) > 0)
        lacking = entered & (sizes.status == ENTERED) & ~known.any(axis=2)
        if entered.any() and not (entered & known.any(axis=2)).any():
            raise SelectionError(
                f"{QUANTITIES[name][0]} of all runs are unknown, so {law.formula} can't be fitted. Declare n_params= "
                "in the suite, or add the coordinate n_params, tokens or compute along the dimensions of the runs."
            )
        status[lacking] = f"no {QUANTITIES[name][0]}"
    fitted = sizes.values if law.loss else members.values
    finite = np.isfinite(fitted).any(axis=2)
    if law.loss:
        with np.errstate(invalid="ignore"):
            positive = (np.isfinite(fitted) & (fitted > 0)).any(axis=2)
        status[(status == ENTERED) & finite & ~positive] = "not positive"
    status[(status == ENTERED) & ~finite] = "no finite value"
    if question.loss is not None:
        other = np.isfinite(question.of_loss.values).any(axis=2) & ~np.isfinite(question.loss).any(axis=2)
        status[(status == ENTERED) & other] = "loss at other tokens"
        status[(status == ENTERED) & ~np.isfinite(question.loss).any(axis=2)] = "no loss"
    status[(status == ENTERED) & hold] = HELD_OUT
    if entered.any() and not (status == ENTERED).any():
        raise SelectionError(
            f"no run is left to fit: {count_left_out(status)}. Hold out fewer, or select other runs or another metric."
        )
    return status


def rank_in_group(code: Int64, members: Members, is_member: Bool) -> Int64:
    """Return the position of each row among those of its group.

    Members are first, because most cells of a Dataset may have no run; they are in the order of their sizes and labels,
    so that neither the order of a Dataset nor other metrics change which runs a resample has.

    Parameters
    ----------
    code : (row,) int64 array
        Group of each row.
    members : Members
    is_member : (row,) bool array
    """
    keys: list[npt.NDArray[Any]] = [np.nan_to_num(members.values[0, :, 0])]
    # A single run has no dimension.
    cell = np.unravel_index(np.arange(len(code)), members.shape) if members.shape else ()
    for name, at in zip(members.cells, cell, strict=True):
        if name in members.coords:
            _, order = np.unique(text_values(members.coords[name].values).astype(str), return_inverse=True)
            keys.append(order.reshape(-1)[at])
    keys += [np.nan_to_num(members.tokens[0, :, 0]), np.nan_to_num(members.n_params), ~is_member, code]
    order = np.lexsort(keys)
    ordered = code[order]
    rank = np.empty(len(code), np.int64)
    rank[order] = np.arange(len(code)) - np.searchsorted(ordered, ordered)
    return rank


@dataclass(frozen=True)
class Pack:
    """Members as rows of fits: metrics and groups flattened.

    Attributes
    ----------
    index : (group, member) int64 array
        Positions in (row, sample), flattened; -1 beyond the last.
    entered : (fit, member) bool array
    run : (fit, member) int64 array
        Position of the row among those of its group.
    """

    index: Int64
    entered: Bool
    run: Int64

    @classmethod
    def of(cls, groups: Groups, rank: Int64, usable: Bool) -> Pack:
        """Pack the usable members (metric, row, sample)."""
        index = groups.packed(np.asarray(usable.any(axis=0)))
        if not index.shape[1]:
            index = np.full((groups.count, 1), -1, np.int64)
        there = index >= 0
        entered = usable.reshape(len(usable), -1)[:, index] & there
        run = np.where(there, rank[np.maximum(index, 0) // usable.shape[2]], -1)
        shape = (len(usable) * groups.count, index.shape[1])
        return cls(index, entered.reshape(shape), np.broadcast_to(run, entered.shape).reshape(shape))

    def take(self, values: Float64) -> Float64:
        """Return values (metric, row, sample) as (fit, member); members that did not enter are arbitrary numbers."""
        taken = values.reshape(len(values), -1)[:, np.maximum(self.index, 0)].reshape(self.entered.shape)
        return np.where(self.entered, taken, 1.0)
