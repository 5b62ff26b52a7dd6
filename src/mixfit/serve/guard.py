"""What stands around all paths: who may ask, how much, and what is said of it in the log.

In: any ASGI application. Out: the same behind a token, a check of the host, limits on bodies and on the memory that all
bodies take together, security headers, one line of JSON per request, and an answer in JSON to whatever goes wrong.
Nothing of the contents of a request is logged, not even in the message of an error."""

import base64
import binascii
import hmac
import json
import logging
import time
import traceback
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixfit.serve.metrics import Metrics
from mixfit.serve.problems import Problem
from mixfit.serve.settings import ServeSettings, is_loopback

LOG = logging.getLogger("mixfit.serve")
OPEN_PATHS = ("/healthz", "/readyz")
"""Paths that need no token: they tell nothing of the model."""
CLIENT_GONE = 499
"""Status in the log for a client that went away, as other servers have it."""
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
BUG = Problem(500, "This is a bug in mixfit, not your mistake; the log says where.")
"""The answer to whatever should not happen."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(eq=False)
class Guard:
    """The outermost layer of the application."""

    app: ASGIApp
    settings: ServeSettings
    metrics: Metrics
    paths: tuple[str, ...]
    """Our own; any other is "other" in the log."""
    bodies: int = 0
    """Bytes of bodies that are held."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send)
        started = time.perf_counter()
        try:
            await self._serve(exchange)
        finally:
            self.bodies -= exchange.held
            seconds = time.perf_counter() - started
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, str(exchange.status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            log(
                "request",
                method=method,
                path=path,
                status=exchange.status,
                ms=round(1000 * seconds, 1),
                bytes=exchange.read,
                rows=scope.get("mixfit.rows", 0),
            )

    async def _serve(self, exchange: "_Exchange") -> None:
        try:
            self._check(exchange.scope)
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except Problem as problem:
            await exchange.answer(problem)
        except ClientDisconnect:
            exchange.status = CLIENT_GONE
        except Exception as error:
            log("bug", level=logging.ERROR, error=type(error).__name__, at=_frames(error))
            if exchange.started and not exchange.ended:
                raise RuntimeError("an answer was broken off") from None  # the server closes the connection
            await exchange.answer(BUG)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if is_loopback(self.settings.host) and not is_loopback(_host(headers.get("host", ""))):
            # A page of another site could reach this server under a name of its own (DNS rebinding).
            raise Problem(400, "This server answers only under the name localhost or 127.0.0.1.", "host")
        if scope["path"] not in OPEN_PATHS and not self._allowed(headers.get("authorization", "")):
            raise Problem(401, "A token is needed: send it as Authorization: Bearer TOKEN, or as a password.")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self.settings.most_body:
            raise self.too_long()

    def _allowed(self, given: str) -> bool:
        token = self.settings.token
        if token is None:
            return True
        kind, _, said = given.partition(" ")
        if kind.lower() == "basic":
            try:
                said = base64.b64decode(said, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(said.encode("utf-8", "surrogateescape"), token.encode("utf-8"))

    def too_long(self) -> Problem:
        """The refusal of a body."""
        return Problem(413, f"The body has more than {self.settings.most_body:,} bytes, the limit of this server.")


@dataclass(eq=False)
class _Exchange:
    """One request and its answer."""

    guard: Guard
    scope: Scope
    outer_receive: Receive
    outer_send: Send
    read: int = 0
    """Bytes of the body so far."""
    held: int = 0
    """Those that count as held."""
    complete: bool = False
    """Whether the body has ended."""
    started: bool = False
    ended: bool = False
    status: int = 0

    async def receive(self) -> Message:
        """The next piece of the body, unless it is one too many."""
        message = await self.outer_receive()
        if message["type"] != "http.request":
            return message
        more = len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        self.read += more
        if self.read > self.guard.settings.most_body:
            await self._drain()
            raise self.guard.too_long()
        if self.guard.bodies + more > self.guard.settings.most_memory:
            raise Problem(503, "The server holds as many bodies as it can: come back later.", retry_after=1)
        self.guard.bodies, self.held = self.guard.bodies + more, self.held + more
        return message

    async def _drain(self) -> None:
        """Read on a little without keeping it: a client that is still sending would not see the answer."""
        limit = 2 * self.read
        while not self.complete and self.read < limit:
            message = await self.outer_receive()
            if message["type"] != "http.request":
                raise ClientDisconnect
            self.complete = not message.get("more_body", False)
            self.read += len(message.get("body", b""))

    async def send(self, message: Message) -> None:
        """Add our headers to an answer."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if self.status == 401:
                headers["www-authenticate"] = 'Basic realm="mixfit", charset="UTF-8"'
            if not self.complete and self._has_body():
                headers["connection"] = "close"  # the rest of the body is not read
            message = {**message, "headers": headers.raw}
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.ended = True
        await self.outer_send(message)

    def _has_body(self) -> bool:
        headers = Headers(scope=self.scope)
        return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

    async def answer(self, problem: Problem) -> None:
        """Answer with a problem, unless an answer has begun."""
        if not self.started:
            response = JSONResponse(problem.to_dict(), problem.status, headers=problem.headers)
            await response(self.scope, self.receive, self.send)


def _host(header: str) -> str:
    """The name in a Host header, without the port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".").lower()


def _frames(error: BaseException) -> list[str]:
    """Where an error came from, without its message, which may hold cells."""
    return [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
    ]


def log(event: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Write one line of JSON."""
    LOG.log(level, json.dumps({"event": event, **facts}, ensure_ascii=True, default=str))


class JsonLines(logging.Formatter):
    """Every record of the log as one line of JSON; of an error its type and place, not its message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        head = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        if record.name == LOG.name:
            return json.dumps(head)[:-1] + ", " + record.getMessage()[1:]
        found: dict[str, Any] = {**head, "event": "server", "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            found |= {"error": type(record.exc_info[1]).__name__, "at": _frames(record.exc_info[1])}
        return json.dumps(found)
