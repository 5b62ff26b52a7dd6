"""Model folders: written whole, read with everything checked.

In: tensors and a description. Out: ``model.safetensors``, ``mixfit.json`` with the sha256 of the former, and a card."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import mixfit
from mixfit.choices import Crop
from mixfit.errors import DataError
from mixfit.files import new_folder, write_file
from mixfit.predictor.base import Predictor

FORMAT_VERSION = 3
"""Of what is written now; 1 had one network only, and is read still, and 2 had blends whose intervals are refused."""
# What reading a description raises that is not what we wrote.
_DAMAGE = (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError)


def save_folder(
    folder: Path, tensors: dict[str, Tensor], description: dict[str, Any], card: Callable[[str], str]
) -> None:
    """Write a model folder.

    Args:
        card: makes the model card, given the sha256 of the weights.

    Raises:
        ResourceError: the folder exists or cannot be written.
    """
    # Clones: models of a blend may share memory, which safetensors refuses.
    copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    weights = save_tensors(copies)
    digest = hashlib.sha256(weights).hexdigest()
    head = {
        "format_version": FORMAT_VERSION,
        "mixfit_version": mixfit.__version__,
        "weights_sha256": digest,
    }
    with new_folder(folder) as temporary:
        write_file(temporary / "model.safetensors", weights)
        write_file(temporary / "mixfit.json", json.dumps(head | description, indent=1, allow_nan=False))
        write_file(temporary / "README.md", card(digest))


def load_predictor(folder: Path) -> Predictor:
    """Read a model folder of any kind.

    Raises:
        DataError: a file is missing or damaged, or a newer mixfit wrote it.
    """
    from mixfit.predictor.blend import BlendPredictor
    from mixfit.predictor.network import NetworkPredictor

    if not (folder / "mixfit.json").is_file() and (folder / "model" / "mixfit.json").is_file():
        folder = folder / "model"  # of a run folder
    description, weights = _read_folder(folder)
    try:
        tensors = load_tensors(weights)
        kind = description.get("kind", "network")
        if kind not in ("network", "blend"):
            raise ValueError(f"there is no kind of model {kind!r}")
        read = BlendPredictor.read if kind == "blend" else NetworkPredictor.read
        predictor = read(description, tensors)
    except _DAMAGE as error:
        raise DataError(f"{folder}/mixfit.json does not describe these weights: {error}. Train again.") from error
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _finite(name, tensor)]
    if bad:
        raise DataError(f"{len(bad)} tensors in {folder}/model.safetensors are not finite, the first is {bad[0]}.")
    return predictor


def read_crop(name: object) -> Crop:
    """A way to make photos square, by its name.

    Raises:
        ValueError: there is none of this name.
    """
    for crop in get_args(Crop):
        if crop == name:
            return crop
    raise ValueError(f"there is no crop {name!r}")


def _finite(name: str, tensor: Tensor) -> bool:
    """Thresholds of trees may be infinite, as in: everything that is there goes to the left."""
    return bool(torch.isfinite(tensor).all()) or (name.endswith(".threshold") and not torch.isnan(tensor).any())


def _read_folder(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The checked description and weights of a model folder."""
    try:
        description = json.loads((folder / "mixfit.json").read_text(encoding="utf-8"))
        weights = (folder / "model.safetensors").read_bytes()
    except OSError as error:
        raise DataError(
            f"{folder} is not a model folder: {error.filename} cannot be read ({error.strerror})."
        ) from error
    except ValueError as error:
        raise DataError(f"{folder}/mixfit.json is damaged: {error}.") from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if not isinstance(version, int):
        raise DataError(f"{folder}/mixfit.json is damaged: it has no format_version.")
    if version > FORMAT_VERSION:
        raise DataError(
            f"{folder} has format {version}, this mixfit reads up to {FORMAT_VERSION}: install a newer mixfit."
        )
    if hashlib.sha256(weights).hexdigest() != description.get("weights_sha256"):
        raise DataError(
            f"{folder}/model.safetensors is damaged: its sha256 is not the one in mixfit.json. Copy it again."
        )
    return description, weights
