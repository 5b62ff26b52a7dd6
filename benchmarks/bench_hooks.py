"""Do statistics of activations grow with the steps, and what do they cost? Run: python benchmarks/bench_hooks.py

ResNet-18 trains at 128 px and batch 32, watched and not, in interleaved rounds of ten steps, of which one is looked at.
Then a ten-layer model is looked at in each of 100,000 steps, and a line is fitted to the resident memory."""

import statistics
import sys
import time
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
        f"{kilobytes[0]:,.0f} kB resident at step {at[0]:,.0f}, {kilobytes[-1]:,.0f} kB at step {at[-1]:,.0f}; "
        f"slope {slope:+.3f} kB per 1,000 steps; {stats.timeline.used} columns of {stats.timeline.width:,} steps"
    )


def cost(rounds: int) -> None:
    """Time of ten steps with and without statistics, in turn."""
    model = timm.create_model("resnet18", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.randn(BATCH, 3, PIXELS, PIXELS), torch.randint(0, 10, (BATCH,))
    activations = ActivationStats(model, every=EVERY)
    gradients = GradientStats(model, optimizer, every=EVERY)

    def steps(*, gradients_too: bool) -> float:
        started = time.perf_counter()
        for _ in range(EVERY):
            F.cross_entropy(model(x), y).backward()
            if gradients_too:
                gradients.after_backward()
            optimizer.step()
            if gradients_too:
                gradients.after_step()
            optimizer.zero_grad()
        return time.perf_counter() - started

    found: dict[str, list[float]] = {"activations": [], "gradients": []}
    plain: list[float] = []
    steps(gradients_too=False)
    for number in range(rounds):
        kinds = ["plain", *found]
        taken = {}
        for kind in kinds[number % 3 :] + kinds[: number % 3]:  # each has each place in turn
            if kind == "activations":
                with activations:
                    taken[kind] = steps(gradients_too=False)
            else:
                taken[kind] = steps(gradients_too=kind == "gradients")
        plain.append(taken["plain"])
        for kind, values in found.items():
            values.append(taken[kind] / taken["plain"])
    print(f"ResNet-18, {PIXELS} px, batch {BATCH}: {statistics.median(plain) / EVERY:.3f} s a step without statistics")
    for kind, ratios in found.items():
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{kind} at every={EVERY}: ratio {middle:.4f} (quarter to three quarters: {low:.4f} to {high:.4f})")
    print(f"{len(activations.outputs)} outputs were looked at {next(iter(activations.total().values())).outputs} times")


def looked_at(rounds: int) -> None:
    """The forward pass that is looked at beside one that is not: what there is to divide by ten."""
    model = timm.create_model("resnet18", num_classes=10)
    x = torch.randn(BATCH, 3, PIXELS, PIXELS)
    stats, extra = ActivationStats(model), []
    with torch.no_grad():
        for _ in range(rounds):
            taken = []
            for watched in (True, False):
                if watched:
                    stats.place()
                started = time.perf_counter()
                model(x)
                taken.append(time.perf_counter() - started)
                stats.remove()
            extra.append(taken[0] - taken[1])
    print(f"one pass that is looked at takes {statistics.median(extra):.3f} s longer, median of {rounds}")


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    load = Path("/proc/loadavg").read_text().split()[0]
    print(
        f"python {sys.version.split()[0]}, torch {torch.__version__}, timm {version('timm')}, "
        f"{torch.get_num_threads()} threads, load {load}; {rounds} interleaved rounds"
    )
    cost(rounds)
    looked_at(rounds)
    memory(steps)
