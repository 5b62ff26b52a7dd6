"""Writing files and folders so that a reader sees the old one or the new one, never a half; reading those that may
come from a stranger.

What is written: a temporary in the same folder is flushed to the disk and then renamed; the folder is flushed last
(Pillai et al. 2014, "All File Systems Are Not Created Equal"). What is read: regular files of a bounded size, none of
them a link to somewhere else; JSON and TOML without nan and without deep nesting."""

import csv
import io
import json
import math
import os
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixfit.errors import ConfigError, DataError, ResourceError

MOST_TEXT = 2**26
"""Bytes of a file of JSON, TOML or CSV that is read."""
MOST_NESTED = 40
"""Levels of lists and dicts in each other."""


def is_there(path: Path) -> bool:
    """Whether there is anything of this name, also what cannot be read, such as a link to nowhere."""
    return os.path.lexists(path)


def read_file(path: Path, *, inside: Path | None = None, most: int = MOST_TEXT) -> bytes:
    """The content of a file of a folder that may come from a stranger.

    Args:
        inside: folder that the file must lie in when links are followed; by default its own.
        most: bytes that it may have.
    Raises:
        DataError: there is no such file, it is no regular file, it is larger, or a link leads elsewhere.
    """
    folder = Path(os.path.realpath(path.parent if inside is None else inside))
    # Neither does a pipe without a writer wait for one, nor is a link followed that was put there since.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        place = Path(os.path.realpath(path, strict=True))
        if not place.is_relative_to(folder):
            raise DataError(f"{path} is a link to outside of its folder: put the file itself there.")
        descriptor = os.open(place, flags)
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise DataError(f"{path} is damaged: it is not a regular file.")
            if about.st_size > most:
                raise DataError(f"{path} has {about.st_size:,} bytes; at most {most:,} are read.")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(about.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_text(path: Path, *, inside: Path | None = None) -> str:
    """The text of a file; arguments and errors as for ``read_file``."""
    try:
        return read_file(path, inside=inside).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: it is not written in UTF-8.") from error


def parse_json(text: str, name: object) -> Any:
    """What a text of JSON says.

    Args:
        name: of the file, for messages.
    Raises:
        DataError: it is no JSON, has nan or infinity, or is nested more than ``MOST_NESTED`` times.
    """
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is damaged: {first_line(error)}.") from error
    return _not_deep(value, name)


def read_json(path: Path, *, inside: Path | None = None) -> Any:
    """What a file of JSON says; arguments and errors as for ``read_file`` and ``parse_json``."""
    return parse_json(read_text(path, inside=inside), path)


def read_toml(path: Path) -> dict[str, Any]:
    """What a file of TOML says; errors as for ``read_file`` and ``parse_json``."""
    try:
        found = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged: {first_line(error)}.") from error
    return _not_deep(found, path)


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a file of CSV, every row as long as the header.

    Raises:
        DataError: as ``read_file``; a row is longer or shorter, or a name is there twice.
    """
    try:
        header, *rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise DataError(f"{path} is damaged: {first_line(error)}.") from error
    odd = next((place for place, row in enumerate(rows) if len(row) != len(header)), None)
    if odd is not None:
        raise DataError(f"{path} is damaged: row {odd} has {len(rows[odd])} cells for {len(header)} columns.")
    if len(set(header)) != len(header):
        raise DataError(f"{path} is damaged: a column is there twice.")
    return header, rows


@contextmanager
def said_by(path: Path) -> Iterator[None]:
    """A setting that is refused comes from a file, so that this is damaged: nobody has typed it."""
    try:
        yield
    except ConfigError as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _no_number(name: str) -> None:
    raise ValueError(f"it has the number {name}")


def first_line(error: Exception) -> str:
    """The reason of an error of a library, without a full stop at its end."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")


def _not_deep(value: Any, name: object) -> Any:
    level = [value]
    for _ in range(MOST_NESTED + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return value
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
    raise DataError(f"{name} is damaged: it is nested more than {MOST_NESTED} times.")


def write_file(path: Path, content: bytes | memoryview | str) -> None:
    """Write one file whole or not at all.

    Raises:
        ResourceError: the folder does not exist or cannot be written, or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    with new_file(path, size=len(data)) as file:
        file.write(data)


@contextmanager
def new_file(path: Path, *, size: int | None = None) -> Iterator[io.BufferedIOBase]:
    """A temporary file to write to, which becomes ``path`` when the block ends without an error.

    Args:
        path: replaced in one step if it exists.
        size: bytes that will be written, for messages; None if that is not known.
    Raises:
        ResourceError: the folder does not exist or cannot be written, or the disk is full.
    """
    with explained(path, size):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o666 & ~_umask())  # mkstemp's 0600 would lock out a server's user
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes ``path`` when the block ends without an error.

    Raises:
        ResourceError: ``path`` exists already, cannot be written, or the disk is full.
    """
    if path.exists():
        raise ResourceError(f"{path} exists already; choose another name or remove it.")
    with explained(path, None):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush_folder(path.parent)


@contextmanager
def explained(path: Path, size: int | None) -> Iterator[None]:
    """Turn an OSError while writing ``path`` into a ResourceError that says the reason and the sizes."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        needs = "" if size is None else f" It needs {size:,} bytes."
        raise ResourceError(f"{path} cannot be written: {reason}.{needs}{_free(path.parent)}") from error


def flush_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(folder: Path) -> str:
    try:
        return f" {shutil.disk_usage(folder).free:,} bytes are free there."
    except OSError:
        return f" The folder {folder} cannot be opened."


def _umask() -> int:
    """The umask can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def json_numbers(values: Mapping[str, float | int]) -> dict[str, float | int | None]:
    """JSON has neither nan nor infinity: None stands for both."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
