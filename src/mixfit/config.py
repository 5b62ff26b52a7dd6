"""The settings of a run: frozen dataclasses whose field docstrings are also the help texts."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from mixfit.choices import (
    METRICS_OF,
    Augmentation,
    Crop,
    Fusion,
    LossName,
    MemoryFormat,
    MetricName,
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
        ConfigError: ``text`` is not a duration, or is 0.
    """
    cleaned = text.strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", cleaned)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != cleaned or not seconds > 0:
        raise ConfigError(f"A duration is a number above 0 with s, m or h, such as 90s, 10m or 1h30m, got {text!r}.")
    return seconds


def check_metric(name: MetricName, task: Task) -> None:
    """Refuse a metric that does not suit the task.

    Raises:
        ConfigError: with the metrics that do.
    """
    fitting = METRICS_OF[task]
    if name != "auto" and name not in fitting:
        raise ConfigError(
            f"the metric {name} does not suit the task {task}: use {', '.join(fitting)} or auto, or set --task."
        )


KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
MINILM = "minilm"
"""The text model of the extra ``text``; any other is a folder."""
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " ", "\\t": "\t"}
"""Words for separators, as shells make it hard to type a tab."""
_NOT_SEPARATORS = '"\r\n\0'
_WIDEST, _MOST_LAYERS, _MOST_FOLDS = 2**16, 100, 20


def gap_length(gap: str, *, dates: bool) -> float:
    """The length of a gap between parts of a split by time: microseconds for dates, else the number itself.

    >>> gap_length("12h", dates=True) == 12 * 3600 * 1e6, gap_length("3", dates=False)
    (True, 3.0)

    Raises:
        ConfigError: it is not a duration for dates, not a number for numbers, or negative.
    """
    import pandas as pd

    wanted = "a duration such as 30d, 12h or 2w" if dates else "a number such as 3, as the times are numbers"
    try:
        days = re.sub(r"(?<=\d)\s*[dw]\b", lambda unit: unit.group().upper(), gap)  # pandas takes D and W
        found = pd.Timedelta(days) / pd.Timedelta(microseconds=1) if dates else float(gap)
    except ValueError as error:
        raise ConfigError(f"The gap of a split by time must be {wanted}; got {gap!r}.") from error
    if not 0 <= found < float("inf") or (dates and gap.strip().replace(".", "").isdigit()):
        raise ConfigError(f"The gap of a split by time must be {wanted}; got {gap!r}.")
    return float(found)


def _check_time(text: str) -> None:
    try:
        parse_duration(text)
    except ConfigError as error:
        raise ConfigError(f"time: {error}") from error


def _check_gap(gap: str) -> None:
    """Refuse what is neither a duration nor a number, before the table says which of them it must be."""
    try:
        gap_length(gap, dates=False)
    except ConfigError:
        gap_length(gap, dates=True)


@cache
def _hints_of(kind: Any) -> dict[str, Any]:
    """Hints of the fields of a class, which take a while to be read."""
    return get_type_hints(kind)


def _check_types(settings: Any) -> None:
    """Refuse a value of a wrong type, which only Python can give; a list becomes a tuple, and a text a path."""
    for name, hint in _hints_of(settings.__class__).items():
        value = getattr(settings, name)
        optional = isinstance(hint, UnionType) or get_origin(hint) is Union
        (kind, *_) = (one for one in get_args(hint) if one is not type(None)) if optional else (hint,)
        if optional and value is None:
            continue
        origin, wanted = get_origin(kind) or kind, ""
        if origin is tuple:
            part = get_args(kind)[0]
            if isinstance(value, list | tuple) and all(_is_of(part, one) for one in value):
                object.__setattr__(settings, name, tuple(value))
            else:
                wanted = f"a list, each entry {KIND_NAMES[part]}"
        elif origin is dict and not isinstance(value, Mapping):
            wanted = "a dict"
        elif origin is TextConfig and not isinstance(value, TextConfig):
            wanted = "a TextConfig"
        elif origin in KIND_NAMES and not _is_of(origin, value):
            wanted = KIND_NAMES[origin]
        elif origin is Path:
            object.__setattr__(settings, name, Path(value))
        if wanted:
            raise ConfigError(f"{name} must be {wanted}, got {value!r}.")


def _is_of(kind: Any, value: object) -> bool:
    if isinstance(value, bool):
        return kind is bool
    accepted: dict[Any, Any] = {int: Integral, float: Real, Path: str | Path}
    return isinstance(value, accepted.get(kind, kind))


def _check_choices(settings: Any) -> None:
    """Reject a value that is not one of a field's choices; the command line checks it earlier."""
    _check_types(settings)
    for name, hint in _hints_of(settings.__class__).items():
        kinds = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
        choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
        value = getattr(settings, name)
        if choices and value is not None and value not in choices:
            raise ConfigError(
                f"{name} must be one of {', '.join(choices)}, got {value!r}.{did_you_mean(str(value), choices)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The format of a text table, where detection fails."""

    sep: str | None = None
    """Separator of a text table: one character, or tab, comma, semicolon, pipe; by default detected."""
    decimal: str | None = None
    """Decimal mark of a text table: . or a comma; by default detected."""
    encoding: str | None = None
    """Encoding of a text table; by default detected."""

    def __post_init__(self) -> None:
        _check_types(self)
        sign = None if self.sep is None else SEPARATORS.get(self.sep.lower(), self.sep)
        if sign is not None and (len(sign) != 1 or not sign.isascii() or sign.isalnum() or sign in _NOT_SEPARATORS):
            raise ConfigError(f"sep must be one ASCII character, or a word such as tab or semicolon, got {self.sep!r}.")
        if self.decimal not in (None, ".", ","):
            raise ConfigError(f"decimal must be . or a comma, got {self.decimal!r}.")
        try:
            "".encode("utf-8" if self.encoding is None else self.encoding)
        except (LookupError, ValueError):
            raise ConfigError(
                f"encoding: {self.encoding!r} is not a text encoding; use for example utf-8, cp1252 or utf-16."
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The table, its columns and its photos."""

    roles: Annotated[dict[str, Role], Parameter(parse=False)] = field(default_factory=dict)
    """Roles by column: number, category, ordered, date, text, tags, image, group, split, weight or ignored."""
    order: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """COLUMN=LOWEST,...,HIGHEST: the order of the values of an ordered column; may be repeated."""
    ignore: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """Column to leave out; may be repeated."""
    task: Task | None = None
    """Type of prediction task; by default inferred from the target's values."""
    images: Path | None = None
    """Folder or .zip that photo paths are relative to, or a rule like images/{id}/*; by default the table's folder."""
    image_size: int | None = None
    """Photos are resized to this side length in pixels; by default 128 for small photos, else 224."""
    crop: Crop = "squash"
    """How a photo is made square: squash it, crop its centre, or pad it with grey."""
    valid: float = 0.15
    """Share of validation rows, which choose the best epoch; ignored if there is a split column."""
    test: float = 0.15
    """Share of test rows; ignored if there is a split column."""
    split_time: str | None = None
    """Column of dates or numbers to split by: the latest rows are for the test, those before them for validation."""
    gap: str | None = None
    """Time left out before validation and test rows with --split-time: 30d, 12h, or a number for numeric times."""
    dedup: bool = False
    """Leave out training and validation rows that are copies of validation or test rows, or share a photo with one."""
    max_missing_target: float = 0.05
    """Largest share of rows without a target, which are left out; above it, training is refused."""
    text_model: str = "none"
    """Sentence encoder of texts: none, minilm (English; mixfit[text]), or a folder of sentence-transformers."""
    cache: Path | None = None
    """Cache folder of decoded photos and frozen features; by default MIXFIT_CACHE or the user's cache folder."""
    cache_gb: float = 20.0
    """Largest size of the cache folder in gigabytes; 0 disables the cache."""
    features: str | None = None
    """Folder or URL of features of photos and texts that mixfit embed computed; others are computed as without it."""
    text: Annotated[TextConfig, Parameter(name="*")] = TextConfig()
    """The format of a text table."""

    def __post_init__(self) -> None:
        if isinstance(self.features, Path):
            object.__setattr__(self, "features", str(self.features))
        if isinstance(self.text_model, Path):
            object.__setattr__(self, "text_model", str(self.text_model))
        _check_choices(self)
        if not self.text_model:
            raise ConfigError("text_model must be none, minilm, or a folder of a text model, got an empty text.")
        if self.image_size is not None and not 32 <= self.image_size <= 1024:
            raise ConfigError(f"image_size must be from 32 to 1024, got {self.image_size}.")
        if not (0 < self.valid < 1 and 0 <= self.test < 1 and self.valid + self.test < 1):
            raise ConfigError(
                f"valid must be above 0, test at least 0, and their sum below 1, got {self.valid} and {self.test}."
            )
        if self.gap is not None and self.split_time is None:
            raise ConfigError(f"gap={self.gap} needs a split by time: add --split-time COLUMN.")
        if self.gap is not None:
            _check_gap(self.gap)
        if not 0 <= self.cache_gb < float("inf"):
            raise ConfigError(f"cache_gb must be at least 0, got {self.cache_gb}.")
        if not 0 <= self.max_missing_target < 1:
            raise ConfigError(f"max_missing_target must be at least 0 and below 1, got {self.max_missing_target}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network."""

    backbone: str = "tf_efficientnet_lite0"
    """Image network: tf_efficientnet_lite0 (ImageNet weights), small_resnet (from scratch) or a timm model; list prints
    those on this machine."""
    freeze_backbone: bool | None = None
    """Freeze the image network and compute its features once per photo; by default if it is pretrained."""
    backbone_weights: Path | None = None
    """Safetensors file with the image network's weights, as timm, OpenCLIP or DINOv2 name them; by default those of its
    package."""
    allow_download: bool = False
    """Download the image network's weights from timm's model hub if no others are given."""
    photo_stages: int | None = None
    """Last stages of the image network whose means and deviations join its features; by default 3 if it is frozen."""
    train_blocks: int = 0
    """Number of last blocks of a frozen image network that are still trained."""
    memory_format: MemoryFormat = "auto"
    """Memory format of the image network; "auto" is channels_last."""
    precision: Precision = "auto"
    """Floating-point type of the image network; "auto" is bfloat16 where this processor trains faster with it."""
    fusion: Fusion = "concat"
    """Fusion of table and photos: concat, gated, film (the table scales), attention, or late (averaged)."""
    auxiliary_heads: bool = False
    """Also train heads that predict from the table alone and from the photos alone."""
    modality_dropout: float = 0.0
    """Probability that a row's photos are dropped in training, and, independently, that its texts are."""
    tabular: Tabular = "tabm"
    """Network of the table: mlp, resnet, or tabm (an ensemble of MLPs that share weights)."""
    members: int = 4
    """Ensemble members of tabm."""
    numbers: Numbers = "piecewise"
    """Embedding of numbers: plain (none), linear, periodic, or piecewise (linear between bins of the training rows)."""
    category_width: int = 4
    """Largest embedding width of a category in TabM; wide embeddings overfit rare categories."""
    number_width: int | None = None
    """Embedding width of a number; by default 16, in a TabM 8, and less with many number columns."""
    bins: int = 48
    """Largest number of bins of the piecewise embedding."""
    tabular_hidden: Annotated[tuple[int, ...] | None, Parameter(negative=())] = None
    """Width of a hidden layer of the table's network, once per layer; by default set by the number of training rows."""
    encoding_dim: int = 64
    """Width of the encodings of the table, the texts and the photos."""
    dropout: float = 0.1
    """Dropout probability."""
    image_dropout: float = 0.5
    """Dropout probability of image features."""

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("dropout", "image_dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.members < 1:
            raise ConfigError(f"members must be at least 1, got {self.members}.")
        if self.train_blocks < 0:
            raise ConfigError(f"train_blocks must be at least 0, got {self.train_blocks}.")
        if self.photo_stages is not None and self.photo_stages < 0:
            raise ConfigError(f"photo_stages must be at least 0, got {self.photo_stages}.")
        if self.encoding_dim < 1 or any(width < 1 for width in self.tabular_hidden or ()):
            raise ConfigError("encoding_dim and every width of tabular_hidden must be at least 1.")
        if min(self.bins, self.category_width, 1 if self.number_width is None else self.number_width) < 1:
            raise ConfigError("bins, number_width and category_width must be at least 1.")
        hidden = self.tabular_hidden or ()
        sizes = (self.members, self.encoding_dim, self.category_width, self.number_width or 1, *hidden)
        if max(sizes) > _WIDEST or len(hidden) > _MOST_LAYERS:
            raise ConfigError(
                f"Widths and members must be at most {_WIDEST:,}, and tabular_hidden at most {_MOST_LAYERS} layers."
            )

    def to_dict(self) -> dict[str, Any]:
        """State for JSON; ``backbone_weights`` by its file name alone, as a saved model holds the weights."""
        weights = self.backbone_weights
        return asdict(self) | {"backbone_weights": None if weights is None else weights.name}

    @classmethod
    def from_dict(cls, state: Any) -> "ModelConfig":
        """Read what ``to_dict`` returned.

        Raises:
            DataError: ``state`` is not a valid configuration.
        """
        return from_plain(cls, state, "the configuration", finite=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run."""

    preset: Preset = "balanced"
    """Models to fit: quick, balanced and best (up to 30 s, 5 and 30 min) blend ever more models; network trains one."""
    epochs: int = 60
    """Most epochs; a single network stops early, networks of a blend train at most 20 or 40."""
    optimizer: OptimizerName = "adamw"
    """Optimizer; all use a one-cycle schedule except schedule_free, whose rate is constant."""
    lr: float | None = None
    """Peak learning rate; the default depends on the optimizer, 2e-3 for adamw."""
    weight_decay: float | None = None
    """Weight decay; the default depends on the optimizer, 0.05 for adamw."""
    loss: LossName = "auto"
    """Loss: mse, mae, huber for numbers; poisson for counts; cross_entropy, balanced, smooth, focal for classes."""
    metric: MetricName = "auto"
    """Metric that is reported first and optimised where possible; for two classes it may set the decision threshold."""
    fine_tune: bool = False
    """Also train the last blocks of the pretrained image network on the photos, at a tenth of the rate, norms as they
    are: one more model of a preset, within the time of preset best, which has it anyway."""
    refit: bool = False
    """After the evaluation, fit the delivered model once more on all rows, test rows included."""
    folds: int | None = None
    """Folds on which a preset's models are fitted and judged, from 2 to 20; by default 5, and 10 for best and for few
    rows with balanced."""
    batch_size: int | None = None
    """Rows per batch; by default set by the number of training rows."""
    patience: int = 15
    """Epochs without a better validation loss before training stops."""
    seed: int = 0
    """Random seed of the split, the initial weights and the order of rows."""
    augment: Augmentation = "none"
    """Photo augmentation in training: horizontal flips, a standard mixture, or TrivialAugment."""
    time: str | None = None
    """Time limit of the whole run, such as 90s, 10m or 1h30m; what does not fit is left out or shortened."""
    save_every: float = 15.0
    """Shortest time between checkpoints in seconds; 0 saves after every batch."""
    report: bool = True
    """Explain some rows and write the report's page; without it, ``mixfit report`` writes the page later."""

    def __post_init__(self) -> None:
        _check_choices(self)
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, got {self.epochs}.")
        if self.lr is not None and not self.lr > 0:  # also refuses nan
            raise ConfigError(f"lr must be above 0, got {self.lr}.")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay must be at least 0, got {self.weight_decay}.")
        if self.folds is not None and not 2 <= self.folds <= _MOST_FOLDS:
            raise ConfigError(f"folds must be from 2 to {_MOST_FOLDS}, got {self.folds}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}.")
        if self.time is not None:
            _check_time(self.time)
        if not self.save_every >= 0:
            raise ConfigError(f"save_every must be at least 0 seconds, got {self.save_every}.")
        if self.patience < 1:
            raise ConfigError(f"patience must be at least 1, got {self.patience}.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be from 0 to {2**32 - 1}, got {self.seed}.")


SECTIONS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
