"""Texts in a network: the encoder, and models with a branch of texts over all fusions and networks of the table."""

import itertools
from dataclasses import asdict, replace
from typing import get_args

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from mixfit.choices import Fusion, Tabular
from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.data.load import MixedData, load_data
from mixfit.errors import ConfigError, DataError
from mixfit.files import from_plain
from mixfit.nn.build import ModelShape, make_model, make_saved_model
from mixfit.nn.fusion import for_members
from mixfit.nn.model import MixedInputModel
from mixfit.nn.tabular import TabularEncoder
from mixfit.nn.text import TextEncoder
from mixfit.training.build import build_model, model_shape, start_well

COLUMNS, WIDTH, ROWS = 3, 5, 7
MASK = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 0]]).bool()
SHAPE = ModelShape(
    numeric=2, cardinalities=(4,), photos=True, outputs=1, image_size=16, text_columns=COLUMNS, text_width=WIDTH
)
CONFIG = ModelConfig(
    backbone="small_resnet",
    numbers="plain",
    members=3,
    tabular_hidden=(8,),
    encoding_dim=6,
    dropout=0.0,
    image_dropout=0.0,
)
# The fusion of a model without photos is None.
every_model = pytest.mark.parametrize(
    ("fusion", "tabular"), list(itertools.product((*get_args(Fusion), None), get_args(Tabular)))
)


def texts() -> Tensor:
    return torch.randn(ROWS, COLUMNS, WIDTH, generator=torch.Generator().manual_seed(0))


def encoder(*, dropout: float = 0.0) -> TextEncoder:
    torch.manual_seed(0)
    made = TextEncoder(COLUMNS, WIDTH, out_dim=6, dropout=dropout)
    nn.init.normal_(made.no_text)
    nn.init.normal_(made.first.bias)
    return made.eval()


def shape_of(fusion: Fusion | None, shape: ModelShape = SHAPE) -> ModelShape:
    return replace(shape, photos=fusion is not None)


def model_of(
    fusion: Fusion | None, tabular: Tabular, shape: ModelShape = SHAPE, *, seed: int = 0, auxiliary: bool = False
) -> MixedInputModel:
    """All of whose weights count: what starts at 0 would hide an influence."""
    torch.manual_seed(seed)
    config = replace(CONFIG, fusion=fusion or "concat", tabular=tabular, auxiliary_heads=auxiliary)
    model = make_model(shape_of(fusion, shape), config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(fusion: Fusion | None, shape: ModelShape = SHAPE) -> Inputs:
    g = torch.Generator().manual_seed(1)
    table = Inputs(
        numeric=torch.randn(ROWS, shape.numeric, generator=g),
        categorical=torch.randint(0, 4, (ROWS, len(shape.cardinalities)), generator=g),
        rows=torch.arange(ROWS),
        text=texts(),
        text_mask=MASK,
    )
    if fusion is None:
        return table
    features = torch.randn(ROWS, 2, 128, generator=g)
    return replace(table, features=features, image_mask=torch.rand(ROWS, 2, generator=g) < 0.7)


def test_the_encoding_of_a_row_is_the_mean_over_its_texts() -> None:
    made, text = encoder(), texts()
    expected = []
    for row in range(ROWS):
        each = [text[row, c] @ made.first.weight[c] + made.first.bias[c] for c in range(COLUMNS) if MASK[row, c]]
        each = [x + made.block(x) for x in each]
        expected.append(torch.stack(each).mean(0) if each else made.no_text)
    torch.testing.assert_close(made(text, MASK), torch.stack(expected))


def test_the_same_text_in_another_column_is_another_text() -> None:
    made, text = encoder(), texts()[:1, :1].expand(COLUMNS, COLUMNS, -1)
    found = made(text, torch.eye(COLUMNS, dtype=torch.bool))
    for a, b in itertools.combinations(found, 2):
        assert not torch.allclose(a, b, atol=1e-2)
    with torch.no_grad():
        made.first.weight.copy_(made.first.weight[:1].expand_as(made.first.weight))
    found = made(text, torch.eye(COLUMNS, dtype=torch.bool))
    assert not torch.allclose(found[0], found[1], atol=1e-2), "the vectors of the columns differ"


def test_scaling_the_last_layers_scales_the_encoding() -> None:
    made, text = encoder(), texts()
    made.no_text.data.zero_()
    before = made(text, MASK)
    for layer in made.last_layers:
        layer.weight.data *= 2
        layer.bias.data *= 2
    torch.testing.assert_close(made(text, MASK), 2 * before, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("columns", "d"), [(0, 3), (2, 0)])
def test_an_encoder_of_nothing_is_refused(columns: int, d: int) -> None:
    with pytest.raises(ConfigError, match=f"needs at least 1 column and a width of at least 1, got {columns} and {d}"):
        TextEncoder(columns, d, out_dim=4, dropout=0.0)


@every_model
@pytest.mark.parametrize("table", [True, False])
def test_a_row_does_not_see_its_neighbours(fusion: Fusion | None, tabular: Tabular, table: bool) -> None:
    """Nor does it with texts alone."""
    shape = SHAPE if table else replace(SHAPE, numeric=0, cardinalities=())
    model, xb = model_of(fusion, tabular, shape).eval(), inputs(fusion, shape)
    with torch.inference_mode():
        together, alone = model(xb), torch.cat([model(xb[[row]]) for row in range(ROWS)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert len(together.unique()) == ROWS


@every_model
@pytest.mark.parametrize("auxiliary", [False, True])
def test_gradients_reach_every_parameter(fusion: Fusion | None, tabular: Tabular, auxiliary: bool) -> None:
    model, xb = model_of(fusion, tabular, auxiliary=auxiliary).train(), inputs(fusion)
    model(xb).square().sum().backward()
    missed = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in missed if not name.startswith("image.backbone.")] == []


@every_model
def test_forward_mixed_takes_the_texts_with_the_table(fusion: Fusion | None, tabular: Tabular) -> None:
    model, xb = model_of(fusion, tabular).eval(), inputs(fusion)
    table_of, photos_of = torch.tensor([0, 1, 5, 5, 2, 3]), torch.tensor([2, 1, 1, 4, 6, 0])
    tables = replace(xb, features=None, image_mask=None)
    galleries = replace(xb, text=None, text_mask=None, numeric=xb.numeric[:, :0], categorical=xb.categorical[:, :0])
    photos = galleries[photos_of]
    rows = replace(tables[table_of], features=photos.features, image_mask=photos.image_mask)
    with torch.inference_mode():
        found = model.forward_mixed(tables, galleries, table_of, photos_of, rows=4)
        torch.testing.assert_close(found, model(rows), atol=1e-5, rtol=1e-5)


@every_model
def test_a_saved_network_gives_the_same_bytes(fusion: Fusion | None, tabular: Tabular) -> None:
    model, xb = model_of(fusion, tabular).eval(), inputs(fusion)
    shape = from_plain(ModelShape, asdict(shape_of(fusion)), "the shape")
    config = replace(CONFIG, fusion=fusion or "concat", tabular=tabular)
    loaded = make_saved_model(shape, config, model.state_dict()).eval()
    assert torch.equal(loaded(xb), model(xb))
    assert not torch.equal(model_of(fusion, tabular, seed=1).eval()(xb), model(xb))


def test_the_tensors_of_a_network_without_texts_do_not_fit_one_with_texts() -> None:
    plain = make_model(replace(SHAPE, photos=False, text_columns=0, text_width=0), CONFIG)
    assert plain.text is None
    assert not any(name.startswith("text") for name in plain.state_dict())
    with pytest.raises(DataError, match=r"tensors of a network are missing and 0 are unexpected, the first: text\."):
        make_saved_model(replace(SHAPE, photos=False), CONFIG, plain.state_dict())
    with pytest.raises(DataError, match="needs at least 1 column and a width of at least 1, got 3 and 0"):
        make_saved_model(replace(SHAPE, photos=False, text_width=0), CONFIG, plain.state_dict())


def test_the_shape_of_a_network_saved_before_there_were_texts_is_one_without_texts() -> None:
    plain = {name: value for name, value in asdict(SHAPE).items() if not name.startswith("text")}
    assert from_plain(ModelShape, plain, "the shape") == replace(SHAPE, text_columns=0, text_width=0)


def test_a_model_without_texts_ignores_those_of_a_batch() -> None:
    model, xb = model_of("concat", "mlp", replace(SHAPE, text_columns=0, text_width=0)).eval(), inputs("concat")
    assert torch.equal(model(xb), model(replace(xb, text=None, text_mask=None)))


@pytest.mark.parametrize("missing", ["text", "text_mask"])
def test_texts_without_their_mask_are_refused(missing: str) -> None:
    model, xb = model_of(None, "mlp"), inputs(None)
    setattr(xb, missing, None)
    with pytest.raises(ConfigError, match="needs both text and text_mask, or neither"):
        model(xb)


@pytest.mark.parametrize("fusion", ["concat", None])
@pytest.mark.parametrize("tabular", get_args(Tabular))
def test_modality_dropout_takes_texts_and_photos_apart_in_training_only(
    fusion: Fusion | None, tabular: Tabular
) -> None:
    model, xb = model_of(fusion, tabular).train(), inputs(fusion)[1:]  # the first row has no text
    assert xb.text_mask is not None
    no_text = replace(xb, text=None, text_mask=None)
    kinds = [xb, no_text]
    if fusion is not None:
        assert xb.image_mask is not None
        xb.image_mask[:, 0] = True
        none = torch.zeros_like(xb.image_mask)
        kinds = [xb, no_text, replace(xb, image_mask=none), replace(no_text, image_mask=none)]
    outputs = [model(kind) for kind in kinds]
    model.modality_dropout = 0.5
    drawn = torch.stack([model(xb) for _ in range(40)])
    same = [torch.isclose(drawn, output, atol=1e-5).reshape(*drawn.shape[:2], -1).all(2) for output in outputs]
    is_kind = torch.stack(same)
    assert is_kind.any(0).all()
    assert ((is_kind.float().mean((1, 2)) - 1 / len(kinds)).abs() < 0.12).all()
    assert torch.equal(model.eval()(xb), model(xb))


def test_every_member_gets_the_texts_joined_to_its_own_vector() -> None:
    model, xb = model_of(None, "tabm").train(), inputs(None)
    assert model.text is not None
    assert model.text_fusion is not None
    table = model.tabular(xb.numeric, xb.categorical)
    encoded = model.text(xb.text, xb.text_mask)
    joined = torch.stack([model.text_fusion(table[:, k], encoded) for k in range(model.members)], dim=1)
    torch.testing.assert_close(model(xb), model.head(joined)[..., 0], atol=1e-5, rtol=1e-5)
    assert for_members(encoded, table).shape == (ROWS, 3, 6)


def test_the_summary_lists_the_layers_of_the_texts() -> None:
    model, xb = model_of(None, "mlp"), inputs(None)
    found = {line.name: line for line in model.summary(xb).layers}
    assert found["text.first"].shapes == f"({ROWS}, {COLUMNS}, 6)"
    assert found["text.first"].parameters == COLUMNS * (WIDTH + 1) * 6
    assert {"text.block.3", "text_fusion.wide", "head"} <= set(found)


def with_texts(rows: int = 60, *, columns: int = 1) -> MixedData:
    """A target that the texts alone tell."""
    g = torch.Generator().manual_seed(0)
    text, mask = torch.randn(rows, 2, 3, generator=g), torch.rand(rows, 2, generator=g) < 0.8
    frame = pd.DataFrame(torch.randn(rows, columns, generator=g).numpy(), columns=[f"x{i}" for i in range(columns)])
    frame["y"] = (text[:, 0, 0] * mask[:, 0] - text[:, 1, 2] * mask[:, 1]).numpy()
    data = load_data(frame, target="y", batch_size=16)
    return replace(data, arrays=replace(data.arrays, text=text, text_mask=mask))


def test_texts_of_the_data_reach_the_network() -> None:
    data = with_texts()
    shape = model_shape(data, CONFIG)
    assert (shape.text_columns, shape.text_width) == (2, 3)
    xb, _ = next(iter(data.valid))
    assert data.arrays.text is not None
    assert data.arrays.text_mask is not None
    assert torch.equal(xb.text, data.arrays.text[data.split.valid][: len(xb)])
    assert torch.equal(xb.text_mask, data.arrays.text_mask[data.split.valid][: len(xb)])


def test_a_network_learns_what_only_texts_tell() -> None:
    data = with_texts()
    model = build_model(data, replace(CONFIG, tabular="mlp"), seed=0).train()
    batches = [batch for _ in range(30) for batch in data.train]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for xb, yb in batches:
        loss = (model(xb) - yb).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.2 * sum(losses[:3])


def test_the_encoding_of_texts_is_scaled_with_that_of_the_table() -> None:
    data = with_texts()
    model = build_model(data, CONFIG, seed=0)
    scaled = start_well(model, data, scale=("branches",))
    assert [stage.name for stage in scaled] == ["table", "text"]
    assert all(abs(stage.std_after - 1) < 0.02 for stage in scaled)
    assert abs(scaled[1].std_before - 1) > 0.05


def test_an_own_table_encoder_takes_a_text_encoder() -> None:
    table = TabularEncoder(2, (4,), hidden=(), out_dim=4, dropout=0.0)
    model = MixedInputModel(table, None, None, outputs=3, text=TextEncoder(COLUMNS, WIDTH, out_dim=9, dropout=0.0))
    assert model(inputs(None)).shape == (ROWS, 3)
