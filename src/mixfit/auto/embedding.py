"""``mixfit embed``: frozen features of the photos and texts of a table, computed once into a folder of shards.

In: a table of any size, on any file system. Out: shards for ``--features`` of train, predict and evaluate. The table is
read in pieces; each piece becomes one shard, which is written whole or not at all, and a shard that is there is not
computed again. An ``Engine`` decides where the pieces are computed; they have the same bytes everywhere."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import NoneType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from mixfit.auto.engine import LOCAL, Engine
from mixfit.choices import Crop, Role
from mixfit.config import DataConfig, ModelConfig, TextConfig
from mixfit.console import PlainConsole
from mixfit.data.columns.cells import Table
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.words import MOST_CHARACTERS
from mixfit.data.load import NO_PHOTOS_SIZE, choose_image_size, infer_configured
from mixfit.data.photos.fetch import fetch_photos
from mixfit.data.photos.find import Photos, find_photos
from mixfit.data.photos.rule import PhotoRule, images_root, split_images
from mixfit.data.photos.shards import (
    FORMAT,
    OK,
    Shard,
    ShardFacts,
    photo_key,
    present_shards,
    read_facts,
    shard_name,
    text_name,
    write_facts,
)
from mixfit.data.photos.store import ImageFiles
from mixfit.data.places import Place, is_url, local_path
from mixfit.data.table.pieces import table_pieces
from mixfit.data.table.read import UNREADABLE, to_frame
from mixfit.errors import ConfigError, DataError, Stopped, check_type
from mixfit.files import first_line
from mixfit.nn.build import ModelShape, is_frozen, make_model
from mixfit.nn.image import ImageEncoder
from mixfit.seeding import seeded
from mixfit.training.build import encode_photos, encoder_identity, network_digest
from mixfit.training.callbacks.control import interruptible
from mixfit.training.choose import settle_arithmetic
from mixfit.training.device import default_device
from mixfit.training.texts import TextModel, text_key

ROWS = 1024
"""Rows of the table in a shard."""
_PIECE_BYTES = 2**26
_SAMPLED = 10_000
"""Rows from which the roles of columns are inferred."""
_PIECES = 10
"""Most pieces that these may come from: with photos in cells, a piece has few rows."""
_NO_TARGET = "the target, which has no part in this"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What a folder of features has."""

    folder: str
    shards: int
    computed: int
    """Shards that were computed now; the others were there."""
    rows: int
    photos: int
    """Photos, each counted once a shard."""
    unreadable: int
    texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some rows of the table, with the columns that are needed."""

    number: int
    first_row: int
    frame: pd.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What is in one shard."""

    rows: int
    photos: int
    unreadable: int
    texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """All that a worker needs to compute shards; it can be pickled."""

    out: str
    facts: ShardFacts
    network: ModelConfig
    photos: tuple[str, ...]
    rules: tuple[PhotoRule, ...]
    root: str
    """Folder that photo paths are relative to: a path or a URL."""
    texts: tuple[str, ...]
    text_model: str
    schema: Schema
    threads: int
    """Of PyTorch."""


class Encoder:
    """Computes and writes shards; it holds the networks.

    Raises:
        ConfigError: this machine computes other features than the one that began.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.encoding, self.folder = encoding, Place.of(encoding.out)
        torch.set_num_threads(encoding.threads)
        self.image = image_encoder(encoding.network, encoding.facts.image_size) if encoding.photos else None
        self.texts = TextModel.load(encoding.text_model) if encoding.texts else None
        found = _arithmetic(self.image, encoding.facts.image_size)
        if found != encoding.facts.arithmetic:
            raise ConfigError(
                "this machine computes features with other last bits than those in "
                f"{encoding.out}, as its processor or its versions of PyTorch and timm differ: use machines of one "
                "kind, or another --out."
            )

    def __call__(self, piece: Piece) -> Counts:
        """Write the shard of some rows."""
        row, column, name, status = list[int](), list[str](), list[str](), list[str]()
        features: list[np.ndarray | None] = []
        for photo in self._photos(piece):
            row.append(photo.row)
            column.append(photo.column)
            name.append(photo.name)
            status.append(photo.status)
            features.append(photo.features)
        photos = len(row)
        for first, where, digest, values in self._texts(piece):
            row.append(first)
            column.append(where)
            name.append(text_name(digest))
            status.append(OK)
            features.append(values)
        shard = Shard(row=row, column=column, name=name, status=status, features=features)
        self.folder.below(shard_name(piece.number)).write(shard.to_bytes())
        return Counts(
            rows=len(piece.frame),
            photos=photos,
            unreadable=sum(one != OK for one in status),
            texts=len(row) - photos,
        )

    def _photos(self, piece: Piece) -> Iterator["_Photo"]:
        if self.image is None:
            return
        found, names = self._find(piece.frame)
        facts = self.encoding.facts
        with ImageFiles(
            found.files,
            size=facts.image_size,
            crop=facts.crop,
            threads=self.encoding.threads,
            follow_links=False,
        ) as source:
            table = encode_photos(self.image, source)
        values = table.values.numpy()
        first: dict[int, tuple[int, str]] = {}
        rows, places = np.nonzero(found.slots >= 0)
        for at, place in zip(rows.tolist(), places.tolist(), strict=True):
            first.setdefault(int(found.slots[at, place]), (piece.first_row + at, found.slot_columns[place]))
        for number, (at, where) in sorted(first.items()):
            problem = table.failures.get(number)
            yield _Photo(
                row=at,
                column=where,
                name=names[number],
                status=OK if problem is None else problem,
                features=values[number] if problem is None else None,
            )
        for bad in found.bad:
            yield _Photo(
                row=piece.first_row + bad.row, column=bad.column, name=bad.value, status=bad.problem, features=None
            )

    def _find(self, frame: pd.DataFrame) -> tuple[Photos, list[str]]:
        """The photos of some rows, and their names."""
        root = self.encoding.root
        if is_url(root):
            return fetch_photos(frame, self.encoding.photos, Place.of(root), self.encoding.rules)
        found = find_photos(frame, self.encoding.photos, Path(root), self.encoding.rules, absent=True)
        below = str(split_images(Path(root))[0].resolve())
        return found, [photo_key(file, below) for file in found.files]

    def _texts(self, piece: Piece) -> Iterator[tuple[int, str, str, np.ndarray]]:
        """Row, column, digest and embedding of each different text."""
        if self.texts is None:
            return
        table, seen = self.encoding.schema.table(Table(piece.frame)), set[str]()
        for column in self.encoding.texts:
            levels = table[column].levels
            cells = [str(one)[:MOST_CHARACTERS] for one in levels.names]
            first = {int(code): at for at, code in reversed(list(enumerate(levels.codes.tolist())))}
            new = [
                number
                for number, text in enumerate(cells)
                if number in first and text and not text.isspace() and text_key(text) not in seen
            ]
            values = self.texts.embed([cells[number] for number in new])
            for number, value in zip(new, values, strict=True):
                seen.add(text_key(cells[number]))
                yield piece.first_row + first[number], column, text_key(cells[number]), value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Photo:
    row: int
    column: str
    name: str
    status: str
    features: np.ndarray | None


def embed(
    table: str | PathLike[str],
    out: str | PathLike[str],
    *,
    target: str | None = None,
    images: str | PathLike[str] | None = None,
    schema: Schema | str | Path | None = None,
    roles: Mapping[str, Role] | None = None,
    model: ModelConfig | None = None,
    image_size: int | None = None,
    crop: Crop = "squash",
    text_model: str = "none",
    text: TextConfig | None = None,
    shard_rows: int = ROWS,
    engine: Engine = LOCAL,
    console: Console | None = None,
) -> Embedded:
    """Compute frozen features of the photos and texts of a table, for ``DataConfig(features=out)`` and ``predict``.

    The folder ``out`` gets one shard for each ``shard_rows`` rows. The same call continues after an interrupt or a
    crash: shards that are there are not computed again. A photo that cannot be read is a row with its problem as
    status.

    Args:
        table: a table in any format that ``fit`` reads; or a URL, such as ``s3://bucket/table.parquet``, of a Parquet
            table.
        out: folder or URL.
        target: column to predict, if the table has it; its role is then that of a training.
        images: folder or URL that photo paths are relative to; by default the table's folder.
        schema, roles: known roles of columns, as for ``fit`` and ``load_data``.
        model: the image network, and how many of its stages join the features.
        image_size, crop, text_model: as in ``DataConfig``.
        text: format of a text table.
        shard_rows: most rows of the table in a shard: what a crash loses at most, and what each worker has in memory.
        engine: where the pieces are computed; by default in this process.
        console: where progress is written.
    Raises:
        ConfigError: there are no columns of photos or texts, or the image network is not frozen.
        DataError: ``out`` has features of another table or network.
        ResourceError: a shard cannot be written.
        Stopped: a signal; the same call continues.
    """
    check_type("table", table, (str, PathLike), "a path or URL of a table")
    check_type("out", out, (str, PathLike), "a path or URL of a folder")
    check_type("images", images, (str, PathLike, NoneType), "a path or URL of a folder")
    console, began = console or PlainConsole(), time.perf_counter()
    config = DataConfig(roles=dict(roles or {}), image_size=image_size, crop=crop, text_model=text_model)
    known = Schema.load(schema) if isinstance(schema, str | Path) else schema
    root = _root(table, images)
    if shard_rows < 1:
        raise ConfigError(f"shard_rows must be at least 1, got {shard_rows}.")
    sample = _sample(table, text or TextConfig())
    schema = _schema(sample, target, known, config, root)
    encoding = _encoding(table, out, sample, schema, root, config, model or ModelConfig(), shard_rows)
    folder = Place.of(out)
    facts = _begun(folder, encoding.facts)
    encoding, done = replace(encoding, facts=replace(facts, complete=False)), present_shards(folder)
    columns = [*encoding.photos, *encoding.texts, *(name for rule in encoding.rules for name in rule.columns)]
    columns = [name for name in columns if name in sample]
    read = partial(read_pieces, table, list(dict.fromkeys(columns)), text or TextConfig(), shard_rows, frozenset(done))
    console.print(f" features {folder.shown}   columns {', '.join(facts.columns)}", markup=False)
    if done:
        console.print(f" resuming: {len(done):,} shards are there", markup=False)
    computed = 0
    with ExitStack() as stack:
        came = stack.enter_context(interruptible())
        try:
            for counts in engine.each(read, partial(Encoder, encoding), threads=encoding.threads):
                computed += 1
                rate = f"{counts.photos + counts.texts:,} photos and texts"
                console.print(f" shard {len(done) + computed:>6}: {counts.rows:,} rows, {rate}", markup=False)
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped by {came[0] if came else 'SIGINT'}. {len(present_shards(folder)):,} shards are in "
                f"{folder.shown}; the same command continues."
            ) from None
    found = _totals(folder, facts)
    write_facts(folder, found)
    seconds = time.perf_counter() - began
    broken = f", {found.unreadable:,} of them cannot be read" if found.unreadable else ""
    console.print(
        f" {found.rows:,} rows, {found.photos:,} photos{broken}, {found.texts:,} texts in {found.shards:,} shards "
        f"({computed:,} computed now)   {seconds:.1f} s",
        markup=False,
        highlight=False,
    )
    return Embedded(
        folder=folder.shown,
        shards=found.shards,
        computed=computed,
        rows=found.rows,
        photos=found.photos,
        unreadable=found.unreadable,
        texts=found.texts,
    )


def image_encoder(config: ModelConfig, image_size: int) -> ImageEncoder:
    """The frozen image network of a configuration, on the device of this machine."""
    shape = ModelShape(numeric=0, cardinalities=(), photos=True, outputs=1, image_size=image_size)
    bare = replace(config, tabular="mlp", numbers="plain", fusion="concat", tabular_hidden=(1,), encoding_dim=1)
    with seeded(0):
        found = make_model(shape, bare).image
    assert isinstance(found, ImageEncoder)
    return found.eval().to(default_device())


def read_pieces(
    table: str | PathLike[str], columns: list[str], text: TextConfig, rows: int, skip: frozenset[int]
) -> Iterator[Piece]:
    """Pieces of a table of at most ``rows`` rows each, without those that are in ``skip``."""
    row = 0
    for number, frame in enumerate(_frames(table, columns, text, rows)):
        if number not in skip:
            kept = frame[[name for name in columns if name in frame.columns]]
            yield Piece(number=number, first_row=row, frame=kept)
        row += len(frame)


def _frames(
    table: str | PathLike[str], columns: list[str] | None, text: TextConfig, rows: int
) -> Iterator[pd.DataFrame]:
    path = local_path(table)
    if path is not None:
        pieces = table_pieces(path, text, most_rows=rows, most_bytes=_PIECE_BYTES, columns=columns, least=0)
        yield from pieces
        return
    place = Place.of(table)
    if not place.name.lower().endswith((".parquet", ".pq")):
        raise ConfigError(f"{place.shown}: on this file system, only Parquet tables can be read; convert the table.")
    try:
        with pq.ParquetFile(place.system.open_input_file(place.path)) as file:
            there = [name for name in columns or file.schema_arrow.names if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=rows, columns=there):
                yield to_frame(pa.Table.from_batches([batch]), Path(place.path), rows=0)
    except (*UNREADABLE, OSError) as error:
        raise DataError(f"{place.shown} cannot be read: {first_line(error)}.") from error


def _sample(table: str | PathLike[str], text: TextConfig) -> pd.DataFrame:
    """The first rows of a table."""
    found, rows = list[pd.DataFrame](), 0
    for frame in _frames(table, None, text, ROWS):
        found.append(frame)
        rows += len(frame)
        if rows >= _SAMPLED or len(found) == _PIECES:
            break
    if not rows:
        raise DataError(f"{table} has no rows.")
    return pd.concat(found, ignore_index=True)


def _root(table: str | PathLike[str], images: str | PathLike[str] | None) -> str:
    """Where photo paths are relative to."""
    path = None if images is None else local_path(images)
    if images is not None and path is None:
        return Place.of(images).shown
    beside = local_path(table)
    if images is None and beside is None:
        return str(table).rpartition("/")[0]
    return str(images_root(path, Path() if beside is None else beside.parent))


def _schema(sample: pd.DataFrame, target: str | None, known: Schema | None, config: DataConfig, root: str) -> Schema:
    """The roles of columns; without a target, those that they have beside any target."""
    if known is not None:
        if config.roles:
            raise ConfigError("The schema sets all roles: edit it, and omit --set.")
        return known
    if target is None:
        target, sample = _NO_TARGET, sample.assign(**{_NO_TARGET: np.arange(len(sample), dtype=np.float64)})
        config = replace(config, task="regression")
    return infer_configured(Table(sample), target, config, images=None if is_url(root) else Path(root))


def _encoding(
    table: str | PathLike[str],
    out: str | PathLike[str],
    sample: pd.DataFrame,
    schema: Schema,
    root: str,
    config: DataConfig,
    model: ModelConfig,
    shard_rows: int,
) -> Encoding:
    photos = tuple(schema.names("image"))
    texts = tuple(schema.names("text")) if config.text_model != "none" else ()
    if not photos and not texts:
        what = "photos" if config.text_model == "none" else "photos or of texts"
        raise ConfigError(
            f"{table} has no column of {what} to compute features of: name "
            "one with --set COLUMN=image, or texts with --set COLUMN=text --text-model minilm."
        )
    size, network, digest, d = NO_PHOTOS_SIZE, model, "", 0
    image: ImageEncoder | None = None
    if photos:
        network = settle_arithmetic(replace(model, freeze_backbone=is_frozen(model)), torch.device("cpu"))
        if not network.freeze_backbone or network.train_blocks:
            raise ConfigError(
                f"Features are those of a frozen image network, and {network.backbone} would be trained: choose a "
                "pretrained --backbone, without --train-blocks."
            )
        if config.image_size is not None:
            size = config.image_size
        elif not is_url(root):
            size = choose_image_size(find_photos(sample, photos, Path(root), schema.photos, absent=True))
        image = image_encoder(network, size)
        digest, d = network_digest(image, size), image.num_features
    text_digest = TextModel.load(config.text_model).facts.digest if texts else ""
    facts = ShardFacts(
        format=FORMAT,
        network=digest,
        arithmetic=_arithmetic(image, size),
        d=d,
        image_size=size if photos else 0,
        crop=config.crop,
        text_model=text_digest,
        columns=(*photos, *texts),
        table=_table_digest(table),
        shard_rows=shard_rows,
    )
    return Encoding(
        out=str(out),
        facts=facts,
        network=network,
        photos=photos,
        rules=schema.photos,
        root=root,
        texts=texts,
        text_model=config.text_model,
        schema=schema,
        threads=torch.get_num_threads(),
    )


def _arithmetic(image: ImageEncoder | None, size: int) -> str:
    return "" if image is None else encoder_identity(image, size)[:16]


def _table_digest(table: str | PathLike[str]) -> str:
    """Of its bytes; of a table on another file system, of its size and time."""
    path = local_path(table)
    if path is None:
        place = Place.of(table)
        about = place.system.get_file_info(place.path)
        return hashlib.sha256(f"{about.size} {about.mtime_ns}".encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_SAME = {
    "network": "of another image network",
    "arithmetic": "with the arithmetic of another machine or version",
    "d": "of another width",
    "image_size": "of another image size",
    "crop": "of photos made square in another way",
    "text_model": "of another text model",
    "columns": "of other columns",
    "table": "of another table",
    "shard_rows": "in shards of another size",
}


def _begun(folder: Place, facts: ShardFacts) -> ShardFacts:
    """The description of the folder, written before its first shard.

    Raises:
        DataError: it has features of something else.
    """
    there = read_facts(folder)
    if there is None:
        if present_shards(folder):
            raise DataError(f"{folder.shown} has shards but no description: choose another --out, or remove it.")
        write_facts(folder, facts)
        return facts
    old, new = asdict(there), asdict(facts)
    for name, what in _SAME.items():
        if old[name] != new[name]:
            raise DataError(f"{folder.shown} has features {what}: choose another --out, or remove that folder.")
    return there


def _totals(folder: Place, facts: ShardFacts) -> ShardFacts:
    """The counts over all shards, read from them."""
    shards, photos, unreadable, texts = present_shards(folder), 0, 0, 0
    last = -1
    for number in sorted(shards):
        place = folder.below(shard_name(number))
        found = pq.read_table(place.path, columns=["row", "name", "status"], filesystem=place.system)
        words = sum(name.startswith("text:") for name in found["name"].to_pylist())
        photos, texts = photos + len(found) - words, texts + words
        unreadable += sum(one != OK for one in found["status"].to_pylist())
        last = max([last, *found["row"].to_pylist()])
    return replace(
        facts,
        complete=True,
        shards=max(shards, default=-1) + 1,
        rows=last + 1,
        photos=photos,
        unreadable=unreadable,
        texts=texts,
    )
