"""The mixed-input network: encoders of the table, its texts and the photos, fusion, head."""

from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.nn.freezing import keep_frozen_still
from mixfit.nn.fusion import ConcatFusion, Fusion
from mixfit.nn.image import ImageEncoder
from mixfit.nn.summary import Summary, summary
from mixfit.nn.tabular import MemberLinear, Mix, ensemble_mean
from mixfit.nn.text import TextEncoder


@runtime_checkable
class MixedInputs(Protocol):
    """The fields of a batch that a model reads; ``mixfit.Inputs`` has them."""

    numeric: Tensor
    categorical: Tensor
    images: Tensor | None
    features: Tensor | None
    image_mask: Tensor | None
    image_column: Tensor | None
    photo_scores: Tensor | None
    text: Tensor | None
    text_mask: Tensor | None
    normalized: bool

    @property
    def mix(self) -> Mix | None:
        """The partners in a mixed batch."""


class RowsOfInputs(MixedInputs, Protocol):
    """Inputs with row indexing."""

    def __getitem__(self, rows: Tensor) -> "RowsOfInputs": ...


@runtime_checkable
class TableEncoder(Protocol):
    """What a model needs of a table encoder, an ``nn.Module``."""

    out_dim: int

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """Layers whose summed output is the result, for initialisation."""

    def __call__(self, numeric: Tensor, categorical: Tensor, mix: Mix | None = None) -> Tensor: ...


@runtime_checkable
class PhotoEncoder(Protocol):
    """What a model needs of an image encoder, an ``nn.Module``; ``ImageEncoder`` is one, around any backbone.

    Called with the photos of a batch: ``images``, uint8 or float ``(batch, photos, 3, height, width)``, or None;
    ``features`` ``(batch, photos, d)`` or None, for encoders whose features are computed once; ``mask`` bool
    ``(batch, photos)``, False for missing photos; ``mix``, the partners of a mixed batch or None; ``column`` int64
    ``(batch, photos)``, the image column of each photo; ``query`` ``(batch, d_table)``, the encoding of the table; and
    whether the pixels are already ``normalized``. Returns ``(batch, out_dim)``, also for rows without photos.
    """

    out_dim: int

    def __call__(
        self,
        images: Tensor | None,
        features: Tensor | None,
        mask: Tensor,
        mix: Mix | None = None,
        *,
        column: Tensor | None = None,
        query: Tensor | None = None,
        normalized: bool = False,
    ) -> Tensor: ...


class MixedInputModel(nn.Module):
    """Table encoder and image encoder, joined by a fusion, and a linear head.

    Texts are cells of the table: with a ``text`` encoder, their encoding is first joined to that of the table, by a
    ``ConcatFusion`` of the table's width (``text_fusion``). Everything behind it, the fusion with photos,
    cross-attention and auxiliary heads, takes the result as the encoding of the table.

    The table encoder may be an ensemble that returns a vector for each member. In training, every member then has its
    own prediction and loss; in evaluation mode, the model returns their mean (of probabilities for classes, see
    ``mean``).

    Args:
        tabular: ``(batch, numeric), (batch, categorical) -> (batch, d_table)``, or ``(batch, members, d_table)``.
        image: an ``ImageEncoder``, or any module that ``PhotoEncoder`` describes: photos of a row ->
            ``(batch, d_image)``; None for a table without photos.
        fusion: ``(batch, d_table), (batch, d_image) -> (batch, d)``; None exactly when ``image`` is None.
        outputs: 1 for regression, else the number of classes, or as the loss requires.
        members: ensemble members; 1 for none.
        auxiliary: in training, add heads that predict from the table alone and from the photos alone, with the same
            loss, so that neither modality is neglected.
        modality_dropout: probability that a row loses all its photos in training, in [0, 1); and, independently of
            them, all its texts.
        mean: average class probabilities over members, or the outputs themselves, for losses such as ``Quantiles`` and
            ``ordinal``, whose outputs are not class logits.
        text: texts of a row -> ``(batch, d_text)``; None for a table without texts.
    Raises:
        ConfigError: only one of image encoder and fusion is given, or ``modality_dropout`` is used with an image
            encoder that is not an ``ImageEncoder``.
    """

    def __init__(
        self,
        tabular: TableEncoder,
        image: PhotoEncoder | None,
        fusion: Fusion | None,
        *,
        outputs: int,
        members: int = 1,
        auxiliary: bool = False,
        modality_dropout: float = 0.0,
        mean: Literal["probabilities", "outputs"] = "probabilities",
        text: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        if (image is None) != (fusion is None):
            raise ConfigError("An image encoder and a fusion need each other: give both or neither.")
        if modality_dropout and image is not None and not isinstance(image, ImageEncoder):
            raise ConfigError(
                "modality_dropout needs an ImageEncoder, which has a vector for missing photos: leave it at 0, or drop "
                "photos inside your own image encoder."
            )
        self.tabular = tabular
        self.image: Any = image  # what has to do with its backbone is for an ImageEncoder alone
        self.text = text
        self.text_fusion = (
            None
            if text is None
            else ConcatFusion(tabular.out_dim, text.out_dim, out_dim=tabular.out_dim, dropout=text.dropout)
        )
        self.fusion = fusion
        self.outputs, self.members, self.modality_dropout = outputs, members, modality_dropout
        self.mean: Literal["probabilities", "outputs"] = mean
        self.head = _head(members, tabular.out_dim if fusion is None else fusion.out_dim, outputs)
        self.auxiliary: nn.ModuleList | None = None
        if auxiliary and image is not None:
            self.auxiliary = nn.ModuleList(
                [_head(members, tabular.out_dim, outputs), nn.Linear(image.out_dim, outputs)]
            )

    @property
    def predictions_a_row(self) -> int:
        """Predictions per row in training: one per member, three times as many with auxiliary heads."""
        return self.members * (1 if self.auxiliary is None else 3)

    def train(self, mode: bool = True) -> "MixedInputModel":  # noqa: FBT001, FBT002 - PyTorch's signature
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        keep_frozen_still(self)
        return self

    def summary(self, xb: MixedInputs) -> Summary:
        """Layers, shapes, parameters and cost of a forward pass over a batch; print it."""
        return summary(self, xb)

    def forward(self, xb: MixedInputs) -> Tensor:
        """Scaled target ``(batch,)``, or logits ``(batch, classes)``.

        In training, with members or auxiliary heads, one for each: ``(batch, members)`` or
        ``(batch, members, classes)``.

        Raises:
            ConfigError: the batch has only one of ``text`` and ``text_mask``.
        """
        table = self._table(xb)
        return self._joined(table, None if self.image is None else self._photos(xb, table))

    def forward_mixed(
        self, tables: RowsOfInputs, galleries: RowsOfInputs, table_of: Tensor, photos_of: Tensor, *, rows: int = 1024
    ) -> Tensor:
        """As ``forward``, for rows with the table of one row and the photos of another.

        Args:
            tables, galleries: rows with the table parts, texts included, and with the photo parts; each is encoded
                once, but with cross-attention photos are encoded for every row.
            table_of, photos_of: int64 ``(batch,)``: the parts of each row.
            rows: batch size.
        """
        every = torch.split(torch.arange(len(tables.numeric), device=tables.numeric.device), rows)
        if self.image is None:
            parts = [self._joined(self._table(tables[some]), None) for some in every]
            return torch.cat(parts)[table_of]
        table = torch.cat([self._table(tables[some]) for some in every])
        photos = None if self._asks else self._photos(galleries, table)
        joined = []
        for some, others in zip(torch.split(table_of, rows), torch.split(photos_of, rows), strict=True):
            seen = self._photos(galleries[others], table[some]) if photos is None else photos[others]
            joined.append(self._joined(table[some], seen))
        return torch.cat(joined)

    def _joined(self, table: Tensor, photos: Tensor | None) -> Tensor:
        """Encodings of the table and of the photos -> the output of ``forward``."""
        y = self.head(table if photos is None or self.fusion is None else self.fusion(table, photos))
        y = y if y.ndim == 3 else y[:, None]
        if not self.training:
            y = y[:, 0] if y.shape[1] == 1 else y.mean(1) if self.mean == "outputs" else ensemble_mean(y)
        elif self.auxiliary is not None and photos is not None:
            from_table, from_photos = self.auxiliary[0](table), self.auxiliary[1](photos)
            # The three heads have equal weight, whatever the number of members.
            y = torch.cat([y, from_table.reshape(y.shape), from_photos[:, None].expand_as(y)], dim=1)
        elif y.shape[1] == 1:
            y = y[:, 0]
        return y[..., 0] if self.outputs == 1 else y

    @property
    def _asks(self) -> bool:
        """Whether the encoding of the photos may depend on the table's; assumed for custom encoders."""
        return not isinstance(self.image, ImageEncoder) or self.image.pool.query is not None

    def _table(self, xb: MixedInputs) -> Tensor:
        """The encoding of each row's cells, texts included: ``(batch, d_table)`` or ``(batch, members, d_table)``."""
        table = self.tabular(xb.numeric, xb.categorical, xb.mix)
        if self.text is None or self.text_fusion is None:
            return table
        text, mask, mix = xb.text, xb.text_mask, xb.mix
        if (text is None) != (mask is None):
            raise ConfigError("A batch needs both text and text_mask, or neither.")
        if text is None or mask is None:
            text, mask, mix = *self.text.none(table), None
        encoded = self.text(text, mask, mix)
        if self.training and self.modality_dropout:
            lost = torch.rand(len(encoded), 1, device=encoded.device) < self.modality_dropout
            encoded = torch.where(lost, self.text.no_text, encoded)
        return self.text_fusion(table, encoded)

    def _photos(self, xb: MixedInputs, table: Tensor) -> Tensor:
        """The encoding of each row's photos, ``(batch, d_image)``."""
        assert self.image is not None
        mask, mix = xb.image_mask, xb.mix
        if mask is None:
            mask = torch.zeros(table.shape[0], 0, dtype=torch.bool, device=table.device)
        query = table.mean(1) if table.ndim == 3 else table
        scored = isinstance(self.image, ImageEncoder) and self.image.from_scores is not None
        photos = self.image(
            xb.images,
            xb.features,
            mask,
            mix,
            column=xb.image_column,
            query=query if self._asks else None,
            normalized=xb.normalized,
            **({"scores": xb.photo_scores} if scored else {}),
        )
        if self.training and self.modality_dropout and isinstance(self.image, ImageEncoder):
            lost = torch.rand(len(photos), 1, device=photos.device) < self.modality_dropout
            photos = torch.where(lost, self.image.pool.no_photo, photos)
        return photos


def _head(members: int, d: int, outputs: int) -> nn.Linear | MemberLinear:
    return nn.Linear(d, outputs) if members == 1 else MemberLinear(members, d, outputs)
