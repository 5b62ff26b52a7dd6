"""The predictor: from raw rows of a table to predictions, whatever kind of model makes them.

In: a saved folder, or a trained model and the data it was trained on. Out: predictions with a status per row.
A folder holds ``model.safetensors``, ``mixfit.json`` and ``README.md``: no pickle, nothing that runs code."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from mixfit.choices import Crop
from mixfit.config import ModelConfig
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Table, require_columns
from mixfit.data.columns.kind import Kind as ColumnKind
from mixfit.data.columns.kinds import KINDS
from mixfit.data.columns.preprocess import TableArrays, TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import Target
from mixfit.data.load import MixedData
from mixfit.data.photos.cells import photo_name, shown_cell
from mixfit.data.photos.find import Photos, find_photos, needs_folder
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import ImageFiles
from mixfit.errors import ConfigError
from mixfit.models.mixed import Mixture
from mixfit.models.model import Model
from mixfit.nn.build import ModelShape
from mixfit.predictor.card import ModelFacts, model_card
from mixfit.predictor.folder import Kind, SavedModel, named_in_errors, read_folder
from mixfit.training.device import default_device

BATCH = 64
"""Rows that go through a network at a time."""
SET_SEPARATOR = "; "
"""Between the classes of a prediction set."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of some rows, in the order of the table."""

    values: np.ndarray
    """Numbers in the target's unit, float64 ``(rows,)``, or probabilities, float64 ``(rows, classes)``."""
    status: list[str]
    """``ok``, or what was missing or repaired in the row."""
    bad: list[BadInput]
    """Every cell and photo that was repaired or masked."""
    photos_named: int = 0
    """Places in the rows that name a photo."""
    photos_found: int = 0
    """Those of them whose photo could be read."""
    interval: tuple[np.ndarray, np.ndarray] | None = None
    """Lower and upper ends in the target's unit, float64 ``(rows,)``; None when none were asked for."""
    sets: np.ndarray | None = None
    """Which classes are in the set of each row, bool ``(rows, classes)``; None when none were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRows:
    """Rows that were read, before any model sees them."""

    table: Table
    """Each cell is read once for all models."""
    arrays: TableArrays
    """By the predictor's own preprocessor."""
    photos: Photos | None
    files: ImageFiles | None
    first_row: int
    """Number of the first of these rows in its table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """What a model makes of rows."""

    values: np.ndarray
    """As ``Predictions.values``."""
    failures: Mapping[int, str]
    """What is wrong with each photo that could not be read, by number."""
    interval: tuple[np.ndarray, np.ndarray] | None = None
    sets: np.ndarray | None = None


Mixer = Callable[[Mixture], np.ndarray]
"""Mixed rows -> probabilities, float64 ``(rows, classes)``, or numbers, float64 ``(rows,)``: in the target's unit, or
natural logarithms of numbers in that unit where the model was fitted on logarithms."""


OwnNetwork = nn.Module | Callable[[ModelShape, ModelConfig, dict[str, Any]], nn.Module]
"""A network that was not made by mixfit, or a function that makes it from what was saved, see ``Predictor.load``."""


@dataclass(frozen=True, kw_only=True)
class Predictor(ABC):
    """A trained model with the schema, the preprocessing and the target's scale that belong to it."""

    kinds: ClassVar[tuple[Kind, ...]]
    """Of the folders that this class writes and reads."""
    schema: Schema
    preprocessor: TablePreprocessor
    target: Target
    crop: Crop
    image_size: int
    """Pixels a side of the photos as the model sees them."""
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Per split."""
    facts: ModelFacts | None = None
    """For the model card: what was known when the training ended; None of a model put together by hand."""

    @property
    @abstractmethod
    def uses_photos(self) -> bool:
        """Whether the model looks at photos."""

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
        """What the model makes of rows; ``interval`` as in ``predict``."""

    @abstractmethod
    def mixer(self, rows: RawRows, *, device: torch.device, cache: Cache | None = None) -> Mixer:
        """Encode rows once, to predict any mixtures of their cells and photos."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write the model folder, whole or not at all.

        Raises:
            ResourceError: the folder exists or cannot be written.
        """

    @classmethod
    @abstractmethod
    def read(cls, content: SavedModel, *, model: OwnNetwork | None = None, models: Sequence[Model] = ()) -> "Predictor":
        """Read what ``save`` wrote.

        Args:
            model, models: see ``load``.
        Raises:
            DataError: it is something else.
            ConfigError: ``model`` is missing, is not wanted, or is not the network that was saved.
        """

    @staticmethod
    def load(
        folder: str | Path,
        *,
        model: OwnNetwork | None = None,
        models: Sequence[Model] = (),
        kinds: tuple[ColumnKind, ...] = KINDS,
    ) -> "Predictor":
        """Read a model folder; nothing in it is executed.

        Args:
            folder: of a model, or of the run that made it.
            model: the network, where it is one of your own: a module of the same architecture, or a function
                ``build(shape, config, settings)`` that makes it. ``shape`` (``mixfit.nn.ModelShape``) is what the data
                decided: numbers of columns, levels, outputs; ``config`` the ``ModelConfig`` for ``build_model``;
                ``settings`` what ``from_training`` was given. The saved weights are put into it.
            models: of a blend, those of your own that ``fit(..., models=[...])`` was given; mixfit's are known.
            kinds: what its columns can be, where some are of a kind of your own: ``(*KINDS, MyKind())``.
        Raises:
            DataError: a file is missing or damaged, a newer mixfit wrote it, or it has a model of your own that is not
                among ``models``.
            ConfigError: ``model`` is missing, is not wanted, or is not the network that was saved.
        """
        content = read_folder(Path(folder), kinds)
        with named_in_errors(content.folder):
            return _reader(content.described.kind).read(content, model=model, models=models)

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
        """Put together a network and what it was trained on.

        Args:
            model: of ``build_model``, or any module ``xb -> (batch,)`` or ``(batch, classes)``.
            config: what the model was built with.
            settings: of a network of your own, anything that JSON can hold: ``load`` hands them to the function that
                makes it. ``{}`` for one without settings; None for a network that mixfit made from ``config`` alone.
            metrics: by split and name, for the model card.
        Raises:
            ConfigError: without ``settings``, the model was built in another way, so that it could not be loaded again;
                or the settings are nothing that JSON can hold.
        """
        return _reader("network").from_training(model, data, config, settings=settings, metrics=metrics)

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
            images: folder that the photo paths start from; needed when the model uses photos.
            device: by default the fastest of this machine.
            augmentations: predict also from this many changed versions of the photos, and give the mean.
            interval: share of rows in (0, 1) whose truth shall be inside: of ``lower`` and ``upper`` for a number, of
                ``prediction_set`` for classes. A blend knows them, one network does not.
        Returns:
            ``prediction`` (a number or a class), for classes ``probability_<class>`` too, what ``interval`` asks for,
            and ``status``.
        Raises:
            DataError: a column that the model needs is missing.
            ConfigError: there are no intervals, or the share is none.
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
            columns["prediction"] = pd.array([classes[best] for best in found.values.argmax(1)], dtype="str")
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
        """As ``predict``, but as arrays and with the full account of bad inputs.

        ``cache`` is where features of a frozen image network are looked up and kept; they are the same without it.
        Rows are counted from ``first_row``, for a frame that is a piece of a table."""
        rows = self.raw_rows(frame, images=images, first_row=first_row)
        photos = rows.photos
        place = default_device() if device is None else torch.device(device)
        found = self.outputs(rows, device=place, cache=cache, augmentations=augmentations, interval=interval)
        bad = list(rows.arrays.repaired)
        if photos is not None:
            bad += photos.bad + unreadable_photos(rows.table, photos, found.failures)
        slots = None if photos is None else photos.slots
        named = 0 if photos is None else int((photos.slots >= 0).sum()) + len(photos.bad)
        masked = sum(record.action == "photo masked" for record in bad)
        status = _row_status(len(rows.table), slots, bad)
        if first_row:
            bad = [replace(record, row=record.row + first_row) for record in bad]
        return Predictions(found.values, status, bad, named, named - masked, found.interval, found.sets)

    def raw_rows(self, frame: pd.DataFrame | Table, *, images: str | Path | None = None, first_row: int = 0) -> RawRows:
        """Read rows; arguments as for ``predictions``.

        Raises:
            DataError: a column that the model needs is missing.
            ConfigError: the model uses photos, and ``images`` does not say where they are."""
        table = Table.of(frame)
        require_columns(table, self.schema.inputs)
        arrays = self.preprocessor.transform(table)
        photos = files = None
        if self.uses_photos:
            columns = self.schema.names("image")
            if images is None and needs_folder(table.frame, columns):
                raise ConfigError("This model uses photos: say with images=FOLDER where the paths in the table start.")
            photos = find_photos(table.frame.reset_index(drop=True), columns, Path(images or ""))
            files = ImageFiles(photos.files, size=self.image_size, crop=self.crop, follow_links=False)
        return RawRows(table=table, arrays=arrays, photos=photos, files=files, first_row=first_row)

    def model_card(self, weights_sha256: str, *, notes: Sequence[str], licence: str) -> str:
        """What the folder holds, for a person who finds it; see ``predictor/card.py``."""
        import mixfit

        return model_card(
            self.schema,
            version=mixfit.__version__,
            facts=self.facts,
            classes=self.target.classes,
            photos=self.uses_photos,
            notes=notes,
            licence=licence,
            weights_sha256=weights_sha256,
        )


def _reader(kind: Kind) -> type[Predictor]:
    """The class whose folders are of a kind; ``mixfit.predictor`` has imported them all."""
    return next(one for one in Predictor.__subclasses__() if kind in one.kinds)


def number_or_logarithm(target: Target, scaled: np.ndarray) -> np.ndarray:
    """Scaled numbers as a ``Mixer`` gives them."""
    values = target.decode(scaled)
    return np.log(values) if target.log else values


def unreadable_photos(table: Table, photos: Photos, failures: Mapping[int, str]) -> list[BadInput]:
    """One record for each place whose photo could not be decoded; ``failures`` is by number of the file."""
    places = np.argwhere(np.isin(photos.slots, list(failures)))
    return [
        BadInput(
            row=int(row),
            column=photos.slot_columns[place],
            value=shown_cell(table[photos.slot_columns[place]].column.iloc[row]),
            problem=f"{photo_name(photos.files[file])} {failures[file]}",
            action="photo masked",
        )
        for row, place in places
        for file in (int(photos.slots[row, place]),)
    ]


def _row_status(rows: int, slots: np.ndarray | None, bad: list[BadInput]) -> list[str]:
    """``ok``, or everything that is amiss in a row."""
    notes: list[dict[str, None]] = [{} for _ in range(rows)]  # a dict keeps the order and drops repeats
    for record in bad:
        notes[record.row][f"{record.column}: {record.problem}"] = None
    if slots is not None and slots.shape[1]:
        refused = {record.row for record in bad if record.action == "photo masked"}
        for row in np.flatnonzero((slots < 0).all(1)):
            if row not in refused:
                notes[row]["no photo"] = None
    return ["; ".join(note) or "ok" for note in notes]
