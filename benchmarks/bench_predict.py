"""Memory and time of ``mixfit predict`` on a large table without photos: in pieces, and as one piece.

The table is that of bench_large_table.py, 15 columns; the model is a small MLP that was trained on 5,000 such rows for
an epoch, as memory is the question. Each way runs in a process of its own, on one thread. Its peak of resident memory,
less what it had when the model was loaded, is given in MB and in MB per million rows; the two files must be equal. The
table is a Parquet file, or with "csv" or "csv.gz" a text file.
With "quick": seconds of the processor by stage for a run of the preset quick on 3,000 rows x 30 columns, the table of
bench_growth.py, and how far kernel ridge, which is summed in blocks, is from the plain sum; with "refit" for a run that
was fitted again on all rows, so that one model predicts in place of five.
With "latency": of the default run of ``houses``, seconds of the processor of ``Predictor.load`` in a new process, with
PyTorch's import, of one row with four photos in it, the first time and the median of ten, and of ``mixfit predict``
with an empty cache, as a new row has new photos.
Run: python benchmarks/bench_predict.py [csv|csv.gz] [ROWS]
     python benchmarks/bench_predict.py quick|refit [ROWS]
     MIXFIT_DATA=... python benchmarks/bench_predict.py latency [quick|balanced]"""

import gzip
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from bench_large_table import write_table

ROWS = 2_000_000


def train(folder: Path) -> None:
    """Make a run to predict with."""
    from rich.console import Console

    from mixfit.auto.recipe import fit
    from mixfit.config import ModelConfig, TrainConfig

    table, out = folder / "small.parquet", folder / "runs"
    write_table(table, 5_000)
    model, settings = ModelConfig(tabular="mlp", numbers="plain"), TrainConfig(preset="network", epochs=1)
    fit(table, target="y", model=model, train=settings, out=out, console=Console(quiet=True))


def as_text(table: Path, out: Path) -> Path:
    """The same table as CSV, compressed if ``out`` says so."""
    with gzip.open(out, "wb") if out.suffix == ".gz" else out.open("wb") as file:
        for number, batch in enumerate(pyarrow.parquet.ParquetFile(table).iter_batches(100_000)):
            pyarrow.csv.write_csv(batch, file, pyarrow.csv.WriteOptions(include_header=not number))
    return out


def measure(run: Path, table: Path, out: Path, *, whole: bool) -> None:
    """Predict in this process and print one line."""
    import torch
    from rich.console import Console

    from mixfit.runs import scoring

    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    scoring.load_run(run)
    if whole:
        scoring.PIECE, scoring.PIECE_BYTES = 2**40, 2**60
    before, started = _peak(), time.perf_counter()
    scoring.predict_table(run, table, out=out, console=Console(quiet=True))
    seconds, grown = time.perf_counter() - started, _peak() - before
    rows = pyarrow.parquet.read_metadata(out).num_rows
    print(
        f"{'one piece' if whole else 'in pieces':<12}{rows:>12,} rows   {seconds:7.1f} s   {rows / seconds:>10,.0f} "
        f"rows/s   peak {grown / 1e6:>8,.0f} MB = {grown / rows:>8,.1f} MB per million rows",
        flush=True,
    )


def measure_quick(rows: int, *, refit: bool) -> None:
    """Train a run of the preset quick, and predict new rows with it."""
    import bench_growth
    import torch
    from rich.console import Console

    from mixfit.auto.recipe import fit
    from mixfit.config import TrainConfig
    from mixfit.models import kernels
    from mixfit.runs import scoring

    torch.set_num_threads(1)
    sizes = {"columns": 30, "levels": 300}
    with tempfile.TemporaryDirectory() as folder:
        place, console = Path(folder), Console(quiet=True)
        settings = TrainConfig(preset="quick", refit=refit)
        run = fit(
            bench_growth.table(rows=3_000, seed=0, **sizes), target="y", out=place, train=settings, console=console
        )
        new = bench_growth.table(rows=rows, seed=1, **sizes).drop(columns="y")
        new.to_parquet(place / "new.parquet")
        seconds, timed = bench_growth.watch()
        timed("besides", scoring.predict_table)(run.folder, place / "new.parquet", out=place / "o.csv", console=console)
    print(f"{rows:,} rows, shares {run.predictor.shares}")
    for stage, took in sorted(seconds.items(), key=lambda one: -one[1]):
        print(f"{stage:<22}{took:>10.2f} s")
    print(f"{'all':<22}{sum(seconds.values()):>10.2f} s")
    found = 0.0
    for fold in run.predictor.folds:
        encoded = fold.encoder.encode(new.head(500))
        for model in fold.models.values():
            if isinstance(model, kernels.FittedKernels):
                seen = kernels.Similarity.of(encoded, None, table=True)
                plain = (
                    kernels._total(kernels._kernels(seen, model.model.train), model.model.shares)
                    @ model.model.dual[:, 0]
                )
                apart = np.abs(model.model.predict(seen) - model.model.bias - plain)
                found = max(found, float((apart / np.abs(plain)).max()))
    print(f"kernel ridge apart from the plain sum, relative: {found:.1e}")


LOADED = """
import sys, time
import pandas as pd
from mixfit import Predictor
predictor = Predictor.load(sys.argv[1])
print(time.process_time())
row = pd.read_csv(sys.argv[2])
for _ in range(11):
    started = time.process_time()
    predictor.predict(row, images=sys.argv[3])
    print(time.process_time() - started)
"""
COMMAND = "import sys; from mixfit.cli import main; sys.exit(main(sys.argv[1:]))"


def measure_latency(preset: str) -> None:
    """Train a run of houses, and use it for one row in new processes."""
    photos = Path(os.environ["MIXFIT_DATA"]) / "houses"
    with tempfile.TemporaryDirectory() as name:
        folder, row = Path(name), Path(name) / "row.csv"
        settings = ["--preset", preset, "--ignore", "split", "--out", str(folder / "runs")]
        train = ["train", str(photos / "table.csv"), "--target", "price", "--images", str(photos), *settings]
        trained = os.environ | {"MIXFIT_CACHE": str(folder / "trained")}
        subprocess.run([sys.executable, "-c", COMMAND, *train], check=True, stdout=subprocess.DEVNULL, env=trained)
        (run,) = (folder / "runs").iterdir()
        row.write_text("".join((photos / "table.csv").open().readlines()[:2]))
        for number in range(3):
            new = os.environ | {"MIXFIT_CACHE": str(folder / f"new-{number}")}
            loaded = [sys.executable, "-c", LOADED, str(run), str(row), str(photos)]
            seconds = subprocess.run(loaded, check=True, capture_output=True, text=True).stdout.split()
            load, first, *others = map(float, seconds)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            predict = ["predict", str(run), str(row), "--images", str(photos), "--out", str(folder / "o.csv")]
            subprocess.run([sys.executable, "-c", COMMAND, *predict], check=True, stdout=subprocess.DEVNULL, env=new)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(
                f"load {load:.2f} s, one row with four photos {first:.2f} s the first time, then "
                f"{statistics.median(others):.3f} s, mixfit predict of it {whole:.2f} s"
            )


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Make a table and a model, and measure either way in a new process."""
    if sys.argv[1:2] == ["--train"]:
        return train(Path(sys.argv[2]))
    if sys.argv[1:2] == ["--measure"]:
        run, table, out = map(Path, sys.argv[2:5])
        return measure(run, table, out, whole=out.stem == "whole")
    if sys.argv[1:2] in (["quick"], ["refit"]):
        return measure_quick(int(sys.argv[2]) if sys.argv[2:] else 100_000, refit=sys.argv[1] == "refit")
    if sys.argv[1:2] == ["latency"]:
        return measure_latency(*sys.argv[2:3] or ["quick"])
    kind = sys.argv.pop(1) if sys.argv[1:2] in (["csv"], ["csv.gz"]) else "parquet"
    rows = int(sys.argv[1]) if sys.argv[1:] else ROWS
    print(f"mixfit {version('mixfit')}, pyarrow {pa.__version__}, numpy {np.__version__}, one thread")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A process starts with the peak of the one that starts it, so this one stays small.
        subprocess.run([sys.executable, __file__, "--train", name], check=True)
        run, table = folder / "runs" / "small-y-001", folder / "table.parquet"
        write_table(table, rows)
        if kind != "parquet":
            table = as_text(table, folder / f"table.{kind}")
        for way in ("pieces", "whole"):
            out = folder / f"{way}.parquet"
            subprocess.run([sys.executable, __file__, "--measure", str(run), str(table), str(out)], check=True)
        found = [pyarrow.parquet.ParquetFile(folder / f"{way}.parquet") for way in ("pieces", "whole")]
        alike = all(a.equals(b) for a, b in zip(*(f.iter_batches(100_000) for f in found), strict=True))
        print(f"the rows of both files are {'equal' if alike else 'NOT EQUAL'}")
    return None


if __name__ == "__main__":
    main()
