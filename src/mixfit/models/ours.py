"""All models of the presets, for loading saved ones."""

from torch import nn

from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import BOTH, PHOTOS, PIXELS, TABLE, Model, Sees
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees


def our_models(backbone: nn.Module | None = None) -> tuple[Model, ...]:
    """All of mixfit's own models.

    Args:
        backbone: the frozen backbone of the photo features; None if networks use only pixels."""
    seen = (TABLE, PHOTOS, BOTH)
    pixels: tuple[Sees, ...] = (PIXELS, TABLE | PIXELS)
    on_photos = pixels if backbone is None else (PHOTOS, BOTH)
    return (
        Constant(),
        *(kind(sees=sees) for kind in (Linear, KernelRidge, BoostedTrees) for sees in seen),
        *(Network(sees=sees, backbone=backbone) for sees in (TABLE, *on_photos)),
        *(Network(sees=sees, backbone=backbone, tuned=True) for sees in pixels),
    )
