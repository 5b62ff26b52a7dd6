"""Statistics of gradients as plain records, to be read by people and by callbacks."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

SUMS = ("steps", "broken", "gradient", "updates", "weight", "update", "ratio")
LARGEST = ("gradient", "ratio")
MODALITY_SUMS = ("steps", "table", "photos", "cosines", "cosine", "agreements", "agreement")


@dataclass(frozen=True, slots=True)
class Part:
    """Some parameters of a model, whose gradients are looked at together."""

    kind: Literal["all", "group", "branch", "parameter"]
    """A group of the optimizer, a branch of the model such as "table", or a single tensor."""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of a part in some steps; a norm is that of all numbers of the part, the square root of the sum of their squares.

    Means are over the steps; NaN where nothing was measured."""

    first_step: int
    last_step: int
    steps: int
    broken: int
    """Steps that were left out, because a gradient was not finite."""
    gradient: float
    """Mean norm, before any clipping where the callback measures it."""
    largest_gradient: float
    weight: float
    """Mean norm of the weights before the step."""
    update: float
    """Mean norm of what the step added to them."""
    ratio: float
    """Mean of update / weight; where a network learns well it is often about 1e-3."""
    largest_ratio: float


@dataclass(frozen=True, slots=True)
class Modalities:
    """The gradients that come out of the fusion, towards the encoding of the table and towards that of the photos."""

    first_step: int
    last_step: int
    steps: int
    table: float
    """Mean norm of the gradient of the table's encoding, of all rows of a batch together."""
    photos: float
    """The same of the photos."""
    cosine: float | None
    """Mean over the steps of the cosine between the two, number by number; None where the encodings differ in width.

    It says something where the fusion adds the encodings or gates between them, so that their places correspond."""
    agreement: float | None
    """Mean cosine between the rows' two sums of gradient times encoding, in [-1, 1].

    Such a sum is how far, to first order, the loss of the row is raised by the encoding. 1: on every row both
    modalities help, or both harm; -1: where one helps the other harms. For encodings of any width."""


def gradients(
    sums: Float64[np.ndarray, " sums"], largest: Float64[np.ndarray, " largest"], first_step: int, last_step: int
) -> Gradients:
    """The record of one part in one column."""
    found = dict(zip(SUMS, sums.tolist(), strict=True))
    steps, updates = found["steps"], found["updates"]
    nothing = float("nan")
    return Gradients(
        first_step=first_step,
        last_step=last_step,
        steps=int(steps),
        broken=int(found["broken"]),
        gradient=found["gradient"] / steps if steps else nothing,
        largest_gradient=float(largest[0]) if steps else nothing,
        weight=found["weight"] / updates if updates else nothing,
        update=found["update"] / updates if updates else nothing,
        ratio=found["ratio"] / updates if updates else nothing,
        largest_ratio=float(largest[1]) if updates else nothing,
    )


def modalities(sums: Float64[np.ndarray, " sums"], first_step: int, last_step: int) -> Modalities:
    """The record of one column."""
    found = dict(zip(MODALITY_SUMS, sums.tolist(), strict=True))
    steps = found["steps"]
    return Modalities(
        first_step=first_step,
        last_step=last_step,
        steps=int(steps),
        table=found["table"] / steps if steps else float("nan"),
        photos=found["photos"] / steps if steps else float("nan"),
        cosine=found["cosine"] / found["cosines"] if found["cosines"] else None,
        agreement=found["agreement"] / found["agreements"] if found["agreements"] else None,
    )
