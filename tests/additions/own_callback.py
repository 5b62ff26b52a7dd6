"""A callback written outside mixfit: noise on the gradients that fades (Neelakantan et al. 2015, arXiv:1511.06807)."""

import torch

import mixfit


class GradientNoise(mixfit.Callback):
    """Adds normal noise of the variance ``eta / (1 + step) ** 0.55`` to every gradient; resumed where it stopped."""

    order = 50  # after the gradients are clipped

    def __init__(self, eta: float = 0.01, seed: int = 0) -> None:
        self.eta, self.seed = eta, seed
        self.largest = 0.0

    def before_fit(self, state: mixfit.training.TrainState) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def after_backward(self, state: mixfit.training.TrainState) -> None:
        spread = (self.eta / (1 + state.step) ** 0.55) ** 0.5
        self.largest = max(self.largest, spread)
        for parameter in state.model.parameters():
            if parameter.grad is not None:
                parameter.grad += spread * torch.randn(parameter.shape, generator=self.generator)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.generator.set_state(state["generator"])
