"""Scaling: the embedding pass and the folds of a preset with one and two workers of Ray, and a large table end to end.

``embed`` prints photos/s and memory with 1 and 2 actors after their start, and the start of Ray; ``folds`` the seconds
of a preset on 1 and 2 cores of Ray; ``table`` trains on and predicts a table of 15 columns, with seconds and peak.
Run: OMP_NUM_THREADS=1 python benchmarks/bench_scale.py embed|folds|table [ROWS]"""

import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from PIL import Image
from rich.console import Console

from mixfit.auto.engine import Engine, Work

QUIET = Console(quiet=True)
SIZES = {"embed": 2_000, "folds": 5_000, "table": 5_000_000}
GROUP, SHARD = 131_072, 128
PRESET = ["--preset", "network", "--tabular", "mlp", "--numbers", "plain", "--epochs", "1", "--no-report"]


def write_photos(folder: Path, rows: int) -> Path:
    """A table of small generated photos, one a row."""
    rng = np.random.default_rng(0)
    for row in range(rows):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{row}.jpg", quality=70)
    frame = pd.DataFrame({"photo": [f"{row}.jpg" for row in range(rows)], "y": rng.normal(size=rows)})
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


class Timed:
    """Another engine, with the time of each result, and the memory of the largest worker then."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.times: list[float] = []
        self.memory: list[float] = []

    def each(self, read: Callable[[], Iterator[Any]], make: Callable[[], Work], *, threads: int) -> Iterator[Any]:
        """See ``Engine``."""
        for found in self.engine.each(read, make, threads=threads):
            self.times.append(time.perf_counter())
            if len(self.times) % 8 == 1:  # looking takes time, too
                self.memory.append(memory_of_workers())
            yield found


def memory_of_workers() -> float:
    """Resident memory in MB of the largest actor of Ray on this machine."""
    found = [0.0]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if (process / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                pages = int((process / "statm").read_text().split()[1])
                found.append(pages * resource.getpagesize() / 1e6)
    return max(found)


def bench_embed(rows: int) -> None:
    """Photos/s by number of actors; Ray has a core more, which reads."""
    from mixfit.auto.embedding import embed
    from mixfit.distributed.ray_engine import RayEngine

    with tempfile.TemporaryDirectory() as name:
        table = write_photos(Path(name), rows)
        found: dict[int, float] = {}
        for workers in (1, 2):
            with RayEngine(workers=workers, cpus=3) as engine:
                timed, out = Timed(engine), Path(name) / f"f{workers}"
                embed(table, out, target="y", image_size=64, shard_rows=SHARD, engine=timed, console=QUIET)
                begun = 2 * workers  # shards after which all actors have worked
                seconds = timed.times[-1] - timed.times[begun - 1]
                found[workers] = (len(timed.times) - begun) * SHARD / seconds
                print(
                    f"embed {workers} worker(s): {found[workers]:7.1f} photos/s after the first {begun} shards; "
                    f"Ray started in {engine.seconds:.1f} s; a worker had {timed.memory[len(timed.memory) // 10]:.0f} "
                    f"MB after a tenth, {timed.memory[-1]:.0f} MB at the end, {max(timed.memory):.0f} MB at most"
                )
        print(f"efficiency of 2 workers: {found[2] / (2 * found[1]):.2f}")


class TimedFits:
    """Other fits, with the times of the first that begins and of the last result."""

    def __init__(self, fits: Any) -> None:
        self.fits = fits
        self.begun, self.ended = math.inf, 0.0

    def begin(self, *given: Any) -> None:
        """See ``Fits``."""
        self.begun = min(self.begun, time.perf_counter())
        self.fits.begin(*given)

    def result(self, *given: Any) -> Any:
        """See ``Fits``."""
        self.begun = min(self.begun, time.perf_counter())
        found = self.fits.result(*given)
        self.ended = time.perf_counter()
        return found

    def stop(self, *given: Any) -> None:
        """See ``Fits``."""
        self.fits.stop(*given)


def bench_folds(rows: int) -> None:
    """Seconds of the preset quick by cores of Ray, and of its fits."""
    from mixfit.auto.recipe import fit
    from mixfit.config import DataConfig, TrainConfig
    from mixfit.distributed.ray_fits import RayFits

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(rows, 15)), columns=[f"x{place}" for place in range(15)])
    frame["y"] = frame["x0"] * frame["x1"] + rng.normal(size=rows)
    found: dict[int, float] = {}
    fitting: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as name:
        for cores in (1, 2):
            with RayFits(cpus=cores) as ray_fits:
                fits, started = TimedFits(ray_fits), time.perf_counter()
                fit(
                    frame,
                    target="y",
                    data=DataConfig(cache_gb=0.0),
                    train=TrainConfig(preset="quick", report=False),
                    out=Path(name) / str(cores),
                    console=QUIET,
                    fits=fits,
                )
                found[cores] = time.perf_counter() - started
                fitting[cores] = fits.ended - fits.begun
                print(
                    f"folds {cores} core(s): {found[cores]:7.1f} s for {rows:,} rows, preset quick, of which "
                    f"{fitting[cores]:.1f} s from the first fit to the last"
                )
    print(
        f"efficiency of 2 cores: {fitting[1] / (2 * fitting[2]):.2f} of the fits, {found[1] / (2 * found[2]):.2f} of "
        "the whole command"
    )


def bench_table(rows: int) -> None:
    """Train and predict by the command line, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        path, rng, writer = Path(name) / "table.parquet", np.random.default_rng(0), None
        for start in range(0, rows, GROUP):
            count = min(GROUP, rows - start)
            columns = {f"x{place}": rng.normal(size=count).astype(np.float32) for place in range(14)}
            columns["y"] = columns["x0"] * columns["x1"] + rng.normal(size=count).astype(np.float32)
            group = pa.table(columns)
            writer = writer or pyarrow.parquet.ParquetWriter(path, group.schema)
            writer.write_table(group)
        assert writer is not None
        writer.close()
        runs = Path(name) / "runs"
        timed("train", rows, ["train", str(path), "--target", "y", "--out", str(runs), *PRESET])
        (run,) = runs.iterdir()
        predict = ["predict", str(run), str(path)]
        timed("predict", rows, [*predict, "-o", str(Path(name) / "predictions.parquet")])
        out = Path(name) / "by_ray"
        timed("predict --engine ray", rows, [*predict, "-o", str(out), "--engine", "ray"])
        (by_ray,) = out.glob("*.parquet")
        same = pd.read_parquet(Path(name) / "predictions.parquet").equals(pd.read_parquet(by_ray))
        print(f"predictions of Ray are {'the same' if same else 'OTHERS'}")


def timed(what: str, rows: int, words: list[str]) -> None:
    """Run a command line, and print its seconds and the peak memory so far."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mixfit", *words], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    print(
        f"{what:<21}{rows:>12,} rows x 15   {seconds:8.1f} s   peak {_peak() / 1e6:,.0f} MB of any process so far",
        flush=True,
    )


def _peak() -> int:
    """Bytes of resident memory of the largest process that has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


if __name__ == "__main__":
    what = sys.argv[1]
    size = int(sys.argv[2]) if len(sys.argv) > 2 else SIZES[what]
    print(f"mixfit {version('mixfit')}, ray {version('ray')}, torch {version('torch')}")
    {"embed": bench_embed, "folds": bench_folds, "table": bench_table}[what](size)
