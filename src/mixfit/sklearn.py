"""Estimators of scikit-learn: the whole recipe behind ``fit`` and ``predict``.

In: frames of pandas, polars or anything narwhals reads, or arrays; photos as paths, bytes or PIL images. Out:
predictions as scikit-learn expects them. All rows passed to ``fit`` are used; the out-of-fold scores say how good the
model is. Pickled as the bytes of the model folder, which holds no pickle itself."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import narwhals as nw
import numpy as np
import pandas as pd
from rich.console import Console
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from mixfit.auto.recipe import fit
from mixfit.choices import MetricName, Preset, Role, Task
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.console import PlainConsole
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.photos.cells import plain_photos
from mixfit.data.photos.find import find_photos
from mixfit.data.photos.store import ImageFiles
from mixfit.data.split import MINIMUM_ROWS
from mixfit.errors import unknown_column
from mixfit.models.encoding import mean_features
from mixfit.models.model import Components, Model
from mixfit.nn.backbones import make_backbone
from mixfit.nn.build import with_sizes
from mixfit.nn.folding import without_norms
from mixfit.nn.image import ImageEncoder
from mixfit.predictor import Predictor
from mixfit.training.build import all_features
from mixfit.training.device import default_device

_PLAIN_CLASS = re.compile(r"[A-Za-z][\w -]*")
_LIKE_MISSING = {"na", "n a", "nan", "none", "null", "nil", "missing", "unknown", "inf", "nat"}
_ALSO: dict[Task, tuple[Task, ...]] = {"regression": ("count",), "multiclass": ("ordered",), "binary": ("ordered",)}
"""Tasks that ``data`` may set instead."""
_SETTINGS: dict[str, type[DataConfig] | type[ModelConfig] | type[TrainConfig]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
}
_ENCODER = "_made_encoder"
_COLUMNS = "_columns"
"""The names that the columns of ``X`` have for the model."""
_FOLDER = "_folder"
"""In the state that is pickled: the files of the model folder by name."""


class MixedTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Photos and texts as columns of numbers, for other estimators.

    Photos: principal components of the mean of a frozen image network's features over the photos of a row. Texts:
    principal components of TF-IDF of words, pairs of words and character n-grams, and the logarithm of the length. What
    is learnt does not depend on ``y``. All other columns are dropped: use a ``ColumnTransformer`` to keep them.

    Args:
        photos: names of the columns of photos; a cell is a path (or several, separated by ``;``), bytes, a PIL image
            or missing.
        texts: names of the columns of text.
        images: folder that photo paths are relative to.
        components: largest number of components of each column of photos; None for all features of the network.
        image_size: side length in pixels to which photos are resized.
        random_state: seed of approximations for many rows.
    Attributes:
        n_features_in_, feature_names_in_: the columns of ``X``.
    """

    def __init__(
        self,
        *,
        photos: Sequence[str] = (),
        texts: Sequence[str] = (),
        images: str | Path | None = None,
        components: int | None = 30,
        image_size: int = 224,
        random_state: int = 0,
    ) -> None:
        self.photos = photos
        self.texts = texts
        self.images = images
        self.components = components
        self.image_size = image_size
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "MixedTransformer":  # noqa: N803
        """Learn components from all rows; ``y`` is not used.

        Raises:
            ValueError: a column is missing, or ``X`` is no frame."""
        for kind, names in {"photos": self.photos, "texts": self.texts}.items():
            if isinstance(names, str):
                raise ValueError(f"{kind} must be a list of columns, got a text: use {kind}=[{names!r}].")
        frame = _frame_of(self, X, fitting=True)
        for name in (*self.photos, *self.texts):
            if name not in frame.columns:
                raise unknown_column(name, frame.columns)
        self.text_features_, _ = TextFeatures.fit(
            frame, list(self.texts), np.zeros(len(frame)), classes=0, seed=self.random_state
        )
        self.components_ = {
            name: None
            if self.components is None
            else Components.fit(*self._means(frame, name), most=self.components, seed=self.random_state)
            for name in self.photos
        }
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """float64 ``(rows, columns)``, finite; 0, which is the mean, where a row has no photo."""
        check_is_fitted(self)
        frame = _frame_of(self, X, fitting=False)
        parts = []
        for name, components in self.components_.items():
            means, seen = self._means(frame, name)
            values = means.astype(np.float64) if components is None else components.apply(means, seen)
            parts += [values, seen[:, None].astype(np.float64)]
        if self.texts:
            texts = self.text_features_.apply(frame)[0][:, :, self.text_features_.scores :]
            parts.append(texts.reshape(len(frame), -1).astype(np.float64))
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(frame), 0))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Such as "photo 0", "photo is there", "note 0", "note length"."""
        check_is_fitted(self)
        names = []
        for name, components in self.components_.items():
            count = self._encoder.num_features if components is None else len(components.axes)
            names += [*(f"{name} {place}" for place in range(count)), f"{name} is there"]
        width = self.text_features_.width - self.text_features_.scores - 1
        for name in self.texts:
            names += [*(f"{name} {place}" for place in range(width)), f"{name} length"]
        return np.array(names, dtype=object)

    def _means(self, frame: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean features of each row's photos, float32 ``(rows, d)``, and whether it has any."""
        found = find_photos(frame, [name], Path(self.images or ""), absent=False)
        files = ImageFiles(found.files, size=self.image_size, crop="squash", follow_links=False)
        features = all_features(self._encoder, files, None) if len(found.files) else None
        if features is None:
            return np.zeros((len(frame), self._encoder.num_features), np.float32), np.zeros(len(frame), dtype=bool)
        means = mean_features(len(frame), found.slots, features)
        assert means.values is not None
        return means.values, means.seen

    @property
    def _encoder(self) -> ImageEncoder:
        """The frozen image network, made when it is first used and not pickled."""
        if _ENCODER not in vars(self):
            config = with_sizes(ModelConfig(), rows=0, numeric=0)
            backbone = make_backbone(config.backbone, image_size=self.image_size)
            made = ImageEncoder(
                backbone.module,
                backbone.num_features,
                mean=backbone.mean,
                std=backbone.std,
                out_dim=config.encoding_dim,
                dropout=0.0,
                frozen=True,
                stages=config.photo_stages or 0,
            )
            setattr(self, _ENCODER, without_norms(made.to(default_device()), self.image_size))
        return cast(ImageEncoder, getattr(self, _ENCODER))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != _ENCODER}


class _Mixed(BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no types
    """What both estimators share; see ``MixedRegressor``."""

    _task: Task

    def __init__(
        self,
        *,
        preset: Preset | None = None,
        images: str | Path | None = None,
        roles: Mapping[str, Role] | None = None,
        image_size: int | None = None,
        text_model: str | None = None,
        metric: MetricName | None = None,
        time: str | None = None,
        random_state: int = 0,
        data: DataConfig | None = None,
        model: ModelConfig | None = None,
        train: TrainConfig | None = None,
        models: Sequence[Model] = (),
        out: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.preset = preset
        self.images = images
        self.roles = roles
        self.image_size = image_size
        self.text_model = text_model
        self.metric = metric
        self.time = time
        self.random_state = random_state
        self.data = data
        self.model = model
        self.train = train
        self.models = models
        self.out = out
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> "_Mixed":  # noqa: N803
        """Train on all rows.

        Args:
            X: a frame ``(rows, columns)``, or an array, whose columns are numbers unless its type is object.
            y: the targets ``(rows,)``.
            sample_weight: weights ``(rows,)``, at least 0; rows of weight 0 are left out.
            groups: labels ``(rows,)``; rows of a group are never torn between folds.
        Raises:
            ValueError: the data cannot be used, in one sentence.
        """
        frame = _frame_of(self, X, fitting=True)
        target = self._targets(y)
        if len(target) != len(frame):
            raise ValueError(f"X has {len(frame):,} rows and y {len(target):,}: they must have the same number.")
        if len(frame) < MINIMUM_ROWS:
            raise ValueError(f"n_samples = {len(frame)}: at least {MINIMUM_ROWS} rows are needed.")
        names = _unused(frame, ("target", "weight", "group"))
        frame[names["target"]] = target
        roles: dict[str, Role] = {names["weight"]: "weight", names["group"]: "group"}
        for name, values in (("weight", sample_weight), ("group", groups)):
            if values is None:
                roles.pop(names[name])
                continue
            column = column_or_1d(values)
            if name == "weight" and not column.any():
                raise ValueError("All weights in sample_weight are zero: some rows need a weight above 0.")
            if len(column) != len(frame):
                raise ValueError(
                    f"{'sample_weight' if name == 'weight' else 'groups'} has {len(column):,} values, but X has "
                    f"{len(frame):,} rows."
                )
            frame[names[name]] = column if name == "weight" else pd.Series(column).astype("str")
        numbers: dict[str, Role] = {}
        if not hasattr(self, "feature_names_in_"):  # of an array, whose columns are numbers unless they are objects
            numbers = {name: "number" for name in frame.columns[: self.n_features_in_] if _is_numeric(frame[name])}
        with ExitStack() as stack:
            out = self.out or stack.enter_context(TemporaryDirectory())
            data, train = self._settings(numbers, roles)
            train = replace(train, report=train.report and self.out is not None)  # nobody would see it
            run = fit(
                frame,
                target=names["target"],
                images=self.images,
                data=data,
                model=self.model,
                train=train,
                out=out,
                console=PlainConsole() if self.verbose else Console(quiet=True),
                models=self.models,
            )
            self.predictor_ = run.predictor
            self.result_ = run.result
        return self

    def _settings(self, numbers: Mapping[str, Role], roles: Mapping[str, Role]) -> tuple[DataConfig, TrainConfig]:
        data, train = self.data or DataConfig(), self.train or TrainConfig()
        given: dict[str, Any] = {"image_size": self.image_size, "text_model": self.text_model}
        data = replace(
            data,
            roles={**numbers, **data.roles, **(self.roles or {}), **roles},
            task=data.task if data.task in _ALSO.get(self._task, ()) else self._task,
            test=0.0,
            **{name: value for name, value in given.items() if value is not None},
        )
        chosen: dict[str, Any] = {"preset": self.preset, "time": self.time, "metric": self.metric}
        train = replace(
            train, seed=self.random_state, **{name: value for name, value in chosen.items() if value is not None}
        )
        return data, train

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """The arguments; if ``deep``, also the settings of ``data``, ``model`` and ``train``, as ``train__epochs``."""
        found: dict[str, Any] = super().get_params(deep=deep)
        if deep:
            for name, default in _SETTINGS.items():
                settings = found[name] or default()
                found |= {f"{name}__{one.name}": getattr(settings, one.name) for one in fields(settings)}
        return found

    def set_params(self, **params: Any) -> "_Mixed":
        """Set arguments, or single settings such as ``train__epochs=5``; the settings beside it stay.

        Raises:
            ValueError: there is no such argument or setting, or its value is not allowed."""
        plain = {
            name: value
            for name, value in params.items()
            if name.partition("__")[0] not in _SETTINGS or "__" not in name
        }
        super().set_params(**plain)
        for name, default in _SETTINGS.items():
            given = {key.removeprefix(f"{name}__"): params[key] for key in params if key.startswith(f"{name}__")}
            if not given:
                continue
            settings = getattr(self, name) or default()
            known = [one.name for one in fields(settings)]
            if strange := [key for key in given if key not in known]:
                raise ValueError(f"{name} has no setting {strange[0]!r}: it has {', '.join(known)}.")
            setattr(self, name, replace(settings, **given))
        return self

    @abstractmethod
    def _targets(self, y: Any) -> Any:
        """The target as a column of the table."""

    def _predicted(self, X: Any, level: float | None = None) -> Any:  # noqa: N803
        check_is_fitted(self)
        predictor: Predictor = self.predictor_
        images = self.images or (None if self.data is None else self.data.images) or Path()  # as in ``fit``
        return predictor.predictions(_frame_of(self, X, fitting=False), images=images, interval=level)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "predictor_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "predictor_" in state:
            with TemporaryDirectory() as place:
                folder = Path(place) / "model"
                state.pop("predictor_").save(folder)
                state[_FOLDER] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        files = state.pop(_FOLDER, None)
        super().__setstate__(state)
        if files is not None:
            with TemporaryDirectory() as place:
                for name, content in files.items():
                    (Path(place) / name).write_bytes(content)
                self.predictor_ = Predictor.load(place, models=self.models)
                texts = self.predictor_.text_features
                if texts is not None and texts.embedder is not None and texts.embedder.facts.source == "folder":
                    folder = self.text_model or (self.data or DataConfig()).text_model
                    self.predictor_ = Predictor.load(place, models=self.models, text_model=folder)


class MixedRegressor(RegressorMixin, _Mixed):  # type: ignore[misc]
    """mixfit as a regressor of scikit-learn.

    Args:
        preset: models to fit, see ``TrainConfig.preset``; by default that of ``train``.
        images: folder that photo paths are relative to.
        roles: roles of columns that are not to be inferred, such as ``{"photo": "image", "note": "text"}``.
        image_size, text_model: see ``DataConfig``.
        metric: what the blend optimises where it can, see ``TrainConfig.metric``.
        time: time limit of ``fit``, such as "10m".
        random_state: seed of folds, first weights and the order of rows.
        data, model, train: all further settings; ``test`` has no effect, as ``fit`` uses all rows.
        models: own models, see ``mixfit.fit``.
        out: folder in which ``fit`` keeps its run folder with the report; by default nothing is kept.
        verbose: print the progress.
    Attributes:
        predictor_: the trained ``Predictor``.
        result_: the out-of-fold scores of all models.
        n_features_in_, feature_names_in_: the columns of ``X``.
    """

    _task: Task = "regression"

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Predicted targets, float64 ``(rows,)``."""
        return np.asarray(self._predicted(X).values, dtype=np.float64)

    def predict_interval(self, X: Any, level: float = 0.9) -> np.ndarray:  # noqa: N803
        """Lower and upper ends of intervals that contain about ``level`` of the targets, float64 ``(rows, 2)``.

        Raises:
            ValueError: ``level`` is not in (0, 1), or there were too few rows, or ``preset="network"``."""
        return np.stack(self._predicted(X, level).interval, axis=1)

    def _targets(self, y: Any) -> Any:
        found = column_or_1d(y, warn=True)
        if np.iscomplexobj(found):
            raise ValueError("Complex data not supported: y has complex numbers.")
        numbers = pd.to_numeric(pd.Series(found)).to_numpy(dtype=np.float64)
        wrong = np.flatnonzero(~np.isfinite(numbers))
        if len(wrong):
            raise ValueError(f"Input y contains NaN or infinity in {len(wrong):,} rows, first in row {wrong[0]}.")
        return numbers


class MixedClassifier(ClassifierMixin, _Mixed):  # type: ignore[misc]
    """mixfit as a classifier of scikit-learn; arguments and attributes as for ``MixedRegressor``.

    Attributes:
        classes_: the classes, sorted.
    """

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The predicted class of each row ``(rows,)``: the most probable one, unless the metric has a threshold, or the
        median of ordered classes."""
        found = self._predicted(X).values
        number = {name: place for place, name in enumerate(_class_names(self.classes_))}
        known = np.array([number[name] for name in self.predictor_.target.classes or ()])
        return cast(np.ndarray, self.classes_[known[self.predictor_.decide(found)]])

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probabilities of the classes in the order of ``classes_``, float64 ``(rows, classes)``."""
        return self._by_class(np.asarray(self._predicted(X).values, dtype=np.float64))

    def predict_set(self, X: Any, level: float = 0.9) -> np.ndarray:  # noqa: N803
        """Which classes are in a set that contains the true one with about ``level``, bool ``(rows, classes)``."""
        return self._by_class(np.asarray(self._predicted(X, level).sets))

    def _by_class(self, found: np.ndarray) -> np.ndarray:
        """Columns in the order of ``classes_``; 0 for a class of rows of weight 0 alone, which the model lacks."""
        known = {name: place for place, name in enumerate(self.predictor_.target.classes or ())}
        ordered = np.zeros((len(found), len(self.classes_)), dtype=found.dtype)
        for place, name in enumerate(_class_names(self.classes_)):
            if name in known:
                ordered[:, place] = found[:, known[name]]
        return ordered

    def _targets(self, y: Any) -> Any:
        found = column_or_1d(y, warn=True)
        check_classification_targets(found)
        gone = np.flatnonzero(pd.isna(found))
        if len(gone):
            raise ValueError(f"Input y contains NaN in {len(gone):,} rows, first in row {gone[0]}.")
        self.classes_, number = np.unique(found, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only, {str(self.classes_[0])!r}: a classifier needs at least two.")
        self._task = "binary" if len(self.classes_) == 2 else "multiclass"
        return pd.array(np.array(_class_names(self.classes_), dtype=object)[number], dtype="str")


def _frame_of(estimator: BaseEstimator, X: Any, *, fitting: bool) -> pd.DataFrame:  # noqa: N803
    """Rows as a pandas frame with text names, checked as scikit-learn checks them; photos as bytes or paths.

    Where either side has no names, as an array, columns are those of ``fit`` by their places."""
    try:
        native = nw.from_native(X)
    except TypeError:
        found = validate_data(estimator, X, reset=fitting, dtype=None, ensure_all_finite="allow-nan")
        if np.iscomplexobj(found):
            raise ValueError("Complex data not supported: X has complex numbers.") from None
        frame = pd.DataFrame(found, columns=[f"x{place}" for place in range(found.shape[1])])
    except nw.exceptions.DuplicateError:
        twice = X.columns[X.columns.duplicated()]
        raise ValueError(
            f"{len(twice)} column names of X occur more than once, such as {twice[0]!r}: rename them."
        ) from None
    else:
        frame = (native.collect() if isinstance(native, nw.LazyFrame) else native).to_pandas().reset_index(drop=True)
        validate_data(estimator, frame, reset=fitting, skip_check_array=True)
        if not len(frame):
            raise ValueError(f"Found array with 0 sample(s) (shape={frame.shape}) while a minimum of 1 is required.")
    names = [str(name) for name in frame.columns] if fitting else getattr(estimator, _COLUMNS)
    if fitting:
        setattr(estimator, _COLUMNS, names)
    frame.columns = names
    return plain_photos(frame)


def _class_names(classes: np.ndarray) -> list[str]:
    """A text for each class, which a table keeps as it is."""
    names = [str(one) for one in classes]
    plain = all(_PLAIN_CLASS.fullmatch(name) and name.casefold() not in _LIKE_MISSING for name in names)
    if plain and len({name.casefold().strip() for name in names}) == len(names):
        return names
    digits = len(str(len(names) - 1))
    return [f"class {number:0{digits}}" for number in range(len(names))]


def _is_numeric(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column.dtype))


def _unused(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """A name for each of ``names`` that is no column of the frame."""
    found = {}
    for name in names:
        free = name
        while free in frame.columns:
            free = f"{free}_"
        found[name] = free
    return found
