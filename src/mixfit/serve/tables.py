"""Whole tables: a CSV or Parquet file, perhaps with a zip archive of photos, predicted and streamed back.

In: the bytes of both. Out: one line of JSON per row, in their order, as /predict answers rows. The table is read as by
``mixfit predict``, and predicted in pieces of 64 rows, between which other requests are answered."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mixfit.errors import ConfigError, DataError
from mixfit.serve.metrics import Metrics
from mixfit.serve.model import ServedModel
from mixfit.serve.problems import Problem
from mixfit.serve.service import Service

TABLE_TYPES = ("text/csv", "application/vnd.apache.parquet")
SHA256 = "x-mixfit-sha256"
"""The header with the hash of the model, which the lines do not repeat."""
_PARQUET = b"PAR1"
_RETRY = 10  # seconds


def predicted_lines(
    model: ServedModel, table: Path, photos: Path, level: float | None, metrics: Metrics
) -> Iterator[str]:
    """Lines of JSON for the rows of a table, some at a time; arguments and errors as of ``answers_of_table``."""
    number = 0
    for answer in model.answers_of_table(table, photos, level):
        metrics.count(model, answer)
        answers = [{"row": number + place} | row for place, row in enumerate(answer.rows)]
        number += len(answers)
        yield "".join(json.dumps(answer, allow_nan=False) + "\n" for answer in answers)


async def predict_table(service: Service, request: Request, model: ServedModel, interval: float | None) -> Response:
    """The answer to /predict/batch; one table at a time.

    Raises:
        Problem: the table cannot be read, or another one is being predicted.
    """
    level = model.level_of(interval)
    table, archive = await _files(service, request)
    if service.tables.locked():
        raise Problem(503, "Another table is being predicted: come back later.", retry_after=_RETRY)
    lines = _Lines(service, model, table, archive, level)
    first = await service.attended(request, lines.start())
    return _Streamed(lines, first)


class _Lines:
    """The lines of a table, whose files exist while they are made."""

    def __init__(
        self, service: Service, model: ServedModel, table: bytes, archive: bytes | None, level: float | None
    ) -> None:
        self.service, self.model, self.level = service, model, level
        self.table, self.archive = table, archive
        self.lines: Iterator[str] = iter(())
        self.folder: TemporaryDirectory[str] | None = None
        self.open = False

    async def start(self) -> str:
        """The first lines; until they are there, whatever is wrong is an answer of its own."""
        await self.service.tables.acquire()
        self.open = True
        try:
            self.folder = TemporaryDirectory(prefix="mixfit-table-", ignore_cleanup_errors=True)
            root = Path(self.folder.name)
            table = root / ("table.parquet" if self.table.startswith(_PARQUET) else "table.csv")
            table.write_bytes(self.table)
            photos = root / "none"
            photos.mkdir()
            if self.archive is not None:
                photos = root / "photos.zip"
                photos.write_bytes(self.archive)
            self.lines = predicted_lines(self.model, table, photos, self.level, self.service.metrics)
            return await self._next()
        except (DataError, ConfigError) as error:
            self.close()
            raise Problem(422, str(error).replace(f"{root}/", "")) from error
        except BaseException:
            self.close()
            raise

    async def _next(self) -> str:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.service.batcher.threads, lambda: next(self.lines, ""))

    async def rest(self, first: str) -> AsyncIterator[str]:
        """The first lines and all that follow."""
        lines = first
        while lines:
            yield lines
            lines = await self._next()

    def close(self) -> None:
        """Remove the files, and let the next table come; once."""
        if self.open:
            self.open = False
            self.service.tables.release()
            if self.folder is not None:
                self.folder.cleanup()


class _Streamed(StreamingResponse):
    """Closes the lines also where the client goes away before the first of them."""

    def __init__(self, lines: _Lines, first: str) -> None:
        super().__init__(lines.rest(first), headers={SHA256: lines.model.sha256}, media_type="application/jsonl")
        self.lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.lines.close()


async def _files(service: Service, request: Request) -> tuple[bytes, bytes | None]:
    """The table, and the archive of photos if there is one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in TABLE_TYPES:
        return await request.body(), None
    if kind != "multipart/form-data":
        raise Problem(
            415, f"Send {' or '.join(TABLE_TYPES)}, or multipart/form-data with files table and photos.", "content-type"
        )
    _, files = await service.parts(request)
    found: dict[str, bytes] = {}
    for name, content in files:
        if name not in ("table", "photos") or name in found:
            raise Problem(422, "There may be one file named table and one named photos, a zip archive.", name[:80])
        found[name] = content
    if "table" not in found:
        raise Problem(422, "The file is missing.", "table")
    return found["table"], found.get("photos")
