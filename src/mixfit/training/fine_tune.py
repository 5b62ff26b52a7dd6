"""Fine-tuning a trained image network: first everything around it learns, then it learns, too, at a lower rate.

Used as ``learner.fine_tune(epochs, lr)``."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixfit.data.dataset import FeatureTable
from mixfit.errors import ConfigError
from mixfit.nn.freezing import freeze, unfreeze
from mixfit.nn.model import MixedInputModel
from mixfit.training.callback import Callback, TrainState

if TYPE_CHECKING:
    from mixfit.training.learner import Learner

BACKBONE = "image.backbone"


def fine_tune(
    learner: "Learner", epochs: int, lr: float, *, head_epochs: int, backbone_rate: float, callbacks: Sequence[Callback]
) -> TrainState:
    """See ``Learner.fine_tune``."""
    image = learner.model.image if isinstance(learner.model, MixedInputModel) else None
    if image is None:
        raise ConfigError("fine_tune is for a model with an image network, and this one has none: use fit_one_cycle.")
    if isinstance(getattr(learner.data, "source", None), FeatureTable):
        raise ConfigError(
            "The batches carry features of the frozen image network, which nothing can train: give the Learner the "
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
            learner.fit_one_cycle(head_epochs, lr, callbacks=callbacks)
        unfreeze(image.backbone)
        whole = copy.copy(learner)
        whole.rates = {BACKBONE: backbone_rate, **(learner.rates or {})}
        return whole.fit_one_cycle(epochs, lr, callbacks=callbacks)
    except BaseException:
        for parameter, flag in learns:
            parameter.requires_grad_(flag)
        learner.model.eval()
        raise
