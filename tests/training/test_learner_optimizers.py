"""What the Learner hands to its optimizer."""

import torch
from torch import Tensor, nn

from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import Muon


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(5, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.embedding(x))[:, 0]


class Loaders:
    target = None

    def __init__(self) -> None:
        rows = [(torch.tensor(i % 5), torch.tensor(float(i))) for i in range(8)]
        self.train = self.valid = DataLoader(rows, SequentialSampler(8, 4))


def test_embeddings_are_no_matrices_for_muon() -> None:
    model = Words()
    state = Learner(model, Loaders(), loss=mse, optimizer=Muon, device="cpu").fit(1, 0.01)
    matrices = [p for group in state.optimizer.param_groups if group["matrices"] for p in group["params"]]
    assert [id(p) for p in matrices] == [id(model.linear.weight)]
    assert {group["weight_decay"] for group in state.optimizer.param_groups} == {0.01}, "its default"
