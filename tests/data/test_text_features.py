"""Words of texts, and the features that are learnt from them."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from mixfit.data import scores
from mixfit.data.columns import text_features
from mixfit.data.columns.cells import Table
from mixfit.data.columns.text_features import COMPONENTS, TextFeatures
from mixfit.data.columns.values import Levels
from mixfit.data.columns.words import MOST_CHARACTERS, Words, to_words
from mixfit.errors import DataError

GOOD, BAD = ["sunny", "quiet", "renovated"], ["dark", "noisy", "damp"]
NEUTRAL = [f"word{number}" for number in range(60)]


def texts_with_truth(rows: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Texts whose good and bad words tell the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=rows)
    texts = []
    for value in truth:
        words = list(rng.choice(NEUTRAL, 12))
        words += [str(rng.choice(GOOD if rng.random() < 1 / (1 + np.exp(-2 * value)) else BAD)) for _ in range(4)]
        texts.append(" ".join(rng.permutation(words)))
    return pd.DataFrame({"notes": texts}), truth.astype(np.float32)


def fit(frame: pd.DataFrame, truth: np.ndarray, **settings: Any) -> tuple[TextFeatures, np.ndarray]:
    return TextFeatures.fit(Table(frame), list(frame), truth, **{"classes": 0, **settings})


def words_of(*texts: str | None) -> Words:
    codes = np.array([-1 if text is None else place for place, text in enumerate(texts)])
    return to_words(Levels(codes, pd.Index([text or "" for text in texts], dtype="str")))


def joined(words: Words, text: int) -> str:
    return " ".join(words.vocabulary[words.tokens[words.starts[text] : words.starts[text + 1]]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Café, 2 beds!", "café , 2 beds !"),
        ("東京都 ラーメン😀😀", "東京都 ラーメン 😀 😀"),
        ("مرحبا بالعالم", "مرحبا بالعالم"),
        ("snake_case e-mail", "snake_case e - mail"),
        ("\ufb01ne \u2460", "fine 1"),  # compatibility characters are the ones that people type
        ("tab\tand\u00a0space\r\nline", "tab and space line"),
        ("", ""),
        ("x" * 1_000_000, ""),  # no word, but data
    ],
)
def test_texts_are_taken_apart_into_words(text: str, expected: str) -> None:
    assert joined(words_of(text), 0) == expected


def test_only_the_start_of_a_very_long_text_is_read() -> None:
    words = words_of("a " * (MOST_CHARACTERS // 2) + "beyond")
    assert words.sizes.tolist() == [MOST_CHARACTERS // 2]
    assert "beyond" not in words.vocabulary


any_texts = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=8)


@settings(deadline=None, max_examples=100)
@given(texts=any_texts)
def test_words_of_a_text_do_not_depend_on_the_others(texts: list[str | None]) -> None:
    every = words_of(*texts)
    for place, text in enumerate(texts):
        if text is not None:
            assert joined(every, place) == joined(words_of(text), 0)


@settings(deadline=None, max_examples=40)
@given(texts=any_texts, rows=st.lists(st.integers(0, 7), max_size=5))
def test_features_are_finite_and_a_row_does_not_depend_on_its_neighbours(
    texts: list[str | None], rows: list[int]
) -> None:
    frame, truth = texts_with_truth(60)
    features, _ = fit(frame, truth)
    known = [*frame["notes"].head(3), *texts]
    values, there = features.apply(pd.DataFrame({"notes": pd.array(known, dtype="str")}))
    assert np.isfinite(values).all()
    assert not values[~there].any()
    chosen = [row % len(known) for row in rows]
    some = [known[row] for row in chosen]
    again, there_again = features.apply(pd.DataFrame({"notes": pd.array(some, dtype="str")}))
    np.testing.assert_allclose(again, values[chosen].reshape(again.shape), rtol=1e-4, atol=1e-5)
    assert (there_again == there[chosen].reshape(there_again.shape)).all()


def test_terms_are_weighed_as_scikit_learn_does() -> None:
    frame, truth = texts_with_truth(80)
    features, _ = fit(frame, truth)
    column = features.columns[0]
    words = Table(frame)["notes"].read_levels(to_words)
    used = np.arange(len(frame))
    counts = text_features._counts(words, used, column)
    found = text_features._weighed(counts, column.rarity, len(column.words) + len(column.pairs)).toarray()
    whole = {"sublinear_tf": True, "min_df": 2, "lowercase": False}
    for terms, reference in (
        ([*column.words, *column.pairs], TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", **whole)),
        (column.grams, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), **whole)),
    ):
        expected = pd.DataFrame(
            reference.fit_transform(frame["notes"]).toarray(), columns=reference.get_feature_names_out()
        )
        assert sorted(expected.columns) == sorted(terms)
        start = 0 if len(terms) == len(column.words) + len(column.pairs) else found.shape[1] - len(terms)
        np.testing.assert_allclose(found[:, start : start + len(terms)], expected[list(terms)], atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_scores_are_those_of_ridge_regressions_and_training_rows_get_scores_without_them(
    monkeypatch: pytest.MonkeyPatch,
    exact: bool,
) -> None:
    if not exact:
        monkeypatch.setattr(scores, "_EXACT_ROWS", 10)
        monkeypatch.setattr(scores, "_TOLERANCE", 1e-9)
    monkeypatch.setattr(scores, "_STRENGTHS", np.array([0.5]))
    frame, truth = texts_with_truth(90)
    weight = np.random.default_rng(1).uniform(0.5, 2, 90)
    features, own = fit(frame, truth, weight=weight)
    column = features.columns[0]
    words = Table(frame)["notes"].read_levels(to_words)
    counts = text_features._counts(words, np.arange(90), column)
    terms = text_features._weighed(counts, column.rarity, len(column.words) + len(column.pairs))
    aims = truth - np.average(truth, weights=weight)
    scaled, dense = weight / weight.mean(), terms.toarray().astype(np.float64)
    whole = Ridge(0.5).fit(dense, aims, scaled)
    np.testing.assert_allclose(features.apply(frame)[0][:, 0, 0], whole.predict(dense), atol=1e-4)
    fold = scores.inner_folds(np.arange(90), 0)
    for number in range(5):
        rows = fold == number
        other = Ridge(0.5).fit(dense[~rows], aims[~rows], scaled[~rows])
        without_mean = other.predict(dense[rows]) - np.average(aims[~rows], weights=scaled[~rows])
        np.testing.assert_allclose(own[rows, 0, 0], without_mean, atol=1e-4)


def test_the_score_finds_what_the_words_tell_also_of_new_rows() -> None:
    frame, truth = texts_with_truth(600)
    features, own = fit(frame.head(400), truth[:400])
    values, _ = features.apply(frame.tail(200))
    assert np.corrcoef(own[:, 0, 0], truth[:400])[0, 1] > 0.6
    assert np.corrcoef(values[:, 0, 0], truth[400:])[0, 1] > 0.6


@pytest.mark.parametrize("classes", [0, 2, 5])
def test_scores_of_training_rows_know_nothing_of_labels_at_random(classes: int) -> None:
    frame, _ = texts_with_truth(400)
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, classes, 400) if classes else rng.normal(size=400).astype(np.float32)
        _, own = fit(frame, truth, classes=classes, seed=seed)
        goal = truth if classes < 3 else truth == 0
        found.append(np.nan_to_num(np.corrcoef(own[:, 0, 0], goal)[0, 1]))
    assert abs(np.mean(found)) < 3.5 / np.sqrt(
        400 * 12
    )  # correlations of n independent rows have an error of n ** -0.5


def test_groups_are_held_out_whole() -> None:
    """Each text is there twice with the same label: a score of its copy would give the label away."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"notes": [" ".join(rng.choice(NEUTRAL, 8)) for _ in range(150)] * 2})
    truth = np.tile(rng.normal(size=150), 2).astype(np.float32)
    _, alone = fit(frame, truth)
    _, whole = fit(frame, truth, unit=np.tile(np.arange(150), 2))
    assert np.corrcoef(alone[:, 0, 0], truth)[0, 1] > 0.5
    assert abs(np.corrcoef(whole[:, 0, 0], truth)[0, 1]) < 0.25


def test_of_many_rows_some_are_learnt_from_and_scores_of_the_others_do_not_know_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame, truth = texts_with_truth(400)
    frame, truth = pd.concat([frame, frame], ignore_index=True), np.tile(truth, 2)
    truth = truth + np.random.default_rng(0).normal(size=800).astype(np.float32) * 0.01
    unit = np.tile(np.arange(400), 2)
    monkeypatch.setattr(scores, "MOST_ROWS", 300)
    fold = scores.inner_folds(unit, 0)
    assert 280 <= (fold >= 0).sum() <= 300
    assert (fold[:400] == fold[400:]).all()
    features, own = fit(frame, truth, unit=unit)
    again, _ = fit(frame[fold >= 0], truth[fold >= 0], unit=unit[fold >= 0])
    assert len(again.columns[0].words) == len(features.columns[0].words)
    rest = fold < 0
    np.testing.assert_allclose(own[rest], features.apply(frame[rest])[0], atol=1e-5)
    assert 0.4 < np.corrcoef(own[rest, 0, 0], truth[rest])[0, 1] < 0.95


def test_texts_in_pieces_have_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, truth = texts_with_truth(90)
    features, _ = fit(frame, truth)
    whole = features.apply(frame)[0]
    monkeypatch.setattr(text_features, "_TEXTS_AT_ONCE", 7)
    np.testing.assert_allclose(features.apply(frame)[0], whole, atol=1e-5)


def test_many_classes_share_a_few_scores() -> None:
    frame, _ = texts_with_truth(300)
    truth = np.random.default_rng(0).integers(0, 40, 300)
    features, own = fit(frame, truth, classes=40)
    assert features.scores == scores.MOST_SCORES
    assert own.shape == (300, 1, features.width)
    assert features.width == scores.MOST_SCORES + COMPONENTS + 1


@pytest.mark.parametrize(
    "texts",
    [
        [None] * 30,
        [""] * 30,
        ["same words"] * 30,
        ["😀", "🙃🙃"] * 15,
        ["a\x01b", "\x00"] * 15,
        ["שלום עולם", "مرحبا"] * 15,
        ["x" * 100_000, "word"] * 15,
        [f"unique{number}" for number in range(30)],
        [None, "one"] + [None] * 28,
    ],
)
def test_strange_columns_give_finite_features(texts: list[str | None]) -> None:
    frame = pd.DataFrame({"notes": pd.array(texts, dtype="str")})
    features, own = fit(frame, np.arange(30, dtype=np.float32) / 10 - 1.5)
    assert np.isfinite(own).all()
    values, _ = features.apply(pd.DataFrame({"notes": ["new words", None, "word same"]}))
    assert values.shape == (3, 1, features.width)
    assert np.isfinite(values).all()


def test_what_was_learnt_is_json_and_arrays() -> None:
    frame, truth = texts_with_truth(100)
    frame["title"] = frame["notes"].str[:20]
    features, _ = fit(frame, truth)
    saved = json.loads(json.dumps(features.to_dict()))
    again = TextFeatures.read(saved, features.arrays())
    assert again.names == ["notes", "title"]
    np.testing.assert_array_equal(again.apply(frame)[0], features.apply(frame)[0])


def damage(kind: str, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    column = state["columns"][0]
    if kind == "a term twice":
        column["words"][1] = column["words"][0]
    elif kind == "a pair that is not two words":
        column["pairs"][0] = "one"
    elif kind == "lacks an array":
        del arrays["0.rarity"]
    elif kind == "do not match its":
        column["words"].pop()
    elif kind == "are not finite":
        arrays["0.projection"] = np.where(np.arange(arrays["0.projection"].shape[1]) == 0, np.nan, 1.0).astype(
            np.float32
        ) * np.ones_like(arrays["0.projection"])
    elif kind == "do not match each other":
        state["columns"].append(column)
        arrays |= {name.replace("0.", "1."): values for name, values in arrays.items()}
    elif kind == "must be at least 0":
        column["std"] = -1.0


@pytest.mark.parametrize(
    "kind",
    [
        "a term twice",
        "a pair that is not two words",
        "lacks an array",
        "do not match its",
        "are not finite",
        "do not match each other",
        "must be at least 0",
    ],
)
def test_a_damaged_state_is_refused(kind: str) -> None:
    frame, truth = texts_with_truth(60)
    features, _ = fit(frame, truth)
    state, arrays = json.loads(json.dumps(features.to_dict())), dict(features.arrays())
    damage(kind, state, arrays)
    with pytest.raises(DataError, match=kind):
        TextFeatures.read(state, arrays)


def test_words_are_read_once_for_a_table() -> None:
    table = Table(texts_with_truth(40)[0])
    assert table["notes"].read_levels(to_words) is table["notes"].read_levels(to_words)
    some = table.select(np.array([3, 5]))["notes"].read_levels(to_words)
    assert some.tokens is table["notes"].read_levels(to_words).tokens
    assert replace(some, codes=some.codes).codes.tolist() == [3, 5]


def test_a_dataframe_is_taken_as_a_table_by_position() -> None:
    frame, truth = texts_with_truth(60)
    features, own = fit(frame, truth)
    same, same_own = TextFeatures.fit(frame.set_axis(range(100, 40, -1)), ["notes"], truth, classes=0)
    np.testing.assert_array_equal(same_own, own)
    np.testing.assert_array_equal(same.apply(frame)[0], features.apply(frame)[0])
