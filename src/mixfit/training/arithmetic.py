"""Which memory format and number type an image network is fastest with on this machine: measured once, remembered.

The best choice depends on the network and on the processor (up to five times, see ``docs/LOG.md``), so it is no matter
for a rule. The answer goes into the run's configuration: a run that is repeated from it computes the same bytes."""

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.choices import MemoryFormat, Precision
from mixfit.config import ModelConfig
from mixfit.errors import ResourceError
from mixfit.files import write_file
from mixfit.nn.backbones import make_backbone
from mixfit.nn.build import is_frozen

REMEMBERED = "arithmetic.json"
WORTHWHILE_PHOTOS = 300
"""With fewer photos the measurement would take longer than it saves."""
_PHOTOS, _ROUNDS = 8, 3
_CLEARLY_FASTER = 0.9  # share of the time of the simpler choice; less is noise
_SAME_DIRECTION = 0.999  # cosine of the features in bfloat16 with those in float32


class Arithmetic(NamedTuple):
    """How a backbone computes."""

    memory_format: MemoryFormat
    precision: Precision


# The first that no later one clearly beats is chosen.
_CHOICES = (
    Arithmetic("channels_last", "float32"),
    Arithmetic("contiguous", "float32"),
    Arithmetic("channels_last", "bfloat16"),
    Arithmetic("contiguous", "bfloat16"),
)


def settle_arithmetic(
    config: ModelConfig, *, image_size: int, photos: int, device: torch.device, folder: Path | None
) -> ModelConfig:
    """Replace "auto" in a configuration by what is fastest here.

    Without a folder to remember the answer in, on a GPU, and for few photos nothing is measured: channels-last float32.

    Args:
        image_size: pixels a side.
        photos: how many there are.
        folder: where the answer is kept, the cache folder.
    Returns:
        The configuration without "auto". Settings that were given stay as they are.
    """
    if "auto" not in (config.memory_format, config.precision):
        return config
    possible = [
        choice
        for choice in _CHOICES
        if config.memory_format in ("auto", choice.memory_format) and config.precision in ("auto", choice.precision)
    ]
    chosen = possible[0]
    if photos >= WORTHWHILE_PHOTOS and device.type == "cpu" and folder is not None:
        chosen = _remembered_or_measured(config, possible, image_size, folder)
    return replace(config, memory_format=chosen.memory_format, precision=chosen.precision)


def _remembered_or_measured(
    config: ModelConfig, possible: list[Arithmetic], image_size: int, folder: Path
) -> Arithmetic:
    backbone = make_backbone(
        config.backbone,
        image_size=image_size,
        weights=config.backbone_weights,
        allow_download=config.allow_download,
    )
    learns = not is_frozen(config)
    question = (
        f"{backbone.module} {image_size} {learns} {possible} {torch.__version__} {torch.get_num_threads()} "
        f"{torch.backends.cpu.get_cpu_capability()} {_processor()}"
    )
    key = hashlib.sha256(question.encode()).hexdigest()[:32]
    path, answers = folder / REMEMBERED, {}
    with suppress(OSError, ValueError):
        answers = json.loads(path.read_text(encoding="utf-8"))
    known = answers.get(key) if isinstance(answers, dict) else None
    if isinstance(known, list) and tuple(known) in possible:
        return Arithmetic(*known)
    chosen = fastest(backbone.module, possible, image_size=image_size, learns=learns)
    kept = answers if isinstance(answers, dict) else {}
    with suppress(OSError, ResourceError):  # a folder that cannot be written costs a measurement next time, no more
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({**kept, key: list(chosen)}, indent=1))
    return chosen


def fastest(module: nn.Module, choices: list[Arithmetic], *, image_size: int, learns: bool) -> Arithmetic:
    """Time a backbone in each way, in interleaved rounds, and take the first that no later one clearly beats.

    bfloat16 takes part only if it gives nearly the same features. The weights are not changed."""
    pixels = torch.rand(_PHOTOS, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.train(learns)
    exact = _features(module.eval(), pixels, choices[0]._replace(precision="float32"))
    choices = [
        choice
        for choice in choices
        if choice.precision == "float32" or _cosine(_features(module, pixels, choice), exact) > _SAME_DIRECTION
    ] or [choices[0]._replace(precision="float32")]
    module.train(learns)
    seconds = dict.fromkeys(choices, float("inf"))
    for number in range(_ROUNDS + 1):
        for choice in choices:
            start = time.perf_counter()
            features = _run(module, pixels, choice, learns=learns)
            if learns:
                torch.autograd.backward(features.square().mean())
                module.zero_grad()
            if number:  # the first round warms up
                seconds[choice] = min(seconds[choice], time.perf_counter() - start)
    module.load_state_dict(state)  # BatchNorm has counted the noise
    best = choices[0]
    for choice in choices[1:]:
        if seconds[choice] < _CLEARLY_FASTER * seconds[best]:
            best = choice
    return best


def _features(module: nn.Module, pixels: Tensor, choice: Arithmetic) -> Tensor:
    return _run(module, pixels, choice, learns=False)


def _run(module: nn.Module, pixels: Tensor, choice: Arithmetic, *, learns: bool) -> Tensor:
    layout = torch.channels_last if choice.memory_format == "channels_last" else torch.contiguous_format
    module.to(memory_format=layout)
    with (
        torch.set_grad_enabled(learns),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=choice.precision == "bfloat16"),
    ):
        features: Tensor = module(pixels.contiguous(memory_format=layout))
    return features.float()


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b).min())


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""
