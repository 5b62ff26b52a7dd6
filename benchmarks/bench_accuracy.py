"""How well does the recipe predict, beside its parts and beside boosted trees, on the same rows of five shared sets?

Rows are dealt into outer folds (groups stay whole, classes and the range of a number are spread evenly), repeatedly
with other seeds. On the rows outside a fold everything is learnt anew; the fold judges. The reference, 1.0, is LightGBM
on the table and 30 principal components of the same frozen image features, or AutoGluon's ensemble where
``peers/autogluon.py`` has run all folds of a set into FOLDER. Errors, lower is better: root of the mean squared error
on the scale that is fitted (log price for houses), log-loss for several classes, 1 - AUC for two.
"against the table" compares the blend with the blend of those of its models that see no photo, on the same folds.
"twins" are that blend and the best model of photos alone: in how many repeats is the blend no worse than the better of
them by more than a standard error over the folds?
Needs catboost where it is to be compared, which it is up to 20 classes. Every fold is written
into FOLDER and not run again when it is there, so that several processes may share the sets and one command prints all;
empty it after a change.
Run: MIXFIT_DATA=... python benchmarks/bench_accuracy.py PRESET FOLDER [set[:repeats[:folds]] ...]"""

import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score

from mixfit.auto.blending import train_blend
from mixfit.auto.presets import plan_for
from mixfit.choices import Role
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.folds import k_folds
from mixfit.data.load import MixedData, load_data, prepare_target
from mixfit.data.split import Split
from mixfit.ensemble.calibration import FIFTHS, fifths
from mixfit.ensemble.cross_fit import make_fold, photo_means
from mixfit.models.model import Components, looks
from mixfit.nn.image import ImageEncoder
from mixfit.runs.results import BLEND, CONSTANT, TABLE_BLEND
from mixfit.training.build import build_model, precompute_features

COMPONENTS = 30
LEVEL = 0.9
MOST_CLASSES = 20
"""More would take CatBoost hours."""
REFERENCE = "default LightGBM, table and components"
AUTOGLUON = "AutoGluon best_quality, table and components"


@dataclass(frozen=True)
class Table:
    """A data set: its target, what is left out, and roles that only its description knows."""

    target: str
    ignore: tuple[str, ...]
    roles: tuple[tuple[str, Role], ...] = ()
    rows: int | None = None
    """Rows drawn once; None for all."""


SETS = {
    "houses": Table("price", ("split", "house_id")),
    "covid_xray": Table("covid19", ("split", "x_id"), (("patient_id", "group"),)),
    "leaf99": Table("species", ("split", "leaf_id")),
    "movies": Table("imdb_rating", ("split", "movie_id", "title")),
    "fashion_products": Table("gender", ("split", "product_id"), rows=5000),
}


@cache
def load(name: str) -> tuple[MixedData, ImageEncoder]:
    """A set with the features of its photos, which know nothing of the target."""
    table = SETS[name]
    folder = Path(os.environ["MIXFIT_DATA"]) / name
    frame = pd.read_csv(folder / "table.csv", dtype=str)
    if table.rows is not None:
        frame = frame.sample(table.rows, random_state=0).reset_index(drop=True)
    config = DataConfig(roles=dict(table.roles), ignore=table.ignore)
    data = load_data(frame, target=table.target, config=config, images=folder)
    model = build_model(data, replace(ModelConfig(), freeze_backbone=True), seed=0)
    data = precompute_features(data, model)
    assert model.image is not None
    return data, model.image


def error_of(data: MixedData, truth: np.ndarray, predictions: np.ndarray) -> float:
    """Of scaled numbers in the units of the scale, or of probabilities."""
    classes = data.target.classes
    if classes is None:
        return float(np.sqrt(((predictions - truth) ** 2).mean()) * data.target.to_dict()["std"])
    if len(classes) == 2:
        return 1 - float(roc_auc_score(truth, predictions[:, 1]))
    clipped = np.clip(predictions, 1e-6, None)
    return float(log_loss(truth, clipped / clipped.sum(1, keepdims=True), labels=range(len(classes))))


def boosted(data: MixedData, library: str, *, photos: bool, seed: int) -> np.ndarray:
    """LightGBM or CatBoost by default settings on the training rows, for the test rows."""
    fold = make_fold(data, data.split.train, photo_means(data), seed=seed)
    encoded = fold.rows.encoded
    parts: list[Any] = [encoded.numeric.astype(np.float64)]
    if photos and encoded.photos is not None:
        rows = encoded.take(fold.fit_rows)
        assert rows.photos is not None
        found = Components.fit(rows.photos, rows.seen, most=COMPONENTS, seed=seed)
        parts.append(found.apply(encoded.photos, encoded.seen))
    numbers = sum(part.shape[1] for part in parts)
    columns = pd.DataFrame(np.concatenate([*parts, encoded.categorical], axis=1))
    categories = list(range(numbers, columns.shape[1]))
    columns[categories] = columns[categories].astype(int)
    train, test = columns.iloc[data.split.train], columns.iloc[data.split.test]
    truth, classes = fold.truth, fold.classes
    if library == "lightgbm":
        kind = lightgbm.LGBMClassifier if classes else lightgbm.LGBMRegressor
        model = kind(random_state=seed, n_jobs=1, verbose=-1).fit(train, truth, categorical_feature=categories)
    else:
        import catboost

        kind = catboost.CatBoostClassifier if classes else catboost.CatBoostRegressor
        model = kind(
            random_seed=seed, thread_count=1, verbose=False, allow_writing_files=False, cat_features=categories
        )
        model.fit(train, truth)
    if not classes:
        return np.asarray(model.predict(test), dtype=np.float64)
    found_classes = np.zeros((len(test), classes))
    found_classes[:, np.asarray(model.classes_, dtype=int)] = model.predict_proba(test)
    return found_classes


@dataclass
class Results:
    """Of one fold, or of all folds of a set one after another."""

    errors: dict[str, list[float]] = field(default_factory=dict)
    """By model."""
    seconds: dict[str, float] = field(default_factory=dict)
    covered: dict[str, list[int]] = field(default_factory=dict)
    """Rows whose interval holds the truth, and all rows, by which rows."""
    used_photos: int = 0
    sees_photos: dict[str, bool] = field(default_factory=dict)
    """Whether a model does."""
    table_too: dict[str, bool] = field(default_factory=dict)
    """Whether a model sees the table."""

    def add(self, model: str, error: float, seconds: float = 0.0) -> None:
        """One fold of one model."""
        self.errors.setdefault(model, []).append(error)
        self.seconds[model] = self.seconds.get(model, 0.0) + seconds

    def cover(self, rows: str, inside: np.ndarray) -> None:
        """Count rows whose interval holds the truth."""
        held, count = self.covered.get(rows, [0, 0])
        self.covered[rows] = [held + int(inside.sum()), count + len(inside)]

    def append(self, other: "Results") -> None:
        """The next fold."""
        for model, errors in other.errors.items():
            for error in errors:
                self.add(model, error, other.seconds[model])
        for rows, (held, count) in other.covered.items():
            before = self.covered.get(rows, [0, 0])
            self.covered[rows] = [before[0] + held, before[1] + count]
        self.used_photos += other.used_photos
        self.sees_photos |= other.sees_photos
        self.table_too |= other.table_too


def run_fold(data: MixedData, image: ImageEncoder, preset: str, seed: int) -> Results:
    """Learn on the training rows of a split and judge on its test rows."""
    judging = replace(data.split, valid=data.split.test)  # rows that choose are dealt by the recipe
    target = prepare_target(data.frame, data.schema, judging)
    data = replace(
        data,
        split=replace(target.split, valid=target.split.valid[:0]),
        target=target.scale,
        arrays=replace(data.arrays, target=torch.from_numpy(target.encoded)),
    )
    results = Results()
    truth = data.arrays.target.numpy()[data.split.test]
    for library in ("lightgbm", "catboost"):
        if library == "catboost" and (not _has_catboost() or len(data.target.classes or ()) > MOST_CLASSES):
            continue
        shown = f"default {'LightGBM' if library == 'lightgbm' else 'CatBoost'}"
        for photos in (False, True) if library == "lightgbm" else (False,):
            start = time.perf_counter()
            found = boosted(data, library, photos=photos, seed=seed)
            seconds = time.perf_counter() - start
            results.add(f"{shown}, table{' and components' * photos}", error_of(data, truth, found), seconds)
    start = time.perf_counter()
    settings: Any = {"preset": preset, "seed": seed}
    blended = train_blend(
        data,
        image=image,
        model=replace(ModelConfig(), freeze_backbone=True),
        train=TrainConfig(**settings),
        console=Console(quiet=True),
    )
    seconds = time.perf_counter() - start
    for name, predictions in blended.test.items():
        scaled = predictions if data.target.classes is not None else _scaled(data, predictions)
        took = seconds if name == BLEND else blended.seconds.get(name, 0.0)
        results.add(name, error_of(data, truth, scaled), took)
    results.used_photos = int(blended.predictor.photos)
    for one in plan_for(data, TrainConfig(**settings)).models:
        results.sees_photos[one.name] = looks(one.sees)
        results.table_too[one.name] = "table" in one.sees or not one.sees
    covered, seen = blended.covered(data, LEVEL), photo_means(data).seen[data.split.test]
    results.cover("all", covered)
    results.cover("without photo", covered[~seen])
    if data.target.classes is None:
        place = fifths(blended.scaled_test)
        for number, name in enumerate(FIFTHS):
            results.cover(name, covered[place == number])
    return results


def _scaled(data: MixedData, values: np.ndarray) -> np.ndarray:
    return data.target.encode(pd.Series(values)).astype(np.float64)


@cache
def _has_catboost() -> bool:
    try:
        import catboost  # noqa: F401
    except ImportError:
        return False
    return True


def fold_of(data: MixedData, repeat: int, place: int) -> MixedData:
    """The data with the rows of one outer fold as test rows, and all others as training rows."""
    usable = np.sort(np.concatenate([data.split.train, data.split.valid, data.split.test]))
    unit = data.ties.joined(usable).unit
    split = k_folds(data.frame.iloc[usable], data.schema, 5, seed=repeat, unit=unit)[place]
    train, test = usable[split.train], usable[split.valid]
    return replace(data, split=Split(train=train, valid=test[:0], test=test))


def run_set(name: str, preset: str, kept: Path, repeats: int, folds: int) -> Results:
    """All repeats and folds of one set, those that were run already from their files."""
    results = Results()
    for repeat in range(repeats):
        for place in range(folds):
            file = kept / f"{preset}-{name}-{repeat}-{place}.json"
            if not file.exists():
                data, image = load(name)
                found = run_fold(fold_of(data, repeat, place), image, preset, seed=repeat * 10 + place)
                file.write_text(json.dumps(asdict(found)), encoding="utf-8")
            found = Results(**json.loads(file.read_text(encoding="utf-8")))
            peer = kept / f"autogluon-{name}-{repeat}-{place}.json"
            if peer.exists():
                measured = json.loads(peer.read_text(encoding="utf-8"))
                found.add(AUTOGLUON, measured["error"], measured["seconds"])
            last = found.errors[BLEND][-1] / found.errors[REFERENCE][-1]
            print(f"  {name} repeat {repeat} fold {place}: {last:.3f} of the reference", file=sys.stderr, flush=True)
            results.append(found)
    return results


def print_set(name: str, results: Results, folds: int) -> tuple[float, list[bool]]:
    """The table of one set; the blend's mean relative error, and for each repeat whether it is as good as its twins."""
    count = len(results.errors[BLEND])
    peer = len(results.errors.get(AUTOGLUON, [])) == count
    reference = np.array(results.errors[AUTOGLUON if peer else REFERENCE])
    print(f"{name}: {count} folds, relative to {AUTOGLUON if peer else REFERENCE}")
    print(f"  {'model':46}{'error':>9}{'median':>9}{'relative':>10}{'+-':>8}{'wins':>9}{'s a fold':>10}")
    for model in sorted(results.errors, key=lambda model: np.mean(results.errors[model])):
        errors = np.array(results.errors[model])
        if len(errors) != count:
            continue  # a blend with photos is there only in folds that do without them
        relative = errors / reference
        noise = relative.std(ddof=1) / np.sqrt(count) if count > 1 else float("nan")
        wins = int((errors < reference).sum())
        seconds = results.seconds[model] / count
        print(
            f"  {model:46}{errors.mean():9.4f}{np.median(errors):9.4f}{relative.mean():10.3f}{noise:8.3f}"
            f"{wins:>5}/{count:<3}{seconds:10.1f}",
            flush=True,
        )
    blend, table = np.array(results.errors[BLEND]), np.array(results.errors[_of_table(results)])
    difference = blend - table
    noise = difference.std(ddof=1) / np.sqrt(count) if count > 1 else float("nan")
    print(
        f"  against the table: {difference.mean():+.4f} +- {noise:.4f}, better in {int((blend < table).sum())}, equal "
        f"in {int((blend == table).sum())} of {count} folds; photos used in {results.used_photos}"
    )
    alone = [model for model, photos in results.sees_photos.items() if not photos]
    best_alone = min([_of_table(results), *alone], key=lambda model: np.mean(results.errors[model]))
    single = np.array(results.errors[best_alone])
    print(
        f"  best of the table alone: {best_alone}, {single.mean():.4f}; better in {int((blend < single).sum())} folds"
    )
    kept = _as_good_as_twins(results, folds)
    print(f"  within a standard error of the better twin, or better: {sum(kept)} of {len(kept)} repeats")
    parts = [f"{rows} {held / count:.1%} of {count} rows" for rows, (held, count) in results.covered.items() if count]
    print(f"  {LEVEL:.0%} intervals cover: {'; '.join(parts)}")
    return float((blend / reference).mean()), kept


def _of_table(results: Results) -> str:
    """The blend of the table alone; a constant where there are no table columns."""
    return TABLE_BLEND if TABLE_BLEND in results.errors else CONSTANT


def _as_good_as_twins(results: Results, folds: int) -> list[bool]:
    photos = [model for model, too in results.table_too.items() if results.sees_photos[model] and not too]
    table = _of_table(results)
    errors = {model: np.array(results.errors[model]).reshape(-1, folds) for model in [BLEND, table, *photos]}
    kept = []
    for repeat, ours in enumerate(errors[BLEND]):
        twin = min((errors[model][repeat] for model in [table, *photos]), key=np.mean)
        worse = ours - twin
        kept.append(bool(worse.mean() <= worse.std(ddof=1) / np.sqrt(folds)) if folds > 1 else bool(worse[0] <= 0))
    return kept


def main(preset: str, kept: Path, wanted: list[str]) -> None:
    """Print every set, then what they have in common."""
    kept.mkdir(parents=True, exist_ok=True)
    packages = ["torch", "scikit-learn", "lightgbm", *(["catboost"] if _has_catboost() else [])]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"python {platform.python_version()}, {versions}, {torch.get_num_threads()} threads, preset {preset}")
    relative, as_good = [], []
    warnings.simplefilter("ignore")  # LightGBM names columns, solvers are cut short
    for text in wanted:
        parts = text.split(":")
        name, repeats, folds = (*parts, *("1", "5")[len(parts) - 1 :])
        mean, twins = print_set(name, run_set(name, preset, kept, int(repeats), int(folds)), int(folds))
        relative.append(mean)
        as_good += twins
    print(f"geometric mean of the blend's error relative to the reference: {np.exp(np.mean(np.log(relative))):.3f}")
    print(f"no worse than the better twin by more than a standard error: {sum(as_good)} of {len(as_good)} set x repeat")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:] or ["houses:4", *list(SETS)[1:]])
