"""A bug of ours is told as a bug, with exit code 1, and never as a damaged file, a bad row or a wrong flag."""

import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from command_line import QUICK
from small_runs import in_few_folds, small_fit, small_table, without_results

from mixfit.cli import main
from mixfit.config import TrainConfig
from mixfit.runs.results import Run

BUGS = (AttributeError("no such thing"), KeyError("key"), TypeError("a type"), ValueError("a value"), IndexError("9"))


def each(places: Sequence[Any]) -> list[Any]:
    """Every place with every bug: all five in the first, in each other one another of them, and the rest at length."""
    return [
        pytest.param(place, error, marks=[] if number == 0 or kind == number % len(BUGS) else [pytest.mark.long])
        for number, place in enumerate(places)
        for kind, error in enumerate(BUGS)
    ]


def run_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(str(stop.value.code)), capsys.readouterr().err


def break_it(patch: pytest.MonkeyPatch, place: str, error: Exception) -> None:
    """Let a function of ours raise what only a mistake in it would."""
    module, _, name = place.partition(":")
    owner, _, method = name.rpartition(".")

    def broken(*_: Any, **__: Any) -> Any:
        raise error

    found = import_module(module)
    patch.setattr(getattr(found, owner) if owner else found, method, broken)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_table(tmp_path_factory.mktemp("bugs") / "numbers")


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        without_results(patch)
        return small_fit(table, tmp_path_factory.mktemp("runs"))


def assert_told_as_a_bug(found: tuple[int, str], error: Exception) -> None:
    code, said = found
    assert (code, "this is a bug in mixfit, not your mistake" in said) == (1, True), said
    assert type(error).__name__ in said


IN_A_PRESET = [
    *each(
        [
            "mixfit.data.load:split_rows",
            "mixfit.models.linear:design_matrix",
            "mixfit.ensemble.cross_fit:make_fold",
            "mixfit.config:parse_duration",
        ]
    ),
    ("mixfit.evaluation.baselines:best_constant", KeyError("key")),  # at the end of a run, and takes as long
]


@pytest.mark.parametrize(("place", "error"), IN_A_PRESET, ids=str)
def test_while_a_preset_is_trained(
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    break_it(monkeypatch, place, error)
    in_few_folds(monkeypatch)
    more = ["--preset", "quick", "--epochs", "1", "--cache-gb", "0", "--tabular", "mlp", "--time", "9m"]
    assert_told_as_a_bug(run_of(capsys, "train", table, "--target", "y", "--out", tmp_path, *more), error)


@pytest.mark.parametrize(
    ("place", "error"),
    each(
        [
            "mixfit.data.dataset:_add_photos",
            "mixfit.data.loader:_table_rows",
            "mixfit.data.photos.decode:_to_square",
            "mixfit.data.photos.decode:_to_grey_or_rgb",
            "mixfit.data.photos.decode:_count_scans",
        ]
    ),
    ids=str,
)
def test_while_photos_are_decoded_and_batches_made(
    demo_table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    break_it(monkeypatch, place, error)
    more: Sequence[str] = [*QUICK, "--image-size", "32", "--cache-gb", "0", "--backbone", "small_resnet"]
    assert_told_as_a_bug(run_of(capsys, "train", demo_table, "--target", "price", "--out", tmp_path, *more), error)


@pytest.mark.parametrize(
    ("place", "error"), each(["mixfit.auto.kept_models:as_arrays", "mixfit.auto.kept_models:_not_finite"]), ids=str
)
def test_while_kept_models_are_read(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / run.folder.name))
    break_it(monkeypatch, place, error)
    assert_told_as_a_bug(run_of(capsys, "train", "--resume", folder), error)


@pytest.mark.parametrize("error", [AttributeError("x"), TypeError("a type")], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["mixfit.training.checkpoint:join_tensors", "mixfit.training.checkpoint:put_weights"])
def test_while_checkpoints_are_read(
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    with monkeypatch.context() as patch:
        without_results(patch)
        small_fit(table, tmp_path, train=TrainConfig(preset="network", epochs=1))
    (folder,) = tmp_path.iterdir()
    break_it(monkeypatch, place, error)
    assert_told_as_a_bug(run_of(capsys, "train", "--resume", folder), error)


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("mixfit.data.table.write:_without_formulas", "out.csv"),
        ("mixfit.data.table.write:_delimited", "out.csv"),
        ("mixfit.data.table.write:_json_cells", "out.jsonl"),
        ("mixfit.data.columns.preprocess:TablePreprocessor.transform", "out.parquet"),
    ],
)
def test_while_predictions_are_written(
    run: Run,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    name: str,
    error: Exception,
) -> None:
    break_it(monkeypatch, place, error)
    found = run_of(capsys, "predict", run.folder, table, "-o", tmp_path / name, "--cache-gb", 0)
    assert_told_as_a_bug(found, error)


def test_what_people_do_wrong_is_still_no_bug(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run_of(capsys, "train", table, "--target", "y", "--epochs", "many")
    assert code == 2
    assert "bug" not in said
    code, said = run_of(capsys, "train", table, "--target", "y", "--time", "soon")
    assert code == 2
    assert "A duration is a number" in said
