"""Callbacks: one method per event of the training loop, each called with the state.

The events, in order, are the methods of ``Callback``. A method whose name looks like an event but is none is a
``TypeError`` when the class is made, and a method that a callback does not override is never called."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from mixfit.training.state import TrainState

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
