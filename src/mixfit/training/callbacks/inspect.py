"""Callbacks that record statistics of a model in training: outputs of its layers, and gradients."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from mixfit.errors import ConfigError
from mixfit.hooks.activation_stats import QUANTILES, ActivationStats
from mixfit.hooks.gradient_stats import GradientStats
from mixfit.hooks.hook import MIXED_BRANCHES, Layers
from mixfit.training.callback import Callback, TrainState

Stats = TypeVar("Stats", ActivationStats, GradientStats)


class _Watching(Generic[Stats]):
    """Base class: statistics of a fit, saved with it, with hooks that are removed at its end."""

    _stats: Stats | None = None

    @property
    def stats(self) -> Stats:
        """Statistics of the running or the last fit.

        Raises:
            ConfigError: there was no fit."""
        if self._stats is None:
            raise ConfigError(f"{type(self).__name__} has not watched a fit yet: pass it to one as a callback first.")
        return self._stats

    def state_dict(self) -> dict[str, Any]:
        """The statistics so far."""
        return {} if self._stats is None else self._stats.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the statistics."""
        self.stats.load_state_dict(state)

    def close(self, state: TrainState) -> None:
        """Remove the hooks."""
        if self._stats is not None:
            self._stats.remove()


class WatchActivations(_Watching[ActivationStats], Callback):
    """Records ``ActivationStats`` of the training batches of a fit, in ``stats``; a resumed fit continues them.

    Args:
        layers, every, columns, near_zero, quantiles, edges, sample, branches: as for ``ActivationStats``; steps are
            those of the optimizer.
    """

    chooses = changes = False

    def __init__(
        self,
        layers: Layers | None = None,
        *,
        every: int = 10,
        columns: int = 64,
        near_zero: float = 1e-3,
        quantiles: Sequence[float] = QUANTILES,
        edges: Sequence[float] | None = None,
        sample: int | None = 2**13,
        branches: Mapping[str, str] = MIXED_BRANCHES,
    ) -> None:
        self._layers = layers
        self._settings: dict[str, Any] = {
            "every": every,
            "columns": columns,
            "near_zero": near_zero,
            "quantiles": quantiles,
            "edges": edges,
            "sample": sample,
            "branches": branches,
        }

    def before_fit(self, state: TrainState) -> None:
        """Reset, and hook the model."""
        self._stats = ActivationStats(state.model, self._layers, step=lambda: state.step, **self._settings)
        self._stats.place()


class WatchGradients(_Watching[GradientStats], Callback):
    """Records ``GradientStats`` of a fit, in ``stats``, before gradients are clipped; a resumed fit continues them.

    Args:
        every, columns, branches, fusion: as for ``GradientStats``.
    """

    order = 15  # after MixedPrecision, which divides the gradients by their scale, and before GradientClipping
    chooses = changes = False

    def __init__(
        self,
        *,
        every: int = 10,
        columns: int = 64,
        branches: Mapping[str, str] = MIXED_BRANCHES,
        fusion: str | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "every": every,
            "columns": columns,
            "branches": branches,
            "fusion": fusion,
        }
        self._loss_scale = 1.0

    def before_fit(self, state: TrainState) -> None:
        """Reset, and hook the fusion."""
        self._stats = GradientStats(state.model, state.optimizer, step=lambda: state.step, **self._settings)
        self._stats.place()

    def before_batch(self, state: TrainState) -> None:
        """Activate the hook of the fusion for measured steps."""
        if state.training:
            self.stats.begin()

    def after_loss(self, state: TrainState) -> None:
        """Record the scale of this loss, which may change before the gradients are measured."""
        self._loss_scale = state.loss_scale

    def after_backward(self, state: TrainState) -> None:
        """Measure the gradients."""
        self.stats.after_backward(loss_scale=self._loss_scale)

    def after_step(self, state: TrainState) -> None:
        """Measure the step."""
        self.stats.after_step()
