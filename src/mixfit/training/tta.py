"""Test-time augmentation: a row is also predicted from changed versions of its photos.

In: a model, a batch and transforms. Out: raw outputs of every version; how they are averaged is the caller's business,
as probabilities and prices are averaged after decoding. Knows nothing of tables and targets."""

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
    """Raw outputs for the rows as they are, then for ``copies`` changed versions of their photos.

    Every row is changed in the same ways, so that a prediction does not depend on where the row stands, nor on which
    others are asked for. The model must be in evaluation mode.

    Args:
        model: ``xb -> (batch,)`` or ``(batch, classes)``.
        transforms: changes of one row at a time; not MixUp or CutMix.
        copies: how many changed versions, at least 0.
        seed: of the changes.
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
