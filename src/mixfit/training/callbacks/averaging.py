"""Weight averaging: the averages are used for validation and are the final weights of the model.

In training the model has its own weights; ``state.judged`` passes them to callbacks that keep the best epoch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback, TrainState

_BatchNorm = nn.modules.batchnorm._BatchNorm


class Averaging(Callback, ABC):
    """Keeps averages of the model's tensors, and swaps them in for the validation and at the end.

    Frozen parameters are not averaged; a parameter unfrozen later joins with its value at that time."""

    order = -5  # before the callbacks that keep the best weights
    chooses = False

    def __init__(self) -> None:
        self.averages: dict[str, Tensor] = {}
        """Averages by the names of ``model.state_dict()``; empty before the first update."""
        self.count = 0
        """Number of updates."""
        self._own: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The averages, and the number of updates."""
        return {"averages": self.averages, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averages."""
        self.averages = {str(name): average.clone() for name, average in state["averages"].items()}
        self.count = state["count"]

    def before_fit(self, state: TrainState) -> None:
        """Reset."""
        self.averages, self.count, self._own = {}, 0, None

    def before_epoch(self, state: TrainState) -> None:
        """Restore the model's own weights, also after a cancelled validation."""
        self._swap_out(state)
        state.judged = {}
        if self.averages:  # loaded ones are on the CPU
            tensors = state.model.state_dict()
            self.averages = {name: average.to(tensors[name].device) for name, average in self.averages.items()}

    def before_validate(self, state: TrainState) -> None:
        """Swap in the averages."""
        self.prepare(state)
        if self.averages:
            self._swap_in(state)
            state.judged = self.averages

    def after_validate(self, state: TrainState) -> None:
        """Restore the model's own weights."""
        self._swap_out(state)

    def after_fit(self, state: TrainState) -> None:
        """Set the model to the averages."""
        self._swap_out(state)
        if self.averages:
            self._swap_in(state)
            self._own = None

    def close(self, state: TrainState) -> None:
        """Restore the model's own weights, also after an error."""
        self._swap_out(state)
        self._own = None

    @abstractmethod
    def prepare(self, state: TrainState) -> None:
        """Prepare ``averages`` for the validation."""

    @torch.no_grad()
    def _swap_in(self, state: TrainState) -> None:
        tensors = state.model.state_dict()
        present = [tensors[name] for name in self.averages]
        self._own = dict(zip(self.averages, (tensor.clone() for tensor in present), strict=True))
        _copy(present, list(self.averages.values()))

    @torch.no_grad()
    def _swap_out(self, state: TrainState) -> None:
        if self._own is not None:
            tensors = state.model.state_dict()
            _copy([tensors[name] for name in self._own], list(self._own.values()))
            self._own = None


class ExponentialMovingAverage(Averaging):
    """Exponential moving average: ``average = decay * average + (1 - decay) * weights`` after each step.

    At high learning rates the weights fluctuate around an optimum, and their average is closer to it. Buffers are not
    averaged: the statistics of batch norms are running means already, and are shared with the averages.

    Args:
        decay: weight of the average at each step, in [0, 1): it averages over about ``1 / (1 - decay)`` steps.
        warmup: at the n-th step the decay is at most ``(1 + n) / (10 + n)``, so that the initial weights have little
            influence in a short fit too.
    Raises:
        ConfigError: ``decay`` is invalid.
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay must be in [0, 1), got {decay}.")
        super().__init__()
        self.decay, self.warmup = decay, warmup
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    def before_epoch(self, state: TrainState) -> None:
        """Rebuild the lists of averaged tensors, as parameters may have been unfrozen."""
        super().before_epoch(state)
        self._pairs = None

    @torch.no_grad()
    def after_step(self, state: TrainState) -> None:
        """Update all averages at once."""
        if self._pairs is None:
            learning = _learning(state.model)
            for name, parameter in learning.items():
                if name not in self.averages:
                    self.averages[name] = parameter.detach().clone()
            self._pairs = [self.averages[name] for name in learning], list(learning.values())
            if not self.count:
                self.count = 1
                return
        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.warmup else self.decay
        torch._foreach_lerp_(*self._pairs, 1 - decay)
        self.count += 1

    def prepare(self, state: TrainState) -> None:
        """The averages are those of the last step."""

    def close(self, state: TrainState) -> None:
        """Release the model."""
        super().close(state)
        self._pairs = None


class StochasticWeightAveraging(Averaging):
    """Stochastic weight averaging: the mean of the weights at the ends of the last epochs (Izmailov et al. 2018,
    arXiv:1803.05407).

    It is near the centre of a wide flat region of the loss, while weights of single epochs are near its border. This
    needs a large rate at the end; with a rate that decreases to 0, there is little to average. The statistics of batch
    norms do not fit the mean weights; they are recomputed by a pass over the training rows in every averaged epoch, if
    the model has trainable batch norms.

    Args:
        start: share of the fit after which weights are averaged at the end of each epoch, in [0, 1).
    Raises:
        ConfigError: ``start`` is invalid.
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise ConfigError(f"start must be in [0, 1), got {start}.")
        super().__init__()
        self.start = start

    @torch.no_grad()
    def prepare(self, state: TrainState) -> None:
        """Update the mean with the weights of this epoch, before the validation."""
        if state.progress < self.start:
            return
        learning = _learning(state.model)
        for name, parameter in learning.items():
            if name not in self.averages:
                self.averages[name] = parameter.detach().clone()
        torch._foreach_lerp_([self.averages[name] for name in learning], list(learning.values()), 1 / (self.count + 1))
        self.count += 1
        norms = _learning_norms(state.model)
        if norms:
            statistics = _statistics(norms)
            self.averages |= {name: tensor.clone() for name, tensor in statistics.items()}
            self._swap_in(state)
            try:
                _find_statistics(state, list(norms.values()))
                self.averages |= {name: tensor.clone() for name, tensor in statistics.items()}
            finally:
                self._swap_out(state)


def _learning(model: nn.Module) -> dict[str, Tensor]:
    named = model.named_parameters(remove_duplicate=False)  # shared parameters are saved under both names
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _copy(to: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    if to:
        torch._foreach_copy_(list(to), list(values))


def _learning_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Batch norms that use batch statistics in training, without frozen ones."""
    model.train()
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    }
    model.eval()
    return norms


def _statistics(norms: dict[str, _BatchNorm]) -> dict[str, Tensor]:
    return {
        f"{name}.{buffer}" if name else buffer: tensor
        for name, norm in norms.items()
        for buffer, tensor in norm.named_buffers(recurse=False)
    }


def _find_statistics(state: TrainState, norms: Sequence[_BatchNorm]) -> None:
    """Recompute the statistics over all training batches; other modules are in evaluation mode, so without dropout."""
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average over all batches
            norm.train()
        set_epoch = getattr(state.loader, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(state.epoch)
        with torch.no_grad():
            for xb, _ in state.loader:
                with state.arithmetic():
                    state.model(xb.to(state.loss_sum.device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        state.model.eval()
