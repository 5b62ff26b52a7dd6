"""Pieces of work on a Ray cluster, or on the cores of this machine.

In: an ``Engine``'s pieces and work. Out: the results, in the order of the pieces. ``RayEngine`` is a context manager:
it starts Ray, or connects to the cluster of ``RAY_ADDRESS``, and leaves it at the end.
Ray Data reads the pieces in one process and does the work in actors, which hold the network; a lost worker's pieces are
done again by another one."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console

from mixfit.auto.engine import Work
from mixfit.errors import ResourceError
from mixfit.files import first_line

# No reports of use over the network, no bars and no hints on the terminal; read when Ray is imported and started.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_agent_register_timeout_ms": "120000",  # on a busy machine Ray's own processes take longer to start
}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)

try:
    import ray as ray  # ray_fits takes it from here, where it is said how to install it
    import ray.data
    import ray.exceptions
except ImportError as error:
    raise ResourceError("--engine ray needs Ray, which is not installed: pip install 'mixfit[ray]'.") from error


class RayEngine:
    """Does pieces of work in actors of Ray.

    Args:
        workers: number of actors; by default as many as fit beside the one core that reads.
        console: where it is written how long Ray took to start; by default nowhere.
        cpus: cores of this machine that Ray may use, if it is started here; by default all.
    """

    def __init__(self, *, workers: int | None = None, console: Console | None = None, cpus: int | None = None) -> None:
        self.workers, self.console, self.cpus = workers, console, cpus
        self.seconds = 0.0
        """That Ray took to start."""
        self._stack = ExitStack()

    def __enter__(self) -> "RayEngine":
        began = time.perf_counter()
        if not ray.is_initialized():
            start_ray(self.cpus)
            self._stack.callback(ray.shutdown)
        self.seconds = time.perf_counter() - began
        if self.console is not None:
            cores = int(ray.cluster_resources().get("CPU", 0))
            self.console.print(
                f" ray {ray.__version__} with {cores} cores, ready in {self.seconds:.1f} s", markup=False
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()

    def each(self, read: Callable[[], Iterator[Any]], make: Callable[[], Work], *, threads: int) -> Iterator[Any]:
        """See ``mixfit.auto.engine.Engine``.

        Raises:
            MixfitError: as the work raises it.
            ResourceError: the workers were lost again and again.
        """
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        # A block is what a worker gets at a time, and what is given back: larger ones would gather all pieces in one.
        context.target_max_block_size = 1
        cores = int(ray.cluster_resources().get("CPU", 1))
        # One core is left to reading: without, actors and reading would wait for each other without end.
        each = max(1, min(threads, cores - 1))
        gpus = gpus_of_a_worker()
        most = max(1, (cores - 1) // each) if not gpus else max(1, int(ray.cluster_resources().get("GPU", 1) / gpus))
        count = most if self.workers is None else max(1, min(self.workers, most))
        rows = (
            ray.data.from_items([0])
            # Of other resources than the work, so that Ray Data does not let one actor do both.
            .map_batches(_Reading(read), batch_size=1, num_cpus=0.5)
            .map_batches(
                _Worker,
                fn_constructor_args=(make,),
                batch_size=1,
                concurrency=count,
                num_cpus=each,
                num_gpus=gpus or None,
            )
        )
        with _errors():
            for row in rows.iter_rows():
                if isinstance(row["result"], Failed):
                    raise row["result"].error
                yield row["result"]


def start_ray(cpus: int | None = None) -> None:
    """Start Ray on this machine without dashboard, or connect to the cluster of ``RAY_ADDRESS``.

    Args:
        cpus: cores that it may use; by default those of this process.
    Raises:
        ResourceError: it does not start.
    """
    known = bool(os.environ.get("RAY_ADDRESS"))
    cores = cpus or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    local: dict[str, Any] = {} if known else {"num_cpus": cores, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises a bare Exception where its processes do not start
        where = f"at {os.environ['RAY_ADDRESS']}" if known else "on this machine"
        raise ResourceError(f"Ray could not be started {where}: {str(error).splitlines()[0]}.") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def gpus_of_a_worker() -> float:
    """One if this process computes on GPUs and the machines have some; else 0."""
    import torch

    return 1.0 if torch.cuda.is_available() and ray.cluster_resources().get("GPU", 0) else 0.0


class _Reading:
    """Reads the pieces, one row of a block each."""

    def __init__(self, read: Callable[[], Iterator[Any]]) -> None:
        self.read = read

    def __call__(self, _: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        try:
            for piece in self.read():
                yield {"piece": _objects([piece])}
        except Exception as error:
            yield {"piece": _objects([Failed(error)])}


class _Worker:
    """Does the work, after preparing it once."""

    def __init__(self, make: Callable[[], Work]) -> None:
        self.make = make
        self.work: Work | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"result": _objects([self._result(piece) for piece in batch["piece"]])}

    def _result(self, piece: Any) -> Any:
        if isinstance(piece, Failed):
            return piece
        try:
            self.work = self.make() if self.work is None else self.work
            return self.work(piece)
        except Exception as error:
            return Failed(error)


@dataclass(frozen=True, slots=True)
class Failed:
    """In place of a result, why there is none; Ray would wrap an error that is raised, and repeat the work."""

    error: Exception


def _objects(values: list[Any]) -> np.ndarray:
    """An array of Python objects, whatever they are."""
    found = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        found[place] = value
    return found


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ray.exceptions.RayError as error:
        raise unwrapped(error) from error


def unwrapped(error: BaseException) -> BaseException:
    """The error of a worker as it was raised there, or a ResourceError if workers were lost."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return MemoryError(first_line(Exception(str(error))))
    inner: BaseException | None = error
    while isinstance(inner, ray.exceptions.RayError) and getattr(inner, "cause", None) is not None:
        inner = inner.cause
    if inner is not None and not isinstance(inner, ray.exceptions.RayError):
        return inner
    return ResourceError(
        f"Ray lost its workers: {first_line(Exception(str(error).strip()))}. The same command continues."
    )
