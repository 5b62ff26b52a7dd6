"""MLflow: a tracker of runs, and mixfit models in MLflow's own form (``mlflow.pyfunc``).

In: a run, or a model folder. Out: an MLflow run with settings, metrics, report and model; a model that
``mlflow.pyfunc.load_model`` loads. Nothing is pickled: the model is mixfit's folder of safetensors and JSON. Without a
server and without network, MLflow writes to the file that ``MLFLOW_TRACKING_URI`` names, or to ``mlflow.db``."""

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

import mixfit
from mixfit.choices import NUMBER_TASKS
from mixfit.data.columns.schema import Schema
from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.files import is_there, read_json, write_file
from mixfit.predictor import Predictor
from mixfit.training.callback import TrainState
from mixfit.training.callbacks.tracking import TrackedRun, Tracker, plain_name

_KEPT = "mlflow.json"
"""In the run folder: the id of the MLflow run, so that a resumed run goes on with it."""
_FILES = ("report.html", "results.json", "config.toml", "schema.json", "environment.json", "bad_inputs.csv")
_MOST_AT_ONCE, _LONGEST = 100, 500
"""Parameters of one request, and characters of a parameter, that every MLflow server accepts."""
_INSTALL = "pip install 'mixfit[mlflow]'"
_NO_INTERVAL = 0.0


class MLflow(Tracker):
    """Logs a run to MLflow: settings as parameters, metrics of every epoch of each network and fold, the scores, the
    report and the model.

    If an MLflow run is active (``with mlflow.start_run():``), it is used and left open; else a new one is made and
    ended. MLflow's autologging is off meanwhile: it would log each of the many models of a run. The run folder keeps
    the id in ``mlflow.json``, so that a resumed run is logged to the same MLflow run.

    Args:
        experiment: name of the experiment; by default the active one (``MLFLOW_EXPERIMENT_NAME``).
        name: of the MLflow run; by default that of the run folder.
    Raises:
        ResourceError: MLflow is not installed.
    """

    flag = "mlflow"

    def __init__(self, experiment: str | None = None, *, name: str | None = None) -> None:
        super().__init__()
        if find_spec("mlflow") is None:
            raise ResourceError(f"MLflow is not installed; install it with: {_INSTALL}")
        self.experiment, self.name = experiment, name
        self.run_id = ""
        """Id of the MLflow run, once it has begun."""
        self._client: Any = None
        self._own = False

    def around_run(self) -> AbstractContextManager[None]:
        """Without autologging."""
        from mlflow.utils.autologging_utils import disable_autologging

        without: AbstractContextManager[None] = disable_autologging()
        return without

    def begin_run(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Open the MLflow run, and log the settings."""
        import mlflow
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        try:
            self._client = mlflow.MlflowClient()
            active = mlflow.active_run()
            self._own = active is None
            self.run_id = self._begun(folder) if active is None else active.info.run_id
            texts = [Param(plain_name(name), str(value)[:_LONGEST]) for name, value in settings.items()]
            for start in range(0, len(texts), _MOST_AT_ONCE):
                self._client.log_batch(self.run_id, params=texts[start : start + _MOST_AT_ONCE])
        except (MlflowException, ImportError, OSError) as error:
            raise ResourceError(
                f"MLflow cannot log this run ({str(error).splitlines()[0].rstrip('.')}): set MLFLOW_TRACKING_URI to a "
                "server or to a file such as sqlite:///mlflow.db, or leave out the tracker."
            ) from error
        write_file(folder / _KEPT, json.dumps({"run_id": self.run_id}))

    def after_epoch(self, state: TrainState) -> None:
        """Log the metrics of the epoch, such as "network table photos fold 3/train_loss"."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        if not self.run_id:
            raise ConfigError("MLflow() is a tracker of whole runs: use it with mixfit.fit(..., callbacks=[MLflow()]).")
        now, step = int(1000 * time.time()), state.epoch + 1
        model = f"{self.model}/" if self.model else ""
        values = [Metric(plain_name(f"{model}{name}"), value, now, step) for name, value in state.metrics.items()]
        try:
            self._client.log_batch(self.run_id, metrics=values)
        except (MlflowException, OSError) as error:  # a training is worth more than its log
            warnings.warn(f"MLflow could not log epoch {step}: {str(error).splitlines()[0]}", stacklevel=2)

    def end_run(self, run: TrackedRun) -> None:
        """Log scores, report and model, and end an MLflow run of our own."""
        with self._closing("FINISHED"):
            for name, value in run.scores.items():
                self._client.log_metric(self.run_id, plain_name(name), value)
            for name, values in run.by_fold.items():
                for fold, value in enumerate(values):
                    self._client.log_metric(self.run_id, plain_name(f"fold/{name}"), value, step=fold + 1)
            self._client.set_tag(self.run_id, "mlflow.note.content", run.verdict)
            for file in _FILES:
                if is_there(run.folder / file):
                    self._client.log_artifact(self.run_id, str(run.folder / file))
            with self._active():
                log_model(run.folder)

    def stop_run(self, *, resumable: bool) -> None:
        """Mark an MLflow run of our own as killed or failed."""
        with self._closing("KILLED" if resumable else "FAILED"):
            pass

    def _begun(self, folder: Path) -> str:
        """A new MLflow run, or the one of a run that is resumed."""
        import mlflow
        from mlflow.exceptions import MlflowException

        known = _known_id(folder)
        if known:
            try:
                self._client.update_run(known, status="RUNNING")
            except MlflowException:  # of another store, or deleted
                pass
            else:
                return known
        experiment = None
        if self.experiment is not None:
            found = self._client.get_experiment_by_name(self.experiment)
            experiment = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        tags = {"mlflow.source.name": "mixfit", "mixfit.version": mixfit.__version__}
        with mlflow.start_run(experiment_id=experiment, run_name=self.name or folder.name, tags=tags) as made:
            pass  # not the active run meanwhile: what the process logs otherwise is not part of it
        self._client.update_run(made.info.run_id, status="RUNNING")
        return str(made.info.run_id)

    @contextmanager
    def _active(self) -> Iterator[None]:
        """The run as MLflow's active one, which ``log_model`` needs."""
        import mlflow

        if not self._own:
            yield
            return
        with mlflow.start_run(run_id=self.run_id):
            yield

    @contextmanager
    def _closing(self, status: str) -> Iterator[None]:
        """End an own run with a status, "FAILED" if this raises."""
        try:
            yield
        except Exception:
            status = "FAILED"
            raise
        finally:
            if self._own and self.run_id:
                self._client.set_terminated(self.run_id, status)
            self.run_id = ""


def save_model(folder: str | PathLike[str], path: str | PathLike[str]) -> None:
    """Write a mixfit model as a model of MLflow, which ``mlflow.pyfunc.load_model(path)`` loads.

    Args:
        folder: of the model, or of its run.
        path: new folder.
    Raises:
        DataError: the model folder is damaged.
        ResourceError: MLflow is not installed.
    """
    pyfunc = _pyfunc()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\W*.*An input example was not provided", UserWarning)
        pyfunc.save_model(str(path), **_flavour(Path(folder)))


def log_model(folder: str | PathLike[str], name: str = "model", **further: Any) -> Any:
    """Log a mixfit model to the active MLflow run, or to a new one.

    Args:
        folder: of the model, or of its run.
        name: of the model within the MLflow run.
        further: arguments of ``mlflow.pyfunc.log_model``, such as ``registered_model_name``.
    Returns:
        MLflow's ``ModelInfo``.
    Raises:
        DataError: the model folder is damaged.
        ResourceError: MLflow is not installed.
    """
    pyfunc = _pyfunc()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\W*.*An input example was not provided", UserWarning)
        return pyfunc.log_model(name=name, **_flavour(Path(folder)), **further)


def signature_of(schema: Schema, classes: tuple[str, ...] | None) -> Any:
    """MLflow's signature of a model: columns in and out, and the parameters of a prediction.

    Columns have MLflow's type "any" and are optional, as mixfit reads them as it read those of the training: a number
    may be an integer, a text such as "1.200 EUR", or missing. MLflow itself would refuse an integer for a float.

    Args:
        classes: of the target; None for numbers.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import DataType
    from mlflow.types.schema import AnyType, ColSpec, ParamSchema, ParamSpec
    from mlflow.types.schema import Schema as Columns

    make: Any = AnyType  # without types
    any_type, number = make(), schema.task in NUMBER_TASKS
    found = [ColSpec(DataType.double if number else DataType.string, "prediction")]
    found += [ColSpec(DataType.double, f"probability_{name}") for name in classes or ()]
    parameters = [
        ParamSpec("images", DataType.string, ""),
        ParamSpec("interval", DataType.double, _NO_INTERVAL),
    ]
    return ModelSignature(
        inputs=Columns([ColSpec(any_type, name, required=False) for name in schema.inputs]),
        outputs=Columns([*found, ColSpec(DataType.string, "status")]),
        params=ParamSchema(parameters),
    )


class PyfuncModel:
    """What ``mlflow.pyfunc.load_model`` wraps: rows in, predictions out."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, frame: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The columns of ``Predictor.predict``.

        Args:
            frame: rows; a photo is a path, or the bytes of its file.
            params: "images", folder that photo paths are relative to, by default the working directory; "interval",
                coverage of prediction intervals or sets, by default none.
        """
        given = {} if params is None else dict(params)
        interval = given.get("interval", _NO_INTERVAL)
        return self.predictor.predict(
            frame,
            images=Path(given.get("images") or ""),
            interval=None if interval == _NO_INTERVAL else interval,
        )


def _load_pyfunc(path: str) -> PyfuncModel:
    """Called by ``mlflow.pyfunc.load_model`` with the model folder."""
    return PyfuncModel(Predictor.load(path))


def _flavour(folder: Path) -> dict[str, Any]:
    """Arguments for MLflow that describe a model folder."""
    model = folder / "model" if is_there(folder / "model" / "mixfit.json") else folder
    predictor = Predictor.load(model)
    texts = predictor.text_features
    extra = "" if texts is None or texts.embedder is None else "[text]"
    roles = {column.name: column.role for column in predictor.schema.columns if column.name in predictor.schema.inputs}
    return {
        "loader_module": "mixfit.mlflow",
        "data_path": str(model),
        "signature": signature_of(predictor.schema, predictor.target.classes),
        "pip_requirements": [f"mixfit{extra}=={mixfit.__version__}"],
        "metadata": {"mixfit_roles": roles},
    }


def _pyfunc() -> Any:
    if find_spec("mlflow") is None:
        raise ResourceError(f"MLflow is not installed; install it with: {_INSTALL}")
    from mlflow import pyfunc

    return pyfunc


def _known_id(folder: Path) -> str:
    """Id of the MLflow run of a resumed run; "" if there is none."""
    file = folder / _KEPT
    try:
        found = read_json(file) if is_there(file) else None
    except DataError:
        return ""
    return str(found.get("run_id", "")) if isinstance(found, dict) else ""
