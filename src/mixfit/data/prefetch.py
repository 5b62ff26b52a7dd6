"""Work done ahead in background threads, its results in order.

In: jobs and a function of one job. Out: the results, one after the other, as if the function were called in a loop.
Threads help where the function lets go of Python's lock: decoding, gathering and copying do.
Knows nothing of batches."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(
    jobs: Iterable[Job], work: Callable[[Job], Result], *, ahead: int, threads: int = 1
) -> Generator[Result, None, None]:
    """``map(work, jobs)``, but while one result is in use the next ``ahead`` are already in the making.

    ``jobs`` is iterated in the caller's thread. Whatever ``work`` raises is raised here, in its turn. When the
    iteration ends, by itself, by an error, by ``close`` or as garbage, jobs not begun are dropped, those begun are
    waited for and the threads are gone; another thread than the one that began it does not wait for them.

    Args:
        jobs: taken ``ahead`` before their results are.
        work: called in any of the threads, several calls at a time.
        ahead: 0 works in the caller's thread and starts no other.
        threads: at most, and never more than ``ahead``.

    >>> list(in_order([1, 2, 3], lambda x: x * x, ahead=2))
    [1, 4, 9]
    """
    if ahead == 0:
        yield from map(work, jobs)
        return
    owner = threading.current_thread()
    pool = ThreadPoolExecutor(min(threads, ahead), "mixfit-prefetch")
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # The garbage collector may end the iteration from within any thread: one of these, or one that they wait for.
        pool.shutdown(wait=threading.current_thread() is owner, cancel_futures=True)
