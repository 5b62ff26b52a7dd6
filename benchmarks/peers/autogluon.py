"""How does the recipe compare with AutoGluon's best_quality on the same features and folds of five shared sets?

AutoGluon gets the table and principal components of mixfit's own frozen photo features; they are fitted on the
training rows of each fold, and their number is chosen for AutoGluon by gradient boosting on an inner split. Both are
judged by the measure of ``bench_accuracy.py``, which AutoGluon is told to optimise, on the same scale of the target.
Rare classes are kept. AutoGluon gets SECONDS, at least those of mixfit on that fold; the choice of the number of
components comes on top.
AutoGluon needs an environment of its own: python -m venv DIR && DIR/bin/pip install "autogluon.tabular[all]". Without
it this program says so and ends. Every fold is written into FOLDER, which ``bench_accuracy.py`` reads, and is not run
again.
Run: MIXFIT_DATA=... python benchmarks/peers/autogluon.py DIR/bin/python PRESET FOLDER SECONDS [set[:folds] ...]"""

import json
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_accuracy import BLEND, SETS, Results, error_of, fold_of, load, run_fold

from mixfit.data.load import MixedData, prepare_target
from mixfit.ensemble.cross_fit import photo_means
from mixfit.models.model import Components

COUNTS = (10, 30, 60, 120)
"""Candidate numbers of components."""


def installed(python: str) -> str:
    """The version of AutoGluon in that environment, "" without it."""
    asked = "import importlib.metadata as m; print(m.version('autogluon.tabular'))"
    try:
        found = subprocess.run([python, "-I", "-c", asked], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def write_task(data: MixedData, folder: Path, seconds: float, seed: int) -> None:
    """The rows of one fold, and what is to be learnt."""
    folder.mkdir(parents=True, exist_ok=True)
    train, test = data.split.train, data.split.test
    kinds = {role: list(data.schema.names(role)) for role in ("number", "category", "date", "text", "tags")}
    names = [name for those in kinds.values() for name in those]
    frame = data.frame[names].astype(object).where(data.frame[names].notna(), None)
    for name in kinds["number"]:
        frame[name] = data.table[name].numbers.values
    means = photo_means(data)
    parts: list[str] = []
    if means.values is not None:
        found = Components.fit(means.values[train], means.seen[train], most=max(COUNTS), seed=seed)
        values = found.apply(means.values, means.seen)
        parts = [f"component_{place}" for place in range(values.shape[1])]
        frame = pd.concat([frame.reset_index(drop=True), pd.DataFrame(values, columns=parts)], axis=1)
    truth, classes = data.arrays.target.numpy(), len(data.target.classes or ())
    frame["target"] = truth
    frame.iloc[train].to_csv(folder / "train.csv", index=False)
    frame.iloc[test].drop(columns="target").to_csv(folder / "test.csv", index=False)
    task = {
        "label": "target",
        "problem": "regression" if not classes else "binary" if classes == 2 else "multiclass",
        "metric": "root_mean_squared_error" if not classes else "roc_auc" if classes == 2 else "log_loss",
        "components": parts,
        "counts": [count for count in COUNTS if count <= len(parts)] or [len(parts)],
        "categories": kinds["category"] + kinds["tags"],
        "dates": kinds["date"],
        "texts": kinds["text"],
        "seconds": seconds,
        "threads": torch.get_num_threads(),
    }
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")


def read_predictions(data: MixedData, folder: Path) -> np.ndarray:
    """Numbers, or probabilities of all classes; 0 for a class that AutoGluon has not seen."""
    found = pd.read_csv(folder / "predictions.csv")
    classes = len(data.target.classes or ())
    if not classes:
        return found.iloc[:, 0].to_numpy(dtype=np.float64)
    values = np.zeros((len(found), classes))
    values[:, [int(float(name)) for name in found.columns]] = found.to_numpy(dtype=np.float64)
    return values


def run(python: str, preset: str, kept: Path, seconds: float, name: str, place: int) -> dict[str, Any]:
    """Both sides on one fold, from their files if they have been run."""
    ours, theirs = kept / f"{preset}-{name}-0-{place}.json", kept / f"autogluon-{name}-0-{place}.json"
    if not ours.exists() or not theirs.exists():
        data, image = load(name)
        fold = fold_of(data, 0, place)
        if not ours.exists():
            results = run_fold(fold, image, preset, seed=place)
            ours.write_text(json.dumps(asdict(results)), encoding="utf-8")
        if not theirs.exists():
            target = prepare_target(fold.frame, fold.schema, replace(fold.split, valid=fold.split.test))
            arrays = replace(fold.arrays, target=torch.from_numpy(target.encoded))
            fold = replace(fold, target=target.scale, arrays=arrays)
            needed = Results(**json.loads(ours.read_text(encoding="utf-8"))).seconds[BLEND]
            folder = kept / "autogluon" / f"{name}-{place}"
            write_task(fold, folder, max(seconds, needed), seed=place)
            worker = Path(__file__).with_name("autogluon_fold.py")
            subprocess.run([python, "-I", str(worker), str(folder)], check=True)
            done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
            truth = fold.arrays.target.numpy()[fold.split.test]
            done["error"] = error_of(fold, truth, read_predictions(fold, folder))
            theirs.write_text(json.dumps(done), encoding="utf-8")
    mine = Results(**json.loads(ours.read_text(encoding="utf-8")))
    found: dict[str, Any] = json.loads(theirs.read_text(encoding="utf-8"))
    return found | {"mixfit": mine.errors[BLEND][0], "mixfit_seconds": mine.seconds[BLEND]}


def main(python: str, preset: str, kept: Path, seconds: float, wanted: list[str]) -> None:
    """Every fold, every set, and all sets."""
    version = installed(python)
    if not version:
        print(f"skipped: AutoGluon is not installed for {python} (pip install 'autogluon.tabular[all]')")
        return
    kept.mkdir(parents=True, exist_ok=True)
    print(f"python {platform.python_version()}, AutoGluon {version}, preset {preset}, AutoGluon at least {seconds:g} s")
    print(
        f"{'set':18}{'folds':>6}{'mixfit':>9}{'AutoGluon':>11}{'ratio':>7}{'of means':>10}{'wins':>6}{'s':>7}"
        f"{'s of AutoGluon':>16}"
    )
    ratios: dict[str, float] = {}
    of_means: list[float] = []
    for text in wanted:
        name, _, count = text.partition(":")
        folds = [run(python, preset, kept, seconds, name, place) for place in range(int(count or 3))]
        ours, theirs = (np.array([fold[side] for fold in folds]) for side in ("mixfit", "error"))
        ratios[name] = float(np.median(ours / theirs))
        of_means.append(float(ours.mean() / theirs.mean()))
        took = [np.median([fold[side] for fold in folds]) for side in ("mixfit_seconds", "seconds")]
        print(
            f"{name:18}{len(folds):>6}{np.median(ours):9.4f}{np.median(theirs):11.4f}{ratios[name]:7.3f}{of_means[-1]:10.3f}"
            f"{int((ours < theirs).sum()):>3}/{len(folds):<2}{took[0]:7.0f}{took[1]:16.0f}   "
            f"{', '.join(sorted({str(fold['best_single']) for fold in folds}))}",
            flush=True,
        )
    every = np.sort(list(ratios.values()))
    print(
        f"geometric mean of the medians of mixfit's error relative to AutoGluon's: {np.exp(np.log(every).mean()):.3f}"
    )
    print(f"of the ratios of the means over folds: {np.exp(np.log(of_means).mean()):.3f}")
    if len(every) > 2:
        print(f"without the best and the worst set: {np.exp(np.log(every[1:-1]).mean()):.3f}")
    print(f"sets where mixfit is better: {int((every < 1).sum())} of {len(every)}")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]), sys.argv[5:] or list(SETS))
