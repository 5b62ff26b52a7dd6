"""What holds for every encoder of a table, with every embedding of numbers."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixfit.data.batch import Mix
from mixfit.errors import ConfigError
from mixfit.nn.bins import compute_bins
from mixfit.nn.numbers import (
    LinearEmbedding,
    NumericEmbedding,
    PeriodicEmbedding,
    PiecewiseLinearEmbedding,
    PiecewiseLinearEncoding,
    RawNumbers,
)
from mixfit.nn.tabular import ColumnEmbedding, Dropout, TabM, TabularEncoder, TabularResNet
from mixfit.nn.tabular import Mix as AnyMix

ROWS, LEVELS = 7, 4
COLUMNS = [(3, (LEVELS, 3)), (0, (LEVELS, 3)), (3, ()), (0, ())]
TRAIN = np.random.default_rng(0).normal(size=(60, 3)).round(1)
TRAIN[:, 1] = 0.5  # a constant column
TRAIN[:, 2] = TRAIN[:, 2] > 0

Encoder = Callable[[int, tuple[int, ...], NumericEmbedding | None], nn.Module]


def mlp(numeric: int, cardinalities: tuple[int, ...], numbers: NumericEmbedding | None) -> nn.Module:
    return TabularEncoder(numeric, cardinalities, hidden=(16, 16), out_dim=6, dropout=0.1, numbers=numbers)


def resnet(numeric: int, cardinalities: tuple[int, ...], numbers: NumericEmbedding | None) -> nn.Module:
    return TabularResNet(
        numeric,
        cardinalities,
        width=8,
        hidden=16,
        out_dim=6,
        dropout=0.1,
        residual_dropout=0.1,
        numbers=numbers,
    )


def tabm(numeric: int, cardinalities: tuple[int, ...], numbers: NumericEmbedding | None) -> nn.Module:
    return TabM(numeric, cardinalities, members=4, width=6, numbers=numbers)


def tabm_mini_wide(numeric: int, cardinalities: tuple[int, ...], numbers: NumericEmbedding | None) -> nn.Module:
    return TabM(numeric, cardinalities, members=4, width=6, numbers=numbers, variant="mini", wide=True)


ENCODERS: list[Encoder] = [mlp, resnet, tabm, tabm_mini_wide]
EMBEDDINGS = ["raw", "linear", "linear_relu", "plr", "plr_lite", "ple", "pwl_a", "pwl_b"]


def embedding(name: str, columns: int, *, bins: list[Tensor] | None = None) -> NumericEmbedding:
    bins = compute_bins(TRAIN[:, :columns], bins=5) if bins is None else bins
    makers: dict[str, Callable[[], NumericEmbedding]] = {
        "raw": lambda: RawNumbers(columns),
        "linear": lambda: LinearEmbedding(columns, 4, activation=False),
        "linear_relu": lambda: LinearEmbedding(columns, 4, activation=True),
        "plr": lambda: PeriodicEmbedding(columns, 4, frequencies=3, scale=0.5),
        "plr_lite": lambda: PeriodicEmbedding(columns, 4, frequencies=3, scale=0.5, lite=True),
        "ple": lambda: PiecewiseLinearEncoding(bins),
        "pwl_a": lambda: PiecewiseLinearEmbedding(bins, 4, activation=True, version="A"),
        "pwl_b": lambda: PiecewiseLinearEmbedding(bins, 4),
    }
    return makers[name]()


def rows(columns: tuple[int, tuple[int, ...]], count: int = ROWS, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    numeric, cardinalities = columns
    levels = [torch.randint(0, level, (count,), generator=generator) for level in cardinalities]
    categorical = torch.stack(levels, dim=1) if levels else torch.zeros(count, 0, dtype=torch.int64)
    return torch.randn(count, numeric, generator=generator), categorical


def made(make: Encoder, columns: tuple[int, tuple[int, ...]], name: str = "pwl_b", *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = make(*columns, embedding(name, columns[0]))
    for parameter in model.parameters():  # ends that start at 0 would hide what is before them
        if parameter.numel() and not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", EMBEDDINGS)
@pytest.mark.parametrize("make", ENCODERS)
def test_a_row_does_not_see_its_neighbours(make: Encoder, name: str, columns: tuple[int, tuple[int, ...]]) -> None:
    model = made(make, columns, name).eval()
    numeric, categorical = rows(columns)
    together = model(numeric, categorical)
    alone = torch.cat([model(numeric[[row]], categorical[[row]]) for row in range(ROWS)])
    assert together.shape == (ROWS, *([4] if isinstance(model, TabM) else []), model.out_dim)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert not any(columns[:1]) or (together.std(0) > 0).any(), "rows that all look alike would hide mistakes"


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", EMBEDDINGS)
@pytest.mark.parametrize("make", ENCODERS)
def test_gradients_reach_every_parameter(make: Encoder, name: str, columns: tuple[int, tuple[int, ...]]) -> None:
    model = made(make, columns, name).eval()  # dropout may leave a unit of a small network out
    numeric, categorical = rows(columns, 64)
    model(numeric, categorical).square().sum().backward()
    missing = [n for n, p in model.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())]
    assert missing == []


@pytest.mark.parametrize("make", ENCODERS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_a_batch_of_one_can_be_trained_on(make: Encoder, columns: tuple[int, tuple[int, ...]]) -> None:
    model = made(make, columns).train()
    result = model(*rows(columns, 1))
    result.sum().backward()
    assert result.isfinite().all()


@pytest.mark.parametrize("make", ENCODERS)
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_a_saved_state_brings_weights_and_bins(make: Encoder, name: str) -> None:
    columns = COLUMNS[0]
    model = made(make, columns, name).eval()
    placeholders = [torch.arange(len(edges), dtype=torch.float64) for edges in compute_bins(TRAIN, bins=5)]
    other = make(*columns, embedding(name, 3, bins=placeholders)).eval()
    assert not torch.equal(other(*rows(columns)), model(*rows(columns)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*rows(columns)), model(*rows(columns)))


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("make", ENCODERS)
def test_every_encoder_exports_with_any_number_of_rows(make: Encoder, columns: tuple[int, tuple[int, ...]]) -> None:
    check_export(made(make, columns).eval(), columns)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_every_embedding_exports_with_any_number_of_rows(name: str) -> None:
    check_export(made(tabm, COLUMNS[0], name).eval(), COLUMNS[0])


def check_export(model: nn.Module, columns: tuple[int, tuple[int, ...]]) -> None:
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(model, rows(columns, 3), dynamic_shapes=({0: batch}, {0: batch}, None)[:2])
    for count in (1, 2, 11):
        inputs = rows(columns, count, seed=count)
        torch.testing.assert_close(exported.module()(*inputs), model(*inputs), atol=1e-5, rtol=1e-5)


def partners(columns: tuple[int, tuple[int, ...]], share: Tensor) -> tuple[Tensor, Tensor, Mix]:
    """Rows as ``MixUp`` hands them over: the numbers blended, the partner's levels beside the row's own."""
    (numeric, categorical), (other_numeric, other_categorical) = rows(columns), rows(columns, seed=1)
    mixed = share[:, None] * numeric + (1 - share[:, None]) * other_numeric
    mix = Mix(share=share, own_numeric=numeric, numeric=other_numeric, categorical=other_categorical)
    return mixed, categorical, mix


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", EMBEDDINGS)
@pytest.mark.parametrize("make", ENCODERS)
def test_a_share_of_one_is_the_row_itself_and_zero_is_the_partner(
    make: Encoder, name: str, columns: tuple[int, tuple[int, ...]]
) -> None:
    model = made(make, columns, name).eval()
    own, other = model(*rows(columns)), model(*rows(columns, seed=1))
    torch.testing.assert_close(model(*partners(columns, torch.ones(ROWS))), own, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(model(*partners(columns, torch.zeros(ROWS))), other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embedded_columns_are_blended_with_exactly_the_share(name: str) -> None:
    torch.manual_seed(0)
    columns = ColumnEmbedding(*COLUMNS[0], numbers=embedding(name, 3))
    share = torch.linspace(0, 1, ROWS)
    own, other = columns(*rows(COLUMNS[0])), columns(*rows(COLUMNS[0], seed=1))
    expected = share[:, None] * own + (1 - share[:, None]) * other
    torch.testing.assert_close(columns(*partners(COLUMNS[0], share)), expected)
    mixed, categorical, _ = partners(COLUMNS[0], share)
    assert not torch.allclose(columns(mixed, categorical), expected, atol=1e-2)


def test_rows_of_a_mixed_batch_can_be_taken_out_of_it() -> None:
    mixed, categorical, mix = partners(COLUMNS[0], torch.linspace(0, 1, ROWS))
    taken: AnyMix = mix.map(lambda tensor: tensor[2:4])
    model = made(tabm, COLUMNS[0]).eval()
    torch.testing.assert_close(model(mixed[2:4], categorical[2:4], taken), model(mixed, categorical, mix)[2:4])


@pytest.mark.parametrize("make", ENCODERS)
def test_the_last_layers_scale_the_result(make: Encoder) -> None:
    model = made(make, COLUMNS[0]).eval()
    before = model(*rows(COLUMNS[0]))
    layers = model.last_layers
    for layer in layers:
        layer.weight.data *= 2
        layer.bias.data *= 2
    torch.testing.assert_close(model(*rows(COLUMNS[0])), 2 * before)


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="embedding of numbers has 2 columns, but there are 3"):
        ColumnEmbedding(3, (), numbers=RawNumbers(2))
    with pytest.raises(ConfigError, match="there are 1 category_widths for 2 category columns"):
        ColumnEmbedding(3, (4, 4), category_widths=(2,))


def test_a_mix_of_other_code_is_a_mix() -> None:
    """The encoder asks for fields, not for a class."""
    mixed, categorical, mix = partners(COLUMNS[0], torch.full((ROWS,), 0.5))
    fields = ("share", "own_numeric", "numeric", "categorical", "image_mask", "text", "text_mask")
    same = SimpleNamespace(**{name: getattr(mix, name) for name in fields})
    model = made(mlp, COLUMNS[0]).eval()
    torch.testing.assert_close(model(mixed, categorical, same), model(mixed, categorical, mix))


def test_dropout_keeps_the_mean_and_masks_the_gradient() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.3), torch.ones(1_001, 97, requires_grad=True)
    found = layer(x)
    found.sum().backward()
    kept = found != 0
    assert abs(kept.float().mean().item() - 0.7) < 0.01
    assert (kept.float().mean(0) - 0.7).abs().max() < 0.08, "no column is special"
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / 0.7))
    torch.testing.assert_close(x.grad, found)
    torch.manual_seed(0)
    torch.testing.assert_close(layer(x), found, rtol=0, atol=0)
    assert layer.eval()(x) is x or torch.equal(layer(x), x)
    assert not Dropout(1.0)(x).any()


def test_networks_without_values_are_made_without_the_compiler_of_pytorch() -> None:
    """A saved network is sketched on the meta device before it is loaded; drawing numbers there imports for seconds."""
    code = (
        "import sys, torch; from mixfit.config import ModelConfig; from mixfit.nn.build import ModelShape, make_model\n"
        "shape = ModelShape(numeric=1, cardinalities=(4,), photos=False, outputs=1, bins=((0.0, 1.0, 2.0),))\n"
        "with torch.device('meta'): make_model(shape, ModelConfig())\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
