"""Do features of an image encoder that was tuned on the target help a second model, and what does a leak cost?

Five kinds of columns go, with the table, into ridge (or logistic) regression and into boosted trees:
  frozen         features of the encoder as it was before it saw the target;
  leaky          features of one encoder that was tuned on the training rows, for these same training rows;
  cross-fitted   features of each training row by the encoder of a fold without it; the mean of all for test rows;
  prediction     no features, but the out-of-fold predictions of the tuned networks as one column, cross-fitted;
  leaky pred.    predictions of the network that was tuned on these same rows.
"network" is the mean of the tuned networks of the folds alone, as a candidate of the preset "best" is.

Drawn photos: a disc whose radius is worth as much of the target as the number in the table, and as the noise, so that
1.0 is the least mean squared error; its place, its colour and the background say nothing. The encoder begins as one
that has learned colours and places of discs of other photos.
Run: python benchmarks/study_cross_fitting.py [seeds], or with the name of a set in MIXFIT_DATA:
python benchmarks/study_cross_fitting.py covid_xray 2"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.choices import Role
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import load_data
from mixfit.data.split import Split
from mixfit.ensemble.blend import row_losses
from mixfit.ensemble.cross_fit import Fitting, cross_fit, fit_folds, fit_model, make_fold, photo_means
from mixfit.models.linear import Linear, fit_logistic, fit_ridge
from mixfit.models.model import BOTH, PIXELS, TABLE, Components, Model
from mixfit.models.network import FittedNetwork, Network
from mixfit.models.trees import BoostedTrees, grow_trees
from mixfit.nn.backbones import SmallResNet
from mixfit.training.build import build_model, encode_photos, precompute_features

ROWS, TEST, FOLDS, SIZE, BATCH = 300, 1_000, 5, 32, 32
COMPONENTS = 30


@dataclass(frozen=True)
class Columns:
    """What a second model sees of photos, for training rows and for test rows."""

    train: np.ndarray
    test: np.ndarray


def second_stage(
    kinds: dict[str, Columns], table: Columns, truth: Columns, *, classes: int, seed: int
) -> dict[str, float]:
    """Mean test loss of each kind of columns, by second model."""
    found = {}
    for name, photos in kinds.items():
        train, test = photos.train, photos.test
        if train.shape[1] > COMPONENTS:
            axes = Components.fit(train.astype(np.float32), np.ones(len(train), dtype=bool), most=COMPONENTS, seed=seed)
            train, test = (
                axes.apply(part.astype(np.float32), np.ones(len(part), dtype=bool)) for part in (train, test)
            )
        scale = train.std(axis=0) + 1e-6
        before = np.concatenate([table.train, train / scale], axis=1)
        after = np.concatenate([table.test, test / scale], axis=1)
        linear = (
            fit_logistic(before, truth.train, classes=classes, weight=None, seed=seed)
            if classes
            else fit_ridge(before, truth.train, None)
        )
        trees = grow_trees(before, truth.train, levels=(), classes=classes, seed=seed)
        for kind, model in (("linear", linear), ("trees", trees)):
            found[f"{kind}, {name}"] = float(row_losses(truth.test, model.predict(after)).mean())
    return found


# --- drawn photos ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Photos ``(rows, 3, 32, 32)`` in [-1, 1], one number of the table, the target, and what else was drawn."""

    photos: Tensor
    x: Tensor
    y: Tensor
    other: Tensor


def draw(rows: int, rng: np.random.Generator) -> Drawn:
    """Discs on noise."""
    signal, x, noise = (rng.normal(size=rows) for _ in range(3))
    radius = np.clip(8 + 2 * signal, 2, 14)
    place, colour = rng.uniform(10, 22, (rows, 2)), rng.uniform(-1, 1, (rows, 3))
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"))
    inside = ((grid[None] - place[:, :, None, None]) ** 2).sum(1) < radius[:, None, None] ** 2
    ground = rng.uniform(-0.5, 0.5, (rows, 3, 1, 1)) + 0.5 * rng.normal(size=(rows, 3, SIZE, SIZE))
    photos = np.where(inside[:, None], colour[:, :, None, None] + 0.3 * rng.normal(size=ground.shape), ground)
    other = np.concatenate([colour, (place - 16) / 4], axis=1)
    photos, x, y, other = (torch.from_numpy(part).float() for part in (photos, x, signal + x + noise, other))
    return Drawn(photos=photos, x=x, y=y, other=other)


class Net(nn.Module):
    """An encoder, and a linear layer on its features and the number of the table."""

    def __init__(self, encoder: nn.Module, outputs: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(128 + 1, outputs)

    def forward(self, photos: Tensor, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.encoder(photos), x[:, None]], dim=1))


def train(net: Net, data: Drawn, truth: Tensor, epochs: int, seed: int) -> Net:
    """One cycle of AdamW."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(truth) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(truth), generator=generator).split(BATCH):
            F.mse_loss(net(data.photos[rows], data.x[rows]), truth[rows]).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return net.eval()


@torch.no_grad()
def seen(net: Net, data: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Features and predictions of all rows."""
    return net.encoder(data.photos).numpy(), net(data.photos, data.x).numpy()


def tuned(start: dict[str, Tensor], data: Drawn, rows: np.ndarray, epochs: int, seed: int) -> Net:
    """A network for the target that begins at an encoder, and at what ridge regression finds on its features."""
    torch.manual_seed(seed)
    encoder = SmallResNet()
    encoder.load_state_dict(start)
    part = Drawn(photos=data.photos[rows], x=data.x[rows], y=data.y[rows], other=data.other[rows])
    net = Net(encoder, 1).eval()
    found = fit_ridge(np.concatenate([seen(net, part)[0], part.x[:, None].numpy()], axis=1), part.y.numpy(), None)
    with torch.no_grad():
        net.head.weight.copy_(torch.from_numpy(found.weights.T))
        net.head.bias.copy_(torch.from_numpy(found.bias))
    return train(net, part, part.y[:, None], epochs, seed)


def one_drawn(start: dict[str, Tensor], epochs: int, seed: int) -> dict[str, float]:
    """Mean squared errors of everything, on fresh rows."""
    rng = np.random.default_rng(seed)
    data, test = draw(ROWS, rng), draw(TEST, rng)
    number = rng.permutation(np.arange(ROWS) % FOLDS)
    encoder = SmallResNet()
    encoder.load_state_dict(start)
    frozen = Net(encoder, 1).eval()
    one = tuned(start, data, np.arange(ROWS), epochs, seed)
    features, predictions = np.zeros((ROWS, 128)), np.zeros((ROWS, 1))
    on_test = []
    for fold in range(FOLDS):
        net = tuned(start, data, np.flatnonzero(number != fold), epochs, seed)
        held = number == fold
        found = seen(net, data)
        features[held], predictions[held] = found[0][held], found[1][held]
        on_test.append(seen(net, test))
    mean_features, mean_predictions = (np.mean([found[kind] for found in on_test], axis=0) for kind in (0, 1))
    kinds = {
        "frozen": Columns(seen(frozen, data)[0], seen(frozen, test)[0]),
        "leaky": Columns(seen(one, data)[0], seen(one, test)[0]),
        "cross-fitted": Columns(features, mean_features),
        "prediction": Columns(predictions, mean_predictions),
        "leaky pred.": Columns(seen(one, data)[1], seen(one, test)[1]),
    }
    table = Columns(data.x.numpy()[:, None], test.x.numpy()[:, None])
    truth = Columns(data.y.double().numpy(), test.y.double().numpy())
    found = second_stage(kinds, table, truth, classes=0, seed=seed)
    return found | {"network": float(((mean_predictions[:, 0] - truth.test) ** 2).mean())}


def drawn(seeds: int) -> None:
    """All seeds, for a short and a long tuning."""
    torch.manual_seed(0)
    others = draw(2_000, np.random.default_rng(10_000))
    net = train(Net(SmallResNet(), others.other.shape[1]), others, others.other, 6, 0)
    start = {name: tensor.clone() for name, tensor in net.encoder.state_dict().items()}
    for epochs in (5, 20):
        show(f"{ROWS} drawn rows, {epochs} epochs", seeds, lambda seed, epochs=epochs: one_drawn(start, epochs, seed))


# --- real sets ------------------------------------------------------------------------------------------------------

SETS: dict[str, tuple[str, tuple[str, ...], dict[str, Role]]] = {
    "covid_xray": ("covid19", ("split", "x_id"), {"patient_id": "group"}),
    "houses": ("price", ("split", "house_id"), {}),
}
TUNED, UNTUNED = Network(sees=TABLE | PIXELS, tuned=True), Network(sees=BOTH)
SECOND: dict[str, Model] = {"linear": Linear(sees=BOTH), "trees": BoostedTrees(sees=BOTH)}


def one_real(name: str, size: int, seed: int) -> dict[str, float]:
    """Mean losses of the test rows of one split: squared errors of scaled numbers, or log-losses."""
    target, ignore, roles = SETS[name]
    path = Path(os.environ["MIXFIT_DATA"]) / name / "table.csv"
    config = DataConfig(image_size=size, ignore=ignore, roles=roles, test=0.3)
    data = load_data(path, target=target, config=config, seed=seed)
    settings, training = ModelConfig(freeze_backbone=True), TrainConfig(epochs=20)
    model = build_model(data, settings, seed=seed)
    assert model.image is not None
    shared: Any = {"config": settings, "train": training, "backbone": model.image.backbone}
    data = precompute_features(data, model)
    learnable, test = np.sort(np.concatenate([data.split.train, data.split.valid])), data.split.test
    assert data.photos is not None
    slots, pixels, frozen = data.photos.slots, data.photos.pixels, data.photos.features
    assert pixels is not None
    assert frozen is not None

    def fitted(fitting: Fitting, place: int) -> FeatureTable:
        network = fitting.fitted[place]
        assert isinstance(network, FittedNetwork)
        assert network.model.image is not None
        return encode_photos(network.model.image, pixels)

    everything = replace(data, split=Split(train=learnable, valid=learnable[:1], test=test))
    folds = fit_folds(data, FOLDS, seed=seed).with_pixels(pixels)
    whole = replace(
        folds,
        folds=[make_fold(everything, learnable, photo_means(everything), seed=seed)],
        plan=replace(
            folds.plan,
            number=np.zeros_like(folds.number),
            fit=(learnable,),
            learns_from=(np.zeros(len(folds.rows), dtype=bool),),
        ),
    ).with_pixels(pixels)
    fits: dict[str, Fitting] = {}
    for kind, dealt in (("one", whole), ("folds", folds)):
        before = cross_fit(replace(UNTUNED, **shared), dealt)
        fits[kind] = cross_fit(replace(TUNED, **shared), dealt, begin_at=before)
        fits["frozen"] = before  # in the end that of the folds
    tables = [fitted(fits["folds"], place) for place in range(FOLDS)]
    values = torch.stack([table.values for table in tables]).mean(0)
    for place, table in enumerate(tables):
        own = np.unique(slots[folds.rows[folds.number == place]])
        values[own[own >= 0]] = table.values[own[own >= 0]]
    features = {
        "frozen": frozen,
        "leaky": fitted(fits["one"], 0),
        "cross-fitted": FeatureTable(values, frozen.readable, frozen.failures),
    }
    truth, found = data.arrays.target.numpy()[test], {}
    for kind, table in features.items():
        with_table = everything.with_features(table)
        fold = make_fold(with_table, learnable, photo_means(with_table), seed=seed)
        for second, of_both in SECOND.items():
            losses = row_losses(truth, fit_model(of_both, fold).predict(fold.rows.take(test)))
            found[f"{second}, {kind}"] = float(losses.mean())
    before, after = (fits[kind].mean(folds, test) for kind in ("frozen", "folds"))
    networks = {"network, frozen": before, "network": after, "mean of both networks": (before + after) / 2}
    return found | {kind: float(row_losses(truth, values).mean()) for kind, values in networks.items()}


def show(title: str, seeds: int, one: Callable[[int], dict[str, float]]) -> None:
    """Means over seeds with standard errors, and differences to frozen features, seed by seed."""
    started = time.perf_counter()
    runs = [one(seed) for seed in range(seeds)]
    print(f"\n{title}, {seeds} seeds, {time.perf_counter() - started:.0f} s")
    print(f"{'model':<24}{'test loss':>20}{'against frozen':>20}")
    for name in runs[0]:
        values = np.array([run[name] for run in runs])
        second = "network" if "network" in name else name.split(",")[0]
        reference = f"{second}, frozen" if f"{second}, frozen" in runs[0] else "linear, frozen"
        gains = values - np.array([run[reference] for run in runs])
        errors = [part.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else float("nan") for part in (values, gains)]
        print(f"{name:<24}{values.mean():>10.4f} +- {errors[0]:.4f}{gains.mean():>+10.4f} +- {errors[1]:.4f}")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in SETS:
        chosen = sys.argv[1]
        count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
        show(f"{chosen} at 64 px", count, lambda seed: one_real(chosen, 64, seed))
    else:
        drawn(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
