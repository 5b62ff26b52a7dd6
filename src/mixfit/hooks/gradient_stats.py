"""Statistics of gradients as plain records, for users and for callbacks."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.hooks.hook import MIXED_BRANCHES, Call, Hook, branch_of, find_layer
from mixfit.hooks.timeline import Columns, Timeline

SUMS = ("steps", "broken", "gradient", "updates", "weight", "update", "ratio")
LARGEST = ("gradient", "ratio")
MODALITY_SUMS = ("steps", "table", "photos", "cosines", "cosine", "agreements", "agreement")
_MOST_WAITING = 16  # steps whose statistics stay on the GPU before they are copied


@dataclass(frozen=True, slots=True)
class Part:
    """A set of parameters of a model, whose gradients are summarised together."""

    kind: Literal["all", "group", "branch", "parameter"]
    """Name of a parameter group, of a branch such as "table", or of a single tensor."""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradient statistics of a part over some steps; norms are Euclidean norms over all parameters of the part.

    Means are over the steps; NaN if nothing was measured."""

    first_step: int
    last_step: int
    steps: int
    broken: int
    """Number of steps that were excluded because a gradient was not finite."""
    gradient: float
    """Mean norm of the gradient, before clipping if measured by the callback."""
    largest_gradient: float
    weight: float
    """Mean norm of the weights before the step."""
    update: float
    """Mean norm of the update."""
    ratio: float
    """Mean of update / weight; often about 1e-3 if a network learns well."""
    largest_ratio: float


@dataclass(frozen=True, slots=True)
class Modalities:
    """Gradients that the encodings of table and photos receive from the fusion."""

    first_step: int
    last_step: int
    steps: int
    table: float
    """Mean norm of the gradient with respect to the table encoding, over all rows of a batch together."""
    photos: float
    """The same for the photo encoding."""
    cosine: float | None
    """Mean over the steps of the cosine similarity of the two gradients; None if the encodings differ in width.

    Meaningful if the fusion adds the encodings or gates between them, so that their components correspond."""
    agreement: float | None
    """Mean cosine similarity, over the rows, of gradient times encoding for the two modalities, in [-1, 1].

    Gradient times encoding, summed for each row, is the first-order effect of the encoding on the loss of the row. 1:
    on every row both modalities reduce the loss, or both increase it; -1: they have opposite effects. Defined for
    encodings of any width."""


class GradientStats:
    """Norms of gradients, ratios of update to weight, and gradients of each modality at the fusion, over time.

    In your own loop: put it in a ``with`` block, call ``after_backward()`` after the backward pass and ``after_step()``
    after the optimizer step. Every ``every``-th step is measured; for these steps, the weights are copied once.

    Args:
        model: the model with these parameters.
        optimizer: its ``param_groups`` are parts, named by their "name" if they have one.
        every: measure every ``every``-th step, starting with the first.
        columns: maximum number of columns that the steps are stored in, an even number; old columns are merged.
        branches: prefixes of parameter names and their branch; otherwise the first part of the name is the branch.
        fusion: name of the layer that is called with the encodings of table and photos; "" for none. By default
            "fusion" if there is one.
        step: returns the number of the current step; by default the calls of ``after_backward`` are counted.
    Raises:
        ConfigError: a number is out of range, or there is no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = None,
        *,
        every: int = 1,
        columns: int = 64,
        branches: Mapping[str, str] = MIXED_BRANCHES,
        fusion: str | None = None,
        step: Callable[[], int] | None = None,
    ) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1, got {every}.")
        self.every, self.timeline = every, Timeline(columns)
        self._parameters = dict(model.named_parameters())
        self._parts = _parts(self._parameters, optimizer, branches)
        self._columns = {part: Columns(columns, len(SUMS), len(LARGEST)) for part in self._parts}
        self._modalities = Columns(columns, len(MODALITY_SUMS), 0)
        self._latest = dict.fromkeys(self._parts, -1)
        self._latest_columns = {part: Columns(1, len(SUMS), len(LARGEST)) for part in self._parts}
        self._latest_met, self._latest_modalities = -1, np.zeros(len(MODALITY_SUMS))
        if fusion is None:
            fusion = "fusion" if isinstance(getattr(model, "fusion", None), nn.Module) else ""
        self._fusion = FusionGradients(find_layer(model, fusion)) if fusion else None
        self._step, self._backwards = step, 0
        self._before: list[Tensor] | None = None
        self._moving: _Step | None = None
        self._waiting: list[_Step] = []
        self._want()

    @property
    def parts(self) -> list[Part]:
        """All parts: all parameters together, the optimizer groups, the branches, and each single parameter."""
        return list(self._parts)

    def place(self) -> None:
        """Register the hooks on the fusion, if a ``with`` block cannot span the training."""
        self._want()
        if self._fusion is not None:
            self._fusion.hook.place()

    def remove(self) -> None:
        """Remove the hooks; the statistics are kept."""
        if self._fusion is not None:
            self._fusion.hook.remove()
            self._fusion.forget()
        self._settle()
        self._fetch()

    def __enter__(self) -> "GradientStats":
        self.place()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @torch.no_grad()
    def after_backward(self, *, loss_scale: float = 1.0) -> None:
        """Call this after the backward pass.

        Args:
            loss_scale: factor by which the loss was scaled, if the gradients of the parameters are already unscaled."""
        self._settle()
        now = self._now()
        self._backwards += 1
        if now % self.every == 0:
            names = [name for name, p in self._parameters.items() if p.grad is not None]
            weights = [self._parameters[name].detach() for name in names]
            met = None if self._fusion is None else self._fusion.take()
            if met is not None:
                met = torch.cat([met[:2] / loss_scale, met[2:]])
            if names:
                grads = [_values(self._parameters[name].grad) for name in names]
                self._moving = _Step(now, names, _norms(grads), met=met)
                self._before = [weight.clone() for weight in weights]
            elif met is not None:
                self._moving = _Step(now, [], met.new_zeros(0), met=met)
        if self._step is None:
            self._want()

    @torch.no_grad()
    def after_step(self) -> None:
        """Call this after the optimizer step."""
        moving, before = self._moving, self._before
        if moving is not None and before is not None:
            now = [self._parameters[name].detach() for name in moving.names]
            moving.weights = _norms(before)
            moving.updates = _norms(list(torch._foreach_sub(now, before)))
            self._settle()

    def begin(self) -> None:
        """Call this at the start of a batch: if ``step`` is given, it decides whether this batch is measured."""
        if self._fusion is not None:
            self._fusion.forget()
        self._want()

    def total(self) -> dict[Part, Gradients]:
        """Statistics of each part over all steps."""
        self._fetch()
        return {
            part: gradients(kept.sums.sum(0), kept.largest.max(0), *self._span())
            for part, kept in self._columns.items()
        }

    def latest(self) -> dict[Part, Gradients]:
        """Statistics of each part in the last step in which it was measured."""
        self._fetch()
        return {
            part: gradients(kept.sums[0], kept.largest[0], self._latest[part], self._latest[part])
            for part, kept in self._latest_columns.items()
            if self._latest[part] >= 0
        }

    def over_time(self, part: Part) -> list[Gradients]:
        """Statistics of one part, by column."""
        self._fetch()
        kept = self._columns[part]
        return [
            gradients(kept.sums[column], kept.largest[column], int(first), int(last))
            for column, (first, last) in enumerate(self.timeline.spans)
        ]

    def modalities(self) -> Modalities:
        """Gradients at the fusion, over all steps."""
        self._fetch()
        return modalities(self._modalities.sums.sum(0), *self._span())

    def latest_modalities(self) -> Modalities | None:
        """Gradients at the fusion in the last step that was measured."""
        self._fetch()
        step = self._latest_met
        return None if step < 0 else modalities(self._latest_modalities, step, step)

    def modalities_over_time(self) -> list[Modalities]:
        """Gradients at the fusion, by column."""
        self._fetch()
        return [
            modalities(self._modalities.sums[column], int(first), int(last))
            for column, (first, last) in enumerate(self.timeline.spans)
        ]

    def state_dict(self) -> dict[str, Any]:
        """All statistics; the size does not depend on the number of steps."""
        self._fetch()
        return {
            "parts": [[part.kind, part.name] for part in self._parts],
            "columns": _saved(self._columns),
            "latest": {"steps": list(self._latest.values()), **_saved(self._latest_columns)},
            "modalities": torch.from_numpy(self._modalities.sums.copy()),
            "latest_modalities": {
                "step": self._latest_met,
                "sums": torch.from_numpy(self._latest_modalities.copy()),
            },
            "timeline": self.timeline.state_dict(),
            "backwards": self._backwards,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the statistics of ``state_dict``.

        Raises:
            ConfigError: they belong to other parameters, or have another number of columns."""
        if [[part.kind, part.name] for part in self._parts] != [list(part) for part in state["parts"]]:
            raise ConfigError("The saved statistics belong to a model with other parameters, groups or branches.")
        self.timeline.load_state_dict(state["timeline"])
        _load(self._columns, state["columns"])
        _load(self._latest_columns, state["latest"])
        self._latest = dict(zip(self._parts, map(int, state["latest"]["steps"]), strict=True))
        self._modalities.sums = state["modalities"].double().numpy().copy()
        self._latest_met = int(state["latest_modalities"]["step"])
        self._latest_modalities = state["latest_modalities"]["sums"].double().numpy().copy()
        self._backwards = int(state["backwards"])
        self._waiting, self._moving, self._before = [], None, None

    def _now(self) -> int:
        return self._backwards if self._step is None else self._step()

    def _want(self) -> None:
        if self._fusion is not None:
            self._fusion.wanted = self._now() % self.every == 0

    def _settle(self) -> None:
        """Complete the current step, with or without an update."""
        if self._moving is not None:
            self._waiting.append(self._moving)
            on_cpu = self._moving.gradients.device.type == "cpu"
            self._moving, self._before = None, None
            if on_cpu or len(self._waiting) == _MOST_WAITING:
                self._fetch()

    def _fetch(self) -> None:
        """Copy all pending statistics from the device at once, and store them."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        together = torch.cat([step.numbers() for step in waiting]).cpu().double().numpy()
        start = 0
        for step in waiting:
            size = len(step.numbers())
            self._keep(step, together[start : start + size])
            start += size

    def _keep(self, step: "_Step", numbers: Float64[np.ndarray, " numbers"]) -> None:
        if self.timeline.advance(step.step):
            for kept in (*self._columns.values(), self._modalities):
                kept.merge_pairs()
        column, count = self.timeline.used - 1, len(step.names)
        squares = {name: numbers[place:-4:count] ** 2 for place, name in enumerate(step.names)}
        for part, names in self._parts.items():
            there = [squares[name] for name in names if name in squares]
            if there:
                sums, largest = _sums(np.sqrt(np.sum(there, axis=0)))
                self._columns[part].add(column, sums, largest)
                self._latest[part] = step.step
                self._latest_columns[part].sums[0], self._latest_columns[part].largest[0] = sums, largest
        if step.met is not None:
            met = _modality_sums(numbers[-4:])
            self._modalities.add(column, met, np.zeros(0))
            self._latest_met, self._latest_modalities = step.step, met

    def _span(self) -> tuple[int, int]:
        spans = self.timeline.spans
        return (int(spans[0, 0]), int(spans[-1, 1])) if len(spans) else (-1, -1)


def gradients(
    sums: Float64[np.ndarray, " sums"], largest: Float64[np.ndarray, " largest"], first_step: int, last_step: int
) -> Gradients:
    """The record of one part in one column."""
    found = dict(zip(SUMS, sums.tolist(), strict=True))
    steps, updates = found["steps"], found["updates"]
    nothing = float("nan")
    return Gradients(
        first_step=first_step,
        last_step=last_step,
        steps=int(steps),
        broken=int(found["broken"]),
        gradient=found["gradient"] / steps if steps else nothing,
        largest_gradient=float(largest[0]) if steps else nothing,
        weight=found["weight"] / updates if updates else nothing,
        update=found["update"] / updates if updates else nothing,
        ratio=found["ratio"] / updates if updates else nothing,
        largest_ratio=float(largest[1]) if updates else nothing,
    )


def modalities(sums: Float64[np.ndarray, " sums"], first_step: int, last_step: int) -> Modalities:
    """The record of one column."""
    found = dict(zip(MODALITY_SUMS, sums.tolist(), strict=True))
    steps = found["steps"]
    return Modalities(
        first_step=first_step,
        last_step=last_step,
        steps=int(steps),
        table=found["table"] / steps if steps else float("nan"),
        photos=found["photos"] / steps if steps else float("nan"),
        cosine=found["cosine"] / found["cosines"] if found["cosines"] else None,
        agreement=found["agreement"] / found["agreements"] if found["agreements"] else None,
    )


class FusionGradients:
    """Hooks on the two encodings that a fusion joins; their gradients are accumulated until they are read.

    Nothing is added to the graph, so training is bitwise unchanged; therefore gradients from auxiliary heads are
    included.

    Args:
        fusion: called with the table encoding and the photo encoding as positional arguments, batch axis first.
    """

    def __init__(self, fusion: nn.Module) -> None:
        self.hook = Hook(fusion, self._catch, "pre-forward")
        self.wanted = False
        """Whether the next passes are measured."""
        self._pending: list[tuple[Tensor, Tensor, dict[int, Tensor]]] = []

    def forget(self) -> None:
        """Discard what was recorded so far."""
        self._pending = []

    def take(self) -> Tensor | None:
        """Both norms, their cosine, and the agreement of the rows; NaN if undefined. None if nothing was recorded.

        Returns:
            float64 ``(4,)`` (float32 on devices without float64), on the device."""
        sums = [_pair_sums(*pair) for pair in self._pending if len(pair[2]) == 2]
        self.forget()
        if not sums:
            return None
        table, photos, both, joint, rows_table, rows_photos, rows_both = torch.stack(sums).sum(0)
        cosine, agreement = both / (joint * photos).sqrt(), rows_both / (rows_table * rows_photos).sqrt()
        return torch.stack([table.sqrt(), photos.sqrt(), cosine, agreement])

    def _catch(self, call: Call) -> None:
        if not self.wanted or len(call.inputs) < 2 or not torch.is_grad_enabled():
            return
        table, photos = call.inputs[:2]
        if not (isinstance(table, Tensor) and isinstance(photos, Tensor)):
            return
        if not (table.requires_grad and photos.requires_grad):
            return
        gradients: dict[int, Tensor] = {}
        for place, encoding in enumerate((table, photos)):
            encoding.register_hook(partial(gradients.__setitem__, place))  # type: ignore[no-untyped-call]
        # Copies: the fusion may change them in place.
        self._pending.append((table.detach().clone(), photos.detach().clone(), gradients))


def _pair_sums(table: Tensor, photos: Tensor, gradients: dict[int, Tensor]) -> Tensor:
    """Squares and products of the gradients, and of gradient times encoding for each row."""
    exact = torch.float32 if table.device.type == "mps" else torch.float64
    to_table, to_photos = gradients[0].to(exact), gradients[1].to(exact)
    rows_table = (to_table * table).flatten(1).sum(1)
    rows_photos = (to_photos * photos).flatten(1).sum(1)
    squares = to_table.square().sum(), to_photos.square().sum()
    if to_table.ndim == to_photos.ndim + 1:  # an ensemble's members share the photos
        to_table = to_table.sum(1)
    both = (to_table * to_photos).sum() if to_table.shape == to_photos.shape else squares[0] * float("nan")
    joint = to_table.square().sum()
    return torch.stack(
        [*squares, both, joint, rows_table.square().sum(), rows_photos.square().sum(), (rows_table * rows_photos).sum()]
    )


class _Step:
    """The measurements of one step, on the device."""

    def __init__(self, step: int, names: list[str], gradients: Tensor, *, met: Tensor | None) -> None:
        self.step, self.names, self.gradients, self.met = step, names, gradients, met
        self.weights: Tensor | None = None
        self.updates: Tensor | None = None

    def numbers(self) -> Tensor:
        """Norms of gradients, of weights and updates if there was an update, then four values for the modalities."""
        met = self.gradients.new_full((4,), math.nan) if self.met is None else self.met
        norms = [norm for norm in (self.gradients, self.weights, self.updates) if norm is not None]
        return torch.cat([*norms, met])


def _parts(
    parameters: Mapping[str, nn.Parameter], optimizer: Any, branches: Mapping[str, str]
) -> dict[Part, list[str]]:
    """Names of the parameters of each part."""
    parts: dict[Part, list[str]] = {Part("all"): list(parameters)}
    names = {id(parameter): name for name, parameter in parameters.items()}
    for number, group in enumerate(() if optimizer is None else optimizer.param_groups):
        label = str(group.get("name") or number)
        part = Part("group", label if Part("group", label) not in parts else f"{label} {number}")
        parts[part] = [names[id(parameter)] for parameter in group["params"] if id(parameter) in names]
    for name in parameters:
        parts.setdefault(Part("branch", branch_of(name, branches)), []).append(name)
    return parts | {Part("parameter", name): [name] for name in parameters}


def _saved(columns: Mapping[Part, Columns]) -> dict[str, Tensor]:
    return {
        "sums": torch.from_numpy(np.stack([kept.sums for kept in columns.values()])),
        "largest": torch.from_numpy(np.stack([kept.largest for kept in columns.values()])),
    }


def _load(columns: Mapping[Part, Columns], saved: Mapping[str, Any]) -> None:
    for kept, sums, largest in zip(columns.values(), saved["sums"], saved["largest"], strict=True):
        kept.sums, kept.largest = sums.double().numpy().copy(), largest.double().numpy().copy()


def _norms(tensors: list[Tensor]) -> Tensor:
    norms = torch.stack(list(torch._foreach_norm(tensors)))
    return norms if norms.device.type == "mps" else norms.double()


def _values(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.coalesce().values() if gradient.is_sparse else gradient.detach()


def _sums(
    norms: Float64[np.ndarray, " norms"],
) -> tuple[Float64[np.ndarray, " sums"], Float64[np.ndarray, " largest"]]:
    """Statistics of one part in one step, from its norms of gradient, weight and update."""
    if not np.isfinite(norms).all():
        return np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), np.zeros(len(LARGEST))
    if len(norms) == 1:
        return np.array([1.0, 0.0, norms[0], 0.0, 0.0, 0.0, 0.0]), np.array([norms[0], 0.0])
    gradient, weight, update = norms
    if not weight:  # the ratio is undefined while all weights are 0
        return np.array([1.0, 0.0, gradient, 0.0, 0.0, 0.0, 0.0]), np.array([gradient, 0.0])
    ratio = update / weight
    return np.array([1.0, 0.0, gradient, 1.0, weight, update, ratio]), np.array([gradient, ratio])


def _modality_sums(met: Float64[np.ndarray, " 4"]) -> Float64[np.ndarray, " sums"]:
    table, photos, cosine, agreement = met
    if not (math.isfinite(table) and math.isfinite(photos)):
        return np.zeros(len(MODALITY_SUMS))
    has_cosine, has_agreement = float(math.isfinite(cosine)), float(math.isfinite(agreement))
    return np.array([1.0, table, photos, has_cosine, np.nan_to_num(cosine), has_agreement, np.nan_to_num(agreement)])
