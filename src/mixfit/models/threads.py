"""One thread for small arithmetic: many threads would wait for each other longer than they compute.

In: a block of code. Out: the same results, on a busy machine many times sooner, and the same bits whatever the number
of threads of the machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 20_000
"""Rows up to which one thread is enough for models on a table and on features of photos."""


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch, BLAS and OpenMP take one thread inside, and as many as before afterwards."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
