"""How long does it take to read a wide table: find its roles, learn from it, and inspect it?

    python benchmarks/bench_wide.py [--rows 500] [--numbers 2000] [--columns 500]

Prints CPU seconds of ``infer_schema`` and of one fit of the preprocessor on a frame of numbers, typed and as text, and
of ``inspect`` on a file of mixed columns, once a small one has loaded all modules. Goals: 2 s for roles and fit
together, 5 s where all cells are text, under 3 s for ``inspect``; twice the columns take twice the time."""

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

import mixfit
from mixfit.data.columns.cells import Table
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.preprocess import TablePreprocessor


def numbers(rows: int, columns: int) -> pd.DataFrame:
    """Floats and a target."""
    values = np.random.default_rng(0).normal(size=(rows, columns + 1))
    return pd.DataFrame(values, columns=[*(f"x{place}" for place in range(columns)), "y"])


def mixed(rows: int, columns: int) -> pd.DataFrame:
    """Floats, whole numbers, categories, dates, prices and codes in turn, and a target."""
    rng = np.random.default_rng(0)
    makers = (
        lambda: rng.normal(size=rows).round(3),
        lambda: rng.integers(0, 500, rows),
        lambda: rng.choice(["red", "green", "blue", "white"], rows),
        lambda: (np.datetime64("2020-01-01") + rng.integers(0, 900, rows)).astype(str),
        lambda: [f"${price:,}" for price in rng.integers(100, 99_000, rows)],
        lambda: [f"{code:05d}" for code in rng.integers(0, 60, rows)],
    )
    frame = {f"c{place}": makers[place % len(makers)]() for place in range(columns)}
    return pd.DataFrame({**frame, "y": rng.normal(size=rows)})


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    for name, value in (("--rows", 500), ("--numbers", 2000), ("--columns", 500)):
        parser.add_argument(name, type=int, default=value)
    asked = parser.parse_args()
    print(f"Python {platform.python_version()}, pandas {pd.__version__}, mixfit {mixfit.__version__}")
    frame = numbers(asked.rows, asked.numbers)
    for how, made in (("typed", frame), ("text", frame.astype(str).astype("str"))):
        table = Table(made)
        started = time.process_time()
        schema = infer_schema(table, "y")
        found = time.process_time()
        TablePreprocessor.fit(table, schema)
        fitted = time.process_time()
        again = TablePreprocessor.fit(table.select(np.arange(0, asked.rows, 2)), schema)
        print(
            f"{asked.rows} rows x {asked.numbers} numbers, {how}: infer_schema {found - started:.2f} s, "
            f"fit {fitted - found:.2f} s, of a fold {time.process_time() - fitted:.2f} s ({len(again.columns)} columns)"
        )
    for columns in (2, asked.columns, 2 * asked.columns):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "wide.csv"
            mixed(asked.rows, columns).to_csv(path, index=False)
            started = time.process_time()
            mixfit.inspect_table(path, target="y", out=Path(folder) / "seen", console=Console(quiet=True))
            print(f"{asked.rows} rows x {columns} mixed columns: inspect {time.process_time() - started:.2f} s")


if __name__ == "__main__":
    main()
