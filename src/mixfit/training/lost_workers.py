"""Worker processes of PyTorch's DataLoader that are gone: one sentence in place of whatever breaks by it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mixfit.errors import ResourceError

_HANDLER = 5.0
"""Seconds within which PyTorch's handler has heard of a worker's end; it would raise in the caller's code later."""


@contextmanager
def lost_workers_told(loader: object) -> Iterator[None]:
    """Say in one sentence that a worker process of PyTorch's DataLoader is gone.

    PyTorch's handler of SIGCHLD raises a RuntimeError wherever Python happens to be, also in a callback, and the pipe
    to the worker may break before that."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        has_workers = getattr(loader, "num_workers", 0) > 0
        lost = isinstance(error, ConnectionError | EOFError) or "DataLoader worker" in str(error)
        if not (has_workers and lost):
            raise
        if not isinstance(error, RuntimeError):
            with suppress(RuntimeError):
                time.sleep(_HANDLER)
        raise ResourceError(
            f"A worker of the DataLoader was killed, perhaps for want of memory ({str(error).splitlines()[0]}): "
            "use fewer workers or smaller batches; num_workers=0 shows where it happens."
        ) from error
