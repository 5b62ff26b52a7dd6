"""MixUp and CutMix: every input of a row is mixed with the same partner and the same share."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from mixfit.config import ModelConfig
from mixfit.data.batch import Batch, Inputs, concatenate
from mixfit.data.transforms.mix import BatchMix, CutMix, MixUp, choose_partners
from mixfit.data.transforms.transform import Compose
from mixfit.errors import ConfigError
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.nn.tabular import TabularEncoder
from mixfit.seeding import RowRandom
from mixfit.training.loss import cross_entropy, mse

ROWS, PHOTOS, CLASSES, SIDE = 8, 2, 3, 32
# Both, one, another, none; so that partners with and without a photo meet in every way.
MASK = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1], [0, 0], [1, 0], [1, 1]]).bool()

COLUMN = torch.arange(2).expand(8, 2).where(MASK, 0)
NO_PHOTOS = ("table", "text")


def batch(kind: str = "uint8", *, classes: bool = False, weight: bool = False) -> Batch:
    """``kind``: uint8 or float pixels, features, table, or text: a table with texts; where there is none is NaN."""
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (ROWS, PHOTOS, 3, SIDE, SIDE), dtype=torch.uint8, generator=g)
    target = torch.arange(ROWS) % CLASSES if classes else torch.randn(ROWS, generator=g)
    xb = Inputs(
        numeric=torch.randn(ROWS, 3, generator=g),
        categorical=torch.randint(0, 4, (ROWS, 2), generator=g),
        rows=torch.arange(ROWS) + 50,
        images=pixels if kind == "uint8" else pixels.float() / 255 if kind == "float" else None,
        features=torch.randn(ROWS, PHOTOS, 128, generator=g) if kind == "features" else None,
        image_mask=None if kind in NO_PHOTOS else MASK,
        image_column=None if kind in NO_PHOTOS else COLUMN,
        weight=torch.rand(ROWS, generator=g) + 0.1 if weight else None,
    )
    if kind == "text":
        text = torch.randn(ROWS, 2, 5, generator=g)
        xb = replace(xb, text=text.masked_fill(~MASK[:, :, None], torch.nan), text_mask=MASK)
    return xb, target


def network(kind: str, *, outputs: int = 1) -> MixedInputModel:
    torch.manual_seed(1)
    config = ModelConfig(backbone="small_resnet", tabular="mlp", numbers="plain", tabular_hidden=(8,), encoding_dim=6)
    shape = ModelShape(numeric=3, cardinalities=(4, 4), photos=kind not in NO_PHOTOS, outputs=outputs)
    if kind == "text":
        shape = replace(shape, text_columns=2, text_width=5)
    model = make_model(shape, config).eval()
    if model.text is not None:
        nn.init.normal_(model.text.no_text)
    if model.image is not None:
        nn.init.normal_(model.image.pool.no_photo)  # zero would hide what rows without photo get
    return model


PARTNER = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
MIXES: list[tuple[Callable[..., BatchMix], str]] = [
    (MixUp, "uint8"),
    (MixUp, "float"),
    (MixUp, "features"),
    (MixUp, "table"),
    (MixUp, "text"),
    (CutMix, "uint8"),
    (CutMix, "float"),
]


def mixed(make: Callable[..., BatchMix], given: Batch, share: float | Tensor, *, classes: int | None = None) -> Batch:
    mix = make(classes=classes)
    shares = share if isinstance(share, Tensor) else torch.full((ROWS,), share)
    return mix.mix(given, PARTNER, shares, torch.full((ROWS, mix.draws), 0.3, dtype=torch.float64))


@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize(("make", "kind"), MIXES)
def test_a_share_of_one_is_the_row_itself_and_zero_is_the_partner(
    make: Callable[..., BatchMix], kind: str, classes: int | None, weight: bool
) -> None:
    (xb, yb), model = batch(kind, classes=bool(classes), weight=weight), network(kind, outputs=classes or 1)
    loss = cross_entropy if classes else mse
    with torch.inference_mode():
        plain, partners = model(xb), model(xb[PARTNER])
        for share, outputs, inputs, target in ((1.0, plain, xb, yb), (0.0, partners, xb[PARTNER], yb[PARTNER])):
            own, soft = mixed(make, (xb, yb), share, classes=classes)
            torch.testing.assert_close(model(own), outputs, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(
                loss(model(own), soft, own.weight), loss(outputs, target, inputs.weight), atol=1e-6, rtol=1e-6
            )


@pytest.mark.parametrize(("make", "kind"), MIXES)
def test_every_input_is_mixed_with_the_same_share(make: Callable[..., BatchMix], kind: str) -> None:
    """The first known mistake mixes labels but not the table: here numbers, levels and target all have one share."""
    xb, yb = batch(kind)
    done, soft = mixed(make, (xb, yb), torch.linspace(0.1, 0.9, ROWS))
    assert done.mix is not None
    share = done.mix.share
    assert share.shape == (ROWS,), "the second gives a weight shaped like a picture to every input"
    torch.testing.assert_close(done.numeric, share[:, None] * xb.numeric + (1 - share[:, None]) * xb.numeric[PARTNER])
    torch.testing.assert_close(soft, share * yb + (1 - share) * yb[PARTNER])
    assert torch.equal(done.mix.categorical, xb.categorical[PARTNER])
    assert torch.equal(done.categorical, xb.categorical)
    assert not torch.equal(done.numeric, xb.numeric)
    assert done.categorical.shape == xb.categorical.shape


def test_embeddings_are_blended_and_the_linear_network_commutes_with_mixup() -> None:
    torch.manual_seed(0)
    linear = TabularEncoder(3, (4, 4), hidden=(), out_dim=5, dropout=0.0)
    for embedding in linear.columns.categories:
        nn.init.normal_(embedding.weight)
    xb, yb = batch("table")
    share = torch.linspace(0, 1, ROWS)
    done, _ = mixed(MixUp, (xb, yb), share)
    encoded = linear(xb.numeric, xb.categorical)
    expected = share[:, None] * encoded + (1 - share[:, None]) * encoded[PARTNER]
    torch.testing.assert_close(linear(done.numeric, done.categorical, done.mix), expected)
    numbers_alone = linear(done.numeric, done.categorical)
    assert not torch.allclose(numbers_alone, expected, atol=1e-2), "levels left unmixed would show"


def test_the_encodings_of_texts_are_blended_also_where_only_one_of_the_two_rows_has_a_text() -> None:
    """Their weight in the row is its share, whichever columns of the two rows have a text."""
    encoder = network("text").text
    assert encoder is not None
    (xb, yb), share = batch("text"), torch.linspace(0, 1, ROWS)
    assert xb.text is not None
    encoded = encoder(xb.text, MASK)
    for partner in (PARTNER, PARTNER.roll(1), PARTNER.roll(3)):
        done, _ = MixUp().mix((xb, yb), partner, share, torch.zeros(ROWS, 0, dtype=torch.float64))
        assert done.text is not None
        assert done.text_mask is not None
        ours = encoder(done.text, done.text_mask, done.mix)
        torch.testing.assert_close(ours, share[:, None] * encoded + (1 - share[:, None]) * encoded[partner])


@pytest.mark.parametrize("kind", ["float", "uint8", "features"])
def test_a_linear_image_network_commutes_with_mixup_however_many_photos_each_row_has(kind: str) -> None:
    """The row's photos count with its share, no more and no less; so does the target."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.AvgPool2d(SIDE // 4), nn.Flatten(), nn.Linear(48, 128))
    ends = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    encoder = ImageEncoder(backbone, 128, out_dim=128, dropout=0.0, frozen=False, **ends)  # type: ignore[arg-type]
    encoder.project = nn.Identity()  # type: ignore[assignment]
    nn.init.normal_(encoder.pool.no_photo)
    xb, yb = batch(kind)
    share = torch.linspace(0.1, 0.9, ROWS)
    encoded = encoder(xb.images, xb.features, MASK)
    for partner in (PARTNER, PARTNER.roll(1), PARTNER.roll(3), torch.tensor([4, 6, 2, 5, 7, 3, 1, 0])):
        done, _ = MixUp().mix((xb, yb), partner, share, torch.zeros(ROWS, 0, dtype=torch.float64))
        assert done.image_mask is not None
        ours = encoder(done.images, done.features, done.image_mask, done.mix)
        expected = share[:, None] * encoded + (1 - share[:, None]) * encoded[partner]
        # uint8 pixels are rounded to whole numbers after blending.
        torch.testing.assert_close(ours, expected, atol=0.02 if kind == "uint8" else 1e-5, rtol=1e-4)


@pytest.mark.parametrize(("make", "kind"), [(make, kind) for make, kind in MIXES if kind not in NO_PHOTOS])
def test_photos_in_other_places_than_the_partners_stay_whole_and_count_with_their_share(
    make: Callable[..., BatchMix], kind: str
) -> None:
    xb, yb = batch(kind)
    done, _ = mixed(make, (xb, yb), 0.25)
    before = xb.images if kind != "features" else xb.features
    after = done.images if kind != "features" else done.features
    assert before is not None
    assert after is not None
    assert done.image_mask is not None
    assert done.mix is not None
    assert done.mix.image_mask is not None
    differ = (MASK[PARTNER] != MASK).any(1)
    assert differ.tolist() == [True, True, True, True, True, True, True, False]
    assert torch.equal(after[differ][done.image_mask[differ]], before[differ][MASK[differ]])
    assert torch.equal(after[differ][done.mix.image_mask[differ]], before[PARTNER][differ][MASK[PARTNER][differ]])
    assert torch.equal(done.mix.image_mask[~differ], done.image_mask[~differ])
    assert not torch.equal(after[~differ][:, :PHOTOS], before[~differ])
    model = network(kind)
    assert model.image is not None
    encoder = model.image.eval()
    share = done.mix.share[:, None]
    with torch.inference_mode():
        pooled = encoder(done.images, done.features, done.image_mask, done.mix)
        alone = encoder(xb.images, xb.features, MASK)
    expected = share * alone + (1 - share) * alone[PARTNER]
    torch.testing.assert_close(pooled[differ], expected[differ], atol=1e-5, rtol=1e-5)


def test_rows_that_are_not_mixed_carry_no_photos_of_their_partners() -> None:
    xb, yb = batch("float")
    done, _ = mixed(MixUp, (xb, yb), 1.0)
    assert done.images is not None
    assert xb.images is not None
    assert torch.equal(done.images[MASK], xb.images[MASK])
    assert done.images.shape == xb.images.shape


@pytest.mark.parametrize("make", [MixUp, CutMix])
def test_absent_photos_neither_darken_nor_spoil(make: Callable[..., BatchMix]) -> None:
    """What stands in masked places is arbitrary, NaN included, and reaches no photo."""
    xb, yb = batch("float")
    assert xb.images is not None
    spoiled = xb.images.clone()
    spoiled[~MASK] = torch.nan
    share = torch.linspace(0.1, 0.9, ROWS)
    done, _ = mixed(make, (replace(xb, images=spoiled), yb), share)
    clean, _ = mixed(make, (xb, yb), share)
    assert done.images is not None
    assert clean.images is not None
    assert done.image_mask is not None
    assert done.mix is not None
    assert done.mix.image_mask is not None
    either = done.image_mask | done.mix.image_mask
    assert torch.equal(done.images[either], clean.images[either])
    model = network("float")
    with torch.inference_mode():
        assert model(done).isfinite().all()
        torch.testing.assert_close(model(done), model(clean))


def test_cutmix_uses_the_area_that_is_really_kept() -> None:
    xb, yb = batch("uint8")
    white = torch.full_like(xb.images, 255)  # type: ignore[arg-type]
    white[::2] = 0
    xb = replace(xb, images=white, image_mask=torch.ones(ROWS, PHOTOS, dtype=torch.bool), image_column=None)
    done, soft = CutMix()((xb, yb), RowRandom(0, 0, xb.rows))
    assert done.mix is not None
    assert done.images is not None
    partner = choose_partners(RowRandom(0, 0, xb.rows).uniform(5)[:, 0])
    differs = (white[:, 0, 0, 0, 0] != white[partner][:, 0, 0, 0, 0]).nonzero()[:, 0]
    assert len(differs) >= 2
    kept = (done.images == white).float().mean((1, 2, 3, 4))
    torch.testing.assert_close(done.mix.share[differs], kept[differs])
    torch.testing.assert_close(soft, done.mix.share * yb + (1 - done.mix.share) * yb[partner])
    torch.testing.assert_close(
        done.numeric, done.mix.share[:, None] * xb.numeric + (1 - done.mix.share[:, None]) * xb.numeric[partner]
    )
    # Each pixel comes whole from one of the two, and the rectangle is the same in all photos of a row.
    assert set(done.images.unique().tolist()) == {0, 255}
    assert torch.equal(done.images[:, :1, :1].expand_as(done.images), done.images)


@pytest.mark.parametrize("weight", [False, True])
def test_soft_classes_cost_what_the_weighted_sum_of_both_losses_costs(weight: bool) -> None:
    xb, yb = batch("table", classes=True, weight=weight)
    share = torch.linspace(0, 1, ROWS)
    done, soft = mixed(MixUp, (xb, yb), share, classes=CLASSES)
    logits = torch.randn(ROWS, CLASSES)
    own = torch.ones(ROWS) if xb.weight is None else xb.weight
    ours, theirs = share * own, (1 - share) * own[PARTNER]
    each = nn.functional.cross_entropy(logits, yb, reduction="none")
    others = nn.functional.cross_entropy(logits, yb[PARTNER], reduction="none")
    expected = (ours * each + theirs * others).sum() / ROWS
    torch.testing.assert_close(cross_entropy(logits, soft, done.weight), expected)
    torch.testing.assert_close(soft.sum(1), torch.ones(ROWS))


def test_mixed_numbers_have_the_gradient_of_the_weighted_sum_of_both_losses() -> None:
    xb, yb = batch("table", weight=True)
    share = torch.linspace(0, 1, ROWS)
    done, soft = mixed(MixUp, (xb, yb), share)
    assert xb.weight is not None
    prediction = torch.randn(ROWS, requires_grad=True)
    ours, theirs = share * xb.weight, (1 - share) * xb.weight[PARTNER]
    both = (ours * (prediction - yb) ** 2 + theirs * (prediction - yb[PARTNER]) ** 2).sum() / ROWS
    (expected,) = torch.autograd.grad(both, prediction)
    (found,) = torch.autograd.grad(mse(prediction, soft, done.weight), prediction)
    torch.testing.assert_close(found, expected)


def test_a_row_of_weight_zero_teaches_nothing_through_its_partner() -> None:
    xb, yb = batch("table", weight=True)
    assert xb.weight is not None
    xb.weight[2] = xb.weight[5] = xb.weight[6] = 0
    yb[[2, 5, 6]] = 1e6
    _, soft = mixed(MixUp, (xb, yb), 0.5)
    assert soft[1] == yb[1], "partner of weight 0"
    assert soft[2] == yb[3], "own weight 0"
    assert soft.isfinite().all(), "both of weight 0"


@pytest.mark.parametrize(("make", "kind"), MIXES)
def test_mixing_depends_on_seed_epoch_and_rows_alone(make: Callable[..., BatchMix], kind: str) -> None:
    xb, yb = batch(kind)
    before = {name: tensor.clone() for name in ("numeric", "images") if (tensor := getattr(xb, name)) is not None}
    first, target = make()((xb, yb), RowRandom(3, 1, xb.rows))
    order = torch.tensor([4, 2, 7, 0, 1, 6, 5, 3])
    turned, turned_target = make()((xb[order], yb[order]), RowRandom(3, 1, xb.rows[order]))
    torch.testing.assert_close(turned_target, target[order])
    assert_equal(turned, first[order])
    for name, tensor in before.items():
        assert torch.equal(getattr(xb, name), tensor), "the given batch is not written to"
    other, _ = make()((xb, yb), RowRandom(3, 2, xb.rows))
    assert other.mix is not None
    assert first.mix is not None
    assert not torch.equal(other.mix.share, first.mix.share)


def assert_equal(first: Inputs, second: Inputs) -> None:
    for name in ("numeric", "categorical", "images", "features", "image_mask", "image_column"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None and b is None) or torch.equal(a, b), name
    assert first.mix is not None
    assert second.mix is not None
    a, b = first.mix.image_mask, second.mix.image_mask
    assert (a is None and b is None) or torch.equal(a, b)  # type: ignore[arg-type]
    assert torch.equal(first.mix.share, second.mix.share)
    assert torch.equal(first.mix.categorical, second.mix.categorical)


def test_a_mixed_batch_carries_the_image_columns_of_both_rows() -> None:
    xb, yb = batch()
    every_other = torch.arange(16).reshape(8, 2).where(MASK, 0)
    xb = replace(xb, image_column=every_other)
    done, _ = MixUp().mix((xb, yb), PARTNER, torch.full((ROWS,), 0.5), torch.zeros(ROWS, 0, dtype=torch.float64))
    assert done.mix is not None
    assert done.image_mask is not None
    assert done.image_column is not None
    assert done.mix.image_mask is not None
    for row in range(ROWS):
        own, partners = done.image_mask[row], done.mix.image_mask[row]
        assert done.image_column[row][own].tolist() == every_other[row][MASK[row]].tolist()
        assert done.image_column[row][partners].tolist() == every_other[PARTNER[row]][MASK[PARTNER[row]]].tolist()
        assert not (own & partners).any()  # photos of other columns are not blended place by place


@pytest.mark.parametrize(("make", "kind"), MIXES)
def test_probability_zero_gives_the_unmixed_outputs(make: Callable[..., BatchMix], kind: str) -> None:
    (xb, yb), model = batch(kind), network(kind)
    done, target = make(p=0.0)((xb, yb), RowRandom(0, 0, xb.rows))
    assert torch.equal(target, yb)
    with torch.inference_mode():
        assert torch.equal(model(done), model(xb))


def test_rows_can_be_taken_out_of_a_mixed_batch_and_moved() -> None:
    (xb, yb), model = batch("uint8"), network("uint8")
    done, _ = MixUp(1.0)((xb, yb), RowRandom(0, 0, xb.rows))
    with torch.inference_mode():
        torch.testing.assert_close(model(done[[5, 2]]), model(done)[[5, 2]], atol=1e-5, rtol=1e-5)
    moved = done.to("meta")
    assert moved.mix is not None
    assert moved.mix.share.device.type == moved.mix.categorical.device.type == "meta"
    texts, _ = MixUp(1.0)(batch("text"), RowRandom(0, 0, xb.rows))
    reader = network("text")
    with torch.inference_mode():
        torch.testing.assert_close(reader(texts[[5, 2]]), reader(texts)[[5, 2]])
    moved = texts.to("meta")
    assert {name: tensor.device.type for name, tensor in moved.tensors().items()}["text_mask"] == "meta"
    assert moved.mix is not None
    assert moved.mix.text is not None
    assert moved.mix.text.device.type == "meta"
    with pytest.raises(ConfigError, match="Concatenate batches before they are mixed"):
        concatenate([done, done])


def test_rows_without_any_photo_and_a_batch_of_one_can_be_mixed() -> None:
    xb, yb = batch("uint8")
    assert xb.images is not None
    none = replace(xb, images=xb.images[:, :0], image_mask=MASK[:, :0], image_column=COLUMN[:, :0])
    model = network("uint8")
    for make in (MixUp, CutMix):
        done, _ = make()((none, yb), RowRandom(0, 0, xb.rows))
        with torch.inference_mode():
            assert model(done).isfinite().all()
        alone, target = make()((xb[[4]], yb[[4]]), RowRandom(0, 0, xb.rows[[4]]))
        torch.testing.assert_close(target, yb[[4]])
        with torch.inference_mode():
            torch.testing.assert_close(model(alone), model(xb[[4]]), atol=1e-5, rtol=1e-5)
        empty, _ = make()((xb[[]], yb[:0]), RowRandom(0, 0, xb.rows[:0]))
        assert len(empty) == 0


def test_partners_go_round_in_one_circle() -> None:
    partner = choose_partners(RowRandom(0, 0, torch.arange(9)).uniform()[:, 0])
    assert sorted(partner.tolist()) == list(range(9))
    at, seen = 0, []
    for _ in range(9):
        at = int(partner[at])
        seen.append(at)
    assert sorted(seen) == list(range(9))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    rows = torch.arange(4000)
    xb = Inputs(numeric=torch.zeros(4000, 1), categorical=torch.zeros(4000, 0, dtype=torch.int64), rows=rows)
    done, _ = MixUp(alpha)((xb, torch.zeros(4000)), RowRandom(1, 0, rows))
    assert done.mix is not None
    assert stats.kstest(done.mix.share.numpy().astype(np.float64), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_gradients_reach_both_embeddings() -> None:
    (xb, yb), model = batch("features"), network("features").train()
    done, target = mixed(MixUp, (xb, yb), 0.5)
    mse(model(done), target).backward()
    used = set(xb.categorical[:, 0].tolist())
    gradient = model.tabular.columns.categories[0].weight.grad
    assert isinstance(gradient, Tensor)
    assert set(gradient.abs().sum(1).nonzero()[:, 0].tolist()) == used


def test_mixing_is_for_training_and_happens_once() -> None:
    given = batch("uint8")
    assert Compose([MixUp(), CutMix()]).for_prediction().transforms == ()
    with pytest.raises(ConfigError, match="already mixed"):
        Compose([MixUp(), CutMix()])(given, RowRandom(0, 0, given[0].rows))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"alpha must be above 0, got 0\.0"):
        MixUp(0.0)
    with pytest.raises(ConfigError, match=r"p must be between 0 and 1, got 2\.0"):
        CutMix(p=2.0)
    random = RowRandom(0, 0, torch.arange(ROWS))
    with pytest.raises(ConfigError, match=r"classes=None, but the target has dtype torch\.int64: set classes="):
        MixUp()(batch(classes=True), random)
    with pytest.raises(ConfigError, match=r"MixUp was created with classes=3, but the target has dtype torch\.float32"):
        MixUp(classes=3)(batch(), random)
    for kind in ("features", "table"):
        with pytest.raises(ConfigError, match="CutMix needs pixels, but this batch has none: use MixUp"):
            CutMix()(batch(kind), random)
