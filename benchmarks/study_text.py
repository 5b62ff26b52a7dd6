"""Are columns of text used as well as they can be, and how long does that take?

accuracy [repeats] [figures.csv]: tables of 1,000 rows with a description of about 100 words, two numbers and a
category; the target is made of all. Held-out squared error of the logarithm on 1,000 further rows of: TF-IDF ridge on
the text, gradient boosting on the table, and the preset quick; a repeat is lost where quick is worse than the better of
both by more than one standard error of the paired difference. Also a sparse ridge on the terms beside the columns of
the table, to see what the features of texts lose. With a file of figures, each repeat is added to it, and those that it
has are not run again.

speed: cells a second of taking texts apart and of the features of fitted texts, against scikit-learn's vectorisers with
the same n-grams, in the same run.

Run: python benchmarks/study_text.py accuracy 20 | speed; one thread."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from lightgbm import LGBMRegressor
from rich.console import Console
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import mixfit
from mixfit.data.columns.cells import Table
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.columns.words import to_words

ROWS, WORDS = 1_000, 100
GOOD = [
    "spacious",
    "sunny",
    "renovated",
    "quiet",
    "balcony",
    "elevator",
    "garden",
    "terrace",
    "luxury",
    "modern",
    "view",
    "designer",
    "bright",
    "charming",
]
BAD = [
    "small",
    "dark",
    "noisy",
    "basement",
    "shared",
    "old",
    "damp",
    "cramped",
    "simple",
    "basic",
]
COMMON = [
    "the",
    "a",
    "of",
    "and",
    "in",
    "with",
    "for",
    "near",
    "close",
    "to",
    "is",
    "are",
    "has",
    "our",
    "your",
    "apartment",
    "room",
    "house",
    "street",
    "station",
    "minutes",
]
STRENGTHS = {"ridge__alpha": np.logspace(-1.5, 2, 8)}
Fit = Callable[[pd.DataFrame, np.ndarray], Callable[[pd.DataFrame], np.ndarray]]


def made_table(rows: int, seed: int) -> pd.DataFrame:
    """Numbers, a category and a description, all of which the target needs."""
    rng = np.random.default_rng(seed)
    vocabulary = [*COMMON, *(f"w{number}" for number in range(1_500))]
    often = 1 / np.arange(1, len(vocabulary) + 1)
    quality, area, rooms = rng.normal(size=rows), rng.uniform(20, 150, rows), rng.integers(1, 6, rows)
    city, strength = rng.choice(["Rome", "Oslo", "Lima", "Cairo"], rows), rng.uniform(0.15, 0.6)
    texts = []
    for value in quality:
        words = list(rng.choice(vocabulary, WORDS, p=often / often.sum()))
        for _ in range(rng.poisson(rng.uniform(2, 6))):
            words[rng.integers(WORDS)] = str(rng.choice(GOOD if rng.random() < 1 / (1 + np.exp(-1.5 * value)) else BAD))
        texts.append(" ".join(words).capitalize() + ".")
    log = 4 + strength * quality + 0.008 * area + 0.05 * rooms + 0.2 * (city == "Oslo") + 0.15 * rng.normal(size=rows)
    columns = {"area": area.round(1), "rooms": rooms, "city": city, "description": texts, "price": np.exp(log).round(2)}
    return pd.DataFrame(columns)


def of_text(train: pd.DataFrame, goal: np.ndarray) -> Callable[[pd.DataFrame], np.ndarray]:
    """TF-IDF ridge."""
    pipeline = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2)), Ridge())
    model = GridSearchCV(pipeline, STRENGTHS, cv=5).fit(train["description"], goal)
    return lambda rows: model.predict(rows["description"])


def of_terms_and_columns(train: pd.DataFrame, goal: np.ndarray) -> Callable[[pd.DataFrame], np.ndarray]:
    """Sparse ridge on the terms beside the columns."""
    terms = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2)).fit(train["description"])
    scale, levels = StandardScaler().fit(train[["area", "rooms"]]), OneHotEncoder().fit(train[["city"]])

    def columns(rows: pd.DataFrame) -> csr_matrix:
        numbers = csr_matrix(scale.transform(rows[["area", "rooms"]]))
        return hstack([terms.transform(rows["description"]), numbers, levels.transform(rows[["city"]])]).tocsr()

    model = GridSearchCV(Ridge(), {"alpha": STRENGTHS["ridge__alpha"]}, cv=5).fit(columns(train), goal)
    return lambda rows: model.predict(columns(rows))


def of_table(train: pd.DataFrame, goal: np.ndarray) -> Callable[[pd.DataFrame], np.ndarray]:
    """Gradient boosting on the columns of the table."""

    def columns(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[["area", "rooms", "city"]].astype({"city": "category"})

    model = LGBMRegressor(n_estimators=100, learning_rate=0.05, verbose=-1, n_jobs=1).fit(columns(train), goal)
    return lambda rows: model.predict(columns(rows))


def of_quick(train: pd.DataFrame, goal: np.ndarray) -> Callable[[pd.DataFrame], np.ndarray]:
    """The preset quick."""
    with TemporaryDirectory() as folder:
        settings = {"train": mixfit.TrainConfig(preset="quick"), "console": Console(quiet=True)}
        run = mixfit.fit(train, target="price", out=Path(folder), data=mixfit.DataConfig(test=0.0), **settings)
        return lambda rows, predictor=run.predictor: np.log(predictor.predict(rows)["prediction"].to_numpy())


def accuracy(repeats: int, figures: Path | None) -> None:
    """Print the errors of each repeat, and how many are lost."""
    models = {"tf-idf": of_text, "trees": of_table, "terms+columns": of_terms_and_columns, "quick": of_quick}
    done = pd.read_csv(figures).to_dict("records") if figures and figures.exists() else []
    print(f"{'seed':>5}" + "".join(f"{name:>16}" for name in models) + f"{'SEs worse':>12}{'s of quick':>12}")
    for seed in range(repeats):
        if seed not in [row["seed"] for row in done]:
            done.append({"seed": seed, **compared(models, seed)})
            if figures:
                pd.DataFrame(done).to_csv(figures, index=False)
        row = next(row for row in done if row["seed"] == seed)
        errors = "".join(f"{row[name]:>16.4f}" for name in models)
        print(f"{seed:>5}{errors}{row['worse']:>12.1f}{row['seconds']:>12.1f}", flush=True)
    print(f"lost {sum(row['worse'] > 1 for row in done if row['seed'] < repeats)} of {repeats}")


def compared(models: dict[str, Fit], seed: int) -> dict[str, float]:
    """The squared error of each model; by how many standard errors quick is worse than the better of the first two,
    below 0 if it is better; the processor's seconds of quick."""
    table = made_table(2 * ROWS, seed)
    train, test = table.head(ROWS), table.tail(ROWS)
    goal, truth = np.log(train["price"].to_numpy()), np.log(test["price"].to_numpy())
    errors, seconds = {}, 0.0
    for name, fit in models.items():
        started = time.process_time()
        errors[name] = (fit(train, goal)(test) - truth) ** 2
        seconds = time.process_time() - started
    worse = errors["quick"] - min((errors["tf-idf"], errors["trees"]), key=np.mean)
    of_worse = {"worse": float(worse.mean() / (worse.std() / np.sqrt(ROWS))), "seconds": seconds}
    return {name: float(one.mean()) for name, one in errors.items()} | of_worse


def speed() -> None:
    """Print cells a second, and the ratios to scikit-learn's vectorisers."""
    table = made_table(4_000, 0)
    truth = np.log(table["price"].to_numpy(dtype=np.float32))
    texts = table["description"]
    features, _ = TextFeatures.fit(Table(table), ["description"], truth, classes=0)
    words = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2)).fit(texts)
    grams = TfidfVectorizer(sublinear_tf=True, min_df=2, analyzer="char_wb", ngram_range=(2, 4)).fit(texts)
    read = Table(table)
    read["description"].read_levels(to_words)

    def seconds(run: Callable[[], object]) -> float:
        found = []
        for _ in range(5):
            started = time.process_time()
            run()
            found.append(time.process_time() - started)
        return float(np.median(found))

    taken = {
        "taking apart and features": seconds(lambda: features.apply(Table(table))),
        "features of a fold, texts taken apart": seconds(lambda: features.apply(read)),
        "scikit-learn, words and pairs": seconds(lambda: words.transform(texts)),
        "scikit-learn, n-grams of characters": seconds(lambda: grams.transform(texts)),
    }
    both = taken["scikit-learn, words and pairs"] + taken["scikit-learn, n-grams of characters"]
    for name, found in taken.items():
        print(f"{name:<40}{len(table) / found:>12,.0f} cells/s{both / found:>8.1f} times scikit-learn's both")


if __name__ == "__main__":
    if sys.argv[1:2] == ["speed"]:
        speed()
    else:
        accuracy(int(sys.argv[2]) if len(sys.argv) > 2 else 20, Path(sys.argv[3]) if len(sys.argv) > 3 else None)
