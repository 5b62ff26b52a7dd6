"""A callback that watches a fit and says what is wrong with it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.data.batch import Inputs
from mixfit.errors import ConfigError
from mixfit.hooks.hook import Call, Hook
from mixfit.hooks.select import is_leaf
from mixfit.nn.freezing import is_frozen_module
from mixfit.training.callback import Callback
from mixfit.training.callbacks.inspect import WatchActivations, WatchGradients
from mixfit.training.doctor.constant import constant_losses, constant_outputs
from mixfit.training.doctor.diagnose import diagnose
from mixfit.training.doctor.finding import Finding
from mixfit.training.doctor.frozen import FrozenWatch
from mixfit.training.doctor.observed import Encodings, Epoch, Observed, PhotoColumn
from mixfit.training.doctor.permuted import Pooled, look
from mixfit.training.doctor.summarise import fusion_units, layer_gradients, part_motions
from mixfit.training.lr_find import RateSearch
from mixfit.training.state import TrainState


@dataclass(slots=True)
class _Log:
    """What was noted of one fit."""

    epochs: list[Epoch] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    """Of the training rows, batch by batch of the first epoch."""
    changes: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    peaks: tuple[float, float] = (0.0, 0.0)
    constants: list[Tensor] | None = None
    constant_sums: list[float] = field(default_factory=list)
    """Loss of each constant on the validation rows of this epoch so far."""
    validated: int = 0
    """Validation rows of this epoch so far."""


class Doctor(Callback):
    """Watches a fit; afterwards, also after one that broke, ``findings()`` says what is wrong, in plain language.

    It looks at activations and gradients in every ``every``-th step, and in each validation at up to ``rows`` rows, a
    few times each, with the photos and the cells of other rows. The training is the same to the bit.

    Args:
        every: steps from one look to the next.
        rows: of the validation; 0 for none, which leaves out what is told from other rows' photos.
        search: what ``Learner.lr_find`` saw, to judge the learning rate by.
        photo_columns: names of the image columns, for the sentences.
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
        """What is wrong with the fit that runs, or with the last one; nothing if it is healthy.

        Raises:
            ConfigError: there was none."""
        return diagnose(self.observed())

    @property
    def watched(self) -> bool:
        """Whether a fit was seen."""
        return self._model is not None

    def observed(self) -> Observed:
        """What the findings are told from.

        Raises:
            ConfigError: no fit was seen."""
        if self._model is None:
            raise ConfigError("The doctor has seen no fit yet: give it to one as a callback first.")
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
        """All that was seen so far."""
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
        """Go on with it."""
        self.activations.load_state_dict(state["activations"])
        self.gradients.load_state_dict(state["gradients"])
        self._log.epochs = [_epoch(saved) for saved in state["epochs"]]
        self._log.targets = [state["targets"]] if len(state["targets"]) else []
        self._log.changes = {name: float(change) for name, change in state["changes"]}
        low, high = state["peaks"]
        self._log.peaks, self._log.steps = (float(low), float(high)), int(state["steps"])

    def before_fit(self, state: TrainState) -> None:
        """Forget an earlier fit, and hook the model."""
        self._log = _Log()
        self._model, self._frozen = state.model, FrozenWatch(state.model)
        self.activations.before_fit(state)
        self.gradients.before_fit(state)
        fusion = getattr(state.model, "fusion", None)
        self._hook = Hook(fusion, self._catch, "pre-forward") if isinstance(fusion, nn.Module) else None

    def before_batch(self, state: TrainState) -> None:
        """In validation, look at what meets in the fusion."""
        self.gradients.before_batch(state)
        self._met = None
        if not state.training and self._hook is not None and self._pooled.rows < self.rows:
            self._hook.place()

    def after_prediction(self, state: TrainState) -> None:
        """What met is there."""
        self._unhook()

    def after_loss(self, state: TrainState) -> None:
        """Note the scale of the loss."""
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
        """Collect the targets of the first epoch; look closer at a batch of the validation."""
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
        """Begin with no rows; see whether what is frozen is as it was."""
        self._pooled, self._met = Pooled(), None
        self._log.constants, self._log.validated = None, 0
        if self._frozen is not None:
            self._log.changes |= self._frozen.changes()

    def after_epoch(self, state: TrainState) -> None:
        """Keep what this epoch showed."""
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
        """Take the hooks from the model."""
        self.activations.close(state)
        self.gradients.close(state)
        self._unhook()
        self._pooled, self._frozen, self._met = Pooled(), None, None

    def _catch(self, call: Call) -> None:
        if len(call.inputs) >= 2 and all(isinstance(tensor, Tensor) for tensor in call.inputs[:2]):
            self._met = call.inputs[0], call.inputs[1]

    def _keep_encodings(self, xb: Inputs) -> None:
        """Of rows with photos: the vector that stands for none is the same for all."""
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
    """The layers without children of parts that are not frozen: those that are cannot change."""
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
