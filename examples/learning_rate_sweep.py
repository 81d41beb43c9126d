# %% [markdown]
# # A learning-rate sweep, from two stores to a picture
#
# It opens a generated suite, so that it runs anywhere. For your own data, pass the folder of the DataDecide tables and
# a PostgreSQL DSN (or a folder of exported parquet) to `dde.open_lineages` instead.

# %%
from pathlib import Path

import dde

# %% [markdown]
# ## Open
# Identifiers and a few keys of each run are read, but no metric. Printing shows the size of the values if all were
# loaded.

# %%
ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy", "hellaswag", "train_loss"])
print(ds)

# %% [markdown]
# ## Filter down to the sweep
# `ds.dde.sel` takes several coordinates at once, and recipes by any of their names. The base is selected, too.

# %%
kinds = ["pretraining", "supervised_ft"]
sweep = ds.dde.sel(data=["dolma17", "DCLM-Baseline"], seed="default", run_type=kinds)
print(sweep["learning_rate"].to_series())

# %% [markdown]
# The gain of each run: its last evaluation minus the last one of its base before the branch.

# %%
gain = sweep["arc_easy"].dde.difference_to_base().dde.final()
print(gain.to_series().dropna().round(3))

# %% [markdown]
# ## Plot
# Pretraining is drawn once, and each run in its own colour after its branch. `backend="bokeh"` draws it interactively.

# %%
picture = sweep.dde.plot(["arc_easy", "train_loss"], backend="matplotlib")
folder = Path("data_cache/examples")
folder.mkdir(parents=True, exist_ok=True)
print(dde.save(picture, folder / "learning_rate_sweep.png"))
