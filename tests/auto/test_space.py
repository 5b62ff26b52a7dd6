"""What a search may change."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from mixfit.auto.tune import Space
from mixfit.config import ModelConfig, TrainConfig

TRAIN = TrainConfig(lr=2e-3, weight_decay=0.05)


class At:
    """A trial that takes the lowest or highest value, or given ones."""

    def __init__(self, choice: Literal["low", "high"] | dict[str, Any]) -> None:
        self.choice = choice
        self.names: list[str] = []

    def _take(self, name: str, low: Any, high: Any) -> Any:
        self.names.append(name)
        if isinstance(self.choice, dict):
            value = self.choice[name]
            assert low <= value <= high
            return value
        return low if self.choice == "low" else high

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        assert 0 < low < high or not log
        return self._take(name, low, high)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._take(name, low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.names.append(name)
        if isinstance(self.choice, dict):
            assert self.choice[name] in choices
            return self.choice[name]
        return choices[0 if self.choice == "low" else -1]


MODELS = [
    ModelConfig(tabular_hidden=(128, 128)),
    ModelConfig(tabular_hidden=(16,), encoding_dim=2, members=1, dropout=0.8, image_dropout=0.9, modality_dropout=0.6),
    ModelConfig(tabular="mlp", tabular_hidden=(64, 24, 7)),
    ModelConfig(tabular="resnet", tabular_hidden=(64, 64, 64, 64, 64)),
    ModelConfig(tabular_hidden=()),
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_the_start_is_a_point_of_the_space_and_gives_its_own_settings(model: ModelConfig, decay: float) -> None:
    train = TrainConfig(lr=2e-3, weight_decay=decay, augment="flip")
    space = Space(model=model, train=train, photos=True, pixels=True)
    start = space.start()
    trial = At(start)
    assert space.suggest(trial) == (model, train)
    assert trial.names == list(start)


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("model", MODELS)
def test_every_end_of_the_ranges_is_a_possible_setting(model: ModelConfig, end: Literal["low", "high"]) -> None:
    found, train = Space(model=model, train=TRAIN, photos=True, pixels=True).suggest(At(end))
    assert found != model
    assert train.lr is not None
    assert train.lr == pytest.approx(2e-4 if end == "low" else 2e-2)


def names(model: ModelConfig, *, photos: bool = True, pixels: bool = False) -> set[str]:
    return set(Space(model=model, train=TRAIN, photos=photos, pixels=pixels).start())


def test_only_what_matters_is_searched() -> None:
    tabm, resnet = MODELS[0], MODELS[3]
    assert names(tabm, photos=False) == {"lr", "weight_decay", "dropout", "layers", "width", "encoding_dim", "members"}
    assert names(tabm) - names(tabm, photos=False) == {"fusion", "modality_dropout", "image_dropout"}
    assert names(tabm, pixels=True) - names(tabm) == {"augment"}
    assert names(tabm) - names(resnet) == {"members", "width"}


def test_layers_are_wider_in_proportion() -> None:
    space = Space(model=ModelConfig(tabular="mlp", tabular_hidden=(64, 32)), train=TRAIN, photos=False, pixels=False)
    model, _ = space.suggest(At({**space.start(), "width": 128, "layers": 4}))
    assert model.tabular_hidden == (128, 64, 64, 64)
