"""How often cells are converted, and what fit and predict cost: ``quick`` on a table, and ``predict`` on many rows.

The table is made: 2,000 rows of twelve numbers, a date and seven categories, without photos; with --houses it is that
of MIXFIT_DATA, with photos, whose features a first fit has put into a cache. Conversions are calls of ``to_numbers``,
``to_keys`` and ``to_times``, those within another not counted. Times are of the processor. With
--against, another checkout's ``src`` is measured in turn with this one, and ratios are printed; equal digests say that
the predictions are equal to the bit. Run:
python benchmarks/bench_parsing.py [--houses] [--against SRC] [--rows ROWS]"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

ROWS = 100_000
PASSES = 3
HOUSES = "houses"


def make_table(rows: int, seed: int) -> pd.DataFrame:
    """A table whose target depends on a few of its columns."""
    rng = np.random.default_rng(seed)
    cells: dict[str, Any] = {f"number_{i}": rng.normal(size=rows).round(4) for i in range(12)}
    cells["number_11"][rng.random(rows) < 0.05] = np.nan
    cells["sold"] = (np.datetime64("2015-01-01") + rng.integers(0, 3000, rows)).astype(str)
    for place, levels in enumerate((3, 5, 8, 20, 40, 100)):
        cells[f"kind_{place}"] = np.array([f"level {code}" for code in rng.integers(0, levels, rows)])
    cells["postcode"] = np.array([f"{code:05d}" for code in rng.integers(10_000, 10_300, rows)])
    cells["y"] = (cells["number_0"] * 3 + (cells["kind_1"] == "level 2") * 2 + rng.normal(size=rows)).round(4)
    return pd.DataFrame(cells)


def count_conversions() -> Counter[tuple[str, str]]:
    """From now on, how often each column is converted, by name of the column and of the conversion."""
    from mixfit.data.columns import values

    counts: Counter[tuple[str, str]] = Counter()
    inside: list[str] = []
    for name in ("to_numbers", "to_keys", "to_times"):
        real = getattr(values, name)

        def counted(column: pd.Series, *args: Any, _name: str = name, _real: Any = real, **settings: Any) -> Any:
            if not inside:
                counts[str(column.name), _name] += 1
            inside.append(_name)
            try:
                return _real(column, *args, **settings)
            finally:
                inside.pop()

        for module in [module for key, module in sys.modules.items() if key.startswith("mixfit")]:
            if getattr(module, name, None) is real:
                setattr(module, name, counted)
    return counts


def measure(folder: Path, rows: int, *, houses: bool) -> dict[str, Any]:
    """Fit and predict in this process."""
    import torch
    from rich.console import Console

    from mixfit.auto.recipe import fit
    from mixfit.config import DataConfig, TrainConfig
    from mixfit.predictor.base import Predictor

    torch.set_num_threads(1)
    counts = count_conversions()
    table, target = folder / "small.csv", "y"
    if houses:
        table, target = Path(os.environ["MIXFIT_DATA"]) / HOUSES / "table.csv", "price"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as out:
        started = time.process_time()
        fit(
            table,
            target=target,
            data=DataConfig(cache=folder / "cache"),
            train=TrainConfig(preset="quick"),
            out=Path(out),
            console=Console(quiet=True),
        )
        found["fit"] = time.process_time() - started
        columns = Counter(name for name, _ in counts.elements())
        found["most"] = max(columns.values())
        found["all"] = counts.total()
        run = next(Path(out).iterdir())
        predictor = Predictor.load(run / "model")
        counts.clear()
        if houses:
            frame = pd.read_csv(table)
            asked = {"images": table.parent}
        else:
            frame, asked = make_table(rows, 1), {}
        started = time.process_time()
        predictions = predictor.predict(frame, **asked)
        found["predict"] = time.process_time() - started
        found["predict_all"] = counts.total()
        digest = hashlib.sha256(predictions["prediction"].to_numpy().tobytes())
        digest.update("\n".join(predictions["status"]).encode())
        found["digest"] = digest.hexdigest()[:16]
    return found


def main() -> None:
    """Measure this checkout, or two in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--houses", action="store_true")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--measure", type=Path)
    asked = parser.parse_args()
    if asked.measure is not None:
        print(json.dumps(measure(asked.measure, asked.rows, houses=asked.houses)))
        return
    here = Path(__file__).resolve().parents[1] / "src"
    trees = {"this": here} | ({"against": asked.against.resolve()} if asked.against else {})
    print(f"mixfit {version('mixfit')}, pandas {pd.__version__}, numpy {np.__version__}, one thread")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as name:
        make_table(2_000, 0).to_csv(Path(name) / "small.csv", index=False)
        words = [sys.executable, __file__, "--measure", name, "--rows", str(asked.rows)]
        words += ["--houses"] if asked.houses else []
        for turn in range(asked.passes + asked.houses):
            for tree, src in trees.items():
                said = subprocess.run(
                    words, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(src)}
                )
                if turn or not asked.houses:  # the first fit fills the cache
                    found[tree].append(json.loads(said.stdout.splitlines()[-1]))
    middle = {
        tree: {key: median(one[key] for one in all_) for key in ("fit", "predict")} for tree, all_ in found.items()
    }
    for tree, all_ in found.items():
        last = all_[-1]
        print(
            f"{tree:<8} fit {middle[tree]['fit']:6.2f} s, {last['all']:,} conversions, {last['most']} of one column; "
            f"predict {middle[tree]['predict']:6.2f} s, {last['predict_all']:,} conversions; median of {len(all_)}; "
            f"digest {last['digest']}"
        )
    if asked.against:
        ratios = [f"{key} {middle['against'][key] / middle['this'][key]:.2f}" for key in ("fit", "predict")]
        print(f"ratio    {', '.join(ratios)}")


if __name__ == "__main__":
    main()
