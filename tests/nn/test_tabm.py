"""TabM: the same weights give what the authors' package gives, and its members start as different views."""

from collections.abc import Iterator

import pytest
import rtdl_num_embeddings
import tabm as reference
import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.nn.numbers import LinearEmbedding, PiecewiseLinearEmbedding
from mixfit.nn.tabular import ScaledLinear, TabM, TabMVariant

CARDINALITIES = [4, 3]
MEMBERS, WIDTH, BLOCKS = 6, 16, 3
BINS = [torch.tensor([-1.0, 0.0, 0.4, 2.0]), torch.tensor([0.0, 0.5, 1.0, 3.0])]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """The reference makes its tensors in the default type."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def rows(count: int = 9) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 2), torch.stack([torch.arange(count) % levels for levels in CARDINALITIES], dim=1)


def both(variant: TabMVariant, *, embedded: bool) -> tuple[TabM, nn.Module]:
    """Ours and the reference with equal weights; the reference encodes categories one-hot."""
    bins = [edges.to(torch.get_default_dtype()) for edges in BINS]
    theirs = reference.TabM(
        n_num_features=2,
        cat_cardinalities=CARDINALITIES,
        d_out=None,
        num_embeddings=rtdl_num_embeddings.PiecewiseLinearEmbeddings(bins, 5, activation=False, version="B")
        if embedded
        else None,
        n_blocks=BLOCKS,
        d_block=WIDTH,
        dropout=0.1,
        k=MEMBERS,
        arch_type="tabm-mini" if variant == "mini" else "tabm",
        start_scaling_init="normal" if embedded else "random-signs",
    ).eval()
    numbers = PiecewiseLinearEmbedding(bins, 5) if embedded else None
    ours = TabM(
        2,
        CARDINALITIES,
        members=MEMBERS,
        blocks=BLOCKS,
        width=WIDTH,
        variant=variant,
        numbers=numbers,
        category_widths=CARDINALITIES,
    ).eval()
    for embedding, levels in zip(ours.columns.categories, CARDINALITIES, strict=True):
        assert isinstance(embedding, nn.Embedding)
        embedding.weight.data.copy_(torch.eye(levels))
    if numbers is not None and numbers.straight is not None:
        nn.init.normal_(theirs.num_module.linear.weight)
        numbers.linear.weight.data.copy_(theirs.num_module.linear.weight)
        numbers.straight.load_state_dict(theirs.num_module.linear0.state_dict())
    for ours_block, theirs_block in zip(ours.blocks, theirs.backbone.blocks, strict=True):
        renamed = {"r": "before", "s": "after"}
        for name, parameter in theirs_block[0].named_parameters():
            target = ours_block[0].get_parameter(renamed.get(name, name))  # type: ignore[index]
            assert target.shape == parameter.shape
            target.data.copy_(torch.randn_like(parameter) if name in "rs" else parameter)
            parameter.data.copy_(target)
    if ours.scale is not None:
        ours.scale.data.copy_(theirs.backbone.affine.weight)
    return ours, theirs


@pytest.mark.parametrize("variant", ["tabm", "mini"])
@pytest.mark.parametrize("embedded", [False, True])
def test_outputs_equal_the_reference(variant: TabMVariant, embedded: bool) -> None:
    ours, theirs = both(variant, embedded=embedded)
    numeric, categorical = rows()
    found = ours(numeric, categorical)
    assert found.shape == (9, MEMBERS, WIDTH)
    torch.testing.assert_close(found, theirs(numeric, categorical), atol=1e-12, rtol=0)
    assert found.std(1).max() > 1e-3, "members that all agree would hide mistakes"


@pytest.mark.parametrize("variant", ["tabm", "mini"])
def test_without_embeddings_the_first_scales_are_signs(variant: TabMVariant) -> None:
    ours = TabM(2, (), members=MEMBERS, blocks=2, width=WIDTH, variant=variant)
    scales = ours.scale if ours.scale is not None else ours.blocks[0][0].before  # type: ignore[index]
    assert set(scales.unique().tolist()) == {-1.0, 1.0}


def test_first_scales_are_one_number_a_column_and_all_later_ones_are_one() -> None:
    numbers = LinearEmbedding(2, 5, activation=False)
    model = TabM(2, CARDINALITIES, members=64, blocks=2, width=WIDTH, numbers=numbers, category_widths=(2, 3))
    first, second = (block[0] for block in model.blocks)  # type: ignore[index]
    assert isinstance(first, ScaledLinear)
    assert isinstance(second, ScaledLinear)
    for column in first.before.split([5, 5, 2, 3], dim=1):
        assert torch.equal(column, column[:, :1].expand_as(column))
    for column in first.before.T:
        assert abs((column < 0).sum() - 64 // 4) <= 1, "a quarter of the members sees the column with the other sign"
    assert 0.2 < first.before.abs().std() < 0.4
    assert len(first.before[:, 0].unique()) == 64
    for scales in (first.after, second.before, second.after):
        assert torch.equal(scales, torch.ones_like(scales))
    assert torch.equal(first.bias, first.bias[:1].expand_as(first.bias))


def test_members_differ_at_the_start_and_share_the_linear_path() -> None:
    numeric, categorical = rows()
    model = TabM(2, CARDINALITIES, members=MEMBERS, width=WIDTH, wide=True).eval()
    found = model(numeric, categorical)
    assert (found - found.mean(1, keepdim=True)).abs().amax((0, 2)).min() > 1e-3
    assert model.wide is not None
    without = TabM(2, CARDINALITIES, members=MEMBERS, width=WIDTH).eval()
    without.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "wide" not in name})
    path = model.wide(model.columns(numeric, categorical))
    torch.testing.assert_close(found - without(numeric, categorical), path[:, None].expand_as(found))


@pytest.mark.parametrize("settings", [{"members": 0}, {"blocks": 0}])
def test_an_empty_ensemble_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="members and blocks must be at least 1"):
        TabM(2, (), **settings)  # type: ignore[arg-type]
