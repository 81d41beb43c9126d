"""When runs reach a target: crossings equal plain loops and SciPy's isotonic fit, and no censored run is dropped."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

import dde
from dde.analysis.crossings import AT_FIRST, CENSORED, IN_GAP, MISSING, NO_TARGET, REACHED, reach
from dde.errors import SelectionError, UnknownNameError
from other_suites import Run, ladder, make_dataset, optimizers
from samples import sample_folder

RULES = ("first", "sustained", "monotone")
# Multiples of an eighth, so that sums are exact and ties are real.
eighths = st.integers(-16, 16).map(lambda k: k / 8)


def dataset_of(*curves: dict[int, float], **facts: Any) -> xr.Dataset:
    """Return pretraining runs with these rows, one lineage each."""
    runs = [Run(f"r{k}", f"l{k}", "pretraining", "pretraining", rows, **facts) for k, rows in enumerate(curves)]
    return make_dataset(runs, {}, {f"l{k}": 10 * (k + 1) for k in range(len(curves))})


def plain_reach(rows: dict[int, float], target: float, rule: str) -> tuple[str, float, float, float]:
    """Return status, tokens and both observations of the crossing of a falling metric, one run at a time."""
    tokens = sorted(rows)
    values = [-rows[t] for t in tokens]
    goal = -target
    if rule == "monotone":
        values = isotonic_regression(values).x.tolist()
    met = [v >= goal - 1e-12 for v in values]
    wanted = [all(met[k:]) if rule == "sustained" else met[k] for k in range(len(met))]
    if not any(wanted):
        return CENSORED, np.nan, np.nan, np.nan
    k = wanted.index(True)
    if k == 0:
        return AT_FIRST, np.nan, np.nan, tokens[0]
    share = (goal - values[k - 1]) / (values[k] - values[k - 1])
    return REACHED, tokens[k - 1] + share * (tokens[k] - tokens[k - 1]), tokens[k - 1], tokens[k]


curves = st.lists(
    st.dictionaries(st.integers(0, 40), eighths, min_size=1, max_size=9), min_size=1, max_size=4
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(curves, st.lists(eighths, min_size=1, max_size=3, unique=True), st.sampled_from(RULES))
def test_crossings_equal_a_plain_loop(rows: list[dict[int, float]], targets: list[float], rule: Any) -> None:
    answer = reach(dataset_of(*rows), "loss", targets, rule=rule)
    assert answer.tokens.dims == ("target", "lineage", "run")
    for k, curve in enumerate(rows):
        for target in targets:
            here = answer.sel(target=target).isel(lineage=k, run=0)
            found = (here.status.item(), *(float(here[n]) for n in ("tokens", "low_tokens", "high_tokens")))
            expected = plain_reach(curve, target, rule)
            assert found[0] == expected[0]
            np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-9, atol=1e-9)
            assert float(here.last_tokens) == max(curve)


@settings(max_examples=15, deadline=None)
@given(curves, eighths, st.sampled_from(RULES[:2]))
def test_a_monotone_transform_changes_no_status_and_no_bracket(
    rows: list[dict[int, float]], target: float, rule: Any
) -> None:
    one = reach(dataset_of(*rows), "loss", target, rule=rule)
    other = reach(dataset_of(*({t: np.exp(v) for t, v in r.items()} for r in rows)), "loss", np.exp(target), rule=rule)
    for name in ("status", "low_tokens", "high_tokens", "last_tokens"):
        xr.testing.assert_equal(one[name].drop_vars("target"), other[name].drop_vars("target"))


@settings(max_examples=15, deadline=None)
@given(curves, eighths, st.sampled_from(RULES))
def test_a_run_counts_alone_and_a_copy_changes_nothing(rows: list[dict[int, float]], target: float, rule: Any) -> None:
    together = reach(dataset_of(*rows, rows[0]), "loss", target, rule=rule)
    alone = reach(dataset_of(rows[0]), "loss", target, rule=rule)
    for k in (0, len(rows)):
        assert together.status.values[k].tolist() == alone.status.values[0].tolist()
        np.testing.assert_array_equal(together.tokens.values[k], alone.tokens.values[0])


def test_known_crossings() -> None:
    ds = dataset_of({0: 4.0, 100: 3.0, 200: 2.0}, {0: 4.0, 100: 2.0, 200: 3.0, 300: 1.0}, {0: 4.0, 300: 3.5}, {50: 1.0})
    found = {rule: reach(ds, "loss", 2.5, rule=rule) for rule in RULES}
    assert found["first"].tokens.values.ravel().tolist()[:2] == [150.0, 75.0]
    assert found["sustained"].tokens.values.ravel().tolist()[:2] == [150.0, 225.0]
    # The second and third observation of the noisy run have the mean 2.5, which meets the target at the second.
    assert found["monotone"].tokens.values.ravel().tolist()[:2] == [150.0, 100.0]
    for answer in found.values():
        assert answer.status.values.ravel().tolist() == [REACHED, REACHED, CENSORED, AT_FIRST]
        assert answer.last_tokens.values.ravel().tolist() == [200, 300, 300, 50]
        assert np.isnan(answer.tokens.values.ravel()[2:]).all()
    assert found["first"]["compute"].values.ravel()[0] == 6 * 10 * 150
    assert found["first"].high_tokens.values.ravel()[3] == 50
    assert found["first"].attrs["left_out"] == ""


def test_a_target_that_is_an_observation_is_reached_there() -> None:
    ds = dataset_of({0: 4.0, 100: 3.0, 200: 2.0})
    answer = reach(ds, "loss", 3.0)
    assert float(answer.tokens.item()) == 100.0
    assert (answer.low_tokens.item(), answer.high_tokens.item()) == (0.0, 100.0)


def test_the_other_direction() -> None:
    ds = dataset_of({0: 1.0, 100: 3.0})
    assert reach(ds, "loss", 2.0).status.item() == AT_FIRST
    assert reach(ds, "loss", 2.0, direction="higher").tokens.item() == 50.0


def test_nothing_is_interpolated_in_a_gap_or_from_infinity() -> None:
    ds = dataset_of({0: 4.0, 1000: 2.0}, {0: np.inf, 10: 2.0}, {0: 4.0, 10: 2.0}, {0: 4.0, 1000: 3.0})
    wide = ds.dde.align(max_gap=100)
    answer = reach(wide, "loss", 3.0)
    assert answer.status.values.ravel().tolist() == [IN_GAP, IN_GAP, REACHED, REACHED]
    assert answer.tokens.values.ravel().tolist()[2:] == [5.0, 1000.0]
    assert np.isnan(answer.tokens.values.ravel()[:2]).all()
    assert answer.low_tokens.values.ravel().tolist() == [0.0, 0.0, 0.0, 0.0]
    assert answer.high_tokens.values.ravel().tolist() == [1000.0, 10.0, 10.0, 1000.0]
    # Each metric has its own longest gap.
    both = wide.assign(other=wide.loss.assign_attrs(long_name="other", max_gap=-1))
    assert reach(both, ["loss", "other"], 3.0).status.values[:, 0].ravel().tolist() == [IN_GAP, REACHED]
    assert reach(wide, "loss", 3.0, rule="monotone").status.values.ravel().tolist() == [
        IN_GAP,
        IN_GAP,
        REACHED,
        REACHED,
    ]


def test_missing_is_not_censored() -> None:
    ds = dataset_of({0: 4.0, 100: 3.0}, {0: 4.0, 100: 3.0})
    blank = ds.assign(loss=ds.loss.where(ds.lineage != "l1"))
    with_numbers = reach(blank, "loss", [1.0, 3.5])
    assert with_numbers.status.values[:, :, 0].tolist() == [[CENSORED, MISSING], [REACHED, MISSING]]
    # The run is counted once, not once per target.
    assert with_numbers.attrs["left_out"] == "missing: 1"


def test_each_run_against_its_own_base() -> None:
    ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"])
    answer = reach(ds, "arc_easy", "pretraining")
    bases = ds.dde.final("arc_easy", at="schedule").sel(run="pretraining")
    has_run = (ds.run_id != "").values
    known = np.where(has_run, bases.values[:, None], np.nan)
    np.testing.assert_array_equal(answer.target.values, known)
    assert set(answer.target_run_id.values[has_run]) <= set(ds.run_id.sel(run="pretraining").values)
    assert set(answer.status.values[~has_run]) == {""}
    assert NO_TARGET in answer.status.values
    assert answer.attrs["at"] == "schedule"
    # The clock of derived runs includes their base.
    some = answer.high_tokens.values > 0
    assert (answer.high_tokens.values >= ds.branch_tokens.values)[some & ~np.isnan(ds.branch_tokens.values)].all()


def test_each_run_against_another_size() -> None:
    ds = ladder()
    answer = reach(ds, "loss", {"size": "190M"})
    for lineage in ds.lineage.values:
        for run in ("cosine-1xC", "constant"):
            chosen = answer.target_run_id.sel(lineage=lineage, run=run).item()
            assert chosen == f"190M-s{lineage[-1]}/{run}"
    # 190M has no merge with the second seed, so nothing is compared with it.
    finals = ds.dde.final("loss", at="schedule")
    here = {"lineage": "1B-s1", "run": "cosine-1xC"}
    assert float(answer.target.sel(here)) == float(finals.sel(lineage="190M-s1", run="cosine-1xC"))
    assert answer.status.sel(here).item() == REACHED
    one = reach(ds, "loss", "190M-s0/constant", at="last")
    assert set(one.target_run_id.values[(ds.run_id != "").values]) == {"190M-s0/constant"}


def test_other_factors_of_runs_agree() -> None:
    ds = optimizers()
    answer = reach(ds, "loss", {"optimizer": "adamw", "data": ""})
    chosen = answer.target_run_id.sel(lineage="tiny-deduped", run="muon_lr=0.003#2").item()
    assert chosen == "adamw_lr=0.003/2"
    assert "compute" not in answer


def test_several_metrics_and_targets() -> None:
    bases = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy", "pile_valppl"]).dde.base_curves()
    answer = reach(bases, ["arc_easy", "pile-valppl"], [0.3, 0.4])
    assert answer.tokens.dims == ("metric", "target", "lineage")
    assert answer.units.values.tolist() == ["1", "1"]
    one = reach(bases, "arc_easy", 0.4)
    assert one.tokens.dims == ("lineage",)
    np.testing.assert_array_equal(one.tokens.values, answer.tokens.sel(metric="arc_easy", target=0.4).values)
    assert one.tokens.attrs["units"] == "tokens"
    assert one["compute"].attrs["units"] == "FLOP"


def test_the_same_answer_from_any_form_of_the_dataset(tmp_path: Path) -> None:
    ds = dde.tutorial.open_lineages("tiny", params=["4M", "150M"], metrics=["arc_easy"])
    bases = ds.dde.base_curves()
    expected = reach(bases, "arc_easy", 0.4)
    ds.to_zarr(tmp_path / "a.zarr", consolidated=False)
    forms = {
        "reopened": xr.open_zarr(tmp_path / "a.zarr", consolidated=False).dde.base_curves(),
        "by compute": bases.dde.align(axis="cumulative_compute"),
        "on another grid": bases.dde.align(grid="union"),
        "derived": bases.dde.derive(arc_easy=lambda seen: seen.arc_easy * 1.0),
        "sorted down": bases.isel(cumulative_tokens=slice(None, None, -1)),
    }
    for form, dataset in forms.items():
        answer = reach(dataset, "arc_easy", 0.4, direction="higher")
        np.testing.assert_allclose(answer.tokens.values, expected.tokens.values, rtol=1e-12, err_msg=form)
        assert answer.status.values.tolist() == expected.status.values.tolist(), form
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dde.errors.DdeWarning)
        swept = ds.dde.sel(run_type="supervised_ft").dde.sweep("learning_rate")
    answer = reach(swept, "arc_easy", 0.4)
    assert {str(d) for d in answer.tokens.dims} == {str(d) for d in swept.run_id.dims}


def test_the_answer_survives_saving(tmp_path: Path) -> None:
    bases = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"]).dde.base_curves()
    for k, answer in enumerate([reach(bases, "arc_easy", [0.3, 0.4]), reach(bases, "arc_easy", {"params": "150M"})]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answer.to_zarr(tmp_path / f"{k}.zarr", consolidated=False)
            answer.to_netcdf(tmp_path / f"{k}.nc")
        for again in (xr.open_zarr(tmp_path / f"{k}.zarr", consolidated=False), xr.open_dataset(tmp_path / f"{k}.nc")):
            xr.testing.assert_equal(again.load()[list(answer.data_vars)], answer[list(answer.data_vars)])
            assert again.attrs["answer"] == "reach"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"target": 1.0, "rule": "firts"}, UnknownNameError, ["Did you mean first?", "'monotone'"]),
        ({"target": 1.0, "direction": "up"}, UnknownNameError, ["direction='up'"]),
        ({"target": 1.0, "at": "last"}, UnknownNameError, ["would do nothing", "Leave it out"]),
        ({"target": np.nan}, UnknownNameError, ["finite number"]),
        ({"target": []}, UnknownNameError, ["is not a target"]),
        ({"target": [1.0, 1.0]}, UnknownNameError, ["twice"]),
        ({"target": {}}, UnknownNameError, ["no filters"]),
        ({"target": "constnat"}, SelectionError, ["Did you mean constant?"]),
        ({"target": {"siez": "190M"}}, UnknownNameError, ["Did you mean size"]),
        ({"target": {"size": "7B"}}, SelectionError, ["'190M'"]),
        ({"target": {"size": ["190M", "370M"]}}, SelectionError, ["ambiguous", "190M-s0"]),
        ({"target": "constant", "at": "now"}, UnknownNameError, ["at='now'"]),
    ],
)
def test_errors_say_what_to_do(arguments: dict[str, Any], error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as raised:
        reach(ladder(), "loss", **arguments)
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_decays_reach_the_end_of_the_cosine_run_of_their_budget() -> None:
    ladder_files = sample_folder("suites/olmo_ladder")
    ds = dde.open_lineages(str(ladder_files), suite="olmo_ladder", metrics=["c4_en_loss"], cache_dir=None).load()
    answer = reach(ds, "c4_en_loss", {"run_type": "cosine"})
    decays = answer.isel(run=(answer.run_type == "decay").values)
    assert decays.status.size == 25
    # The end of the decay has a lower loss in all 25 cells, so each decay reaches the target between its observations.
    assert set(decays.status.values.ravel()) == {REACHED}
    for lineage, label in np.ndindex(decays.status.shape):
        target = decays.target_run_id.values[lineage, label]
        assert target == f"cosine/{decays.lineage.values[lineage]}-{decays.run.values[label].removeprefix('decay-')}"
    assert (decays.tokens > decays.branch_tokens).all()


def test_a_target_that_differs_from_all_runs_in_another_factor_is_an_error() -> None:
    runs = [
        Run(f"r{k}", f"l{k}", "base", "base", {0: 3.0, 10: 2.0 - k}, factors={"width": k, "depth": k}) for k in (1, 2)
    ]
    ds = make_dataset(runs, {"width": "lineage", "depth": "lineage"}, None)
    with pytest.raises(SelectionError, match="agrees with another run in depth, run, so no run has a target"):
        reach(ds, "loss", {"width": 1.0})
    answer = reach(ds, "loss", {"width": 1.0, "depth": 1.0})
    assert answer.target_run_id.values.ravel().tolist() == ["r1", "r1"]
    assert answer.tokens.values.ravel().tolist() == [10.0, pytest.approx(20 / 3)]


def test_a_dataset_without_its_samples_is_an_error() -> None:
    ds = ladder()
    with pytest.raises(SelectionError, match="are not points of this Dataset"):
        reach(ds.isel(cumulative_tokens=slice(0, 4)), "loss", 3.0)
    with pytest.raises(SelectionError, match="means of runs"):
        reach(ds.dde.mean_over("seed"), "loss", 3.0)
    plain = ds.assign(loss=ds.loss.assign_attrs(direction=""))
    with pytest.raises(UnknownNameError, match="direction='higher'"):
        reach(plain, "loss", 3.0)


@pytest.mark.filterwarnings("error")
def test_an_infinitely_good_observation_does_not_move_a_monotone_crossing_before_it() -> None:
    dataset = dataset_of({10: 4.0, 20: 3.0, 30: -np.inf, 40: 2.5}, {10: 4.0, 20: 2.0, 30: -np.inf})
    answer = reach(dataset, "loss", 2.5, rule="monotone")
    assert answer.status.values.ravel().tolist() == [IN_GAP, REACHED]
    assert answer.high_tokens.values.ravel().tolist() == [30.0, 20.0]
    assert answer.tokens.values.ravel().tolist()[1] == 17.5
