"""Watching parts that are told not to learn: their weights, and the statistics of their norms."""

import torch
from torch import Tensor, nn

from mixfit.nn.freezing import is_frozen_module


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that do not learn, and buffers of modules of which no parameter does, by name; no counters."""
    found = {name: parameter.detach() for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for name, module in model.named_modules():
        if is_frozen_module(module):
            found.update(module.named_buffers(prefix=name))
    return {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}


class FrozenWatch:
    """Copies of the frozen tensors of a model, as much memory as they have themselves."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._then = {name: tensor.clone() for name, tensor in frozen_tensors(model).items()}

    def changes(self) -> dict[str, float]:
        """Relative change of those that were frozen then, are so now, and are others all the same."""
        found = {}
        for name, now in frozen_tensors(self.model).items():
            then = self._then.get(name)
            if then is not None and then.shape == now.shape and not torch.equal(then, now):
                moved = (now.double() - then.double()).norm() / then.double().norm().clamp(min=1e-12)
                found[name] = min(float(moved), 1e12)  # of what was 0
        return found
