"""Photos by number, as tensors: decodes whichever files a batch asks for.

In: the files of ``Photos``. Out: uint8 ``(photos, 3, size, size)`` and which of them could be read.
``ImageFiles`` is an ``ImageSource`` that decodes on every access and keeps nothing.
Knows neither rows nor columns nor models."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8

from mixfit.choices import Crop
from mixfit.data.images import ImageError, image_header, read_image
from mixfit.errors import ConfigError


class ImageFiles:
    """Photos decoded from their files whenever they are asked for, in several threads.

    May be pickled, and used on in a forked worker process: each process starts threads of its own, and notes its own
    failures. Use as a context manager, or call ``close``, to end the threads early.

    Args:
        files: one photo each.
        size: height and width of the result in pixels.
        crop: how a photo becomes square, see ``images.Crop``.
        threads: decoding threads; None for one per CPU that this process may use, at most 16.
        follow_links: False for files that ``find_photos`` gave: such a one is no link, unless it was put there since.
    Raises:
        ConfigError: ``size`` or ``threads`` is below 1."""

    def __init__(
        self,
        files: Sequence[Path | bytes],
        *,
        size: int,
        crop: Crop = "squash",
        threads: int | None = None,
        follow_links: bool = True,
    ) -> None:
        if size < 1:
            raise ConfigError(f"The image size must be at least 1 pixel, got {size}.")
        if threads is not None and threads < 1:
            raise ConfigError(f"The number of decoding threads must be at least 1, got {threads}.")
        self.files = tuple(files)
        self.size = size
        self.crop: Crop = crop
        self.follow_links = follow_links
        self.threads = threads or min(16, _usable_cpus())
        self._failures: dict[int, str] = {}
        # By process: after a fork the parent's pool is there without its threads, and its lock may be held by none.
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._locks: dict[int, threading.Lock] = {}

    def __len__(self) -> int:
        return len(self.files)

    @property
    def failures(self) -> dict[int, str]:
        """What is wrong with each file that was asked for and could not be read, by number in ascending order."""
        return dict(sorted(self._failures.items()))

    def read(
        self, indices: Int64[np.ndarray, " photos"]
    ) -> tuple[UInt8[torch.Tensor, "photos 3 size size"], Bool[torch.Tensor, " photos"]]:
        """Decode photos; one that is asked for several times is decoded once.

        Args:
            indices: numbers of files, 0 to ``len(self) - 1``, in any order.
        Returns:
            The pixels, values 0..255, all 0 for a file that cannot be read; and True where it could be.
        Raises:
            IndexError: a number is out of range, -1 (no photo) included."""
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"photo numbers must be 0 to {len(self) - 1}, got {indices.min()} to {indices.max()}")
        pixels = np.zeros((len(indices), 3, self.size, self.size), dtype=np.uint8)
        ok = np.zeros(len(indices), dtype=np.bool_)
        _, first, group = np.unique(indices, return_index=True, return_inverse=True)

        def decode(place: int) -> str | None:
            try:
                photo = read_image(
                    self.files[indices[place]], size=self.size, crop=self.crop, follow_links=self.follow_links
                )
            except ImageError as error:
                return str(error)
            pixels[place] = photo.transpose(2, 0, 1)
            return None

        problems = self._map(decode, first.tolist())
        for place, problem in zip(first.tolist(), problems, strict=True):
            ok[place] = problem is None
            if problem is not None:
                self._failures[int(indices[place])] = problem
        source = first[group]
        repeated = np.flatnonzero(source != np.arange(len(indices)))
        pixels[repeated], ok[repeated] = pixels[source[repeated]], ok[source[repeated]]
        return torch.from_numpy(pixels), torch.from_numpy(ok)

    def close(self) -> None:
        """End the threads, once the reads under way are done; a later ``read`` starts new ones."""
        with self._lock():
            pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.shutdown()

    def __enter__(self) -> "ImageFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pools": {}, "_locks": {}}

    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _map(self, decode: Callable[[int], str | None], places: list[int]) -> list[str | None]:
        if self.threads == 1 or len(places) < 2:
            return [decode(place) for place in places]
        problems: list[str | None] = [None] * len(places)
        numbers = iter(range(len(places)))  # shared: each thread takes the next place, none waits for another

        def work(_: int) -> None:
            for number in numbers:
                problems[number] = decode(places[number])

        with self._lock():  # so that nobody ends the pool before it has all of the work
            pool = self._pools.get(os.getpid())
            if pool is None:
                pool = self._pools[os.getpid()] = ThreadPoolExecutor(self.threads, "mixfit-decode")
            done = pool.map(work, range(self.threads))  # begins at once
        list(done)
        return problems


def typical_side(files: Sequence[Path | bytes], sample: int = 64) -> int:
    """Estimate how large photos are: the median shorter side in pixels over evenly spaced files.

    Reads headers only; files that cannot be read are passed over. 224 when none can."""
    chosen = np.linspace(0, len(files) - 1, min(sample, len(files))).round().astype(np.int64)
    sides = []
    for index in chosen.tolist():
        with suppress(ImageError):
            header = image_header(files[index])
            sides.append(min(header.width, header.height))
    return int(np.median(sides)) if sides else 224


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
