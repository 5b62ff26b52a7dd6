"""Features of layers: the right numbers for the right rows, in a file that is whole or not there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from open_files import sizes_below
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mixfit.data.loader import DataLoader
from mixfit.data.sampler import ShuffledSampler
from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.hooks.extract import extract

X = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))


@dataclass
class Xb:
    x: Tensor
    rows: Tensor
    image_mask: Tensor | None = None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU())
        self.lstm, self.head, self.spare = nn.LSTM(4, 2, batch_first=True), nn.Linear(4, 1), nn.Linear(1, 1)

    def forward(self, xb: Xb) -> Tensor:
        x = self.encoder(xb.x)
        self.lstm(x[:, None])
        return self.head(x) + self.head(-x)


def batches(order: Tensor, size: int = 5) -> Iterator[tuple[Xb, Tensor]]:
    for rows in order.split(size):
        yield Xb(X[rows], 100 + rows), torch.zeros(len(rows))


ORDER = torch.randperm(23, generator=torch.Generator().manual_seed(1))


def test_rows_come_in_the_order_of_the_loader_with_their_numbers(tmp_path: Path) -> None:
    model = Net().train()
    found = extract(model, "encoder", batches(ORDER), tmp_path / "f.npy")
    assert isinstance(found.values, np.memmap)
    model.eval()
    np.testing.assert_allclose(found.values, model.encoder(X[ORDER]).detach().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(found.rows, 100 + ORDER.numpy())
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), found.values)
    np.testing.assert_array_equal(np.load(tmp_path / "f.rows.npy"), found.rows)
    assert {path.name for path in tmp_path.iterdir()} == {"f.npy", "f.rows.npy"}


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = Net().train()
    model.head.eval()
    extract(model, "head", batches(ORDER), tmp_path / "f.npy")
    assert (model.training, model.head.training, model.encoder[1].training) == (True, False, True)
    with pytest.raises(ConfigError, match="for 5 rows; it must have one entry per row"):
        extract(model, "lstm", batches(ORDER), tmp_path / "f.npy", part="[1][0]")
    assert (model.training, model.head.training) == (True, False)
    assert not any(module._forward_hooks for module in model.modules())


def test_every_layer_has_its_features(tmp_path: Path) -> None:
    model = Net().eval()
    with torch.no_grad():
        hidden = model.encoder(X)
        expected = {
            ("", 0, ""): model(Xb(X, torch.arange(23))),
            ("head", 0, ""): model.head(hidden),
            ("head", 1, ""): model.head(-hidden),
            ("encoder.0", 0, ""): model.encoder[0](X),
            ("lstm", 0, "[0]"): model.lstm(hidden[:, None])[0],
        }
    for (layer, call, part), values in expected.items():
        found = extract(model, layer, batches(torch.arange(23)), tmp_path / "f.npy", call=call, part=part)
        np.testing.assert_allclose(found.values, values.numpy(), rtol=1e-5, atol=1e-6)


def test_batches_that_do_not_say_their_rows_count_them(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(X, X[:, 0]), ShuffledSampler(23, 4, seed=2))
    found = extract(nn.Sequential(nn.Linear(3, 2)), "0", data, tmp_path / "f.npy")
    assert found.rows.tolist() == list(range(23))


class WithPhotos(nn.Module):
    """As a mixed model: the backbone is called for the photos that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Module()
        self.image.backbone = nn.Sequential(nn.Linear(3, 2))

    def forward(self, xb: Xb) -> Tensor:
        if xb.image_mask.any():
            self.image.backbone(xb.x[:, None].expand(-1, 2, -1)[xb.image_mask])
        return xb.x


def test_a_layer_that_sees_single_photos_names_the_row_of_each(tmp_path: Path) -> None:
    mask = torch.tensor([[True, True], [False, False], [False, False], [False, True], [True, False]])
    loader = [(Xb(X[rows], rows, mask[rows]), rows) for rows in torch.tensor([[0, 1], [1, 2], [3, 4]])]
    model = WithPhotos()
    found = extract(model, "image.backbone.0", loader, tmp_path / "f.npy")
    assert found.rows.tolist() == [0, 0, 3, 4]  # though the first batch has as many photos as rows
    np.testing.assert_allclose(found.values, model.image.backbone(X[[0, 0, 3, 4]]).detach().numpy(), rtol=1e-6)
    with pytest.raises(DataError, match=r"nothing to extract from 'image.backbone': no row has a photo\."):
        extract(model, "image.backbone", loader[1:2], tmp_path / "g.npy")


def test_bfloat16_becomes_float32_and_float16_stays(tmp_path: Path) -> None:
    for given, kept in ((torch.bfloat16, np.float32), (torch.float16, np.float16), (torch.float64, np.float64)):
        model = nn.Sequential(nn.Identity())
        found = extract(model, "0", [(X.to(given), X[:, 0])], tmp_path / "f.npy")
        assert found.values.dtype == kept
        np.testing.assert_array_equal(found.values, X.to(given).double().numpy().astype(kept))


def test_mistakes_are_told_and_leave_no_file(tmp_path: Path) -> None:
    model, path = Net(), tmp_path / "f.npy"
    with pytest.raises(ConfigError, match=r"Net has no layer 'encodr'\. Did you mean 'encoder'\? layers: encoder, enc"):
        extract(model, "encodr", batches(ORDER), path)
    with pytest.raises(
        ConfigError, match=r"The layer 'spare' is called 0 times per forward pass: there is no call 0\."
    ):
        extract(model, "spare", batches(ORDER), path)
    with pytest.raises(ConfigError, match=r"The layer 'head' is called 2 times per forward pass: there is no call 2\."):
        extract(model, "head", batches(ORDER), path, call=2)
    with pytest.raises(ConfigError, match=r"'lstm' has no part ''; its parts are '\[0\]', '\[1\]\[0\]', '\[1\]\[1\]'"):
        extract(model, "lstm", batches(ORDER), path)
    with pytest.raises(ConfigError, match=r"must end in \.npy, got f\.bin"):
        extract(model, "head", batches(ORDER), tmp_path / "f.bin")
    with pytest.raises(DataError, match="nothing to extract from 'head': the loader has no rows"):
        extract(model, "head", [], path)
    with pytest.raises(ResourceError, match="cannot be written: No such file or directory"):
        extract(model, "head", batches(ORDER), tmp_path / "missing" / "f.npy")
    unequal = [(torch.ones(2, 3), torch.ones(2)), (torch.ones(2, 5), torch.ones(2))]
    with pytest.raises(
        DataError, match=r"has shape \(5,\) for row 2 and \(3,\) for row 0: all rows must have the same"
    ):
        extract(nn.Sequential(nn.Identity()), "0", unequal, path)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_that_of_a_batch(tmp_path: Path) -> None:
    kept: list[int] = []

    def many() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(40):
            kept.append(sum(sizes_below(tmp_path)))
            yield torch.ones(100, 64), torch.ones(100)

    extract(nn.Sequential(nn.Identity()), "0", many(), tmp_path / "f.npy")
    assert kept[-1] > 30 * 100 * 64 * 4  # written as it comes
