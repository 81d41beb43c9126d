"""Pictures of ranks, decision accuracy and signal to noise on both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from recipes import recipes_dataset

from dde.errors import SelectionError, UnknownNameError
from dde.plots.files import png_bytes


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    values = np.random.default_rng(1).normal(size=(3, 4, 3, 5))
    made = recipes_dataset(values, tokens=(0, 1000, 2000, 3000, 4000), sizes=("10M", "20M", "100M"))
    made["other"] = made.score + 0.5
    return made


def answers(dataset: xr.Dataset) -> dict[str, xr.Dataset]:
    names, target = ["score", "other"], {"size": "100M"}
    return {
        "ranks": dataset.dde.ranks(names, over="recipe", a={"size": "10M"}, b=target, samples=20),
        "last": dataset.dde.decision_accuracy(names, over="recipe", target=target, samples=20),
        "all": dataset.dde.decision_accuracy(names, over="recipe", target=target, checkpoints="all"),
        "proxy": dataset.dde.decision_accuracy("score", over="recipe", target=target, proxy="other", samples=20),
        "signal": dataset.dde.signal_to_noise(names, over="recipe", last=3),
    }


def curves_of(picture: Any) -> list[Any]:
    import holoviews as hv

    return [e for e in picture.traverse(lambda e: e, [hv.Points]) if len(e)]


@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
def test_each_answer_is_drawn_with_its_numbers(dataset: xr.Dataset, backend: str, tmp_path: Path) -> None:
    for name, answer in answers(dataset).items():
        answer.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / f"{name}.nc", engine="h5netcdf") as reopened:
            for given in (answer, reopened):
                picture = given.dde.plot(backend=backend)
                drawn = np.concatenate([e.dimension_values(1) for e in curves_of(picture)])
                variable = {"ranks": "rank_a", "signal": "signal_to_noise"}.get(name, "accuracy")
                expected = answer[variable].values[np.isfinite(answer[variable].values)]
                if name == "all":
                    # Checkpoints without compute have no place on a logarithmic axis.
                    expected = answer.accuracy.where(answer.compute_fraction > 0).values
                    expected = expected[np.isfinite(expected)]
                assert set(np.round(expected, 9)) <= set(np.round(drawn, 9)), name
        if backend == "matplotlib":
            assert png_bytes(picture)[:4] == b"\x89PNG"


def test_an_answer_without_a_value_says_what_to_look_at(dataset: xr.Dataset) -> None:
    answer = dataset.dde.decision_accuracy("score", over="recipe", target={"size": "100M"}, samples=5)
    empty = answer.assign(accuracy=answer.accuracy * np.nan, naive=answer.naive * np.nan)
    with pytest.raises(SelectionError, match="the answer has no value"):
        empty.dde.plot(backend="matplotlib")


def test_every_question_with_a_picture_has_a_module() -> None:
    from dde.accessor import pictures
    from dde.plots import answers

    folder = Path(answers.__file__).parent
    drawn = {path.stem for path in folder.glob("*.py") if f"def plot_{path.stem}(" in path.read_text(encoding="utf-8")}
    assert drawn == pictures._PICTURES


def test_options_of_other_pictures_are_refused(dataset: xr.Dataset) -> None:
    answer = dataset.dde.signal_to_noise("score", over="recipe", last=3)
    with pytest.raises(UnknownNameError, match="band= is not an option of the picture of signal_to_noise"):
        answer.dde.plot(band="seed", backend="matplotlib")
    with pytest.raises(SelectionError, match="an answer of predict has no picture"):
        answer.assign_attrs(answer="predict").dde.plot()
    # An attribute of the user is none of dde's.
    assert dataset.assign_attrs(answer="42")[["score"]].dde.plot(backend="matplotlib") is not None


def test_a_list_orders_scales_where_they_have_colours(dataset: xr.Dataset) -> None:
    sizes = ["20M", "10M", "100M"]
    answer = dataset.dde.decision_accuracy("score", over="recipe", target={"size": "100M"}, samples=5)
    with pytest.raises(SelectionError, match=r"order= is a sequence.*has no hue"):
        answer.dde.plot(backend="matplotlib", order=sizes)
    every = dataset.dde.decision_accuracy("score", over="recipe", target={"size": "100M"}, checkpoints="all")
    every.dde.plot(backend="matplotlib", order=sizes)


def test_scales_have_their_labels(dataset: xr.Dataset) -> None:
    answer = dataset.dde.decision_accuracy("score", over="recipe", target={"size": "100M"}, samples=5)
    picture = answer.dde.plot(backend="bokeh", labels={"10M": "small"})
    texts = [str(v) for e in curves_of(picture) for d in e.dimensions("value") for v in e.dimension_values(d)]
    assert any(text.startswith("small (") for text in texts)
    assert not any(text.startswith("10M (") for text in texts)
