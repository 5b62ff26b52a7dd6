"""Shapes of schedules: plain functions from the share of the training that is done, in [0, 1], to a value.

A shape is any ``Callable[[float], float]``; these here can be joined one after the other. What the value is of, and
whether it is a factor or the value itself, is said where a shape is used: ``callbacks/schedule.py``.

>>> shape = joined((0.25, Linear(0.0, 1.0)), (0.75, Cosine(1.0, 0.0)))
>>> [round(shape(position), 3) for position in (0.0, 0.125, 0.25, 0.625, 1.0)]
[0.0, 0.5, 1.0, 0.5, 0.0]
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from mixfit.errors import ConfigError

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
    """From ``start`` to ``end`` by the same factor in equal times; both must be above 0."""

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
    """From ``start`` to ``end``, where the way left is ``(1 - position) ** power`` of all."""

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
    """Shapes one after the other, each over its fraction of the whole; made by ``joined``."""

    parts: tuple[tuple[float, Shape], ...]

    def __post_init__(self) -> None:
        fractions = [fraction for fraction, _ in self.parts]
        wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
        if wrong:
            raise ConfigError(f"Every fraction of joined shapes must be above 0 and at most 1, got {wrong[0]}.")
        if not math.isclose(math.fsum(fractions), 1, abs_tol=1e-9):
            shown = " + ".join(map(str, fractions)) or "nothing"
            raise ConfigError(f"The fractions of joined shapes must sum to 1, and {shown} is {math.fsum(fractions):g}.")

    def __call__(self, position: float) -> float:
        """The value at ``position``; where two shapes meet, the later one counts."""
        begin = 0.0
        for fraction, shape in self.parts[:-1]:
            if position < begin + fraction:
                return shape((position - begin) / fraction)
            begin += fraction
        fraction, shape = self.parts[-1]
        return shape(min(1.0, max(0.0, (position - begin) / fraction)))


def joined(*parts: tuple[float, Shape]) -> Joined:
    """Shapes one after the other: ``joined((0.3, Linear(0, 1)), (0.7, Cosine(1, 0)))``.

    Raises:
        ConfigError: the fractions do not sum to 1.
    """
    return Joined(parts)


def warm_up(shape: Shape, share: float, *, start: float = 0.0) -> Joined:
    """First a straight rise from ``start`` times the shape's first value to that value, then the shape.

    Args:
        shape: what follows; it is compressed into the rest of the time.
        share: of the training that the rise takes, in (0, 1).
        start: where the rise begins, as a share of the shape's first value.
    Raises:
        ConfigError: ``share`` is outside (0, 1).
    """
    _check_share("share", share)
    first = shape(0.0)
    return joined((share, Linear(start * first, first)), (1 - share, shape))


def one_cycle(*, warmup: float = 0.25, start: float = 0.04, end: float = 1e-4) -> Joined:
    """From ``start`` up to 1 and down to ``end`` along cosines (Smith and Topin, arXiv:1708.07120).

    Args:
        warmup: share of the training in which it rises, in (0, 1).
        start, end: first and last value.
    Raises:
        ConfigError: ``warmup`` is outside (0, 1).
    """
    _check_share("warmup", warmup)
    return joined((warmup, Cosine(start, 1.0)), (1 - warmup, Cosine(1.0, end)))


def one_cycle_momentum(high: float, low: float, *, warmup: float = 0.25) -> Joined:
    """From ``high`` down to ``low`` and back up, the other way round than ``one_cycle``'s rate.

    Raises:
        ConfigError: ``warmup`` is outside (0, 1), or not ``0 <= low <= high < 1``.
    """
    _check_share("warmup", warmup)
    if not 0 <= low <= high < 1:
        raise ConfigError(f"momentum must go from high to low inside [0, 1), got {high} and {low}.")
    return joined((warmup, Cosine(high, low)), (1 - warmup, Cosine(low, high)))


def cosine_with_restarts(cycles: int, *, end: float = 0.0, growth: float = 1.0, decay: float = 1.0) -> Joined:
    """Falls from 1 to ``end`` along a cosine and jumps up again, ``cycles`` times (SGDR, arXiv:1608.03983).

    Args:
        cycles: how many falls there are.
        end: of every fall.
        growth: how much longer each cycle is than the one before.
        decay: how high each cycle begins, as a share of the one before.
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
