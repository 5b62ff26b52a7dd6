"""A small network with the weights of a tiny image network of timm from a file, so that the image network is frozen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from quick_runs import QUICK_MODEL
from safetensors.torch import save_file

from mixfit.config import ModelConfig


def tiny_model(folder: Path, backbone: str = "test_efficientnet") -> ModelConfig:
    """Of the same kinds of layers as the default network, but written as ONNX in a tenth of its time."""
    torch.manual_seed(0)
    network: Any = timm.create_model(backbone, pretrained=False, num_classes=0)
    # Statistics of photos of all colours, else what is random would tell photos apart by the last digits alone.
    colours = torch.rand(64, 3, 1, 1) + 0.3 * torch.randn(64, 3, 64, 64)
    with torch.no_grad():
        for _ in range(10):
            network.train()(colours)
    save_file(network.state_dict(), folder / "tiny.safetensors")
    return replace(
        QUICK_MODEL, tabular="mlp", numbers="plain", backbone=backbone, backbone_weights=folder / "tiny.safetensors"
    )
