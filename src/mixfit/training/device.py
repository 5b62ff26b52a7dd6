"""Where tensors live when nobody says, and with which memory format and number type an image network computes there:
a fixed table."""

from dataclasses import replace

import torch

from mixfit.config import ModelConfig
from mixfit.nn.backbones import SMALL_RESNET
from mixfit.nn.build import is_frozen

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "could not create a memory",
)


def default_device() -> torch.device:
    """The fastest device of this machine."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had: PyTorch says so with a class of its own on a GPU, and in words on a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


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
