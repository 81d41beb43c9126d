"""Small stores of fakes: one to know by heart, and any that hypothesis can think of."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from fakes import FakeStore, FakeTables, sft
from reference import ReferenceRun

PER_STEP = 32 * 2048
FINAL = 5_725 * PER_STEP
BASES = ("dolma1_7-4M-default", "c4-4M-default")

scores = st.floats(0, 1, allow_nan=False)


@st.composite
def stores(draw: st.DrawFn) -> tuple[FakeTables, FakeStore, dict[str, ReferenceRun]]:
    """Two bases with gaps, and finetuning runs that branch at observed, unobserved or missing checkpoints."""
    tables: dict[str, dict[int, dict[str, float]]] = {}
    truth: dict[str, ReferenceRun] = {}
    for label in BASES:
        steps = draw(st.lists(st.sampled_from([0, 1250, 2500, 3750, 5000, 5725, 5735]), unique=True, min_size=1))
        tables[label] = {}
        own = {}
        for step in steps:
            value = draw(st.none() | scores)
            tables[label][step] = {"pile_valppl": 3.0} if value is None else {"piqa": value}
            if value is not None:
                own[step * PER_STEP] = value
        truth[label] = ReferenceRun(own)
    runs = []
    for i in range(draw(st.integers(0, 4))):
        label = draw(st.sampled_from(BASES))
        step = draw(st.sampled_from([1250, 2500, 2600, 5725]))
        counts = np.cumsum(draw(st.lists(st.integers(1, 10**8), min_size=1, max_size=4))).tolist()
        final = draw(st.none() | scores)
        slug = label.removesuffix("-4M-default")
        name = f"250901-15573{i}_x_100Mtx1_DD-{slug}-4M-{step}-0_lr=1e-05"
        runs.append(
            sft(
                name,
                counts,
                model_name_or_path=None,
                learning_rate=10.0 ** -(i + 3),
                evaluations={} if final is None else {"piqa": final},
            )
        )
        own = {} if final is None else {step * PER_STEP + counts[-1]: final}
        truth[name] = ReferenceRun(own, truth[label], step * PER_STEP)
    return FakeTables(tables), FakeStore(runs), truth


def example() -> tuple[FakeTables, FakeStore]:
    tables = FakeTables(
        {
            "dolma1_7-4M-default": {0: {"piqa": 0.5}, 2500: {"piqa": 0.52}, 5725: {"piqa": 0.6, "pile_valppl": 140.0}},
            "c4-4M-default": {0: {"piqa": 0.5}, 5000: {"piqa": 0.55}},
        }
    )
    out = "/m/2025_08_21-15_03_00_g"
    store = FakeStore(
        [
            sft("a", [1e8, 2e8], reduce_loss="sum", evaluations={"piqa": 0.7}, output_dir=f"{out}/a"),
            sft("b", [1e8, 2e8], model_name_or_path="allenai/DataDecide-c4-4M", evaluations={"piqa": 0.65}),
            sft("dead", [1e8], state="crashed", learning_rate=3e-5),
            sft(
                "d",
                program="dpo.py",
                model_name_or_path=f"{out}/model/a/",
                dpo_beta=5,
                per_device_train_batch_size=2,
                gradient_accumulation_steps=4,
                evaluations={"piqa": 0.75},
            ),
        ]
    )
    store.fake_runs[-1].rows.extend([(1, {"train_loss": 0.69}), (2, {"train_loss": 0.6})])
    return tables, store
