"""Optimisers against PyTorch's and timm's, and against their papers; state, groups, clipping."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import timm.optim
import torch
from optimizer_references import PlainLamb, PlainLion, PlainMuon, PlainScheduleFree
from safetensors.torch import load, save
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.training.checkpoint import join_tensors, split_tensors
from mixfit.training.optimizer import (
    LAMB,
    SGD,
    Adam,
    AdamW,
    Lion,
    Muon,
    Optimizer,
    RMSProp,
    ScheduleFreeAdamW,
    clip_gradients,
)
from mixfit.training.optimizer import base as cohort

Make = Callable[..., Any]


def timm_lamb(parameters: Iterable[Tensor], lr: float, **settings: Any) -> Any:
    return timm.optim.Lamb(parameters, lr=lr, max_grad_norm=None, **settings)


PAIRS: list[tuple[Callable[..., Optimizer], Make, dict[str, Any]]] = [
    (SGD, torch.optim.SGD, {}),
    (SGD, torch.optim.SGD, {"weight_decay": 0.1}),
    (SGD, torch.optim.SGD, {"momentum": 0.9}),
    (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (RMSProp, torch.optim.RMSprop, {}),
    (RMSProp, torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-3, "momentum": 0.8, "weight_decay": 0.1}),
    (Adam, torch.optim.Adam, {}),
    (Adam, torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.3}),
    (AdamW, torch.optim.AdamW, {}),
    (AdamW, torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.3}),
    (LAMB, timm_lamb, {}),
    (LAMB, timm_lamb, {"weight_decay": 0.0}),
    (LAMB, timm_lamb, {"weight_decay": 0.0, "always_adapt": True, "betas": (0.8, 0.95), "eps": 1e-3}),
    (LAMB, PlainLamb, {"weight_decay": 0.1}),
    (Lion, timm.optim.Lion, {}),
    (Lion, PlainLion, {"betas": (0.8, 0.95), "weight_decay": 0.3}),
    (Muon, PlainMuon, {}),
    (Muon, PlainMuon, {"momentum": 0.8, "nesterov": False, "weight_decay": 0.3}),
    (ScheduleFreeAdamW, PlainScheduleFree, {}),
    (ScheduleFreeAdamW, PlainScheduleFree, {"betas": (0.8, 0.95), "weight_decay": 0.1, "warmup": 30, "eps": 1e-4}),
]
KINDS = [(ours, settings) for ours, _, settings in PAIRS]


def network() -> nn.Module:
    torch.manual_seed(0)
    first, second, last = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 1)
    return nn.Sequential(first, nn.Tanh(), nn.LayerNorm(7), second, nn.Tanh(), last).double()


def train(model: nn.Module, optimizer: Any, steps: int, *, first: int = 0, skip: int = 0) -> None:
    """With ``skip``, a different parameter has no gradient in each step, and the first none in ``skip`` steps."""
    parameters = list(model.parameters())
    dtype = parameters[0].dtype
    for step in range(first, first + steps):
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        (model(x.to(dtype))[:, 0] - x.sum(1)).square().mean().backward()
        if skip:
            parameters[step % len(parameters)].grad = None
            if step < skip:
                parameters[0].grad = None
        optimizer.step()


def assert_alike(a: nn.Module, b: nn.Module) -> None:
    for mine, reference in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-6, rtol=1e-6)


def assert_same_bits(a: nn.Module, b: nn.Module) -> None:
    for mine, reference in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(mine, reference)


@pytest.mark.parametrize(("ours", "theirs", "settings"), PAIRS)
def test_a_hundred_steps_equal_the_reference(ours: Make, theirs: Make, settings: dict[str, Any]) -> None:
    a, b = network(), network()
    train(a, ours(a.parameters(), lr=0.01, **settings), 100)
    train(b, theirs(b.parameters(), lr=0.01, **settings), 100)
    assert_alike(a, b)
    for trained, untrained in zip(a.parameters(), network().parameters(), strict=True):
        assert not torch.equal(trained, untrained)


@pytest.mark.parametrize(("ours", "theirs", "settings"), [pair for pair in PAIRS if pair[1] is not timm_lamb])
def test_missing_gradients_count_for_their_parameter_alone(ours: Make, theirs: Make, settings: dict[str, Any]) -> None:
    """timm's LAMB has one count for all parameters and is left out."""
    a, b = network(), network()
    train(a, ours(a.parameters(), lr=0.01, **settings), 60, skip=7)
    train(b, theirs(b.parameters(), lr=0.01, **settings), 60, skip=7)
    assert_alike(a, b)


def test_cohorts_are_split_and_joined_again() -> None:
    model = network()
    optimizer = AdamW(model.parameters(), lr=0.01)
    parameters = list(model.parameters())
    train(model, optimizer, 3, skip=1)
    assert len(optimizer._cohorts[0]) > 1
    train(model, optimizer, len(parameters) - 3, first=3, skip=1)  # now each has missed one step
    train(model, optimizer, 1)
    assert len(optimizer._cohorts[0]) == 1
    assert {id(p) for p in optimizer._cohorts[0][0].parameters} == {id(p) for p in parameters}


@pytest.mark.parametrize(("ours", "settings"), KINDS)
def test_small_blocks_change_no_bit(ours: Make, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = network(), network()
    train(whole, ours(whole.parameters(), lr=0.01, **settings), 20)
    monkeypatch.setattr(cohort, "NUMBERS_A_BLOCK", 8)
    optimizer = ours(pieces.parameters(), lr=0.01, **settings)
    assert sum(len(cohorts) for cohorts in optimizer._cohorts) > 4
    train(pieces, optimizer, 20)
    assert_same_bits(whole, pieces)


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize(("ours", "settings"), KINDS)
def test_a_state_saved_as_safetensors_and_json_goes_on_exactly(ours: Make, settings: dict[str, Any], skip: int) -> None:
    whole = network()
    train(whole, ours(whole.parameters(), lr=0.01, **settings), 20, skip=skip)
    stopped = network()
    first = ours(stopped.parameters(), lr=0.01, **settings)
    train(stopped, first, 8, skip=skip)
    tensors, rest = split_tensors(first.state_dict())
    saved = join_tensors(json.loads(json.dumps(rest)), load(save(tensors)))
    second = ours(stopped.parameters(), lr=0.5)
    second.load_state_dict(saved)
    train(stopped, second, 12, first=8, skip=skip)
    assert_same_bits(whole, stopped)
    tuples = [key for key, value in first.defaults.items() if isinstance(value, tuple)]
    assert all(second.param_groups[0][key] == first.param_groups[0][key] for key in tuples)


def test_a_loaded_state_shares_nothing_with_the_saved_one() -> None:
    model = network()
    first = AdamW(model.parameters(), lr=0.01)
    train(model, first, 2)
    saved = first.state_dict()
    before = saved["state"][0]["mean"].clone()
    second = AdamW(model.parameters(), lr=0.01)
    second.load_state_dict(saved)
    train(model, second, 2)
    assert torch.equal(saved["state"][0]["mean"], before)


@pytest.mark.parametrize(("ours", "settings"), KINDS)
def test_16_bits_are_stepped_in_32(ours: Make, settings: dict[str, Any]) -> None:
    """A step rounds once: from the same start, one step in bfloat16 is that in float32, rounded."""
    half = network().bfloat16()
    full = network().bfloat16().float()
    for a, b in zip(half.parameters(), full.parameters(), strict=True):
        a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        b.grad = a.grad.float()
    first, second = ours(half.parameters(), lr=0.1, **settings), ours(full.parameters(), lr=0.1, **settings)
    first.step()
    second.step()
    for a, b in zip(half.parameters(), full.parameters(), strict=True):
        assert torch.equal(a, b.bfloat16())
    kept = [t for values in first.state_dict()["state"].values() for t in values.values() if isinstance(t, Tensor)]
    assert all(tensor.dtype == torch.float32 for tensor in kept)


@pytest.mark.parametrize(("ours", "settings"), KINDS)
def test_no_step_reads_a_number_back_from_the_device(ours: Make, settings: dict[str, Any]) -> None:
    """Tensors on the meta device have no numbers: reading one, as a wait for a GPU would, raises."""
    model = network().to("meta")
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizer = ours(model.parameters(), lr=0.1, **settings)
    assert all(len(cohorts) == 1 for cohorts in optimizer._cohorts)
    clip_gradients(model.parameters(), 1.0)
    for _ in range(2):
        optimizer.step()
    optimizer.eval()
    with pytest.raises(RuntimeError, match="meta"):
        next(model.parameters()).sum().item()


def test_the_gradients_stay_as_they_are() -> None:
    for ours, settings in KINDS:
        model = network()
        optimizer = ours(model.parameters(), lr=0.01, **settings)
        train(model, optimizer, 1)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        before = [gradient.clone() for gradient in gradients]
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(gradients, before, strict=True))


def test_muon_agrees_with_pytorchs_up_to_its_16_bits() -> None:
    def matrices() -> list[nn.Parameter]:
        return [p for p in network().parameters() if p.ndim == 2]

    mine, reference = matrices(), matrices()
    ours = Muon(mine, lr=0.01, weight_decay=0.1)
    theirs = torch.optim.Muon(reference, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        for a, b in zip(mine, reference, strict=True):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(step), dtype=a.dtype)
            b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    for a, b, start in zip(mine, reference, matrices(), strict=True):
        assert (a - b).norm() < 0.02 * (b - start).norm()


def test_muon_leaves_marked_groups_and_other_shapes_to_adamw() -> None:
    model, reference = network(), network()
    everything = [{"params": list(model.parameters()), "matrices": False}]
    train(model, Muon(everything, lr=0.01), 10)
    train(reference, AdamW(reference.parameters(), lr=0.01), 10)
    assert_same_bits(model, reference)
    groups = Muon(network().parameters(), lr=0.01).param_groups
    assert [(group["matrices"], len(group["params"])) for group in groups] == [(True, 3), (False, 5)]


def test_a_schedule_free_model_is_its_average_in_evaluation() -> None:
    """With all points alike in weight, the average is the mean of the fast points after each step."""
    model = network()
    optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.01)
    fast = []
    for step in range(6):
        train(model, optimizer, 1, first=step)
        fast.append(optimizer.state_dict()["state"][0]["fast"].clone())
    between = next(model.parameters()).detach().clone()
    optimizer.eval()
    average = next(model.parameters()).detach().clone()
    torch.testing.assert_close(average, torch.stack(fast).mean(0))
    torch.testing.assert_close(between, 0.9 * average + 0.1 * fast[-1])
    optimizer.eval()
    assert torch.equal(next(model.parameters()), average)
    with pytest.raises(ConfigError, match=r"are set to their average; call train\(\) before step\(\)"):
        train(model, optimizer, 1)
    optimizer.train()
    assert torch.equal(next(model.parameters()), between)


def test_looking_at_the_average_changes_no_bit_of_the_training() -> None:
    looked, straight = network(), network()
    first = ScheduleFreeAdamW(looked.parameters(), lr=0.01)
    for step in range(10):
        first.eval()
        first.train()
        train(looked, first, 1, first=step)
    train(straight, ScheduleFreeAdamW(straight.parameters(), lr=0.01), 10)
    assert_same_bits(looked, straight)


def test_a_schedule_free_state_saved_in_evaluation_goes_on_exactly() -> None:
    whole, stopped = network(), network()
    train(whole, ScheduleFreeAdamW(whole.parameters(), lr=0.01), 12)
    first = ScheduleFreeAdamW(stopped.parameters(), lr=0.01)
    train(stopped, first, 5)
    first.eval()
    second = ScheduleFreeAdamW(stopped.parameters(), lr=0.01)
    second.load_state_dict(first.state_dict())
    second.train()
    train(stopped, second, 7, first=5)
    assert_same_bits(whole, stopped)


def test_groups_have_their_own_settings() -> None:
    model = network()
    first, last = model[0], model[5]  # type: ignore[index]
    before = [p.clone() for p in model.parameters()]
    optimizer = SGD([{"params": first.parameters(), "lr": 0.0}, {"params": last.parameters()}], lr=0.1)
    train(model, optimizer, 1)
    assert torch.equal(first.weight, before[0])
    assert not torch.equal(last.weight, before[6])


def test_momentum_may_be_switched_on_between_steps() -> None:
    a, b = network(), network()
    ours, theirs = SGD(a.parameters(), lr=0.01), torch.optim.SGD(b.parameters(), lr=0.01)
    for momentum in (0.0, 0.9):
        ours.param_groups[0]["momentum"] = theirs.param_groups[0]["momentum"] = momentum
        train(a, ours, 5)
        train(b, theirs, 5)
    assert_alike(a, b)


def test_parameters_without_gradient_stay() -> None:
    model = network()
    model[0].requires_grad_(requires_grad=False)  # type: ignore[index]
    before = [p.clone() for p in model.parameters()]
    train(model, AdamW(model.parameters(), lr=0.1), 2)
    assert torch.equal(next(model.parameters()), before[0])


def test_parameters_that_come_later_start_from_the_beginning() -> None:
    a, b = network(), network()
    ours = AdamW(a[5].parameters(), lr=0.01)  # type: ignore[index]
    train(a, ours, 5)
    ours.add_param_group({"params": a[0].parameters(), "lr": 0.02})  # type: ignore[index]
    train(a, ours, 5)
    theirs = torch.optim.AdamW(b[5].parameters(), lr=0.01)  # type: ignore[index]
    train(b, theirs, 5)
    b.zero_grad()
    theirs.add_param_group({"params": b[0].parameters(), "lr": 0.02})  # type: ignore[index]
    train(b, theirs, 5)
    assert_alike(a, b)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_forgets(set_to_none: bool) -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 5, dtype=torch.float64)).sum().backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    assert all((p.grad is None) == set_to_none for p in model.parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match="got no parameters; is the whole model frozen"):
        SGD([], lr=0.1)
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match="1 parameters are in more than one group"):
        SGD([{"params": [weight]}, {"params": [weight]}], lr=0.1)
    with pytest.raises(ConfigError, match="1 parameters are in more than one group"):
        SGD([weight, weight], lr=0.1)
    integers = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    with pytest.raises(ConfigError, match=r"A parameter \(2,\) of torch.int64 is not floating point"):
        SGD([integers], lr=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, r"lr must be at least 0, got -0\.1"),
        ({"lr": float("nan")}, r"lr must be at least 0, got nan"),
        ({"lr": 0.1, "weight_decay": -1.0}, r"weight_decay must be at least 0, got -1\.0"),
        ({"lr": 0.1, "betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1\.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AdamW(network().parameters(), **settings)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"SGD with nesterov needs a momentum above 0, such as momentum=0\.9\."):
        SGD(network().parameters(), lr=0.1, nesterov=True)
    SGD([{"params": list(network().parameters()), "momentum": 0.9}], lr=0.1, nesterov=True)  # each group has one


def test_sparse_gradients_and_those_of_another_kind_are_refused() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match=r"a parameter \(4, 2\) of torch.float32 is sparse; .* without sparse=True"):
        AdamW(embedding.parameters(), lr=0.1).step()
    weight = nn.Parameter(torch.zeros(3))
    weight.grad_dtype = torch.float64
    weight.grad = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"a parameter \(3,\) of torch.float32 is torch.float64; .* dense gradients"):
        AdamW([weight], lr=0.1).step()


def test_the_state_of_another_optimizer_is_refused() -> None:
    def weights(*sizes: int) -> list[nn.Parameter]:
        return [nn.Parameter(torch.zeros(size), requires_grad=True) for size in sizes]

    saved_from = weights(3, 2)
    for weight in saved_from:
        weight.grad = torch.ones_like(weight)
    first = AdamW(saved_from, lr=0.1)
    first.step()
    saved = first.state_dict()
    with pytest.raises(ConfigError, match="The saved optimizer is AdamW, this one is Adam"):
        Adam(weights(3, 2), lr=0.1).load_state_dict(saved)
    with pytest.raises(ConfigError, match="has 1 parameter groups, this one has 2"):
        AdamW([{"params": weights(3)}, {"params": weights(2)}], lr=0.1).load_state_dict(saved)
    with pytest.raises(ConfigError, match="Parameter group 0 of the saved optimizer has 2 parameters, here it has 3"):
        AdamW(weights(3, 2, 1), lr=0.1).load_state_dict(saved)
    other = AdamW(weights(3, 4), lr=0.2)
    with pytest.raises(ConfigError, match=r"saved mean of parameter 1 has the shape \(2,\), the parameter has \(4,\)"):
        other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.2
    assert other.state_dict()["state"] == {}
