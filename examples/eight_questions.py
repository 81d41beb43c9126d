# %% [markdown]
# # Eight questions, and one more
#
# What a sweep is run for, asked of a small generated suite: four recipes, seven sizes, up to three seeds, and fifty
# finetuning and DPO runs. Each answer is a Dataset that says which runs entered, and draws itself.

# %%
from pathlib import Path

import dde

folder = Path("data_cache/examples")
folder.mkdir(parents=True, exist_ok=True)


def show(answer, name):
    """Save the picture of an answer, and print what it is based on."""
    dde.save(answer.dde.plot(backend="matplotlib"), folder / f"question_{name}.png")
    print({n: answer.attrs[n] for n in ("at", "interval_method", "left_out") if answer.attrs.get(n)})


# %% [markdown]
# ## Open
# Three evaluations and a perplexity. The bases are the pretraining runs; the single repeated row is one that the
# generator made contradictory, and the warning names it.

# %%
ds = dde.tutorial.open_lineages("small", metrics=["arc_easy", "hellaswag", "piqa", "pile_valppl"])
bases = ds.dde.base_curves()
sft = ds.dde.sel(run_type="supervised_ft", branch_point="", params="150M")

# %% [markdown]
# ## When is a target reached?
# Runs that never reach it are censored, not left out: the share on the right counts them.

# %%
reached = bases.dde.reach("arc_easy", 0.45, rule="sustained")
print(reached["status"].to_series().value_counts())
show(reached, "reach")

# %% [markdown]
# ## Which checkpoint of a larger model is as good as the 150M model?
# Only observed checkpoints, with their Hub revisions.

# %%
matched = bases.dde.sel(params=["150M", "300M"]).dde.match("hellaswag", {"params": "150M"})
print(matched[["value", "mismatch", "revision"]].dropna("lineage").to_dataframe()[["value", "mismatch", "revision"]])
show(matched, "match")

# %% [markdown]
# ## What did finetuning change?
# The gain over the base's last evaluation before the branch, if that is near enough.

# %%
effect = sft.dde.effect("arc_easy")
print(effect["gain"].to_series().dropna().sort_values().tail())
show(effect, "effect")

# %% [markdown]
# ## Which learning rate is best, and is it inside the sweep?

# %%
best = sft.dde.best("arc_easy", over="learning_rate")
print(best[["best", "margin", "at_edge"]].to_dataframe()[["best", "margin", "at_edge"]].dropna())
show(best, "best")

# %% [markdown]
# ## Do recipes keep their order from 20M to 150M?

# %%
ranks = bases.dde.ranks(["arc_easy", "hellaswag", "piqa"], over="data", a={"params": "20M"}, b={"params": "150M"})
print(ranks[["kendall", "kendall_low", "kendall_high", "n"]].to_dataframe()[["kendall", "n"]])
show(ranks, "ranks")

# %% [markdown]
# ## How often does a small model choose the better recipe?
# At every checkpoint, against the compute of the target; each seed by itself.

# %%
accuracy = bases.dde.decision_accuracy(
    ["arc_easy", "hellaswag", "piqa"], over="data", target={"params": "150M"}, checkpoints="all", seeds="each"
)
print(accuracy["naive"].to_series())
show(accuracy, "decisions")

# %% [markdown]
# ## Is the difference between recipes larger than the noise?

# %%
noise = bases.dde.sel(params=["4M", "20M", "150M"]).dde.signal_to_noise(["arc_easy", "hellaswag", "pile_valppl"])
print(noise["signal_to_noise"].to_dataframe()["signal_to_noise"].unstack("source").round(2))
show(noise, "noise")

# %% [markdown]
# ## Do two recipes differ?
# At each checkpoint where both were observed, paired by seed, with a permutation test.

# %%
difference = dde.compare(
    bases.dde.sel(data="C4", params="150M"), bases.dde.sel(data="DCLM-Baseline", params="150M"), "arc_easy", over="seed"
)
print(
    difference[["difference", "low", "high", "n"]].to_dataframe()[["difference", "low", "high", "n"]].dropna().tail(3)
)
show(difference, "compare")

# %% [markdown]
# ## How does the perplexity scale with compute?
# One law per recipe, with the largest size held out and predicted.

# %%
laws = bases.dde.sel(params=["4M", "20M", "150M", "300M"]).dde.fit("pile_valppl", hold_out={"params": "300M"})
print(laws["coefficient"].to_series().unstack("parameter"))
print(laws["relative_error"].to_series().unstack("predictor").round(3))
show(laws, "fit")
