"""Where independent pieces of work are done: in this process, or wherever another engine does them.

The local engine is the default; ``mixfit.distributed`` has one for Ray, which is handed in by the caller and never
imported here."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

Work = Callable[[Any], Any]
"""A piece -> its result."""


@runtime_checkable
class Engine(Protocol):
    """Does the pieces of a work, and gives the results in the order of the pieces."""

    def each(self, read: Callable[[], Iterator[Any]], make: Callable[[], Work], *, threads: int) -> Iterator[Any]:
        """Results of all pieces, in their order.

        Args:
            read: gives the pieces; called once, where they are read.
            make: prepares the work; called once by each worker, as it may load a network.
            threads: of PyTorch that a worker needs for the same bits as here.
        """


class LocalEngine:
    """One piece after another, in this process."""

    def each(self, read: Callable[[], Iterator[Any]], make: Callable[[], Work], *, threads: int) -> Iterator[Any]:
        """See ``Engine``."""
        work: Work | None = None
        for piece in read():
            work = make() if work is None else work  # not before it is known that there is something to do
            yield work(piece)


LOCAL = LocalEngine()
