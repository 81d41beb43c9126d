# %% [markdown]
# # Runs and lineages as objects
#
# The same steps with objects and data frames: find lineages, filter their derived runs, join the curves.

# %%
import pandas as pd

import dde

# %% [markdown]
# ## Open
# With your own data: `dde.DataDecideEvolved("data", "postgresql://localhost/wandb").repository`.

# %%
repository = dde.tutorial.open_repository("tiny")
print(repository.coverage()["status"].value_counts())

# %% [markdown]
# ## Filter down to a sweep
# A filter returns a list and does not change the lineage.

# %%
lineages = repository.find_lineages(base_params="150M", posttraining_method="supervised_ft")
sweep = {
    lineage.lineage_id: lineage.filter_derived_runs("supervised_ft", learning_rates=slice(1e-6, 1e-4))
    for lineage in lineages
}
for lineage_id, runs in sweep.items():
    print(lineage_id, [run.label for run in runs])

# %% [markdown]
# Each run names its parent; the chain of parents ends at the pretraining run.

# %%
run = next(run for runs in sweep.values() for run in runs)
print(run.run_id, "starts from", run.parent_run_id, "and belongs to", run.get_full_lineage())

# %% [markdown]
# ## Get the data ready to plot
# The table has observed rows only. The rows of a derived run begin with those of its base, so that each `run` is one
# continuous curve.

# %%
frames = [
    lineage.get_continuous_curves(sweep[lineage.lineage_id], metrics=["arc_easy", "train_loss"]) for lineage in lineages
]
curves = pd.concat(frames, ignore_index=True)
print(curves.groupby(["lineage_id", "run", "checkpoint_type"])["arc_easy"].agg(["count", "max"]).round(3))

# %% [markdown]
# The same lineages as a labeled array, on one token axis:

# %%
ds = lineages.to_dataset(metrics=["arc_easy"])
print(ds["arc_easy"])
