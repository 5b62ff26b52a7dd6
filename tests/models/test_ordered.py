"""Ordered classes: their order, the metrics and losses against references, and models of steps."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.target import OrderedTarget, target_from_dict
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation.bootstrap import resampled
from mixfit.models.encoding import EncodedRows
from mixfit.models.model import Layout, Rows, State
from mixfit.models.ordered import FittedSteps
from mixfit.training.metrics import KAPPA, MAE_STEPS, decided, median_class
from mixfit.training.ordinal import ordered_cross_entropy


def order_of(values: list[object], **settings: object) -> tuple[str, ...]:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=len(values)), "grade": values})
    schema = infer_schema(frame, "grade", roles={"grade": "ordered"}, **settings)  # type: ignore[arg-type]
    assert schema.task == "ordered"
    return next(column.form.order for column in schema.columns if column.name == "grade")


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ([10, 2, 3, 2, 10, 3], ("2", "3", "10")),
        (["high", "low", "medium", "low"], ("low", "medium", "high")),
        (["Very Good", "poor", "FAIR", "poor"], ("poor", "FAIR", "Very Good")),
        (["L", "S", "M", "XL", "S"], ("S", "M", "L", "XL")),
        (["stage 10", "stage 2", "stage 3"], ("stage 2", "stage 3", "stage 10")),
        (["II", "I", "III", "I"], ("I", "II", "III")),
    ],
)
def test_the_order_of_numbers_and_of_well_known_words_is_known(values: list[object], order: tuple[str, ...]) -> None:
    assert order_of(values * 3) == order


def test_the_order_of_a_typed_column_is_kept() -> None:
    typed = pd.Categorical(["b", "c", "a", "b", "c", "a"], categories=["c", "a", "b"], ordered=True)
    assert order_of(typed) == ("c", "a", "b")  # type: ignore[arg-type]


def test_an_order_that_cannot_be_known_is_refused_with_the_fix() -> None:
    with pytest.raises(
        ConfigError, match=r"order of the 3 values of 'grade' \('A', 'B', 'C'\) .* --order grade=LOWEST"
    ):
        order_of(["A", "B", "C", "A"])
    assert order_of(["A", "B", "C", "A"], orders={"grade": ["C", "B", "A"]}) == ("C", "B", "A")


def test_an_order_that_lacks_or_repeats_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks 'C', which the column has"):
        order_of(["A", "B", "C", "A"], orders={"grade": ["B", "A"]})
    with pytest.raises(ConfigError, match="has 'A' twice"):
        order_of(["A", "B", "C", "A"], orders={"grade": ["A", "B", "C", "A"]})
    with pytest.raises(ConfigError, match="order of column 'x', which is not ordered"):
        order_of([1, 2, 3], orders={"x": ["0", "1", "2"]})
    with pytest.raises(ConfigError, match="needs 3 classes or more, the target 'grade' has 2"):
        order_of([1, 2, 1, 2])
    with pytest.raises(ConfigError, match="set to ordered, but the task to binary"):
        order_of([1, 2, 3], task="binary")


def test_an_ordered_column_enters_as_rank_and_level() -> None:
    from mixfit.data.columns.preprocess import TablePreprocessor

    frame = pd.DataFrame({"size": ["low", "high", "medium", "high", None, "low"], "y": [0.5, 1.5, 2.5, 3.5, 4.5, 6.5]})
    schema = infer_schema(frame, "y", roles={"size": "ordered"}, task="regression")
    table = schema.table(frame)
    found = TablePreprocessor.fit(table, schema).transform(table)
    rank = found.numeric[:, 0]
    assert rank[0] < rank[2] < rank[1]
    assert found.categorical[:, 0].tolist() == [1, 3, 2, 3, 0, 1]


def test_a_training_without_a_third_class_is_refused() -> None:
    frame = pd.DataFrame({"x": [0.5, 1.5, 0.5, 2.5, 1.5, 3.5], "grade": [1, 2, 3, 1, 2, 3]})
    table = infer_schema(frame, "grade", task="ordered").table(frame)
    target = OrderedTarget.fit(table["grade"])
    assert target.classes == ("1", "2", "3")
    assert target_from_dict(target.to_dict()) == target
    without = infer_schema(frame, "grade", task="multiclass").table(frame)["grade"]
    with pytest.raises(DataError, match="order of the target 'grade' lacks 3 values, the first is '1': name all"):
        OrderedTarget.fit(without)
    with pytest.raises(DataError, match="2 classes in the target 'grade'; ordered classes need at least 3"):
        OrderedTarget.fit(table["grade"].select(np.array([0, 1, 3])))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(3, 50))
def test_kappa_is_that_of_scikit_learn(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    truth, found, weight = random.integers(0, 5, rows), random.integers(0, 5, rows), random.uniform(0.1, 2, rows)
    truth[:2], found[:2] = (0, 4), (0, 4)
    wanted = cohen_kappa_score(truth, found, labels=range(5), weights="quadratic", sample_weight=weight)
    assert KAPPA.value(truth, decided(found, 5), weight) == pytest.approx(wanted)
    for metric in (KAPPA, MAE_STEPS):
        quick = resampled(metric, truth, decided(found, 5))
        assert quick is not None
        assert quick(weight[None])[0] == pytest.approx(metric.value(truth, decided(found, 5), weight))


def test_a_constant_has_a_kappa_of_0() -> None:
    assert KAPPA.value(np.array([0, 1, 2, 2]), decided(np.array([1, 1, 1, 1]), 3)) == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_class_is_expected_to_be_fewer_steps_away_than_the_median(seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(5), 20)
    steps = np.abs(np.arange(5)[:, None] - np.arange(5)) @ probabilities.T
    found = steps[median_class(probabilities), np.arange(20)]
    np.testing.assert_allclose(found, steps.min(axis=0))


def test_the_loss_is_the_sum_of_the_cross_entropies_of_the_steps() -> None:
    logits, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    above = 1 - logits.softmax(1).cumsum(1)[:, :-1]
    is_above = (target[:, None] > torch.arange(3)).float()
    wanted = torch.nn.functional.binary_cross_entropy(above, is_above, reduction="none").sum(1).mean()
    torch.testing.assert_close(ordered_cross_entropy(logits, target), wanted, rtol=1e-4, atol=1e-5)
    far, near = torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[0.0, 5.0, 0.0]])
    lowest = torch.tensor([0])
    assert ordered_cross_entropy(far, lowest) > ordered_cross_entropy(near, lowest)
    with pytest.raises(ConfigError, match="needs logits"):
        ordered_cross_entropy(torch.zeros(3), torch.zeros(3, dtype=torch.int64))


class Step:
    """A model of one step."""

    def __init__(self, above: list[float]) -> None:
        self.above = np.array(above)

    def predict(self, rows: Rows) -> np.ndarray:
        return np.stack([1 - self.above, self.above], axis=1)

    def state(self) -> State:
        return {"above": self.above}, {}


def test_steps_that_contradict_each_other_still_give_probabilities() -> None:
    steps = FittedSteps(steps=[Step([0.9, 0.2]), Step([0.5, 0.6]), Step([0.1, 0.0])])
    nothing = np.zeros((2, 0), dtype=np.int64)
    encoded = EncodedRows(
        numeric=nothing.astype(np.float32), categorical=nothing, prefixes=nothing, photos=None, seen=np.zeros(2, bool)
    )
    layout = Layout(numeric=0, cardinalities=(), categories=0, features=None, image_columns=0, classes=4)
    found = steps.predict(Rows(encoded=encoded, layout=layout))
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found[0], [0.1, 0.4, 0.4, 0.1], atol=1e-3)
    np.testing.assert_allclose(found[1], [0.8, 0.0, 0.2, 0.0], atol=1e-3)
