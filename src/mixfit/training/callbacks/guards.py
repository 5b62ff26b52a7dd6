"""Callbacks that guard a fit: a loss that is not finite ends it, a batch beyond the memory is taken in parts."""

import gc
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from mixfit.console import PlainConsole
from mixfit.errors import ConfigError, Diverged
from mixfit.hooks.hook import Call, Hook, Hooks, tensors_in
from mixfit.training.callback import Callback, TrainState

Rows = Tensor | Sequence[int]


class NanGuard(Callback):
    """Raises ``Diverged`` before the step on the CPU, one step later on other devices, which it does not wait for.

    The message names the rows, and the first layer, weight or input that is not finite."""

    order = 90  # before checkpoints are written
    chooses = changes = False

    def __init__(self) -> None:
        self._before: Rows = ()
        self._flag: Tensor | None = None

    def before_fit(self, state: TrainState) -> None:
        """Start anew."""
        self._before, self._flag = (), None

    def after_backward(self, state: TrainState) -> None:
        """Judge the loss of this batch, or that of the one before."""
        loss = state.loss.detach()
        if loss.device.type == "cpu":
            broken = not math.isfinite(loss.item())
        else:
            broken = self._flag is not None and not self._flag.item()
            self._flag = loss.isfinite()
        if broken:
            raise Diverged(
                f"The loss is no longer finite at step {state.step + 1} (epoch {state.epoch + 1}, batch "
                f"{state.batch}): {_cause(state, _numbers(state, self._before))} "
                "Train with a smaller learning rate, or look at those rows; the last good checkpoint is kept."
            )
        self._before = _rows_of(state)  # left on its device: asked for in the one case alone


def _cause(state: TrainState, rows_before: Sequence[int]) -> str:
    """One sentence on the first thing that is not finite, in the order in which a step goes."""
    weights = [name for name, weight in state.model.named_parameters() if not bool(weight.detach().isfinite().all())]
    if weights:
        more = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
        return f"the step before has broken {weights[0]}{more}, by a gradient of {_named(rows_before)}."
    rows = _numbers(state, _rows_of(state))
    for name, tensor in _inputs(state.xb).items():
        broken = _broken_rows(tensor, len(rows))
        if broken:
            return f"the input {name} is not finite in {_named([rows[i] for i in broken])}."
    layer = _first_broken_layer(state.model, state.xb, len(rows))
    if layer is not None:
        name, module, broken = layer
        where = _named([rows[i] for i in broken]) if broken else f"the batch of {_named(rows)}"
        return f"the layer {name or 'model'} ({type(module).__name__}) is the first that is not finite, for {where}."
    broken = _broken_rows(state.yb, len(rows)) if state.yb.is_floating_point() else []
    if broken:
        return f"the target is not finite in {_named([rows[i] for i in broken])}."
    return f"the loss itself overflows for {_named(rows)}."


def _first_broken_layer(model: nn.Module, xb: Any, rows: int) -> tuple[str, nn.Module, list[int]] | None:
    """The first module without children whose output is not finite, run again on the batch."""
    found: list[tuple[str, nn.Module, list[int]]] = []

    def look(call: Call) -> None:
        for _, tensor in tensors_in(call.output):
            if not found and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                found.append((call.name, call.module, _broken_rows(tensor, rows)))

    # The model itself comes last: it may break what no layer of it did.
    with Hooks(model, look), Hook(model, look, name="output"), torch.no_grad():
        model(xb)
    return found[0] if found else None


def _broken_rows(tensor: Tensor, rows: int) -> list[int]:
    """Which rows are not finite; none can be named where the first axis is not that of the rows."""
    if not tensor.is_floating_point() or not tensor.ndim or len(tensor) != rows:
        return []
    broken = ~tensor.detach().isfinite().reshape(rows, -1).all(1)
    return [int(row) for row in broken.nonzero()[:, 0]]


def _inputs(xb: Any) -> dict[str, Tensor]:
    if isinstance(xb, Tensor):
        return {"xb": xb}
    named = getattr(xb, "tensors", None)
    return {} if named is None else dict(named())


def _rows_of(state: TrainState) -> Rows:
    """Table rows of the batch, or positions in it where the batches do not say which rows they are."""
    rows = getattr(state.xb, "rows", None)
    return range(len(state.yb)) if rows is None else rows


def _numbers(state: TrainState, rows: Rows) -> list[int]:
    """What people call the rows, who have the whole table."""
    if not isinstance(rows, Tensor):
        return list(rows)
    named: Callable[[list[int]], list[int]] | None = getattr(getattr(state.loader, "dataset", None), "named", None)
    return rows.tolist() if named is None else named(rows.tolist())


def _named(rows: Sequence[int]) -> str:
    first = ", ".join(map(str, rows[:5]))
    return (
        f"row {first}" if len(rows) == 1 else f"rows {first}" + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
    )


class OutOfMemoryGuard(Callback):
    """Tries a training batch that did not fit again in twice as many parts, and goes on with so many.

    The gradients are those of the whole batch; what looks at its rows together, such as a batch norm, sees a part.

    Args:
        times: how often the parts are doubled in a fit; after that the fit ends with a ``ResourceError``.
        console: where one line for each is written; by default standard output.
    Raises:
        ConfigError: ``times`` is below 1.
    """

    chooses = changes = False  # the gradients are the same, and each run has such a guard anyway

    def __init__(self, times: int = 3, *, console: Console | None = None) -> None:
        if times < 1:
            raise ConfigError(f"times must be at least 1, got {times}.")
        self.times = times
        self.console = PlainConsole() if console is None else console
        self.lines: list[str] = []
        """What was written."""

    def state_dict(self) -> dict[str, Any]:
        """How often it happened, by its lines."""
        return {"lines": self.lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.lines = list(state["lines"])

    def before_fit(self, state: TrainState) -> None:
        """Start anew."""
        self.lines = []

    def on_out_of_memory(self, state: TrainState) -> None:
        """Double the parts if it helps, and give back what the failed attempt holds."""
        rows = len(state.yb)
        if len(self.lines) == self.times or state.parts >= rows:
            return
        state.parts *= 2
        self.lines.append(f"The batch of {rows} rows did not fit: going on in {state.parts} parts.")
        self.console.print(self.lines[-1], highlight=False)
        error = sys.exception()
        if error is not None:
            traceback.clear_frames(error.__traceback__)  # the frames of the model hold its activations
        state.prediction, state.loss = None, state.loss.detach()  # and so does the graph
        gc.collect()
        if state.loss_sum.device.type == "cuda":
            torch.cuda.empty_cache()
