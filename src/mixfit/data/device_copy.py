"""Batches on their way to a device.

In: batches on the CPU. Out: the same batches on the device, in order; on CUDA the next batch is copied while the
current one is in use. Knows neither datasets nor transforms."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mixfit.data.batch import Inputs


def move(value: Any, device: torch.device | str, *, non_blocking: bool = False) -> Any:
    """A tensor, ``Inputs``, or a list, tuple or dictionary of such, on ``device``; anything else as it is."""
    if isinstance(value, Tensor | Inputs):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, Mapping):
        return {key: move(part, device, non_blocking=non_blocking) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return _like(value, [move(part, device, non_blocking=non_blocking) for part in value])
    return value


def pin(value: Any) -> Any:
    """The same in page-locked memory, from where a GPU copies by itself while the CPU goes on."""
    if isinstance(value, Tensor | Inputs):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {key: pin(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return _like(value, [pin(part) for part in value])
    return value


def _like(value: list[Any] | tuple[Any, ...], parts: list[Any]) -> Any:
    """The parts in the same kind of sequence; a named tuple takes them one by one."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*parts)
    return tuple(parts) if isinstance(value, tuple) else parts


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in a batch."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Inputs):
        yield from value.tensors().values()
    elif isinstance(value, Mapping):
        yield from tensors_of(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_of(part)


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Batches from the CPU -> on ``device``; for CUDA they should be in pinned memory."""
    match device.type:
        case "cpu":
            yield from batches
        case "cuda":
            yield from _copied_ahead(batches, device)
        case _:
            for batch in batches:
                yield move(batch, device)


def _copied_ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The copy of the next batch is under way while one is in use.

    A copy in the stream of the computation would wait for that computation; these have a stream of their own."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(batch: Any) -> tuple[Any, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return move(batch, device, non_blocking=True), stream.record_event()

    def ready(moved: Any, copied: torch.cuda.Event) -> Any:
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        for tensor in tensors_of(moved):
            tensor.record_stream(current)  # its memory came from the other stream: keep it until this one is done
        return moved

    under_way: tuple[Any, torch.cuda.Event] | None = None
    for batch in batches:
        previous, under_way = under_way, start(batch)
        if previous is not None:
            yield ready(*previous)
    if under_way is not None:
        yield ready(*under_way)
