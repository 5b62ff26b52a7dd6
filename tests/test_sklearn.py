"""The estimators beside scikit-learn itself: its own checks, its tools around them, frames of other libraries."""

import pickle
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from small_runs import in_few_folds

from mixfit import DataConfig, ModelConfig, TrainConfig
from mixfit.sklearn import MixedClassifier, MixedRegressor, MixedTransformer, _class_names

SMALL: dict[str, Any] = {
    "preset": "network",
    "model": ModelConfig(tabular="mlp", numbers="plain", tabular_hidden=(16,), encoding_dim=8),
}
QUICKEST: dict[str, Any] = SMALL | {"preset": "quick", "train": TrainConfig(epochs=1)}
LEARNS = TrainConfig(epochs=4, lr=0.02)
TOO_FEW = "the check fits on 9 rows of which some have weight 0; 10 are needed"


def regressor(epochs: int = 2, **given: Any) -> MixedRegressor:
    return MixedRegressor(**SMALL | {"train": TrainConfig(epochs=epochs)} | given)


def classifier(epochs: int = 2, **given: Any) -> MixedClassifier:
    return MixedClassifier(**SMALL | {"train": TrainConfig(epochs=epochs)} | given)


def expected_failures(estimator: Any) -> dict[str, str]:
    return {
        "check_sample_weight_equivalence_on_dense_data": TOO_FEW,
        "check_do_not_raise_errors_in_init_or_set_params": "beartype checks the types of arguments in tests",
    }


def checks() -> Iterator[Any]:
    """All of both; long are those of the classifier that are of estimators of any kind, whose code is the same, and
    those on other arrays in memory, of which data frames are made first."""
    for estimator in (regressor(train=LEARNS), classifier(train=LEARNS)):
        failures = expected_failures(estimator)
        for case in estimator_checks_generator(estimator, expected_failed_checks=failures, mark="xfail"):
            values, marks = (case.values, case.marks) if hasattr(case, "values") else (case, ())
            check = values[1]
            name, settings = getattr(check, "func", check).__name__, getattr(check, "keywords", {})
            shared = isinstance(estimator, MixedClassifier) and "classif" not in name
            if shared or "readonly_memmap" in settings:
                marks = (*marks, pytest.mark.long)
            yield pytest.param(*values, marks=marks, id=f"{type(estimator).__name__}-{name}-{settings}")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def rows(count: int = 90, *, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Numbers, a category and a date, and a number that depends on them."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "area": rng.normal(100, 20, count).round(1),
            "rooms": rng.integers(1, 6, count),
            "place": rng.choice(["north", "south", "west"], count),
            "sold": pd.Timestamp("2025-01-01") + pd.to_timedelta(rng.integers(0, 400, count), unit="D"),
        }
    )
    frame.loc[::17, "area"] = np.nan
    return frame, frame["area"].fillna(100).to_numpy() * 2 + 30 * (frame["place"] == "west") + rng.normal(0, 5, count)


def test_frames_of_other_libraries_are_read_as_pandas_frames_are() -> None:
    frame, target = rows()
    expected = regressor().fit(frame, target).predict(frame)
    for other in (pl.from_pandas(frame), pl.from_pandas(frame).lazy()):
        found = regressor().fit(other, pl.Series(target) if isinstance(other, pl.DataFrame) else target)
        assert found.feature_names_in_.tolist() == frame.columns.tolist()
        np.testing.assert_array_equal(found.predict(other), expected)
    shuffled = frame.set_index(np.random.default_rng(1).permutation(len(frame)))
    np.testing.assert_array_equal(regressor().fit(shuffled, target).predict(shuffled), expected)


def test_columns_of_another_name_are_refused_and_without_names_are_taken_by_place() -> None:
    frame, target = rows()
    found = regressor().fit(frame, target)
    with pytest.raises(ValueError, match="feature names should match"):
        found.predict(frame.rename(columns={"area": "surface"}))
    with pytest.raises(ValueError, match="1 column names of X occur more than once, such as 'area'"):
        found.predict(frame.set_axis(["area", "area", "place", "sold"], axis=1))
    expected = found.predict(frame)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        np.testing.assert_array_equal(found.predict(frame.to_numpy()), expected)
    numbered = regressor().fit(frame.set_axis(range(4), axis=1), target)
    np.testing.assert_array_equal(numbered.predict(frame.to_numpy()), expected)
    with pytest.warns(UserWarning, match="X has feature names, but MixedRegressor was fitted without"):
        np.testing.assert_array_equal(numbered.predict(frame), expected)


def test_the_tools_of_scikit_learn_take_them() -> None:
    frame, target = rows()
    classes = np.where(target > np.median(target), "dear", "cheap")
    scaled = make_pipeline(StandardScaler(), regressor()).fit(frame[["area", "rooms"]].fillna(100), target)
    assert scaled.predict(frame[["area", "rooms"]].fillna(100)).shape == (90,)
    parts = ColumnTransformer([("numbers", "passthrough", ["area", "rooms"]), ("place", "passthrough", ["place"])])
    assert np.isfinite(make_pipeline(parts, regressor()).fit(frame, target).predict(frame)).all()
    groups = np.arange(90) // 3
    assert np.isfinite(cross_val_score(classifier(), frame, classes, groups=groups, cv=GroupKFold(2))).all()
    searched = GridSearchCV(regressor(), {"train__epochs": [1, 12]}, cv=2)
    assert searched.fit(frame, target).best_params_ == {"train__epochs": 12}
    assert searched.best_estimator_.train.epochs == 12
    important = permutation_importance(regressor(epochs=15).fit(frame, target), frame, target, n_repeats=2)
    assert important.importances_mean[0] == max(important.importances_mean)  # the area
    calibrated = CalibratedClassifierCV(classifier(), cv=2).fit(frame, classes)
    np.testing.assert_allclose(calibrated.predict_proba(frame).sum(axis=1), 1)


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8)) for _ in range(count)]


def test_photos_may_be_paths_bytes_or_pil_images(tmp_path: Path) -> None:
    frame, target = rows(24)
    images, contents = pictures(24), list[bytes]()
    for number, one in enumerate(images):
        one.save(tmp_path / f"{number}.png")
        contents.append((tmp_path / f"{number}.png").read_bytes())
    cells: dict[str, Any] = {
        "paths": [f"{number}.png" for number in range(24)],
        "bytes": contents,
        "images": images,
        "lists": [[one] for one in images],
    }
    small = {"image_size": 32, "roles": {"photo": "image"}, "data": DataConfig(cache_gb=0.0)}
    found = {}
    for name, column in cells.items():
        with_photo = frame.assign(photo=pd.Series(column, dtype=object).where(np.arange(24) % 7 > 0, None))
        model = replace(SMALL["model"], backbone="small_resnet")
        estimator = regressor(epochs=1, model=model, images=tmp_path if name == "paths" else None, **small)
        found[name] = estimator.fit(with_photo, target).predict(with_photo)
        assert not np.array_equal(estimator.predict(with_photo.assign(photo=None)), found[name])
    np.testing.assert_array_equal(found["bytes"], found["paths"])
    np.testing.assert_array_equal(found["images"], found["paths"])
    np.testing.assert_array_equal(found["lists"], found["paths"])


def test_a_pickle_holds_the_model_folder_and_predicts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    in_few_folds(monkeypatch)
    frame, target = rows()
    for estimator in (MixedRegressor(**QUICKEST).fit(frame, target), regressor()):
        content = pickle.dumps(estimator)
        again = pickle.loads(content)
        assert again.get_params() == estimator.get_params()
        if estimator.__sklearn_is_fitted__():
            assert b"torch" not in content.replace(b"torch_", b"")[:2000]
            np.testing.assert_array_equal(again.predict(frame), estimator.predict(frame))
            np.testing.assert_array_equal(again.predict_interval(frame), estimator.predict_interval(frame))


def test_intervals_and_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    in_few_folds(monkeypatch)
    frame, target = rows(100)
    estimator = MixedRegressor(**QUICKEST).fit(frame, target)
    narrow, wide = (estimator.predict_interval(frame, level) for level in (0.5, 0.9))
    assert wide.shape == (100, 2)
    assert (wide[:, 0] <= narrow[:, 0]).all()
    assert (narrow[:, 1] <= wide[:, 1]).all()
    assert np.mean((wide[:, 0] <= target) & (target <= wide[:, 1])) > 0.8
    with pytest.raises(ValueError, match="interval"):
        estimator.predict_interval(frame, 1.5)
    classes = np.digitize(target, np.quantile(target, [0.3, 0.6])) * 10
    chosen = MixedClassifier(**QUICKEST).fit(frame, classes)
    sets = chosen.predict_set(frame, 0.9)
    assert sets.shape == (100, 3)
    assert np.mean(sets[np.arange(100), classes // 10]) > 0.8


@pytest.mark.parametrize(
    "labels",
    [[3, 1, 12], [True, False], ["nan", "NA", ""], ["b", "a", "B"], ["ö", "1", "01"], [1.0, 0.0], ["x" * 200, "y"]],
)
def test_classes_of_any_kind_come_back_as_they_were(labels: list[Any]) -> None:
    frame, _ = rows(60)
    truth = np.array(labels)[np.arange(60) % len(labels)]
    frame["hint"] = pd.Series(truth).map({label: place for place, label in enumerate(labels)}) * 1.0
    frame["hint"] += np.random.default_rng(0).normal(0, 0.1, 60)
    estimator = classifier(train=TrainConfig(epochs=12, lr=0.03)).fit(frame, truth)
    assert estimator.classes_.tolist() == sorted(set(labels))
    found = estimator.predict(frame)
    assert found.dtype == truth.dtype
    assert np.mean(found == truth) > 0.9
    np.testing.assert_allclose(estimator.predict_proba(frame).sum(axis=1), 1, atol=1e-6)


def test_plain_classes_keep_their_names() -> None:
    assert _class_names(np.array(["cat", "dog"])) == ["cat", "dog"]
    assert len(set(_class_names(np.arange(12)))) == 12


def test_rows_of_weight_zero_are_left_out() -> None:
    frame, target = rows(100)
    weight = np.ones(100)
    weight[:10] = 0
    spoilt = target.copy()
    spoilt[:10] = 1e6
    found = regressor(epochs=3).fit(frame, spoilt, sample_weight=weight).predict(frame)
    assert found.max() < 1e4


def test_groups_are_never_torn() -> None:
    """What is the same in all rows of a group but says nothing of others is of no use then."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 4)
    marks = rng.normal(size=(30, 6))[groups] + rng.normal(0, 0.01, (120, 6))
    frame = pd.DataFrame(marks, columns=list("abcdef"))
    target = rng.normal(size=30)[groups]
    fits = {}
    for name, given in {"torn": None, "whole": groups}.items():
        found = MixedRegressor(**QUICKEST).fit(frame, target, groups=given)
        fits[name] = found.result_.scores["valid"][found.result_.ours]["r2"]
    assert fits["torn"] > 0.8
    assert fits["whole"] < 0.3


def test_what_cannot_be_used_is_one_sentence() -> None:
    frame, target = rows()
    for wrong, sentence in {
        "sample_weight": "sample_weight has 3 values, but X has 90",
        "groups": "groups has 3",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            regressor().fit(frame, target, **{wrong: np.ones(3)})
    with pytest.raises(ValueError, match="X has 90 rows and y 4"):
        regressor().fit(frame, target[:4])
    with pytest.raises(ValueError, match="in 2 rows, first in row 5"):
        regressor().fit(frame, np.where(np.isin(np.arange(90), [5, 9]), np.inf, target))
    with pytest.raises(ValueError, match="one class only, 'a'"):
        classifier().fit(frame, ["a"] * 90)
    with pytest.raises(ValueError, match="n_samples = 4: at least 10"):
        regressor().fit(frame[:4], target[:4])


def test_settings_are_parameters() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = clone(regressor(roles={"a": "text"}, out=Path("runs")))
    assert copied.get_params()["roles"] == {"a": "text"}
    assert copied.set_params(preset="best").preset == "best"
    before = copied.train
    copied.set_params(train__epochs=7, train__lr=0.1, data__image_size=64)
    assert (copied.train.epochs, copied.train.lr, copied.train.preset) == (7, 0.1, before.preset)
    assert (before.epochs, copied.data.image_size, copied.get_params()["data__image_size"]) == (2, 64, 64)
    assert copied.get_params(deep=False).keys() == regressor().get_params(deep=False).keys()
    assert clone(copied).train == copied.train
    with pytest.raises(ValueError, match=r"train has no setting 'epoch': it has preset, "):
        copied.set_params(train__epoch=7)
    with pytest.raises(ValueError, match="Invalid parameter 'nothing'"):
        copied.set_params(nothing=1)
    with pytest.raises(ValueError, match="epochs must be"):
        copied.set_params(train__epochs=-1)


def test_the_run_folder_may_be_kept(tmp_path: Path) -> None:
    frame, target = rows()
    regressor(out=tmp_path).fit(frame, target)
    (run,) = tmp_path.iterdir()
    assert (run / "report.html").is_file()
    assert (run / "report.html").read_text(encoding="utf-8")[:15] == "<!doctype html>"


def test_a_threshold_of_the_metric_decides() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(160, 3))
    y = np.where(x[:, 0] + random.normal(0, 0.8, 160) > 1.1, "b", "a")
    model = classifier(metric="f1").fit(x, y)
    threshold = model.predictor_.threshold
    assert threshold is not None
    assert (model.predict(x) == np.where(model.predict_proba(x)[:, 1] > threshold, "b", "a")).all()


NOTES = ["a bright red vase", "red, slightly cracked", "tall blue vase with a lid", "blue and cracked", "bright", ""]


def shown(count: int = 48) -> pd.DataFrame:
    """Photos as bright as they are, and notes."""
    rng = np.random.default_rng(5)
    tone = rng.integers(0, 200, count)
    photos: list[Any] = [
        Image.fromarray((rng.integers(0, 55, (32, 32, 3)) + one).astype(np.uint8)) for one in tone.tolist()
    ]
    photos[-1] = None
    return pd.DataFrame({"photo": photos, "note": [NOTES[one % 6] for one in range(count)], "tone": tone})


def test_photos_and_texts_become_columns_of_a_pipeline() -> None:
    frame = shown()
    transformer = MixedTransformer(photos=["photo"], texts=["note"], components=5, image_size=32)
    values = transformer.fit_transform(frame)
    names = transformer.get_feature_names_out().tolist()
    assert values.shape == (48, len(names))
    assert np.isfinite(values).all()
    assert names[:6] == [*(f"photo {place}" for place in range(5)), "photo is there"]
    assert names[-1] == "note length"
    np.testing.assert_array_equal(values[-1, :6], 0)
    np.testing.assert_allclose(transformer.transform(frame[20:23]), values[20:23], atol=1e-5)
    again = pickle.loads(pickle.dumps(transformer))
    np.testing.assert_allclose(again.transform(frame[:3]), values[:3], atol=1e-6)
    assert abs(np.corrcoef(values[:, 0], frame["tone"])[0, 1]) > 0.8
    pipeline = make_pipeline(MixedTransformer(photos=["photo"], components=5, image_size=32), Ridge(alpha=0.1))
    assert cross_val_score(pipeline, frame, frame["tone"], cv=2).mean() > 0.5
    assert isinstance(transformer.set_output(transform="pandas").transform(frame[:3]), pd.DataFrame)


def test_a_transformer_without_components_gives_all_features() -> None:
    transformer = MixedTransformer(photos=["photo"], components=None, image_size=64).fit(shown(4))
    assert transformer.transform(shown(4)).shape == (4, len(transformer.get_feature_names_out()))
    with pytest.raises(ValueError, match="no column 'picture'"):
        MixedTransformer(photos=["picture"]).fit(shown(4))
    with pytest.raises(ValueError, match=r"photos must be a list of columns, got a text: use photos=\['photo'\]"):
        MixedTransformer(photos="photo").fit(shown(4))


def test_roles_of_an_array_may_be_set() -> None:
    frame, target = rows()
    columns = np.column_stack([frame["rooms"], frame["area"].fillna(100)])
    found = regressor(roles={"x0": "category"}).fit(columns, target)
    assert found.predictor_.schema.names("category") == ["x0"]


def test_a_class_of_rows_of_weight_zero_alone_has_no_probability() -> None:
    frame, target = rows()
    classes = np.where(target > np.median(target), "dear", "cheap").astype(object)
    classes[:5] = "unknown price"
    found = classifier().fit(frame, classes, sample_weight=np.where(classes == "unknown price", 0.0, 1.0))
    assert found.classes_.tolist() == ["cheap", "dear", "unknown price"]
    probabilities = found.predict_proba(frame)
    np.testing.assert_array_equal(probabilities[:, 2], 0)
    assert set(found.predict(frame)) <= {"cheap", "dear"}


def test_a_folder_of_images_of_the_settings_is_used_for_predictions(tmp_path: Path) -> None:
    frame, target = rows(40)
    for number, one in enumerate(pictures(40)):
        one.save(tmp_path / f"{number}.png")
    frame["photo"] = [f"{number}.png" for number in range(40)]
    model = ModelConfig(tabular="mlp", tabular_hidden=(16,), encoding_dim=8, backbone="small_resnet")
    settings = DataConfig(images=tmp_path, image_size=32, cache_gb=0.0, roles={"photo": "image"})
    assert np.isfinite(regressor(model=model, data=settings).fit(frame, target).predict(frame)).all()
