"""Losses, optimizers with default rates, and number types by the names in a configuration.

In: a ``TrainConfig`` or ``ModelConfig`` and facts about the target. Out: a ``Loss``, a function that makes an
optimizer, a configuration without "auto". Not needed to build a ``Learner`` by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, assert_never

import numpy as np
import torch

from mixfit.choices import LossName, OptimizerName, Task
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.load import MixedData
from mixfit.data.split import SplitName
from mixfit.errors import ConfigError
from mixfit.nn.backbones import SMALL_RESNET
from mixfit.nn.build import is_frozen
from mixfit.training.loss import (
    CrossEntropy,
    Focal,
    Loss,
    balanced_class_weights,
    cross_entropy,
    huber,
    mae,
    mse,
    poisson,
)
from mixfit.training.metrics import metric_named
from mixfit.training.optimizer import LAMB, SGD, Adam, AdamW, Lion, Muon, Optimizer, RMSProp, ScheduleFreeAdamW
from mixfit.training.ordinal import ordered_cross_entropy

LOSSES_OF_NUMBERS: tuple[LossName, ...] = ("mse", "mae", "huber")
LOSSES_OF_COUNTS: tuple[LossName, ...] = ("poisson",)
LOSSES_OF_CLASSES: tuple[LossName, ...] = ("cross_entropy", "balanced", "smooth", "focal")
SMOOTHING = 0.1
"""Label smoothing of ``smooth``."""
FASTER_IN_BFLOAT16 = (SMALL_RESNET, "resnet", "convnext", "vit_")
"""Prefixes of the names of networks that train faster in bfloat16."""
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Choice:
    """An optimizer for ``Learner`` with its rates."""

    make: Callable[..., Optimizer]
    """``(parameters, lr=...) -> optimizer``."""
    lr: float
    """Peak of the one-cycle schedule, or the constant rate without one."""
    weight_decay: float
    """For matrices and kernels: decoupled, or added to the gradient by sgd, momentum, nesterov, rmsprop and adam."""
    one_cycle: bool = True
    """False if the rate must stay constant: use ``Learner.fit`` instead of ``fit_one_cycle``."""


def choose_optimizer(config: TrainConfig) -> Choice:
    """The optimizer of the configuration, with default rates filled in."""
    found = _suggested(config.optimizer)
    return Choice(
        make=found.make,
        lr=found.lr if config.lr is None else config.lr,
        weight_decay=found.weight_decay if config.weight_decay is None else config.weight_decay,
        one_cycle=found.one_cycle,
    )


def _suggested(name: OptimizerName) -> Choice:
    """Optimizers with rates that worked well with the default network on two tables, see ``docs/LOG.md``."""
    match name:
        case "adamw":
            return Choice(AdamW, lr=2e-3, weight_decay=0.05)
        case "sgd":
            return Choice(SGD, lr=0.3, weight_decay=0.0)
        case "momentum":
            return Choice(partial(SGD, momentum=0.9), lr=0.03, weight_decay=0.0)
        case "nesterov":
            return Choice(partial(SGD, momentum=0.9, nesterov=True), lr=0.03, weight_decay=0.0)
        case "rmsprop":
            return Choice(RMSProp, lr=2e-3, weight_decay=0.0)
        case "adam":
            return Choice(Adam, lr=4e-3, weight_decay=0.0)
        case "lamb":
            return Choice(LAMB, lr=3e-2, weight_decay=0.05)
        case "lion":
            return Choice(Lion, lr=4e-4, weight_decay=0.3)
        case "muon":
            return Choice(Muon, lr=5e-3, weight_decay=0.05)
        case "schedule_free":
            # Averaging of the weights replaces a decreasing rate; with a one-cycle rate, the few steps near its peak,
            # which are weighted by the square of the rate, would dominate the average.
            return Choice(partial(ScheduleFreeAdamW, warmup=100), lr=2e-2, weight_decay=0.05, one_cycle=False)
        case _:
            assert_never(name)


def check_loss(name: LossName, task: Task) -> None:
    """Refuse a regression loss for classes, and vice versa.

    Raises:
        ConfigError: the loss does not fit the task; the message lists those that do.
    """
    losses = {"regression": LOSSES_OF_NUMBERS, "count": LOSSES_OF_COUNTS}
    fitting = losses.get(task, LOSSES_OF_CLASSES)
    if name == "auto" or name in fitting:
        return
    what = {"regression": "a number", "count": "a count"}.get(task, "a class")
    meant = "numbers" if name in LOSSES_OF_NUMBERS else "counts" if name in LOSSES_OF_COUNTS else "classes"
    raise ConfigError(
        f"--loss {name} is for {meant}, but the target is {what} ({task}): "
        f"use {', '.join(fitting)} or auto, or set --task."
    )


def loss_for(data: MixedData, name: LossName) -> Loss:
    """``choose_loss`` for the target of these data, with class weights of the training rows."""
    if data.target.classes is None:
        return choose_loss(name, data.schema.task)
    truth = _target(data, "train")
    counts = np.bincount(truth, weights=data.weights("train"), minlength=len(data.target.classes))
    return choose_loss(name, data.schema.task, counts.tolist())


def choose_loss(name: LossName, task: Task, class_counts: Sequence[int | float] = ()) -> Loss:
    """The loss of that name.

    All of them train outputs for ``Target.decode``: a scaled number, the mean or with ``mae`` the median, the logarithm
    of an expected count, or one logit per class. With ``balanced``, probabilities are those for equally frequent
    classes; with ``smooth`` and ``focal`` they are less confident than with ``cross_entropy``. ``ordinal`` and
    ``Quantiles`` need other outputs than the models of ``build_model`` have.

    Args:
        name: ``auto`` is ``mse`` for regression, ``poisson`` for counts, ``ordered_cross_entropy`` for ordered
            classes and ``cross_entropy`` for others.
        task: of the target.
        class_counts: training rows of each class, or the sums of their weights; for ``balanced``.
    Raises:
        ConfigError: the loss does not fit the task.
    """
    check_loss(name, task)
    match name:
        case "auto":
            own: dict[Task, Loss] = {"regression": mse, "count": poisson, "ordered": ordered_cross_entropy}
            return own.get(task, cross_entropy)
        case "mse":
            return mse
        case "mae":
            return mae
        case "huber":
            return huber
        case "poisson":
            return poisson
        case "cross_entropy":
            return cross_entropy
        case "balanced":
            return CrossEntropy(class_weights=balanced_class_weights(class_counts))
        case "smooth":
            return CrossEntropy(smoothing=SMOOTHING)
        case "focal":
            return Focal()
        case _:
            assert_never(name)


def watched_metric(data: MixedData) -> tuple[str, Literal["min", "max"]]:
    """What early stopping watches, and which direction is better.

    The chosen metric of the validation rows, unless it cannot be computed on them or only counts decisions, which is
    too coarse to tell epochs apart; then, and by default, the loss."""
    loss: tuple[str, Literal["min", "max"]] = ("valid_loss", "min")
    if data.metric == "auto":
        return loss
    metric, truth = metric_named(data.metric, data.schema.task), data.target.decode_truth(_target(data, "valid"))
    classes = data.target.classes
    same = np.full((len(truth), len(classes)), 1 / len(classes)) if classes else np.full(len(truth), truth.mean())
    if metric.decides or np.isnan(metric.value(truth, same, data.weights("valid"))):
        return loss
    return metric.name, "max" if metric.higher_is_better else "min"


def _target(data: MixedData, part: SplitName) -> np.ndarray:
    return data.arrays.target.numpy()[data.split.of(part)]


def settle_arithmetic(config: ModelConfig, device: torch.device) -> ModelConfig:
    """Replace "auto" in a configuration by the best memory format and number type for the network and this processor.

    A fixed table, measured by ``benchmarks/bench_arithmetic.py`` (docs/LOG.md): channels-last is never significantly
    slower; bfloat16 is faster if the processor has instructions for it and the network consists of full convolutions or
    matrix products, but not for the depthwise convolutions of the EfficientNet and MobileNet families. The size of the
    photos does not matter. The choice is saved in the run's configuration, so that a repeated run is bit-identical.

    A frozen network uses float32: bfloat16 changes its features (cosine similarity down to .989 on photos), and they
    are computed only once. So does a network on a GPU, where ``MixedPrecision`` chooses, and any network that was not
    measured.

    Returns:
        The configuration without "auto". Settings that were given stay as they are.
    """
    learns = not is_frozen(config) and config.backbone.startswith(FASTER_IN_BFLOAT16)
    coarse = learns and device.type == "cpu" and has_bfloat16()
    return replace(
        config,
        memory_format="channels_last" if config.memory_format == "auto" else config.memory_format,
        precision=("bfloat16" if coarse else "float32") if config.precision == "auto" else config.precision,
    )


def has_bfloat16() -> bool:
    """Whether the processor supports bfloat16, and it is not disabled in PyTorch (``ATEN_CPU_CAPABILITY``)."""
    here = torch.cpu.get_capabilities()
    level = torch.backends.cpu.get_cpu_capability()
    return level.startswith("AVX512") and any(here.get(name, False) for name in _INSTRUCTIONS)
