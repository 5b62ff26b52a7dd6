"""How many folds a preset has: more for few rows, if there is time for them, and fewer for many."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mixfit.auto import cost, planning
from mixfit.auto.cost import Sizes
from mixfit.auto.planning import plan_run
from mixfit.auto.presets import plan_for
from mixfit.auto.timetable import Timetable
from mixfit.choices import Preset
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.load import MixedData, load_data
from mixfit.models.trees import BoostedTrees

QUIET = Console(quiet=True)


def data(rows: int, classes: int = 0) -> MixedData:
    """All rows but a fifth train and validate."""
    x = np.random.default_rng(0).normal(size=rows)
    y: Any = x if not classes else [f"class {number % classes}" for number in range(rows)]
    return load_data(pd.DataFrame({"x": x, "z": np.roll(x, 1), "y": y}), target="y")


@pytest.mark.parametrize(
    ("rows", "classes", "settings", "folds"),
    [
        (300, 0, {}, 10),
        (300, 2, {}, 10),
        (300, 5, {}, 10),
        (600, 5, {}, 5),
        (1_700, 0, {}, 10),
        (2_500, 0, {}, 5),
        (300, 0, {"preset": "quick"}, 5),
        (11_000, 0, {"preset": "quick"}, 5),
        (12_000, 0, {"preset": "quick"}, 3),
        (12_000, 3, {"preset": "quick"}, 3),
        (12_000, 0, {"preset": "quick", "time": "10m"}, 5),
        (12_000, 0, {}, 5),
        (2_500, 0, {"preset": "best"}, 10),
        (300, 0, {"time": "10m"}, 5),
        (300, 0, {"fine_tune": True}, 5),
        (300, 0, {"folds": 3}, 3),
        (2_500, 0, {"folds": 12}, 12),
    ],
)
def test_few_rows_have_more_folds(rows: int, classes: int, settings: dict[str, Any], folds: int) -> None:
    mixed, train = data(rows, classes), TrainConfig(**settings)
    assert plan_for(mixed, train).folds == folds
    timetable = Timetable(QUIET)
    run = plan_run(mixed, image=None, model=ModelConfig(), train=train, models=(), timetable=timetable)
    assert run.plan.folds == folds


def test_more_folds_than_the_budget_allows_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than fewer models."""
    mixed, train = data(300), TrainConfig()
    given: Any = {"image": None, "model": ModelConfig(), "train": train, "models": ()}
    seconds = plan_run(mixed, **given, timetable=Timetable(QUIET)).seconds
    monkeypatch.setattr(planning, "preset_seconds", lambda *_: seconds / 1.5)
    less = plan_run(mixed, **given, timetable=Timetable(QUIET))
    assert (less.plan.folds, less.sizes.folds, less.plan.left_out) == (5, 5, ())


@pytest.mark.parametrize(
    ("preset", "limited", "refit"),
    [("quick", False, False), ("quick", False, True), ("balanced", False, False), ("balanced", True, False)],
)
def test_rather_three_folds_with_trees_than_five_without(
    preset: Preset, limited: bool, refit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(300, 30))
    frame = pd.DataFrame(values, columns=[f"x{number}" for number in range(30)]).assign(y=values[:, 0])
    mixed = load_data(frame, target="y")
    reading = cost.seconds(cost.reading_work(planning.sizes_of(mixed, None, 5)))

    def planned(seconds: float, folds: int | None = None) -> tuple[int, bool]:
        monkeypatch.setattr(planning, "preset_seconds", lambda *_: seconds)
        train = TrainConfig(preset=preset, folds=folds, refit=refit, time=f"{seconds}s" if limited else None)
        timetable = Timetable(QUIET, seconds if limited else None, began=0.0, clock=lambda: reading)
        timetable.last = reading
        run = plan_run(mixed, image=None, model=ModelConfig(), train=train, models=(), timetable=timetable)
        return run.plan.folds, any(isinstance(one, BoostedTrees) for one in run.plan.models)

    found = set()
    for seconds in np.linspace(0.3, 1, 20).tolist():
        run, five, three = planned(seconds), planned(seconds, 5), planned(seconds, 3)
        assert run == (three if run[0] == 3 else five)
        assert run[1] == (five[1] or three[1])
        assert run[0] == 5 or not five[1] or limited  # with a margin, as what is estimated may take longer
        found.add(run)
    assert found >= {(5, False), (3, True), (5, True)}


@pytest.mark.parametrize(
    ("rows", "columns", "classes"),
    [(3_000, 700, 3), (3_000, 1_000, 4), (3_000, 2_000, 4), (5_000, 1_000, 5), (1_000, 1_000, 8)],
)
def test_wide_tables_of_classes_have_time_for_trees_in_three_folds(rows: int, columns: int, classes: int) -> None:
    """However dear their linear models."""
    mixed, train = data(300, classes), TrainConfig(preset="quick", folds=3)
    numbers, categories = columns * 11 // 15, columns * 4 // 15
    sizes = Sizes(
        rows=rows * 85 // 100,
        test=rows * 15 // 100,
        folds=3,
        numeric=numbers,
        categories=categories,
        levels=27 * categories,
        widest=300,
        classes=classes,
        columns=columns,
    )
    assert planning._share_of_trees(plan_for(mixed, train), sizes, train, None) > 0
