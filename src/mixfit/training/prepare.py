"""A model's first state for some data: variances by one real batch, the last bias by the training rows."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from mixfit.data.load import MixedData
from mixfit.nn.init import Scaled, Stage, lsuv, start_at_target
from mixfit.nn.model import MixedInputModel
from mixfit.weighted import weighted_mean

Part = Literal["branches", "output"]
_UNSEEN = 1e-3
"""Share of the first prediction that is spread evenly: a class may be in no training row of a fold."""


def start_well(model: MixedInputModel, data: MixedData, *, scale: Sequence[Part] = ()) -> list[Scaled]:
    """Let a new model predict the mean of the training rows, and give parts of it unit variance for the first batch.

    Args:
        scale: "branches" for the encodings of table and photos where they meet, "output" for the predictions.
    Returns:
        What was scaled, in the order of the model; print it to see which branch was too loud.
    """
    scaled: list[Scaled] = []
    if scale:
        xb, _ = next(iter(data.train))
        data.train.set_epoch(0)  # the batch was only looked at
        xb = xb.to(model.head.weight.device)
        with torch.no_grad():
            scaled = lsuv(model, lambda: model(xb), _stages(model, scale))
    rows = data.split.train
    target, weight = data.arrays.target.numpy()[rows], data.weights("train")
    if data.target.classes is None:
        start_at_target(model.head, mean=weighted_mean(target, weight))
    else:
        shares = np.bincount(target, weights=weight, minlength=data.target.outputs)
        shares = (1 - _UNSEEN) * shares / shares.sum() + _UNSEEN / len(shares)
        start_at_target(model.head, class_share=shares.tolist())
    return scaled


def _stages(model: MixedInputModel, scale: Sequence[Part]) -> list[Stage]:
    stages = []
    if model.image is not None and "branches" in scale:
        assert isinstance(model.tabular, nn.Module)
        stages.append(Stage("table", model.tabular, model.tabular.last_layers))
        stages.append(Stage("photos", model.image, model.image.last_layers))
    if "output" in scale:
        stages.append(Stage("output", model.head, (model.head,), centre=True))
    return stages
