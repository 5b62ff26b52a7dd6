"""Frozen features that ``mixfit embed`` computed: a folder of shards, each whole or absent, and a description.

In: the folder, on any file system. Out: features of photos and of texts by name. A shard has one row for each photo and
text of its rows of the table: ``row``, ``column``, ``name``, ``status`` (ok, or the problem of a photo) and
``features``. Knows nothing of networks: digests from the caller tell one from another."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int64

from mixfit.choices import Crop
from mixfit.data.photos.archive import ArchivedPhoto, PhotoSource
from mixfit.data.places import Place
from mixfit.errors import DataError
from mixfit.files import MOST_TEXT, Count, Within, first_line, from_plain, parse_json

DESCRIPTION = "mixfit-features.json"
FORMAT = 1
OK = "ok"
_SHARD = "part-{:06d}.parquet"
_LARGEST_SHARD = 2**33
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("column", pa.string()),
        ("name", pa.string()),
        ("status", pa.string()),
        ("features", pa.list_(pa.field("element", pa.float32()))),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What the shards of a folder have in common."""

    format: int
    network: str
    """Digest of the image network; "" without photos."""
    arithmetic: str
    """Digest of what also affects the last bits: versions and the instruction set of the machine."""
    d: Count
    """Number of features of a photo."""
    image_size: Annotated[int, Within(0, 1024)]
    crop: Crop
    text_model: str
    """Digest of the sentence encoder; "" without texts."""
    columns: tuple[str, ...]
    """Columns of photos and of texts."""
    table: str
    """Digest of the table."""
    shard_rows: Annotated[int, Within(1)]
    """Most rows of the table in a shard."""
    complete: bool = False
    shards: Count = 0
    rows: Count = 0
    photos: Count = 0
    unreadable: Count = 0
    texts: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shard:
    """The photos and texts of some rows of a table, each once."""

    row: Sequence[int]
    """First row of the table with it."""
    column: Sequence[str]
    name: Sequence[str]
    status: Sequence[str]
    features: Sequence[Float32[np.ndarray, " d"] | None]
    """None for a photo that cannot be read."""

    def to_bytes(self) -> bytes:
        """As a Parquet file; equal shards have equal bytes."""
        lengths = [0 if one is None else len(one) for one in self.features]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        values = np.concatenate([np.zeros(0, np.float32), *(one for one in self.features if one is not None)])
        missing = pa.array([one is None for one in self.features], pa.bool_())
        kind = _SCHEMA.field("features").type
        arrays = [
            pa.array(self.row, pa.int64()),
            pa.array([_plain(one) for one in self.column], pa.string()),
            pa.array([_plain(one) for one in self.name], pa.string()),
            pa.array([_plain(one) for one in self.status], pa.string()),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind, mask=missing),
        ]
        out = pa.BufferOutputStream()
        table = pa.Table.from_arrays(arrays, schema=_SCHEMA)
        pq.write_table(table, out, compression="none", use_dictionary=["column", "status"])
        return out.getvalue().to_pybytes()


def shard_name(number: int) -> str:
    """The file of a shard."""
    return _SHARD.format(number)


def present_shards(folder: Place) -> set[int]:
    """Numbers of the shards that are in a folder."""
    names = folder.sizes()
    numbers = (name.removeprefix("part-").removesuffix(".parquet") for name in names)
    return {int(one) for one in numbers if one.isdigit() and shard_name(int(one)) in names}


def write_facts(folder: Place, facts: ShardFacts) -> None:
    """Write the description of a folder."""
    folder.below(DESCRIPTION).write(json.dumps(asdict(facts), indent=1).encode())


def read_facts(folder: Place) -> ShardFacts | None:
    """The description of a folder; None if there is none.

    Raises:
        DataError: it is damaged, or of another version.
    """
    place = folder.below(DESCRIPTION)
    if not place.is_there():
        return None
    found = from_plain(ShardFacts, parse_json(place.read(MOST_TEXT).decode("utf-8", "replace"), place.shown))
    if found.format != FORMAT:
        raise DataError(f"{place.shown} was written by another version of mixfit: run mixfit embed again.")
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredFeatures:
    """A complete folder of features, in which photos and texts are looked up.

    ``StoredFeatures.open`` makes it; it can be pickled."""

    folder: Place
    facts: ShardFacts
    root: str = ""
    """The images folder that names of photo files are relative to, resolved."""

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "StoredFeatures":
        """Open what ``mixfit embed`` wrote.

        Raises:
            DataError: it is not such a folder, is not complete, or is damaged.
        """
        place = Place.of(folder)
        facts = read_facts(place)
        if facts is None:
            raise DataError(f"{place.shown} has no features: write them with mixfit embed TABLE --out {place.shown}.")
        if not facts.complete:
            raise DataError(f"{place.shown} is not complete: run the same mixfit embed again, which continues it.")
        missing = set(range(facts.shards)) - present_shards(place)
        if missing:
            raise DataError(
                f"{place.shown} lacks {len(missing)} of {facts.shards} shards, the first is "
                f"{shard_name(min(missing))}: run the same mixfit embed again, which adds them."
            )
        return cls(folder=place, facts=facts)

    def below(self, root: Path) -> "StoredFeatures":
        """The same features, for photo files of an images folder."""
        return StoredFeatures(folder=self.folder, facts=self.facts, root=os.path.realpath(root))

    def of_photos(
        self, files: Sequence[PhotoSource], numbers: Int64[np.ndarray, " some"], values: np.ndarray
    ) -> tuple[Int64[np.ndarray, " known"], dict[int, str]]:
        """Fill in the features of photos.

        Args:
            numbers: of the wanted ones among ``files``.
            values: float32 ``(files, d)``, changed in place.
        Returns:
            Numbers of the photos whose features are known, and the problems of those that could not be read.
        """
        return self._fill([photo_key(files[number], self.root) for number in numbers.tolist()], numbers, values)

    def has_photos(self, files: Sequence[PhotoSource]) -> Bool[np.ndarray, " files"]:
        """Whether features, or the problem, of each photo are stored."""
        return np.isin(_digests([photo_key(file, self.root) for file in files]), self._index["digest"])

    def of_texts(
        self, keys: Sequence[str], numbers: Int64[np.ndarray, " some"], values: np.ndarray
    ) -> Int64[np.ndarray, " known"]:
        """Fill in the embeddings of texts; arguments as for ``of_photos``, with the keys of all texts."""
        return self._fill([text_name(keys[number]) for number in numbers.tolist()], numbers, values)[0]

    def _fill(
        self, names: Sequence[str], numbers: Int64[np.ndarray, " some"], values: np.ndarray
    ) -> tuple[Int64[np.ndarray, " known"], dict[int, str]]:
        digests = _digests(names)
        known = self._index
        places = np.minimum(np.searchsorted(known["digest"], digests), max(len(known) - 1, 0))
        there = np.flatnonzero(known["digest"][places] == digests) if len(known) else np.zeros(0, dtype=np.int64)
        found, problems = list[int](), dict[int, str]()
        order = there[np.argsort(known["shard"][places[there]], kind="stable")]
        shards = known["shard"][places[order]]
        for shard in np.unique(shards).tolist():
            table = self._read(shard, ["status", "features"])
            mine = order[shards == shard]
            status, features = table["status"].to_pylist(), table["features"].combine_chunks()
            flat, ends = features.values.to_numpy(zero_copy_only=False), features.offsets.to_numpy()
            for position in mine.tolist():
                line = int(known["line"][places[position]])
                if status[line] != OK:
                    problems[int(numbers[position])] = status[line]
                    continue
                one = flat[ends[line] : ends[line + 1]]
                if len(one) != values.shape[1]:
                    raise DataError(
                        f"{self.folder.below(shard_name(shard)).shown} is damaged: row {line} has {len(one)} features "
                        f"instead of {values.shape[1]}."
                    )
                values[numbers[position]] = one
                found.append(int(numbers[position]))
        return np.array(sorted(found), dtype=np.int64), problems

    @cached_property
    def _index(self) -> np.ndarray:
        """Where each name is, sorted by digest; 24 bytes a name."""
        parts = [np.zeros(0, dtype=_INDEX)]
        for shard in range(self.facts.shards):
            names = self._read(shard, ["name"])["name"].to_pylist()
            part = np.zeros(len(names), dtype=_INDEX)
            part["digest"], part["shard"], part["line"] = _digests(names), shard, np.arange(len(names))
            parts.append(part)
        every = np.concatenate(parts)
        return every[np.argsort(every["digest"], kind="stable")]

    def _read(self, shard: int, columns: list[str]) -> pa.Table:
        place = self.folder.below(shard_name(shard))
        try:
            return pq.read_table(place.path, columns=columns, filesystem=place.system)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{place.shown} is damaged: {first_line(error)}. Remove it and run the same mixfit embed again."
            ) from error


_INDEX = np.dtype([("digest", "S16"), ("shard", np.int32), ("line", np.int32)])


def photo_key(file: PhotoSource, root: str) -> str:
    """The name of a photo in a shard: its path below the images folder, or the sha256 of bytes in a cell.

    Args:
        root: the images folder, resolved.
    """
    if isinstance(file, bytes):
        return f"sha256:{hashlib.sha256(file).hexdigest()}"
    path = file.archive / file.member if isinstance(file, ArchivedPhoto) else file
    return Path(os.path.relpath(path, root)).as_posix()


def text_name(digest: str) -> str:
    """The name of a text in a shard.

    Args:
        digest: its sha256, in hexadecimal.
    """
    return f"text:{digest}"


def _digests(names: Sequence[str]) -> np.ndarray:
    """Bytes ``(names,)``; the last one is never 0, which numpy would cut off."""
    return np.array([hashlib.blake2b(_plain(one).encode(), digest_size=15).digest() + b"." for one in names], "S16")


def _plain(text: str) -> str:
    """Text that UTF-8 can hold; half a surrogate pair, as in names of undecodable files, is replaced."""
    return text.encode("utf-8", "backslashreplace").decode()
