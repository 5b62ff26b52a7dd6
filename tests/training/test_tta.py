from dataclasses import replace

import pytest
import torch

from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.data.transforms.mix import MixUp
from mixfit.data.transforms.transform import RandomHorizontalFlip
from mixfit.errors import ConfigError
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.model import MixedInputModel
from mixfit.training.tta import augmented_outputs


def inputs() -> Inputs:
    g = torch.Generator().manual_seed(0)
    return Inputs(
        numeric=torch.randn(6, 2, generator=g),
        categorical=torch.zeros(6, 0, dtype=torch.int64),
        rows=torch.arange(6) + 10,
        images=torch.randint(0, 256, (6, 2, 3, 32, 32), dtype=torch.uint8, generator=g),
        image_mask=torch.rand(6, 2, generator=g) < 0.7,
    )


def network() -> MixedInputModel:
    torch.manual_seed(0)
    config = ModelConfig(backbone="small_resnet", numbers="plain", tabular_hidden=(4,), encoding_dim=4)
    return make_model(ModelShape(numeric=2, cardinalities=(), photos=True, outputs=3), config).eval()


def test_the_first_version_is_plain_and_the_others_are_changed() -> None:
    model, xb = network(), inputs()
    assert xb.images is not None
    with torch.inference_mode():
        outputs = augmented_outputs(model, xb, [RandomHorizontalFlip(1.0)], copies=2)
        mirrored = model(replace(xb, images=xb.images.flip(-1)))
        assert outputs.shape == (3, 6, 3)
        assert torch.equal(outputs[0], model(xb))
        assert torch.equal(outputs[1], mirrored)
        assert torch.equal(outputs[2], mirrored)


def test_a_row_is_predicted_alike_wherever_it_stands() -> None:
    model, xb, flip = network(), inputs(), [RandomHorizontalFlip()]
    with torch.inference_mode():
        whole = augmented_outputs(model, xb, flip, copies=6)
        elsewhere = replace(xb[[4, 1]], rows=torch.tensor([0, 999]))
        torch.testing.assert_close(augmented_outputs(model, elsewhere, flip, copies=6), whole[:, [4, 1]])
        assert torch.equal(augmented_outputs(model, xb, flip, copies=6), whole)
        assert len({tuple(version.flatten().tolist()) for version in whole}) == 2, "plain and mirrored"


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be at least 0, got -1"):
        augmented_outputs(network(), inputs(), [], copies=-1)
    with pytest.raises(ConfigError, match="cannot mix rows: leave out MixUp and CutMix"):
        augmented_outputs(network(), inputs(), [MixUp()], copies=1)
