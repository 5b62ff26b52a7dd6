"""A trained model behind the server: a run folder, or a model folder.

In: requests. Out: what ``Predictor.predict`` says of each by itself, and what ``mixfit explain`` says of a row."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from threadpoolctl import threadpool_limits

from mixfit.data.photos.decode import read_image
from mixfit.data.table.to_predict import pieces_to_predict
from mixfit.errors import ConfigError, DataError
from mixfit.files import is_there, read_file
from mixfit.predictor import BATCH, Predictions, Predictor
from mixfit.predictor.base import RawRows
from mixfit.runs.scoring import load_run
from mixfit.serve.decoded import DecodedPhotos
from mixfit.serve.explaining import Background, TrainedExplainer
from mixfit.serve.facts import Seen, column_facts
from mixfit.serve.model import Answer, Ready, ServedModel, drift_of, drift_of_table, finite, frame_of, placed
from mixfit.serve.problems import Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel(ServedModel):
    """A predictor in memory."""

    predictor: Predictor
    background: Background
    """Rows that explanations compare with."""

    @classmethod
    def load(cls, name: str, run: Path, *, level: float, text_model: Path | None = None) -> "TrainedModel":
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
        known = () if predictor.facts is None else predictor.facts.columns
        seen = {one.name: Seen(one.missing, one.seen) for one in known}
        schema, photos = predictor.schema, predictor.uses_photos
        facts = column_facts(schema, predictor.preprocessor.columns, seen, photos=photos)
        return cls(
            name=name,
            path=run,
            predictor=predictor,
            sha256=hashlib.sha256(before).hexdigest(),
            schema=schema,
            classes=predictor.target.classes,
            level=usual,
            facts=facts,
            images=tuple(schema.names("image")) if photos else (),
            background=Background.of(run, predictor, facts),
        )

    def level_of(self, asked: float | None) -> float | None:
        """See ``ServedModel``."""
        if asked is None:
            return self.level
        try:
            self.predictor.check_interval(asked)
        except ConfigError as error:
            raise Problem(422, str(error), "interval") from error
        return asked

    def read_photo(self, content: bytes) -> UInt8[np.ndarray, "..."]:
        """See ``ServedModel``; ``(3, size, size)``."""
        pixels = read_image(content, size=self.predictor.image_size, crop=self.predictor.crop)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def predict(self, requests: Sequence[Ready]) -> list[Answer]:
        """See ``ServedModel``."""
        rows = self.raw_rows(requests)
        found = self.predictor.predictions_of(rows, interval=requests[0].level)
        answers, start = [], 0
        for request in requests:
            stop = start + len(request.asked)
            bad = [replace(record, row=record.row - start) for record in found.bad if start <= record.row < stop]
            slots = None if rows.photos is None else rows.photos.slots[start:stop]
            answered = [self.row(found, place, request.level) for place in range(start, stop)]
            answers.append(Answer(rows=answered, drift=drift_of(self, request, bad, slots)))
            start = stop
        return answers

    def raw_rows(self, requests: Sequence[Ready]) -> RawRows:
        """The rows of requests, parsed as a table of their own."""
        parsed = self.predictor.raw_rows(frame_of(requests))
        if not self.images:
            return parsed
        photos = [row for request in requests for row in request.photos]
        found, files = placed(photos, self.schema.names("image"))
        decoded = DecodedPhotos(files, size=self.predictor.image_size, crop=self.predictor.crop)
        return replace(parsed, photos=found, files=decoded)

    def answers_of_table(self, table: Path, photos: Path, level: float | None) -> Iterator[Answer]:
        """See ``ServedModel``; pieces of ``BATCH`` rows."""
        pieces = pieces_to_predict(table, self.schema, batch=BATCH)
        for cells in pieces.read(self.schema.table):
            for start in range(0, len(cells), BATCH):
                some = cells.select(np.arange(start, min(start + BATCH, len(cells))))
                raw = self.predictor.raw_rows(some, images=photos)
                found = self.predictor.predictions_of(raw, interval=level)
                slots = None if raw.photos is None else raw.photos.slots
                answered = [self.row(found, place, level) for place in range(len(some))]
                yield Answer(rows=answered, drift=drift_of_table(self, raw.table, found.bad, slots))

    @property
    def explains(self) -> bool:
        """See ``ServedModel``."""
        return not self.background.problem

    def explainer(self) -> "TrainedExplainer":
        """See ``ServedModel``."""
        return TrainedExplainer(self.predictor, self.background, self.raw_rows)

    def row(self, found: Predictions, place: int, level: float | None) -> dict[str, Any]:
        """The answer for a row, as JSON."""
        classes, values = self.classes, found.values[place]
        if classes is None:
            row: dict[str, Any] = {"prediction": finite(float(values))}
            if found.interval is not None:
                low, high = (finite(float(bound[place])) for bound in found.interval)
                row["interval"] = {"level": level, "lower": low, "upper": high}
        else:
            row = {"prediction": classes[int(self.predictor.decide(found.values[place : place + 1])[0])]}
            row["probabilities"] = {name: finite(float(share)) for name, share in zip(classes, values, strict=True)}
            if found.sets is not None:
                row["prediction_set"] = {
                    "level": level,
                    "classes": [classes[one] for one in np.flatnonzero(found.sets[place])],
                }
        return row | {"status": found.status[place]}


def limit_threads(threads: int) -> None:
    """Let each pass in this process take so many threads of PyTorch and of BLAS."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def _description(run: Path) -> bytes:
    """The bytes of ``mixfit.json``; none where there is no such folder, which is said when it is loaded."""
    path = run / "mixfit.json" if is_there(run / "mixfit.json") else run / "model" / "mixfit.json"
    return read_file(path) if is_there(path) else b""
