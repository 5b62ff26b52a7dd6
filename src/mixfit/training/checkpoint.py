"""Checkpoints: a callback that saves a fit, the state for a bit-identical resumption, and its folder.

The folder has safetensors and JSON files with a manifest of sha256 sums, and is replaced by renaming."""

import hashlib
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from mixfit.errors import ConfigError, DataError
from mixfit.files import explained, flush_folder, json_numbers, read_file, write_file
from mixfit.seeding import random_states, set_random_states
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.distributed import writes_files

SHARE = 0.05
"""Largest share of a fit's time spent on saving."""
LAST, PREVIOUS, BEST = "last", "previous", "best"
FILES = WEIGHTS, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
FORMAT = 1
"""Increased whenever older versions cannot read the files."""
_LARGEST_MANIFEST, _LARGEST_FILE = 10_000, 2**36
"""Limit in bytes; manifests have a few hundred."""
_NOT_IN_JSON = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a fit. Its tensors are those in use, not copies: write or copy them immediately."""

    weights: dict[str, Tensor]
    """Tensors of the model that training can change, without frozen parameters."""
    optimizer: dict[str, Any]
    callbacks: dict[str, dict[str, Any]]
    """States of callbacks by class, with a number for the second and further ones of a class."""
    loader: dict[str, Any] | None
    """Position in the training rows; None between two epochs."""
    random: dict[str, Any]
    """States of the generators that a model or a callback may draw from."""
    loss_sum: Tensor
    epochs: int
    steps_per_epoch: int
    epoch: int
    """Number of finished epochs."""
    batch: int
    """Number of finished batches of the next epoch."""
    step: int
    rows_seen: int
    parts: int
    metrics: dict[str, float]
    finished: bool = False
    """Whether the fit is over; then the weights are its result."""
    note: str = ""
    """Why an older checkpoint was used; empty for the newest."""

    def load_optimizer(self, optimizer: Any) -> None:
        """Restore the optimizer's state.

        Raises:
            ConfigError: it belongs to another kind of optimizer, or to other parameters.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):  # ours raise their own errors
            optimizer.load_state_dict(self.optimizer)
            return
        try:
            optimizer.load_state_dict(self.optimizer)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"The saved optimizer does not fit this one: {error}.") from error


@dataclass(frozen=True, slots=True)
class Best:
    """The weights of the best epoch so far."""

    weights: dict[str, Tensor]
    epoch: int
    """Counted from 1."""
    step: int
    metrics: dict[str, float]


class Checkpoints(Callback):
    """Saves ``last`` and ``best`` into a folder, see ``write_last`` and ``write_best``.

    ``last`` is all of the fit, in the middle of an epoch too; ``best`` the weights of the epoch with the best metric.
    They are written at most every ``seconds``, less often if writing is slow, and always after the first batch, and
    when the fit ends or is asked to stop. A killed process loses the progress since the last checkpoint.

    Args:
        folder: where ``last/`` and ``best/`` are written; created if needed.
        metric: a key of ``state.metrics`` that defines the best epoch.
        mode: which direction is better.
        seconds: shortest time between checkpoints; 0 writes after every batch.
        ends: write after the first batch and at the end of the fit; False if the result is saved elsewhere.
    Raises:
        ConfigError: ``seconds`` is below 0.
    """

    order = 100  # after the others, so that their state is complete

    def __init__(
        self,
        folder: Path,
        metric: str = "valid_loss",
        *,
        mode: Literal["min", "max"],
        seconds: float = 15.0,
        ends: bool = True,
    ) -> None:
        if not seconds >= 0:
            raise ConfigError(f"seconds must be at least 0, got {seconds}.")
        self.folder, self.metric, self.seconds, self.ends = folder, metric, seconds, ends
        self.sign = 1.0 if mode == "min" else -1.0
        self.best = math.inf
        self.seconds_saving = 0.0
        """Time spent on saving in this fit."""
        self._waiting: Best | None = None
        self._due = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best value so far."""
        self.best = state["best"]

    def before_fit(self, state: TrainState) -> None:
        """Reset."""
        self.best, self._waiting, self.seconds_saving = math.inf, None, 0.0
        self._due = 0.0 if self.ends else time.monotonic() + self.seconds

    def after_batch(self, state: TrainState) -> None:
        """Write if the last checkpoint is old enough."""
        if state.training and (time.monotonic() >= self._due or state.stop_requested) and has_position(state.loader):
            self._write_last(state, epoch_is_over=False)

    def after_epoch(self, state: TrainState) -> None:
        """Keep a better epoch; write if the last checkpoint is old enough."""
        value = self.sign * state.metrics.get(self.metric, math.nan)  # nan is never better
        if value < self.best:
            self.best = value
            kept = Best(judged_tensors(state), state.epoch + 1, state.step, dict(state.metrics))
            self._waiting = kept if writes_files() else None
        if time.monotonic() >= self._due or state.stop_requested:
            self._write_last(state, epoch_is_over=True)

    def after_fit(self, state: TrainState) -> None:
        """Write the result; a fit that was stopped is written in any case."""
        if self.ends or state.stop_requested:
            self._write_last(state, epoch_is_over=True, finished=True)

    def close(self, state: TrainState) -> None:
        """Write a pending best epoch, also after an error."""
        if self.ends or state.stop_requested:
            self._write_best()

    def _write_last(self, state: TrainState, *, epoch_is_over: bool, finished: bool = False) -> None:
        started = time.monotonic()
        if not writes_files():
            return
        if not all(bool(tensor.isfinite().all()) for tensor in changing_tensors(state.model).values()):
            self._due = started + self.seconds
            return  # keep the last good checkpoint
        self._write_best()  # first: a resumed fit does not see that epoch again
        write_last(self.folder, take(state, epoch_is_over=epoch_is_over, finished=finished))
        took = time.monotonic() - started
        self.seconds_saving += took
        self._due = time.monotonic() + max(self.seconds, took / SHARE if self.seconds else 0.0)

    def _write_best(self) -> None:
        if self._waiting is not None:
            write_best(self.folder, self._waiting)
            self._waiting = None


def take(state: TrainState, *, epoch_is_over: bool, finished: bool = False) -> Snapshot:
    """The snapshot of a fit after a batch, or after an epoch."""
    return Snapshot(
        weights=changing_tensors(state.model),
        optimizer=state.optimizer.state_dict(),
        callbacks=_states_of(state.callbacks),
        loader=None if epoch_is_over else state.loader.state_dict(),
        random=random_states(),
        loss_sum=state.loss_sum,
        epochs=state.epochs,
        steps_per_epoch=state.steps_per_epoch,
        epoch=state.epoch + 1 if epoch_is_over else state.epoch,
        batch=0 if epoch_is_over else state.batch,
        step=state.step,
        rows_seen=state.rows_seen,
        parts=state.parts,
        metrics=dict(state.metrics),
        finished=finished,
    )


def has_position(loader: object) -> bool:
    """Whether a fit can be stopped within an epoch of this loader; not with PyTorch's DataLoader."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def restore(snapshot: Snapshot, state: TrainState) -> None:
    """Restore ``state`` from a snapshot.

    Raises:
        ConfigError: the snapshot is of a fit with other arguments, optimizer or callbacks.
        DataError: it is of another model.
    """
    for name in ("epochs", "steps_per_epoch"):
        then, now = getattr(snapshot, name), getattr(state, name)
        if then != now:
            raise ConfigError(f"The fit to resume has {name}={then}, not {now}: resume with the same settings.")
    named = _named(state.callbacks)
    carrying = {name for name, callback in named.items() if callback.state_dict()}
    differing = carrying ^ snapshot.callbacks.keys()
    if differing:
        raise ConfigError(
            f"The fit to resume has the callbacks {', '.join(sorted(snapshot.callbacks)) or 'none'} with a state, "
            f"but this one has {', '.join(sorted(carrying)) or 'none'}: resume with the same callbacks."
        )
    snapshot.load_optimizer(state.optimizer)
    put_weights(snapshot.weights, state.model)
    for name, saved in snapshot.callbacks.items():
        named[name].load_state_dict(saved)
    if snapshot.loader is not None:
        state.loader.load_state_dict(snapshot.loader)
    state.loss_sum.copy_(snapshot.loss_sum)
    state.epoch = snapshot.epoch - snapshot.finished  # after a fit the state is still in its last epoch
    state.batch, state.step = snapshot.batch, snapshot.step
    state.rows_seen, state.parts, state.metrics = snapshot.rows_seen, snapshot.parts, dict(snapshot.metrics)
    set_random_states(snapshot.random)


def put_weights(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Load saved weights into a model of the same architecture.

    Raises:
        DataError: they are of another network; the model is not changed then.
    """
    ours = model.state_dict()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    strange = (weights.keys() - ours.keys()) | (trainable - weights.keys())
    if strange:
        raise DataError(
            f"The checkpoint holds the weights of another network: {len(strange)} names differ, "
            f"the first is {min(strange)}."
        )
    for name, tensor in weights.items():
        if tensor.shape != ours[name].shape:
            raise DataError(
                f"The checkpoint holds the weights of another network: {name} is {tuple(tensor.shape)} there and "
                f"{tuple(ours[name].shape)} here."
            )
    model.load_state_dict(weights, strict=False)


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters and all buffers: what training can change. A frozen backbone is not copied."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in frozen}


def judged_tensors(state: TrainState) -> dict[str, Tensor]:
    """Copies of the ``changing_tensors`` that this epoch's metrics were computed with."""
    return {name: tensor.clone() for name, tensor in (changing_tensors(state.model) | dict(state.judged)).items()}


def _named(callbacks: Sequence[Any]) -> dict[str, Any]:
    seen: Counter[str] = Counter()
    named = {}
    for callback in callbacks:
        kind = type(callback).__name__
        seen[kind] += 1
        named[kind if seen[kind] == 1 else f"{kind} {seen[kind]}"] = callback
    return named


def _states_of(callbacks: Sequence[Any]) -> dict[str, dict[str, Any]]:
    states = {name: callback.state_dict() for name, callback in _named(callbacks).items()}
    return {name: state for name, state in states.items() if state}


def write_last(folder: Path, snapshot: Snapshot) -> None:
    """Write this snapshot to ``folder/last``; the existing one becomes ``folder/previous``.

    Raises:
        ResourceError: it cannot be written; ``last`` and ``previous`` are unchanged.
    """
    last, previous, fresh = folder / LAST, folder / PREVIOUS, folder / f".{LAST}.new"
    rest = {field.name: getattr(snapshot, field.name) for field in fields(snapshot) if field.name != "weights"}
    tensors, facts = split_tensors(rest)
    files = {
        WEIGHTS: save_tensors(_on_cpu(snapshot.weights)),
        TRAINING: save_tensors(tensors),
        STATE: json.dumps({"format": FORMAT, **facts}, allow_nan=False).encode(),
    }
    write_whole(fresh, files)
    with explained(last, None):
        if last.exists():  # it is missing if a process was killed between the next two lines
            shutil.rmtree(previous, ignore_errors=True)
            last.rename(previous)
        fresh.rename(last)
        flush_folder(folder)


def write_best(folder: Path, found: Best) -> None:
    """Write this to ``folder/best``.

    Raises:
        ResourceError: it cannot be written; ``best`` is unchanged.
    """
    best, old, fresh = folder / BEST, folder / f".{BEST}.old", folder / f".{BEST}.new"
    facts = {"format": FORMAT, "epoch": found.epoch, "step": found.step, "metrics": json_numbers(found.metrics)}
    write_whole(fresh, {WEIGHTS: save_tensors(_on_cpu(found.weights)), STATE: json.dumps(facts).encode()})
    with explained(best, None):
        shutil.rmtree(old, ignore_errors=True)
        if best.exists():
            best.rename(old)
        fresh.rename(best)
        flush_folder(folder)
        shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(folder: Path) -> Snapshot:
    """Read a checkpoint folder, such as ``checkpoints/last``.

    Raises:
        DataError: a file is missing or damaged.
    """
    state, tensors = _read_whole(folder, (WEIGHTS, TRAINING))
    try:
        rest = join_tensors({key: value for key, value in state.items() if key != "format"}, tensors[TRAINING])
    except KeyError as error:
        raise DataError(f"{folder} is not a complete checkpoint: the tensor {error} of {STATE} is missing.") from error
    wanted = {field.name for field in fields(Snapshot)} - {"weights"}
    if rest.keys() != wanted:
        raise DataError(f"{folder} is not a complete checkpoint: {STATE} has unexpected entries.")
    return Snapshot(weights=tensors[WEIGHTS], **rest)


def load_weights(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Load the weights of ``last`` or ``best`` into a model of the same architecture.

    Returns:
        Information on them, such as epoch, step and metrics.
    Raises:
        DataError: a file is missing or damaged, or the weights are of another network.
    """
    facts, tensors = _read_whole(folder, (WEIGHTS,))
    put_weights(tensors[WEIGHTS], model)
    return facts


def newest_checkpoint(folder: Path) -> Snapshot | None:
    """The newest complete checkpoint of a run's checkpoint folder; its ``note`` says why an older one was used.

    Returns:
        None without a checkpoint.
    Raises:
        DataError: all checkpoints are damaged.
    """
    errors = []
    for name in (LAST, PREVIOUS):
        if not (folder / name).is_dir():
            continue
        try:
            snapshot = read_checkpoint(folder / name)
        except DataError as error:
            errors.append(str(error))
            continue
        return replace(snapshot, note=" ".join(errors))
    if errors:
        raise DataError(f"All checkpoints of {folder} are damaged: {' '.join(errors)} Train again.")
    return None


def _read_whole(folder: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The state of a checkpoint and the tensors of the requested files, after checking all sums."""
    try:
        sums = json.loads(read_file(folder / "MANIFEST.json", most=_LARGEST_MANIFEST))
        if not isinstance(sums, dict) or not {STATE, *wanted} <= sums.keys() <= set(FILES):
            raise DataError("MANIFEST.json lists other files")
        files = {name: read_file(folder / name, most=_LARGEST_FILE) for name in sums}
    except (DataError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{folder} is not a complete checkpoint: {str(error).removesuffix('.')}.") from error
    damaged = [name for name, content in files.items() if hashlib.sha256(content).hexdigest() != sums[name]]
    if damaged:
        raise DataError(f"{folder}/{damaged[0]} is damaged: its sha256 does not match MANIFEST.json.")
    try:
        state = json.loads(files[STATE])
        tensors = {name: load_tensors(files[name]) for name in wanted}
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, SafetensorError) as error:
        raise DataError(f"{folder} is not a complete checkpoint: {error!r}.") from error
    version = state.get("format") if isinstance(state, dict) else None
    if version != FORMAT:
        raise DataError(
            f"{folder} has the format {version}, but this version of mixfit supports up to {FORMAT}: update mixfit."
        )
    return state, tensors


def write_whole(fresh: Path, files: dict[str, bytes]) -> None:
    """Atomically write a new folder with these files and the manifest of their sums, all flushed."""
    shutil.rmtree(fresh, ignore_errors=True)  # left by a killed process
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    size = sum(map(len, files.values()))
    with explained(fresh, size):
        fresh.mkdir(parents=True)
        try:
            for name, content in {**files, "MANIFEST.json": json.dumps(sums, indent=1).encode()}.items():
                write_file(fresh / name, content)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies that share no memory, as safetensors requires."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def split_tensors(state: Any, path: str = "") -> tuple[dict[str, Tensor], Any]:
    """Tensors of a nested state by their path, and the state with tensors replaced by their paths."""
    match state:
        case torch.Tensor():
            return _on_cpu({path: state}), {"tensor": path}
        case dict():
            parts = {str(key): split_tensors(value, f"{path}/{key}") for key, value in state.items()}
            tensors = {name: tensor for found, _ in parts.values() for name, tensor in found.items()}
            return tensors, {key: rest for key, (_, rest) in parts.items()}
        case list() | tuple():
            listed = [split_tensors(value, f"{path}/{place}") for place, value in enumerate(state)]
            return {k: v for found, _ in listed for k, v in found.items()}, [rest for _, rest in listed]
        case float() if not math.isfinite(state):
            return {}, {"number": str(float(state))}
        case _:
            return {}, state


def join_tensors(rest: Any, tensors: dict[str, Tensor]) -> Any:
    """Reassemble the state of ``split_tensors``; tuples have become lists.

    Restores integer keys, which JSON converts to strings, as PyTorch's optimizers need them."""
    match rest:
        case {"tensor": str(path)} if len(rest) == 1:
            return tensors[path]
        case {"number": str(name)} if len(rest) == 1:
            return _NOT_IN_JSON[name]
        case dict():
            return {int(key) if key.isdecimal() else key: join_tensors(value, tensors) for key, value in rest.items()}
        case list():
            return [join_tensors(value, tensors) for value in rest]
        case _:
            return rest
