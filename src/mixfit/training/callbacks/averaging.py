"""Averages of the weights: validated in place of the weights, and what the model ends with.

In training the model has its own weights; ``state.judged`` names the averages to whom keeps the best epoch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback, TrainState

_BatchNorm = nn.modules.batchnorm._BatchNorm


class Averaging(Callback, ABC):
    """Holds averages of tensors of the model, and swaps them in for the validation and at the end.

    Frozen parameters are not averaged; one that is set free later joins with its value of then."""

    order = -5  # before the callbacks that keep the best weights
    chooses = False

    def __init__(self) -> None:
        self.averages: dict[str, Tensor] = {}
        """By the names of ``model.state_dict()``; empty until there is something to average."""
        self.count = 0
        """How often something has joined the average."""
        self._own: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The averages, and of how many weights they are."""
        return {"averages": self.averages, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on averaging."""
        self.averages = {str(name): average.clone() for name, average in state["averages"].items()}
        self.count = state["count"]

    def before_fit(self, state: TrainState) -> None:
        """Start anew."""
        self.averages, self.count, self._own = {}, 0, None

    def before_epoch(self, state: TrainState) -> None:
        """The model has its own weights, also after a validation that was cancelled."""
        self._swap_out(state)
        state.judged = {}
        if self.averages:  # those of a file are on the CPU
            tensors = state.model.state_dict()
            self.averages = {name: average.to(tensors[name].device) for name, average in self.averages.items()}

    def before_validate(self, state: TrainState) -> None:
        """The model gets the averages."""
        self.prepare(state)
        if self.averages:
            self._swap_in(state)
            state.judged = self.averages

    def after_validate(self, state: TrainState) -> None:
        """The model gets its own weights back."""
        self._swap_out(state)

    def after_fit(self, state: TrainState) -> None:
        """The model ends with the averages."""
        self._swap_out(state)
        if self.averages:
            self._swap_in(state)
            self._own = None

    def close(self, state: TrainState) -> None:
        """After an error too the model has its own weights."""
        self._swap_out(state)
        self._own = None

    @abstractmethod
    def prepare(self, state: TrainState) -> None:
        """Make ``averages`` what is to be validated."""

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
    """After each step ``average = decay * average + (1 - decay) * weights`` (Polyak averaging with a short memory).

    The weights jump about their goal at high learning rates; their average is nearer to it. Buffers are not averaged:
    the statistics of a batch norm are running means already, and the model's own serve the averages too.

    Args:
        decay: share of the average that stays at each step, in [0, 1): it remembers about ``1 / (1 - decay)`` steps.
        warmup: at the n-th step the decay is at most ``(1 + n) / (10 + n)``, so that the first weights are soon
            forgotten in a short fit too.
    Raises:
        ConfigError: ``decay`` is impossible.
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay must be in [0, 1), got {decay}.")
        super().__init__()
        self.decay, self.warmup = decay, warmup
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    def before_epoch(self, state: TrainState) -> None:
        """The lists of what is averaged are made anew: something may have been set free."""
        super().before_epoch(state)
        self._pairs = None

    @torch.no_grad()
    def after_step(self, state: TrainState) -> None:
        """All parameters join at once."""
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
        """Let the model go."""
        super().close(state)
        self._pairs = None


class StochasticWeightAveraging(Averaging):
    """The mean of the weights at the ends of the last epochs (Izmailov et al. 2018, arXiv:1803.05407).

    It lies in the middle of the wide flat region at whose border the weights of single epochs lie. A rate that stays
    large at the end makes them differ; with one that falls to nothing there is little to average. The statistics of
    batch norms belong to other weights than the mean; they are found anew by one pass over the training rows, in every
    epoch that is averaged and only where the model has batch norms that learn.

    Args:
        start: share of the fit after which the weights at the end of an epoch join, in [0, 1).
    Raises:
        ConfigError: ``start`` is impossible.
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise ConfigError(f"start must be in [0, 1), got {start}.")
        super().__init__()
        self.start = start

    @torch.no_grad()
    def prepare(self, state: TrainState) -> None:
        """The weights of this epoch join the mean, before they are validated."""
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
    named = model.named_parameters(remove_duplicate=False)  # one that two layers share is saved under both names
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _copy(to: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    if to:
        torch._foreach_copy_(list(to), list(values))


def _learning_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Batch norms that go by their batch in training; frozen ones do not."""
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
    """Means over all training batches; everything but the norms is in evaluation mode, so nothing is dropped out."""
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch's word for the mean of all batches
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
