"""The tensors in whatever a layer gives: a tensor, tuples, lists, dicts, dataclasses, and these in each other."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor


def tensors_in(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its place, in order: "" alone, else such as "[0]" or ".hidden[2]"; anything else is left out.

    >>> import torch
    >>> [place for place, _ in tensors_in((torch.ones(1), {"h": [torch.ones(2), None]}))]
    ['[0]', '[1][h][0]']
    """
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from tensors_in(part, f"{path}[{key}]")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from tensors_in(part, f"{path}[{place}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name), f"{path}.{field.name}")
