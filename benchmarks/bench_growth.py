"""Processor time of ``mixfit.fit`` with the preset quick by stage, and how it grows with rows, columns, levels, classes
and photos.

The made table has numbers with a nonlinear effect, categories and dates; with "photos" so many photos, which all rows
share equally. Along each axis it is measured at n, 2n, 4n and 8n, each in a process of its own on one thread; the
exponent of a stage is the slope of the logarithm of its seconds between n and 8n (1 = in proportion). The error is the
mean squared error of the saved model on 2,000 new rows, relative to the variance of the target, or for classes, which
are fifths and the like of it, the log loss; for comparison with another version, take the same seed and rows.
Run: python benchmarks/bench_growth.py [rows=3000] [columns=30] [levels=300] [classes=4] [photos=250] [seed=0]
     python benchmarks/bench_growth.py one rows=20000 columns=30 levels=300     (one size, every stage)
     python benchmarks/bench_growth.py one rows=100000 models=linear     (only constant and linear models)"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

DEFAULTS = {"rows": 3_000, "columns": 30, "levels": 300, "seed": 0, "classes": 0, "photos": 0}
NEW_ROWS = 2_000
FACTORS = (1, 2, 4, 8)
SIDE = 64  # pixels of a photo
ROWS_WITH_PHOTOS = 250  # along the axis of photos
STAGES = {
    "photo copies": "mixfit.data.ties scan_photos",
    "similar photos": "mixfit.data.ties near_duplicates",
    "photo features": "mixfit.training.build encode_photos",
    "prepare": "mixfit.auto.recipe prepare",
    "encode folds": "mixfit.auto.blending fit_folds",
    "fit linear": "mixfit.models.linear Linear.fit",
    "fit kernel ridge": "mixfit.models.kernels KernelRidge.fit",
    "fit trees": "mixfit.models.trees BoostedTrees.fit",
    "fit network": "mixfit.models.network Network.fit",
    "predict linear": "mixfit.models.linear FittedLinear.predict",
    "predict kernel ridge": "mixfit.models.kernels FittedKernels.predict",
    "predict trees": "mixfit.models.trees FittedTrees.predict",
    "predict network": "mixfit.models.network FittedNetwork.predict",
    "fit models, besides": "mixfit.auto.cross_validation cross_fit",
    "blend": "mixfit.auto.blending _choose",
    "intervals": "mixfit.auto.blending _predictor",
    "scores": "mixfit.auto.preset_run result_of",
    "explanation": "mixfit.runs.results explanation_of",
    "report": "mixfit.auto.started write_results",
    "save": "mixfit.auto.preset_run save_model",
    "parse rows": "mixfit.predictor.base Predictor.raw_rows",
    "encode rows": "mixfit.models.encoding RowEncoder.encode",
}


def table(*, rows: int, columns: int, levels: int, seed: int, classes: int = 0) -> pd.DataFrame:
    """Two thirds of the columns are numbers, two are dates, the others categories, one of which has ``levels``."""
    rng, effects = np.random.default_rng(seed), np.random.default_rng(12345)
    categories = max(1, columns * 4 // 15)
    numbers = max(8, columns - categories - 2)
    x = rng.normal(size=(rows, numbers))
    truth = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * np.abs(x[:, 3]) + 0.3 * x[:, 4] ** 2 + 0.5 * x[:, 5]
    truth += (x[:, 6] > 0.5) * x[:, 7]
    frame: dict[str, Any] = {f"number {place}": values for place, values in enumerate(x.T)}
    for place in range(categories):
        count = levels if place == categories - 1 else (3, 5, 8, 12, 20, 40, 100)[place % 7]
        code, effect = rng.integers(0, count, rows), effects.normal(size=count)
        truth += effect[code] * (0.5 if place < 4 else 0.2 / math.sqrt(categories))
        frame[f"category {place}"] = np.array([f"v{number}" for number in range(count)])[code]
    for place in range(2):
        days = rng.integers(0, 2_000, rows)
        truth += (place == 0) * 0.4 * np.sin(2 * np.pi * days / 365.25)
        frame[f"date {place}"] = (pd.Timestamp("2019-01-01") + pd.to_timedelta(days, unit="D")).astype(str)
    for place in range(0, numbers, 5):
        frame[f"number {place}"] = np.where(rng.random(rows) < 0.03, np.nan, frame[f"number {place}"])
    target = truth + 0.3 * rng.normal(size=rows)
    if classes:
        part = np.searchsorted(np.sort(target), target) * classes // rows
        return pd.DataFrame(frame | {"y": np.array([f"class {number}" for number in range(classes)])[part]})
    return pd.DataFrame(frame | {"y": target})


def add_photos(frame: pd.DataFrame, photos: int, folder: Path) -> pd.DataFrame:
    """The table with as many photos for each row, whose colour tells of the target.

    Raises:
        ValueError: the rows cannot share so many photos equally.
    """
    if photos % len(frame):
        raise ValueError(f"{len(frame)} rows cannot share {photos} photos equally: give photos=N, a multiple of rows")
    place = pd.Series(frame["y"]).rank(pct=True).to_numpy()
    rng, names = np.random.default_rng(0), dict[str, list[str]]()
    for number in range(photos // len(frame)):
        names[f"photo {number}"] = [f"{number}-{row}.jpg" for row in range(len(frame))]
        for row, share in enumerate(place):
            noise = rng.integers(0, 128, (SIDE, SIDE, 3)) + np.array([127 * share, 60, 127 * (1 - share)])
            Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}-{row}.jpg")
    return frame.assign(**names)


def watch() -> tuple[Counter[str], Callable[[str, Callable[..., Any]], Callable[..., Any]]]:
    """Time every stage from now on: seconds of the processor by stage, without those of stages inside it.

    The second is what times a function as a stage."""
    seconds: Counter[str] = Counter()
    inside: list[float] = [0.0]

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            inside.append(0.0)
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.process_time() - started
                seconds[stage] += took - inside.pop()
                inside[-1] += took

        return call

    for stage, place in STAGES.items():
        module, _, path = place.partition(" ")
        owner: Any = import_module(module)
        *classes, name = path.split(".")
        for part in classes:
            owner = getattr(owner, part)
        setattr(owner, name, timed(stage, getattr(owner, name)))
    return seconds, timed


def measure(sizes: dict[str, Any]) -> dict[str, Any]:
    """Train in this process: the seconds of each stage without those inside it, the error and the peak of memory."""
    import torch
    from rich.console import Console

    from mixfit.auto.recipe import fit
    from mixfit.config import DataConfig, TrainConfig

    torch.set_num_threads(1)
    planning: Any = import_module("mixfit.auto.planning")
    models, plan_for = sizes.pop("models", ""), planning.plan_for
    if models:

        def plan(*args: Any, **kwargs: Any) -> Any:
            found = plan_for(*args, **kwargs)
            kept = tuple(one for one in found.models if one.name.startswith(("constant", *models.split("+"))))
            return replace(found, models=kept)

        planning.plan_for = plan
    seconds, timed = watch()
    photos = sizes.pop("photos")
    frame, new = table(**sizes), table(**sizes | {"rows": NEW_ROWS, "seed": sizes["seed"] + 1_000})
    with tempfile.TemporaryDirectory() as folder:
        # New rows have no photos: their features are a stage of their own.
        given: dict[str, Any] = {"images": folder, "data": DataConfig(cache=Path(folder, "cache"))} if photos else {}
        if photos:
            frame = add_photos(frame, photos, Path(folder))
            new = new.assign(**dict.fromkeys((name for name in frame if name.startswith("photo ")), ""))
        settings = TrainConfig(preset="quick")
        run = timed("besides", fit)(
            frame, target="y", out=f"{folder}/runs", train=settings, console=Console(quiet=True), **given
        )
        total, peak = sum(seconds.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        started = time.process_time()
        found = run.predictor.predict(new, images=folder if photos else None)
        seconds["predict new rows"] = time.process_time() - started
    error = error_of(found, new["y"])
    return {"seconds": dict(seconds), "total": total, "peak": peak, "error": error, "shares": run.predictor.shares}


def error_of(found: pd.DataFrame, truth: pd.Series) -> float:
    """Squared error relative to the variance, or log loss."""
    if truth.dtype.kind == "f":
        return float(np.mean((found["prediction"].to_numpy() - truth.to_numpy()) ** 2) / truth.var())
    columns = [found.columns.get_loc(f"probability_{label}") for label in truth]
    chosen = found.to_numpy()[np.arange(len(found)), columns].astype(np.float64)
    return float(-np.log(np.maximum(chosen, 1e-6)).mean())


def in_process(sizes: dict[str, Any]) -> dict[str, Any]:
    """``measure`` in a new process."""
    called = [sys.executable, __file__, "--measure", json.dumps(sizes)]
    one = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # NumPy's own threads, too
    text = subprocess.run(called, check=True, stdout=subprocess.PIPE, text=True, env=one).stdout
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def print_growth(axis: str, sizes: dict[str, Any]) -> None:
    """The seconds of each stage at n, 2n, 4n and 8n, and the exponent."""
    every = [in_process(sizes | {axis: sizes[axis] * factor}) for factor in FACTORS]
    said = "".join(f"{sizes[axis] * factor:>12,}" for factor in FACTORS)
    print(f"{axis:<22}{said}{'exponent':>10}")
    stages = sorted({stage for one in every for stage in one["seconds"]}, key=lambda s: -every[-1]["seconds"].get(s, 0))
    for stage in stages:
        print_line(stage, [one["seconds"].get(stage, 0.0) for one in every])
    print_line("all", [one["total"] for one in every])
    print(f"{'peak memory, MB':<22}" + "".join(f"{one['peak'] / 1e6:>12,.0f}" for one in every))
    print(f"{'error':<22}" + "".join(f"{one['error']:>12.4f}" for one in every), flush=True)


def print_line(stage: str, seconds: list[float]) -> None:
    """One stage at all sizes."""
    if max(seconds) >= 0.05:
        known = seconds[0] >= 0.05 and seconds[-1] > 0
        slope = f"{math.log(seconds[-1] / seconds[0], FACTORS[-1]):10.2f}" if known else ""
        print(f"{stage:<22}" + "".join(f"{one:>12.2f}" for one in seconds) + slope)


def main(args: list[str]) -> None:
    """Every axis that is named, by default all, or one size."""
    if args[:1] == ["--measure"]:
        print(json.dumps(measure(json.loads(args[1]))))
        return
    given: dict[str, Any] = dict(arg.split("=", 1) for arg in args if "=" in arg)
    given = {name: value if name == "models" else int(value) for name, value in given.items()}
    axes = [arg.partition("=")[0] for arg in args if not arg.startswith(("one", "seed=", "models="))]
    sizes = DEFAULTS | given
    print(f"mixfit {version('mixfit')}, numpy {np.__version__}, one thread, seconds of the processor: {sizes}")
    if args[:1] == ["one"]:
        found = in_process(sizes)
        for stage, took in sorted(found["seconds"].items(), key=lambda one: -one[1]):
            print(f"{stage:<22}{took:>12.2f}")
        print(f"{'all':<22}{found['total']:>12.2f}\npeak memory, MB       {found['peak'] / 1e6:>12,.0f}")
        print(f"error {found['error']:.4f}, shares {found['shares']}")
        return
    given = {"classes": 4, "photos": ROWS_WITH_PHOTOS} | given
    for axis in axes or ["rows", "columns", "levels", "classes", "photos"]:
        shared = {name: sizes[name] for name in ("seed", "models") if name in sizes}
        few = {"rows": ROWS_WITH_PHOTOS} if axis == "photos" else {}
        print_growth(axis, DEFAULTS | shared | few | {axis: given.get(axis, DEFAULTS[axis])})


if __name__ == "__main__":
    main(sys.argv[1:])
