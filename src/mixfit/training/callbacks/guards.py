"""Callbacks that guard a fit: end it if the loss is not finite, and split batches that do not fit in memory."""

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
    """Raises ``Diverged`` if the loss is not finite: before the step on the CPU, one step later on other devices, to
    avoid a synchronisation.

    The message names the rows, and the first layer, weight or input that is not finite."""

    order = 90  # before checkpoints are written
    chooses = changes = False

    def __init__(self) -> None:
        self._before: Rows = ()
        self._flag: Tensor | None = None

    def before_fit(self, state: TrainState) -> None:
        """Reset."""
        self._before, self._flag = (), None

    def after_backward(self, state: TrainState) -> None:
        """Check the loss of this batch, or of the previous one."""
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
                "Train with a smaller learning rate, or check those rows; the last good checkpoint is kept."
            )
        self._before = _rows_of(state)  # stays on its device, as it is only needed after a divergence


def _cause(state: TrainState, rows_before: Sequence[int]) -> str:
    """One sentence on the first thing that is not finite, in the order of a step."""
    weights = [name for name, weight in state.model.named_parameters() if not bool(weight.detach().isfinite().all())]
    if weights:
        more = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
        return f"the previous step made {weights[0]}{more} non-finite, by a gradient of {_named(rows_before)}."
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
    """Rerun the batch to find the first leaf module whose output is not finite."""
    found: list[tuple[str, nn.Module, list[int]]] = []

    def look(call: Call) -> None:
        for _, tensor in tensors_in(call.output):
            if not found and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                found.append((call.name, call.module, _broken_rows(tensor, rows)))

    # The model itself comes last, as its own code may produce such values.
    with Hooks(model, look), Hook(model, look, name="output"), torch.no_grad():
        model(xb)
    return found[0] if found else None


def _broken_rows(tensor: Tensor, rows: int) -> list[int]:
    """The rows that are not finite; empty if the first axis is not that of the rows."""
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
    """Table rows of the batch, or positions in the batch if unknown."""
    rows = getattr(state.xb, "rows", None)
    return range(len(state.yb)) if rows is None else rows


def _numbers(state: TrainState, rows: Rows) -> list[int]:
    """The rows by their numbers in the table."""
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
    """Retries a training batch that did not fit in memory in twice as many parts, also for the following batches.

    The gradients are those of the whole batch; batch statistics, as in batch norms, are those of a part.

    Args:
        times: how often the parts are doubled in a fit; then the fit ends with a ``ResourceError``.
        console: where each doubling is reported; by default standard output.
    Raises:
        ConfigError: ``times`` is below 1.
    """

    chooses = changes = False  # the gradients are the same, and every run has such a guard

    def __init__(self, times: int = 3, *, console: Console | None = None) -> None:
        if times < 1:
            raise ConfigError(f"times must be at least 1, got {times}.")
        self.times = times
        self.console = PlainConsole() if console is None else console
        self.lines: list[str] = []
        """The reported lines."""

    def state_dict(self) -> dict[str, Any]:
        """The reported lines, which count the doublings."""
        return {"lines": self.lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the lines."""
        self.lines = list(state["lines"])

    def before_fit(self, state: TrainState) -> None:
        """Reset."""
        self.lines = []

    def on_out_of_memory(self, state: TrainState) -> None:
        """Double the parts if possible, and release the memory of the failed attempt."""
        rows = len(state.yb)
        if len(self.lines) == self.times or state.parts >= rows:
            return
        state.parts *= 2
        self.lines.append(f"The batch of {rows} rows did not fit in memory: continuing in {state.parts} parts.")
        self.console.print(self.lines[-1], highlight=False)
        error = sys.exception()
        if error is not None:
            traceback.clear_frames(error.__traceback__)  # the frames of the model hold its activations
        state.prediction, state.loss = None, state.loss.detach()  # and so does the graph
        gc.collect()
        if state.loss_sum.device.type == "cuda":
            torch.cuda.empty_cache()
