"""Where piecewise-linear encoding bends: the edges of each number column's bins, from the training rows."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from torch import Tensor

from mixfit.errors import ConfigError, DataError
from mixfit.weighted import weighted_quantile

_NARROWEST = 1e-6
"""Share of a column's range that a bin has at least: slopes of narrower ones would amplify rounding errors."""


def compute_bins(
    numeric: Float[np.ndarray, "rows columns"] | Float[Tensor, "rows columns"],
    *,
    bins: int = 48,
    target: Shaped[np.ndarray, " targets"] | Shaped[Tensor, " targets"] | None = None,
    min_rows: int = 16,
    weight: Float[np.ndarray, " rows"] | None = None,
) -> list[Float[Tensor, " edges"]]:
    """Edges of the bins of each column, from its smallest to its largest value (arXiv:2203.05556, section 3.2).

    Without a target they are quantiles, so that bins hold about equally many rows; equal quantiles of a column with few
    distinct values are one edge. With a target they are the thresholds of a decision tree that predicts it from the
    column alone, so that bends are where the target changes. A constant column gets one bin of width 1.

    Args:
        numeric: training rows alone, finite, as ``TablePreprocessor`` gives them.
        bins: the most that a column gets; fewer when there are fewer rows.
        target: floating point for a number, integers for classes; None for quantiles.
        min_rows: training rows in each bin at least; for the tree alone.
        weight: how much each row counts, above 0, in any unit. Quantiles and the errors of the tree are weighted;
            ``bins`` and ``min_rows`` stay numbers of rows, whatever these weigh.
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
        found = [_tree_edges(column, truth, bins, min_rows, weight) for column in values.T]
    return [torch.from_numpy(_increasing(edges)) for edges in found]


def placeholder_bins(counts: Sequence[int]) -> list[Float[Tensor, " edges"]]:
    """Edges 0, 1, ... for columns with so many bins: for a network whose saved state brings the real ones."""
    return [torch.arange(count + 1, dtype=torch.float64) for count in counts]


def _tree_edges(
    column: Float[np.ndarray, " rows"],
    truth: Shaped[np.ndarray, " rows"],
    bins: int,
    min_rows: int,
    weight: Float[np.ndarray, " rows"] | None,
) -> Float[np.ndarray, " edges"]:
    """Ends of the column and the thresholds of a tree with ``bins`` leaves at most."""
    thresholds: Float[np.ndarray, " splits"] = np.zeros(0)
    if bins > 1:
        kind = DecisionTreeRegressor if np.issubdtype(truth.dtype, np.floating) else DecisionTreeClassifier
        grown = kind(max_leaf_nodes=bins, min_samples_leaf=min_rows, random_state=0)
        tree = grown.fit(column[:, None], truth, sample_weight=weight).tree_
        thresholds = tree.threshold[tree.children_left != tree.children_right]
    return np.concatenate([[column.min(), column.max()], thresholds])


def _increasing(edges: Float[np.ndarray, " edges"]) -> Float[np.ndarray, " distinct"]:
    """Sorted, each at least the narrowest width from the next; both ends stay."""
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
