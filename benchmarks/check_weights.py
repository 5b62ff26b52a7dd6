"""Do weights mean what they say, in the whole recipe? Prints what rows of weight 0, weight 2 and another unit change.

Trains blends on a table of 300 rows with weights of 1 to 3: alone, with a tenth of junk rows of weight 0 whose targets
are 1e6, and with weights in another unit. Then loads a table and the same one whose rows stand there as often as they
weigh, and compares what is fitted on the training rows.
Run: python benchmarks/check_weights.py [EPOCHS]; epochs of the networks of the blend, 5 by default."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

import mixfit
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.load import load_data
from mixfit.training.build import build_model

ROWS = 300
WEIGHTED = DataConfig(roles={"w": "weight"})


def table() -> pd.DataFrame:
    """Numbers with gaps and skew, a category, two targets and weights that go with the target."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"area": draw.gamma(4, 20, ROWS), "age": draw.normal(30, 8, ROWS)}).round(2)
    frame["town"] = draw.choice(["ash", "elm", "oak", "yew"], ROWS)
    frame["price"] = (frame["area"] / 20 + frame["town"].eq("oak") * 2 + draw.normal(0, 0.4, ROWS)).round(3)
    frame["kind"] = np.where(draw.random(ROWS) < 0.2, "rare", "usual")
    frame.loc[::9, "age"] = np.nan
    frame["w"] = np.where(frame["price"] > frame["price"].median(), 3, draw.integers(1, 3, ROWS))
    frame["split"] = np.where(np.arange(ROWS) % 5 < 3, "train", np.where(np.arange(ROWS) % 5 == 3, "valid", "test"))
    return frame


def with_junk(frame: pd.DataFrame) -> pd.DataFrame:
    """And a tenth of rows that weigh nothing, in between."""
    junk = frame.iloc[::10].assign(price=1e6, area=1e7, town="never", w=0)
    return pd.concat([frame, junk], ignore_index=True).sample(frac=1, random_state=0, ignore_index=True)


def train(frame: pd.DataFrame, folder: Path, name: str, epochs: int) -> Any:
    """A blend by the preset ``quick``."""
    path = folder / f"{name}.csv"
    frame.to_csv(path, index=False)
    settings = TrainConfig(preset="quick", epochs=epochs)
    data = DataConfig(roles={"w": "weight"}, ignore=("kind",))
    return mixfit.fit(path, target="price", data=data, train=settings, out=folder / "runs", console=Console(quiet=True))


def describe(run: Any, frame: pd.DataFrame) -> None:
    """Intervals and scores of the test rows that weigh something, and whether the run says the weighted score."""
    found = pd.read_parquet(run.folder / "predictions_test.parquet")
    weight = frame["w"].iloc[found["row"]].to_numpy()
    every = (found["upper"] - found["lower"]).mean()
    found, weight = found[weight > 0], weight[weight > 0]
    error, width = (found["prediction"] - found["truth"]).abs(), found["upper"] - found["lower"]
    said = run.scores["test"]["mixfit, blend"]["mae"]
    print(
        f"   mean 90 % interval of all test rows {every:.4g} wide; of the {len(found)} that weigh something "
        f"{width.mean():.4g}, "
        f"weighted MAE {np.average(error, weights=weight):.4f}; the run says {said:.4f}"
    )


def same(first: Any, second: Any, file: str) -> str:
    """Whether a file of the model is the same in two runs."""
    one, other = ((run.folder / "model" / file).read_bytes() for run in (first, second))
    return f"{file} {'the same bytes' if one == other else 'DIFFERENT'}"


def fitted(frame: pd.DataFrame, target: str) -> dict[str, float]:
    """What is fitted on the training rows: median, scale and bins of the numbers, the scale of the target, the first
    bias of a network."""
    other = "price" if target == "kind" else "kind"
    data = load_data(frame, target=target, config=DataConfig(roles={"w": "weight"}, ignore=(other,)))
    found = {}
    for column in data.preprocessor.numbers:
        scale = column.scale
        found |= {
            f"{column.name} median": scale.fill,
            f"{column.name} mean": scale.mean,
            f"{column.name} std": scale.std,
        }
    if target == "price":
        found |= {f"target {key}": data.target.to_dict()[key] for key in ("mean", "std")}
    model = build_model(data, ModelConfig(tabular="mlp", numbers="linear"), seed=0)
    bias = model.head.bias.detach().double().flatten()
    return found | {f"first bias {place}": float(value) for place, value in enumerate(bias)}


def main() -> None:
    """Print all figures."""
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"mixfit {mixfit.__version__}, torch {torch.__version__}, {ROWS} rows, preset quick, {epochs} epochs")
    clean, junk = table().drop(columns="split"), with_junk(table().drop(columns="split"))
    # The rows in one order, so that the split is the same.
    clean = junk[junk["w"] > 0].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = {
            name: train(frame, folder, name, epochs)
            for name, frame in (("clean", clean), ("junk", junk), ("unit", clean.assign(w=clean["w"] * 70)))
        }
        print(" without junk")
        describe(runs["clean"], clean)
        print(f" with {len(junk) - len(clean)} junk rows of weight 0")
        describe(runs["junk"], junk)
        print(f"   {same(runs['clean'], runs['junk'], 'model.safetensors')}")
        print(f"   {same(runs['clean'], runs['junk'], 'mixfit.json')}")
        print(f" with weights 70 times as large: {same(runs['clean'], runs['unit'], 'model.safetensors')}")
    print(" weights of 1 to 3 against rows that stand there so often")
    frame = table()
    repeated = frame.loc[np.repeat(frame.index, frame["w"])].assign(w=1).reset_index(drop=True)
    for target in ("price", "kind"):
        once, often = fitted(frame, target), fitted(repeated, target)
        for name, value in often.items():
            found = once.get(name, float("nan"))
            equal = np.isclose(found, value, rtol=1e-5, atol=1e-6)
            print(f"   {target:<6}{name:<16}{found:12.5f}{value:12.5f}   {'equal' if equal else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
