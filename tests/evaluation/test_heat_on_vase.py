"""The heat lies where the embedded example has drawn what its photos tell of the price: on the vase, and nowhere else.

A small residual network learns the price from table and pixels, in seconds; another one learns prices that were dealt
out anew among the rows, where there is nothing to learn from photos; a third one learns nothing."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.data.load import MixedData, load_data
from mixfit.data.transforms.transform import RandomHorizontalFlip
from mixfit.demo import DEMO_TARGET, demo_place, write_demo
from mixfit.hooks.heat import grad_cam, input_gradients, pixel_heat
from mixfit.nn.backbones import SmallResNet
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.training.build import build_model, start_well
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import AdamW

ROWS, SIZE, CELL = 600, 64, 8
"""Rows of the example; pixels a side of a photo, and of a cell of the last feature map."""
Heat = Callable[[MixedInputModel, Inputs], Tensor]


def lies_on(heat: Tensor, vases: Tensor) -> bool:
    """Whether the heat of a row, ``(photos, SIZE, SIZE)``, lies on its vases, bool ``(photos, SIZE, SIZE)``.

    The hottest pixel of all its photos is on the vase or at most one cell of the feature map beside it, and the mean
    heat of pixels on the vases is above that of the pixels beside them."""
    near = F.max_pool2d(vases.float(), 2 * CELL + 1, stride=1, padding=CELL) > 0
    return bool(near.flatten()[heat.argmax()]) and bool(heat[vases].mean() > heat[~vases].mean())


HEATS: dict[str, Heat] = {
    "grad_cam": lambda model, xb: grad_cam(model, xb),
    "gradients": lambda model, xb: pixel_heat(input_gradients(model, xb)),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("vases"), rows=ROWS)


def load(frame: pd.DataFrame, table: Path) -> MixedData:
    return load_data(
        frame,
        target=DEMO_TARGET,
        images=table.parent,
        image_size=SIZE,
        batch_size=16,
        transforms=[RandomHorizontalFlip()],
    )


def network(data: MixedData) -> MixedInputModel:
    """Untrained, with a feature map of 8 x 8 cells at the end."""
    config = ModelConfig(backbone="small_resnet", tabular="mlp", numbers="plain", encoding_dim=32)
    torch.manual_seed(0)
    model = build_model(data, config)
    small = SmallResNet((16, 32))
    model.image = ImageEncoder(
        small, small.num_features, mean=(0.5,) * 3, std=(0.25,) * 3, out_dim=32, dropout=0.0, frozen=False
    )
    start_well(model, data)
    return model


def trained(data: MixedData) -> MixedInputModel:
    model = network(data)
    Learner(model, data, loss=mse, optimizer=AdamW, device="cpu").fit_one_cycle(12, 1e-2)
    return model


@cache
def vase(row: int, *, detail: bool) -> Tensor:
    """Where it is in a photo, bool ``(SIZE, SIZE)``."""
    place = torch.from_numpy(demo_place(row, rows=ROWS, detail=detail).copy())
    return F.interpolate(place[None, None].float(), (SIZE, SIZE), mode="area")[0, 0] > 0.5


def share_on_vases(model: MixedInputModel, data: MixedData, heat_of: Heat) -> float:
    """Share of the rows with photos, of validation and test, whose heat lies on the vases."""
    found = []
    for loader in (data.valid, data.test):
        for xb, _ in loader:
            heat = heat_of(model, xb)
            for place in xb.image_mask.any(1).nonzero()[:, 0].tolist():
                there = xb.image_mask[place]
                # The first photo of a row is the front of the vase, the second a detail.
                vases = [vase(int(xb.rows[place]), detail=bool(photo)) for photo in range(int(there.sum()))]
                found.append(lies_on(heat[place][there], torch.stack(vases)))
    assert len(found) > 150
    return sum(found) / len(found)


@pytest.mark.long  # the picture of heat of chapter 5 of the guide is looked at for the same
def test_the_heat_lies_on_the_vase_where_the_price_was_learned_and_not_where_there_was_nothing_to_learn(
    table: Path,
) -> None:
    frame = pd.read_csv(table)
    data = load(frame, table)
    learned = trained(data)
    dealt = frame.assign(price=np.random.default_rng(0).permutation(frame[DEMO_TARGET]))
    shuffled = trained(load(dealt, table))
    untrained = network(data)
    shares = {
        name: [share_on_vases(model, data, heat_of) for model in (learned, shuffled, untrained)]
        for name, heat_of in HEATS.items()
    }
    # Four seeds on two processors: trained .83 to .99; Grad-CAM of dealt-out prices .17 to .23 below; gradients of no
    # training .44 to .59 below, of dealt-out prices .03 to .58 (docs/LOG.md).
    (cam, cam_dealt, _), (fine, fine_dealt, fine_untrained) = shares["grad_cam"], shares["gradients"]
    assert min(cam, fine) >= 0.75, shares
    assert cam_dealt <= cam - 0.08, shares
    assert fine_untrained <= fine - 0.25, shares
    assert fine_dealt < fine, shares


def test_the_definition_tells_heat_on_the_vase_from_heat_elsewhere() -> None:
    vases = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    vases[:, 20:40, 20:40] = True
    on, beside, far, spread = (torch.full((2, SIZE, SIZE), 0.1) for _ in range(4))
    on[1, 25:35, 25:35] = 1.0
    beside[0, 20:40, 20:40], beside[0, 30, 40 + CELL - 1] = 0.5, 1.0
    far[0, 20:40, 20:40], far[0, 30, 40 + CELL] = 0.5, 1.0
    spread[~vases], spread[0, 30, 30] = 0.2, 1.0
    assert [lies_on(heat, vases) for heat in (on, beside, far, spread)] == [True, True, False, False]
