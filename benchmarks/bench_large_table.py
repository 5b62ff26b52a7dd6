"""Memory and time of turning a Parquet table into arrays: ten numbers, a date, three categories and a target a row.

Each size runs in a process of its own; its peak of resident memory, less what the imports took, is divided by the
rows. The arrays themselves take 4 bytes a numeric and 8 bytes a categorical output. With --whole, the
whole frame is held. Run: python benchmarks/bench_large_table.py [--whole] [ROWS ...]"""

import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

SIZES = (1_000_000, 10_000_000)
GROUP = 131_072


def write_table(path: Path, rows: int) -> None:
    """Made data, one row group at a time."""
    rng = np.random.default_rng(0)
    words = {"kind": 5, "maker": 200, "place": 5_000}
    writer = None
    for start in range(0, rows, GROUP):
        count = min(GROUP, rows - start)
        numbers = {f"number_{i}": rng.normal(size=count) for i in range(10)}
        numbers["number_9"][rng.random(count) < 0.05] = np.nan
        columns: dict[str, pa.Array] = {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}
        columns["sold"] = pa.array(np.datetime64("2015-01-01") + rng.integers(0, 3000, count).astype("timedelta64[D]"))
        for name, levels in words.items():
            columns[name] = pa.array([f"{name} {code}" for code in rng.integers(0, levels, count)])
        columns["y"] = pa.array(numbers["number_0"] * 3 + rng.normal(size=count))
        group = pa.table(columns)
        writer = writer or pyarrow.parquet.ParquetWriter(path, group.schema)
        writer.write_table(group)
    if writer is not None:
        writer.close()


def measure(path: Path, *, whole: bool) -> None:
    """Load in this process and print one line."""
    from mixfit.data import load

    load.LARGE = 2**60 if whole else 2**20
    before, started = _peak(), time.perf_counter()
    mixed = load.load_data(path, target="y")
    numeric, categorical = mixed.arrays.numeric.numpy(), mixed.arrays.categorical.numpy()
    seconds, rows = time.perf_counter() - started, len(numeric)
    grown, held = _peak() - before, (numeric.nbytes + categorical.nbytes) / rows
    print(
        f"{'whole frame' if whole else 'in pieces':<12}{rows:>12,} rows   {seconds:7.1f} s   {rows / seconds:>10,.0f} "
        f"rows/s   peak {grown / 1e6:>8,.0f} MB above the imports = {grown / rows:6.0f} bytes a row, "
        f"of which arrays {held:.0f}",
        flush=True,
    )


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Generate a table of each size and measure it in a new process."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--whole"]
    if arguments[:1] == ["--measure"]:
        return measure(Path(arguments[1]), whole="--whole" in sys.argv)
    print(f"mixfit {version('mixfit')}, pyarrow {pa.__version__}, numpy {np.__version__}")
    for rows in map(int, arguments) if arguments else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.parquet"
            write_table(path, rows)
            flags = ["--whole"] if "--whole" in sys.argv else []
            subprocess.run([sys.executable, __file__, "--measure", str(path), *flags], check=True)
    return None


if __name__ == "__main__":
    main()
