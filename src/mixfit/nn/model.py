"""The mixed-input network: encoders, fusion, head. Also how one is built from a plain description."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixfit.config import ModelConfig
from mixfit.errors import ConfigError
from mixfit.nn.backbones import has_pretrained_weights, make_backbone
from mixfit.nn.fusion import ConcatFusion
from mixfit.nn.image import ImageEncoder
from mixfit.nn.layers import Mix
from mixfit.nn.tabular import TabularEncoder


@runtime_checkable
class MixedInputs(Protocol):
    """The fields of a batch that a model reads; ``mixfit.Inputs`` has them."""

    numeric: Tensor
    categorical: Tensor
    images: Tensor | None
    features: Tensor | None
    image_mask: Tensor | None
    normalized: bool

    @property
    def mix(self) -> Mix | None:
        """The partners in a mixed batch."""


class MixedInputModel(nn.Module):
    """Table encoder and image encoder, joined by a fusion, and a linear head.

    Args:
        tabular: ``(batch, numeric), (batch, categorical) -> (batch, d_table)``.
        image: photos of a row -> ``(batch, d_image)``; None for a table without photos.
        fusion: ``(batch, d_table), (batch, d_image) -> (batch, d)``; None exactly when ``image`` is None.
        outputs: 1 for a number, else the number of classes.
    Raises:
        ConfigError: only one of image encoder and fusion is given.
    """

    def __init__(
        self, tabular: TabularEncoder, image: ImageEncoder | None, fusion: ConcatFusion | None, *, outputs: int
    ) -> None:
        super().__init__()
        if (image is None) != (fusion is None):
            raise ConfigError("An image encoder needs a fusion and the other way round: give both or neither.")
        self.tabular, self.image, self.fusion, self.outputs = tabular, image, fusion, outputs
        self.head = nn.Linear(tabular.out_dim if fusion is None else fusion.out_dim, outputs)

    def forward(self, xb: MixedInputs) -> Float[Tensor, " batch"] | Float[Tensor, "batch classes"]:
        """Scaled target ``(batch,)``, or logits ``(batch, classes)``."""
        x = self.tabular(xb.numeric, xb.categorical, xb.mix)
        if self.image is not None and self.fusion is not None:
            mask = xb.image_mask
            if mask is None:
                mask = torch.zeros(len(x), 0, dtype=torch.bool, device=x.device)
            x = self.fusion(x, self.image(xb.images, xb.features, mask, xb.mix, normalized=xb.normalized))
        y = self.head(x)
        return y[:, 0] if self.outputs == 1 else y


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the data decide about a model; together with ``ModelConfig`` it rebuilds the network."""

    numeric: int
    cardinalities: tuple[int, ...]
    photos: bool
    outputs: int
    """1 for a number, else the number of classes."""
    image_size: int = 224
    """Pixels a side of the photos."""


def is_frozen(config: ModelConfig) -> bool:
    """Whether the backbone stays as it is: unless the configuration says, exactly if it has trained weights.

    Raises:
        ConfigError: random weights are to be kept.
    """
    trained = has_pretrained_weights(config.backbone)
    if config.freeze_backbone and not trained:
        raise ConfigError(
            f"The backbone {config.backbone} starts from random weights, so freezing it would keep it useless: "
            "leave --freeze-backbone out."
        )
    return trained if config.freeze_backbone is None else config.freeze_backbone


def make_model(shape: ModelShape, config: ModelConfig, *, pretrained: bool = True) -> MixedInputModel:
    """Build the network of a configuration for data of a shape.

    Weights are random (PyTorch's global generator), the backbone's are pretrained where there are such."""
    tabular = TabularEncoder(
        shape.numeric,
        shape.cardinalities,
        hidden=config.tabular_hidden,
        out_dim=config.encoding_dim,
        dropout=config.dropout,
    )
    image, fusion = None, None
    if shape.photos:
        backbone = make_backbone(config.backbone, image_size=shape.image_size, pretrained=pretrained)
        image = ImageEncoder(
            backbone.module,
            backbone.num_features,
            mean=backbone.mean,
            std=backbone.std,
            out_dim=config.encoding_dim,
            dropout=config.image_dropout,
            frozen=is_frozen(config),
        )
        fusion = ConcatFusion(tabular.out_dim, image.out_dim, out_dim=config.encoding_dim, dropout=config.dropout)
    return MixedInputModel(tabular, image, fusion, outputs=shape.outputs)
