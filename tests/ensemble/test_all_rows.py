"""Models of which one fit of all rows predicts new rows, beside those of which the mean of the folds does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_runs import small_fit, small_table

from mixfit.config import DataConfig, TrainConfig
from mixfit.data.load import load_data
from mixfit.ensemble.cross_fit import FittedFolds, cross_fit, fit_folds, fit_model
from mixfit.ensemble.pool import pooled
from mixfit.errors import DataError
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Linear
from mixfit.predictor import Predictor
from mixfit.predictor.blend import BlendPredictor
from mixfit.runs.results import Run


def folds_of(rows: int = 60, *, all_rows: bool = True, by_time: bool = False) -> FittedFolds:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=rows), rng.normal(size=rows)
    frame = pd.DataFrame({"x": x, "z": z, "y": x + np.sin(2 * z) + 0.1 * rng.normal(size=rows)})
    frame["day"] = pd.date_range("2024-01-01", periods=rows).strftime("%Y-%m-%d")
    config = DataConfig(split_time="day") if by_time else DataConfig(ignore=("day",))
    return fit_folds(load_data(frame, target="y", config=config), 3, seed=0, all_rows=all_rows)


def test_kernel_ridge_regression_predicts_by_one_fit_of_all_rows() -> None:
    folds = folds_of()
    assert folds.final is not None
    found, every = cross_fit(KernelRidge(), folds), np.arange(60)
    assert (len(found.fitted), len(found.fitted_on_fold)) == (1, 4)
    np.testing.assert_array_equal(np.sort(folds.final.fit_rows), np.sort(folds.rows))
    alone = fit_model(KernelRidge(), folds.final).predict(folds.final.rows)
    np.testing.assert_allclose(found.mean(folds, every), alone, rtol=1e-9)
    # What is said of it is of rows that a fold did not see.
    for place, fold in enumerate(folds.folds):
        judged = folds.number == place
        expected = fit_model(KernelRidge(), fold).predict(fold.rows.take(folds.rows[judged]))
        np.testing.assert_allclose(found.predictions[judged], expected, rtol=1e-9)


def test_other_models_predict_by_the_mean_of_their_folds() -> None:
    folds = folds_of()
    found, every = cross_fit(Linear(), folds), np.arange(60)
    assert (len(found.fitted), len(found.fitted_on_fold)) == (3, 3)
    each = [fit_model(Linear(), fold).predict(fold.rows.take(every)) for fold in folds.folds]
    np.testing.assert_allclose(found.mean(folds, every), pooled(each), rtol=1e-9)


def test_without_a_fold_of_all_rows_and_with_folds_in_time_all_models_are_alike() -> None:
    assert [len(cross_fit(one, folds_of(all_rows=False)).fitted) for one in (KernelRidge(), Linear())] == [3, 3]
    in_time = folds_of(by_time=True, all_rows=False)
    assert in_time.final is not None
    assert [len(cross_fit(one, in_time).fitted) for one in (KernelRidge(), Linear())] == [1, 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A blend of kernel ridge regression, of all rows, and of trees, of each fold."""
    folder = tmp_path_factory.mktemp("run")
    settings = TrainConfig(preset="quick", epochs=1, folds=3, report=False)
    return small_fit(small_table(folder, rows=90, seed=3), folder / "runs", train=settings)


def of_folds(predictor: Predictor) -> list[set[str]]:
    assert isinstance(predictor, BlendPredictor)
    return [set(fold.models) for fold in predictor.folds]


def test_a_saved_blend_has_each_model_where_it_was_fitted(run: Run) -> None:
    kernel = {"kernel ridge, table"}
    found = of_folds(Predictor.load(run.folder))
    assert found == of_folds(run.predictor)
    assert found[-1] == kernel
    assert all(found[:-1])
    assert not any(kernel & names for names in found[:-1])
    assert len(found) == 4
    test = pd.read_parquet(run.folder / "predictions_test.parquet")
    again = Predictor.load(run.folder).predict(pd.read_csv(run.folder.parent.parent / "table.csv").iloc[test["row"]])
    np.testing.assert_allclose(again["prediction"], test["prediction"], rtol=1e-9)
    assert "one fit of all rows but the test rows" in (run.folder / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folds: folds.pop(), "a model with a share is missing"),
        (lambda folds: folds[0]["models"].clear(), "the models of a fold are not those with a share"),
        (lambda folds: folds[0]["models"].update(other={}), "the models of a fold are not those with a share"),
    ],
)
def test_a_folder_without_one_of_its_models_is_refused(
    run: Run, tmp_path: Path, harm: Callable[[list[dict[str, Any]]], object], said: str
) -> None:
    shutil.copytree(run.folder / "model", tmp_path / "model")
    path = tmp_path / "model" / "mixfit.json"
    described = json.loads(path.read_text())
    described.pop("description_sha256", None)
    harm(described["folds"])
    path.write_text(json.dumps(described))
    with pytest.raises(DataError, match=said):
        Predictor.load(tmp_path / "model")
