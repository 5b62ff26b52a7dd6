"""``mixfit inspect``: what each column is taken for, and what is missing, broken or suspicious, before any training."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from mixfit.config import DataConfig
from mixfit.console import PlainConsole
from mixfit.data.bad_inputs import BadInput, describe_bad
from mixfit.data.images import ImageError, image_header, read_image
from mixfit.data.infer import infer_schema
from mixfit.data.photos import Photos, find_photos
from mixfit.data.schema import Schema, suspicious_columns
from mixfit.data.split import split_rows
from mixfit.data.table import read_as_configured
from mixfit.data.target import usable_rows
from mixfit.errors import DataError
from mixfit.files import new_folder, write_file
from mixfit.predictor import unreadable_photos
from mixfit.report.content import Check, InspectContent, PhotoStatistics
from mixfit.report.inspect_page import write_inspect
from mixfit.run_folder import new_run_folder, run_name

# Every header is read; the pixels of this many photos are decoded, which also finds files cut off in the middle.
_DECODED_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class _PhotoScan:
    statistics: list[PhotoStatistics]
    bad: list[BadInput]


def inspect_table(
    path: Path, *, target: str, config: DataConfig, out: Path | None = None, console: Console | None = None
) -> int:
    """Print the roles and the checks, write ``inspect.html`` and ``schema.json``; the exit code: 3 with errors, else 0.

    Args:
        out: a new folder; by default ``runs/<table>-<target>-inspect-NNN``.
    """
    console = console or PlainConsole()
    frame, table_format = read_as_configured(path, config.text)
    schema = infer_schema(frame, target, roles=config.roles, ignore=config.ignore, task=config.task)
    root = config.images or path.parent
    scan = _scan_photos(frame, schema, root)
    checks = [Check(level="warning", text=note) for note in table_format.notes]
    if table_format.guessed:
        checks.append(Check(level="warning", text=f"the encoding {table_format.encoding} is a guess; see --encoding"))
    checks += _checks(frame, schema, config, scan)

    def say(text: str) -> None:
        console.print(text, markup=False)

    say(f"{path}  {len(frame)} rows x {len(frame.columns)} columns  {table_format.describe()}    images root: {root}")
    _print_schema(console, schema)
    for photos in scan.statistics:
        counts = f"{photos.readable} readable, {photos.broken} broken, {photos.missing} rows without"
        say(f" photos in {photos.column}: {counts}")
    for check in checks:
        say(f" {check.level}: {check.text}")
    content = InspectContent(
        table_name=run_name(path, target),
        format_text=table_format.describe(),
        schema=schema,
        checks=checks,
        photos=scan.statistics,
        bad_inputs=scan.bad,
        next_command=f"mixfit train {path if not path.is_absolute() else path.name} --target {target}",
    )
    folder = _write(content, schema, path, target, out)
    errors = sum(check.level == "error" for check in checks)
    found = f"{_count(len(checks) - errors, 'warning')}, {_count(errors, 'error')}"
    say(f" checks: {found}  ->  {folder / 'inspect.html'}, {folder / 'schema.json'}")
    return DataError.exit_code if errors else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _write(content: InspectContent, schema: Schema, path: Path, target: str, out: Path | None) -> Path:
    """Write both files into a new folder."""
    if out is None:
        folder = new_run_folder(Path("runs"), f"{run_name(path, target)}-inspect")
        _write_files(folder, content, schema)
        return folder
    with new_folder(out) as temporary:
        _write_files(temporary, content, schema)
    return out


def _write_files(folder: Path, content: InspectContent, schema: Schema) -> None:
    write_inspect(content, folder / "inspect.html")
    write_file(folder / "schema.json", json.dumps(schema.to_dict(), indent=1, ensure_ascii=False))


def _print_schema(console: Console, schema: Schema) -> None:
    table = Table(box=None, pad_edge=True, show_edge=False)
    for heading in ("column", "role", "why"):
        table.add_column(heading, overflow="fold")
    table.add_column("missing", justify="right")
    table.add_column("notes", overflow="fold")
    shown = schema.columns if len(schema.columns) <= 60 else schema.columns[:60]
    for column in shown:
        role = "TARGET" if column.role == "target" else column.role
        cells = (column.name, role, column.reason, str(column.missing), column.note)
        # Column names are text, never markup.
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    console.print(table)
    if len(shown) < len(schema.columns):
        console.print(f" ... and {len(schema.columns) - len(shown)} more columns, all in schema.json")


def _scan_photos(frame: pd.DataFrame, schema: Schema, root: Path) -> _PhotoScan:
    """Read the header of every photo and decode a sample."""
    columns = schema.names("image")
    if not columns:
        return _PhotoScan([], [])
    photos = find_photos(frame, columns, root)
    step = max(1, len(photos.files) // _DECODED_SAMPLE)

    def problem(place: int) -> str | None:
        try:
            image_header(photos.files[place])
            if place % step == 0:
                read_image(photos.files[place])
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem, range(len(photos.files))))
    failures = {place: text for place, text in enumerate(problems) if text is not None}
    bad = photos.bad + unreadable_photos(frame, photos, failures)
    return _PhotoScan([_statistics(column, photos, bad, failures) for column in columns], bad)


def _statistics(column: str, photos: Photos, bad: list[BadInput], failures: dict[int, str]) -> PhotoStatistics:
    block = photos.slots[:, [name == column for name in photos.slot_columns]]
    files = np.unique(block[block >= 0])
    return PhotoStatistics(
        column=column,
        readable=len(files) - sum(int(file) in failures for file in files),
        broken=sum(record.column == column for record in bad),
        missing=photos.missing_cells[column],
    )


def _checks(frame: pd.DataFrame, schema: Schema, config: DataConfig, scan: _PhotoScan) -> list[Check]:
    """What a person should know before training; an error would stop the training."""
    checks = [Check(level="warning", text=line) for line in suspicious_columns(schema)]
    try:
        usable, bad = usable_rows(frame, schema, config.max_missing_target)
        if bad:
            checks.append(Check(level="warning", text=f"target: {describe_bad(bad)}"))
        split_rows(frame[usable], schema, valid=config.valid, test=config.test)
    except DataError as error:
        checks.append(Check(level="error", text=str(error)))
    features = [c for role in ("number", "category", "date", "image") for c in schema.names(role)]
    if not features:
        checks.append(
            Check(level="error", text="No column is left to learn from: set a role, as in --set zipcode=category.")
        )
    duplicates = int(frame.duplicated().sum())
    if duplicates:
        checks.append(Check(level="warning", text=f"{duplicates} rows are exact copies of an earlier row"))
    if scan.bad:
        checks.append(Check(level="warning", text=f"photos: {describe_bad(scan.bad)}"))
    return checks
