"""What takes a seed gives the same whatever was drawn before, and leaves the global generators as they were."""

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from quick_runs import QUICK_MODEL
from rich.console import Console

import mixfit
from mixfit.auto.recipe import Run
from mixfit.choices import Preset
from mixfit.demo import DEMO_TARGET, demo_place, demo_truth, write_demo
from mixfit.seeding import random_states, seeded

QUIET = Console(quiet=True)
SOURCE = Path(mixfit.__file__).parent
NOTHING_DRAWN = {"MixedData", "Network", "TrainConfig", "Sampler"}
"""They carry a seed: two records, and the base class of the samplers; a competing network gets its own in ``fit``."""


@dataclass
class Example:
    """What the public functions want."""

    table: Path
    frame: pd.DataFrame
    data: mixfit.MixedData
    run: Run
    out: Path

    @property
    def numbers(self) -> Path:
        """A table without photos, whose network has dropout, as a file of any kind that pieces are read from."""
        path = self.out / "numbers.parquet"
        if not path.exists():
            rng = np.random.default_rng(0)
            frame = pd.DataFrame(rng.normal(size=(60, 3)), columns=["a", "b", "c"])
            frame.assign(y=frame["a"] * frame["b"]).to_parquet(path)
        return path


@pytest.fixture(scope="module")
def example(demo_table: Path, quick_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Example:
    frame = pd.read_csv(demo_table)
    data = mixfit.load_data(demo_table, target=DEMO_TARGET, image_size=32, batch_size=16)
    return Example(demo_table, frame, data, quick_run, tmp_path_factory.mktemp("out"))


def order(sampler: mixfit.Sampler) -> list[Any]:
    return [batch.tolist() for batch in sampler]


def gradients(example: Example) -> torch.Tensor:
    pytest.importorskip("captum")
    model = mixfit.build_model(example.data, mixfit.ModelConfig(backbone="small_resnet"), seed=0)
    xb, _ = next(iter(example.data.valid))
    return mixfit.hooks.input_gradients(model, xb[[0, 1]], method="smooth", samples=4, seed=3)


def augmented(example: Example) -> torch.Tensor:
    model = mixfit.build_model(example.data, mixfit.ModelConfig(backbone="small_resnet"), seed=0).eval()
    xb, _ = next(iter(example.data.valid))
    return mixfit.training.augmented_outputs(model, xb, [mixfit.data.RandomHorizontalFlip()], copies=2, seed=3).detach()


def trained(example: Example, preset: Preset = "network") -> dict[str, torch.Tensor]:
    train = mixfit.TrainConfig(epochs=2, seed=3, preset=preset)
    run = mixfit.fit(
        example.numbers, target="y", model=QUICK_MODEL, train=train, out=example.out / "runs", console=QUIET
    )
    return weights_of(run.folder)


def resumed(example: Example) -> dict[str, torch.Tensor]:
    return weights_of(mixfit.resume(example.run.folder, table=example.table, console=QUIET).folder)


def tuned(example: Example) -> float:
    out = example.out / f"search {len(list(example.out.glob('search *')))}"
    train = mixfit.TrainConfig(preset="network", epochs=2, seed=3)
    return mixfit.tune(
        example.numbers, target="y", trials=2, model=QUICK_MODEL, train=train, out=out, console=QUIET
    ).loss


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


CASES: dict[str, Callable[[Example], Any]] = {
    "BalancedSampler": lambda e: order(mixfit.data.BalancedSampler(np.arange(20) % 3, 4, seed=3)),
    "GroupedSampler": lambda e: order(mixfit.data.GroupedSampler(np.arange(20) % 3, 4, seed=3)),
    "SequentialSampler": lambda e: order(mixfit.data.SequentialSampler(20, 4, seed=3)),
    "ShuffledSampler": lambda e: order(mixfit.data.ShuffledSampler(20, 4, seed=3)),
    "WeightedSampler": lambda e: order(mixfit.data.WeightedSampler(np.ones(20), 4, seed=3)),
    "augmented_outputs": augmented,
    "build_model": lambda e: mixfit.build_model(e.data, QUICK_MODEL, seed=3).state_dict(),
    "explain": lambda e: (
        mixfit.explain(e.run.predictor, e.frame, images=e.table.parent, rows=[0, 1], background=4, seed=3).parts
    ),
    "explain_run": lambda e: mixfit.explain_run(e.run.folder, n=2, table=e.table, seed=3, console=QUIET).parts,
    "fit": trained,
    "fit, many models": lambda e: trained(e, "quick"),
    "input_gradients": gradients,
    "k_folds": lambda e: [split.valid.tolist() for split in mixfit.k_folds(e.frame, e.data.schema, 3, 3)],
    "load_data": lambda e: mixfit.load_data(e.table, target=DEMO_TARGET, seed=3).split.test.tolist(),
    "resume": resumed,
    "split_rows": lambda e: mixfit.split_rows(e.frame, e.data.schema, seed=3).test.tolist(),
    "tune": tuned,
    "demo.demo_place": lambda e: demo_place(3, seed=3),
    "demo.demo_truth": lambda e: demo_truth(30, seed=3)["base"].tolist(),
    "demo.write_demo": lambda e: write_demo(e.out / "demo", rows=12, seed=3).read_bytes(),
}


PUBLIC = {
    name: getattr(package, name)
    for package in (mixfit, mixfit.data, mixfit.nn, mixfit.training, mixfit.hooks, mixfit.models)
    for name in package.__all__
}
ONCE = {"fit, many models", "resume"}
"""Those that take seconds; tests of their own compare their bytes."""


def takes_a_seed(name: str) -> bool:
    """By itself, or among the settings of a training; ``resume`` reads them from the run."""
    try:
        parameters = inspect.signature(PUBLIC[name]).parameters
    except (TypeError, ValueError):
        return False
    return name not in NOTHING_DRAWN and ("seed" in parameters or "train" in parameters or name == "resume")


def test_every_public_function_with_a_seed_has_a_case() -> None:
    public = {name for name in PUBLIC if takes_a_seed(name)}
    assert {"build_model", "fit", "tune", "resume"} <= public
    assert sorted(name for name in CASES if name in PUBLIC) == sorted(public)


def global_states() -> dict[str, Any]:
    """Of PyTorch and NumPy; from Python's own the checks of shapes, which are made in tests alone, draw as well."""
    return {name: state for name, state in random_states().items() if name != "python"}


def assert_same(left: Any, right: Any) -> None:
    """Equal to the bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for name, value in left.items():
            assert_same(value, right[name])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right)
    else:
        assert left == right


@pytest.mark.parametrize("name", CASES)
def test_the_seed_alone_decides_and_the_global_generators_are_left_alone(name: str, example: Example) -> None:
    found = []
    for drawn_before in (0, 7)[: 1 if name in ONCE else 2]:
        torch.rand(drawn_before), np.random.rand(drawn_before)  # noqa: NPY002
        before = global_states()
        found.append(CASES[name](example))
        assert_same(global_states(), before)
    assert_same(found[0], found[-1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
def test_the_generators_of_gpus_are_seeded_and_left_as_they_were() -> None:
    before = random_states()
    drawn = []
    for _ in range(2):
        with seeded(3):
            drawn.append(torch.rand(4, device="cuda"))
        torch.rand(1)
    assert torch.equal(drawn[0], drawn[1])
    assert_same(random_states(), before)


def test_the_state_is_put_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(3):
        1 / torch.rand(1).mul(0).int().item()
    assert torch.equal(torch.get_rng_state(), before)


def seedings() -> Iterator[str]:
    """Calls in the source that seed a global generator: ``torch.manual_seed``, ``np.random.seed``, ``random.seed``."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                if called.endswith(("random.seed", ".manual_seed_all")) or called == "torch.manual_seed":
                    yield path.name


def test_one_place_seeds_a_global_generator() -> None:
    assert list(seedings()) == ["seeding.py"]
