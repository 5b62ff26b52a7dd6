"""Micro-batches: rows of several requests that wait at the same time are predicted together.

In: requests whose photos are decoded. Out: their answers. Each of some workers predicts a batch at a time, all but one
of them only full ones. A request waits for others only while the photos of some are still being decoded, and never
longer than a deadline; alone it does not wait at all. The queue is bounded: who does not fit is told when to come back,
and who goes away gives up the place."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from mixfit.errors import DataError
from mixfit.serve.metrics import Metrics
from mixfit.serve.model import Answer, Ready, ServedModel, fits
from mixfit.serve.problems import Problem
from mixfit.serve.settings import ServeSettings

_LONGEST_RETRY = 60  # seconds
_FIRST_GUESS = 0.05  # seconds a row takes, before any was predicted


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    model: ServedModel
    request: Ready
    answer: "asyncio.Future[Answer]"

    def goes_with(self, other: "_Job") -> bool:
        """Whether both can be predicted in one pass."""
        same = self.model is other.model and self.request.level == other.request.level
        return same and fits(self.request.kinds, other.request.kinds)


@dataclass(slots=True, eq=False)
class Place:
    """The place of a request in the queue, from before its photos are decoded until it is answered."""

    rows: int
    decoding: bool = True


@dataclass(eq=False)
class Batcher:
    """The queue in front of the models.

    Args:
        workers: number of batches that are predicted at a time.
    """

    settings: ServeSettings
    metrics: Metrics
    workers: int = 1
    held: int = 0
    """Rows that have a place."""
    decoding: int = 0
    """Requests whose photos are being decoded."""
    busy: int = 0
    """Workers that predict."""
    seconds_a_row: float = _FIRST_GUESS
    """A running mean, of one worker."""
    jobs: "deque[_Job]" = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    threads: ThreadPoolExecutor = field(init=False)
    """One for each worker."""
    _choosing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the worker that chooses its next batch."""

    def __post_init__(self) -> None:
        self.threads = ThreadPoolExecutor(self.workers, "mixfit-model")

    @contextmanager
    def place(self, rows: int) -> Iterator[Place]:
        """Hold a place for some rows.

        Raises:
            Problem: the queue is full.
        """
        if self.held and self.held + rows > self.settings.queue:
            raise self.full()
        place = Place(rows)
        self.held, self.decoding = self.held + rows, self.decoding + 1
        self.metrics.queue.set(self.held)
        try:
            yield place
        finally:
            self.decoded(place)
            self.held -= rows
            self.metrics.queue.set(self.held)

    def full(self) -> Problem:
        """The refusal of a request, with the time after which those before it should be done."""
        after = min(_LONGEST_RETRY, max(1, math.ceil(self.held * self.seconds_a_row / self.workers)))
        return Problem(503, f"{self.held} rows are waiting already: come back later.", retry_after=after)

    def decoded(self, place: Place) -> None:
        """The photos of a request are decoded; others need not wait for them any more."""
        if place.decoding:
            place.decoding = False
            self.decoding -= 1
            self.changed.set()

    async def answer(self, model: ServedModel, request: Ready, place: Place) -> Answer:
        """Wait for the answer to a request.

        Raises:
            Problem: its cells cannot be read.
        """
        job = _Job(model=model, request=request, answer=asyncio.get_running_loop().create_future())
        self.jobs.append(job)
        self.decoded(place)
        self.changed.set()
        try:
            return await job.answer
        finally:
            job.answer.cancel()  # of a client that went away; without effect on an answer

    async def run(self) -> None:
        """Predict what waits, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            async with self._choosing:
                batch = await self._next()
                self.busy += 1
            await self._predict(batch)
            self.busy -= 1
            self.changed.set()

    async def _next(self) -> list[_Job]:
        """The next requests that go together."""
        batch = list[_Job]()
        while not batch:
            # Several small batches take more time than one that is larger.
            while not self._waiting() or (self.busy and self._rows() < self.settings.batch):
                self.changed.clear()
                await self.changed.wait()
            await self._decoded_some()
            batch = self._together()
        for job in batch:
            self.jobs.remove(job)
        return batch

    async def _decoded_some(self) -> None:
        """Wait until a batch is full or no photos are being decoded, but not beyond the deadline."""
        deadline = time.monotonic() + self.settings.wait_ms / 1000
        while self.decoding and len(self._together()) == len(self.jobs) and self._rows() < self.settings.batch:
            self.changed.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self.changed.wait()
            except TimeoutError:
                break

    def _waiting(self) -> bool:
        while self.jobs and self.jobs[0].answer.done():
            self.jobs.popleft()
        return bool(self.jobs)

    def _rows(self) -> int:
        return sum(len(job.request.asked) for job in self.jobs)

    def _together(self) -> list[_Job]:
        """The first request and those after it that fit it, up to the size of a batch."""
        if not self._waiting():
            return []
        found, rows = [self.jobs[0]], len(self.jobs[0].request.asked)
        for job in list(self.jobs)[1:]:
            more = len(job.request.asked)
            if not job.answer.done() and rows + more <= self.settings.batch and all(job.goes_with(o) for o in found):
                found.append(job)
                rows += more
        return found

    async def _predict(self, batch: list[_Job]) -> None:
        loop, started = asyncio.get_running_loop(), time.perf_counter()
        model, rows = batch[0].model, sum(len(job.request.asked) for job in batch)
        try:
            answers = await loop.run_in_executor(self.threads, model.predict, [job.request for job in batch])
        except DataError as error:
            if len(batch) == 1:
                _fail(batch[0], Problem(422, str(error)))
            else:
                for job in batch:
                    await self._predict([job])
            return
        except Exception as error:  # a bug of ours must not end the loop that all wait for
            for job in batch:
                _fail(job, error)
            return
        self.metrics.batches.observe(rows)
        self.seconds_a_row += 0.1 * ((time.perf_counter() - started) / rows - self.seconds_a_row)
        for job, answer in zip(batch, answers, strict=True):
            if not job.answer.done():
                job.answer.set_result(answer)


def _fail(job: _Job, error: Exception) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
