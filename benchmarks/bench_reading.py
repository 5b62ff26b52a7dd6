"""How long does it take to read a table and to find its photos, against pandas and bare stat calls in the same run?

Run: python benchmarks/bench_reading.py [rows]"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mixfit.config import TextConfig
from mixfit.data.photos.find import find_photos
from mixfit.data.table.read import read_as_configured

ROUNDS = 5


def seconds(function: Callable[[], object]) -> float:
    """One call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(question: str, ours: Callable[[], object], reference: Callable[[], object], name: str) -> None:
    """Medians over interleaved rounds."""
    times = [(seconds(ours), seconds(reference)) for _ in range(ROUNDS)]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{question}: mixfit {mine:.3f} s, {name} {theirs:.3f} s, ratio {mine / theirs:.2f} (median of {ROUNDS})")


def main(rows: int) -> None:
    """Print both comparisons."""
    random = np.random.default_rng(0)
    numbers = {f"number_{i}": random.normal(size=rows).round(4) for i in range(10)}
    words = {f"word_{i}": random.choice(["red", "green", "blue, or so"], rows) for i in range(5)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pd.DataFrame(numbers | words).to_csv(folder / "table.csv", index=False)
        report(
            f"format and cells of a CSV of {rows:,} rows x 15",
            lambda: read_as_configured(folder / "table.csv", TextConfig()),
            lambda: pd.read_csv(folder / "table.csv", dtype=str),
            "pandas.read_csv(dtype=str)",
        )
        files = [folder / f"{i}.jpg" for i in range(20_000)]
        for file in files:
            file.write_bytes(b"x")
        frame = pd.DataFrame({"photo": [file.name for file in files]})
        report(
            "safe paths of 20,000 photos",
            lambda: find_photos(frame, ["photo"], folder),
            lambda: [file.stat() for file in files],
            "Path.stat alone",
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
