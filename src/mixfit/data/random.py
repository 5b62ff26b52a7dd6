"""Randomness that belongs to a row: the same whatever the batch, its size, its order or the thread.

Numbers come from hashing ``(seed, epoch, row, draw)`` with SplitMix64 (Steele, Lea and Flood 2014,
"Fast splittable pseudorandom number generators"), in whole tensors and on any device."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# The constants of SplitMix64 as signed 64-bit integers; int64 products wrap around, as the algorithm wants.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


class RowRandom:
    """A source of uniform numbers for the rows of one batch.

    Args:
        seed: of the run.
        epoch: so that each epoch differs.
        rows: int64 ``(batch,)`` positions in the table.
    """

    def __init__(self, seed: int, epoch: int, rows: Int64[Tensor, " batch"]) -> None:
        run = _mix(_mix(torch.tensor(seed, device=rows.device)) + epoch)
        self._keys = _mix(run + rows)
        # Apple's GPUs have no float64.
        self._dtype = torch.float32 if rows.device.type == "mps" else torch.float64
        self._draws = 0

    def uniform(self, count: int = 1) -> Float[Tensor, "batch count"]:
        """``count`` numbers in [0, 1) for each row, float64 where the device has it; every call gives new ones."""
        draws = torch.arange(self._draws, self._draws + count, device=self._keys.device)
        self._draws += count
        bits = _mix(self._keys[:, None] + draws * _GOLDEN)
        return ((bits >> 11) & (2**53 - 1)).to(self._dtype) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64; the shifts are logical, hence the masks."""
    x = x + _GOLDEN
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))
