"""Counts: losses and models against references, predictions that are never negative, and intervals of whole numbers."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import mean_poisson_deviance

from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import Facts
from mixfit.data.columns.infer import infer_schema, looks_like_counts
from mixfit.data.columns.target import CountTarget, target_from_dict
from mixfit.ensemble.blend import row_losses
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation.bootstrap import resampled
from mixfit.models.linear import POISSON_STRENGTHS, fit_poisson
from mixfit.models.trees import grow_trees
from mixfit.training.loss import poisson
from mixfit.training.metrics import DEVIANCE


def visits(seed: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    columns = random.normal(size=(rows, 3))
    rate = np.exp(0.3 + columns @ [0.5, -0.3, 0.0]) * random.gamma(3, 1 / 3, rows)
    return columns, random.poisson(rate).astype(np.float64)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_deviance_is_that_of_scikit_learn(seed: int) -> None:
    _, truth = visits(seed, 40)
    random = np.random.default_rng(seed)
    found, weight = random.uniform(0.1, 5, 40), random.uniform(0.1, 2, 40)
    assert DEVIANCE.value(truth, found) == pytest.approx(mean_poisson_deviance(truth, found))
    wanted = mean_poisson_deviance(truth, found, sample_weight=weight)
    assert DEVIANCE.value(truth, found, weight) == pytest.approx(wanted)
    quick = resampled(DEVIANCE, truth, found)
    assert quick is not None
    assert quick(weight[None])[0] == pytest.approx(wanted)
    assert row_losses(truth, np.log(found), counts=True).mean() == pytest.approx(mean_poisson_deviance(truth, found))


def test_the_loss_has_the_gradient_of_the_poisson_likelihood() -> None:
    prediction = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    target = torch.tensor([0.0, 3.0, 1.0])
    poisson(prediction, target).backward()
    torch.testing.assert_close(prediction.grad, (prediction.detach().exp() - target) / 3)
    assert torch.isfinite(poisson(torch.tensor([500.0]), torch.tensor([1.0])))
    with pytest.raises(ConfigError, match="poisson: prediction"):
        poisson(torch.zeros(3, 1), torch.zeros(3))


def test_a_poisson_regression_is_that_of_scikit_learn_at_its_penalty() -> None:
    columns, truth = visits(3)
    found = fit_poisson(columns, truth, seed=0)
    tried = [PoissonRegressor(alpha=one, max_iter=300).fit(columns, truth) for one in POISSON_STRENGTHS]
    assert any(np.allclose(found.weights[:, 0], one.coef_, atol=1e-3) for one in tried)
    np.testing.assert_allclose(found.weights[:, 0], [0.5, -0.3, 0.0], atol=0.2)
    assert (fit_poisson(columns, truth * 0, seed=0).predict(columns) < -10).all()


def test_trees_predict_logarithms_of_counts() -> None:
    columns, truth = visits(4)
    model = grow_trees(columns, truth / truth.mean(), levels=(), classes=0, counts=True, rounds=40)
    rates = np.exp(model.predict(columns))
    assert rates.mean() == pytest.approx(1.0, abs=0.1)
    assert DEVIANCE.value(truth, rates * truth.mean()) < DEVIANCE.value(truth, np.full(400, truth.mean()))


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, 60), min_size=3, max_size=40).filter(lambda found: len(set(found)) > 1))
def test_counts_come_back_and_predictions_are_above_0(values: list[int]) -> None:
    column = pd.Series(values, name="visits")
    target = CountTarget.fit(column)
    np.testing.assert_array_equal(target.decode_truth(target.encode(column)), values)
    found = target.decode(np.array([-1e6, -3.0, 0.0, 3.0, 1e6]))
    assert (found > 0).all()
    assert found.max() <= 10 * max(values)
    assert target_from_dict(target.to_dict()) == target


@settings(max_examples=40, deadline=None)
@given(low=st.floats(-3, 6), width=st.floats(0, 6))
def test_an_interval_of_whole_numbers_contains_the_same_counts(low: float, width: float) -> None:
    target = CountTarget(mean=2.0, largest=9.0)
    first, last = target.decode_interval(np.array([low]), np.array([low + width]))
    counts = np.arange(30)
    inside = (2 * low <= counts) & (counts <= 2 * (low + width))
    assert first[0] >= 0
    assert first[0] == int(first[0])
    assert last[0] == int(last[0])
    assert first[0] <= last[0]
    assert set(counts[inside]) <= set(counts[(first[0] <= counts) & (counts <= last[0])])


@pytest.mark.parametrize("cells", [[0, 1, -2, 3], [0, 1, 2.5, 3]])
def test_amounts_are_refused_as_counts(cells: list[float]) -> None:
    with pytest.raises(DataError, match=r"1 of 4 cells .* below 0 or not whole, the first in row 2; .*regression"):
        CountTarget.fit(pd.Series(cells, name="visits"))
    frame = pd.DataFrame({"x": np.arange(4), "visits": cells})
    with pytest.raises(ConfigError, match=r"1 of 4 cells .* below 0 or not whole"):
        infer_schema(frame, "visits", task="count")


def task_of(values: np.ndarray) -> tuple[str, str]:
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=len(values)), "y": values})
    schema = infer_schema(frame, "y")
    return schema.task, schema.task_reason + next(one.note for one in schema.columns if one.name == "y")


RANDOM = np.random.default_rng(8)
AMOUNTS = {
    "prices": RANDOM.lognormal(12, 0.5, 600).round(),
    "prices, some free": np.where(RANDOM.random(600) < 0.1, 0, RANDOM.lognormal(4, 1, 600).round()),
    "scores of an exam": np.where(
        RANDOM.random(600) < 0.04, RANDOM.integers(0, 5, 600), RANDOM.normal(60, 15, 600)
    ).round(),
    "ages": RANDOM.integers(0, 90, 600),
    "rings of a shell": RANDOM.integers(1, 29, 600),
    "differences": RANDOM.poisson(40, 600) - 30,
    "fractions": RANDOM.poisson(9, 600) / 2,
}


@pytest.mark.parametrize("name", AMOUNTS)
def test_other_whole_numbers_stay_amounts(name: str) -> None:
    assert task_of(AMOUNTS[name].astype(float))[0] == "regression"


def test_counts_of_different_rates_are_counts_and_the_reason_is_given() -> None:
    task, reason = task_of(RANDOM.poisson(RANDOM.gamma(1.2, 5, 800)).astype(float))
    assert task == "count"
    assert "zeros, variance" in reason
    assert "--task regression" in reason


def test_few_small_numbers_stay_classes_with_a_hint() -> None:
    task, said = task_of(RANDOM.poisson(2.0, 500).astype(float))
    assert task == "multiclass"
    assert "or a count: --task count" in said
    codes = Facts(Cells(pd.Series(np.repeat(np.arange(10), 50), name="digit")))
    assert looks_like_counts(codes) in (True, False)  # only a hint either way
    assert task_of(np.repeat(np.arange(10.0), 50))[0] == "multiclass"
