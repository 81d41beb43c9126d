"""Checkpoints nearest to a target: as plain loops find them, and those from which the suite's matched runs start."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.analysis.matching import MATCHED, OUT_OF_RANGE, match
from dde.errors import SelectionError, UnknownNameError
from dde.suite.datadecide.names import PERPLEXITY_SETS
from dde.tutorial.base_values import base_values
from dde.tutorial.run_plans import base_of
from other_suites import Run, ladder, make_dataset

eighths = st.integers(-16, 16).map(lambda k: k / 8)


def dataset_of(*curves: dict[int, float]) -> xr.Dataset:
    """Return pretraining runs with these rows, one lineage each."""
    runs = [Run(f"r{k}", f"l{k}", "pretraining", "pretraining", rows) for k, rows in enumerate(curves)]
    return make_dataset(runs, {}, None)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.dictionaries(st.integers(1, 40), eighths, min_size=1, max_size=9), min_size=1, max_size=4),
    st.lists(eighths, min_size=1, max_size=3, unique=True),
)
def test_the_nearest_observation_equals_a_plain_loop(rows: list[dict[int, float]], targets: list[float]) -> None:
    answer = match(dataset_of(*rows), "loss", targets)
    for k, curve in enumerate(rows):
        for target in targets:
            here = answer.sel(target=target).isel(lineage=k, run=0)
            distance = {t: abs(v - target) for t, v in sorted(curve.items())}
            nearest = min(distance, key=lambda t: distance[t])
            assert float(here.tokens) == nearest
            assert float(here.value) == curve[nearest]
            assert float(here.mismatch) == curve[nearest] - target
            assert float(here.ties) == sum(d == distance[nearest] for d in distance.values()) - 1
            is_inside = min(curve.values()) <= target <= max(curve.values())
            assert here.status.item() == (MATCHED if is_inside else OUT_OF_RANGE)


def test_the_checkpoint_from_which_the_suite_starts_its_matched_run() -> None:
    ds = dde.tutorial.open_lineages("small", metrics=["hellaswag"])
    (label,) = [str(r) for r in ds.run.values if "match_150M_hellaswag" in str(r)]
    run = ds.dde.sel(run=label)
    (lineage,) = run.lineage.values[run.run_id.values != ""]
    answer = match(ds.dde.base_curves(), "hellaswag", {"params": "150M"}).sel(lineage=lineage)
    assert float(answer.tokens) == float(run.branch_tokens.sel(lineage=lineage)) > 0
    assert answer.status.item() == MATCHED
    # The id of the run states the step and the model.
    run_id = str(run.run_id.sel(lineage=lineage).item())
    assert f"-300M-{answer.step.item()}-0" in run_id
    assert answer.hub_model.item() == "allenai/DataDecide-dclm-baseline-300M"
    assert answer.revision.item() == f"step{answer.step.item()}-seed-default"
    assert answer.target_run_id.item() == "dclm-baseline-150M-default"


def test_a_matched_run_by_a_value_that_is_in_no_table() -> None:
    # The suite matched the checkpoint at the end of the schedule, which is after the last evaluated one.
    goal = base_values(0, base_of("Dolma1.7", "150M")).perplexity[-1, PERPLEXITY_SETS.index("pile")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dde.errors.ConflictWarning)
        ds = dde.tutorial.open_lineages("small", data="Dolma1.7", metrics=["pile_valppl"])
        (label,) = [str(r) for r in ds.run.values if "match_150M_pile" in str(r)]
        answer = match(ds.dde.base_curves(), "pile-valppl", float(goal)).sel(lineage="dolma1_7-300M-default")
    assert float(answer.tokens) == float(ds.branch_tokens.sel(lineage="dolma1_7-300M-default", run=label)) > 0
    assert answer.step.item() == 7500


def test_revisions_are_those_of_the_dataset() -> None:
    ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy", "hellaswag"])
    answer = match(ds, ["arc_easy", "hellaswag"], [0.25, 0.3])
    every = ds.dde.revision()
    assert answer.step.dims == ("metric", "target", "lineage", "run")
    seen = set()
    for at in np.ndindex(answer.step.shape):
        here = dict(zip(answer.step.dims, at, strict=True))
        tokens = float(answer.tokens.isel(here))
        if np.isnan(tokens):
            expected: tuple[Any, ...] = ("", "", -1)
        else:
            cell = every.sel(cumulative_tokens=int(tokens)).isel(lineage=here["lineage"], run=here["run"])
            expected = (cell.hub_model.item(), cell.revision.item(), cell.step.item())
        found = answer.isel(here)
        assert (found.hub_model.item(), found.revision.item(), found.step.item()) == expected
        seen.add(expected)
    assert len(seen) > 3
    # The observations of derived runs are no checkpoints of a base.
    derived = (ds.run != "pretraining").values
    assert set(answer.step.values[..., derived].ravel()) == {-1}


def test_the_table_has_no_rows_of_cells_without_a_run() -> None:
    ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"])
    answer = match(ds, "arc_easy", 0.3)
    assert (answer.run_id == "").any()
    table = answer.dde.to_frame()
    assert sorted(table["run_id"]) == sorted(i for i in answer.run_id.values.ravel() if i)
    assert (table["status"] != "").all()


def test_the_same_checkpoints_on_another_axis() -> None:
    bases = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"]).dde.base_curves()
    one = match(bases, "arc_easy", 0.3)
    other = match(bases.dde.align(axis="cumulative_compute"), "arc_easy", 0.3)
    xr.testing.assert_equal(one[list(one.data_vars)], other[list(one.data_vars)])


def test_ties_are_counted_and_the_earliest_is_given() -> None:
    answer = match(dataset_of({10: 3.0, 20: 1.0, 30: 3.0, 40: 5.0}), "loss", 2.0)
    assert answer.tokens.item() == 10
    assert answer.ties.item() == 2


def test_an_untrained_model_is_no_checkpoint() -> None:
    answer = match(dataset_of({0: 2.0, 10: 3.0}, {0: 2.0}), "loss", 2.0)
    assert answer.tokens.values.ravel()[0] == 10
    assert answer.status.values.ravel().tolist() == [OUT_OF_RANGE, "missing"]


def test_an_infinite_value_is_never_nearest() -> None:
    answer = match(dataset_of({10: np.inf, 20: 1.0}, {10: np.inf}), "loss", 2.0)
    assert answer.tokens.values.ravel().tolist()[0] == 20
    assert np.isnan(answer.tokens.values.ravel()[1])
    assert answer.status.values.ravel().tolist() == [MATCHED, "missing"]
    assert answer.attrs["left_out"] == "missing: 1"


def test_the_run_of_the_target_has_no_match() -> None:
    with pytest.raises(SelectionError, match=r"no run of the target .* at schedule \(no schedule known: 6\)"):
        match(ladder(), "loss", "constant")
    answer = match(ladder(), "loss", "constant", at="last")
    status = answer.status
    assert set(status.sel(run="constant").values) == {"the target itself"}
    assert np.isnan(answer.tokens.sel(run="constant").values).all()
    # The merge exists with one seed only.
    assert status.sel(run="(decay-1xC & decay-2xC)+merge", lineage="190M-s1").item() == ""
    assert "step" not in answer
    assert answer.attrs["at"] == "last"


def test_the_answer_survives_saving(tmp_path: Path) -> None:
    bases = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"]).dde.base_curves()
    answer = match(bases, "arc_easy", {"params": "4M"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer.to_zarr(tmp_path / "a.zarr", consolidated=False)
        answer.to_netcdf(tmp_path / "a.nc")
    for again in (xr.open_zarr(tmp_path / "a.zarr", consolidated=False), xr.open_dataset(tmp_path / "a.nc")):
        xr.testing.assert_equal(again.load()[list(answer.data_vars)], answer[list(answer.data_vars)])


def test_errors_say_what_to_do() -> None:
    ds = ladder()
    with pytest.raises(UnknownNameError, match="Did you mean size"):
        match(ds, "loss", {"siez": "190M"})
    with pytest.raises(UnknownNameError, match="would do nothing"):
        match(ds, "loss", 2.0, at="last")
    with pytest.raises(UnknownNameError, match="Did you mean loss"):
        match(ds, "lss", 2.0)
    with pytest.raises(SelectionError, match="are not points of this Dataset"):
        match(ds.isel(cumulative_tokens=slice(0, 4)), "loss", 2.0)


def test_a_run_of_the_target_that_was_not_observed_is_missing() -> None:
    dataset = dataset_of({10: 3.0, 20: 2.0}, {10: 2.5})
    dataset["loss"] = dataset.loss.where(dataset.lineage != "l1")
    answer = match(dataset, "loss", {"run": "pretraining"}, at="last")
    assert answer.status.values.ravel().tolist() == ["the target itself", "missing"]
    assert answer.attrs["left_out"] == "missing: 1"


def test_a_ragged_target_is_an_error_of_its_own() -> None:
    with pytest.raises(UnknownNameError, match="is not a target"):
        match(dataset_of({10: 3.0}), "loss", [[1.0], [2.0, 3.0]])  # type: ignore[list-item]


def test_a_target_that_diverged_is_no_target() -> None:
    runs = [
        Run("a", "l", "pretraining", "pretraining", {10: 3.0, 20: np.inf}),
        Run("b", "l", "other", "pretraining", {10: 2.5}),
    ]
    answer = match(make_dataset(runs, {}, None), "loss", "pretraining", at="last")
    assert answer.status.values.ravel().tolist() == ["the target itself", "no target"]
    assert answer.attrs["left_out"] == "no target: 1"
