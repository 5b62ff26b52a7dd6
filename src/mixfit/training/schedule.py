"""Schedules of the optimizer's hyper-parameters, and their shapes.

A shape is a function from the progress of the training, in [0, 1], to a value: any ``Callable[[float], float]``.
Shapes can be concatenated. The callbacks ``Schedule`` and ``OneCycle`` apply them to a hyper-parameter, as factors or
as values.

>>> shape = joined((0.25, Linear(0.0, 1.0)), (0.75, Cosine(1.0, 0.0)))
>>> [round(shape(position), 3) for position in (0.0, 0.125, 0.25, 0.625, 1.0)]
[0.0, 0.5, 1.0, 0.5, 0.0]
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mixfit.errors import ConfigError, did_you_mean
from mixfit.training.callback import Callback, TrainState

Shape = Callable[[float], float]
"""From a position in [0, 1] to a value."""


def cosine(start: float, end: float, position: float) -> float:
    """From ``start`` to ``end`` along half a cosine; ``position`` in [0, 1]."""
    return end + (start - end) * (1 + math.cos(math.pi * position)) / 2


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same."""

    value: float

    def __call__(self, position: float) -> float:
        """The value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Linear:
    """From ``start`` to ``end`` along a straight line."""

    start: float
    end: float

    def __call__(self, position: float) -> float:
        """The value at ``position``; at 0 and 1 exactly ``start`` and ``end``."""
        return self.start * (1 - position) + self.end * position


@dataclass(frozen=True, slots=True)
class Cosine:
    """From ``start`` to ``end`` along half a cosine: slow at both ends."""

    start: float
    end: float

    def __call__(self, position: float) -> float:
        """The value at ``position``."""
        return cosine(self.start, self.end, position)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponential from ``start`` to ``end``; both must be above 0."""

    start: float
    end: float

    def __post_init__(self) -> None:
        if not (self.start > 0 and self.end > 0):
            raise ConfigError(f"An exponential shape needs ends above 0, got {self.start} and {self.end}.")

    def __call__(self, position: float) -> float:
        """The value at ``position``."""
        return self.start ** (1 - position) * self.end**position


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Polynomial from ``start`` to ``end``: the remaining share of the difference is ``(1 - position) ** power``."""

    start: float
    end: float
    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ConfigError(f"power must be above 0, got {self.power}.")

    def __call__(self, position: float) -> float:
        """The value at ``position``."""
        return self.end + (self.start - self.end) * (1 - position) ** self.power


@dataclass(frozen=True, slots=True)
class Joined:
    """Concatenated shapes, each over its fraction of the training; made by ``joined``."""

    parts: tuple[tuple[float, Shape], ...]

    def __post_init__(self) -> None:
        fractions = [fraction for fraction, _ in self.parts]
        wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
        if wrong:
            raise ConfigError(f"Every fraction of joined shapes must be above 0 and at most 1, got {wrong[0]}.")
        if not math.isclose(math.fsum(fractions), 1, abs_tol=1e-9):
            shown = " + ".join(map(str, fractions)) or "nothing"
            raise ConfigError(f"The fractions of joined shapes must sum to 1, but {shown} is {math.fsum(fractions):g}.")

    def __call__(self, position: float) -> float:
        """The value at ``position``; at a boundary, that of the later shape."""
        begin = 0.0
        for fraction, shape in self.parts[:-1]:
            if position < begin + fraction:
                return shape((position - begin) / fraction)
            begin += fraction
        fraction, shape = self.parts[-1]
        return shape(min(1.0, max(0.0, (position - begin) / fraction)))


def joined(*parts: tuple[float, Shape]) -> Joined:
    """Concatenate shapes: ``joined((0.3, Linear(0, 1)), (0.7, Cosine(1, 0)))``.

    Raises:
        ConfigError: the fractions do not sum to 1.
    """
    return Joined(parts)


def warm_up(shape: Shape, share: float, *, start: float = 0.0) -> Joined:
    """Linear warm-up from ``start`` times the shape's first value to that value, then the shape.

    Args:
        shape: compressed into the rest of the training.
        share: share of the training for the warm-up, in (0, 1).
        start: first value as a share of the shape's first value.
    Raises:
        ConfigError: ``share`` is outside (0, 1).
    """
    _check_share("share", share)
    first = shape(0.0)
    return joined((share, Linear(start * first, first)), (1 - share, shape))


def one_cycle(*, warmup: float = 0.25, start: float = 0.04, end: float = 1e-4) -> Joined:
    """From ``start`` up to 1 and down to ``end`` along cosines (Smith and Topin, arXiv:1708.07120).

    Args:
        warmup: share of the training in which it increases, in (0, 1).
        start, end: first and last value.
    Raises:
        ConfigError: ``warmup`` is outside (0, 1).
    """
    _check_share("warmup", warmup)
    return joined((warmup, Cosine(start, 1.0)), (1 - warmup, Cosine(1.0, end)))


def one_cycle_momentum(high: float, low: float, *, warmup: float = 0.25) -> Joined:
    """From ``high`` down to ``low`` and back up, opposite to the rate of ``one_cycle``.

    Raises:
        ConfigError: ``warmup`` is outside (0, 1), or not ``0 <= low <= high < 1``.
    """
    _check_share("warmup", warmup)
    if not 0 <= low <= high < 1:
        raise ConfigError(f"momentum must be a pair (high, low) with 0 <= low <= high < 1, got {high} and {low}.")
    return joined((warmup, Cosine(high, low)), (1 - warmup, Cosine(low, high)))


def cosine_with_restarts(cycles: int, *, end: float = 0.0, growth: float = 1.0, decay: float = 1.0) -> Joined:
    """Cosine decay from 1 to ``end`` with warm restarts, ``cycles`` times (SGDR, arXiv:1608.03983).

    Args:
        cycles: number of cycles.
        end: last value of every cycle.
        growth: ratio of the length of a cycle to the previous one.
        decay: ratio of the first value of a cycle to that of the previous one.
    Raises:
        ConfigError: ``cycles`` is below 1, or ``growth`` or ``decay`` not above 0.
    """
    if cycles < 1:
        raise ConfigError(f"cycles must be at least 1, got {cycles}.")
    if not (growth > 0 and decay > 0):
        raise ConfigError(f"growth and decay must be above 0, got {growth} and {decay}.")
    lengths = [growth**number for number in range(cycles)]
    return joined(*((length / sum(lengths), Cosine(decay**number, end)) for number, length in enumerate(lengths)))


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise ConfigError(f"{name} must be between 0 and 1, got {share}.")


class Schedule(Callback):
    """Sets a hyper-parameter of every parameter group of the optimizer before each training step.

    >>> restarts = Schedule("lr", cosine_with_restarts(3))
    >>> decay = Schedule("weight_decay", Linear(0.0, 0.1), gives="values")

    Args:
        key: such as ``"lr"``, ``"weight_decay"`` or ``"momentum"``; ``"betas.0"`` is the first number of the pair
            ``betas``.
        shape: from ``TrainState.progress`` to a number.
        gives: ``"factors"`` of each group's initial value, which keeps the proportions between groups, or ``"values"``,
            equal for all groups that have the key.
    Raises:
        ConfigError: at the start of the fit, no group has the key, or factors are used and all values are 0 (except
            for lr).
    """

    chooses = False

    def __init__(self, key: str, shape: Shape, *, gives: Literal["factors", "values"] = "factors") -> None:
        self.key, self.shape, self.gives = key, shape, gives
        self.first: list[float | None] = []
        """Initial value of each group; None for a group without it."""

    def before_fit(self, state: TrainState) -> None:
        """Store the initial values."""
        groups = state.optimizer.param_groups
        self.first = [numbers(group).get(self.key) for group in groups]
        if all(value is None for value in self.first):
            known = list(dict.fromkeys(key for group in groups for key in numbers(group)))
            raise ConfigError(
                f"No parameter group of the optimizer has {self.key!r}.{did_you_mean(self.key, known)} "
                f"A schedule can set {', '.join(known)}."
            )
        if self.gives == "factors" and self.key != "lr" and not any(self.first):
            raise ConfigError(
                f"{self.key} is 0 in every parameter group, so factors have no effect: "
                'set it in the optimizer, or give "values".'
            )

    def before_batch(self, state: TrainState) -> None:
        """Set the value for this step."""
        if not state.training:
            return
        value, key, factors = self.shape(state.progress), self.key, self.gives == "factors"
        for group, first in zip(state.optimizer.param_groups, self.first, strict=True):
            if first is not None:
                number = first * value if factors else value
                if key in group:  # the fast path, as this runs at every step
                    group[key] = number
                else:
                    set_in_tuple(group, key, number)

    def state_dict(self) -> dict[str, Any]:
        """The initial values."""
        return {"first": list(self.first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict()``."""
        self.first = list(state["first"])


class OneCycle(Callback):
    """One-cycle schedule: learning rates increase to their peak and decrease to almost 0 (Smith and Topin,
    arXiv:1708.07120).

    The peak is each parameter group's initial rate; the epochs of the fit are one cycle.

    Args:
        warmup: share of the steps in which the rate increases, in (0, 1).
        start: first rate as a share of the peak.
        end: last rate as a share of the peak.
        momentum: highest and lowest momentum (or first beta), such as ``(0.95, 0.85)``; it moves opposite to the rate.
            None leaves it constant.
    Raises:
        ConfigError: ``warmup`` or ``momentum`` is invalid, or the optimizer has no momentum.
    """

    chooses = False

    def __init__(
        self,
        *,
        warmup: float = 0.25,
        start: float = 0.04,
        end: float = 1e-4,
        momentum: tuple[float, float] | None = None,
    ) -> None:
        self.rate = Schedule("lr", one_cycle(warmup=warmup, start=start, end=end))
        self.momentum = None if momentum is None else one_cycle_momentum(*momentum, warmup=warmup)
        self.schedules: list[Schedule] = [self.rate]

    def settings_dict(self) -> dict[str, Any]:
        """The settings."""
        return {"rate": self.rate.shape, "momentum": self.momentum}

    def before_fit(self, state: TrainState) -> None:
        """Store the peak of each group."""
        self.schedules = [self.rate]
        if self.momentum is not None:
            known = {key for group in state.optimizer.param_groups for key in numbers(group)}
            keys = [key for key in ("momentum", "betas.0") if key in known]
            if not keys:
                raise ConfigError("OneCycle sets the momentum, but the optimizer has neither momentum nor betas.")
            self.schedules += [Schedule(key, self.momentum, gives="values") for key in keys]
        for schedule in self.schedules:
            schedule.before_fit(state)

    def before_batch(self, state: TrainState) -> None:
        """Set the rates of this step."""
        for schedule in self.schedules:
            schedule.before_batch(state)

    def state_dict(self) -> dict[str, Any]:
        """The peaks."""
        return {schedule.key: schedule.state_dict() for schedule in self.schedules}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict()``."""
        for schedule in self.schedules:
            if schedule.key in state:
                schedule.load_state_dict(state[schedule.key])


def numbers(group: Mapping[str, Any]) -> dict[str, float]:
    """The hyper-parameters of a group that a schedule can set: numbers, and those in tuples as ``"betas.0"``.

    >>> numbers({"params": [], "lr": 0.1, "betas": (0.9, 0.99), "amsgrad": False})
    {'lr': 0.1, 'betas.0': 0.9, 'betas.1': 0.99}
    """
    found: dict[str, float] = {}
    for key, value in group.items():
        if _is_number(value):
            found[key] = value
        elif key != "params" and isinstance(value, tuple | list):
            found |= {f"{key}.{place}": part for place, part in enumerate(value) if _is_number(part)}
    return found


def set_in_tuple(group: dict[str, Any], key: str, value: float) -> None:
    """Set a number by its name in ``numbers``, such as ``"betas.0"``."""
    name, _, place = key.rpartition(".")
    parts: Sequence[float] = group[name]
    group[name] = type(parts)(value if at == int(place) else part for at, part in enumerate(parts))  # type: ignore[call-arg]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
