"""How should the folds of a model of classes be pooled for new rows: by probabilities, their logarithms, or between?

Trains the preset on a shared set of classes, and prints the log loss of the blend on its test rows for several floors
of ``ensemble.pool``: a small one is the geometric mean, a large one the arithmetic one. Shares and temperatures are
those of the run: the pool plays no part in them.
Run: MIXFIT_DATA=... python benchmarks/study_pool.py PRESET SEEDS [set ...]"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from bench_accuracy import SETS
from rich.console import Console

from mixfit.auto.recipe import fit
from mixfit.config import DataConfig, TrainConfig
from mixfit.predictor.blend import BlendPredictor

FLOORS = (1e-9, 1e-4, 1e-3, 1e-2, 1e-1, 1e3)


def losses(name: str, preset: str, seed: int) -> list[float]:
    """Log loss on the test rows, by floor."""
    table, folder = SETS[name], Path(os.environ["MIXFIT_DATA"]) / name
    frame = pd.read_csv(folder / "table.csv", dtype=str)
    data = DataConfig(roles=dict(table.roles), ignore=table.ignore, images=folder)
    with tempfile.TemporaryDirectory() as out:
        run = fit(
            frame,
            target=table.target,
            data=data,
            train=TrainConfig(preset=preset, seed=seed, report=False),  # type: ignore[arg-type]
            out=Path(out),
            console=Console(quiet=True),
        )
        rows = frame.iloc[pd.read_parquet(run.folder / "predictions_test.parquet")["row"]]
    predictor = run.predictor
    assert isinstance(predictor, BlendPredictor)
    classes = list(predictor.target.classes or ())
    truth = np.array([classes.index(value) for value in rows[table.target]])
    found = []
    for floor in FLOORS:
        object.__setattr__(predictor, "pool_floor", floor)
        predicted = predictor.predict(rows, images=folder)
        values = predicted[[column for column in predicted.columns if column.startswith("probability_")]].to_numpy()
        found.append(float(-np.log(np.clip(values[np.arange(len(rows)), truth], 1e-6, 1)).mean()))
    return found


def main(preset: str, seeds: int, wanted: list[str]) -> None:
    """Print one line per training."""
    print(f"{'set':18}{'seed':>5}" + "".join(f"{floor:>9g}" for floor in FLOORS))
    for name in wanted:
        for seed in range(seeds):
            found = losses(name, preset, seed)
            print(f"{name:18}{seed:>5}" + "".join(f"{loss:9.4f}" for loss in found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] or ["covid_xray", "leaf99"])
