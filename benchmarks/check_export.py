"""Does every model that ``build_model`` can make become a program that gives the same outputs, whatever the batch?

Exports the full product of table encoder, embedding of numbers, fusion, photos (pixels of a network that learns,
features of a frozen one, none) and outputs (a number, classes), at small sizes with random weights. Auxiliary heads,
the number of image columns, order of memory, arithmetic, and tables without numbers or categories go round beside them.
The last lines are the default backbone and a transformer, from pixels. Each program is traced with 3 rows of 2 photos
and run with batches of other sizes, some rows without photos. A line says the combination, seconds of the export and
the largest difference to the model; the last one counts the combinations above 1e-5.
Run: OMP_NUM_THREADS=1 python benchmarks/check_export.py"""

import itertools
import platform
import sys
import time
from dataclasses import replace
from typing import Any, get_args

import torch

from mixfit.choices import Fusion, Numbers, Tabular
from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.export import export_model
from mixfit.nn.freezing import freeze
from mixfit.nn.model import MixedInputModel

TOLERANCE = 1e-5
SIZES = ((3, 2), (1, 1), (7, 2), (7, 5), (4, 0))
"""Rows and photos of each."""
COLUMNS: tuple[tuple[int, tuple[int, ...]], ...] = ((3, (4, 3)), (0, (4, 3)), (3, ()), (0, ()))


def batch(shape: ModelShape, photos: str, rows: int, places: int, width: int) -> Inputs:
    """Random rows; the first has no photo."""
    xb = Inputs(
        numeric=torch.randn(rows, shape.numeric),
        categorical=torch.randint(0, 3, (rows, len(shape.cardinalities))),
        rows=torch.arange(rows),
    )
    if photos == "table only":
        return xb
    mask = torch.rand(rows, places) < 0.6
    mask[:1] = rows == 1
    xb = replace(xb, image_mask=mask, image_column=torch.randint(0, shape.image_columns, (rows, places)))
    if photos == "features":
        return replace(xb, features=torch.randn(rows, places, width))
    return replace(xb, images=torch.rand(rows, places, 3, shape.image_size, shape.image_size))


def difference(model: MixedInputModel, shape: ModelShape, photos: str, backbone: str) -> tuple[float, float]:
    """Seconds of the export, and the largest difference over all sizes of batches."""
    width = 0 if model.image is None else model.image.num_features
    started = time.perf_counter()
    program = export_model(model, batch(shape, photos, *SIZES[0], width))
    seconds = time.perf_counter() - started
    run, worst = program.module(), 0.0
    with torch.inference_mode():
        for rows, places in SIZES:
            if not places and backbone == "test_vit":  # timm's transformers cannot take zero photos
                continue
            xb = batch(shape, photos, rows, places, width)
            fields = {name: tensor for name, tensor in xb.tensors().items() if name != "rows"}
            worst = max(worst, float((run(**fields) - model.eval()(xb)).abs().max()))
    return seconds, worst


def made(shape: ModelShape, config: ModelConfig, photos: str) -> MixedInputModel:
    """Small and random, all weights away from 0."""
    torch.manual_seed(0)
    model = make_model(shape, config, pretrained=False)
    if photos == "features":
        assert model.image is not None
        freeze(model.image.backbone)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def cases() -> list[tuple[str, ModelShape, ModelConfig, str]]:
    """A label, the model and the kind of photos of each combination."""
    found: list[tuple[str, ModelShape, ModelConfig, str]] = []
    turn: Any = itertools.count()
    small: dict[str, Any] = {"tabular_hidden": (8,), "encoding_dim": 8, "members": 3}
    for photos in ("pixels", "features", "table only"):
        fusions = get_args(Fusion) if photos != "table only" else ("concat",)
        for fusion, tabular, numbers, outputs in itertools.product(
            fusions, get_args(Tabular), get_args(Numbers), (1, 3)
        ):
            n = next(turn)
            numeric, cardinalities = COLUMNS[(n // 3 + n) % 4]
            auxiliary, columns = bool(n // 5 % 2), (1, 3)[n // 7 % 2]
            layout, precision = ("channels_last", "contiguous")[n // 9 % 2], ("float32", "bfloat16")[n % 11 == 0]
            shape = ModelShape(
                numeric=numeric,
                cardinalities=cardinalities,
                photos=photos != "table only",
                outputs=outputs,
                image_size=32,
                image_columns=columns,
                bins=((-1.0, 0.0, 0.5, 1.0),) * numeric if numbers == "piecewise" else (),
            )
            config = ModelConfig(
                backbone="small_resnet",
                fusion=fusion,
                tabular=tabular,
                numbers=numbers,
                auxiliary_heads=auxiliary,
                memory_format=layout,  # type: ignore[arg-type]
                precision=precision,  # type: ignore[arg-type]
                **small,
            )
            label = f"{photos}, {fusion if photos != 'table only' else '-'}, {tabular}, {numbers}, {outputs} outputs"
            extra = f"{numeric}+{len(cardinalities)} columns, {columns} of photos, {layout}, {precision}"
            found.append((f"{label} | {extra}{', auxiliary' if auxiliary else ''}", shape, config, photos))
    for backbone, size in (("tf_efficientnet_lite0", 64), ("test_vit", 160)):
        shape = ModelShape(numeric=3, cardinalities=(4,), photos=True, outputs=1, image_size=size)
        config = ModelConfig(backbone=backbone, tabular="mlp", numbers="plain", **small)
        found.append((f"pixels, concat, mlp, plain, 1 outputs | {backbone}", shape, config, "pixels"))
    return found


def main() -> None:
    """Print a line for each combination."""
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    bad, differences = 0, []
    for label, shape, config, photos in cases():
        try:
            seconds, worst = difference(made(shape, config, photos), shape, photos, config.backbone)
        except Exception as error:  # the next combination is to be tried all the same
            bad += 1
            print(f"{label}: FAILED, {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            continue
        bad += not worst <= TOLERANCE
        differences.append(worst)
        print(f"{label}: {seconds:.1f} s, largest difference {worst:.1e}", flush=True)
    print(f"{len(cases())} combinations, {bad} of them bad, largest difference {max(differences, default=0):.1e}")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
