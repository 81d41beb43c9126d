"""Truth values, times and durations as metrics, on axes and as hues: drawn as what they are, or an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.errors import SelectionError
from dde.plots.colours import colours_of, is_given, is_number, is_ordered, label_of, sorted_values
from dde.plots.curves import curve_panels
from dde.plots.times import as_numbers
from picture_checks import figures_of, legend_entries, printed


@pytest.fixture(scope="module")
def bases() -> xr.Dataset:
    ds = dde.tutorial.open_lineages("small", params="4M", data=["C4", "Dolma1.7"], metrics=["arc_easy"])
    return ds.dde.sel(run="pretraining").load()


def _hours(count: int) -> np.ndarray:
    return (np.arange(count) * 3600 * 10**9).astype("timedelta64[ns]")


@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
@pytest.mark.parametrize("what", ["times", "durations", "truth values"])
def test_another_axis_may_have_times(bases: xr.Dataset, what: str, backend: str) -> None:
    n = bases.sizes["cumulative_tokens"]
    along, label = {
        "times": (np.datetime64("2025-03-01T06:00", "ns") + _hours(n), "when, since 2025-03-01 06:00 [days]"),
        "durations": (_hours(n), "when [days]"),
        "truth values": (np.arange(n) > n / 2, "when"),
    }[what]
    ds = bases.assign_coords(when=("cumulative_tokens", along))
    panel = curve_panels(ds, "arc_easy", "when")[0][0]
    assert panel.frame.x.label == label
    expected = {0.0, 1.0} if what == "truth values" else {float(k) / 24 for k in range(n)}
    assert all(min(abs(x - e) for e in expected) < 1e-9 for x in panel.segments[0].x)
    picture = ds.dde.plot("arc_easy", "when", backend=backend)
    if backend == "bokeh":
        assert figures_of(picture)[0].xaxis[0].axis_label == label
    else:
        with printed(picture) as figure:
            assert figure.axes[0].get_xlabel() == label


@pytest.mark.parametrize(
    ("name", "label"), [("took", "took [hours]"), ("ended", "ended, since 2025-01-02 0"), ("passed", "passed")]
)
def test_metrics_may_be_times_durations_and_truth_values(bases: xr.Dataset, name: str, label: str) -> None:
    hours = bases.arc_easy * 100
    took = (hours * 3.6e12).fillna(0).astype("timedelta64[ns]").where(hours.notnull()).drop_attrs()
    ended = (np.datetime64("2025-01-01", "ns") + took).rename("ended")
    ds = bases.assign(took=took, ended=ended, passed=(bases.arc_easy > 0.27).drop_attrs())
    with pytest.warns(dde.errors.DdeWarning, match="no attribute that names its sampling"):
        panel = curve_panels(ds, name)[0][0]
    assert panel.frame.y.label.startswith(label)
    (segment, *_) = panel.segments
    expected = hours.sel(lineage=segment.facts["lineage"]).dropna("cumulative_tokens").values
    if name == "took":
        np.testing.assert_allclose(segment.values, expected, rtol=1e-9)
    elif name == "ended":
        # Since the first of all runs.
        assert panel.frame.y.label.endswith("[hours]")
        np.testing.assert_allclose(segment.values, expected - float(hours.min()), atol=1e-6)
    else:
        assert set(segment.values) == {0.0, 1.0}


@pytest.mark.parametrize("plot", ["plot_scaling", "plot_heatmap", "plot_tree"])
def test_other_pictures_say_that_they_need_numbers(bases: xr.Dataset, plot: str) -> None:
    took = (bases.arc_easy * 3.6e12).fillna(0).astype("timedelta64[ns]")
    with pytest.raises(SelectionError, match=r"'took' holds durations, and this picture needs numbers"):
        getattr(bases.assign(took=took).dde, plot)("took")


@pytest.mark.parametrize("draw", ["plot", "plot_scaling", "plot_heatmap"])
@pytest.mark.parametrize(("value", "words"), [("x", "text or other objects"), (1j, "complex numbers")])
def test_values_that_no_axis_shows_are_an_error(bases: xr.Dataset, draw: str, value: Any, words: str) -> None:
    word = bases.arc_easy.copy(data=np.full(bases.arc_easy.shape, value, object if value == "x" else complex))
    with pytest.raises(SelectionError, match=words):
        getattr(bases.assign(word=word).dde, draw)("word")


def test_times_and_durations_have_an_order_and_short_labels(bases: xr.Dataset) -> None:
    times = np.array(["2025-03-01", "NaT", "2025-01-01T12:30"], "datetime64[ns]")
    assert [is_given(t) for t in times] == [True, False, True]
    assert [label_of(t) for t in sorted_values(times)] == ["2025-01-01 12:30", "2025-03-01"]
    durations = np.array([7200, 90, 86400 * 2 + 3600], "timedelta64[s]")
    assert not any(map(is_number, durations))
    assert is_ordered(durations)
    assert [label_of(d) for d in sorted_values(durations)] == ["1 min 30 s", "2 h", "2 d 1 h"]
    assert label_of(np.timedelta64(250, "ms")) == "0.25 s"
    assert list(colours_of(times).values()) == list(colours_of([1, 2]).values())
    ds = bases.assign_coords(took=("lineage", _hours(bases.sizes["lineage"])))
    with printed(ds.dde.plot("arc_easy", hue_by="took", facet_by=None, backend="matplotlib")) as figure:
        assert legend_entries(figure)[:3] == ["0 s", "1 h", "2 h"]


def test_missing_times_are_missing_numbers() -> None:
    when = xr.DataArray(np.array(["2025-01-01", "NaT", "2025-01-05"], "datetime64[ns]"), name="when")
    np.testing.assert_array_equal(as_numbers(when), [0.0, np.nan, 4.0])
    nothing = xr.DataArray(np.array(["NaT", "NaT"], "datetime64[ns]"), name="when")
    assert np.isnan(as_numbers(nothing)).all()
