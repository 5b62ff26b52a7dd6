"""A training whose table and features do not fit in memory: that of one whose do, to the bit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from small_runs import MODEL

from mixfit.auto.embedding import embed
from mixfit.auto.recipe import Run, fit
from mixfit.config import DataConfig, TrainConfig
from mixfit.data import arrays, load
from mixfit.data.photos import scores

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def table(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small example as Parquet, and the features of its photos beside it."""
    folder = tmp_path_factory.mktemp("large")
    pd.read_csv(demo_table).to_parquet(folder / "t.parquet")
    embed(folder / "t.parquet", folder / "f", target="price", images=demo_table.parent, image_size=32, console=QUIET)
    return folder / "t.parquet"


def trained(table: Path, images: Path, out: Path) -> Run:
    """A run on a table that is read in pieces."""
    data = DataConfig(images=images, features=str(table.parent / "f"), cache_gb=0.0)
    train = TrainConfig(preset="quick", epochs=2, report=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "LARGE", 10**6)
        patch.setattr(load, "bytes_of_parquet", lambda path: 10**7)
        patch.setattr(load, "PIECE", 40)
        return fit(table, target="price", data=data, model=MODEL, train=train, out=out, console=QUIET)


def test_models_on_arrays_in_files_are_those_on_arrays_in_memory(
    table: Path, demo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(table, demo_table.parent, tmp_path / "memory")
    made: list[int] = []
    real = np.memmap

    def counted(*arguments: object, **settings: object) -> np.memmap:
        found = real(*arguments, **settings)
        made.append(found.nbytes)
        return found

    monkeypatch.setattr(np, "memmap", counted)
    monkeypatch.setattr(arrays, "LARGEST", 2_000)
    monkeypatch.setattr(scores, "sampled", lambda rows, *_: rows)  # from all rows, which are few
    found = trained(table, demo_table.parent, tmp_path / "files")
    features = 4 * 2_224 * len(pd.read_parquet(table))
    assert max(made) >= features
    assert sum(made) > 10 * features  # those of rows and of folds, too
    assert found.contest is not None
    assert {"linear, table and photos", "boosted trees, table and photos"} <= {
        line.model for line in found.contest.leaderboard
    }
    files = [(run.folder / "model" / "model.safetensors").read_bytes() for run in (found, whole)]
    assert files[0] == files[1]
