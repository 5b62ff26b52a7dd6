"""``mixfit serve``: load the models, listen, and end without breaking off what has begun.

In: run folders and settings. Everything that a user can get wrong is said before the first request."""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from mixfit.errors import ConfigError, ResourceError
from mixfit.serve.app import make_app
from mixfit.serve.guard import JsonLines, log
from mixfit.serve.load import load_model
from mixfit.serve.problems import Problem
from mixfit.serve.protocol import server_config
from mixfit.serve.service import Service
from mixfit.serve.settings import ServeSettings

DEFAULT = "default"
"""Name of the model that is not named."""


def serve(runs: Mapping[str, Path], settings: ServeSettings, *, text_model: Path | None = None) -> None:
    """Serve models until a signal ends it: SIGTERM and SIGINT end it, SIGHUP reads the models again.

    Args:
        runs: run folders, model folders or ONNX files by name.
    Raises:
        ConfigError: a folder, a file or the port cannot be used.
        DataError: a folder or file is damaged.
    """
    if not runs:
        raise ConfigError("There is no model to serve.")
    load = partial(load_model, level=settings.interval, threads=settings.threads, text_model=text_model)
    models = {name: load(name, run) for name, run in runs.items()}
    service = Service(models, settings, text_model)
    with _listening(settings) as listener:
        _write_log_lines()
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        print(f" serving {', '.join(models)} at http://{shown}:{address[1]}/", flush=True)
        config = server_config(
            make_app(service),
            host=settings.host,
            port=address[1],
            timeout=settings.timeout,
            connections=settings.connections,
        )
        # What is loaded by now stays: to look through it for garbage takes a quarter of a second, in which nothing is
        # answered.
        gc.collect()
        gc.freeze()
        _Server(config, service).run(sockets=[listener])
    log("ended")


def _listening(settings: ServeSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        made = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
        # Only of a socket that knows its protocol does asyncio send an answer at once; else its body waits, after its
        # headers, for the client's word that they have come, which takes 40 ms.
        return socket.socket(family, made.type, socket.IPPROTO_TCP, fileno=made.detach())
    except (OSError, UnicodeError) as error:
        raise ResourceError(
            f"Cannot listen on {settings.host}, port {settings.port}: {getattr(error, 'strerror', None) or error}. "
            "Choose another one with --port."
        ) from error


def _write_log_lines() -> None:
    """Send the log of the server, and of uvicorn, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("mixfit.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


class _Server(uvicorn.Server):
    """Says on /readyz that it ends before it does, and reads the models again on SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._running: asyncio.AbstractEventLoop | None = None
        self._reloads = set[asyncio.Task[None]]()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._running = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            self._running.add_signal_handler(signal.SIGHUP, self._reload)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End: on SIGTERM after a while in which load balancers see it; at once on a second signal."""
        if self.service.draining or self._running is None:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        self.service.draining = True
        delay = self.service.settings.drain if sig == signal.SIGTERM else 0.0
        self._running.call_soon_threadsafe(self._running.call_later, delay, self._exit)

    def _exit(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        task: asyncio.Task[Any] = asyncio.ensure_future(self._reloaded())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reloaded(self) -> None:
        try:
            await self.service.reload()
        except Problem:
            return  # logged, and the models stay
