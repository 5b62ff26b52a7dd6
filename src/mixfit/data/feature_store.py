"""Features of photos that a frozen network computed once: kept in the cache folder for all later runs.

In: photo files, what identifies the network, and the features of those that are not there yet.
Out: float32 ``(photos, d)``. Knows nothing of networks: their identity is a text that the caller made."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from mixfit.config import Crop
from mixfit.data.cache import Cache
from mixfit.data.dataset import FeatureTable
from mixfit.data.image_store import decoder_name, lasting_problems, photo_keys
from mixfit.data.record_store import RecordStore, matches
from mixfit.errors import ResourceError


class FeatureStore:
    """Features of some photos by one network, ``4 * d`` bytes a photo (5 kB for d = 1,280).

    Args:
        files: the photos.
        network: identifies weights, architecture and arithmetic: equal texts, equal features.
        d: numbers per photo.
        size, crop: how the photos were brought to the network.
        cache: the folder, its limit, and who is told when it cannot be used.
    """

    def __init__(
        self, files: tuple[Path | bytes, ...], *, network: str, d: int, size: int, crop: Crop, cache: Cache
    ) -> None:
        self.files, self.cache, self.d = files, cache, d
        self.keys = photo_keys(files)
        identity = hashlib.sha256(f"{network}\n{decoder_name(size, crop)}".encode()).hexdigest()[:16]
        self.store = RecordStore(
            cache.folder / f"features-{d}-{size}px-{identity}", shape=(d,), dtype=np.float32, about="features"
        )
        self._writable = False

    def load(self) -> tuple[FeatureTable, Int64[np.ndarray, " missing"]]:
        """What is there, and the numbers of the photos that are not; damaged records are among these."""
        found = self.store.find(self.keys)
        values = np.zeros((len(self.keys), self.d), dtype=np.float32)
        stored = np.flatnonzero(found.places >= 0)
        part = np.empty((len(stored), self.d), dtype=np.float32)
        read = self.store.reader().read(found.places[stored], part)
        for position, number in enumerate(stored.tolist()):
            read[position] &= matches(self.keys[number], part[position], int(found.checksums[number]))
        values[stored[read]] = part[read]
        readable = np.zeros(len(self.keys), dtype=np.bool_)
        readable[stored[read]] = True
        self.store.forget([self.keys[number] for number in stored[~read].tolist()])
        missing = np.sort(np.concatenate([found.missing, stored[~read]]))
        return FeatureTable(torch.from_numpy(values), torch.from_numpy(readable), found.problems), missing

    @contextmanager
    def filling(self) -> Iterator[tuple[FeatureTable, Int64[np.ndarray, " missing"]]]:
        """``load``, and while the block runs, ``add``; where the cache cannot be written, ``add`` does nothing."""
        table, missing = self.load()
        with ExitStack() as stack:
            if len(missing):
                try:
                    self.cache.check_room(len(missing) * self.store.record_bytes)
                    waiting = f"Another process is filling the cache {self.store.folder}; waiting for it."
                    stack.enter_context(self.store.writing(waiting=partial(self.cache.warn, waiting)))
                    self._writable = True
                    table, missing = self.load()  # another process may have added some meanwhile
                except ResourceError as error:
                    self._give_up(error)
            try:
                yield table, missing
            finally:
                self._writable = False

    def add(
        self, numbers: Int64[np.ndarray, " photos"], values: Float32[Tensor, "photos d"], problems: dict[int, str]
    ) -> None:
        """Keep the features of photos, and of those among them that could not be read, why."""
        if not self._writable:
            return
        now = photo_keys([self.files[number] for number in numbers])
        same = [self.keys[number] == key != "" for number, key in zip(numbers.tolist(), now, strict=True)]
        unchanged = dict(zip(numbers.tolist(), same, strict=True))
        # Two links to one photo have one key; the store takes it once.
        kept = {
            self.keys[number]: place
            for place, number in enumerate(numbers.tolist())
            if unchanged[number] and number not in problems
        }
        texts = {self.keys[n]: text for n, text in lasting_problems(problems).items() if unchanged.get(n)}
        try:
            self.store.append(list(kept), values.numpy()[list(kept.values())], texts)
        except ResourceError as error:
            self._give_up(error)

    def _give_up(self, error: ResourceError) -> None:
        self._writable = False
        self.cache.warn(f"{error} Image features are not kept for the next run.")
