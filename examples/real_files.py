# %% [markdown]
# # A sweep on your own files
#
# The main task, from files or a database to a picture. Set the two paths and run it. If they are not set, a small
# generated suite in the same raw formats is used.

# %%
import os
import tempfile
from pathlib import Path

import dde

# The DataDecide tables: a folder or an fsspec URL, raw or parsed.
DATA = os.environ.get("DDE_DATA")
# The post-training runs: a folder exported by dr_wandb, or a PostgreSQL DSN without its password (PGPASSWORD has it).
DB = os.environ.get("DDE_DB", os.environ.get("DDE_DB_CONNECTION"))
# Derived runs of this method, in any state: a crashed run has a curve, too.
METHOD, STATE = "supervised_ft", "all"
METRICS = ["arc_easy", "hellaswag", "train_loss"]

stand_in = None
if DATA is None and DB is None:
    stand_in = tempfile.TemporaryDirectory()
    suite = dde.tutorial.make_suite(stand_in.name, "tiny")
    DATA, DB = suite.data, suite.wandb

# %% [markdown]
# ## Open
# The runs, the start of each, and the reasons why some can't be used, before any metric is read.

# %%
repository = dde.DataDecideEvolved(DATA, DB).repository
coverage = repository.coverage(state=STATE)
print(coverage.groupby(["run_type", "status"]).size().to_string())
derived = coverage[coverage["run_type"] != "pretraining"]
print(derived[["lineage", "run", "branch_tokens", "end_tokens", "token_source"]].to_string(index=False))

# %% [markdown]
# Contradictions between the sources of a run are listed, with the value that is used.

# %%
for run_id, text in coverage.loc[coverage["contradictions"] != "", ["run_id", "contradictions"]].values:
    print(run_id, text, sep="\n    ")

# %%
ds = repository.to_dataset(method=METHOD, state=STATE, metrics=METRICS)
print(ds)

# %% [markdown]
# ## Filter down to a sweep
# Select the largest size that has such runs, and drop treatments that no lineage of this size has.

# %%
largest = ds["params"].isel(lineage=ds["n_params"].argmax("lineage")).item()
sweep = ds.dde.sel(params=[largest])
sweep = sweep.isel(run=(sweep["run_id"] != "").any("lineage"))
print(sweep["learning_rate"].to_series().dropna())
print(sweep["end_tokens"].to_series().dropna())

# %% [markdown]
# ## Get the data ready, and plot
# A long table, for other tools, has a row for each point of each continuous curve.

# %%
table = sweep.dde.to_frame()
print(table.groupby(["lineage_id", "run", "checkpoint_type"])[METRICS].last().round(4).to_string())

# %%
picture = sweep.dde.plot(["hellaswag", "train_loss"], backend="matplotlib")
folder = Path("data_cache/examples")
folder.mkdir(parents=True, exist_ok=True)
print(dde.save(picture, folder / "real_files.png"))

# %%
if stand_in is not None:
    stand_in.cleanup()
