"""Files on any file system: local paths, and URLs such as s3://bucket/folder of those that pyarrow or fsspec know.

In: a path or URL. Out: a ``Place``, whose files are read and written whole. It can be pickled."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.files import first_line, write_file

_SEPARATOR = "://"
_LOCAL = "file://"


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder.

    ``Place.of`` makes it from what a user typed."""

    system: pafs.FileSystem
    path: str
    """On that system."""
    shown: str
    """As typed, for messages."""

    @classmethod
    def of(cls, text: str | PathLike[str]) -> "Place":
        """That of a path or URL.

        Raises:
            ConfigError: the kind of URL is unknown, or needs a package that is not installed.
        """
        shown = os.fspath(text)
        if not is_url(shown):
            return cls(pafs.LocalFileSystem(), str(Path(shown).absolute()), shown)
        try:
            system, path = pafs.FileSystem.from_uri(shown)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            system, path = _of_fsspec(shown)
        return cls(system, path.rstrip("/"), shown)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's own file system."""
        return isinstance(self.system, pafs.LocalFileSystem)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def below(self, name: str) -> "Place":
        """A file or folder in it."""
        shown, query = self._parts()
        return replace(self, path=f"{self.path}/{name}", shown=f"{shown.rstrip('/')}/{name}{query}")

    def _parts(self) -> tuple[str, str]:
        """What was typed, and the query of a URL with its question mark; a path may have one in its name."""
        shown, mark, query = self.shown.partition("?") if is_url(self.shown) else (self.shown, "", "")
        return shown, mark + query

    def sizes(self) -> dict[str, int]:
        """Bytes of each file that is directly in the folder, by name in order; empty if there is no such folder."""
        with self._errors("read"):
            found = self.system.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return {one.base_name: one.size or 0 for one in sorted(found, key=lambda one: one.path) if one.is_file}

    def matching(self) -> "list[Place]":
        """The files that a pattern such as ``folder/*.parquet`` names, in order; the file itself without a pattern."""
        if not any(mark in self.name for mark in "*["):
            return [self]
        shown, query = self._parts()
        folder, slash, _ = shown.rpartition("/")
        above = replace(self, path=self.path.rpartition("/")[0], shown=(folder or slash or ".") + query)
        return [above.below(name) for name in above.sizes() if fnmatch(name, self.name)]

    def is_there(self) -> bool:
        """Whether there is such a file or folder."""
        with self._errors("read"):
            return bool(self.system.get_file_info(self.path).type != pafs.FileType.NotFound)

    def read(self, most: int) -> bytes:
        """The bytes of the file.

        Raises:
            DataError: it does not exist, has more than ``most`` bytes, or cannot be read.
        """
        with self._errors("read"):
            about = self.system.get_file_info(self.path)
            if about.is_file and (about.size or 0) > most:
                raise DataError(f"{self.shown} has {about.size:,} bytes, more than the limit of {most:,}.")
            with self.system.open_input_file(self.path) as file:
                return bytes(file.read())

    def write(self, content: bytes) -> None:
        """Write the file: whole or not at all.

        Raises:
            ResourceError: it cannot be written.
        """
        if self.is_local:
            try:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ResourceError(f"{self.shown} cannot be written: {error.strerror}.") from error
            write_file(Path(self.path), content)
            return
        try:  # an object store shows a file once all of it is there
            with self.system.open_output_stream(self.path) as file:
                file.write(content)
        except OSError as error:
            raise ResourceError(f"{self.shown} cannot be written: {first_line(error)}.") from error

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror if error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR) else None
            raise DataError(f"{self.shown} cannot be {doing}: {why or first_line(error)}.") from error


def is_url(text: str | PathLike[str]) -> bool:
    """Whether a path is a URL of a file system."""
    return _SEPARATOR in os.fspath(text)


def local_path(text: str | PathLike[str]) -> Path | None:
    """The path on this machine's own file system, also of a ``file://`` URL; None for any other URL."""
    shown = os.fspath(text)
    if not is_url(shown):
        return Path(shown)
    return Path(Place.of(shown).path) if shown.startswith(_LOCAL) else None


def _of_fsspec(url: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URL that pyarrow does not know."""
    kind = url.partition(_SEPARATOR)[0]
    try:
        import fsspec

        system, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url}: files of {kind}{_SEPARATOR} cannot be read here: {first_line(error)}.") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(system)), path
