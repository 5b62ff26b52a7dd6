"""What does a run become as one ONNX file: size, seconds of writing, agreement with ``predict``, and speed?

For each run folder: the size of the file, seconds until it is written in memory, the largest difference from
``predict`` and the rows beyond the goal, rows with the same status, and milliseconds of one row and of 256 by either.
For the image network alone, milliseconds of one photo and of each of sixteen: by PyTorch, by what
``torch.onnx.export`` makes of the network as a user would call it, and by the network of the file. Everything runs on
the threads of OMP_NUM_THREADS.
Run: OMP_NUM_THREADS=1 python benchmarks/bench_onnx.py RUN [RUN ...]"""

import platform
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from mixfit.export.exporting import GOAL, measure, rows_of_run
from mixfit.export.graph import Exported, export_graph
from mixfit.export.networks import PIXELS
from mixfit.predictor.blend import BlendPredictor
from mixfit.runs.scoring import load_run

TIMES, MANY = 7, 256


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    """On as many threads as PyTorch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def milliseconds(call: Callable[[], Any]) -> float:
    """Median, after one call to warm up."""
    taken = []
    for _ in range(TIMES + 1):
        started = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - started))
    return float(np.median(taken[1:]))


def network_alone(predictor: BlendPredictor, found: Exported) -> None:
    """Print milliseconds of the image network, three ways."""
    encoder = predictor.photo_encoder
    assert encoder is not None
    assert found.image_network is not None
    size = predictor.image_size
    plain = encoder.encoder.eval()

    class Features(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return plain.encode(pixels, normalized=True)

    network = Features()
    network.plain = plain
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = {"pixels": {0: torch.export.Dim("photos")}}
        made = torch.onnx.export(
            network, (torch.rand(2, 3, size, size),), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    assert made is not None
    user = session_of(made.model_proto.SerializeToString())
    ours = session_of(found.image_network.SerializeToString())
    for count in (1, 16):
        pixels = torch.rand(count, 3, size, size)
        given = pixels.numpy()
        with torch.inference_mode():
            ways = {
                "PyTorch": milliseconds(partial(encoder.fast.encode, pixels, normalized=True)),
                "torch.onnx.export": milliseconds(partial(user.run, None, {user.get_inputs()[0].name: given})),
                "in the file": milliseconds(partial(ours.run, None, {PIXELS: given})),
            }
        said = ", ".join(f"{name} {value / count:.1f}" for name, value in ways.items())
        print(f"  image network, ms a photo of {count}: {said}", flush=True)


def main() -> None:
    """Measure each run."""
    shown = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torch", "onnxscript", "spox"))
    print(f"{shown}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    for run in map(Path, sys.argv[1:]):
        predictor, started = load_run(run), time.perf_counter()
        found = export_graph(predictor)
        content = found.model.SerializeToString()
        print(f"{run.name}: {len(content) / 1e6:.2f} MB, written in {time.perf_counter() - started:.1f} s", flush=True)
        rows, images = rows_of_run(run, predictor)
        assert rows is not None
        agreement, latency = measure(predictor, content, rows, images, timed=MANY)
        beyond = int((agreement.differences > GOAL).sum())
        trained = "" if agreement.as_trained is None else f", {agreement.as_trained:.1e} from features in bfloat16"
        print(
            f"  largest difference {agreement.largest:.1e}{trained}; {beyond} of {len(agreement.differences)} rows "
            f"beyond {GOAL:.0e}; status {agreement.same_status} of {agreement.checked_status}"
        )
        for count, (by_file, by_mixfit) in ((1, latency.one), (latency.rows, latency.many)):
            print(f"  {count} rows: file {1e3 * by_file:.1f} ms, predict {1e3 * by_mixfit:.1f} ms", flush=True)
        if isinstance(predictor, BlendPredictor) and found.image_network is not None:
            network_alone(predictor, found)


if __name__ == "__main__":
    main()
