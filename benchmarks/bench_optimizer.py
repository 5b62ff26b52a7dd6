"""What does a step of our optimisers cost, against ``torch.optim`` with ``foreach=True``?

On the parameters of timm's ResNet-18 (62 tensors, 11.7 million numbers: memory decides) and of a TabM of 32 members
(small tensors: Python decides). Both sides step copies of the same parameters with the same gradients, in turn.
Run: OMP_NUM_THREADS=2 python benchmarks/bench_optimizer.py [rounds]"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import nn

from mixfit.training.optimizer import SGD, Adam, AdamW, RMSProp

PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "SGD": (SGD, torch.optim.SGD, {}),
    "SGD, momentum": (SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 1e-4}),
    "SGD, Nesterov": (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "RMSProp": (RMSProp, torch.optim.RMSprop, {}),
    "Adam": (Adam, torch.optim.Adam, {}),
    "AdamW": (AdamW, torch.optim.AdamW, {"weight_decay": 0.01}),
}
SECONDS_A_TURN = 0.05


def shapes_of_resnet() -> list[tuple[int, ...]]:
    """Kernels, norms and one linear layer."""
    return [tuple(parameter.shape) for parameter in timm.create_model("resnet18").parameters()]


def shapes_of_tabm(members: int = 32, width: int = 256, blocks: int = 3, numeric: int = 10) -> list[tuple[int, ...]]:
    """Piecewise-linear embeddings, blocks of shared weights with scalings per member, a head per member."""
    d = numeric * 16
    shapes: list[tuple[int, ...]] = [(numeric, 32, 16), (numeric, 16), (members, d)]
    for d_in in [d, *[width] * (blocks - 1)]:
        shapes += [(width, d_in), (members, d_in), (members, width), (members, width)]
    return [*shapes, (members, width, 1), (members, 1)]


def parameters_of(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    """The same numbers for the same shapes, with gradients."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def seconds_a_step(step: Callable[[], Any], steps: int) -> float:
    """Mean of some steps in a row."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - started) / steps


def compare(name: str, shapes: list[tuple[int, ...]], rounds: int) -> None:
    """One line: medians over the rounds, and the median of the rounds' ratios."""
    make_ours, make_theirs, settings = PAIRS[name]
    ours = make_ours(parameters_of(shapes), lr=1e-4, **settings)
    theirs = make_theirs(parameters_of(shapes), lr=1e-4, foreach=True, **settings)
    steps = max(1, round(SECONDS_A_TURN / seconds_a_step(theirs.step, 3)))
    seconds_a_step(ours.step, 3)
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        turns = {True: ours.step, False: theirs.step}
        taken = {mine: seconds_a_step(turns[mine], steps) for mine in sorted(turns, reverse=bool(number % 2))}
        times.append((taken[True], taken[False]))
    mine, reference = (1e6 * statistics.median(column) for column in zip(*times, strict=True))
    ratios = sorted(a / b for a, b in times)
    print(
        f"  {name:14} ours {mine:9,.1f} us, torch.optim {reference:9,.1f} us, ratio {statistics.median(ratios):.3f} "
        f"({ratios[len(ratios) // 4]:.3f} to {ratios[-1 - len(ratios) // 4]:.3f})"
    )


def main() -> None:
    """All pairs on both sets of parameters."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; medians of {rounds} interleaved rounds "
        "(ratio: quarter to three quarters of the rounds)"
    )
    for what, shapes in {"ResNet-18": shapes_of_resnet(), "TabM, 32 members": shapes_of_tabm()}.items():
        numbers = sum(torch.Size(shape).numel() for shape in shapes)
        print(f"{what}: {len(shapes)} tensors, {numbers:,} numbers")
        for name in PAIRS:
            compare(name, shapes, rounds)


if __name__ == "__main__":
    main()
