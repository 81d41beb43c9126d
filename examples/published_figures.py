# %% [markdown]
# # Published figures from published files
#
# Three results on public suites, recomputed from the files that their authors published: the OLMo ladder's decays and
# its two-step prediction, and Pythia's interventions. Set the folder that holds `olmo_ladder/` (allenai/OLMo, branch
# ladder-1xC, `scripts/scaling/data`) and `pythia/` (EleutherAI/pythia, `evals/pythia-v1`), and run it.

# %%
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import dde

SUITES = Path(os.environ.get("DDE_SUITES", "suites"))
if not (SUITES / "olmo_ladder").is_dir():
    sys.exit(f"{SUITES} has no folder olmo_ladder. Set DDE_SUITES to the folder of the published files.")
pictures = Path("data_cache/examples")
pictures.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Decays
# Does a short decay of the learning rate reach the loss of a complete cosine schedule? At the end of each budget, the
# decay branch of the trunk has the lower C4 loss in all 25 cells. At the tokens of its end, the trunk itself is above.

# %%
ladder = dde.open_lineages(str(SUITES / "olmo_ladder"), suite="olmo_ladder", metrics=["c4_en_loss"])
cosine, decay = (ladder.dde.sel(run_type=kind) for kind in ("cosine", "decay"))
against_cosine = dde.compare(cosine, decay, "c4_en_loss", at="last")
difference = against_cosine["difference"]
print(f"decay below cosine in {int((difference < 0).sum())} of {difference.size} cells")
print(f"by {float(-difference.max()):.4f} to {float(-difference.min()):.4f} nats")
print("left out:", against_cosine.attrs["left_out"])
dde.save(against_cosine.dde.plot(backend="matplotlib"), pictures / "decays.png")

# %%
gain = ladder.dde.sel(run_type="decay").dde.effect("c4_en_loss")
print("gain over the trunk's last evaluation before the branch:")
print(gain["gain"].to_series().dropna().describe()[["count", "min", "max"]])
dde.save(gain.dde.plot(backend="matplotlib"), pictures / "decay_gains.png")

# %% [markdown]
# ## Predictions
# Bhagia et al. (2024), arXiv:2412.04403: from 16 runs of up to 1B parameters, predict the accuracy of 7B on 4T tokens
# and of 13B on 5T tokens in two steps, first the loss of a task from its size, then its accuracy from the loss.

# %%
WEIGHTS = {"stem": 0.215, "humanities": 0.335, "social_sciences": 0.219, "other": 0.231}
NEAR = ["hellaswag_val_rc_5shot", "piqa_val_rc_5shot", "socialiqa_val_rc_5shot"]
FAR = ["arc_challenge_test_rc_5shot", "arc_easy_test_rc_5shot", "csqa_val_rc_5shot", "openbookqa_test_rc_5shot"]
PARTS = [f"mmlu_{part}_test_rc_5shot" for part in WEIGHTS]
names = ["mmlu", *NEAR, *FAR]

tasks = dde.open_lineages(
    str(SUITES / "olmo_ladder"),
    suite="olmo_ladder",
    metrics=[n + s for n in (*NEAR, *FAR, *PARTS) for s in ("", "_bpb")],
)
for suffix in ("", "_bpb"):
    mean = sum(weight * tasks[part + suffix] for part, weight in zip(PARTS, WEIGHTS.values(), strict=True))
    tasks[f"mmlu{suffix}"] = mean.dde.sampled_as(PARTS[0] + suffix)
runs = tasks.dde.sel(lineage=["190M", "370M", "760M", "1B"], run=[f"cosine-{budget}xC" for budget in (1, 2, 5, 10)])
laws = runs.dde.fit(names, law="two_step", loss=[f"{n}_bpb" for n in names], at="last", window=5, skip=0.1)
targets = {
    "n_params": xr.DataArray([6_887_575_552, 13_202_396_160], {"target": ["7B", "13B"]}, dims="target"),
    "tokens": xr.DataArray([3_945_065_873_408, 5_000_088_518_656], dims="target"),
}
predicted = laws.dde.predict(**targets)

# %%
observed = []
for file in ("peteish7_eval_anneal", "peteish13_eval_final"):
    last = pd.read_csv(SUITES / "olmo_ladder" / "cosine" / f"{file}.csv").iloc[-5:]
    values = {task: last[f"eval/downstream/{task}_len_norm"].mean() for task in (*NEAR, *FAR, *PARTS)}
    values["mmlu"] = sum(weight * values[part] for part, weight in zip(PARTS, WEIGHTS.values(), strict=True))
    observed.append([values[name] for name in names])
error = 100 * np.abs(predicted["predicted"] - np.array(observed).T)
print(error.to_series().unstack("target").round(2))
print(f"mean over the four far tasks: {float(error.sel(metric=FAR).mean()):.2f} points (published: about 6.9)")
print(f"largest on the other four: {float(error.sel(metric=names[:4]).max()):.2f} points (published: about 2)")
dde.save(laws.sel(metric=names[:4]).dde.plot(backend="matplotlib"), pictures / "two_steps.png")

# %% [markdown]
# ## Interventions
# Pythia's models were retrained from late checkpoints on changed data. Against their baselines, over the steps that
# both have, with the standard errors that lm-evaluation-harness gives.

# %%
pythia = dde.suites["pythia"]
(interventions,) = [table for table in pythia.tables if table.run_type == "intervention"]
pattern = interventions.patterns[0].text
pattern = pattern.replace("/intervention/intervention-", "/baseline/baseline-").replace("{long:|-long}", "")
suite = replace(
    pythia,
    name="pythia_baselines",
    run={**dict(pythia.run), "baseline": "baseline"},
    tables=[*pythia.tables, replace(interventions, files=pattern, run_type="baseline")],
)
metric = "crows_pairs_english_pct_stereotype"
ds = dde.open_lineages(str(SUITES / "pythia"), suite=suite, metrics=[metric, f"{metric}_stderr"])
stereotypes = dde.compare(ds.dde.sel(run="baseline"), ds.dde.sel(run=["intervention", "intervention-long"]), metric)
table = stereotypes[["difference", "stderr"]].to_dataframe()[["difference", "stderr"]].dropna()
print(table.groupby(["lineage", "run"]).mean().round(4))
dde.save(stereotypes.dde.plot(backend="matplotlib"), pictures / "interventions.png")
