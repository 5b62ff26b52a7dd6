"""Checkpoints: the weights and the optimizer's state on disk while training runs.

``last`` is the newest epoch, ``best`` the one with the best value of a metric. Each is a folder of safetensors and JSON
with a manifest of sha256 sums, put in place by renaming. Frozen parameters, which cannot change, are left out."""

import hashlib
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from mixfit.errors import ConfigError, DataError
from mixfit.files import json_numbers, new_folder, write_file
from mixfit.training.callback import Callback
from mixfit.training.callbacks.control import changing_tensors
from mixfit.training.state import TrainState

Name = Literal["last", "best"]


class Checkpoints(Callback):
    """Saves ``last`` and ``best`` into a folder, at most every ``seconds`` and always when the fit ends.

    Args:
        folder: where ``last/`` and ``best/`` are made; created if needed.
        metric: a key of ``state.metrics`` that says which epoch is best.
        mode: which direction is better.
        seconds: shortest time between two savings, so that short epochs are not all written.
    """

    order = 5  # after the epoch is recorded, before early stopping may put other weights back

    def __init__(
        self, folder: Path, metric: str = "valid_loss", *, mode: Literal["min", "max"], seconds: float = 15.0
    ) -> None:
        self.folder, self.metric, self.seconds = folder, metric, seconds
        self.sign = 1.0 if mode == "min" else -1.0
        self.best = math.inf
        self._waiting: dict[Name, dict[str, bytes]] = {}
        self._saved_at = 0.0

    def before_fit(self, state: TrainState) -> None:
        """Start anew; the first epoch is saved at once."""
        self.best, self._waiting, self._saved_at = math.inf, {}, -math.inf

    def after_epoch(self, state: TrainState) -> None:
        """Remember this epoch; write when the last writing is long enough ago."""
        content = checkpoint_content(state)
        self._waiting["last"] = content
        value = self.sign * state.metrics.get(self.metric, math.nan)  # nan is never better
        if value < self.best:
            self.best = value
            self._waiting["best"] = content
        if time.monotonic() - self._saved_at >= self.seconds:
            self._write()

    def close(self, state: TrainState) -> None:
        """Write what waits, also after an error: what was learned until then is kept."""
        self._write()

    def _write(self) -> None:
        for name, content in self._waiting.items():
            _replace_folder(self.folder / name, content)
        self._waiting = {}
        self._saved_at = time.monotonic()


def checkpoint_content(state: TrainState) -> dict[str, bytes]:
    """The files of a checkpoint by name."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in changing_tensors(state).items()}
    tensors, numbers = _split_tensors(state.optimizer.state_dict())
    facts = {"epoch": state.epoch + 1, "step": state.step, "metrics": json_numbers(state.metrics), "optimizer": numbers}
    files = {
        "model.safetensors": save_tensors(weights),
        "optimizer.safetensors": save_tensors(tensors),
        "state.json": json.dumps(facts).encode(),
    }
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {**files, "MANIFEST.json": json.dumps(sums, indent=1).encode()}


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Any = None) -> dict[str, Any]:
    """Put the weights of a checkpoint into ``model``; what was known of the epoch is returned.

    Args:
        folder: such as ``last`` or ``best``.
        model: of the same architecture.
        optimizer: over its parameters as when the checkpoint was made (``Learner`` takes those of
            ``parameter_groups``), to go on from there; None to leave it.

    Raises:
        DataError: a file is missing or damaged, or the weights are those of another network.
        ConfigError: the optimizer's state is that of another one; the model is not changed then.
    """
    try:
        sums = json.loads((folder / "MANIFEST.json").read_bytes())
        files = {name: (folder / name).read_bytes() for name in sums}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not a whole checkpoint: {error}.") from error
    damaged = [name for name, content in files.items() if hashlib.sha256(content).hexdigest() != sums[name]]
    if damaged:
        raise DataError(f"{folder}/{damaged[0]} is damaged: its sha256 is not the one in MANIFEST.json.")
    weights = load_tensors(files["model.safetensors"])
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    strange = (weights.keys() - model.state_dict().keys()) | (trainable - weights.keys())
    if strange:
        raise DataError(f"{folder} holds the weights of another network: {len(strange)} names differ.")
    _require_shapes(folder, weights, model.state_dict())
    facts: dict[str, Any] = json.loads(files["state.json"])
    if optimizer is not None:
        state = _join_tensors(facts["optimizer"], load_tensors(files["optimizer.safetensors"]))
        try:
            optimizer.load_state_dict(state)
        except ConfigError:
            raise
        except (KeyError, ValueError) as error:  # PyTorch's
            raise ConfigError(f"The saved optimizer does not fit this one: {error}.") from error
    model.load_state_dict(weights, strict=False)
    return facts


def _require_shapes(folder: Path, weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise DataError(
                f"{folder} holds the weights of another network: {name} is {tuple(tensor.shape)} there and "
                f"{tuple(wanted[name].shape)} here."
            )


def _split_tensors(state: Any, path: str = "") -> tuple[dict[str, Tensor], Any]:
    """Tensors of a nested state by their path, and the rest with each tensor's path in its place."""
    match state:
        case torch.Tensor():
            return {path: state.detach().cpu().contiguous()}, {"tensor": path}
        case dict():
            parts = {str(key): _split_tensors(value, f"{path}/{key}") for key, value in state.items()}
            tensors = {name: tensor for found, _ in parts.values() for name, tensor in found.items()}
            return tensors, {key: rest for key, (_, rest) in parts.items()}
        case list() | tuple():
            listed = [_split_tensors(value, f"{path}/{place}") for place, value in enumerate(state)]
            return {k: v for found, _ in listed for k, v in found.items()}, [rest for _, rest in listed]
        case _:
            return {}, state


def _join_tensors(rest: Any, tensors: dict[str, Tensor]) -> Any:
    """The state that ``_split_tensors`` took apart; tuples have become lists.

    JSON has made texts of integer keys: under those PyTorch's optimizers would find none of their state."""
    match rest:
        case {"tensor": str(path)} if len(rest) == 1:
            return tensors[path]
        case dict():
            return {int(key) if key.isdecimal() else key: _join_tensors(value, tensors) for key, value in rest.items()}
        case list():
            return [_join_tensors(value, tensors) for value in rest]
        case _:
            return rest


def _replace_folder(path: Path, content: dict[str, bytes]) -> None:
    """The new folder is complete before the old one goes; in between the old one is kept under another name."""
    fresh, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with new_folder(fresh) as temporary:
        for name, data in content.items():
            write_file(temporary / name, data)
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)
