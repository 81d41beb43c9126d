# %% [markdown]
# # A sweep on your own files
#
# The main job from files or a database to a picture. Set the two paths and run it; where they are not set, a small
# generated suite in the same raw formats stands in.

# %%
import os
import tempfile
from pathlib import Path

import dde
from dde.plots.files import save_picture

# The DataDecide tables: a folder or an fsspec URL, raw or parsed.
DATA = os.environ.get("DDE_DATA")
# The post-training runs: a folder exported by dr_wandb, or a PostgreSQL DSN without its password (PGPASSWORD has it).
DB = os.environ.get("DDE_DB", os.environ.get("DDE_DB_CONNECTION"))
# Of the derived runs, those of this method, in any state: a crashed run has a curve, too.
METHOD, STATE = "supervised_ft", "all"
METRICS = ["arc_easy", "hellaswag", "train_loss"]

stand_in = None
if DATA is None and DB is None:
    stand_in = tempfile.TemporaryDirectory()
    suite = dde.tutorial.make_suite(stand_in.name, "tiny")
    DATA, DB = suite.data, suite.wandb

# %% [markdown]
# ## Open
# Which runs there are, where each starts, and why some can't be used: before any metric is read.

# %%
repository = dde.DataDecideEvolved(DATA, DB).repository
coverage = repository.coverage(state=STATE)
print(coverage.groupby(["run_type", "status"]).size().to_string())
derived = coverage[coverage["run_type"] != "pretraining"]
print(derived[["lineage", "run", "branch_tokens", "end_tokens", "token_source"]].to_string(index=False))

# %% [markdown]
# What the sources of a run disagree on is listed, with what was believed.

# %%
for run_id, said in coverage.loc[coverage["contradictions"] != "", ["run_id", "contradictions"]].values:
    print(run_id, said, sep="\n    ")

# %%
ds = repository.to_dataset(method=METHOD, state=STATE, metrics=METRICS)
print(ds)

# %% [markdown]
# ## Filter down to a sweep
# The largest size that has such runs: `ds.dde.sel` takes any coordinates at once. Treatments that no lineage of this
# size had are left away.

# %%
largest = ds["params"].isel(lineage=ds["n_params"].argmax("lineage")).item()
sweep = ds.dde.sel(params=[largest])
sweep = sweep.isel(run=(sweep["run_id"] != "").any("lineage"))
print(sweep["learning_rate"].to_series().dropna())
print(sweep["end_tokens"].to_series().dropna())

# %% [markdown]
# ## Get the data ready, and plot
# A long table with a row for each point of each continuous curve, for any other tool; and the picture.

# %%
table = sweep.dde.to_frame()
print(table.groupby(["lineage_id", "run", "checkpoint_type"])[METRICS].last().round(4).to_string())

# %%
picture = sweep.dde.plot(["hellaswag", "train_loss"], backend="matplotlib")
folder = Path("data_cache/examples")
folder.mkdir(parents=True, exist_ok=True)
print(save_picture(picture, folder / "real_files.png"))

# %%
if stand_in is not None:
    stand_in.cleanup()
