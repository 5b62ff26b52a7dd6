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
    with pytest.raises(ConfigError, match=r"The model uses 1,100 columns, and each row would need more than 4,096 pre"):
        explain(wider, wide, rows=[0])


@pytest.mark.parametrize("columns", [1, 3, 5, 6, 9, 10, 11, 40, 100])
@pytest.mark.parametrize("most", [300, 1_024])
def test_the_predictions_for_a_row_can_be_limited(columns: int, most: int) -> None:
    count = affordable_background(columns, 16, most)
    plan = Plan.of(tuple(f"x{number}" for number in range(columns)), (), max(count, 1), seed=0, most=most)
    _, mixed_of = plan.mixture(0, 1, np.zeros((count, columns), dtype=bool))
    assert 0 < len(mixed_of) <= most
    assert plan.exact == (16 * (2**columns + 4) <= most)


def test_few_predictions_give_the_same_parts_but_for_their_errors() -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(60, 8)).round(3), columns=[f"x{number}" for number in range(8)])
    table["y"] = table["x0"] * table["x1"] + table["x2"]
    data = load_data(table, target="y")
    predictor = Predictor.from_training(build_model(data, seed=0), data)
    whole = explain(predictor, table, rows=[0, 1, 2], background=16)
    few = explain(predictor, table, rows=[0, 1, 2], background=16, most_predictions=400)
    assert (whole.exact, few.exact, few.background) == (True, False, 16)
    np.testing.assert_allclose(few.parts.sum(1), few.value - few.base, atol=1e-5)
    np.testing.assert_allclose(few.value, whole.value, atol=1e-6)
    assert (np.abs(few.parts - whole.parts) <= 5 * np.hypot(few.errors, whole.errors) + 1e-6).all()
    assert not np.allclose(few.parts, whole.parts)
    with pytest.raises(ConfigError, match=r"8 columns, and each row would need more than 20 predictions: raise"):
        explain(predictor, table, rows=[0], background=16, most_predictions=20)
