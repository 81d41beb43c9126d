"""Pictures of fits: what is drawn, on both backends, also of what was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dde.analysis.fits import fit
from dde.errors import SelectionError, UnknownNameError
from dde.plots.answers.fit import plot_fit
from picture_checks import assert_nothing_is_cut_off, caption_of, drawn, figures_of, legend_entries, printed

SIZES = np.geomspace(1e7, 2e9, 7)


def table() -> xr.Dataset:
    """Losses and accuracies of two recipes with three budgets of tokens, along (budget, data, size)."""
    rng = np.random.default_rng(0)
    tokens = 20 * SIZES * np.array([1, 2, 4])[:, None, None] * np.ones((3, 2, 7))
    level = np.array([1.8, 2.0])[:, None]
    loss = (level + 400 * SIZES**-0.33 + 900 * tokens**-0.33) * np.exp(rng.normal(0, 0.004, tokens.shape))
    accuracy = 1 - 0.7 / (1 + np.exp(-3 * (loss - 3.0))) + rng.normal(0, 0.004, loss.shape)
    dims = ("budget", "data", "size")
    return xr.Dataset(
        {"loss": (dims, loss, {"units": "nats"}), "accuracy": (dims, accuracy)},
        {"n_params": ("size", SIZES), "tokens": (dims, tokens), "data": ["C4", "Dolma"]},
    )


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> dict[str, xr.Dataset]:
    """Answers of all laws, saved and opened again."""
    data = table()
    hold_out = {"n_params": slice(1e9, None)}
    answers = {
        "power": fit(data, ["loss", "accuracy"], by="data", hold_out=hold_out, interval="bootstrap", samples=30),
        "chinchilla": fit(data, "loss", law="chinchilla", by=[], hold_out=hold_out),
        "loss_to_accuracy": fit(data, "accuracy", law="loss_to_accuracy", loss="loss", by="data"),
        "two_step": fit(data, "accuracy", law="two_step", loss="loss", by="data", interval="none"),
    }
    folder: Path = tmp_path_factory.mktemp("fits")
    for name, answer in answers.items():
        answer.to_netcdf(folder / f"{name}.nc")
    return {name: xr.load_dataset(folder / f"{name}.nc") for name in answers}


@pytest.mark.parametrize("name", ["power", "chinchilla", "loss_to_accuracy", "two_step"])
def test_pictures_show_every_member(laws: dict[str, xr.Dataset], name: str) -> None:
    answer = laws[name]
    figures = figures_of(plot_fit(answer))
    metrics = answer.sizes.get("metric", 1)
    assert len(figures) == 2 * metrics
    members = int(np.isin(answer.status.values, ["entered", "held out"]).sum()) // metrics
    has_laws = np.atleast_2d(answer.converged.values).all(axis=1)
    for k, figure in enumerate(figures):
        shown = [np.asarray(r.data_source.data[r.glyph.x]) for r in drawn(figure, "Scatter")]
        # Without coefficients there are no residuals, which a text says.
        assert sum(map(len, shown)) == (members if k < metrics or has_laws[k - metrics] else 0)
    with printed(plot_fit(answer, backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
        entries = legend_entries(figure)
    expected = {
        "power": ["C4", "Dolma", "entered", "held out", "law", "95% interval of the law"],
        "loss_to_accuracy": ["C4", "Dolma", "entered", "law", "95% interval of the law"],
        "two_step": ["C4", "Dolma", "entered", "observed = predicted"],
    }
    if name == "chinchilla":
        assert entries[-3:] == ["entered", "held out", "observed = predicted"]
        assert len(entries) == 3 + len(SIZES)
    else:
        assert entries == expected[name]


def test_bands_and_curves_are_drawn(laws: dict[str, xr.Dataset]) -> None:
    law, _, below, _ = figures_of(plot_fit(laws["power"]))
    assert len(drawn(law, "Patch")) + len(drawn(law, "VArea")) == 2
    assert not drawn(below, "Patch")
    # A law beyond the runs that entered is dashed.
    dashes = {str(r.glyph.line_dash) for r in drawn(law, "MultiLine")}
    assert len(dashes) == 2


def test_a_selection_is_drawn(laws: dict[str, xr.Dataset]) -> None:
    one = laws["power"].sel(metric="loss", data="C4")
    figures = figures_of(plot_fit(one))
    shown = [len(np.asarray(r.data_source.data[r.glyph.x])) for r in drawn(figures[0], "Scatter")]
    assert sum(shown) == 21


def test_metrics_have_the_names_of_their_labels() -> None:
    data = table()
    data["loss"].attrs["long_name"] = "loss of the validation set"
    picture = plot_fit(fit(data, "loss", by="data", interval="none"), backend="matplotlib")
    assert caption_of(picture).startswith("Loss of the validation set, law: ")
    with printed(picture) as figure:
        titles = {text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))}
    assert "loss of the validation set" in titles


def test_what_can_not_be_drawn_says_why(laws: dict[str, xr.Dataset]) -> None:
    with pytest.raises(SelectionError, match="no answer of fit"):
        plot_fit(table())
    without = laws["power"].assign(status=xr.full_like(laws["power"].status, "no value"))
    with pytest.raises(SelectionError, match="nothing to draw"):
        plot_fit(without)
    with pytest.raises(UnknownNameError, match="backend='bokhe'"):
        plot_fit(laws["power"], backend="bokhe")  # type: ignore[arg-type]
