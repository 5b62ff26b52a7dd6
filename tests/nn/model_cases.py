"""Models for tests of what holds for all of them: every pair of options that ``build_model`` has meets in some case."""

import itertools
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from mixfit.choices import Fusion, Numbers, Tabular
from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.freezing import freeze
from mixfit.nn.model import MixedInputModel

OPTIONS: dict[str, tuple[Any, ...]] = {
    "fusion": get_args(Fusion),
    "tabular": get_args(Tabular),
    "numbers": get_args(Numbers),
    "photos": ("features", "none", "pixels"),
    "columns": ((3, (4, 3)), (0, (4, 3)), (3, ()), (0, ())),
    "outputs": (1, 3),
    "auxiliary_heads": (False, True),
    "image_columns": (1, 3),
    "memory_format": ("channels_last", "contiguous"),
    "texts": (0, 2),
    "photo_stages": (0, 2),
    "photo_scores": (0, 3),
}
"""``photos``: the features of a frozen network, a table without photos, or the pixels for a network that learns.

``texts``: how many text columns the table has. ``photo_stages``: stages of the image network whose statistics join its
features. ``photo_scores``: scores of a row's photos. Where several would do, the first is taken: the quick one."""
SIZE = 16
"""Pixels a side: the small network's last map is then a single place."""
FEATURES = {0: 128, 2: 128 + 2 * (64 + 128)}
"""Width of the features of the small network, by ``photo_stages``."""
TEXT_WIDTH = 4
"""Numbers that describe a text."""


@dataclass(frozen=True)
class Case:
    """One choice of each option."""

    fusion: Fusion
    tabular: Tabular
    numbers: Numbers
    photos: str
    columns: tuple[int, tuple[int, ...]]
    outputs: int
    auxiliary_heads: bool
    image_columns: int
    memory_format: Any
    texts: int
    photo_stages: int
    photo_scores: int

    def __str__(self) -> str:
        numeric, cardinalities = self.columns
        heads = "auxiliary" if self.auxiliary_heads else "one-head"
        return (
            f"{self.fusion}-{self.tabular}-{self.numbers}-{self.photos}-{numeric}+{len(cardinalities)}-"
            f"{self.outputs}-{heads}-{self.image_columns}-{self.memory_format}-{self.texts}-{self.photo_stages}-"
            f"{self.photo_scores}"
        )


def all_pairs(options: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Few choices in which every value of an option meets every value of every other; greedy, always the same."""
    names = list(options)
    chosen: list[dict[str, Any]] = []
    left = [
        {a: x, b: y} for a, b in itertools.combinations(names, 2) for x, y in itertools.product(options[a], options[b])
    ]
    while left:
        choice = dict(left[0])
        for name in names:
            if name not in choice:
                # The value that meets most of what has been chosen for the first time here.
                choice[name] = max(
                    options[name],
                    key=lambda value: sum((choice | {name: value}).items() >= pair.items() for pair in left),
                )
        left = [pair for pair in left if not choice.items() >= pair.items()]
        chosen.append(choice)
    return chosen


CASES = [Case(**choice) for choice in all_pairs(OPTIONS)]
PHOTO_CASES = [case for case in CASES if case.photos != "none"]


def model_of(case: Case, *, seed: int = 0, **settings: Any) -> MixedInputModel:
    """A small network without dropout, all of whose weights count: what starts at 0 would hide an influence."""
    numeric, cardinalities = case.columns
    shape = ModelShape(
        numeric=numeric,
        cardinalities=cardinalities,
        photos=case.photos != "none",
        outputs=case.outputs,
        image_size=SIZE,
        image_columns=case.image_columns,
        bins=((-1.0, 0.0, 0.5, 1.0),) * numeric if case.numbers == "piecewise" else (),
        text_columns=case.texts,
        text_width=TEXT_WIDTH if case.texts else 0,
        photo_scores=case.photo_scores if case.photos != "none" else 0,
    )
    config = ModelConfig(
        backbone="small_resnet",
        fusion=case.fusion,
        tabular=case.tabular,
        numbers=case.numbers,
        auxiliary_heads=case.auxiliary_heads,
        memory_format=case.memory_format,
        photo_stages=case.photo_stages,
        members=3,
        tabular_hidden=(8,),
        encoding_dim=8,
        dropout=0.0,
        image_dropout=0.0,
    )
    torch.manual_seed(seed)
    model = make_model(shape, replace(config, **settings))
    if case.photos == "features":
        assert model.image is not None
        freeze(model.image.backbone)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if case.photos != "none" and case.photo_scores:
        assert model.image is not None
        d = model.image.num_features
        model.image.set_scores(torch.randn(d, case.photo_scores) / d**0.5, torch.randn(case.photo_scores))
    return model


def inputs(case: Case, rows: int = 5, photos: int = 3, *, seed: int = 0) -> Inputs:
    """Rows of which the first has no photo and no text; the others have some."""
    numeric, cardinalities = case.columns
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randint(0, count, (rows,), generator=generator) for count in cardinalities]
    table = Inputs(
        numeric=torch.randn(rows, numeric, generator=generator),
        categorical=torch.stack(levels, dim=1) if levels else torch.zeros(rows, 0, dtype=torch.int64),
        rows=torch.arange(rows),
    )
    if case.texts:
        texts = torch.Generator().manual_seed(seed + 1)
        present = torch.rand(rows, case.texts, generator=texts) < 0.6
        if rows > 1:
            present[:1], present[1:, :1] = False, True
        table = replace(table, text=torch.randn(rows, case.texts, TEXT_WIDTH, generator=texts), text_mask=present)
    if case.photos == "none":
        return table
    mask = torch.rand(rows, photos, generator=generator) < 0.6
    if rows > 1:
        mask[:1], mask[1:, :1] = False, True
    column = torch.randint(0, case.image_columns, (rows, photos), generator=generator)
    table = replace(table, image_mask=mask, image_column=column.masked_fill(~mask, 0))
    if case.photos == "features":
        d = FEATURES[case.photo_stages]
        return replace(table, features=torch.randn(rows, photos, d, generator=generator))
    return replace(table, images=torch.rand(rows, photos, 3, SIZE, SIZE, generator=generator))


def named(xb: Inputs) -> dict[str, Tensor]:
    """The tensors that a model reads, by their name."""
    return {name: tensor for name, tensor in xb.tensors().items() if name not in ("rows", "weight")}
