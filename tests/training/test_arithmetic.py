"""How an image network computes is a matter of its name and of the processor, and of nothing else."""

import time
from dataclasses import replace

import pytest
import torch

from mixfit.auto.recipe import Run
from mixfit.config import ModelConfig
from mixfit.config_file import read_config
from mixfit.training.choose import has_bfloat16, settle_arithmetic

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def precision(backbone: str, device: torch.device = CPU, **settings: bool) -> str:
    config = settle_arithmetic(ModelConfig(backbone=backbone, **settings), device)
    assert config.memory_format == "channels_last"
    return config.precision


def processor(monkeypatch: pytest.MonkeyPatch, level: str, *features: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True))


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16"])
def test_networks_that_were_measured_to_be_faster_learn_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, instructions: str
) -> None:
    processor(monkeypatch, "AVX512", "avx512_f", instructions)
    assert {precision(name) for name in ("small_resnet", "resnet18", "resnet50.a1_in1k")} == {"bfloat16"}
    others = ("mobilenetv3_small_100", "efficientnet_b0", "some_network_of_tomorrow")
    assert {precision(name) for name in others} == {"float32"}


def test_frozen_networks_and_gpus_compute_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "AVX512", "avx512_bf16")
    assert precision("tf_efficientnet_lite0") == "float32"
    assert precision("resnet18", freeze_backbone=True, allow_download=True) == "float32"
    assert precision("small_resnet", GPU) == "float32"


@pytest.mark.parametrize(
    ("level", "features"),
    [
        ("AVX512", ()),
        ("AVX512", ("avx512_f",)),
        ("AVX2", ("avx512_bf16",)),
        ("DEFAULT", ("avx512_bf16",)),
        ("SVE", ("bf16",)),
    ],
)
def test_without_measured_instructions_it_is_float32(
    monkeypatch: pytest.MonkeyPatch, level: str, features: tuple[str, ...]
) -> None:
    processor(monkeypatch, level, *features)
    assert precision("small_resnet") == "float32"


def test_a_setting_that_was_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "AVX512", "avx512_bf16")
    given = ModelConfig(backbone="small_resnet", memory_format="contiguous", precision="float32")
    assert settle_arithmetic(given, CPU) == given
    settled = settle_arithmetic(replace(given, precision="auto"), CPU)
    assert (settled.memory_format, settled.precision) == ("contiguous", "bfloat16")


def test_pytorch_tells_what_is_asked_of_it() -> None:
    """Names of features are looked up in what PyTorch lists, where a missing one would look like a missing feature."""
    here = torch.cpu.get_capabilities()
    if here["architecture"] == "x86_64":
        assert {"avx512_bf16", "amx_bf16"} <= here.keys()
    assert has_bfloat16() in (False, True)


def test_the_choice_is_written_into_the_run(quick_run: Run) -> None:
    model = read_config(quick_run.folder / "config.toml").model
    assert (model.memory_format, model.precision) == ("channels_last", "float32")


def test_no_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> float:
        raise AssertionError("a clock was read")

    for name in ("time", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "time_ns"):
        monkeypatch.setattr(time, name, read)
    with pytest.raises(AssertionError, match="a clock"):
        time.perf_counter()
    for name in ("small_resnet", "tf_efficientnet_lite0"):
        settle_arithmetic(ModelConfig(backbone=name), CPU)
    monkeypatch.undo()
