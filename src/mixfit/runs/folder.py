"""The run folder: its name, and the files that record settings, split and environment."""

import hashlib
import io
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import tomli_w
import torch
from jaxtyping import Int64

from mixfit.config import MINILM, DataConfig, ModelConfig, TrainConfig
from mixfit.data.columns.schema import Schema
from mixfit.data.fingerprint import Fingerprint
from mixfit.data.split import Split
from mixfit.data.table.read import saved_columns
from mixfit.errors import ChangedFileError, DataError, ResourceError
from mixfit.files import explained, from_plain, is_there, read_json, seal, shown, write_file
from mixfit.training.device import default_device

if sys.platform != "win32":
    import fcntl

SPLIT = "split.parquet"


def run_name(table: Path, target: str) -> str:
    """``houses-price`` for ``houses/table.csv`` and the target price: a valid folder name on all systems."""
    stem = table.name.split(".")[0]
    if stem.lower() in {"table", "data", "train", "dataset"}:
        stem = table.resolve().parent.name or stem
    return "-".join("".join(c if c.isalnum() or c in "_-" else "_" for c in part)[:60] for part in (stem, target))


def new_run_folder(out: Path, name: str) -> Path:
    """Create ``out/name-001``, or the next free number; existing folders are never reused."""
    with explained(out, None):
        out.mkdir(parents=True, exist_ok=True)
        numbers = (path.name.removeprefix(f"{name}-") for path in out.glob(f"{name}-*"))
        taken = [int(number) for number in numbers if number.isdecimal()]
        number = max(taken, default=0) + 1
        while True:
            folder = out / f"{name}-{number:03d}"
            try:
                folder.mkdir()
            except FileExistsError:  # another run has just created it
                number += 1
            else:
                return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder against other processes; the lock is released when the process dies.

    Raises:
        ResourceError: another process holds the lock, or the folder cannot be written.
    """
    path = folder / ".lock"
    descriptor = _open_locked(path)
    try:
        with explained(path, None):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        if sys.platform == "win32":  # where no open file can be removed
            os.close(descriptor)
            path.unlink(missing_ok=True)
        else:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _open_locked(path: Path) -> int:
    """The descriptor of the lock file once we hold it and it still has that path."""
    while True:
        with explained(path, None):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        if sys.platform == "win32":  # not locked there
            return descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise ResourceError(
                f"{path.parent} is in use by process {owner}: wait for it, or stop it with: kill {owner}"
            ) from None
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)  # its owner removed it before we held it


def write_settings(
    folder: Path,
    table: Path,
    target: str,
    schema: Schema,
    data: DataConfig,
    model: ModelConfig,
    train: TrainConfig,
    fingerprint: Fingerprint,
    *,
    given: Schema | None = None,
) -> dict[str, object]:
    """Write config.toml, schema.json and environment.json where missing, and return the settings.

    ``mixfit train --config`` reads the config.toml, which names this folder's copy of a given schema. As the process
    may be killed between two files, config.toml, which suffices to restart the run, is written first, or directly
    after a schema that it names."""
    kept = None if given is None else folder / "schema.json"
    environment = {**describe_environment(), "arguments": sys.argv[1:], **asdict(fingerprint)}
    files = {
        "config.toml": settings_toml(table, target, data, model, train, schema=kept),
        "schema.json": json.dumps(schema.to_dict(), indent=1, ensure_ascii=False),
        "environment.json": json.dumps(environment, indent=1),
    }
    first = "config.toml" if given is None else "schema.json"
    for name in sorted(files, key=lambda name: name != first):
        if not (folder / name).exists():
            write_file(folder / name, files[name])
    return shown_settings(data, model, train) | {"table_sha256": fingerprint.table_sha256}


def settings_toml(
    table: Path, target: str, data: DataConfig, model: ModelConfig, train: TrainConfig, *, schema: Path | None = None
) -> str:
    """The content of a file for ``mixfit train --config`` that repeats a training."""
    kept = {} if schema is None else {"schema": str(schema)}
    return tomli_w.dumps({"table": str(table), "target": target, **kept, **_sections(data, model, train)})


def shown_settings(data: DataConfig, model: ModelConfig, train: TrainConfig) -> dict[str, object]:
    """All settings by section and name without absolute paths, as reports are shared."""
    sections = _sections(data, model, train)
    shown = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    model_folder = None if data.text_model in ("none", MINILM) else Path(data.text_model)
    folders = {"data.images": data.images, "data.cache": data.cache, "data.text_model": model_folder}
    folders["data.features"] = None if data.features is None else Path(data.features)
    return shown | {name: shown_path(path) for name, path in folders.items() if path}


def settings_digest(
    schema: Schema, data: DataConfig, model: ModelConfig, train: TrainConfig, fingerprint: Fingerprint
) -> str:
    """A sha256 of all settings and data that affect the models of a run.

    The locations of the photos and of the text model are left out, as the fingerprint covers their files; so are
    caches, the time between checkpoints, and whether a report is written."""
    settings = _sections(data, model, train)
    for name in ("images", "cache", "cache_gb", "features", "text_model"):
        settings["data"].pop(name, None)
    for name in ("save_every", "report"):
        settings["train"].pop(name, None)
    decisive = {"settings": settings, "schema": schema.to_dict(), "data": asdict(fingerprint)}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def changed_versions(folder: Path) -> list[str]:
    """One sentence on how this environment differs from ``environment.json`` of a run; empty if it does not."""
    then = _environment_of(folder)
    if then is None:
        return [f"{folder}/environment.json cannot be read: the environment of the run is unknown"]
    changed = [
        f"{name} was {shown(then[name])}, is {now}"
        for name, now in describe_environment().items()
        if then.get(name, now) != now
    ]
    return [f"the result may differ from that of an uninterrupted run: {'; '.join(changed)}"] if changed else []


def write_split(folder: Path, split: Split, rows: int, prints: Int64[np.ndarray, " rows"]) -> None:
    """Write the training, validation and test rows to ``split.parquet`` for later evaluations.

    Args:
        rows: number of rows of the table.
        prints: of each of them, see ``row_prints``.
    """
    parts = np.full(rows, "", dtype=object)
    for name, positions in split.parts().items():
        parts[positions] = name
    content = io.BytesIO()
    pd.DataFrame({"part": pd.Series(parts, dtype="category"), "print": prints}).to_parquet(content)
    write_file(folder / SPLIT, content.getvalue())


def read_split(folder: Path, rows: int) -> Split | None:
    """Read the file of ``write_split``; None if it does not exist, as in runs of older versions.

    Raises:
        DataError: the file is damaged, or the number of rows differs.
    """
    path = folder / SPLIT
    if not is_there(path):
        return None
    column = saved_columns(path, ["part"])["part"]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    parts = np.array(column.to_pylist() if texts else [None], dtype=object)
    known = {name: np.flatnonzero(parts == name).astype(np.int64) for name in ("train", "valid", "test", "")}
    if sum(map(len, known.values())) != len(parts):
        raise DataError(f"{path} is damaged: it has an unknown part.")
    if len(parts) != rows:
        raise DataError(f"{path} is of a table with {len(parts)} rows, but the table has {rows}: train again.")
    if not len(known["train"]) or not len(known["valid"]):
        listed = f"{len(known['train'])} training and {len(known['valid'])} validation rows"
        raise DataError(f"{path} is damaged: it lists {listed}, but every run has some of both.")
    return Split(train=known["train"], valid=known["valid"], test=known["test"])


def prints_of_training(folder: Path, *, refit: bool = False) -> Int64[np.ndarray, " trained"] | None:
    """Of ``row_prints``, of the rows that a run was trained on, those that it was validated by included; None where
    that is not known, as in runs of older versions.

    Args:
        refit: whether its model was also fitted on the test rows.
    Raises:
        DataError: the file is damaged.
    """
    path = folder / SPLIT
    if not is_there(path):
        return None
    table = saved_columns(path, ["part"], ["print"])
    if "print" not in table.column_names or not pa.types.is_int64(table["print"].type):
        return None
    try:
        parts = table["part"].cast(pa.large_string())
    except pa.ArrowException:
        raise DataError(f"{path} is damaged: its parts are no texts.") from None
    trained = pc.is_in(parts, pa.array(["train", "valid", *["test"] * refit], pa.large_string()))
    return table["print"].filter(trained).drop_null().to_numpy()


def _environment_of(folder: Path) -> dict[str, Any] | None:
    """Content of ``environment.json`` of a run; None if missing or damaged."""
    try:
        return from_plain(dict[str, Any], read_json(folder / "environment.json"))
    except ChangedFileError:
        raise
    except DataError:
        return None


def seal_run(folder: Path) -> None:
    """Write the sha256 of each file of a finished run that commands read numbers from; a person may edit the others,
    the pages and cards."""
    names = [path.name for pattern in ("*.json", "*.toml", "*.csv", "*.parquet") for path in folder.glob(pattern)]
    seal(folder, [*names, *(f"report_files/{path.name}" for path in folder.glob("report_files/*"))])


def note_resumption(folder: Path, differences: list[str]) -> None:
    """Record in ``environment.json`` that a run was resumed with --force, and the differences."""
    path, facts = folder / "environment.json", _environment_of(folder) or {}
    before = from_plain(list[Any], facts.get("resumed_by_force", []), str(path))
    facts["resumed_by_force"] = [*before, differences]
    write_file(path, json.dumps(facts, indent=1))


def _sections(data: DataConfig, model: ModelConfig, train: TrainConfig) -> dict[str, dict[str, Any]]:
    return {"data": _plain(asdict(data)), "model": _plain(asdict(model)), "train": _plain(asdict(train))}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Convert to values that TOML supports: no None, Path or tuple."""
    return {key: _plain_value(value) for key, value in settings.items() if value is not None}


def _plain_value(value: Any) -> Any:
    match value:
        case dict():
            return _plain(value)
        case tuple():
            return list(value)
        case Path():
            return str(value)
        case _:
            return value


def describe_environment() -> dict[str, str]:
    """Versions and machine, without names of users or folders."""
    packages = ("mixfit", "torch", "timm", "numpy", "pandas", "pillow", "scikit-learn", "lightgbm")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
        "device": str(default_device()),
        **{package: version(package) for package in packages},
    }


def shown_path(path: Path) -> str:
    """A path without absolute parts, as reports are shared."""
    return str(path) if not path.is_absolute() else path.name
