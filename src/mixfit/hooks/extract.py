"""What a layer gives for every row of a loader, kept in a file that is read piece by piece."""

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
    """Outputs of a layer, and the rows they are of."""

    values: np.ndarray
    """``(rows, ...)``, mapped from the file: what is not looked at is not in memory."""
    rows: Int64[np.ndarray, " rows"]
    """Position in its table of the row that each output is of; a row with three photos is there thrice where the layer
    sees single photos. Where batches do not say their rows, the position in the loader."""


def extract(
    model: nn.Module, layer: str, loader: Iterable[Any], path: Path | str, *, call: int = 0, part: str = ""
) -> Features:
    """Write the outputs of a layer for all batches into a ``.npy`` file, in the order of the loader.

    The row numbers are written beside it, as ``NAME.rows.npy``. The model runs in evaluation mode, without gradients,
    and is left as it was; memory holds one batch at a time.

    Args:
        layer: its name in the model, such as "fusion"; "" for the model itself.
        loader: of ``(xb, yb)`` batches.
        path: ends in ``.npy``; replaced if it exists, and not before all is written.
        call: which of the layer's calls in a pass, from 0.
        part: of an output of several tensors, such as "[0]".
    Returns:
        The two files, opened. float32, or what the layer gives where NumPy knows that.
    Raises:
        ConfigError: there is no such layer, call or part, or it gives no row for each row.
        DataError: the loader is empty, or the rows' outputs differ in shape.
        ResourceError: the files cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ConfigError(f"The file of features must end in .npy, got {path.name}.")
    module = find_layer(model, layer)
    seen: list[dict[str, Tensor]] = []
    rows: list[np.ndarray] = []
    count, shape, dtype, batches = 0, (), np.dtype(np.float32), 0
    # Hooked are calls, not outputs: which tensor is meant can be judged once the pass is over.

    def keep(called: Call) -> None:
        # Copies, and only of the call that is wanted: a later layer may change its output in place.
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
                    continue  # there is no photo in this batch, and the layer has nothing to do
            output = _chosen(seen, layer, call, part)
            if not output.ndim or len(output) != len(numbers):
                raise ConfigError(
                    f"The layer {layer!r} gives {tuple(output.shape)} for {len(numbers)} rows, not one output for each."
                )
            values = (output.float() if output.dtype == torch.bfloat16 else output).numpy(force=True)
            if not rows:
                shape, dtype = values.shape[1:], values.dtype
                _write_header(file, (0, *shape), dtype)
            elif values.shape[1:] != shape:
                raise DataError(
                    f"The layer {layer!r} gives {values.shape[1:]} for row {numbers[0]} and {shape} for row "
                    f"{rows[0][0]}: all rows must have the same, for instance the same number of photos."
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
    """The backbone of a ``MixedInputModel`` sees the photos that are there, one after another."""
    inside = layer == _PER_PHOTO or layer.startswith(_PER_PHOTO + ".")
    return inside and getattr(xb, "image_mask", None) is not None


def _chosen(seen: list[dict[str, Tensor]], layer: str, call: int, part: str) -> Tensor:
    if call >= len(seen):
        raise ConfigError(f"The layer {layer!r} runs {len(seen)} times in a pass: there is no call {call}.")
    found = seen[call]
    if part not in found:
        raise ConfigError(
            f"The output of {layer!r} has no part {part!r}; its parts are {', '.join(map(repr, found)) or 'none'}."
        )
    return found[part]


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """NumPy leaves room in it for a first axis that is not known yet."""
    header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    np.lib.format.write_array_header_2_0(file, header)
