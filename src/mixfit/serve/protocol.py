"""HTTP over a socket, with deadlines: uvicorn has none for headers, for bodies and for reading.

A connection has ``timeout`` seconds for all headers of a request from its first byte (or from its start), as many for
all of the body, and as many to read a piece of the answer. A byte now and then does not extend them."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_HEADERS = 32_768
"""Bytes of the headers of a request."""
_LINGER = 1.0  # seconds to flush a last answer


def protocol_class(*, timeout: float, connections: int) -> type[H11Protocol]:
    """The protocol with these limits.

    Args:
        timeout: seconds.
        connections: largest number of open connections; one more is told to come back.
    """

    class DeadlineProtocol(H11Protocol):
        """One connection."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._phase: tuple[str, int] | None = None
            self._deadline: asyncio.TimerHandle | None = None
            self._unread: asyncio.TimerHandle | None = None
            self._begun = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > connections:
                self._close(503, "Too many connections: come back later.", b"retry-after: 1\r\n")
            else:
                self._enter(("headers", 0))

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self.cycle is None or self.cycle.response_complete:
                self._begun = True
                if self._phase is None:
                    self._enter(("headers", id(self.cycle)))
            super().data_received(data)
            self._follow()

        def on_response_complete(self) -> None:
            self._begun = False
            super().on_response_complete()
            self._follow()

        def _follow(self) -> None:
            """Set the deadline for what is awaited of the client now."""
            if self.transport.is_closing():
                self._enter(None)
            elif self.cycle is not None and not self.cycle.response_complete:
                self._enter(("body", id(self.cycle)) if self.cycle.more_body else None)
            elif not self._begun and self.cycle is not None:
                self._enter(None)  # idle between two requests, which the keep-alive of uvicorn ends

        def _enter(self, phase: tuple[str, int] | None) -> None:
            if phase == self._phase:
                return
            self._phase = phase
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            if phase is not None:
                self._deadline = self.loop.call_later(timeout, self._expire)

        def _expire(self) -> None:
            what = self._phase[0] if self._phase is not None else "request"
            self._close(408, f"The {what} did not arrive within {timeout:g} s.", b"")

        def _close(self, status: int, message: str, extra: bytes) -> None:
            """Answer, unless an answer has begun, and end the connection."""
            cycle = self.cycle
            if cycle is None or cycle.response_complete or not cycle.response_started:
                body = b'{"error":{"message":"%s","where":null}}' % message.encode()
                reason = {408: b"Request Timeout", 503: b"Service Unavailable"}[status]
                head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (
                    status,
                    reason,
                    len(body),
                )
                self.transport.write(head + b"connection: close\r\n" + extra + b"\r\n" + body)
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
            self._enter(None)
            self.transport.close()
            self.loop.call_later(_LINGER, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._enter(None)
            self._read()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                self._unread = self.loop.call_later(timeout, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._read()

        def _read(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

    return DeadlineProtocol


def server_config(app: Any, *, host: str, port: int, timeout: float, connections: int) -> uvicorn.Config:
    """The configuration of uvicorn with our protocol, and without its own log."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol_class(timeout=timeout, connections=connections),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MOST_HEADERS,
        timeout_keep_alive=max(1, int(min(timeout, 5))),
        timeout_graceful_shutdown=max(1, int(timeout)),
    )
