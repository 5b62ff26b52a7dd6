"""The service behind all paths: models in memory, the queue before them, and the way from a request to an answer.

In: requests of Starlette. Out: answers as plain dicts. Start and end belong to the application's lifespan."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mixfit.errors import DataError, MixfitError, did_you_mean
from mixfit.serve.asked import Asked, from_json, from_parts
from mixfit.serve.batcher import Batcher, Place
from mixfit.serve.guard import log
from mixfit.serve.load import load_model
from mixfit.serve.metrics import Metrics
from mixfit.serve.model import Answer, Explainer, Ready, ServedModel, kinds_of
from mixfit.serve.photos import decode_photo
from mixfit.serve.problems import Problem
from mixfit.serve.settings import ServeSettings

_MOST_FIELDS = 1_000
"""Parts without a file name."""
_MOST_THREADS = 16
_PLACES = 16
"""Rows in the queue that a row to explain counts as, since it takes that much longer."""

Found = TypeVar("Found")
Texts: TypeAlias = list[tuple[str, str]]
Files: TypeAlias = list[tuple[str, bytes]]


@dataclass(eq=False)
class Service:
    """Everything that outlives a request.

    Args:
        models: by name; the first is asked unless a request names another one.
        text_model: folder of the text model that the trainings were given.
    """

    models: dict[str, ServedModel]
    settings: ServeSettings
    text_model: Path | None = None
    metrics: Metrics = field(default_factory=Metrics)
    ready: bool = False
    draining: bool = False
    batcher: Batcher = field(init=False)
    pool: ThreadPoolExecutor = field(init=False)
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    tables: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a table is predicted."""
    explaining: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a row is explained: between two steps, other requests are answered."""
    _reloading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        workers = max(1, _cpus() // self.settings.threads)
        self.batcher = Batcher(self.settings, self.metrics, workers)
        self.pool = ThreadPoolExecutor(min(_MOST_THREADS, _cpus()), "mixfit-decode")

    def start(self) -> None:
        """Begin to predict and to warm up; from within the event loop."""
        self._tasks = [asyncio.create_task(self.batcher.run()), asyncio.create_task(self._warm_up())]

    async def stop(self) -> None:
        """End all threads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.batcher.threads.shutdown(wait=True, cancel_futures=True)
        self.pool.shutdown(wait=True, cancel_futures=True)

    async def _warm_up(self) -> None:
        try:
            for model in self.models.values():
                await self._warm(model)
        except Exception as error:
            log("not ready", error=type(error).__name__, message=str(error))
            raise
        self.ready = True
        log("ready", models={name: model.sha256 for name, model in self.models.items()})

    async def _warm(self, model: ServedModel) -> None:
        """Predict a batch of every size and explain a row, so that no client pays for what is made on first use."""
        run = partial(asyncio.get_running_loop().run_in_executor, self.batcher.threads)
        for rows in range(1, self.settings.batch + 1):
            await run(model.predict, [model.example(rows)])
        if model.explains:
            await run(model.explainer().explain, model.example(1))

    def model(self, name: str | None) -> ServedModel:
        """The model of a name, by default the first.

        Raises:
            Problem: there is none.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Problem(404, f"There is no such model.{did_you_mean(name[:100], self.models)}", "model")
        return self.models[name]

    def require_ready(self) -> None:
        """Refuse a request that comes too early.

        Raises:
            Problem: the models are not warm yet.
        """
        if not self.ready:
            raise Problem(503, "The server is warming up.", retry_after=1)

    async def reload(self) -> dict[str, Any]:
        """Read all folders again, and swap to what is in them once all of it can be used; else nothing changes.

        Returns:
            The hashes of the models.
        Raises:
            Problem: a folder cannot be used.
        """
        async with self._reloading:
            loop, fresh = asyncio.get_running_loop(), dict[str, ServedModel]()
            try:
                for name, old in self.models.items():
                    read = partial(
                        load_model,
                        name,
                        old.path,
                        level=self.settings.interval,
                        threads=self.settings.threads,
                        text_model=self.text_model,
                    )
                    fresh[name] = await loop.run_in_executor(None, read)
                    await self._warm(fresh[name])
            except MixfitError as error:
                log("reload failed", message=str(error))
                raise Problem(409, f"The models stay as they are: {error}") from error
            self.models = fresh
            hashes = {name: model.sha256 for name, model in fresh.items()}
            log("reloaded", models=hashes)
            return {"models": hashes}

    async def asked(self, request: Request, model: ServedModel) -> Asked:
        """The rows of a request, as JSON or as parts of a form.

        Raises:
            Problem: they cannot be read.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        read: Callable[[], Asked]
        if kind == "application/json":
            body = await request.body()
            read = partial(from_json, body, model.schema, self.settings)
        elif kind == "multipart/form-data":
            texts, files = await self.parts(request)
            read = partial(from_parts, texts, files, model.schema, self.settings)
        else:
            raise Problem(415, "Send application/json, or multipart/form-data with photos as files.", "content-type")
        found = await asyncio.get_running_loop().run_in_executor(self.pool, read)
        request.scope["mixfit.rows"] = len(found)
        return found

    async def parts(self, request: Request) -> tuple[Texts, Files]:
        """The parts of a form: texts, and files without those of inputs that were left empty.

        Raises:
            Problem: they are too many, too large, damaged, or do not end.
        """
        parser = _Parts(
            request.headers,
            request.stream(),
            max_files=self.settings.parts,
            max_fields=_MOST_FIELDS,
            max_part_size=self.settings.most_body,
        )
        parser.spool_max_size = (
            self.settings.most_body + 1
        )  # in memory: the body is limited, and nothing is written anywhere
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise Problem(400, f"The parts cannot be read: {error.message}") from None
        try:
            if not parser.ended:
                raise Problem(400, "The parts cannot be read: the last one does not end.")
            texts: Texts = []
            files: Files = []
            for name, value in form.multi_items():
                if isinstance(value, str):
                    texts.append((name, value))
                elif content := await value.read():
                    files.append((name, content))
                elif value.filename:
                    files.append((name, b""))
        finally:
            await form.close()
            parser.close()
        return texts, files

    async def predict(self, request: Request, model: ServedModel, asked: Asked) -> Answer:
        """The answer to rows, unless the client goes away before.

        Raises:
            Problem: the queue is full, a photo is too large, cells contradict the training, or it takes too long.
            ClientDisconnect: the client went away; its place is free.
        """
        level = model.level_of(asked.interval)
        with self.batcher.place(len(asked)) as place:
            return await self.attended(request, self._predicted(model, asked, level, place))

    async def _predicted(self, model: ServedModel, asked: Asked, level: float | None, place: Place) -> Answer:
        ready = await self.decoded(model, asked, level)
        answer = await self.batcher.answer(model, ready, place)
        self.metrics.count(model, answer)
        return answer

    async def explain(self, request: Request, model: ServedModel, asked: Asked) -> tuple[Answer, list[dict[str, Any]]]:
        """The answer to rows, and what moved each prediction, unless the client goes away before.

        Raises:
            Problem: as for ``predict``; there are too many rows, or the model cannot be explained.
            ClientDisconnect: the client went away; its place is free.
        """
        level, explainer = model.level_of(asked.interval), model.explainer()
        if len(asked) > self.settings.explained:
            raise Problem(413, f"There are {len(asked)} rows; at most {self.settings.explained} are explained.", "rows")
        with self.batcher.place(_PLACES * len(asked)) as place:
            return await self.attended(request, self._explained(model, explainer, asked, level, place))

    async def _explained(
        self, model: ServedModel, explainer: Explainer, asked: Asked, level: float | None, place: Place
    ) -> tuple[Answer, list[dict[str, Any]]]:
        ready, loop = await self.decoded(model, asked, level), asyncio.get_running_loop()
        answer = await self.batcher.answer(model, ready, place)
        self.metrics.count(model, answer)
        found = []
        for one in ready.rows():
            said: dict[str, Any] = {}
            for step in (explainer.explain, explainer.heat):
                async with self.explaining:
                    try:
                        said |= await loop.run_in_executor(self.batcher.threads, step, one)
                    except DataError as error:
                        raise Problem(422, str(error)) from error
            found.append(said)
        return answer, found

    async def decoded(self, model: ServedModel, asked: Asked, level: float | None) -> Ready:
        """Decode all photos of a request in the pool; none where the model does not look at photos."""
        loop = asyncio.get_running_loop()
        waiting = []
        for row in asked.photos if model.images else ():
            for image, contents in row.items():
                for content in contents:
                    decode = partial(
                        decode_photo,
                        content,
                        model.read_photo,
                        most_pixels=self.settings.most_pixels,
                        where=image,
                    )
                    waiting.append(loop.run_in_executor(self.pool, decode))
        try:
            found = iter(await asyncio.gather(*waiting))
        finally:
            for one in waiting:
                one.cancel()
        photos = (
            tuple(
                {image: tuple(next(found) for _ in contents) for image, contents in row.items()} for row in asked.photos
            )
            if waiting
            else ({},) * len(asked)
        )
        slim = replace(asked, photos=())
        return Ready(asked=slim, photos=photos, level=level, kinds=kinds_of(asked, model.schema))

    async def attended(self, request: Request, work: Coroutine[Any, Any, Found]) -> Found:
        """Wait for some work while its client is there, and no longer than the timeout.

        Raises:
            ClientDisconnect: the client went away; the work was cancelled.
            Problem: it took too long.
        """
        task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({task, gone}, timeout=self.settings.timeout, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientDisconnect
            raise Problem(503, f"The answer took more than {self.settings.timeout:g} s.", retry_after=1)
        finally:
            task.cancel()
            gone.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


class _Parts(MultiPartParser):
    """Tells whether the last boundary came: without it, the last file may be cut."""

    ended = False

    def on_end(self) -> None:
        super().on_end()
        self.ended = True

    def close(self) -> None:
        """Free all files, also of a part without an end."""
        for file in self._files_to_close_on_error:
            file.close()


async def _gone(request: Request) -> None:
    """Return once the client has gone away; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answer_dict(model: ServedModel, answer: Answer) -> Mapping[str, Any]:
    """An answer as JSON."""
    return {"model": model.identity, "predictions": answer.rows}


def explained_dict(model: ServedModel, answer: Answer, found: list[dict[str, Any]]) -> Mapping[str, Any]:
    """An answer with what moved each prediction, as JSON."""
    rows = [row | {"explanation": one} for row, one in zip(answer.rows, found, strict=True)]
    return {"model": model.identity, "predictions": rows}
