"""Tensors of a model that was saved, checked before they are used: there, of the right kind and shape, finite.

In: tensors by name, out of a file that may be damaged or come from a stranger. Out: arrays."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mixfit.errors import DataError
from mixfit.files import shown

_KINDS: dict[str, tuple[torch.dtype, ...]] = {
    "float": (torch.float64, torch.float32),
    "int": (torch.int64,),
    "byte": (torch.uint8,),
}


def saved_array(
    tensors: Mapping[str, Tensor],
    name: str,
    *shape: int | None,
    kind: Literal["float", "int", "byte"] = "float",
    low: float | int = -np.inf,
    high: float | int = np.inf,
    infinite: bool = False,
) -> np.ndarray:
    """One of the tensors of a saved model.

    Args:
        shape: sizes; None for one that this tensor decides.
        low, high: least and largest number.
        infinite: whether its numbers may be infinite.
    Raises:
        DataError: it is missing, or is something else.
    """
    if name not in tensors:
        raise DataError(f"there is no tensor {shown(name)!r}")
    tensor = tensors[name]
    if tensor.dtype not in _KINDS[kind]:
        raise DataError(f"the tensor {shown(name)!r} holds {tensor.dtype} in place of {_KINDS[kind][0]}")
    found = tuple(tensor.shape)
    if len(found) != len(shape) or any(want not in (None, size) for want, size in zip(shape, found, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(f"the tensor {shown(name)!r} has the shape {found} in place of ({wanted})")
    values = tensor.numpy()
    if np.isnan(values).any() or not (infinite or np.isfinite(values).all()):
        raise DataError(f"the tensor {shown(name)!r} is not finite")
    if values.size and not (low <= values.min() and values.max() <= high):
        raise DataError(f"the tensor {shown(name)!r} has a number out of its range")
    return values


def saved_number(tensors: Mapping[str, Tensor], name: str) -> float:
    """A tensor of one number; errors as for ``saved_array``."""
    return float(saved_array(tensors, name, 1)[0])


def saved_classes(tensors: Mapping[str, Tensor]) -> int:
    """The tensor ``classes``: their number, 0 for a number; errors as for ``saved_array``."""
    classes = int(saved_array(tensors, "classes", 1, kind="int", low=0, high=10**6)[0])
    if classes == 1:
        raise DataError("there is only one class")
    return classes


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
