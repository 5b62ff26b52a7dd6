"""MLflow: runs are logged to a real store of files, and models are loaded by MLflow itself."""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from quick_runs import QUICK_DATA, QUICK_MODEL, QUICK_TRAIN
from rich.console import Console
from small_fits import loaders, net
from small_runs import MODEL, in_few_folds

import mixfit
from mixfit.auto.recipe import Run, fit, resume
from mixfit.config import DataConfig, TrainConfig
from mixfit.demo import DEMO_TARGET
from mixfit.errors import ConfigError, DataError, ResourceError, Stopped
from mixfit.training.callback import Callback, TrainState
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import SGD

mlflow = pytest.importorskip("mlflow", reason="needs mixfit[mlflow]")

from mixfit.mlflow import MLflow, log_model, save_model  # noqa: E402

QUIET = Console(quiet=True)
TABLE_ALONE = DataConfig(ignore=("photos",))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new store of files, and nothing active before and after."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own code
        yield tmp_path / "store"
    assert mlflow.active_run() is None
    mlflow.set_tracking_uri(before)


def tracked(table: Path, out: Path, *callbacks: Callback, **further: Any) -> Run:
    settings: dict[str, Any] = {"data": QUICK_DATA, "model": QUICK_MODEL, "train": QUICK_TRAIN} | further
    return fit(table, target=DEMO_TARGET, out=out, console=QUIET, callbacks=callbacks, **settings)


class StopAfter(Callback):
    """A signal in an epoch."""

    changes = chooses = False

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def after_epoch(self, state: TrainState) -> None:
        """Stop once."""
        if state.epoch == self.epoch:
            state.stop_requested = "SIGTERM"
            self.epoch = -1


def test_a_run_is_logged_with_settings_epochs_scores_report_and_model(demo_table: Path, tmp_path: Path) -> None:
    tracker = MLflow("vases")
    run = tracked(demo_table, tmp_path / "runs", tracker)
    known = json.loads((run.folder / "mlflow.json").read_text())["run_id"]
    client = mlflow.MlflowClient()
    found = client.get_run(known)
    assert found.info.status == "FINISHED"
    assert client.get_experiment(found.info.experiment_id).name == "vases"
    assert found.data.params["train.preset"] == "network"
    assert found.data.params["model.encoding_dim"] == "8"
    losses = client.get_metric_history(known, "train_loss")
    assert [one.step for one in losses] == [1, 2, 3]
    assert [one.value for one in losses] == pytest.approx(run.history["train_loss"].tolist())
    assert found.data.metrics["test/mae"] == run.scores["test"][run.result.ours]["mae"]
    assert "report.html" in {one.path for one in client.list_artifacts(known)}
    (model,) = mlflow.search_logged_models([found.info.experiment_id], output_format="list")
    frame = pd.read_csv(demo_table).head(4)
    predicted = mlflow.pyfunc.load_model(model.model_uri).predict(frame, params={"images": str(demo_table.parent)})
    np.testing.assert_array_equal(
        predicted["prediction"], run.predictor.predict(frame, images=demo_table.parent)["prediction"]
    )


def test_a_blend_is_logged_by_network_and_fold_in_the_active_run(
    demo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.utils.autologging_utils.safety import revert_patches

    in_few_folds(monkeypatch)
    train = TrainConfig(preset="quick", epochs=1, report=False)
    try:
        mlflow.lightgbm.autolog(silent=True)
        mlflow.sklearn.autolog(silent=True, log_models=False)
        with mlflow.start_run() as active:
            run = tracked(demo_table, tmp_path / "runs", MLflow(), data=TABLE_ALONE, model=MODEL, train=train)
            assert mlflow.active_run().info.run_id == active.info.run_id
    finally:
        for library in (mlflow.lightgbm, mlflow.sklearn):
            library.autolog(disable=True)
            revert_patches(library.FLAVOR_NAME)
    found = mlflow.MlflowClient().get_run(active.info.run_id).data
    assert [name for name in found.metrics if name.endswith("fold 2/train_loss")]
    assert run.contest is not None
    assert len(run.contest.fold_scores) == 2
    history = mlflow.MlflowClient().get_metric_history(active.info.run_id, f"fold/{run.result.headline}")
    assert [one.value for one in history] == run.contest.fold_scores
    lines = {line.model: line.loss for line in run.contest.leaderboard}
    assert found.metrics["leaderboard/constant"] == lines["constant"]
    # Nothing of the many models of LightGBM was logged.
    assert "num_leaves" not in found.params
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == 1


def test_a_stopped_run_is_killed_and_its_resumption_is_logged_to_the_same_run(demo_table: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"--track mlflow"):
        tracked(demo_table, tmp_path / "runs", MLflow(), StopAfter(0), data=TABLE_ALONE, model=MODEL)
    (folder,) = (tmp_path / "runs").iterdir()
    known = json.loads((folder / "mlflow.json").read_text())["run_id"]
    assert mlflow.MlflowClient().get_run(known).info.status == "KILLED"
    resume(folder, console=QUIET, callbacks=[MLflow()])
    client = mlflow.MlflowClient()
    assert client.get_run(known).info.status == "FINISHED"
    assert {one.step for one in client.get_metric_history(known, "train_loss")} == {1, 2, 3}
    assert len(client.search_runs([client.get_run(known).info.experiment_id])) == 1


def test_a_failed_run_is_marked_and_its_error_is_the_one_that_is_raised(demo_table: Path, tmp_path: Path) -> None:
    class Fails(Callback):
        changes = chooses = False

        def after_epoch(self, state: TrainState) -> None:
            raise ZeroDivisionError("mine")

    tracker = MLflow("failed")
    with pytest.raises(ZeroDivisionError, match="mine"):
        tracked(demo_table, tmp_path / "runs", tracker, Fails(), data=TABLE_ALONE, model=MODEL)
    (found,) = mlflow.search_runs(experiment_names=["failed"], output_format="list")
    assert found.info.status == "FAILED"


def test_a_lost_store_is_a_warning_after_the_training(
    demo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("the server is gone")

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", refuse)
    run = fit(
        demo_table, target=DEMO_TARGET, data=TABLE_ALONE, model=MODEL, train=QUICK_TRAIN, out=tmp_path / "runs",
        callbacks=[MLflow()],
    )  # fmt: skip
    assert (run.folder / "report.html").exists()
    assert "MLflow could not log the end of the run: the server is gone" in capsys.readouterr().out


def test_a_blend_of_classes_is_a_model_of_mlflow(tmp_path: Path) -> None:
    folder = Path(__file__).parent / "formats" / "6-blend"
    save_model(folder, tmp_path / "model")
    files = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert {"MLmodel", "mixfit.json", "model.safetensors"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".joblib"))]
    loaded = mlflow.pyfunc.load_model(tmp_path / "model")
    predictor = mixfit.Predictor.load(folder)
    signature = loaded.metadata.signature
    assert signature.inputs.input_names() == predictor.schema.inputs
    assert loaded.metadata.metadata["mixfit_roles"] == {"area": "number", "state": "ordered"}
    rows = pd.read_csv(folder / "rows.csv")
    found = loaded.predict(rows, params={"interval": 0.9})
    expected = predictor.predict(rows, interval=0.9)
    pd.testing.assert_frame_equal(found, expected)
    assert signature.outputs.input_names() == list(expected.columns.drop("prediction_set"))


def test_photos_are_bytes_and_numbers_are_texts(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    save_model(quick_run.folder, tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(tmp_path / "model")
    schema, frame = quick_run.predictor.schema, pd.read_csv(demo_table).head(3).drop(columns=DEMO_TARGET)
    (photo,) = schema.names("image")
    expected = quick_run.predictor.predict(frame, images=demo_table.parent)["prediction"]
    by_path = loaded.predict(frame.astype("str"), params={"images": str(demo_table.parent)})
    np.testing.assert_array_equal(by_path["prediction"], expected)
    photos = [(demo_table.parent / name).read_bytes() for name in frame[photo]]
    np.testing.assert_array_equal(loaded.predict(frame.assign(**{photo: photos}))["prediction"], expected)
    with pytest.raises(DataError, match="column"):
        loaded.predict(frame[[photo]], params={"images": str(demo_table.parent)})


def test_a_model_is_logged_to_a_run_of_ones_own(quick_run: Run) -> None:
    with mlflow.start_run():
        told = log_model(quick_run.folder, "vases")
    assert mlflow.pyfunc.load_model(told.model_uri).metadata.flavors["python_function"]["loader_module"] == (
        "mixfit.mlflow"
    )


def test_without_mlflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for call in (MLflow, lambda: save_model(tmp_path, tmp_path / "m"), lambda: log_model(tmp_path)):
        with pytest.raises(ResourceError, match=r"MLflow is not installed; install it with: pip install 'mixfit\[ml"):
            call()


def test_a_store_that_cannot_be_used_is_one_sentence(demo_table: Path, tmp_path: Path) -> None:
    mlflow.set_tracking_uri("nonsense://x")
    with pytest.raises(ResourceError, match="MLflow cannot log this run"):
        tracked(demo_table, tmp_path / "runs", MLflow())


def test_a_tracker_of_runs_is_not_for_a_learner() -> None:
    with pytest.raises(ConfigError, match="tracker of whole runs"):
        Learner(net(), loaders(), loss=mse, optimizer=SGD, callbacks=[MLflow()]).fit(1, 0.01)
