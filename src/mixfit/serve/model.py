"""One served model: a predictor in memory, and the rows of requests predicted together.

In: ``Asked`` rows and their decoded photos. Out: ``Answer`` rows, the same as ``Predictor.predict`` gives for the cells
of each request by itself, whatever other requests are predicted with it: see ``kinds_of``."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixfit.data.columns.schema import Schema
from mixfit.data.photos.find import Photos
from mixfit.errors import ConfigError, DataError
from mixfit.files import is_there, read_file
from mixfit.predictor import Predictions, Predictor
from mixfit.predictor.base import RawRows
from mixfit.runs.scoring import load_run
from mixfit.serve.asked import Asked, Cell
from mixfit.serve.facts import ColumnFact, column_facts, example_row
from mixfit.serve.photos import DecodedPhoto, DecodedPhotos
from mixfit.serve.problems import Problem

_EXACT = 2**53
_MASKED = "photo treated as missing"
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
class ServedModel:
    """A model in memory; a later change of its folder does not reach it."""

    name: str
    run: Path
    predictor: Predictor
    sha256: str
    """Of ``mixfit.json``, which has the sha256 of the weights."""
    level: float | None
    """Usual coverage of the intervals of numbers; None if the model has none."""
    facts: tuple[ColumnFact, ...]
    by_name: dict[str, ColumnFact] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str, run: Path, *, level: float, text_model: Path | None = None) -> "ServedModel":
        """Read a run or model folder.

        Args:
            level: usual coverage of intervals, for a model that has them.
        Raises:
            ConfigError: the folder does not exist, or its training has not finished.
            DataError: it is damaged, or was replaced while it was read.
        """
        before = _description(run)
        predictor = load_run(run, text_model=text_model)
        if _description(run) != before:
            raise DataError(f"{run} was replaced while it was read: try again.")
        usual: float | None = level
        try:
            predictor.check_interval(level)
        except ConfigError:
            usual = None
        if predictor.target.classes is not None:
            usual = None
        facts = column_facts(predictor)
        return cls(
            name=name,
            run=run,
            predictor=predictor,
            sha256=hashlib.sha256(before).hexdigest(),
            level=usual,
            facts=facts,
            by_name={one.name: one for one in facts},
        )

    @property
    def schema(self) -> Schema:
        """Of its columns."""
        return self.predictor.schema

    @property
    def identity(self) -> dict[str, str]:
        """What every answer says of the model."""
        return {"name": self.name, "sha256": self.sha256}

    def level_of(self, asked: float | None) -> float | None:
        """The coverage for a request.

        Raises:
            Problem: the model has no intervals of this coverage.
        """
        if asked is None:
            return self.level
        try:
            self.predictor.check_interval(asked)
        except ConfigError as error:
            raise Problem(422, str(error), "interval") from error
        return asked

    def example(self, rows: int) -> Ready:
        """Rows of examples, each with a photo where the model uses some, to warm up."""
        row = {name: value for name, value in example_row(self.facts).items() if name not in self.schema.names("image")}
        cells = {name: row.get(name) for name in self.schema.inputs if name not in self.schema.names("image")}
        asked = Asked(rows=(cells,) * rows, photos=({},) * rows, interval=None)
        size = self.predictor.image_size
        grey = [
            DecodedPhoto(b"", number.to_bytes(4), np.full((3, size, size), number % 256, dtype=np.uint8))
            for number in range(rows)
        ]
        images = self.schema.names("image")[: int(self.predictor.uses_photos)]
        each: list[tuple[DecodedPhoto, ...]] = [(photo,) for photo in grey]
        photos = tuple(dict.fromkeys(images, one) for one in each)
        return Ready(asked=asked, photos=photos, level=self.level, kinds=kinds_of(asked, self.schema))

    def predict(self, requests: Sequence[Ready]) -> list[Answer]:
        """Answers of requests that fit each other, with equal ``level``: one pass of the model over all their rows.

        Raises:
            DataError: cells contradict what was learnt of their column; of several requests, predict each by itself.
        """
        rows = self._raw_rows(requests)
        found = self.predictor.predictions_of(rows, interval=requests[0].level)
        answers, start = [], 0
        for request in requests:
            answers.append(self._answer(request, found, start, rows))
            start += len(request.asked)
        return answers

    def _raw_rows(self, requests: Sequence[Ready]) -> RawRows:
        rows = [row for request in requests for row in request.asked.rows]
        columns = {name: _column([row[name] for row in rows]) for name in rows[0]}
        parsed = self.predictor.raw_rows(pd.DataFrame(columns, index=pd.RangeIndex(len(rows))))
        if not self.predictor.uses_photos:
            return parsed
        photos = [row for request in requests for row in request.photos]
        found, files = _placed(photos, self.schema.names("image"))
        decoded = DecodedPhotos(files, size=self.predictor.image_size, crop=self.predictor.crop)
        return replace(parsed, photos=found, files=decoded)

    def _answer(self, request: Ready, found: Predictions, start: int, rows: RawRows) -> Answer:
        stop = start + len(request.asked)
        answered = [self.row(found, place, request.level) for place in range(start, stop)]
        bad = [record for record in found.bad if start <= record.row < stop]
        outside = [
            name
            for row in request.asked.rows
            for name, cell in row.items()
            if name in self.by_name and self.by_name[name].outside(cell)
        ]
        without = 0
        if rows.photos is not None:
            masked = [record.row for record in bad if record.action == _MASKED]
            named = (rows.photos.slots[start:stop] >= 0).sum(axis=1)
            lost = np.bincount(np.array(masked, dtype=np.int64) - start, minlength=stop - start)
            without = int((named <= lost).sum())
        unseen = tuple(record.column for record in bad if record.problem == UNSEEN)
        return Answer(rows=answered, drift=Drift(unseen=unseen, outside=tuple(outside), without_photo=without))

    def row(self, found: Predictions, place: int, level: float | None) -> dict[str, Any]:
        """The answer for a row, as JSON."""
        classes, values = self.predictor.target.classes, found.values[place]
        if classes is None:
            row: dict[str, Any] = {"prediction": _finite(float(values))}
            if found.interval is not None:
                low, high = (_finite(float(bound[place])) for bound in found.interval)
                row["interval"] = {"level": level, "lower": low, "upper": high}
        else:
            row = {"prediction": classes[int(self.predictor.decide(found.values[place : place + 1])[0])]}
            row["probabilities"] = {name: _finite(float(share)) for name, share in zip(classes, values, strict=True)}
            if found.sets is not None:
                row["prediction_set"] = {
                    "level": level,
                    "classes": [classes[one] for one in np.flatnonzero(found.sets[place])],
                }
        return row | {"status": found.status[place]}


def _description(run: Path) -> bytes:
    """The bytes of ``mixfit.json``; none where there is no such folder, which is said when it is loaded."""
    path = run / "mixfit.json" if is_there(run / "mixfit.json") else run / "model" / "mixfit.json"
    return read_file(path) if is_there(path) else b""


def _finite(value: float) -> float | None:
    """For strict JSON."""
    return value if math.isfinite(value) else None


def _column(cells: Sequence[Cell]) -> pd.Series:
    """Cells typed as in a table of their own."""
    match _kind(cells):
        case "number":
            return pd.Series([np.nan if cell is None else cell for cell in cells], dtype=np.float64)
        case "text":
            return pd.Series(cells, dtype="str")
        case _:
            return pd.Series(list(cells), dtype=object)


def _placed(
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
