"""The Learner: a short training loop, with everything else in callbacks.

In: a model, loaders, a loss and an optimizer. Out: a trained model. Independent of tables, columns and folders."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError, DataError, Diverged, ResourceError
from mixfit.html import card
from mixfit.nn.freezing import freeze, unfreeze
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.nn.summary import parts_grid
from mixfit.training.callback import (
    Batches,
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelTrain,
    Events,
    TrainingData,
    TrainState,
)
from mixfit.training.callbacks.distributed import shared_fit
from mixfit.training.checkpoint import Snapshot, restore
from mixfit.training.device import default_device, is_out_of_memory
from mixfit.training.loss import Loss, PerMember
from mixfit.training.lr_find import RateFinder, RateSearch, preserved
from mixfit.training.metrics import Metric, evaluate
from mixfit.training.optimizer import AdamW, parameter_groups
from mixfit.training.schedule import OneCycle

if TYPE_CHECKING:
    from mixfit.training.callbacks.recorder import Recorder


class Learner:
    """Trains, validates and predicts.

    Pseudo-code of ``fit`` with its events::

        before_fit
        for each epoch:
            before_epoch
            before_train
            for xb, yb in data.train:
                before_batch
                for part in (xb, yb):                      the whole batch, unless a callback sets parts
                    prediction = model(xb)                 after_prediction
                    loss = loss_function(prediction, yb)   after_loss
                    loss.backward()
                after_backward
                optimizer.step()                           after_step
                after_batch
                optimizer.zero_grad()
            after_train
            before_validate
            for xb, yb in data.valid: (the same up to the loss, in one part)
            after_validate
            after_epoch
        after_fit

    Args:
        model: called with ``xb``; returns scaled targets ``(batch,)`` or logits ``(batch, classes)``.
        data: ``train`` and ``valid`` loaders and the ``target`` scale.
        loss: ``(prediction, yb)``, or ``(prediction, yb, weight)`` if the batches have weights. If a
            ``MixedInputModel`` returns several predictions per row in training, the loss applies to each.
        optimizer: a class of mixfit or PyTorch, or any function ``(groups, lr=...) -> optimizer``; the
            groups are those of ``parameter_groups``.
        metrics: for the validation rows, in the unit of the target.
        callbacks: for every fit.
        weight_decay: for matrices and kernels; biases, norms and embeddings do not decay. By default the optimizer's.
        rates: factors of the learning rate for parts of the model by name, see ``parameter_groups``.
        device: by default the fastest of this machine.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        *,
        loss: Loss,
        optimizer: Callable[..., Any] = AdamW,
        metrics: Sequence[Metric] = (),
        callbacks: Sequence[Callback] = (),
        weight_decay: float | None = None,
        rates: Mapping[str, float] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.device = default_device() if device is None else torch.device(device)
        self.model = model.to(self.device)
        self.data, self.loss, self.optimizer = data, _loss_of_each(model, loss), optimizer
        self.metrics, self.callbacks = tuple(metrics), tuple(callbacks)
        self.weight_decay, self.rates = weight_decay, rates

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        names = {"loss": self.loss, "optimizer": self.optimizer}
        facts = {name: getattr(one, "__name__", type(one).__name__) for name, one in names.items()}
        facts["callbacks"] = ", ".join(getattr(one, "name", type(one).__name__) for one in self.callbacks)
        facts |= {"device": str(self.device), "batches per epoch": f"{len(self.data.train):,}"}
        return card(f"Learner of {type(self.model).__name__}", facts=facts, grids=[parts_grid(self.model)])

    def fit(
        self, epochs: int, lr: float, *, callbacks: Sequence[Callback] = (), resume: Snapshot | None = None
    ) -> TrainState:
        """Train for ``epochs`` passes over ``data.train`` at the learning rate ``lr``.

        Args:
            resume: from ``read_checkpoint``, for a bit-identical continuation of a stopped fit with the same arguments.
        Raises:
            DataError: there are no training rows.
            ConfigError: ``resume`` is of a fit with other arguments, another model or other callbacks.
            ResourceError: a batch does not fit in memory.
            Diverged: the mean training loss of an epoch or the outputs for its validation rows are not finite.
        """
        if not len(self.data.train):
            raise DataError("There are no training rows.")
        state = TrainState(
            model=self.model,
            optimizer=self.optimizer(
                parameter_groups(self.model, lr, weight_decay=self.weight_decay, rates=self.rates), lr=lr
            ),
            loss_function=self.loss,
            epochs=epochs,
            steps_per_epoch=len(self.data.train),
            loader=self.data.train,
            loss_sum=torch.zeros((), device=self.device),  # on the device, to avoid a synchronisation at every step
        )
        events = Events([*shared_fit(), *self.callbacks, *callbacks], state)
        with _lost_workers_told(self.data.train):
            self._run(state, events, resume)
        return state

    def _run(self, state: TrainState, events: Events, resume: Snapshot | None) -> None:
        """Run all epochs, and always close all callbacks."""
        try:
            with _Cancellable(events, CancelFit, "after_cancel_fit"):
                events.fire("before_fit")
                if resume is not None:
                    restore(resume, state)
                epochs = state.epochs
                first = epochs if resume is not None and resume.finished else state.epoch
                for state.epoch in range(first, epochs):
                    with _Cancellable(events, CancelEpoch, "after_cancel_epoch"):
                        self._epoch(state, events)
                    state.batch = 0
            _switch(state, training=False)
            with _Cancellable(events, CancelFit, "after_cancel_fit"):
                events.fire("after_fit")
        except BaseException as error:
            state.error = error
            events.fire("on_error")
            raise
        finally:
            _switch(state, training=False)
            events.close()

    def fit_one_cycle(
        self, epochs: int, lr: float, *, callbacks: Sequence[Callback] = (), resume: Snapshot | None = None
    ) -> TrainState:
        """``fit`` with the learning rate rising to ``lr`` and falling to almost 0 (arXiv:1708.07120)."""
        return self.fit(epochs, lr, callbacks=[OneCycle(), *callbacks], resume=resume)

    def fine_tune(
        self,
        epochs: int,
        lr: float,
        *,
        head_epochs: int = 1,
        backbone_rate: float = 0.1,
        callbacks: Sequence[Callback] = (),
    ) -> TrainState:
        """One cycle of ``head_epochs`` with the image network's backbone frozen, then one of ``epochs`` without.

        In the second cycle the backbone learns at ``backbone_rate`` times ``lr``, unless ``rates`` has parts of it.
        Afterwards it is unfrozen; after an error or an interrupt, the same parameters are trainable as before.

        Raises:
            ConfigError: the model has no image network, or the batches have features instead of pixels.
        """
        image = self.model.image if isinstance(self.model, MixedInputModel) else None
        if not isinstance(image, ImageEncoder):
            raise ConfigError("fine_tune needs a model with an image network, which this one lacks: use fit_one_cycle.")
        if getattr(getattr(self.data, "photos", None), "features", None) is not None:
            raise ConfigError(
                "The batches have precomputed features, so the image network cannot be trained: give the Learner the "
                "data from before precompute_features."
            )
        if epochs < 1 or head_epochs < 0:
            raise ConfigError(f"epochs must be at least 1 and head_epochs at least 0, got {epochs} and {head_epochs}.")
        if not backbone_rate > 0:
            raise ConfigError(f"backbone_rate must be above 0, got {backbone_rate}.")
        learns = [(parameter, parameter.requires_grad) for parameter in image.backbone.parameters()]
        try:
            if head_epochs:
                freeze(image.backbone)
                self.fit_one_cycle(head_epochs, lr, callbacks=callbacks)
            unfreeze(image.backbone)
            whole = copy.copy(self)
            whole.rates = {"image.backbone": backbone_rate, **(self.rates or {})}
            return whole.fit_one_cycle(epochs, lr, callbacks=callbacks)
        except BaseException:
            for parameter, flag in learns:
                parameter.requires_grad_(flag)
            self.model.eval()
            raise

    @property
    def recorder(self) -> "Recorder":
        """The ``Recorder`` among the callbacks: ``learner.recorder.plot_loss()``; ``ConfigError`` if there is none."""
        from mixfit.training.callbacks.recorder import Recorder  # it loads pandas, which training does not need

        found = next((callback for callback in self.callbacks if isinstance(callback, Recorder)), None)
        if found is None:
            raise ConfigError("This learner has no Recorder: make it with callbacks=[mixfit.Recorder()].")
        return found

    def lr_find(
        self, *, start: float = 1e-6, end: float = 10.0, steps: int = 200, callbacks: Sequence[Callback] = ()
    ) -> RateSearch:
        """Learning-rate range test: a short training with increasing rates, then restore everything (arXiv:1506.01186).

        Args:
            start, end: first and last rate; the search ends early if the loss diverges.
            steps: number of steps; repeats the training rows if there are fewer batches.
            callbacks: for the search; those of the learner are not used.
        Raises:
            ConfigError: the rates are not increasing from above 0, or there are too few steps.
            DataError: there are no training rows.
            Diverged: the loss is not finite from the start.
        """
        finder = RateFinder(start, end, steps)
        if not len(self.data.train):
            raise DataError("There are no training rows.")
        trial = copy.copy(self)
        trial.callbacks = ()
        with preserved(self.model, (self.data.train, self.data.valid)):
            trial.fit(-(-steps // len(self.data.train)), 1.0, callbacks=[finder, *callbacks])
        return finder.found()

    def validate(self, loader: Batches | None = None) -> dict[str, float]:
        """Loss and metrics over ``loader`` (by default ``data.valid``), without callbacks.

        Raises:
            Diverged: an output of the model is not finite."""
        state = TrainState(model=self.model, optimizer=None, loss_function=self.loss, epochs=0, steps_per_epoch=0)
        loader = self.data.valid if loader is None else loader
        with _lost_workers_told(loader):
            self._validate(state, Events([], state), loader)
        return state.metrics

    def predict(self, loader: Batches) -> tuple[Tensor, Tensor]:
        """Raw outputs and targets of all rows in the order of ``loader``, on the CPU."""
        self.model.eval()
        with torch.inference_mode(), _lost_workers_told(loader):
            pairs = [(self.model(xb), yb) for xb, yb in self._moved(loader)]
        if not pairs:
            raise DataError("There are no rows to predict.")
        return torch.cat([output.cpu() for output, _ in pairs]), torch.cat([yb.cpu() for _, yb in pairs])

    def _epoch(self, state: TrainState, events: Events) -> None:
        state.training = True
        if not state.batch:  # else the epoch is resumed
            state.metrics, state.rows_seen = {}, 0
            state.loss_sum.zero_()
            set_epoch = getattr(self.data.train, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(state.epoch)
        events.fire("before_epoch")
        _switch(state, training=True)
        state.optimizer.zero_grad()  # a cancelled epoch may have left gradients
        events.fire("before_train")
        cancellable_batch = _Cancellable(events, CancelBatch, "after_cancel_batch")
        with _Cancellable(events, CancelTrain, "after_cancel_train"):
            for state.xb, state.yb in self._moved(self.data.train):
                state.batch += 1
                with cancellable_batch:
                    events.fire("before_batch")
                    self._gradients_in_memory(state, events)
                    rows = state.combine(state)
                    state.loss_sum += state.loss * rows
                    state.rows_seen += rows
                    events.fire("after_backward")
                    state.optimizer.step()
                    state.step += 1
                    events.fire("after_step")
                    events.fire("after_batch")
                state.optimizer.zero_grad()  # also after a cancelled batch
        state.metrics["train_loss"] = state.loss_sum.item() / max(state.rows_seen, 1)
        if not math.isfinite(state.metrics["train_loss"]):
            raise Diverged(
                f"The training loss of epoch {state.epoch + 1} is {state.metrics['train_loss']}; "
                "train again with a smaller learning rate, for instance a tenth of it."
            )
        events.fire("after_train")
        self._validate(state, events, self.data.valid)
        events.fire("after_epoch")

    def _gradients_in_memory(self, state: TrainState, events: Events) -> None:
        """The gradients of the batch; if it does not fit in memory, in as many parts as a callback sets."""
        while True:
            parts = state.parts
            try:
                return self._gradients(state, events)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                state.optimizer.zero_grad()
                events.fire("on_out_of_memory")
                if state.parts == parts:
                    raise ResourceError(
                        f"A batch of {len(state.yb)} rows in {parts} parts does not fit in memory ({error}): "
                        "train with a smaller batch size."
                    ) from error

    def _gradients(self, state: TrainState, events: Events) -> None:
        if state.parts == 1:
            self._forward(state, events)
            _backward(state, 1.0)
            state.loss = state.loss.detach()
            return
        whole, losses = (state.xb, state.yb), []
        try:
            for rows, share in _parts(state):
                state.xb, state.yb = whole[0][rows], whole[1][rows]
                self._forward(state, events)
                _backward(state, share)
                losses.append(state.loss.detach() * share)
        finally:
            state.xb, state.yb = whole
        state.loss = torch.stack(losses).sum()

    def _forward(self, state: TrainState, events: Events) -> None:
        """Prediction and loss of the batch in ``state``, or of its part."""
        with state.arithmetic():
            state.prediction = state.model(state.xb)
            events.fire("after_prediction")
            weight = getattr(state.xb, "weight", None)
            state.loss = (
                state.loss_function(state.prediction, state.yb)
                if weight is None
                else state.loss_function(state.prediction, state.yb, weight)
            )
        events.fire("after_loss")

    def _validate(self, state: TrainState, events: Events, loader: Batches) -> None:
        """Add valid_loss and the metrics to ``state.metrics``; nothing for a loader without batches."""
        state.training = False
        _switch(state, training=False)
        losses, outputs, targets, counts = [], [], [], []
        weights = torch.zeros((), device=self.device)
        events.fire("before_validate")
        cancellable_batch = _Cancellable(events, CancelBatch, "after_cancel_batch")
        with torch.inference_mode(), state.share(loader):
            for state.xb, state.yb in self._moved(loader):
                with cancellable_batch:
                    events.fire("before_batch")
                    self._forward(state, events)
                    losses.append(state.loss * len(state.yb))
                    weight = getattr(state.xb, "weight", None)
                    weights += len(state.yb) if weight is None else weight.sum()
                    counts += [] if weight is None else [weight]
                    outputs.append(state.prediction)
                    targets.append(state.yb)
                    events.fire("after_batch")
        if targets:
            output, target = state.gather(torch.cat(outputs).float().cpu()), state.gather(torch.cat(targets).cpu())
            _require_finite(output)
            sums = state.gather(torch.stack([torch.stack(losses).sum().double(), weights.double()])[None].cpu()).sum(0)
            state.metrics["valid_loss"] = sums[0].item() / (sums[1].item() or math.nan)
            truth, prediction = self._in_target_units(target, output)
            counted = state.gather(torch.cat(counts).float().cpu()).numpy() if counts else None
            state.metrics |= evaluate(self.metrics, truth, prediction, counted)
        events.fire("after_validate")

    def _in_target_units(self, target: Tensor, output: Tensor) -> tuple[np.ndarray, np.ndarray]:
        scale = self.data.target
        if scale is None:
            return target.numpy(), output.softmax(1).numpy() if output.ndim == 2 else output.numpy()
        return scale.decode_truth(target.numpy()), scale.decode(output.numpy())

    def _moved(self, loader: Batches) -> Iterable[tuple[Any, Tensor]]:
        for xb, yb in loader:
            yield xb.to(self.device), yb.to(self.device)


def _parts(state: TrainState) -> Iterator[tuple[slice, float]]:
    """Rows of each part of the batch, and its share in the mean loss."""
    rows = len(state.yb)
    size = -(-rows // state.parts)
    for start in range(0, rows, size):
        part = slice(start, min(start + size, rows))
        yield part, (part.stop - start) / rows


def _backward(state: TrainState, share: float) -> None:
    factor = share * state.loss_scale
    torch.autograd.backward(state.loss, None if factor == 1 else torch.full_like(state.loss, factor))


def _require_finite(output: Tensor) -> None:
    """Check the outputs: the last step of an epoch may make weights non-finite although its loss was finite."""
    broken = int((~output.isfinite()).reshape(len(output), -1).any(1).sum())
    if broken:
        raise Diverged(
            f"The outputs for {broken} of {len(output)} validation rows are not finite, as the last step made weights "
            "non-finite; train again with a smaller learning rate, for instance a tenth of it."
        )


def _loss_of_each(model: nn.Module, loss: Loss) -> Loss:
    """The loss over all predictions of a row, if the model returns several."""
    several = isinstance(model, MixedInputModel) and model.predictions_a_row > 1
    if not several or isinstance(loss, PerMember):
        return loss
    return PerMember(loss, 1 if model.outputs == 1 else 2)


def _switch(state: TrainState, *, training: bool) -> None:
    """Set model and optimizer to training or evaluation; some optimizers then swap the weights."""
    state.model.train(training)
    switch = getattr(state.optimizer, "train" if training else "eval", None)
    if switch is not None:  # PyTorch's have none
        switch()


class _Cancellable:
    """Turns a cancel signal raised inside into its event; reusable.

    A class, as ``contextmanager`` is five times slower, which matters at every step of a small network."""

    def __init__(self, events: Events, cancel: type[Exception], event: str) -> None:
        self.events, self.cancel, self.event = events, cancel, event

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is None or not issubclass(kind, self.cancel):
            return False
        self.events.fire(self.event)
        return True


_HANDLER = 5.0
"""Seconds to wait for PyTorch's handler to notice a worker's death; later it would raise in the caller's code."""


@contextmanager
def _lost_workers_told(loader: object) -> Iterator[None]:
    """Report the death of a worker process of PyTorch's DataLoader in one sentence.

    PyTorch's SIGCHLD handler raises a RuntimeError at any point, also in a callback, and the pipe to the worker may
    break before that."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        has_workers = getattr(loader, "num_workers", 0) > 0
        lost = isinstance(error, ConnectionError | EOFError) or "DataLoader worker" in str(error)
        if not (has_workers and lost):
            raise
        if not isinstance(error, RuntimeError):
            with suppress(RuntimeError):
                time.sleep(_HANDLER)
        said = next(iter(str(error).splitlines()), type(error).__name__)  # the end of a pipe has no words
        raise ResourceError(
            f"A worker of the DataLoader was killed, possibly by lack of memory ({said}): "
            "use fewer workers or smaller batches; num_workers=0 shows where it happens."
        ) from error
