"""What is learnt of embeddings of texts, and that each text is encoded once."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_encoder import GOOD, D, MadeEncoder, described
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from mixfit.data import scores
from mixfit.data.columns import text_features
from mixfit.data.columns.cells import Table
from mixfit.data.columns.embedded import Embedder, EmbedderFacts, embedded
from mixfit.data.columns.text_features import COMPONENTS, TextFeatures
from mixfit.data.columns.words import MOST_CHARACTERS
from mixfit.data.photos.records import Cache
from mixfit.errors import DataError


class Made:
    """An ``Embedder`` that notes what it was asked for."""

    def __init__(self, digest: str = "made") -> None:
        self.facts, self.encoder = EmbedderFacts(source="folder", digest=digest, d=D), MadeEncoder(digest)
        self.made_ready: list[tuple[Cache | None, str]] = []

    def ready(self, cache: Cache | None, device: str) -> "Made":
        self.made_ready.append((cache, device))
        return self

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.encoder.encode(texts)


def fit(frame: pd.DataFrame, truth: np.ndarray, made: Embedder, **settings: Any) -> tuple[TextFeatures, np.ndarray]:
    return TextFeatures.fit(Table(frame), list(frame), truth, **{"classes": 0, "embedder": made, **settings})


def rows_with_truth(rows: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    quality = np.random.default_rng(seed).normal(size=rows)
    return pd.DataFrame({"notes": described(quality, seed)}), quality.astype(np.float32)


def test_a_made_embedder_is_an_embedder() -> None:
    assert isinstance(Made(), Embedder)


def test_each_different_text_is_encoded_once_and_only_when_it_is_asked_for() -> None:
    frame = pd.DataFrame({"notes": ["a", "b", "a", None, "c", "d"]})
    table, made = Table(frame), Made()
    some = embedded(table.select(np.array([2, 0, 1]))["notes"], made)
    np.testing.assert_array_equal(some.of(np.array([0, 2])), made.encoder.encode(["a", "b"]))
    assert made.encoder.read == ["a", "b"] * 2
    made.encoder.read.clear()
    whole = embedded(table["notes"], Made())  # with equal facts: what is known already stays known
    np.testing.assert_array_equal(whole.of(np.array([0, 1, 2, 4])), MadeEncoder("x").encode(["a", "b", "a", "c"]))
    assert made.encoder.read == ["c"]
    other = Made("another")
    embedded(table["notes"], other).of(np.array([0]))
    assert other.encoder.read == ["a"]


def test_only_the_start_of_a_very_long_text_is_encoded() -> None:
    made = Made()
    embedded(Table(pd.DataFrame({"notes": ["x" * 200_000]}))["notes"], made).of(np.array([0]))
    assert [len(text) for text in made.encoder.read] == [MOST_CHARACTERS]


def test_the_parts_of_a_column_keep_their_values_and_order() -> None:
    frame, truth = rows_with_truth(120)
    alone, own_alone = TextFeatures.fit(Table(frame), ["notes"], truth, classes=0)
    features, own = fit(frame, truth, Made())
    assert (alone.width, features.width) == (1 + COMPONENTS + 1, 2 * (1 + COMPONENTS) + 1)
    assert (alone.scores, features.scores) == (1, 2)
    for with_it, without in ((features.apply(frame)[0], alone.apply(frame)[0]), (own, own_alone)):
        assert with_it.shape == (120, 1, features.width)
        np.testing.assert_array_equal(with_it[..., [0, *range(2, 2 + COMPONENTS), -1]], without)
    given = features.columns[0].embedded
    assert given is not None
    values = Made().embed(frame["notes"].tolist()) @ given.projection - given.middle
    np.testing.assert_allclose(features.apply(frame)[0][:, 0, 1], values[:, 0], atol=1e-5)
    np.testing.assert_allclose(features.apply(frame)[0][:, 0, 2 + COMPONENTS : -1], values[:, 1:], atol=1e-4)


@pytest.mark.parametrize("exact", [True, False])
def test_scores_are_those_of_ridge_regressions_on_the_embeddings(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    monkeypatch.setattr(scores, "_STRENGTHS", np.array([0.5]))
    if not exact:
        monkeypatch.setattr(scores, "_EXACT_ROWS", 10)
    frame, truth = rows_with_truth(90)
    weight = np.random.default_rng(1).uniform(0.5, 2, 90)
    features, own = fit(frame, truth, Made(), weight=weight)
    values = Made().embed(frame["notes"].tolist()).astype(np.float64)
    counts = weight / weight.mean()
    whole = Ridge(0.5).fit(values, truth, counts)
    expected = whole.predict(values) - np.average(whole.predict(values), weights=counts)
    np.testing.assert_allclose(features.apply(frame)[0][:, 0, 1], expected, atol=1e-4)
    fold = scores.inner_folds(np.arange(90), 0)
    for number in range(5):
        rows = fold != number
        part = Ridge(0.5).fit(values[rows], truth[rows], counts[rows])
        mean = np.average(part.predict(values[rows]), weights=counts[rows])
        np.testing.assert_allclose(own[~rows, 0, 1], part.predict(values[~rows]) - mean, atol=1e-4)


def test_components_are_the_principal_ones_of_the_training_rows() -> None:
    frame, truth = rows_with_truth(150)
    features, _ = fit(frame, truth, Made())
    found = features.apply(frame)[0][:, 0, 2 + COMPONENTS : -1]
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    assert (found[:, 0] ** 2).mean() == pytest.approx(1, rel=1e-4)
    expected = PCA(3).fit_transform(Made().embed(frame["notes"].tolist()))
    for place in range(3):
        assert abs(np.corrcoef(found[:, place], expected[:, place])[0, 1]) > 0.999
    assert not found[:, D:].any()  # there are no more than numbers of an embedding


def test_a_meaning_is_found_where_each_word_is_rare() -> None:
    train, truth = rows_with_truth(100)
    test, quality = rows_with_truth(300, seed=1)
    values = fit(train, truth, Made())[0].apply(test)[0][:, 0]
    of_terms, of_meanings = (np.corrcoef(values[:, place], quality)[0, 1] for place in (0, 1))
    assert of_meanings > of_terms + 0.1


@pytest.mark.parametrize("classes", [0, 2, 5])
def test_scores_of_training_rows_know_nothing_of_labels_at_random(classes: int) -> None:
    found = []
    for seed in range(12):
        frame, _ = rows_with_truth(100, seed)
        rng = np.random.default_rng(1_000 + seed)
        truth = rng.integers(0, classes, 100) if classes else rng.normal(size=100)
        features, own = fit(frame, truth, Made(), classes=classes)
        ours = features.scores // 2
        goals = scores.goals_of(truth, classes, None)
        found += [np.corrcoef(own[:, 0, ours + place], goals[:, place])[0, 1] for place in range(ours)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found)) + 0.03


def test_many_classes_share_a_few_scores() -> None:
    frame, _ = rows_with_truth(200)
    truth = np.arange(200) % 40
    features, own = fit(frame, truth, Made(), classes=40)
    assert features.scores == 2 * scores.MOST_SCORES
    assert own.shape[2] == features.width == 2 * (scores.MOST_SCORES + COMPONENTS) + 1
    assert np.isfinite(own).all()


@pytest.mark.parametrize("texts", [[None] * 30, ["same words"] * 30, [" ", ""] * 15, ["a", None] * 15, ["."] * 30])
def test_strange_columns_give_finite_features(texts: list[str | None]) -> None:
    frame = pd.DataFrame({"notes": pd.array(texts, dtype="str")})
    features, own = fit(frame, np.arange(30) / 10 - 1.5, Made())
    values, there = features.apply(pd.DataFrame({"notes": [GOOD[0], None, "same words"]}))
    assert values.shape == (3, 1, features.width)
    assert there[:, 0].tolist() == [True, False, True]
    assert not values[1].any()
    assert np.abs(own).max() < 20
    assert np.abs(values).max() < 50


def test_a_table_is_read_by_the_cache_and_device_that_were_given() -> None:
    frame, truth = rows_with_truth(60)
    features, made = *fit(frame, truth, Made())[:1], Made()
    replace(features, embedder=made).use(Table(frame), None, "cuda:1")
    assert made.made_ready == [(None, "cuda:1")]


def saved(columns: int = 2) -> tuple[TextFeatures, dict[str, Any], dict[str, np.ndarray], pd.DataFrame]:
    frame, truth = rows_with_truth(80)
    frame = pd.DataFrame({f"notes{place}": frame["notes"].str[: 60 - 20 * place] for place in range(columns)})
    features, _ = fit(frame, truth, Made())
    return features, json.loads(json.dumps(features.to_dict())), dict(features.arrays()), frame


def test_what_was_learnt_is_json_and_arrays_and_the_encoder_is_found_again() -> None:
    features, state, arrays, frame = saved()
    assert state["embedder"] == {"source": "folder", "digest": "made", "d": D}
    asked: list[EmbedderFacts] = []
    again = TextFeatures.read(state, arrays, lambda facts: (asked.append(facts), Made())[1])
    assert asked == [EmbedderFacts(source="folder", digest="made", d=D)]
    np.testing.assert_array_equal(again.apply(frame)[0], features.apply(frame)[0])
    with pytest.raises(DataError, match="texts have a sentence encoder where there is none"):
        TextFeatures.read(state, arrays)


def _drop(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    del arrays["1.embedded.middle"]


def _narrow(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["0.embedded.projection"] = arrays["0.embedded.projection"][:, :-1].copy()


def _other_d(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    state["embedder"]["d"] = D + 1


def _doubles(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["0.embedded.middle"] = arrays["0.embedded.middle"].astype(np.float64)


def _nan(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["1.embedded.projection"] = np.full_like(arrays["1.embedded.projection"], np.nan)


def _huge(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    state["embedder"]["d"] = 10**9


def _strange(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    state["embedder"]["source"] = "network"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_drop, "'notes1' lacks an array of its embeddings"),
        (_narrow, "'notes0' do not match embeddings of 16 numbers"),
        (_other_d, "'notes0' do not match embeddings of 17 numbers"),
        (_doubles, "'notes0' do not match embeddings of 16 numbers"),
        (_nan, "embeddings of the text column 'notes1' are not finite"),
        (_huge, "embedder.d must be from 1 to 100000"),
        (_strange, "embedder.source must be one of minilm, folder"),
    ],
)
def test_a_damaged_state_is_refused(damage: Any, told: str) -> None:
    _, state, arrays, _ = saved()
    damage(state, arrays)
    with pytest.raises(DataError, match=told):
        TextFeatures.read(state, arrays, lambda facts: Made())


def test_rows_beyond_those_that_are_learnt_from_get_scores_like_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "MOST_ROWS", 70)
    frame, truth = rows_with_truth(110)
    features, own = fit(frame, truth, Made())
    beyond = scores.inner_folds(np.arange(110), 0) < 0
    assert beyond.sum() == 40
    values, _ = features.apply(frame)
    np.testing.assert_allclose(own[beyond], values[beyond], atol=1e-5)
    assert np.abs(own[~beyond, 0, :2] - values[~beyond, 0, :2]).min(axis=0).max() > 0
    fewer, _ = fit(frame[~beyond].reset_index(drop=True), truth[~beyond], Made())
    assert fewer.width == features.width


def test_values_do_not_depend_on_how_many_texts_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, truth = rows_with_truth(60)
    features, _ = fit(frame, truth, Made())
    whole, _ = features.apply(frame)
    monkeypatch.setattr(text_features, "_TEXTS_AT_ONCE", 7)
    np.testing.assert_allclose(features.apply(frame)[0], whole, atol=1e-5)
