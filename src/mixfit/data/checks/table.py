"""What a person should know of a table before trusting a model of it: odd values, rare classes, groups split across
sets, groups that no column names, and photos that are in the wrong row."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64, Shaped, UInt8

from mixfit.choices import NUMBER_TASKS
from mixfit.data.columns.cells import Table
from mixfit.data.columns.facts import id_reason
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.values import Numbers
from mixfit.data.split import Split, groups_on_two_sides

RATIO = 10
"""A class this many times as frequent as another is worth a word."""
FEW_ROWS = 5
"""With fewer training rows a class is hardly learnt."""
GAP = 3.0
"""A value is suspicious when it lies further from all others than three times the range of those."""

_LEVEL_SHARE = 0.1  # ids that come back ten times each may be levels rather than things
_EXPECTED = 5.0  # rows of a class in a part, that a part without any has hardly by chance
_MOST_FAR = 0.05  # of the cells; more are no outliers
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence; a note is worth knowing, a warning may spoil the result, an error stands in the way of training."""

    level: Literal["note", "warning", "error"]
    text: str


def parts_of(split: Split, rows: int) -> Shaped[np.ndarray, " rows"]:
    """``train``, ``valid``, ``test`` or "" for each row."""
    parts = np.full(rows, "", dtype=object)
    for name in ("train", "valid", "test"):
        parts[split.of(name)] = name
    return parts


def class_balance(table: pd.DataFrame | Table, schema: Schema, parts: Shaped[np.ndarray, " rows"]) -> list[Finding]:
    """Classes that are much rarer than others, hardly there to learn, or never there to judge."""
    if schema.task in NUMBER_TASKS:
        return []
    keys = Table.of(table)[schema.target].keys
    counts = keys.value_counts()
    findings = []
    if counts.iloc[0] >= RATIO * counts.iloc[-1]:
        findings.append(
            Finding(
                "warning",
                f"classes are unbalanced: {counts.index[0]!r} has {counts.iloc[0]:,} rows, {counts.index[-1]!r} "
                f"{counts.iloc[-1]:,} ({counts.iloc[0] / counts.iloc[-1]:.0f} to 1); judge by balanced accuracy",
            )
        )
    train = keys[parts == "train"].value_counts().reindex(counts.index, fill_value=0)
    unknown = train.index[train == 0]
    if len(unknown) and train.any():
        verb = "has" if len(unknown) == 1 else "have"
        text = f"{len(unknown)} of {len(counts)} classes {verb} no training row, so no model predicts them"
        findings.append(Finding("warning", f"{text}: {_list(unknown)}"))
    few = train.index[(train > 0) & (train < FEW_ROWS)]
    if len(few) and train.any():  # without a split there is nothing to count
        findings.append(
            Finding("warning", f"{len(few)} of {len(counts)} classes have under {FEW_ROWS} training rows: {_list(few)}")
        )
    for part in ("valid", "test"):
        absent = counts.index.difference(keys[parts == part].unique(), sort=False)
        if len(absent) and (parts == part).any():
            # Of so many rows a drawn part would have some: the split is by something that goes with the class.
            expected = counts[absent] / counts.sum() * int((parts == part).sum())
            common = absent[(expected >= _EXPECTED).to_numpy()]
            level: Literal["note", "warning"] = "warning" if len(common) else "note"
            named = _list([*common, *absent.difference(common)])
            text = f"{len(absent)} of {len(counts)} classes have no {part} row: {named}"
            if len(common):
                share = counts[common[0]] / counts.sum()
                text += f" ({common[0]!r} is {share:.0%} of all rows), so the {part} scores say nothing of them"
            findings.append(Finding(level, text))
    return findings


def torn_ids(table: pd.DataFrame | Table, schema: Schema, parts: Shaped[np.ndarray, " rows"]) -> list[Finding]:
    """Ids in ignored columns that a drawn split has put on two sides; ``infer_schema`` looks at given splits."""
    if schema.names("split"):
        return []
    table, findings = Table.of(table), []
    drawn = parts != ""
    for name in schema.names("ignored"):
        if name not in table or not id_reason(name) or table[name].nested is not None:
            continue
        keys = table[name].keys[drawn]
        torn = groups_on_two_sides(keys, parts[drawn])
        if not torn:
            continue
        text = (
            f"{name}: {len(torn):,} of {keys.nunique():,} ids are on two sides of the split, the first is {torn[0]!r}"
        )
        if keys.nunique() <= _LEVEL_SHARE * keys.count():
            findings.append(
                Finding("note", f"{text}; if they are one thing each, --set {name}=group keeps them together")
            )
        else:
            cure = f"--set {name}=group keeps each on one side"
            findings.append(Finding("warning", f"{text}, so the scores may look too good; {cure}"))
    return findings


def far_values(table: pd.DataFrame | Table, schema: Schema) -> list[Finding]:
    """Numbers far outside all others, such as -999 for "unknown" or a slip of the decimal point."""
    names = schema.names("number") + ([schema.target] if schema.task in NUMBER_TASKS else [])
    table, findings = Table.of(table), []
    for name in names:
        values = table[name].numbers.values
        for side in (1.0, -1.0):
            far = _far_above(side * values)
            if far.any():
                count, rest = int(far.sum()), values[~far & np.isfinite(values)]
                row = int(np.flatnonzero(far)[0])
                shown = f"{count:,} values are" if count > 1 else "a value is"
                findings.append(
                    Finding(
                        "warning",
                        f"{name}: {shown} far outside the others ({rest.min():g} to {rest.max():g}), such as "
                        f"{values[row]:g} in row {table.index[row]}: a slip, another unit, or a word for missing?",
                    )
                )
    return findings


def _far_above(values: Float[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Cells above a gap of three times the range of all that lie below it."""
    finite = np.sort(values[np.isfinite(values)])
    nothing = np.zeros(len(values), dtype=bool)
    if len(finite) < 20:
        return nothing
    start = int(np.ceil((1 - _MOST_FAR) * len(finite)))
    with np.errstate(over="ignore"):
        below, above = finite[start - 1 : -1], finite[start:]
        gaps = (above - below > GAP * (below - finite[0])) & (below > finite[0])
    if not gaps.any():
        return nothing
    return np.isfinite(values) & (values >= above[gaps.argmax()])


def _list(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    more = f" and {len(listed) - _EXAMPLES} more" if len(listed) > _EXAMPLES else ""
    return ", ".join(listed[:_EXAMPLES]) + more


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
    table: pd.DataFrame | Table,
    schema: Schema,
) -> Pairing | None:
    """Compare the association of photos and rows with that of shuffled photos; None where there is too little to tell.

    Of many rows 1,000 are drawn first, so that the time does not grow with the table.

    Args:
        pictures: small pictures in any order, perhaps of other columns too.
        picture_of_row: which of them the photo of each row is; -1 where the row has none.
        table: the rows.
        schema: which of their cells to compare with.
    """
    rows, rng = np.flatnonzero(picture_of_row >= 0), np.random.default_rng(0)
    if len(rows) > MOST_ROWS:
        rows = np.sort(rng.choice(rows, MOST_ROWS, replace=False))
    if len(rows) < LEAST_ROWS:
        return None
    cells = table_features(Table.of(table).select(rows), schema)
    if not cells.shape[1]:
        return None
    own_next_previous = np.concatenate([picture_of_row[(rows + shift) % len(table)] for shift in (0, 1, -1)])
    colours = _standardised(_coarse(pictures[own_next_previous]), own_next_previous >= 0)
    own, after, before = colours.reshape(3, len(rows), -1)
    orders = np.stack([rng.permutation(len(rows)) for _ in range(SHUFFLES)])
    shuffled = np.concatenate([_association(own[orders[i : i + 27]], cells) for i in range(0, SHUFFLES, 27)])

    def share(colours: Float32[np.ndarray, "rows colours"]) -> float:
        return float((1 + (shuffled >= _association(colours[None], cells)[0]).sum()) / (1 + SHUFFLES))

    return Pairing(own=share(own), next_row=share(after), previous_row=share(before), rows=len(rows))


def table_features(table: pd.DataFrame | Table, schema: Schema) -> Float32[np.ndarray, "rows features"]:
    """Numbers and the frequent levels of categories and classes, each with mean 0 and standard deviation 1."""
    table, blocks = Table.of(table), list[np.ndarray]()
    for column in schema.columns:
        if column.role not in ("number", "category", "target"):
            continue
        if isinstance(found := schema.typed(table, column.name), Numbers):
            blocks.append(pd.Series(found.values).rank().to_numpy()[:, None])  # ranks: no outlier decides
        else:
            keys = table[column.name].keys
            levels = keys.value_counts().index[:_LEVELS]
            blocks.append(keys.to_numpy(dtype=object)[:, None] == levels.to_numpy(dtype=object)[None, :])
    if not blocks:
        return np.zeros((len(table), 0), dtype=np.float32)
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


_LEAST_ROWS = 80
_QUERIES = 2_000
"""Rows whose neighbours are looked at; their neighbours may be any row."""
_DIMENSIONS = 30
"""More are reduced to their principal components."""
_LARGEST = 12
"""Rows of the largest group that is found, less one."""
_NEAR, _FAR = 20, 60
"""Neighbours that tell how many dimensions there are where there are no groups."""
_BY_CHANCE = 0.01
_SHARE = 0.5
"""Of the rows, that must have a gap behind their nearest neighbours; of rows without groups about a tenth have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """Rows that lie in groups."""

    share: float
    """Of the rows."""
    size: int
    """Median of the groups'."""


def find_clusters(
    values: Float[np.ndarray, "rows columns"], classes: Int64[np.ndarray, " rows"] | None = None
) -> Clusters | None:
    """Look for a gap behind the nearest neighbours of each row.

    Where rows lie without groups in ``m`` dimensions, the distance to neighbour ``j + 1`` is more than ``r`` times
    that to neighbour ``j`` with probability ``r ** (-m * j)``; ``m`` is told by farther neighbours (Levina and Bickel
    2004). Rows of one class lie together without being one thing, so that each class is looked at alone.

    Args:
        values: finite; each column in its own scale.
        classes: of the target; classes with fewer than 80 rows are passed over.
    """
    from scipy.special import digamma
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    if values.shape[1] > _DIMENSIONS and len(values) > _DIMENSIONS:
        sample = np.sort(np.random.default_rng(0).permutation(len(values))[:_QUERIES])
        values = PCA(_DIMENSIONS, svd_solver="randomized", random_state=0).fit(values[sample]).transform(values)
    labels = np.zeros(len(values), dtype=np.int64) if classes is None else classes
    counts = np.bincount(labels, minlength=1)
    large = np.flatnonzero(counts >= _LEAST_ROWS)
    gaps, sizes = [np.zeros(0, dtype=bool)], [np.zeros(0, dtype=np.int64)]
    rng = np.random.default_rng(0)
    for label in large.tolist():
        rows = values[labels == label]
        queries = max(1, _QUERIES * len(rows) // int(counts[large].sum()))
        asked = np.sort(rng.permutation(len(rows))[:queries])
        distance, _ = NearestNeighbors(n_neighbors=_FAR + 1).fit(rows).kneighbors(rows[asked])
        distance = distance[:, 1:]  # the row itself
        spread = np.log(np.maximum(distance[:, -1], 1e-12) / np.maximum(distance[:, _NEAR - 1], 1e-12)).mean()
        if not spread > 0:
            continue
        dimensions = (digamma(_FAR) - digamma(_NEAR)) / spread
        first, second = distance[:, :_LARGEST], distance[:, 1 : _LARGEST + 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = np.where(first > 0, (second / first) ** (-dimensions * np.arange(1, _LARGEST + 1)), 1.0)
        gaps.append(chance.min(axis=1) < _BY_CHANCE)
        sizes.append(chance.argmin(axis=1) + 2)
    gap, size = np.concatenate(gaps), np.concatenate(sizes)
    if not len(gap) or gap.mean() < _SHARE:
        return None
    return Clusters(share=float(gap.mean()), size=int(np.median(size[gap])))
