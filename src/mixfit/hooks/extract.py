"""Extract the outputs of a layer for every row of a loader, into a memory-mapped file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from mixfit.errors import ConfigError, DataError
from mixfit.files import new_file
from mixfit.hooks.hook import Call, Hook, evaluating, find_layer, tensors_in

_PER_PHOTO = "image.backbone"


@dataclass(frozen=True, slots=True)
class Features:
    """Outputs of a layer, and the rows that they belong to."""

    values: np.ndarray
    """``(rows, ...)``, memory-mapped: only the parts in use are loaded."""
    rows: Int64[np.ndarray, " rows"]
    """Position in its table of the row of each output; if the layer processes single photos, a row with three photos
    occurs three times. If batches have no row numbers, the position in the loader."""


def extract(
    model: nn.Module, layer: str, loader: Iterable[Any], path: Path | str, *, call: int = 0, part: str = ""
) -> Features:
    """Write the outputs of a layer for all batches to a ``.npy`` file, in the order of the loader.

    The row numbers are written to ``NAME.rows.npy`` beside it. The model runs in evaluation mode, without gradients,
    and its modes are restored; only one batch is in memory at a time.

    Args:
        layer: its name in the model, such as "fusion"; "" for the model itself.
        loader: of ``(xb, yb)`` batches.
        path: ends in ``.npy``; an existing file is replaced once everything is written.
        call: which call of the layer within a forward pass, from 0.
        part: which tensor of an output with several tensors, such as "[0]".
    Returns:
        The two files, memory-mapped, in the dtype of the layer's output, or float32 if NumPy lacks that dtype.
    Raises:
        ConfigError: there is no such layer, call or part, or its output does not have one entry per row.
        DataError: the loader is empty, or the outputs of rows differ in shape.
        ResourceError: the files cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ConfigError(f"The name of the features file must end in .npy, got {path.name}.")
    module = find_layer(model, layer)
    seen: list[dict[str, Tensor]] = []
    rows: list[np.ndarray] = []
    count, shape, dtype, batches = 0, (), np.dtype(np.float32), 0
    # All calls are recorded, because the requested tensor can only be identified after the forward pass.

    def keep(called: Call) -> None:
        # Copies, and only for the requested call: a later layer may change the output in place.
        wanted = len(seen) == call
        seen.append({name: tensor.clone() if wanted else tensor for name, tensor in tensors_in(called.output)})

    with new_file(path) as file, Hook(module, keep, name=layer), evaluating(model), torch.inference_mode():
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        for xb, yb in loader:
            seen.clear()
            model(xb.to(device) if hasattr(xb, "to") else xb)
            numbers = _rows_of(xb, len(yb), batches)
            batches += len(yb)
            if _is_per_photo(layer, xb):
                numbers = np.repeat(numbers, xb.image_mask.sum(1).numpy(force=True))
                if not len(numbers):
                    continue  # no photo in this batch, so the layer is not called
            output = _chosen(seen, layer, call, part)
            if not output.ndim or len(output) != len(numbers):
                raise ConfigError(
                    f"The output of the layer {layer!r} has shape {tuple(output.shape)} for {len(numbers)} rows; it "
                    "must have one entry per row."
                )
            values = (output.float() if output.dtype == torch.bfloat16 else output).numpy(force=True)
            if not rows:
                shape, dtype = values.shape[1:], values.dtype
                _write_header(file, (0, *shape), dtype)
            elif values.shape[1:] != shape:
                raise DataError(
                    f"The output of the layer {layer!r} has shape {values.shape[1:]} for row {numbers[0]} and {shape} "
                    f"for row {rows[0][0]}: all rows must have the same shape, for instance the same number of photos."
                )
            file.write(values.tobytes())
            rows.append(numbers)
            count += len(values)
        if not rows:
            raise DataError(
                f"There is nothing to extract from {layer!r}: "
                + ("no row has a photo." if batches else "the loader has no rows.")
            )
        file.seek(0)
        _write_header(file, (count, *shape), dtype)
    beside = path.with_suffix(".rows.npy")
    with new_file(beside) as file:
        np.save(file, np.concatenate(rows))
    return Features(np.load(path, mmap_mode="r"), np.load(beside))


def _rows_of(xb: Any, count: int, start: int) -> np.ndarray:
    rows = getattr(xb, "rows", None)
    return np.arange(start, start + count) if rows is None else rows.numpy(force=True)


def _is_per_photo(layer: str, xb: Any) -> bool:
    """Whether the layer is in the backbone of a ``MixedInputModel``, which processes the existing photos one by one."""
    inside = layer == _PER_PHOTO or layer.startswith(_PER_PHOTO + ".")
    return inside and getattr(xb, "image_mask", None) is not None


def _chosen(seen: list[dict[str, Tensor]], layer: str, call: int, part: str) -> Tensor:
    if call >= len(seen):
        raise ConfigError(f"The layer {layer!r} is called {len(seen)} times per forward pass: there is no call {call}.")
    found = seen[call]
    if part not in found:
        raise ConfigError(
            f"The output of {layer!r} has no part {part!r}; its parts are {', '.join(map(repr, found)) or 'none'}."
        )
    return found[part]


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Write the header; NumPy reserves space in it for the length of the first axis, which is not known yet."""
    header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    np.lib.format.write_array_header_2_0(file, header)
