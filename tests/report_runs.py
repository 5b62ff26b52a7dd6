"""Small runs whose reports are looked at: a blend of a number, and one of classes with markup in all of its names."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.demo import DEMO_TARGET

IMG = "<img src=x onerror=alert(1)>"
SMALL = ModelConfig(tabular_hidden=(16,), encoding_dim=8)


def fit_blend(demo_table: Path, out: Path) -> Run:
    """The small example."""
    train = TrainConfig(preset="quick", epochs=2, folds=3)
    quiet = Console(quiet=True)
    return fit(
        demo_table, target=DEMO_TARGET, data=DataConfig(image_size=32), model=SMALL, train=train, out=out, console=quiet
    )


def fit_classes(out: Path) -> Run:
    """Two classes of rows in pairs, with markup in the names of columns, categories and photos."""
    folder = out / "t"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = 160
    x = rng.normal(size=rows)
    names = [f"{n} {IMG.replace('/', '')}.png" for n in range(rows)]
    for number, (name, value) in enumerate(zip(names, x, strict=True)):
        photo = Image.new("RGB", (32, 32), (int(np.clip(120 + 50 * value, 0, 255)), 90, 90))
        photo.putpixel(divmod(number, 32), (0, 0, 0))  # photos with equal bytes would be copies
        photo.save(folder / name)
    frame = pd.DataFrame(
        {
            f"x {IMG}": x + rng.normal(size=rows),
            f"kind {IMG}": rng.choice(["a", f"b {IMG}", "c"], rows),
            "pair": np.arange(rows) // 2,
            "photo": names,
            f"y {IMG}": np.where(x + rng.normal(size=rows) > 0, "high", f"low {IMG}"),
        }
    )
    frame.loc[5, "photo"] = "gone.png"
    frame.to_csv(folder / "table.csv", index=False)
    return fit(
        folder / "table.csv",
        target=f"y {IMG}",
        data=DataConfig(image_size=32, roles={"pair": "group"}),
        model=SMALL,
        train=TrainConfig(preset="quick", epochs=2, folds=3),
        out=out / "runs",
        console=Console(quiet=True),
    )
