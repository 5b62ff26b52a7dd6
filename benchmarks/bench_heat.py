"""On how many rows of the embedded example does the heat of a photo lie on the vase, where all is that it tells?

For the default network, whose image encoder is frozen and whose features are computed once, and for the small residual
network that learns from pixels; each trained on the prices, trained on prices dealt out anew among the rows, and
untrained. A row counts when the hottest pixel of its photos is on a vase or at most one cell of the feature map beside
it, and the mean heat on the vases is above that beside them; and, more strictly, with no cell beside it. The share of
all heat that is on vases stands next to the share of all pixels that are.
Run: python benchmarks/bench_heat.py [rows]"""

import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.data.load import MixedData, load_data
from mixfit.data.loader import DataLoader
from mixfit.demo import DEMO_TARGET, demo_place, write_demo
from mixfit.hooks.heat import Method, grad_cam, input_gradients, pixel_heat
from mixfit.nn.model import MixedInputModel
from mixfit.training.build import build_model, precompute_features
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import AdamW

SIZE = 128
Heat = Callable[[MixedInputModel, Inputs], Tensor]


@dataclass(frozen=True)
class Network:
    """One to be looked into."""

    config: ModelConfig
    epochs: int
    lr: float
    layers: dict[str, int]
    """Layers for Grad-CAM with the width of a cell of their maps in pixels; the first is the default."""


NETWORKS = {
    "frozen EfficientNet-Lite0": Network(
        ModelConfig(), 40, 2e-3, {"image.backbone.bn2": 32, "image.backbone.blocks.4": 16}
    ),
    "small_resnet on pixels": Network(
        ModelConfig(backbone="small_resnet"), 12, 3e-3, {"image.backbone.blocks": 16, "image.backbone.blocks.3": 8}
    ),
}


def load(frame: pd.DataFrame, folder: Path) -> MixedData:
    """The example, or one like it."""
    return load_data(frame, target=DEMO_TARGET, images=folder, image_size=SIZE, batch_size=16)


def train(network: Network, data: MixedData) -> MixedInputModel:
    """On features computed once where the image encoder is frozen."""
    torch.manual_seed(0)
    model = build_model(data, network.config)
    assert model.image is not None
    learned_from = precompute_features(data, model) if model.image.frozen else data
    Learner(model, learned_from, loss=mse, optimizer=AdamW, device="cpu").fit_one_cycle(network.epochs, network.lr)
    return model


def r2(model: MixedInputModel, data: MixedData) -> float:
    """Of the test rows."""
    with torch.inference_mode():
        pairs = [(model.eval()(xb), yb) for xb, yb in data.test]
    found, truth = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return float(1 - (found - truth).square().mean() / truth.var(correction=0))


@cache
def vase(row: int, rows: int, *, detail: bool) -> Tensor:
    """Where it is in a photo, bool ``(SIZE, SIZE)``."""
    place = torch.from_numpy(demo_place(row, rows=rows, detail=detail).copy())
    return F.interpolate(place[None, None].float(), (SIZE, SIZE), mode="area")[0, 0] > 0.5


def look(model: MixedInputModel, loaders: Sequence[DataLoader | None], heat_of: Heat, cell: int, rows: int) -> str:
    """Over all rows that have photos."""
    found = []
    for loader in loaders:
        for xb, _ in loader or ():
            assert xb.image_mask is not None
            heats = heat_of(model, xb)
            for place in xb.image_mask.any(1).nonzero()[:, 0].tolist():
                heat = heats[place][xb.image_mask[place]]
                vases = torch.stack([vase(int(xb.rows[place]), rows, detail=bool(p)) for p in range(len(heat))])
                near = F.max_pool2d(vases.float(), 2 * cell + 1, stride=1, padding=cell) > 0
                hotter = bool(heat[vases].mean() > heat[~vases].mean())
                hottest = int(heat.argmax())
                on, beside = bool(vases.flatten()[hottest]), bool(near.flatten()[hottest])
                share = float(heat[vases].sum() / heat.sum()) if heat.any() else 0.0
                found.append((beside and hotter, on and hotter, share, float(vases.float().mean())))
    a, b, c, d = np.mean(found, axis=0)
    return f"{a:6.1%} within a cell, {b:6.1%} on it; {c:5.1%} of the heat on {d:.1%} of the pixels ({len(found)} rows)"


def of_layer(model: MixedInputModel, xb: Inputs, *, layer: str) -> Tensor:
    """Grad-CAM."""
    return grad_cam(model, xb, layer)


def of_pixels(model: MixedInputModel, xb: Inputs, *, method: Method) -> Tensor:
    """Gradients."""
    return pixel_heat(input_gradients(model, xb, method=method, samples=16))


PLAIN: Heat = partial(of_pixels, method="plain")
INTEGRATED: Heat = partial(of_pixels, method="integrated")


def main() -> None:
    """Print one line for each network, training and kind of heat."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    versions = f"python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    print(f"{versions}; {rows} rows, photos of {SIZE} px, rows of validation and test (integrated: test)")
    with tempfile.TemporaryDirectory() as temporary:
        table = write_demo(Path(temporary), rows=rows)
        frame = pd.read_csv(table)
        dealt = frame.assign(**{DEMO_TARGET: np.random.default_rng(0).permutation(frame[DEMO_TARGET])})
        data, others = load(frame, table.parent), load(dealt, table.parent)
        for name, network in NETWORKS.items():
            for kind in ("trained", "dealt out anew", "untrained"):
                started = time.perf_counter()
                seen = others if kind == "dealt out anew" else data
                torch.manual_seed(0)
                model = build_model(data, network.config) if kind == "untrained" else train(network, seen)
                seconds = time.perf_counter() - started
                print(f"{name}, {kind}: R2 of the test rows {r2(model, seen):.2f}, {seconds:.0f} s")
                both = (data.valid, data.test)
                for layer, cell in network.layers.items():
                    heat: Heat = partial(of_layer, layer=layer)
                    print(f"  Grad-CAM {layer:24} {look(model, both, heat, cell, rows)}", flush=True)
                cell = next(iter(network.layers.values()))
                print(f"  {'gradients of pixels':33} {look(model, both, PLAIN, cell, rows)}", flush=True)
                print(
                    f"  {'integrated gradients, 16 steps':33} {look(model, both[1:], INTEGRATED, cell, rows)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
