"""Predict with an exported file: cells to its inputs, onnxruntime, and its outputs as a table.

Needs onnxruntime, pandas with pyarrow, and Pillow; PyTorch is neither needed nor loaded. This is also how to use such a
file in another language: each step says what the file expects, and its metadata has the rest as JSON.

- A column of numbers is float64 ``(rows,)``, NaN where there is none.
- A category, or an ordered one, is a text ``(rows,)``, "" where there is none; other levels than those of the training
  are treated as unknown.
- A date is int64 ``(rows,)``, microseconds since 1970 in UTC, and the smallest int64 where there is none; with a time
  zone, a second input has what the clocks there show.
- Tags are float64 ``(rows, tags)``, 1 for each known tag of the row; a second input has the number of all its tags,
  NaN where there is no list.
- A text is float32 ``(rows, terms)``, how often it has each term; a second input has its number of words, -1 where
  there is no text; with a sentence encoder, a third one has its embedding.
- Photos are uint8 ``(photos, height, width, 3)``, each in the upper left corner of one canvas, with their heights and
  widths, and the row of each, ascending; with several image columns, also the number of the column."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mixfit.data.bad_inputs import BadInput, row_status
from mixfit.data.columns.cells import Table, require_columns
from mixfit.data.columns.date import DateColumn
from mixfit.data.columns.kind import bad_cells
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.tags import TagsColumn, to_tags
from mixfit.data.photos.archive import PhotoSource
from mixfit.data.photos.decode import ImageError, read_for_size
from mixfit.data.photos.find import Photos, find_photos, needs_folder, unreadable_photos
from mixfit.errors import ConfigError, DataError, ResourceError, check_type

if TYPE_CHECKING:
    from mixfit.data.columns.text_features import ColumnFeatures

FORMAT = 1
"""Version of the metadata."""
SEPARATOR = "; "
"""Separator of the classes of a prediction set."""
_ROWS, _CANVAS = 256, 2**26
"""Rows that are predicted at once, and pixels of a canvas, unless one photo is larger."""


def onnx_predict(
    path: str | PathLike[str], frame: pd.DataFrame | Table, *, images: str | PathLike[str] | None = None
) -> pd.DataFrame:
    """Predict rows with a file of ``mixfit export``, without PyTorch.

    Args:
        path: the ONNX file.
        frame: any columns in any order; cells and photos may be missing, categories unseen.
        images: folder that photo paths are relative to; required if the model uses photos.
    Returns:
        As ``Predictor.predict``: ``prediction``, for classes ``probability_<class>``, the interval or set of the
        coverage that the file was made for, and ``status``, with the index of ``frame``.
    Raises:
        DataError: the file is none of mixfit's or is damaged, or a column that the model needs is missing.
        ConfigError: the model uses photos, but ``images`` is missing.
        ResourceError: onnxruntime is not installed.
    """
    return OnnxModel.load(path).predict(frame, images=images)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRows:
    """What a file says of some rows."""

    outputs: dict[str, np.ndarray]
    bad: list[BadInput]
    """Cells and photos that were repaired or masked."""
    status: list[str]
    photos: Photos | None
    """None for a model without photos."""
    index: pd.Index


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """An exported file, loaded once for many calls."""

    session: Any
    """onnxruntime's."""
    meta: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | PathLike[str], *, threads: int | None = None) -> "OnnxModel":
        """Load a file.

        Args:
            threads: of onnxruntime; by default all of the machine.
        """
        check_type("path", path, (str, PathLike), "a path of an ONNX file")
        if not Path(path).is_file():
            raise DataError(f"The file {path} does not exist.")
        return cls.of(str(path), threads=threads)

    @classmethod
    def of(cls, content: str | bytes, *, threads: int | None = None) -> "OnnxModel":
        """Load a file by its path, or its content; arguments as for ``load``."""
        without_telemetry()
        try:
            import onnxruntime
        except ImportError as error:
            raise ResourceError(
                "Predicting needs onnxruntime, which is not installed: pip install onnxruntime."
            ) from error
        named = content if isinstance(content, str) else "the file"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            meta = json.loads(session.get_modelmeta().custom_metadata_map["mixfit"])
        except Exception as error:  # of onnxruntime's own types, which are no subclasses of each other
            raise DataError(
                f"{named} is damaged, or not a file of mixfit export: {str(error).splitlines()[0]}"
            ) from error
        if meta["format"] > FORMAT:
            raise DataError(
                f"{named} has a newer format than {FORMAT}, the newest that this mixfit supports: update it."
            )
        return cls(session=session, meta=meta)

    @cached_property
    def schema(self) -> Schema:
        """Roles of the columns, and how they are written."""
        return Schema.from_dict(self.meta["schema"])

    @cached_property
    def preprocessor(self) -> TablePreprocessor:
        """The columns of the first fold, which tell cells that cannot be used."""
        return TablePreprocessor.from_dict(self.meta["preprocessor"])

    def predict(self, frame: pd.DataFrame | Table, *, images: str | PathLike[str] | None = None) -> pd.DataFrame:
        """See ``onnx_predict``."""
        found = self.rows_with(frame, images=images)
        return self.as_frame(found.outputs, found.status, found.index)

    def rows_with(self, frame: pd.DataFrame | Table, *, images: str | PathLike[str] | None) -> "OnnxRows":
        """As ``predict``, but the outputs as they are and all records of bad inputs."""
        check_type("frame", frame, (pd.DataFrame, Table), "a DataFrame of rows")
        table = self.schema.table(frame)
        image_columns = self.schema.names("image")
        require_columns(table, [name for name in self.schema.inputs if name not in image_columns or name in table])
        photos = None
        if self.meta["photos"] is not None:
            if images is None and needs_folder(table.frame, image_columns):
                raise ConfigError("This model uses photos: pass images=FOLDER, which the photo paths are relative to.")
            found = table.frame.reset_index(drop=True)
            photos = find_photos(found, image_columns, Path(images or ""), self.schema.photos, absent=True)
        return self.rows(table, photos)

    def rows(
        self, table: Table, photos: Photos | None, *, read: Callable[[PhotoSource], np.ndarray] | None = None
    ) -> "OnnxRows":
        """The outputs for rows with photos that are found already.

        Args:
            table: of ``schema.table``.
            photos: None for a model without photos.
            read: decodes a photo as ``read_for_size`` does; by default that itself.
        """
        self.schema.require_written(table)
        cells, bad = self.cells(table), self.preprocessor.problems(table)
        failures, parts, start = dict[int, str](), list[dict[str, np.ndarray]](), 0
        decode = read or (lambda source: read_for_size(source, self.meta["photos"]["size"], follow_links=False))
        while start < len(table) or not parts:
            some, end = self.photos(photos, start, min(start + _ROWS, len(table)), failures, decode)
            parts.append(self.run({name: values[start:end] for name, values in cells.items()} | some, end - start))
            start = end
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if photos is not None:
            bad += photos.bad + unreadable_photos(table, photos, failures)
        bad += self.unknown_texts(table)
        status = row_status(len(table), None if photos is None else photos.slots, bad)
        return OnnxRows(outputs=outputs, bad=bad, status=status, photos=photos, index=table.index)

    def run(self, inputs: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        """The outputs of the file, by name."""
        names = [one.name for one in self.session.get_inputs()]
        given = {name: values for name, values in inputs.items() if name in names}
        if "row_count" in names:
            given["row_count"] = np.array([rows])
        outputs = [one.name for one in self.session.get_outputs()]
        return dict(zip(outputs, self.session.run(outputs, given), strict=True))

    def cells(self, table: Table) -> dict[str, np.ndarray]:
        """The inputs that hold cells, by name."""
        states = {one.name: one for one in self.preprocessor.columns}
        found = dict[str, np.ndarray]()
        for one in self.meta["inputs"]:
            cells, state = table[one["column"]], states.get(one["column"])
            match one["holds"]:
                case "number":
                    found[one["input"]] = cells.numbers.values
                case "category":
                    levels = cells.levels
                    found[one["input"]] = np.append(levels.names.to_numpy(dtype=object), "")[levels.codes]
                case "tags" | "number of tags":
                    assert isinstance(state, TagsColumn)
                    found[one["input"]] = _tags(cells.read_levels(to_tags, between=state.between), one.get("tags"))
                case "terms" | "number of words" | "embedding":
                    found[one["input"]] = self.text(table, one)
                case _:
                    assert isinstance(state, DateColumn)
                    dates = cells.dates(day_first=state.day_first)
                    found[one["input"]] = (
                        dates.in_zone(one.get("zone", "UTC")).astype("datetime64[us]").astype(np.int64)
                    )
        return found

    def photos(
        self,
        photos: Photos | None,
        start: int,
        end: int,
        failures: dict[int, str],
        decode: Callable[[PhotoSource], np.ndarray],
    ) -> tuple[dict[str, np.ndarray], int]:
        """The inputs for the photos of the rows from ``start`` to before ``end``, or to before an earlier row, if they
        would be too large; and that row.

        Args:
            failures: what is wrong with photos that cannot be read is added here.
        """
        if photos is None:
            return {}, end
        decoded, sides = list[tuple[np.ndarray, int, int]](), [1, 1]
        for row in range(start, end):
            its = list[tuple[np.ndarray, int, int]]()
            for place in np.flatnonzero(photos.slots[row] >= 0).tolist():
                number = int(photos.slots[row, place])
                try:
                    its.append((decode(photos.files[number]), row - start, int(photos.columns[place])))
                except ImageError as error:
                    failures[number] = str(error)
            larger = [max([side, *(one[0].shape[axis] for one in its)]) for axis, side in enumerate(sides)]
            if decoded and (len(decoded) + len(its)) * larger[0] * larger[1] > _CANVAS:
                end = row
                break
            decoded, sides = decoded + its, larger
        canvas = np.zeros((len(decoded), *sides, 3), dtype=np.uint8)
        for place, (pixels, _, _) in enumerate(decoded):
            canvas[place, : pixels.shape[0], : pixels.shape[1]] = pixels
        inputs: dict[str, np.ndarray] = {
            "photos": canvas,
            "photo_sizes": np.array([pixels.shape[:2] for pixels, _, _ in decoded], dtype=np.int64).reshape(-1, 2),
            "photo_rows": np.array([row for _, row, _ in decoded], dtype=np.int64),
            "photo_columns": np.array([column for _, _, column in decoded], dtype=np.int64),
        }
        return inputs, end

    def text(self, table: Table, one: Mapping[str, Any]) -> np.ndarray:
        """An input that holds a text in numbers."""
        from mixfit.data.columns.words import to_words

        cells = table[one["column"]]
        words = cells.read_levels(to_words)
        if one["holds"] == "number of words":
            return np.append(words.sizes, -1)[words.codes].astype(np.int64)
        if one["holds"] == "embedding":
            return self._embedding(table, one["column"])
        return self._terms(one["column"]).counts(words)

    def _terms(self, name: str) -> "ColumnFeatures":
        """The known terms of a column of text."""
        from mixfit.data.columns.text_features import ColumnFeatures

        return ColumnFeatures.counting(name, **self.meta["text"][name])

    def _embedding(self, table: Table, name: str) -> np.ndarray:
        """By the sentence encoder, which needs PyTorch."""
        from mixfit.data.columns.embedded import EmbedderFacts, embedded
        from mixfit.training.texts import TextModel

        facts = EmbedderFacts(**self.meta["embedder"])
        if facts.source != "minilm":
            raise ConfigError("The file expects embeddings of a text model from a folder: predict with mixfit predict.")
        found = embedded(table[name], TextModel.saved(facts, folder=None).ready(None, "cpu"))
        levels = table[name].levels.codes
        values = np.zeros((len(levels), facts.d), dtype=np.float32)
        there = np.flatnonzero(levels >= 0)
        if len(there):
            values[there] = found.of(there)
        return values

    def unknown_texts(self, table: Table) -> list[BadInput]:
        """Texts without any word that was learnt."""
        if not self.meta["text"]:
            return []
        from mixfit.data.columns.words import to_words

        found = list[BadInput]()
        for name in self.meta["text"]:
            words = table[name].read_levels(to_words)
            there = np.append(words.sizes > 0, np.False_)[words.codes]
            strange = there & ~self._terms(name).knows(words)
            found += bad_cells(table[name], strange, "no word that training texts have", "read by its characters")
        return found

    def as_frame(self, outputs: Mapping[str, np.ndarray], status: list[str], index: pd.Index) -> pd.DataFrame:
        """Outputs of the file as columns of a table."""
        classes = self.meta["classes"]
        if classes is None:
            names = ("prediction", "lower", "upper")
            found: dict[str, Any] = {name: outputs[name] for name in names if name in outputs}
        else:
            found = {"prediction": pd.array(outputs["prediction"].tolist(), dtype="str")}
            found |= {f"probability_{name}": outputs["probabilities"][:, place] for place, name in enumerate(classes)}
            if "prediction_set" in outputs:
                sets = [
                    SEPARATOR.join(classes[place] for place in np.flatnonzero(row)) for row in outputs["prediction_set"]
                ]
                found["prediction_set"] = pd.array(sets, dtype="str")
        return pd.DataFrame({**found, "status": status}, index=index)


def without_telemetry() -> None:
    """Keep onnxruntime, before it is first imported, from sending to its makers what is loaded here, and from writing
    an identifier of the machine: its packages for Linux do both from version 1.29 on. ``ORT_DISABLE_TELEMETRY=0`` in
    the environment is left as it is."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _tags(found: Any, known: list[str] | None) -> np.ndarray:
    """Indicators of the known tags, or, without these, the number of all tags."""
    missing = (found.codes < 0) | found.unusable
    if known is None:
        return np.where(missing, np.nan, np.append(found.sizes, 0)[found.codes].astype(np.float64))
    wanted = pd.Index(known, dtype="str").get_indexer(found.tags)[found.tag]
    has = np.zeros((len(found.wrong) + 1, len(known)))
    has[found.cell[wanted >= 0], wanted[wanted >= 0]] = 1.0
    return has[found.codes]
