"""Explanations of many columns: the work for a row is bounded, by fewer background rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mixfit.data.load import load_data
from mixfit.errors import ConfigError
from mixfit.evaluation.explain import SAMPLED_ROWS, Plan, affordable_background, explain
from mixfit.predictor import Predictor
from mixfit.training.build import build_model


@pytest.mark.parametrize("columns", [11, 12, 61, 62, 100, 400, 1_021])
def test_a_row_needs_no_more_predictions_for_more_columns(columns: int) -> None:
    count = affordable_background(columns, 32)
    assert count == 32 if columns <= 61 else 2 <= count < 32
    plan = Plan.of(tuple(f"x{number}" for number in range(columns)), (), count, seed=0)
    mixture, mixed_of = plan.mixture(0, 1, np.zeros((count, columns), dtype=bool))
    assert mixture.cells.shape[1] == columns
    assert len(mixture.table_of) <= len(mixed_of) <= SAMPLED_ROWS
    another_pair_of_orders = 2 * (columns + 1) * count
    assert len(mixed_of) + another_pair_of_orders > SAMPLED_ROWS


def test_exact_explanations_have_all_their_background_rows() -> None:
    assert affordable_background(10, 5_000) == 5_000
    assert affordable_background(1_022, 32) == 1


def test_many_columns_are_explained_against_fewer_rows_and_a_thousand_are_too_many() -> None:
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(40, 110)).round(3), columns=[f"x{number}" for number in range(110)])
    wide["y"] = wide["x0"] + 0.01 * rng.normal(size=40)
    data = load_data(wide, target="y")
    predictor = Predictor.from_training(build_model(data, seed=0), data)
    found = explain(predictor, wide, rows=[0])
    assert (found.background, found.orders, found.exact) == (18, 2, False)
    np.testing.assert_allclose(found.parts.sum(1), found.value - found.base, atol=1e-5)
    columns = predictor.schema.columns * 10
    wider = replace(predictor, schema=replace(predictor.schema, columns=columns))
    with pytest.raises(ConfigError, match=r"The model sees 1,100 columns, and each row would need more than 4,096 pre"):
        explain(wider, wide, rows=[0])
