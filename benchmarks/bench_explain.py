"""How near are explanations to what the embedded example is made of, and how long does a row take?

Trains the default model on the embedded example, and with ``--preset quick`` on the houses of MIXFIT_DATA if they are
there; then explains their test rows, from cached features. The truth is the Shapley values of the formula that the
prices are drawn from, with the same background rows. Rows with an empty cell or without a photo count only in the
second line, as the model cannot know what was there.
Run: python benchmarks/bench_explain.py [folder that is kept, to train only once]"""

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from mixfit.auto.recipe import fit
from mixfit.config import DataConfig, TrainConfig
from mixfit.data.photos.records import Cache
from mixfit.data.split import split_rows
from mixfit.demo import (
    AGE_EFFECT,
    BAND_EFFECT,
    DEMO_TARGET,
    GLAZES,
    HEIGHT_EFFECT,
    MAKERS,
    MATERIALS,
    YEAR_EFFECT,
    demo_truth,
    write_demo,
)
from mixfit.evaluation.explain import BACKGROUND, Explanation, explain, typical_rows
from mixfit.predictor import Predictor

ROWS = 600


def true_parts(rows: np.ndarray, background: np.ndarray) -> pd.DataFrame:
    """Shapley values of the formula of the logarithm of the price for some rows against others; with the interaction
    of table and photos, and without noise."""
    truth = demo_truth(ROWS)
    material = truth["material"].map({name: kind.effect for name, kind in MATERIALS.items()})
    cost = truth["material"].map({name: kind.crack_cost for name, kind in MATERIALS.items()})
    crack = truth["cracked"].astype(float)
    effects = pd.DataFrame(
        {
            "maker": truth["maker"].map({name: maker.effect for name, maker in MAKERS.items()}),
            "material": material,
            "height_cm": HEIGHT_EFFECT * np.log(truth["height_cm"]),
            "age_years": AGE_EFFECT * truth["age_years"],
            "weight_kg": 0.0 * truth["weight_kg"],
            "listed_on": YEAR_EFFECT * (truth["listed_on"] - truth["listed_on"].min()).dt.days / 365.25,
            "photos": truth["glaze"].map({name: glaze.effect for name, glaze in GLAZES.items()})
            + BAND_EFFECT * truth["bands"],
        }
    )
    parts = effects.iloc[rows] - effects.iloc[background].mean()
    # A crack takes away what it costs on this material; where one of both is unknown, it is a background row's.
    none, both = -(cost * crack).iloc[background].mean(), -(cost * crack).iloc[rows]
    of_material = -cost.iloc[rows] * crack.iloc[background].mean()
    of_photos = -crack.iloc[rows] * cost.iloc[background].mean()
    parts["material"] += (of_material - none + both - of_photos) / 2
    parts["photos"] += (of_photos - none + both - of_material) / 2
    parts["interaction"] = both - of_material - of_photos + none
    return parts


def say_agreement(found: Explanation, truth: pd.DataFrame, some: np.ndarray, what: str) -> None:
    """Correlations of parts with the truth, over some of the rows that were explained."""

    def agreement(ours: np.ndarray, true: np.ndarray) -> str:
        return f"{np.corrcoef(ours[some].ravel(), true[some].ravel())[0, 1]:.3f}"

    names, true = list(found.columns), truth[list(found.columns)].to_numpy()
    sides = np.stack([found.table, found.photos], axis=1)
    true_sides = np.stack([true[:, ~found.is_photo].sum(axis=1), true[:, found.is_photo].sum(axis=1)], axis=1)
    # A vase that is higher is heavier, and a model cannot know which of the two it pays for.
    size = [names.index("height_cm"), names.index("weight_kg")]

    def with_size(parts: np.ndarray) -> np.ndarray:
        return np.concatenate([np.delete(parts, size, axis=1), parts[:, size].sum(axis=1, keepdims=True)], axis=1)

    print(
        f"  {what}, {int(some.sum())} rows: table and photos {agreement(sides, true_sides)} "
        f"(table {agreement(found.table, true_sides[:, 0])}, photos {agreement(found.photos, true_sides[:, 1])}), "
        f"their interaction {agreement(found.interaction, truth['interaction'].to_numpy())}"
    )
    columns = [
        f"{name} {agreement(found.parts[:, i], true[:, i])}" for i, name in enumerate(names) if name != "weight_kg"
    ]
    print(
        f"    all columns {agreement(found.parts, true)}, height and weight as one "
        f"{agreement(with_size(found.parts), with_size(true))}; {', '.join(columns)}"
    )


def say_time(
    predictor: Predictor, frame: pd.DataFrame, images: Path, rows: np.ndarray, background: np.ndarray, cache: Cache
) -> Explanation:
    """Explain rows once to fill the cache, then a few and all of them: the difference is what rows cost."""
    others = frame.iloc[background]

    def timed(some: np.ndarray) -> tuple[Explanation, float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        found = explain(predictor, frame, images=images, rows=some.tolist(), background=others, cache=cache)
        return found, time.perf_counter() - wall, time.process_time() - cpu

    timed(rows)
    few = min((timed(rows[:10]) for _ in range(3)), key=lambda one: one[1])
    many = min((timed(rows) for _ in range(3)), key=lambda one: one[1])
    wall, cpu = (1000 * (many[place] - few[place]) / (len(rows) - 10) for place in (1, 2))
    shares = ", ".join(f"{name} {share:.2f}" for name, share in getattr(predictor, "shares", {}).items())
    print(f"  {shares}")
    kind, once = "exact" if many[0].exact else "sampled", few[1] * 1000 - 10 * wall
    print(
        f"  {wall:.0f} ms a row ({cpu:.0f} ms of processor time) and {once:.0f} ms once, the least of 3 runs; "
        f"{len(many[0].columns)} columns, {BACKGROUND} background rows, {kind}"
    )
    return many[0]


def trained(folder: Path, table: Path, target: str, preset: str) -> Predictor:
    """The run of a table, made if it is not there."""
    kept = sorted(folder.glob("*/model"))
    if kept:
        return Predictor.load(kept[-1])
    config = TrainConfig(preset=preset)  # type: ignore[arg-type]
    return fit(table, target=target, train=config, out=folder, console=Console(quiet=True)).predictor


def main() -> None:
    """Print agreement and time for the example, and time for the houses."""
    versions = f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    print(f"{versions}; {torch.get_num_threads()} of {os.cpu_count()} threads")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        cache = Cache.configured(DataConfig(cache=folder / "cache"))
        assert cache is not None
        table = write_demo(folder / "vases", rows=ROWS)
        predictor, frame = trained(folder / "demo", table, DEMO_TARGET, "balanced"), pd.read_csv(table)
        split = split_rows(frame, predictor.schema, valid=0.15, test=0.15, seed=0)
        rows, background = split.test, chosen(frame, predictor, split.train)
        print(f"embedded example, {len(rows)} test rows:")
        found = say_time(predictor, frame, table.parent, rows, background, cache)
        truth = true_parts(rows, background)
        say_agreement(found, truth, frame.iloc[rows].notna().all(axis=1).to_numpy(), "complete")
        say_agreement(found, truth, np.ones(len(rows), dtype=bool), "all")
        data = os.environ.get("MIXFIT_DATA")
        if data and (Path(data) / "houses").is_dir():
            table = Path(data) / "houses" / "table.csv"
            predictor, frame = trained(folder / "houses", table, "price", "quick"), pd.read_csv(table)
            rows = np.flatnonzero(frame["split"] == "test")[:40]
            background = chosen(frame, predictor, np.flatnonzero(frame["split"] == "train"))
            print(f"houses, {len(rows)} test rows:")
            say_time(predictor, frame, table.parent, rows, background, cache)


def chosen(frame: pd.DataFrame, predictor: Predictor, train: np.ndarray) -> np.ndarray:
    """Background rows among the rows of training."""
    return train[typical_rows(frame.iloc[train], predictor, BACKGROUND)]


if __name__ == "__main__":
    main()
