"""Test-time augmentation: predict a row also from augmented versions of its photos.

In: a model, a batch and transforms. Out: raw outputs of every version; the caller averages them after decoding to
probabilities or numbers in the target's unit."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixfit.data.batch import Inputs
from mixfit.data.transforms.transform import Compose, Transform
from mixfit.errors import ConfigError
from mixfit.seeding import RowRandom


def augmented_outputs(
    model: nn.Module, xb: Inputs, transforms: Sequence[Transform], *, copies: int, seed: int = 0
) -> Float[Tensor, "versions batch ..."]:
    """Raw outputs for the original rows, then for ``copies`` augmented versions of their photos.

    Every row gets the same augmentations, so that a prediction does not depend on the position of the row or on other
    rows. The model must be in evaluation mode.

    Args:
        model: ``xb -> (batch,)`` or ``(batch, classes)``.
        transforms: augmentations of single rows; not MixUp or CutMix.
        copies: number of augmented versions, at least 0.
        seed: seed of the augmentations.
    Raises:
        ConfigError: ``copies`` is negative, or a transform mixes rows.
    """
    if copies < 0:
        raise ConfigError(f"The number of augmentations must be at least 0, got {copies}.")
    transform, places = Compose(transforms), torch.zeros_like(xb.rows)
    outputs = [model(xb)]
    for copy in range(copies):
        changed, _ = transform((xb, xb.rows.new_zeros(len(xb), dtype=torch.float32)), RowRandom(seed, copy, places))
        if changed.mix is not None:
            raise ConfigError("Test-time augmentation cannot mix rows: leave out MixUp and CutMix.")
        outputs.append(model(changed))
    return torch.stack(outputs)
