"""Putting back all that a trial training changes: weights, modes, gradients, random states, places of loaders."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.seeding import random_states, set_random_states


@contextmanager
def preserved(model: nn.Module, loaders: Iterable[Any] = ()) -> Iterator[None]:
    """Leave everything as it was found when the block ends, also by an error.

    That is: parameters, buffers (those that are not saved, too), which of them learn, gradients, the mode of every
    module, the random states of Python, NumPy and PyTorch on every device, and where the loaders stand in their epoch.
    """
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    kept = _copies([*(parameter for parameter, _, _ in parameters), *(buffer for _, _, buffer in buffers)])
    modes = [(module, module.training) for module in model.modules()]
    places = [_place(loader) for loader in loaders]
    randomness = random_states()
    for parameter, _, _ in parameters:
        parameter.grad = None  # set aside rather than copied: an optimizer may zero gradients in place
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
        for module, name, buffer in buffers:
            setattr(module, name, buffer)  # some modules put new tensors in place of their buffers
        for parameter, learns, gradient in parameters:
            parameter.requires_grad_(learns)
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
        for restore in places:
            restore()
        set_random_states(randomness)


def _copies(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(tensor, tensor.detach().clone()) for tensor in tensors]


def _place(loader: Any) -> Any:
    """A function that puts a loader back to where it stands now."""
    bookmark = getattr(loader, "bookmark", None)
    return _foreign_place(loader) if bookmark is None else bookmark()


def _foreign_place(loader: Any) -> Any:
    """PyTorch's loaders draw their orders from a generator, others may have a ``state_dict``."""
    sampler = getattr(loader, "sampler", None)
    found = [getattr(part, "generator", None) for part in (loader, sampler, getattr(loader, "batch_sampler", None))]
    generators = [(it, it.get_state()) for it in found if isinstance(it, torch.Generator)]
    state = copy.deepcopy(loader.state_dict()) if hasattr(loader, "load_state_dict") else None

    def restore() -> None:
        for generator, value in generators:
            generator.set_state(value)
        if state is not None:
            loader.load_state_dict(state)

    return restore
