"""The gradients that two modalities get through a fusion, caught on their way without changing it."""

from functools import partial

import torch
from torch import Tensor, nn

from mixfit.hooks.hook import Call, Hook


class FusionGradients:
    """Hooks the two encodings that a fusion joins, and sums up their gradients until they are taken.

    Nothing is added to the graph, which keeps the training the same to the bit; so what auxiliary heads send to an
    encoding is in its gradient, too.

    Args:
        fusion: called with the encoding of the table and that of the photos by position, batch axis first.
    """

    def __init__(self, fusion: nn.Module) -> None:
        self.hook = Hook(fusion, self._catch, "pre-forward")
        self.wanted = False
        """Whether the next passes are looked at."""
        self._pending: list[tuple[Tensor, Tensor, dict[int, Tensor]]] = []

    def forget(self) -> None:
        """What was caught so far."""
        self._pending = []

    def take(self) -> Tensor | None:
        """Norms of both, their cosine, the agreement of the rows; NaN for what is not there. None if nothing came.

        Returns:
            float64 ``(4,)`` (float32 on devices without it), on the device."""
        sums = [_sums(*pair) for pair in self._pending if len(pair[2]) == 2]
        self.forget()
        if not sums:
            return None
        table, photos, both, joint, rows_table, rows_photos, rows_both = torch.stack(sums).sum(0)
        cosine, agreement = both / (joint * photos).sqrt(), rows_both / (rows_table * rows_photos).sqrt()
        return torch.stack([table.sqrt(), photos.sqrt(), cosine, agreement])

    def _catch(self, call: Call) -> None:
        if not self.wanted or len(call.inputs) < 2 or not torch.is_grad_enabled():
            return
        table, photos = call.inputs[:2]
        if not (isinstance(table, Tensor) and isinstance(photos, Tensor)):
            return
        if not (table.requires_grad and photos.requires_grad):
            return
        gradients: dict[int, Tensor] = {}
        for place, encoding in enumerate((table, photos)):
            encoding.register_hook(partial(gradients.__setitem__, place))  # type: ignore[no-untyped-call]
        self._pending.append((table.detach(), photos.detach(), gradients))


def _sums(table: Tensor, photos: Tensor, gradients: dict[int, Tensor]) -> Tensor:
    """Squares and products of the gradients, and of their rows' products with the encodings."""
    exact = torch.float32 if table.device.type == "mps" else torch.float64
    to_table, to_photos = gradients[0].to(exact), gradients[1].to(exact)
    rows_table = (to_table * table).flatten(1).sum(1)
    rows_photos = (to_photos * photos).flatten(1).sum(1)
    squares = to_table.square().sum(), to_photos.square().sum()
    if to_table.ndim == to_photos.ndim + 1:  # an ensemble's members share the photos
        to_table = to_table.sum(1)
    both = (to_table * to_photos).sum() if to_table.shape == to_photos.shape else squares[0] * float("nan")
    joint = to_table.square().sum()
    return torch.stack(
        [*squares, both, joint, rows_table.square().sum(), rows_photos.square().sum(), (rows_table * rows_photos).sum()]
    )
