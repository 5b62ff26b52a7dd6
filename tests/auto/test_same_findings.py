"""What ``inspect`` finds of copies, a training finds too, in the same words."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from mixfit.auto.inspection import inspect_table
from mixfit.auto.preparation import notes_of, warnings_of
from mixfit.config import DataConfig
from mixfit.data.load import load_data


def table_of(folder: Path, *, split: bool) -> Path:
    """Forty rows with a photo each: the first photo is saved anew for row 5, and row 7 has the file of row 6."""
    rng = np.random.default_rng(0)
    for row in range(40):
        small = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{row}.png")
    with Image.open(folder / "0.png") as photo:
        photo.save(folder / "5.png.jpg", quality=80)
    files = [f"{row}.png" for row in range(40)]
    files[5], files[7] = "5.png.jpg", "6.png"
    frame = pd.DataFrame({"x": rng.normal(size=40), "photo": files, "y": rng.normal(size=40)})
    if split:
        frame["split"] = [
            "test" if row in (5, 7, 9, 11) else "valid" if row % 10 == 3 else "train" for row in range(40)
        ]
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.mark.parametrize("split", [False, True])
def test_photos_that_are_nearly_or_fully_equal_are_told_alike_by_inspect_and_training(
    tmp_path: Path, split: bool
) -> None:
    config = DataConfig(cache_gb=0.0)
    table = table_of(tmp_path, split=split)
    found = inspect_table(table, target="y", config=config, out=tmp_path / "out", console=Console(quiet=True)).checks
    data = load_data(table, target="y", config=config, progress=False)
    told = {"warning": warnings_of(data, tmp_path), "note": notes_of(data)}
    for words in (
        "pairs of photos look nearly the same: 0.png (row 0) and 5.png.jpg (row 5)",
        "1 photo is used (equal",
    ):
        (check,) = [check for check in found if words in check.text]
        assert check.level == ("warning" if split else "note")
        assert check.text in told[check.level]
        assert ("on two sides of the split" in check.text) == split
