"""Does the doctor name planted faults, and is it silent where there is none? Run: python benchmarks/check_doctor.py

Five healthy trainings, one on each of the sets in MIXFIT_DATA (some of the rows, features of the frozen image network
computed once), then trainings on parts of the same sets with a fault each. Prints a table for docs/LOG.md. An argument
chooses the lines whose fault contains it."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import mixfit
from mixfit.config import ModelConfig
from mixfit.data.load import MixedData
from mixfit.diagnostics.doctor import find_quietly
from mixfit.diagnostics.findings import Finding
from mixfit.errors import Diverged
from mixfit.training.build import precompute_features
from mixfit.training.callback import Callback, TrainState
from mixfit.training.loss import cross_entropy, mse

TARGETS = {
    "houses": "price",
    "fashion_products": "gender",
    "covid_xray": "covid19",
    "movies": "imdb_rating",
    "leaf99": "species",
}
ROWS = {"houses": 300, "fashion_products": 500, "covid_xray": 573, "movies": 500, "leaf99": 990}
DEFAULT = ModelConfig()
SMALL = ModelConfig(tabular="mlp", tabular_hidden=(32,), encoding_dim=32)
Change = Callable[[pd.DataFrame], pd.DataFrame]
Plant = Callable[[mixfit.MixedInputModel], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training."""

    fault: str
    expected: tuple[str, ...]
    """Names of findings that name it; none for a healthy training."""
    table: str
    rows: int | None = None
    config: ModelConfig = DEFAULT
    pixels: bool = False
    """Whether the image network sees them in every epoch, rather than its features being computed once."""
    frame: Change | None = None
    plant: Plant | None = None
    callbacks: tuple[Callback, ...] = ()
    epochs: int = 8
    lr: float = 2e-3
    rates: dict[str, float] | None = None


def images_of(frame: pd.DataFrame) -> list[str]:
    """Names of the image columns."""
    return [name for name in frame if frame[name].astype(str).str.startswith("images/").any()]


@cache
def rows_of(table: str, rows: int) -> pd.DataFrame:
    """Some rows of a set, the same each time."""
    folder = Path(os.environ["MIXFIT_DATA"]) / table
    frame = mixfit.read_table(folder / "table.csv")
    return frame.sample(n=min(rows, len(frame)), random_state=0).reset_index(drop=True)


def load(case: Case, cache_folder: Path) -> MixedData:
    """The rows of a case, small."""
    folder = Path(os.environ["MIXFIT_DATA"]) / case.table
    frame = rows_of(case.table, case.rows or ROWS[case.table])
    frame = frame if case.frame is None else case.frame(frame.copy())
    config = mixfit.DataConfig(cache=cache_folder, image_size=96)
    return mixfit.load_data(frame, target=TARGETS[case.table], config=config, images=folder, batch_size=32, seed=0)


def run(case: Case, cache_folder: Path) -> tuple[Finding, ...]:
    """Train it under the doctor's eyes."""
    data = load(case, cache_folder)
    torch.manual_seed(0)
    model = mixfit.build_model(data, case.config)
    if not case.pixels:
        data = precompute_features(data, model)
    if case.plant is not None:
        case.plant(model)
    doctor = mixfit.Doctor(every=2, photo_columns=data.schema.names("image"))
    loss = mse if data.target.classes is None else cross_entropy
    learner = mixfit.Learner(
        model, data, loss=loss, callbacks=[doctor, *case.callbacks], rates=case.rates, device="cpu"
    )
    doctor.search = find_quietly(learner)
    try:
        learner.fit_one_cycle(case.epochs, case.lr)
    except Diverged as error:
        print(f"  ({error})", flush=True)
    if "-v" in sys.argv:
        seen = doctor.observed()
        print(*seen.epochs, *seen.parts, *seen.fusion, *seen.layers, sep="\n    ")
        print(seen.search and (seen.search.suggestions, min(seen.search.smoothed)))
    return doctor.findings()


class DeepTable(nn.Module):
    """A table encoder of many layers without norms or shortcuts.

    Args:
        gain: of the first weights; with a sigmoid gradients vanish, with ReLU and a gain above sqrt(2) they explode."""

    def __init__(self, data_width: int, activation: type[nn.Module], gain: float) -> None:
        super().__init__()
        widths = [data_width] + [32] * 8
        linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
        for linear in linears:
            nn.init.normal_(linear.weight, std=gain / linear.in_features**0.5)
        self.layers = nn.Sequential(*(layer for linear in linears for layer in (linear, activation())))
        self.out_dim = 32

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """The last linear one."""
        return (self.layers[-2],)

    def forward(self, numeric: Tensor, categorical: Tensor, mix: Any = None) -> Tensor:
        """Of the numbers alone."""
        return self.layers(numeric)


def deep(activation: type[nn.Module], gain: float) -> Plant:
    """Put a deep encoder in the place of the table's."""

    def plant(model: mixfit.MixedInputModel) -> None:
        width = len(model.tabular.columns.numbers.widths)
        torch.manual_seed(0)
        model.tabular = DeepTable(width, activation, gain)

    return plant


@torch.no_grad()
def kill_images(model: mixfit.MixedInputModel) -> None:
    """The projection gives so negative numbers that its activation gives nothing."""
    model.image.project[2].weight.mul_(0.01)
    model.image.project[2].bias.fill_(-30.0)


@torch.no_grad()
def loud_table(model: mixfit.MixedInputModel) -> None:
    """The table's vectors are 200 times as large."""
    for layer in model.tabular.last_layers:
        for parameter in layer.parameters():
            parameter.mul_(200.0)


@torch.no_grad()
def stuck_gate(model: mixfit.MixedInputModel) -> None:
    """Gates that are wide open or closed."""
    model.fusion.gate.weight.mul_(500.0)


class Thaw(Callback):
    """Puts the frozen backbone into training mode, so that its BatchNorm goes on counting."""

    def before_train(self, state: TrainState) -> None:
        """After the model has gone into training mode."""
        state.model.image.backbone.train()
        for module in state.model.image.backbone.modules():
            module.training = True


def mixed_up(*names: str) -> Change:
    """The cells of columns dealt out to other rows."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        order = np.random.default_rng(0).permutation(len(frame))
        for name in names or images_of(frame):
            frame[name] = frame[name].to_numpy()[order]
        return frame

    return change


# After eight epochs the network does over-fit on covid_xray, as the doctor then says.
HEALTHY = [Case(fault="none", expected=(), table=name, epochs=5) for name in TARGETS]
FAULTS = [
    Case(fault="dead image branch", expected=("dead image branch",), table="houses", config=SMALL, plant=kill_images),
    Case(
        fault="table 200 times as loud",
        expected=("the table dominates",),
        table="fashion_products",
        config=SMALL,
        plant=loud_table,
    ),
    Case(
        fault="gates at their ends",
        expected=("saturated fusion",),
        table="leaf99",
        config=replace(SMALL, fusion="gated"),
        plant=stuck_gate,
    ),
    Case(
        fault="eight sigmoids in a row",
        expected=("vanishing gradients",),
        table="houses",
        config=replace(SMALL, numbers="linear"),
        plant=deep(nn.Sigmoid, 1.0),
    ),
    Case(
        fault="eight ReLUs, weights too large",
        expected=("exploding gradients",),
        table="houses",
        config=replace(SMALL, numbers="linear"),
        plant=deep(nn.ReLU, 5.0),
        lr=1e-5,
    ),
    Case(
        fault="frozen BatchNorm goes on counting",
        expected=("a frozen part changes",),
        table="covid_xray",
        rows=100,
        config=SMALL,
        pixels=True,
        callbacks=(Thaw(),),
        epochs=2,
    ),
    Case(fault="learning rate of 1e-7", expected=("learning rate far off",), table="movies", config=SMALL, lr=1e-7),
    Case(fault="learning rate of 3", expected=("learning rate far off",), table="movies", config=SMALL, lr=3.0),
    Case(
        fault="labels shuffled",
        expected=("labels look shuffled",),
        table="houses",
        config=SMALL,
        frame=mixed_up("price"),
        epochs=20,
        lr=5e-3,
    ),
    Case(
        fault="photos of other rows",
        expected=("photos are uninformative",),
        table="fashion_products",
        config=SMALL,
        frame=mixed_up(),
    ),
    Case(
        fault="40 epochs on few rows, no dropout",
        expected=("over-fitting",),
        table="covid_xray",
        rows=250,
        config=replace(SMALL, dropout=0.0, image_dropout=0.0),
        epochs=40,
        lr=5e-3,
    ),
    Case(
        fault="rate of the table's part 1,000 times as high",
        expected=("weights move too fast",),
        table="movies",
        config=SMALL,
        rates={"tabular": 1000.0},
    ),
]


def main() -> None:
    """All cases, or those that are asked for."""
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    started = time.perf_counter()
    print("| fault | set | named | seconds | what the doctor says |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for case in [*HEALTHY, *FAULTS]:
            if wanted and not any(word in case.fault for word in wanted):
                continue
            before = time.perf_counter()
            found = run(case, Path(folder))
            named = any(one.name in case.expected for one in found) if case.expected else not found
            said = "; ".join(f"**{one.name}**: {one.sentence}" for one in found) or "nothing"
            seconds = time.perf_counter() - before
            print(f"| {case.fault} | {case.table} | {'yes' if named else 'NO'} | {seconds:.0f} | {said} |", flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s in all, torch {torch.__version__}")


if __name__ == "__main__":
    main()
