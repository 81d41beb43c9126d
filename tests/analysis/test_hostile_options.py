"""Answers to questions with wrong options, infinite values, no runs, and coordinates in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.analysis.answers import main_variable
from dde.analysis.choices import best
from dde.analysis.comparison import compare
from dde.analysis.effects import effect
from dde.analysis.fits import fit
from dde.analysis.predictions import predict
from dde.analysis.two_samples import of_independent, of_pairs
from dde.errors import SelectionError, UnknownNameError
from dde.plots.answers.best import plot_best
from other_suites import Run, make_dataset


def sweep_of(losses: dict[float, list[float]]) -> xr.Dataset:
    """Runs with a loss for each learning rate and seed."""
    runs = [
        Run(
            f"{rate}-{seed}", f"s{seed}", f"lr={rate:g}", "sft", {0: 5.0, 100: loss},
            factors={"learning_rate": rate, "seed": float(seed)},
        )
        for rate, of_seeds in losses.items()
        for seed, loss in enumerate(of_seeds)
    ]  # fmt: skip
    return make_dataset(runs, {"learning_rate": "run", "seed": "lineage"}, {f"s{k}": 10 for k in range(9)})


def table_of(n_params: list[float], tokens: list[float]) -> xr.Dataset:
    """Losses that follow a law of both sizes, 1.7 + 400 N^-0.34 + 410 D^-0.28."""
    n, d = (x.ravel() for x in np.meshgrid(n_params, tokens))
    loss = 1.7 + 400 * n**-0.34 + 410 * d**-0.28
    return xr.Dataset({"loss": ("fit", loss), "n_params": ("fit", n), "tokens": ("fit", d)})


SWEEP = sweep_of({1e-5: [3.0, 3.1, 3.2], 3e-5: [2.0, 2.2, 2.1], 1e-4: [2.5, 2.4, 2.6]})
TABLE = table_of([1e7, 3e7, 1e8, 3e8, 1e9], [1e9, 1e10, 1e11])
ONE, OTHER = (SWEEP.isel(run=[k]) for k in (0, 1))


@pytest.mark.parametrize("interval", ["t", "bootstrap", "none"])
@pytest.mark.parametrize("law", ["chinchilla", "power"])
def test_predictions_do_not_depend_on_the_order_of_labels(law: Any, interval: Any) -> None:
    answer = fit(TABLE, "loss", law=law, by=[], interval=interval, samples=20)
    sizes = {"n_params": 5e9, "tokens": 3e11}
    expected = predict(answer, **sizes)
    assert np.isfinite(expected.predicted)
    if law == "chinchilla":
        assert expected.predicted.item() == pytest.approx(1.7 + 400 * 5e9**-0.34 + 410 * 3e11**-0.28)
    for dim in ("parameter", "parameter2", "quantity"):
        xr.testing.assert_identical(predict(answer.isel({dim: slice(None, None, -1)}), **sizes), expected)


@pytest.mark.parametrize("part", [{"parameter": [0, 1]}, {"quantity": [0]}, {"parameter2": [0]}])
def test_no_prediction_of_a_part_of_a_law(part: dict[str, list[int]]) -> None:
    answer = fit(TABLE, "loss", law="chinchilla", by=[], interval="none")
    with pytest.raises(SelectionError, match="Select metrics or groups only"):
        predict(answer.isel(part), n_params=5e9, tokens=3e11)


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (lambda **o: compare(ONE, OTHER, **o), {"over": 3}),
        (lambda **o: compare(ONE, OTHER, **o), {"over": ["seed", 3]}),
        (lambda **o: compare(ONE, OTHER, **o), {"paired": "yes"}),
        (lambda **o: compare(ONE, OTHER, **o), {"seed": -1}),
        (lambda **o: compare(ONE, OTHER, **o), {"seed": None}),
        (lambda **o: best(SWEEP, **o), {"over": ["learning_rate", "seed"]}),
        (lambda **o: best(SWEEP, **o), {"replicates": 3}),
        (lambda **o: best(SWEEP, **o), {"seed": 1.5}),
        (lambda **o: effect(dde.tutorial.open_lineages("tiny"), "arc_easy", **o), {"over": 3}),
        (lambda **o: effect(dde.tutorial.open_lineages("tiny"), "arc_easy", **o), {"max_distance": "far"}),
        (lambda **o: fit(TABLE, "loss", **o), {"by": 3}),
        (lambda **o: fit(TABLE, "loss", **o), {"x": ["compute"]}),
        (lambda **o: fit(TABLE, "loss", **o), {"offset": "yes"}),
        (lambda **o: fit(TABLE, "loss", **o), {"hold_out": ["n_params"]}),
        (lambda **o: fit(TABLE, "loss", **o), {"hold_out": {"n_params": slice("a", None)}}),
        (lambda **o: fit(TABLE, "loss", **o), {"hold_out": {"n_params": slice(0, 1e9, 2)}}),
        (lambda **o: fit(TABLE, "loss", **o), {"skip": None}),
        (lambda **o: fit(TABLE, "loss", **o), {"delta": "x"}),
        (lambda **o: fit(TABLE, "loss", **o), {"ceiling": "x"}),
        (lambda **o: fit(TABLE, "loss", **o), {"seed": "x"}),
        (lambda **o: fit(TABLE, "loss", law="two_step", **o), {"loss": 3}),
        (lambda **o: predict(fit(TABLE, "loss", by=[], interval="none"), **o), {"compute": "x"}),
    ],
)
def test_options_of_a_wrong_type_are_refused_by_name(question: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match=next(iter(options))):
        question(**options)


@pytest.mark.parametrize("wanted", [{1e9}, xr.DataArray([1e9], dims="any"), np.array([1e9])])
def test_values_held_out_may_be_any_collection(wanted: Any) -> None:
    found, expected = (fit(TABLE, "loss", by=[], hold_out={"n_params": w}, interval="none") for w in (wanted, [1e9]))
    assert found.n_held_out.item() == 3
    xr.testing.assert_equal(found, expected)


def test_a_run_that_diverged_is_the_worst_and_does_not_hide_who_wins() -> None:
    finite = {1e-5: [3.0, 3.1, 3.2], 3e-5: [2.0, 2.2, 2.1]}
    for losses in ([4.0, np.inf, 4.2], [np.inf] * 3):
        found = best(sweep_of(finite | {1e-4: losses})).squeeze()
        assert (found.best.item(), found.second.item()) == (3e-5, 1e-5)
        assert found.wins.item() == 1.0
        assert found.win_share.values.tolist() == [0.0, 1.0, 0.0]
    all_diverged = best(sweep_of({1e-5: [np.inf] * 2, 3e-5: [np.inf] * 2})).squeeze()
    assert (all_diverged.ties.item(), all_diverged.win_share.values.tolist()) == (1, [0.5, 0.5])
    assert np.isnan(all_diverged.margin)


def test_no_p_value_of_infinite_members() -> None:
    a, b = np.array([[1.0, 2.0, 3.0]]), np.array([[np.inf, -np.inf, 4.0]])
    for of in (of_pairs, of_independent):
        found = of(a, b, "t", 0.95, "permutation", 9999, 0)
        assert np.isnan([found.p_value, found.low, found.high]).all()
    # Two equal infinite values have no difference, so they are no pair.
    one, other = (sweep_of({rate: [2.0 + rate, np.inf, 3.0]}) for rate in (0.0, 0.5))
    found = compare(one, other, at="last").squeeze()
    assert (found.n.item(), found.n_a.item(), found.difference.item()) == (2, 3, 0.25)


def test_replicates_keep_their_labels_where_they_are_compared() -> None:
    runs = [
        Run(f"{k}", "s0", f"a{'#2' * k}", "sft", {0: 5.0, 100: v}, factors={"learning_rate": 1e-5})
        for k, v in enumerate((2.0, 3.0))
    ]
    found = best(make_dataset(runs, {"learning_rate": "run"}, {"s0": 10}), over="replicate")
    assert found.best.item() in found.replicate.values
    assert found.mean_value.sel(replicate=found.best.item()).item() == found.value.item() == 2.0
    for backend in ("matplotlib", "bokeh"):
        plot_best(found, backend=backend)


def test_labels_that_factors_replaced_can_not_be_compared() -> None:
    ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"])
    with pytest.raises(SelectionError, match=r"replicates=\(\)"):
        best(ds, "arc_easy", over="lineage", at="last")


def test_a_single_run_and_no_run() -> None:
    ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"])
    one = fit(ds.isel(lineage=0, run=0), "arc_easy", interval="none")
    assert (one.n.item(), one.converged.item()) == (1, False)
    none = ds.isel(lineage=[])
    with pytest.raises(SelectionError, match="no run"):
        fit(none, "arc_easy")
    with pytest.raises(SelectionError, match="no run"):
        best(none, "arc_easy", at="last")
    with pytest.raises(SelectionError, match="nothing to compare"):
        compare(none, none, "arc_easy", at="common")
    no_point = ds.isel(cumulative_tokens=[])
    with pytest.raises(SelectionError, match="observed on both sides"):
        compare(no_point, no_point, "arc_easy")


@pytest.mark.parametrize("backend", ["matplotlib", "bokeh"])
def test_pictures_of_selections_and_of_infinite_values(backend: Any) -> None:
    found = best(SWEEP)
    plot_best(found.isel(learning_rate=[0]), backend=backend)
    with pytest.raises(SelectionError, match="single learning_rate"):
        plot_best(found.isel(learning_rate=0), backend=backend)
    highest = best(sweep_of({1e-5: [3.0], 3e-5: [2.0], 1e-4: [np.inf]}), direction="higher")
    assert highest.best.item() == 1e-4
    plot_best(highest, backend=backend)


def test_predictions_say_that_they_have_no_picture() -> None:
    with pytest.raises(SelectionError, match="predict has no picture"):
        predict(fit(TABLE, "loss", by=[], interval="none"), compute=1e22).dde.plot()


def test_tables_do_not_depend_on_the_order_of_variables() -> None:
    runs = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.sel(params=["4M", "20M"], run="pretraining")
    for answer in (runs.dde.signal_to_noise("arc_easy"), best(runs, "arc_easy", over="seed")):
        by_name = answer[sorted(map(str, answer.data_vars), key=str)].assign_attrs(answer.attrs)
        table, of_sorted = answer.dde.to_frame(), by_name.dde.to_frame()
        assert of_sorted[table.columns].equals(table)


def test_every_question_names_its_main_variable() -> None:
    ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"])
    bases = ds.dde.base_curves()
    for answer in (
        ds.dde.reach("arc_easy", 0.3),
        ds.dde.match("arc_easy", 0.3),
        ds.dde.effect("arc_easy"),
        bases.dde.best("arc_easy", over="data"),
        bases.dde.ranks("arc_easy", over="data", a={"params": "4M"}, b={"params": "20M"}),
        bases.dde.decision_accuracy("arc_easy", over="data", target={"params": "150M"}),
        compare(bases.dde.sel(data="C4"), bases.dde.sel(data="Dolma1.7"), "arc_easy"),
    ):
        backwards = answer[list(answer.data_vars)[::-1]].assign_attrs(answer.attrs)
        assert main_variable(backwards) == next(iter(answer.data_vars))


@pytest.mark.parametrize("order", [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.3, 0.1]])
def test_means_that_differ_by_rounding_are_ties(order: list[float]) -> None:
    found = best(sweep_of({1e-5: order, 3e-5: [0.3, 0.1, 0.2], 1e-4: [0.1, 0.2, 0.3], 3e-4: [9.0] * 3})).squeeze()
    assert (found.best.item(), found.ties.item(), found.margin.item()) == (1e-5, 2, 0.0)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy has no strings of variable length")
def test_texts_of_variable_length_give_equal_answers() -> None:
    ds = dde.tutorial.open_lineages("small", metrics=["arc_easy", "pile_valppl"])
    texts = [n for n, c in ds.coords.items() if c.dtype == object and all(isinstance(v, str) for v in c.values.flat)]
    assert {"data", "params", "run", "lineage"} <= set(texts)
    # As Zarr stores of format 3 are opened.
    strings = ds.assign_coords({n: ds[n].copy(data=ds[n].values.astype(np.dtypes.StringDType())) for n in texts})

    def answers(of: xr.Dataset) -> list[xr.Dataset]:
        bases = of.dde.base_curves()
        return [
            of.dde.effect("arc_easy"),
            of.dde.best("arc_easy", over="data", at="last"),
            bases.dde.fit("pile_valppl", interval="none"),
            bases.dde.fit("pile_valppl", interval="none", by=["data", "seed"], hold_out={"params": "150M"}),
            compare(of.dde.sel(data="C4"), of.dde.sel(data="Dolma1.7"), "arc_easy", at="last"),
            compare(of.dde.sel(data="C4"), of.dde.sel(data="Dolma1.7"), "arc_easy", at="last", over="params"),
        ]

    for found, expected in zip(answers(strings), answers(ds), strict=True):
        assert found.attrs == expected.attrs
        for name, array in expected.data_vars.items():
            np.testing.assert_array_equal(found[name].transpose(*array.dims).values, array.values)


@pytest.mark.parametrize("at", [None, "last", "common"])
def test_datasets_in_chunks_are_compared(at: Any) -> None:
    ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.sel(run="pretraining")
    found, expected = (
        compare(of.dde.sel(data="C4"), of.dde.sel(data="Dolma1.7"), "arc_easy", at=at)
        for of in (ds.chunk(lineage=7, cumulative_tokens=100), ds)
    )
    xr.testing.assert_identical(found, expected)
