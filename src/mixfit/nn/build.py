"""The network of a configuration, for data of a shape."""

from dataclasses import dataclass

from mixfit.config import ModelConfig
from mixfit.errors import ConfigError
from mixfit.nn.backbones import has_pretrained_weights, make_backbone
from mixfit.nn.freezing import unfreeze_last
from mixfit.nn.fusion import make_fusion
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.nn.tabular import TabularEncoder


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
    image_columns: int = 1
    """Image columns of the table."""


def is_frozen(config: ModelConfig) -> bool:
    """Whether the backbone stays as it is: unless the configuration says, exactly if it has trained weights.

    Raises:
        ConfigError: random weights are to be kept.
    """
    trained = has_pretrained_weights(config.backbone) or config.backbone_weights is not None or config.allow_download
    if config.freeze_backbone and not trained:
        raise ConfigError(
            f"The backbone {config.backbone} starts from random weights, so freezing it would keep it useless: "
            "leave --freeze-backbone out."
        )
    return trained if config.freeze_backbone is None else config.freeze_backbone


def make_model(shape: ModelShape, config: ModelConfig, *, pretrained: bool = True) -> MixedInputModel:
    """Build the network of a configuration for data of a shape.

    Weights are random (PyTorch's global generator), the backbone's are pretrained where there are such.

    Args:
        pretrained: False leaves the backbone's random weights, for when saved ones are loaded anyway."""
    tabular = TabularEncoder(
        shape.numeric,
        shape.cardinalities,
        hidden=config.tabular_hidden,
        out_dim=config.encoding_dim,
        dropout=config.dropout,
    )
    if not shape.photos:
        return MixedInputModel(tabular, None, None, outputs=shape.outputs)
    image = _image_encoder(shape, config, pretrained=pretrained, query_dim=tabular.out_dim)
    fusion = make_fusion(
        config.fusion, tabular.out_dim, image.out_dim, out_dim=config.encoding_dim, dropout=config.dropout
    )
    return MixedInputModel(
        tabular,
        image,
        fusion,
        outputs=shape.outputs,
        auxiliary=config.auxiliary_heads,
        modality_dropout=config.modality_dropout,
    )


def _image_encoder(shape: ModelShape, config: ModelConfig, *, pretrained: bool, query_dim: int) -> ImageEncoder:
    backbone = make_backbone(
        config.backbone,
        image_size=shape.image_size,
        pretrained=pretrained,
        weights=config.backbone_weights,
        allow_download=config.allow_download,
    )
    image = ImageEncoder(
        backbone.module,
        backbone.num_features,
        mean=backbone.mean,
        std=backbone.std,
        out_dim=config.encoding_dim,
        dropout=config.image_dropout,
        frozen=is_frozen(config),
        columns=shape.image_columns,
        query_dim=query_dim if config.fusion == "attention" else 0,
        # "auto" is settled by a measurement before the model is built; without one these are right everywhere.
        memory_format="channels_last" if config.memory_format == "auto" else config.memory_format,
        precision="float32" if config.precision == "auto" else config.precision,
    )
    if config.train_blocks and image.frozen:
        unfreeze_last(image.backbone, config.train_blocks)
    return image
