"""Writing files and folders so that a reader sees the old one or the new one, never a half.

A temporary in the same folder is flushed to the disk and then renamed; the folder is flushed last
(Pillai et al. 2014, "All File Systems Are Not Created Equal")."""

import io
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixfit.errors import DataError, ResourceError


def write_file(path: Path, content: bytes | memoryview | str) -> None:
    """Write one file whole or not at all.

    Raises:
        ResourceError: the folder does not exist or cannot be written, or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    with new_file(path, size=len(data)) as file:
        file.write(data)


def read_regular(path: Path, *, most: int | None = None) -> bytes:
    """All bytes of a regular file: a pipe, which would wait for ever, a device or a folder is refused.

    Args:
        most: bytes that the file may have; None where any number is fine.
    Raises:
        DataError: with the end of a sentence, such as ``cannot be read: x is no regular file``.
    """
    try:
        # without O_NONBLOCK the opening of a pipe waits for its other end
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"cannot be read: {path.name} is no regular file")
            if most is not None and found.st_size > most:
                raise DataError(f"cannot be read: {path.name} has {found.st_size:,} bytes, more than {most:,}")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"cannot be read: {path.name}: {error.strerror}") from error


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


def with_tuples(value: Any) -> Any:
    """JSON has lists where the settings have tuples."""
    if isinstance(value, list):
        return tuple(with_tuples(part) for part in value)
    if isinstance(value, dict):
        return {key: with_tuples(part) for key, part in value.items()}
    return value
