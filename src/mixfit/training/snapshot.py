"""All that a fit needs to go on, to the bit, as if it had never been stopped.

Taken between two batches or two epochs, by ``Checkpoints`` for instance, and given back to ``Learner.fit``.
Knows nothing of files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError, DataError
from mixfit.seeding import random_states, set_random_states
from mixfit.training.state import TrainState


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a fit at one moment. Its tensors are those in use, not copies: write or copy them at once."""

    weights: dict[str, Tensor]
    """What training can change of the model; frozen parameters are not in it."""
    optimizer: dict[str, Any]
    callbacks: dict[str, dict[str, Any]]
    """Of those that carry something, by class, with a number behind the second and further ones of a class."""
    loader: dict[str, Any] | None
    """Position in the training rows; None between two epochs."""
    random: dict[str, Any]
    """States of the generators that a model or a callback may draw from."""
    loss_sum: Tensor
    epochs: int
    steps_per_epoch: int
    epoch: int
    """Epochs that are finished."""
    batch: int
    """Batches that are finished of the epoch after those."""
    step: int
    rows_seen: int
    parts: int
    metrics: dict[str, float]
    finished: bool = False
    """The fit is over, and the weights are what it gave."""
    note: str = ""
    """Why an older checkpoint was read; empty for the newest."""

    def load_optimizer(self, optimizer: Any) -> None:
        """Put the optimizer's state back.

        Raises:
            ConfigError: it is that of another kind of optimizer, or of other parameters.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):  # ours say themselves what does not fit
            optimizer.load_state_dict(self.optimizer)
            return
        try:
            optimizer.load_state_dict(self.optimizer)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"The saved optimizer does not fit this one: {error}.") from error


def put_weights(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Put saved weights into a model of the same architecture.

    Raises:
        DataError: they are those of another network; nothing is changed then.
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
    """Whether a fit over this loader can be stopped in the middle of an epoch; PyTorch's DataLoader cannot."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def restore(snapshot: Snapshot, state: TrainState) -> None:
    """Make ``state`` what it was when the snapshot was taken.

    Raises:
        ConfigError: it is of a fit with other arguments, optimizer or callbacks.
        DataError: it is of another model.
    """
    for name in ("epochs", "steps_per_epoch"):
        then, now = getattr(snapshot, name), getattr(state, name)
        if then != now:
            raise ConfigError(
                f"The fit to resume has {name}={then}, this one has {now}: resume with the same settings."
            )
    named = _named(state.callbacks)
    carrying = {name for name, callback in named.items() if callback.state_dict()}
    differing = carrying ^ snapshot.callbacks.keys()
    if differing:
        raise ConfigError(
            f"The fit to resume has the callbacks {', '.join(sorted(snapshot.callbacks)) or 'none'} with a state, "
            f"this one has {', '.join(sorted(carrying)) or 'none'}: resume with the same callbacks."
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


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that learn and all buffers: what training can change. A frozen backbone is not copied."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in frozen}


def judged_tensors(state: TrainState) -> dict[str, Tensor]:
    """Copies of the ``changing_tensors`` that the metrics of this epoch speak of."""
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
