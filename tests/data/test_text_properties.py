"""What holds for any texts: of their words, of the features learnt from them, and of leaving words out."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data import scores
from mixfit.data.columns.cells import Table
from mixfit.data.columns.tags import tags_of
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.columns.values import Levels
from mixfit.data.columns.words import to_words
from mixfit.evaluation import word_effects

some = settings(deadline=None, max_examples=25)
words_of_texts = st.lists(st.sampled_from(["red", "vase", "très", "花瓶", "old", "😀", "x1"]), max_size=6)
texts = st.lists(st.none() | words_of_texts.map(" ".join), min_size=12, max_size=20)
rows = st.lists(st.integers(0, 11), max_size=6)
plain_words = st.text(st.characters(categories=["Ll", "Nd"], max_codepoint=0x24F), min_size=1, max_size=5)


def column(cells: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame({"notes": pd.array(cells, dtype="str")})


def fitted(cells: list[str | None], **settings: object) -> tuple[TextFeatures, np.ndarray]:
    truth = np.random.default_rng(0).normal(size=len(cells)).astype(np.float32)
    return TextFeatures.fit(Table(column(cells)), ["notes"], truth, classes=0, **settings)  # type: ignore[arg-type]


def tokens(text: str) -> list[str]:
    found = to_words(Levels(np.array([0]), pd.Index([text], dtype="str")))
    return list(found.vocabulary[found.tokens])


@some
@given(one=words_of_texts, other=words_of_texts)
def test_words_of_two_texts_are_those_of_both_side_by_side(one: list[str], other: list[str]) -> None:
    assert tokens(" ".join([*one, *other])) == tokens(" ".join(one)) + tokens(" ".join(other))


@some
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_words_have_no_blanks_and_are_words_of_themselves(text: str) -> None:
    for word in tokens(text):
        assert word.split() == [word]
        assert tokens(word) == [word]


@some
@given(cells=texts, chosen=rows)
def test_words_of_chosen_rows_are_those_of_the_rows(cells: list[str | None], chosen: list[int]) -> None:
    whole = Table(column(cells))["notes"].read_levels(to_words)
    part = whole.take(np.array(chosen, dtype=np.int64))
    assert part.codes.tolist() == whole.codes[chosen].tolist()
    assert part.sizes.sum() == len(part.tokens)


@some
@given(cells=texts)
def test_equal_texts_have_equal_features_and_missing_ones_none(cells: list[str | None]) -> None:
    features, _ = fitted(cells)
    values, there = features.apply(column([*cells, *cells]))
    np.testing.assert_array_equal(values[: len(cells)], values[len(cells) :])
    assert not values[~there[:, 0]].any()
    assert there[:, 0].tolist() == [bool(cell) for cell in [*cells, *cells]]


@some
@given(cells=texts, factor=st.sampled_from([0.25, 3.0, 1000.0]))
def test_the_unit_of_weights_does_not_matter(cells: list[str | None], factor: float) -> None:
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(cells))
    one, own = fitted(cells, weight=weight)
    other, again = fitted(cells, weight=factor * weight)
    np.testing.assert_allclose(own, again, atol=1e-4)
    np.testing.assert_allclose(one.apply(column(cells))[0], other.apply(column(cells))[0], atol=1e-4)


@some
@given(units=st.lists(st.integers(0, 9), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_inner_folds_keep_units_whole_and_deal_them_evenly(units: list[int], seed: int) -> None:
    unit = np.array(units)
    fold = scores.inner_folds(unit, seed)
    by_unit = {one: set(fold[unit == one].tolist()) for one in set(units)}
    assert all(len(found) == 1 for found in by_unit.values())
    dealt = np.bincount([found.pop() for found in by_unit.values()], minlength=5)
    assert dealt.max() - dealt.min() <= 1


@some
@given(cells=texts)
def test_weighted_terms_of_a_text_have_length_one_or_none(cells: list[str | None]) -> None:
    features, _ = fitted(cells)
    known = features.columns[0]
    words = Table(column(cells))["notes"].read_levels(to_words)
    used = np.unique(words.codes[words.codes >= 0])
    split = len(known.words) + len(known.pairs)
    terms = known._terms(words, used).toarray()
    for part in (terms[:, :split], terms[:, split:]):
        lengths = np.linalg.norm(part, axis=1)
        assert (np.isclose(lengths, 1, atol=1e-5) | (lengths == 0)).all()


@some
@given(cells=texts)
def test_scores_of_one_label_for_all_are_nothing(cells: list[str | None]) -> None:
    frame = column(cells)
    truth = np.full(len(cells), 0.5, dtype=np.float32)
    features, own = TextFeatures.fit(Table(frame), ["notes"], truth, classes=0)
    np.testing.assert_allclose(own[:, 0, 0], 0, atol=1e-5)
    np.testing.assert_allclose(features.apply(frame)[0][:, 0, 0], 0, atol=1e-5)


@some
@given(words=st.lists(plain_words, min_size=1, max_size=8), chosen=st.integers(0, 7))
def test_a_word_that_is_left_out_is_gone_and_the_others_stay_in_order(words: list[str], chosen: int) -> None:
    text = ", ".join(words)
    names, spans = word_effects._words(text)
    word = chosen % len(names)
    rest, _ = word_effects._words(word_effects._without(text, spans, word))
    assert rest == [name for name in names if name != names[word]]


@some
@given(tags=st.lists(plain_words, max_size=8), between=st.sampled_from(["|", ";", ","]))
def test_tags_that_are_joined_are_taken_apart_again(tags: list[str], between: str) -> None:
    assert tags_of(f"{between} ".join(tags), between) == tags  # type: ignore[arg-type]
