"""The settings of a run: frozen dataclasses, each field explained once; TOML files of them, and the names that a
setting can have."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from mixfit.choices import (
    Augmentation,
    Crop,
    Fusion,
    LossName,
    MemoryFormat,
    Numbers,
    OptimizerName,
    Precision,
    Preset,
    Role,
    Tabular,
    Task,
)
from mixfit.errors import ConfigError, did_you_mean
from mixfit.files import from_plain

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 90s, 10m, 1h or 1h30m.

    >>> parse_duration("1h30m")
    5400.0
    >>> parse_duration("0.5m")
    30.0

    Raises:
        ConfigError: it is none, or it is 0.
    """
    cleaned = text.strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", cleaned)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != cleaned or not seconds > 0:
        raise ConfigError(
            f"A duration is a number with s, m or h, such as 90s, 10m or 1h30m, and above 0, got {text!r}."
        )
    return seconds


_WIDEST, _MOST_LAYERS = 2**16, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """How a text table is written, where that cannot be told from the file."""

    sep: str | None = None
    """Separator of cells in a text table: one character, or tab, comma, semicolon, pipe; by default found out."""
    decimal: str | None = None
    """Decimal mark in a text table: . or a comma; by default found out."""
    encoding: str | None = None
    """Encoding of a text table; by default found out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The table, its columns and its photos."""

    roles: Annotated[dict[str, Role], Parameter(parse=False)] = field(default_factory=dict)
    """Roles that are set, by column: number, category, date, image, group, split, weight or ignored."""
    ignore: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    """A column to leave out; give the flag once for each."""
    task: Task | None = None
    """What kind of target it is; by default told from its values."""
    images: Path | None = None
    """Folder that the photo paths start from; by default the table's folder."""
    image_size: int | None = None
    """Photos are brought to this many pixels a side; by default 128 for small photos, else 224."""
    crop: Crop = "squash"
    """How a photo becomes square: squash it, cut its centre out, or pad it with grey."""
    valid: float = 0.15
    """Share of rows that choose the best epoch, where the table has no split column."""
    test: float = 0.15
    """Share of rows held back for the test, where the table has no split column."""
    split_time: str | None = None
    """Column of dates or numbers to split by: the latest rows are the test, those before them choose the best epoch."""
    gap: str | None = None
    """Time before the rows that judge in which no row is used: 30d, 12h, or a number where the times are numbers."""
    dedup: bool = False
    """Leave rows out of training and validation that are copies of rows that judge, or share a photo with one."""
    max_missing_target: float = 0.05
    """Rows without target are left out; training is refused when their share is larger than this."""
    cache: Path | None = None
    """Folder where decoded photos and their features are kept; by default MIXFIT_CACHE or the user's cache folder."""
    cache_gb: float = 20.0
    """The most that the cache folder may hold, in gigabytes; 0 for no cache."""
    text: Annotated[TextConfig, Parameter(name="*")] = TextConfig()
    """How a text table is written."""

    def __post_init__(self) -> None:
        _check_choices(self)
        if self.image_size is not None and not 32 <= self.image_size <= 1024:
            raise ConfigError(f"image_size must be from 32 to 1024, got {self.image_size}.")
        if not (0 < self.valid < 1 and 0 <= self.test < 1 and self.valid + self.test < 1):
            raise ConfigError(f"valid and test must leave rows to train, got {self.valid} and {self.test}.")
        if self.gap is not None and self.split_time is None:
            raise ConfigError(f"A gap of {self.gap} goes with a split by time: add --split-time COLUMN.")
        if not 0 <= self.cache_gb < float("inf"):
            raise ConfigError(f"cache_gb must be at least 0, got {self.cache_gb}.")
        if not 0 <= self.max_missing_target < 1:
            raise ConfigError(f"max_missing_target must be at least 0 and below 1, got {self.max_missing_target}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network."""

    backbone: str = "tf_efficientnet_lite0"
    """Image network: tf_efficientnet_lite0 (ImageNet weights), small_resnet (from scratch) or a timm model."""
    freeze_backbone: bool | None = None
    """Keep the image network as it is, its features computed once per photo; by default if it has trained weights."""
    backbone_weights: Path | None = None
    """A safetensors file with the image network's weights, under timm's names; by default those of its package."""
    allow_download: bool = False
    """Fetch the image network's weights from timm's model hub when no others are given."""
    train_blocks: int = 0
    """How many of the last blocks of a frozen image network learn all the same."""
    memory_format: MemoryFormat = "auto"
    """Order of the image network's numbers in memory; "auto" is channels_last."""
    precision: Precision = "auto"
    """Arithmetic of the image network; "auto" is bfloat16 where it learns faster with it on this processor."""
    fusion: Fusion = "concat"
    """How table and photos are joined: side by side, gated, film (the table scales), attention, or late (averaged)."""
    auxiliary_heads: bool = False
    """In training also predict from the table alone and from the photos alone."""
    modality_dropout: float = 0.0
    """Share of training rows that lose their photos in a batch."""
    tabular: Tabular = "tabm"
    """The table's network: mlp, resnet, or tabm (an ensemble of MLPs that share their weights)."""
    members: int = 32
    """Members of the ensemble tabm."""
    numbers: Numbers = "piecewise"
    """How numbers enter it: plain, linear, periodic, or piecewise (linear between bins of the training rows)."""
    category_width: int = 4
    """Most places of an embedded category in TabM; wide ones learn rare categories by heart."""
    number_width: int | None = None
    """Places of an embedded number; by default 16, and fewer where there are more than 32 columns of numbers."""
    bins: int = 48
    """Most bins of a number that is embedded piecewise-linearly."""
    tabular_hidden: Annotated[tuple[int, ...] | None, Parameter(negative=())] = None
    """Width of a hidden layer of the table's network, one flag for each layer; by default by the training rows."""
    encoding_dim: int = 64
    """Width of the vectors that the table and the photos are encoded to."""
    dropout: float = 0.1
    """Share of units left out in training."""
    image_dropout: float = 0.5
    """Share of image features left out in training."""

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("dropout", "image_dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.members < 1:
            raise ConfigError(f"members must be at least 1, got {self.members}.")
        if self.train_blocks < 0:
            raise ConfigError(f"train_blocks must be at least 0, got {self.train_blocks}.")
        if self.encoding_dim < 1 or any(width < 1 for width in self.tabular_hidden or ()):
            raise ConfigError("encoding_dim and every width of tabular_hidden must be at least 1.")
        if min(self.bins, self.category_width, 1 if self.number_width is None else self.number_width) < 1:
            raise ConfigError("bins, number_width and category_width must be at least 1.")
        hidden = self.tabular_hidden or ()
        sizes = (self.members, self.encoding_dim, self.category_width, self.number_width or 1, *hidden)
        if max(sizes) > _WIDEST or len(hidden) > _MOST_LAYERS:
            raise ConfigError(f"Widths and members are at most {_WIDEST:,}, layers of tabular_hidden {_MOST_LAYERS}.")

    def to_dict(self) -> dict[str, Any]:
        """State for JSON; of a file of weights its name alone, as what is saved has the weights themselves."""
        weights = self.backbone_weights
        return asdict(self) | {"backbone_weights": None if weights is None else weights.name}

    @classmethod
    def from_dict(cls, state: Any) -> "ModelConfig":
        """Read what ``to_dict`` gave.

        Raises:
            DataError: it is something else.
        """
        return from_plain(cls, state, "the configuration", finite=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run."""

    preset: Preset = "balanced"
    """What is tried: quick, balanced and best blend ever more models over folds of rows; network trains one."""
    epochs: int = 60
    """Most passes over the training rows; one network ends sooner when it stops improving, blends at 20 or 40."""
    optimizer: OptimizerName = "adamw"
    """What changes the weights; all but schedule_free, whose rate is constant, follow a one-cycle schedule."""
    lr: float | None = None
    """Peak learning rate of the chosen optimizer; by default one that suits it, 2e-3 for adamw."""
    weight_decay: float | None = None
    """Weight decay of the chosen optimizer; by default one that suits it, 0.05 for adamw."""
    loss: LossName = "auto"
    """What is minimised: mse, mae, huber for numbers; cross_entropy, balanced, smooth, focal for classes."""
    batch_size: int | None = None
    """Rows in a batch; by default chosen from the number of training rows."""
    patience: int = 15
    """Epochs without a better validation loss after which training ends."""
    seed: int = 0
    """Of the split, the weights and the order of rows."""
    augment: Augmentation = "none"
    """Random changes of the photos in training: mirrored, a standard mixture, or TrivialAugment."""
    time: str | None = None
    """The most time that training takes, such as 90s, 10m or 1h30m, once the features of the photos are there."""
    save_every: float = 15.0
    """Shortest time between two savings of the training, in seconds; 0 saves after every batch."""

    def __post_init__(self) -> None:
        _check_choices(self)
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, got {self.epochs}.")
        if self.lr is not None and not self.lr > 0:  # also refuses nan
            raise ConfigError(f"lr must be above 0, got {self.lr}.")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay must be at least 0, got {self.weight_decay}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}.")
        if self.time is not None:
            parse_duration(self.time)
        if not self.save_every >= 0:
            raise ConfigError(f"save_every must be at least 0 seconds, got {self.save_every}.")
        if self.patience < 1:
            raise ConfigError(f"patience must be at least 1, got {self.patience}.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be from 0 to {2**32 - 1}, got {self.seed}.")


def _check_choices(settings: Any) -> None:
    """Refuse a text that is none of a field's choices; from the command line such a one does not come here."""
    for name, hint in get_type_hints(type(settings)).items():
        kinds = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
        choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
        value = getattr(settings, name)
        if choices and value is not None and value not in choices:
            raise ConfigError(
                f"{name} must be one of {', '.join(choices)}, got {value!r}.{did_you_mean(str(value), choices)}"
            )


SECTIONS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
