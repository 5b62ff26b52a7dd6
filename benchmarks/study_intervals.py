"""Do 90 % intervals hold 90 % of the truth, and are they ever far wider than they need to be?

Each family is FIFTY simulated tables with seeds fixed beforehand. A ridge regression predicts every row out of fold
(five folds; groups stay whole), intervals are calibrated on these predictions, and the mean of the five regressions
predicts fresh rows (of fresh groups). Printed, over the tables of a family:
  coverage   mean share of fresh rows whose truth is in the interval; goal 90 +- 4 %
  lowest     least share of a table
  fifths     least and greatest mean coverage of a fifth of the fresh rows by predicted value
  width      median over tables of the median width, relative to split conformal from the same residuals (the quantile
             of their sizes, the same for every row); goal at most 1.3
  widest     greatest relative median width of a table
  score      mean interval score (Gneiting and Raftery 2007: width, and 20 times the distance of a truth outside),
             relative to that of split conformal; lower is better

Families: "heteroscedastic", the spread grows with a column; "by prediction", it grows with the mean; "heavy tails",
errors of Student's t with 3 degrees; "grouped", 40 groups x 8 rows with columns that are the same within a group;
"60 rows" and "34 rows", of even spread, as many of them as their name says.
Methods: "ours" is what a run makes; "mondrian" has a quantile of residuals for each fifth of the predictions; "cqr" is
conformalised quantile regression (Romano et al. 2019, arXiv:1905.03222) of the residual on the prediction, with a knot
at each quartile.
Run: OMP_NUM_THREADS=1 python benchmarks/study_intervals.py [tables [ours | mondrian | cqr]]"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
import pandas as pd

from mixfit.data.columns.schema import Column, Schema
from mixfit.ensemble.intervals import number_uncertainty
from mixfit.models.encoding import EncodedRows, RowEncoder
from mixfit.models.linear import design_matrix, find_knots, fit_ridge

TABLES, FOLDS, LEVEL = 50, 5, 0.9
NUMBERS = tuple(f"x{place}" for place in range(6))
GROUPS, PER_GROUP = 40, 8
FRESH_GROUPS = 150


@dataclass(frozen=True)
class Rows:
    """Some rows of a table: the frame, the target, and the group of each."""

    frame: pd.DataFrame
    truth: np.ndarray
    group: np.ndarray


@dataclass(frozen=True)
class Family:
    """How tables are drawn: ``draw(rng, rows, coefficients)``."""

    rows: int
    draw: Callable[[np.random.Generator, int, np.ndarray], Rows]


def _singles(spread: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]) -> Callable[..., Rows]:
    """Rows that are groups of their own; ``spread(columns, mean, rng)`` are their errors."""

    def draw(rng: np.random.Generator, rows: int, coefficients: np.ndarray) -> Rows:
        columns = rng.normal(size=(rows, len(NUMBERS)))
        kind = rng.integers(0, 4, rows)
        mean = columns @ coefficients[: len(NUMBERS)] + coefficients[len(NUMBERS) :][kind]
        frame = pd.DataFrame(columns, columns=list(NUMBERS)).assign(kind=kind.astype(str), y=0.0)
        return Rows(frame, mean + spread(columns, mean, rng), np.arange(rows))

    return draw


def _grouped(rng: np.random.Generator, rows: int, coefficients: np.ndarray) -> Rows:
    """Groups of eight whose columns are their own, but for one; some groups are harder than others."""
    count = rows // PER_GROUP
    group = np.repeat(np.arange(count), PER_GROUP)
    columns = rng.normal(size=(count, len(NUMBERS)))[group]
    columns[:, -1] = rng.normal(size=rows)
    kind = rng.integers(0, 4, count)[group]
    mean = columns @ coefficients[: len(NUMBERS)] + coefficients[len(NUMBERS) :][kind]
    own = rng.normal(size=count)[group]
    spread = np.exp(0.5 * rng.normal(size=count))[group]
    frame = pd.DataFrame(columns, columns=list(NUMBERS)).assign(kind=kind.astype(str), y=0.0)
    return Rows(frame, mean + 2 * own + 0.3 * spread * rng.normal(size=rows), group)


def _even(columns: np.ndarray, mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=len(mean))


def _by_column(columns: np.ndarray, mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.exp(columns[:, 0]) * rng.normal(size=len(mean))


def _by_mean(columns: np.ndarray, mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.exp(0.4 * mean) * rng.normal(size=len(mean))


def _heavy(columns: np.ndarray, mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_t(3, size=len(mean))


FAMILIES = {
    "heteroscedastic": Family(300, _singles(_by_column)),
    "by prediction": Family(300, _singles(_by_mean)),
    "heavy tails": Family(300, _singles(_heavy)),
    "grouped": Family(GROUPS * PER_GROUP, _grouped),
    "60 rows": Family(60, _singles(_even)),
    "34 rows": Family(34, _singles(_even)),
}

SCHEMA = Schema(
    columns=(
        *(Column(name=name, role="number", reason="set", missing=0) for name in NUMBERS),
        Column(name="kind", role="category", reason="set", missing=0),
        Column(name="y", role="target", reason="set", missing=0),
    ),
    task="regression",
    task_reason="set",
    rows=300,
)


@dataclass(frozen=True)
class Drawn:
    """What intervals are made from, and what judges them."""

    truth: np.ndarray
    predictions: np.ndarray
    """Out of fold."""
    fold: np.ndarray
    encoder: RowEncoder
    encoded: EncodedRows
    fresh: EncodedRows
    fresh_truth: np.ndarray
    fresh_predictions: np.ndarray


def draw_table(family: Family, seed: int) -> Drawn:
    """A table and fresh rows, with their predictions."""
    rng = np.random.default_rng(seed)
    coefficients = rng.normal(size=len(NUMBERS) + 4)
    rows = family.draw(rng, family.rows, coefficients)
    fresh = family.draw(rng, FRESH_GROUPS * PER_GROUP, coefficients)
    scale, middle = rows.truth.std(), rows.truth.mean()
    truth, fresh_truth = (rows.truth - middle) / scale, (fresh.truth - middle) / scale
    groups = len(np.unique(rows.group))
    fold = rng.permutation(np.arange(groups) % FOLDS)[rows.group]
    encoder = RowEncoder.fit(rows.frame, SCHEMA)
    encoded, fresh_encoded = encoder.encode(rows.frame), encoder.encode(fresh.frame)
    predictions, fresh_predictions = np.empty(len(truth)), np.zeros(len(fresh_truth))
    for number in range(FOLDS):
        judged = fold == number
        knots = find_knots(encoded.numeric[~judged])
        columns, others = (design_matrix(part, encoder.cardinalities, knots) for part in (encoded, fresh_encoded))
        model = fit_ridge(columns[~judged], truth[~judged])
        predictions[judged] = model.predict(columns[judged])
        fresh_predictions += model.predict(others) / FOLDS
    return Drawn(truth, predictions, fold, encoder, encoded, fresh_encoded, fresh_truth, fresh_predictions)


Method = Callable[[Drawn], tuple[np.ndarray, np.ndarray]]
"""Lower and upper ends of the fresh rows."""


def split_conformal(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """The same width for every row."""
    sizes = np.sort(np.abs(drawn.truth - drawn.predictions))
    half = sizes[ceil(LEVEL * (len(sizes) + 1)) - 1]
    return drawn.fresh_predictions - half, drawn.fresh_predictions + half


def ours(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """What a run makes."""
    found = number_uncertainty(drawn.truth, drawn.predictions, drawn.encoded, drawn.encoder, drawn.fold)
    return found.interval(drawn.fresh_predictions, drawn.fresh, LEVEL)


def mondrian(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Split conformal within each fifth of the predictions; of all rows where a fifth has too few."""
    low, high = split_conformal(drawn)
    half = (high - low) / 2
    edges = np.quantile(drawn.predictions, (0.2, 0.4, 0.6, 0.8))
    part, fresh_part = np.searchsorted(edges, drawn.predictions), np.searchsorted(edges, drawn.fresh_predictions)
    for place in range(5):
        sizes = np.sort(np.abs(drawn.truth - drawn.predictions)[part == place])
        rank = ceil(LEVEL * (len(sizes) + 1))
        if rank <= len(sizes):
            half[fresh_part == place] = sizes[rank - 1]
    return drawn.fresh_predictions - half, drawn.fresh_predictions + half


def cqr(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of residuals by linear programming, over folds, then moved by a quantile of how far they miss."""
    from sklearn.linear_model import QuantileRegressor

    residuals = drawn.truth - drawn.predictions
    knots = np.quantile(drawn.predictions, (0.25, 0.5, 0.75))

    def columns(predictions: np.ndarray) -> np.ndarray:
        inside = np.clip(predictions, drawn.predictions.min(), drawn.predictions.max())[:, None]
        return np.concatenate([inside, np.maximum(inside - knots, 0)], axis=1)

    def ends(fitting: np.ndarray, predictions: np.ndarray) -> list[np.ndarray]:
        before, after = columns(drawn.predictions[fitting]), columns(predictions)
        shares = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
        models = [QuantileRegressor(quantile=share, alpha=0.01, solver="highs") for share in shares]
        return [model.fit(before, residuals[fitting]).predict(after) for model in models]

    missed = np.empty(len(residuals))
    for number in range(FOLDS):
        judged = drawn.fold == number
        low, high = ends(~judged, drawn.predictions[judged])
        missed[judged] = np.maximum(low - residuals[judged], residuals[judged] - high)
    more = np.sort(missed)[ceil(LEVEL * (len(missed) + 1)) - 1]
    low, high = ends(np.ones(len(missed), dtype=bool), drawn.fresh_predictions)
    return drawn.fresh_predictions + low - more, drawn.fresh_predictions + high + more


METHODS: dict[str, Method] = {"ours": ours, "mondrian": mondrian, "cqr": cqr}


@dataclass(frozen=True)
class Judged:
    """Intervals of the fresh rows of one table."""

    coverage: float
    fifths: np.ndarray
    width: float
    score: float


def judge(drawn: Drawn, ends: tuple[np.ndarray, np.ndarray]) -> Judged:
    """How often they hold the truth, and how wide they are."""
    low, high = ends
    truth = drawn.fresh_truth
    inside = (low <= truth) & (truth <= high)
    order = np.argsort(drawn.fresh_predictions, kind="stable")
    outside = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
    return Judged(
        coverage=float(inside.mean()),
        fifths=np.array([inside[part].mean() for part in np.array_split(order, 5)]),
        width=float(np.median(high - low)),
        score=float((high - low + 2 / (1 - LEVEL) * outside).mean()),
    )


def judge_family(family: Family, method: Method, tables: int) -> tuple[list[Judged], list[Judged]]:
    """A method, and split conformal beside it, on every table."""
    found, plain = [], []
    for seed in range(tables):
        drawn = draw_table(family, seed)
        found.append(judge(drawn, method(drawn)))
        plain.append(judge(drawn, split_conformal(drawn)))
    return found, plain


def main(tables: int, method: Method = ours) -> None:
    """Print every family."""
    started = time.perf_counter()
    print(f"numpy {np.__version__}, {tables} tables a family, {method.__name__}")
    print(f"{'family':<17}{'coverage':>9}{'lowest':>8}{'fifths':>14}{'width':>8}{'widest':>8}{'score':>8}")
    for name, family in FAMILIES.items():
        found, plain = judge_family(family, method, tables)
        widths = np.array([one.width / other.width for one, other in zip(found, plain, strict=True)])
        score = np.median([one.score / other.score for one, other in zip(found, plain, strict=True)])
        fifths = np.mean([one.fifths for one in found], axis=0)
        shares = np.array([one.coverage for one in found])
        between = f"{fifths.min():.3f}-{fifths.max():.3f}"
        print(
            f"{name:<17}{shares.mean():>9.3f}{shares.min():>8.3f}{between:>14}{np.median(widths):>8.2f}"
            f"{widths.max():>8.2f}{score:>8.2f}"
        )
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TABLES, METHODS[sys.argv[2] if len(sys.argv) > 2 else "ours"])
