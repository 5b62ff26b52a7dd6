"""The training doctor: a callback that diagnoses a fit, and a short examination."""

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixfit.data.batch import Inputs
from mixfit.diagnostics.findings import (
    Encodings,
    Epoch,
    Finding,
    LayerGradient,
    Observed,
    PartMotion,
    PhotoColumn,
    UnitShares,
    constant_losses,
    constant_outputs,
)
from mixfit.diagnostics.rules import diagnose
from mixfit.errors import ConfigError, Diverged
from mixfit.hooks.activation_stats import ActivationStats, Output
from mixfit.hooks.gradient_stats import GradientStats, Part
from mixfit.hooks.hook import Call, Hook, branch_of, is_leaf
from mixfit.nn.freezing import is_frozen_module
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.inspect import WatchActivations, WatchGradients
from mixfit.training.loss import Loss
from mixfit.training.lr_find import RateSearch, preserved

if TYPE_CHECKING:
    from mixfit.training.learner import Learner

GATE_END = 4.6
"""The input from which a sigmoid is within 1 % of an end of its range."""
_ACTIVATIONS = ("ReLU", "SiLU", "GELU", "Sigmoid", "Tanh", "LeakyReLU", "ELU", "Hardswish", "Mish")
_TABLES = (nn.Embedding, nn.EmbeddingBag)  # unused rows get no gradient
DEALS = 3
"""Number of permutations of photos to average over."""
USUAL_RATE = 1e-3
SEARCH_STEPS = 100


class Doctor(Callback):
    """Watches a fit; afterwards, also after an error, ``findings()`` describes problems in plain language.

    It measures activations and gradients at every ``every``-th step, and in each validation the permutation importance
    of photos and cells on up to ``rows`` rows. The training stays bit-identical.

    Args:
        every: steps between measurements.
        rows: validation rows for permutation importance; 0 for none.
        search: result of ``Learner.lr_find``, to check the learning rate.
        photo_columns: names of the image columns, for messages.
    """

    order = 15  # as WatchGradients
    chooses = changes = False

    def __init__(
        self,
        *,
        every: int = 5,
        rows: int = 256,
        search: RateSearch | None = None,
        photo_columns: Sequence[str] = (),
    ) -> None:
        self.rows, self.search, self.photo_columns = rows, search, tuple(photo_columns)
        self.activations = WatchActivations(_may_change, every=every)
        self.gradients = WatchGradients(every=every)
        self._model: nn.Module | None = None
        self._frozen: FrozenWatch | None = None
        self._hook: Hook | None = None
        self._pooled = Pooled()
        self._met: tuple[Tensor, Tensor] | None = None
        self._log = _Log()

    def findings(self) -> tuple[Finding, ...]:
        """Problems of the running or the last fit; empty if there are none.

        Raises:
            ConfigError: there was no fit."""
        return diagnose(self.observed())

    @property
    def watched(self) -> bool:
        """Whether there was a fit."""
        return self._model is not None

    def observed(self) -> Observed:
        """The values that the findings are derived from.

        Raises:
            ConfigError: there was no fit."""
        if self._model is None:
            raise ConfigError("The doctor has not watched a fit yet: pass it to one as a callback first.")
        met = self.gradients.stats.modalities()
        return Observed(
            epochs=tuple(self._log.epochs),
            steps=self._log.steps,
            peak_rates=self._log.peaks,
            search=self.search,
            layers=layer_gradients(self._model, self.gradients.stats),
            parts=part_motions(self._model, self.gradients.stats),
            fusion=fusion_units(self.activations.stats),
            met=(met.table, met.photos) if met.steps else None,
            frozen_changes=self._log.changes,
            photo_columns=self.photo_columns,
        )

    def state_dict(self) -> dict[str, Any]:
        """All records so far."""
        return {
            "activations": self.activations.state_dict(),
            "gradients": self.gradients.state_dict(),
            "epochs": [asdict(epoch) for epoch in self._log.epochs],
            "targets": torch.cat(self._log.targets) if self._log.targets else torch.zeros(0),
            "changes": [[name, change] for name, change in self._log.changes.items()],
            "peaks": list(self._log.peaks),
            "steps": self._log.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the records."""
        self.activations.load_state_dict(state["activations"])
        self.gradients.load_state_dict(state["gradients"])
        self._log.epochs = [_epoch(saved) for saved in state["epochs"]]
        self._log.targets = [state["targets"]] if len(state["targets"]) else []
        self._log.changes = {name: float(change) for name, change in state["changes"]}
        low, high = state["peaks"]
        self._log.peaks, self._log.steps = (float(low), float(high)), int(state["steps"])

    def before_fit(self, state: TrainState) -> None:
        """Reset, and hook the model."""
        self._log = _Log()
        self._model, self._frozen = state.model, FrozenWatch(state.model)
        self.activations.before_fit(state)
        self.gradients.before_fit(state)
        fusion = getattr(state.model, "fusion", None)
        self._hook = Hook(fusion, self._catch, "pre-forward") if isinstance(fusion, nn.Module) else None

    def before_batch(self, state: TrainState) -> None:
        """In validation, record the inputs of the fusion."""
        self.gradients.before_batch(state)
        self._met = None
        if not state.training and self._hook is not None and self._pooled.rows < self.rows:
            self._hook.place()

    def after_prediction(self, state: TrainState) -> None:
        """Keep the inputs of the fusion."""
        self._unhook()

    def after_loss(self, state: TrainState) -> None:
        """Record the scale of the loss."""
        self.gradients.after_loss(state)

    def after_backward(self, state: TrainState) -> None:
        """Measure the gradients."""
        self.gradients.after_backward(state)

    def after_step(self, state: TrainState) -> None:
        """Measure the step."""
        self.gradients.after_step(state)
        self._log.steps += 1
        rates = [float(group["lr"]) for group in state.optimizer.param_groups]
        low, high = self._log.peaks
        self._log.peaks = max(low, min(rates)), max(high, max(rates))

    def after_batch(self, state: TrainState) -> None:
        """Collect the targets of the first epoch; compute permutation importance for a validation batch."""
        if state.training:
            if state.epoch == 0:
                self._log.targets.append(state.yb.detach().cpu())
            return
        output, yb = state.prediction, state.yb
        if self._log.constants is None:
            self._log.constants = constant_outputs(torch.cat(self._log.targets), output) if self._log.targets else []
            self._log.constant_sums = [0.0] * len(self._log.constants)
        sums = constant_losses(self._log.constants, state.loss_function, output, yb)
        self._log.constant_sums = [a + b for a, b in zip(self._log.constant_sums, sums, strict=True)]
        self._log.validated += len(yb)
        if isinstance(state.xb, Inputs) and self._pooled.rows < self.rows and len(yb) > 1:
            if self._met is not None:
                self._keep_encodings(state.xb)
            look(state.model, state.loss_function, state.xb, yb, output, self._pooled, seed=self._log.validated)
        self._met = None

    def before_validate(self, state: TrainState) -> None:
        """Reset the rows; check that frozen parts are unchanged."""
        self._pooled, self._met = Pooled(), None
        self._log.constants, self._log.validated = None, 0
        if self._frozen is not None:
            self._log.changes |= self._frozen.changes()

    def after_epoch(self, state: TrainState) -> None:
        """Keep the records of this epoch."""
        pooled = self._pooled
        constants = [total / self._log.validated for total in self._log.constant_sums] if self._log.validated else []
        self._log.epochs.append(
            Epoch(
                train_loss=state.metrics.get("train_loss"),
                valid_loss=state.metrics.get("valid_loss"),
                constant_loss=min(constants) if constants else None,
                table_effect=pooled.table_effect(),
                columns=pooled.columns(),
                encodings=pooled.spread(),
            )
        )
        self._pooled = Pooled()

    def close(self, state: TrainState) -> None:
        """Remove the hooks."""
        self.activations.close(state)
        self.gradients.close(state)
        self._unhook()
        self._pooled, self._frozen, self._met = Pooled(), None, None

    def _catch(self, call: Call) -> None:
        if len(call.inputs) >= 2 and all(isinstance(tensor, Tensor) for tensor in call.inputs[:2]):
            self._met = call.inputs[0].detach().clone(), call.inputs[1].detach().clone()  # the fusion may change them

    def _keep_encodings(self, xb: Inputs) -> None:
        """Rows with photos only: rows without photos share one vector."""
        assert self._met is not None
        if xb.image_mask is None:
            return
        rows = xb.image_mask.any(1)
        table, photos = self._met
        self._pooled.encodings.append((table[rows].flatten(1).float().cpu(), photos[rows].flatten(1).float().cpu()))

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()


def _may_change(name: str, module: nn.Module) -> bool:
    """Leaf layers of parts that are not frozen."""
    return is_leaf(name, module) and not is_frozen_module(module)


def _epoch(saved: dict[str, Any]) -> Epoch:
    encodings = saved["encodings"]
    return Epoch(
        **{
            **saved,
            "columns": tuple(PhotoColumn(**column) for column in saved["columns"]),
            "encodings": None if encodings is None else Encodings(**encodings),
        }
    )


def examine(learner: "Learner", *, epochs: int = 5, lr: float | None = None) -> tuple[Finding, ...]:
    """Problems of this training in plain language; empty if there are none.

    If a ``Doctor`` among the callbacks has watched a fit, its findings; else those of a short training of
    ``epochs`` at ``lr``, by default from ``lr_find``, after which everything is restored."""
    watched = next((one for one in learner.callbacks if isinstance(one, Doctor) and one.watched), None)
    if watched is not None:
        return watched.findings()
    search = find_quietly(learner)
    found = () if search is None else search.suggestions
    doctor = Doctor(every=1, search=search, photo_columns=photo_columns(learner))
    trial = copy.copy(learner)
    trial.callbacks = ()
    with preserved(learner.model, (learner.data.train, learner.data.valid)):
        with suppress(Diverged):  # the findings use the records up to then
            trial.fit(epochs, lr or (max(found) if found else USUAL_RATE), callbacks=[doctor])
        return doctor.findings()


def prepare_doctors(learner: "Learner") -> None:
    """Give each ``Doctor`` among the callbacks the names of the image columns and the result of ``lr_find``.

    The search restores everything."""
    for one in learner.callbacks:
        if isinstance(one, Doctor):
            one.photo_columns = one.photo_columns or photo_columns(learner)
            one.search = one.search or find_quietly(learner)


def find_quietly(learner: "Learner", steps: int = SEARCH_STEPS) -> RateSearch | None:
    """The result of ``lr_find``; None if it fails."""
    try:
        return learner.lr_find(steps=steps)
    except Diverged:
        return None


def photo_columns(learner: "Learner") -> tuple[str, ...]:
    """Names of the image columns, if the data have them."""
    schema = getattr(learner.data, "schema", None)
    return () if schema is None else tuple(schema.names("image"))


@dataclass(slots=True)
class _Log:
    """Records of one fit."""

    epochs: list[Epoch] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    """Targets of the training rows, batch by batch of the first epoch."""
    changes: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    peaks: tuple[float, float] = (0.0, 0.0)
    constants: list[Tensor] | None = None
    constant_sums: list[float] = field(default_factory=list)
    """Sum of the loss of each constant on the validation rows of this epoch so far."""
    validated: int = 0
    """Number of validation rows of this epoch so far."""


@dataclass(slots=True)
class Pooled:
    """Records of the validation rows of one epoch."""

    rows: int = 0
    table: list[Tensor] = field(default_factory=list)
    """Squared change of each row's outputs, ``(batch,)``."""
    effects: dict[int, list[Tensor]] = field(default_factory=dict)
    """The same for each image column."""
    gains: dict[int, list[Tensor]] = field(default_factory=dict)
    """Increase of each row's loss."""
    differ: dict[int, bool] = field(default_factory=dict)
    first: dict[int, Tensor] = field(default_factory=dict)
    """The input of one photo of each column, to compare others with."""
    encodings: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Encodings of table ``(rows, d)`` and photos ``(rows, d)``, of rows with photos."""

    def columns(self) -> tuple[PhotoColumn, ...]:
        """Results of each image column."""
        found = []
        for column in sorted(self.gains):
            gain = torch.cat(self.gains[column])
            error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else 0.0
            effect = float(torch.cat(self.effects[column]).mean().sqrt())
            differ = self.differ.get(column, True)
            found.append(
                PhotoColumn(effect=effect, gain=float(gain.mean()), error=error, rows=len(gain), differ=differ)
            )
        return tuple(found)

    def table_effect(self) -> float | None:
        """Results of all cells together."""
        return float(torch.cat(self.table).mean().sqrt()) if self.table else None

    def spread(self) -> Encodings | None:
        """Statistics of the inputs of the fusion."""
        if not self.encodings:
            return None
        table, photos = (torch.cat(list(parts)).double() for parts in zip(*self.encodings, strict=True))
        if len(table) < 2:
            return None
        size = float(photos.square().mean().sqrt())
        return Encodings(table=_spread(table), photos=_spread(photos), photos_size=size)


def _spread(vectors: Tensor) -> float:
    return float(vectors.var(0).mean().sqrt())


def look(model: nn.Module, loss: Loss, xb: Inputs, yb: Tensor, output: Tensor, pooled: Pooled, *, seed: int) -> None:
    """Permute photos and cells of a batch and record the changes; uses no global random numbers."""
    generator = torch.Generator().manual_seed(seed)
    before, count = _losses(loss, output, yb), len(yb)
    pooled.rows += count
    order = torch.randperm(count, generator=generator).to(yb.device)
    pooled.table.append(_moved(model(with_cells_of(xb, order)), output))
    if xb.image_mask is None:
        return
    for column in range(columns_of(xb)):
        there = photos_of(xb, column)
        rows = there.any(1).nonzero()[:, 0]
        if len(rows) < 2:
            continue
        _compare(xb, there, column, pooled)
        effects, gains = [], []
        for _ in range(DEALS):
            order = torch.arange(count, device=yb.device)
            # A cyclic shift of shuffled rows: every row gets the values of another one.
            shuffled = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
            order[shuffled] = shuffled.roll(1)
            permuted = model(with_photos_of(xb, order, column))
            effects.append(_moved(permuted, output)[rows])
            gains.append((_losses(loss, permuted, yb) - before)[rows])
        pooled.effects.setdefault(column, []).append(torch.stack(effects).mean(0))
        pooled.gains.setdefault(column, []).append(torch.stack(gains).mean(0))


def columns_of(xb: Inputs) -> int:
    """Number of image columns of a batch."""
    if xb.image_column is None or xb.image_mask is None or not xb.image_mask.any():
        return 1
    return int(xb.image_column[xb.image_mask].max()) + 1


def photos_of(xb: Inputs, column: int) -> Tensor:
    """Mask of the photos of one column, bool ``(batch, photos)``."""
    assert xb.image_mask is not None
    return xb.image_mask if xb.image_column is None else xb.image_mask & (xb.image_column == column)


def with_cells_of(xb: Inputs, order: Tensor) -> Inputs:
    """The rows with permuted numbers, categories and texts, and their own photos."""
    text = None if xb.text is None else xb.text[order]
    mask = None if xb.text_mask is None else xb.text_mask[order]
    return replace(xb, numeric=xb.numeric[order], categorical=xb.categorical[order], text=text, text_mask=mask)


def with_photos_of(xb: Inputs, order: Tensor, column: int) -> Inputs:
    """The rows with permuted photos in one column.

    The permuted photos are appended to the row's own, of which those of the column are masked, as rows may have
    different numbers of photos."""
    theirs = photos_of(xb, column)[order]
    own = xb.image_mask & ~photos_of(xb, column) if xb.image_mask is not None else theirs

    def join(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else torch.cat([tensor, tensor[order]], dim=1)

    return replace(
        xb,
        images=join(xb.images),
        features=join(xb.features),
        image_mask=torch.cat([own, theirs], dim=1),
        image_column=join(xb.image_column),
    )


def _compare(xb: Inputs, there: Tensor, column: int, pooled: Pooled) -> None:
    """Whether the photos of a column differ from the first one."""
    pixels = xb.features if xb.images is None else xb.images
    if pixels is None:
        return
    photos = pixels[there]
    first = pooled.first.setdefault(column, photos[0].clone())
    pooled.differ[column] = pooled.differ.get(column, False) or bool((photos != first).any())


def _moved(permuted: Tensor, output: Tensor) -> Tensor:
    """Squared distance of each row's outputs; for logits without their common shift."""
    difference = (permuted - output).float()
    if difference.ndim > 1:
        difference = difference - difference.mean(-1, keepdim=True)
    return difference.reshape(len(output), -1).square().mean(1)


def _losses(loss: Loss, output: Tensor, yb: Tensor) -> Tensor:
    """Loss of each row, ``(batch,)``; computed row by row, as a loss returns a mean."""
    return torch.stack([loss(output[row : row + 1], yb[row : row + 1]) for row in range(len(yb))]).float()


def layer_gradients(model: nn.Module, stats: GradientStats) -> tuple[LayerGradient, ...]:
    """Gradients of trainable matrices and kernels, and of their biases, in the order of registration."""
    total, found = stats.total(), []
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        layer, _, own = name.rpartition(".")
        told, weight = total.get(Part("parameter", name)), getattr(modules[layer], "weight", None)
        if told is None or own not in ("weight", "bias") or isinstance(modules[layer], _TABLES):
            continue
        if not isinstance(weight, Tensor) or weight.ndim < 2 or not parameter.requires_grad:
            continue
        size = told.gradient / math.sqrt(parameter.numel()) if math.isfinite(told.gradient) else 0.0
        found.append(LayerGradient(layer=layer, branch=branch_of(name), bias=own == "bias", size=size))
    return tuple(found)


def part_motions(model: nn.Module, stats: GradientStats) -> tuple[PartMotion, ...]:
    """Movements of the branches with trainable parameters."""
    learning = {branch_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = []
    for part, told in stats.total().items():
        if part.kind != "branch" or part.name not in learning:
            continue
        weights = [record.weight for record in stats.over_time(part) if math.isfinite(record.weight)]
        found.append(
            PartMotion(
                branch=part.name,
                gradient=told.gradient if math.isfinite(told.gradient) else 0.0,
                ratio=told.ratio if math.isfinite(told.ratio) else None,
                growth=weights[-1] / weights[0] if weights and weights[0] else None,
                broken=told.broken,
            )
        )
    return tuple(found)


def fusion_units(stats: ActivationStats) -> tuple[UnitShares, ...]:
    """Units of the layers of the fusion."""
    return tuple(_shares(stats, output) for output in stats.outputs if output.layer.split(".")[0] == "fusion")


def _shares(stats: ActivationStats, output: Output) -> UnitShares:
    told = stats.over_time(output)
    told = [record for record in told[len(told) // 2 :] if record.values]
    values = sum(record.values for record in told)

    def mean(numbers: list[tuple[float, int]]) -> float:
        return sum(number * weight for number, weight in numbers) / values if values else 0.0

    ends = [(record.saturated, record.values) for record in told if record.saturated is not None]
    saturated = mean(ends) if ends else None
    if output.layer.endswith("gate") and output.kind == "Linear":  # its output goes through a sigmoid
        saturated = _beyond(stats, output)
    return UnitShares(
        layer=str(output),
        saturated=saturated,
        dead_units=mean([(record.dead_units, record.values) for record in told]),
        near_zero=mean([(record.near_zero, record.values) for record in told]),
        activation=output.kind in _ACTIVATIONS,
    )


def _beyond(stats: ActivationStats, output: Output) -> float:
    """Share of the values beyond ``GATE_END`` in the second half of the steps."""
    histogram = stats.histogram(output)
    counts = histogram.counts[len(histogram.counts) // 2 :].sum(0)
    inside = (histogram.edges[:-1] >= -GATE_END) & (histogram.edges[1:] <= GATE_END)
    return float(counts[~inside].sum() / max(counts.sum(), 1))


class FrozenWatch:
    """Copies of the frozen tensors of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._then = {name: tensor.clone() for name, tensor in frozen_tensors(model).items()}

    def changes(self) -> dict[str, float]:
        """Relative change of tensors that were and still are frozen, but changed."""
        found = {}
        for name, now in frozen_tensors(self.model).items():
            then = self._then.get(name)
            if then is not None and then.shape == now.shape and not torch.equal(then, now):
                moved = (now.double() - then.double()).norm() / then.double().norm().clamp(min=1e-12)
                found[name] = min(float(moved), 1e12)  # if it was 0
        return found


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters, and buffers of modules with only frozen parameters, by name; without counters."""
    found = {name: parameter.detach() for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for name, module in model.named_modules():
        if is_frozen_module(module):
            found.update(module.named_buffers(prefix=name))
    return {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
