"""Which memory format and number type suit an image network on a processor? The table in ``training/choose.py``.

Photos a second for each way to compute, on one thread, by the time of the processor, which others on the machine
disturb least: the best of interleaved rounds. The levels of instructions below the machine's own are had by what
PyTorch and oneDNN read from the environment, each in a process of its own. At the end the table: what is clearly
faster in bfloat16. Then, for the network that comes with trained weights, how far its features turn in bfloat16, on
real photos (``MIXFIT_DATA``).
Run: python benchmarks/bench_arithmetic.py [ROUNDS] [LEVEL ...] [NETWORK ...]"""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.data.photos.store import ImageFiles
from mixfit.nn.backbones import LITE0, SMALL_RESNET, make_backbone
from mixfit.training.choose import FASTER_IN_BFLOAT16, has_bfloat16

LEVELS = {
    "own": {},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
"""Names of levels, and the environment that stands for a processor that has no more."""
NETWORKS = {
    LITE0: ((128, "frozen"), (224, "frozen"), (128, "learns")),
    SMALL_RESNET: ((64, "learns"), (128, "learns")),
    "resnet18": ((64, "learns"), (128, "frozen"), (128, "learns"), (224, "learns")),
    "resnet50": ((128, "frozen"), (128, "learns")),
    "mobilenetv3_small_100": ((128, "frozen"), (128, "learns")),
    "efficientnet_b0": ((128, "frozen"), (128, "learns")),
    "convnext_atto": ((128, "frozen"), (128, "learns")),
    "vit_tiny_patch16_224": ((224, "frozen"), (224, "learns")),
}
PHOTOS, REAL_PHOTOS = 16, 48
CLEARLY = 1.1
"""How many times as fast is more than noise."""


class Way(NamedTuple):
    """To compute."""

    layout: torch.memory_format
    bfloat16: bool


WAYS = {
    "contiguous float32": Way(torch.contiguous_format, bfloat16=False),
    "channels-last float32": Way(torch.channels_last, bfloat16=False),
    "contiguous bfloat16": Way(torch.contiguous_format, bfloat16=True),
    "channels-last bfloat16": Way(torch.channels_last, bfloat16=True),
}


def features(module: nn.Module, pixels: Tensor, way: Way, *, learns: bool = False) -> Tensor:
    """Of photos; with gradients of all weights where the network learns."""
    module.to(memory_format=way.layout)
    with torch.set_grad_enabled(learns), torch.autocast("cpu", dtype=torch.bfloat16, enabled=way.bfloat16):
        found: Tensor = module(pixels.contiguous(memory_format=way.layout)).float()
    if learns:
        torch.autograd.backward(found.square().mean())
        module.zero_grad()
    return found.detach()


def measure(name: str, size: int, use: str, rounds: int) -> list[float]:
    """Photos a second for each of ``WAYS``."""
    torch.manual_seed(0)
    module, learns = make_backbone(name, image_size=size).module.train(use == "learns"), use == "learns"
    pixels, seconds = torch.randn(PHOTOS, 3, size, size), [float("inf")] * len(WAYS)
    for number in range(rounds + 1):
        for place, way in enumerate(WAYS.values()):
            start = time.process_time()
            features(module, pixels, way, learns=learns)
            if number:  # the first round warms up
                seconds[place] = min(seconds[place], time.process_time() - start)
    return [PHOTOS / one for one in seconds]


def measure_here(rounds: int, names: list[str]) -> None:
    """Print one JSON line for each network, size and use."""
    torch.set_num_threads(1)
    for name in names:
        for size, use in NETWORKS[name]:
            print(json.dumps([has_bfloat16(), name, size, use, measure(name, size, use, rounds)]), flush=True)


def cosines() -> None:
    """Print the cosine of features in bfloat16 with those in float32, on photos of every real set."""
    backbone = make_backbone(LITE0)
    module = backbone.module.eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    print(
        f"\n{LITE0}, trained weights: cosine of features in bfloat16 with those in float32, {REAL_PHOTOS} photos a set"
    )
    for folder in sorted(Path(os.environ["MIXFIT_DATA"]).glob("*/images")):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        files = [files[place] for place in np.random.default_rng(0).permutation(len(files))[:REAL_PHOTOS]]
        for size in (128, 224):
            pixels, there = ImageFiles(files, size=size).read(np.arange(len(files)))
            scaled = (pixels[there].float() / 255 - mean) / std
            ways = (WAYS["channels-last float32"], WAYS["channels-last bfloat16"])
            found = F.cosine_similarity(*(features(module, scaled, way) for way in ways))
            print(f"  {folder.parent.name:20}{size:4} pixels  least {found.min():.4f}  median {found.median():.4f}")


def main() -> None:
    """Measure every level of the machine, and print the table."""
    rounds = next((int(argument) for argument in sys.argv[1:] if argument.isdecimal()), 5)
    names = [argument for argument in sys.argv[1:] if argument in NETWORKS] or list(NETWORKS)
    levels = [argument for argument in sys.argv[1:] if argument in LEVELS] or list(LEVELS)
    if "--here" in sys.argv:
        measure_here(rounds, names)
        return
    print(f"torch {version('torch')}, timm {version('timm')}, {torch.cpu.get_capabilities()['cpu_name']}, one thread")
    print(f"photos/s by the time of the processor, batches of {PHOTOS}, best of {rounds} rounds: {', '.join(WAYS)}")
    gains: dict[tuple[bool, str], list[float]] = {}
    for level in levels:
        command = [sys.executable, __file__, "--here", str(rounds), *names]
        process = subprocess.Popen(command, env=os.environ | LEVELS[level], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            has, name, size, use, speeds = json.loads(line)
            shown = "".join(f"{speed:9.1f}" for speed in speeds)
            best = list(WAYS)[max(range(len(WAYS)), key=speeds.__getitem__)]
            print(f"{level:8}{name:24}{size:4} {use:7}{shown}  {best}", flush=True)
            if use == "learns":
                gains.setdefault((has, name), []).append(speeds[3] / speeds[1])
        if process.wait():
            raise SystemExit(f"the level {level} failed")
    print("\nlearning, channels-last: bfloat16 over float32, least and most of all levels and sizes")
    for (has, name), found in gains.items():
        said = "faster" if min(found) > CLEARLY else "not clearly faster"
        assumed = "bfloat16" if has and name.startswith(FASTER_IN_BFLOAT16) else "float32"
        where = "with bfloat16" if has else "without"
        print(f"  {where:14}{name:24}{min(found):6.2f}{max(found):6.2f}  {said}; the table says {assumed}")
    if "MIXFIT_DATA" in os.environ:
        cosines()


if __name__ == "__main__":
    main()
