"""The stages of an image network as further features of a photo: which there are, and their statistics over places."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_LEAST_VARIANCE = 1e-8
"""Added to variances, so that the root has a gradient at 0."""


class PlaceStatistics(nn.Module):
    """Mean and standard deviation of each channel of a feature map over its places, in float32."""

    def forward(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n 2*channels"]:
        """All means, then all standard deviations."""
        # In half precision, squares overflow and the sum over places is inexact.
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0)
        return torch.cat([mean, (variance + _LEAST_VARIANCE).sqrt()], dim=1)


def stage_widths(module: nn.Module, most: int) -> tuple[int, ...]:
    """Channels of the outputs of the last stages of a network, at most ``most``.

    Networks of timm return these outputs by ``forward_intermediates`` (batch, channels, height, width), the features of
    the last one by ``forward_head``, and their channels by ``feature_info``. () for a network without these."""
    stages = getattr(module, "feature_info", None)
    both = hasattr(module, "forward_intermediates") and hasattr(module, "forward_head")
    return (
        tuple(int(stage["num_chs"]) for stage in stages[-most:]) if both and most and isinstance(stages, list) else ()
    )
