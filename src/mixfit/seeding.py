"""Random numbers: per-row generators, states of the global generators, and temporary seeds."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's global generators inside the block; afterwards restore all global generators, those of NumPy and
    Python too, as a resumed training sets them."""
    before = random_states()
    set_seed(seed)
    try:
        yield
    finally:
        set_random_states(before)


def set_seed(seed: int) -> None:
    """Seed PyTorch's global generators, of every device; who calls it puts their states back."""
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """States of the global generators of PyTorch (every device), NumPy and Python."""
    numpys: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - a callback may use it
    version, words, gauss = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": {
            **numpys,
            "state": {**numpys["state"], "key": torch.from_numpy(numpys["state"]["key"].astype(np.int64))},
        },
        "python": [version, list(words), gauss],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Restore the states returned by ``random_states``; generators of devices that this machine lacks are skipped."""
    torch.set_rng_state(states["torch"])
    numpys = states["numpy"]
    key = numpys["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpys, "state": {**numpys["state"], "key": key}})  # noqa: NPY002
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    devices: list[tuple[str, bool, Callable[[Any], None]]] = [
        ("cuda", torch.cuda.is_available(), torch.cuda.set_rng_state_all),
        ("mps", torch.backends.mps.is_available(), torch.mps.set_rng_state),
    ]
    for name, is_here, put_back in devices:
        if is_here and name in states:
            put_back(states[name])


# The constants of SplitMix64 as signed 64-bit integers; int64 products wrap around, as the algorithm requires.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


class RowRandom:
    """Uniform random numbers for the rows of one batch.

    Args:
        seed: seed of the run.
        epoch: number of the epoch, so that epochs differ.
        rows: int64 ``(batch,)`` positions in the table.
    """

    def __init__(self, seed: int, epoch: int, rows: Int64[Tensor, " batch"]) -> None:
        run = _mix(_mix(torch.tensor(seed, device=rows.device)) + epoch)
        self._keys = _mix(run + rows)
        # Apple's GPUs have no float64.
        self._dtype = torch.float32 if rows.device.type == "mps" else torch.float64
        self._draws = 0

    def uniform(self, count: int = 1) -> Float[Tensor, "batch count"]:
        """Draw ``count`` new numbers in [0, 1) per row, float64 where the device supports it."""
        draws = torch.arange(self._draws, self._draws + count, device=self._keys.device)
        self._draws += count
        bits = _mix(self._keys[:, None] + draws * _GOLDEN)
        return ((bits >> 11) & (2**53 - 1)).to(self._dtype) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64; the shifts are logical, hence the masks."""
    x = x + _GOLDEN
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))
