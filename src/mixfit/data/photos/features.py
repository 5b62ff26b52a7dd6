"""Features of photos, computed once by a frozen network and kept in the cache folder for later runs.

In: photo files, an identifier of the network, and the features of photos that are not in the cache yet.
Out: float32 ``(photos, d)``. Knows nothing of networks: the identifier is a text from the caller."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from mixfit.choices import Crop
from mixfit.data.arrays import parts
from mixfit.data.dataset import FeatureTable
from mixfit.data.photos.archive import PhotoSource
from mixfit.data.photos.records import Cache, RecordStore
from mixfit.data.photos.store import decoder_name, lasting_problems, photo_keys
from mixfit.errors import ResourceError


class FeatureStore:
    """Features of photos from one network, ``4 * d`` bytes per photo (5 kB for d = 1,280).

    Args:
        files: the photos.
        network: identifies weights, architecture and arithmetic: equal texts imply equal features.
        d: number of features per photo.
        size, crop, follow_links: how the photos were decoded, see ``ImageFiles``.
        cache: the folder, its limit, and the function to call if it cannot be used; and features that are stored
            elsewhere, which are used if they are of the same ``weights``.
        weights: identifies the network as far as another machine can know it; "" uses no stored features.
    """

    def __init__(
        self,
        files: tuple[PhotoSource, ...],
        *,
        network: str,
        d: int,
        size: int,
        crop: Crop,
        cache: Cache,
        follow_links: bool = True,
        weights: str = "",
    ) -> None:
        self.files, self.cache, self.d, self.follow_links = files, cache, d, follow_links
        self.keys = photo_keys(files, follow_links=follow_links)
        identity = hashlib.sha256(f"{network}\n{decoder_name(size, crop)}".encode()).hexdigest()[:16]
        folder = cache.folder / f"features-{d}-{size}px-{identity}"
        self.store = RecordStore(folder, shape=(d,), dtype=np.float32, about="features", wait=cache.wait)
        self._writable = False
        facts = None if cache.stored is None else cache.stored.facts
        mine = (weights, d, size, crop)
        same = facts is not None and mine == (facts.network, facts.d, facts.image_size, facts.crop)
        self.stored = cache.stored if same and weights else None

    def load(self) -> tuple[FeatureTable, Int64[np.ndarray, " missing"]]:
        """The cached features, and the numbers of the photos whose features are missing or damaged."""
        table, wanted = FeatureTable.empty(len(self.keys), self.d), np.arange(len(self.keys))
        values, readable = table.values, table.readable
        if self.stored is not None:
            known, problems = self.stored.of_photos(self.files, wanted, values.numpy())
            readable[torch.from_numpy(known)] = True
            table.failures.update(problems)
            wanted = np.setdiff1d(wanted, [*known.tolist(), *problems])
        return table, self._load_into(table, wanted)

    def count_missing(self) -> int:
        """How many photos have no features yet. Nothing but the indices of the cache and of stored features is read."""
        known = np.zeros(len(self.keys), dtype=bool)
        if self.stored is not None:
            known = self.stored.has_photos(self.files)
        return len(np.setdiff1d(self.store.find(self.keys).missing, np.flatnonzero(known)))

    def _load_into(self, table: FeatureTable, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " missing"]:
        """Fill in the cached features of some photos; return the numbers of those that are missing."""
        missing = [numbers[:0]]
        for part in parts(len(numbers), self.store.record_bytes):
            some = numbers[part]
            found = self.store.fetch([self.keys[number] for number in some.tolist()])
            there = torch.from_numpy(some[found.positions])
            table.values[there] = torch.from_numpy(found.records)
            table.readable[there] = True
            table.failures.update({int(some[position]): text for position, text in found.problems.items()})
            missing.append(some[found.missing])
        return np.concatenate(missing)

    @contextmanager
    def filling(self) -> Iterator[tuple[FeatureTable, Int64[np.ndarray, " missing"]]]:
        """As ``load``, but ``add`` can be called in the block; if the cache is not writable, ``add`` does nothing.

        The block fills the missing features into the table. Of several links to one photo only the first counts as
        missing; its features are copied to the others at the end."""
        table, missing = self.load()
        first = {self.keys[number]: number for number in reversed(missing.tolist())}
        links = [(number, first[key]) for number in missing.tolist() if (key := self.keys[number])]
        missing = np.array(
            [n for n in missing.tolist() if not self.keys[n] or first[self.keys[n]] == n], dtype=np.int64
        )
        with ExitStack() as stack:
            if len(missing):
                try:
                    self.cache.check_room(len(missing) * self.store.record_bytes)
                    waiting = f"Another process is filling the cache {self.store.folder}; waiting for it."
                    stack.enter_context(self.store.writing(waiting=partial(self.cache.warn, waiting)))
                    self._writable = True
                    missing = self._load_into(table, missing)  # another process may have added some meanwhile
                except ResourceError as error:
                    self._give_up(error)
            try:
                yield table, missing
            finally:
                self._writable = False
        for number, other in links:
            table.values[number], table.readable[number] = table.values[other], table.readable[other]
            if other in table.failures:
                table.failures[number] = table.failures[other]

    def add(
        self, numbers: Int64[np.ndarray, " photos"], values: Float32[Tensor, "photos d"], problems: dict[int, str]
    ) -> None:
        """Store the features of photos, and the reasons for photos that could not be read."""
        if not self._writable:
            return
        now = photo_keys([self.files[number] for number in numbers], follow_links=self.follow_links)
        same = [self.keys[number] == key != "" for number, key in zip(numbers.tolist(), now, strict=True)]
        unchanged = dict(zip(numbers.tolist(), same, strict=True))
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
