"""Ends a fit as soon as its loss is no longer finite, and says where that came from."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.errors import Diverged
from mixfit.hooks.hook import Call, Hook, Hooks
from mixfit.hooks.structure import tensors_in
from mixfit.training.callback import Callback
from mixfit.training.state import TrainState

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
