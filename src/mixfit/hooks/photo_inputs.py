"""What an explanation of photos needs of any model: the pixels of a batch, and the output that is to be explained.

Of a batch only the fields of ``PhotoInputs`` are known here. Nothing of a model's insides."""

import copy
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mixfit.errors import ConfigError

Direction = Literal["up", "down", "both"]
"""Heat is where the photo raises the output, where it lowers it, or where it does either."""
Target = int | Int64[Tensor, " batch"] | None
"""Which class is explained, one for all rows or one for each; None for the predicted one, and for numbers."""


@runtime_checkable
class PhotoInputs(Protocol):
    """The fields of a batch that are read here; ``mixfit.Inputs`` has them."""

    images: Tensor | None
    features: Tensor | None
    image_mask: Tensor | None
    normalized: bool

    def __len__(self) -> int: ...

    def __getitem__(self, rows: list[int]) -> "PhotoInputs": ...


def pixels_of(
    xb: PhotoInputs,
) -> tuple[Float[Tensor, "batch photos 3 height width"], Bool[Tensor, "batch photos"]]:
    """Pixels as floats that nobody else holds, 0 where there is no photo; and where there is one.

    Raises:
        ConfigError: the batch has features in place of pixels."""
    if xb.images is None:
        if xb.features is not None:
            raise ConfigError(
                "The batch has features of the photos in place of pixels, and a feature has no place in the photo: "
                "give a batch with pixels, as from data that precompute_features has not changed."
            )
        return torch.zeros(len(xb), 0, 3, 0, 0), torch.zeros(len(xb), 0, dtype=torch.bool)
    mask = xb.image_mask
    if mask is None:
        mask = torch.zeros(xb.images.shape[:2], dtype=torch.bool, device=xb.images.device)
    pixels = xb.images.detach()
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
    return pixels.masked_fill(~mask[:, :, None, None, None], 0), mask


def with_pixels(xb: PhotoInputs, pixels: Tensor | None) -> PhotoInputs:
    """The same rows with other pixels, and nothing in their place."""
    changed = copy.copy(xb)
    changed.images, changed.features = pixels, None
    return changed


def chosen_output(y: Float[Tensor, "batch ..."], target: Target) -> Float[Tensor, " batch"]:
    """The output of each row that is to be explained.

    Args:
        y: of the model, ``(batch,)`` or ``(batch, classes)``.
    Raises:
        ConfigError: ``target`` is no class of the model."""
    if y.ndim == 1:
        if target is not None:
            raise ConfigError("The model predicts a number, which has no classes: leave out the target.")
        return y
    classes = y.shape[1]
    index = y.argmax(1) if target is None else torch.as_tensor(target, device=y.device).expand(len(y))
    if not bool(((index >= 0) & (index < classes)).all()):
        wrong = int(index[(index < 0) | (index >= classes)][0])
        raise ConfigError(f"The target must be a class from 0 to {classes - 1}, got {wrong}.")
    return y.gather(1, index[:, None])[:, 0]


def directed(values: Tensor, direction: Direction) -> Tensor:
    """What of an influence counts as heat, at least 0."""
    match direction:
        case "up":
            return values.clamp(min=0)
        case "down":
            return (-values).clamp(min=0)
        case "both":
            return values.abs()
