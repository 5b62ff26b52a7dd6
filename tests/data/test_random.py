import torch

from mixfit.seeding import RowRandom


def reference(seed: int, epoch: int, row: int, draw: int) -> float:
    """SplitMix64 with Python's unbounded integers."""
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    key = mix((mix((mix(seed) + epoch) & mask) + row) & mask)
    return (mix((key + draw * 0x9E3779B97F4A7C15) & mask) >> 11) * 2.0**-53


def test_equals_a_reference_in_unbounded_integers() -> None:
    rows = torch.tensor([0, 1, 7, 2**40])
    numbers = RowRandom(3, 5, rows).uniform(4)
    expected = [[reference(3, 5, row, draw) for draw in range(4)] for row in rows.tolist()]
    assert numbers.tolist() == expected


def test_a_row_does_not_see_its_batch() -> None:
    together = RowRandom(0, 1, torch.arange(10)).uniform(3)
    alone = torch.cat([RowRandom(0, 1, torch.tensor([row])).uniform(3) for row in range(10)])
    assert torch.equal(together, alone)


def test_two_calls_continue_one_stream() -> None:
    random = RowRandom(0, 0, torch.arange(5))
    parts = torch.cat([random.uniform(1), random.uniform(2)], dim=1)
    assert torch.equal(parts, RowRandom(0, 0, torch.arange(5)).uniform(3))


def test_numbers_are_uniform_and_differ_by_seed_epoch_and_row() -> None:
    numbers = RowRandom(0, 0, torch.arange(20_000)).uniform(2)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Mean and standard deviation of 40,000 uniform numbers lie within five standard errors of the true ones.
    assert abs(numbers.mean() - 0.5) < 5 * (1 / 12 / 40_000) ** 0.5
    assert abs(numbers.std() - 12**-0.5) < 0.003
    assert len(numbers.unique()) == numbers.numel()
    rows = torch.arange(100)
    assert not torch.equal(RowRandom(0, 0, rows).uniform(), RowRandom(1, 0, rows).uniform())
    assert not torch.equal(RowRandom(0, 0, rows).uniform(), RowRandom(0, 1, rows).uniform())
