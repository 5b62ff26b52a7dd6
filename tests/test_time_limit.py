"""A run with a time limit, and one that lacks memory: what is left out is told, and a run always ends with a report."""

import io
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from quick_runs import QUICK_DATA, QUICK_MODEL
from rich.console import Console
from small_runs import QUIET, TRAIN, small_fit, small_table, without_results

from mixfit.auto import blending, budget, cost, cross_validation, planning, preset_run, recipe
from mixfit.auto.budget import within
from mixfit.auto.kept_models import earlier_seconds
from mixfit.auto.planning import RunPlan
from mixfit.auto.timetable import Timetable
from mixfit.cli import main
from mixfit.config import TrainConfig
from mixfit.data.load import load_data
from mixfit.data.photos.scores import PhotoScores
from mixfit.ensemble import cross_fit as cross_fit_module
from mixfit.ensemble.cross_fit import OutOfTimeError, cross_fit, fit_folds
from mixfit.errors import Diverged, ResourceError, Stopped
from mixfit.models.linear import Constant, Linear
from mixfit.models.trees import BoostedTrees
from mixfit.runs.scoring import predict_table
from mixfit.training.callbacks.control import TimeBudget

LEAST = {"constant", "linear, table"}


def names(run: recipe.Run) -> set[str]:
    """The fitted models."""
    assert run.contest is not None
    return {line.model for line in run.contest.leaderboard if line.seconds is not None}


def reported(run: recipe.Run) -> list[str]:
    """The warnings of the report."""
    found: list[str] = json.loads((run.folder / "report.json").read_text())["warnings"]
    return found


def test_in_no_time_a_constant_and_a_linear_model_are_fitted_and_reported(tmp_path: Path) -> None:
    said = io.StringIO()
    train = replace(TRAIN, time="0.01s")
    console = Console(file=said, width=500)
    run = small_fit(small_table(tmp_path / "t"), tmp_path / "runs", report=True, train=train, console=console)
    assert names(run) == LEAST
    assert (run.folder / "report.html").is_file()
    for model in ("boosted trees, table", "kernel ridge, table", "network, table"):
        sentence = rf"{model}: it takes about \d+ s, too long for the time limit of 0.01s"
        assert re.search(rf" skipped: {sentence}\n", said.getvalue())
        assert any(re.fullmatch(sentence, one) for one in reported(run))
    assert re.search(r" note: a run on this table needs at least about \d+ s, so it takes longer", said.getvalue())
    assert "the result may depend on the speed and load of the machine" in said.getvalue()


def test_the_plan_is_said_before_anything_is_fitted_and_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    without_results(monkeypatch)
    run = small_fit(small_table(tmp_path / "t"), tmp_path / "runs", console=Console(file=said, width=500))
    assert re.search(r" plan    about \d+ s: 4 models x 3 folds\n", said.getvalue())
    assert said.getvalue().index(" plan ") < said.getvalue().index("constant")
    assert len(names(run)) == 5
    assert not {"shortened:", "skipped:"} & set(said.getvalue().split())
    assert re.search(r" time    \d+ s\n", said.getvalue())


def test_without_a_limit_the_plan_does_not_depend_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[RunPlan] = []

    class Enough(Exception):  # noqa: N818
        pass

    def stop(*args: Any, **kwargs: Any) -> None:
        raise Enough

    real = preset_run.plan_run

    def plan_run(*args: Any, timetable: Timetable, **kwargs: Any) -> RunPlan:
        timetable.note(0.001, 1e4 * len(plans))
        plans.append(real(*args, timetable=timetable, **kwargs))
        return plans[-1]

    monkeypatch.setattr(preset_run, "plan_run", plan_run)
    monkeypatch.setattr(preset_run, "train_blend", stop)
    table = small_table(tmp_path / "t")
    for _ in range(2):
        with pytest.raises(Enough):
            small_fit(table, tmp_path / "runs")
    first, second = plans
    assert first.plan.models == second.plan.models
    assert first.seconds == second.seconds


def photo_table(folder: Path) -> Path:
    """A number, a photo of one colour, and a target of both."""
    rng = np.random.default_rng(0)
    x, colours = rng.normal(size=60), rng.integers(0, 256, (60, 3))
    folder.mkdir()
    for number, colour in enumerate(colours):
        Image.new("RGB", (16, 16), tuple(int(part) for part in colour)).save(folder / f"{number}.png")
    photos = [f"{number}.png" for number in range(60)]
    frame = pd.DataFrame({"x": x, "photo": photos, "y": x + colours[:, 0] / 100})
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.mark.parametrize("how", ["planned", "noticed"])
def test_photos_whose_features_take_too_long_are_left_out(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    if how == "planned":
        monkeypatch.setattr(Timetable, "pace", property(lambda _: 1e4))  # a very slow machine
    else:
        monkeypatch.setattr(Timetable, "free", lambda *_: -1.0)
    run = recipe.fit(
        photo_table(tmp_path / "t"),
        target="y",
        data=replace(QUICK_DATA, cache_gb=0.0),
        model=QUICK_MODEL,
        train=TrainConfig(preset="quick", epochs=1, time="9m"),
        out=tmp_path / "runs",
        console=Console(file=said, width=500),
    )
    assert run.predictor.uses_photos is False
    assert all("photos" not in name for name in names(run))
    assert names(run) >= LEAST
    told = {
        "planned": r"photos: their features take about \d+ (?:min|h).*, too long for the time limit of 9m",
        "noticed": r"photos: \d+ of 60 image features took \d+ s, too long for the time limit of 9m; a later run finds",
    }[how]
    assert re.search(f" skipped: {told}", said.getvalue())
    assert any(re.match(told, one) for one in reported(run))
    again = run.predictor.predict(pd.DataFrame({"x": [0.0, 1.0], "photo": ["1.png", ""]}), images=tmp_path / "t")
    assert np.isfinite(again["prediction"]).all()


def quick_of_photos(folder: Path, *, refit: bool = False) -> tuple[recipe.Run, str]:
    """A run of preset quick on ``photo_table``, and what it said."""
    said = io.StringIO()
    run = recipe.fit(
        photo_table(folder / "t"),
        target="y",
        data=replace(QUICK_DATA, cache_gb=0.0),
        model=QUICK_MODEL,
        train=TrainConfig(preset="quick", epochs=1, folds=2, refit=refit),
        out=folder / "runs",
        console=Console(file=said, width=500),
    )
    return run, said.getvalue()


def test_photos_that_no_model_has_time_for_are_not_looked_at_without_a_limit_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is shared by models of photos is more than the budget of the preset; that of the table is not."""
    monkeypatch.setattr(planning, "fixed_seconds", lambda sizes, _: 1e6 if sizes.photos else 0.0)
    monkeypatch.setattr(preset_run, "with_features", pytest.fail)
    run, said = quick_of_photos(tmp_path)
    assert run.predictor.uses_photos is False
    assert names(run) == {"constant", "linear, table", "boosted trees, table", "kernel ridge, table", "network, table"}
    told = "photos: what is learnt from them takes too long for the budget of preset quick"
    assert f" skipped: {told}" in said
    assert any(one.startswith(told) for one in reported(run))


def test_scores_of_photos_that_no_model_has_time_for_are_not_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees and networks take them, linear models and kernels use photos without."""
    monkeypatch.setattr(planning, "fixed_seconds", lambda sizes, _: 1e6 if sizes.photos and sizes.scores else 0.0)
    monkeypatch.setattr(PhotoScores, "fit", pytest.fail)
    run, said = quick_of_photos(tmp_path, refit=True)
    simple = {f"{kind}, {sees}" for kind in ("linear", "kernel ridge") for sees in ("table", "table and photos")}
    of_table = {"constant", "boosted trees, table", "network, table"}
    assert names(run) == simple | of_table | {"linear, photos"}
    for name in ("boosted trees, table and photos", "network, table and photos"):
        (sentence,) = (one for one in reported(run) if one.startswith(f"{name}: "))
        assert sentence.endswith("too long for the budget of preset quick (30 s)")
        assert f" skipped: {sentence}" in said
    assert all(fold.encoder.photos is None for fold in run.predictor.folds)  # type: ignore[union-attr]
    found = predict_table(run.folder, tmp_path / "t" / "table.csv", console=QUIET)
    assert len(found) == 60


def test_photos_whose_features_are_in_the_cache_take_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[RunPlan] = []
    real = preset_run.plan_run

    def plan_run(*args: Any, **kwargs: Any) -> RunPlan:
        plans.append(real(*args, **kwargs))
        return plans[-1]

    def stop(*args: Any, **kwargs: Any) -> None:
        raise Stopped("enough")

    monkeypatch.setattr(preset_run, "plan_run", plan_run)
    monkeypatch.setattr(preset_run, "train_blend", stop)
    monkeypatch.setattr(Timetable, "pace", property(lambda _: 1e4))
    monkeypatch.setattr(Timetable, "free", lambda *_: 1e9)
    table = photo_table(tmp_path / "t")

    def plan(time: str | None) -> RunPlan:
        with pytest.raises(Stopped, match="enough"):
            recipe.fit(
                table,
                target="y",
                data=replace(QUICK_DATA, cache=tmp_path / "cache"),
                model=QUICK_MODEL,
                train=TrainConfig(preset="quick", epochs=1, time=time),
                out=tmp_path / "runs",
                console=QUIET,
            )
        return plans[-1]

    assert not plan("9m").photos
    assert plan(None).photos  # which fills the cache
    known = plan("9m")
    assert (known.photos, known.photo_seconds, known.notes) == (True, 0.0, ())
    for number in range(0, 60, 4):
        (table.parent / f"{number}.png").touch()
    changed = plan("9m")
    assert changed.photo_seconds == pytest.approx(plans[1].photo_seconds / 4) or not changed.photos


def test_a_single_network_ends_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[float] = []
    real = TimeBudget.__init__

    def noted(self: TimeBudget, seconds: float, **kwargs: Any) -> None:
        budgets.append(seconds)
        real(self, seconds, **kwargs)

    monkeypatch.setattr(TimeBudget, "__init__", noted)
    without_results(monkeypatch)
    train = TrainConfig(preset="network", epochs=100_000, patience=100_000, time="3s")
    run = small_fit(small_table(tmp_path / "t"), tmp_path / "runs", train=train)
    assert 1.0 <= budgets[0] <= 3.0
    assert 1 <= len(run.history) < 100_000


@pytest.mark.parametrize("limit", [20, 29, 38, 60])
@pytest.mark.parametrize("slow", [1.0, 1.45])
def test_the_second_fit_on_all_rows_keeps_its_time(
    limit: int, slow: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which every model is said to take 9 s in three folds, so 3 s on all rows, and takes ``slow`` times
    that, which is known from the first fit on; all else takes no time."""
    elapsed = 0.0

    def seconds(model: Any, sizes: Any = None) -> float:
        return 0.0 if isinstance(model, Constant) else 9.0

    def cross_fit(model: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal elapsed
        elapsed += slow * seconds(model)
        return real_fit(model, *args, **kwargs)

    def refitted(mixed: Any, predictor: Any, models: list[Any], *args: Any) -> Any:
        nonlocal elapsed
        elapsed += sum(slow * seconds(one) / 3 for one in models)
        return real_refit(mixed, predictor, models, *args)

    real_fit, real_refit = cross_validation.cross_fit, blending._refitted
    monkeypatch.setattr(Timetable, "elapsed", property(lambda _: elapsed))
    monkeypatch.setattr(Timetable, "pace", property(lambda _: slow if elapsed else 1.0))
    monkeypatch.setattr(Timetable, "stage", lambda *_, **__: nullcontext(lambda *_: None))
    monkeypatch.setattr(RunPlan, "closing", 0.0)
    monkeypatch.setattr(budget, "model_seconds", seconds)
    monkeypatch.setattr(blending, "model_seconds", seconds)
    monkeypatch.setattr(cross_validation, "model_seconds", seconds)
    monkeypatch.setattr(cross_validation, "cross_fit", cross_fit)
    monkeypatch.setattr(blending, "_refitted", refitted)
    warnings = without_results(monkeypatch)
    run = small_fit(small_table(tmp_path / "t"), tmp_path / "runs", train=replace(TRAIN, time=f"{limit}s", refit=True))
    assert elapsed <= limit
    assert not [one for one in warnings[0] if one.startswith("refit: ")]
    assert len(names(run)) - 1 == min(int(limit // (12 * slow)), 4)


@pytest.mark.parametrize("module", [planning, cross_validation])
def test_what_is_left_out_at_first_is_fitted_if_there_is_time_left(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a slow start, from which the plan, or the choice of the first model, concludes that the machine is
    slow."""
    warnings, said, train = without_results(monkeypatch), io.StringIO(), replace(TRAIN, time="9m")
    table, calls = small_table(tmp_path / "t"), 0
    every = names(small_fit(table, tmp_path / "runs", train=train))

    def first_in_no_time(plan: Any, s: Any, seconds: float, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        return within(plan, s, seconds if module is cross_validation and calls > 1 else 0.0, **settings)

    monkeypatch.setattr(module, "within", first_in_no_time)
    console = Console(file=said, width=500)
    assert names(small_fit(table, tmp_path / "runs", train=train, console=console)) == every > LEAST
    for model in every - LEAST:
        assert f" skipped: {model}: " in said.getvalue()
        assert f" note: there is time left for {model}\n" in said.getvalue()
        assert not [one for one in warnings[-1] if one.startswith(f"{model}: ")]


def test_a_late_model_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = without_results(monkeypatch)
    monkeypatch.setattr(planning, "within", lambda plan, s, _, **settings: within(plan, s, 0.0, **settings))
    monkeypatch.setattr(BoostedTrees, "fit", out_of_memory)
    run = small_fit(small_table(tmp_path / "t"), tmp_path / "runs", train=replace(TRAIN, time="9m"))
    assert "boosted trees, table" not in names(run) > LEAST
    (told,) = [one for one in warnings[-1] if one.startswith("boosted trees, table: ")]
    assert "it does not fit in memory" in told


@pytest.mark.parametrize("again", [False, True])
def test_a_model_that_turns_out_slow_is_fitted_once_more_in_a_shorter_form(
    again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, real, warnings = list[BoostedTrees](), cross_validation.cross_fit, without_results(monkeypatch)

    def slow(model: Any, *args: Any, tell: Any = None, **kwargs: Any) -> Any:
        def told(fold: int) -> None:
            if fold == 1 and isinstance(model, BoostedTrees) and (again or len(tried) == 1):
                raise OutOfTimeError("the time limit was reached after 1 of 3 folds", folds=1, seconds=100.0)

        tried.extend([model] if isinstance(model, BoostedTrees) else [])
        return real(model, *args, tell=told, **kwargs)

    monkeypatch.setattr(cross_validation, "cross_fit", slow)
    run = small_fit(small_table(tmp_path / "t"), tmp_path / "runs", train=replace(TRAIN, time="1m"))
    assert len(tried) == 2
    assert tried[1].one_fold or tried[1].most_rounds is not None
    assert ("boosted trees, table" in names(run)) != again
    sentences = [one for one in warnings[-1] if "boosted trees, table" in one]
    if again:
        assert sentences == ["boosted trees, table: the time limit was reached after 1 of 3 folds"]
    else:  # nothing of the first fit is found in the folder
        (sentence,) = sentences
        assert re.fullmatch(r"boosted trees, table: .*chosen on one inner fold, for the time limit of 1m", sentence)


def test_a_model_whose_folds_take_too_long_is_given_up_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, real = [0.0], Linear.fit
    folds = fit_folds(load_data(small_table(tmp_path / "t"), target="y"), 3, seed=0)

    def fit(self: Linear, *args: Any) -> Any:
        now[0] += 10
        return real(self, *args)

    monkeypatch.setattr(Linear, "fit", fit)
    monkeypatch.setattr(cross_fit_module.time, "perf_counter", lambda: now[0])
    assert cross_fit(Linear(), folds, seconds=31.0, foresee=True).seconds == 30
    for foresee, fitted in ((True, 1), (False, 2)):
        with pytest.raises(OutOfTimeError, match=f"the time limit was reached after {fitted} of 3 folds") as raised:
            cross_fit(Linear(), folds, seconds=29.0, foresee=foresee)
        assert (raised.value.folds, raised.value.seconds) == (fitted, 10 * fitted)


def test_after_no_simple_model_was_fitted_no_late_one_exceeds_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_results(monkeypatch)

    def diverged(*args: Any) -> None:
        raise Diverged("its loss is nan")

    monkeypatch.setattr(Linear, "fit", diverged)
    run = small_fit(small_table(tmp_path / "t"), tmp_path / "runs", train=replace(TRAIN, time="0.01s"))
    assert names(run) == {"constant"}


def test_a_resumed_run_has_the_rest_of_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, tables = small_table(tmp_path / "t"), list[Timetable]()
    real = BoostedTrees.fit

    def stopped(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BoostedTrees, "fit", stopped)
    with pytest.raises(Stopped):
        small_fit(table, tmp_path / "runs", train=replace(TRAIN, time="9m"))
    (folder,) = (tmp_path / "runs").iterdir()
    monkeypatch.setattr(BoostedTrees, "fit", real)
    earlier = earlier_seconds(folder)
    assert earlier > 0
    train_blend = preset_run.train_blend

    def noted(*args: Any, timetable: Timetable, **kwargs: Any) -> Any:
        tables.append(timetable)
        return train_blend(*args, timetable=timetable, **kwargs)

    monkeypatch.setattr(preset_run, "train_blend", noted)
    without_results(monkeypatch)
    run = recipe.resume(folder, console=QUIET)
    assert tables[0].limit == 540
    assert tables[0].elapsed > earlier
    assert "boosted trees, table" in names(run)
    (folder / "candidates" / "elapsed.json").write_text('{"seconds": "many"}')
    assert earlier_seconds(folder) == 0
    (folder / "candidates" / "elapsed.json").write_text("{")
    assert earlier_seconds(folder) == 0


# --- memory -----------------------------------------------------------------------------------------------------------


def out_of_memory(*args: Any, **kwargs: Any) -> None:
    raise MemoryError("Unable to allocate 74.5 GiB for an array with shape (100000, 100000)")


def test_a_model_that_does_not_fit_in_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = without_results(monkeypatch)
    monkeypatch.setattr(BoostedTrees, "fit", out_of_memory)
    run = small_fit(small_table(tmp_path / "t"), tmp_path / "runs")
    assert "boosted trees, table" not in names(run)
    assert names(run) >= LEAST
    (told,) = (one for one in warnings[0] if one.startswith("boosted trees, table: "))
    assert told == (
        "boosted trees, table: it does not fit in memory; use fewer rows or columns, --preset quick, or a machine "
        "with more memory"
    )


def test_a_model_that_needs_more_memory_than_there_is_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings = without_results(monkeypatch)
    real = cost.model_bytes
    monkeypatch.setattr(
        cost, "model_bytes", lambda model, s: 1e15 if isinstance(model, BoostedTrees) else real(model, s)
    )
    monkeypatch.setattr(BoostedTrees, "fit", out_of_memory)
    run = small_fit(small_table(tmp_path / "t"), tmp_path / "runs")
    assert "boosted trees, table" not in names(run)
    (told,) = (one for one in warnings[0] if one.startswith("boosted trees, table: "))
    assert re.fullmatch(r".*: it needs about 1000000.0 GB of memory, and \d+\.\d GB are free", told)


def test_without_memory_for_anything_the_fix_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in (Constant, Linear, BoostedTrees):
        monkeypatch.setattr(model, "fit", out_of_memory)
    monkeypatch.setattr(preset_run, "plan_run", only_simple(preset_run.plan_run))
    with pytest.raises(ResourceError, match="Not even a constant fits in memory: use fewer rows or columns"):
        small_fit(small_table(tmp_path / "t"), tmp_path / "runs")


def only_simple(real: Any) -> Any:
    """``plan_run`` without costly models."""

    def plan_run(*args: Any, **kwargs: Any) -> RunPlan:
        found: RunPlan = real(*args, **kwargs)
        return replace(found, plan=within(found.plan, found.sizes, 0.0, limit="a test"))

    return plan_run


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=repr,
)
def test_lack_of_memory_is_no_bug(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raised(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(recipe, "prepare", raised)
    with pytest.raises(SystemExit) as stop:
        main(["train", str(small_table(tmp_path / "t")), "--target", "y", "--out", str(tmp_path / "runs")])
    assert stop.value.code == 4
    said = capsys.readouterr().err
    assert said.startswith("mixfit: there is not enough memory")
    assert said.endswith("use fewer rows or columns, --preset quick, or a machine with more memory.\n")
    assert "bug" not in said
