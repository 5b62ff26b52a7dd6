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
    """Back to the unit that people know; the part of ``data.target.Target`` that needs no table."""

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """Raw outputs as float64: numbers in the target's unit, or probabilities that sum to 1."""

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
        """The targets of batches as metrics want them: numbers in the target's unit, or class indices."""


@runtime_checkable
class TrainingData(Protocol):
    """Batches of training and validation rows; ``target`` None leaves numbers as they are and makes logits shares."""

    @property
    def train(self) -> Batches: ...

    @property
    def valid(self) -> Batches: ...

    @property
    def target(self) -> TargetScale | None: ...


@dataclass(slots=True, kw_only=True)
class TrainState:
    """The state of one fit. Fields are read and set by name; there is nothing hidden."""

    model: nn.Module
    optimizer: Any
    """One of ours or any ``torch.optim.Optimizer``."""
    loss_function: Loss
    epochs: int
    steps_per_epoch: int
    callbacks: Sequence[Any] = ()
    """All callbacks of the fit in the order in which they run."""
    loader: Any = None
    """Of the training rows."""
    epoch: int = 0
    """The current epoch, counted from 0."""
    batch: int = 0
    """Training batches of this epoch that are done, the cancelled ones included."""
    step: int = 0
    """Optimiser steps finished so far in this fit."""
    time_share: float = 0.0
    """Share of a time budget that is used up; 0 without one."""
    training: bool = False
    xb: Any = None
    yb: Any = None
    prediction: Any = None
    """Of the current batch, or of its current part."""
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Of the current batch; its graph is there up to ``after_loss``, in ``after_backward`` it is a mere number."""
    parts: int = 1
    """In how many parts a training batch goes through the model; their gradients add up to those of the whole batch."""
    loss_scale: float = 1.0
    """The gradients are those of the loss times this number; who sets it divides them again in ``after_backward``."""
    arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Surrounds prediction and loss, such as ``lambda: torch.autocast("cuda")``."""
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Training losses of this epoch so far, times their rows."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the current epoch: train_loss, valid_loss and the metrics of the validation rows, in the target's unit."""
    judged: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors of the model by name that were others while ``metrics`` were found, such as averages; mostly none."""
    rows_seen: int = 0
    """Training rows of this epoch so far."""
    stop_requested: str = ""
    """Why the fit is to end after this batch, with all of its state saved; empty to go on."""
    error: BaseException | None = None
    """What broke the fit, in ``on_error``."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole fit, if nothing ends it early."""
        return self.epochs * self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]: of its steps, or of its time budget if that is further on.

        0 at the first step, 1 at the last; schedules read it."""
        return min(max(self.step / max(self.epochs * self.steps_per_epoch - 1, 1), self.time_share), 1.0)


Method = Callable[[TrainState], None]


class CancelBatch(Exception):  # noqa: N818 - a signal, not an error
    """Raise in a callback to leave the current batch."""


class CancelTrain(Exception):  # noqa: N818
    """Raise in a callback to leave out the training batches that this epoch still has; its validation follows."""


class CancelEpoch(Exception):  # noqa: N818
    """Raise in a callback to leave the current epoch."""


class CancelFit(Exception):  # noqa: N818
    """Raise in a callback to end the training; what was learned is kept."""


class Callback:
    """Base of all callbacks: override the events of interest. Lower ``order`` runs earlier.

    A callback that carries something from step to step also overrides ``state_dict`` and ``load_state_dict``, so that
    a fit can be resumed."""

    order: int = 0
    chooses: bool = True
    """Whether training may depend on what it sees of the validation rows; False for one that only tells or draws it.

    Each fold of a preset trains its networks on all of its fit rows unless a callback chooses: then a part of these is
    cut out for validation."""
    changes: bool = True
    """Whether training may come out otherwise with it than without it; False for one that only tells, draws or saves.

    A network of a preset that was trained with others of these, or with other settings of them, is fitted again when
    its run is resumed."""

    def settings_dict(self) -> dict[str, Any]:
        """What makes another one of the same class train otherwise; must not change during a fit.

        By default those arguments of its constructor that it holds under the same name."""
        held = vars(self)
        return {name: held[name] for name in inspect.signature(type(self)).parameters if name in held}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit must know: tensors, and what JSON can say. Nothing for most."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave; called after ``before_fit``."""

    def watch(self, event: str, methods: list[Method]) -> list[Method]:
        """What is to be called at an event in place of ``methods``, the callbacks' in their order; asked once a fit.

        For what looks at the callbacks themselves, such as a profiler."""
        return methods

    def before_fit(self, state: TrainState) -> None:
        """Before the first epoch."""

    def before_epoch(self, state: TrainState) -> None:
        """Before the training rows of an epoch, or before the rest of them where a fit is resumed in between."""

    def before_train(self, state: TrainState) -> None:
        """The model is in training mode, the first batch not yet fetched."""

    def before_batch(self, state: TrainState) -> None:
        """``xb`` and ``yb`` are there; in training and in validation."""

    def after_prediction(self, state: TrainState) -> None:
        """``prediction`` is there; in training and in validation. For each part of a batch that has ``parts``."""

    def after_loss(self, state: TrainState) -> None:
        """``loss`` is there; in training and in validation. For each part of a batch that has ``parts``."""

    def on_out_of_memory(self, state: TrainState) -> None:
        """A training batch did not fit in the memory; it is tried again if a callback has raised ``parts``."""

    def after_backward(self, state: TrainState) -> None:
        """Gradients are there, the step not yet taken."""

    def after_step(self, state: TrainState) -> None:
        """The parameters have changed, the gradients are still there."""

    def after_batch(self, state: TrainState) -> None:
        """The batch is done; in training and in validation."""

    def after_train(self, state: TrainState) -> None:
        """All training batches of the epoch are done; ``metrics["train_loss"]`` is there."""

    def before_validate(self, state: TrainState) -> None:
        """The model is in evaluation mode."""

    def after_validate(self, state: TrainState) -> None:
        """The metrics of the validation rows are there."""

    def after_epoch(self, state: TrainState) -> None:
        """All of an epoch is done."""

    def after_fit(self, state: TrainState) -> None:
        """Training ended, by itself or by ``CancelFit``; not after an error."""

    def after_cancel_batch(self, state: TrainState) -> None:
        """Some callback raised ``CancelBatch``."""

    def after_cancel_train(self, state: TrainState) -> None:
        """Some callback raised ``CancelTrain``; ``after_train`` follows."""

    def after_cancel_epoch(self, state: TrainState) -> None:
        """Some callback raised ``CancelEpoch``."""

    def after_cancel_fit(self, state: TrainState) -> None:
        """Some callback raised ``CancelFit``; ``after_fit`` follows."""

    def on_error(self, state: TrainState) -> None:
        """Anything else was raised: ``state.error``."""

    def close(self, state: TrainState) -> None:
        """Always, last: give back files, hooks and threads."""

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
        """Close every callback, also when one of them fails; the first failure is raised at the end."""
        failures: list[Exception] = []
        for method in self._methods["close"]:
            try:
                method(self.state)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
