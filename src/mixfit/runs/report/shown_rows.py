"""Rows of the table that a report shows with their photos: some as they come, and those with the largest errors.

In: the data of a training and predictions. Out: ``ShownRow``s, and small JPEGs of their photos."""

from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import Image

from mixfit.data.columns.values import to_keys
from mixfit.data.load import MixedData
from mixfit.data.photos.cells import photo_name, shown_cell
from mixfit.data.photos.decode import ImageError, read_image
from mixfit.evaluation.facts import rows_with_photo
from mixfit.runs.report.content import ShownPhoto, ShownRow
from mixfit.runs.report.render import percent
from mixfit.runs.report.unusual import Unusual

SAMPLES, WORST = 4, 8
MOST_PHOTOS, MOST_CELLS = 4, 12
SIDE, QUALITY = 240, 72
"""Longer side of a small picture in pixels, and its quality as a JPEG: about 8 kB each."""


def sample_rows(mixed: MixedData, *, seed: int = 0) -> list[ShownRow]:
    """A few training rows; where there are photos, rows that have some."""
    rows = mixed.split.train
    seen = rows_with_photo(mixed, rows)
    rows = rows[seen] if seen.any() else rows
    chosen = np.random.default_rng(seed).choice(rows, size=min(SAMPLES, len(rows)), replace=False)
    return [_shown(mixed, int(row), "training rows", [], with_target=True) for row in np.sort(chosen)]


def worst_places(truth: np.ndarray, prediction: np.ndarray, *, log: bool) -> np.ndarray:
    """Places of the rows with the largest errors, the worst first; right predictions are never among them.

    Args:
        truth: numbers, or class indices, ``(rows,)``.
        prediction: numbers ``(rows,)``, or probabilities ``(rows, classes)``: then the less probable the truth, the
            worse.
        log: judge a number by its ratio to the truth.
    """
    if prediction.ndim == 2:
        error = 1.0 - prediction[np.arange(len(truth)), truth]
        error = np.where(prediction.argmax(1) == truth, -1.0, error)
    elif log and len(truth) and min(truth.min(), prediction.min()) > 0:
        error = np.abs(np.log(prediction) - np.log(truth))
    else:
        error = np.abs(prediction - truth)
    order = np.argsort(-error, kind="stable")[:WORST]
    return order[error[order] > 0]


def worst_rows(
    mixed: MixedData,
    unusual: Unusual,
    positions: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    part: str,
    interval: tuple[np.ndarray, np.ndarray] | None = None,
    level: float = 0.9,
) -> list[ShownRow]:
    """The rows with the largest errors, each with what is unusual about it.

    Args:
        positions: of the rows in the table, ``(rows,)``.
        truth, prediction: as for ``worst_places``.
        part: what the rows are called.
        interval: lower and upper ends at ``level``.
    """
    found = []
    for place in worst_places(truth, prediction, log=mixed.target.log).tolist():
        row = int(positions[place])
        reasons = unusual.about(row)
        if interval is not None:
            reasons = [*_beyond(truth[place], interval[0][place], interval[1][place], level), *reasons]
        found.append(_shown(mixed, row, part, reasons, with_target=False))
    return found


def _beyond(truth: float, low: float, high: float, level: float) -> list[str]:
    if low <= truth <= high:
        return []
    return [f"the truth lies {'above' if truth > high else 'below'} the {percent(level)} interval of the row"]


def _shown(mixed: MixedData, row: int, part: str, reasons: list[str], *, with_target: bool) -> ShownRow:
    schema = mixed.schema
    names = [*([schema.target] if with_target else []), *schema.names("group")]
    names += [c.name for c in schema.columns if c.role in ("number", "category", "date")]
    cells = [(name, _cell(mixed, name, row)) for name in names[:MOST_CELLS]]
    photos = _photos(mixed, row)
    return ShownRow(
        row=int(mixed.row_numbers[row]),
        part=part,
        cells=cells,
        photos=photos[:MOST_PHOTOS],
        more_photos=max(0, len(photos) - MOST_PHOTOS),
        reasons=reasons,
    )


def _cell(mixed: MixedData, name: str, row: int) -> str:
    """The cell as the table has it; of a number with many digits those that matter."""
    cell = to_keys(mixed.frame[name].iloc[[row]]).iloc[0]
    return "" if cell != cell else shown_cell(cell)  # only nan is not itself


def _photos(mixed: MixedData, row: int) -> list[ShownPhoto]:
    """Photos that the row names and that exist; those that cannot be read have no file."""
    if mixed.photos is None:
        return []
    found = []
    for place, number in enumerate(mixed.photos.slots[row].tolist()):
        if number >= 0:
            name = photo_name(mixed.photos.files[number])
            file = "" if number in mixed.photo_failures else f"row-{row}-{place}.jpg"
            found.append(ShownPhoto(name=name, file=file))
    return found


def small_pictures(mixed: MixedData, rows: list[ShownRow]) -> tuple[list[ShownRow], dict[str, bytes]]:
    """JPEGs of the photos that are shown; a photo that has gone meanwhile has no file in the rows that come back."""
    pictures: dict[str, bytes] = {}
    shown = []
    for row in rows:
        photos = []
        for photo in row.photos:
            content = pictures.get(photo.file) or _small(mixed, photo)
            if content is not None:
                pictures[photo.file] = content
            photos.append(photo if content is not None else replace(photo, file=""))
        shown.append(replace(row, photos=photos))
    return shown, pictures


def _small(mixed: MixedData, photo: ShownPhoto) -> bytes | None:
    if not photo.file or mixed.photos is None:
        return None
    row, place = (int(part) for part in photo.file.removesuffix(".jpg").split("-")[1:])
    try:
        image = Image.fromarray(read_image(mixed.photos.files[mixed.photos.slots[row, place]], follow_links=False))
    except ImageError:
        return None
    image.thumbnail((SIDE, SIDE))
    content = BytesIO()
    image.save(content, format="JPEG", quality=QUALITY)
    return content.getvalue()
