# %% [markdown]
# # A learning-rate sweep, from two stores to a picture
#
# On the generated suite, so that it runs anywhere; with your own data, give `dde.open_lineages` the folder of
# the DataDecide tables and a PostgreSQL DSN (or a folder of exported parquet) instead.

# %%
from pathlib import Path

import dde
from dde.plots.files import save_picture

# %% [markdown]
# ## Open
# Identifiers and a few keys of each run are read, and no metric. Printing says what a full load would weigh.

# %%
ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy", "hellaswag", "train_loss"])
print(ds)

# %% [markdown]
# ## Filter down to the sweep
# Any coordinates at once, recipes by any of their names, learning rates by closeness. The base stays.

# %%
kinds = ["pretraining", "supervised_ft"]
sweep = ds.dde.sel(data=["dolma17", "DCLM-Baseline"], seed="default", run_type=kinds)
print(sweep["learning_rate"].to_series())

# %% [markdown]
# What each run gained: its last evaluation less the base's last one before the branch.

# %%
gain = sweep["arc_easy"].dde.difference_to_base().dde.final()
print(gain.to_series().dropna().round(3))

# %% [markdown]
# ## Plot
# Pretraining is drawn once, each run in its colour from its branch on. `backend="bokeh"` gives the same, to explore.

# %%
picture = sweep.dde.plot(["arc_easy", "train_loss"], backend="matplotlib")
folder = Path("data_cache/examples")
folder.mkdir(parents=True, exist_ok=True)
print(save_picture(picture, folder / "learning_rate_sweep.png"))
