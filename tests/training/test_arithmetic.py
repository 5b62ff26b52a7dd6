"""What is measured once stays settled."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixfit.config import ModelConfig
from mixfit.nn.backbones import make_backbone
from mixfit.training import arithmetic
from mixfit.training.arithmetic import REMEMBERED, WORTHWHILE_PHOTOS, Arithmetic, fastest, settle_arithmetic

CONFIG, CPU = ModelConfig(backbone="small_resnet"), torch.device("cpu")
GPU = torch.device("cuda")
CHANNELS_LAST, CONTIGUOUS = Arithmetic("channels_last", "float32"), Arithmetic("contiguous", "float32")
MANY = WORTHWHILE_PHOTOS


def test_nothing_is_measured_where_it_does_not_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(arithmetic, "fastest")
    settled = replace(CONFIG, memory_format="channels_last", precision="float32")
    for photos, folder, device in (
        (MANY - 1, tmp_path, CPU),
        (MANY, None, CPU),
        (MANY, tmp_path, GPU),
    ):
        assert settle_arithmetic(CONFIG, image_size=32, photos=photos, device=device, folder=folder) == settled
    assert settle_arithmetic(settled, image_size=32, photos=MANY, device=CPU, folder=tmp_path) is settled
    assert list(tmp_path.iterdir()) == []


def test_the_answer_is_remembered_and_a_damaged_memory_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def counted(*_: object, **__: object) -> Arithmetic:
        measured.append(1)
        return CONTIGUOUS

    monkeypatch.setattr(arithmetic, "fastest", counted)
    folder = tmp_path / "cache"

    def settle() -> ModelConfig:
        return settle_arithmetic(CONFIG, image_size=32, photos=MANY, device=CPU, folder=folder)

    first = settle()
    assert (first.memory_format, first.precision) == CONTIGUOUS
    assert settle() == first
    assert len(measured) == 1
    settle_arithmetic(CONFIG, image_size=64, photos=MANY, device=CPU, folder=folder)
    assert len(measured) == 2
    assert len(json.loads((folder / REMEMBERED).read_text())) == 2
    (folder / REMEMBERED).write_text("[not json")
    assert settle() == first
    assert len(measured) == 3


def test_a_setting_that_was_given_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "fastest", lambda _module, choices, **_: choices[-1])
    config = replace(CONFIG, precision="float32")
    found = settle_arithmetic(config, image_size=32, photos=MANY, device=CPU, folder=tmp_path)
    assert (found.memory_format, found.precision) == ("contiguous", "float32")


@pytest.mark.parametrize("learns", [False, True])
def test_measuring_leaves_the_weights_alone(learns: bool) -> None:
    torch.manual_seed(0)
    module = make_backbone("small_resnet").module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert fastest(module, [CHANNELS_LAST, CONTIGUOUS], image_size=32, learns=learns) in (CHANNELS_LAST, CONTIGUOUS)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_clearly_faster_one_is_chosen_and_noise_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Flatten()
    cost = {CHANNELS_LAST: 1.0, CONTIGUOUS: 0.95}
    now = [0.0]

    def run(_module: object, pixels: torch.Tensor, choice: Arithmetic, *, learns: bool) -> torch.Tensor:
        del learns
        now[0] += cost[choice]
        return pixels.flatten(1)

    monkeypatch.setattr(arithmetic, "_run", run)
    monkeypatch.setattr(arithmetic.time, "perf_counter", lambda: now[0])
    choices = [CHANNELS_LAST, CONTIGUOUS]
    assert fastest(module, choices, image_size=4, learns=False) == CHANNELS_LAST
    cost[CONTIGUOUS] = 0.5
    assert fastest(module, choices, image_size=4, learns=False) == CONTIGUOUS


def test_bfloat16_that_changes_the_features_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = Arithmetic("channels_last", "bfloat16")

    def run(_module: object, pixels: torch.Tensor, choice: Arithmetic, *, learns: bool) -> torch.Tensor:
        del learns
        flat = pixels.flatten(1)
        return flat.flip(1) if choice == coarse else flat

    monkeypatch.setattr(arithmetic, "_run", run)
    found = fastest(torch.nn.Flatten(), [CHANNELS_LAST, coarse], image_size=4, learns=False)
    assert found == CHANNELS_LAST
