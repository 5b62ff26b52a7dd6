"""How often is it said that photos help where they do not, and how often where they do?

Simulated tables of 200 to 600 rows go through the recipe's linear models and boosted trees, with and without photos,
over five folds and through the blend. Photos are stored features: 24 columns of 12 directions and noise. Half of the
targets are numbers, half are two classes; half have heavy-tailed noise; in a third of the tables 3 to 8 rows form a
group and share parts of target and features; a quarter has weights.

  noise    the features tell nothing of the target, so that each claim is a false one;
  signal   they tell as much as makes the true gain twice the least one that counts. The true gain is that of the folds'
           models on 4,000 further rows; the share of the target that the features tell is searched for set by set.

Rules, of which all but the first are the one-sided 5 % test and the least gain: the rule before, more than one standard
error over groups; that standard error without a correction; the corrected variance between folds (Nadeau and Bengio
2003) with Student's t of four degrees of freedom; and what `judge_photos` does, the corrected variance within folds.
Run: python benchmarks/study_photo_claims.py noise | signal [sets]; 200 sets, seeds 0 to 199, one thread."""

import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

from mixfit.choices import Role
from mixfit.config import DataConfig
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import MixedData, TablePhotos, load_data
from mixfit.ensemble.blend import Blend, ModelPredictions, blend, row_losses
from mixfit.ensemble.cross_fit import FittedFolds, Fitting, cross_fit, fit_folds
from mixfit.ensemble.intervals import tempered
from mixfit.ensemble.photo_rule import LEAST_GAIN, LEVEL, judge_photos
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import BOTH, PHOTOS, looks, one_thread
from mixfit.models.trees import BoostedTrees

FOLDS, HELD_OUT, WIDTH, FACTORS = 5, 4_000, 24, 12
TRIED = (
    Constant(),
    Linear(),
    Linear(sees=PHOTOS),
    Linear(sees=BOTH),
    BoostedTrees(),
    BoostedTrees(sees=BOTH),
)
RULES = ("before", "uncorrected", "between folds", "judge_photos")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one set gave."""

    rows: int
    kind: str
    gain: float
    """Relative, out of fold."""
    true: float
    """Relative, on further rows; nan where there are none."""
    claims: dict[str, bool]
    """By rule."""


def draw(seed: int, share: float, further: int) -> tuple[MixedData, str]:
    """A table with features of photos, which tell ``share`` of what the table leaves open; and of which kind it is."""
    rng = np.random.default_rng([seed, 126])
    count, number = int(rng.integers(200, 601)), rng.random() < 1 / 2
    grouped, weighted, heavy = rng.random() < 1 / 3, rng.random() < 1 / 4, rng.random() < 1 / 2
    told = rng.uniform(0.2, 0.8)  # of the variance, by the table
    size = int(rng.integers(3, 9)) if grouped else 1
    count -= count % size
    rows = count + further
    group = np.arange(rows) // size

    def drawn(width: int) -> np.ndarray:
        """Standard normal ``(rows, width)``; rows of a group have half of the variance in common."""
        own = rng.normal(size=(rows, width))
        return (own + rng.normal(size=(rows, width))[group]) / np.sqrt(2) if grouped else own

    mix = rng.normal(size=(FACTORS, WIDTH)) / np.sqrt(1 + np.arange(FACTORS))[:, None]
    numbers, kind, factors = rng.normal(size=(rows, 4)), rng.integers(0, 4, rows), drawn(FACTORS)
    features = factors @ mix + 0.3 * rng.normal(size=(rows, WIDTH))
    table = numbers[:, 0] + 0.7 * np.abs(numbers[:, 1]) + 0.5 * numbers[:, 2] * (kind % 2) + 0.6 * (kind == 0)
    noise = drawn(1)[:, 0]
    if heavy:
        noise = noise * np.sqrt(2 / rng.chisquare(4, size=rows))  # four degrees of freedom, variance 1
    rest = np.sqrt(share) * (factors[:, 0] + factors[:, 1]) / np.sqrt(2) + np.sqrt(1 - share) * noise
    score = np.sqrt(told) * (table - table.mean()) / table.std() + np.sqrt(1 - told) * rest
    part = np.where(np.arange(rows) < count, "train", "test").astype(object)
    part[: count // size // 5 * size] = "valid"  # training and validation rows are dealt into folds together
    frame = pd.DataFrame({f"x{place}": column for place, column in enumerate(numbers.T)})
    target = score if number else np.where(score > np.median(score), "yes", "no")
    frame = frame.assign(kind=np.array(list("abcd"))[kind], part=part, y=target)
    roles: dict[str, Role] = {"part": "split"}
    if grouped:
        frame["group"], roles["group"] = [f"g{one}" for one in group], "group"
    if weighted:
        frame["importance"], roles["importance"] = rng.uniform(0.5, 2.0, rows).round(2), "weight"
    data = load_data(frame, target="y", config=DataConfig(roles=roles), seed=seed)
    photos = TablePhotos(
        files=(b"",) * rows,
        slots=np.arange(rows)[:, None],
        slot_columns=("photo",),
        bad=[],
        missing_cells={},
        features=FeatureTable(torch.from_numpy(features.astype(np.float32)), torch.ones(rows, dtype=torch.bool)),
    )
    told_of = {"groups": grouped, "weights": weighted, "heavy tails": heavy}
    words = ["number" if number else "classes", *(word for word, there in told_of.items() if there)]
    return replace(data, photos=photos), ", ".join(words)


def judge(seed: int, share: float = 0.0, *, held_out: bool = False) -> Found:
    """Fit all models on the folds of a set, blend them with and without photos, and ask each rule."""
    data, kind = draw(seed, share, HELD_OUT if held_out else 40)
    folds = fit_folds(data, FOLDS, seed=seed)
    fittings = {one: cross_fit(one, folds) for one in TRIED}
    blends = [
        _blended(folds, [fitting for fitting in fittings.values() if photos or not looks(fitting.model.sees)])
        for photos in (False, True)
    ]
    before, after = (found.losses for found in blends)
    true = float("nan")
    if held_out:
        rows = data.split.test
        on_rows = {
            one.name: [
                _tempered(fitting, model.predict(fold.rows.take(rows)))
                for model, fold in zip(fitting.fitted, folds.folds, strict=True)
            ]
            for one, fitting in fittings.items()
        }
        truth, losses = data.arrays.target.numpy()[rows], []
        for found in blends:
            mixed = [sum(s * on_rows[name][fold] for name, s in found.shares.items()) for fold in range(FOLDS)]
            losses.append(np.mean([row_losses(truth, np.asarray(one)).mean() for one in mixed]))
        true = float(1 - losses[1] / losses[0])
    return Found(
        rows=len(folds.rows),
        kind=kind,
        gain=float(1 - np.average(after, weights=folds.weight) / np.average(before, weights=folds.weight)),
        true=true,
        claims=_claims(before, after, folds),
    )


def _tempered(fitting: Fitting, predictions: np.ndarray) -> np.ndarray:
    return predictions if predictions.ndim == 1 else tempered(predictions, fitting.temperature)


def _blended(folds: FittedFolds, fittings: list[Fitting]) -> Blend:
    """As the recipe blends them."""
    models = {
        one.model.name: ModelPredictions(
            raw=one.predictions, temperatures=one.temperatures, temperature=one.temperature
        )
        for one in fittings
    }
    return blend(folds.truth, models, folds.number, learns_from=folds.plan.learns_from, weight=folds.weight)


def _claims(before: np.ndarray, after: np.ndarray, folds: FittedFolds) -> dict[str, bool]:
    weight = np.ones(len(before)) if folds.weight is None else folds.weight
    base = np.average(before, weights=weight)
    rule = judge_photos(before, after, folds.number, folds.plan.unit, weight=folds.weight)
    difference = (before - after) / base
    plain = rule.error / np.sqrt(1 + FOLDS / (FOLDS - 1))
    by_fold = [
        np.average(difference[folds.number == place], weights=weight[folds.number == place]) for place in range(FOLDS)
    ]
    between = np.sqrt(1 / FOLDS + 1 / (FOLDS - 1)) * np.std(by_fold, ddof=1)
    large = rule.gain >= LEAST_GAIN
    return {
        "before": bool(rule.gain > plain),
        "uncorrected": bool(large and rule.gain >= student.ppf(1 - LEVEL, rule.groups - 1) * plain),
        "between folds": bool(large and np.mean(by_fold) >= student.ppf(1 - LEVEL, FOLDS - 1) * between),
        "judge_photos": rule.claim,
    }


def strong_enough(seed: int) -> Found | None:
    """A set whose true gain is twice the least one, give or take a tenth; None where it is not found in five tries."""
    wanted, share = 2 * LEAST_GAIN, 1.4 * 2 * LEAST_GAIN
    for _ in range(5):
        found = judge(seed, share, held_out=True)
        if abs(found.true / wanted - 1) <= 0.1:
            return found
        share = min(max(share + 1.2 * (wanted - found.true), 0.02), 0.98)
    return None


def study(what: str, sets: int) -> None:
    """Print each set, and how often each rule claims."""
    started = time.process_time()
    found: list[Found] = []
    for seed in range(sets):
        one = judge(seed) if what == "noise" else strong_enough(seed)
        if one is None:
            continue
        found.append(one)
        said = ", ".join(rule for rule in RULES if one.claims[rule]) or "none"
        print(f"{seed:4} {one.rows:4} {one.kind:<36} out of fold {one.gain:+.4f}, true {one.true:+.4f}; claims: {said}")
    print(f"{what}, least gain {LEAST_GAIN:.0%}: {len(found)} of {sets} sets, {time.process_time() - started:.0f} s")
    parts = {"all": found} | {
        word: [one for one in found if word in one.kind] for word in ("number", "classes", "groups", "weights", "heavy")
    }
    parts["below 400 rows"] = [one for one in found if one.rows < 400]
    print(f"{'':<24}" + "".join(f"{rule:>16}" for rule in RULES))
    for name, some in parts.items():
        print(f"{name:<14}{len(some):>5} sets" + "".join(f"{sum(o.claims[rule] for o in some):>16}" for rule in RULES))


if __name__ == "__main__":
    with one_thread():
        study(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200)
