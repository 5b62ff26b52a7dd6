"""Apply a finished run to a table: ``evaluate`` with a known target, ``predict`` without."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from numbers import Real
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, overload

import numpy as np
import pandas as pd
from rich.console import Console

from mixfit.config import DataConfig, TextConfig
from mixfit.console import PlainConsole
from mixfit.data.bad_inputs import BadCounts, BadInput, describe_bad, in_table_rows
from mixfit.data.checks.copies import rows_of_training, without_copies
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.form import TextForm
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import (
    judging_weights,
    unknown_classes,
    usable_rows,
    with_labels_of_training,
    without_weightless,
)
from mixfit.data.columns.values import with_columns
from mixfit.data.fingerprint import Fingerprint, read_fingerprint
from mixfit.data.load import unknown_class
from mixfit.data.photos.find import find_photos
from mixfit.data.photos.records import Cache
from mixfit.data.photos.rule import images_root, split_images
from mixfit.data.photos.shards import StoredFeatures
from mixfit.data.split import Split, split_labels, split_rows
from mixfit.data.table.read import asked_format, read_as_configured, written_otherwise
from mixfit.data.table.to_predict import pieces_to_predict
from mixfit.data.table.write import PARQUET, check_table, check_writable_kind, new_table, table_file
from mixfit.ensemble.intervals import check_level
from mixfit.errors import ConfigError, DataError, check_type, rename_hint, unknown_column
from mixfit.evaluation.bootstrap import why_no_interval
from mixfit.evaluation.groups import group_table, judge_for, label_column, units_of
from mixfit.evaluation.result import Rows, judge, metrics_for
from mixfit.files import (
    Share,
    Within,
    check_new_file,
    from_plain,
    is_there,
    read_toml,
    said_by,
    through_link,
    write_file,
)
from mixfit.models.model import Model
from mixfit.predictor import BATCH, Predictions, Predictor
from mixfit.predictor.base import TextUse
from mixfit.runs.folder import prints_of_training, read_split
from mixfit.training.metrics import metric_label, metric_text
from mixfit.training.stored import check_stored

SplitChoice = Literal["train", "valid", "test", "all"]
BadRows = Literal["mark", "drop", "fail"]
DIGITS, FOR_PEOPLE = 7, (".csv", ".tsv")
"""Significant digits of predictions in these files, which people open: models compute in single precision, which has no
more. JSON Lines, Parquet and DataFrames have all digits."""
# Actions on rows that are broken, not merely incomplete or with an unseen category.
_BROKEN = ("photo treated as missing", "cell treated as missing")


def load_run(run: Path, models: Sequence[Model] = (), text_model: str | Path | None = None) -> Predictor:
    """The predictor of a run folder, or of a model folder itself.

    Args:
        models, text_model: custom models, and the folder of a text model, see ``Predictor.load``.
    Raises:
        ConfigError: the folder does not exist, or its training has not finished.
        DataError: it is damaged, or has a custom model that is not in ``models``.
    """
    return Predictor.load(model_folder(run), models=models, text_model=text_model)


def model_folder(run: Path) -> Path:
    """The folder of the model of a run, or ``run`` if it is one itself; nothing in it is read.

    Raises:
        ConfigError: the folder does not exist, or its training has not finished.
    """
    check_type("run", run, PathLike, "a run or the path of its folder")
    if not run.is_dir():
        places = [run.parent, Path("runs")]
        found = (path for place in places for path in place.glob("*-[0-9][0-9][0-9]"))
        known = sorted({str(path) for path in found if (path / "config.toml").is_file()})
        raise ConfigError(f"The run folder {run} does not exist. Existing runs: {', '.join(known[-5:]) or 'none'}.")
    if is_there(run / "mixfit.json"):
        return run
    if not is_there(run / "config.toml"):
        raise ConfigError(f"{run} is not a run folder: it has no config.toml.")
    if not is_there(run / "model"):
        raise ConfigError(
            f"{run} has no finished model, as its training was stopped. Resume it with: mixfit train --resume {run}"
        )
    return run / "model"


def evaluate_table(
    run: str | PathLike[str],
    table: str | Path | pd.DataFrame,
    *,
    split: SplitChoice | None = None,
    images: str | Path | None = None,
    out: str | Path | None = None,
    by: str | Sequence[str] = (),
    text: TextConfig | None = None,
    cache: Cache | None = None,
    features: str | Path | None = None,
    console: Console | None = None,
    models: Sequence[Model] = (),
    text_model: str | Path | None = None,
) -> dict[str, float]:
    """Score a run on rows with a known target, print the metrics with 95 % intervals and write them as JSON.

    Rows are weighted if the table has the weight column of the training; see ``judging_weights``.

    Args:
        run: folder of a run or of a model.
        table: a file or a DataFrame, with the target.
        split: rows to score on; by default ``test`` for the table of the run, and all rows of another table.
        images: folder that photo paths are relative to; by default the table's folder, and for a
            DataFrame the working directory.
        out: JSON file, by default ``metrics-SPLIT.json`` in the run folder.
        by: column or columns to group the metrics by.
        text: format of a text table, by default detected.
        cache: cache of image features; by default none.
        features: folder or URL of features that ``mixfit embed`` computed; others are computed here.
        models: your own models, as passed to ``fit``.
        text_model: folder of the text model that the training was given; not needed for ``minilm``.
    Returns:
        Metrics by name.
    Raises:
        ConfigError: the table lacks the target, or cannot be split.
        DataError: no row of that split has a known target.
    """
    by = (by,) if isinstance(by, str) else tuple(by)
    _check_arguments(run, table, images, text)
    check_type("out", out, (str, PathLike, NoneType), "a path of a JSON file")
    if split not in (None, *get_args(SplitChoice)):
        raise ConfigError(f"split must be one of {', '.join(get_args(SplitChoice))}, got {split!r}.")
    if out is not None:
        check_new_file(through_link(Path(out)))
    predictor, console = load_run(Path(run), models, text_model), console or PlainConsole()
    with table_file(table) as path:
        shown = "DataFrame" if isinstance(table, pd.DataFrame) else str(path)
        folder = Path() if isinstance(table, pd.DataFrame) else path.parent
        root = images_root(None if images is None else Path(images), folder)
        cache = with_stored(predictor, cache, features, root)
        return _evaluate(
            predictor,
            Path(run),
            path,
            shown,
            split=split,
            images=None if images is None else Path(images),
            folder=folder,
            out=None if out is None else Path(out),
            by=by,
            text=text,
            cache=cache,
            console=console,
        )


def with_stored(predictor: Predictor, cache: Cache | None, features: str | Path | None, images: Path) -> Cache | None:
    """A cache with stored features, which must be those of the model.

    Raises:
        ConfigError, DataError: as ``check_stored`` and ``StoredFeatures.open``.
    """
    if features is None:
        return cache
    stored = StoredFeatures.open(features).below(split_images(images)[0])
    encoder = predictor.frozen_encoder
    if encoder is not None and stored.facts.network:
        check_stored(stored, encoder, size=predictor.image_size, crop=predictor.crop)
    if cache is None:
        return Cache.configured(DataConfig(cache_gb=0.0), stored=stored)
    return replace(cache, stored=stored)


def _check_arguments(run: object, table: object, images: object, text: object) -> None:
    """Refuse arguments of a wrong type before anything is read."""
    check_type("run", run, (str, PathLike), "a run or the path of its folder")
    check_table(table)
    check_type("images", images, (str, PathLike, NoneType), "a path of a folder")
    check_type("text", text, (TextConfig, NoneType), "a TextConfig")


def _evaluate(
    predictor: Predictor,
    run: Path,
    table: Path,
    shown: str,
    *,
    split: SplitChoice | None,
    images: Path | None,
    folder: Path,
    out: Path | None,
    by: Sequence[str],
    text: TextConfig | None,
    cache: Cache | None,
    console: Console,
) -> dict[str, float]:
    cells = predictor.schema.table(read_table_of_run(run, table, text, predictor.schema.text))
    name = predictor.schema.target
    if name not in cells:
        raise ConfigError(
            f"the table has no column {name!r}, the target of the model, to compare predictions with."
            f"{rename_hint(name, cells.names)}"
        )
    cells, relabelled = with_labels_of_training(cells, predictor.schema, predictor.target)
    frame = cells.frame
    for column in by:
        if column not in frame.columns:
            raise unknown_column(column, frame.columns)
    then = read_fingerprint(run / "environment.json")
    same_table = then is not None and then.table_sha256 == Fingerprint.of(table, None).table_sha256
    chosen = split or ("test" if same_table else "all")
    if same_table and chosen == "test" and predictor.refitted:
        raise ConfigError(
            f"The model of {run} was fitted on all {predictor.refitted:,} rows of this table, test rows included: "
            "evaluate it on new rows; the test scores of the models before are in the report of the run."
        )
    images = images_root(images or (run_settings(run).data.images if same_table else None), folder)
    usable, left_out = usable_rows(cells, predictor.schema, 1.0)
    if chosen == "all":
        rows = np.flatnonzero(usable)
    else:
        rows = _rows_of(run, table, cells, predictor, usable, chosen, images=images, same_table=same_table)
    rows, unknown = _with_known_classes(predictor, cells[name], rows)
    if not len(rows):
        strange = unknown_classes(cells, predictor.schema, predictor.target)
        raise DataError(f"{table} has no {chosen} rows with a target that the model knows{strange}.")
    truth = predictor.target.truth(cells[name].select(rows))
    weight = judging_weights(cells, predictor.schema, rows)
    found = predictor.predictions(cells.select(rows), images=images, cache=cache)
    metrics = metrics_for(predictor.schema.task, predictor.target, predictor.metric)
    classes = predictor.decide(found.values) if predictor.decides else None
    together = _units(run, predictor, cells, rows, chosen if same_table else "all", images=images, cache=cache)
    decisions = {} if classes is None else {"ours": classes}
    judged = Rows("test", truth, {"ours": found.values}, groups=together, weight=weight, classes=decisions)
    (score,) = judge(judged, metrics).scores
    by_error = judge_for(predictor.schema.task, predictor.target, truth, predictor.metric)
    tables = [
        group_table(
            column,
            label_column(cells.select(rows), column, predictor.schema, images=images, bad=found.bad),
            truth,
            found.values,
            metrics,
            by_error,
            together=together,
            weight=weight,
            classes=classes,
        )
        for column in dict.fromkeys(by)
    ]

    units = "" if together is None else f" in {len(np.unique(together))} groups (by group columns, ids and copies)"
    console.print(f" {shown}   {chosen} rows: {len(rows)}{units}", markup=False)
    if same_table:
        said = "the other rows of this table" if chosen == "test" else "warning: rows that are not test rows"
        good = "they would look too good" if chosen == "test" else "the scores look too good"
        console.print(f" {said} trained the models or chose among them: {good}")
    for said in (written_otherwise(cells.file, predictor.schema.text, text or TextConfig()), relabelled):
        _note(console, said)
    for column in predictor.schema.names("weight"):
        said = "weights the rows" if weight is not None else "is not in the table: rows are unweighted"
        console.print(f" {column!r} {said}", markup=False)
    if unknown:
        one = len(unknown) == 1
        console.print(
            f" {len(unknown)} more row{' has' if one else 's have'} a class that the model does not know: "
            f"{'it counts' if one else 'they count'} in no figure below, and no prediction of "
            f"{'it' if one else 'them'} is right",
            markup=False,
        )
    seen = 0 if same_table else _rows_of_training(run, cells.select(rows), predictor)
    if seen:
        console.print(
            f" warning: {seen} of {len(rows)} rows are training rows of this run, with equal cells in all columns that "
            "the model knows: the scores look too good, use rows that it has not seen",
            markup=False,
        )
    elif not same_table and _is_table_of_run(run, table):
        console.print(
            f" warning: {shown} is the table of this run, but was changed: most of its rows may be training rows",
            markup=False,
        )
    if then is not None and (same_table or chosen != "all"):
        _warn_of_changes(console, then, table, frame, predictor, images, same_table=same_table)
    counted = np.arange(len(rows)) if weight is None else np.flatnonzero(weight > 0)
    resampled = len(counted) if together is None else len(np.unique(together[counted]))
    for metric in metrics:
        low, high = score.interval(metric.name)
        interval = f"95 % CI {metric_text(low)} to {metric_text(high)}"
        if np.isnan(low):
            interval = f"no interval: {why_no_interval(metric, found.values, resampled)}"
        shown = metric_text(score.metrics[metric.name])
        console.print(f"   {metric_label(metric.name):<20}{shown:>14}   {interval}", markup=False)
    for table_of_groups in tables:
        for line in table_of_groups.lines():
            console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ignore", crop=False)
    bad = [*left_out, *unknown, *in_table_rows(found.bad, rows)]
    _warn_of_no_photos(console, found, images, predictor, list(frame.columns))
    _note_texts(console, found.texts, predictor)
    if bad:
        console.print(f" {describe_bad(bad)}", markup=False)
    path = (run / f"metrics-{chosen}.json") if out is None else through_link(out)
    groups = None if together is None else len(np.unique(together))
    about: dict[str, Any] = {"split": chosen, "rows": len(rows), "groups": groups, "weighted": weight is not None}
    if predictor.target.classes is not None:
        about["unknown_class_rows"] = len(unknown)
    written: dict[str, Any] = about | score.to_flat()
    if tables:
        written["by"] = {table_of_groups.column: table_of_groups.to_dict() for table_of_groups in tables}
    write_file(path, json.dumps(written, indent=1, ensure_ascii=False))
    console.print(f" metrics {path}", markup=False)
    return score.metrics


def _units(
    run: Path,
    predictor: Predictor,
    cells: Table,
    rows: np.ndarray,
    chosen: SplitChoice,
    *,
    images: Path,
    cache: Cache | None,
) -> np.ndarray | None:
    """Units of rows for intervals, as in training: of the run's own test or out-of-fold rows as they were saved."""
    from mixfit.runs.report.saved import read_predictions  # with matplotlib

    path = run / f"predictions_{chosen}.parquet"
    if chosen in ("valid", "test") and is_there(path):
        with suppress(DataError):  # a damaged file is only needed for comparisons
            saved = read_predictions(path, predictor.target.classes or ())
            places = pd.Index(saved.row).get_indexer(rows)
            if (places >= 0).all() and saved.groups is not None:
                return saved.groups[places]
            if (places >= 0).all() and not predictor.schema.names("group"):
                return None
    return units_of(cells.select(rows), predictor.schema, images=images, cache=cache)


@overload
def predict_table(
    run: str | PathLike[str],
    table: str | Path | pd.DataFrame,
    *,
    out: None = None,
    images: str | Path | None = None,
    bad_rows: BadRows = "mark",
    raw_csv: bool = False,
    text: TextConfig | None = None,
    cache: Cache | None = None,
    features: str | Path | None = None,
    interval: float | None = None,
    console: Console | None = None,
    models: Sequence[Model] = (),
    text_model: str | Path | None = None,
) -> pd.DataFrame: ...


@overload
def predict_table(
    run: str | PathLike[str],
    table: str | Path | pd.DataFrame,
    *,
    out: str | Path,
    images: str | Path | None = None,
    bad_rows: BadRows = "mark",
    raw_csv: bool = False,
    text: TextConfig | None = None,
    cache: Cache | None = None,
    features: str | Path | None = None,
    interval: float | None = None,
    console: Console | None = None,
    models: Sequence[Model] = (),
    text_model: str | Path | None = None,
) -> None: ...


def predict_table(
    run: str | PathLike[str],
    table: str | Path | pd.DataFrame,
    *,
    out: str | Path | None = None,
    images: str | Path | None = None,
    bad_rows: BadRows = "mark",
    raw_csv: bool = False,
    text: TextConfig | None = None,
    cache: Cache | None = None,
    features: str | Path | None = None,
    interval: float | None = None,
    console: Console | None = None,
    models: Sequence[Model] = (),
    text_model: str | Path | None = None,
) -> pd.DataFrame | None:
    """Predict the rows of a table: its columns, the predictions and a status, as a file or as a DataFrame.

    Rows are predicted and written in pieces of at most 32,768 rows. A Parquet table, and a CSV or TSV table of more
    than 64 MiB, is also read in pieces and may be larger than memory, unless its cells must be seen as a
    whole: stray quotes, blank lines between rows, another encoding than UTF-8, or numbers that may have a decimal comma
    and were not text in training. Other tables are read whole. ``out`` appears once everything is written.

    Args:
        run: folder of a run or of a model.
        table: a file, or a DataFrame.
        out: the file to write, its format set by the extension; by default none. CSV and TSV have predictions with
            ``DIGITS`` significant digits, other files and the DataFrame have all.
        images: folder that photo paths are relative to; by default the table's folder, and for a
            DataFrame the working directory.
        bad_rows: mark rows with broken cells or photos in the status, drop them, or fail.
        raw_csv: do not escape text cells that a spreadsheet would run as formulas.
        text: format of a text table, by default detected.
        cache: cache of image features; by default none.
        features: folder or URL of features that ``mixfit embed`` computed; others are computed here.
        interval: coverage of prediction intervals or sets, see ``Predictor.predict``.
        models: your own models, as passed to ``fit``.
        text_model: folder of the text model that the training was given; not needed for ``minilm``.
    Returns:
        The rows, if ``out`` is None; for a DataFrame with its columns and index.
    Raises:
        DataError: a column that the model needs is missing, or there are broken rows and ``bad_rows="fail"``.
    """
    started, console = time.perf_counter(), console or PlainConsole()
    _check_arguments(run, table, images, text)
    check_type("out", out, (str, PathLike, NoneType), "a path of a table to write")
    check_type("interval", interval, (Real, NoneType), "a number such as 0.9")
    if interval is not None:
        check_level(interval)
    if bad_rows not in get_args(BadRows):
        raise ConfigError(f"bad_rows must be one of {', '.join(get_args(BadRows))}, got {bad_rows!r}.")
    path = None if out is None else through_link(Path(out))
    if path is not None:
        check_writable_kind(path)
    predictor = load_run(Path(run), models, text_model)
    found, _ = predict_with(
        predictor,
        table,
        path,
        images=images,
        bad_rows=bad_rows,
        raw_csv=raw_csv,
        text=text,
        cache=cache,
        features=features,
        interval=interval,
        console=console,
        started=started,
    )
    return found


def predict_with(
    predictor: Predictor,
    table: str | Path | pd.DataFrame,
    path: Path | None,
    *,
    images: str | Path | None = None,
    bad_rows: BadRows = "mark",
    raw_csv: bool = False,
    text: TextConfig | None = None,
    cache: Cache | None = None,
    features: str | Path | None = None,
    interval: float | None = None,
    console: Console,
    started: float,
) -> tuple[pd.DataFrame | None, "RowCounts"]:
    """As ``predict_table``, with a loaded predictor; also gives the counts.

    Args:
        path: the file to write; None for none.
        started: value of ``time.perf_counter()`` at the start, for messages.
    """
    if interval is not None:
        predictor.check_interval(interval)
    kept: list[pd.DataFrame] = []
    with ExitStack() as stack:
        file = stack.enter_context(table_file(table))
        beside = Path() if isinstance(table, pd.DataFrame) else file.parent
        folder = images_root(None if images is None else Path(images), beside)
        cache = with_stored(predictor, cache, features, folder)
        pieces = pieces_to_predict(file, predictor.schema, text, batch=BATCH)
        held = [] if path is None or path.suffix.lower() in PARQUET else pieces.bytes_columns
        write = kept.append if path is None else stack.enter_context(new_table(path, raw=raw_csv, types=pieces.types))
        counts, known = RowCounts(), list[str]()
        for cells in pieces.read(predictor.schema.table):
            start, piece = counts.rows, cells.frame.reset_index(drop=True)
            found = predictor.predictions(cells, images=folder, cache=cache, first_row=start, interval=interval)
            broken, known = counts.add(found), list(piece.columns)
            if broken and bad_rows == "fail":
                faults = [record for record in found.bad if record.action in _BROKEN]
                seen = f"{'' if counts.rows == pieces.rows else 'the first '}{counts.rows}"
                raise DataError(f"{len(broken)} of {seen} rows are broken: {describe_bad(faults)}.")
            columns = predictor.as_frame(found, piece.index)
            if path is not None and path.suffix.lower() in FOR_PEOPLE:
                columns = _shortened(columns)
            columns = columns.rename(columns=lambda name, taken=piece.columns: _free_name(name, taken))
            if path is None and isinstance(table, pd.DataFrame):
                piece = table.iloc[start : counts.rows]
                columns.index = piece.index
            written = pd.concat([piece, columns], axis=1)
            left = np.delete(np.arange(len(written)), broken if bad_rows == "drop" else [])
            write(written.drop(columns=[*held]).iloc[left])
    _note(console, written_otherwise(pieces.file, predictor.schema.text, text or TextConfig()))
    if held:
        listed = ", ".join(held)
        console.print(
            f" columns not in {path}: {listed} (bytes; use a .parquet file to keep them)", highlight=False, markup=False
        )
    dropped, seconds = " (dropped)" if bad_rows == "drop" else "", time.perf_counter() - started
    said = counts.describe(predictor, dropped)
    console.print(f" {counts.rows} rows: {said} -> status column   {seconds:.1f} s", highlight=False)
    if counts.bad.first is not None:
        console.print(f" {counts.bad.describe()}", markup=False)
    if counts.rows:
        _warn_of_no_photos(console, counts, folder, predictor, known)
        _note_texts(console, counts.texts, predictor)
    if path is not None:
        console.print(f" written {path}", markup=False)
        return None, counts
    return pd.concat(kept, ignore_index=not isinstance(table, pd.DataFrame)), counts


@dataclass(slots=True)
class RowCounts:
    """Rows by status, over all pieces."""

    rows: int = 0
    ok: int = 0
    no_photo: int = 0
    broken: int = 0
    photos_named: int = 0
    photos_found: int = 0
    bad: BadCounts = field(default_factory=BadCounts)
    texts: tuple[TextUse, ...] = ()

    def describe(self, predictor: Predictor, dropped: str) -> str:
        """Numbers of rows by kind of status, as far as the model's columns can have it."""
        photos, texts = predictor.uses_photos, predictor.uses_text
        # Rows whose status is no fault: a category, or words, that no training row has.
        noted = self.rows - self.ok - self.no_photo - self.broken
        new = ["a new category"] * bool(predictor.schema.features) + ["new words only"] * texts
        return ", ".join(
            [
                f"{self.ok} ok",
                *([f"{self.no_photo} without photo"] if photos else []),
                *([f"{noted} with {' or '.join(new)}"] if new else []),
                f"{self.broken} with broken cells{' or photos' if photos else ''}{dropped}",
            ]
        )

    def join(self, other: "RowCounts") -> None:
        """Count the rows of another table, too."""
        self.rows += other.rows
        self.ok += other.ok
        self.no_photo += other.no_photo
        self.broken += other.broken
        self.photos_named += other.photos_named
        self.photos_found += other.photos_found

    def add(self, found: Predictions) -> list[int]:
        """Count the next piece and return the positions of its broken rows."""
        broken = sorted({record.row - self.rows for record in found.bad if record.action in _BROKEN})
        self.rows += len(found.status)
        self.ok += found.status.count("ok")
        self.no_photo += found.status.count("no photo")
        self.broken += len(broken)
        self.photos_named += found.photos_named
        self.photos_found += found.photos_found
        self.bad.add(found.bad)
        self.texts = tuple(map(_together_used, self.texts, found.texts)) if self.texts else found.texts
        return broken


def _together_used(one: TextUse, other: TextUse) -> TextUse:
    """Of the rows of both."""
    return TextUse(
        column=one.column,
        rows=one.rows + other.rows,
        empty=one.empty + other.empty,
        unknown=one.unknown + other.unknown,
        first=other.first if one.first is None else one.first,
    )


def _note_texts(console: Console, texts: Sequence[TextUse], predictor: Predictor) -> None:
    """Say which columns of text tell the model little here, and what the predictions then rely on."""
    for one in texts:
        others = [
            *(["the table columns"] if predictor.schema.features else []),
            *(["the other texts"] if len(texts) > 1 else []),
            *(["the photos"] if predictor.uses_photos else []),
        ]
        rows = "the only row" if one.rows == 1 else f"all {one.rows} rows"
        if one.empty == one.rows:
            rely = f"predictions rely on {_listed(others)}" if others else "all get the same prediction"
            _note(console, f"{one.column!r} is empty in {rows}: {rely}")
        elif one.unknown:
            encoder = predictor.text_features is not None and predictor.text_features.embedder is not None
            own = ["the sentence encoder"] * encoder + ["groups of characters", "the length of the text"]
            how_many = rows if one.unknown == one.rows else f"{one.unknown} of {one.rows} rows (first: row {one.first})"
            _note(
                console,
                f"in {how_many}, {one.column!r} has no word that training texts have: predictions rely on "
                f"{_listed([*own, *others])}",
            )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*filter(None, [", ".join(names[:-1])]), *names[-1:]])


def _shortened(columns: pd.DataFrame) -> pd.DataFrame:
    """Predictions with ``DIGITS`` significant digits; which of two is larger stays, so intervals hold theirs."""
    numbers = columns.select_dtypes("float")
    return with_columns(columns, {name: [float(f"{one:.{DIGITS}g}") for one in numbers[name]] for name in numbers})


def _note(console: Console, said: str) -> None:
    if said:
        console.print(f" note: {said}", markup=False)


def _rows_of_training(run: Path, cells: Table, predictor: Predictor) -> int:
    """How many rows of another table are training rows of a run; 0 where that cannot be known."""
    schema, trained = predictor.schema, prints_of_training(run, refit=bool(predictor.refitted))
    if trained is None or any(name not in cells for name in (*schema.inputs, schema.target)):
        return 0
    return int(rows_of_training(cells, schema, trained).sum())


def _free_name(name: str, taken: pd.Index) -> str:
    """An unused column name, as the table may contain predictions of an earlier run."""
    while name in taken:
        name += "_mixfit"
    return name


def _warn_of_no_photos(
    console: Console, found: "Predictions | RowCounts", images: Path, predictor: Predictor, columns: Sequence[str]
) -> None:
    """Warn if no photo was found, as the folder is probably wrong.

    Args:
        columns: of the table.
    """
    if found.photos_found or not predictor.uses_photos:
        return
    absent = [name for name in predictor.schema.names("image") if name not in columns]
    if absent:
        noun = "column" if len(absent) == 1 else "columns"
        listed = ", ".join(map(repr, absent))
        hint = rename_hint(absent[0], columns)
        text = f" warning: the table has no {noun} {listed} of photos: all rows are predicted without photos.{hint}"
        console.print(text, markup=False)
    elif found.photos_named:
        console.print(no_photos_warning(found.photos_named, images), markup=False)
    else:
        rules = "".join(f" by {rule.describe()}" for rule in predictor.schema.photos)
        text = f" warning: no row has a photo (looked for below {images}{rules}): all are predicted without photos"
        console.print(text, markup=False)


def no_photos_warning(named: int, images: Path | str) -> str:
    """The warning that no photo was found."""
    return f" warning: none of the {named} photos was found in {images}; set the folder with --images"


def _with_known_classes(predictor: Predictor, column: Cells, rows: np.ndarray) -> tuple[np.ndarray, list[BadInput]]:
    """The rows whose class the model knows, and one record for each other row, as in training."""
    if predictor.target.classes is None:
        return rows, []
    known = predictor.target.truth(column.select(rows)) >= 0
    return rows[known], [unknown_class(column.column, int(row)) for row in rows[~known]]


def _rows_of(
    run: Path,
    table: Path,
    cells: Table,
    predictor: Predictor,
    usable: np.ndarray,
    split: Literal["train", "valid", "test"],
    *,
    images: Path,
    same_table: bool,
) -> np.ndarray:
    """Positions of the rows of a split that have a target."""
    positions = np.flatnonzero(usable)
    given = predictor.schema.names("split")
    for name in given:
        if name not in cells:
            hint = rename_hint(name, cells.names) or " Use --split all."
            raise ConfigError(f"the table has no column {name!r}, which tells the part of each row.{hint}")
    if same_table:
        found = split_of_run(run, cells, predictor.schema, usable)
        if split == "train" and run_settings(run).data.dedup and read_split(run, len(cells)) is None:
            columns = predictor.schema.names("image")
            photos = find_photos(cells.frame, columns, images, predictor.schema.photos) if columns else None
            found, _ = without_copies(cells, predictor.schema, found, photos)
        return found.of(split)
    if not given:
        raise ConfigError(f"{table} is not the table of the run, so it has no {split} rows: use --split all.")
    return positions[split_labels(cells[given[0]].select(positions)) == split]


def split_of_run(run: Path, table: pd.DataFrame | Table, schema: Schema, usable: np.ndarray) -> Split:
    """The split of a run's own table, as positions in ``table``.

    Args:
        usable: which rows have a target, see ``usable_rows``.
    """
    kept = read_split(run, len(table))
    if kept is not None:
        return Split(*(rows[usable[rows]] for rows in kept.parts().values()))
    said, positions, path = run_settings(run), np.flatnonzero(usable), run / "config.toml"
    known = {"valid": said.data.valid, "test": said.data.test, "seed": said.train.seed}
    missing = [name for name, value in known.items() if value is None]
    if said.data.valid is None or said.data.test is None or said.train.seed is None:
        raise DataError(f"{path} lacks {' and '.join(missing)}, so the rows cannot be split.")
    with said_by(path):
        found = split_rows(
            Table.of(table).select(positions),
            schema,
            valid=said.data.valid,
            test=said.data.test,
            seed=said.train.seed,
            time=said.data.split_time,
        )
    return Split(train=positions[found.train], valid=positions[found.valid], test=positions[found.test])


@dataclass(frozen=True, slots=True, kw_only=True)
class _DataSettings:
    """The settings needed of the section ``[data]``."""

    valid: Share | None = None
    test: Share | None = None
    split_time: str | None = None
    dedup: bool = False
    images: Path | None = None
    """Folder that photo paths are relative to, if set."""
    text: TextConfig = field(default_factory=TextConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainSettings:
    """The settings needed of the section ``[train]``."""

    seed: Annotated[int, Within(0, 2**32 - 1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Settings of ``config.toml`` that concern the table and its rows; a model folder has none."""

    table: Path | None = None
    data: _DataSettings = field(default_factory=_DataSettings)
    train: _TrainSettings = field(default_factory=_TrainSettings)


def run_settings(run: Path) -> RunSettings:
    """Read ``RunSettings``.

    Raises:
        DataError: the file is damaged.
    """
    return from_plain(RunSettings, run_config(run), str(run / "config.toml"))


def run_config(run: Path) -> dict[str, Any]:
    """All settings of a run as in the file; a model folder has none.

    Raises:
        DataError: the file is damaged.
    """
    path = run / "config.toml"
    return read_toml(path) if is_there(path) else {}


def read_table_of_run(run: Path, table: Path, text: TextConfig | None = None, learnt: TextForm | None = None) -> Table:
    """Read a table in the format of the run's table, or of ``text``; ``learnt`` as for ``read_as_configured``.

    Another table than the run's may be stored in another way: what the run was told of separator and encoding is then
    only what is tried first.

    Raises: as ``read_as_configured``; DataError also if the run's format is invalid.
    """
    if text is not None:
        return read_as_configured(table, text, learnt)[0]
    if asked_format(table, TextConfig()).kind != "csv":  # raises errors of the table itself
        return read_as_configured(table, TextConfig(), learnt)[0]
    text, then = run_settings(run).data.text, read_fingerprint(run / "environment.json")
    with said_by(run / "config.toml"):
        separator = asked_format(table, text).separator
    if then is not None and then.table_sha256 != Fingerprint.of(table, None).table_sha256:
        known = learnt or TextForm()
        learnt = replace(known, separator=separator or known.separator, encoding=text.encoding or known.encoding)
        text = replace(text, sep=None, encoding=None)
    return read_as_configured(table, text, learnt)[0]


def _is_table_of_run(run: Path, table: Path) -> bool:
    """Whether the run was trained on the file of this path, whatever its content now."""
    known = run_settings(run).table
    return known is not None and known.resolve() == table.resolve()


def _warn_of_changes(
    console: Console,
    then: Fingerprint,
    table: Path,
    frame: pd.DataFrame,
    predictor: Predictor,
    images: Path,
    *,
    same_table: bool,
) -> None:
    """Warn of changes since training; for another table only that it is another one."""
    columns = predictor.schema.names("image")
    rows, _ = without_weightless(frame, next(iter(predictor.schema.names("weight")), None))
    photos = (
        find_photos(rows.frame, columns, images, predictor.schema.photos, absent=True)
        if same_table and columns
        else None
    )
    for change in Fingerprint.of(table, photos).changes_since(then, "training")[: None if same_table else 1]:
        console.print(f" warning: {change}", markup=False)
