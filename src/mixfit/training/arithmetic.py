"""Which memory format and number type an image network computes with: a fixed table by network and processor.

Measured by ``benchmarks/bench_arithmetic.py`` (docs/LOG.md). Channels-last is nowhere slower beyond noise. bfloat16 is
faster where the processor has instructions for it and the network consists of full convolutions or matrix products; the
depthwise convolutions of the EfficientNet and MobileNet families have none. The size of the photos changes neither. The
choice goes into the run's configuration: a run that is repeated from it computes the same bytes."""

from dataclasses import replace

import torch

from mixfit.config import ModelConfig
from mixfit.nn.backbones import SMALL_RESNET
from mixfit.nn.build import is_frozen

FASTER_IN_BFLOAT16 = (SMALL_RESNET, "resnet", "convnext", "vit_")
"""How the names of networks begin that learn faster in bfloat16."""
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def settle_arithmetic(config: ModelConfig, device: torch.device) -> ModelConfig:
    """Replace "auto" in a configuration by what suits the network and this processor.

    A frozen network computes in float32: in bfloat16 its features point elsewhere (a cosine down to .989 on photos),
    and they are computed only once. A network on a GPU does too, where ``MixedPrecision`` chooses, and so does any
    network that was not measured.

    Returns:
        The configuration without "auto". Settings that were given stay as they are.
    """
    learns = not is_frozen(config) and config.backbone.startswith(FASTER_IN_BFLOAT16)
    coarse = learns and device.type == "cpu" and has_bfloat16()
    return replace(
        config,
        memory_format="channels_last" if config.memory_format == "auto" else config.memory_format,
        precision=("bfloat16" if coarse else "float32") if config.precision == "auto" else config.precision,
    )


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16, and PyTorch is not told to do without (``ATEN_CPU_CAPABILITY``)."""
    here = torch.cpu.get_capabilities()
    level = torch.backends.cpu.get_cpu_capability()
    return level.startswith("AVX512") and any(here.get(name, False) for name in _INSTRUCTIONS)
