"""Edges of the bins of numbers, from the training rows.

In: numbers of training rows, perhaps with the target. Out: for each column the edges of its bins, for the embeddings
of ``numbers``."""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mixfit.errors import ConfigError, DataError
from mixfit.weighted import taken, weighted_quantile

_NARROWEST = 1e-6
"""Smallest width of a bin relative to the column's range: narrower bins would amplify rounding errors."""
TREE_ROWS = 50_000
"""Largest number of rows that a tree which finds the edges of bins is grown on, evenly spaced among all."""


def compute_bins(
    numeric: Float[np.ndarray, "rows columns"] | Float[Tensor, "rows columns"],
    *,
    bins: int = 48,
    target: Shaped[np.ndarray, " targets"] | Shaped[Tensor, " targets"] | None = None,
    min_rows: int = 16,
    weight: Float[np.ndarray, " rows"] | None = None,
) -> list[Float[Tensor, " edges"]]:
    """Edges of the bins of each column, from its smallest to its largest value (arXiv:2203.05556, section 3.2).

    Without a target they are quantiles, so that bins have about equal numbers of rows; equal quantiles of a column with
    few distinct values are merged. With a target they are the thresholds of a decision tree on that column, so that
    edges are where the target changes. A constant column gets one bin of width 1.

    Args:
        numeric: training rows only, finite, from ``TablePreprocessor``.
        bins: largest number per column; fewer with fewer rows.
        target: floating point for regression, integers for classes; None for quantiles.
        min_rows: fewest training rows in each bin; only for the tree.
        weight: of each row, above 0, in any unit. Quantiles and the errors of the tree are weighted;
            ``bins`` and ``min_rows`` are unweighted.
    Returns:
        For each column its edges, increasing, at least 2, float64 on the CPU.
    Raises:
        ConfigError: ``bins`` or ``min_rows`` is below 1, or ``target`` has another number of rows.
        DataError: there are no rows, or a number is not finite.
    """
    values, truth = _to_numpy(numeric).astype(np.float64), None if target is None else _to_numpy(target)
    if bins < 1 or min_rows < 1:
        raise ConfigError(f"bins and min_rows must be at least 1, got {bins} and {min_rows}.")
    if not len(values):
        raise DataError("there are no training rows to compute bins from.")
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=0))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {values.shape[1]} number columns are not finite in every training row, the first is "
            f"column {wrong[0]}: fill them first, as TablePreprocessor does."
        )
    bins = min(bins, max(1, len(values) - 1))
    if truth is not None and len(truth) != len(values):
        raise ConfigError(f"target has {len(truth)} rows, but numeric has {len(values)}.")
    if truth is None:
        found = list(weighted_quantile(values, np.linspace(0, 1, bins + 1).tolist(), weight).T)
    else:
        found = _tree_edges(values, truth, bins, min_rows, weight)
    return [torch.from_numpy(_increasing(edges)) for edges in found]


def _tree_edges(
    values: Float[np.ndarray, "rows columns"],
    truth: Shaped[np.ndarray, " rows"],
    bins: int,
    min_rows: int,
    weight: Float[np.ndarray, " rows"] | None,
) -> list[Float[np.ndarray, " edges"]]:
    """Range of each column and the thresholds of a tree on it with at most ``bins`` leaves."""
    from sklearn import config_context  # slow to import
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    ends = [np.array([column.min(), column.max()]) for column in values.T]
    if bins <= 1:
        return ends
    numbers = np.issubdtype(truth.dtype, np.floating)
    kind = DecisionTreeRegressor if numbers else DecisionTreeClassifier
    some = np.unique(np.linspace(0, len(values) - 1, min(len(values), TREE_ROWS)).astype(np.int64))
    columns = values[some].T.astype(np.float32)[:, :, None]
    goal, weight = truth[some].astype(np.float64 if numbers else truth.dtype), taken(weight, some)
    found = []
    # The checks of each call take longer than a tree of few rows.
    with config_context(skip_parameter_validation=True):
        for column, ending in zip(columns, ends, strict=True):
            grown = kind(max_leaf_nodes=bins, min_samples_leaf=min_rows, random_state=0)
            tree = grown.fit(column, goal, sample_weight=weight, check_input=False).tree_
            found.append(np.concatenate([ending, tree.threshold[tree.children_left != tree.children_right]]))
    return found


def _increasing(edges: Float[np.ndarray, " edges"]) -> Float[np.ndarray, " distinct"]:
    """Sorted edges with at least the smallest distance; both ends are kept."""
    edges = np.unique(edges)
    first, last = edges[0], edges[-1]
    narrowest = _NARROWEST * max(last - first, abs(first), abs(last))
    if last - first <= narrowest:
        return np.array([first, first + 1])
    kept = [first]
    for edge in edges[1:-1]:
        if edge - kept[-1] > narrowest and last - edge > narrowest:
            kept.append(edge)
    return np.array([*kept, last])


def _to_numpy(values: Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]) -> Shaped[np.ndarray, "..."]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
