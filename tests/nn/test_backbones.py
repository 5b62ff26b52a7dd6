"""Image networks from files of weights, under the names of several libraries, and those that are on disk."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from mixfit.cli import main
from mixfit.errors import ConfigError, DataError
from mixfit.nn.backbones import LITE0, backbones_on_disk, make_backbone

VIT = "test_vit"


def made(name: str, size: int = 160) -> Any:
    torch.manual_seed(1)
    return timm.create_model(name, pretrained=False, num_classes=7, img_size=size).eval()


def features(module: Any, size: int) -> Tensor:
    with torch.inference_mode():
        found: Tensor = module(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
    return found


def test_weights_of_timm_are_loaded_without_their_classifier(tmp_path: Path) -> None:
    model = made(VIT)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    found = make_backbone(VIT, image_size=160, weights=tmp_path / "vit.safetensors")
    model.reset_classifier(0)
    torch.testing.assert_close(features(found.module, 160), features(model, 160), rtol=0, atol=0)


def test_a_transformer_is_made_for_the_size_of_the_photos(tmp_path: Path) -> None:
    """Its positions are interpolated, as timm does it."""
    model = made(VIT)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    found = make_backbone(VIT, image_size=96, weights=tmp_path / "vit.safetensors")
    model.reset_classifier(0)
    model.set_input_size(img_size=96)
    torch.testing.assert_close(features(found.module, 96), features(model, 96))


def test_weights_of_dinov2_are_converted(tmp_path: Path) -> None:
    """Its files have a mask token, which timm's model lacks."""
    model = made(VIT)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    save_file({**state, "mask_token": torch.zeros(1, 64)}, tmp_path / "dino.safetensors")
    found = make_backbone(VIT, image_size=80, weights=tmp_path / "dino.safetensors")
    model.reset_classifier(0)
    model.set_input_size(img_size=80)
    torch.testing.assert_close(features(found.module, 80), features(model, 80))


def test_weights_of_openclip_are_found_in_its_image_tower(tmp_path: Path) -> None:
    """Of a model whose image tower is of timm; the text tower is ignored."""
    model = made(VIT)
    tower = {f"visual.trunk.{name}": value for name, value in model.state_dict().items() if not name.startswith("head")}
    save_file({**tower, "text.token_embedding": torch.zeros(3, 2)}, tmp_path / "clip.safetensors")
    found = make_backbone(VIT, image_size=160, weights=tmp_path / "clip.safetensors")
    model.reset_classifier(0)
    torch.testing.assert_close(features(found.module, 160), features(model, 160), rtol=0, atol=0)


def test_other_weights_and_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"not those of test_vit: \d+ of \d+ tensors are missing, the first is"):
        make_backbone(VIT, image_size=160, weights=tmp_path / "x.safetensors")
    torch.save({"x": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(DataError, match=r"no safetensors file, .*: if you trust it, write what torch.load reads"):
        make_backbone(VIT, image_size=160, weights=tmp_path / "x.pth")
    (tmp_path / "y.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        make_backbone(VIT, image_size=160, weights=tmp_path / "y.safetensors")


def test_a_size_that_no_patch_fits_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not support photos of 100 x 100 pixels"):
        make_backbone(VIT, image_size=100)


def test_what_is_on_disk_is_listed_with_sizes_and_licences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "models--timm--resnet18.a1_in1k"
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc" / "model.safetensors").write_bytes(b"x" * 2_000_000)
    (tmp_path / "models--somebody--else").mkdir()
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    names = {one.name: one for one in backbones_on_disk()}
    assert set(names) == {LITE0, "small_resnet", "resnet18.a1_in1k"}
    assert names[LITE0].bytes > 10_000_000
    assert names["resnet18.a1_in1k"].bytes == 2_000_000
    assert names["resnet18.a1_in1k"].licence == "apache-2.0"
    with pytest.raises(SystemExit) as stop:
        main(["train", "--backbone", "list"])
    assert not stop.value.code
    assert "resnet18.a1_in1k" in capsys.readouterr().out
