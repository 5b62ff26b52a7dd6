"""Preparation of a training: data, default settings, network.

In: a table and settings. Out: ``Prepared``, and warnings about the data. For ``recipe`` and ``tune``."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import NoneType

import numpy as np
import torch
from rich.console import Console

from mixfit.config import DataConfig, ModelConfig, TrainConfig, check_metric
from mixfit.data.checks.copies import equal_photos, near_photos, row_copies
from mixfit.data.checks.objects import repeated_objects
from mixfit.data.checks.table import Finding, class_balance, find_clusters, parts_of, torn_ids
from mixfit.data.columns.schema import Schema, suspicious_columns
from mixfit.data.fingerprint import FINGERPRINT_FILE, Fingerprint, read_fingerprint
from mixfit.data.load import MixedData, load_data
from mixfit.data.photos.rule import images_root
from mixfit.data.photos.rules import unnamed_photos
from mixfit.data.table.write import check_table
from mixfit.data.transforms.augment import augmentation
from mixfit.ensemble.cross_fit import photo_means
from mixfit.errors import ConfigError, DataError, check_type
from mixfit.files import check_new_folder
from mixfit.models.network import TUNED_BLOCKS
from mixfit.nn.backbones import check_name
from mixfit.nn.build import is_frozen
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.training.build import build_model, precompute_features, sized_for
from mixfit.training.choose import check_loss, choose_optimizer, loss_for, settle_arithmetic
from mixfit.training.device import default_device
from mixfit.training.loss import Loss
from mixfit.training.stored import check_stored
from mixfit.training.texts import TextModel

_VARIED, _LEAST_COLUMNS = 0.5, 3
"""Smallest share of distinct numbers in a column, and fewest such columns, for the detection of clusters."""


@dataclass(slots=True)
class Clock:
    """Measures the time of each part of a run."""

    started: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        """Seconds since the last call, or since the start."""
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Data and settings of a run before training."""

    table: Path
    data: MixedData
    network: MixedInputModel
    loss: Loss
    data_config: DataConfig
    model_config: ModelConfig
    train_config: TrainConfig
    fingerprint: Fingerprint
    known: Schema | None
    """The given schema, if any."""

    @property
    def images(self) -> Path:
        """Folder that photo paths are relative to."""
        return images_root(self.data_config.images, self.table.parent)

    @property
    def images_beside(self) -> Path | None:
        """The same, but None for the working directory, which has nothing to do with a DataFrame."""
        return None if self.data_config.images == Path() else self.images


def check_arguments(
    table: object,
    *,
    target: object,
    images: object = None,
    data: object = None,
    model: object = None,
    train: object = None,
    schema: object = None,
    out: object = None,
) -> None:
    """Refuse arguments of a wrong type, and an output folder that cannot be created.

    Raises:
        ConfigError: for the first argument of a wrong type, with what may be given.
        ResourceError: ``out`` is a file.
    """
    check_table(table)
    check_type("target", target, str, "the name of a column")
    check_type("images", images, (str, PathLike, NoneType), "a path of a folder")
    check_type("data", data, (DataConfig, NoneType), "a mixfit.DataConfig")
    check_type("model", model, (ModelConfig, NoneType), "a mixfit.ModelConfig")
    check_type("train", train, (TrainConfig, NoneType), "a mixfit.TrainConfig")
    check_type("schema", schema, (Schema, str, PathLike, NoneType), "a mixfit.Schema or a path of a schema.json")
    check_type("out", out, (str, PathLike, NoneType), "a path of a folder")
    if isinstance(out, str | PathLike):
        check_new_folder(Path(out))


def prepare(
    table: Path,
    *,
    target: str,
    data: DataConfig,
    model: ModelConfig,
    train: TrainConfig,
    schema: Schema | str | Path | None,
    console: Console,
) -> Prepared:
    """Read the data, and choose settings that were left open.

    The weights are initialised with PyTorch's global generators, which training then continues to use: callers wrap
    the whole run in ``seeded``."""
    model_config = replace(model, freeze_backbone=is_frozen(model))
    if train.fine_tune and train.preset == "network" and model_config.freeze_backbone:
        model_config = replace(model_config, train_blocks=model.train_blocks or TUNED_BLOCKS)
    data_config, train_config = data, train
    check_augmentation(train_config, model_config)
    check_backbone(model_config)
    images_root(data_config.images, table.parent)
    text_model = None if data_config.text_model == "none" else TextModel.load(data_config.text_model)
    known = Schema.load(schema) if isinstance(schema, str | Path) else schema
    task = data_config.task if known is None else known.task
    if task is not None:
        check_loss(train_config.loss, task)  # before the table is read, if possible
        check_metric(train_config.metric, task)
    mixed = load_data(
        table,
        target=target,
        config=data_config,
        schema=known,
        batch_size=train_config.batch_size,
        seed=train_config.seed,
        transforms=augmentation(train_config.augment),
        device=default_device(),
        warn=lambda text: console.print(f" {text}", markup=False),
        progress=console.is_terminal and not console.quiet,
        text_model=text_model,
        metric=train_config.metric,
    )
    if mixed.photos is not None and not mixed.photos.files and mixed.photos.bad:
        columns = " ".join(f"--ignore {shlex.quote(name)}" for name in mixed.schema.names("image"))
        raise DataError(
            f"not one photo was found in {data_config.images or table.parent}, of {len(mixed.photos.bad):,} that cells "
            f"name (the first {mixed.photos.bad[0].problem}): set the folder with --images DIR (in Python images=DIR), "
            f"or train without photos by {columns}."
        )
    if text_model is not None and not mixed.schema.names("text"):
        said = f"text_model={data_config.text_model} has no effect, as no column has the role text"
        console.print(f" warning: {said}", markup=False)
    elif text_model is not None:
        console.print(f" {text_model}", markup=False)
    if train.fine_tune and train.preset == "network" and not (model_config.freeze_backbone and mixed.photos):
        why = "there are no photos" if mixed.photos is None else "all of the image network is trained"
        console.print(f" warning: fine_tune has no effect, as {why}", markup=False)
    data_config = replace(data_config, image_size=mixed.image_size)
    loss = loss_for(mixed, train_config.loss)
    chosen = choose_optimizer(train_config)
    train_config = replace(train_config, lr=chosen.lr, weight_decay=chosen.weight_decay)
    if train_config.preset == "network":  # each fold of a blend chooses its own batch size, unless it was set
        train_config = replace(train_config, batch_size=mixed.batch_size)
    model_config = sized_for(mixed, model_config)
    if mixed.photos is not None:
        model_config = settle_arithmetic(model_config, torch.device(mixed.device))
    network = build_model(mixed, model_config).to(mixed.device)
    stored = None if mixed.photos is None or mixed.photos.cache is None else mixed.photos.cache.stored
    if stored is not None and stored.facts.network and isinstance(network.image, ImageEncoder):
        check_stored(stored, network.image, size=mixed.image_size, crop=mixed.crop)
    return Prepared(
        table=table,
        data=mixed,
        network=network,
        loss=loss,
        data_config=data_config,
        model_config=model_config,
        train_config=train_config,
        fingerprint=Fingerprint.of(table, mixed.photos, "" if text_model is None else text_model.facts.digest),
        known=known,
    )


def check_augmentation(train: TrainConfig, model: ModelConfig) -> None:
    """Refuse augmentation of photos without effect.

    Raises:
        ConfigError: the image network is frozen, so its features are computed once."""
    if train.augment != "none" and model.freeze_backbone and not model.train_blocks:
        raise ConfigError(
            f"--augment {train.augment} needs an image network trained on pixels: "
            "add --no-freeze-backbone, --train-blocks or --backbone small_resnet."
        )


def check_backbone(model: ModelConfig) -> None:
    """Refuse an unknown image network, and weights that do not exist, before the table is read.

    Raises:
        ConfigError: timm has no such model.
        DataError: there is no such file."""
    check_name(model.backbone)
    if model.backbone_weights is not None and not model.backbone_weights.is_file():
        raise DataError(f"There is no file of weights {model.backbone_weights}.")


def with_features(
    mixed: MixedData, network: MixedInputModel, console: Console, *, tell: Callable[[int, int], None] | None = None
) -> MixedData:
    """Run a frozen backbone once over all photos.

    Args:
        tell: called with the number of photos that are done, and of all that are not in the cache.
    """
    if network.image is None or not network.image.frozen:
        return mixed
    clock = Clock()
    mixed = precompute_features(mixed, network, progress=console.is_terminal and not console.quiet, tell=tell)
    if mixed.photos is not None and mixed.photos.features is not None:
        console.print(f" image features of {len(mixed.photos.features.readable):,} photos in {clock.lap():.1f} s")
    return mixed


def warnings_of(mixed: MixedData, images: Path | None) -> list[str]:
    """Warnings about the reliability of the scores, and of photos in the folder ``images`` that no column names.

    They and ``notes_of`` are in the words of ``inspect``."""
    lines = [*mixed.notes, *suspicious_columns(mixed.schema)]
    if images is not None and not mixed.schema.names("image") and (unnamed := unnamed_photos(images)):
        lines.append(unnamed)
    parts = parts_of(mixed.split, len(mixed.table))
    findings = torn_ids(mixed.table, mixed.schema, parts) + repeated_objects(mixed.table, mixed.schema)
    findings += _copies(mixed)
    findings += class_balance(mixed.table, mixed.schema, parts)
    if mixed.photos is not None and not mixed.photos.files:
        lines.append("the cells of the image columns are empty: no row has a photo")
    return lines + [f.text for f in findings if f.level == "warning" and f.text not in lines]


def notes_of(mixed: MixedData) -> list[str]:
    """Copies of rows and of photos that are on one side of the split: no danger, but worth knowing."""
    return [finding.text for finding in _copies(mixed) if finding.level == "note"]


def _copies(mixed: MixedData) -> list[Finding]:
    """Rows and photos that are in the table more than once."""
    parts, ties = parts_of(mixed.split, len(mixed.table)), mixed.ties
    findings = row_copies(mixed.table, mixed.schema, parts)
    if mixed.photos is not None and ties.photos is not None and ties.scan is not None and ties.near is not None:
        findings += equal_photos(mixed.table, mixed.schema, ties.photos, ties.scan.content, parts)
        findings += near_photos(mixed.table, ties.photos, ties.near, parts)
    return findings


def unnamed_groups(mixed: MixedData) -> list[str]:
    """Warnings if rows form clusters that no column identifies, by their numbers or by features of their photos."""
    used = np.sort(np.concatenate([mixed.split.train, mixed.split.valid, mixed.split.test]))
    one_each = used[np.unique(mixed.ties.joined(used).unit, return_index=True)[1]]
    classes = None if mixed.target.classes is None else mixed.arrays.target.numpy()
    photos = photo_means(mixed)
    numbers = mixed.arrays.numeric.numpy()
    varied = [len(np.unique(column)) > _VARIED * len(one_each) for column in numbers[one_each].T]
    places = {"their numbers": (one_each, numbers[:, varied])} if sum(varied) >= _LEAST_COLUMNS else {}
    if photos.values is not None:
        places["their photos"] = (one_each[photos.seen[one_each]], photos.values)
    found = []
    for what, (rows, values) in places.items():
        clusters = find_clusters(values[rows], None if classes is None else classes[rows])
        if clusters is not None:
            found.append(
                f"the rows appear to form groups that no column identifies: by {what}, {clusters.share:.0%} are "
                f"much closer to some others than expected by chance, in groups of about {clusters.size}; if the rows "
                "of a group show the same object, add a column that identifies it, and --set COLUMN=group, to keep "
                "groups together in folds and split"
            )
    return found


def changes_since_inspection(now: Fingerprint, schema: Schema | str | Path | None) -> list[str]:
    """Changes of the data since ``inspect`` wrote the schema."""
    if not isinstance(schema, str | Path):
        return []
    then = read_fingerprint(Path(schema).parent / FINGERPRINT_FILE)
    return [] if then is None else now.changes_since(then, "the inspection")
