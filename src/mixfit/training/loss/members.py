"""Ensembles: every member is trained by its own loss."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mixfit.errors import ConfigError
from mixfit.training.loss.base import Loss


@dataclass(frozen=True, slots=True)
class PerMember:
    """The mean of the members' losses, not the loss of the members' mean: members stay different from each other.

    As TabM is trained (Gorishniy et al. 2024, arXiv:2410.24210). A prediction without members, as a model in evaluation
    gives, is passed on as it is.

    Args:
        loss: of one member.
        axes: of a prediction of one member: 1 for ``(batch,)``, 2 for ``(batch, classes)``. The members are axis 1.
    """

    loss: Loss
    axes: Literal[1, 2]

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Of ``(batch, members)`` or ``(batch, members, classes)``; targets and weights have no axis of members.

        Raises:
            ConfigError: the prediction has another number of axes, or not as many rows as the target.
        """
        if prediction.ndim == self.axes:
            return self.loss(prediction, target, weight)
        if prediction.ndim != self.axes + 1 or len(prediction) != len(target):
            wanted = "(batch, members)" if self.axes == 1 else "(batch, members, classes)"
            raise ConfigError(
                f"PerMember needs predictions {wanted} and one target for each row, "
                f"got {tuple(prediction.shape)} and {tuple(target.shape)}."
            )
        members = prediction.shape[1]
        repeated = None if weight is None else weight.repeat_interleave(members, dim=0)
        return self.loss(prediction.flatten(0, 1), target.repeat_interleave(members, dim=0), repeated)
