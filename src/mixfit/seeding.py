"""The global generators of random numbers: their states, and a seed that leaves no trace in what others draw."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's global generators begin from ``seed`` inside; afterwards all global generators are as they were before,
    those of NumPy and Python too, which a training that is resumed sets."""
    before = random_states()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_states(before)


def random_states() -> dict[str, Any]:
    """States of the global generators of PyTorch (every device), NumPy and Python."""
    numpys: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - not ours, but a callback may use it
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
    """Put back what ``random_states`` gave; generators of devices that are not here are left out."""
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
