"""Parts of a network that were written outside mixfit, each in one file: they train, are saved, loaded,
explained and exported like ours, through the public door alone and without a change to mixfit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from own_callback import GradientNoise
from own_fusion import Product
from own_image_encoder import Edges
from own_network import Whole, build
from torch import nn

import mixfit

CONFIG = mixfit.ModelConfig(
    backbone="small_resnet", tabular_hidden=(16,), encoding_dim=16, members=4, numbers="piecewise", bins=8
)
Build = Callable[[Any, mixfit.ModelConfig, dict[str, Any]], nn.Module]


def with_edges(data: Any, config: mixfit.ModelConfig, settings: dict[str, Any]) -> nn.Module:
    return mixfit.build_model(data, config, seed=0, image_encoder=Edges(**settings))


def with_product(data: Any, config: mixfit.ModelConfig, settings: dict[str, Any]) -> nn.Module:
    return mixfit.build_model(data, config, seed=0, fusion=lambda table, photos: Product(table, photos, **settings))


def whole(data: Any, config: mixfit.ModelConfig, settings: dict[str, Any]) -> nn.Module:
    if not isinstance(data, mixfit.data.MixedData):
        return build(data, config, settings)
    levels = tuple(data.preprocessor.cardinalities)
    return Whole(data.arrays.numeric.shape[1], levels, data.target.outputs, **settings)


PARTS: dict[str, tuple[Build, dict[str, Any]]] = {
    "image encoder": (with_edges, {"out_dim": 12}),
    "fusion": (with_product, {"out_dim": 10}),
    "whole network": (whole, {"width": 24}),
}


@pytest.fixture(scope="module")
def data(demo_table: Path) -> mixfit.data.MixedData:
    return mixfit.load_data(demo_table, target="price", image_size=32, batch_size=64)


@pytest.fixture(scope="module")
def frame(demo_table: Path) -> pd.DataFrame:
    return pd.read_csv(demo_table)


class Trained:
    """A part, the network that has it, and how it did."""

    def __init__(self, part: str, data: mixfit.data.MixedData, folder: Path) -> None:
        self.build, self.settings = PARTS[part]
        torch.manual_seed(0)
        self.model = self.build(data, CONFIG, self.settings)
        self.learner = mixfit.Learner(self.model, data, loss=mixfit.mse, device="cpu")
        self.before = self.learner.validate()["valid_loss"]
        self.learner.fit_one_cycle(5, 2e-2)
        self.after = self.learner.validate()["valid_loss"]
        self.predictor = mixfit.Predictor.from_training(self.model, data, CONFIG, settings=self.settings)
        self.folder = folder / "model"
        self.predictor.save(self.folder)


@pytest.fixture(scope="module", params=PARTS)
def trained(
    request: pytest.FixtureRequest, data: mixfit.data.MixedData, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    return Trained(request.param, data, tmp_path_factory.mktemp("own"))


def test_it_learns_and_its_loaded_copy_predicts_the_same(
    trained: Trained, frame: pd.DataFrame, demo_table: Path
) -> None:
    assert trained.after < 0.9 * trained.before
    expected = trained.predictor.predict(frame, images=demo_table.parent)
    assert expected["prediction"].nunique() > 50
    loaded = mixfit.Predictor.load(trained.folder, model=trained.build)
    pd.testing.assert_frame_equal(loaded.predict(frame, images=demo_table.parent), expected, check_exact=True)
    again = trained.folder.with_name("again")
    loaded.save(again)
    for name in ("model.safetensors", "mixfit.json"):
        assert (again / name).read_bytes() == (trained.folder / name).read_bytes()


def test_a_module_does_as_well_as_the_function_that_makes_it(
    trained: Trained, data: mixfit.data.MixedData, frame: pd.DataFrame, demo_table: Path
) -> None:
    module = trained.build(data, CONFIG, trained.settings)
    loaded = mixfit.Predictor.load(trained.folder, model=module)
    expected = trained.predictor.predict(frame[:20], images=demo_table.parent)
    pd.testing.assert_frame_equal(loaded.predict(frame[:20], images=demo_table.parent), expected, check_exact=True)


def test_its_predictions_are_explained_by_parts_that_sum_to_them(
    trained: Trained, frame: pd.DataFrame, demo_table: Path
) -> None:
    images = demo_table.parent
    found = mixfit.explain(trained.predictor, frame[:2], images=images, background=frame[2:8], device="cpu")
    predicted = trained.predictor.predict(frame[:2], images=images)["prediction"].to_numpy()
    value = np.log(predicted) if found.scale != "number" else predicted
    np.testing.assert_allclose(found.value, value, rtol=1e-4)
    np.testing.assert_allclose(found.parts.sum(1), found.value - found.base, atol=1e-6)


@pytest.mark.parametrize("part", ["image encoder", "fusion"])
def test_it_is_exported(part: str, data: mixfit.data.MixedData) -> None:
    make, settings = PARTS[part]
    model = make(data, CONFIG, settings).eval()
    xb, _ = next(iter(data.valid))
    program = mixfit.nn.export_model(model, xb).module()
    fields = ("numeric", "categorical", "images", "image_mask", "image_column")
    torch.testing.assert_close(program(**{name: getattr(xb, name) for name in fields}), model(xb))


def test_without_the_code_it_is_refused_in_one_sentence(trained: Trained) -> None:
    with pytest.raises(mixfit.ConfigError, match=r"is a custom network, whose code is not saved: pass .*model="):
        mixfit.Predictor.load(trained.folder)


def test_another_network_is_refused_in_one_sentence(trained: Trained, data: mixfit.data.MixedData) -> None:
    name, size = next(iter(trained.settings.items()))
    wider = trained.build(data, CONFIG, {name: size + 1})
    with pytest.raises(mixfit.ConfigError, match=r"is not the one in .*: the tensor .* is \(.*\) .* instead of \("):
        mixfit.Predictor.load(trained.folder, model=wider)
    with pytest.raises(
        mixfit.ConfigError, match=r"is not the one in .*: \d+ tensors .* missing and \d+ are unexpected"
    ):
        mixfit.Predictor.load(trained.folder, model=nn.Linear(2, 3))


def test_a_fusion_of_the_same_shapes_is_not_taken_for_ours(data: mixfit.data.MixedData) -> None:
    class Other(mixfit.nn.LateFusion):
        """Of other arithmetic."""

    config = mixfit.ModelConfig(backbone="small_resnet", fusion="late", numbers="plain")
    model = mixfit.build_model(data, config, fusion=lambda table, photos: Other(table, photos, out_dim=64))
    ours = mixfit.build_model(data, config)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in ours.state_dict().items()}
    with pytest.raises(mixfit.ConfigError, match=r"settings=\{\.\.\.\}"):
        mixfit.Predictor.from_training(model, data, config)


def test_networks_of_mixfit_want_no_code(data: mixfit.data.MixedData, tmp_path: Path) -> None:
    config = mixfit.ModelConfig(backbone="small_resnet", tabular_hidden=(8,), encoding_dim=8)
    mixfit.Predictor.from_training(mixfit.build_model(data, config, seed=0), data, config).save(tmp_path / "model")
    with pytest.raises(mixfit.ConfigError, match="leave out model="):
        mixfit.Predictor.load(tmp_path / "model", model=nn.Linear(2, 3))


@pytest.mark.parametrize("settings", [{"width": float("nan")}, {"layers": (1, 2)}, {"kind": nn.Linear}])
def test_settings_that_json_cannot_hold_are_refused(data: mixfit.data.MixedData, settings: dict[Any, Any]) -> None:
    model = Whole(1, (), 1, 2)
    with pytest.raises(mixfit.ConfigError, match="must be JSON values"):
        mixfit.Predictor.from_training(model, data, CONFIG, settings=settings)


def test_parts_for_photos_need_photos(data: mixfit.data.MixedData) -> None:
    table = mixfit.load_data(data.frame[["height_cm", "price"]], target="price")
    with pytest.raises(mixfit.ConfigError, match="has no photos, so it needs neither"):
        mixfit.build_model(table, image_encoder=Edges(4))


def test_an_own_callback_trains_and_is_resumed_to_the_bit(data: mixfit.data.MixedData, tmp_path: Path) -> None:
    def fit(epochs: int, *callbacks: mixfit.Callback, resume: bool = False) -> torch.Tensor:
        torch.manual_seed(0)
        model = mixfit.build_model(data, CONFIG, seed=0)
        learner = mixfit.Learner(model, data, loss=mixfit.mse, device="cpu")
        snapshot = mixfit.training.newest_checkpoint(tmp_path) if resume else None
        learner.fit(epochs, 1e-3, callbacks=callbacks, resume=snapshot)
        return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])

    class Stop(mixfit.Callback):
        """After the first epoch."""

        def before_epoch(self, state: mixfit.training.TrainState) -> None:
            if state.epoch == 1:
                raise KeyboardInterrupt

    noise = GradientNoise()
    whole_fit = fit(2, noise)
    assert noise.largest > 0
    assert not torch.equal(whole_fit, fit(2))
    saved = mixfit.training.Checkpoints(tmp_path, mode="min", seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(2, GradientNoise(), saved, Stop())
    resumed = fit(2, GradientNoise(), mixfit.training.Checkpoints(tmp_path, mode="min", seconds=0.0), resume=True)
    assert torch.equal(resumed, whole_fit)
