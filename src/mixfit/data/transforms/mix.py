"""MixUp and CutMix for rows of a table with photos: all inputs of a row are blended with those of a partner row.

Implementations copied from image classifiers often mix the labels but not the table, or apply a mixing weight with the
shape of an image to every input. Here one mixing weight per row, float32 ``(batch,)``, applies to all inputs:

- pixels and features: blended place by place if both rows have photos in the same places, from the same columns.
  Otherwise the photos of both rows are kept whole, the partner's in additional places, and the model blends the encoded
  photos of the two rows. In both cases the photos of a row have exactly its mixing weight, however many there are, and
  no photo is blended with padding;
- numeric features: blended; a model that embeds numbers blends the embeddings (``Inputs.mix``);
- categories: the batch carries the partner's levels (``Inputs.mix``), and the model blends the embeddings;
- texts: the batch carries the partner's (``Inputs.mix``), and the model blends the encodings of both rows' texts. The
  vectors themselves cannot be blended, as one row may have a text where the other has none;
- targets: blended numbers, or class probabilities;
- row weights: blended; targets are blended by mixing weight times row weight, so that a row of weight 0 has no
  influence through its partner.

These transforms depend on the whole batch: on the seed, the epoch and the set of rows in the batch, but neither on the
order of the rows nor on the process."""

from abc import abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from mixfit.data.batch import Batch, Inputs, Mix
from mixfit.data.transforms.augment import boxes
from mixfit.data.transforms.transform import Transform
from mixfit.errors import ConfigError
from mixfit.seeding import RowRandom


class BatchMix(Transform):
    """Base class of MixUp and CutMix.

    Args:
        alpha: the mixing weight is drawn from Beta(alpha, alpha); with a small value most rows change little.
        classes: number of classes of the target; None for regression.
        p: probability that a row is mixed.
    Raises:
        ConfigError: ``alpha`` is not above 0, or ``p`` is outside [0, 1]; when called, the batch is already mixed, or
            its target does not match ``classes``.
    """

    train_only = True
    draws: int
    """How many uniform random numbers ``mix_photos`` needs per row."""

    def __init__(self, alpha: float, *, classes: int | None = None, p: float = 1.0) -> None:
        if not 0 < alpha < float("inf"):
            raise ConfigError(f"alpha must be above 0, got {alpha}.")
        if not 0 <= p <= 1:
            raise ConfigError(f"p must be between 0 and 1, got {p}.")
        self.alpha, self.classes, self.p = alpha, classes, p

    @abstractmethod
    def mix_photos(
        self, xb: Inputs, other: Inputs, share: Float32[Tensor, " batch"], uniform: Float64[Tensor, "batch draws"]
    ) -> tuple[Inputs, Float32[Tensor, " batch"]]:
        """Blend pixels or features place by place, as if both rows had all photos; also return the actual weights."""

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """Mix every row with a partner in the same batch."""
        xb = batch[0]
        if xb.mix is not None:
            raise ConfigError("This batch is already mixed: use either MixUp or CutMix, and only once.")
        uniform = random.uniform(3 + self.draws)
        partner = choose_partners(uniform[:, 0])
        quantile = betaincinv(self.alpha, self.alpha, uniform[:, 1].cpu().numpy())
        share = torch.from_numpy(quantile).to(device=uniform.device, dtype=torch.float32)
        share = torch.where(uniform[:, 2] < self.p, share, torch.ones_like(share))
        return self.mix(batch, partner, share, uniform[:, 3:])

    def mix(
        self,
        batch: Batch,
        partner: Int64[Tensor, " batch"],
        share: Float32[Tensor, " batch"],
        uniform: Float64[Tensor, "batch draws"],
    ) -> Batch:
        """Mix each row with the row at position ``partner``; the row itself has the weight ``share``."""
        xb, yb = batch
        targets = self._as_targets(yb)
        other = xb[partner]
        blended, share = self.mix_photos(xb, other, share, uniform)
        mixed, partners_mask = _side_by_side(xb, other, blended, share)
        mixed = replace(
            mixed,
            numeric=_blend(xb.numeric, other.numeric, share),
            mix=Mix(
                share=share,
                own_numeric=xb.numeric,
                numeric=other.numeric,
                categorical=other.categorical,
                image_mask=partners_mask,
                text=other.text,
                text_mask=other.text_mask,
            ),
        )
        if xb.weight is None or other.weight is None:
            return mixed, _blend(targets, targets[partner], share)
        weight = _blend(xb.weight, other.weight, share)
        own_part = torch.where(weight > 0, share * xb.weight / weight, share)
        return replace(mixed, weight=weight), _blend(targets, targets[partner], own_part)

    def _as_targets(self, yb: Tensor) -> Float[Tensor, "batch ..."]:
        """Numbers, or one-hot class probabilities ``(batch, classes)``."""
        if yb.is_floating_point() != (self.classes is None):
            raise ConfigError(
                f"{type(self).__name__} was created with classes={self.classes}, but the target has dtype {yb.dtype}: "
                "set classes= for class indices, and omit it for numbers."
            )
        return yb if self.classes is None else F.one_hot(yb, self.classes).float()


class MixUp(BatchMix):
    """Blend all inputs and the target of two rows (Zhang et al. 2017, arXiv:1710.09412).

    Works with pixels, with features of a frozen network and without photos. It must be the last transform."""

    draws = 0

    def __init__(self, alpha: float = 0.2, *, classes: int | None = None, p: float = 1.0) -> None:
        super().__init__(alpha, classes=classes, p=p)

    def mix_photos(
        self, xb: Inputs, other: Inputs, share: Float32[Tensor, " batch"], uniform: Float64[Tensor, "batch draws"]
    ) -> tuple[Inputs, Float32[Tensor, " batch"]]:
        """Blend all pixels, or all features."""
        if xb.images is not None and other.images is not None:
            blended = _blend(xb.images.float(), other.images.float(), share)
            blended = blended.round().to(xb.images.dtype) if xb.images.dtype == torch.uint8 else blended
            xb = replace(xb, images=blended)
        if xb.features is not None and other.features is not None:
            xb = replace(xb, features=_blend(xb.features, other.features, share))
        return xb, share


class CutMix(BatchMix):
    """Paste a rectangle of the partner's photos over those of the row (Yun et al. 2019, arXiv:1905.04899).

    The mixing weight is the share of the area that is actually kept; it also applies to numeric features, categories
    and target. Rows whose photos are not in the same places as the partner's are not cut: their photos are kept whole
    and weighted in the same way. Needs pixels. It must be the last transform."""

    draws = 2

    def __init__(self, alpha: float = 1.0, *, classes: int | None = None, p: float = 1.0) -> None:
        super().__init__(alpha, classes=classes, p=p)

    def mix_photos(
        self, xb: Inputs, other: Inputs, share: Float32[Tensor, " batch"], uniform: Float64[Tensor, "batch draws"]
    ) -> tuple[Inputs, Float32[Tensor, " batch"]]:
        """Paste, and return the share of the pixels that was kept."""
        if xb.images is None or other.images is None or xb.image_mask is None or other.image_mask is None:
            raise ConfigError("CutMix needs pixels, but this batch has none: use MixUp.")
        pasted = boxes(1 - share.double(), torch.ones_like(share).double(), uniform, *xb.images.shape[-2:])
        images = torch.where(pasted[:, None, None], other.images, xb.images)
        return replace(xb, images=images), 1 - pasted.float().mean((1, 2))


def choose_partners(uniform: Float64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
    """Arrange the rows in a circle in the order of ``uniform``; the partner is the next row, so it is the row itself
    only in a batch of one."""
    circle = uniform.argsort(stable=True)
    partner = torch.empty_like(circle)
    partner[circle] = circle.roll(-1)
    return partner


def _blend(own: Float[Tensor, "batch ..."], other: Float[Tensor, "batch ..."], share: Tensor) -> Tensor:
    """``share * own + (1 - share) * other``, exact for shares of 1 and 0."""
    share = share.reshape(-1, *[1] * (own.ndim - 1))
    return share * own + (1 - share) * other


def _side_by_side(
    xb: Inputs, other: Inputs, blended: Inputs, share: Float32[Tensor, " batch"]
) -> tuple[Inputs, Bool[Tensor, "batch places"] | None]:
    """The blended photos for rows with the same places as their partner; for other rows their own photos, followed by
    those of the partner. Also a mask of the partner's places."""
    own_mask, other_mask = xb.image_mask, other.image_mask
    if own_mask is None or other_mask is None:
        return xb, None
    differ = (own_mask != other_mask).any(1)
    if xb.image_column is not None and other.image_column is not None:
        differ |= (own_mask & (xb.image_column != other.image_column)).any(1)
    apart = differ & (share < 1)  # a row that is not mixed does not need the photos of its partner
    behind = other_mask & apart[:, None]
    used = behind.any(0)  # only places that some row needs

    def join(own: Tensor | None, partners: Tensor | None, mixed: Tensor | None) -> Tensor | None:
        if own is None or partners is None or mixed is None:
            return None
        chosen = torch.where(differ.reshape(-1, *[1] * (own.ndim - 1)), own, mixed)
        return torch.cat([chosen, partners[:, used]], dim=1)

    joined = replace(
        xb,
        images=join(xb.images, other.images, blended.images),
        features=join(xb.features, other.features, blended.features),
        image_column=join(xb.image_column, other.image_column, xb.image_column),
        image_mask=torch.cat([own_mask, torch.zeros_like(behind[:, used])], dim=1),
    )
    return joined, torch.cat([own_mask & ~apart[:, None], behind[:, used]], dim=1)
