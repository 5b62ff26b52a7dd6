"""Every setting of a run is followed by the presets of many models, or they say in a sentence that it is not."""

import io
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_runs import QUICK_DATA
from rich.console import Console
from small_runs import MODEL, QUIET, TRAIN, in_few_folds, small_fit, small_table, without_results
from torch import Tensor

from mixfit.auto.presets import unused_settings
from mixfit.auto.recipe import fit, resume
from mixfit.cli import main
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.load import MixedData, default_batch_size
from mixfit.ensemble import cross_fit
from mixfit.ensemble.cross_fit import Fold
from mixfit.errors import ConfigError
from mixfit.models.model import Model, as_tensors, looks
from mixfit.models.network import Network
from mixfit.training.callback import Callback, TrainState


class Stop(BaseException):
    """Enough was seen."""


@dataclass(frozen=True)
class Seen:
    """What a preset hands to a network."""

    network: Network
    fold: Fold

    def tensors(self, model: ModelConfig, train: TrainConfig) -> dict[str, Tensor]:
        ready = replace(self.network, config=model, train=train, callbacks=[])
        return as_tensors(cross_fit.fit_model(ready, self.fold).state()[0], "network")


def seen_by_a_network(run: Callable[[], Any], *, photos: bool = False) -> Seen:
    """Run a preset up to the first training of a network, with photos or of the table alone."""
    real, seen = cross_fit.fit_model, []

    def fit_model(model: Model, fold: Fold) -> Any:
        if not isinstance(model, Network) or looks(model.sees) != photos:
            return real(model, fold)
        seen.append(Seen(model, fold))
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        in_few_folds(patch)
        patch.setattr(cross_fit, "fit_model", fit_model)
        with pytest.raises(Stop):
            run()
    return seen[0]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_table(tmp_path_factory.mktemp("settings") / "numbers")


@pytest.fixture(scope="module")
def of_table(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("bins")  # with rows enough for several bins
    return seen_by_a_network(lambda: small_fit(small_table(folder / "numbers", rows=400), folder / "runs"))


@pytest.fixture(scope="module")
def with_photos(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    settings: dict[str, Any] = {"data": QUICK_DATA, "model": MODEL, "train": TRAIN, "console": QUIET}
    out = tmp_path_factory.mktemp("photos")
    return seen_by_a_network(lambda: fit(demo_table, target="price", out=out, **settings), photos=True)


OF_TABLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # setting: what is beside it, and its other value
    "tabular": ({}, {"tabular": "resnet"}),
    "members": ({"tabular": "tabm"}, {"members": 3}),
    "category_width": ({"tabular": "tabm"}, {"category_width": 1}),
    "numbers": ({}, {"numbers": "linear"}),
    "number_width": ({"numbers": "linear"}, {"number_width": 3}),
    "bins": ({"numbers": "piecewise"}, {"bins": 4}),
    "tabular_hidden": ({}, {"tabular_hidden": (5,)}),
    "encoding_dim": ({}, {"encoding_dim": 8}),
    "dropout": ({}, {"dropout": 0.5}),
}
OF_PHOTOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fusion": ({}, {"fusion": "gated"}),
    "auxiliary_heads": ({}, {"auxiliary_heads": True}),
    "modality_dropout": ({}, {"modality_dropout": 0.5}),
    "image_dropout": ({}, {"image_dropout": 0.1}),
}
OF_TRAINING: dict[str, Any] = {
    "epochs": 1,
    "optimizer": "lion",
    "lr": 0.05,
    "weight_decay": 0.9,
    "loss": "mae",
    "batch_size": 7,
}
MADE_BEFORE = {
    "backbone",
    "freeze_backbone",
    "backbone_weights",
    "allow_download",
    "photo_stages",
    "train_blocks",
    "memory_format",
    "precision",
}
"""Settings of the image network, which is built, and refused where they do not fit, before the folds are."""
READ_BEFORE = {field.name for field in fields(DataConfig)} - {"valid"}
"""Settings of the data, which are read before the preset is looked at."""
ELSEWHERE = {"fine_tune", "preset", "seed", "augment", "time", "save_every", "patience", "metric", "refit", "report"}
ELSEWHERE |= {"folds"}
"""Tested below, and in the tests of resuming, of time, of metrics, of fine-tuning and of runs without a report."""


def test_no_setting_is_forgotten() -> None:
    assert {field.name for field in fields(ModelConfig)} == OF_TABLE.keys() | OF_PHOTOS.keys() | MADE_BEFORE
    assert {field.name for field in fields(TrainConfig)} == OF_TRAINING.keys() | ELSEWHERE
    assert {field.name for field in fields(DataConfig)} == READ_BEFORE | {"valid"}


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() != b.keys() or any(x.shape != b[name].shape or not torch.equal(x, b[name]) for name, x in a.items())


@pytest.mark.parametrize("name", [*OF_TABLE, *OF_PHOTOS])
def test_networks_of_presets_follow_the_settings_of_the_model(request: Any, name: str) -> None:
    seen = request.getfixturevalue("of_table" if name in OF_TABLE else "with_photos")
    beside, other = (OF_TABLE | OF_PHOTOS)[name]
    model = replace(MODEL, **beside)
    base = seen.tensors(model, TRAIN)
    assert not differ(base, seen.tensors(model, TRAIN))
    assert differ(base, seen.tensors(replace(model, **other), TRAIN))


@pytest.mark.parametrize("name", OF_TRAINING)
def test_networks_of_presets_follow_the_settings_of_the_training(of_table: Seen, name: str) -> None:
    base = of_table.tensors(MODEL, TRAIN)
    assert differ(base, of_table.tensors(MODEL, replace(TRAIN, **{name: OF_TRAINING[name]})))


def test_the_seed_is_followed(of_table: Seen) -> None:
    other = replace(of_table.fold, data=replace(of_table.fold.data, seed=99), seed=99)
    assert differ(of_table.tensors(MODEL, TRAIN), replace(of_table, fold=other).tensors(MODEL, TRAIN))


def test_augmentation_is_refused_where_no_network_sees_pixels(demo_table: Path, tmp_path: Path) -> None:
    train = replace(TRAIN, augment="flip")
    with pytest.raises(ConfigError, match="--augment flip needs an image network trained on pixels"):
        fit(demo_table, target="price", data=QUICK_DATA, model=MODEL, train=train, out=tmp_path, console=QUIET)


@pytest.mark.parametrize("folds", [2, 3])
def test_models_are_fitted_on_as_many_folds_as_were_asked_for(folds: int, tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(width=200, file=said)
    run = small_fit(small_table(tmp_path / "t"), tmp_path, train=replace(TRAIN, folds=folds), console=console)
    assert f" models x {folds} folds" in said.getvalue()
    kept = [path.stem for path in (run.folder / "candidates").glob("*-[0-9]*.json")]
    assert len({name.rsplit("-", 1)[-1] for name in kept if "kernel" not in name}) == folds
    assert len([name for name in kept if "kernel" in name]) == folds + 1, "one of all rows"
    assert run.contest is not None
    assert len(run.contest.fold_scores) == folds


def test_folds_of_a_single_network_and_too_many_are_refused(tmp_path: Path) -> None:
    table = small_table(tmp_path / "t")
    with pytest.raises(
        ConfigError, match="folds cannot be used with the preset network, which is judged on validation"
    ):
        small_fit(table, tmp_path, train=TrainConfig(preset="network", folds=3))
    for folds in (1, 21):
        with pytest.raises(ConfigError, match=f"folds must be from 2 to 20, got {folds}"):
            TrainConfig(folds=folds)


# --- what is not followed is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train": {"patience": 3}}, "patience=3 has no effect: the networks of preset quick train a fixed number"),
        ({"train": {"epochs": 100}}, "epochs=100: the networks of preset quick train at most 20 epochs"),
        ({"train": {"loss": "mae"}}, "loss=mae affects only networks: the other models of preset quick"),
        ({"data": {"valid": 0.3}}, "valid=0.3 has little effect: the folds of preset quick use training and"),
    ],
    ids=str,
)
def test_a_setting_that_is_not_followed_is_told(of_table: Seen, settings: dict[str, Any], sentence: str) -> None:
    data, model, train = DataConfig(), MODEL, TRAIN
    mixed = of_table.fold.data
    assert unused_settings(mixed, data, model, train) == []
    data, train = replace(data, **settings.get("data", {})), replace(train, **settings.get("train", {}))
    (found,) = unused_settings(mixed, data, model, train)
    assert found.startswith(sentence)


@pytest.mark.parametrize("name", ["members", "category_width"])
def test_settings_of_a_tabm_are_told_where_none_is_trained(of_table: Seen, with_photos: Seen, name: str) -> None:
    model = replace(MODEL, tabular="tabm", **{name: 2})

    def told(mixed: MixedData, preset: str) -> list[str]:
        train: Any = replace(TRAIN, preset=preset)
        return unused_settings(mixed, DataConfig(), model, train)

    assert told(with_photos.fold.data, "quick") == [
        f"{name}=2 has no effect: no network of preset quick is a TabM on these data"
    ]
    assert told(with_photos.fold.data, "balanced") == []
    assert told(of_table.fold.data, "quick") == []


def test_epochs_of_a_tuned_network_are_told(with_photos: Seen) -> None:
    train = replace(TRAIN, preset="best", epochs=30)
    found = unused_settings(with_photos.fold.data, DataConfig(), MODEL, train)
    assert found == ["epochs=30: the networks of preset best train at most 40 epochs, a fine-tuned one 4"]


def test_what_is_told_is_printed_and_reported(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = without_results(monkeypatch)
    arguments = ["train", str(table), "--target", "y", "--out", str(tmp_path), "--preset", "quick", "--epochs", "1"]
    in_few_folds(monkeypatch)
    with pytest.raises((SystemExit, AttributeError, FileNotFoundError)):
        main([*arguments, "--patience", "2", "--cache-gb", "0", "--tabular", "mlp"])
    assert " warning: patience=2 has no effect" in capsys.readouterr().out
    assert any(line.startswith("patience=2 has no effect") for line in reported[0])


# --- the size of a batch --------------------------------------------------------------------------------------------


class Sizes(Callback):
    """Rows of every training batch."""

    chooses = False

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def after_batch(self, state: TrainState) -> None:
        if state.training:
            self.seen.add(len(state.yb))


@pytest.mark.parametrize("asked", [7, pytest.param(None, marks=pytest.mark.long)])
def test_a_batch_size_that_was_asked_for_is_used_shown_and_resumed_with(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None
) -> None:
    without_results(monkeypatch)
    sizes = Sizes()
    run = small_fit(table, tmp_path, train=replace(TRAIN, batch_size=asked), callbacks=[sizes]).folder
    assert max(sizes.seen) == (asked or default_batch_size(40))
    said = tomllib.loads((run / "config.toml").read_text())["train"]
    assert said.get("batch_size") == asked
    for path in (run / "candidates").glob("network*.json"):
        path.unlink()
    sizes.seen.clear()
    resume(run, console=QUIET, callbacks=[sizes])
    assert max(sizes.seen) == (asked or default_batch_size(40))


def test_the_command_line_hands_the_batch_size_on(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_results(monkeypatch)
    seen: set[Any] = set()
    real = cross_fit.fit_model

    def fit_model(model: Model, fold: Fold) -> Any:
        if isinstance(model, Network):
            seen.add(model.train.batch_size)
        return real(model, fold)

    monkeypatch.setattr(cross_fit, "fit_model", fit_model)
    in_few_folds(monkeypatch)
    arguments = ["train", str(table), "--target", "y", "--out", str(tmp_path), "--preset", "quick", "--epochs", "1"]
    with pytest.raises((SystemExit, AttributeError, FileNotFoundError)):
        main([*arguments, "--batch-size", "7", "--cache-gb", "0", "--tabular", "mlp"])
    assert seen == {7}
