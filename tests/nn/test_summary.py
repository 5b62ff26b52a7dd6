import torch
from torch import nn

from mixfit.nn.summary import summary


class Twice(nn.Module):
    """One activation in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(4, 8), nn.Linear(8, 2), nn.ReLU()
        self.first.requires_grad_(requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.second(self.relu(self.first(x))))


def test_every_call_of_a_layer_has_a_line_with_its_shape_and_parameters() -> None:
    model = Twice().train()
    found = summary(model, torch.ones(5, 4))
    assert [line.name for line in found.layers] == ["first", "relu", "second", "relu"]
    assert [line.shapes for line in found.layers] == ["(5, 8)", "(5, 8)", "(5, 2)", "(5, 2)"]
    assert (found.parameters, found.trainable) == (40 + 18, 18)
    assert found.flops == 2 * 5 * (4 * 8 + 8 * 2)
    assert "58 parameters, 18 trainable (31.0%)" in str(found)


def test_the_model_is_left_as_it_was() -> None:
    model = Twice().train()
    model.relu.eval()
    summary(model, torch.ones(1, 4))
    assert model.training
    assert not model.relu.training
    assert all(not module._forward_hooks for module in model.modules())
