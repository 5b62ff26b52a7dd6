"""From a table to data loaders in one call.

In: a table and what is known about its columns. Out: ``MixedData`` with ``.train``, ``.valid`` and ``.test``;
preprocessing is fitted on the training rows only. Imports nothing from ``nn`` or ``training``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mixfit.choices import NUMBER_TASKS, Crop, MetricName
from mixfit.config import DataConfig, check_metric
from mixfit.data.arrays import take
from mixfit.data.bad_inputs import BadInput, in_table_rows
from mixfit.data.batch_picture import batch_figure
from mixfit.data.checks.copies import without_copies
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.embedded import Embedder
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.ordered import parse_orders
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import WEIGHTLESS, Target, fit_target, row_weights, usable_rows, without_weightless
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.dataset import FeatureTable, ImageSource, MixedDataset
from mixfit.data.folds import Folds
from mixfit.data.loader import DataLoader
from mixfit.data.photos.find import Photos, find_photos, needs_folder
from mixfit.data.photos.records import Cache
from mixfit.data.photos.rule import PhotoRule, images_path, images_root
from mixfit.data.photos.rules import photo_rules
from mixfit.data.photos.scores import PhotoScores
from mixfit.data.photos.shards import StoredFeatures
from mixfit.data.photos.store import ImageFiles, open_image_store, typical_side
from mixfit.data.sampler import SequentialSampler, ShuffledSampler
from mixfit.data.split import MINIMUM_ROWS, Split, SplitName, Times, split_labels, split_rows
from mixfit.data.table.pieces import PIECE, bytes_of_parquet, sample_rows, table_pieces
from mixfit.data.table.read import TableFormat, asked_format, read_as_configured, settled
from mixfit.data.table.write import check_table
from mixfit.data.ties import Ties
from mixfit.data.transforms.transform import Transform
from mixfit.errors import ConfigError, DataError, check_type, rename_hint
from mixfit.html import card
from mixfit.weighted import taken

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SHARED = 0.5
"""If more than this share of the rows before the test rows have an id of a test row, ids are not kept apart."""
LARGE = 2**30
"""A Parquet table with more uncompressed bytes than this is read in pieces."""
SAMPLED = 100_000
"""Number of rows from which the roles of such a table are inferred."""
NO_PHOTOS_SIZE = 224
"""Image size in pixels for a table without photos: the one the backbone was trained with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """All rows of a table as tensors; row i is row i of the table."""

    numeric: Tensor
    categorical: Tensor
    target: Tensor
    slots: Tensor | None
    weight: Tensor | None
    text: Tensor | None = None
    """float32 ``(rows, text columns, d)``, see ``Inputs.text``; None without text columns."""
    text_mask: Tensor | None = None
    photo_scores: Tensor | None = None
    """float32 ``(rows, scores)``, see ``Inputs.photo_scores``; None without scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTarget:
    """The target and the weights of all rows of a table, ready to train on."""

    scale: Target
    encoded: np.ndarray
    """The target as the network is trained on it; 0 where it is missing."""
    split: Split
    """Without validation and test rows whose class does not occur in the training rows."""
    weight: Tensor | None
    bad: list[BadInput]
    """One record for each row removed from the split."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TablePhotos(Photos):
    """The photos of a table that is ready to train on: the photos of each row, their pixels and their features."""

    decoder: ImageSource | None = None
    """Reads the files, see ``pixels``; None if only features are known."""
    features: FeatureTable | None = None
    """Features of a frozen image network, computed once; batches contain them instead of pixels."""
    cache: Cache | None = None
    """Where decoded photos and features are kept between runs; None to keep none."""

    @classmethod
    def found(cls, photos: Photos, *, size: int, crop: Crop, cache: Cache | None) -> "TablePhotos":
        """The result of ``find_photos``, to be resized to ``size`` pixels per side."""
        same = {field.name: getattr(photos, field.name) for field in fields(photos)}
        return cls(**same, decoder=ImageFiles(photos.files, size=size, crop=crop, follow_links=False), cache=cache)

    @cached_property
    def pixels(self) -> ImageSource | None:
        """The pixels of all photos, decoded once into the cache if there is one.

        Decoding starts on first use, so it is skipped if all features are known already."""
        if self.cache is None or not isinstance(self.decoder, ImageFiles):
            return self.decoder
        return open_image_store(self.decoder, size=self.decoder.size, crop=self.decoder.crop, cache=self.cache)

    @property
    def inputs(self) -> ImageSource | FeatureTable | None:
        """The source for batches: features if available, otherwise pixels."""
        return self.pixels if self.features is None else self.features


@dataclass(frozen=True, kw_only=True, repr=False)
class MixedData:
    """A table with photos, split and ready to train on: ``for xb, yb in data.train``."""

    table: Table
    """The rows of weight above 0; the index holds their row numbers in the file. Cells are parsed once."""
    schema: Schema
    split: Split
    """Positions in ``table``; rows without a target are in none of the three parts."""
    preprocessor: TablePreprocessor
    target: Target
    arrays: Arrays
    photos: TablePhotos | None
    """The photos of each row, with their pixels and features; None if there is no image column."""
    bad: list[BadInput]
    """Cells and rows that were repaired or left out, and photos that cannot be used; with row numbers of the file."""
    image_size: int
    crop: Crop
    batch_size: int
    seed: int
    transforms: tuple[Transform, ...] = ()
    device: torch.device
    notes: tuple[str, ...] = ()
    """What is uncertain about the table: its format, or which rows belong together."""
    ties: Ties
    """Which rows belong together."""
    split_time: str | None = None
    """The column of a split by time."""
    text: TextFeatures | None = None
    """What was learnt of the columns of text; None without any."""
    scores: PhotoScores | None = None
    """What was learnt of the features of photos; None without scores."""
    gap: str | None = None
    """Time before the first test row in which no row is used."""
    metric: MetricName = "auto"
    """The metric that models are judged by first."""

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(rows)} {name}" for name, rows in self.split.parts().items())
        counts = {kind.role: len(self.schema.names(kind.role)) for kind in self.schema.kinds}
        columns = ", ".join(f"{count} {role}" for role, count in counts.items() if count)
        return f"MixedData(target {self.schema.target!r}, {self.schema.task}; rows: {parts}; columns: {columns})"

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        facts = {name: f"{len(rows):,} rows" for name, rows in self.split.parts().items()}
        facts["columns"] = self.schema.counts
        if self.photos is not None:
            with_photo = int((self.photos.slots >= 0).any(axis=1).sum())
            facts["photos"] = f"{len(self.photos.files):,} in {with_photo:,} of {len(self.table):,} rows"
            facts["image size"] = f"{self.image_size} pixels"
        facts |= {"batch size": f"{self.batch_size}", "missing or broken": f"{len(self.bad):,}" if self.bad else ""}
        title = f"Data: predict {self.schema.target}, {self.schema.task}"
        return card(title, facts=facts, lines=self.notes, grids=[self.schema.grid(folded=True)])

    @property
    def frame(self) -> pd.DataFrame:
        """The rows of ``table``, unprocessed."""
        return self.table.frame

    @property
    def has_columns(self) -> bool:
        """Whether models receive any column as an array, beside texts and photos."""
        return bool(self.arrays.numeric.shape[1] + self.arrays.categorical.shape[1])

    @property
    def row_numbers(self) -> np.ndarray:
        """The row number in the file of each row of ``table``: int64 ``(rows,)``."""
        return self.table.index.to_numpy(dtype=np.int64)

    @property
    def weightless(self) -> int:
        """Number of rows of the file that are not in ``table`` because their weight is 0."""
        return sum(record.action == WEIGHTLESS for record in self.bad)

    def weights(self, name: SplitName) -> np.ndarray | None:
        """Weights of the rows of a part, float32, with a mean of 1 over the training rows; None for equal weights."""
        return None if self.arrays.weight is None else self.arrays.weight.numpy()[self.split.of(name)]

    @cached_property
    def train(self) -> DataLoader:
        """The training rows, reshuffled in every epoch."""
        sampler = ShuffledSampler(len(self.split.train), self.batch_size, seed=self.seed)
        return self._loader("train", sampler, training=True)

    @cached_property
    def valid(self) -> DataLoader:
        """The validation rows in the order of the table."""
        return self.rows("valid")

    @cached_property
    def test(self) -> DataLoader:
        """The test rows in the order of the table."""
        return self.rows("test")

    @property
    def photo_failures(self) -> dict[int, str]:
        """For each photo that was needed so far and could not be read: its number and the reason."""
        inputs = None if self.photos is None else self.photos.inputs
        return {} if inputs is None else inputs.failures

    def folds(self, k: int, *, seed: int) -> Folds:
        """Folds of the training and validation rows; forward in time if the table is split by time.

        Raises:
            ConfigError, DataError: see ``Folds``.
        """
        rows = np.sort(np.concatenate([self.split.train, self.split.valid]))
        unit = self.ties.joined(rows, share=1 / k).unit
        k = min(k, len(np.unique(unit)))
        if self.split_time is None:
            return Folds.dealt(self.table, self.schema, rows, unit, k, seed=seed)
        return Folds.forward(self.table, self.schema, rows, unit, k, time=self.split_time, gap=self.gap)

    def rows(self, name: SplitName) -> DataLoader:
        """The rows of a part in the order of the table, without the transforms for training."""
        return self._loader(name, SequentialSampler(len(self.split.of(name)), self.batch_size), training=False)

    def dataset(self, name: SplitName) -> MixedDataset:
        """The rows of a part, as a dataset."""
        positions = self.split.of(name)
        rows, arrays = torch.from_numpy(positions), self.arrays

        def taken(array: Tensor) -> Tensor:
            return torch.from_numpy(take(array.numpy(), positions))

        return MixedDataset(
            numeric=taken(arrays.numeric),
            categorical=taken(arrays.categorical),
            target=arrays.target[rows],
            rows=rows,
            slots=None if arrays.slots is None else taken(arrays.slots),
            columns=None if self.photos is None else torch.from_numpy(self.photos.columns),
            photos=None if self.photos is None else self.photos.inputs,
            weight=None if arrays.weight is None else arrays.weight[rows],
            numbers=torch.from_numpy(self.row_numbers[self.split.of(name)]),
            photo_scores=None if arrays.photo_scores is None else arrays.photo_scores[rows],
            text=None if arrays.text is None else taken(arrays.text),
            text_mask=None if arrays.text_mask is None else arrays.text_mask[rows],
        )

    def show_batch(self, rows: int = 8) -> "Figure":
        """A figure of a few training rows: photos as the network sees them (augmented), target and cells."""
        if rows < 1:
            raise ConfigError(f"rows must be at least 1, got {rows}.")
        rows = min(rows, len(self.split.train))
        # Show photos even if the network uses features.
        seen = self if self.photos is None else replace(self, photos=replace(self.photos, features=None))
        sampler = ShuffledSampler(len(self.split.train), rows, seed=self.seed)
        transforms = self.transforms
        loader = DataLoader(
            seen.dataset("train"), sampler, transforms=transforms, training=True, device="cpu", prefetch=0
        )
        xb, _ = next(iter(loader))
        return batch_figure(xb, self.frame, self.schema, transforms)

    def with_features(self, features: FeatureTable) -> "MixedData":
        """The same data with batches that contain ``features`` instead of pixels.

        Raises:
            ConfigError: the table has no photos.
        """
        if self.photos is None:
            raise ConfigError("The table has no image column, so there are no photos to compute features of.")
        return replace(self, photos=replace(self.photos, features=features))

    def _loader(self, name: SplitName, sampler: ShuffledSampler | SequentialSampler, *, training: bool) -> DataLoader:
        return DataLoader(
            self.dataset(name), sampler, transforms=self.transforms, training=training, device=self.device
        )


def load_data(
    table: str | Path | pd.DataFrame,
    *,
    target: str,
    config: DataConfig | None = None,
    schema: Schema | None = None,
    images: str | Path | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    transforms: Sequence[Transform] = (),
    device: torch.device | str = "cpu",
    warn: Callable[[str], None] | None = None,
    progress: bool = True,
    text_model: Embedder | None = None,
    metric: MetricName = "auto",
) -> MixedData:
    """Read a table, infer the column roles, split the rows, fit the preprocessing on the training rows, build loaders.

    Args:
        table: a CSV, TSV, Parquet, Feather or JSON Lines file, or a DataFrame (which needs ``images`` if its photos are
            files).
        target: the column to predict.
        config: all other settings of columns and photos.
        schema: known column roles, used instead of inferred ones; ``config`` must not set roles then.
        images: folder that photo paths are relative to, overrides ``config.images``; by default the table's folder.
        image_size: pixels per side, overrides ``config.image_size``.
        batch_size: rows per batch; by default about a twentieth of the training rows, from 16 to 256.
        seed: of the split and of the order of rows.
        transforms: applied to every batch.
        device: where the batches are moved.
        warn: called with a sentence if the cache cannot be used; by default a Python warning is issued.
        progress: show a progress bar while photos are decoded into the cache, in a terminal or notebook.
        text_model: the sentence encoder that ``config.text_model`` names: ``mixfit.TextModel.load("minilm")``.
        metric: the metric that models are judged by first; it must suit the task.
    Raises:
        ConfigError: a column does not exist, or a setting is invalid.
        DataError: the table cannot be used as it is.
    """
    check_table(table)
    check_type("target", target, str, "the name of a column")
    check_type("config", config, (DataConfig, NoneType), "a mixfit.DataConfig")
    check_type("schema", schema, (Schema, NoneType), "a mixfit.Schema, such as Schema.load(path)")
    check_type("text_model", text_model, (Embedder, NoneType), "a mixfit.TextModel")
    config = DataConfig() if config is None else config
    if images is not None:
        config = replace(config, images=images_path(images))
    if image_size is not None:
        config = replace(config, image_size=image_size)
    if text_model is None and config.text_model != "none":
        raise ConfigError(
            f"load_data takes the text model itself: text_model=mixfit.TextModel.load({config.text_model!r})."
        )
    if schema is not None:
        _check_given(schema, target, config)
    read, root, notes, schema = _read(table, config, target, schema)
    # First, so that rows of weight 0 influence neither inference nor counts.
    rows, weightless = without_weightless(read, weight_column(config, schema))
    schema = infer_configured(rows, target, config, images=root) if schema is None else schema
    check_metric(metric, schema.task)  # before the photos are read
    rows = schema.table(rows)
    for column in schema.columns:
        if column.role != "ignored" and column.name not in rows:
            known = {one.name for one in schema.columns}
            hint = rename_hint(column.name, [name for name in rows.names if name not in known])
            raise ConfigError(
                f"the table has no column {column.name!r}, which the schema gives the role {column.role}.{hint}"
            )
    photos = _find_photos(rows.frame, schema, root)
    stored = None if config.features is None else StoredFeatures.open(config.features).below(root or Path())
    cache = Cache.configured(config, warn=warn, progress=progress, stored=stored)
    found = split_usable(rows, schema, config, seed, Ties(rows, schema, photos, cache=cache))
    split, bad = found.split, found.bad
    if config.dedup:
        split, copies = without_copies(rows, schema, split, photos)
        bad += copies
    goal = prepare_target(rows, schema, split)
    weight = None if goal.weight is None else goal.weight.numpy()
    fitted_on, fit_weight = rows.select(split.train), taken(weight, split.train)
    preprocessor = TablePreprocessor.fit(fitted_on, schema, fit_weight)
    arrays = preprocessor.transform(rows)
    text = values = mask = None
    if texts := schema.names("text"):
        embedder = None if text_model is None else text_model.ready(cache, str(device))
        text, own = TextFeatures.fit(
            fitted_on,
            texts,
            goal.encoded[split.train],
            classes=len(goal.scale.classes or ()),
            weight=fit_weight,
            unit=found.ties.joined(split.train).unit,
            seed=seed,
            embedder=embedder,
        )
        values, mask = text.apply(rows)
        values[split.train] = own
    embedded_size = None if stored is None or photos is None else stored.facts.image_size
    size = config.image_size or embedded_size or choose_image_size(photos)
    return MixedData(
        table=rows,
        schema=schema,
        split=goal.split,
        preprocessor=preprocessor,
        target=goal.scale,
        arrays=Arrays(
            numeric=torch.from_numpy(arrays.numeric),
            categorical=torch.from_numpy(arrays.categorical),
            target=torch.from_numpy(goal.encoded),
            slots=None if photos is None else torch.from_numpy(photos.slots),
            weight=goal.weight,
            text=None if values is None else torch.from_numpy(values),
            text_mask=None if mask is None else torch.from_numpy(mask),
        ),
        text=text,
        photos=None if photos is None else TablePhotos.found(photos, size=size, crop=config.crop, cache=cache),
        bad=[
            *weightless,
            *in_table_rows(
                [*bad, *goal.bad, *arrays.repaired, *([] if photos is None else photos.bad)],
                rows.index.to_numpy(dtype=np.int64),
            ),
        ],
        image_size=size,
        crop=config.crop,
        batch_size=default_batch_size(len(split.train)) if batch_size is None else batch_size,
        seed=seed,
        transforms=tuple(transforms),
        device=torch.device(device),
        notes=(*notes, *found.notes),
        ties=found.ties,
        split_time=config.split_time,
        gap=config.gap,
        metric=metric,
    )


def weight_column(config: DataConfig, schema: Schema | None) -> str | None:
    """The weight column; it is known before all other roles, because it is never inferred."""
    set_by_hand = [name for name, role in config.roles.items() if role == "weight"]
    return next(iter(set_by_hand if schema is None else schema.names("weight")), None)


def default_batch_size(training_rows: int) -> int:
    """The power of two closest to a twentieth of the rows, from 16 to 256."""
    return int(min(256, max(16, 2 ** round(np.log2(max(training_rows, 1) / 20)))))


def _read(
    table: str | Path | pd.DataFrame, config: DataConfig, target: str, schema: Schema | None
) -> tuple[Table, Path | None, tuple[str, ...], Schema | None]:
    """The table with rows numbered from 0, the folder that its photo paths are relative to, notes on its format, and
    the schema if it is already known or had to be inferred first."""
    if isinstance(table, pd.DataFrame):
        return Table.of(table.reset_index(drop=True)), config.images, (), schema
    path = Path(table)
    if asked_format(path, config.text).kind == "parquet" and bytes_of_parquet(path) > LARGE:
        return _read_in_pieces(path, config, target, schema)
    read, table_format = read_as_configured(path, config.text, None if schema is None else schema.text)
    require_rows(read.frame, path)
    return read, images_root(config.images, path.parent), doubts(settled(table_format, read)), schema


def _read_in_pieces(
    path: Path, config: DataConfig, target: str, schema: Schema | None
) -> tuple[Table, Path, tuple[str, ...], Schema]:
    """As ``_read``, for a Parquet table that might not fit into memory: roles are inferred from evenly spaced rows, and
    only the columns with a role are read, one piece at a time, into typed arrays.

    Raises:
        ConfigError: photos are stored in the table itself.
    """
    if schema is None:
        sample = sample_rows(path, SAMPLED, weight=weight_column(config, None))
        schema = infer_configured(sample, target, config, images=images_root(config.images, path.parent))
    numbers = {name for kind, name in schema.table_columns if kind.orders}
    numbers |= {*schema.names("weight"), *([schema.target] if schema.task in NUMBER_TASKS else [])}
    known = [column.name for column in schema.columns if column.role != "ignored" or column.name == config.split_time]
    pieces = table_pieces(path, config.text, most_rows=PIECE, most_bytes=LARGE, columns=known)
    if held := [name for name in schema.names("image") if name in pieces.bytes_columns]:
        raise ConfigError(
            f"The table has {bytes_of_parquet(path) / 1e9:.1f} GB and {len(held)} columns that hold photos, the first "
            f"is {held[0]!r}: write the photos to files and store their paths in the table, or set the role to ignored."
        )
    note = (
        f"the table has {pieces.rows:,} rows and is read in pieces: column roles are inferred from {schema.rows:,} "
        "evenly spaced rows, and duplicate rows are not detected"
    )
    forms = {column.name: column.form for column in schema.columns}
    return (
        Table.of_pieces(pieces, numbers, forms, rows=pieces.rows),
        images_root(config.images, path.parent),
        (note,),
        schema,
    )


def doubts(table_format: TableFormat) -> tuple[str, ...]:
    """What was guessed or is uncertain about a table's format, with the option that sets it."""
    guessed = f"the encoding {table_format.encoding} is a guess; see --encoding"
    return (*table_format.notes, *([guessed] if table_format.guessed else []))


def require_rows(frame: pd.DataFrame, path: Path, count: int = MINIMUM_ROWS) -> None:
    """Check that the table has at least ``count`` rows, before other checks give less helpful messages.

    Raises:
        DataError: names the file, and the number of rows needed.
    """
    if len(frame) < count:
        rows = "1 data row" if len(frame) == 1 else f"{len(frame)} data rows"
        raise DataError(f"{path} has {rows}; at least {MINIMUM_ROWS} are needed for training and evaluation.")


def _check_given(schema: Schema, target: str, config: DataConfig) -> None:
    """Check that the settings do not contradict a given schema."""
    if config.roles or config.ignore or config.task is not None or config.order:
        raise ConfigError(
            "The schema sets all roles, orders and the task: edit it, and omit --set, --order, --ignore and --task."
        )
    if schema.target != target:
        raise ConfigError(
            f"The schema has the target {schema.target!r}, not {target!r}: create a schema for that target."
        )


def infer_configured(
    table: pd.DataFrame | Table, target: str, config: DataConfig, *, images: Path | None = None
) -> Schema:
    """Infer the roles with ``infer_schema``; with a split by time, columns that look like a split column are ignored.

    Args:
        images: where photos are searched for, to infer how columns name them, see ``photo_rules``.

    Raises:
        ConfigError, DataError: as ``infer_schema``; also if a split column is set together with a split by time.
    """
    table, set_aside = Table.of(table), list[str]()
    rules: tuple[PhotoRule, ...] = ()
    if images is not None and target in table:
        rules = photo_rules(table.frame, images, target=target, roles=config.roles, ignore=config.ignore)
    while True:
        ignore = (*config.ignore, *set_aside)
        schema = infer_schema(
            table,
            target,
            roles=config.roles,
            ignore=ignore,
            task=config.task,
            orders=parse_orders(config.order),
            photos=rules,
        )
        found = schema.names("split")
        if config.split_time is None or not found:
            break
        if "split" in config.roles.values():
            raise ConfigError(
                f"--split-time {config.split_time} and --set {found[0]}=split exclude each other; use one of them."
            )
        set_aside += found
    reason = f"a split, but the rows are split by {config.split_time!r}"
    return replace(
        schema,
        columns=tuple(replace(c, reason=reason) if c.name in set_aside else c for c in schema.columns),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableSplit:
    """The split of the rows that have a target."""

    split: Split
    bad: list[BadInput]
    """One record for each row that is in no part."""
    ties: Ties
    """The relations between rows that the split respects."""
    notes: tuple[str, ...]
    """Rows that could not be kept together, one sentence each."""


def split_usable(table: pd.DataFrame | Table, schema: Schema, config: DataConfig, seed: int, ties: Ties) -> UsableSplit:
    """Split the rows that have a target; positions refer to ``table``.

    Raises:
        DataError: too few rows have a target, or they cannot be split.
    """
    table = Table.of(table)
    usable, bad = usable_rows(table, schema, config.max_missing_target)
    positions = np.flatnonzero(usable)
    drawn = not schema.names("split") or not _has_validation(table[schema.names("split")[0]].select(positions))
    notes: tuple[str, ...] = ()

    def split(unit: np.ndarray | None) -> Split:
        inner = split_rows(
            table.select(positions),
            schema,
            valid=config.valid,
            test=config.test,
            seed=seed,
            time=config.split_time,
            gap=config.gap,
            unit=unit,
        )
        return Split(train=positions[inner.train], valid=positions[inner.valid], test=positions[inner.test])

    if len(positions) < MINIMUM_ROWS or not drawn:
        return UsableSplit(split=split(None), bad=bad, ties=ties, notes=notes)
    joined = ties.joined(positions)
    if config.split_time is not None:
        ties, notes = _in_time(table, schema, config, positions, ties)
        joined = ties.joined(positions)
    found = split(joined.unit)
    if config.split_time is not None:
        bad = bad + _left_out_in_time(table, config, positions, found)
    return UsableSplit(split=found, bad=bad, ties=ties, notes=notes + joined.notes)


def _has_validation(column: Cells) -> bool:
    return bool(column.column.notna().all()) and bool((split_labels(column) == "valid").any())


def _in_time(
    table: Table, schema: Schema, config: DataConfig, positions: np.ndarray, ties: Ties
) -> tuple[Ties, tuple[str, ...]]:
    """Ties without ids that recur over the whole time span: keeping those together would leave few training rows.

    This applies to inferred ids only, not to groups set by the user."""
    assert config.split_time is not None
    if config.split_time not in table:
        return ties, ()  # the split itself reports this error
    value = Times.of(table[config.split_time].select(positions)).value
    latest = value >= np.quantile(value, 1 - max(config.test, 0.05))
    found = [column.name for column in schema.columns if column.found_group]
    spanning = [name for name in found if _share_of(ties.groups[name][positions], latest) > _MOST_SHARED]
    if not spanning:
        return ties, ()
    listed = ", ".join(map(repr, spanning))
    note = (
        f"ids of {listed} recur over the whole time span, so the split by {config.split_time!r} and its folds do not "
        f"keep the rows of an id together: models may have seen earlier rows of it; if new rows will have new ids, use "
        f"--set {spanning[0]}=group"
    )
    return ties.without(spanning), (note,)


def _share_of(codes: np.ndarray, latest: np.ndarray) -> float:
    """Share of the earlier rows whose id also occurs in the latest rows."""
    return float(np.isin(codes[~latest & (codes >= 0)], codes[latest]).sum() / max((~latest).sum(), 1))


def _left_out_in_time(table: Table, config: DataConfig, positions: np.ndarray, split: Split) -> list[BadInput]:
    """One record for each row that is left out because it would leak information about the test rows."""
    name = str(config.split_time)
    rest = np.setdiff1d(positions, np.concatenate([split.train, split.valid, split.test]))
    if not len(rest):
        return []
    every = Times.of(table[name].select(positions))
    value = pd.Series(every.value, index=positions)
    start = value[split.test].min() - every.length(config.gap)
    return [
        BadInput(
            row=int(row),
            column=name,
            value=str(table[name].column.iloc[row])[:200],
            problem="in the gap before the test rows"
            if value[row] >= start
            else "in the same group as a later test row, or a copy of one",
            action="row left out",
        )
        for row in rest
    ]


def prepare_target(table: pd.DataFrame | Table, schema: Schema, split: Split) -> PreparedTarget:
    """Fit the target on the training rows, and check that training is possible.

    Raises:
        DataError: the target is constant, no validation row can be evaluated, or a weight is invalid.
    """
    table = Table.of(table)
    column = table[schema.target]
    weight = row_weights(table, schema, split.train)
    scale = fit_target(column.select(split.train), schema.task, taken(weight, split.train))
    encoded = np.nan_to_num(scale.encode(column))
    judged, bad = _without_unknown_classes(split, encoded, column, scale)
    tensor = None if weight is None else torch.from_numpy(weight)
    return PreparedTarget(scale=scale, encoded=encoded, split=judged, weight=tensor, bad=bad)


def _without_unknown_classes(
    split: Split, encoded: np.ndarray, column: Cells, target: Target
) -> tuple[Split, list[BadInput]]:
    """Remove validation and test rows whose class does not occur in the training rows; one record each."""
    if target.classes is None:
        return split, []
    known = Split(
        train=split.train, valid=split.valid[encoded[split.valid] >= 0], test=split.test[encoded[split.test] >= 0]
    )
    if not len(known.valid):
        raise DataError(
            f"All {len(split.valid)} validation rows have a class that no training row has: use another split."
        )
    judged = np.concatenate([split.valid, split.test])
    in_test = set(split.test.tolist())
    return known, [
        unknown_class(column.column, int(row), test=int(row) in in_test) for row in np.sort(judged[encoded[judged] < 0])
    ]


UNKNOWN_IN_TEST = "test row left out"
"""The action in the record of a test row whose class no training row has."""


def unknown_class(column: pd.Series, row: int, *, test: bool = False) -> BadInput:
    """The record of a row that cannot be evaluated because no training row has its class."""
    return BadInput(
        row=row,
        column=str(column.name),
        value=str(column.iloc[row])[:200],
        problem="class not in the training rows",
        action=UNKNOWN_IN_TEST if test else "row left out",
    )


def _find_photos(frame: pd.DataFrame, schema: Schema, root: Path | None) -> Photos | None:
    columns = schema.names("image")
    if not columns:
        return None
    if root is None and needs_folder(frame, columns):
        raise ConfigError(
            f"The table has image columns ({', '.join(columns)}), but no images folder is given: set it with images=."
        )
    return find_photos(frame, columns, root or Path(), schema.photos)


def choose_image_size(photos: Photos | None) -> int:
    """128 pixels are enough for small photos; the backbone's default of 224 costs three times as much."""
    if photos is None or not photos.files:
        return NO_PHOTOS_SIZE
    return 128 if typical_side(photos.files) <= 160 else 224
