"""Callbacks: one method per event of the training loop, each called with the state; what a Learner needs of data."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mixfit.training.loss import Loss


@runtime_checkable
class Batches(Protocol):
    """An iterable over batches with a length: our ``DataLoader`` or PyTorch's."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@runtime_checkable
class TargetScale(Protocol):
    """Decoding of outputs and targets; the part of ``data.target.Target`` that needs no table."""

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """Raw outputs as float64: numbers in the target's unit, or probabilities that sum to 1."""

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
        """The targets of batches for metrics: numbers in the target's unit, or class indices."""


@runtime_checkable
class TrainingData(Protocol):
    """Batches of training and validation rows; with ``target`` None, numbers are unchanged and logits become
    probabilities."""

    @property
    def train(self) -> Batches: ...

    @property
    def valid(self) -> Batches: ...

    @property
    def target(self) -> TargetScale | None: ...


@dataclass(slots=True, kw_only=True)
class TrainState:
    """The state of one fit. Fields are read and set by name."""

    model: nn.Module = field(repr=False)
    optimizer: Any = field(repr=False)
    """A mixfit optimizer or any ``torch.optim.Optimizer``."""
    loss_function: Loss
    epochs: int
    steps_per_epoch: int
    callbacks: Sequence[Any] = field(default=(), repr=False)
    """All callbacks of the fit in the order in which they run."""
    loader: Any = field(default=None, repr=False)
    """Of the training rows."""
    epoch: int = 0
    """The current epoch, counted from 0."""
    batch: int = 0
    """Training batches of this epoch that are done, including cancelled ones."""
    step: int = 0
    """Optimiser steps finished so far in this fit."""
    time_share: float = 0.0
    """Used share of a time budget; 0 without one."""
    training: bool = False
    xb: Any = field(default=None, repr=False)
    yb: Any = field(default=None, repr=False)
    prediction: Any = field(default=None, repr=False)
    """Output for the current batch, or for its current part."""
    loss: Tensor = field(default_factory=lambda: torch.zeros(()), repr=False)
    """Loss of the current batch; with its graph up to ``after_loss``, detached in ``after_backward``."""
    parts: int = 1
    """Number of parts of a training batch (gradient accumulation), whose gradients sum to those of the whole batch."""
    loss_scale: float = 1.0
    """Loss scale: gradients are those of the loss times this number; whoever sets it unscales them in
    ``after_backward``."""
    arithmetic: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext, repr=False)
    """Context of prediction and loss, such as ``lambda: torch.autocast("cuda")``."""
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()), repr=False)
    """Sum of the training losses of this epoch so far, times their rows."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the current epoch: train_loss, valid_loss and the validation metrics, in the target's unit."""
    judged: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Tensors by name that replaced the model's in validation, such as averages; usually empty."""
    rows_seen: int = 0
    """Training rows of this epoch so far."""
    stop_requested: str = ""
    """Why the fit is to stop after this batch, with its state saved; empty to continue."""
    combine: Callable[["TrainState"], int] = field(default=lambda state: len(state.yb), repr=False)
    """Makes loss and gradients of a batch those of all processes that share it, and returns its number of rows."""
    share: Callable[[Any], AbstractContextManager[Any]] = field(default=nullcontext, repr=False)
    """Context in which a loader of validation rows gives this process its share of each batch."""
    gather: Callable[[Tensor], Tensor] = field(default=lambda values: values, repr=False)
    """Rows of all processes that shared the validation rows, given those of this one, on the CPU."""
    error: BaseException | None = None
    """The exception that ended the fit, in ``on_error``."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole fit, if it is not stopped early."""
        return self.epochs * self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Progress of the training in [0, 1]: share of its steps, or of its time budget if that is larger.

        0 at the first step, 1 at the last; schedules use it."""
        return min(max(self.step / max(self.epochs * self.steps_per_epoch - 1, 1), self.time_share), 1.0)


Method = Callable[[TrainState], None]


class CancelBatch(Exception):  # noqa: N818 - a signal, not an error
    """Raise in a callback to skip the rest of the current batch."""


class CancelTrain(Exception):  # noqa: N818
    """Raise in a callback to skip the remaining training batches of this epoch; its validation follows."""


class CancelEpoch(Exception):  # noqa: N818
    """Raise in a callback to skip the rest of the current epoch."""


class CancelFit(Exception):  # noqa: N818
    """Raise in a callback to end the training; the current weights are kept."""


class Callback:
    """Base of all callbacks: override the events of interest. Lower ``order`` runs earlier.

    A callback with a state also overrides ``state_dict`` and ``load_state_dict``, so that a fit can be resumed."""

    order: int = 0
    chooses: bool = True
    """Whether training may depend on validation rows through this callback; False if it only reports.

    Each fold of a preset trains its networks on all of its training rows, unless a callback chooses: then some of these
    are held out for validation."""
    changes: bool = True
    """Whether the callback may change the training; False if it only reports or saves.

    If such callbacks or their settings have changed, networks of a preset are fitted again when the run is resumed."""

    def settings_dict(self) -> dict[str, Any]:
        """Settings that affect training; must not change during a fit.

        By default the constructor arguments that are stored under the same name."""
        held = vars(self)
        return {name: held[name] for name in inspect.signature(type(self)).parameters if name in held}

    def state_dict(self) -> dict[str, Any]:
        """State for resuming a fit: tensors and JSON values. Empty for most callbacks."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of ``state_dict``; called after ``before_fit``."""

    def watch(self, event: str, methods: list[Method]) -> list[Method]:
        """Replace the ``methods`` called at an event, in order of the callbacks; called once per fit.

        For callbacks that observe other callbacks, such as a profiler."""
        return methods

    def before_fit(self, state: TrainState) -> None:
        """Before the first epoch."""

    def before_epoch(self, state: TrainState) -> None:
        """Before the training rows of an epoch, or before the remaining ones if a fit is resumed within the epoch."""

    def before_train(self, state: TrainState) -> None:
        """The model is in training mode, the first batch not yet fetched."""

    def before_batch(self, state: TrainState) -> None:
        """``xb`` and ``yb`` are set; in training and in validation."""

    def after_prediction(self, state: TrainState) -> None:
        """``prediction`` is set; in training and in validation. For each of the ``parts`` of a batch."""

    def after_loss(self, state: TrainState) -> None:
        """``loss`` is set; in training and in validation. For each of the ``parts`` of a batch."""

    def on_out_of_memory(self, state: TrainState) -> None:
        """A training batch did not fit in memory; it is retried if a callback has increased ``parts``."""

    def after_backward(self, state: TrainState) -> None:
        """Gradients are computed, before the optimiser step."""

    def after_step(self, state: TrainState) -> None:
        """After the optimiser step, before gradients are zeroed."""

    def after_batch(self, state: TrainState) -> None:
        """The batch is done; in training and in validation."""

    def after_train(self, state: TrainState) -> None:
        """All training batches of the epoch are done; ``metrics["train_loss"]`` is set."""

    def before_validate(self, state: TrainState) -> None:
        """The model is in evaluation mode."""

    def after_validate(self, state: TrainState) -> None:
        """The validation metrics are set."""

    def after_epoch(self, state: TrainState) -> None:
        """The epoch is done."""

    def after_fit(self, state: TrainState) -> None:
        """Training ended, normally or by ``CancelFit``; not after an error."""

    def after_cancel_batch(self, state: TrainState) -> None:
        """A callback raised ``CancelBatch``."""

    def after_cancel_train(self, state: TrainState) -> None:
        """A callback raised ``CancelTrain``; ``after_train`` follows."""

    def after_cancel_epoch(self, state: TrainState) -> None:
        """A callback raised ``CancelEpoch``."""

    def after_cancel_fit(self, state: TrainState) -> None:
        """A callback raised ``CancelFit``; ``after_fit`` follows."""

    def on_error(self, state: TrainState) -> None:
        """Another exception was raised: ``state.error``."""

    def close(self, state: TrainState) -> None:
        """Always called last: release files, hooks and threads."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in vars(cls):
            looks_like_event = name.startswith(("before_", "after_", "on_"))
            if looks_like_event and name not in EVENTS:
                raise TypeError(f"{cls.__name__}.{name} is not an event; the events are {', '.join(EVENTS)}.")


EVENTS: tuple[str, ...] = tuple(
    name for name in vars(Callback) if name.startswith(("before_", "after_", "on_")) or name == "close"
)


class Events:
    """The callbacks of one fit, sorted by their order, with the methods of each event looked up once."""

    def __init__(self, callbacks: Sequence[Callback], state: TrainState) -> None:
        self.state = state
        ordered = sorted(callbacks, key=lambda callback: callback.order)
        state.callbacks = ordered
        self._methods: dict[str, list[Method]] = {}
        for event in EVENTS:
            methods: list[Method] = [
                getattr(callback, event)
                for callback in ordered
                if getattr(type(callback), event) is not getattr(Callback, event)
            ]
            for callback in ordered:
                methods = callback.watch(event, methods)
            self._methods[event] = methods

    def fire(self, event: str) -> None:
        """Call the callbacks that override ``event``."""
        for method in self._methods[event]:
            method(self.state)

    def close(self) -> None:
        """Close every callback, even if one of them fails; the first error is raised at the end."""
        failures: list[Exception] = []
        for method in self._methods["close"]:
            try:
                method(self.state)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
