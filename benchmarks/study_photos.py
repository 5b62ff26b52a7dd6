"""What are photo features of several stages, and scores of photos, worth to the models that see photos?

features: each model on photos, and on table and photos, with features of the last layer alone and of three stages too,
with scores of photos and without. Loss of held-out rows: squared error in units of the target's variance, or log loss.
networks: the network on table and photos with several plans (batch size and learning rate as multiples, epochs).
Every line prints the mean over repeats x folds, its ratio to the first line of that model with the standard error over
the folds, the folds that it wins, and CPU seconds of a fit. Groups and copies stay in one fold. Features are computed
once, in mixfit's cache.

Run: MIXFIT_DATA=... OMP_NUM_THREADS=1 python benchmarks/study_photos.py features|networks SET [repeats [folds]]"""

import os
import resource
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mixfit.choices import Role
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.folds import k_folds
from mixfit.data.load import MixedData, load_data
from mixfit.ensemble.cross_fit import Fold, make_fold, photo_means
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Linear
from mixfit.models.model import PHOTOS, TABLE, Model
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees
from mixfit.nn.image import ImageEncoder
from mixfit.training.build import build_model, precompute_features

SETS: dict[str, tuple[str, tuple[str, ...], dict[str, Role]]] = {
    "houses": ("price", ("split", "house_id"), {}),
    "covid_xray": ("covid19", ("split", "x_id"), {"patient_id": "group"}),
    "leaf99": ("species", ("split", "leaf_id"), {}),
    "movies": ("imdb_rating", ("split", "movie_id", "title"), {}),
    "fashion_products": ("gender", ("split", "product_id"), {}),
}
MOST_ROWS = 5_000
STAGES = (0, 3)
PLANS = ((1.0, 1.0, 20), (2.0, 1.0, 20), (2.0, 2.0, 20), (2.0, 2.0, 12), (4.0, 2.0, 20))
"""Multiples of batch size and learning rate, and epochs."""


@dataclass
class Line:
    """Losses of the folds, and CPU seconds of all fits."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


Lines = dict[tuple[str, str], Line]
"""By model and variant."""


def load(name: str, stages: int) -> tuple[MixedData, ImageEncoder]:
    """A set with the features of its photos."""
    target, ignored, roles = SETS[name]
    folder = Path(os.environ["MIXFIT_DATA"]) / name
    frame = pd.read_csv(folder / "table.csv", dtype=str)
    if len(frame) > MOST_ROWS:
        frame = frame.sample(MOST_ROWS, random_state=0).reset_index(drop=True)
    data = load_data(frame, target=target, config=DataConfig(roles=roles, ignore=ignored), images=folder)
    model = build_model(data, ModelConfig(freeze_backbone=True, photo_stages=stages), seed=0)
    assert model.image is not None
    return precompute_features(data, model), model.image


def folds_of(data: MixedData, repeats: int, count: int) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Seed, rows to fit on, rows that judge, and the units of the former."""
    usable = np.sort(np.concatenate([data.split.train, data.split.valid, data.split.test]))
    unit = data.ties.joined(usable).unit
    for repeat in range(repeats):
        for place, split in enumerate(k_folds(data.frame.iloc[usable], data.schema, count, seed=repeat, unit=unit)):
            yield repeat * count + place, usable[split.train], usable[split.valid], unit[split.train]


def without_scores(fold: Fold) -> Fold:
    """The same fold without scores of photos."""
    rows = fold.rows
    encoded, layout = replace(rows.encoded, photo_scores=None), replace(rows.layout, photo_scores=0)
    data = replace(fold.data, scores=None, arrays=replace(fold.data.arrays, photo_scores=None))
    return replace(fold, data=data, rows=replace(rows, encoded=encoded, layout=layout))


def add(
    lines: dict[tuple[str, str], Line], key: tuple[str, str], model: Model, fold: Fold, judging: np.ndarray
) -> None:
    """Fit and judge one model on one fold."""
    started = cpu()
    fitted = model.fit(fold.training, fold.truth, fold.weight, fold.seed)
    line = lines.setdefault(key, Line())
    line.seconds += cpu() - started
    found, truth = fitted.predict(fold.rows.take(judging)), fold.data.arrays.target.numpy()[judging]
    if fold.classes:
        chosen = np.clip(found, 1e-6, None) / np.clip(found, 1e-6, None).sum(1, keepdims=True)
        line.losses.append(float(-np.log(chosen[np.arange(len(truth)), truth]).mean()))
    else:
        line.losses.append(float(((found - truth) ** 2).mean()))


def cpu() -> float:
    """Seconds of the processor so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def show(name: str, lines: Lines) -> None:
    """Print all lines, those of a model below each other."""
    for model, variant in sorted(lines, key=lambda key: [one for one, _ in lines].index(key[0])):
        line = lines[model, variant]
        first = next(other for (one, _), other in lines.items() if one == model)
        losses, before = np.array(line.losses), np.array(first.losses)
        noise = (losses / before).std(ddof=1) / np.sqrt(len(losses)) if len(losses) > 1 else float("nan")
        print(
            f"{name:17}{model:34}{variant:28}{losses.mean():8.4f} {losses.mean() / before.mean():6.3f} +- {noise:.3f} "
            f"{int((losses < before).sum()):3}/{len(losses)} {line.seconds / len(losses):8.2f} s",
            flush=True,
        )


def features(name: str, repeats: int, count: int) -> None:
    """Linear models, kernels and trees."""
    lines: Lines = {}
    loaded = {stages: load(name, stages)[0] for stages in STAGES}
    for seed, fit, judging, unit in folds_of(loaded[0], repeats, count):
        for stages, data in loaded.items():
            fold = make_fold(data, fit, photo_means(data), seed=seed, unit=unit)
            kinds: list[Any] = [Linear, BoostedTrees, *([] if fold.classes or len(fit) > 3_000 else [KernelRidge])]
            for kind in kinds:
                for sees in (PHOTOS, PHOTOS | TABLE):
                    model = kind(sees=sees)
                    if kind is BoostedTrees:
                        add(lines, (model.name, f"{stages} stages"), model, without_scores(fold), judging)
                    said = f"{stages} stages{', scores' if kind is BoostedTrees else ''}"
                    add(lines, (model.name, said), model, fold, judging)
    show(name, lines)


def networks(name: str, repeats: int, count: int) -> None:
    """Plans of the network on table and photos."""
    lines: Lines = {}
    loaded = {stages: load(name, stages) for stages in STAGES}
    for seed, fit, judging, unit in folds_of(loaded[0][0], repeats, count):
        for stages, (data, image) in loaded.items():
            fold = make_fold(data, fit, photo_means(data), seed=seed, unit=unit)
            for batch, rate, epochs in PLANS:
                for scored in (False, True):
                    train = TrainConfig(
                        preset="quick", epochs=epochs, lr=2e-3 * rate, batch_size=round(batch * fold.data.batch_size)
                    )
                    config = ModelConfig(freeze_backbone=True, photo_stages=stages)
                    model = Network(sees=PHOTOS | TABLE, config=config, train=train, backbone=image.backbone)
                    said = f"{stages} stages{', scores' * scored}, x{batch:g}, x{rate:g}, {epochs}"
                    add(lines, (model.name, said), model, fold if scored else without_scores(fold), judging)
    show(name, lines)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("features", "networks"):
        sys.exit(__doc__)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    repeats, count = (
        (int(text) for text in (*sys.argv[3:5], "1", "5")[:2]) if len(sys.argv) < 5 else map(int, sys.argv[3:5])
    )
    {"features": features, "networks": networks}[sys.argv[1]](sys.argv[2], repeats, count)
