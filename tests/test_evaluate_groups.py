"""``evaluate`` resamples the same units as the training: groups, repeated ids and copies, also of new tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.runs.scoring import evaluate_table

SMALL = ModelConfig(tabular="mlp", tabular_hidden=(8,), encoding_dim=4, numbers="plain")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """Each row is there three times, but for its number."""
    folder, rng = tmp_path_factory.mktemp("copies"), np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=120), "z": rng.normal(size=120)})
    frame["y"] = frame["x"] + rng.normal(size=120)
    frame = pd.concat([frame] * 3, ignore_index=True)
    frame.insert(0, "row_id", [f"r{row}" for row in range(len(frame))])
    frame.to_csv(folder / "table.csv", index=False)
    run = fit(
        folder / "table.csv",
        target="y",
        data=DataConfig(cache_gb=0.0),
        model=SMALL,
        train=TrainConfig(preset="network", epochs=1),
        out=folder / "runs",
        console=QUIET,
    )
    return run, folder / "table.csv"


def test_the_run_s_own_test_rows_have_the_intervals_of_its_report(copies: tuple[Run, Path], tmp_path: Path) -> None:
    run, table = copies
    evaluate_table(run, table, split="test", out=tmp_path / "m.json", console=QUIET)
    found, part = json.loads((tmp_path / "m.json").read_text()), run.result.final
    assert part.groups is not None
    assert found["groups"] == part.groups == part.rows / 3
    for metric, (low, high) in part.score(run.result.ours).intervals.items():
        assert (found[f"{metric}_ci95_low"], found[f"{metric}_ci95_high"]) == pytest.approx((low, high))


def test_copies_in_a_new_table_are_one_unit(copies: tuple[Run, Path], tmp_path: Path) -> None:
    run, table = copies
    frame = pd.read_csv(table).sample(frac=1, random_state=0)
    evaluate_table(run, frame, out=tmp_path / "three.json", console=QUIET)
    once = frame.drop_duplicates(["x", "z"])
    evaluate_table(run, once, out=tmp_path / "once.json", console=QUIET)
    three, single = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("three", "once"))
    assert (three["rows"], three["groups"]) == (360, 120)
    assert (single["rows"], single["groups"]) == (120, None)
    widths = [one["mae_ci95_high"] - one["mae_ci95_low"] for one in (three, single)]
    assert widths[0] == pytest.approx(widths[1], rel=0.25)  # copies are no further evidence
