"""The image encoder: the photos of a row -> one vector, whatever their number and order."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.nn.freezing import is_frozen_module, keep_frozen_still
from mixfit.nn.stages import PlaceStatistics, stage_widths
from mixfit.nn.tabular import Mix, blend


class AttentionPool(nn.Module):
    """Attention pooling: a weighted mean over the photos of a row; a learned vector for a row without photos.

    The weights are a softmax over the photos (Ilse et al. 2018, arXiv:1802.04712). They start equal, so that training
    starts from the plain mean. With ``query_dim``, the weights also depend on the table's encoding: cross-attention
    with one query and ``heads`` heads (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        d: width of a photo's vector, divisible by ``heads``.
        query_dim: width of the query, 0 for none.
        heads: parts of the vector with separate weights.
    """

    def __init__(self, d: int, *, query_dim: int = 0, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads if query_dim and d % heads == 0 else 1
        self.no_photo = nn.Parameter(torch.zeros(d))
        self.key = nn.Linear(d, d if query_dim else self.heads, bias=False)
        self.query = nn.Linear(query_dim, d) if query_dim else None
        if self.query is None:
            nn.init.zeros_(self.key.weight)
        else:
            nn.init.zeros_(self.query.weight)
            nn.init.zeros_(self.query.bias)

    def forward(
        self,
        x: Float[Tensor, "batch photos d"],
        mask: Bool[Tensor, "batch photos"],
        query: Float[Tensor, "batch q"] | None = None,
    ) -> Float[Tensor, "batch d"]:
        """Pool; masked values, NaN included, have no influence."""
        x = x.masked_fill(~mask[:, :, None], 0)
        scores = self._scores(x, query).masked_fill(~mask[:, :, None], -torch.inf)
        any_photo = mask.any(1)
        # A softmax over no photos would be NaN: the scores are set to 0 and the result is replaced.
        weights = scores.masked_fill(~any_photo[:, None, None], 0).softmax(1)
        parts = x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads)
        pooled = (weights[..., None] * parts).sum(1).flatten(1)
        return torch.where(any_photo[:, None], pooled, self.no_photo.to(pooled.dtype))

    def _scores(self, x: Tensor, query: Tensor | None) -> Tensor:
        """``(batch, photos, heads)``."""
        keys = self.key(x)
        if self.query is None or query is None:
            return keys[:, :, : self.heads] if self.query is None else keys.new_zeros(*x.shape[:2], self.heads)
        d = self.query.out_features // self.heads
        asked = self.query(query).reshape(x.shape[0], self.heads, d)
        return torch.einsum("bphd,bhd->bph", keys.reshape(*x.shape[:2], self.heads, d), asked) / d**0.5


MemoryFormat = Literal["contiguous", "channels_last"]
Precision = Literal["float32", "bfloat16"]
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class ImageEncoder(nn.Module):
    """A backbone for each photo, then a projection, a column embedding, and attention pooling over the photos.

    With ``stages``, the features of a photo are the backbone's result followed by ``PlaceStatistics`` of the outputs of
    its last stages, in the same forward pass. The last features tell what is in a photo; earlier ones also know its
    colours, textures and sharpness.

    Args:
        backbone: float photos ``(n, 3, h, w)`` -> ``(n, num_features)``.
        num_features: width of the backbone's result.
        mean, std: per channel, of pixels in [0, 1], as in the backbone's training.
        out_dim: width of the result.
        dropout: of the projected features of each photo.
        frozen: the backbone is not trained, and its BatchNorm statistics are fixed.
        columns: number of image columns; each has a learned embedding.
        query_dim: width of the table's encoding as query for cross-attention; 0 for none.
        memory_format: memory format of the backbone, which affects only speed.
        precision: number type of the backbone; its result is converted to float32.
        stages: number of last stages whose statistics join the features, at most those that the backbone has: a network
            of timm has some, a custom one those that it declares in the same way (see ``stage_widths``).
        scores: number of scores of a row's photos (see ``set_scores``), which a linear layer adds to the result.

    Attributes:
        num_features: width of the features of a photo, statistics included.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    score_projection: Tensor
    score_middle: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        out_dim: int,
        dropout: float,
        frozen: bool,
        columns: int = 1,
        query_dim: int = 0,
        memory_format: MemoryFormat = "channels_last",
        precision: Precision = "float32",
        stages: int = 0,
        scores: int = 0,
    ) -> None:
        super().__init__()
        widths = stage_widths(backbone, stages)
        self.stages, num_features = len(widths), num_features + 2 * sum(widths)
        self.statistics = PlaceStatistics() if widths else None
        self.memory_format: MemoryFormat = memory_format
        self.precision: Precision = precision
        self.backbone = backbone.to(memory_format=_FORMATS[memory_format])
        self.num_features, self.out_dim = num_features, out_dim
        self.register_buffer("pixel_mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std)[:, None, None], persistent=False)
        self.project = nn.Sequential(
            nn.LayerNorm(num_features), nn.Dropout(dropout), nn.Linear(num_features, out_dim), nn.SiLU()
        )
        # Column embeddings start at 0, so at first all columns are treated alike.
        self.column_tag = nn.Parameter(torch.zeros(columns, out_dim)) if columns > 1 else None
        self.pool = AttentionPool(out_dim, query_dim=query_dim)
        self.from_scores = nn.Linear(scores, out_dim, bias=False) if scores else None
        if scores:
            self.register_buffer("score_projection", torch.zeros(num_features, scores))
            self.register_buffer("score_middle", torch.zeros(scores))
        if frozen:
            self.backbone.requires_grad_(requires_grad=False)
            self.backbone.eval()

    @property
    def frozen(self) -> bool:
        """Whether the whole backbone is frozen, so that a photo always has the same features."""
        return is_frozen_module(self.backbone)

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """The linear layer that scales the result."""
        return (self.project[2],)

    def set_scores(self, projection: Float[Tensor, "d scores"], middle: Float[Tensor, " scores"]) -> None:
        """Set the scores of a row: its photos' mean features times ``projection`` less ``middle``; 0 without photos."""
        self.score_projection.copy_(projection)
        self.score_middle.copy_(middle)

    def no_weight_decay(self) -> set[str]:
        """The column embeddings, for ``parameter_groups``."""
        return {"column_tag"}

    def train(self, mode: bool = True) -> "ImageEncoder":  # noqa: FBT001, FBT002 - PyTorch's signature
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        keep_frozen_still(self.backbone)
        return self

    def encode(
        self, images: UInt8[Tensor, "n 3 h w"] | Float[Tensor, "n 3 h w"], *, normalized: bool = False
    ) -> Float[Tensor, "n {self.num_features}"]:
        """Features of single photos: uint8 in 0..255 or float in [0, 1]; ``normalized`` ones are not normalised again.

        A frozen backbone builds no graph, unless the photos require gradients."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        pixels = images if normalized else (images - self.pixel_mean) / self.pixel_std
        if not torch.compiler.is_exporting() and len(pixels) == 1 and self.training and not self.frozen:
            # BatchNorm cannot compute the variance of a single value, which a single small photo may be reduced to.
            return self._backbone_features(pixels.repeat(2, 1, 1, 1))[:1]
        return self._backbone_features(pixels)

    def _backbone_features(self, pixels: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and (pixels.requires_grad or not self.frozen)):
            pixels = pixels.contiguous(memory_format=_FORMATS[self.memory_format])
            if self.precision == "float32":
                return self._result(pixels)
            with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
                return self._result(pixels)

    def _result(self, pixels: Tensor) -> Tensor:
        """The backbone's result, float32, and the statistics of its stages."""
        if self.statistics is None:
            return self.backbone(pixels).float()
        backbone: Any = self.backbone  # with the methods that ``stage_widths`` found
        last, maps = backbone.forward_intermediates(pixels, indices=self.stages)
        return torch.cat([backbone.forward_head(last).float(), *(self.statistics(one) for one in maps)], dim=1)

    def forward(
        self,
        images: UInt8[Tensor, "batch photos 3 h w"] | Float[Tensor, "batch photos 3 h w"] | None,
        features: Float[Tensor, "batch photos d"] | None,
        mask: Bool[Tensor, "batch photos"],
        mix: Mix | None = None,
        *,
        column: Int64[Tensor, "batch photos"] | None = None,
        query: Float[Tensor, "batch q"] | None = None,
        normalized: bool = False,
        scores: Float[Tensor, "batch scores"] | None = None,
    ) -> Float[Tensor, "batch out"]:
        """Encode each row independently, from pixels or from features of this encoder's frozen backbone.

        In a mixed batch, the pooled vector of the row's photo slots is blended with that of the partner's slots: the
        same slots, whose photos are blended already, or others.

        Args:
            mask: True where there is a photo.
            mix: the partners of a mixed batch.
            column: image column of each photo; None for the first.
            query: the table's encoding, for cross-attention.
            normalized: whether the pixels are already normalised.
            scores: of the row's photos; None computes them from the features.
        """
        others = None if mix is None else mix.image_mask
        present = mask if others is None else mask | others
        if features is None:
            features = self._features(images, present, normalized=normalized)
        else:  # 0 * NaN is NaN in the gradients, so NaN must be removed before the pooling
            features = features.masked_fill(~present[:, :, None], 0)
        x = self.project(features)
        if self.column_tag is not None:
            # Not by indexing, whose gradient is summed in a nondeterministic order of threads.
            x = x + (self.column_tag[0] if column is None else F.embedding(column, self.column_tag))
        pooled = self.pool(x, mask, query)
        if mix is not None and others is not None:
            pooled = blend(pooled, self.pool(x, others, query), mix.share)
        if self.from_scores is None:
            return pooled
        if scores is None:
            scores = self._scores(features, mask)
            if mix is not None and others is not None:
                scores = blend(scores, self._scores(features, others), mix.share)
        return pooled + self.from_scores(scores)

    def _scores(self, features: Float[Tensor, "batch photos d"], mask: Bool[Tensor, "batch photos"]) -> Tensor:
        """Scores of each row from the features of its photos, ``(batch, scores)``."""
        there = mask[:, :, None].to(features.dtype)
        mean = (features * there).sum(1) / there.sum(1).clamp(min=1)
        return (mean @ self.score_projection - self.score_middle) * mask.any(1, keepdim=True)

    def _features(self, images: Tensor | None, present: Tensor, *, normalized: bool) -> Tensor:
        """Features of the present photos, 0 elsewhere."""
        features = torch.zeros(*present.shape, self.num_features, device=present.device)
        if images is None:
            return features
        if torch.compiler.is_exporting():  # an exported program cannot select photos by the mask's values
            encoded = self.encode(images.flatten(0, 1), normalized=normalized)
            # The width is explicit: inferring it would fix the numbers of rows and photos in the program.
            encoded = encoded.reshape(*images.shape[:2], self.num_features)
            return encoded.masked_fill(~present[:, :, None], 0)
        if present.any():
            features[present] = self.encode(images[present], normalized=normalized).to(features.dtype)
        return features
