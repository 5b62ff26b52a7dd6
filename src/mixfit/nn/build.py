"""Build the network of a configuration, for data of a given shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, assert_never

import torch
from torch import Tensor, nn

from mixfit.config import ModelConfig
from mixfit.errors import ConfigError, DataError
from mixfit.files import Within, shown
from mixfit.nn.backbones import Backbone, has_pretrained_weights, make_backbone
from mixfit.nn.freezing import unfreeze_last
from mixfit.nn.fusion import Fusion, make_fusion
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel, PhotoEncoder, TableEncoder
from mixfit.nn.numbers import (
    LinearEmbedding,
    NumericEmbedding,
    PeriodicEmbedding,
    PiecewiseLinearEmbedding,
)
from mixfit.nn.stages import stage_widths
from mixfit.nn.tabular import TabM, TabularEncoder, TabularResNet, embedding_size
from mixfit.nn.text import TextEncoder

_NUMBER_WIDTH, _NUMBER_WIDTH_OF_TABM, _ALL_NUMBERS_WIDTH = 16, 8, 512
"""Largest embedding width of a number, and of all numbers together."""
_NARROWEST_NUMBER = 4
_LARGE_TABLE = 2_000
"""Number of training rows from which the table's network is wider."""
_STAGES = 3
"""Stages of a frozen image network whose statistics join its features (docs/LOG.md)."""
_BACKBONE = "image.backbone."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The properties of a model that depend on the data; with ``ModelConfig`` they define the network."""

    numeric: Annotated[int, Within(0, 10**6)]
    cardinalities: tuple[Annotated[int, Within(1, 10**8)], ...]
    photos: bool
    outputs: Annotated[int, Within(1, 10**6)]
    """1 for regression, else the number of classes."""
    image_size: Annotated[int, Within(1, 1024)] = 224
    """Side length of the photos in pixels."""
    image_columns: Annotated[int, Within(0, 10**6)] = 1
    """Image columns of the table."""
    bins: tuple[tuple[float, ...], ...] = ()
    """Edges of the bins of each number column, for piecewise-linear embeddings; else ()."""
    photo_scores: Annotated[int, Within(0, 10**4)] = 0
    """Scores of a row's photos, see ``ImageEncoder.set_scores``."""
    text_columns: Annotated[int, Within(0, 10**4)] = 0
    """Text columns of the table."""
    text_width: Annotated[int, Within(0, 10**5)] = 0
    """Numbers that describe the text of a cell; 0 exactly without text columns."""


def with_sizes(config: ModelConfig, *, rows: int, numeric: int) -> ModelConfig:
    """The configuration with default sizes filled in: wider hidden layers for more rows, and narrower embeddings for
    more number columns, so that the total width stays about constant. The members of a TabM share narrow layers.

    Args:
        rows: number of training rows.
        numeric: number columns of the network's input.
    """
    hidden, width = config.tabular_hidden, config.number_width
    if hidden is None:
        hidden = (128, 128) if rows < _LARGE_TABLE or config.tabular == "tabm" else (256, 256)
    if width is None:
        most = _NUMBER_WIDTH_OF_TABM if config.tabular == "tabm" else _NUMBER_WIDTH
        width = min(most, max(_NARROWEST_NUMBER, _ALL_NUMBERS_WIDTH // max(numeric, 1)))
    stages = config.photo_stages
    if stages is None:
        stages = _STAGES if is_frozen(config) else 0
    return replace(config, tabular_hidden=hidden, number_width=width, photo_stages=stages)


def as_saved(config: ModelConfig) -> ModelConfig:
    """A configuration from a file: sizes that it leaves open did not exist when it was saved."""
    return replace(config, photo_stages=config.photo_stages or 0)


def is_frozen(config: ModelConfig) -> bool:
    """Whether the backbone is frozen: by default, exactly if it is pretrained.

    Raises:
        ConfigError: a backbone with random weights would be frozen.
    """
    trained = has_pretrained_weights(config.backbone) or config.backbone_weights is not None or config.allow_download
    if config.freeze_backbone and not trained:
        raise ConfigError(
            f"The backbone {config.backbone} has random initial weights, so it must not be frozen: "
            "leave out --freeze-backbone."
        )
    return trained if config.freeze_backbone is None else config.freeze_backbone


def make_model(
    shape: ModelShape,
    config: ModelConfig,
    *,
    pretrained: bool = True,
    backbone: Backbone | None = None,
    image_encoder: PhotoEncoder | None = None,
    fusion: Callable[[int, int], Fusion] | None = None,
) -> MixedInputModel:
    """Build the network of a configuration for data of a given shape.

    Weights are random (PyTorch's global generator), except for pretrained backbones. Sizes that the configuration
    leaves open are those for a small table, see ``with_sizes``.

    Args:
        pretrained: False leaves random weights in the backbone, if saved ones are loaded later.
        backbone: an existing backbone to use.
        image_encoder: a custom encoder, instead of the configuration's.
        fusion: called with the widths of the encodings of table and photos, instead of the configuration's.
    Raises:
        ConfigError: a custom image encoder or fusion is given, but there are no photos; or only one of
            ``text_columns`` and ``text_width`` is 0.
    """
    config = with_sizes(config, rows=0, numeric=shape.numeric)
    tabular, members = _table_encoder(shape, config)
    if not shape.photos:
        if image_encoder is not None or fusion is not None:
            raise ConfigError("The table has no photos, so it needs neither an image encoder nor a fusion.")
        return MixedInputModel(
            tabular,
            None,
            None,
            outputs=shape.outputs,
            members=members,
            modality_dropout=config.modality_dropout,
            text=_text_encoder(shape, config),
        )
    if image_encoder is None:
        if backbone is None:
            backbone = _backbone_of(config, shape.image_size, pretrained=pretrained)
        image_encoder = _image_encoder(shape, config, backbone, query_dim=tabular.out_dim)
    widths = tabular.out_dim, image_encoder.out_dim
    if fusion is None:
        joined = make_fusion(config.fusion, *widths, out_dim=config.encoding_dim, dropout=config.dropout)
    else:
        joined = fusion(*widths)
    return MixedInputModel(
        tabular,
        image_encoder,
        joined,
        outputs=shape.outputs,
        members=members,
        auxiliary=config.auxiliary_heads,
        modality_dropout=config.modality_dropout,
        text=_text_encoder(shape, config),
    )


def make_saved_model(
    shape: ModelShape, config: ModelConfig, tensors: Mapping[str, Tensor], backbone: nn.Module | None = None
) -> MixedInputModel:
    """Build the network of a configuration with saved weights.

    Memory is only allocated if the sizes of the configuration match the tensors.

    Args:
        config: as it was saved, see ``as_saved``.
        tensors: finite; without those of a shared backbone.
        backbone: the shared backbone.
    Raises:
        DataError: the tensors do not match the network.
    """
    config = as_saved(config)
    around = {name: tensor for name, tensor in tensors.items() if not name.startswith(_BACKBONE)}
    inside = {name.removeprefix(_BACKBONE): t for name, t in tensors.items() if name.startswith(_BACKBONE)}
    try:
        ready = None
        if shape.photos and backbone is not None:
            ready = _as_backbone(backbone, tensors, config.photo_stages or 0)
            config = replace(config, train_blocks=0)  # a shared backbone is not trained
        elif shape.photos:
            ready = make_saved_backbone(config, shape.image_size, inside)
        with torch.device("meta"):  # shapes without memory
            sketch = make_model(shape, config, pretrained=False, backbone=ready)
        wanted = {name: tensor for name, tensor in sketch.state_dict().items() if not name.startswith(_BACKBONE)}
        check_state(around, wanted)
        model = make_model(shape, config, pretrained=False, backbone=ready)
    except ConfigError as error:
        raise DataError(str(error)) from error
    model.load_state_dict(around, strict=False)
    return model


def make_saved_backbone(config: ModelConfig, image_size: int, tensors: Mapping[str, Tensor]) -> Backbone:
    """Build the backbone of a configuration with saved weights.

    Raises:
        ConfigError: the backbone is unknown.
        DataError: the tensors do not match it.
    """
    with torch.device("meta"):
        sketch = make_backbone(config.backbone, image_size=image_size, pretrained=False, num_features=1).module
    check_state(tensors, sketch.state_dict())
    backbone = make_backbone(config.backbone, image_size=image_size, pretrained=False)
    backbone.module.load_state_dict(tensors)
    return backbone


def check_state(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that tensors match a network in names, shapes and types, and are finite.

    Raises:
        DataError: they do not.
    """
    missing, extra = [name for name in wanted if name not in tensors], [name for name in tensors if name not in wanted]
    if missing or extra:
        first = shown([*missing, *extra][0])
        raise DataError(
            f"{len(missing)} tensors of a network are missing and {len(extra)} are unexpected, the first: {first}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            found, expected = (f"{tuple(one.shape)} {one.dtype}" for one in (tensor, wanted[name]))
            raise DataError(f"the tensor {shown(name)} is {found} instead of {expected}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"the tensor {shown(name)} is not finite")


def _as_backbone(module: nn.Module, tensors: Mapping[str, Tensor], stages: int) -> Backbone:
    """A shared backbone as part of a network with these tensors, which determine the width of its features."""
    scale = tensors.get("image.project.0.weight")
    if scale is None or scale.ndim != 1:
        raise DataError("the width of the photo features is unknown")
    cfg = getattr(module, "default_cfg", {"mean": (0.5,) * 3, "std": (0.25,) * 3})
    return Backbone(module, len(scale) - 2 * sum(stage_widths(module, stages)), cfg["mean"], cfg["std"])


def _backbone_of(config: ModelConfig, image_size: int, *, pretrained: bool) -> Backbone:
    return make_backbone(
        config.backbone,
        image_size=image_size,
        pretrained=pretrained,
        weights=config.backbone_weights,
        allow_download=config.allow_download,
    )


def _table_encoder(shape: ModelShape, config: ModelConfig) -> tuple[TableEncoder, int]:
    """The encoder and its number of members."""
    numbers = _numbers(shape, config)
    hidden, dropout = config.tabular_hidden or (), config.dropout
    columns = (shape.numeric, shape.cardinalities)
    match config.tabular:
        case "mlp":
            mlp = TabularEncoder(*columns, hidden=hidden, out_dim=config.encoding_dim, dropout=dropout, numbers=numbers)
            return mlp, 1
        case "resnet":
            resnet = TabularResNet(
                *columns,
                width=config.encoding_dim,
                blocks=max(1, len(hidden)),
                out_dim=config.encoding_dim,
                dropout=dropout,
                numbers=numbers,
            )
            return resnet, 1
        case "tabm":
            tabm = TabM(
                *columns,
                members=config.members,
                blocks=max(1, len(hidden)),
                width=max((config.encoding_dim, *hidden)),
                dropout=dropout,
                numbers=numbers,
                wide=True,
                category_widths=[min(config.category_width, embedding_size(n)) for n in shape.cardinalities],
            )
            return tabm, config.members
        case _:
            assert_never(config.tabular)


def _text_encoder(shape: ModelShape, config: ModelConfig) -> TextEncoder | None:
    if shape.text_columns == shape.text_width == 0:
        return None
    return TextEncoder(shape.text_columns, shape.text_width, out_dim=config.encoding_dim, dropout=config.dropout)


def _numbers(shape: ModelShape, config: ModelConfig) -> NumericEmbedding | None:
    width = config.number_width or _NUMBER_WIDTH
    match config.numbers:
        case "plain":
            return None
        case "linear":
            return LinearEmbedding(shape.numeric, width, activation=True)
        case "periodic":
            return PeriodicEmbedding(shape.numeric, width)
        case "piecewise":
            if len(shape.bins) != shape.numeric:
                raise ConfigError(
                    f"There are bins for {len(shape.bins)} of {shape.numeric} number columns: use build_model or "
                    "compute_bins, to compute them from the training rows, or another embedding of numbers."
                )
            return PiecewiseLinearEmbedding(
                [torch.tensor(edges, dtype=torch.float64, device="cpu") for edges in shape.bins], width
            )
        case _:
            assert_never(config.numbers)


def _image_encoder(shape: ModelShape, config: ModelConfig, backbone: Backbone, *, query_dim: int) -> ImageEncoder:
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
        # A run replaces "auto" before its model is built; these defaults work everywhere.
        memory_format="channels_last" if config.memory_format == "auto" else config.memory_format,
        precision="float32" if config.precision == "auto" else config.precision,
        stages=config.photo_stages or 0,
        scores=shape.photo_scores,
    )
    if config.train_blocks and image.frozen:
        unfreeze_last(image.backbone, config.train_blocks)
    return image
