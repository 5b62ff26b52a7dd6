"""Networks of folds, which differ by sizes alone, are traced and written once, each with its own weights; what cannot
be traced is refused in one sentence."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

pytest.importorskip("spox", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnxruntime
from spox import Tensor, argument, build

from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.errors import ConfigError
from mixfit.export import networks as written_networks
from mixfit.export.networks import Networks
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.model import MixedInputModel


def network(cardinalities: tuple[int, ...], bins: int, seed: int) -> MixedInputModel:
    torch.manual_seed(seed)
    edges = ((-1.0, 0.0, 1.0), tuple(float(edge) for edge in range(bins + 1)))
    shape = ModelShape(numeric=2, cardinalities=cardinalities, photos=False, outputs=1, image_size=32, bins=edges)
    config = ModelConfig(tabular="mlp", numbers="piecewise", tabular_hidden=(8,), encoding_dim=4)
    model = make_model(shape, config, pretrained=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_networks_of_other_sizes_are_written_once() -> None:
    models = [network((5, 5), 3, 0), network((7, 5), 6, 1), network((5, 5), 3, 2)]
    inputs = {
        "numeric": argument(Tensor(np.float32, ("rows", 2))),
        "categorical": argument(Tensor(np.int64, ("rows", 2))),
    }
    networks, widths = Networks(), {"numeric": 2, "categorical": 2}
    logging.disable(logging.DEBUG)  # PyTorch logs each step of its tracing, and pytest keeps every line
    outputs = {f"y{place}": networks.outputs(one, inputs, widths, models) for place, one in enumerate(models)}
    logging.disable(logging.NOTSET)
    assert len(networks._written) == 1
    content = build(inputs, outputs).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = {
        "numeric": torch.randn(5, 2, generator=torch.Generator().manual_seed(0)),
        "categorical": torch.tensor([[0, 0], [1, 2], [4, 4], [3, 1], [2, 0]]),
    }
    found = session.run(list(outputs), {name: one.numpy() for name, one in given.items()})
    for model, values in zip(models, found, strict=True):
        with torch.no_grad():
            wanted = model(Inputs(rows=torch.arange(5), **given)).numpy()
        np.testing.assert_allclose(values, wanted, atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-3


class Of(torch.nn.Module):
    """A network that is one function of pixels."""

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.compute(pixels)


def decides_by_values(x: torch.Tensor) -> torch.Tensor:
    return x.mean((1, 2)) if float(x.sum()) > 0 else x.amax((1, 2))


def fails(x: torch.Tensor) -> torch.Tensor:
    return {"known": x}["unknown"]


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (decides_by_values, "GuardOnDataDependentSymNode"),
        (lambda x: torch.linalg.eigvals(x @ x.transpose(1, 2)).real, "linalg_eig"),
        (fails, "KeyError: 'unknown'"),
        (lambda x: x.reshape(2, -1), "rows"),
    ],
    ids=["decides by values", "has no counterpart", "fails", "any other number of rows"],
)
def test_what_cannot_be_traced_is_refused_in_one_sentence(
    compute: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    logging.disable(logging.DEBUG)
    with pytest.raises(
        ConfigError, match=r"^PyTorch cannot write the image network as ONNX \(.*\): train with"
    ) as error:
        written_networks._write(Of(compute), {}, {"pixels": torch.rand(2, 3, 4)}, (), "the image network")
    logging.disable(logging.NOTSET)
    assert "\n" not in str(error.value)
    assert said in str(error.value)
    assert str(error.value).endswith("or architecture, or predict with mixfit.")
