"""The settings of a run: frozen dataclasses, each field explained once; TOML files of them, and the names that a
setting can have."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w
from cyclopts import App, ArgumentCollection, Parameter, Token

from mixfit.errors import ConfigError, DataError, did_you_mean
from mixfit.files import from_plain, read_toml

Role = Literal["number", "category", "date", "image", "target", "group", "split", "weight", "ignored"]
"""What a column is used as."""
Task = Literal["regression", "binary", "multiclass"]
"""What is predicted: a number, one of two classes, one of several."""
ROLES: tuple[Role, ...] = get_args(Role)
TASKS: tuple[Task, ...] = get_args(Task)
Crop = Literal["squash", "center", "pad"]
"""How a photo becomes square: "squash" ignores the aspect ratio, "center" cuts the longer side, "pad" adds mid-grey."""
Fusion = Literal["concat", "gated", "film", "attention", "late"]
"""How the encodings of the table and of the photos are joined, see ``nn/fusion.py``."""
Tabular = Literal["mlp", "resnet", "tabm"]
"""The network of the table, see ``nn/tabular.py``, ``nn/tabular_resnet.py`` and ``nn/tabm.py``."""
Numbers = Literal["plain", "linear", "periodic", "piecewise"]
"""How a number is embedded, see ``nn/numeric_embeddings.py``."""
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
Precision = Literal["auto", "float32", "bfloat16"]
Augmentation = Literal["none", "flip", "standard", "trivial"]
"""Random changes of the photos of training rows, see ``data/augment.py``."""
OptimizerName = Literal[
    "adamw", "sgd", "momentum", "nesterov", "rmsprop", "adam", "lamb", "lion", "muon", "schedule_free"
]
"""What changes the weights, see ``training/optimizer``."""
Preset = Literal["network", "quick", "balanced", "best"]
"""What is tried: one network, or a blend of few, of several or of many models."""
LossName = Literal["auto", "mse", "mae", "huber", "cross_entropy", "balanced", "smooth", "focal"]
"""What is minimised: the first three after ``auto`` are for numbers, the others for classes."""


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
    """Roles that are set rather than inferred, by column."""
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
TOP = ("table", "target", "schema")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a configuration file says."""

    table: Path | None
    """As it was written: a relative path starts from the current folder, as one that is typed does."""
    target: str | None
    schema: Path | None
    """A schema.json with the roles of the columns, from the current folder."""
    data: DataConfig
    model: ModelConfig
    train: TrainConfig


def read_config(path: Path) -> Settings:
    """Read a configuration file and check all of it.

    Raises:
        ConfigError: there is no such file, it is not TOML, or a section, key, type or value is wrong; the sentence has
            the file and the key.
    """
    said = _read_toml(path)
    _check_names(path, "", said, [*TOP, *SECTIONS])
    built = {name: _build(path, name, config, said.get(name, {})) for name, config in SECTIONS.items()}
    table, schema = (_convert(path, name, Path, said[name]) if name in said else None for name in ("table", "schema"))
    target = _convert(path, "target", str, said["target"]) if "target" in said else None
    return Settings(table=table, target=target, schema=schema, **built)


def lay_under(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every argument that was not typed the value of the file behind ``--config``; one of ``App(config=...)``.

    Roles of the file come before those of ``--set``, which win column by column."""
    by_name = {argument.field_info.name: argument for argument in arguments if not argument.keys}
    if "config" not in by_name or not by_name["config"].tokens:
        return
    path = Path(by_name["config"].tokens[-1].value)
    read_config(path)
    said = _read_toml(path)
    roles = said.get("data", {}).pop("roles", {})
    given: dict[tuple[str, ...], Any] = {(key,): said[key] for key in TOP if key in said}
    for section, config in SECTIONS.items():
        given |= _leaves(path, section, config, said.get(section, {}))
    for argument in arguments:
        place = argument.keys or (argument.field_info.name,)
        if place in given and not argument.children and not argument.has_tokens:
            argument.append(_token(given[place], path))
    if "set_" in by_name:
        texts = [f"{column}={role}" for column, role in roles.items()]
        texts += [token.value for token in by_name["set_"].tokens]
        by_name["set_"].tokens = [Token(keyword="--set", value=text, index=at) for at, text in enumerate(texts)]


def describe_settings() -> str:
    """All settings with their defaults and explanations, as a TOML file that ``read_config`` accepts."""
    lines = [
        "# All settings of mixfit train with their defaults; what begins with #: has none and may be set.",
        "# Use: mixfit train --config FILE; flags win over the file. Paths start from the current folder.",
        '#: table = "TABLE"',
        '#: target = "COLUMN"',
    ]
    for name, config in SECTIONS.items():
        lines += ["", f"# {inspect.getdoc(config)}", f"[{name}]"]
        lines += _described(name, config)
    return "\n".join(lines) + "\n"


def field_sentences(config: type) -> dict[str, str]:
    """The docstring of each field of a class, which Python itself does not keep."""
    (body,) = ast.parse(inspect.getsource(config)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found


def _described(section: str, config: type) -> Iterator[str]:
    """The lines of a section; its own sections come last, as TOML wants it."""
    hints, sentences = get_type_hints(config), field_sentences(config)
    inner = []
    for each in fields(config):
        hint, default = hints[each.name], _default(each)
        if is_dataclass(hint) or get_origin(hint) is dict:
            inner.append((each.name, hint))
            continue
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        told = all(choice in sentences[each.name] for choice in choices)
        yield f"# {sentences[each.name]}" + ("" if told else f" One of {', '.join(choices)}.")
        yield f"#: {each.name} = {_example(hint)}" if default is None else _line(each.name, default)
    for name, hint in inner:
        yield from ("", f"# {sentences[name]}")
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield f"[{section}.{name}]"
            yield from _described(f"{section}.{name}", hint)
        else:
            yield from (f"#: [{section}.{name}]", f"#: COLUMN = {_example(get_args(hint)[1])}")


def _line(name: str, value: Any) -> str:
    return tomli_w.dumps({name: list(value) if isinstance(value, tuple) else value}).strip()


def _example(hint: Any) -> str:
    """What a value could look like."""
    kind = _without_none(hint)
    if get_origin(kind) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(kind))
    if get_origin(kind) is tuple:
        inner = _example(get_args(kind)[0])
        return f"[{inner}, {inner}]"
    return {bool: "true or false", int: "1", float: "1.0", str: '"TEXT"', Path: '"PATH"'}[kind]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except DataError as error:
        raise ConfigError(f"The configuration file {error}") from error


def _build(path: Path, section: str, config: type, said: Any) -> Any:
    """The configuration of one section."""
    if not isinstance(said, dict):
        raise ConfigError(f"{path}: {section} must be a section [{section}], got {said!r}.")
    _check_names(path, section, said, _field_names(config))
    hints = get_type_hints(config)
    values = {key: _convert(path, f"[{section}] {key}", hints[key], value) for key, value in said.items()}
    try:
        return config(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: [{section}] {error}") from error


def _check_names(path: Path, section: str, said: Mapping[str, Any], known: Sequence[str]) -> None:
    for name, value in said.items():
        if name in known:
            continue
        kind = f"section [{name}]" if isinstance(value, dict) and not section else f"key {name!r}"
        place = f" in [{section}]" if section else ""
        home = next((other for other, config in SECTIONS.items() if name in _field_names(config)), None)
        hint = f" It belongs to [{home}]." if home else did_you_mean(name, known)
        raise ConfigError(f"{path}: there is no {kind}{place}.{hint} There are: {', '.join(known)}.")


def _convert(path: Path, place: str, hint: Any, value: Any) -> Any:
    """A value of TOML as the type of its field."""
    kind = _without_none(hint)
    match get_origin(kind) or kind:
        case found if found is Literal:
            choices = get_args(kind)
            if value in choices:
                return value
            close = did_you_mean(value, choices) if isinstance(value, str) else ""
            raise ConfigError(f"{path}: {place} must be one of {', '.join(choices)}, got {value!r}.{close}")
        case found if found is tuple and isinstance(value, list):
            return tuple(_convert(path, place, get_args(kind)[0], part) for part in value)
        case found if found is dict and isinstance(value, dict):
            inner = get_args(kind)[1]
            return {key: _convert(path, f"{place}.{key}", inner, part) for key, part in value.items()}
        case found if found in (tuple, dict):
            raise ConfigError(f"{path}: {place} must be {'a list' if found is tuple else 'a section'}, got {value!r}.")
        case found if is_dataclass(found):
            return _build(path, place.removeprefix("[").replace("] ", "."), kind, value)
        case found:
            wanted = {Path: str, float: float | int}.get(found, found)
            if isinstance(value, wanted) and isinstance(value, bool) == (found is bool):
                return found(value)
            raise ConfigError(f"{path}: {place} must be {_KINDS[found]}, got {value!r}.")


def _leaves(path: Path, section: str, config: type, said: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Converted values by the keys under which cyclopts has them, such as ``("text", "sep")``."""
    found: dict[tuple[str, ...], Any] = {}
    hints = get_type_hints(config)
    for key, value in said.items():
        if is_dataclass(hints[key]):
            assert isinstance(hints[key], type)
            found |= {(key, *inner): leaf for inner, leaf in _leaves(path, section, hints[key], value).items()}
        else:
            found[key,] = _convert(path, f"[{section}] {key}", hints[key], value)
    return found


def _token(value: Any, path: Path) -> Token:
    """Texts are converted as if they were typed, all else is the value itself."""
    if isinstance(value, str):
        return Token(value=value, source=str(path))
    return Token(implicit_value=value, source=str(path))


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        (kind,) = (part for part in get_args(hint) if part is not type(None))
        return kind
    return hint


def _field_names(config: type) -> list[str]:
    return [field.name for field in fields(config)]


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
