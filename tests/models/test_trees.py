"""Boosted trees: what LightGBM predicts, the same bytes, and a text that is read only where it is one of trees."""

import random
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data.load import MixedData
from mixfit.data.split import Times
from mixfit.errors import DataError, ResourceError
from mixfit.models.encoding import EncodedRows
from mixfit.models.model import Layout, TrainingRows
from mixfit.models.trees import BoostedTrees, TreeModel, checked_text, grow_trees, lightgbm, mean_text
from mixfit.training.metrics import poisson_deviance

LEVELS = (40, 255)  # as many as a column of categories may have
SMALL: dict[str, Any] = {
    "num_leaves": 15,
    "min_data_in_leaf": 2,
    "min_data_per_group": 2,
    "cat_smooth": 1,
    "verbosity": -1,
}


def columns_with_levels(rows: int = 300, seed: int = 0, *, missing: float = 0.0) -> np.ndarray:
    """Numbers, one of them mostly 0, and levels, of which the last ones are frequent."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(rows, 4))
    numbers[:, 2] *= rng.random(rows) < 0.3
    numbers[rng.random((rows, 4)) < missing] = np.nan
    return np.concatenate([numbers, *(np.ceil(count * rng.random((rows, 1)) ** 0.3) - 1 for count in LEVELS)], axis=1)


def truth_of(columns: np.ndarray, classes: int) -> np.ndarray:
    score = np.nan_to_num(columns[:, 0], nan=1.0) + np.nan_to_num(columns[:, 2], nan=-2.0)
    score += np.isin(columns[:, 4], [3, 9, 33, 37, 39]) - (columns[:, 5] % 2)
    if not classes:
        return score
    return np.digitize(score, np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1]))


def strange_columns(seed: int) -> np.ndarray:
    """New rows with what no training row has."""
    columns, rng = columns_with_levels(600, seed + 1000, missing=0.1), np.random.default_rng(seed)
    columns[::5, 4], columns[1::5, 4] = -1, 10_000
    columns[::3, 5] = rng.choice([-7.0, 256.0, 300.0, np.nan], len(columns[::3]))
    columns[::4, :4] = rng.choice([0.0, -0.0, 1e300, -1e300, np.inf, -np.inf, 1e-36], (len(columns[::4]), 4))
    return columns


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 999),
    classes=st.sampled_from([0, 2, 4]),
    missing=st.sampled_from([0.0, 0.1]),
    use_missing=st.booleans(),
)
def test_predictions_are_those_of_lightgbm(seed: int, classes: int, missing: float, use_missing: bool) -> None:
    columns = columns_with_levels(900, seed, missing=missing)
    task = {0: {"objective": "regression"}, 2: {"objective": "binary"}}.get(
        classes, {"objective": "multiclass", "num_class": classes}
    )
    chosen = SMALL | task | {"use_missing": use_missing}
    library = lightgbm()
    data = library.Dataset(columns, truth_of(columns, classes), categorical_feature=[4, 5], params=chosen)
    booster = library.train(chosen, data, 5)
    text = booster.model_to_string().encode()
    assert b"cat_threshold" in text
    model = TreeModel.of(text, np.arange(classes), columns=6, classes=classes)
    for new in (columns, strange_columns(seed)):
        expected, found = np.asarray(booster.predict(new)), model.predict(new)
        np.testing.assert_allclose(found[:, 1] if classes == 2 else found, expected, rtol=1e-9, atol=1e-12)
    again = TreeModel.read(model.arrays(), columns=6, classes=classes)
    assert again.text == model.text
    np.testing.assert_array_equal(again.predict(new), model.predict(new))


@pytest.mark.parametrize("other", [{"zero_as_missing": True}, {"linear_tree": True}])
def test_trees_that_mean_something_else_are_refused(other: dict[str, Any]) -> None:
    columns, library = columns_with_levels(), lightgbm()
    chosen = SMALL | {"objective": "regression"} | other
    booster = library.train(chosen, library.Dataset(columns, truth_of(columns, 0), params=chosen), 3)
    with pytest.raises(DataError, match=r"an unknown type of split|a tree of the text is invalid"):
        checked_text(booster.model_to_string().encode(), columns=6, outputs=1)


@pytest.mark.parametrize("classes", [0, 2, 4])
def test_new_rows_are_predicted_well_and_permuted_labels_teach_nothing(classes: int) -> None:
    columns, new = columns_with_levels(600), columns_with_levels(600, seed=1)
    truth, expected = truth_of(columns, classes), truth_of(new, classes)
    permuted = np.random.default_rng(2).permutation(truth)
    losses = []
    for labels in (truth, permuted):
        found = grow_trees(columns, labels, levels=LEVELS, classes=classes, rounds=40).predict(new)
        losses.append(-np.log(found[np.arange(600), expected]).mean() if classes else ((found - expected) ** 2).mean())
    chance = np.log(classes) if classes else expected.var()
    assert losses[0] < 0.75 * chance
    assert losses[1] > 0.97 * chance


@pytest.mark.parametrize("classes", [0, 2, 4])
def test_the_mean_of_trees_is_that_of_their_sums(classes: int) -> None:
    columns = columns_with_levels()
    truth, outputs = truth_of(columns, classes), classes if classes > 2 else 1
    several = [grow_trees(columns, truth, levels=LEVELS, classes=classes, rounds=rounds) for rounds in (2, 5, 9)]
    text = mean_text([one.text for one in several], columns=6, outputs=outputs)
    found = TreeModel.of(text, np.arange(classes), columns=6, classes=classes)
    sums = [one.booster.predict(columns, raw_score=True) for one in several]
    np.testing.assert_allclose(found.booster.predict(columns, raw_score=True), np.mean(sums, axis=0), atol=1e-9)


def test_the_same_bytes_again_and_with_two_threads() -> None:
    columns, before = columns_with_levels(6000), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            model = grow_trees(columns, truth_of(columns, 0), levels=LEVELS, classes=0, rounds=20, seed=3)
            found.append((model.text, model.predict(columns).tobytes()))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@settings(deadline=None, max_examples=8)
@given(st.sets(st.integers(0, 4), min_size=1, max_size=3))
def test_classes_that_no_row_has_are_improbable_but_there(known: set[int]) -> None:
    columns = columns_with_levels()
    truth = np.array(sorted(known))[truth_of(columns, len(known)) if len(known) > 1 else np.zeros(300, np.int64)]
    model = grow_trees(columns, truth, levels=LEVELS, classes=5, rounds=30)
    found = model.predict(columns)
    assert found.shape == (300, 5)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[:, [number for number in range(5) if number not in known]].max() < 1e-6
    assert (found.argmax(axis=1) == truth).mean() > 0.8
    assert model.predict(columns[:0]).shape == (0, 5)


def test_rows_count_by_their_weight_whatever_its_unit() -> None:
    rng = np.random.default_rng(0)
    columns, truth, weight = np.zeros((200, 1)), rng.normal(size=200), rng.random(200).astype(np.float32)
    alike = grow_trees(columns, truth, levels=(), classes=0, weight=weight, rounds=5).predict(columns)
    np.testing.assert_allclose(alike, np.average(truth, weights=weight), rtol=1e-5)
    columns = columns_with_levels(200)
    weighted, scaled, equal = (
        grow_trees(columns, truth, levels=LEVELS, classes=0, weight=counts, rounds=20).predict(columns)
        for counts in (weight, 1024 * weight, None)
    )
    np.testing.assert_allclose(scaled, weighted, rtol=1e-5)
    assert np.abs(equal - weighted).max() > 0.1


def test_columns_of_many_levels_are_taken_as_numbers() -> None:
    rng = np.random.default_rng(0)
    columns = np.stack([rng.integers(0, 400, 500), rng.integers(1, 5, 500)], axis=1).astype(np.float64)
    model = grow_trees(columns, columns[:, 0] / 400, levels=(401, 9), classes=0, rounds=50)
    assert np.corrcoef(model.predict(columns), columns[:, 0])[0, 1] > 0.99
    assert b"cat_threshold" not in model.text
    assert np.isfinite(model.predict(np.array([[200.0, 8.0], [200.0, 0.0]]))).all()


@settings(deadline=None)
@given(rows=st.integers(1, 12))
def test_too_few_rows_for_a_split_are_one_leaf(rows: int) -> None:
    columns = columns_with_levels(rows)
    found = grow_trees(columns, np.arange(rows, dtype=np.float64), levels=LEVELS, classes=0, rounds=3)
    np.testing.assert_allclose(found.predict(columns_with_levels()), (rows - 1) / 2, atol=1e-6)


def a_model(classes: int = 0) -> TreeModel:
    columns = columns_with_levels()
    return grow_trees(columns, truth_of(columns, classes), levels=LEVELS, classes=classes, rounds=6)


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("left_child", "1 1", "a node has two parents, is in a cycle, or is missing"),
        ("right_child", "0 0", "a node has two parents, is in a cycle, or is missing"),
        ("left_child", "-9 1000000", "a node has two parents, is in a cycle, or is missing"),
        ("split_feature", "99 0", "use a column that does not exist"),
        ("split_feature", "-1 0", "use a column that does not exist"),
        ("threshold", "nan 0", "a tree of the text is invalid"),
        ("leaf_value", "0 inf", "a tree of the text is invalid"),
        ("leaf_value", "0", "a tree of the text is invalid"),
        ("decision_type", "255 0", "an unknown type of split"),
        ("decision_type", "1 1", "split by categories that do not exist"),
        ("num_cat", "2", "split by categories that do not exist"),
        ("num_leaves", "1000000000", "a tree of the text is invalid"),
        ("num_leaves", "x", "the text of the trees is damaged"),
    ],
)
def test_damaged_trees_are_refused(name: str, values: str, text: str) -> None:
    said = a_model().text.decode()

    def damaged(found: re.Match[str]) -> str:
        given, old = values.split(), found[2].split()
        return f"{found[1]}={' '.join(given + old[len(given) :] if len(given) > 1 else given)}"

    changed = re.sub(rf"^({name})=(.*)$", damaged, said, count=1, flags=re.MULTILINE)
    assert changed != said
    with pytest.raises(DataError, match=text):
        TreeModel.of(changed.encode(), np.zeros(0, np.int64), columns=6, classes=0)


def test_trees_that_share_nodes_are_refused() -> None:
    """Each walk would go through the last node of 40 diamonds 2**40 times."""
    inner = 40
    below = " ".join(str(number) for number in [*range(1, inner), -1])
    lines = [f"num_leaves={inner + 1}", "num_cat=0", f"left_child={below}", f"right_child={below}"]
    lines += [f"{name}={' '.join(['0'] * inner)}" for name in ("split_feature", "threshold", "decision_type")]
    lines += [f"leaf_value={' '.join(['0'] * (inner + 1))}", "is_linear=0", "shrinkage=1"]
    with pytest.raises(DataError, match="a node has two parents"):
        checked_text("\n".join(["Tree=0", *lines, "end of trees"]).encode(), columns=1, outputs=1)


@settings(deadline=None, max_examples=60)
@given(rng=st.randoms(use_true_random=False), classes=st.sampled_from([0, 4]))
def test_a_text_with_other_bytes_is_refused_or_predicts_finite_numbers(rng: random.Random, classes: int) -> None:
    text = bytearray(MODELS[classes].text)
    for _ in range(rng.randint(1, 4)):
        place, length = rng.randrange(len(text)), rng.choice([1, 1, 5, 200])
        text[place : place + length] = rng.choice([b"", b"9", b"-", b"1e308 ", b"\n", b"Tree=1\n", bytes(text[:300])])
    try:
        model = TreeModel.of(bytes(text), np.arange(classes), columns=6, classes=classes)
    except DataError:
        return
    assert model.predict(strange_columns(0)).shape[0] == 600


MODELS = {classes: a_model(classes) for classes in (0, 4)}


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"classes": np.array([0, 0])}, "the classes of the trees do not match the target"),
        ({"classes": np.array([0, 9])}, "'classes' has values out of range"),
        ({"classes": np.zeros(0, np.int64)}, "the classes of the trees do not match the target"),
        ({"text": np.zeros(0, np.uint8)}, "the text of the trees is damaged"),
        ({"text": np.zeros(5)}, "the tensor 'text' has the type float64 instead of uint8"),
    ],
)
def test_other_arrays_are_refused(arrays: dict[str, np.ndarray], text: str) -> None:
    with pytest.raises(DataError, match=text):
        TreeModel.read(MODELS[4].arrays() | arrays, columns=6, classes=4)


def test_without_the_library_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ResourceError, match=r"cannot be loaded \(.*\): install the system's OpenMP library \(apt-get"):
        grow_trees(np.zeros((3, 1)), np.zeros(3), levels=(), classes=0)


MANY = 400


def rows_with_many_levels(
    rows: int = 700, seed: int = 0, *, classes: int = 0, times: bool = False
) -> tuple[TrainingRows, np.ndarray]:
    """Two numbers, a category of few levels, one of many, and a prefix; the target depends on all but the prefix."""
    rng = np.random.default_rng(seed)
    effects = np.random.default_rng(99).normal(size=MANY)
    numbers = rng.normal(size=(rows, 2)).astype(np.float32)
    levels = np.stack([rng.integers(0, 4, rows), rng.integers(0, MANY, rows)], axis=1)
    truth = numbers[:, 0] + 2 * effects[levels[:, 1]] + (levels[:, 0] == 2)
    if classes:
        truth = np.digitize(truth, np.quantile(truth, np.linspace(0, 1, classes + 1)[1:-1]))
    encoded = EncodedRows(
        numeric=numbers,
        categorical=levels,
        prefixes=levels[:, 1:] // 20,
        photos=None,
        seen=np.zeros(rows, dtype=bool),
    )
    layout = Layout(
        numeric=2, cardinalities=(4, MANY, 20), categories=2, features=None, image_columns=0, classes=classes
    )
    found = TrainingRows(
        encoded=encoded,
        layout=layout,
        unit=np.arange(rows),
        data=object.__new__(MixedData),  # only for networks
        times=Times(np.arange(float(rows)), dates=False) if times else None,
    )
    return found, truth


def loss_of(found: np.ndarray, truth: np.ndarray) -> float:
    if found.ndim == 2:
        return float(-np.log(found[np.arange(len(truth)), truth]).mean())
    return float(((found - truth) ** 2).mean())


@pytest.mark.parametrize(("classes", "times"), [(0, False), (2, False), (3, False), (0, True)])
def test_many_levels_help_and_permuted_labels_teach_nothing(classes: int, times: bool) -> None:
    rows, truth = rows_with_many_levels(1500, classes=classes, times=times)
    new, expected = rows_with_many_levels(1000, seed=1, classes=classes)
    fitted = BoostedTrees().fit(rows, truth, None, 0)
    chance = np.log(classes) if classes else expected.var()
    assert loss_of(fitted.predict(new), expected) < 0.6 * chance
    shuffled = np.random.default_rng(2).permutation(truth)
    assert loss_of(BoostedTrees().fit(rows, shuffled, None, 0).predict(new), expected) > 0.97 * chance


@pytest.mark.parametrize("classes", [0, 3])
def test_saved_trees_predict_the_same_from_arrays(classes: int) -> None:
    rows, truth = rows_with_many_levels(classes=classes)
    fitted = BoostedTrees().fit(rows, truth, np.linspace(0.5, 2, len(truth)).astype(np.float32), 0)
    arrays, config = fitted.state()
    again = BoostedTrees().load(arrays, config, rows.layout)
    new, _ = rows_with_many_levels(seed=3)
    new.encoded.categorical[::3, 1] = 0  # missing or unseen
    np.testing.assert_array_equal(again.predict(new), fitted.predict(new))
    assert np.isfinite(again.predict(new)).all()
    with pytest.raises(DataError, match=r"'statistics\.0' has the shape"):
        BoostedTrees().load(arrays, config, replace(rows.layout, cardinalities=(4, MANY + 1, 20)))


def test_trees_saved_without_statistics_are_still_read() -> None:
    rows, truth = rows_with_many_levels()
    encoded = rows.encoded
    columns = np.concatenate([encoded.numeric, encoded.categorical], axis=1).astype(np.float64)
    model = grow_trees(columns, truth, levels=(4, MANY), classes=0)
    again = BoostedTrees().load(model.arrays(), {}, rows.layout)
    np.testing.assert_array_equal(again.predict(rows), model.predict(columns))


def test_settings_are_chosen_the_same_with_two_threads() -> None:
    rows, truth = rows_with_many_levels(200)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            arrays, _ = BoostedTrees().fit(rows, truth, None, 5).state()
            found.append({name: values.tobytes() for name, values in arrays.items()})
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_noise_stops_early_and_a_smooth_effect_does_not() -> None:
    rng = np.random.default_rng(0)
    rows, _ = rows_with_many_levels(600)
    smooth = rows.encoded.numeric.sum(axis=1)
    trees = []
    for truth in (rng.normal(size=600), smooth):
        arrays, _ = BoostedTrees().fit(rows, truth, None, 0).state()
        trees.append(arrays["text"].tobytes().count(b"Tree="))
    assert trees[0] < 40 < trees[1]


@pytest.mark.parametrize("rows", [1, 2, 5, 12])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_few_rows_are_fitted(rows: int, classes: int) -> None:
    found, _ = rows_with_many_levels(rows, classes=classes)
    truth = np.arange(rows) % classes if classes else np.arange(float(rows))
    predictions = BoostedTrees().fit(found, truth, None, 0).predict(found)
    assert np.isfinite(predictions).all()


def test_rows_of_weight_zero_are_ignored() -> None:
    rows, _ = rows_with_many_levels(60, classes=2)
    truth, weight = np.zeros(60, np.int64), np.zeros(60, np.float32)
    truth[7], weight[5:9] = 1, 1.0
    found = BoostedTrees().fit(rows, truth, weight, 0).predict(rows)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found[:, 1], 0.25, atol=0.1)


def test_counts_of_many_levels_are_predicted_as_logarithms() -> None:
    rows, score = rows_with_many_levels(1500)
    new, expected = rows_with_many_levels(1000, seed=1)
    rng = np.random.default_rng(0)
    truth = rng.poisson(np.exp(score / 3)) / 2.0
    rows = replace(rows, layout=replace(rows.layout, counts=True))
    fitted = BoostedTrees().fit(rows, truth, None, 0)
    found = fitted.predict(new)
    constant = np.full(1000, np.log(truth.mean()))
    deviance = [poisson_deviance(np.exp(expected / 3) / 2, one).mean() for one in (found, constant)]
    assert deviance[0] < 0.6 * deviance[1]
    np.testing.assert_array_equal(BoostedTrees().load(*fitted.state(), rows.layout).predict(new), found)


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 999), classes=st.sampled_from([0, 2, 4]), missing=st.sampled_from([0.0, 0.1]), use=st.booleans()
)
def test_few_rows_have_the_bits_of_lightgbm(seed: int, classes: int, missing: float, use: bool) -> None:
    columns, library = columns_with_levels(500, seed, missing=missing), lightgbm()
    task = {0: {"objective": "regression"}, 2: {"objective": "binary"}}.get(
        classes, {"objective": "multiclass", "num_class": classes}
    )
    chosen = SMALL | task | {"use_missing": use}
    data = library.Dataset(columns, truth_of(columns, classes), categorical_feature=[4, 5], params=chosen)
    text = library.train(chosen, data, 8).model_to_string().encode()
    model = TreeModel.of(text, np.arange(classes), columns=6, classes=classes)
    for new in (columns, strange_columns(seed)):
        np.testing.assert_array_equal(model.walk.sums(new), np.asarray(model.booster.predict(new, raw_score=True)))
        np.testing.assert_array_equal(model.predict(new[:5]), model.predict(new)[:5])


def test_few_rows_do_not_import_lightgbm() -> None:
    code = (
        "import sys, numpy as np; from mixfit.models.trees import TreeModel; text = open(0).read().encode();"
        "model = TreeModel.of(text, np.zeros(0, np.int64), columns=6, classes=0);"
        "print(model.predict(np.zeros((2, 6))).shape, 'lightgbm' in sys.modules)"
    )
    model = grow_trees(np.random.default_rng(0).normal(size=(60, 6)), np.arange(60.0), levels=(), classes=0, rounds=3)
    found = subprocess.run([sys.executable, "-c", code], input=model.text.decode(), capture_output=True, text=True)
    assert found.stdout.strip() == "(2,) False"


def test_a_split_of_missing_values_from_all_others_is_kept() -> None:
    """LightGBM writes an infinite threshold for it."""
    x = np.array([[np.nan] if row % 2 else [row / 100] for row in range(200)])
    data = lightgbm().Dataset(x, np.arange(200) % 2 * 1.0, params=SMALL)
    text = lightgbm().train(SMALL | {"objective": "regression"}, data, 4).model_to_string()
    assert "threshold=inf" in text
    model = TreeModel.of(text.encode(), np.zeros(0, np.int64), columns=1, classes=0)
    rows = np.array([[np.nan], [0.3], [-1e300], [1e308]])
    assert model.predict(rows)[0] > 0.5 > model.predict(rows)[1:].max()
    np.testing.assert_array_equal(model.predict(rows), model.predict(np.tile(rows, (20, 1)))[:4])
    for harm in ("-inf", "nan"):
        with pytest.raises(DataError, match="a tree of the text is invalid"):
            TreeModel.of(
                text.replace("threshold=inf", f"threshold={harm}").encode(), np.zeros(0, np.int64), columns=1, classes=0
            )
