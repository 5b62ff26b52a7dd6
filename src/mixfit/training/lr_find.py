"""The learning-rate finder: a callback that increases the rate, its result, and a context that restores everything.

``Learner.lr_find`` combines them."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError, Diverged
from mixfit.seeding import random_states, set_random_states
from mixfit.training.callback import Callback, CancelEpoch, CancelFit, TrainState
from mixfit.training.schedule import Exponential

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MINIMUM_STEPS = 10
"""Fewest losses for a curve."""
EXPLOSION = 4.0
"""The search ends if the running mean of the loss exceeds this multiple of its lowest value."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RateSearch:
    """Result of a learning-rate search; ``rates``, ``losses`` and ``smoothed`` have one number per step."""

    rates: tuple[float, ...]
    """Learning rates, increasing by the same factor at each step."""
    losses: tuple[float, ...]
    """Loss of each batch, before its step."""
    smoothed: tuple[float, ...]
    """The losses averaged symmetrically over neighbouring steps, so that the curve is not delayed."""

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss decreases fastest.

        Raises:
            ConfigError: the loss did not decrease.
        """
        begin, bottom = self._fall()
        slopes = np.gradient(np.array(self.smoothed), np.log(self.rates))
        return self.rates[begin + int(np.argmin(slopes[begin : bottom + 1]))]

    @property
    def valley(self) -> float:
        """A rate in the middle of the decrease to the lowest smoothed loss: fast, with a margin before divergence.

        Raises:
            ConfigError: the loss did not decrease.
        """
        begin, bottom = self._fall()
        middle = (self.smoothed[begin] + self.smoothed[bottom]) / 2
        below = next(step for step in range(begin, bottom + 1) if self.smoothed[step] <= middle)
        return math.sqrt(self.rates[below] * self.rates[bottom])

    @property
    def suggestions(self) -> tuple[float, ...]:
        """``steepest`` and ``valley``; empty if the loss did not decrease."""
        try:
            return self.steepest, self.valley
        except ConfigError:
            return ()

    def __repr__(self) -> str:
        """The suggestion in one line; the numbers behind it are in the fields."""
        span = f"{len(self.rates)} steps from {self.rates[0]:.1e} to {self.rates[-1]:.1e}" if self.rates else "no steps"
        if not self.suggestions:
            return f"no learning rate to suggest: the loss fell nowhere ({span})"
        steepest, valley = self.suggestions
        return f"suggested learning rate {valley:.1e} (valley; steepest fall at {steepest:.1e}; {span})"

    def plot(self) -> "Figure":
        """Losses over rates, with both suggestions; a figure without a window."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.3), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.75", label="loss of each batch")
        axes.plot(self.rates, self.smoothed, color="C0", label="smoothed")
        # Also plot a curve that does not decrease.
        suggestions = zip(("steepest", "valley"), self.suggestions, strict=False)
        for number, (name, rate) in enumerate(suggestions, start=1):
            axes.axvline(rate, color=f"C{number}", linestyle="--", label=f"{name} {rate:.1e}")
        low, high = min(self.smoothed), max(self.smoothed[: max(1, len(self.smoothed) // 2)])
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        if high > low:
            axes.set_ylim(low - 0.2 * (high - low), high + 0.5 * (high - low))
        figure.legend(loc="outside upper center", ncols=4, frameon=False)  # outside, so that it hides nothing
        return figure

    def _fall(self) -> tuple[int, int]:
        """First and last step of the decrease to the lowest smoothed loss."""
        bottom = int(np.argmin(self.smoothed))
        begin = int(np.argmax(self.smoothed[: bottom + 1]))
        if begin == bottom:
            raise ConfigError(
                f"The loss did not decrease between the rates {self.rates[0]:.1e} and {self.rates[-1]:.1e}: use a "
                "smaller start, more steps, or larger batches."
            )
        return begin, bottom


class RateFinder(Callback):
    """Increases the rate of every group at each step, records the losses, and stops the fit when the loss diverges.

    Args:
        start, end: first and last factor of each group's initial rate.
        steps: number of steps.
    Raises:
        ConfigError: the rates are not increasing from above 0, or there are too few steps.
    """

    order = -20

    def __init__(self, start: float, end: float, steps: int) -> None:
        if not 0 < start < end:
            raise ConfigError(f"start must be above 0 and below end, got {start} and {end}.")
        if steps < MINIMUM_STEPS:
            raise ConfigError(f"steps must be at least {MINIMUM_STEPS}, got {steps}.")
        self.shape, self.steps = Exponential(start, end), steps
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._peaks: list[float] = []
        self._mean, self._lowest = 0.0, math.inf

    def before_fit(self, state: TrainState) -> None:
        """Store the rates of the groups; disable an optimizer's own warm-up, which would change the tested rate."""
        self._peaks = [group["lr"] for group in state.optimizer.param_groups]
        for group in state.optimizer.param_groups:
            if "warmup" in group:
                group["warmup"] = 0

    def before_batch(self, state: TrainState) -> None:
        """Set the rates of this step."""
        if not state.training:
            return
        self.rates.append(self.shape(len(self.rates) / (self.steps - 1)))
        for group, peak in zip(state.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self.rates[-1]

    def after_backward(self, state: TrainState) -> None:
        """Record the loss; stop before a step that would make it worse."""
        loss = float(state.loss.detach())
        if not math.isfinite(loss):
            self.rates.pop()
            raise CancelFit
        self.losses.append(loss)
        self._mean += (loss - self._mean) * max(0.2, 1 / len(self.losses))
        self._lowest = min(self._lowest, self._mean)
        explodes = self._mean > EXPLOSION * self._lowest and len(self.losses) > MINIMUM_STEPS
        if explodes or len(self.losses) == self.steps:
            raise CancelFit

    def after_train(self, state: TrainState) -> None:
        """Skip the validation."""
        raise CancelEpoch

    def found(self) -> RateSearch:
        """The result.

        Raises:
            Diverged: the loss is not finite from the start.
        """
        if not self.losses:
            raise Diverged(
                "The loss of the first batch is not finite before the first step: check the inputs and the weights for "
                "values that are not finite."
            )
        if len(self.losses) < MINIMUM_STEPS:
            raise Diverged(
                f"The loss is no longer finite after {len(self.losses)} steps, at the rate {self.rates[-1]:.1e}: "
                f"use a smaller start than {self.shape.start:g}."
            )
        smoothed = tuple(smooth(self.losses, self.steps))
        return RateSearch(rates=tuple(self.rates), losses=tuple(self.losses), smoothed=smoothed)


def smooth(losses: Sequence[float], steps: int) -> list[float]:
    """Gaussian smoothing of the losses, 4 % of ``steps`` wide.

    Losses are clipped to the maximum of the first quarter, so that a divergence does not affect earlier steps."""
    values, places = np.array(losses), np.arange(len(losses))
    values = np.minimum(values, values[: max(MINIMUM_STEPS, len(values) // 4)].max())
    weights = np.exp(-0.5 * ((places[:, None] - places) / max(1.0, 0.04 * steps)) ** 2)
    return [float(value) for value in weights @ values / weights.sum(1)]


@contextmanager
def preserved(model: nn.Module, loaders: Iterable[Any] = ()) -> Iterator[None]:
    """Restore everything after the block, also after an error.

    That is: parameters, buffers (also unsaved ones), which parameters are trainable, gradients, the mode of every
    module, the random states of Python, NumPy and PyTorch on every device, and the position of the loaders.
    """
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    kept = _copies([*(parameter for parameter, _, _ in parameters), *(buffer for _, _, buffer in buffers)])
    modes = [(module, module.training) for module in model.modules()]
    places = [_place(loader) for loader in loaders]
    randomness = random_states()
    for parameter, _, _ in parameters:
        parameter.grad = None  # detached instead of copied, as an optimizer may zero gradients in place
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
        for module, name, buffer in buffers:
            setattr(module, name, buffer)  # some modules replace their buffers
        for parameter, learns, gradient in parameters:
            parameter.requires_grad_(learns)
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
        for restore in places:
            restore()
        set_random_states(randomness)


def _copies(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(tensor, tensor.detach().clone()) for tensor in tensors]


def _place(loader: Any) -> Any:
    """A function that restores the current position of a loader."""
    bookmark = getattr(loader, "bookmark", None)
    return _foreign_place(loader) if bookmark is None else bookmark()


def _foreign_place(loader: Any) -> Any:
    """PyTorch's loaders use a generator for their order, others may have a ``state_dict``."""
    sampler = getattr(loader, "sampler", None)
    found = [getattr(part, "generator", None) for part in (loader, sampler, getattr(loader, "batch_sampler", None))]
    generators = [(it, it.get_state()) for it in found if isinstance(it, torch.Generator)]
    state = copy.deepcopy(loader.state_dict()) if hasattr(loader, "load_state_dict") else None

    def restore() -> None:
        for generator, value in generators:
            generator.set_state(value)
        if state is not None:
            loader.load_state_dict(state)

    return restore
