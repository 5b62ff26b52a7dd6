"""Runs of one small network for few epochs, which take a second or two."""

from pathlib import Path

from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.config import DataConfig, ModelConfig, TrainConfig

QUICK_DATA = DataConfig(image_size=32)
QUICK_MODEL = ModelConfig(tabular_hidden=(16,), encoding_dim=8)
QUICK_TRAIN = TrainConfig(preset="network", epochs=3, patience=3)


def quick_fit(table: Path, target: str, out: Path, *, data: DataConfig = QUICK_DATA) -> Run:
    """The whole of ``mixfit train`` with a small network and few epochs."""
    return fit(
        table, target=target, data=data, model=QUICK_MODEL, train=QUICK_TRAIN, out=out, console=Console(quiet=True)
    )
