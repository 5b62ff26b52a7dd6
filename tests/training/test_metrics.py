import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mixfit.errors import ConfigError
from mixfit.training.metrics import (
    AUC,
    BALANCED_ACCURACY,
    CLASSIFICATION_METRICS,
    LOG_LOSS,
    MAPE,
    R2,
    R2_LOG,
    REGRESSION_METRICS,
    Metric,
    evaluate,
)

drawn = settings(deadline=None, max_examples=20)
SEEDS = st.integers(0, 2**32)


def classes_of(rng: np.random.Generator, classes: int, rows: int) -> np.ndarray:
    """Class numbers, every class among them."""
    return rng.permutation(np.concatenate([np.arange(classes), rng.integers(0, classes, rows)]))


@drawn
@given(seed=SEEDS, classes=st.integers(3, 8), rows=st.integers(1, 200))
def test_classification_equals_scikit_learn(seed: int, classes: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    truth = classes_of(rng, classes, rows)
    probabilities = rng.dirichlet(np.ones(classes), len(truth))
    found = evaluate(CLASSIFICATION_METRICS, truth, probabilities)
    label, every = probabilities.argmax(1), range(classes)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, label))
    assert found["balanced_accuracy"] == pytest.approx(sk.recall_score(truth, label, labels=every, average="macro"))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, label, average="macro"))
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, probabilities))
    assert found["auc"] == pytest.approx(sk.roc_auc_score(truth, probabilities, multi_class="ovr"))


@drawn
@given(seed=SEEDS, classes=st.integers(2, 8), rows=st.integers(1, 200))
def test_weighted_metrics_of_classes_equal_scikit_learns(seed: int, classes: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    truth = classes_of(rng, classes, rows)
    weight = rng.uniform(0.1, 9, len(truth))
    probabilities = rng.dirichlet(np.ones(classes), len(truth)).round(1) + 0.01
    probabilities /= probabilities.sum(1, keepdims=True)
    found, label = evaluate(CLASSIFICATION_METRICS, truth, probabilities, weight), probabilities.argmax(1)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, label, sample_weight=weight))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, label, sample_weight=weight))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, label, average="macro", sample_weight=weight))
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, probabilities, sample_weight=weight))
    each = [sk.roc_auc_score(truth == c, probabilities[:, c], sample_weight=weight) for c in range(classes)]
    assert found["auc"] == pytest.approx(np.mean(each))


@pytest.mark.parametrize("function", [lambda truth, prediction: 1.0, sk.accuracy_score], ids=["two", "by keyword"])
def test_a_metric_that_takes_no_weights_is_refused_where_rows_have_some(function: Callable[..., float]) -> None:
    own = Metric("own", function, higher_is_better=True)
    assert own.value(np.ones(2), np.ones(2)) == 1
    with pytest.raises(
        ConfigError, match=r"the metric 'own' does not accept weights, but the rows have some: .* weight=None"
    ):
        evaluate([own], np.ones(2), np.ones(2), np.ones(2))


@drawn
@given(seed=SEEDS, classes=st.integers(2, 60), rows=st.integers(1, 150))
def test_auc_equals_scikit_learns_also_with_ties(seed: int, classes: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    truth = classes_of(rng, classes, rows)
    probabilities = rng.dirichlet(np.ones(classes), len(truth)).round(1)
    columns = [1] if classes == 2 else range(classes)
    expected = np.mean([sk.roc_auc_score(truth == label, probabilities[:, label]) for label in columns])
    assert AUC.function(truth, probabilities) == pytest.approx(expected, abs=1e-12)


@drawn
@given(seed=SEEDS, rows=st.integers(2, 200), spread=st.floats(0.1, 3))
def test_regression_equals_scikit_learn(seed: int, rows: int, spread: float) -> None:
    truth, prediction = np.random.default_rng(seed).lognormal(sigma=spread, size=(2, rows))
    found = evaluate((*REGRESSION_METRICS, R2_LOG), truth, prediction)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, prediction))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, prediction))
    assert found["r2"] == pytest.approx(sk.r2_score(truth, prediction))
    assert found["mape"] == pytest.approx(sk.mean_absolute_percentage_error(truth, prediction))
    assert found["r2_log"] == pytest.approx(sk.r2_score(np.log(truth), np.log(prediction)))


def test_what_cannot_be_computed_is_nan() -> None:
    one = np.zeros(3, dtype=np.int64)
    assert math.isnan(AUC.function(one, np.full((3, 2), 0.5)))
    assert math.isnan(R2.function(np.ones(3), np.zeros(3)))
    assert math.isnan(MAPE.function(np.array([0.0, 1.0]), np.ones(2)))
    assert math.isnan(R2_LOG.function(np.array([1.0, 2.0]), np.array([-1.0, 1.0])))
    nothing = evaluate(REGRESSION_METRICS, np.zeros(0), np.zeros(0))
    assert all(math.isnan(value) for value in nothing.values())


def test_classes_that_do_not_occur_are_left_out() -> None:
    truth = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.9, 0.0]])
    assert BALANCED_ACCURACY.function(truth, probabilities) == pytest.approx(0.75)
    assert AUC.function(truth, probabilities) == pytest.approx(1.0)


@given(st.integers(2, 9).flatmap(lambda classes: st.tuples(st.just(classes), st.permutations(range(classes)))))
def test_a_certain_mistake_has_a_finite_log_loss(drawn: tuple[int, list[int]]) -> None:
    classes, (label, said, *_) = drawn
    loss = LOG_LOSS.function(np.array([label]), np.eye(classes)[[said]])
    assert math.isfinite(loss)
    assert loss > LOG_LOSS.function(np.array([label]), np.eye(classes)[[label]])
