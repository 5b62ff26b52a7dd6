"""What ``mixfit check`` looks at: versions, device, memory, disk, photo decoders, weights, and a small training.

In: nothing but the machine. Out: one ``Check`` for each point, with what to do if something is missing. The diagnosis
of a training is in ``diagnostics``."""

import importlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from packaging.requirements import Requirement

from mixfit.config import DataConfig, ModelConfig
from mixfit.data.load import load_data
from mixfit.data.photos.records import default_folder
from mixfit.demo import DEMO_TARGET, write_demo
from mixfit.errors import MixfitError
from mixfit.nn.backbones import SMALL_RESNET
from mixfit.nn.efficientnet import lite0_weights
from mixfit.training.build import build_model
from mixfit.training.choose import has_bfloat16
from mixfit.training.device import default_device
from mixfit.training.learner import Learner
from mixfit.training.loss import mse

Level = Literal["ok", "note", "missing"]
_LEAST_DISK, _LEAST_MEMORY = 2e9, 2e9  # bytes; 20,000 photos at 128 pixels are 1 GB
_FORMATS = {"jpg": "JPEG", "zlib": "PNG", "webp": "WebP", "avif": "AVIF", "libtiff": "TIFF"}
_NEEDED_FORMATS = ("JPEG", "PNG")
_EXAMPLE_ROWS, _EXAMPLE_EPOCHS = 80, 3


@dataclass(frozen=True, slots=True)
class Check:
    """One point of the check."""

    name: str
    level: Level
    """"missing" is needed by every training; "note" limits some."""
    text: str
    """What was found."""
    fix: str = ""
    """What to do; empty if nothing need be done."""


def check_environment() -> Iterator[Check]:
    """Check this machine, one point after another; the last one, a training, takes some seconds."""
    for name, look in _POINTS.items():
        try:
            yield from look()
        except (MixfitError, OSError) as error:
            yield Check(name, "missing", str(error), "follow this message, then run mixfit check again")


def _versions() -> Iterator[Check]:
    where = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    try:
        needed = [Requirement(line) for line in requires("mixfit") or ()]
    except PackageNotFoundError:
        yield Check("versions", "note", f"{where}; mixfit is not installed as a package", "pip install mixfit")
        return
    core = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [(one, found) for one in core if (found := _wrong(one))]
    yield Check("versions", "ok", f"mixfit {version('mixfit')}, {where}, PyTorch {version('torch')}")
    for one, found in wrong:
        yield Check("versions", "missing", f"{one.name} is {found}", f"pip install '{one.name}{one.specifier}'")
    if not wrong:
        yield Check("packages", "ok", f"all {len(core)} are there in a supported version")
    extras = sorted({str(one.marker).rpartition('"')[0].rpartition('"')[2] for one in needed if one not in core})
    for extra in extras:
        if extra in ("all", "browser", "dev", "docs"):  # of those who change mixfit
            continue
        absent = [
            one.name
            for one in needed
            if one not in core and one.marker is not None and one.marker.evaluate({"extra": extra}) and _wrong(one)
        ]
        if absent:
            text = f"not installed: {', '.join(absent)}"
            yield Check(f"extra {extra}", "note", text, f"pip install 'mixfit[{extra}]', if you want it")


def _wrong(needed: Requirement) -> str:
    """ "not installed" or the installed version, if that does not do; "" if it does."""
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return "not installed"
    return "" if needed.specifier.contains(found, prereleases=True) else found


def _libraries() -> Iterator[Check]:
    for name, system in (("lightgbm", "OpenMP: apt-get install libgomp1, or on macOS brew install libomp"),):
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            yield Check("libraries", "missing", f"{name} cannot be loaded: {error}", f"install {system}")


def _device() -> Iterator[Check]:
    import torch

    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    numbers = ", bfloat16" if device.type == "cpu" and has_bfloat16() else ""
    yield Check(
        "device", "ok", f"{device.type} ({name}), {torch.get_num_threads()} threads of {os.cpu_count()} cores{numbers}"
    )
    if os.environ.get("OMP_NUM_THREADS") and torch.get_num_threads() < (os.cpu_count() or 1):
        yield Check(
            "device",
            "note",
            f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} leaves cores unused",
            "unset it, unless other work needs them",
        )


def _memory() -> Iterator[Check]:
    total, free = _memory_bytes()
    if total is None:
        yield Check("memory", "note", "this system does not tell how much memory it has")
        return
    said = f"{total / 1e9:.1f} GB" + (f", {free / 1e9:.1f} GB free" if free is not None else "")
    if (free if free is not None else total) < _LEAST_MEMORY:
        yield Check("memory", "note", said, "close other programs, or use --preset quick and fewer rows")
    else:
        yield Check("memory", "ok", said)


def _memory_bytes() -> tuple[float | None, float | None]:
    """All and free memory of the machine in bytes; None if unknown."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = float(os.sysconf("SC_PHYS_PAGES") * page)
    except (AttributeError, ValueError, OSError):
        return None, None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return total, None
    kilobytes = {line.partition(":")[0]: line.split()[1] for line in lines}
    return total, float(kilobytes.get("MemAvailable", "0")) * 1024


def _disk() -> Iterator[Check]:
    places = {"cache": default_folder(), "working folder": Path.cwd(), "temporary files": Path(_temporary())}
    for name, folder in places.items():
        there = next(one for one in (folder, *folder.parents) if one.exists())
        free = shutil.disk_usage(there).free
        writable = os.access(there, os.W_OK)
        text = f"{name}: {free / 1e9:.1f} GB free" + ("" if writable else ", not writable")
        if not writable or free < _LEAST_DISK:
            fix = "set MIXFIT_CACHE to another folder" if name == "cache" else "use a folder with more room"
            yield Check("disk", "note", text, fix)
        else:
            yield Check("disk", "ok", text)


def _temporary() -> str:
    import tempfile

    return tempfile.gettempdir()


def _decoders() -> Iterator[Check]:
    from PIL import features

    there = [name for feature, name in _FORMATS.items() if features.check(feature)]
    absent = [name for name in _FORMATS.values() if name not in there]
    needed = [name for name in absent if name in _NEEDED_FORMATS]
    level: Level = "missing" if needed else "note" if absent else "ok"
    but = f", but not {', '.join(absent)}" if absent else ""
    text = f"photos in {', '.join(there)}, BMP and GIF can be read{but}"
    yield Check("decoders", level, text, "pip install --force-reinstall pillow" if absent else "")


def _weights() -> Iterator[Check]:
    lite0_weights()
    yield Check("weights", "ok", "the image network's ImageNet weights are there, and their sha256 is the expected one")


def _training() -> Iterator[Check]:
    started = time.perf_counter()
    with TemporaryDirectory(prefix="mixfit-check-") as place:
        table = write_demo(Path(place) / "vases", rows=_EXAMPLE_ROWS)
        config = DataConfig(image_size=32, cache_gb=0.0)
        data = load_data(table, target=DEMO_TARGET, config=config, batch_size=16, progress=False)
        model = build_model(data, ModelConfig(backbone=SMALL_RESNET, tabular="mlp"), seed=0)
        learner = Learner(model, data, loss=mse)
        before = learner.validate()["valid_loss"]
        learner.fit(_EXAMPLE_EPOCHS, lr=1e-3)
        after = learner.validate()["valid_loss"]
    seconds = time.perf_counter() - started
    steps = _EXAMPLE_EPOCHS * len(data.train)
    text = f"{steps} steps on {_EXAMPLE_ROWS} vases with photos in {seconds:.1f} s, loss {before:.2f} -> {after:.2f}"
    if after == after and after < before:
        yield Check("training", "ok", text)
    else:
        yield Check("training", "missing", text, "the loss must fall: report this with the lines above")


_POINTS: dict[str, Callable[[], Iterator[Check]]] = {
    "versions": _versions,
    "libraries": _libraries,
    "device": _device,
    "memory": _memory,
    "disk": _disk,
    "decoders": _decoders,
    "weights": _weights,
    "training": _training,
}
