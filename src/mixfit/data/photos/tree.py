"""Name lookup in the images folder: folders, files, and zip archives, which are treated like folders.

In: a folder or an archive, and paths in it as users write them. Out: the photos there, or an ``ImageError``.
Each folder is listed once, on first use; nothing outside the images folder is accessed. A name that does not exist as
written is looked up in other spellings: another Unicode normal form, other case, other leading zeros."""

import os
import re
import unicodedata
import zipfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from mixfit.data.photos.archive import ArchivedPhoto, read_archive
from mixfit.data.photos.cells import photo_format
from mixfit.data.photos.decode import ImageError, check_file
from mixfit.errors import DataError

ENDINGS = frozenset(
    ["jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp", "png", "apng", "webp", "bmp", "dib", "gif", "tif", "tiff", "mpo"]
)
"""Lower-case extensions of image files; other files are recognised by their first bytes."""
ARCHIVE_ENDING = ".zip"

Place = tuple[str, ...]
"""Path in the tree, as the names of its folders and file; () is the root."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a name pattern."""

    kind: Literal["text", "cell", "any"]
    text: str = ""


Wanted = Sequence[Part]
"""The pattern of one name in a path, as a sequence of parts."""


@dataclass(frozen=True, eq=False)
class Folder:
    """The names in one folder."""

    names: Mapping[str, bool]
    """For each name, whether it is a folder (or an archive)."""
    _by_spelling: dict[int, dict[str, list[str]]] = field(default_factory=dict)
    _sorted: dict[int, tuple[list[str], list[str]]] = field(default_factory=dict)

    def named(self, wanted: str) -> list[str]:
        """The names equal to ``wanted``, as written or else in the first other spelling that exists."""
        if wanted in self.names:
            return [wanted]
        for number, spelling in enumerate(_SPELLINGS):
            if number not in self._by_spelling:
                found: dict[str, list[str]] = {}
                for name in self.names:
                    found.setdefault(spelling(name), []).append(name)
                self._by_spelling[number] = found
            if known := self._by_spelling[number].get(spelling(wanted)):
                return known
        return []

    def like(self, wanted: Wanted) -> list[str]:
        """The names that match a pattern, in the first spelling with a match, in natural order."""
        for number, spelling in enumerate(_SPELLINGS):
            spelt = [Part(part.kind, spelling(part.text)) for part in wanted]
            head = "".join(part.text for part in _until_any(spelt))
            tail = "".join(part.text for part in reversed(list(_until_any(spelt[::-1]))))
            backwards = len(tail) > len(head)
            matches = re.compile(_expression(spelt)).fullmatch
            found = [name for key, name in self._beginning(number, head, tail, backwards=backwards) if matches(key)]
            if found:
                return sorted(found, key=natural)
        return []

    def _beginning(self, number: int, head: str, tail: str, *, backwards: bool) -> Iterator[tuple[str, str]]:
        """Names with their spelling that begin, or end, like a pattern; found by binary search."""
        place = 2 * number + backwards
        if place not in self._sorted:
            spelt = sorted((_SPELLINGS[number](name), name) for name in self.names)
            if backwards:
                spelt = sorted((key[::-1], name) for key, name in spelt)
            self._sorted[place] = [key for key, _ in spelt], [name for _, name in spelt]
        keys, names = self._sorted[place]
        start = tail[::-1] if backwards else head
        at = bisect_left(keys, start)
        while at < len(keys) and keys[at].startswith(start):
            yield keys[at][::-1] if backwards else keys[at], names[at]
            at += 1

    @cached_property
    def folders(self) -> list[str]:
        """Names of the folders, without hidden ones, in natural order."""
        return sorted((name for name, more in self.names.items() if more and not is_hidden(name)), key=natural)

    @cached_property
    def files(self) -> list[str]:
        """Names of the files, without hidden ones, in natural order."""
        return sorted((name for name, more in self.names.items() if not more and not is_hidden(name)), key=natural)


class Tree:
    """A folder or an archive, with everything in it.

    Args:
        root: of the tree; links that lead outside it are not followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self._folders: dict[Place, Folder | None] = {}
        self._archives: dict[Place, dict[Place, ArchivedPhoto]] = {}
        self._is_photo: dict[Place, bool] = {}
        if os.path.isfile(self.root):  # noqa: PTH113
            self._read_archive((), Path(self.root))

    def folder(self, place: Place) -> Folder | None:
        """The contents of a folder or an archive; None if it does not exist.

        Raises:
            DataError: it is an archive that is refused.
        """
        if place not in self._folders:
            self._folders[place] = self._list(place)
        return self._folders[place]

    def photo(self, place: Place) -> Path | ArchivedPhoto:
        """The file at a place.

        Raises:
            ImageError: there is none, it is not a file, or it lies outside the images folder.
        """
        archived = self._archive_of(place)
        if archived is not None:
            if archived not in self._archives or (photo := self._archives[archived].get(place)) is None:
                raise ImageError("is missing")
            return photo
        return self.file("/".join(place))

    def file(self, name: str) -> Path:
        """The file of a path below the root on disk, exactly as written.

        Raises:
            ImageError: there is none, it is not a file, or it lies outside the images folder.
        """
        path = os.path.realpath(os.path.join(self.root, name))  # noqa: PTH118 - pathlib takes a third of all the time
        if not self._is_inside(path):
            raise ImageError("leads outside the images folder; set the correct folder with --images DIR")
        file = Path(path)
        check_file(file)
        return file

    def is_photo(self, place: Place) -> bool:
        """Whether a file is a photo: by its extension, or, if that is unknown, by its first bytes."""
        if place not in self._is_photo:
            stem, dot, ending = place[-1].rpartition(".")
            known = bool(stem and dot) and ending.lower() in ENDINGS
            self._is_photo[place] = known or self._begins_like_photo(place)
        return self._is_photo[place]

    def _begins_like_photo(self, place: Place) -> bool:
        with suppress(DataError, OSError):
            photo = self.photo(place)
            if isinstance(photo, ArchivedPhoto):
                return photo_format(photo.read(16)) is not None
            with photo.open("rb") as file:
                return photo_format(file.read(16)) is not None
        return False

    def _is_inside(self, path: str) -> bool:
        return (path + os.sep).startswith(os.path.join(self.root, ""))  # noqa: PTH118

    def _archive_of(self, place: Place) -> Place | None:
        """The archive that a place is in."""
        for length in range(len(place)):
            if place[:length] in self._archives:
                return place[:length]
            if length and place[length - 1].lower().endswith(ARCHIVE_ENDING) and self.folder(place[:length]):
                return place[:length] if place[:length] in self._archives else None
        return None

    def _list(self, place: Place) -> Folder | None:
        archived = self._archive_of(place)
        if archived is None and place in self._archives:
            archived = place
        if archived is not None:
            return self._folders.get(place)  # an archive is listed completely at once
        path = os.path.realpath(os.path.join(self.root, *place))  # noqa: PTH118
        if not self._is_inside(path):
            return None
        if place and place[-1].lower().endswith(ARCHIVE_ENDING) and zipfile_at(path):
            self._read_archive(place, Path(path))
            return self._folders[place]
        names: dict[str, bool] = {}
        with suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                with suppress(OSError):
                    names[entry.name] = entry.is_dir() or entry.name.lower().endswith(ARCHIVE_ENDING)
            return Folder(names)
        return None

    def _read_archive(self, place: Place, path: Path) -> None:
        """List all folders of an archive."""
        members = {(*place, *_parts(name)): photo for name, photo in read_archive(path).items()}
        self._archives[place] = members
        names: dict[Place, dict[str, bool]] = {place: {}}
        for member in members:
            for length in range(len(place) + 1, len(member) + 1):
                names.setdefault(member[: length - 1], {}).setdefault(member[length - 1], length < len(member))
        self._folders.update({folder: Folder(inside) for folder, inside in names.items()})


def zipfile_at(path: str) -> bool:
    """Whether a file is a zip archive, judged by its end."""
    with suppress(OSError):
        return os.path.isfile(path) and zipfile.is_zipfile(path)  # noqa: PTH113
    return False


def is_hidden(name: str) -> bool:
    """Whether a name is that of a hidden or system file."""
    return name.startswith((".", "__MACOSX"))


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key for natural order: "2.jpg" before "10.jpg".

    >>> sorted(["b10", "B2", "a"], key=natural)
    ['a', 'B2', 'b10']
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts] + [(-1, name)]


def _parts(path: str) -> Place:
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def composed(name: str) -> str:
    """In composed Unicode form (NFC); some file systems use the decomposed form."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return composed(composed(name).casefold())


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", _folded(name))


def spelt_alike(name: str) -> str:
    """A normalised spelling: equal for names that differ only in case, Unicode form or leading zeros.

    >>> spelt_alike("IMG_007") == spelt_alike("img_7")
    True
    """
    return _without_zeros(name)


_SPELLINGS = (composed, _folded, _without_zeros)


def _until_any(parts: Wanted) -> Iterator[Part]:
    for part in parts:
        if part.kind == "any":
            return
        yield part


def _expression(parts: Wanted) -> str:
    """A regular expression; a wildcard does not continue a number or a word at the end of a cell."""
    found = ""
    for place, part in enumerate(parts):
        if part.kind != "any":
            found += re.escape(part.text)
            continue
        before = parts[place - 1] if place else Part("text")
        after = parts[place + 1] if place + 1 < len(parts) else Part("text")
        found += "" if before.kind != "cell" else f"(?!{_same_class(before.text[-1:])})"
        found += ".*"
        found += "" if after.kind != "cell" else f"(?<!{_same_class(after.text[:1])})"
    return f"(?s:{found})"


def _same_class(character: str) -> str:
    """The character class that would continue the number or word of a character; none if it is part of neither."""
    if character.isdigit():
        return "[0-9]"
    return r"[^\W\d_]" if character.isalpha() else r"[^\s\S]"
