"""What holds for every fusion, with and without members, pixels and features."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mixfit.choices import Fusion
from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.errors import ConfigError
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.fusion import make_fusion
from mixfit.nn.image import AttentionPool
from mixfit.nn.model import MixedInputModel
from mixfit.nn.tabular import MemberLinear, TabM, ensemble_mean

NAMES: tuple[Fusion, ...] = ("concat", "gated", "film", "attention", "late")
CONFIG = ModelConfig(
    backbone="small_resnet",
    tabular="mlp",
    numbers="plain",
    tabular_hidden=(16,),
    encoding_dim=8,
    dropout=0.0,
    image_dropout=0.0,
)
SHAPE = ModelShape(numeric=3, cardinalities=(4,), photos=True, outputs=1, image_columns=2)
SHAPES = (SHAPE, replace(SHAPE, numeric=0, cardinalities=()), replace(SHAPE, outputs=3))


def inputs(shape: ModelShape, rows: int = 6, photos: int = 3) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(rows, photos, generator=generator) < 0.7
    mask[0] = False
    return Inputs(
        numeric=torch.randn(rows, shape.numeric, generator=generator),
        categorical=torch.randint(0, 4, (rows, len(shape.cardinalities)), generator=generator),
        rows=torch.arange(rows),
        images=torch.rand(rows, photos, 3, 32, 32, generator=generator),
        image_mask=mask,
        image_column=torch.arange(photos).expand(rows, photos) % 2,
    )


def model_of(name: Fusion, shape: ModelShape = SHAPE, **settings: object) -> MixedInputModel:
    torch.manual_seed(0)
    model = make_model(shape, replace(CONFIG, fusion=name, **settings))  # type: ignore[arg-type]
    with torch.no_grad():  # what starts at 0 would hide an influence
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_does_not_see_its_neighbours(name: Fusion, shape: ModelShape) -> None:
    model, xb = model_of(name, shape).eval(), inputs(shape)
    with torch.inference_mode():
        alone = torch.cat([model(xb[[row]]) for row in range(len(xb))])
        torch.testing.assert_close(model(xb), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_masked_photos_order_and_padding_have_no_influence(name: Fusion) -> None:
    model, xb = model_of(name).eval(), inputs(SHAPE)
    assert xb.images is not None
    assert xb.image_mask is not None
    assert xb.image_column is not None
    expected = model(xb)
    spoiled = xb.images.clone()
    spoiled[~xb.image_mask] = torch.nan
    torch.testing.assert_close(model(replace(xb, images=spoiled)), expected)
    order = [2, 0, 1]
    turned = replace(
        xb, images=xb.images[:, order], image_mask=xb.image_mask[:, order], image_column=xb.image_column[:, order]
    )
    torch.testing.assert_close(model(turned), expected, atol=1e-5, rtol=1e-5)
    padded = replace(
        xb,
        images=torch.cat([xb.images, torch.rand(6, 1, 3, 32, 32)], dim=1),
        image_mask=nn.functional.pad(xb.image_mask, (0, 1)),
        image_column=nn.functional.pad(xb.image_column, (0, 1)),
    )
    torch.testing.assert_close(model(padded), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_photos_table_and_the_column_of_a_photo_all_count(name: Fusion) -> None:
    model, xb = model_of(name).eval(), inputs(SHAPE)
    assert xb.images is not None
    assert xb.image_column is not None
    expected = model(xb)
    for other in (
        replace(xb, images=1 - xb.images),
        replace(xb, numeric=xb.numeric + 1),
        replace(xb, image_column=1 - xb.image_column),
    ):
        assert not torch.allclose(model(other)[1:], expected[1:], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: Fusion) -> None:
    model, xb = model_of(name, auxiliary_heads=True).train(), inputs(SHAPE)
    model(xb).square().sum().backward()
    lost = [n for n, p in model.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())]
    assert lost == []


@pytest.mark.parametrize("name", NAMES)
def test_an_ensemble_is_fused_member_by_member(name: Fusion) -> None:
    fusion = make_fusion(name, 5, 4, out_dim=6, dropout=0.0)
    assert isinstance(fusion, nn.Module)
    table, photos = torch.randn(3, 7, 5), torch.randn(3, 4)
    together = fusion(table, photos)
    assert together.shape == (3, 7, 6)
    for member in range(7):
        torch.testing.assert_close(together[:, member], fusion(table[:, member], photos))


def test_late_fusion_under_a_linear_head_is_the_mean_of_two_heads() -> None:
    fusion, head = make_fusion("late", 5, 4, out_dim=6, dropout=0.0), nn.Linear(6, 2)
    table, photos = torch.randn(3, 5), torch.randn(3, 4)
    assert isinstance(fusion, nn.Module)
    alone = head(fusion.from_table(table)), head(fusion.from_photos(photos))
    torch.testing.assert_close(head(fusion(table, photos)), (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("outputs", [1, 3])
def test_auxiliary_heads_predict_in_training_only(outputs: int) -> None:
    shape = replace(SHAPE, outputs=outputs)
    model, xb = model_of("concat", shape, auxiliary_heads=True), inputs(shape)
    wanted = (6,) if outputs == 1 else (6, outputs)
    assert model.eval()(xb).shape == wanted
    trained = model.train()(xb)
    assert trained.shape == (6, 3, *wanted[1:])
    other = model(replace(xb, numeric=xb.numeric + 1))
    torch.testing.assert_close(other[:, 2], trained[:, 2])  # the photos' own head does not see the table
    assert not torch.allclose(other[:, 1], trained[:, 1])


def test_modality_dropout_gives_rows_the_vector_of_no_photo_in_training_only() -> None:
    model, xb = model_of("concat"), inputs(SHAPE)
    assert xb.image_mask is not None
    none = model.train()(replace(xb, image_mask=torch.zeros_like(xb.image_mask)))
    with_photos = model(xb)
    model.modality_dropout = 0.5
    seen = torch.stack([model(xb) for _ in range(40)])
    is_none = torch.isclose(seen, none, atol=1e-6)
    assert (is_none | torch.isclose(seen, with_photos, atol=1e-5)).all()
    assert 0.3 < is_none[:, 1:].float().mean() < 0.7
    model.eval()
    assert torch.equal(model(xb), model(xb))


def test_an_ensemble_says_the_mean_number_and_the_mean_probability() -> None:
    logits = torch.randn(4, 5, 3)
    torch.testing.assert_close(ensemble_mean(logits).softmax(1), logits.softmax(2).mean(1))
    numbers = torch.randn(4, 5, 1)
    torch.testing.assert_close(ensemble_mean(numbers), numbers.mean(1))
    heads = MemberLinear(5, 2, 3)
    x = torch.randn(4, 5, 2)
    torch.testing.assert_close(heads(x)[:, 2], x[:, 2] @ heads.weight[2] + heads.bias[2])


def test_the_outputs_of_quantiles_are_averaged_as_they_are() -> None:
    """As logarithms of probabilities they would all be below 0."""
    tabm = TabM(3, (4,), members=5, width=8, dropout=0.0)
    model = MixedInputModel(tabm, None, None, outputs=3, members=5, mean="outputs")
    xb = Inputs(numeric=torch.randn(4, 3), categorical=torch.ones(4, 1, dtype=torch.int64), rows=torch.arange(4))
    each = model.train()(xb)
    torch.testing.assert_close(model.eval()(xb), each.mean(1))
    one = MixedInputModel(TabM(3, (4,), members=1, width=8), None, None, outputs=3, mean="outputs").eval()
    assert one(xb).shape == (4, 3)


def test_pooling_starts_as_the_plain_mean_and_learns_to_choose() -> None:
    pool, x = AttentionPool(4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, True], [True, False, True]])
    torch.testing.assert_close(pool(x, mask)[0], x[0].mean(0))
    torch.testing.assert_close(pool(x, mask)[1], x[1, [0, 2]].mean(0))
    optimizer = torch.optim.Adam(pool.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (pool(x, mask) - x[:, 0]).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(pool(x, mask), x[:, 0], atol=0.05, rtol=0)


def test_a_negative_number_of_trained_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="train_blocks must be at least 0, got -1"):
        ModelConfig(train_blocks=-1)
