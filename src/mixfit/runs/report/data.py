"""The data section of a report: the distribution of each column, sample rows, and the rows with the largest errors with
remarks on what is unusual about them.

In: the data of a training and predictions. Out: ``DataFacts``, ``ShownRow``s, and thumbnails of their photos. Remarks
come from simple comparisons with the training rows: they do not prove the cause of an error."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mixfit.choices import NUMBER_TASKS
from mixfit.data.bad_inputs import BadInput
from mixfit.data.checks.photos import equal_files
from mixfit.data.checks.texts import one_line
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.tags import Tagged
from mixfit.data.columns.target import wants_log
from mixfit.data.columns.text import text_lengths
from mixfit.data.columns.values import Dates, Numbers
from mixfit.data.load import MixedData
from mixfit.data.photos.archive import PhotoSource
from mixfit.data.photos.cells import photo_name, shown_cell
from mixfit.data.photos.decode import ImageError, read_image
from mixfit.evaluation.facts import rows_with_photo
from mixfit.html import LONGEST_TEXT
from mixfit.runs.report.content import DataFacts, Distribution, ShownPhoto, ShownRow
from mixfit.runs.report.figures import compact
from mixfit.runs.report.render import percent, plural

MOST_COLUMNS = 30
BINS, LEVELS, DATE_BINS = 16, 5, 12
LONGEST_LEVEL = 40
MOST_REASONS = 6
_RARE = 2  # training rows with a rare level
_FEWEST = 50  # fewest training rows for which "rare" is reported
_USUAL = 0.5  # share of the training rows with a text, for which a missing one is reported
_EDGE = 0.01  # share of the training rows beyond an extreme value
SAMPLES, WORST = 4, 8
MOST_PHOTOS, MOST_CELLS, MOST_TEXTS = 4, 12, 3
SIDE, QUALITY = 240, 72
"""Longer side of a thumbnail in pixels, and its JPEG quality: about 8 kB each."""


def describe_data(mixed: MixedData, samples: list[ShownRow], remarks: Sequence[str] = ()) -> DataFacts:
    """Distributions of the target and of the columns in use, at most ``MOST_COLUMNS``.

    Args:
        remarks: further notes on the data, without a full stop."""
    schema = mixed.schema
    used = [name for name in schema.used if name not in schema.names("weight")]
    names = [schema.target, *used]
    shown = [_distribution(mixed, name) for name in names[:MOST_COLUMNS]]
    notes = []
    if len(names) > MOST_COLUMNS:
        notes.append(f"Distributions are shown for the target and the first {MOST_COLUMNS - 1} columns in use.")
    if mixed.arrays.weight is not None:
        notes.append("Row counts are unweighted; all metrics are weighted.")
    if mixed.photos is not None:
        readable = len(mixed.photos.files) - len(mixed.photo_failures)
        absent = sum(record.action == "photo treated as missing" for record in mixed.photos.bad)
        without = int((~rows_with_photo(mixed, np.arange(len(mixed.table)))).sum())
        notes.append(
            f"{readable:,} distinct photos were read; {len(mixed.photo_failures):,} could not be decoded; "
            f"{plural(absent, 'cell')} named missing photos; {without:,} of {len(mixed.table):,} rows have no photo."
        )
    notes += [f"{remark[:1].upper()}{remark[1:]}." for remark in remarks]
    return DataFacts(distributions=[one for one in shown if one is not None], samples=samples, notes=notes)


def _distribution(mixed: MixedData, name: str) -> Distribution | None:
    if name in mixed.schema.names("image"):
        return _photo_counts(mixed, name)
    if name not in mixed.table:
        return None
    if name in mixed.schema.names("text"):
        return _texts(mixed.table[name])
    match mixed.schema.typed(mixed.table, name):
        case Numbers(values=values):
            return _numbers(name, values)
        case Dates(times=times):
            return _dates(name, times)
        case Tagged() as found:
            return _levels(name, pd.Series(found.tags.repeat(found.rows_of_tags)))
    return _levels(name, mixed.table[name].keys)


def _numbers(name: str, values: np.ndarray) -> Distribution | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, middle, high = (float(value) for value in np.quantile(values, [0, 0.5, 1]))
    distinct = len(np.unique(values))
    log = distinct > 2 and wants_log(values)
    scaled = np.log(values) if log else values
    with np.errstate(over="ignore"):
        if not np.isfinite(np.ptp(scaled)):  # the range is too large for bins of equal width
            return None
    counts, bounds = np.histogram(scaled, bins=min(BINS, distinct))
    edges = np.exp(bounds) if log else bounds
    summary = f"{compact_number(low)} to {compact_number(high)}, median {compact_number(middle)}"
    return Distribution(
        column=name,
        kind="numbers",
        labels=[f"{compact_number(a)} to {compact_number(b)}" for a, b in pairwise(edges)],
        counts=[int(count) for count in counts],
        summary=summary + (" (log scale)" if log else ""),
    )


def compact_number(value: float) -> str:
    """A number in few characters: whole numbers in full, others to four digits.

    >>> [compact_number(value) for value in (2019.0, 21_500.0, 5.93512, 4e12)]
    ['2019', '21,500', '5.935', '4e+12']
    """
    value = float(value)
    if abs(value) < 1e6 and value == int(value):
        return f"{int(value):,}" if abs(value) >= 1e4 else f"{int(value)}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else compact(float(f"{value:.4g}"))


def _dates(name: str, times: np.ndarray) -> Distribution | None:
    known = times[~np.isnat(times)].astype("datetime64[s]").astype(np.int64)
    if not len(known):
        return None
    counts, edges = np.histogram(known, bins=min(DATE_BINS, len(np.unique(known))))
    days = [str(np.datetime64(int(edge), "s").astype("datetime64[D]")) for edge in edges]
    return Distribution(
        column=name,
        kind="dates",
        labels=[f"{a} to {b}" for a, b in pairwise(days)],
        counts=[int(count) for count in counts],
        summary=f"{days[0]} to {days[-1]}",
    )


def _texts(cells: Cells) -> Distribution | None:
    """The lengths of texts, and the beginning of the first one."""
    there = np.flatnonzero(cells.levels.codes >= 0)
    if not len(there):
        return None
    unit, lengths = text_lengths(cells)
    found = _numbers(cells.name, lengths[there].astype(np.float64))
    first = one_line(str(cells.levels.names[cells.levels.codes[there[0]]]))
    return None if found is None else replace(found, kind="texts", summary=f"{unit}: {found.summary}", sample=first)


def _levels(name: str, keys: pd.Series) -> Distribution | None:
    counted = keys.dropna().value_counts()
    if not len(counted):
        return None
    top = counted.sort_index(kind="stable").sort_values(ascending=False, kind="stable").head(LEVELS)
    return Distribution(
        column=name,
        kind="levels",
        labels=[_cut(str(level)) for level in top.index],
        counts=[int(count) for count in top],
        summary=f"{len(counted):,} different",
        others=int(counted.sum() - top.sum()),
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_LEVEL else text[: LONGEST_LEVEL - 1] + "…"


def _photo_counts(mixed: MixedData, name: str) -> Distribution | None:
    assert mixed.photos is not None
    mine = np.array([column == name for column in mixed.photos.slot_columns])
    number = mixed.photos.readable(mixed.photo_failures)[:, mine].sum(axis=1)
    counts = np.bincount(number)
    shown = np.flatnonzero(counts)[:LEVELS].tolist()
    return Distribution(
        column=name,
        kind="photos",
        labels=["no photo" if one == 0 else f"{one} photo{'s' if one > 1 else ''}" for one in shown],
        counts=[int(counts[one]) for one in shown],
        summary="photos a row",
        others=int(len(number) - counts[shown].sum()),
    )


class Unusual:
    """Compares rows with the training rows.

    Args:
        mixed: the data, with the training rows in ``split.train``.
        bad: all records of the run.
    """

    def __init__(self, mixed: MixedData, bad: list[BadInput]) -> None:
        self.mixed, self.train = mixed, mixed.split.train
        self._bad: dict[int, list[BadInput]] = defaultdict(list)
        for record in bad:
            self._bad[record.row].append(record)

    @cached_property
    def _learned(self) -> frozenset[int]:
        """The training rows: out-of-fold rows are among them, and a row is not compared with itself."""
        return frozenset(self.train.tolist())

    def about(self, row: int) -> list[str]:
        """At most ``MOST_REASONS`` remarks on the row at a position, problems first."""
        number = int(self.mixed.row_numbers[row])
        found = [f"{one.column}: {one.problem} ({one.action})" for one in self._bad[number]]
        found += [
            *self._photo(row),
            *self._texts(row),
            *self._target(row),
            *self._numbers(row),
            *self._levels(row),
            *self._empty(row),
        ]
        return found[:MOST_REASONS]

    def _photo(self, row: int) -> list[str]:
        if self.mixed.photos is None:
            return []
        if not self._with_photo[row]:
            share = float(self._with_photo[self.train].mean())
            said = f"no readable photo; {percent(share)} of the training rows have one"
            return [said] if share else []
        return self._shared_photo(row)

    def _texts(self, row: int) -> list[str]:
        """Texts that the row lacks, and most training rows have."""
        found = []
        for name in self.mixed.schema.names("text"):
            codes = self.mixed.table[name].levels.codes
            share = float((codes[self.train] >= 0).mean()) if len(self.train) else 0.0
            if codes[row] < 0 and share > _USUAL:
                found.append(f"no text in {name}; {percent(share)} of the training rows have one")
        return found

    @cached_property
    def _readable(self) -> np.ndarray:
        """Which photo slots of the rows are readable."""
        assert self.mixed.photos is not None
        return self.mixed.photos.readable(self.mixed.photo_failures)

    @cached_property
    def _with_photo(self) -> np.ndarray:
        return np.asarray(self._readable.any(axis=1))

    def _shared_photo(self, row: int) -> list[str]:
        """Find another row with the same photo and a different target."""
        photos = self.mixed.photos
        assert photos is not None
        truth = self._targets
        for place in np.flatnonzero(self._readable[row]):
            equal = _equal_to(photos.files, int(photos.slots[row, place]), self._sizes)
            rows = np.flatnonzero(np.isin(photos.slots, equal).any(axis=1))
            known = [int(other) for other in rows if other != row and pd.notna(truth.iloc[other])]
            others = [other for other in known if truth.iloc[other] != truth.iloc[row]]
            if others:
                said = f"{self.mixed.schema.target}, {_quoted(truth.iloc[others[0]])}"
                return [f"row {self.mixed.row_numbers[others[0]]} has the same photo but another {said}"]
        return []

    @cached_property
    def _sizes(self) -> np.ndarray:
        photos = self.mixed.photos
        assert photos is not None
        return np.array([_size(file) for file in photos.files], dtype=np.int64)

    @cached_property
    def _targets(self) -> pd.Series:
        return self.mixed.table[self.mixed.schema.target].keys

    def _target(self, row: int) -> list[str]:
        name, classes = self.mixed.schema.target, self.mixed.target.classes
        if classes is None:
            return self._number(name, row)
        mine = self._targets.iloc[row]
        share = float((self._targets.iloc[self.train] == mine).mean())
        wanted = 0.5 / len(classes)
        if share >= wanted:
            return []
        rows = int((self._targets.iloc[self.train] == mine).sum())
        return [f"its class {_quoted(mine)} is rare: {rows:,} of {len(self.train):,} training rows"]

    def _numbers(self, row: int) -> list[str]:
        return [text for name in self.mixed.schema.names("number") for text in self._number(name, row)]

    def _number(self, name: str, row: int) -> list[str]:
        values, known = self._columns[name]
        value = values[row]
        if not np.isfinite(value) or not len(known):
            return []
        if row in self._learned:  # compare it with the others
            known = np.delete(known, np.searchsorted(known, value))
        if not len(known):
            return []
        if not known[0] <= value <= known[-1]:
            above = f"above all training rows (at most {compact_number(known[-1])})"
            where = above if value > known[-1] else f"below all training rows (at least {compact_number(known[0])})"
        else:
            where = self._at_the_edge(value, known)
        return [f"{name} is {compact_number(value)}, {where}"] if where else []

    @staticmethod
    def _at_the_edge(value: float, known: np.ndarray) -> str:
        """Describe an extreme number; "" for others, and if there are few distinct values."""
        if len(known) < _FEWEST or len(np.unique(known)) < _FEWEST:
            return ""
        if len(known) - np.searchsorted(known, value, side="left") <= _EDGE * len(known):
            return "higher than in nearly all training rows"
        if np.searchsorted(known, value, side="right") <= _EDGE * len(known):
            return "lower than in nearly all training rows"
        return ""

    @cached_property
    def _columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """All values of each number column, and the sorted values of the training rows."""
        schema = self.mixed.schema
        names = [*schema.names("number"), *([schema.target] if schema.task in NUMBER_TASKS else [])]
        found = {}
        for name in names:
            values = self.mixed.table[name].numbers.values
            known = values[self.train]
            found[name] = values, np.sort(known[np.isfinite(known)])
        return found

    def _levels(self, row: int) -> list[str]:
        found = []
        for name, (keys, counts) in self._keys.items():
            level = keys.iloc[row]
            if pd.isna(level):
                continue
            other = row in self._learned
            rows = int(counts.get(level, 0)) - other
            if rows == 0:
                if not any(one.column == name for one in self._bad[row]):  # reported there
                    found.append(f"{name} is {_quoted(level)}, which no {'other ' * other}training row has")
            elif rows <= _RARE and len(self.train) >= _FEWEST:
                found.append(f"{name} is {_quoted(level)}, as in {rows} training row{'s' if rows > 1 else ''} only")
        return found

    @cached_property
    def _keys(self) -> dict[str, tuple[pd.Series, pd.Series]]:
        """All levels of each category column, and their counts in the training rows."""
        columns = {name: self.mixed.table[name].keys for name in self.mixed.schema.names("category")}
        return {name: (keys, keys.iloc[self.train].value_counts()) for name, keys in columns.items()}

    def _empty(self, row: int) -> list[str]:
        found = []
        for name, (values, known) in self._columns.items():
            share = 1 - len(known) / max(len(self.train), 1)
            if np.isnan(values[row]) and share < 0.1:
                often = f"in {percent(share)} of the training rows" if share else "in no training row"
                found.append(f"{name} is missing, as {often}")
        return found


def _quoted(level: object) -> str:
    text = str(level)
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _size(file: PhotoSource) -> int:
    if not isinstance(file, Path):
        return len(file)
    try:
        return os.stat(file).st_size  # noqa: PTH116 - pathlib takes twice the time, and there are many photos
    except OSError:
        return -1


def _equal_to(files: Sequence[PhotoSource], number: int, sizes: np.ndarray) -> list[int]:
    """Numbers of the files with the same bytes as one file, itself included; only files of the same size are read."""
    alike = [number, *(other for other in np.flatnonzero(sizes == sizes[number]).tolist() if other != number)]
    first = equal_files([files[other] for other in alike])
    return [other for other, same in zip(alike, first == first[0], strict=True) if same]


def sample_rows(mixed: MixedData, *, seed: int = 0) -> list[ShownRow]:
    """A few training rows, preferably with photos."""
    rows = mixed.split.train
    seen = rows_with_photo(mixed, rows)
    rows = rows[seen] if seen.any() else rows
    chosen = np.random.default_rng(seed).choice(rows, size=min(SAMPLES, len(rows)), replace=False)
    shown = [(int(row), list[str]()) for row in np.sort(chosen)]
    return _shown_rows(mixed, shown, "training rows", with_target=True)


def worst_places(truth: np.ndarray, prediction: np.ndarray, *, log: bool) -> np.ndarray:
    """Positions of the rows with the largest errors, the worst first, without correct predictions.

    Args:
        truth: numbers, or class indices, ``(rows,)``.
        prediction: numbers ``(rows,)``, or probabilities ``(rows, classes)``: then the error is one minus the
            probability of the true class.
        log: use relative errors.
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
    """The rows with the largest errors, with remarks on what is unusual about them.

    Args:
        positions: of the rows in the table, ``(rows,)``.
        truth, prediction: as for ``worst_places``.
        part: name of the rows.
        interval: lower and upper ends at ``level``.
    """
    found = []
    for place in worst_places(truth, prediction, log=mixed.schema.task == "regression" and mixed.target.log).tolist():
        row = int(positions[place])
        reasons = unusual.about(row)
        if interval is not None:
            reasons = [*_beyond(truth[place], interval[0][place], interval[1][place], level), *reasons]
        found.append((row, reasons))
    return _shown_rows(mixed, found, part, with_target=False)


def _beyond(truth: float, low: float, high: float, level: float) -> list[str]:
    if low <= truth <= high:
        return []
    return [f"the true value is {'above' if truth > high else 'below'} the {percent(level)} prediction interval"]


def _shown_rows(
    mixed: MixedData, rows: Sequence[tuple[int, list[str]]], part: str, *, with_target: bool
) -> list[ShownRow]:
    """Rows by their position in the table, each with remarks on it."""
    schema, places = mixed.schema, np.array([row for row, _ in rows], dtype=np.int64)
    names = [*([schema.target] if with_target else []), *schema.names("group")]
    names = [*[*names, *schema.features][:MOST_CELLS], *schema.names("text")[:MOST_TEXTS]]
    columns = {name: _cells(mixed, name, places) for name in names}
    found = []
    for place, (row, reasons) in enumerate(rows):
        photos = _photos_of_row(mixed, row)
        shown = ShownRow(
            row=int(mixed.row_numbers[row]),
            part=part,
            cells=[(name, cells[place]) for name, cells in columns.items()],
            photos=photos[:MOST_PHOTOS],
            more_photos=max(0, len(photos) - MOST_PHOTOS),
            reasons=reasons,
        )
        found.append(shown)
    return found


def _cells(mixed: MixedData, name: str, rows: np.ndarray) -> list[str]:
    """Cells of a column, numbers rounded, and of a text its beginning on one line."""
    is_text = name in mixed.schema.names("text")
    keys = mixed.table[name].levels.keys(rows)
    return [one_line(key, LONGEST_TEXT) if is_text else shown_cell(key) for key in keys]


def _photos_of_row(mixed: MixedData, row: int) -> list[ShownPhoto]:
    """Existing photos of a row; unreadable ones have no file."""
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
    """Thumbnails of the shown photos; photos deleted meanwhile have no file in the returned rows."""
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
