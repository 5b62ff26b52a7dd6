"""What moved a prediction, as ``mixfit explain`` computes it: parts of columns, and heat maps of photos.

In: the only row of a request. Out: JSON. The rows to compare with are read once, with the model; so are the features of
their photos. The number of predictions for a row is bounded by the number of columns alone, see ``Plan``."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mixfit.data.columns.cells import Table
from mixfit.data.dataset import FeatureTable
from mixfit.data.photos.find import find_photos
from mixfit.data.photos.store import ImageFiles
from mixfit.errors import ConfigError, DataError, MixfitError
from mixfit.evaluation.explain import Explanation, affordable, explain_rows, part_text
from mixfit.evaluation.photo_heat import PhotoHeat, heat_of_rows
from mixfit.hooks.heat import overlay
from mixfit.predictor import Predictor
from mixfit.predictor.base import RawRows
from mixfit.runs.explaining import background_of_run
from mixfit.runs.report.explain_page import about_row
from mixfit.runs.scoring import run_settings
from mixfit.serve.decoded import DecodedPhotos
from mixfit.serve.facts import ColumnFact, example_row
from mixfit.serve.guard import log
from mixfit.serve.model import Ready, finite, frame_of, placed
from mixfit.serve.photos import DecodedPhoto
from mixfit.serve.problems import Problem
from mixfit.training.device import default_device

TRAINING, TYPICAL = "training rows", "typical values"
"""What a prediction is compared with: rows of the training, or one row of typical values where these are not known."""
_LARGEST_TABLE = 2**28  # bytes of a table that is read when the server starts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Background:
    """Rows to compare with."""

    frame: pd.DataFrame
    """Cells of the columns that the model needs."""
    photos: tuple[dict[str, tuple[DecodedPhoto, ...]], ...]
    """By row and image column."""
    source: str
    problem: str = ""
    """Why nothing can be explained; "" if it can."""
    features: dict[str, tuple[FeatureTable, dict[bytes, int]]] = field(default_factory=dict)
    """Of the photos by each image network, and the place of each photo by its digest; filled on first use."""

    @classmethod
    def of(cls, run: Path, predictor: Predictor, facts: tuple[ColumnFact, ...]) -> "Background":
        """Of a run or model folder: training rows if the table of the run is still there, else typical values."""
        images = predictor.schema.names("image")
        names = [name for name in predictor.schema.inputs if name not in images]
        try:
            found = background_of_run(run, predictor) if _small_enough(run) else None
        except (MixfitError, OSError) as error:  # a server without explanations by training rows is better than none
            log("no training rows", message=str(error))
            found = None
        try:
            if found is not None:
                rows = affordable(found[0], predictor)
                return cls(frame=rows.frame[names], photos=_photos_of(rows, found[1], predictor), source=TRAINING)
            typical = {name: [value] for name, value in example_row(facts).items() if name in names}
            table = predictor.schema.table(pd.DataFrame({name: typical.get(name, [None]) for name in names}))
            return cls(frame=affordable(table, predictor).frame, photos=({},), source=TYPICAL)
        except ConfigError as error:
            return cls(frame=pd.DataFrame(), photos=(), source="", problem=str(error))


class TrainedExplainer:
    """Explains the rows of requests.

    Args:
        parse: gives the rows of a request as the model reads them.
    """

    def __init__(
        self, predictor: Predictor, background: Background, parse: Callable[[Sequence[Ready]], RawRows]
    ) -> None:
        if background.problem:
            raise Problem(422, background.problem)
        self.predictor, self.background, self.parse = predictor, background, parse

    def explain(self, request: Ready) -> dict[str, Any]:
        """See ``Explainer``."""
        raw, features = self._with_background(request)
        found = explain_rows(self.predictor, raw, rows=[0], features=features)
        (row,) = found.to_dict()["rows"]
        return {
            "compared_with": {"rows": found.background, "source": self.background.source},
            "about": about_row(found, 0),
            "scale": found.scale,
            "exact": found.exact,
            **{key: row[key] for key in ("explained", "value", "base") if key in row},
            "parts": [
                {
                    "column": name,
                    "kind": "photos" if photo else "text" if text else "table",
                    "part": finite(float(part)),
                    "error": finite(float(error)),
                    "said": part_text(float(part), found.scale),
                }
                for name, photo, text, part, error in _by_size(found)
            ],
            "sides": {side: row[side] for side in ("table", "text", "photos", "interaction")},
        }

    def heat(self, request: Ready) -> dict[str, Any]:
        """See ``Explainer``."""
        if not self.predictor.uses_photos or not any(files for files in request.photos[0].values()):
            return {"heat": [], "heat_note": ""}
        raw = self.parse([request])
        found = self.predictor.predictions_of(raw)
        said = self.predictor.as_frame(found, pd.RangeIndex(1))["prediction"].tolist()
        try:
            (heat,) = heat_of_rows(self.predictor, raw, said, rows=[0])
        except ConfigError as error:
            return {"heat": [], "heat_note": str(error)}
        return {"heat": _pictures(heat), "heat_note": ""}

    def _with_background(self, request: Ready) -> tuple[RawRows, Mapping[str, FeatureTable] | None]:
        """The row, and after it the background, each read as a table of its own; and the features of their photos."""
        predictor, background = self.predictor, self.background
        schema, images = predictor.schema, predictor.schema.names("image")
        numbers = [name for kind, name in schema.table_columns if kind.orders]
        pieces = [frame_of([request])[background.frame.columns], background.frame]
        parsed = predictor.raw_rows(Table.of_pieces(pieces, numbers, {one.name: one.form for one in schema.columns}))
        if not predictor.uses_photos:
            return parsed, None
        found, decoded = placed([*request.photos, *background.photos], images)
        files = DecodedPhotos(decoded, size=predictor.image_size, crop=predictor.crop)
        return replace(parsed, photos=found, files=files), self._features(decoded)

    def _features(self, photos: Sequence[DecodedPhoto]) -> dict[str, FeatureTable]:
        """Of photos by each image network; those of the background are computed once."""
        known = self.background.features
        if not known:
            kept = list({one.digest: one for row in self.background.photos for one in _all(row)}.values())
            places = {one.digest: place for place, one in enumerate(kept)}
            known.update({name: (table, places) for name, table in self._computed(kept).items()})
        if not known:
            return {}
        _, places = next(iter(known.values()))
        fresh = [one for one in photos if one.digest not in places]
        computed = self._computed(fresh)
        at = {**places, **{one.digest: len(places) + place for place, one in enumerate(fresh)}}
        order = torch.tensor([at[one.digest] for one in photos], dtype=torch.int64)
        found = {}
        for name, (table, _) in known.items():
            values = torch.cat([table.values, computed[name].values])[order]
            readable = torch.cat([table.readable, computed[name].readable])[order]
            found[name] = FeatureTable(values, readable)
        return found

    def _computed(self, photos: Sequence[DecodedPhoto]) -> dict[str, FeatureTable]:
        files = DecodedPhotos(photos, size=self.predictor.image_size, crop=self.predictor.crop)
        return self.predictor.mixer_features(files, device=default_device())


def _by_size(found: Explanation) -> list[tuple[str, bool, bool, float, float]]:
    """Column, whether of photos, whether of text, part and its error; the largest part first."""
    order = np.argsort(-np.abs(found.parts[0]), kind="stable")
    return [
        (
            found.columns[place],
            bool(found.is_photo[place]),
            bool(found.is_text[place]),
            found.parts[0, place],
            found.errors[0, place],
        )
        for place in order.tolist()
    ]


def _pictures(heat: PhotoHeat) -> list[dict[str, Any]]:
    """Each photo in grey with the heat in colour, as a PNG in base64; ``photo`` counts the photos of a column."""
    found, counts = [], dict[str, int]()
    for column, photo, warmth in zip(heat.columns, heat.photos, heat.heat, strict=True):
        file = io.BytesIO()
        overlay(photo, warmth).save(file, "PNG")
        place = counts[column] = counts.get(column, -1) + 1
        found.append({"column": column, "photo": place, "png": base64.b64encode(file.getvalue()).decode()})
    return found


def _small_enough(run: Path) -> bool:
    """Whether the table of a run may be read when the server starts."""
    table = run_settings(run).table
    return table is not None and table.is_file() and table.stat().st_size <= _LARGEST_TABLE


def _all(row: Mapping[str, tuple[DecodedPhoto, ...]]) -> list[DecodedPhoto]:
    return [one for photos in row.values() for one in photos]


def _photos_of(rows: Table, folder: Path, predictor: Predictor) -> tuple[dict[str, tuple[DecodedPhoto, ...]], ...]:
    """The photos of the background, decoded; those that are gone or damaged are left out."""
    schema = predictor.schema
    if not predictor.uses_photos:
        return ({},) * len(rows)
    try:
        found = find_photos(
            rows.frame.reset_index(drop=True), schema.names("image"), folder, schema.photos, absent=True
        )
    except DataError as error:
        log("no photos of training rows", message=str(error))
        return ({},) * len(rows)
    with ImageFiles(found.files, size=predictor.image_size, crop=predictor.crop, follow_links=False) as files:
        pixels, readable = files.read(np.arange(len(found.files)))
    decoded = [DecodedPhoto(b"", b"background %d" % place, one.numpy()) for place, one in enumerate(pixels)]
    result = []
    for slots in found.slots.tolist():
        row: dict[str, tuple[DecodedPhoto, ...]] = {}
        for place, column in zip(slots, found.slot_columns, strict=True):
            if place >= 0 and readable[place]:
                row[column] = (*row.get(column, ()), decoded[place])
        result.append(row)
    return tuple(result)
