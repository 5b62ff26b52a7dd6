"""Export a model as a PyTorch program that runs without mixfit."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.nn.model import MixedInputModel, MixedInputs
from mixfit.nn.tabular import Mix

_PHOTO_FIELDS = ("images", "features", "image_mask", "image_column")
_TEXT_FIELDS = ("text", "text_mask")


def export_model(model: MixedInputModel, xb: MixedInputs) -> torch.export.ExportedProgram:
    """Trace a model in evaluation mode into a program for batches of any number of rows and photos.

    The program takes the tensors of ``xb`` by keyword: ``numeric``, ``categorical``, for texts ``text`` and
    ``text_mask``, and for photos ``images`` or ``features``, ``image_mask`` and ``image_column``. It returns the
    model's output in evaluation mode.
    Every photo goes through the backbone, masked ones too; a batch without photos may have no photo slots, but a
    transformer of timm needs at least one, masked.

    >>> program = export_model(model, xb)                                  # doctest: +SKIP
    >>> torch.export.save(program, "model.pt2")                            # doctest: +SKIP
    >>> run = torch.export.load("model.pt2").module()                      # doctest: +SKIP
    >>> run(numeric=xb.numeric, categorical=xb.categorical)                # doctest: +SKIP

    Args:
        model: on any device; not changed, as the program copies the weights.
        xb: a batch of at least one row, on the model's device. It fixes the fields, the type and the size of pixels,
            and whether they are already normalised.
    Raises:
        ConfigError: the batch is mixed or has no rows.
    """
    if xb.mix is not None:
        raise ConfigError("A mixed batch cannot be exported: pass one without MixUp or CutMix.")
    if not len(xb.numeric):
        raise ConfigError("A batch without rows cannot be exported: pass at least one row.")
    names = [name for name in _PHOTO_FIELDS if getattr(xb, name) is not None]
    # Tracing treats a size of 1 as a constant, so use at least two rows and two photos.
    table = ["numeric", "categorical", *(name for name in _TEXT_FIELDS if getattr(xb, name) is not None)]
    tensors = {name: _two(getattr(xb, name), photos=name in names) for name in (*table, *names)}
    rows, photos = torch.export.Dim("rows"), torch.export.Dim("photos")
    sizes = {name: {0: rows, 1: photos} if name in names else {0: rows} for name in tensors}
    # torch.export.save warns about every weight in channels_last; contiguous weights work with such pixels, too.
    own = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    program = OnTensors(own, normalized=xb.normalized).eval()
    with torch.no_grad():
        return torch.export.export(program, (), tensors, dynamic_shapes=sizes)


@dataclass(kw_only=True)
class _Tensors:
    """The fields that a model reads."""

    numeric: Tensor
    categorical: Tensor
    images: Tensor | None
    features: Tensor | None
    image_mask: Tensor | None
    image_column: Tensor | None
    text: Tensor | None
    text_mask: Tensor | None
    normalized: bool
    photo_scores: Tensor | None = None
    mix: Mix | None = None


class OnTensors(nn.Module):
    """A model as a function of tensors."""

    def __init__(self, model: MixedInputModel, *, normalized: bool) -> None:
        super().__init__()
        self.model, self.normalized = model, normalized

    def forward(
        self,
        numeric: Tensor,
        categorical: Tensor,
        images: Tensor | None = None,
        features: Tensor | None = None,
        image_mask: Tensor | None = None,
        image_column: Tensor | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        return self.model(
            _Tensors(
                numeric=numeric,
                categorical=categorical,
                images=images,
                features=features,
                image_mask=image_mask,
                image_column=image_column,
                text=text,
                text_mask=text_mask,
                normalized=self.normalized,
            )
        )


def _two(tensor: Tensor, *, photos: bool) -> Tensor:
    """At least two rows, by repetition, and two photos of each, by masked zeros."""
    if photos and tensor.shape[1] < 2:
        tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, 2 - tensor.shape[1]))
    return tensor if len(tensor) > 1 else torch.cat([tensor, tensor])
