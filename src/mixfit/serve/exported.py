"""A file of ``mixfit export`` behind the server: predicted by onnxruntime, without PyTorch.

In: requests. Out: what ``mixfit.onnx_predict`` says of each by itself."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from mixfit.data.photos.decode import ImageError, read_for_size
from mixfit.data.table.to_predict import pieces_to_predict
from mixfit.errors import ConfigError
from mixfit.export.onnx_predict import SEPARATOR, OnnxModel
from mixfit.files import read_file
from mixfit.serve.facts import column_facts
from mixfit.serve.model import Answer, Explainer, Ready, ServedModel, drift_of, drift_of_table, finite, frame_of, placed
from mixfit.serve.photos import DecodedPhoto
from mixfit.serve.problems import Problem

_BATCH = 64  # rows of a table, after which other requests are answered


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedModel(ServedModel):
    """An ONNX file in memory; its coverage is that which it was made for."""

    model: OnnxModel

    @classmethod
    def load(cls, name: str, path: Path, *, threads: int | None = None) -> "ExportedModel":
        """Read a file.

        Raises:
            ConfigError: there is no such file.
            DataError: it is damaged, or none of ``mixfit export``.
            ResourceError: onnxruntime is not installed.
        """
        if not path.is_file():
            raise ConfigError(f"The file {path} does not exist.")
        content = read_file(path)
        model = OnnxModel.of(content, threads=threads)
        schema, images = model.schema, model.meta["photos"]
        classes = model.meta["classes"]
        return cls(
            name=name,
            path=path,
            sha256=hashlib.sha256(content).hexdigest(),
            schema=schema,
            classes=None if classes is None else tuple(classes),
            level=model.meta["level"],
            facts=column_facts(schema, model.preprocessor.columns, {}, photos=images is not None),
            images=() if images is None else tuple(schema.names("image")),
            model=model,
        )

    def level_of(self, asked: float | None) -> float | None:
        """See ``ServedModel``."""
        if asked not in (None, self.level):
            made = "without intervals" if self.level is None else f"for intervals of {self.level}"
            raise Problem(422, f"The file was made {made}: leave out interval.", "interval")
        return self.level

    def read_photo(self, content: bytes) -> UInt8[np.ndarray, "..."]:
        """See ``ServedModel``; ``(height, width, 3)``."""
        return read_for_size(content, self.model.meta["photos"]["size"])

    def predict(self, requests: Sequence[Ready]) -> list[Answer]:
        """See ``ServedModel``."""
        photos, read = None, None
        if self.images:
            found, decoded = placed([row for one in requests for row in one.photos], self.images)
            photos, read = found, _Reader({one.content: one for one in decoded})
        answered = self.model.rows(self.model.schema.table(frame_of(requests)), photos, read=read)
        rows = self._as_json(self.model.as_frame(answered.outputs, answered.status, answered.index))
        answers, start = [], 0
        for request in requests:
            stop = start + len(request.asked)
            bad = [replace(record, row=record.row - start) for record in answered.bad if start <= record.row < stop]
            slots = None if photos is None else photos.slots[start:stop]
            answers.append(Answer(rows=rows[start:stop], drift=drift_of(self, request, bad, slots)))
            start = stop
        return answers

    def answers_of_table(self, table: Path, photos: Path, level: float | None) -> Iterator[Answer]:
        """See ``ServedModel``."""
        for cells in pieces_to_predict(table, self.schema, batch=_BATCH).read(self.schema.table):
            for start in range(0, len(cells), _BATCH):
                some = cells.select(np.arange(start, min(start + _BATCH, len(cells))))
                found = self.model.rows_with(some, images=photos)
                slots = None if found.photos is None else found.photos.slots
                answered = self._as_json(self.model.as_frame(found.outputs, found.status, found.index))
                yield Answer(rows=answered, drift=drift_of_table(self, some, found.bad, slots))

    @property
    def explains(self) -> bool:
        """See ``ServedModel``."""
        return False

    def explainer(self) -> Explainer:
        """See ``ServedModel``."""
        raise Problem(422, "An ONNX file cannot be explained: serve the run that it was made from.")

    def _as_json(self, found: pd.DataFrame) -> list[dict[str, Any]]:
        """The answers for rows."""
        rows = list[dict[str, Any]]()
        for said in found.to_dict("records"):
            if self.classes is None:
                row: dict[str, Any] = {"prediction": finite(float(said["prediction"]))}
                if "lower" in said:
                    ends = {name: finite(float(said[name])) for name in ("lower", "upper")}
                    row["interval"] = {"level": self.level, **ends}
            else:
                shares = {name: finite(float(said[f"probability_{name}"])) for name in self.classes}
                row = {"prediction": said["prediction"], "probabilities": shares}
                if "prediction_set" in said:
                    listed = said["prediction_set"].split(SEPARATOR) if said["prediction_set"] else []
                    row["prediction_set"] = {"level": self.level, "classes": listed}
            rows.append(row | {"status": said["status"]})
        return rows


@dataclass(frozen=True, slots=True)
class _Reader:
    """Gives photos that are decoded already."""

    photos: dict[bytes, DecodedPhoto]

    def __call__(self, content: object) -> np.ndarray:
        assert isinstance(content, bytes)
        found = self.photos[content]
        if found.pixels is None:
            raise ImageError(found.problem)
        return found.pixels
