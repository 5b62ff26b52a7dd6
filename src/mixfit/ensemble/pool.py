"""One prediction from those that the folds of one model make for new rows.

Numbers are averaged. So are logarithms of probabilities, the logarithmic opinion pool (Genest and Zidek 1986): a mean
of probabilities is less confident than each of its parts, whose temperature out-of-fold rows have chosen. A small
number is added to each probability first, and subtracted from the result, as one fold that has no row of a rare class
would veto that class otherwise. In: predictions of each fold. Out: their pool."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

FLOOR = 1e-3
"""Added to each probability: 0 gives the geometric mean, large numbers the arithmetic one."""


def pooled(found: Sequence[np.ndarray]) -> np.ndarray:
    """The pool of predictions ``(rows,)``, or of probabilities ``(rows, classes)``."""
    if found[0].ndim == 1:
        return np.mean(found, axis=0)
    return probabilities_of(np.mean([logarithms_of(one, FLOOR) for one in found], axis=0), FLOOR)


def logarithms_of(probabilities: Float[np.ndarray, "rows classes"], floor: float) -> Float[np.ndarray, "rows classes"]:
    """What is averaged over folds."""
    return np.log(probabilities + floor)


def probabilities_of(mean: Float[np.ndarray, "rows classes"], floor: float) -> Float[np.ndarray, "rows classes"]:
    """The pool for an average of ``logarithms_of``."""
    found = np.maximum(np.exp(mean) - floor, 0.0)
    return found / found.sum(axis=1, keepdims=True)
