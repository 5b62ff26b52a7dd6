import copy
import math

import pytest
import torch
from torch import Tensor, nn

from mixfit.hooks.activation_stats import ActivationStats
from mixfit.hooks.hook import Call
from mixfit.hooks.sequential import HookedSequential


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)]


def test_it_computes_what_sequential_computes_and_shares_its_weights() -> None:
    plain, ours = nn.Sequential(*layers()), HookedSequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(ours(x), plain(x))
    plain.load_state_dict(ours.state_dict())
    assert len(ours) == 3
    assert [type(layer) for layer in ours] == [nn.Linear, nn.ReLU, nn.Linear]
    assert ours[-1] is list(ours)[2]


def test_functions_are_called_after_each_layer_and_may_replace_its_output() -> None:
    seen: list[Call] = []
    model = HookedSequential(*layers(), functions=[seen.append])
    x = torch.randn(5, 3)
    y = model(x)
    assert [(call.name, call.module) for call in seen] == [("0", model[0]), ("1", model[1]), ("2", model[2])]
    assert seen[0].inputs == (x,)
    assert seen[0].output is seen[1].inputs[0]
    assert seen[2].output is y
    model.functions.append(lambda call: torch.zeros_like(call.output) if call.name == "1" else None)
    torch.testing.assert_close(model(x), model[2](torch.zeros(5, 8)))


def test_statistics_are_those_of_all_batches_in_training_mode() -> None:
    model, outputs = HookedSequential(*layers()), [[], [], []]
    model.functions.append(lambda call: outputs[int(call.name)].append(call.output.detach().flatten()))
    with ActivationStats(model) as reference:
        for rows in (5, 3, 11):
            model(10 * torch.randn(rows, 3))
    model.eval()
    model(torch.full((1, 3), 1e6))
    for told, kept, same in zip(model.statistics, outputs, reference.total().values(), strict=True):
        values = torch.cat(kept[:3]).double()
        assert told.values == len(values)
        assert told.mean == pytest.approx(float(values.mean()), rel=1e-9)
        assert told.std == pytest.approx(float(values.std(correction=0)), rel=1e-9)
        assert told.near_zero == float((values.abs() <= 1e-3).double().mean())
        assert (same.mean, same.std) == (pytest.approx(told.mean, abs=1e-5), pytest.approx(told.std, rel=1e-5))
    assert [told.kind for told in model.statistics] == ["Linear", "ReLU", "Linear"]


def test_statistics_begin_anew_and_are_no_weights() -> None:
    model = HookedSequential(*layers())
    assert math.isnan(model.statistics[0].mean)
    model(torch.ones(2, 3))
    twin = copy.deepcopy(model)
    assert twin.statistics == model.statistics
    assert model.state_dict().keys() == nn.Sequential(*layers()).state_dict().keys()
    model.clear_statistics()
    assert model.statistics[0].values == 0
    assert twin.statistics[0].values == 16


def test_statistics_hold_no_graph() -> None:
    model = HookedSequential(*layers())
    for _ in range(3):
        model(torch.ones(2, 3)).sum().backward()
    assert all(isinstance(seen, Tensor) and not seen.requires_grad for seen in model._seen)
