"""Every model that a preset may try, by which what a folder holds is read again."""

from torch import nn

from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import BOTH, PHOTOS, PIXELS, TABLE, Model, Sees
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees


def our_models(backbone: nn.Module | None = None) -> tuple[Model, ...]:
    """All of mixfit's own.

    Args:
        backbone: the frozen one that makes the features of photos; None where networks see pixels alone."""
    seen = (TABLE, PHOTOS, BOTH)
    pixels: tuple[Sees, ...] = (PIXELS, TABLE | PIXELS)
    on_photos = pixels if backbone is None else (PHOTOS, BOTH)
    return (
        Constant(),
        *(kind(sees=sees) for kind in (Linear, KernelRidge, BoostedTrees) for sees in seen),
        *(Network(sees=sees, backbone=backbone) for sees in (TABLE, *on_photos)),
        *(Network(sees=sees, backbone=backbone, tuned=True) for sees in pixels),
    )
