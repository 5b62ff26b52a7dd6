"""Which rows are predicted together, and how many batches at a time."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")

from mixfit.serve.asked import Asked
from mixfit.serve.batcher import Batcher
from mixfit.serve.metrics import Metrics
from mixfit.serve.model import Answer, Drift, Ready, ServedModel
from mixfit.serve.settings import ServeSettings

BATCH = 4


def model_of(predict: Callable[[Sequence[Ready]], list[Answer]]) -> ServedModel:
    """A model that does nothing but predict."""
    kind = type("Model", (ServedModel,), {"predict": lambda self, requests: predict(requests)})
    kind.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    model: ServedModel = object.__new__(kind)
    return model


def asked(number: int) -> Ready:
    one = Asked(rows=({"x": number},), photos=({},), interval=None)
    return Ready(asked=one, photos=({},), level=None, kinds={"x": "number"})


def sizes_of(workers: int, waiting: int, *, later: int = 0) -> list[int]:
    """Sizes of the batches that have begun while none has ended; then all requests are answered by their own rows."""

    async def go() -> list[int]:
        sizes, go_on = list[int](), threading.Event()

        def predict(requests: Sequence[Ready]) -> list[Answer]:
            sizes.append(len(requests))
            assert go_on.wait(30)
            drift = Drift(unseen=(), outside=(), without_photo=0)
            return [Answer(rows=[dict(request.asked.rows[0])], drift=drift) for request in requests]

        model = model_of(predict)
        batcher = Batcher(ServeSettings(batch=BATCH, wait_ms=0.0), Metrics(), workers)

        async def request(number: int) -> Answer:
            with batcher.place(1) as place:
                return await batcher.answer(model, asked(number), place)

        working = asyncio.create_task(batcher.run())
        answers = []
        for start, count in ((0, waiting), (waiting, later)):
            answers += [asyncio.create_task(request(start + place)) for place in range(count)]
            await asyncio.sleep(0.2)
        begun = list(sizes)
        go_on.set()
        found = await asyncio.gather(*answers)
        assert [one.rows[0]["x"] for one in found] == list(range(waiting + later))
        assert sum(sizes) == waiting + later
        assert batcher.busy == batcher.held == 0
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        batcher.threads.shutdown()
        return begun

    return asyncio.run(go())


def test_as_many_full_batches_are_predicted_at_a_time_as_there_are_workers() -> None:
    assert sizes_of(1, 3 * BATCH) == [BATCH]
    assert sizes_of(2, 3 * BATCH) == [BATCH] * 2
    assert sizes_of(3, 3 * BATCH) == [BATCH] * 3


def test_a_batch_that_is_not_full_waits_for_the_one_before_it() -> None:
    assert sizes_of(2, 1, later=BATCH - 1) == [1]
    assert sizes_of(2, 1, later=BATCH) == [1, BATCH]
    assert sizes_of(2, BATCH + 1) == [BATCH]


def test_a_model_that_fails_leaves_no_worker_behind() -> None:
    def predict(requests: Sequence[Ready]) -> list[Answer]:
        raise ZeroDivisionError

    async def go() -> None:
        model = model_of(predict)
        batcher = Batcher(ServeSettings(batch=BATCH, wait_ms=0.0), Metrics(), 2)
        working = asyncio.create_task(batcher.run())
        for _ in range(5):
            with batcher.place(1) as place, pytest.raises(ZeroDivisionError):
                await batcher.answer(model, asked(0), place)
        await asyncio.sleep(0)
        assert batcher.busy == 0
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        batcher.threads.shutdown()

    asyncio.run(go())
