"""What all transforms of pixels promise, and each one against an independent reference."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from mixfit.config import ModelConfig
from mixfit.data.batch import Batch, Inputs, concatenate
from mixfit.data.transforms.augment import (
    OPERATIONS,
    ColorJitter,
    RandomAffine,
    RandomErasing,
    RandomResizedCrop,
    TrivialAugment,
    apply_operations,
    augmentation,
    recolour,
)
from mixfit.data.transforms.mix import MixUp
from mixfit.data.transforms.transform import Compose, Normalize, RandomHorizontalFlip, Transform
from mixfit.errors import ConfigError
from mixfit.nn.build import ModelShape, make_model
from mixfit.seeding import RowRandom

Maker = Callable[[float], Transform]
PIXEL: dict[str, Maker] = {
    "flip": lambda p: RandomHorizontalFlip(p),
    "crop": lambda p: RandomResizedCrop(p=p),
    "affine": lambda p: RandomAffine(30.0, (0.2, 0.1), (0.7, 1.4), 20.0, p=p),
    "jitter": lambda p: ColorJitter(0.5, 0.5, 0.5, 0.3, p=p),
    "erasing": lambda p: RandomErasing(p=p),
    "trivial": lambda p: TrivialAugment(p),
    "all": lambda p: Compose([make(p) for name, make in PIXEL.items() if name != "all"]),
}
TRAIN_ONLY = [make(1.0) for name, make in PIXEL.items() if name != "all"]
HEIGHT, WIDTH = 42, 28


def batch(rows: int = 12, photos: int = 3, *, dtype: torch.dtype = torch.uint8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (rows, photos, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)
    mask = torch.rand(rows, photos, generator=generator) < 0.7
    xb = Inputs(
        numeric=torch.zeros(rows, 1),
        categorical=torch.zeros(rows, 0, dtype=torch.int64),
        rows=torch.arange(rows) * 7 + 3,
        images=images if dtype == torch.uint8 else images.float() / 255,
        image_mask=mask,
    )
    return xb, torch.arange(float(rows))


def images_of(xb: Inputs) -> Tensor:
    assert xb.images is not None
    return xb.images


def run(transform: Transform, given: Batch, *, seed: int = 0, epoch: int = 0) -> Inputs:
    xb, yb = transform(given, RowRandom(seed, epoch, given[0].rows))
    assert torch.equal(yb, given[1])
    return xb


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", PIXEL)
def test_a_row_comes_out_alike_whatever_its_neighbours_are(name: str, dtype: torch.dtype) -> None:
    transform, (xb, yb) = PIXEL[name](0.6), batch(dtype=dtype)
    whole = images_of(run(transform, (xb, yb)))
    for chosen in ([0], [5, 2], [11, 3, 3, 0, 7, 9]):
        part = images_of(run(transform, (xb[chosen], yb[chosen])))
        assert torch.equal(part, whole[chosen]), chosen
    # More places for photos, as a neighbour with more photos brings them, change nothing either.
    padded = concatenate([xb, batch(rows=1, photos=5, dtype=dtype)[0]])
    wider = images_of(run(transform, (padded, torch.zeros(13))))[:12, :3]
    assert torch.equal(wider[xb.image_mask], whole[xb.image_mask])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", PIXEL)
def test_type_size_and_range_stay_and_something_changes(name: str, dtype: torch.dtype) -> None:
    xb, yb = batch(rows=40, dtype=dtype)
    before = images_of(xb).clone()
    changed = run(PIXEL[name](1.0), (xb, yb))
    after = images_of(changed)
    assert torch.equal(images_of(xb), before), "the given batch is not written to"
    assert after.dtype == dtype
    assert after.shape == before.shape
    if dtype == torch.float32:
        assert 0 <= after.min() <= after.max() <= 1
    rows_changed = (after != before).flatten(1).any(1) | ~xb.image_mask.any(1)  # type: ignore[union-attr]
    assert rows_changed.float().mean() > 0.7, "TrivialAugment leaves some rows alone"
    for field in ("numeric", "categorical", "rows", "image_mask"):
        assert torch.equal(getattr(changed, field), getattr(xb, field))


@pytest.mark.parametrize("name", [name for name in PIXEL if name not in ("flip", "all")])
def test_masked_places_are_not_touched(name: str) -> None:
    xb, yb = batch(dtype=torch.float32)
    images = images_of(xb).clone()
    images[~xb.image_mask] = torch.nan  # type: ignore[index]
    after = images_of(run(PIXEL[name](1.0), (replace(xb, images=images), yb)))
    assert after[~xb.image_mask].isnan().all()  # type: ignore[index]
    assert torch.equal(after[xb.image_mask], images_of(run(PIXEL[name](1.0), (xb, yb)))[xb.image_mask])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", PIXEL)
def test_probability_zero_changes_nothing(name: str, dtype: torch.dtype) -> None:
    given = batch(dtype=dtype)
    assert torch.equal(images_of(run(PIXEL[name](0.0), given)), images_of(given[0]))


@pytest.mark.parametrize("name", PIXEL)
def test_the_same_draws_give_the_same_bytes_and_other_epochs_others(name: str) -> None:
    transform, given = PIXEL[name](0.5), batch()
    first = images_of(run(transform, given, seed=1, epoch=4))
    assert torch.equal(first, images_of(run(transform, given, seed=1, epoch=4)))
    assert not torch.equal(first, images_of(run(transform, given, seed=1, epoch=5)))
    assert not torch.equal(first, images_of(run(transform, given, seed=2, epoch=4)))


@pytest.mark.parametrize("name", PIXEL)
def test_about_the_asked_share_of_rows_changes(name: str) -> None:
    if name == "all":
        pytest.skip("several chances")
    xb, yb = batch(rows=300, photos=1)
    after = images_of(run(PIXEL[name](0.3), (xb, yb)))
    share = (after != images_of(xb)).flatten(1).any(1)[xb.image_mask.any(1)].float().mean()  # type: ignore[union-attr]
    assert 0.2 < share < 0.4


@pytest.mark.parametrize("name", PIXEL)
def test_batches_without_photos_pass(name: str) -> None:
    transform, (xb, yb) = PIXEL[name](1.0), batch(rows=4)
    nothing = replace(xb, images=images_of(xb)[:, :0], image_mask=torch.ones(4, 0, dtype=torch.bool))
    assert images_of(run(transform, (nothing, yb))).shape == (4, 0, 3, HEIGHT, WIDTH)
    table = replace(xb, images=None, image_mask=None)
    assert run(transform, (table, yb)) is table
    features = replace(xb, images=None, features=torch.randn(4, 3, 5))
    assert run(transform, (features, yb)) is features
    empty = xb[[]]
    assert len(run(transform, (empty, yb[:0]))) == 0


@pytest.mark.parametrize("transform", TRAIN_ONLY, ids=lambda transform: type(transform).__name__)
def test_augmentation_is_for_training_only(transform: Transform) -> None:
    assert transform.train_only
    assert Compose([transform]).for_prediction().transforms == ()


@pytest.mark.parametrize("transform", TRAIN_ONLY, ids=lambda transform: type(transform).__name__)
def test_augmentation_after_normalize_or_mixup_is_refused(transform: Transform) -> None:
    given = batch()
    with pytest.raises(ConfigError, match=r"must come before Normalize\."):
        run(Compose([Normalize((0.5,) * 3, (0.2,) * 3), transform]), given)
    with pytest.raises(ConfigError, match="must come before MixUp and CutMix"):
        Compose([MixUp(), transform])(given, RowRandom(0, 0, given[0].rows))


def test_wrong_settings_are_refused() -> None:
    wrong: list[tuple[Callable[[], Transform], str]] = [
        (lambda: RandomErasing(p=-0.1), "p must be between 0 and 1, got -0.1"),
        (lambda: RandomResizedCrop(scale=(0.9, 0.5)), "scale must be two increasing numbers of at least 0"),
        (lambda: RandomResizedCrop(scale=(0.5, 2.0)), r"scale must lie in \(0, 1\] and ratio above 0"),
        (lambda: RandomAffine(degrees=-1.0), "degrees and translate must be at least 0"),
        (lambda: RandomAffine(shear=90.0), "shear from 0 to below 90"),
        (lambda: ColorJitter(hue=0.6), "hue from 0 to 0.5"),
        (lambda: RandomErasing(scale=(0.5, 1.5)), "scale must be at most 1"),
        (lambda: RandomErasing(value=300.0), "value from 0 to 255"),
        (lambda: Normalize((0.5, 0.5), (1.0, 1.0)), "three numbers each"),
        (lambda: Normalize((0.5,) * 3, (1.0, 0.0, 1.0)), "std above 0"),
    ]
    for make, message in wrong:
        with pytest.raises(ConfigError, match=message):
            make()


def smooth(rows: int = 2, photos: int = 2) -> Tensor:
    """Photos that bilinear sampling at slightly other places changes little, float 0..255."""
    coarse = torch.rand(rows * photos, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 255
    fine = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear", align_corners=True)
    return fine.unflatten(0, (rows, photos))


def uniform(*values: float, rows: int = 2) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).expand(rows, -1)


@pytest.mark.parametrize("angle", [0.0, 17.0, -30.0])
@pytest.mark.parametrize("moved", [(0, 0), (3, -2)])
@pytest.mark.parametrize("scale", [1.0, 0.8])
@pytest.mark.parametrize("shear", [0.0, 12.0])
def test_affine_equals_torchvisions(angle: float, moved: tuple[int, int], scale: float, shear: float) -> None:
    pixels = smooth()
    affine = RandomAffine(40.0, (0.5, 0.5), (scale, scale), 40.0, padding="zeros")
    draws = [(1 + angle / 40) / 2, 0.5 + moved[0] / WIDTH, 0.5 + moved[1] / HEIGHT, 0.0, (1 + shear / 40) / 2]
    ours = affine.change(pixels, uniform(*draws))
    theirs = tv.affine(
        pixels.flatten(0, 1),
        angle,
        translate=list(moved),
        scale=scale,
        shear=[shear, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    ).unflatten(0, (2, 2))
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=1e-4)


def test_a_crop_equals_the_stretched_rectangle() -> None:
    pixels = smooth()
    crop = RandomResizedCrop(scale=(0.25, 0.25), ratio=(1.0, 1.0))
    # A quarter of the area at the photo's own shape is half of each side: 14 columns and 21 lines are free.
    ours = crop.change(pixels, uniform(0.0, 0.0, 3 / 14, 10 / 21))
    theirs = tv.resized_crop(pixels.flatten(0, 1), 10, 3, 21, 14, [HEIGHT, WIDTH], antialias=False)
    inner = (..., slice(2, -2), slice(2, -2))  # at the rim torchvision does not look beyond the rectangle
    torch.testing.assert_close(ours[inner], theirs.unflatten(0, (2, 2))[inner], atol=0.02, rtol=1e-4)


def test_crops_have_the_asked_areas_and_shapes_and_lie_inside() -> None:
    """The photo holds its own coordinates, so the result tells where it was taken from."""
    side = 64
    ramp = (torch.arange(side) / (side - 1) * 255).expand(side, side)
    rows = 400
    pixels = torch.stack([ramp, ramp.T, torch.zeros(side, side)]).expand(rows, 1, 3, side, side)
    draws = RowRandom(0, 0, torch.arange(rows)).uniform(4)
    taken = RandomResizedCrop(scale=(0.3, 0.9), ratio=(0.75, 1.5)).change(pixels, draws)[:, 0] * (side - 1) / 255
    width, height = taken[:, 0, 0, -1] - taken[:, 0, 0, 0] + 1, taken[:, 1, -1, 0] - taken[:, 1, 0, 0] + 1
    area, ratio = width * height / side**2, width / height
    assert 0.27 < area.min() < 0.35
    assert 0.8 < area.max() < 0.93
    assert 0.72 < ratio.min() < 0.85
    assert 1.3 < ratio.max() < 1.55
    assert taken.min() >= 0
    assert taken.max() <= side - 1


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_brightness_contrast_and_saturation_equal_torchvisions(factor: float) -> None:
    pixels = images_of(batch(dtype=torch.float32)[0])
    for name, theirs in (
        ("brightness", tv.adjust_brightness),
        ("contrast", tv.adjust_contrast),
        ("saturation", tv.adjust_saturation),
    ):
        ours = recolour(pixels * 255, **{name: factor}) / 255
        # torchvision weighs red with 0.2989 rather than 0.299.
        torch.testing.assert_close(ours.clamp(0, 1), theirs(pixels, factor), atol=2e-4, rtol=0, msg=name)


def test_hue_turns_the_chroma_and_keeps_the_luma() -> None:
    pixels = images_of(batch(dtype=torch.float32)[0]) * 255
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    turned = recolour(pixels, hue=0.2)
    torch.testing.assert_close((turned * luma).sum(2), (pixels * luma).sum(2), atol=1e-2, rtol=0)
    torch.testing.assert_close(recolour(turned, hue=-0.2), pixels, atol=1e-2, rtol=0)
    assert (turned - pixels).abs().max() > 50
    opposite = recolour(pixels, hue=0.5)
    grey = (pixels * luma).sum(2, keepdim=True)
    torch.testing.assert_close(opposite - grey, grey - pixels, atol=1e-2, rtol=0)
    # A third of a turn takes red towards green, as in HSV.
    red = torch.tensor([200.0, 60.0, 60.0]).reshape(1, 1, 3, 1, 1)
    assert recolour(red, hue=1 / 3)[0, 0, :, 0, 0].argmax() == tv.adjust_hue(red[0] / 255, 1 / 3)[0, :, 0, 0].argmax()


def test_jitter_draws_from_the_asked_ranges() -> None:
    pixels = torch.full((2, 1, 3, 4, 4), 100.0)
    jitter = ColorJitter(brightness=0.4, contrast=0.0, saturation=0.0, hue=0.0)
    low, high = (jitter.change(pixels, uniform(u, 0.5, 0.5, 0.5)) for u in (0.0, 1.0))
    torch.testing.assert_close(low, pixels * 0.6, atol=1e-3, rtol=0)
    torch.testing.assert_close(high, pixels * 1.4, atol=1e-3, rtol=0)


def test_erasing_paints_one_rectangle_of_the_asked_area() -> None:
    rows = 300
    pixels = torch.zeros(rows, 2, 3, 50, 40)
    draws = RowRandom(0, 0, torch.arange(rows)).uniform(4)
    painted = RandomErasing(scale=(0.1, 0.3), ratio=(0.5, 2.0), value=77.0).change(pixels, draws) == 77
    assert torch.equal(painted[:, :1, :1].expand_as(painted), painted), "all photos and channels of a row alike"
    box = painted[:, 0, 0]
    columns, lines = box.any(1), box.any(2)
    assert torch.equal(box, columns[:, None, :] & lines[:, :, None]), "a rectangle"
    area = box.float().mean((1, 2))
    assert 0.08 < area.min() < 0.12
    assert 0.27 < area.max() < 0.33
    shape = (columns.sum(1) / 40) / (lines.sum(1) / 50)
    assert 0.45 < shape.min() < 0.65
    assert 1.6 < shape.max() < 2.2
    for edge in (columns[:, 0], columns[:, -1], lines[:, 0], lines[:, -1]):
        assert edge.any(), "every place is reached, the borders too"


REFERENCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda x, _: x,
    "sharpness": lambda x, s: tv.adjust_sharpness(x, 1 + 0.99 * s),
    "posterize": lambda x, s: tv.posterize(x, 8 - round(6 * abs(s))),
    "solarize": lambda x, s: tv.solarize(x, 255 * (1 - abs(s))),
    "auto_contrast": lambda x, _: tv.autocontrast(x),
    "equalize": lambda x, _: tv.equalize(x),
    "brightness": lambda x, s: tv.adjust_brightness(x, 1 + 0.99 * s),
    "saturation": lambda x, s: tv.adjust_saturation(x, 1 + 0.99 * s),
    "contrast": lambda x, s: tv.adjust_contrast(x, 1 + 0.99 * s),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_operations_by_value_equal_torchvisions(name: str, strength: float) -> None:
    pixels = smooth().round()
    for sign in (-1, 1):
        strengths = torch.full((2,), strength, dtype=torch.float64)
        ours = apply_operations(pixels, torch.full((2,), OPERATIONS.index(name)), strengths, sign * strengths)
        theirs = REFERENCES[name](pixels.flatten(0, 1).to(torch.uint8), sign * strength).unflatten(0, (2, 2))
        # torchvision cuts off where ours rounds, twice for what depends on grey.
        assert (ours.clamp(0, 255).round() - theirs.float()).abs().max() <= 2


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
@pytest.mark.parametrize("signed", [-1.0, 0.5])
def test_operations_by_place_equal_torchvisions(name: str, signed: float) -> None:
    pixels = smooth()
    # torchvision's angles name the change of the photo, ours the place that a pixel is taken from: opposite signs.
    shear = math.degrees(math.atan(0.99 * -signed))
    angle, moved, shears = 0.0, [0, 0], [0.0, 0.0]
    match name:
        case "shear_x":
            shears = [-shear, 0.0]
        case "shear_y":
            shears = [0.0, -shear]
        case "translate_x":
            moved = [round(-signed * WIDTH / 7), 0]
        case "translate_y":
            moved = [0, round(-signed * HEIGHT / 7)]
        case "rotate":
            angle = signed * 135
    steps = torch.full((2,), signed, dtype=torch.float64)
    ours = apply_operations(pixels, torch.full((2,), OPERATIONS.index(name)), steps.abs(), steps)
    bilinear = InterpolationMode.BILINEAR
    theirs = tv.affine(pixels.flatten(0, 1), angle, moved, 1.0, shears, interpolation=bilinear).unflatten(0, (2, 2))
    assert (ours - theirs).abs().max() < 0.5


def test_every_operation_and_strength_is_drawn() -> None:
    draws = RowRandom(0, 0, torch.arange(20_000)).uniform(3)
    operations = np.bincount((draws[:, 0] * len(OPERATIONS)).long().numpy(), minlength=14)
    assert operations.min() > 20_000 / 14 * 0.85
    assert len(OPERATIONS) == 14


def test_normalize_gives_what_the_model_would_make_of_the_pixels() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for dtype in (torch.uint8, torch.float32):
        given = batch(dtype=dtype)
        done = run(Normalize(mean, std), given)
        pixels = tv.to_dtype(images_of(given[0]).flatten(0, 1), torch.float32, scale=True)
        theirs = tv.normalize(pixels, list(mean), list(std)).unflatten(0, (12, 3))
        assert done.normalized
        torch.testing.assert_close(images_of(done), theirs, atol=1e-5, rtol=1e-5)
        with pytest.raises(ConfigError, match="use Normalize only once"):
            run(Normalize(mean, std), (done, given[1]))
        assert done[[1, 2]].normalized, "rows taken out keep the mark"
        with pytest.raises(ConfigError, match="Concatenate batches before they are mixed or normalised"):
            concatenate([done, given[0]])
    assert not Normalize(mean, std).train_only


def test_a_normalised_batch_is_not_scaled_again_by_the_model() -> None:
    config = ModelConfig(backbone="small_resnet", numbers="plain", tabular_hidden=(4,), encoding_dim=4)
    torch.manual_seed(0)
    model = make_model(ModelShape(numeric=1, cardinalities=(), photos=True, outputs=1), config).eval()
    assert model.image is not None
    mean, std = (tuple(t.flatten().tolist()) for t in (model.image.pixel_mean, model.image.pixel_std))
    xb, yb = batch(rows=4)
    with torch.inference_mode():
        expected = model(xb)
        normalised = run(Normalize(mean, std), (xb, yb))
        torch.testing.assert_close(model(normalised), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(model(replace(normalised, normalized=False)), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["none", "flip", "standard", "trivial"])
def test_ready_made_lists_work_together(name: str) -> None:
    transforms = augmentation(name)  # type: ignore[arg-type]
    assert all(transform.train_only for transform in transforms)
    given = batch()
    after = images_of(run(Compose(transforms), given))
    assert torch.equal(after, images_of(given[0])) == (name == "none")
