"""The tree of runs of several parents: dashed lines to each further parent, labels that do not overlap."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xarray as xr

import dde
from dde.errors import SelectionError
from dde.plots.cells import rows_of_runs
from dde.plots.colours import INK
from dde.plots.tree import find_members
from picture_checks import assert_nothing_is_cut_off, caption_of, drawn, figures_of, legend_entries, printed

METRICS = {"acc": dde.Metric("acc", "1", "higher")}


def rows_of(run_id: str, steps: Any, **factors: Any) -> list[dict[str, Any]]:
    return [{"id": run_id, "step": step, "acc": 0.2 + 0.001 * step, **factors} for step in steps]


def table(rows: list[dict[str, Any]], run_type: str, parent: Any = None, per_step: int = 1000, at: Any = "end") -> Any:
    tokens = {"per_step": per_step}
    return dde.Table(pd.DataFrame(rows), run_type=run_type, parent=parent, at=at, tokens=tokens, counts="own")


def soups(count: int) -> xr.Dataset:
    """A base, `count` annealed runs, a soup of each three of them, and a run that starts from each soup."""
    anneals = [row for i in range(count) for row in rows_of(f"ann{i}", (5, 10), i=i)]
    tables = [
        table(rows_of("base", range(0, 101, 10)), "pretraining"),
        table(anneals, "anneal", "base", at={"step": 90}),
    ]
    run = {"pretraining": "pretraining", "anneal": "ann{i}"}
    if count > 1:
        run |= {"soup": "soup{s}", "sft": "sft{s}"}
    for k in range(0, count - 1, 3):
        parents = [f"ann{i}" for i in range(k, min(k + 3, count))]
        tables.append(table(rows_of(f"soup{k}", (0,), s=k), "soup", parents))
        tables.append(table(rows_of(f"sft{k}", (1, 2, 3), s=k), "sft", f"soup{k}", 100))
    suite = dde.Suite("soups", lineage="L", run_id="{id}", metrics=METRICS, run=run, tables=tables)
    return dde.open_lineages(suite, cache_dir=None)


def two_teachers() -> xr.Dataset:
    def one(rows: list[dict[str, Any]], run_type: str, parent: Any = None) -> Any:
        return dde.Table(pd.DataFrame(rows), run_type=run_type, parent=parent)

    suite = dde.Suite(
        "grown", lineage="{n}", run_id="{id}", n_params="n", metrics=METRICS, tokens={"per_step": 1000}, counts="own",
        tables=[
            one(rows_of("dense", range(0, 101, 25), n=100), "pretraining"),
            one(rows_of("teacher", (0, 100, 200), n=1000), "pretraining"),
            one(rows_of("student", (0, 5, 10), n=100), "distilled", ["dense", "teacher"]),
        ],
    )  # fmt: skip
    return dde.open_lineages(suite, cache_dir=None)


def dashed_lines(picture: Any) -> list[tuple[list[float], list[float]]]:
    """The lines to further parents: dashed, and darker than those of branches."""
    (figure,) = figures_of(picture)
    lines = []
    for renderer in drawn(figure, "MultiLine"):
        data = renderer.data_source.data
        colours = set(data.get("color", [renderer.glyph.line_color]))
        if renderer.glyph.line_dash not in ([], "solid", "dotted") and colours == {INK}:
            lines += [(list(map(float, x)), list(map(float, y))) for x, y in zip(data["xs"], data["ys"], strict=True)]
    return lines


def test_each_further_parent_has_a_dashed_line_to_the_merge() -> None:
    runs = soups(3)
    members = {m.run_id: m for m in find_members(rows_of_runs(xr.zeros_like(runs["branch_tokens"])))}
    assert members["soup0"].parent is members["ann0"]
    lines = dashed_lines(runs.dde.plot_tree("acc"))
    assert [y for _, y in lines] == [
        [-members[p].row, -members[p].row, -members["soup0"].row] for p in ("ann1", "ann2")
    ]
    # From the end of the parent to the start of the merge.
    assert all(x[0] < x[1] == x[2] for x, _ in lines)
    with printed(runs.dde.plot_tree("acc", backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
        assert "another parent of a merge" in legend_entries(figure)


def test_trees_without_a_merge_have_no_dashed_lines() -> None:
    runs = soups(1)
    assert "parent_run_ids" not in runs.coords
    assert dashed_lines(runs.dde.plot_tree("acc")) == []
    with printed(runs.dde.plot_tree("acc", backend="matplotlib")) as figure:
        assert "another parent of a merge" not in legend_entries(figure)


def test_a_merge_of_several_bases_starts_after_them() -> None:
    runs = two_teachers()
    members = {m.run_id: m for m in find_members(rows_of_runs(xr.zeros_like(runs["branch_tokens"])))}
    assert (members["student"].start, members["student"].end) == (300_000, 310_000)
    assert members["dense"].start == 0
    lines = dashed_lines(runs.dde.plot_tree())
    assert len(lines) == 2
    assert {y[-1] for _, y in lines} == {-float(members["student"].row)}


def test_parents_that_are_not_in_the_dataset_are_counted() -> None:
    runs = soups(3)
    few = runs.isel(run=[k for k, run_id in enumerate(runs.run_id.values[0]) if run_id != "ann2"])
    assert "not drawn: parents outside the Dataset of 1 merge" in caption_of(few.dde.plot_tree("acc"))
    assert "not drawn" not in caption_of(runs.dde.plot_tree("acc"))


@pytest.mark.parametrize("count", [2, 18, 120])
def test_labels_of_rows_do_not_overlap(count: int) -> None:
    runs = soups(count)
    assert runs.sizes["run"] == {2: 5, 18: 31, 120: 201}[count]
    with printed(runs.dde.plot_tree("acc", backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
        renderer = figure.canvas.get_renderer()
        labels = [t for t in figure.axes[0].yaxis.get_majorticklabels() if t.get_text().strip()]
        assert len(labels) == runs.sizes["run"]
        boxes = sorted((t.get_window_extent(renderer) for t in labels), key=lambda box: box.y0)
        assert all(a.y1 <= b.y0 + 1 for a, b in pairwise(boxes))
        frame = figure.axes[0].get_window_extent(renderer)
        assert all(box.x1 <= frame.x0 for box in boxes)


def test_a_reopened_tree_is_the_same(tmp_path: Path) -> None:
    runs = soups(6)
    runs.to_netcdf(tmp_path / "soups.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "soups.nc", engine="h5netcdf") as again:
        assert dashed_lines(again.dde.plot_tree("acc")) == dashed_lines(runs.dde.plot_tree("acc"))


def test_more_rows_than_can_be_looked_at_are_an_error() -> None:
    with pytest.raises(SelectionError, match="the Dataset has 335 runs, more than can be looked at"):
        soups(200).dde.plot_tree("acc")
