"""The protocol of a model, the rows that it is fitted on and predicts, and its saved state.

A model declares what it ``sees`` of a row, is fitted on the encoded rows of one fold, and loads the state of a fitted
model. It does not depend on data frames, folds, folders or consoles. A custom model is added to those of a preset with
``mixfit.fit(..., models=[...])``; it can learn from ``Rows.encoded`` alone, as all our models except networks do."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from mixfit.choices import Task
from mixfit.data.arrays import whole_or_parts
from mixfit.data.dataset import FeatureTable, ImageSource
from mixfit.data.load import MixedData
from mixfit.data.photos.records import Cache
from mixfit.data.photos.scores import pareto_scale
from mixfit.data.photos.store import ImageFiles
from mixfit.data.split import Times
from mixfit.errors import ConfigError, DataError
from mixfit.files import shown
from mixfit.models.dependence import Dependence
from mixfit.models.encoding import EncodedRows, RowEncoder
from mixfit.models.mixed import MixedRows
from mixfit.training.callback import Callback
from mixfit.training.checkpoint import Snapshot

Part = Literal["table", "text", "photos", "pixels"]
"""The inputs of a model: cells of the table, its columns of text, features of the photos from the frozen image network,
pixels."""
PARTS: tuple[Part, ...] = get_args(Part)
Sees = frozenset[Part]
State = tuple[dict[str, np.ndarray], dict[str, Any]]
"""The full state of a fitted model: arrays of numbers by name, and other values for JSON."""
TABLE: Sees = frozenset({"table"})
TEXT: Sees = frozenset({"text"})
PHOTOS: Sees = frozenset({"photos"})
PIXELS: Sees = frozenset({"pixels"})
BOTH: Sees = TABLE | PHOTOS


def reads(sees: Sees) -> bool:
    """Whether texts are used."""
    return "text" in sees


def looks(sees: Sees) -> bool:
    """Whether photos are used in any form."""
    return bool(sees & {"photos", "pixels"})


def name_of(what: str, sees: Sees) -> str:
    """A readable name, such as ``linear, table and photos`` and ``linear, table, text and photos``."""
    seen = [*["table"] * ("table" in sees), *["text"] * ("text" in sees), *["photos"] * looks(sees)]
    return f"{what}, " + " and ".join([*filter(None, [", ".join(seen[:-1])]), *seen[-1:]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The shape of the encoded rows of one fold, and of the predictions."""

    numeric: int
    """Columns of ``EncodedRows.numeric``."""
    cardinalities: tuple[int, ...]
    """Levels of each column of ``categorical`` and then of ``prefixes``, level 0 (missing or unseen) included."""
    categories: int
    """Columns of ``categorical``."""
    features: int | None
    """Columns of ``photos``; None without photo features."""
    image_columns: int
    """Number of image columns."""
    classes: int
    """Number of classes; 0 for regression."""
    text: tuple[int, int] = (0, 0)
    """Columns of text, and the number of features of each."""
    ordered: bool = False
    """Whether the classes are ordered."""
    counts: bool = False
    """Whether the target is a count: the truth is then divided by its mean, and predictions are logarithms of that."""
    photo_scores: int = 0
    """Columns of ``EncodedRows.photo_scores``."""

    @property
    def text_features(self) -> int:
        """Columns of ``EncodedRows.text_columns``."""
        return self.text[0] * (self.text[1] + 1)

    @classmethod
    def of(
        cls, encoder: RowEncoder, *, features: int | None, image_columns: int, classes: int, task: Task | None = None
    ) -> "Layout":
        """The layout of the rows of an encoder; ``task`` tells counts and ordered classes from others."""
        return cls(
            numeric=encoder.numeric,
            cardinalities=encoder.cardinalities,
            categories=len(encoder.preprocessor.cardinalities),
            features=features,
            image_columns=image_columns,
            classes=classes,
            ordered=task == "ordered",
            counts=task == "count",
            text=(0, 0) if encoder.text is None else (len(encoder.text.columns), encoder.text.width),
            photo_scores=0 if encoder.photos is None else len(encoder.photos.middle),
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows encoded by the encoder of one fold."""

    encoded: EncodedRows
    """Numbers, levels of categories, and the mean features of the photos: arrays, one row each."""
    layout: Layout
    slots: Int64[np.ndarray, "rows places"] | None = None
    """Number of the photo in each slot, -1 = none; None without photos."""
    columns: Int64[np.ndarray, " places"] | None = None
    """Image column of each slot."""
    source: ImageSource | FeatureTable | None = None
    """Features of the frozen image network by number of the photo, or pixels without a frozen one."""
    pixels: ImageSource | None = None
    """Pixels in addition to features, for models that use them."""
    device: torch.device | None = None
    """Device on which networks predict; None for their current one."""

    def __len__(self) -> int:
        return len(self.encoded)

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Rows":
        """Those rows, in that order."""
        return replace(self, encoded=self.encoded.take(rows), slots=None if self.slots is None else self.slots[rows])


@dataclass(frozen=True, kw_only=True)
class Components:
    """Principal components of photo features.

    Learnt from the rows with a photo, with their weights, after ``pareto_scale``. The result is scaled so that the
    first component has variance 1 and the others keep their proportion to it."""

    mean: Float32[np.ndarray, " d"]
    axes: Float32[np.ndarray, "components d"]

    @classmethod
    def fit(
        cls,
        photos: Float32[np.ndarray, "rows d"],
        seen: Bool[np.ndarray, " rows"],
        *,
        most: int,
        seed: int,
        weight: Float[np.ndarray, " rows"] | None = None,
    ) -> "Components":
        """Learn from the training rows with a photo; without any, there are no components.

        Of more than ``AXES_ROWS`` rows it learns from some, drawn at random.

        Args:
            most: largest number of components; fewer if the rank is lower.
            seed: seed of the approximation for many rows and features.
            weight: of each row, in any unit.
        """
        from sklearn.utils.extmath import randomized_svd, svd_flip

        rows = np.flatnonzero(seen)
        if len(rows) > AXES_ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(rows, AXES_ROWS, replace=False))
        values = photos[rows].astype(np.float64)
        if not len(values) or not np.ptp(values, axis=0).any():
            return cls(mean=np.zeros(photos.shape[1], np.float32), axes=np.zeros((0, photos.shape[1]), np.float32))
        counts = np.ones(len(values)) if weight is None else weight[rows].astype(np.float64)
        counts /= counts.sum()
        mean, scale = pareto_scale(values, counts)
        # Scaled by the root of the weights, the products of columns are the weighted covariances.
        spread = (values - mean) / scale * np.sqrt(counts)[:, None]
        if min(values.shape) <= _FEW:
            left, sizes, axes = np.linalg.svd(spread, full_matrices=False)
            left, axes = svd_flip(left, axes, u_based_decision=False)
        else:
            _, sizes, axes = randomized_svd(spread, most, random_state=seed, flip_sign=True)
        real = sizes > _ROUNDING * sizes[0]
        return cls(mean=mean.astype(np.float32), axes=(axes[real][:most] / sizes[0] / scale).astype(np.float32))

    def first(self, count: int) -> "Components":
        """Only the first ``count`` components."""
        return Components(mean=self.mean, axes=self.axes[:count])

    def apply(
        self, photos: Float32[np.ndarray, "rows d"], seen: Bool[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows components"]:
        """float64 components of any rows; 0, the mean, for rows without a photo."""
        values = np.zeros((len(photos), len(self.axes)))
        for part in whole_or_parts(photos):
            values[part] = (photos[part].astype(np.float64) - self.mean) @ self.axes.T.astype(np.float64)
        values[~seen] = 0.0
        return values

    def of(self, encoded: EncodedRows) -> Float[np.ndarray, "rows components"]:
        """float64 components of encoded rows; 0 without photos."""
        if encoded.photos is None:
            return np.zeros((len(encoded), len(self.axes)))
        return self.apply(encoded.photos, encoded.seen)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, for the state of a model."""
        return {"components.mean": self.mean, "components.axes": self.axes}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], layout: Layout) -> "Components":
        """Read the output of ``arrays``.

        Raises:
            DataError: it is invalid, or does not match the photos of these rows.
        """
        if layout.features is None:
            raise DataError("a model uses photo features, but there are none")
        mean = saved_array(arrays, "components.mean", layout.features)
        return cls(mean=mean, axes=saved_array(arrays, "components.axes", None, layout.features))


_MOST_COMPONENTS = 120
"""The largest number that any of our models uses."""
AXES_ROWS = 6_000
"""Largest number of rows that the axes are learnt from: three for each of 2,000 features, of which few are kept."""
_FEW = 600
"""Number of rows, or of features, up to which components are exact."""
_ROUNDING = 1e-6
"""Components with a smaller standard deviation relative to the first are rounding errors."""


@dataclass(frozen=True, kw_only=True)
class TrainingRows(Rows):
    """The rows of one fold to fit on."""

    unit: Int64[np.ndarray, " rows"]
    """Rows with the same number form one unit (a group, copies): inner cross-validation holds out whole units."""
    times: Times | None = None
    """Times of the rows if the folds go forward in time: inner cross-validation judges later rows by earlier ones."""
    gap: float = 0.0
    """Gap between the rows fitted on and the rows judged, in the unit of ``times``."""
    data: MixedData
    """The same rows for the Learner, with validation rows for callbacks; for networks."""
    found: dict[int, Components] = field(default_factory=dict, repr=False, compare=False)
    """Cache of components by seed."""

    @property
    def dependence(self) -> Dependence:
        """How the rows depend on each other, for inner folds."""
        return Dependence(unit=self.unit, times=self.times, gap=self.gap)

    def components(self, count: int, weight: Float[np.ndarray, " rows"] | None, seed: int) -> Components | None:
        """The first components of the photos; None without features.

        Computed once for all models of the fold, which have the same weights."""
        encoded = self.encoded
        if encoded.photos is None:
            return None
        if seed not in self.found:
            found = Components.fit(encoded.photos, encoded.seen, most=_MOST_COMPONENTS, seed=seed, weight=weight)
            self.found[seed] = found
        return self.found[seed].first(count)


@runtime_checkable
class FittedModel(Protocol):
    """A model fitted on the rows of one fold."""

    def predict(self, rows: Rows) -> np.ndarray:
        """float64: scaled numbers ``(rows,)``, or probabilities ``(rows, classes)``, which sum to 1.

        For counts, see ``Layout.counts``, logarithms of scaled expected counts."""

    def state(self) -> State:
        """The full state, for ``Model.load``: arrays of numbers without nan, and values for JSON."""


@runtime_checkable
class Model(Protocol):
    """A candidate for the blend.

    Make its settings fields of a dataclass: a resumed run fits it again if they have changed."""

    @property
    def name(self) -> str:
        """Unique name within the run; letters, digits, spaces and ``, . ( ) + -``."""

    @property
    def sees(self) -> Sees:
        """The inputs that it uses; others must not change its predictions."""

    def fit(
        self,
        rows: TrainingRows,
        truth: np.ndarray,
        weight: Float[np.ndarray, " rows"] | None,
        seed: int,
    ) -> FittedModel:
        """Fit on rows.

        Args:
            truth: scaled numbers, float32 ``(rows,)``, or class indices, int64 ``(rows,)``.
            weight: of each row, in any unit; None for equal weights.
            seed: seed for all randomness.
        """

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> FittedModel:
        """Load the output of ``FittedModel.state``, possibly from an untrusted file.

        Args:
            layout: of the rows to predict.
        Raises:
            DataError: the state is invalid, or does not match the layout.
        """


@runtime_checkable
class Trainable(Protocol):
    """A model that is trained in steps, with callbacks, and can be stopped and resumed."""

    @property
    def begins_with(self) -> str | None:
        """Name of the model whose weights, fitted on the same rows, are the starting point; None for none."""

    def ready(self, start: FittedModel | None, callbacks: Sequence[Callback], snapshot: Snapshot | None) -> Model:
        """The same model for one fit.

        Args:
            start: the fitted starting point, see ``begins_with``.
            callbacks, snapshot: callbacks of its training, and the checkpoint to resume from.
        """


@runtime_checkable
class OfAllRows(Protocol):
    """A model of which a single fit of all rows predicts new rows, in place of the mean of its folds.

    For smooth models, of which a mean of folds is no better and takes as many times as long."""

    @property
    def of_all_rows(self) -> bool:
        """Whether it is one."""


def is_of_all_rows(model: Model) -> bool:
    """Whether one fit of all rows predicts new rows, see ``OfAllRows``."""
    return isinstance(model, OfAllRows) and model.of_all_rows


@runtime_checkable
class PredictsMixed(Protocol):
    """A fitted model that encodes each part of mixed rows once, which is many times faster.

    Without this method, ``predict_mixed`` assembles every row."""

    def predict_mixed(self, rows: MixedRows) -> np.ndarray:
        """As ``FittedModel.predict``."""


@runtime_checkable
class HasImageNetwork(Protocol):
    """A fitted model that may have its own image network."""

    def own_features(self, photos: ImageFiles, cache: Cache | None, device: torch.device) -> FeatureTable | None:
        """Photo features of its own image network, for ``PredictsMixed``; None if it shares that of the blend."""


def predict_mixed(
    fitted: FittedModel, sees: Sees, rows: MixedRows, layout: Layout, pixels: ImageSource | None = None
) -> np.ndarray:
    """Predict mixed rows with any fitted model; each distinct part once for one that sees only photos, or none."""
    if isinstance(fitted, PredictsMixed):
        return fitted.predict_mixed(rows)
    table_of, photos_of = rows.table_of, rows.photos_of
    match looks(sees), bool(sees & {"table", "text"}):
        case False, _:
            table_of, back = np.arange(len(rows.numeric)), table_of
            photos_of = np.zeros_like(table_of)
        case True, False:
            photos_of, back = np.arange(len(rows.gallery.slots)), photos_of
            table_of = np.zeros_like(photos_of)
        case _:
            back = np.arange(len(table_of))
    gallery = rows.gallery
    tables, photos = rows.tables.take(table_of), rows.photos.take(photos_of)
    whole = Rows(
        encoded=replace(tables, photos=photos.photos, seen=photos.seen, photo_scores=photos.photo_scores),
        layout=layout,
        slots=gallery.slots[photos_of],
        columns=gallery.columns,
        source=gallery.features if gallery.features is not None else pixels,
        pixels=pixels,
    )
    return fitted.predict(whole)[back]


class UnknownModelError(DataError):
    """A folder has a custom model that was not passed."""


def model_named(name: str, models: Sequence[Model]) -> Model:
    """The model of that name.

    Raises:
        UnknownModelError: it is not among ``models``.
    """
    for model in models:
        if model.name == name:
            return model
    raise UnknownModelError(
        f"the blend has the model {shown(name)!r}, which is not one of mixfit's own and can only be used in Python: "
        "pass models=[...] to mixfit.predict_table, evaluate_table, explain_run, compare_runs or Predictor.load; "
        "or, if an earlier version of mixfit made it, train again."
    )


SMALL = 20_000
"""Number of rows up to which one thread is enough for models on table and photo features."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Restrict PyTorch, BLAS and OpenMP to one thread inside the block.

    For small data, threads wait for each other longer than they compute; on a busy machine one thread is many times
    faster, and results do not depend on the number of threads."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


_KINDS: dict[str, tuple[type[np.generic], ...]] = {
    "float": (np.float64, np.float32),
    "int": (np.int64,),
    "byte": (np.uint8,),
}


def saved_array(
    arrays: Mapping[str, np.ndarray],
    name: str,
    *shape: int | None,
    kind: Literal["float", "int", "byte"] = "float",
    low: float | int = -np.inf,
    high: float | int = np.inf,
) -> np.ndarray:
    """An array of a saved model, checked as the file may be damaged or untrusted.

    Args:
        shape: expected sizes; None for any.
        low, high: range of the values.
    Raises:
        DataError: it is missing or invalid.
    """
    if name not in arrays:
        raise DataError(f"the tensor {shown(name)!r} is missing")
    values = arrays[name]
    if values.dtype not in _KINDS[kind]:
        raise DataError(
            f"the tensor {shown(name)!r} has the type {values.dtype} instead of {np.dtype(_KINDS[kind][0])}"
        )
    found = values.shape
    if len(found) != len(shape) or any(want not in (None, size) for want, size in zip(shape, found, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(f"the tensor {shown(name)!r} has the shape {found} instead of ({wanted})")
    if not np.isfinite(values).all():
        raise DataError(f"the tensor {shown(name)!r} is not finite")
    if values.size and not (low <= values.min() and values.max() <= high):
        raise DataError(f"the tensor {shown(name)!r} has values out of range")
    return values


def saved_number(arrays: Mapping[str, np.ndarray], name: str) -> float:
    """An array with one number; errors as for ``saved_array``."""
    return float(saved_array(arrays, name, 1)[0])


def saved_classes(arrays: Mapping[str, np.ndarray], prefix: str = "") -> int:
    """The number of classes from the array ``classes``, 0 for regression; errors as for ``saved_array``."""
    classes = int(saved_array(arrays, f"{prefix}classes", 1, kind="int", low=0, high=10**6)[0])
    if classes == 1:
        raise DataError("there is only one class")
    return classes


def as_arrays(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, np.ndarray]:
    """Tensors whose names start with ``prefix``, by the rest of their names.

    Raises:
        DataError: a tensor has a type that NumPy lacks, such as bfloat16.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            try:
                found[name.removeprefix(prefix)] = tensor.numpy()
            except TypeError as error:
                raise DataError(f"the tensor {shown(name)!r} has the type {tensor.dtype}") from error
    return found


def as_tensors(arrays: Mapping[str, np.ndarray], model: str) -> dict[str, Tensor]:
    """The arrays of a model as tensors for safetensors.

    Raises:
        ConfigError: ``state`` of the model did not return arrays of numbers.
    """
    found = {}
    for name, values in arrays.items():
        try:
            found[str(name)] = torch.from_numpy(np.array(values, order="C"))
        except TypeError as error:
            raise ConfigError(f"{name!r} in the state of the model {model!r} is not an array of numbers.") from error
    return found
