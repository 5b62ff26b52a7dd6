"""The network that tunes the backbone in every fold: beside the others, without a leak, same bytes, resumable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from quick_runs import QUICK_DATA, QUICK_MODEL
from rich.console import Console
from safetensors.torch import load_file, save_file
from small_fits import StopAt

import mixfit
from mixfit.auto import planning
from mixfit.auto.blending import RunKeeper
from mixfit.auto.presets import Plan, plan_for, unused_settings
from mixfit.auto.recipe import Run, fit, resume
from mixfit.choices import Preset
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.load import MixedData, load_data
from mixfit.data.photos.records import Cache
from mixfit.ensemble.cross_fit import FittedFolds, Fitting, cross_fit, fit_folds
from mixfit.errors import ConfigError, Stopped
from mixfit.models.linear import Constant
from mixfit.models.model import BOTH, PHOTOS, PIXELS, TABLE, Model
from mixfit.models.network import FittedNetwork, Network
from mixfit.nn.freezing import NORMS, blocks
from mixfit.predictor import NetworkPredictor
from mixfit.predictor.blend import BlendPredictor
from mixfit.training.build import build_model, precompute_features

QUIET = Console(quiet=True)
TUNED, UNTUNED = Network(sees=TABLE | PIXELS, tuned=True), Network(sees=BOTH)
CONFIG = replace(QUICK_DATA, roles={"pair": "group"})
BACKBONE = "test_resnet"


@pytest.fixture(scope="module")
def model_config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """A tiny backbone of timm with weights of a file, so that it is frozen."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    network: Any = timm.create_model(BACKBONE, pretrained=False, num_classes=0)
    save_file(network.state_dict(), path)
    return replace(
        QUICK_MODEL,
        encoding_dim=64,
        image_dropout=0.1,
        backbone=BACKBONE,
        backbone_weights=path,
        freeze_backbone=True,
        photo_stages=0,  # early stages see the stripes, and nothing would be left to tune
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that is mostly in the direction of the stripes of a photo, and partly in a number."""
    folder, rows = tmp_path_factory.mktemp("stripes"), 120
    rng = np.random.default_rng(0)
    x, upright = rng.normal(size=rows), rng.integers(0, 2, rows)
    for number in range(rows):
        stripes = np.tile(np.repeat([40, 215], 4), 4)[None].repeat(32, 0) + rng.normal(0, 10, (32, 32))
        pixels = np.clip(stripes if upright[number] else stripes.T, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{number}.png")
    y = 0.5 * x + 3.0 * upright + 0.1 * rng.normal(size=rows)
    photos = [f"{number}.png" for number in range(rows)]
    pd.DataFrame({"x": x, "pair": np.arange(rows) // 2, "photo": photos, "y": y}).to_csv(
        folder / "table.csv", index=False
    )
    return folder / "table.csv"


@pytest.fixture
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the preset the networks that see photos, in two folds; a constant stands for the table."""

    def plan(data: MixedData, train: TrainConfig, **settings: Any) -> Plan:
        whole = plan_for(data, train, **settings)
        assert whole.models[-1] == TUNED
        wanted = (Constant(), UNTUNED, TUNED)
        return replace(whole, models=tuple(one for one in whole.models if one in wanted), folds=2)

    monkeypatch.setattr(planning, "plan_for", plan)


def best_fit(table: Path, out: Path, model: ModelConfig, **settings: Any) -> Run:
    train = TrainConfig(preset="best", epochs=3, lr=1e-2, folds=3, report=False)
    return fit(table, target="y", data=CONFIG, model=model, train=train, out=out, console=QUIET, **settings)


def loaded(table: Path, model_config: ModelConfig) -> tuple[MixedData, torch.nn.Module]:
    """Data with features beside pixels, and the backbone."""
    data = load_data(table, target="y", config=CONFIG, seed=0)
    model = build_model(data, model_config, seed=0)
    assert model.image is not None
    return precompute_features(data, model), model.image.backbone


def tuned_fit(
    data: MixedData, backbone: torch.nn.Module, model: ModelConfig, epochs: int
) -> tuple[FittedFolds, Fitting]:
    folds = fit_folds(data, 2, seed=0).with_pixels(data.photos.pixels)  # type: ignore[union-attr]
    settings: dict[str, Any] = {"config": model, "train": TrainConfig(epochs=epochs), "backbone": backbone}
    before = cross_fit(replace(UNTUNED, **settings), folds)
    return folds, cross_fit(replace(TUNED, **settings), folds, begin_at=before)


def mean_loss(folds: FittedFolds, fitting: Fitting) -> float:
    return float(np.mean((folds.truth - fitting.predictions) ** 2))


def test_preset_best_or_a_flag_tries_it_last_and_where_the_backbone_is_frozen(
    table: Path, model_config: ModelConfig
) -> None:
    assert TUNED.name == "tuned network, table and photos"
    data, _ = loaded(table, model_config)
    presets: tuple[Preset, ...] = ("quick", "balanced", "best")
    plans = [plan_for(data, TrainConfig(preset=preset)).models for preset in presets]
    assert [[one for one in plan if isinstance(one, Network) and one.tuned] for plan in plans] == [[], [], [TUNED]]
    assert plans[2][-1] == TUNED
    assert set(plans[2]) - set(plans[1]) == {TUNED, Network(sees=PHOTOS)}
    for preset in presets:  # a flag puts it last in every one
        plan = plan_for(data, TrainConfig(preset=preset, fine_tune=True)).models
        assert [one for one in plan if isinstance(one, Network) and one.tuned] == [TUNED] == [plan[-1]]
        assert Network(sees=BOTH) in plan  # at which it begins
    on_pixels = load_data(table, target="y", config=CONFIG, seed=0)
    unused = unused_settings(on_pixels, CONFIG, model_config, TrainConfig(fine_tune=True))
    assert "fine_tune has no effect: there are no features of a frozen image network" in unused
    assert TUNED not in plan_for(on_pixels, TrainConfig(preset="best")).models
    photos_alone = replace(CONFIG, ignore=("x", "pair"), roles={})
    alone = precompute_features(
        load_data(table, target="y", config=photos_alone, seed=0), build_model(data, model_config, seed=0)
    )
    assert plan_for(alone, TrainConfig(preset="best")).models[-1].name == "tuned network, photos"


@pytest.mark.usefixtures("few_models")
def test_it_is_saved_repeated_and_resumed_with_the_same_bytes(
    table: Path, model_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = best_fit(table, tmp_path / "one", model_config)
    assert isinstance(run.predictor, BlendPredictor)
    assert run.predictor.shares[TUNED.name] > 0
    description = (run.folder / "model" / "mixfit.json").read_text()
    assert '"tiny.safetensors"' in description  # the name of the file of weights, without the machine's folders
    frame = pd.read_csv(table, dtype=str)
    expected = run.predictor.predict(frame, images=table.parent)
    read = mixfit.Predictor.load(run.folder / "model")
    pd.testing.assert_frame_equal(read.predict(frame, images=table.parent), expected, check_exact=True)
    plain = read.predictions(frame, images=table.parent)
    cached = read.predictions(frame, images=table.parent, cache=Cache(folder=tmp_path / "cache", limit_bytes=10**8))
    np.testing.assert_array_equal(cached.values, plain.values)

    again = best_fit(table, tmp_path / "two", model_config)
    watch = RunKeeper.watch

    def stopped(keeper: RunKeeper, model: Model, fold: int) -> Any:
        found = watch(keeper, model, fold)
        if not (model == TUNED and fold == 1):
            return found
        return replace(found, callbacks=[*found.callbacks[:-1], StopAt(3), found.callbacks[-1]])

    monkeypatch.setattr(RunKeeper, "watch", stopped)
    with pytest.raises(Stopped):
        best_fit(table, tmp_path / "three", model_config)
    monkeypatch.setattr(RunKeeper, "watch", watch)
    (folder,) = (tmp_path / "three").glob("*-001")
    assert list((folder / "candidates" / "tuned_network-table_and_photos-2" / "checkpoints").iterdir())
    torch.randn(5)  # the generator is elsewhere now
    resumed = resume(folder, console=QUIET)
    for other in (again, resumed):
        assert other.scores == run.scores
        for kept in (run.folder / "candidates").glob("*.safetensors"):
            assert (other.folder / "candidates" / kept.name).read_bytes() == kept.read_bytes()
        for name in ("model.safetensors", "mixfit.json"):
            assert (other.folder / "model" / name).read_bytes() == (run.folder / "model" / name).read_bytes()


@pytest.mark.long
def test_the_stripes_are_learned_and_permuted_targets_are_not(table: Path) -> None:
    model_config = replace(QUICK_MODEL, freeze_backbone=True, encoding_dim=64, image_dropout=0.1)
    data, backbone = loaded(table, model_config)
    folds, fitting = tuned_fit(data, backbone, model_config, 20)
    assert mean_loss(folds, fitting) < 0.7 * np.var(folds.truth)
    learnable = np.concatenate([data.split.train, data.split.valid])
    target = data.arrays.target.clone()
    target[torch.from_numpy(learnable)] = target[torch.from_numpy(np.random.default_rng(1).permutation(learnable))]
    shuffled = replace(data, arrays=replace(data.arrays, target=target))
    folds, fitting = tuned_fit(shuffled, backbone, model_config, 20)
    assert mean_loss(folds, fitting) > 0.95 * np.var(folds.truth)


def test_the_backbone_of_each_fold_changes_in_its_last_blocks_alone(table: Path, model_config: ModelConfig) -> None:
    data, backbone = loaded(table, model_config)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    folds, fitting = tuned_fit(data, backbone, model_config, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    first, second = fitting.fitted[:2]
    assert isinstance(first, FittedNetwork)
    assert isinstance(second, FittedNetwork)
    assert first.changed
    kept = {name for name in first.state()[0] if name.startswith("image.backbone.")}
    assert kept == set(first.changed)
    assert 0 < len(kept) < len(before)
    assert not any("running" in name or "num_batches" in name for name in kept)
    assert set(second.changed or ()) == kept
    assert not all(np.array_equal(first.state()[0][name], second.state()[0][name]) for name in kept)
    features_alone = folds.folds[0].rows
    with pytest.raises(ConfigError, match="needs both pixels and features"):
        first.predict(replace(features_alone, pixels=None))


def test_the_single_network_is_tuned_by_the_same_flag(
    table: Path, model_config: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = TrainConfig(preset="network", epochs=2, fine_tune=True)
    run = fit(table, target="y", data=CONFIG, model=model_config, train=train, out=tmp_path, console=QUIET)
    before: Any = timm.create_model(BACKBONE, pretrained=False, num_classes=0)
    assert model_config.backbone_weights is not None
    before.load_state_dict(load_file(model_config.backbone_weights))
    assert isinstance(run.predictor, NetworkPredictor)
    after: Any = run.predictor.model.image.backbone  # type: ignore[union-attr]
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    norms = {name for name, part in after.named_modules() if isinstance(part, NORMS)}
    assert changed
    assert not {name for name in changed if name.rpartition(".")[0] in norms}
    last = {name for part in blocks(before)[-2:] for name, _ in part.named_parameters()}
    assert len(changed) <= len(last)
    untrained = replace(model_config, backbone="small_resnet", backbone_weights=None, freeze_backbone=None)
    train = replace(train, epochs=1)
    fit(table, target="y", data=CONFIG, model=untrained, train=train, out=tmp_path)
    assert "fine_tune has no effect, as all of the image network is trained" in capsys.readouterr().out
