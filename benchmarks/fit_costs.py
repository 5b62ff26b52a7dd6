"""The coefficients of ``mixfit/auto/cost_table.py``: seconds of one processor for each kind of work.

``measure`` fits models on made and real tables of many sizes with two folds, each in a short process of its own on one
thread, and writes the seconds of the processor of every stage with the sizes of its data, one line a call. As other
processes slow down the processor, too, a fixed small task is timed every few seconds, and all seconds are told as if it
took ``REFERENCE``, whatever the machine.
``fit`` finds the coefficients, none below 0, with the least error of each stage as a factor, and prints the table and
how well it fits.
Run: MIXFIT_DATA=... python benchmarks/fit_costs.py measure calls.jsonl ["TABLE: PART" ...]
     python benchmarks/fit_costs.py fit calls.jsonl > table.py && mv table.py src/mixfit/auto/cost_table.py"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixfit.config import DataConfig

TABLES: dict[str, dict[str, Any]] = {
    "300": {"rows": 300, "columns": 8},
    "1000": {"rows": 1_000, "columns": 30, "levels": 50},
    "2000, 3 classes": {"rows": 2_000, "columns": 15, "levels": 30, "classes": 3},
    "4000": {"rows": 4_000, "columns": 30, "levels": 300},
    "2000 wide": {"rows": 2_000, "columns": 120, "levels": 50},
    "10000, 2 classes": {"rows": 10_000, "columns": 20, "levels": 100, "classes": 2},
    "3000, 30 classes": {"rows": 3_000, "columns": 20, "levels": 30, "classes": 30},
    "400 wide": {"rows": 400, "columns": 500, "levels": 20},
    "400 wide, 20 classes": {"rows": 400, "columns": 500, "levels": 20, "classes": 20},
    "8000 levels": {"rows": 8_000, "columns": 10, "levels": 3_000},
    "8000 levels, 2 classes": {"rows": 8_000, "columns": 10, "levels": 3_000, "classes": 2},
    "5000 wide": {"rows": 5_000, "columns": 300, "levels": 200},
    "20000": {"rows": 20_000, "columns": 15, "levels": 100},
    "60000": {"rows": 60_000, "columns": 24, "levels": 200},
    "25 houses": {"data": "houses", "target": "price", "rows": 24},
    "150 houses": {"data": "houses", "target": "price", "rows": 150},
    "texts": {"rows": 1_500, "columns": 5, "levels": 20, "words": 60},
}
STAGES = {
    "reading": "mixfit.auto.recipe prepare",
    "photo pass": "mixfit.auto.preparation precompute_features",
    "shared": "mixfit.auto.blending fit_folds",
    "components": "mixfit.models.model Components.fit",
    "fit Linear": "mixfit.models.linear Linear.fit",
    "fit KernelRidge": "mixfit.models.kernels KernelRidge.fit",
    "fit BoostedTrees": "mixfit.models.trees BoostedTrees.fit",
    "fit Network": "mixfit.models.network Network.fit",
    "predict Linear": "mixfit.models.linear FittedLinear.predict",
    "predict KernelRidge": "mixfit.models.kernels FittedKernels.predict",
    "predict BoostedTrees": "mixfit.models.trees FittedTrees.predict",
    "predict Network": "mixfit.models.network FittedNetwork.predict",
    "fits": "mixfit.auto.cross_validation cross_fit",
    "blend": "mixfit.auto.blending _choose",
    "interval": "mixfit.auto.blending _predictor",
    "scores": "mixfit.auto.preset_run result_of",
    "explanation": "mixfit.runs.results explanation_of",
    "report": "mixfit.auto.started write_results",
    "rest": "mixfit.auto.preset_run run_preset",
}
"""What is timed, each without the stages inside it."""
_MODELS = ("linear, table", "kernel ridge, table", "boosted trees, table", "network, table")
_OF_PHOTOS = tuple(f"{kind}, table and photos" for kind in ("linear", "kernel ridge", "boosted trees", "network"))
_OF_TEXTS = tuple(f"{kind}, table and text" for kind in ("linear", "kernel ridge", "boosted trees", "network"))
_SKIPPED = {"kernel ridge, table": ("classes", "0000", "levels")}
JOBS = (
    "25 houses: photos",
    *(f"{name}: rest" for name in TABLES if "data" not in TABLES[name]),
    *(
        f"{name}: {model}"
        for name in TABLES
        for model in _MODELS
        if "data" not in TABLES[name] and not any(word in name for word in _SKIPPED.get(model, ()))
    ),
    *(f"150 houses: {model}" for model in _OF_PHOTOS),
    *(f"texts: {model}" for model in _OF_TEXTS),
)
"""What is measured, each in a process of its own."""
KNOWN = {
    "components": 2e-4,
    "explained calls": 0.0,
    "explained kernels": 1.75e-4,
    "explained networks": 1.27e-5,
    "kernel columns": 6e-5,
    "kernel eigenvalues": 2e-4,
    "kernel pairs": 0.008,
    "network bins": 0.9,
    "photo network": 0.0228,
    "photo products": 3.15e-5,
    "photo solutions": 1.8e-4,
    "kernel solve": 2.5e-5,
    "photo training": 0.05,
    "photos": 0.0015,
    "reading photos": 0.15,
    "ridge block": 4e-5,
    "ridge eigenvalues": 1e-4,
    "text characters": 0.141,
    "text products": 5e-4,
    "text rows": 150.0,
    "tree columns": 12.0,
}
"""Coefficients that the calls so far do not determine, worked out from figures of docs/LOG.md and from the number of
operations; a kind leaves this list when tables that tell it from others are measured."""
FOLDS = 2
SHORT = 0.02
"""Seconds that are too short to matter."""
WARM = 200
"""Rows that a model is fitted on before it is measured."""
REFERENCE = 0.0215
"""Seconds of the fixed task on the machine whose seconds are told."""
EVERY = 3.0  # seconds between two timings of the fixed task
CLOSING = ("blend", "interval", "scores", "report", "rest", "fits")


def table(
    *, rows: int, columns: int, levels: int = 20, classes: int = 0, words: int = 0, seed: int = 0
) -> pd.DataFrame:
    """Two thirds numbers and one third categories, one of which has ``levels``; perhaps a text of some words."""
    rng = np.random.default_rng(seed)
    categories = max(1, columns // 3)
    x = rng.normal(size=(rows, columns - categories))
    truth = np.sin(2 * x[:, 0]) + x[:, -1] * x[:, min(1, x.shape[1] - 1)] + 0.5 * x[:, -1]
    frame: dict[str, Any] = {f"number {place}": values for place, values in enumerate(x.T)}
    for place in range(categories):
        count = levels if place == categories - 1 else (3, 5, 8, 12)[place % 4]
        code = rng.integers(0, count, rows)
        truth += rng.normal(size=count)[code] * (0.5 if place < 4 else 0.1)
        frame[f"category {place}"] = np.array([f"v{number}" for number in range(count)])[code]
    if words:
        bag = np.array([f"word{number}" for number in range(800)])
        drawn = rng.zipf(1.3, size=(rows, words)) % len(bag)
        frame["text"] = [" ".join(line) for line in bag[drawn]]
        truth += 0.3 * (drawn == 7).sum(axis=1)
    truth = truth + 0.3 * rng.normal(size=rows)
    if classes:
        cuts = np.quantile(truth, np.linspace(0, 1, classes + 1)[1:-1])
        return pd.DataFrame(frame | {"y": [f"c{number}" for number in np.searchsorted(cuts, truth)]})
    return pd.DataFrame(frame | {"y": truth})


class Pace:
    """How long a fixed small task takes, timed anew every few seconds."""

    def __init__(self) -> None:
        self.due, self.took, self.data = 0.0, 0.0, np.random.default_rng(0).normal(size=(400, 400))

    def now(self) -> float:
        """Seconds of the processor of the task: products of matrices, passes over an array and Python."""
        if time.process_time() >= self.due:
            started = time.process_time()
            for _ in range(4):
                sum(place * place for place in range(60_000))
                np.tanh(self.data @ self.data).sum()
            self.took = time.process_time() - started
            self.due = time.process_time() + EVERY
        return self.took


def watch(calls: list[dict[str, Any]]) -> None:
    """Record every call of a stage: its seconds of the processor, its model, and the rows that it predicts."""
    inside, pace = [0.0], Pace()

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = pace.now()
            inside.append(0.0)
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.process_time() - started
                own = took - inside.pop()
                inside[-1] += took
                line: dict[str, Any] = {"stage": stage, "seconds": own, "pace": (before + pace.now()) / 2}
                if stage.startswith("fit "):
                    line |= _described(args[0])
                if stage.startswith("predict "):
                    line["rows"] = len(args[1])
                    line["fitted"] = type(args[0]).__name__
                    line |= _seen_by(args[0])
                calls.append(line)

        return call

    for stage, place in STAGES.items():
        module, _, path = place.partition(" ")
        owner: Any = import_module(module)
        *classes, name = path.split(".")
        for part in classes:
            owner = getattr(owner, part)
        is_class_method = isinstance(vars(owner).get(name), classmethod)
        found = timed(stage, getattr(owner, name))
        setattr(owner, name, staticmethod(found) if is_class_method else found)


def _described(model: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "sees": sorted(model.sees),
        "light": getattr(model, "light", False),
        "tuned": getattr(model, "tuned", False),
        "epochs": model.train.epochs if hasattr(model, "train") else 0,
    }


def _seen_by(fitted: Any) -> dict[str, Any]:
    if hasattr(fitted, "sees"):
        return {"sees": sorted(fitted.sees), "light": fitted.config.tabular != "tabm"}
    sees = ["table"] * fitted.table + ["text"] * fitted.text + ["photos"] * (fitted.components is not None)
    return {"sees": sees, "light": False}


def source_of(spec: dict[str, Any], folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file of a table, and the arguments of ``fit`` for it."""
    settings: dict[str, Any] = {"target": spec.get("target", "y")}
    roles = {"text": "text"} if "words" in spec else {spec["text"]: "text"} if "text" in spec else {}
    settings["data"] = DataConfig(cache_gb=0.0, roles=roles, ignore=() if spec.get("photos", True) else ("image",))
    if "data" not in spec:
        source = folder / "table.csv"
        table(**spec).to_csv(source, index=False)
        return source, settings
    source = Path(os.environ["MIXFIT_DATA"]) / spec["data"] / "table.csv"
    if "rows" in spec:
        frame = pd.read_csv(source, dtype=str).groupby("split").sample(spec["rows"] // 3, random_state=0)
        settings["images"], source = source.parent, folder / "table.csv"
        frame.to_csv(source, index=False)
    return source, settings


def measure(name: str, part: str) -> list[dict[str, Any]]:
    """Measure in this process: the calls of some stages, and the sizes of the data.

    Args:
        part: ``rest`` for a run with a constant and a linear model, ``photos`` for the image network alone, else the
            name of a model, which is fitted on one fold; photos then have made features, whose values do not matter.
    """
    import torch
    from rich.console import Console

    from mixfit.auto import planning, preset_run, presets, recipe
    from mixfit.auto.budget import within
    from mixfit.auto.preparation import prepare, with_features
    from mixfit.config import ModelConfig, TrainConfig
    from mixfit.data.dataset import FeatureTable
    from mixfit.ensemble.cross_fit import fit_folds, fit_model
    from mixfit.evaluation.explain import explained_columns

    torch.set_num_threads(1)
    presets.FOLDS["quick"] = FOLDS
    spec, calls, shared = dict(TABLES[name]), list[dict[str, Any]](), {"table": name, "part": part}
    train, quiet = TrainConfig(preset="quick"), Console(quiet=True)
    plans: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        source, settings = source_of(spec, Path(folder))
        if part == "rest":
            real = preset_run.plan_run

            def least(*args: Any, **kwargs: Any) -> Any:
                found = real(*args, **kwargs)
                plans.append(replace(found, plan=within(found.plan, found.sizes, 0.0, limit="the measure")))
                return plans[-1]

            preset_run.plan_run = least
            watch(calls)
            run = recipe.fit(source, out=Path(folder) / "runs", train=train, console=quiet, **settings)
            assert run.contest is not None
            shared |= {"sizes": asdict(plans[0].sizes), "models": len(run.contest.leaderboard)}
            shared |= {"explained": sum(map(len, explained_columns(run.predictor))), "shares": run.predictor.shares}
            return [shared | line for line in calls]
        images = settings.pop("images", None)
        data = settings["data"] if images is None else replace(settings["data"], images=images)
        prepared = prepare(
            source, target=settings["target"], data=data, model=ModelConfig(), train=train, schema=None, console=quiet
        )
        mixed, image = prepared.data, prepared.network.image
        shared["sizes"] = asdict(planning.sizes_of(mixed, image, FOLDS))
        if part == "photos":
            watch(calls)
            with_features(mixed, prepared.network, quiet)
            return [shared | line for line in calls]
        if image is not None and mixed.photos is not None:
            count = len(mixed.photos.files)
            made = torch.rand(count, image.num_features, generator=torch.Generator().manual_seed(0))
            mixed = mixed.with_features(FeatureTable(made, torch.ones(count, dtype=torch.bool), {}))
        plan = presets.plan_for(
            mixed, train, model=prepared.model_config, backbone=None if image is None else image.backbone
        )
        (model,) = (one for one in plan.models if one.name == part)
        fold = fit_folds(mixed, FOLDS, seed=0).folds[0]
        # What is imported and prepared by the first fit is not the work of a model.
        split = replace(mixed.split, train=mixed.split.train[:WARM], valid=mixed.split.valid[:WARM])
        few = fit_folds(replace(mixed, split=split), FOLDS, seed=0).folds[0]
        fit_model(model, few).predict(few.rows.take(few.fit_rows))
        watch(calls)
        fitted = fit_model(model, fold)
        fitted.predict(fold.rows.take(np.arange(len(mixed.table))))
    return [shared | line for line in calls]


def model_of(line: dict[str, Any]) -> Any:
    """The model of a call."""
    from mixfit.config import ModelConfig, TrainConfig
    from mixfit.models.kernels import KernelRidge
    from mixfit.models.linear import Linear
    from mixfit.models.network import Network
    from mixfit.models.trees import BoostedTrees

    kind, sees = line["stage"].split()[1], frozenset(line["sees"])
    if kind == "Network":
        return Network(
            sees=sees,
            light=line["light"],
            tuned=line.get("tuned", False),
            config=ModelConfig(),
            train=TrainConfig(epochs=line.get("epochs") or 20),
        )
    return {"Linear": Linear, "KernelRidge": KernelRidge, "BoostedTrees": BoostedTrees}[kind](sees=sees)


def rows_of_fit(lines: list[dict[str, Any]]) -> dict[str, list[tuple[dict[str, float], float, str]]]:
    """For each group of coefficients: the work, the seconds and the table of every call."""
    from mixfit.auto import cost
    from mixfit.auto.budget import EXPLAINED

    found: dict[str, list[tuple[dict[str, float], float, str]]] = defaultdict(list)
    named: dict[tuple[str, str], Any] = {
        (line["table"], line.get("name", "")): model_of(line) for line in lines if line["stage"].startswith("fit ")
    }
    closing: dict[str, float] = defaultdict(float)
    one: dict[str, dict[str, Any]] = {}
    for line in lines:
        stage, s = line["stage"], cost.Sizes(**line["sizes"])
        if stage == "reading":
            found[stage].append((cost.reading_work(s), line["seconds"], line["table"]))
        elif stage == "photo pass" and s.photos:
            found[stage].append((cost.photo_pass_work(s), line["seconds"], line["table"]))
        elif stage == "shared":
            work = cost.shared_work(s)
            work.pop("components", None)
            found[stage].append((work, line["seconds"], line["table"]))
        elif stage == "components":
            work = cost.times(cost.shared_work(s), 1 / s.folds)
            found[stage].append(({"components": work["components"]}, line["seconds"], line["table"]))
        elif stage.startswith("fit "):
            found[stage].append((cost.fit_work(model_of(line), s), line["seconds"], line["table"]))
        elif stage.startswith("predict "):
            work = cost.predict_work(model_of(line), s, line["rows"])
            found["predict"].append((work, line["seconds"], line["table"]))
        elif stage == "explanation" and line["seconds"] > 0 and "explained" in line:
            models = [named[line["table"], one] for one in line["shares"] if one != "constant"]
            rows, most = EXPLAINED[0]
            work = cost.explanation_work(models, s, line["explained"], rows, most)
            found["explanation"].append((work, line["seconds"], line["table"]))
        elif stage in CLOSING:
            closing[line["table"]] += line["seconds"]
            one[line["table"]] = line
    for name, seconds in closing.items():
        line = one[name]
        work = cost.closing_work(cost.Sizes(**line["sizes"]), line["models"])
        found["closing"].append((work, seconds, name))
    return found


def fit_table(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Coefficients by kind of work, with the least squared logarithm of estimated over measured seconds.

    Early stopping makes equal work take seconds that differ by factors: the least relative error would be that of an
    estimate far below most of them."""
    from scipy.optimize import least_squares

    found: dict[str, float] = {}
    for group, calls in sorted(rows_of_fit(lines).items()):
        every = sorted({kind for work, _, _ in calls for kind, count in work.items() if count})
        kinds = [kind for kind in every if kind not in KNOWN]
        counts = Counter(name for _, _, name in calls)
        seconds = np.array([took for _, took, _ in calls])
        weight = 1 / np.sqrt([counts[name] for _, _, name in calls])  # every table counts alike
        matrix = np.array([[work.get(kind, 0.0) for kind in kinds] for work, _, _ in calls], dtype=float)
        known = np.array([sum(work.get(kind, 0.0) * KNOWN.get(kind, 0.0) for kind in every) for work, _, _ in calls])
        if kinds:
            unit = np.maximum(matrix.mean(axis=0), 1e-12)
            start = np.full(len(kinds), max(float(seconds.mean()), SHORT) / len(kinds))
            best = least_squares(
                _errors,
                start,
                bounds=(0, np.inf),
                loss="soft_l1",
                f_scale=0.3,
                args=(matrix / unit, known, seconds, weight),
            )
            values = np.where(best.x * matrix.max(axis=0) / unit < 1e-4, 0.0, best.x) / unit
            found |= dict(zip(kinds, values.tolist(), strict=True))
            known += matrix @ values
        _say_fit(group, known, seconds, [name for _, _, name in calls])
    return found


def _errors(
    values: np.ndarray, matrix: np.ndarray, known: np.ndarray, seconds: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    found: np.ndarray = weight * np.log((matrix @ values + known + SHORT) / (seconds + SHORT))
    return found


def _say_fit(group: str, guess: np.ndarray, seconds: np.ndarray, names: list[str]) -> None:
    large = seconds > 0.05
    if not large.any():
        return
    ratio = guess[large] / seconds[large]
    said = f"{group:<18}{len(names):>5} calls; estimated / measured {np.median(ratio):.2f}"
    print(f"{said} ({ratio.min():.2f} to {ratio.max():.2f}) where over 50 ms", file=sys.stderr)
    shown = [name for name, yes in zip(names, large, strict=True) if yes]
    for place in np.argsort(-np.abs(np.log(ratio)))[:3]:
        print(f"    {shown[place]:<26}{ratio[place]:8.2f} of {seconds[large][place]:8.2f} s", file=sys.stderr)


def main(args: list[str]) -> None:
    """Measure, in a process for each table, or fit."""
    if args[0] == "--one":
        print("\n".join(json.dumps(line) for line in measure(args[1], args[2])))
        return
    command, file, *jobs = args
    if command == "measure":
        for job in jobs or JOBS:
            name, _, part = job.partition(": ")
            called = [sys.executable, __file__, "--one", name, part]
            text = subprocess.run(called, check=False, stdout=subprocess.PIPE, text=True).stdout
            lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            with Path(file).open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(line) + "\n" for line in lines)
            print(f"{job:<50}{sum(line['seconds'] for line in lines):8.1f} s", flush=True)
        return
    lines = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["seconds"] *= REFERENCE / line.get("pace", REFERENCE)
    found = fit_table(lines) | KNOWN
    print('"""Seconds of one processor for each kind of work of ``cost``; written by ``benchmarks/fit_costs.py``."""\n')
    print("SECONDS: dict[str, float] = {")
    for kind, value in sorted(found.items()):
        print(f'    "{kind}": {value:.3g},')
    print("}")


if __name__ == "__main__":
    main(sys.argv[1:])
