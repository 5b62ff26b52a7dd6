"""What a run folder keeps for its report: ``report.json``, small pictures in ``report_files``, scores in
``metrics.jsonl``; beside predictions, history, schema and bad inputs it is all that the page shows.

In: ``ReportFacts`` and pictures. Out: the files, and from them ``ReportContent``: nothing outside of the folder is
needed, so that a report can be written again when the table and its photos are elsewhere or gone."""

import base64
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Schema
from mixfit.data.photos.decode import ImageError, image_header
from mixfit.errors import ConfigError, DataError
from mixfit.files import (
    explained,
    from_plain,
    is_there,
    json_numbers,
    parse_json,
    read_csv,
    read_file,
    read_json,
    read_text,
    shown,
    to_plain,
    write_file,
)
from mixfit.runs.report.content import ReportContent, ReportFacts, Score
from mixfit.runs.report.predictions_file import read_predictions
from mixfit.runs.report.watched import check_watched

VERSION = 1
FACTS, FILES, METRICS, HISTORY, BAD = "report.json", "report_files", "metrics.jsonl", "history.csv", "bad_inputs.csv"
_MOST_PHOTO = 2**22  # bytes


def write_facts(folder: Path, facts: ReportFacts, photos: Mapping[str, bytes]) -> None:
    """Write ``report.json`` and the pictures, in place of older ones.

    Args:
        photos: small JPEGs by the names that the facts have for them.
    """
    files = folder / FILES
    text = json.dumps({"version": VERSION, **to_plain(facts)}, indent=1, ensure_ascii=False)
    with explained(files, None):
        if files.exists():
            shutil.rmtree(files)
        files.mkdir()
        for name, content in photos.items():
            (files / name).write_bytes(content)
    write_file(folder / FACTS, text.encode("utf-8", "backslashreplace"))


def write_scores(folder: Path, scores: list[Score]) -> None:
    """Append a line for each model and part to ``metrics.jsonl``, behind those of the epochs; older ones go."""
    path = folder / METRICS
    lines = read_text(path).splitlines() if is_there(path) else []
    kept = [line for line in lines if _is_of_epoch(line)]
    for score in scores:
        line: dict[str, object] = {"split": score.split, "model": score.model, "metrics": json_numbers(score.metrics)}
        if score.seconds is not None:
            line["seconds"] = score.seconds
        kept.append(json.dumps(line, ensure_ascii=False))
    write_file(path, "".join(line + "\n" for line in kept))


def _is_of_epoch(line: str) -> bool:
    """Of a line that a killed process left half nothing is kept."""
    try:
        said = parse_json(line, METRICS)
    except DataError:
        return False
    return isinstance(said, dict) and "epoch" in said


def read_facts(folder: Path) -> ReportFacts:
    """Read ``report.json`` of a run folder.

    Raises:
        ConfigError: there is none.
        DataError: it is damaged, or a newer mixfit wrote it.
    """
    return from_plain(ReportFacts, _read_json(folder), FACTS)


def read_content(folder: Path) -> ReportContent:
    """All that the report of a run shows.

    Raises:
        ConfigError: the folder is none of a finished run.
        DataError: a file of it is damaged.
    """
    said = _read_json(folder)
    facts: ReportFacts = from_plain(ReportFacts, said, FACTS)
    _check(facts)
    schema = Schema.load(folder / "schema.json")
    if (schema.task == "regression") != (not facts.classes):
        raise DataError(f"{FACTS} is damaged: its classes are not those of a task {schema.task}.")
    found = read_predictions(folder / f"predictions_{facts.predicted_split}.parquet", facts.classes)
    return ReportContent(
        **{one.name: getattr(facts, one.name) for one in fields(ReportFacts)},
        schema=schema,
        history=_history(folder / HISTORY),
        truth=found.truth,
        prediction=found.prediction,
        predicted_rows=found.row,
        probabilities=found.probabilities,
        interval=found.interval,
        weight=found.weight,
        older_pictures=bool(said.get("pictures")),
        photo_files=_photo_files(folder, facts),
        bad_inputs=_bad_inputs(folder / BAD),
    )


def _check(facts: ReportFacts) -> None:
    """Numbers that belong together.

    Raises:
        DataError: they do not.
    """
    inside = [*((one.inside, one.count) for one in facts.coverage), *((one.inside, one.count) for one in facts.levels)]
    if any(some > count for some, count in inside):
        raise DataError(f"{FACTS} is damaged: more rows are inside of intervals than there are.")
    for one in [] if facts.data is None else facts.data.distributions:
        if len(one.labels) != len(one.counts):
            raise DataError(f"{FACTS} is damaged: {len(one.labels)} labels for {len(one.counts)} counts.")
    if len(set(facts.classes)) != len(facts.classes) or len(facts.classes) == 1:
        raise DataError(f"{FACTS} is damaged: its classes are not different ones.")
    if facts.watched is not None:
        check_watched(facts.watched)


def _read_json(folder: Path) -> dict[str, object]:
    path = folder / FACTS
    if not folder.is_dir():
        raise ConfigError(f"There is no run folder {folder}.")
    if not is_there(path):
        raise ConfigError(
            f"{folder} holds no {FACTS}: its training was stopped before the end, or an older mixfit made it. "
            f"Go on with: mixfit train --resume {folder}"
        )
    said = read_json(path)
    version = said.get("version") if isinstance(said, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DataError(f"{path} is not what a training writes: it has no version.")
    if version > VERSION:
        raise DataError(f"{path} has a version newer than {VERSION}: read it with a newer mixfit.")
    return from_plain(dict[str, Any], said, FACTS)


def _history(path: Path) -> pd.DataFrame:
    """The numbers of the epochs; empty where there are none."""
    if not is_there(path):
        return pd.DataFrame()
    names, rows = read_csv(path)
    try:
        numbers = [[float(cell) if cell else math.nan for cell in row] for row in rows]
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    return pd.DataFrame(np.array(numbers, dtype=np.float64).reshape(len(rows), len(names)), columns=names)


def _bad_inputs(path: Path) -> list[BadInput]:
    if not is_there(path):
        return []
    names, rows = read_csv(path)
    if sorted(names) != sorted(BadInput.__dataclass_fields__):
        raise DataError(f"{path} is damaged: its columns are not those of bad inputs.")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    odd = [cells["row"] for cells in found if not (cells["row"].isdecimal() and len(cells["row"]) < 16)]
    if odd:
        raise DataError(f"{path} is damaged: {shown(odd[0])!r} is no number of a row.")
    return [BadInput(**{**cells, "row": int(cells["row"])}) for cells in found]  # type: ignore[arg-type]


def _photo_files(folder: Path, facts: ReportFacts) -> dict[str, str]:
    """Those of the small pictures that are there; a page without one says so."""
    rows = [*facts.worst, *([] if facts.data is None else facts.data.samples)]
    names = {photo.file for row in rows for photo in row.photos if photo.file}
    found = {}
    for name in sorted(names):
        path = folder / FILES / Path(name).name  # never outside of the folder, whatever the file says
        if "\0" in name or not is_there(path):
            continue
        content = read_file(path, inside=folder, most=_MOST_PHOTO)
        try:
            kind = image_header(content).format
        except ImageError as error:
            raise DataError(f"{path} is damaged: it {error}.") from error
        if kind != "JPEG":
            raise DataError(f"{path} is damaged: it is no JPEG.")
        found[name] = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
    return found
