"""``mixfit inspect``: the inferred role of each column, and missing, broken or suspicious data, before any training."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as Grid

from mixfit.auto.preparation import check_arguments
from mixfit.config import DataConfig, TrainConfig
from mixfit.console import PlainConsole
from mixfit.data.bad_inputs import BadInput, describe_bad, in_table_rows
from mixfit.data.checks.copies import equal_photos, near_photos, row_copies
from mixfit.data.checks.objects import repeated_objects
from mixfit.data.checks.photos import PhotoScan, near_duplicates, scan_photos
from mixfit.data.checks.table import (
    SHUFFLES,
    Finding,
    Pairing,
    class_balance,
    compare_with_shuffled,
    far_values,
    parts_of,
    torn_ids,
)
from mixfit.data.checks.texts import text_findings, text_statistics
from mixfit.data.columns.cells import Table
from mixfit.data.columns.schema import Schema, suspicious_columns
from mixfit.data.columns.target import without_weightless
from mixfit.data.fingerprint import FINGERPRINT_FILE, Fingerprint
from mixfit.data.load import doubts, infer_configured, prepare_target, require_rows, split_usable, weight_column
from mixfit.data.photos.find import Photos, find_photos, unreadable_photos
from mixfit.data.photos.records import Cache
from mixfit.data.photos.rule import images_root
from mixfit.data.photos.rules import unnamed_photos
from mixfit.data.split import describe_times
from mixfit.data.table.read import read_as_configured, settled
from mixfit.data.table.write import kept_frame
from mixfit.data.ties import Ties
from mixfit.errors import DataError, ResourceError, check_type
from mixfit.files import new_folder, write_file
from mixfit.runs.folder import new_run_folder, run_name
from mixfit.runs.report.inspect_page import Check, InspectContent, PhotoStatistics, write_inspect

_SIGNIFICANT = 0.01


@dataclass(frozen=True, slots=True)
class _PhotoReview:
    statistics: list[PhotoStatistics]
    bad: list[BadInput]
    photos: Photos | None
    scan: PhotoScan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The results of inspecting a table before training, and the folder they were written to."""

    table: str
    """The file, or "DataFrame"."""
    content: InspectContent
    fingerprint: Fingerprint
    folder: Path
    """The folder with ``inspect.html``, ``schema.json`` and ``fingerprint.json``."""

    @property
    def schema(self) -> Schema:
        """The role of each column, and the reason."""
        return self.content.schema

    @property
    def checks(self) -> list[Check]:
        """Missing, broken or suspicious data: notes, warnings and errors."""
        return self.content.checks

    def count(self, level: str) -> int:
        """Number of checks with a level: note, warning or error."""
        return sum(check.level == level for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The contents of the page, for programs."""
        return {
            "table": self.table,
            "format": self.content.format_text,
            "fingerprint": asdict(self.fingerprint),
            **self.schema.to_dict(),
            "photos": [asdict(statistics) for statistics in self.content.photos],
            "texts": [asdict(statistics) for statistics in self.content.texts],
            "checks": [asdict(check) for check in self.checks],
            "counts": {level: self.count(level) for level in ("note", "warning", "error")},
            "bad_inputs": [asdict(record) for record in self.content.bad_inputs],
            "page": str(self.folder / "inspect.html"),
            "schema": str(self.folder / "schema.json"),
        }


def inspect_table(
    table: str | Path | pd.DataFrame,
    *,
    target: str,
    config: DataConfig | None = None,
    images: str | Path | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Inspection:
    """Print the roles and the checks; write ``inspect.html`` and ``schema.json``.

    ``fingerprint.json`` is written as well; ``train --schema`` uses it to detect changes of the data.

    Args:
        table: a CSV, TSV, Parquet, Feather or JSON Lines file, or a DataFrame.
        target: the column to predict.
        config: settings of the data, as for training.
        images: folder that photo paths are relative to, overrides ``config.images``; by default the table's folder, and
            for a DataFrame the working directory.
        out: a new folder; by default ``runs/<table>-<target>-inspect-NNN``.
        console: where to print, by default standard output; ``Console(quiet=True)`` for silence.
    Raises:
        ConfigError, DataError, ResourceError: the table cannot be inspected.
    """
    check_arguments(table, target=target, images=images, schema=None, out=out)
    check_type("config", config, (DataConfig, NoneType), "a mixfit.DataConfig")
    if out is not None and Path(out).exists():
        raise ResourceError(f"{out} exists already; choose another name or remove it.")
    config = config or DataConfig()
    if images is not None:
        config = replace(config, images=Path(images))
    out, console = None if out is None else Path(out), console or PlainConsole()
    if not isinstance(table, pd.DataFrame):
        path = Path(table)
        images_root(config.images, path.parent)
        command = f"mixfit train {path if not path.is_absolute() else path.name} --target {target}"
        return _inspect(path, str(path), target, config, out, console, command)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dataframe.parquet"
        command, config = f"mixfit.fit(frame, target={target!r})", replace(config, images=config.images or Path())
        with kept_frame(table, path):
            return _inspect(path, "DataFrame", target, config, out, console, command)


def _inspect(
    path: Path, shown: str, target: str, config: DataConfig, out: Path | None, console: Console, command: str
) -> Inspection:
    read, table_format = read_as_configured(path, config.text)
    frame, table_format = read.frame, settled(table_format, read)
    require_rows(frame, path, 2)  # roles cannot be inferred from a single row
    rows, weightless = without_weightless(read, weight_column(config, None))
    root = images_root(config.images, path.parent)
    schema = infer_configured(rows, target, config, images=root)
    rows = schema.table(rows)
    texts = text_statistics(rows, schema)
    review = _review_photos(rows, schema, root, Cache.configured(config))
    findings = [Finding("warning", doubt) for doubt in doubts(table_format)]
    if weightless:
        findings.append(Finding("note", f"{_count(len(weightless), 'row')} of weight 0 left out"))
    findings += _findings(rows, schema, config, review, root)
    checks = [Check(level=finding.level, text=finding.text) for finding in findings]

    def say(text: str) -> None:
        console.print(text, markup=False)

    where = f"    images root: {root}" if schema.names("image") else ""
    say(f"{shown}  {len(frame)} rows x {len(frame.columns)} columns  {table_format.describe()}{where}")
    _print_schema(console, schema)
    for photos in review.statistics:
        states = f"{photos.readable} readable, {photos.broken} broken, {photos.missing} rows without photos"
        say(f" photos in {photos.column}: {states}")
    for one in texts:
        say(f" texts in {one.column}: {one.describe()}")
        if one.sample:
            say(f"   {one.sample}")
    for check in checks:
        say(f" {check.level}: {check.text}")
    content = InspectContent(
        table_name=run_name(path, target),
        format_text=table_format.describe(),
        schema=schema,
        checks=checks,
        photos=review.statistics,
        texts=texts,
        bad_inputs=[*weightless, *review.bad],
        next_command=command,
    )
    fingerprint = Fingerprint.of(path, review.photos)
    folder = _write(content, schema, fingerprint, path, target, out)
    found = Inspection(table=shown, content=content, fingerprint=fingerprint, folder=folder)
    counts = f"{_count(found.count('warning'), 'warning')}, {_count(found.count('error'), 'error')}"
    say(f" checks: {counts}  ->  {folder / 'inspect.html'}, {folder / 'schema.json'}")
    return found


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _write(
    content: InspectContent, schema: Schema, fingerprint: Fingerprint, path: Path, target: str, out: Path | None
) -> Path:
    """Write the files into a new folder."""
    if out is None:
        folder = new_run_folder(Path("runs"), f"{run_name(path, target)}-inspect")
        _write_files(folder, content, schema, fingerprint)
        return folder
    with new_folder(out) as temporary:
        _write_files(temporary, content, schema, fingerprint)
    return out


def _write_files(folder: Path, content: InspectContent, schema: Schema, fingerprint: Fingerprint) -> None:
    write_inspect(content, folder / "inspect.html")
    write_file(folder / "schema.json", json.dumps(schema.to_dict(), indent=1, ensure_ascii=False))
    write_file(folder / FINGERPRINT_FILE, json.dumps(asdict(fingerprint), indent=1))


def _print_schema(console: Console, schema: Schema) -> None:
    table = Grid(box=None, pad_edge=True, show_edge=False)
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


def _review_photos(table: Table, schema: Schema, root: Path, cache: Cache | None) -> _PhotoReview:
    """Scan every photo for problems, and for the checks of its contents."""
    columns = schema.names("image")
    if not columns:
        return _PhotoReview([], [], None, None)
    photos = find_photos(table.frame, columns, root, schema.photos)
    scan = scan_photos(photos.files, cache)
    bad = photos.bad + unreadable_photos(table, photos, scan.problems)
    bad = in_table_rows(bad, table.index.to_numpy(dtype=np.int64))
    return _PhotoReview([_statistics(name, photos, scan.problems) for name in columns], bad, photos, scan)


def _statistics(column: str, photos: Photos, failures: dict[int, str]) -> PhotoStatistics:
    """Counts of distinct photo files, whatever the number of rows that name them."""
    block = photos.slots[:, [name == column for name in photos.slot_columns]]
    files = np.unique(block[block >= 0]).tolist()
    damaged = sum(file in failures for file in files)
    return PhotoStatistics(
        column=column,
        readable=len(files) - damaged,
        broken=damaged + len({record.value for record in photos.bad if record.column == column}),
        missing=photos.missing_cells[column],
    )


def _findings(table: Table, schema: Schema, config: DataConfig, review: _PhotoReview, root: Path) -> list[Finding]:
    """Notes, warnings and errors before training; an error would prevent training."""
    findings = [Finding("warning", line) for line in suspicious_columns(schema)]
    parts = np.full(len(table), "", dtype=object)
    ties = Ties(table, schema, review.photos, review.scan)
    try:
        found = split_usable(table, schema, config, TrainConfig().seed, ties)
        split, bad = found.split, found.bad
        findings += [Finding("warning", note) for note in found.notes]
        parts = parts_of(split, len(table))
        if config.split_time is not None:
            times = describe_times(table[config.split_time], split.parts())
            findings.append(Finding("note", f"split by {config.split_time}: {times}"))
        bad += prepare_target(table, schema, split).bad
        if bad:
            bad = in_table_rows(bad, table.index.to_numpy(dtype=np.int64))
            findings.append(Finding("warning", f"target: {describe_bad(bad)}"))
    except DataError as error:
        findings.append(Finding("error", str(error)))
    features = schema.inputs
    if not features:
        findings.append(Finding("error", "There are no feature columns: set a role, as in --set zipcode=category."))
    if review.bad:
        findings.append(Finding("warning", f"photos: {describe_bad(review.bad)}"))
    findings += torn_ids(table, schema, parts)
    findings += repeated_objects(table, schema)
    findings += row_copies(table, schema, parts)
    findings += text_findings(table, schema, parts)
    findings += class_balance(table, schema, parts)
    findings += far_values(table, schema)
    # What lies in the working directory has nothing to do with a DataFrame.
    beside = config.images != Path()
    if beside and not schema.names("image") and (unnamed := unnamed_photos(root)):
        findings.append(Finding("warning", unnamed))
    findings += [Finding("note", f"photos by {rule.reason}") for rule in schema.photos]
    if review.photos is not None and review.scan is not None:
        findings += _no_photos(review.photos, root)
        findings += equal_photos(table, schema, review.photos, review.scan.content, parts)
        told = {finding.text for finding in findings}
        near = near_duplicates(review.scan) if ties.near is None else ties.near
        findings += [f for f in near_photos(table, review.photos, near, parts) if f.text not in told]
        findings += _pairing(table, schema, review.photos, review.scan)
    return findings


def _no_photos(photos: Photos, root: Path) -> list[Finding]:
    """An error if cells name photos but none of them exists, so that the folder is probably wrong."""
    if photos.files or not photos.bad:
        return []
    text = f"none of the {len(photos.bad):,} photos named in cells was found in the folder {root}; "
    return [Finding("error", text + "set the folder that the paths are relative to with --images DIR")]


def _pairing(table: Table, schema: Schema, photos: Photos, scan: PhotoScan) -> list[Finding]:
    """For each image column, test whether its photos match their rows."""
    findings: list[Finding] = []
    if not scan.decoded.any():
        return findings
    for column in schema.names("image"):
        files = photos.slots[:, photos.slot_columns.index(column)]  # only the first photo of each cell is tested
        found = compare_with_shuffled(
            scan.small, np.where((files >= 0) & scan.decoded[files], files, -1), table, schema
        )
        if found is not None:
            findings.append(_describe_pairing(column, found))
    return findings


def _describe_pairing(column: str, found: Pairing) -> Finding:
    if found.own <= _SIGNIFICANT:
        return Finding(
            "note",
            f"{column}: the photos match their rows; image colours are associated with the table "
            f"(permutation test over {found.rows:,} rows, p = {found.own:.3f})",
        )
    least = 1.0 / (1 + SHUFFLES)
    for share, neighbour in ((found.next_row, "before"), (found.previous_row, "after")):
        if share <= least:
            return Finding(
                "warning",
                f"{column}: the photos match the row {neighbour} theirs (p = {share:.3f}) but not their own "
                f"(p = {found.own:.2f}); the column may be shifted by one row: check a few rows by eye",
            )
    return Finding(
        "note",
        f"{column}: no association between image colours and the table was found (p = {found.own:.2f}); "
        "this is common and does not prove a mismatch: check a few rows by eye",
    )
