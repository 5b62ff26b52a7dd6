"""A served model in memory, and the rows of requests that are predicted together.

In: ``Asked`` rows and their decoded photos. Out: ``Answer`` rows, the same as ``mixfit predict`` gives for the cells of
each request by itself, whatever other requests are predicted with it: see ``kinds_of``. Knows nothing of PyTorch: the
models are in ``trained`` and ``exported``."""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Int64, UInt8
from PIL import Image

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Table
from mixfit.data.columns.schema import Schema
from mixfit.data.photos.find import Photos
from mixfit.serve.asked import Asked, Cell
from mixfit.serve.facts import ColumnFact, example_row
from mixfit.serve.photos import DecodedPhoto, decode_photo

_EXACT = 2**53
MASKED = "photo treated as missing"
"""What is done with a photo that cannot be read."""
UNSEEN = "category not seen in training"
"""The problem of a cell whose level no training row has."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ready:
    """A request whose photos are decoded."""

    asked: Asked
    photos: tuple[dict[str, tuple[DecodedPhoto, ...]], ...]
    """By row and image column."""
    level: float | None
    """Coverage of the intervals; None for none."""
    kinds: dict[str, str] | None
    """See ``kinds_of``."""

    def rows(self) -> "list[Ready]":
        """Each row as a request of its own."""
        pairs = zip(self.asked.rows, self.photos, strict=True)
        return [replace(self, asked=replace(self.asked, rows=(row,)), photos=(photos,)) for row, photos in pairs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the cells of some rows differ from those of the training."""

    unseen: tuple[str, ...]
    """The column of each category that was not seen in training."""
    outside: tuple[str, ...]
    """The column of each number beyond those of the training."""
    without_photo: int
    """Rows without a photo that could be read; 0 for a model without photos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a request."""

    rows: list[dict[str, Any]]
    """As JSON."""
    drift: Drift


@runtime_checkable
class Explainer(Protocol):
    """Explains the rows of requests, one at a time."""

    def explain(self, request: Ready) -> dict[str, Any]:
        """What moved the prediction of the only row, as JSON."""

    def heat(self, request: Ready) -> dict[str, Any]:
        """Heat maps of the photos of the only row, as JSON."""


def kinds_of(asked: Asked, schema: Schema) -> dict[str, str] | None:
    """How the cells of each column are typed, if rows of other requests with the same types may be added to them.

    None where cells are read by what other cells of their column look like: texts in a column of numbers, dates whose
    order was never seen, and cells of several types. Such a request is a table by itself, as for ``predict``."""
    found = {}
    for name in asked.rows[0]:
        kind = _kind([row[name] for row in asked.rows])
        column = next(one for one in schema.columns if one.name == name)
        undecided = column.role == "date" and column.form.clock is None
        if kind == "mixed" or (kind == "text" and (column.role == "number" or undecided)):
            return None
        found[name] = kind
    return found


def _kind(cells: Sequence[Cell]) -> str:
    kinds = {type(cell) for cell in cells if cell is not None}
    if not kinds:
        return "empty"
    if kinds <= {int, float}:
        exact = all(not isinstance(cell, int) or abs(cell) <= _EXACT for cell in cells)
        return "number" if exact else "mixed"
    return {frozenset({str}): "text", frozenset({bool}): "truth"}.get(frozenset(kinds), "mixed")


def fits(kinds: dict[str, str] | None, others: dict[str, str] | None) -> bool:
    """Whether rows with these types of cells can be predicted together."""
    if kinds is None or others is None:
        return False
    return all(kind == others[name] or "empty" in (kind, others[name]) for name, kind in kinds.items())


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel(ABC):
    """A model in memory; a later change of its file or folder does not reach it."""

    name: str
    path: Path
    sha256: str
    schema: Schema
    classes: tuple[str, ...] | None
    """None for numbers."""
    level: float | None
    """Usual coverage of the intervals of numbers; None if the model has none."""
    facts: tuple[ColumnFact, ...]
    images: tuple[str, ...]
    """Image columns of a model that looks at photos."""
    by_name: dict[str, ColumnFact] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {one.name: one for one in self.facts})

    @abstractmethod
    def level_of(self, asked: float | None) -> float | None:
        """The coverage for a request.

        Raises:
            Problem: the model has no intervals of this coverage.
        """

    @abstractmethod
    def read_photo(self, content: bytes) -> UInt8[np.ndarray, "..."]:
        """The pixels of a photo as the model wants them.

        Raises:
            ImageError: it cannot be read.
        """

    @abstractmethod
    def predict(self, requests: Sequence[Ready]) -> list[Answer]:
        """Answers of requests that fit each other, with equal ``level``: one pass of the model over all their rows.

        Raises:
            DataError: cells contradict what was learnt of their column; of several requests, predict each by itself.
        """

    @abstractmethod
    def answers_of_table(self, table: Path, photos: Path, level: float | None) -> Iterator[Answer]:
        """Answers for the rows of a table, some at a time.

        Args:
            photos: folder or archive that photo paths are relative to.
            level: coverage of intervals or sets; None for none.
        Raises:
            DataError: the table cannot be read, or lacks a column that the model needs.
        """

    @property
    @abstractmethod
    def explains(self) -> bool:
        """Whether predictions can be explained here."""

    @abstractmethod
    def explainer(self) -> Explainer:
        """Explains predictions.

        Raises:
            Problem: this model cannot be explained here.
        """

    def outside(self, name: str, cell: object) -> bool:
        """Whether a cell is a number beyond those of the training rows."""
        return name in self.by_name and self.by_name[name].outside(cell)

    @property
    def identity(self) -> dict[str, str]:
        """What every answer says of the model."""
        return {"name": self.name, "sha256": self.sha256}

    def example(self, rows: int) -> Ready:
        """Rows of examples, each with a photo where the model uses some, to warm up."""
        row = {name: value for name, value in example_row(self.facts).items() if name not in self.schema.names("image")}
        cells = {name: row.get(name) for name in self.schema.inputs if name not in self.schema.names("image")}
        asked = Asked(rows=(cells,) * rows, photos=({},) * rows, interval=None)
        each: list[tuple[DecodedPhoto, ...]] = [(self._grey(number),) for number in range(rows)]
        photos = tuple(dict.fromkeys(self.images, one) for one in each)
        return Ready(asked=asked, photos=photos, level=self.level, kinds=kinds_of(asked, self.schema))

    def _grey(self, number: int) -> DecodedPhoto:
        file = io.BytesIO()
        if self.images:
            Image.new("RGB", (64, 64), (number % 256,) * 3).save(file, "BMP")
        content = file.getvalue()
        return decode_photo(content, self.read_photo, most_pixels=64 * 64, where="")


def frame_of(requests: Sequence[Ready]) -> pd.DataFrame:
    """The cells of requests as one table, each column typed as in a table of its own."""
    rows = [row for request in requests for row in request.asked.rows]
    columns = {name: _column([row[name] for row in rows]) for name in rows[0]}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)))


def drift_of(
    model: ServedModel, request: Ready, bad: Sequence[BadInput], slots: Int64[np.ndarray, "rows slots"] | None
) -> Drift:
    """How the rows of a request differ from those of the training.

    Args:
        bad: what was wrong with them, rows counted from the first of the request.
        slots: their photos; None for a model without photos.
    """
    names = [name for row in request.asked.rows for name, cell in row.items() if model.outside(name, cell)]
    return _drift(names, bad, slots)


def drift_of_table(
    model: ServedModel, cells: Table, bad: Sequence[BadInput], slots: Int64[np.ndarray, "rows slots"] | None
) -> Drift:
    """How the rows of a table differ from those of the training; arguments as for ``drift_of``."""
    numbers = [one.name for one in model.facts if one.low is not None]
    names = [name for name in numbers for value in cells[name].numbers.values.tolist() if model.outside(name, value)]
    return _drift(names, bad, slots)


def _drift(outside: Sequence[str], bad: Sequence[BadInput], slots: Int64[np.ndarray, "rows slots"] | None) -> Drift:
    without = 0
    if slots is not None:
        masked = np.array([record.row for record in bad if record.action == MASKED], dtype=np.int64)
        without = int(((slots >= 0).sum(axis=1) <= np.bincount(masked, minlength=len(slots))).sum())
    unseen = tuple(record.column for record in bad if record.problem == UNSEEN)
    return Drift(unseen=unseen, outside=tuple(outside), without_photo=without)


def finite(value: float) -> float | None:
    """A number for strict JSON; None for what is not finite."""
    return value if math.isfinite(value) else None


def _column(cells: Sequence[Cell]) -> Any:
    """Cells typed as in a table of their own."""
    match _kind(cells):
        case "number":
            return np.array([np.nan if cell is None else cell for cell in cells], dtype=np.float64)
        case "text":
            return pd.array(list(cells), dtype="str")
        case _:
            found = np.empty(len(cells), dtype=object)  # lists of equal lengths would become two axes
            found[:] = cells
            return found


def placed(
    photos: Sequence[dict[str, tuple[DecodedPhoto, ...]]], images: Sequence[str]
) -> tuple[Photos, list[DecodedPhoto]]:
    """The photos of rows in their slots, each different one once, as ``find_photos`` has them."""
    files, numbers = list[DecodedPhoto](), dict[bytes, int]()
    blocks, slot_columns = [], list[str]()
    for image in images:
        width = max(1, *(len(row.get(image, ())) for row in photos)) if photos else 1
        blocks.append(np.full((len(photos), width), -1, dtype=np.int64))
        slot_columns += [image] * width
    for place, row in enumerate(photos):
        for image, block in zip(images, blocks, strict=True):
            for slot, photo in enumerate(row.get(image, ())):
                number = numbers.setdefault(photo.digest, len(files))
                if number == len(files):
                    files.append(photo)
                block[place, slot] = number
    slots = np.concatenate([np.empty((len(photos), 0), dtype=np.int64), *blocks], axis=1)
    missing = {image: int((block < 0).all(axis=1).sum()) for image, block in zip(images, blocks, strict=True)}
    content = tuple(photo.content for photo in files)
    found = Photos(files=content, slots=slots, slot_columns=tuple(slot_columns), bad=[], missing_cells=missing)
    return found, files
