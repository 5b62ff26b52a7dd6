import pytest
import torch
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.training.loss import Loss, cross_entropy, huber, mae, mse

NUMBERS: list[Loss] = [mse, mae, huber]


@pytest.mark.parametrize(("ours", "theirs"), [(mse, F.mse_loss), (mae, F.l1_loss), (huber, F.huber_loss)])
def test_equals_pytorchs(ours: Loss, theirs: Loss) -> None:
    prediction, target = torch.randn(2, 50)
    torch.testing.assert_close(ours(prediction, target), theirs(prediction, target))


def test_cross_entropy_equals_pytorchs() -> None:
    logits, classes = torch.randn(50, 4), torch.randint(0, 4, (50,))
    torch.testing.assert_close(cross_entropy(logits, classes), F.cross_entropy(logits, classes))


def test_cross_entropy_takes_probabilities() -> None:
    logits, classes = torch.randn(50, 4), torch.randint(0, 4, (50,))
    one_hot = F.one_hot(classes, 4).float()
    torch.testing.assert_close(cross_entropy(logits, one_hot), cross_entropy(logits, classes))
    soft = torch.rand(50, 4).softmax(1)
    torch.testing.assert_close(cross_entropy(logits, soft), -(soft * logits.log_softmax(1)).sum(1).mean())
    with pytest.raises(ConfigError, match=r"or probabilities \(batch, classes\), got \(50, 4\) and \(50, 3\)"):
        cross_entropy(logits, soft[:, :3])


@pytest.mark.parametrize("loss", NUMBERS)
def test_a_perfect_prediction_costs_nothing(loss: Loss) -> None:
    assert loss(torch.arange(5.0), torch.arange(5.0)) == 0


@pytest.mark.parametrize("loss", NUMBERS)
@pytest.mark.parametrize("shape", [(5, 1), (1,), (4,)])
def test_nothing_is_broadcast(loss: Loss, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"differ in shape; they must be equal, as nothing is broadcast"):
        loss(torch.zeros(shape), torch.zeros(5))


def test_cross_entropy_refuses_other_shapes() -> None:
    with pytest.raises(ConfigError, match=r"needs logits \(batch, classes\) and classes \(batch,\)"):
        cross_entropy(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("loss", [*NUMBERS, cross_entropy])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_what_a_row_counts_does_not_depend_on_its_batch(loss: Loss, batch_size: int) -> None:
    prediction = torch.randn(4, 3) if loss is cross_entropy else torch.randn(4)
    target = torch.tensor([0, 1, 2, 0]) if loss is cross_entropy else torch.randn(4)
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
