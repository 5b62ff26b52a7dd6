"""What does a sentence encoder add to TF-IDF, and what does it cost?

synonyms [repeats]: made sentences of a flat, each with three words of its quality. The preset quick is trained with
text_model none and minilm, and judged on 400 rows with the words of the training and on 400 with other words of the
same meanings: mean squared error in units of the target's variance. "few words": 800 rows with 8 good and 8 bad words,
all of which every fold knows; "many words": 150 rows with 32 of each, some of which a fold meets only in its held-out
rows.

movies: titles and table of the films of MIXFIT_DATA, split as that data set says: R² of the rating from table and
title, and log loss of whether a film is a comedy from its title alone.

Run: python benchmarks/study_text_model.py synonyms 3 | movies; one thread; needs mixfit[text]. Seconds are of the
processor, the embeddings (no cache) with them."""

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from rich.console import Console

import mixfit

KNOWN_GOOD = ["spacious", "sunny", "quiet", "renovated", "elegant", "clean", "modern", "charming"]
OTHER_GOOD = ["roomy", "bright", "peaceful", "refurbished", "stylish", "spotless", "contemporary", "delightful"]
KNOWN_BAD = ["cramped", "dark", "noisy", "damp", "dirty", "shabby", "outdated", "broken"]
OTHER_BAD = ["tiny", "gloomy", "loud", "mouldy", "filthy", "run-down", "old-fashioned", "damaged"]
MORE_GOOD = [
    *("ample", "generous", "airy", "comfortable", "cosy", "lovely", "beautiful", "gorgeous", "pretty", "pleasant"),
    *("tidy", "fresh", "luxurious", "superb", "excellent", "splendid", "wonderful", "restored", "calm", "tranquil"),
    *("immaculate", "well-kept"),
]
MORE_BAD = [
    *("narrow", "confined", "stuffy", "uncomfortable", "cold", "ugly", "hideous", "drab", "unpleasant", "messy"),
    *("stale", "neglected", "awful", "terrible", "dreadful", "horrible", "leaking", "rowdy", "dusty", "grubby"),
    *("worn", "crumbling"),
]
MANY_GOOD, MANY_BAD = [*KNOWN_GOOD, *OTHER_GOOD[:2], *MORE_GOOD], [*KNOWN_BAD, *OTHER_BAD[:2], *MORE_BAD]
LAST_GOOD, LAST_BAD = OTHER_GOOD[2:], OTHER_BAD[2:]
SENTENCES = [
    "This is a {} flat on the {} floor, {} and {}, close to the {}.",
    "A {} apartment near the {}; the rooms on the {} floor are {} and {}.",
    "We let a {} place by the {}. You will find it {}, and rather {}, on the {} floor.",
]
FLOORS, PLACES = ["first", "second", "third", "top"], ["station", "park", "river", "market", "school", "harbour"]
MODELS = ("none", "minilm")


def sentences(quality: np.ndarray, good: list[str], bad: list[str], rng: np.random.Generator) -> list[str]:
    """A sentence for each quality; the better, the likelier is each of its words good."""
    found = []
    for value in quality:
        words = [str(rng.choice(good if rng.random() < 1 / (1 + np.exp(-2.5 * value)) else bad)) for _ in range(3)]
        sentence = SENTENCES[rng.integers(len(SENTENCES))]
        floor, place = str(rng.choice(FLOORS)), str(rng.choice(PLACES))
        slots = {0: [words[0], floor, *words[1:], place], 1: [words[0], place, floor, *words[1:]]}
        found.append(sentence.format(*slots.get(SENTENCES.index(sentence), [words[0], place, *words[1:], floor])))
    return found


def trained(frame: pd.DataFrame, target: str, text_model: str, **data: object) -> tuple[mixfit.Run, float]:
    """A run of the preset quick, and its seconds of the processor."""
    with TemporaryDirectory() as folder:
        started = time.process_time()
        run = mixfit.fit(
            frame,
            target=target,
            out=Path(folder),
            data=mixfit.DataConfig(text_model=text_model, cache_gb=0.0, **data),
            train=mixfit.TrainConfig(preset="quick"),
            console=Console(quiet=True),
        )
        return run, time.process_time() - started


def synonyms(repeats: int) -> None:
    """Print the errors on words of the training and on others."""
    few = 800, (KNOWN_GOOD, KNOWN_BAD), (OTHER_GOOD, OTHER_BAD)
    many = 150, (MANY_GOOD, MANY_BAD), (LAST_GOOD, LAST_BAD)
    print(f"{'seed':>5}{'':>12}{'text model':>12}{'same words':>14}{'other words':>14}{'CPU s':>9}")
    for seed in range(repeats):
        for name, (rows, same, other) in {"few words": few, "many words": many}.items():
            rng = np.random.default_rng(seed)
            train, *tests = (made_rows(*part, rng) for part in ((rows, *same), (400, *same), (400, *other)))
            for text_model in MODELS:
                run, seconds = trained(train, "y", text_model, test=0.0, roles={"notes": "text"})
                errors = [run.predictor.predict(test)["prediction"] - test["y"] for test in tests]
                shown = [(error**2).mean() / test["y"].var() for error, test in zip(errors, tests, strict=True)]
                print(
                    f"{seed:>5}{name:>12}{text_model:>12}{shown[0]:>14.3f}{shown[1]:>14.3f}{seconds:>9.1f}", flush=True
                )


def made_rows(rows: int, good: list[str], bad: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """Rows whose target needs the area and the sentence."""
    quality, area = rng.normal(size=rows), rng.uniform(20, 150, rows).round(1)
    y = quality + 0.01 * area + 0.2 * rng.normal(size=rows)
    return pd.DataFrame({"area": area, "notes": sentences(quality, good, bad, rng), "y": y})


def movies() -> None:
    """Print test scores on films."""
    table = pd.read_csv(Path(os.environ["MIXFIT_DATA"]) / "movies" / "table.csv")
    table["comedy"] = np.where(table["is_comedy"] == 1, "yes", "no")
    ratings = table.drop(columns=["comedy", "image", "movie_id"])
    titles = table[["title", "comedy", "split"]]
    print(f"{'target':>12}{'text model':>12}{'score':>9}{'value':>9}{'CPU s':>9}")
    for frame, target, score in ((ratings, "imdb_rating", "r2"), (titles, "comedy", "log_loss")):
        for text_model in MODELS:
            run, seconds = trained(frame, target, text_model, roles={"title": "text", "split": "split"})
            found = run.scores["test"]["mixfit, blend"][score]
            print(f"{target:>12}{text_model:>12}{score:>9}{found:>9.4f}{seconds:>9.1f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["movies"]:
        movies()
    else:
        synonyms(int(sys.argv[2]) if len(sys.argv) > 2 else 3)
