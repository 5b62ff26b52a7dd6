import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.training.loss import (
    CrossEntropy,
    Focal,
    Huber,
    Loss,
    PerMember,
    Quantiles,
    balanced_class_weights,
    binary_cross_entropy,
    cross_entropy,
    huber,
    mae,
    mse,
)
from mixfit.training.ordinal import ordinal, ordinal_probabilities

NUMBERS: list[Loss] = [mse, mae, huber]
CLASSES: list[Loss] = [
    cross_entropy,
    CrossEntropy(class_weights=(0.5, 1.0, 2.0), smoothing=0.1),
    Focal(),
    Focal(gamma=0.5, class_weights=(0.5, 1.0, 2.0)),
]
EVERY = [*NUMBERS, Huber(delta=0.3), Quantiles((0.1, 0.5, 0.9)), binary_cross_entropy, *CLASSES, ordinal]


def example(loss: Loss, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction and a target that a loss takes."""
    if loss in CLASSES:
        return torch.randn(rows, 3), torch.randint(0, 3, (rows,))
    if loss is ordinal:
        return torch.randn(rows, 2), torch.randint(0, 3, (rows,))
    if isinstance(loss, Quantiles):
        return torch.randn(rows, 3), torch.randn(rows)
    return torch.randn(rows), torch.rand(rows)


drawn = settings(deadline=None, max_examples=25)
ROWS, COUNTS, SCALES = st.integers(1, 50), st.integers(2, 7), st.floats(0.01, 30)


@pytest.mark.parametrize(("ours", "theirs"), [(mse, F.mse_loss), (mae, F.l1_loss), (huber, F.huber_loss)])
@drawn
@given(rows=ROWS, scale=SCALES)
def test_equals_pytorchs(ours: Loss, theirs: Loss, rows: int, scale: float) -> None:
    prediction, target = scale * torch.randn(2, rows)
    torch.testing.assert_close(ours(prediction, target), theirs(prediction, target))


@drawn
@given(rows=ROWS, count=COUNTS, scale=SCALES)
def test_cross_entropy_equals_pytorchs(rows: int, count: int, scale: float) -> None:
    logits, classes = scale * torch.randn(rows, count), torch.randint(0, count, (rows,))
    torch.testing.assert_close(cross_entropy(logits, classes), F.cross_entropy(logits, classes))


@drawn
@given(rows=ROWS, count=COUNTS, scale=SCALES)
def test_cross_entropy_takes_probabilities(rows: int, count: int, scale: float) -> None:
    logits, classes = scale * torch.randn(rows, count), torch.randint(0, count, (rows,))
    one_hot = F.one_hot(classes, count).float()
    torch.testing.assert_close(cross_entropy(logits, one_hot), cross_entropy(logits, classes))
    soft = torch.rand(rows, count).softmax(1)
    torch.testing.assert_close(cross_entropy(logits, soft), -(soft * logits.log_softmax(1)).sum(1).mean())
    shapes = rf"got \({rows}, {count}\) and \({rows}, {count - 1}\)"
    with pytest.raises(ConfigError, match=rf"or probabilities \(batch, classes\), {shapes}"):
        cross_entropy(logits, soft[:, :-1])


@pytest.mark.parametrize("loss", NUMBERS)
def test_a_perfect_prediction_costs_nothing(loss: Loss) -> None:
    assert loss(torch.arange(5.0), torch.arange(5.0)) == 0


@pytest.mark.parametrize("loss", NUMBERS)
@pytest.mark.parametrize("shape", [(5, 1), (1,), (4,)])
def test_nothing_is_broadcast(loss: Loss, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"differ in shape; they must be equal, as losses do not broadcast"):
        loss(torch.zeros(shape), torch.zeros(5))


def test_cross_entropy_refuses_other_shapes() -> None:
    with pytest.raises(ConfigError, match=r"needs logits \(batch, classes\) and classes \(batch,\)"):
        cross_entropy(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("loss", EVERY)
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_what_a_row_counts_does_not_depend_on_its_batch(loss: Loss, batch_size: int) -> None:
    prediction, target = example(loss, 4)
    weight = torch.tensor([2.0, 0.5, 0.5, 1.0])
    batches = zip(*(tensor.split(batch_size) for tensor in (prediction, target, weight)), strict=True)
    total = sum(loss(p, t, w) * len(t) for p, t, w in batches)
    each = [loss(prediction[[i]], target[[i]]) * weight[i] for i in range(4)]
    torch.testing.assert_close(total, torch.stack(each).sum())


@pytest.mark.parametrize("loss", NUMBERS)
def test_a_batch_that_weighs_nothing_costs_nothing(loss: Loss) -> None:
    assert loss(torch.ones(3), torch.zeros(3), torch.zeros(3)) == 0
    with pytest.raises(ConfigError, match="weight: prediction"):
        loss(torch.ones(3), torch.zeros(3), torch.ones(1))


@pytest.mark.parametrize("loss", EVERY)
def test_losses_of_other_rows_are_refused(loss: Loss) -> None:
    prediction, target = example(loss, 4)
    with pytest.raises(ConfigError, match=r"\(4,.*\(1,\)"):
        loss(prediction, target[:1])
    with pytest.raises(ConfigError, match="weight: prediction"):
        loss(prediction, target, torch.ones(1))


@drawn
@given(delta=st.floats(0.01, 9), rows=ROWS, scale=SCALES)
def test_huber_equals_pytorchs_at_its_delta(delta: float, rows: int, scale: float) -> None:
    prediction, target = scale * torch.randn(2, rows)
    expected = F.huber_loss(prediction, target, delta=delta)
    torch.testing.assert_close(Huber(delta)(prediction, target), expected)


def test_each_quantile_is_where_its_loss_is_least() -> None:
    """Of the numbers 0 to 100, the constant with the least pinball loss at 0.9 is 90."""
    target = torch.arange(101.0)
    for level in (0.1, 0.5, 0.9):
        losses = [Quantiles((level,))(torch.full((101, 1), float(c)), target) for c in range(101)]
        assert int(torch.stack(losses).argmin()) == round(100 * level)


def test_several_quantiles_cost_the_mean_of_each() -> None:
    prediction, target = torch.randn(20, 3), torch.randn(20)
    each = [Quantiles((level,))(prediction[:, [i]], target) for i, level in enumerate((0.1, 0.5, 0.9))]
    torch.testing.assert_close(Quantiles((0.1, 0.5, 0.9))(prediction, target), torch.stack(each).mean())
    torch.testing.assert_close(2 * Quantiles((0.5,))(prediction[:, :1], target), mae(prediction[:, 0], target))


def test_binary_cross_entropy_is_that_of_two_classes() -> None:
    logit, target = torch.randn(20), torch.randint(0, 2, (20,))
    expected = F.cross_entropy(torch.stack([torch.zeros(20), logit], dim=1), target)
    torch.testing.assert_close(binary_cross_entropy(logit, target), expected)
    torch.testing.assert_close(binary_cross_entropy(logit, target.float()), expected)


def test_class_weights_and_smoothing_by_the_plain_formula() -> None:
    logits, classes, weights = torch.randn(20, 3), torch.randint(0, 3, (20,)), torch.tensor([0.5, 1.0, 2.0])
    smooth = 0.9 * F.one_hot(classes, 3) + 0.1 / 3
    expected = -(weights * smooth * logits.log_softmax(1)).sum(1).mean()
    loss = CrossEntropy(class_weights=(0.5, 1.0, 2.0), smoothing=0.1)
    torch.testing.assert_close(loss(logits, classes), expected)
    torch.testing.assert_close(loss(logits, F.one_hot(classes, 3).float()), expected)


def test_balanced_weights_give_classes_the_same_sum() -> None:
    weights = torch.tensor(balanced_class_weights([60, 30, 10]))
    counts = torch.tensor([60.0, 30.0, 10.0])
    torch.testing.assert_close(weights * counts, torch.full((3,), 100 / 3))


def test_focal_by_the_plain_formula() -> None:
    logits, classes = torch.randn(20, 3), torch.randint(0, 3, (20,))
    p = logits.softmax(1)[torch.arange(20), classes]
    torch.testing.assert_close(Focal(gamma=2.0)(logits, classes), (-((1 - p) ** 2) * p.log()).mean())
    torch.testing.assert_close(Focal(gamma=0.0)(logits, classes), F.cross_entropy(logits, classes))
    soft = torch.randn(20, 3).softmax(1)
    probabilities = logits.softmax(1)
    expected = (-soft * (1 - probabilities) ** 2 * probabilities.log()).sum(1).mean()
    torch.testing.assert_close(Focal(gamma=2.0)(logits, soft), expected)


@pytest.mark.parametrize("loss", CLASSES)
def test_certain_predictions_have_finite_gradients(loss: Loss) -> None:
    logits = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0]], requires_grad=True)
    loss(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_ordinal_by_the_plain_formula() -> None:
    """Class 1 of 3 is above class 0 and not above class 1."""
    logits = torch.tensor([[0.3, -1.2]])
    expected = -F.logsigmoid(logits[0, 0]) - F.logsigmoid(-logits[0, 1])
    torch.testing.assert_close(ordinal(logits, torch.tensor([1])), expected)


def test_ordinal_probabilities_are_probabilities_also_of_disordered_logits() -> None:
    probabilities = ordinal_probabilities(torch.randn(50, 4))
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(50))
    ordered = ordinal_probabilities(torch.tensor([[2.0, -1.0]]))[0]
    p = torch.tensor([2.0, -1.0]).sigmoid()
    torch.testing.assert_close(ordered, torch.stack([1 - p[0], p[0] - p[1], p[1]]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", EVERY)
def test_an_ensemble_costs_the_mean_of_its_members(loss: Loss, weighted: bool) -> None:
    members, targets = zip(*(example(loss, 6) for _ in range(4)), strict=True)
    prediction, target = torch.stack(members, dim=1), targets[0]
    weight = torch.rand(6) if weighted else None
    each = torch.stack([loss(member, target, weight) for member in members])
    ensemble = PerMember(loss, axes=1 if members[0].ndim == 1 else 2)
    torch.testing.assert_close(ensemble(prediction, target, weight), each.mean())
    torch.testing.assert_close(ensemble(members[0], target, weight), each[0])


def test_members_may_have_soft_targets() -> None:
    prediction, soft = torch.randn(6, 4, 3), torch.randn(6, 3).softmax(1)
    each = torch.stack([cross_entropy(prediction[:, i], soft) for i in range(4)])
    torch.testing.assert_close(PerMember(cross_entropy, axes=2)(prediction, soft), each.mean())


def test_predictions_with_other_axes_than_members_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"needs predictions \(batch, members\) and one target for each row, got \(4, 3, 2\)"
    ):
        PerMember(mse, axes=1)(torch.zeros(4, 3, 2), torch.zeros(4))
    with pytest.raises(ConfigError, match=r"\(batch, members, classes\) and one target for each row, got \(4,\)"):
        PerMember(cross_entropy, axes=2)(torch.zeros(4), torch.zeros(4))
    with pytest.raises(ConfigError, match=r"one target for each row, got \(4, 3\) and \(1,\)"):
        PerMember(mse, axes=1)(torch.zeros(4, 3), torch.zeros(1))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"delta must be above 0, got 0\.0"):
        Huber(0.0)
    with pytest.raises(ConfigError, match=r"Quantiles need levels between 0 and 1, got \(0\.5, 1\.0\)"):
        Quantiles((0.5, 1.0))
    with pytest.raises(ConfigError, match=r"smoothing must be in \[0, 1\), got 1\.0"):
        CrossEntropy(smoothing=1.0)
    with pytest.raises(ConfigError, match=r"class_weights must be at least 0, got \(1\.0, -1\.0\)"):
        Focal(class_weights=(1.0, -1.0))
    with pytest.raises(ConfigError, match=r"gamma must be at least 0, got -1\.0"):
        Focal(gamma=-1.0)
    with pytest.raises(ConfigError, match="There are 2 class weights for 3 classes"):
        CrossEntropy(class_weights=(1.0, 2.0))(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"needs at least one training row, got \[3, 0\]"):
        balanced_class_weights([3, 0])
    with pytest.raises(ConfigError, match=r"integer classes \(batch,\), got \(2, 3\) and \(2,\) of torch.float32"):
        ordinal(torch.zeros(2, 3), torch.zeros(2))
