"""Atomic writes of files and folders, and safe reads of untrusted files.

Writing: a temporary file in the same folder is flushed to disk and then renamed; the folder is flushed last
(Pillai et al. 2014, "All File Systems Are Not Created Equal"). Reading: only regular files of a bounded size that are
not links to another folder; JSON and TOML without nan and without deep nesting."""

import csv
import glob
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mixfit.errors import ChangedFileError, ConfigError, DataError, ResourceError

if sys.platform != "win32":
    import fcntl

SUMS = "mixfit.sha256"
"""File with the sha256 of the files of a finished run."""
MOST_TEXT = 2**26
"""Largest size in bytes of a JSON, TOML or CSV file that is read."""
MOST_NESTED = 40
"""Deepest nesting of lists and dicts."""
_MOST_SEALED = 2**36  # bytes
_PATHS = (b"table = ", b"images = ", b"cache = ", b"features = ", b"text_model = ", b"schema = ")


def is_there(path: Path) -> bool:
    """Whether the path exists, even as something unreadable such as a broken link."""
    return os.path.lexists(path)


def read_file(path: Path, *, inside: Path | None = None, most: int = MOST_TEXT) -> bytes:
    """The content of a file in an untrusted folder.

    Args:
        inside: folder that the file must be in after links are resolved; by default its own.
        most: largest size in bytes.
    Raises:
        DataError: the file does not exist, is not a regular file, is too large, or is a link to another folder.
    """
    folder = Path(os.path.realpath(path.parent if inside is None else inside))
    # Do not block on a pipe without a writer, nor follow a link created since the check.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        place = Path(os.path.realpath(path, strict=True))
        if not place.is_relative_to(folder):
            raise DataError(f"{path} is a link out of its folder: replace it with the file itself.")
        descriptor = os.open(place, flags)
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise DataError(f"{path} is damaged: it is not a regular file.")
            if about.st_size > most:
                raise DataError(f"{path} has {about.st_size:,} bytes, more than the limit of {most:,}.")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(about.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    for sealed in (path.parent, path.parent.parent):
        if path.name != SUMS and is_there(sealed / SUMS):
            _check_sum(sealed, path, content)
    return content


def seal(folder: Path, names: Iterable[str]) -> None:
    """Write the sha256 of files of a folder, which ``read_file`` then checks.

    Args:
        names: relative to the folder; those that do not exist are left out.
    """
    there = [name for name in sorted(names) if is_there(folder / name)]
    sums = {name: _sum(name, read_file(folder / name, inside=folder, most=_MOST_SEALED)) for name in there}
    body = "\n".join(f"{digest}  {name}" for name, digest in sums.items())
    write_file(folder / SUMS, f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}  {SUMS}\n")  # the last is its own


def _sum(name: str, content: bytes) -> str:
    """The sha256; that of settings is without the paths, which a person changes when files are moved."""
    if name.endswith(".toml"):
        content = b"\n".join(line for line in content.split(b"\n") if not line.startswith(_PATHS))
    return hashlib.sha256(content).hexdigest()


def unseal(folder: Path) -> None:
    """Forget the sums, as files of the folder are about to be rewritten."""
    (folder / SUMS).unlink(missing_ok=True)


def _check_sum(folder: Path, path: Path, content: bytes) -> None:
    body, _, last = read_text(folder / SUMS).removesuffix("\n").rpartition("\n")
    if last != f"{hashlib.sha256(body.encode()).hexdigest()}  {SUMS}":
        raise ChangedFileError(f"{folder / SUMS} is damaged: its own sha256 does not match. Copy it again.")
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in body.splitlines())}
    name = Path(os.path.relpath(path, folder)).as_posix()
    if name in sums and _sum(name, content) != sums[name]:
        raise ChangedFileError(
            f"{path} is damaged or was changed: its sha256 is not that in {folder / SUMS}. Copy it again, or edit a "
            "copy outside of the folder."
        )


def read_text(path: Path, *, inside: Path | None = None) -> str:
    """The text of a file; arguments and errors as for ``read_file``."""
    try:
        return read_file(path, inside=inside).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: it is not UTF-8.") from error


def parse_json(text: str, name: object) -> Any:
    """Parse JSON.

    Args:
        name: of the file, for messages.
    Raises:
        DataError: the text is not JSON, has nan or infinity, or is nested more than ``MOST_NESTED`` levels deep.
    """
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is damaged: {first_line(error)}.") from error
    return _not_deep(value, name)


def read_json(path: Path, *, inside: Path | None = None) -> Any:
    """Read a JSON file; arguments and errors as for ``read_file`` and ``parse_json``."""
    return parse_json(read_text(path, inside=inside), path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; errors as for ``read_file`` and ``parse_json``."""
    try:
        found = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged: {first_line(error)}.") from error
    return _not_deep(found, path)


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file, every row as long as the header.

    Raises:
        DataError: as ``read_file``; a row is longer or shorter than the header, or a column name is repeated.
    """
    try:
        header, *rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise DataError(f"{path} is damaged: {first_line(error)}.") from error
    odd = next((place for place, row in enumerate(rows) if len(row) != len(header)), None)
    if odd is not None:
        raise DataError(f"{path} is damaged: row {odd} has {len(rows[odd])} cells for {len(header)} columns.")
    if len(set(header)) != len(header):
        raise DataError(f"{path} is damaged: a column name is repeated.")
    return header, rows


def check_new_file(path: Path) -> None:
    """Refuse early a file that could not be written after all the work is done.

    Raises:
        ResourceError: its folder does not exist, or it is a folder itself.
    """
    if path.is_dir():
        raise ResourceError(f"{path} cannot be written: it is a folder.")
    if not path.parent.is_dir():
        raise ResourceError(f"{path} cannot be written: there is no folder {path.parent}.")


def check_new_folder(path: Path) -> None:
    """Refuse early a folder that cannot be created or written.

    Raises:
        ResourceError: it is a file, or below a file.
    """
    there = next((one for one in (path, *path.parents) if one.exists()), None)
    if there is not None and not there.is_dir():
        raise ResourceError(f"{path} cannot be written: {there} is a file, not a folder.")


@contextmanager
def said_by(path: Path) -> Iterator[None]:
    """Report an invalid setting as damage of the file it was read from."""
    try:
        yield
    except ConfigError as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _no_number(name: str) -> None:
    raise ValueError(f"it contains {name}")


def first_line(error: Exception) -> str:
    """The first line of a library's error message, without a final full stop."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")


def _not_deep(value: Any, name: object) -> Any:
    level = [value]
    for _ in range(MOST_NESTED + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return value
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
    raise DataError(f"{name} is damaged: it is nested more than {MOST_NESTED} levels deep.")


def write_file(path: Path, content: bytes | memoryview | str, *, flush: bool = True) -> None:
    """Write a file atomically.

    Args:
        flush: wait for the disk, so that it survives a power failure; a killed process loses nothing without it.
    Raises:
        ResourceError: the folder does not exist or cannot be written, or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    with new_file(path, size=len(data), flush=flush) as file:
        file.write(data)


@contextmanager
def new_file(path: Path, *, size: int | None = None, flush: bool = True) -> Iterator[io.BufferedIOBase]:
    """A temporary file to write to, which becomes ``path`` when the block ends without an error.

    Args:
        path: replaced in one step if it exists.
        size: bytes that will be written, for messages; None if unknown.
        flush: see ``write_file``.
    Raises:
        ResourceError: the folder does not exist or cannot be written, or the disk is full.
    """
    with explained(path, size):
        handle, temporary = _temporary(path)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                if flush:
                    os.fsync(file.fileno())
                if hasattr(os, "fchmod"):  # not on Windows
                    os.fchmod(file.fileno(), 0o666 & ~_umask())  # 0600 would lock out a server's user
                if temporary is None:
                    temporary = _named(file.fileno(), path)
            temporary.replace(path)
        except BaseException:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise
        if flush:
            flush_folder(path.parent)


def _temporary(path: Path) -> tuple[int, Path | None]:
    """A file to write to beside ``path``: one without a name, of which a kill leaves nothing, where there are such."""
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):  # some file systems have none; what is wrong otherwise shows in the other way, too
            return os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    return handle, Path(name)


def _named(handle: int, path: Path) -> Path:
    """Give a file without a name one, for the moment before it replaces ``path``: a link cannot replace a file."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with suppress(FileExistsError):
            # With a folder's descriptor, which an absolute path makes no use of, Python follows the link, else not.
            os.link(f"/proc/self/fd/{handle}", temporary, src_dir_fd=handle, follow_symlinks=True)
            return temporary


def through_link(path: Path) -> Path:
    """The file that a path which somebody typed leads to: a link stays a link, and what is behind it is written."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


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
        _remove_left_behind(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        held = _hold(temporary)
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            if held is not None:
                os.close(held)
        flush_folder(path.parent)


def _hold(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; None where that cannot be done, or another one has it."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_left_behind(path: Path) -> None:
    """Remove temporary folders of ``path`` whose process was killed: nobody holds them any more."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        held = _hold(folder)
        if held is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)


@contextmanager
def explained(path: Path, size: int | None) -> Iterator[None]:
    """Turn an OSError while writing ``path`` into a ResourceError with the reason and the sizes."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        needs = "" if size is None else f" It needs {size:,} bytes."
        raise ResourceError(f"{path} cannot be written: {reason}.{needs}{_free(path.parent)}") from error


def flush_folder(folder: Path) -> None:
    """Flush ``folder``, so that renames in it survive a power failure; Windows opens no folders."""
    if sys.platform == "win32":
        return
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
    """Replace nan and infinity, which JSON lacks, by None."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


_LARGEST_WHOLE = 2**63 - 1  # as int64 holds it
_LARGEST = 1.7976931348623157e308


@dataclass(frozen=True, slots=True)
class Within:
    """The range of a number, both ends included: ``Annotated[int, Within(1, 1024)]``."""

    low: float | int
    high: float | int = math.inf


Count = Annotated[int, Within(0)]
"""A whole number from 0."""
Share = Annotated[float, Within(0, 1)]
"""A number in [0, 1]."""


def to_plain(value: Any) -> Any:
    """Convert to dicts, lists, strings and numbers; None replaces nan and infinity, which JSON lacks."""
    if is_dataclass(value):
        return {one.name: to_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_plain(kind: Any, value: Any, where: str = "it", *, finite: bool = False) -> Any:
    """Read the output of ``to_plain``. Unknown keys of a dataclass are ignored.

    Args:
        kind: a dataclass, or the type of one of its fields.
        where: place of the value, for messages.
        finite: reject None where it stands for nan.
    Raises:
        DataError: the value has the wrong type or is out of range; the message names its place.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found = from_plain(inner[0], value, where, finite=finite)
        for limit in inner[1:]:
            if isinstance(limit, Within) and not (math.isnan(found) or limit.low <= found <= limit.high):
                ends = f"at least {limit.low:g}" if limit.high == math.inf else f"from {limit.low:g} to {limit.high:g}"
                raise DataError(f"{where} must be {ends}.")
        return found
    if is_dataclass(kind):
        return _dataclass(kind, value, where, finite=finite)
    if origin in (Union, UnionType):
        chosen = [one for one in inner if one is not NoneType]
        return None if value is None else from_plain(chosen[0], value, where, finite=finite)
    if origin is Literal and isinstance(value, str):
        if value not in inner:
            raise DataError(f"{where} must be one of {', '.join(map(str, inner))}.")
        return value
    if origin is list and isinstance(value, list):
        return [from_plain(inner[0], part, f"{where}[{place}]", finite=finite) for place, part in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if inner[1:] == (Ellipsis,) else list(inner)
        if len(kinds) == len(value):
            parts = enumerate(zip(kinds, value, strict=True))
            return tuple(from_plain(one, part, f"{where}[{place}]", finite=finite) for place, (one, part) in parts)
    if origin is dict and isinstance(value, dict):
        return {
            from_plain(inner[0], key, where): from_plain(inner[1], part, f"{where}.{shown(key)}", finite=finite)
            for key, part in value.items()
        }
    if kind is float and value is None and not finite:
        return math.nan
    if kind is float and _is_number(value):
        if not abs(value) <= _LARGEST:
            raise DataError(f"{where} must be a finite number.")
        return float(value)
    if kind in (str, bool) and isinstance(value, kind):
        return value
    if kind is int and _is_number(value) and isinstance(value, int):
        if abs(value) > _LARGEST_WHOLE:
            raise DataError(f"{where} must be from -2**63 to 2**63.")
        return value
    if kind is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    if kind is Any:
        return value
    raise DataError(f"{where} is {type(value).__name__}, which is the wrong type.")


def shown(text: object) -> str:
    """A name read from a file, safe to print on one line."""
    said = str(text)[:80]
    return said if said.isprintable() else ascii(said)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _dataclass(kind: Any, value: Any, where: str, *, finite: bool) -> Any:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {type(value).__name__}, which is the wrong type.")
    hints, found = _hints(kind), {}
    for one in fields(kind):
        if one.name in value:
            found[one.name] = from_plain(hints[one.name], value[one.name], f"{where}.{one.name}", finite=finite)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise DataError(f"{where} lacks {one.name!r}.")
    try:
        return kind(**found)
    except ConfigError as error:  # a configuration checks its own settings
        raise DataError(f"{where} is damaged: {error}") from error
