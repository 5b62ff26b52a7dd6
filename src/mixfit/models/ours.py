"""All models of the presets, for loading saved ones."""

from torch import nn

from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import PHOTOS, PIXELS, TABLE, TEXT, Model, Sees
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees


def our_models(backbone: nn.Module | None = None) -> tuple[Model, ...]:
    """All of mixfit's own models.

    Args:
        backbone: the frozen backbone of the photo features; None if networks use only pixels."""
    cells: tuple[Sees, ...] = (TABLE, TEXT, TABLE | TEXT)
    seen: tuple[Sees, ...] = (*cells, PHOTOS, *(sees | PHOTOS for sees in cells))
    pixels: tuple[Sees, ...] = (PIXELS, *(sees | PIXELS for sees in cells))
    on_photos = pixels if backbone is None else (PHOTOS, *(sees | PHOTOS for sees in cells))
    return (
        Constant(),
        *(kind(sees=sees) for kind in (Linear, KernelRidge, BoostedTrees) for sees in seen),
        *(Network(sees=sees, backbone=backbone) for sees in (*cells, *on_photos)),
        *(Network(sees=sees, backbone=backbone, tuned=True) for sees in pixels),
    )
