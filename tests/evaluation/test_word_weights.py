import numpy as np
import pandas as pd
import pytest

from mixfit.data.columns.cells import Table
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.columns.words import to_words

RNG = np.random.default_rng(0)
WORDS = ["oak", "signed", "cracked", "old", "from", "the", "attic", "зеркало", "جميل", "stained"]
EFFECT = {"signed": 1.0, "cracked": -1.0}


def texts(rows: int = 300) -> list[str]:
    return [" ".join(RNG.choice(WORDS, RNG.integers(3, 8))) for _ in range(rows)]


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(pd.DataFrame({"note": texts()}))


def goal(table: Table) -> np.ndarray:
    raw = np.array([sum(EFFECT.get(word, 0) for word in text.split()) for text in table.frame["note"]])
    return (raw - raw.mean()) / raw.std()


@pytest.mark.parametrize("classes", [0, 3])
def test_parts_of_all_words_and_pairs_sum_to_the_scores(table: Table, classes: int) -> None:
    truth = goal(table) if not classes else np.digitize(goal(table), [-0.5, 0.5])
    features, _ = TextFeatures.fit(table, ["note"], truth, classes=classes)
    (column,) = features.columns
    words = table["note"].read_levels(to_words)
    used = np.unique(words.codes)
    names, counts, parts = column.parts(words, used, 1)
    assert len(set(names)) == len(names) == len(counts)
    assert set(WORDS) < set(names)
    scores = column.scores
    whole = column._of_terms(column._terms(words, used), words, used)[:, :scores] + column.middle[:scores]
    np.testing.assert_allclose((parts * counts[:, None]).sum(axis=0), whole.sum(axis=0), rtol=1e-3, atol=1e-3)


def test_words_that_move_the_goal_have_the_largest_parts(table: Table) -> None:
    features, _ = TextFeatures.fit(table, ["note"], goal(table), classes=0)
    words = table["note"].read_levels(to_words)
    names, counts, parts = features.columns[0].parts(words, np.unique(words.codes), 20)
    found = dict(zip(names, parts[:, 0], strict=True))
    single = {name: part for name, part in found.items() if " " not in name}
    assert max(single, key=lambda name: single[name]) == "signed"
    assert min(single, key=lambda name: single[name]) == "cracked"
    assert (counts >= 20).all()
    assert all(
        counts[names.index(name)] == sum(name in text.split() for text in set(table.frame["note"])) for name in single
    )


def test_signs_are_no_words_that_matter() -> None:
    frame = pd.DataFrame({"note": [f"{text}, yes! {text} ..." for text in texts(60)]})
    features, _ = TextFeatures.fit(Table(frame), ["note"], RNG.normal(size=60), classes=0)
    words = Table(frame)["note"].read_levels(to_words)
    names, _, _ = features.columns[0].parts(words, np.unique(words.codes), 1)
    assert not [name for name in names if set(name) & set(",.!")]
