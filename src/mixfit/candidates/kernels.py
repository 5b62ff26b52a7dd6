"""Kernel ridge regression over a sum of kernels, whose shares are found by leaving out one row at a time.

A row is like another one in its numbers, in its categories and their beginnings, and in what its photos show; how much
each likeness counts is learnt. It is the mean of a Gaussian process (Rasmussen and Williams 2006, chapter 2) and for
some hundred rows the strongest simple model there is; time grows with the cube of the rows.

In: ``EncodedRows`` and components of the training rows. Out: ``KernelModel``, which holds these."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

MOST_ROWS = 3_000
"""Training rows from which on it takes too long."""
_SEARCHED_ROWS = 600
"""The shares are searched on so many rows at most; the strength is found, and the rest solved, on all."""
_STRENGTHS = np.logspace(-3, 2, 16)
_FACTORS = (0.1, 0.3, 3.0, 10.0)
_ROUNDS = 2
_NUMBER_REACH, _PHOTO_REACH = 0.3, 0.3  # times the mean squared distance from the middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Rows as the kernels take them."""

    numbers: Float[np.ndarray, "rows numbers"]
    levels: Int64[np.ndarray, "rows levels"]
    photos: Float[np.ndarray, "rows components"]
    """No column leaves the photos out."""

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Likeness":
        """Those rows, in that order."""
        return Likeness(numbers=self.numbers[rows], levels=self.levels[rows], photos=self.photos[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModel:
    """``bias + sum over kernels and training rows of share * kernel(row, training row) * dual``."""

    train: Likeness
    dual: Float[np.ndarray, " train"]
    shares: dict[str, float]
    """What each kernel counts, the scale that brings its mean diagonal to 1 included."""
    bias: float

    def predict(self, rows: Likeness) -> Float[np.ndarray, " rows"]:
        """float64 numbers."""
        return _total(_kernels(rows, self.train), self.shares) @ self.dual + self.bias

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for safetensors."""
        return {
            "numbers": torch.from_numpy(np.ascontiguousarray(self.train.numbers)),
            "levels": torch.from_numpy(np.ascontiguousarray(self.train.levels)),
            "photos": torch.from_numpy(np.ascontiguousarray(self.train.photos)),
            "dual": torch.from_numpy(self.dual),
            "bias": torch.tensor([self.bias], dtype=torch.float64),
            **{f"share.{name}": torch.tensor([share], dtype=torch.float64) for name, share in self.shares.items()},
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "KernelModel":
        """Read what ``tensors`` gave."""
        return cls(
            train=Likeness(
                numbers=tensors["numbers"].numpy(), levels=tensors["levels"].numpy(), photos=tensors["photos"].numpy()
            ),
            dual=tensors["dual"].numpy(),
            shares={
                name.removeprefix("share."): float(tensor[0])
                for name, tensor in tensors.items()
                if name.startswith("share.")
            },
            bias=float(tensors["bias"][0]),
        )


def fit_kernels(
    rows: Likeness,
    truth: Float[np.ndarray, " rows"],
    weight: Float[np.ndarray, " rows"] | None = None,
    *,
    seed: int = 0,
) -> KernelModel:
    """Find the shares and the strength with the least squared error when each row is predicted from the others.

    ``weight`` says how much each row counts, in the fit and in that error."""
    truth = truth.astype(np.float64)
    counts = np.ones(len(truth)) if weight is None else weight / weight.mean()
    bias = float(np.average(truth, weights=counts))
    # With weights, the errors are those of rows times the root of their weight, and so is everything else.
    roots = np.sqrt(counts)
    goal = (truth - bias) * roots
    some = np.sort(np.random.default_rng(seed).permutation(len(truth))[:_SEARCHED_ROWS])
    kernels = _kernels(rows.take(some), rows.take(some))
    scales = {name: len(some) / max(float(np.trace(kernel)), 1e-12) for name, kernel in kernels.items()}
    searched = {name: kernel * scales[name] * roots[some, None] * roots[some] for name, kernel in kernels.items()}

    shares = dict.fromkeys(kernels, 1.0)
    least = _left_out(_total(searched, shares), goal[some])[0]
    for _ in range(_ROUNDS):
        for name in kernels:
            for factor in _FACTORS:
                tried = shares | {name: shares[name] * factor}
                error = _left_out(_total(searched, tried), goal[some])[0]
                if error < least:
                    least, shares = error, tried
    shares = {name: share * scales[name] for name, share in shares.items()}
    matrix = _total(_kernels(rows, rows), shares) * roots[:, None] * roots
    _, strength = _left_out(matrix, goal)
    dual = np.linalg.solve(matrix + strength * np.eye(len(truth)), goal) * roots
    return KernelModel(train=rows, dual=dual, shares=shares, bias=bias)


def _total(kernels: dict[str, np.ndarray], shares: dict[str, float]) -> np.ndarray:
    total = np.zeros_like(next(iter(kernels.values())))
    for name, kernel in kernels.items():
        total += shares[name] * kernel
    return total


def _left_out(matrix: np.ndarray, goal: np.ndarray) -> tuple[float, float]:
    """The mean squared error of rows that are predicted from all others, and the strength that makes it least."""
    values, vectors = np.linalg.eigh(matrix)
    turned, squares = vectors.T @ goal, vectors**2
    tries = []
    for strength in _STRENGTHS:
        inverse = 1 / (np.maximum(values, 0) + strength)
        error = (vectors @ (turned * inverse)) / (squares @ inverse)
        tries.append((float((error**2).mean()), float(strength)))
    return min(tries)


def _kernels(rows: Likeness, train: Likeness) -> dict[str, Float[np.ndarray, "rows train"]]:
    """One matrix for each kind of likeness that these columns allow."""
    found: dict[str, np.ndarray] = {}
    if train.numbers.shape[1]:
        found["numbers, linear"] = rows.numbers @ train.numbers.T
        found["numbers, near"] = _near(rows.numbers, train.numbers, _NUMBER_REACH)
    if train.levels.shape[1]:
        same = np.zeros((len(rows.levels), len(train.levels)))
        for column, trained in zip(rows.levels.T, train.levels.T, strict=True):
            same += (column[:, None] == trained) & (column[:, None] > 0)
        found["levels"] = same
        if "numbers, near" in found:
            found["levels and numbers"] = same * found["numbers, near"]
    if train.photos.shape[1]:
        found["photos"] = _near(rows.photos, train.photos, _PHOTO_REACH)
        if train.levels.shape[1]:
            found["photos and levels"] = found["photos"] * found["levels"]
    return found or {"nothing": np.zeros((len(rows.numbers), len(train.numbers)))}


def _near(rows: np.ndarray, train: np.ndarray, reach: float) -> np.ndarray:
    """``exp(-distance^2 / ...)``: 1 for equal rows, and the less the farther, in units of the training rows' spread."""
    spread = max(float(train.var(axis=0).sum()), 1e-12)
    distance = (rows**2).sum(axis=1)[:, None] + (train**2).sum(axis=1) - 2 * rows @ train.T
    return np.exp(-np.maximum(distance, 0) * reach / spread)
