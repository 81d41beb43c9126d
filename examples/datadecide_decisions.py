# %% [markdown]
# # The decision accuracies of DataDecide
#
# How often does a small model order two data recipes as the 1B model does? Set the path to the released evaluation
# tables (the Hub's dataset allenai/DataDecide-eval-results) and run it: it prints the recomputed accuracies beside the
# published ones. Without a path, a small generated suite stands in, with other recipes, sizes and numbers.

# %%
import os
from pathlib import Path

import pandas as pd

import dde

# A folder or an fsspec URL of the tables, raw or parsed.
DATA = os.environ.get("DDE_DATA")
TASKS = "arc_challenge arc_easy boolq csqa hellaswag mmlu_average openbookqa piqa socialiqa winogrande".split()
SIZES = "4M 6M 8M 10M 14M 16M 20M 60M 90M 150M 300M 530M 750M".split()
# Magnusson et al. (2025), arXiv:2504.11393, on the released tables: the share of the 300 pairs of 25 recipes that a
# size orders as 1B does, by the mean over the ten OLMES tasks, from one seed (mean over seeds) and from the mean of
# three.
PUBLISHED = pd.DataFrame(
    {
        "published, one seed": [.379, .457, .564, .593, .570, .637, .646, .714, .786, .803, .823, .847, .816],
        "published, mean of seeds": [.313, .443, .570, .577, .590, .717, .740, .767, .803, .830, .860, .883, .860],
    },
    index=SIZES,
)  # fmt: skip

# %% [markdown]
# ## Open
# Pretraining runs only: the mean over the ten tasks is a metric like any other, computed from their observations.

# %%
target = {"params": "1B" if DATA else "150M"}
ds = dde.open_lineages(DATA, metrics=TASKS) if DATA else dde.tutorial.open_lineages("small", metrics=TASKS)
bases = ds.dde.base_curves()
bases = bases.dde.derive(olmes=lambda seen: sum(seen[task] for task in TASKS) / len(TASKS))
print(bases["olmes"])

# %% [markdown]
# ## Answer
# On two footings: each run at the planned end of its size, and at its last evaluation. The released runs of 750M were
# evaluated up to 41 % of their schedule only, so they have no value at its end; their last one is that of a run in
# mid-training, and the call says so. The target is always the mean over its seeds.

# %%
answers = {
    f"{seeds} at {at}": bases.dde.decision_accuracy("olmes", target=target, at=at, seeds=how, interval="none")
    for at in ("schedule", "last")
    for seeds, how in (("one seed", "each"), ("mean of seeds", "mean"))
}
table = pd.DataFrame({name: answer["accuracy"].to_series() for name, answer in answers.items()})
table["recipes"] = answers["mean of seeds at last"]["n"].to_series()
if DATA:
    table = table.join(PUBLISHED)
print(table.round(3).to_string())
for name, answer in answers.items():
    print(f"{name}: left out: {answer.attrs['left_out'] or 'none'}")

# %% [markdown]
# ## Plot
# Every checkpoint of every size, against its compute as a fraction of the target's: the figure of the paper.

# %%
curves = bases.dde.decision_accuracy("olmes", target=target, checkpoints="all", seeds="each")
folder = Path("data_cache/examples")
folder.mkdir(parents=True, exist_ok=True)
dde.save(curves.dde.plot(backend="matplotlib"), folder / "datadecide_decisions.png")
