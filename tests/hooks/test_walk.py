import torch
from torch import Tensor, nn

from mixfit.hooks.hook import calls, evaluating, modules


class Crossed(nn.Module):
    """Registered in another order than it runs, with a layer left out, one shared, and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 1)
        self.relu = nn.ReLU()
        self.unused = nn.Linear(9, 9)
        self.middle = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
        self.first = nn.Linear(3, 4)
        self.alias = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.middle(self.relu(self.first(x)))))


def test_modules_come_in_the_order_in_which_they_run_each_once() -> None:
    model = Crossed()
    found = modules(model, torch.ones(2, 3))
    assert [(layer.name, layer.calls) for layer in found] == [
        ("first", 1),
        ("relu", 2),
        ("middle.0", 1),
        ("middle.1", 1),
        ("last", 1),
    ]
    assert [layer.module for layer in found] == [model.first, model.relu, *model.middle, model.last]


def test_a_shared_module_makes_two_calls() -> None:
    found = calls(Crossed(), torch.ones(2, 3))
    assert [(call.name, call.number) for call in found] == [
        ("first", 0),
        ("relu", 0),
        ("middle.0", 0),
        ("middle.1", 0),
        ("relu", 1),
        ("last", 0),
    ]


def test_kinds() -> None:
    model, x = Crossed(), torch.ones(2, 3)
    leaves = ["first", "relu", "middle.0", "middle.1", "last"]
    assert [layer.name for layer in modules(model, x, "all")] == ["", "first", "relu", "middle", *leaves[2:]]
    assert [layer.name for layer in modules(model, x, "inner")] == ["", "middle"]
    assert [layer.name for layer in modules(model, x, nn.Linear)] == ["first", "middle.0", "last"]
    assert [layer.name for layer in modules(model, x, (nn.ReLU, nn.Dropout))] == ["relu", "middle.1"]
    assert [layer.name for layer in modules(model, x, lambda name, _: "." in name)] == ["middle.0", "middle.1"]
    assert modules(model, x, nn.Conv2d) == []


def test_walking_again_gives_the_same_and_leaves_the_model_as_it_was() -> None:
    model = Crossed().train()
    model.middle.eval()
    assert modules(model, torch.ones(2, 3)) == modules(model, torch.ones(2, 3))
    assert (model.training, model.middle.training, model.middle[1].training) == (True, False, False)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_every_module_has_its_own_mode_again() -> None:
    model = Crossed().train()
    model.relu.eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training
    assert not model.relu.training
