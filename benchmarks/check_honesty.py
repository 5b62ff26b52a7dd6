"""Do out-of-fold figures promise what the test shows? Small tables in which memory looks like knowledge.

Run: python benchmarks/check_honesty.py [SETS]

- twice: targets are noise and every row is there twice, with ``dedup``: nothing can be predicted.
- objects: eight measurements of each of 60 objects, whose id repeats; a given split by object.
- walk: a random walk, and a number that counts its steps, split by time: the past says nothing of the next value but
  that it is near the last one.
- callback: targets are noise, and early stopping by the validation loss among the callbacks of a preset.

Each is drawn SETS times (by default 5) and trained with the preset quick and few epochs. Printed are R2 out of fold and
of the test, of the callback the losses, as means over the sets. Works with any version of mixfit, so that figures of
before a change can be printed by it, too.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

import mixfit
from mixfit.config import DataConfig, TrainConfig
from mixfit.runs.results import BLEND, TREES

EPOCHS = 5


def twice(rng: np.random.Generator) -> pd.DataFrame:
    """Noise, every row twice, in random order."""
    once = pd.DataFrame(rng.normal(size=(100, 4)), columns=list("abcd")).assign(y=rng.normal(size=100))
    return pd.concat([once, once]).sample(frac=1, random_state=int(rng.integers(1_000)))


def objects(rng: np.random.Generator) -> pd.DataFrame:
    """Things with a value of their own that no feature tells, each measured eight times."""
    thing, place, own = np.repeat(np.arange(60), 8), rng.normal(size=(60, 6)), rng.normal(size=60)
    frame = pd.DataFrame(place[thing] + 0.05 * rng.normal(size=(480, 6)), columns=[f"v{i}" for i in range(6)])
    split = np.where(thing < 40, "train", np.where(thing < 48, "valid", "test"))
    target = 0.5 * place[thing, 0] + own[thing] + 0.05 * rng.normal(size=480)
    return frame.assign(object_id=thing, split=split, y=target)


def walk(rng: np.random.Generator) -> pd.DataFrame:
    """The steps of a random walk, and a feature that tells when each was."""
    steps = np.cumsum(rng.normal(size=500))
    return pd.DataFrame(
        {
            "t": np.arange(500),
            "step": np.arange(500) + 0.1 * rng.normal(size=500),
            "x": rng.normal(size=500),
            "y": steps,
        }
    )


def noise(rng: np.random.Generator) -> pd.DataFrame:
    """Features and a target that have nothing in common."""
    return pd.DataFrame(rng.normal(size=(200, 6)), columns=list("abcdef")).assign(y=rng.normal(size=200))


def fitted(frame: pd.DataFrame, folder: Path, seed: int, data: DataConfig, **options: Any) -> Any:
    """A run of the preset on a table."""
    folder.mkdir()
    frame.to_csv(folder / "table.csv", index=False)
    train = TrainConfig(preset="quick", epochs=EPOCHS, seed=seed)
    table, out, quiet = folder / "table.csv", folder / "runs", Console(quiet=True)
    return mixfit.fit(table, target="y", data=data, train=train, out=out, console=quiet, **options)


def run(
    name: str, make: Callable[[np.random.Generator], pd.DataFrame], sets: int, folder: Path, data: DataConfig
) -> None:
    """Print R2 of the blend and of boosted trees."""
    found = []
    for seed in range(sets):
        scores = fitted(make(np.random.default_rng(seed)), folder / f"{name}-{seed}", seed, data).scores
        found.append([scores[part][model]["r2"] for part in ("valid", "test") for model in (BLEND, TREES)])
    out, out_trees, test, test_trees = np.median(found, axis=0)
    print(
        f"{name:<9} {sets} sets, medians of R2: out of fold {out:6.3f} (boosted trees {out_trees:6.3f}), "
        f"test {test:6.3f} (boosted trees {test_trees:6.3f})",
        flush=True,
    )


def run_callback(sets: int, folder: Path) -> None:
    """Mean squared error of the network, with and without a callback that chooses."""
    for name, callbacks in (("without", []), ("with", [mixfit.EarlyStopping("valid_loss", mode="min", patience=1)])):
        found = []
        for seed in range(sets):
            frame = noise(np.random.default_rng(seed))
            scores = fitted(frame, folder / f"{name}-{seed}", seed, DataConfig(), callbacks=callbacks).scores
            found.append([scores[part]["network, table"]["rmse"] ** 2 for part in ("valid", "test")])
        out, test = np.mean(found, axis=0)
        print(
            f"callback  {sets} sets, network {name:<7} early stopping: "
            f"squared error out of fold {out:.3f}, test {test:.3f}"
        )


def main() -> None:
    """Run all of them."""
    sets = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"mixfit {mixfit.__version__}, preset quick, {EPOCHS} epochs")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run("twice", twice, sets, root, DataConfig(dedup=True))
        run("objects", objects, sets, root, DataConfig())
        run("walk", walk, sets, root, DataConfig(split_time="t"))
        run_callback(sets, root)


if __name__ == "__main__":
    main()
