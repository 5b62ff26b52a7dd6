"""Do statistics of activations grow with the steps, and what do they cost? Run: python benchmarks/bench_hooks.py

ResNet-18 trains at 128 px and batch 32, watched and not, in turn step by step; of ten steps one is looked at. On a
busy machine the seconds of CPU say more than those of the clock. Then a ten-layer model is looked at in each of 100,000
steps, and a line is fitted to the resident memory. Two arguments: rounds of the first part, steps of the second."""

import sys
import time
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional as F

from mixfit.hooks.activation_stats import ActivationStats
from mixfit.hooks.gradient_stats import GradientStats

STEPS, EVERY, PIXELS, BATCH = 100_000, 10, 128, 32


def resident() -> float:
    """Memory of this process in kB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4.096


def memory(steps: int) -> None:
    """Resident memory against the steps."""
    layers = [layer for _ in range(5) for layer in (nn.Linear(16, 16), nn.ReLU())]
    model, optimizer_rate = nn.Sequential(*layers), 1e-3
    x, found = torch.randn(8, 16), []
    started = time.perf_counter()
    with ActivationStats(model) as stats:
        for step in range(steps):
            model(x).square().mean().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= optimizer_rate * parameter.grad
            model.zero_grad()
            if step % (steps // 100) == 0:
                found.append((step, resident()))
    seconds = time.perf_counter() - started
    # The first tenth is left out: allocators and the columns fill up.
    at, kilobytes = np.array(found[len(found) // 10 :]).T
    slope = np.polyfit(at / 1000, kilobytes, 1)[0]
    print(
        f"{steps:,} steps of {len(layers)} layers, each looked at, {1e6 * seconds / steps:,.0f} us a step: "
        f"{kilobytes[0]:,.0f} kB resident at step {at[0]:,.0f}, {kilobytes[-1]:,.0f} kB at step {at[-1]:,.0f}\n"
        f"slope {slope:+.3f} kB per 1,000 steps; {stats.timeline.used} columns of {stats.timeline.width:,} steps"
    )


def cost(rounds: int) -> None:
    """Ten steps without statistics, ten with either kind, in turn step by step; of the ten one is looked at."""
    model = timm.create_model("resnet18", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.randn(BATCH, 3, PIXELS, PIXELS), torch.randint(0, 10, (BATCH,))
    activations = ActivationStats(model, every=EVERY)
    gradients = GradientStats(model, optimizer, every=EVERY)

    def step(kind: str) -> np.ndarray:
        started = np.array([time.process_time(), time.perf_counter()])
        with activations if kind == "activations" else nullcontext():
            F.cross_entropy(model(x), y).backward()
        if kind == "gradients":
            gradients.after_backward()
        optimizer.step()
        if kind == "gradients":
            gradients.after_step()
        optimizer.zero_grad()
        return np.array([time.process_time(), time.perf_counter()]) - started

    kinds = ["plain", "activations", "gradients"]
    step("plain")
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        taken = {kind: np.zeros(2) for kind in kinds}
        for place in range(EVERY):
            turn = (number + place) % 3
            for kind in kinds[turn:] + kinds[:turn]:
                taken[kind] += step(kind)
        for kind, seconds in taken.items():
            found[kind].append(seconds)
    plain = np.array(found["plain"])
    cpu, wall = np.median(plain, axis=0) / EVERY
    print(f"ResNet-18, {PIXELS} px, batch {BATCH}, without statistics: {cpu:.3f} s of CPU a step, {wall:.3f} s in all")
    for kind in kinds[1:]:
        for name, ratios in zip(("CPU", "clock"), (np.array(found[kind]) / plain).T, strict=True):
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            print(f"{kind:11} at every={EVERY}, {name:5}: ratio {middle:.4f} (quarters {low:.4f} to {high:.4f})")
    told = next(iter(activations.total().values()))
    print(f"{len(activations.outputs)} outputs were looked at {told.outputs} times")


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    load = Path("/proc/loadavg").read_text().split()[0]
    print(
        f"python {sys.version.split()[0]}, torch {torch.__version__}, timm {version('timm')}, "
        f"{torch.get_num_threads()} threads, load {load}; {rounds} interleaved rounds"
    )
    cost(rounds)
    if steps:
        memory(steps)
