"""From the body of a request to cells and photos: checked by type and size, every refusal with its place.

In: bytes of JSON, or the parts of a form. Out: ``Asked``: plain cells by row, and the bytes of photos. Photos are only
ever bytes: a path or a URL is refused, nothing is looked up anywhere."""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixfit.data.columns.schema import Schema
from mixfit.errors import DataError, did_you_mean, rename_hint
from mixfit.files import parse_json, shown
from mixfit.serve.problems import Problem
from mixfit.serve.settings import ServeSettings

Cell = float | int | str | bool | list[str] | None
LONGEST_TEXT, LONGEST_NAME, MOST_FIELDS, MOST_TAGS = 100_000, 1_000, 10_000, 1_000
"""Characters of a cell and of a name, fields of a row, and tags of a cell."""
_EXACT = 2**53
_NUMBERED = re.compile(r"(.*)\[(\d{1,6})\]", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The rows of a request."""

    rows: tuple[dict[str, Cell], ...]
    """Cells by column, for each column of the model but those of photos."""
    photos: tuple[dict[str, tuple[bytes, ...]], ...]
    """The files of the photos of each row, by image column."""
    interval: float | None
    """Coverage of intervals or sets that the request asks for; None for the usual ones."""

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, interval: float) -> "Asked":
        """The same with another coverage."""
        return replace(self, interval=interval)


def from_json(body: bytes, schema: Schema, settings: ServeSettings) -> Asked:
    """A request as one JSON object: ``row`` or ``rows``, with photos in base64, and perhaps ``interval``.

    Raises:
        Problem: with the place in the object.
    """
    said = _parsed(body, "The body", "")
    if not isinstance(said, dict):
        raise Problem(422, 'The body must be a JSON object such as {"row": {...}} or {"rows": [{...}]}.')
    _check_keys(said, ("row", "rows", "interval"))
    rows, names = _rows(said, settings)
    cells, photos, images = [], [], schema.names("image")
    for row, name in zip(rows, names, strict=True):
        cells.append(_cells(row, name, schema))
        photos.append({image: _photos_of_text(row.get(image), f"{name}.{image}") for image in images})
    most = sum(len(files) for row in photos for files in row.values())
    if most > settings.parts:
        raise Problem(413, f"The request has {most} photos; at most {settings.parts} are read.")
    return Asked(rows=tuple(cells), photos=tuple(photos), interval=_level(said.get("interval"), "interval"))


def from_parts(
    texts: Sequence[tuple[str, str]], files: Sequence[tuple[str, bytes]], schema: Schema, settings: ServeSettings
) -> Asked:
    """A request as parts of a form: one of JSON named ``row`` or ``rows``, and files named by their image column.

    Of several rows, the name has the number of the row as well: ``photos[0]``.

    Args:
        texts: names and values of parts without a file name.
        files: names and contents of the others.
    Raises:
        Problem: with the name of the part.
    """
    written = dict[str, str]()
    for name, text in texts:
        if name in written:
            raise Problem(422, f"The part {shown(name)!r} occurs more than once.", name)
        written[name] = text
    _check_keys(written, ("row", "rows", "interval"), schema.names("image"))
    said = {
        name: _parsed(text.encode("utf-8", "surrogatepass"), f"The part {name!r}", name)
        for name, text in written.items()
    }
    rows, names = _rows(said, settings)
    images = schema.names("image")
    cells, photos = [], list[dict[str, list[bytes]]]()
    for row, name in zip(rows, names, strict=True):
        cells.append(_cells(row, name, schema))
        photos.append({image: list(_photos_of_text(row.get(image), f"{name}.{image}")) for image in images})
    for name, content in files:
        image, place = _image_of(name, images, len(rows))
        photos[place][image].append(content)
    return Asked(
        rows=tuple(cells),
        photos=tuple({image: tuple(row[image]) for image in images} for row in photos),
        interval=_level(said.get("interval"), "interval"),
    )


def _parsed(body: bytes, what: str, where: str) -> Any:
    try:
        return parse_json(body.decode("utf-8"), what)
    except UnicodeDecodeError:
        raise Problem(400, f"{what} is not UTF-8.", where) from None
    except DataError as error:
        raise Problem(400, str(error).replace(" is damaged: ", " is not strict JSON: ", 1), where) from None


def _check_keys(said: Mapping[str, Any], known: Sequence[str], images: Sequence[str] = ()) -> None:
    for name in said:
        if name not in known:
            if name in images:
                raise Problem(
                    422, f"The part {shown(name)!r} is for a photo: send it as a file, with a filename.", name
                )
            raise Problem(422, f"Unknown: {shown(name)!r}.{did_you_mean(name[:LONGEST_NAME], known)}", name)
    if ("row" in said) == ("rows" in said):
        raise Problem(422, "Exactly one of row, a JSON object, and rows, a list of such, must be given.")


def _rows(said: Mapping[str, Any], settings: ServeSettings) -> tuple[list[dict[str, Any]], list[str]]:
    rows = [said["row"]] if "row" in said else said["rows"]
    if not isinstance(rows, list):
        raise Problem(422, "It must be a list of JSON objects, one for each row.", "rows")
    if not rows:
        raise Problem(422, "There are no rows.", "rows")
    if len(rows) > settings.rows:
        raise Problem(
            413, f"There are {len(rows):,} rows; at most {settings.rows} are read: use /predict/batch.", "rows"
        )
    names = ["row"] if "row" in said else [f"rows[{place}]" for place in range(len(rows))]
    for row, name in zip(rows, names, strict=True):
        if not isinstance(row, dict):
            raise Problem(422, "It must be a JSON object with a value for each column.", name)
        if len(row) > MOST_FIELDS:
            raise Problem(413, f"It has {len(row):,} fields; at most {MOST_FIELDS:,} are read.", name)
    return rows, names


def _cells(row: Mapping[str, Any], where: str, schema: Schema) -> dict[str, Cell]:
    """The cells of the columns that the model needs; others are not looked at."""
    found = {}
    for name in needed(schema):
        if name not in row:
            hint = rename_hint(name, [other for other in list(row)[:100] if other not in schema.inputs])
            raise Problem(
                422, f"It is missing.{hint} Send null where the value is not known.", f"{where}.{shown(name)}"
            )
        kind = schema.kind_of(name)
        found[name] = _cell(row[name], f"{where}.{shown(name)}", nested=kind is not None and kind.nested)
    return found


def needed(schema: Schema) -> list[str]:
    """Columns that every row must have."""
    images = schema.names("image")
    return [name for name in schema.inputs if name not in images]


def _cell(value: Any, where: str, *, nested: bool) -> Cell:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > _EXACT and not _fits(value):
            raise Problem(422, "It is beyond the range of numbers.", where)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Problem(422, "It is beyond the range of numbers.", where)
        return value
    if isinstance(value, str):
        return _text(value, where)
    if nested and isinstance(value, list):
        if len(value) > MOST_TAGS:
            raise Problem(413, f"It has {len(value):,} values; at most {MOST_TAGS:,} are read.", where)
        if all(isinstance(one, str) for one in value):
            return [_text(one, f"{where}[{place}]") for place, one in enumerate(value)]
    listed = ", a list of texts" if nested else ""
    kind = "an object" if isinstance(value, dict) else "a list"
    raise Problem(422, f"It must be a number, a text, true, false{listed} or null, not {kind}.", where)


def _fits(value: int) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _text(value: str, where: str) -> str:
    if len(value) > LONGEST_TEXT:
        raise Problem(413, f"It has {len(value):,} characters; at most {LONGEST_TEXT:,} are read.", where)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Problem(422, "It is not valid Unicode (half a surrogate pair).", where) from None
    return value


def _photos_of_text(value: Any, where: str) -> tuple[bytes, ...]:
    """Photos in base64; null and the empty text are none."""
    texts = value if isinstance(value, list) else [value]
    found = []
    for place, text in enumerate(texts):
        here = f"{where}[{place}]" if isinstance(value, list) else where
        if text is None or text == "":
            continue
        if not isinstance(text, str):
            raise Problem(422, "It must be the contents of a photo in base64, a list of such, or null.", here)
        try:
            found.append(base64.b64decode(text.encode("ascii"), validate=True))
        except (binascii.Error, ValueError):
            raise Problem(
                422,
                "It is not base64: send the contents of the photo; paths and URLs are never read, and of a data: URL "
                "only the text after the comma.",
                here,
            ) from None
    return tuple(found)


def _image_of(name: str, images: Sequence[str], rows: int) -> tuple[str, int]:
    """The image column and the row that a part belongs to."""
    if name in images:
        if rows > 1:
            raise Problem(422, f"There are {rows} rows: name the part {shown(name)}[0] for a photo of the first.", name)
        return name, 0
    numbered = _NUMBERED.fullmatch(name)
    if numbered is not None and numbered[1] in images:
        place = int(numbered[2])
        if place >= rows:
            raise Problem(422, f"There is no row {place}: there are {rows}, counted from 0.", name)
        return numbered[1], place
    if not images:
        raise Problem(422, "The model uses no photos.", name)
    hint = did_you_mean(name[:LONGEST_NAME], images)
    raise Problem(422, f"There is no photo column {shown(name)!r}.{hint}", name)


def level_of_text(text: str | None) -> float | None:
    """The coverage that a query asks for.

    Raises:
        Problem: it is none.
    """
    try:
        return _level(None if text is None else json.loads(text), "interval")
    except (ValueError, RecursionError):
        raise Problem(422, "It must be a number in (0, 1), such as 0.9.", "interval") from None


def _level(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise Problem(422, "It must be a number in (0, 1), such as 0.9.", where)
    return float(value)
