from dataclasses import replace

import pytest
import torch

from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.errors import ConfigError
from mixfit.nn.build import ModelShape, is_frozen, make_model
from mixfit.nn.model import MixedInputModel
from mixfit.nn.tabular import TabularEncoder

CONFIG = ModelConfig(
    backbone="small_resnet",
    freeze_backbone=False,
    tabular="mlp",
    numbers="plain",
    tabular_hidden=(16,),
    encoding_dim=8,
)
SHAPE = ModelShape(numeric=3, cardinalities=(4,), photos=True, outputs=1)
SHAPES = (
    SHAPE,
    replace(SHAPE, photos=False),
    replace(SHAPE, numeric=0),
    replace(SHAPE, cardinalities=()),
    replace(SHAPE, numeric=0, cardinalities=()),
    replace(SHAPE, outputs=5),
)


def inputs(shape: ModelShape, rows: int = 6) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    return Inputs(
        numeric=torch.randn(rows, shape.numeric, generator=generator),
        categorical=torch.randint(0, 4, (rows, len(shape.cardinalities)), generator=generator),
        rows=torch.arange(rows),
        images=torch.randint(0, 256, (rows, 2, 3, 32, 32), dtype=torch.uint8, generator=generator),
        image_mask=torch.arange(2 * rows).reshape(rows, 2) % 5 > 1,
    )


def model_of(shape: ModelShape) -> MixedInputModel:
    torch.manual_seed(0)
    return make_model(shape, CONFIG)


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_have_the_shape_that_losses_want(shape: ModelShape) -> None:
    output = model_of(shape)(inputs(shape))
    assert output.shape == ((6,) if shape.outputs == 1 else (6, shape.outputs))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_does_not_see_its_neighbours(shape: ModelShape) -> None:
    model, xb = model_of(shape).eval(), inputs(shape)
    with torch.inference_mode():
        alone = torch.cat([model(xb[[row]]) for row in range(len(xb))])
        torch.testing.assert_close(model(xb), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_reach_every_parameter(shape: ModelShape) -> None:
    model, xb = model_of(shape).train(), inputs(shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reached: set[str] = set()
    for _ in range(3):  # residual ends start at zero: what is before them is reached from the second step on
        optimizer.zero_grad()
        model(xb).square().sum().backward()
        reached |= {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    everything = {name for name, p in model.named_parameters() if p.numel()}
    assert everything - reached == set()


def test_a_model_for_photos_takes_a_batch_without_any() -> None:
    model, xb = model_of(SHAPE).eval(), inputs(SHAPE)
    no_photos = replace(xb, images=None, image_mask=None)
    all_masked = replace(xb, image_mask=torch.zeros(6, 2, dtype=torch.bool))
    torch.testing.assert_close(model(no_photos), model(all_masked))


def test_weights_saved_and_loaded_give_identical_outputs() -> None:
    model, xb = model_of(SHAPE).eval(), inputs(SHAPE)
    torch.manual_seed(1)
    other = make_model(SHAPE, CONFIG).eval()
    assert not torch.equal(other(xb), model(xb))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(xb), model(xb))


def test_an_image_encoder_without_fusion_is_refused() -> None:
    table = TabularEncoder(1, (), hidden=(), out_dim=4, dropout=0.0)
    with pytest.raises(ConfigError, match="give both or neither"):
        MixedInputModel(table, model_of(SHAPE).image, None, outputs=1)


def test_a_backbone_is_frozen_exactly_if_it_has_trained_weights() -> None:
    assert is_frozen(ModelConfig())
    assert not is_frozen(ModelConfig(freeze_backbone=False))
    assert not is_frozen(ModelConfig(backbone="small_resnet"))
    with pytest.raises(ConfigError, match="small_resnet has random initial weights"):
        is_frozen(ModelConfig(backbone="small_resnet", freeze_backbone=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.0}, r"dropout must be at least 0 and below 1, got 1\.0"),
        ({"image_dropout": -0.1}, r"image_dropout must be at least 0 and below 1, got -0\.1"),
        ({"encoding_dim": 0}, "encoding_dim and every width of tabular_hidden must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **settings)  # type: ignore[arg-type]
