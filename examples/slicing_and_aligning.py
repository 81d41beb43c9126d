# %% [markdown]
# # Slicing and aligning with xarray
#
# `dde.open_lineages` returns a plain `xarray.Dataset`. This example uses xarray's own operations, and `ds.dde` where
# these are not enough. It opens a generated suite, so that it runs anywhere.

# %%
from pathlib import Path

import hvplot.xarray
import numpy as np
import pandas as pd
import xarray as xr

import dde

# %% [markdown]
# ## Open
# Metrics are lazy: a metric is read when it is used, and then only the selected part.

# %%
metrics = ["arc_easy", "hellaswag", "train_loss"]
ds = dde.tutorial.open_lineages("tiny", metrics=metrics)
print(ds.sizes, f"{ds.nbytes / 1e6:.1f} MB if all of it were loaded")

# %% [markdown]
# ## Filter
# By labels: the curve of one run on one base. Up to its branch it has the values of its parent.

# %%
run = "sft_lr=5e-06_100Mx1"
curve = ds["arc_easy"].sel(lineage="dolma1_7-150M-default", run=run)
print(curve.dropna("cumulative_tokens").to_series().tail(3))

# %% [markdown]
# By other coordinates: `.sel` takes one coordinate of each dimension, with a single exact value.

# %%
print(ds.sel(params="150M", run_type="dpo")["lineage"].values)
print(ds.sel(params="150M", run=run)["run_id"].values)

# %% [markdown]
# `ds.dde.sel` takes any number of coordinates, lists and ranges, and compares learning rates with a tolerance.

# %%
sweep = ds.dde.sel(params="150M", seed="default", run_type="supervised_ft", learning_rate=slice(1e-6, 1e-4))
print(sweep["learning_rate"].to_series())

# %% [markdown]
# By position on the token axis: the nearest point of the grid, or a range.

# %%
print(ds["arc_easy"].sel(cumulative_tokens=10_000_000_000, method="nearest").sel(run="pretraining").to_series())
print(ds.sel(cumulative_tokens=slice(0, 10**9)).sizes["cumulative_tokens"])

# %% [markdown]
# By a condition: the own part of each run, without the part that it shares with its parent.

# %%
own = ds["train_loss"].where(ds["cumulative_tokens"] > ds["branch_tokens"])
print(own.min("cumulative_tokens").to_series().dropna())

# %% [markdown]
# ## Group, average, compare
# `groupby` over a coordinate: the mean over sizes and seeds of each recipe. A coordinate that is NaN for the base, such
# as the learning rate, leaves the base out; one that is "" for it, such as the method, has a group "".

# %%
means = ds["arc_easy"].groupby("data").mean()
print(means.sel(run="pretraining").max("cumulative_tokens").to_series())
print(ds["arc_easy"].groupby("posttraining_method").max().sizes)

# %% [markdown]
# Arithmetic aligns labels: the change due to post-training, at the last evaluation of each run.

# %%
final = ds.dde.final("arc_easy")
print((final - final.sel(run="pretraining", drop=True)).to_series().dropna().round(3))

# %% [markdown]
# Weights: larger models count more. And the best run of each lineage, by label.

# %%
print(float(final.sel(run="pretraining").weighted(ds["n_params"]).mean()))
print(final.idxmax("run").to_series())

# %% [markdown]
# A line through the last third of pretraining: its slope in points per billion tokens.

# %%
base = ds["arc_easy"].sel(lineage="dolma1_7-150M-default", run="pretraining")
late = base.sel(cumulative_tokens=slice(10**10, None)).dropna("cumulative_tokens")
billions = late.assign_coords(billions=late["cumulative_tokens"] / 1e9).swap_dims(cumulative_tokens="billions")
print(float(billions.polyfit("billions", 1)["polyfit_coefficients"].sel(degree=1)))

# %% [markdown]
# ## Align
# Values at any tokens, between the points of the grid. xarray's `interp` interpolates between neighbouring points of
# the grid, and is NaN beside an empty one. `ds.dde.align` interpolates between observations, and never across a branch
# without data.

# %%
tokens = np.array([1, 2, 4, 8]) * 10**9
drawn = ds["arc_easy"].interp(cumulative_tokens=tokens).sel(run="pretraining")
aligned = ds.dde.align(tokens, "log")["arc_easy"].sel(run="pretraining")
print(pd.DataFrame({"drawn": drawn.to_series(), "aligned": aligned.to_series()}).dropna().round(4))

# %% [markdown]
# On an axis that sizes share: tokens per parameter.

# %%
shared = ds.dde.align(20, axis="tokens_per_parameter")
print(shared["arc_easy"].sel(run="pretraining").mean("tokens_per_parameter").to_series().round(3))

# %% [markdown]
# ## Join
# `dde.concat` joins Datasets that were opened separately, even on different grids, and retains all labels. Metrics that
# were opened together can be merged by xarray.

# %%
parts = [dde.tutorial.open_lineages("tiny", params=params, metrics=metrics) for params in ("4M", "150M")]
joined = dde.concat(parts)
print(joined.sizes, joined["run"].values)
print(list(xr.merge([ds[["arc_easy"]], ds[["train_loss"]]]).data_vars))

# %% [markdown]
# ## Leave xarray
# xarray returns a frame with all coordinates as columns; `ds.dde.to_frame()` omits the empty cells.

# %%
print(ds["arc_easy"].to_dataframe().dropna(subset="arc_easy")[["arc_easy", "learning_rate", "state"]].tail(3))
print(ds.dde.to_frame().shape)

# %% [markdown]
# ## Plot
# hvplot works on the Dataset directly. Name `x`, because several coordinates are along the token axis. Labels come from
# attributes. A derived run is evaluated once, at its end, which hvplot does not draw as a line; `ds.dde.plot` draws it.

# %%
hvplot.extension("bokeh")
bases = ds[["arc_easy"]].sel(run="pretraining").where(ds["params"] == "150M", drop=True)
bases = bases.sel(cumulative_tokens=slice(None, 15_000_000_000))
lines = bases.hvplot.line(x="cumulative_tokens", y="arc_easy", by="lineage", xformatter="%.1e", width=900)
folder = Path("data_cache/examples")
folder.mkdir(parents=True, exist_ok=True)
print(dde.save(lines, folder / "slicing_and_aligning.html", title="ARC-Easy of three pretraining runs"))
