"""What a run folder keeps for its report: ``report.json``, small pictures in ``report_files``, scores in
``metrics.jsonl``; beside predictions, history, schema and bad inputs it is all that the page shows.

In: ``ReportFacts`` and pictures. Out: the files, and from them ``ReportContent``: nothing outside of the folder is
needed, so that a report can be written again when the table and its photos are elsewhere or gone."""

import base64
import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from mixfit.data.bad_inputs import BadInput
from mixfit.data.schema import Schema
from mixfit.errors import ConfigError, DataError
from mixfit.files import explained, json_numbers, write_file
from mixfit.plain import from_plain, to_plain
from mixfit.report.content import Picture, ReportContent, ReportFacts, Score
from mixfit.report.drawn import checked_svg
from mixfit.report.predictions_file import read_predictions

VERSION = 1
FACTS, FILES, METRICS, HISTORY, BAD = "report.json", "report_files", "metrics.jsonl", "history.csv", "bad_inputs.csv"


def write_facts(folder: Path, facts: ReportFacts, photos: Mapping[str, bytes], pictures: list[Picture]) -> None:
    """Write ``report.json`` and the pictures, in place of older ones.

    Args:
        photos: small JPEGs by the names that the facts have for them.
        pictures: of what the doctor saw.
    """
    files = folder / FILES
    listed = [{"heading": one.heading, "caption": one.caption} for one in pictures]
    text = json.dumps({"version": VERSION, "pictures": listed, **to_plain(facts)}, indent=1, ensure_ascii=False)
    with explained(files, None):
        if files.exists():
            shutil.rmtree(files)
        files.mkdir()
        for name, content in photos.items():
            (files / name).write_bytes(content)
        for number, picture in enumerate(pictures):
            (files / f"picture-{number}.svg").write_text(str(picture.svg), encoding="utf-8")
    write_file(folder / FACTS, text.encode("utf-8", "backslashreplace"))


def write_scores(folder: Path, scores: list[Score]) -> None:
    """Append a line for each model and part to ``metrics.jsonl``, behind those of the epochs; older ones go."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if "epoch" in json.loads(line)]
    for score in scores:
        line: dict[str, object] = {"split": score.split, "model": score.model, "metrics": json_numbers(score.metrics)}
        if score.seconds is not None:
            line["seconds"] = score.seconds
        kept.append(json.dumps(line, ensure_ascii=False))
    write_file(path, "".join(line + "\n" for line in kept))


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
    found = read_predictions(folder / f"predictions_{facts.predicted_split}.parquet", facts.classes)
    return ReportContent(
        **{one.name: getattr(facts, one.name) for one in fields(ReportFacts)},
        schema=Schema.load(folder / "schema.json"),
        history=_read_csv(folder / HISTORY),
        truth=found.truth,
        prediction=found.prediction,
        predicted_rows=found.row,
        probabilities=found.probabilities,
        interval=found.interval,
        weight=found.weight,
        pictures=_pictures(folder / FILES, said.get("pictures", [])),
        photo_files=_photo_files(folder / FILES, facts),
        bad_inputs=_bad_inputs(folder / BAD),
    )


def _check(facts: ReportFacts) -> None:
    """Numbers that belong together.

    Raises:
        DataError: they do not.
    """
    if any(count < 1 for count in [*(one.count for one in facts.coverage), *(one.count for one in facts.levels)]):
        raise DataError(f"{FACTS} is damaged: intervals of no rows.")
    for one in [] if facts.data is None else facts.data.distributions:
        if len(one.labels) != len(one.counts):
            raise DataError(f"{FACTS} is damaged: {len(one.labels)} labels for {len(one.counts)} counts.")


def _read_json(folder: Path) -> dict[str, object]:
    path = folder / FACTS
    if not folder.is_dir():
        raise ConfigError(f"There is no run folder {folder}.")
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no {FACTS}: its training was stopped before the end, or an older mixfit made it. "
            f"Go on with: mixfit train --resume {folder}"
        )
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    if not isinstance(said, dict) or not isinstance(said.get("version"), int):
        raise DataError(f"{path} is not what a training writes: it has no version.")
    if said["version"] > VERSION:
        raise DataError(f"{path} has version {said['version']}, newer than {VERSION}: read it with a newer mixfit.")
    return said


def _read_csv(path: Path) -> pd.DataFrame:
    """A table of numbers; empty where there is none."""
    try:
        return pd.read_csv(path) if path.is_file() else pd.DataFrame()
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}.") from error


def _bad_inputs(path: Path) -> list[BadInput]:
    if not path.is_file():
        return []
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(BadInput.__dataclass_fields__, "str"), keep_default_na=False)
        return [BadInput(row=int(row), **rest) for row, rest in zip(frame["row"], _texts(frame), strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}.") from error


def _texts(frame: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {str(name): str(cell) for name, cell in row.items()} for row in frame.drop(columns="row").to_dict("records")
    ]


def _photo_files(files: Path, facts: ReportFacts) -> dict[str, str]:
    """Those of the small pictures that are there; a page without one says so."""
    rows = [*facts.worst, *([] if facts.data is None else facts.data.samples)]
    names = {photo.file for row in rows for photo in row.photos if photo.file}
    found = {}
    for name in sorted(names):
        path = files / Path(name).name  # never outside of the folder, whatever the file says
        if path.is_file():
            found[name] = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    return found


def _pictures(files: Path, listed: object) -> list[Picture]:
    shown = []
    for number, one in enumerate(from_plain(list[dict[str, str]], listed, "pictures")):
        path = files / f"picture-{number}.svg"
        if path.is_file():
            svg = Markup(checked_svg(path.read_text(encoding="utf-8"), str(path)))
            shown.append(Picture(heading=one.get("heading", ""), caption=one.get("caption", ""), svg=svg))
    return shown
