"""The learning-rate finder: a callback that tries growing rates, what it saw, and a trial that leaves no trace.

``Learner.lr_find`` puts them together."""

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
"""Fewer losses show no curve."""
EXPLOSION = 4.0
"""The search ends when the running mean of the loss is this many times its lowest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSearch:
    """What a search for the learning rate saw; ``rates``, ``losses`` and ``smoothed`` have one number for each step."""

    rates: tuple[float, ...]
    """Learning rates, growing by the same factor at each step."""
    losses: tuple[float, ...]
    """Of the batch of each step, before the step was taken."""
    smoothed: tuple[float, ...]
    """The losses averaged over neighbouring steps, before and after alike, so that the curve is not late."""

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest.

        Raises:
            ConfigError: the loss fell nowhere.
        """
        begin, bottom = self._fall()
        slopes = np.gradient(np.array(self.smoothed), np.log(self.rates))
        return self.rates[begin + int(np.argmin(slopes[begin : bottom + 1]))]

    @property
    def valley(self) -> float:
        """A rate in the middle of the fall that ends at the lowest smoothed loss: fast, with room before it explodes.

        Raises:
            ConfigError: the loss fell nowhere.
        """
        begin, bottom = self._fall()
        middle = (self.smoothed[begin] + self.smoothed[bottom]) / 2
        below = next(step for step in range(begin, bottom + 1) if self.smoothed[step] <= middle)
        return math.sqrt(self.rates[below] * self.rates[bottom])

    @property
    def suggestions(self) -> tuple[float, ...]:
        """``steepest`` and ``valley``; nothing where the loss fell nowhere."""
        try:
            return self.steepest, self.valley
        except ConfigError:
            return ()

    def plot(self) -> "Figure":
        """Losses over rates, with both suggestions; a figure of its own that no window shows."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.3), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.75", label="loss of each batch")
        axes.plot(self.rates, self.smoothed, color="C0", label="smoothed")
        # A curve that falls nowhere is worth seeing all the more.
        suggestions = zip(("steepest", "valley"), self.suggestions, strict=False)
        for number, (name, rate) in enumerate(suggestions, start=1):
            axes.axvline(rate, color=f"C{number}", linestyle="--", label=f"{name} {rate:.1e}")
        low, high = min(self.smoothed), max(self.smoothed[: max(1, len(self.smoothed) // 2)])
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        if high > low:
            axes.set_ylim(low - 0.2 * (high - low), high + 0.5 * (high - low))
        figure.legend(loc="outside upper center", ncols=4, frameon=False)  # inside it would hide some of the curve
        return figure

    def _fall(self) -> tuple[int, int]:
        """First and last step of the fall to the lowest smoothed loss."""
        bottom = int(np.argmin(self.smoothed))
        begin = int(np.argmax(self.smoothed[: bottom + 1]))
        if begin == bottom:
            raise ConfigError(
                f"The loss fell nowhere between the rates {self.rates[0]:.1e} and {self.rates[-1]:.1e}: search from a "
                "smaller start, with more steps, or with larger batches."
            )
        return begin, bottom


class RateFinder(Callback):
    """Makes the rate of every group grow from step to step, notes the losses, and ends the fit at its explosion.

    Args:
        start, end: first and last factor of the rate that each group has when the fit begins.
        steps: how many steps there are between them.
    Raises:
        ConfigError: the rates do not grow from above 0, or there are too few steps.
    """

    order = -20

    def __init__(self, start: float, end: float, steps: int) -> None:
        if not 0 < start < end:
            raise ConfigError(f"The rates must grow from start to end, both above 0, got {start} and {end}.")
        if steps < MINIMUM_STEPS:
            raise ConfigError(f"steps must be at least {MINIMUM_STEPS}, got {steps}.")
        self.shape, self.steps = Exponential(start, end), steps
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._peaks: list[float] = []
        self._mean, self._lowest = 0.0, math.inf

    def before_fit(self, state: TrainState) -> None:
        """Remember the rates of the groups; an optimizer's own warm-up would hide the rate that is tried."""
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
        """Note the loss; end the search before a step that could only make it worse."""
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
        """Nobody asks for the validation loss."""
        raise CancelEpoch

    def found(self) -> RateSearch:
        """What was seen.

        Raises:
            Diverged: the loss is not finite from the beginning.
        """
        if not self.losses:
            raise Diverged(
                "The loss of the first batch is not finite before any step was taken: look for values that are not "
                "finite in the inputs or in the weights."
            )
        if len(self.losses) < MINIMUM_STEPS:
            raise Diverged(
                f"The loss is no longer finite after {len(self.losses)} steps, at the rate {self.rates[-1]:.1e}: "
                f"search from a smaller start than {self.shape.start:g}."
            )
        smoothed = tuple(smooth(self.losses, self.steps))
        return RateSearch(rates=tuple(self.rates), losses=tuple(self.losses), smoothed=smoothed)


def smooth(losses: Sequence[float], steps: int) -> list[float]:
    """A mean of each loss and its neighbours, with weights that fall like a bell, 4 % of ``steps`` wide.

    Losses above all of the first quarter count as the highest of those, or the explosion would reach back."""
    values, places = np.array(losses), np.arange(len(losses))
    values = np.minimum(values, values[: max(MINIMUM_STEPS, len(values) // 4)].max())
    weights = np.exp(-0.5 * ((places[:, None] - places) / max(1.0, 0.04 * steps)) ** 2)
    return [float(value) for value in weights @ values / weights.sum(1)]


@contextmanager
def preserved(model: nn.Module, loaders: Iterable[Any] = ()) -> Iterator[None]:
    """Leave everything as it was found when the block ends, also by an error.

    That is: parameters, buffers (those that are not saved, too), which of them learn, gradients, the mode of every
    module, the random states of Python, NumPy and PyTorch on every device, and where the loaders stand in their epoch.
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
        parameter.grad = None  # set aside rather than copied: an optimizer may zero gradients in place
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
        for module, name, buffer in buffers:
            setattr(module, name, buffer)  # some modules put new tensors in place of their buffers
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
    """A function that puts a loader back to where it stands now."""
    bookmark = getattr(loader, "bookmark", None)
    return _foreign_place(loader) if bookmark is None else bookmark()


def _foreign_place(loader: Any) -> Any:
    """PyTorch's loaders draw their orders from a generator, others may have a ``state_dict``."""
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
