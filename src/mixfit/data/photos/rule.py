"""Photo rules: how the cells of a column name photos. A rule is set by the user, inferred, or the default.

In: a cell, and the images folder. Out: the photos of the cell. A rule is a pattern such as ``images/{id}/*``, and the
separator of several names in a cell; it is stored in the schema of a run, so that new rows are read in the same way.
The rule of a table is inferred in ``rules.py``."""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np

from mixfit.data.photos.archive import ArchivedPhoto
from mixfit.data.photos.decode import ImageError
from mixfit.data.photos.tree import ARCHIVE_ENDING, ENDINGS, Folder, Part, Place, Tree, Wanted, composed
from mixfit.errors import ConfigError, DataError, check_type, unknown_column
from mixfit.files import from_plain

Between = Literal[";", ",", "|", " ", "list"]
BETWEEN: tuple[Between, ...] = (";", "list", "|", ",", " ")
"""Possible separators of the names in a cell; "list" is a list written as text, such as ``['a.png', 'b.png']``."""
PHOTO = "{photo}"

_CELL = re.compile(r"\{([^{}]+)\}")
_QUERY = re.compile(r"[?#].*$", re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://|(file|data|https?):", re.IGNORECASE)
_DATA_URL = re.compile("data:", re.IGNORECASE)
_SERVER = re.compile(r"(https?|file)://[^/]*/+", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:[\\/]", re.IGNORECASE)
_WITH_ENDING = re.compile(rf"\.(?:{'|'.join(sorted(ENDINGS, key=len, reverse=True))})$", re.IGNORECASE)
_BRACKETS = re.compile(r"\[.*\]|\(.*\)|\{.*\}", re.DOTALL)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRule:
    """How the cells of a column name photos."""

    column: str
    pattern: str
    """Path below the images folder, such as ``images/{id}/*``: ``{column}`` is a cell, ``*`` matches all but ``/``."""
    between: Between = ";"
    """The separator of the names in a cell."""
    tail: bool = False
    """Whether leading folders that do not exist are dropped from paths, such as those of another computer."""
    reason: str = ""
    """The evidence: how many photos and rows of the table the rule matched."""

    @classmethod
    def plain(cls, column: str) -> "PhotoRule":
        """The default rule: cells hold paths, separated by ";"."""
        return cls(column=column, pattern=f"{{{column}}}")

    @property
    def is_plain(self) -> bool:
        """Whether this is the default rule."""
        return (self.pattern, self.between, self.tail) == (f"{{{self.column}}}", ";", False)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns in the pattern."""
        return tuple(dict.fromkeys(_CELL.findall(self.pattern)))

    @property
    def by_id(self) -> bool:
        """Whether the cells are ids that occur in photo names, rather than photo names."""
        return "*" in self.pattern

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Any) -> "PhotoRule":
        """Restore the result of ``to_dict``.

        Raises:
            DataError: the data are not such a result.
        """
        return from_plain(cls, state, "the photo rule")

    def describe(self) -> str:
        """A description: the pattern, and the differences from the default."""
        words = [self.pattern]
        if self.between != ";":
            words.append("a list in each cell" if self.between == "list" else f"separated by {self.between!r}")
        if self.tail:
            words.append("without the leading folders of the paths")
        return ", ".join(words)

    def names(self, cell: object) -> list[str]:
        """The names in a cell; an empty list for an empty cell."""
        if isinstance(cell, list | tuple | np.ndarray):
            return [name for one in cell for name in self.names(one)]
        text = cell_text(cell)
        if _DATA_URL.match(text):
            return [text]
        if self.between == "list":
            return [name for name in map(str.strip, _listed(text)) if name]
        between = {" ": r"\s+"}.get(self.between, re.escape(self.between))
        return [name for name in (unquoted(part.strip()) for part in re.split(between, text)) if name]

    def below(self, tree: Tree) -> "PhotoRule":
        """The same rule, relative to an images folder that is one of the leading folders of the pattern."""
        parts = self.pattern.split("/")
        while len(parts) > 1 and not any(mark in parts[0] for mark in "{*"):
            folder = tree.folder(())
            if folder is None or folder.named(parts[0]):
                break
            parts = parts[1:]
        return replace(self, pattern="/".join(parts))

    def find(self, tree: Tree, name: str, others: dict[str, str] | None = None) -> list[Path | ArchivedPhoto]:
        """The photos of a name; an empty list for an id without photos.

        Args:
            others: the cells of the other columns in the pattern.
        Raises:
            ImageError: the name is refused, or there is no such photo; the message gives the reason.
        """
        refuse_strange(name)
        cells = {**(others or {}), self.column: name}
        if self.pattern == f"{{{self.column}}}" and not self.tail:
            return [_find_path(tree, name)]
        if self.tail:
            name = _SERVER.sub("", name, count=1)
        if _URL.match(name):
            raise ImageError("is a URL; only files in the images folder are read")
        seen: ImageError | None = None
        ending = _WITH_ENDING.search(_QUERY.sub("", name))
        for spelt in dict.fromkeys(spellings(name)):
            bare = _WITH_ENDING.sub("", spelt) if self.pattern.endswith(f"{{{self.column}}}.*") else spelt
            for tail in _tails(bare) if self.tail else [bare]:
                try:
                    found = _walk(tree, self._wanted({**cells, self.column: tail}))
                except ImageError as error:
                    seen = seen or error
                    continue
                if found:
                    return [tree.photo(place) for place in found]
        if seen is not None and (not self.by_id or str(seen) != _MISSING):
            raise seen
        if not self.by_id or ending:
            raise _absolute(name) or ImageError(_MISSING)
        return []

    def _wanted(self, cells: dict[str, str]) -> Sequence[Wanted]:
        """The pattern with its cells filled in, one entry per folder."""
        path: list[list[Part]] = [[]]
        for place, piece in enumerate(_CELL.split(self.pattern)):
            if place % 2:
                first, *rest = re.split("/", cells[piece])
                path[-1].append(Part("cell", first))
                path += [[Part("cell", text)] for text in rest]
                continue
            for text in re.split(r"([*/])", piece):
                if text == "/":
                    path.append([])
                elif text == "*":
                    path[-1].append(Part("any"))
                elif text:
                    path[-1].append(Part("text", text))
        return path


_MISSING = "is missing"


def hand_rule(pattern: str, columns: Sequence[str]) -> PhotoRule:
    """A rule from a pattern that the user wrote.

    Args:
        columns: of the table.
    Raises:
        ConfigError: the pattern names a column that does not exist, or no column.
    """
    named = _CELL.findall(pattern)
    if not named:
        raise ConfigError(
            f"The photo rule {pattern!r} names no column of the table: put a column name in braces, as in "
            "--images 'images/{id}/*'."
        )
    for name in named:
        if name not in columns:
            raise unknown_column(name, columns)
    return PhotoRule(column=named[-1], pattern=pattern)


def split_images(images: Path) -> tuple[Path, str]:
    """The folder or archive of ``--images``, and the pattern that follows it, "" if there is none.

    >>> split_images(Path("shop/images/{id}/*"))
    (PosixPath('shop/images'), '{id}/*')
    >>> split_images(Path("shop/images"))
    (PosixPath('shop/images'), '')
    """
    parts = images.parts
    at = next((place for place, part in enumerate(parts) if _CELL.search(part) or "*" in part), len(parts))
    archives = [place for place, part in enumerate(parts[:at]) if part.lower().endswith(ARCHIVE_ENDING)]
    if at < len(parts) and archives:
        at = archives[0] + 1
    return Path(*parts[:at]), "/".join(parts[at:])


def images_path(images: str | PathLike[str]) -> Path:
    """The folder of photos as a path.

    Raises:
        ConfigError: it is not a path."""
    check_type("images", images, (str, PathLike), "a path of a folder")
    return Path(images)


def images_root(images: Path | None, folder: Path) -> Path:
    """Where photos are searched for: ``images``, relative to the working directory or else to the table's folder; by
    default the table's folder. A pattern that follows the folder is kept.

    Raises:
        DataError: the folder does not exist, whether or not any column names photos."""
    if images is None:
        return folder
    for place in (images, folder / images):
        if split_images(place)[0].exists():
            return place
    raise DataError(
        f"The images folder {split_images(images)[0]} does not exist; set the folder that the image paths are "
        "relative to with --images DIR."
    )


def cell_text(cell: object) -> str:
    """A cell as part of a name: integers without a decimal point.

    >>> cell_text(7.0), cell_text(" a.jpg "), cell_text(None)
    ('7', 'a.jpg', '')
    """
    if cell is None or (isinstance(cell, float | np.floating) and not np.isfinite(cell)):
        return ""
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        return str(int(cell))
    return str(cell).strip()


def spellings(name: str) -> Iterator[str]:
    """Variants of a name: as written, with forward slashes, without "?" or "#" and what follows, percent-decoded."""
    slashed = name.replace("\\", "/")
    cut = _QUERY.sub("", slashed)
    yield from (name, slashed, cut, unquote(slashed), unquote(cut))


def is_list(text: str) -> bool:
    """Whether a cell is a list written as text.

    >>> is_list("['a.png', 'b.png']"), is_list("a.png")
    (True, False)
    """
    return _BRACKETS.fullmatch(text) is not None


def _listed(text: str) -> list[str]:
    """The items of a list in JSON, Python, NumPy or PostgreSQL notation."""
    if not is_list(text):
        return [text]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and all(isinstance(one, str) for one in found):
        return found
    inside = text[1:-1]
    if quoted := _QUOTED.findall(inside):
        return [_literal(one) for one in quoted]
    return inside.split(",")


def _literal(quoted: str) -> str:
    try:
        return str(ast.literal_eval(quoted))
    except (ValueError, SyntaxError, MemoryError):
        return quoted[1:-1]


def unquoted(name: str) -> str:
    """Remove the quotes around a name."""
    return name[1:-1].strip() if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"" else name


def has_ending(name: str) -> bool:
    """Whether a name has the extension of an image file.

    >>> has_ending("a.JPEG?v=2"), has_ending("a.txt")
    (True, False)
    """
    return _WITH_ENDING.search(_QUERY.sub("", name)) is not None


def refuse_strange(name: str) -> None:
    """Refuse names that cannot be file names.

    Raises:
        ImageError: with the reason.
    """
    if "\0" in name:
        raise ImageError("has a NUL character in its name")
    if not name.isprintable() and any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        raise ImageError("has a name that is not valid Unicode (half a surrogate pair)")
    if _DATA_URL.match(name):
        raise ImageError("is a data: URL; keep only the base64 text after the comma")


def _find_path(tree: Tree, name: str) -> Path | ArchivedPhoto:
    """The file of a path, as written or in a variant spelling."""
    if _URL.match(name):
        raise ImageError("is a URL; only files in the images folder are read")
    if absolute := _absolute(name):
        raise absolute
    try:
        return tree.file(name)
    except ImageError as error:
        first = error
    if str(first) != _MISSING:
        raise first
    for spelt in dict.fromkeys(spellings(name)):
        try:
            found = _walk(tree, [[Part("cell", part)] for part in spelt.split("/")])
        except ImageError as error:
            if str(error) != _MISSING:
                first = error
            continue
        return tree.photo(found[0])
    raise first


def _absolute(name: str) -> ImageError | None:
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return ImageError("is an absolute path; write it relative to the images folder")
    return None


def _tails(path: str) -> Iterator[str]:
    """A path, then the path without its first folder, and so on."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    # ".." refers to the computer on which the table was made: it is dropped together with everything before it.
    first = max((place + 1 for place, part in enumerate(parts) if part == ".."), default=0)
    for start in range(first, len(parts)):
        yield "/".join(parts[start:])


def _walk(tree: Tree, path: Iterable[Wanted]) -> list[Place]:
    """The places that match a path with patterns, in natural order; a final name with "*" matches only photos.

    Raises:
        ImageError: there is no match, a name is ambiguous, or the path leads outside the images folder.
    """
    wanted = [name for name in path if any(part.kind == "any" for part in name) or _text(name) not in ("", ".")]
    places: list[Place] = [()]
    for number, name in enumerate(wanted):
        last, found = number == len(wanted) - 1, []
        text = _text(name)
        exact = all(part.kind != "any" for part in name)
        for place in places:
            if exact and text == "..":
                if not place:
                    raise ImageError("leads outside the images folder; set the correct folder with --images DIR")
                found.append(place[:-1])
                continue
            folder = tree.folder(place)
            if folder is not None:
                names = _only(folder, text) if exact else _photos(tree, place, name, last=last)
                found += [(*place, one) for one in names]
        places = found
    if places == [()] or (not places and all(part.kind != "any" for name in wanted for part in name)):
        raise ImageError(_MISSING)
    return places


def _text(name: Wanted) -> str:
    return "".join(part.text for part in name)


def _only(folder: Folder, name: str) -> list[str]:
    found = folder.named(name)
    if len(found) > 1:
        exact = [one for one in found if composed(one) == composed(name)]
        if len(exact) != 1:
            shown = " and ".join(map(repr, sorted(found)[:2]))
            raise ImageError(f"matches {len(found)} files, {shown}: write the exact file name")
        found = exact
    return found


def _photos(tree: Tree, place: Place, wanted: Wanted, *, last: bool) -> list[str]:
    folder = tree.folder(place)
    assert folder is not None
    found = folder.like(wanted)
    hidden = not wanted[0].text  # "*" does not match hidden files
    seen = [name for name in found if not (hidden and name in folder.names and name.startswith((".", "__MACOSX")))]
    if not last:
        return [name for name in seen if folder.names[name]]
    return [name for name in seen if not folder.names[name] and tree.is_photo((*place, name))]
