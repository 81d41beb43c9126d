# %% [markdown]
# # Sweeps, seeds, and common axes
#
# From runs to a grid of hyperparameters, from three seeds to a mean with its interval, and from tokens to an axis that
# models of different sizes share. It opens a generated suite; open your own data with `dde.open_lineages`.

# %%
from pathlib import Path

import dde

folder = Path("data_cache/examples")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Open

# %%
metrics = ["arc_easy", "hellaswag", "train_loss"]
ds = dde.tutorial.open_lineages("small", params=["4M", "150M"], data=["Dolma1.7", "DCLM-Baseline"], metrics=metrics)
print(ds.sizes)

# %% [markdown]
# ## Filter down to a sweep
# Finetuning on 100M tokens, from final checkpoints. Each named hyperparameter becomes a dimension; if a cell has
# several runs, `replicate` does, too. Runs that are not in the sweep are counted in `left_out`.

# %%
sft = ds.dde.sel(run_type=["pretraining", "supervised_ft"], branch_point="", seed="default")
grid = sft.dde.sel(finetune_tokens=[1e8]).dde.sweep("learning_rate")
print(grid.sizes)
print(grid.attrs["left_out"])

# %% [markdown]
# The best learning rate of each lineage by final values, and its gain over the last evaluation of the base.

# %%
final = grid["arc_easy"].dde.final()
print(final.idxmax("learning_rate").to_series())
gain = sft["arc_easy"].dde.difference_to_base().dde.final()
print(gain.max("run").to_series().round(3))

# %% [markdown]
# ## Plot
# The sweep as a heat map, learning rate by size: the best cell of each recipe is framed, missing ones are empty.

# %%
picture = grid.dde.plot_heatmap("arc_easy", y="params", facet_by="data", backend="matplotlib")
print(dde.save(picture, folder / "sweep_heatmap.png"))

# %% [markdown]
# ## Average over seeds
# A mean is over all seeds that have the run, and is NaN where one of them has no value. `min_count=` allows fewer
# values, and `_count` is their number. `plot(band="seed")` computes the same means and draws the interval.

# %%
bases = ds.dde.sel(run=["pretraining"])
means = bases.dde.mean_over("seed")
print(means["n_members"].to_series())
spread = means[["arc_easy", "arc_easy_count", "arc_easy_std", "arc_easy_low", "arc_easy_high"]]
print(
    spread.sel(lineage="dclm-baseline-150M", run="pretraining").to_dataframe()[list(spread)].dropna().tail(3).round(4)
)
looks = {"hue_by": "data", "facet_by": "params", "backend": "matplotlib"}
picture = bases.dde.plot("arc_easy", x="tokens_per_parameter", band="seed", **looks)
print(dde.save(picture, folder / "seeds.png"))

# %% [markdown]
# ## Align on another axis
# On tokens since the branch, all runs of a sweep start at zero. On tokens per parameter, sizes can be compared.
# Observations stay exact, and a run without a position on an axis is NaN. An automatic grid of tokens has only some
# rows of a dense log; a Dataset that is opened on another axis is computed from all of them.

# %%
since = dde.tutorial.open_lineages(
    "small", params="150M", data="Dolma1.7", seed=0, metrics="train_loss", axis="post_tokens", grid=50
)
own = since["train_loss"].dde.sel(run_type="supervised_ft", branch_point="").isel(lineage=0)
print(own.mean("run").dropna("post_tokens").to_series().tail(3))
shared = ds[["arc_easy"]].dde.align([5, 20, 80], axis="tokens_per_parameter")
print(shared["arc_easy"].sel(run="pretraining").to_dataframe()["arc_easy"].unstack().round(3))
picture = ds.dde.plot_scaling("arc_easy", backend="matplotlib")
print(dde.save(picture, folder / "scaling.png"))
