"""What holds for the heat of photos whatever the model, its encoders and its fusion; captum is the reference."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import timm
import torch
from captum.attr import LayerAttribution, LayerGradCam, Saliency
from model_cases import PHOTO_CASES, SIZE, Case, inputs, model_of
from torch import Tensor, nn

from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.errors import ConfigError
from mixfit.hooks.heat import _shares, grad_cam, input_gradients, last_feature_map, pixel_heat
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.model import MixedInputModel
from mixfit.nn.stages import PlaceStatistics

every_model_of_photos = pytest.mark.parametrize("case", PHOTO_CASES, ids=str)
Heat = Callable[[nn.Module, Inputs], Tensor]
HEATS: dict[str, Heat] = {"grad_cam": partial(grad_cam, direction="both"), "gradients": input_gradients}
both_ways = pytest.mark.parametrize("heat_of", HEATS.values(), ids=HEATS)


def pixels_for(case: Case, rows: int = 5, photos: int = 3) -> Inputs:
    """Rows with pixels, also for a model that was trained on the features of its frozen encoder."""
    xb = inputs(case, rows=rows, photos=photos)
    generator = torch.Generator().manual_seed(1)
    return replace(xb, features=None, images=torch.rand(rows, photos, 3, SIZE, SIZE, generator=generator))


def at_photos(xb: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    assert xb.images is not None
    assert xb.image_mask is not None
    assert xb.image_column is not None
    return replace(
        xb,
        images=function(xb.images),
        image_mask=function(xb.image_mask),
        image_column=function(xb.image_column),
    )


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@every_model_of_photos
def test_heat_is_in_0_to_1_and_nowhere_but_in_photos_that_are_there(case: Case) -> None:
    model, xb = model_of(case).eval(), pixels_for(case)
    mask = xb.image_mask
    assert mask is not None
    heat = grad_cam(model, xb, direction="both")
    assert heat.shape == (5, 3, SIZE, SIZE)
    assert heat.min() == 0.0
    assert not heat[~mask].any()
    close(heat.amax((1, 2, 3)), mask.any(1).float())  # the hottest place of every row that has a photo
    gradients = input_gradients(model, xb)
    assert gradients.shape == (5, 3, 3, SIZE, SIZE)
    assert not gradients[~mask].any()
    assert gradients[mask].flatten(1).any(1).all()
    close(pixel_heat(gradients).amax((1, 2, 3)), mask.any(1).float())


@every_model_of_photos
@both_ways
def test_what_stands_in_places_without_photo_does_not_matter(case: Case, heat_of: Heat) -> None:
    model, xb = model_of(case).eval(), pixels_for(case)
    assert xb.images is not None
    assert xb.image_mask is not None
    spoiled = xb.images.clone()
    spoiled[~xb.image_mask] = torch.nan
    found = heat_of(model, replace(xb, images=spoiled))
    assert found.isfinite().all()
    close(found, heat_of(model, xb))


@every_model_of_photos
@both_ways
def test_heat_goes_with_its_photo(case: Case, heat_of: Heat) -> None:
    model, xb = model_of(case).eval(), pixels_for(case)
    order = [2, 0, 1]
    close(heat_of(model, at_photos(xb, lambda tensor: tensor[:, order])), heat_of(model, xb)[:, order])


@every_model_of_photos
@both_ways
def test_rows_do_not_see_each_other(case: Case, heat_of: Heat) -> None:
    model, xb = model_of(case).eval(), pixels_for(case)
    together = heat_of(model, xb)
    close(together, torch.cat([heat_of(model, xb[[row]]) for row in range(5)]))
    with_photos = together[1:]
    assert not torch.allclose(with_photos[0], with_photos[1], atol=1e-3), "rows that look alike would hide mistakes"


@every_model_of_photos
def test_grad_cam_of_single_photos_is_that_of_captum(case: Case) -> None:
    model, xb = model_of(case).eval(), pixels_for(case, rows=4, photos=1)
    xb = at_photos(replace(xb, image_mask=torch.ones(4, 1, dtype=torch.bool)), lambda tensor: tensor)
    classes = None if case.outputs == 1 else torch.tensor([0, 1, 2, 1])
    assert_as_captum(model, xb, classes)


def assert_as_captum(model: MixedInputModel, xb: Inputs, target: Tensor | None) -> None:
    """For rows that have one photo each."""
    layer = last_feature_map(model, xb)
    images = xb.images
    assert images is not None

    def predict(images: Tensor) -> Tensor:
        return model(replace(xb, images=images))

    images = images.clone().requires_grad_()
    reference = LayerGradCam(predict, model.get_submodule(layer))
    signed = reference.attribute(images, target=target).detach()
    assert signed.shape[2:].numel() > 1
    for direction, kept in (("up", signed.relu()), ("down", (-signed).relu()), ("both", signed.abs())):
        expected = LayerAttribution.interpolate(kept, images.shape[3:], "bilinear")
        highest = expected.amax((1, 2, 3), keepdim=True)
        expected = torch.where(highest > 0, expected / highest, 0.0)
        found = grad_cam(model, xb, layer, target, direction=direction)  # type: ignore[arg-type]
        if model.image.statistics is None:
            torch.testing.assert_close(grad_cam(model, xb, target=target, direction=direction), found)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    expected = Saliency(predict).attribute(images, target=target, abs=False)
    torch.testing.assert_close(input_gradients(model, xb, target), expected, atol=1e-6, rtol=1e-5)


def test_shares_of_places_add_up_to_the_effect_of_means_and_deviations() -> None:
    maps = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    found = PlaceStatistics()(maps)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    close(_shares(maps, slope).mean((1, 2)), (slope * found).sum(1))


def test_what_an_early_stage_alone_tells_has_heat_where_it_sees_it() -> None:
    """The output is the deviation of a stage, which is large where the left half of the photo is noisy."""
    torch.manual_seed(0)
    model, xb = photo_model("small_resnet", 64, photo_stages=3)
    first = 128 + 32  # the deviations of the first stage, after its means
    with torch.no_grad():
        model.image.project = nn.Linear(model.image.num_features, model.image.out_dim)
        model.image.project.weight.zero_()
        model.image.project.weight[:, first : first + 32] = 1.0
    images = torch.full((2, 1, 3, 64, 64), 0.5)
    images[..., :32] = torch.rand(2, 1, 3, 64, 32)
    heat = grad_cam(model, replace(xb, images=images), direction="both")
    assert heat[..., :28].mean() > 3 * heat[..., 36:].mean()


def photo_model(backbone: str, size: int, **settings: Any) -> tuple[MixedInputModel, Inputs]:
    torch.manual_seed(0)
    shape = ModelShape(numeric=2, cardinalities=(), photos=True, outputs=3, image_size=size)
    model = make_model(
        shape, ModelConfig(backbone=backbone, tabular="mlp", numbers="plain", encoding_dim=8, **settings)
    )
    rows = 2
    return model.eval(), Inputs(
        numeric=torch.randn(rows, 2),
        categorical=torch.zeros(rows, 0, dtype=torch.int64),
        rows=torch.arange(rows),
        images=torch.rand(rows, 1, 3, size, size),
        image_mask=torch.ones(rows, 1, dtype=torch.bool),
    )


CONVOLUTIONAL = {
    "tf_efficientnet_lite0": 64,
    "test_resnet": 96,
    "test_efficientnet": 96,
    "test_convnext": 96,
    "test_nfnet": 96,
    "test_byobnet": 96,
}


@pytest.mark.parametrize("backbone", CONVOLUTIONAL)
def test_any_convolutional_backbone_of_timm(backbone: str) -> None:
    model, xb = photo_model(backbone, CONVOLUTIONAL[backbone])
    assert_as_captum(model, xb, torch.tensor([2, 0]))


def test_a_frozen_backbone_has_the_heat_of_one_that_learns() -> None:
    model, xb = photo_model("tf_efficientnet_lite0", 64)
    assert model.image is not None
    assert model.image.frozen
    learning = copy.deepcopy(model)
    assert learning.image is not None
    learning.image.requires_grad_(requires_grad=True)
    for heat_of in HEATS.values():
        found = heat_of(model, xb)
        assert found.any()
        close(found, heat_of(learning, xb))


@pytest.mark.parametrize(
    ("backbone", "size", "layer"),
    [
        ("test_vit", 160, "image.backbone.blocks.5.attn.qkv"),
        ("test_mambaout", 160, "image.backbone.stages"),
        ("swin_tiny_patch4_window7_224", 224, "image.backbone.norm"),
    ],
)
def test_layers_whose_channels_come_last_have_heat(backbone: str, size: int, layer: str) -> None:
    """Tokens of a transformer, and maps of (photos, height, width, channels).

    The expected map is put together here from the layer's own output and gradient."""
    model, xb = photo_model(backbone, size)
    assert last_feature_map(model, xb) == layer
    kept: list[Tensor] = []
    with model.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: kept.append(output)):
        y = model(replace(xb, images=xb.images.clone().requires_grad_()))  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(y[:, 1].sum(), kept[0])
    first = model.image.backbone.num_prefix_tokens if backbone == "test_vit" else 0  # type: ignore[union-attr]
    output, gradient = (t[:, first:].flatten(1, -2).detach() for t in (kept[0], gradient))
    cam = (output * gradient.mean(1, keepdim=True)).sum(2).relu()
    side = round(cam.shape[1] ** 0.5)
    coarse = cam.reshape(2, 1, side, side)
    expected = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    close(grad_cam(model, xb, target=1), expected / expected.amax((1, 2, 3), keepdim=True))


def state_of(model: nn.Module) -> list[Any]:
    modules = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()
    ]
    return [*modules, *((p.requires_grad, p.grad) for p in model.parameters())]


class BrokenError(Exception):
    """Raised on purpose."""


@pytest.mark.parametrize("case", PHOTO_CASES[:3], ids=str)
@pytest.mark.parametrize("failing", ["", "fusion", "image.backbone.blocks.4"])
@pytest.mark.parametrize("method", ["grad_cam", "plain", "smooth", "integrated"])
def test_modes_gradients_and_hooks_are_left_as_they_were(case: Case, failing: str, method: str) -> None:
    model, xb = model_of(case).train(), pixels_for(case)
    next(model.fusion.children()).eval()  # type: ignore[union-attr]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    handle = None
    if failing:

        def fail(*_: object) -> None:
            raise BrokenError

        handle = model.get_submodule(failing).register_forward_hook(fail)
    before, random = state_of(model), torch.get_rng_state()
    run: Callable[[], Tensor] = (
        (lambda: grad_cam(model, xb))
        if method == "grad_cam"
        else lambda: input_gradients(model, xb, method=method, samples=2)  # type: ignore[arg-type]
    )
    if failing:
        with pytest.raises(BrokenError):
            run()
    else:
        found = run()
        assert found.any()
        assert not found.requires_grad
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert xb.images is not None
    assert not xb.images.requires_grad
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert torch.is_grad_enabled()
    if handle is not None:
        handle.remove()


@pytest.mark.parametrize("case", PHOTO_CASES[:4], ids=str)
def test_heat_is_taken_inside_no_grad_too(case: Case) -> None:
    model, xb = model_of(case).eval(), pixels_for(case)
    expected = grad_cam(model, xb)
    with torch.no_grad():
        close(grad_cam(model, xb), expected)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("case", PHOTO_CASES[:3], ids=str)
def test_integrated_gradients_add_up_to_what_the_photos_make_of_the_output(case: Case) -> None:
    model, xb = model_of(case).eval(), pixels_for(case)
    assert xb.images is not None
    assert xb.image_mask is not None
    target = None if case.outputs == 1 else 1
    found = input_gradients(model, xb, target, method="integrated", samples=100)
    grey = replace(xb, images=torch.full_like(xb.images, 0.5))
    with torch.no_grad():
        difference = model(xb) - model(grey)
    difference = difference if target is None else difference[:, target]
    torch.testing.assert_close(found.sum((1, 2, 3, 4)), difference, atol=0.02 * float(difference.abs().max()), rtol=0)
    assert not found[~xb.image_mask].any()
    assert difference[1:].abs().min() > 0


@pytest.mark.parametrize("case", PHOTO_CASES[:2], ids=str)
def test_smooth_gradients_come_from_their_seed(case: Case) -> None:
    model, xb = model_of(case).eval(), pixels_for(case)
    once, again, other = (input_gradients(model, xb, method="smooth", samples=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.allclose(once, other)
    assert not torch.allclose(once, input_gradients(model, xb))


def test_the_predicted_class_is_explained_unless_another_is_wanted() -> None:
    case = next(case for case in PHOTO_CASES if case.outputs == 3)
    model, xb = model_of(case).eval(), pixels_for(case)
    with torch.no_grad():
        best = model(xb).argmax(1)
    for heat_of in (grad_cam, input_gradients):
        found = heat_of(model, xb)
        close(found, heat_of(model, xb, target=best))
        assert not torch.allclose(found, heat_of(model, xb, target=(best + 1) % 3), atol=1e-3)
        close(heat_of(model, xb, target=2), heat_of(model, xb, target=torch.full((5,), 2)))


def test_rows_without_any_photo_have_no_heat() -> None:
    case = PHOTO_CASES[0]
    model, xb = model_of(case).eval(), pixels_for(case)
    assert xb.image_mask is not None
    masked = replace(xb, image_mask=torch.zeros_like(xb.image_mask))
    no_place = at_photos(xb, lambda tensor: tensor[:, :0])
    no_field = replace(xb, images=None, image_mask=None, image_column=None)
    for heat_of in (grad_cam, input_gradients):
        assert not heat_of(model, masked).any()
        assert heat_of(model, masked).shape[:2] == (5, 3)
        assert heat_of(model, no_place).shape[:2] == (5, 0)
        assert heat_of(model, no_field).shape[:2] == (5, 0)
    assert pixel_heat(input_gradients(model, no_place)).shape == (5, 0, SIZE, SIZE)


def test_bytes_and_normalised_pixels_give_the_same_heat_as_floats() -> None:
    case = next(case for case in PHOTO_CASES if case.outputs == 3)
    model, xb = model_of(case).eval(), pixels_for(case)
    assert xb.images is not None
    assert model.image is not None
    raw = (xb.images * 255).round().to(torch.uint8)
    as_bytes, as_floats = replace(xb, images=raw), replace(xb, images=raw / 255)
    scaled = replace(xb, images=(raw / 255 - model.image.pixel_mean) / model.image.pixel_std, normalized=True)
    expected = grad_cam(model, as_floats)
    close(grad_cam(model, as_bytes), expected)
    close(grad_cam(model, scaled), expected)
    assert torch.equal(raw, as_bytes.images)  # type: ignore[arg-type]


def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    number = next(case for case in PHOTO_CASES if case.outputs == 1)
    classes = next(case for case in PHOTO_CASES if case.outputs == 3)
    model, xb = model_of(classes).eval(), pixels_for(classes)
    with pytest.raises(ConfigError, match=r"The target must be a class from 0 to 2, got 3\."):
        grad_cam(model, xb, target=3)
    with pytest.raises(ConfigError, match=r"The model predicts a number, which has no classes: omit the target\."):
        input_gradients(model_of(number), pixels_for(number), target=0)
    with pytest.raises(ConfigError, match=r"has no layer 'image\.backbone\.block'\. Did you mean 'image\.backbone"):
        grad_cam(model, xb, "image.backbone.block")
    with pytest.raises(ConfigError, match=r"The output of the layer image\.project is not a feature map: choose a lay"):
        grad_cam(model, xb, "image.project")
    features = replace(xb, images=None, features=torch.zeros(5, 3, 128))
    with pytest.raises(
        ConfigError, match="has features of the photos instead of pixels, and features have no location"
    ):
        grad_cam(model, features)
    with pytest.raises(ConfigError, match="The model has no image encoder"):
        grad_cam(nn.Linear(1, 1), xb)
    with pytest.raises(ConfigError, match="None of the rows has a photo"):
        last_feature_map(model, xb[[0]])
    monkeypatch.setitem(__import__("sys").modules, "captum", None)
    with pytest.raises(
        ConfigError, match=r"smooth needs captum: pip install mixfit\[explain\], or use the method plain"
    ):
        input_gradients(model, xb, method="smooth")
    assert grad_cam(model, xb).any(), "Grad-CAM needs nothing that is not there"


def test_an_encoder_without_places_is_told() -> None:
    case = PHOTO_CASES[0]
    model, xb = model_of(case).eval(), pixels_for(case)
    assert model.image is not None
    model.image.backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, model.image.num_features))
    with pytest.raises(ConfigError, match="No layer output of the image encoder has spatial dimensions"):
        grad_cam(model, xb)
    assert input_gradients(model, xb).any()


def test_a_layer_that_is_changed_in_place_afterwards_keeps_its_own_output() -> None:
    """A convolution before ``nn.ReLU(inplace=True)``: the heat is made of what the convolution gave."""

    class InPlace(nn.Module):
        def __init__(self, *, inplace: bool) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 128, 3, stride=4), nn.ReLU(inplace=inplace)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.conv(x)).mean((2, 3))

    case = next(case for case in PHOTO_CASES if case.photos == "pixels" and not case.photo_stages)
    xb, found = pixels_for(case), []
    for inplace in (True, False):
        model = model_of(case).eval()
        assert model.image is not None
        torch.manual_seed(0)
        model.image.backbone = InPlace(inplace=inplace)
        found.append(grad_cam(model, xb, "image.backbone.conv", direction="both"))
    assert torch.equal(*found)
    assert found[0].any()


def test_timm_still_has_the_small_models() -> None:
    assert set(timm.list_models("test_*")) >= {name for name in CONVOLUTIONAL if name.startswith("test_")}
