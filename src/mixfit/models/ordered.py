"""Ordered classes for models of two classes: one model for each step, "above class 0", "above class 1" and so on.

See Frank and Hall, "A Simple Approach to Ordinal Classification", ECML 2001. The probability of a class is the
difference of those of two steps; where they contradict each other, the lower one counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixfit.errors import DataError
from mixfit.models.model import FittedModel, Layout, Model, Rows, State, TrainingRows

LEAST = 1e-4
"""Smallest probability of a class before they are divided by their sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSteps:
    """One fitted model of two classes for each step."""

    steps: Sequence[FittedModel]

    def predict(self, rows: Rows) -> np.ndarray:
        """See ``FittedModel``."""
        above = np.stack([step.predict(rows)[:, 1] for step in self.steps], axis=1)
        above = np.minimum.accumulate(above, axis=1)
        edges = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
        found = np.maximum(edges[:, :-1] - edges[:, 1:], LEAST)
        return found / found.sum(axis=1, keepdims=True)

    def state(self) -> State:
        """See ``FittedModel``."""
        states = [step.state() for step in self.steps]
        arrays = {f"step{place}.{name}": one for place, (own, _) in enumerate(states) for name, one in own.items()}
        return arrays, {"steps": [config for _, config in states]}


def fit_steps(model: Model, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> FittedSteps:
    """Fit a model to every step."""
    layout = rows.layout
    of_two = replace(rows, layout=replace(layout, classes=2, ordered=False))
    above = [(truth > place).astype(np.int64) for place in range(layout.classes - 1)]
    return FittedSteps(steps=[model.fit(of_two, one, weight, seed) for one in above])


def load_steps(
    model: Model, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout
) -> FittedSteps:
    """Load the output of ``FittedSteps.state``.

    Raises:
        DataError: it is invalid, or does not match the layout.
    """
    said = config.get("steps")
    if not isinstance(said, list) or len(said) != layout.classes - 1 or not all(isinstance(one, dict) for one in said):
        raise DataError("the steps of a model of ordered classes do not match the classes")
    of_two = replace(layout, classes=2, ordered=False)

    def own(place: int) -> dict[str, np.ndarray]:
        start = f"step{place}."
        return {name.removeprefix(start): one for name, one in arrays.items() if name.startswith(start)}

    return FittedSteps(steps=[model.load(own(place), one, of_two) for place, one in enumerate(said)])
