"""Networks of folds, which differ by sizes alone, are traced and written once, each with its own weights."""

import logging

import numpy as np
import pytest
import torch

pytest.importorskip("spox", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnxruntime
from spox import Tensor, argument, build

from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
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
