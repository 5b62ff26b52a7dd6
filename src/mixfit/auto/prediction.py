"""Batch prediction: many tables, one after another or wherever an ``Engine`` does them, each to a table of its own.

In: a run, and a pattern of tables on any file system. Out: a folder with one table for each, equal to what
``predict_table`` writes, whole or not at all."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

import torch
from rich.console import Console

from mixfit.auto.engine import LOCAL, Engine
from mixfit.config import TextConfig
from mixfit.console import PlainConsole
from mixfit.data.photos.records import Cache
from mixfit.data.places import Place
from mixfit.data.table.write import EXTENSIONS, check_writable_kind
from mixfit.errors import DataError, MixfitError, Stopped
from mixfit.runs.scoring import BadRows, RowCounts, load_run, no_photos_warning, predict_with
from mixfit.training.callbacks.control import interruptible

_LARGEST = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicting:
    """Settings of a batch prediction; can be pickled."""

    run: str
    images: str | None
    bad_rows: BadRows
    raw_csv: bool
    text: TextConfig | None
    cache: Cache | None
    features: str | None
    interval: float | None
    text_model: str | None
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePiece:
    """A table to predict, and where to write it."""

    table: str
    out: str


class FilePredictor:
    """Predicts tables; it holds the model."""

    def __init__(self, settings: Predicting) -> None:
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.predictor = load_run(Path(settings.run), text_model=settings.text_model)
        if settings.interval is not None:
            self.predictor.check_interval(settings.interval)

    def __call__(self, piece: FilePiece) -> RowCounts:
        """Write the predictions of a table, and count its rows."""
        table, out, said = Place.of(piece.table), Place.of(piece.out), self.settings
        with ExitStack() as stack:
            here = Path(table.path)
            if not table.is_local:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mixfit-predict-")))
                here = folder / table.name
                here.write_bytes(table.read(_LARGEST))
            path = Path(out.path)
            if not out.is_local:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mixfit-predict-"))) / out.name
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _, counts = predict_with(
                    self.predictor,
                    here,
                    path,
                    images=said.images,
                    bad_rows=said.bad_rows,
                    raw_csv=said.raw_csv,
                    text=said.text,
                    cache=said.cache,
                    features=said.features,
                    interval=said.interval,
                    console=Console(quiet=True),
                    started=time.perf_counter(),
                )
            except MixfitError as error:
                raise type(error)(f"{table.shown}: {error}") from error
            if not out.is_local:
                out.write(path.read_bytes())
        return counts


def predict_files(
    run: str | PathLike[str],
    pattern: str | PathLike[str],
    out: str | PathLike[str],
    *,
    images: str | Path | None = None,
    bad_rows: BadRows = "mark",
    raw_csv: bool = False,
    text: TextConfig | None = None,
    cache: Cache | None = None,
    features: str | Path | None = None,
    interval: float | None = None,
    text_model: str | Path | None = None,
    engine: Engine = LOCAL,
    console: Console | None = None,
) -> RowCounts:
    """Predict all tables that a pattern matches; each has the rows, and their order, of its own file.

    Args:
        run: folder of a run or of a model.
        pattern: path or URL of a table, or of tables with ``*`` in the last part.
        out: folder or URL for tables of the same names; for a single table it may also be a file.
        engine: where the tables are predicted; by default in this process.
        images, bad_rows, raw_csv, text, cache, features, interval, text_model: as for ``predict_table``.
        console: where progress is written.
    Returns:
        The numbers of rows by status over all tables.
    Raises:
        DataError: no table matches, or one cannot be predicted; the message names it.
        Stopped: a signal; tables that are written stay.
    """
    began, console = time.perf_counter(), console or PlainConsole()
    settings = Predicting(
        run=str(run),
        images=None if images is None else str(images),
        bad_rows=bad_rows,
        raw_csv=raw_csv,
        text=text,
        cache=None if cache is None else replace(cache, warn=_ignore, wait=False, progress=False),
        features=None if features is None else str(features),
        interval=interval,
        text_model=None if text_model is None else str(text_model),
        threads=torch.get_num_threads(),
    )
    pieces = _pieces(pattern, out)
    predictor = load_run(Path(run), text_model=text_model)  # before other processes are started
    total, written = RowCounts(), 0
    with ExitStack() as stack:
        came = stack.enter_context(interruptible())
        try:
            found = engine.each(partial(iter, pieces), partial(FilePredictor, settings), threads=settings.threads)
            for piece, counts in zip(pieces, found, strict=True):
                total.join(counts)
                written += 1
                console.print(f" {piece.table}: {counts.rows} rows -> {piece.out}", markup=False, highlight=False)
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped by {came[0] if came else 'SIGINT'}: {written} of {len(pieces)} tables are written to {out}."
            ) from None
    dropped = " (dropped)" if bad_rows == "drop" else ""
    said = total.describe(predictor, dropped)
    tables = f"{len(pieces)} table{'' if len(pieces) == 1 else 's'}"
    console.print(
        f" {total.rows} rows in {tables}: {said} -> status column   {time.perf_counter() - began:.1f} s",
        markup=False,
        highlight=False,
    )
    if predictor.uses_photos and total.photos_named and not total.photos_found:
        folder = "the folders of the tables" if images is None else str(images)
        console.print(no_photos_warning(total.photos_named, folder), markup=False)
    return total


def is_batch(pattern: str, out: str) -> bool:
    """Whether a prediction is one of ``predict_files``: of a pattern or URL, or into a folder."""
    remote = any(not Place.of(one).is_local for one in (pattern, out))
    return remote or "*" in Path(pattern).name or out.endswith("/")


def _pieces(pattern: str | PathLike[str], out: str | PathLike[str]) -> Sequence[FilePiece]:
    """The tables, with the place of each output.

    Raises:
        DataError: there is none.
        ConfigError: a table of this kind cannot be written.
    """
    tables, into = Place.of(pattern).matching(), Place.of(out)
    if not tables:
        raise DataError(f"No table matches {pattern}.")
    single = len(tables) == 1 and into.name.lower().endswith(EXTENSIONS)
    pieces = [FilePiece(table=one.shown, out=into.shown if single else into.below(one.name).shown) for one in tables]
    for piece in pieces:
        check_writable_kind(Path(Place.of(piece.out).name))
    return pieces


def _ignore(text: str) -> None:
    """A worker has nobody to tell that its cache cannot be written."""
