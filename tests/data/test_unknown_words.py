"""Texts of words that no training text has."""

import numpy as np
import pandas as pd
import pytest

from mixfit.data.columns.cells import Table
from mixfit.data.columns.text_features import TextFeatures

CASES = {
    "Red, oak!": False,
    "Red zebra": False,
    "zebra crossing": True,
    "oaks": True,  # known by its n-grams alone
    "...": True,
    ", ! .": True,
    "😀": False,
    "😡": True,
    "红色": False,  # no spaces between words: pairs of characters count
    "猫狗": True,
    "": False,  # is no text
}


@pytest.fixture(scope="module")
def features() -> TextFeatures:
    trained = [
        f"{one} {two}, nice! {sign}" for one in ("red", "oak") for two in ("red", "oak") for sign in ("😀", "红色的")
    ]
    frame = pd.DataFrame({"note": trained * 3, "other": ["plain words"] * 24})
    return TextFeatures.fit(frame, ["note", "other"], np.arange(24.0) / 12 - 1, classes=0)[0]


@pytest.mark.parametrize("text", CASES)
def test_a_text_is_unknown_if_no_whole_word_is_known(features: TextFeatures, text: str) -> None:
    table = Table(pd.DataFrame({"note": [text or None, "red"], "other": ["plain", None]}, dtype="str"))
    assert features.unknown(table).tolist() == [[CASES[text], False], [False, False]]


def test_a_table_without_any_text_has_no_unknown_ones(features: TextFeatures) -> None:
    table = Table(pd.DataFrame({"note": [None, None], "other": [None, None]}, dtype="str"))
    assert not features.unknown(table).any()


def test_a_length_beyond_those_of_training_is_not_extrapolated() -> None:
    trained = pd.DataFrame({"note": [" ".join(["red"] * count) for count in range(4, 9)] * 3})
    features, _ = TextFeatures.fit(trained, ["note"], np.arange(15.0) - 7, classes=0)

    def lengths(*counts: int) -> list[float]:
        return features.apply(pd.DataFrame({"note": ["red " * count for count in counts]}))[0][:, 0, -1].tolist()

    shortest, inside, longest = lengths(4, 6, 8)
    assert shortest < inside < longest
    assert lengths(1, 3, 9, 400) == [shortest, shortest, longest, longest]
    again = TextFeatures.read(features.to_dict(), features.arrays())
    assert again.apply(trained)[0].tobytes() == features.apply(trained)[0].tobytes()
