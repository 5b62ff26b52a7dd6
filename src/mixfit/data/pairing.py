"""Whether photos go with their own rows: a test of association by shuffling.

In: the coarse colours of photos and the cells of the table. Out: how the association compares to that of photos
shuffled between rows, and of photos moved by one row. The measure is the squared norm of the cross-covariance between
the two sides, the numerator of the RV coefficient (Escoufier 1973); nothing is fitted, so nothing can be overfitted.
A coarse look only: what matters in the photos may well be finer than their colours."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64, UInt8

from mixfit.data.schema import Schema
from mixfit.data.values import to_keys, to_numbers

SHUFFLES = 999
MOST_ROWS = 1_000
LEAST_ROWS = 40

_LEVELS = 20  # most frequent levels of a category that count


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """The share of shuffles that are as good as, or better than, a pairing; at least 1 / 1000."""

    own: float
    """Of the photos with their own rows."""
    next_row: float
    """Of photos that are given to the row before theirs: small when photos have slipped down by one row."""
    previous_row: float
    rows: int


def compare_with_shuffled(
    pictures: UInt8[np.ndarray, "pictures side side 3"],
    picture_of_row: Int64[np.ndarray, " rows"],
    frame: pd.DataFrame,
    schema: Schema,
) -> Pairing | None:
    """Compare the association of photos and rows with that of shuffled photos; None where there is too little to tell.

    Of many rows 1,000 are drawn first, so that the time does not grow with the table.

    Args:
        pictures: small pictures in any order, perhaps of other columns too.
        picture_of_row: which of them the photo of each row is; -1 where the row has none.
        frame: the rows.
        schema: which of their cells to compare with.
    """
    rows, rng = np.flatnonzero(picture_of_row >= 0), np.random.default_rng(0)
    if len(rows) > MOST_ROWS:
        rows = np.sort(rng.choice(rows, MOST_ROWS, replace=False))
    if len(rows) < LEAST_ROWS:
        return None
    cells = table_features(frame.iloc[rows], schema)
    if not cells.shape[1]:
        return None
    own_next_previous = np.concatenate([picture_of_row[(rows + shift) % len(frame)] for shift in (0, 1, -1)])
    colours = _standardised(_coarse(pictures[own_next_previous]), own_next_previous >= 0)
    own, after, before = colours.reshape(3, len(rows), -1)
    orders = np.stack([rng.permutation(len(rows)) for _ in range(SHUFFLES)])
    shuffled = np.concatenate([_association(own[orders[i : i + 27]], cells) for i in range(0, SHUFFLES, 27)])

    def share(colours: Float32[np.ndarray, "rows colours"]) -> float:
        return float((1 + (shuffled >= _association(colours[None], cells)[0]).sum()) / (1 + SHUFFLES))

    return Pairing(own=share(own), next_row=share(after), previous_row=share(before), rows=len(rows))


def table_features(frame: pd.DataFrame, schema: Schema) -> Float32[np.ndarray, "rows features"]:
    """Numbers and the frequent levels of categories and classes, each with mean 0 and standard deviation 1."""
    blocks: list[np.ndarray] = []
    for column in schema.columns:
        if column.role == "number" or (column.role == "target" and schema.task == "regression"):
            values = pd.Series(to_numbers(frame[column.name]).values).rank().to_numpy()  # ranks: no outlier decides
            blocks.append(values[:, None])
        elif column.role in ("category", "target"):
            keys = to_keys(frame[column.name])
            levels = keys.value_counts().index[:_LEVELS]
            blocks.append(keys.to_numpy(dtype=object)[:, None] == levels.to_numpy(dtype=object)[None, :])
    if not blocks:
        return np.zeros((len(frame), 0), dtype=np.float32)
    values = np.concatenate([block.astype(np.float32) for block in blocks], axis=1)
    return _standardised(values, np.ones(len(values), dtype=bool))


def _coarse(photos: UInt8[np.ndarray, "rows side side 3"]) -> Float32[np.ndarray, "rows features"]:
    """Mean colours of a grid of 3 x 3."""
    step = photos.shape[1] // 3
    cells = photos.reshape(len(photos), 3, step, 3, step, 3).mean(axis=(2, 4), dtype=np.float32)
    return cells.reshape(len(photos), -1)


def _standardised(values: np.ndarray, present: np.ndarray) -> Float32[np.ndarray, "rows features"]:
    """z-scores over the rows that are present; missing cells, absent rows and constant columns are 0."""
    seen = np.where(present[:, None], values, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        count = np.maximum(np.isfinite(seen).sum(axis=0), 1)
        mean = np.nansum(seen, axis=0) / count
        std = np.sqrt(np.nansum((seen - mean) ** 2, axis=0) / count)
        scaled = np.where(std > 1e-6, (seen - mean) / np.maximum(std, 1e-6), 0.0)
    return np.nan_to_num(scaled).astype(np.float32)


def _association(
    colours: Float32[np.ndarray, "orders rows colours"], cells: Float32[np.ndarray, "rows features"]
) -> Float32[np.ndarray, " orders"]:
    """Squared norm of the cross-covariance for each order of the photos; the cells have mean 0."""
    products = (
        colours.transpose(0, 2, 1).reshape(-1, len(cells)) @ cells
    )  # one large product: small ones wait on threads
    return (products.reshape(len(colours), -1) ** 2).sum(axis=1)
