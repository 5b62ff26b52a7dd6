"""Schedules: hyper-parameters of the optimizer that change from step to step."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mixfit.errors import ConfigError, did_you_mean
from mixfit.training.callback import Callback, TrainState
from mixfit.training.schedule import Shape, one_cycle, one_cycle_momentum


class Schedule(Callback):
    """Sets one number of every parameter group of the optimizer before each training step.

    >>> from mixfit.training.schedule import Linear, cosine_with_restarts
    >>> restarts = Schedule("lr", cosine_with_restarts(3))
    >>> decay = Schedule("weight_decay", Linear(0.0, 0.1), gives="values")

    Args:
        key: such as ``"lr"``, ``"weight_decay"`` or ``"momentum"``; ``"betas.0"`` is the first number of the pair
            ``betas``.
        shape: from the share of the training that is done (``TrainState.progress``) to a number.
        gives: ``"factors"`` of the number that each group has when the fit begins, so that groups with rates of their
            own stay in proportion, or the ``"values"`` themselves, alike for all groups that have the key.
    Raises:
        ConfigError: when the fit begins: no group has the key, or all have 0 where factors are given (but for lr).
    """

    chooses = False

    def __init__(self, key: str, shape: Shape, *, gives: Literal["factors", "values"] = "factors") -> None:
        self.key, self.shape, self.gives = key, shape, gives
        self.first: list[float | None] = []
        """The number of each group when the fit began; None for a group without it."""

    def before_fit(self, state: TrainState) -> None:
        """Remember the number of each group."""
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
                f"{self.key} is 0 in every parameter group, so factors of it change nothing: "
                'set it in the optimizer, or give "values".'
            )

    def before_batch(self, state: TrainState) -> None:
        """Set the number for this step."""
        if not state.training:
            return
        value, key, factors = self.shape(state.progress), self.key, self.gives == "factors"
        for group, first in zip(state.optimizer.param_groups, self.first, strict=True):
            if first is not None:
                number = first * value if factors else value
                if key in group:  # at once: this runs at every step
                    group[key] = number
                else:
                    set_in_tuple(group, key, number)

    def state_dict(self) -> dict[str, Any]:
        """The numbers that the factors are of."""
        return {"first": list(self.first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self.first = list(state["first"])


class OneCycle(Callback):
    """Learning rates rise from almost nothing to their peak and fall to nothing (Smith and Topin, arXiv:1708.07120).

    The peak is the rate that each parameter group has when the fit begins; the epochs of the fit are one cycle.

    Args:
        warmup: share of the steps in which the rate rises, in (0, 1).
        start: first rate as a share of the peak.
        end: last rate as a share of the peak.
        momentum: the highest and the lowest, such as ``(0.95, 0.85)``: momentum, or the first of the betas, falls while
            the rate rises and rises while it falls. None leaves it as it is.
    Raises:
        ConfigError: ``warmup`` or ``momentum`` is impossible, or the optimizer has no momentum.
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
        """What was made of the arguments."""
        return {"rate": self.rate.shape, "momentum": self.momentum}

    def before_fit(self, state: TrainState) -> None:
        """Remember the peak of each group."""
        self.schedules = [self.rate]
        if self.momentum is not None:
            known = {key for group in state.optimizer.param_groups for key in numbers(group)}
            keys = [key for key in ("momentum", "betas.0") if key in known]
            if not keys:
                raise ConfigError("OneCycle has a momentum, but the optimizer has neither momentum nor betas.")
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
        """Go on from ``state_dict()``."""
        for schedule in self.schedules:
            if schedule.key in state:
                schedule.load_state_dict(state[schedule.key])


def numbers(group: Mapping[str, Any]) -> dict[str, float]:
    """What of a parameter group a schedule can set: its numbers, and those in tuples as ``"betas.0"``.

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
    """Put a number where ``numbers`` found ``"betas.0"`` and the like."""
    name, _, place = key.rpartition(".")
    parts: Sequence[float] = group[name]
    group[name] = type(parts)(value if at == int(place) else part for at, part in enumerate(parts))  # type: ignore[call-arg]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
