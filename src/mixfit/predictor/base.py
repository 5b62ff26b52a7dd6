"""The predictor: from raw rows of a table to predictions, for any kind of model.

In: a saved folder, or a trained model and the data it was trained on. Out: predictions with a status per row.
A folder holds ``model.safetensors``, ``mixfit.json`` and ``README.md``: no pickle, nothing that runs code."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache as cached
from functools import partial
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from mixfit.choices import Crop, MetricName
from mixfit.config import ModelConfig
from mixfit.data.bad_inputs import BadInput, row_status
from mixfit.data.columns.cells import Table, require_columns
from mixfit.data.columns.embedded import Embedder, EmbedderFacts
from mixfit.data.columns.kind import Kind as ColumnKind
from mixfit.data.columns.kind import bad_cells
from mixfit.data.columns.kinds import KINDS
from mixfit.data.columns.preprocess import TableArrays, TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import Target
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import MixedData
from mixfit.data.photos.find import Photos, find_photos, needs_folder, unreadable_photos
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import ImageFiles
from mixfit.ensemble.threshold import decide
from mixfit.errors import ConfigError, check_type
from mixfit.models.mixed import Mixture
from mixfit.models.model import Model
from mixfit.nn.build import ModelShape
from mixfit.nn.image import ImageEncoder
from mixfit.predictor.card import ModelFacts, model_card
from mixfit.predictor.folder import Kind, SavedModel, named_in_errors, read_folder
from mixfit.training.device import default_device
from mixfit.training.metrics import median_class
from mixfit.training.texts import TextModel

BATCH = 64
"""Batch size of networks."""
SET_SEPARATOR = "; "
"""Separator of the classes of a prediction set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextUse:
    """What was found in a column of text that the model uses."""

    column: str
    rows: int
    empty: int
    """Rows without a text."""
    unknown: int
    """Rows whose text has no word that training texts have."""
    first: int | None
    """The first of these."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of some rows, in the order of the table."""

    values: np.ndarray
    """Numbers in the target's unit, float64 ``(rows,)``, or probabilities, float64 ``(rows, classes)``."""
    status: list[str]
    """``ok``, or the problems of the row."""
    bad: list[BadInput]
    """All cells and photos that were repaired or masked."""
    photos_named: int = 0
    """Number of photos named in the rows."""
    photos_found: int = 0
    """Number of those that could be read."""
    interval: tuple[np.ndarray, np.ndarray] | None = None
    """Prediction intervals in the target's unit, float64 ``(rows,)`` each; None if not requested."""
    sets: np.ndarray | None = None
    """Prediction sets, bool ``(rows, classes)``; None if not requested."""
    texts: tuple[TextUse, ...] = ()
    """By column of text; empty if the model uses none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRows:
    """Parsed rows, before encoding for a model."""

    table: Table
    """Each cell is parsed once for all models."""
    arrays: TableArrays
    """Arrays by the predictor's preprocessor."""
    photos: Photos | None
    files: ImageFiles | None
    first_row: int
    """Number of the first row in its table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """Predictions of a model for rows."""

    values: np.ndarray
    """As ``Predictions.values``."""
    failures: Mapping[int, str]
    """The problem of each unreadable photo, by number."""
    interval: tuple[np.ndarray, np.ndarray] | None = None
    sets: np.ndarray | None = None


Mixer = Callable[[Mixture], np.ndarray]
"""Mixed rows -> probabilities, float64 ``(rows, classes)``, or numbers, float64 ``(rows,)``: in the target's unit, or
their natural logarithms if the model was fitted to logarithms."""


OwnNetwork = nn.Module | Callable[[ModelShape, ModelConfig, dict[str, Any]], nn.Module]
"""A custom network, or a function that builds it from the saved settings, see ``Predictor.load``."""


@dataclass(frozen=True, kw_only=True)
class Predictor(ABC):
    """A trained model with its schema, preprocessing and target scale."""

    kinds: ClassVar[tuple[Kind, ...]]
    """Kinds of the folders that this class writes and reads."""
    schema: Schema
    preprocessor: TablePreprocessor
    target: Target
    crop: Crop
    image_size: int
    """Side length in pixels of the photos as input to the model."""
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Metrics by split."""
    metric: MetricName = "auto"
    """The metric that the model is judged by first."""
    threshold: float | None = None
    """Of two classes, the second is predicted where its probability is above; None for the most probable class, or of
    ordered classes the median."""
    facts: ModelFacts | None = None
    """Facts about the training for the model card; None for a manually assembled model."""

    @property
    @abstractmethod
    def uses_photos(self) -> bool:
        """Whether the model uses photos."""

    @property
    def refitted(self) -> int:
        """Number of rows, test rows included, that it was fitted on after its evaluation; 0 if it was not."""
        return 0 if self.facts is None else self.facts.refit

    @property
    @abstractmethod
    def image_config(self) -> ModelConfig | None:
        """Configuration of the image network, for its licence; None without photos."""

    @property
    def frozen_encoder(self) -> ImageEncoder | None:
        """The frozen image network whose features the model uses; None if there is none."""
        return None

    @property
    def uses_text(self) -> bool:
        """Whether the model uses columns of text."""
        return False

    @property
    def text_features(self) -> TextFeatures | None:
        """What was learnt of texts, in one of the folds; None if the model does not use them."""
        return None

    @property
    def fold_texts(self) -> tuple[TextFeatures, ...]:
        """What was learnt of texts, in each fold."""
        return () if self.text_features is None else (self.text_features,)

    @abstractmethod
    def outputs(
        self,
        rows: RawRows,
        *,
        device: torch.device,
        cache: Cache | None,
        augmentations: int,
        interval: float | None = None,
    ) -> ModelOutput:
        """Predict rows; ``interval`` as in ``predict``."""

    @abstractmethod
    def check_interval(self, level: float) -> None:
        """Refuse a coverage that the model has no intervals for, before any row is predicted.

        Raises:
            ConfigError: there are no intervals, too few calibration rows, or ``level`` is not in (0, 1).
        """

    @abstractmethod
    def mixer(
        self,
        rows: RawRows,
        *,
        device: torch.device,
        cache: Cache | None = None,
        features: Mapping[str, FeatureTable] | None = None,
    ) -> Mixer:
        """Encode rows once, to predict any mixed rows of their cells and photos.

        Args:
            features: ``mixer_features`` of all photos of the rows, if they are known already.
        """

    @abstractmethod
    def mixer_features(
        self, files: ImageFiles, *, device: torch.device, cache: Cache | None = None
    ) -> dict[str, FeatureTable]:
        """Features of photos by each image network that ``mixer`` uses, by its name; none of a custom network."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write the model folder atomically.

        Raises:
            ResourceError: the folder exists or cannot be written.
        """

    @classmethod
    @abstractmethod
    def read(
        cls,
        content: SavedModel,
        *,
        model: OwnNetwork | None = None,
        models: Sequence[Model] = (),
        embedders: Callable[[EmbedderFacts], Embedder] | None = None,
    ) -> "Predictor":
        """Read the output of ``save``.

        Args:
            model, models: see ``load``.
            embedders: finds the sentence encoder of texts again.
        Raises:
            DataError: the content is invalid.
            ConfigError: ``model`` is missing, not needed, or not the saved network.
        """

    @staticmethod
    def load(
        folder: str | PathLike[str],
        *,
        model: OwnNetwork | None = None,
        models: Sequence[Model] = (),
        kinds: tuple[ColumnKind, ...] = KINDS,
        text_model: str | Path | None = None,
    ) -> "Predictor":
        """Load a model folder; nothing in it is executed.

        Args:
            folder: of a model, or of its run.
            model: a custom network: a module of the same architecture, or a function ``build(shape, config, settings)``
                that returns it. ``shape`` (``mixfit.nn.ModelShape``) depends on the data: numbers of columns, levels,
                outputs; ``config`` is the ``ModelConfig`` for ``build_model``; ``settings`` those passed to
                ``from_training``. The saved weights are loaded into it.
            models: custom models of a blend, as passed to ``fit(..., models=[...])``.
            kinds: kinds of columns, with custom ones: ``(*KINDS, MyKind())``.
            text_model: folder of the text model, if the model was trained with one; it is loaded for the first text.
                ``minilm`` is loaded from its package by default.
        Raises:
            DataError: a file is missing or damaged, is from a newer mixfit, or has a custom model that is not in
                ``models``.
            ConfigError: ``model`` or ``text_model`` is missing, not needed, or not the one of the training.
        """
        check_type("folder", folder, (str, PathLike), "a path of a model folder or a run")
        check_type("text_model", text_model, (str, PathLike, NoneType), "a path of a folder")
        content = read_folder(Path(folder), kinds)
        embedders = cached(partial(TextModel.saved, folder=None if text_model is None else Path(text_model)))
        with named_in_errors(content.folder):
            found = _reader(content.described.kind).read(content, model=model, models=models, embedders=embedders)
        if text_model is not None and (found.text_features is None or found.text_features.embedder is None):
            raise ConfigError(f"{content.folder} uses no text model: leave out text_model.")
        return found

    @classmethod
    def from_training(
        cls,
        model: nn.Module,
        data: MixedData,
        config: ModelConfig | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> "Predictor":
        """Make a predictor of a network and the data it was trained on.

        Args:
            model: of ``build_model``, or any module ``xb -> (batch,)`` or ``(batch, classes)``.
            config: the configuration of the model.
            settings: settings of a custom network, as JSON values: ``load`` passes them to the function that builds
                it. ``{}`` for none; None for a network that mixfit built from ``config`` alone.
            metrics: by split and name, for the model card.
        Raises:
            ConfigError: without ``settings``, the model was built in another way, so it could not be loaded; or the
                settings are not JSON values.
        """
        return _reader("network").from_training(model, data, config, settings=settings, metrics=metrics)

    def decision(self) -> dict[str, Any]:
        """Metric and threshold for ``mixfit.json``."""
        return {"metric": self.metric} | ({} if self.threshold is None else {"threshold": self.threshold})

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Predicted classes, int64 ``(rows,)``, from probabilities ``(rows, classes)``."""
        if self.schema.task == "ordered":
            return median_class(probabilities)
        found: np.ndarray = probabilities.argmax(1) if self.threshold is None else decide(probabilities, self.threshold)
        return found

    @property
    def decides(self) -> bool:
        """Whether the predicted class may be another than the most probable one."""
        return self.threshold is not None or self.schema.task == "ordered"

    def predict(
        self,
        frame: pd.DataFrame | Table,
        *,
        images: str | Path | None = None,
        device: torch.device | str | None = None,
        augmentations: int = 0,
        interval: float | None = None,
    ) -> pd.DataFrame:
        """Predictions for raw new rows, with the index of ``frame``.

        Args:
            frame: any columns in any order; cells and photos may be missing, categories unseen.
            images: folder that photo paths are relative to; required if the model uses photos.
            device: by default the fastest of this machine.
            augmentations: number of augmented versions of the photos to average over (test-time augmentation).
            interval: coverage in (0, 1) of prediction intervals (columns ``lower`` and ``upper``) or prediction sets
                (``prediction_set``). Only blends have them, not single networks.
        Returns:
            ``prediction`` (a number or a class), for classes also ``probability_<class>``, the columns of ``interval``,
            and ``status``.
        Raises:
            DataError: a column that the model needs is missing.
            ConfigError: there are no intervals, or ``interval`` is not in (0, 1).
        """
        found = self.predictions(frame, images=images, device=device, augmentations=augmentations, interval=interval)
        return self.as_frame(found, frame.index)

    def as_frame(self, found: Predictions, index: pd.Index) -> pd.DataFrame:
        """Predictions as columns of a table."""
        classes = self.target.classes
        columns: dict[str, Any] = {}
        if classes is None:
            columns["prediction"] = found.values
        else:
            columns["prediction"] = pd.array([classes[best] for best in self.decide(found.values)], dtype="str")
            columns |= {f"probability_{name}": found.values[:, place] for place, name in enumerate(classes)}
        if found.interval is not None:
            columns["lower"], columns["upper"] = found.interval
        if found.sets is not None and classes is not None:
            listed = [SET_SEPARATOR.join(classes[place] for place in np.flatnonzero(row)) for row in found.sets]
            columns["prediction_set"] = pd.array(listed, dtype="str")
        return pd.DataFrame({**columns, "status": found.status}, index=index)

    def predictions(
        self,
        frame: pd.DataFrame | Table,
        *,
        images: str | Path | None = None,
        device: torch.device | str | None = None,
        augmentations: int = 0,
        cache: Cache | None = None,
        first_row: int = 0,
        interval: float | None = None,
    ) -> Predictions:
        """As ``predict``, but as arrays and with all records of bad inputs.

        ``cache`` stores features of a frozen image network; results do not depend on it.
        Rows are numbered from ``first_row``, for a frame that is a piece of a table."""
        rows = self.raw_rows(frame, images=images, first_row=first_row)
        return self.predictions_of(rows, device=device, augmentations=augmentations, cache=cache, interval=interval)

    def predictions_of(
        self,
        rows: RawRows,
        *,
        device: torch.device | str | None = None,
        augmentations: int = 0,
        cache: Cache | None = None,
        interval: float | None = None,
    ) -> Predictions:
        """As ``predictions``, of rows that are parsed already; their photos may have been decoded elsewhere."""
        photos, first_row = rows.photos, rows.first_row
        place = default_device() if device is None else torch.device(device)
        found = self.outputs(rows, device=place, cache=cache, augmentations=augmentations, interval=interval)
        bad = list(rows.arrays.repaired)
        if photos is not None:
            bad += photos.bad + unreadable_photos(rows.table, photos, found.failures)
        slots = None if photos is None else photos.slots
        named = 0 if photos is None else int((photos.slots >= 0).sum()) + len(photos.bad)
        masked = sum(record.action == "photo treated as missing" for record in bad)
        texts, strange = self._look_at_texts(rows.table, first_row)
        status = row_status(len(rows.table), slots, [*bad, *strange])
        if first_row:
            bad = [replace(record, row=record.row + first_row) for record in bad]
        return Predictions(found.values, status, bad, named, named - masked, found.interval, found.sets, texts)

    def _look_at_texts(self, table: Table, first_row: int) -> tuple[tuple[TextUse, ...], list[BadInput]]:
        """Counts of empty and of unknown texts by column, and a record for the status of each unknown one."""
        if not self.uses_text:
            return (), []
        unknown = np.logical_and.reduce([one.unknown(table) for one in self.fold_texts])
        uses, strange = [], list[BadInput]()
        for name, rows in zip(self.fold_texts[0].names, unknown.T, strict=True):
            strange += bad_cells(table[name], rows, "no word that training texts have", "read by its characters")
            uses.append(
                TextUse(
                    column=name,
                    rows=len(table),
                    empty=int((table[name].levels.codes < 0).sum()),
                    unknown=int(rows.sum()),
                    first=first_row + int(rows.argmax()) if rows.any() else None,
                )
            )
        return tuple(uses), strange

    def raw_rows(self, frame: pd.DataFrame | Table, *, images: str | Path | None = None, first_row: int = 0) -> RawRows:
        """Parse rows; arguments as for ``predictions``.

        Raises:
            DataError: a column that the model needs is missing.
            ConfigError: the model uses photos, but ``images`` is missing."""
        check_type("frame", frame, (pd.DataFrame, Table), "a DataFrame of rows; for a file, use mixfit.predict_table")
        table = self.schema.table(frame)
        images_of = self.schema.names("image")
        # Without its photos a row is predicted all the same, as one that has none.
        require_columns(table, [name for name in self.schema.inputs if name not in images_of or name in table])
        self.schema.require_written(table)
        arrays = self.preprocessor.transform(table)
        photos = files = None
        if self.uses_photos:
            if images is None and needs_folder(table.frame, images_of):
                raise ConfigError("This model uses photos: pass images=FOLDER, which the photo paths are relative to.")
            photos = find_photos(
                table.frame.reset_index(drop=True), images_of, Path(images or ""), self.schema.photos, absent=True
            )
            files = ImageFiles(photos.files, size=self.image_size, crop=self.crop, follow_links=False)
        return RawRows(table=table, arrays=arrays, photos=photos, files=files, first_row=first_row)

    def model_card(self, weights_sha256: str, *, notes: Sequence[str], licence: str) -> str:
        """The model card; see ``predictor/card.py``."""
        import mixfit

        if self.text_features is not None and self.text_features.embedder is not None:
            ours = self.text_features.embedder.facts.source == "minilm"
            needed = "of pip install 'mixfit[text]'" if ours else "that the training was given, as text_model=DIR"
            notes = [*notes, f"To predict texts, it needs the text model {needed}; that is not in this folder."]
        return model_card(
            self.schema,
            version=mixfit.__version__,
            facts=self.facts,
            classes=self.target.classes,
            photos=self.uses_photos,
            text=self.uses_text,
            notes=notes,
            licence=licence,
            weights_sha256=weights_sha256,
        )


def _reader(kind: Kind) -> type[Predictor]:
    """The predictor class of a kind of folder; ``mixfit.predictor`` imports all."""
    return next(one for one in Predictor.__subclasses__() if kind in one.kinds)


def number_or_logarithm(target: Target, scaled: np.ndarray) -> np.ndarray:
    """Scaled numbers as the output of a ``Mixer``."""
    values = target.decode(scaled)
    return np.log(values) if target.log else values
