"""The network that ``build_model`` chooses, and the loss of all that it predicts."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from mixfit.config import ModelConfig
from mixfit.data.load import MixedData, load_data
from mixfit.demo import DEMO_TARGET
from mixfit.errors import ConfigError
from mixfit.nn.build import with_sizes
from mixfit.nn.numbers import PiecewiseLinearEmbedding
from mixfit.nn.tabular import TabM
from mixfit.training.build import build_model, sized_for
from mixfit.training.learner import Learner
from mixfit.training.loss import PerMember, cross_entropy, mae, mse


@pytest.fixture(scope="module")
def data(demo_table: Path) -> MixedData:
    return load_data(demo_table, target=DEMO_TARGET, image_size=32, batch_size=16)


def table(rows: int, columns: int, classes: int = 0) -> MixedData:
    """Numbers alone, every second row of the first column higher."""
    drawn = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).numpy()
    frame = pd.DataFrame(drawn, columns=[f"x{i}" for i in range(columns)])
    frame["y"] = [f"class {i % classes}" for i in range(rows)] if classes else frame["x0"] * 3 + 1
    return load_data(frame, target="y")


def test_the_default_is_an_ensemble_over_piecewise_linear_numbers(data: MixedData) -> None:
    model = build_model(data, seed=0)
    assert isinstance(model.tabular, TabM)
    assert model.members == ModelConfig().members == 4
    numbers = model.tabular.columns.numbers
    assert isinstance(numbers, PiecewiseLinearEmbedding)
    low, high = data.arrays.numeric[data.split.train].aminmax(dim=0)
    for column, edges in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        left, width = numbers.encode.left[column], numbers.encode.width[column]
        count = numbers.encode.counts[column]
        ends = float(left[0]), float(left[count - 1] + width[count - 1])
        assert ends == pytest.approx(edges, abs=1e-5), "bins span the training rows alone"


def test_more_rows_get_a_wider_network_and_more_columns_narrower_embeddings() -> None:
    """The members of a TabM share narrow layers whatever the rows."""
    small, large = (with_sizes(ModelConfig(tabular="mlp"), rows=rows, numeric=3) for rows in (500, 50_000))
    assert small.tabular_hidden is not None
    assert large.tabular_hidden is not None
    assert sum(small.tabular_hidden) < sum(large.tabular_hidden)
    assert len({with_sizes(ModelConfig(), rows=rows, numeric=3).tabular_hidden for rows in (500, 50_000)}) == 1
    mlp = ModelConfig(tabular="mlp")
    widths = [with_sizes(mlp, rows=500, numeric=columns).number_width or 0 for columns in (0, 3, 64, 999)]
    assert widths == sorted(widths, reverse=True)
    assert widths[1] > widths[2] > widths[3] > 0
    assert sum(p.numel() for p in build_model(table(60, 300)).parameters()) < 3_000_000


def test_sizes_that_are_given_are_kept() -> None:
    given = ModelConfig(tabular_hidden=(7,), number_width=3, photo_stages=0)
    assert with_sizes(given, rows=10**6, numeric=500) == given
    found = sized_for(table(40, 2), given)
    assert (found.tabular_hidden, found.number_width) == ((7,), 3)
    assert with_sizes(found, rows=10**6, numeric=500) == found, "what is chosen once stays"


@pytest.mark.parametrize("field", ["bins", "number_width", "category_width"])
def test_impossible_sizes_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match="bins, number_width and category_width must be at least 1"):
        ModelConfig(**{field: 0})


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("tabular", ["mlp", "tabm"])
def test_every_prediction_of_a_row_is_judged_on_its_own(
    demo_table: Path, tabular: str, classes: int, *, auxiliary: bool
) -> None:
    target = DEMO_TARGET if not classes else "maker"
    data = load_data(demo_table, target=target, image_size=32, batch_size=16)
    config = ModelConfig(
        backbone="small_resnet", tabular=tabular, members=4, auxiliary_heads=auxiliary, tabular_hidden=(8,)
    )
    model, loss = build_model(data, config, seed=0), cross_entropy if classes else mse
    xb, yb = next(iter(data.train))
    outputs = model.train()(xb)
    several = outputs.ndim == (3 if classes else 2)
    assert several == (model.predictions_a_row > 1)
    assert not several or outputs.shape[1] == model.predictions_a_row
    chosen = Learner(model, data, loss=loss, device="cpu").loss
    by_hand = torch.stack([loss(outputs[:, i], yb) for i in range(outputs.shape[1])]).mean() if several else None
    torch.testing.assert_close(chosen(outputs, yb), loss(outputs, yb) if by_hand is None else by_hand)


def test_a_loss_for_members_is_taken_as_it_is(data: MixedData) -> None:
    loss = PerMember(mae, 1)
    assert Learner(build_model(data, seed=0), data, loss=loss).loss is loss
    flat = build_model(data, ModelConfig(tabular="mlp"), seed=0)
    assert Learner(flat, data, loss=mae).loss is mae
