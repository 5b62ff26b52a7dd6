from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mixfit.errors import ConfigError
from mixfit.training.optimizer import SGD, AdamW, Optimizer, weight_decay_groups

PAIRS: list[tuple[Callable[..., Optimizer], Callable[..., torch.optim.Optimizer], dict[str, Any]]] = [
    (SGD, torch.optim.SGD, {}),
    (SGD, torch.optim.SGD, {"weight_decay": 0.1}),
    (SGD, torch.optim.SGD, {"momentum": 0.9}),
    (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (AdamW, torch.optim.AdamW, {}),
    (AdamW, torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.3}),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 1)).double()


def train(model: nn.Module, optimizer: Any, steps: int, *, first: int = 0) -> None:
    for step in range(first, first + steps):
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        (model(x)[:, 0] - x.sum(1)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("ours", "theirs", "settings"), PAIRS)
def test_a_hundred_steps_equal_pytorchs(
    ours: Callable[..., Optimizer], theirs: Callable[..., torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    a, b = network(), network()
    train(a, ours(a.parameters(), lr=0.01, **settings), 100)
    train(b, theirs(b.parameters(), lr=0.01, **settings), 100)
    for mine, reference in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-6, rtol=1e-6)
    assert not torch.equal(next(a.parameters()), next(network().parameters()))


@pytest.mark.parametrize(("ours", "theirs", "settings"), PAIRS)
def test_a_saved_state_goes_on_exactly(
    ours: Callable[..., Optimizer], theirs: object, settings: dict[str, Any]
) -> None:
    whole = network()
    train(whole, ours(whole.parameters(), lr=0.01, **settings), 20)
    stopped = network()
    first = ours(stopped.parameters(), lr=0.01, **settings)
    train(stopped, first, 8)
    second = ours(stopped.parameters(), lr=0.5)
    second.load_state_dict(first.state_dict())
    train(stopped, second, 12, first=8)
    for mine, reference in zip(stopped.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, reference)


def test_groups_have_their_own_settings() -> None:
    model = network()
    first, second = model[0], model[3]  # type: ignore[index]
    before = [p.clone() for p in model.parameters()]
    optimizer = SGD([{"params": first.parameters(), "lr": 0.0}, {"params": second.parameters()}], lr=0.1)
    train(model, optimizer, 1)
    assert torch.equal(first.weight, before[0])
    assert not torch.equal(second.weight, before[4])


def test_parameters_without_gradient_stay() -> None:
    model = network()
    model[0].requires_grad_(requires_grad=False)  # type: ignore[index]
    before = [p.clone() for p in model.parameters()]
    train(model, AdamW(model.parameters(), lr=0.1), 2)
    assert torch.equal(next(model.parameters()), before[0])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_forgets(set_to_none: bool) -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 5, dtype=torch.float64)).sum().backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_biases_norms_and_embeddings_do_not_decay() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(2, 3), "norm": nn.LayerNorm(3), "embedding": nn.Embedding(4, 2)})
    decayed, kept = weight_decay_groups(model, 0.1)
    assert [p.shape for p in decayed["params"]] == [(3, 2)]
    assert decayed["weight_decay"] == 0.1
    assert {tuple(p.shape) for p in kept["params"]} == {(3,), (4, 2)}
    assert kept["weight_decay"] == 0


def test_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match="got no parameters; is the whole model frozen"):
        SGD([], lr=0.1)
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match="1 parameters are in more than one group"):
        SGD([{"params": [weight]}, {"params": [weight]}], lr=0.1)
    saved = SGD([{"params": [weight]}], lr=0.1).state_dict()
    two = SGD([{"params": [weight]}, {"params": [nn.Parameter(torch.zeros(1))]}], lr=0.1)
    with pytest.raises(ConfigError, match="has 1 parameter groups, this one has 2"):
        two.load_state_dict(saved)
