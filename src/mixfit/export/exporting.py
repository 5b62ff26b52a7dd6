"""Export a finished run as one file, and measure it: size, agreement with ``predict``, and latency."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from mixfit.console import PlainConsole
from mixfit.data.columns.cells import Table
from mixfit.data.columns.values import with_columns
from mixfit.data.photos.rule import images_root
from mixfit.errors import ConfigError, DataError, ResourceError, check_type
from mixfit.export.page import read_runtime, require_possible, write_page
from mixfit.files import check_new_file, check_new_folder, is_there, read_json, write_file
from mixfit.predictor.base import Predictor
from mixfit.predictor.blend import BlendPredictor
from mixfit.runs.scoring import load_run, read_table_of_run, run_settings

ExportTo = Literal["onnx", "html"]
GOAL = 1e-5
"""Largest difference from ``predict``, see ``difference``."""
ROWS = 64
"""Rows that are compared."""
_MANY = 256
"""Rows whose time is told; of a model with photos from that of ``ROWS``, as photos take the same time each."""
_WRONG, _WRONG_AT_ALL = 1e-4, 0.1
"""Median and largest difference from which a file is refused: rounding moves a row past a threshold of a tree at times,
but not most rows."""
_MOST_BYTES = 2**31 - 1
"""Largest ONNX file without data beside it."""
_TIMES = 5


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How an exported file agrees with ``predict``."""

    rows: int
    differences: np.ndarray
    """Largest difference of each row, see ``difference``."""
    same_classes: int | None
    """Rows, of these and of altered ones, with the same class and prediction set; None for a number."""
    same_status: int
    """Rows, of these and of altered ones, with the same status."""
    checked_status: int
    as_trained: float | None = None
    """Largest difference from features in half precision, if the run has such."""

    @property
    def largest(self) -> float:
        """Over all rows."""
        return float(self.differences.max(initial=0.0))


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds of one row and of many rows, by the file and by ``predict``."""

    one: tuple[float, float]
    many: tuple[float, float]
    rows: int
    """How many rows ``many`` is for."""
    timed: int
    """Rows whose seconds were measured for that."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written."""

    path: Path
    bytes: int
    level: float | None
    """Coverage of its intervals or prediction sets; None if it has none."""
    notes: tuple[str, ...]
    agreement: Agreement | None = None
    """None without rows to compare."""
    latency: Latency | None = None


def export_run(
    run: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    to: ExportTo = "onnx",
    int8: bool = False,
    runtime: str | PathLike[str] | None = None,
    interval: float | None = None,
    table: str | Path | pd.DataFrame | None = None,
    images: str | Path | None = None,
    text_model: str | Path | None = None,
    console: Console | None = None,
) -> ExportResult:
    """Write a run as one ONNX file that takes cells and photos, and compare it with ``predict``.

    Args:
        run: folder of a run or of a model.
        out: file to write, which ends in ``.onnx``, or new folder of a page; by default in the working directory, with
            the name of the run.
        to: ``onnx`` for the file, ``html`` for a folder with it and a page that predicts in a browser.
        int8: compute the image network in whole numbers of 8 bits, if that is as good and faster, see ``int8.Judged``.
        runtime: onnxruntime-web, for a page, see ``page.read_runtime``.
        interval: coverage of intervals or prediction sets; by default 0.9, or none if the model has none.
        table: rows for the comparison; by default the table of the run.
        images: folder of their photos; by default that of the run, or the table's folder.
        text_model: folder of the text model that the training was given; not needed for ``minilm``.
    Raises:
        ConfigError: a part of the model cannot be written, see ``NotExportable``, it has no such intervals, or the
            network in 8 bits is refused.
        ResourceError: a package of the extra is not installed, or the file cannot be written.
    """
    check_type("run", run, (str, PathLike), "a run or the path of its folder")
    check_type("out", out, (str, PathLike, NoneType), "a path of an ONNX file, or of the folder of a page")
    if to not in get_args(ExportTo):
        raise ConfigError(f"to must be one of {', '.join(get_args(ExportTo))}, got {to!r}.")
    check_type("table", table, (str, Path, pd.DataFrame, NoneType), "a path of a table, or a DataFrame")
    console, run = console or PlainConsole(), Path(run)
    path = Path(f"{run.name}.onnx" if to == "onnx" else f"{run.name}-page") if out is None else Path(out)
    library = None
    if to == "html":
        check_new_folder(path)
        if path.exists():
            raise ResourceError(f"{path} exists already: choose another name by -o, or remove it.")
        library = read_runtime(None if runtime is None else Path(runtime))
    elif path.suffix.lower() != ".onnx":
        raise ConfigError(f"The file must end in .onnx, got {path}.")
    else:
        check_new_file(path)
    require_packages()
    from mixfit.export.graph import export_graph

    predictor = load_run(run, text_model=text_model)
    if int8:
        from mixfit.export.int8 import quantized, require_shared_network

        blend = require_shared_network(predictor)
    found, judged = export_graph(predictor, interval, weights_sha256=_sha256(run)), None
    if library is not None:
        require_possible(found.meta)
    if int8:
        assert found.image_network is not None
        network, judged = quantized(blend, found.image_network, run)
        judged.require()
        found = export_graph(predictor, interval, weights_sha256=_sha256(run), networks=found.networks, instead=network)
    if found.model.ByteSize() > _MOST_BYTES:
        raise ConfigError(
            f"The model has {found.model.ByteSize():,} bytes, and one ONNX file has at most {_MOST_BYTES:,}: train "
            "with a smaller --backbone, or predict with mixfit."
        )
    content = found.model.SerializeToString()
    rows, folder = rows_of_run(run, predictor, table, None if images is None else Path(images))
    agreement = latency = None
    notes = list(found.notes)
    if rows is None or not len(rows):
        lacks = "the table of the run is not there" if rows is None else "the table has no rows"
        notes.append(f"The file was not compared with predict, as {lacks}: give --table.")
    else:
        agreement, latency = measure(predictor, content, rows, folder)
        if judged is None:
            _require_agreement(agreement)
    if judged is not None:
        notes.append(f"The image network is in 8 bits: {judged}.")
    size = len(content)
    if library is None:
        write_file(path, content)
    else:
        size = write_page(path, content, found.meta, library)
        notes.append(f"Open {path / 'index.html'} in a browser; the page needs no server and no network.")
    result = ExportResult(
        path=path, bytes=size, level=found.level, notes=tuple(notes), agreement=agreement, latency=latency
    )
    _say(console, result, predictor)
    return result


def require_packages() -> None:
    """Refuse to begin without the packages of the extra.

    Raises:
        ResourceError: one is not installed.
    """
    from mixfit.export.onnx_predict import without_telemetry

    without_telemetry()
    try:
        import onnx
        import onnxruntime
        import onnxscript
        import spox
    except ImportError as error:
        raise ResourceError(
            f"Exporting needs the package {error.name or 'onnx'}, which is not installed: pip install 'mixfit[onnx]'."
        ) from error
    assert onnx
    assert onnxruntime
    assert onnxscript
    assert spox


def _sha256(run: Path) -> str:
    """Of the weights."""
    folder = run if is_there(run / "mixfit.json") else run / "model"
    return str(read_json(folder / "mixfit.json").get("weights_sha256", ""))


def rows_of_run(
    run: Path, predictor: Predictor, table: str | Path | pd.DataFrame | None = None, images: Path | None = None
) -> tuple[Table | None, Path]:
    """Rows to compare, spread over the table, and the folder of their photos; None if there is no table."""
    if isinstance(table, pd.DataFrame):
        return predictor.schema.table(table), images_root(images, Path())
    settings = run_settings(run) if table is None and is_there(run / "config.toml") else None
    path = Path(table) if table is not None else None if settings is None else settings.table
    if path is None or not path.is_file():
        if table is not None:
            raise DataError(f"The table {path} does not exist.")
        return None, Path()
    cells = predictor.schema.table(read_table_of_run(run, path, None, predictor.schema.text))
    own = None if settings is None else settings.data.images
    return cells, images_root(images or own, path.parent)


def measure(
    predictor: Predictor, content: bytes, table: Table, images: Path, *, timed: int | None = None
) -> tuple[Agreement, Latency]:
    """Compare a file with ``predict`` and time both, from cells and photo files to predictions: one row, and many rows,
    which are predicted once and of which some are compared; the status is also compared on altered rows.

    Args:
        table: with at least one row; fewer than are timed are repeated.
        timed: rows that the time of many rows is measured on; by default all of them, or ``ROWS`` with photos.
    """
    from mixfit.export.onnx_predict import OnnxModel

    model, exact = OnnxModel.of(content, threads=torch.get_num_threads()), in_float32(predictor)
    level = model.meta["level"]
    timed = timed or (min(ROWS, _MANY) if predictor.uses_photos else _MANY)
    rows = np.linspace(0, len(table) - 1, timed).astype(np.int64) if len(table) >= timed else np.arange(timed)
    many, one = (table.select(some % len(table)) for some in (rows, rows[:1]))

    def by_file(some: Table) -> pd.DataFrame:
        return model.predict(some, images=images)

    def by_mixfit(some: Table) -> pd.DataFrame:
        return predictor.predict(some, images=images, device="cpu", interval=level)

    singly = [float(np.median([_timed(way, one)[1] for _ in range(_TIMES + 1)][1:])) for way in (by_file, by_mixfit)]
    (found, of_file), (wanted, of_mixfit) = (_timed(way, many) for way in (by_file, by_mixfit))
    chosen = np.unique(np.linspace(0, min(len(table), timed) - 1, ROWS).astype(np.int64))
    found, wanted = found.iloc[chosen], wanted.iloc[chosen]
    trained = None
    if exact is not predictor:
        trained = float(difference(predictor, found, wanted).max())
        wanted = exact.predict(many.select(chosen), images=images, device="cpu", interval=level)
    pairs = [(found, wanted)]
    altered = _altered(many.frame, predictor)
    if altered is not None:
        wanted = exact.predict(altered, images=images, device="cpu", interval=level)
        pairs.append((model.predict(altered, images=images), wanted))
    classes = [name for name in ("prediction", "prediction_set") if name in wanted]
    agreement = Agreement(
        rows=len(chosen),
        differences=np.concatenate([difference(exact, *pair) for pair in pairs]),
        same_classes=None if predictor.target.classes is None else _equal(pairs, classes),
        same_status=_equal(pairs, ["status"]),
        checked_status=sum(len(one) for one, _ in pairs),
        as_trained=trained,
    )
    seconds = (of_file * _MANY / timed, of_mixfit * _MANY / timed)
    return agreement, Latency(one=(singly[0], singly[1]), many=seconds, rows=_MANY, timed=timed)


def _equal(pairs: list[tuple[pd.DataFrame, pd.DataFrame]], names: list[str]) -> int:
    """Rows with the same texts."""
    return sum(int((one[names].to_numpy() == other[names].to_numpy()).all(axis=1).sum()) for one, other in pairs)


def _timed(predict: Callable[[Table], pd.DataFrame], rows: Table) -> tuple[pd.DataFrame, float]:
    """Predictions, and seconds."""
    start = time.perf_counter()
    found = predict(rows)
    return found, time.perf_counter() - start


def in_float32(predictor: Predictor) -> Predictor:
    """The same predictor with features in single precision; itself if they are so."""
    if not isinstance(predictor, BlendPredictor):
        return predictor
    encoder = predictor.photo_encoder
    if encoder is None or encoder.encoder.precision == "float32":
        return predictor
    image = copy.deepcopy(encoder.encoder)
    image.precision = "float32"
    return replace(predictor, photo_encoder=replace(encoder, encoder=image))


def difference(predictor: Predictor, found: pd.DataFrame, wanted: pd.DataFrame) -> np.ndarray:
    """Largest difference of each row: of probabilities, or of numbers and of the ends of intervals in standard
    deviations of the target; of counts, whose ends are whole, of numbers alone. Equal numbers do not
    differ, also infinite ones; what is no number differs infinitely."""
    names = [name for name in wanted.columns if name.startswith("probability_")]
    if predictor.target.classes is None:
        ends = [] if predictor.schema.task == "count" else ["lower", "upper"]
        names = ["prediction", *(name for name in ends if name in wanted)]
    values = [one[names].to_numpy(dtype=np.float64) for one in (found, wanted)]
    if predictor.target.classes is None:
        spread = float(getattr(predictor.target, "std", 1.0))
        values = [np.log(one) / spread if predictor.target.log else one / spread for one in values]
    with np.errstate(invalid="ignore"):
        apart = np.where(values[0] == values[1], 0.0, np.abs(values[0] - values[1]))
    largest: np.ndarray = np.where(np.isnan(apart), np.inf, apart).max(axis=1, initial=0.0)
    return largest


def _altered(frame: pd.DataFrame, predictor: Predictor) -> pd.DataFrame | None:
    """Rows with cells that are missing, unseen, extreme or broken, a column each; None without such columns. Photos are
    there beside altered photos alone: reading them again for each cell would tell nothing new."""
    inputs = [name for name in predictor.schema.inputs if name in frame.columns]
    if not inputs:
        return None
    photos = [name for name in predictor.schema.names("image") if name in frame.columns]
    seen = frame.iloc[[0]].astype(object)
    unseen = with_columns(seen, dict.fromkeys(photos))
    rows = [with_columns(seen, dict.fromkeys(inputs))]
    for name in inputs:
        first = seen if name in photos else unseen
        rows += [
            with_columns(first, {name: cell}) for cell in (None, "", "never seen: \u00e9\u6f22", "1e300", "-1e300")
        ]
    return pd.concat(rows, ignore_index=True)


def _require_agreement(found: Agreement) -> None:
    """Refuse a file that does not predict what the model predicts.

    Raises:
        ConfigError: it does not.
    """
    middle = float(np.median(found.differences)) if len(found.differences) else 0.0
    if middle > _WRONG or found.largest > _WRONG_AT_ALL:
        raise ConfigError(
            f"The file would differ from predict by up to {found.largest:.1e} ({middle:.1e} in the median row of "
            f"{len(found.differences)}), so it is not written: predict with mixfit, and please report this."
        )


def _say(console: Console, found: ExportResult, predictor: Predictor) -> None:
    """Print what was written, and the measurements."""
    kind = "prediction sets" if predictor.target.classes is not None else "prediction intervals"
    with_level = "" if found.level is None else f", with {kind} at {found.level:.0%}"
    lines = [f"Written   {found.path}   {_size(found.bytes)}{with_level}"]
    if found.agreement is not None:
        one = found.agreement
        unit = "probabilities" if predictor.target.classes is not None else "standard deviations of the target"
        beyond = int((one.differences > GOAL).sum())
        goal = f"; {beyond} of {len(one.differences)} differ by more than {GOAL:.0e}" if beyond else ""
        lines.append(f"Parity    {one.rows} rows: largest difference from predict {one.largest:.1e} ({unit}){goal}")
        if one.as_trained is not None:
            lines.append(f"          with image features in bfloat16, as predict has them: {one.as_trained:.1e}")
        if one.same_classes is not None:
            lines.append(
                f"          class and prediction set: the same in {one.same_classes} of {one.checked_status} rows"
            )
        lines.append(
            f"          status: the same in {one.same_status} of {one.checked_status} rows, some of them altered"
        )
    if found.latency is not None:
        first, many = (tuple(f"{1e3 * one:.1f} ms" for one in pair) for pair in (found.latency.one, found.latency.many))
        lines.append(f"Latency   1 row {first[0]}, predict {first[1]}")
        rows, timed = found.latency.rows, found.latency.timed
        scaled = "" if timed == rows else f", by the time of {timed}"
        lines.append(f"          {rows} rows {many[0]}, predict {many[1]}{scaled}; {torch.get_num_threads()} threads")
    for line in lines:
        console.print(f" {line}", markup=False, highlight=False)
    for note in found.notes:
        console.print(f" Note      {note}", markup=False, highlight=False)


def _size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
