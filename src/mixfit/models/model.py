"""What competes: the protocol of a model, the rows that it is fitted on and predicts, and what it leaves behind.

A model says what it ``sees`` of a row, is fitted on the encoded rows of one fold, and reads again what a fitted one has
written down. It knows neither frames nor folds, folders or consoles. One of a user joins the models of a preset by
``mixfit.fit(..., models=[...])``; it may learn from ``Rows.encoded`` alone, as all of ours but the networks do."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from mixfit.data.dataset import FeatureTable, ImageSource
from mixfit.data.load import MixedData
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import ImageFiles
from mixfit.errors import ConfigError, DataError
from mixfit.files import shown
from mixfit.models.encoding import EncodedRows, RowEncoder
from mixfit.models.mixed import MixedRows
from mixfit.training.callback import Callback
from mixfit.training.checkpoint import Snapshot

Part = Literal["table", "photos", "pixels"]
"""What a model may see of a row: its cells, what the frozen image network makes of its photos, their pixels."""
Sees = frozenset[Part]
State = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Arrays of numbers by name, and what else is needed, for JSON: all that there is to a fitted model."""
TABLE: Sees = frozenset({"table"})
PHOTOS: Sees = frozenset({"photos"})
PIXELS: Sees = frozenset({"pixels"})
BOTH: Sees = TABLE | PHOTOS


def looks(sees: Sees) -> bool:
    """Whether photos are seen in any way."""
    return bool(sees & {"photos", "pixels"})


def name_of(what: str, sees: Sees) -> str:
    """As people read it, such as ``linear, table and photos``."""
    seen = " and ".join([*["table"] * ("table" in sees), *["photos"] * looks(sees)])
    return f"{what}, {seen}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the encoded rows of one fold look like, and what is predicted."""

    numeric: int
    """Columns of ``EncodedRows.numeric``."""
    cardinalities: tuple[int, ...]
    """Levels of each column of ``categorical`` and then of ``prefixes``, level 0 (missing or unseen) included."""
    categories: int
    """Columns of ``categorical``."""
    features: int | None
    """Columns of ``photos``; None where there are none."""
    image_columns: int
    """Columns of the table that name photos."""
    classes: int
    """0 for a number."""

    @classmethod
    def of(cls, encoder: RowEncoder, *, features: int | None, image_columns: int, classes: int) -> "Layout":
        """That of the rows of an encoder."""
        return cls(
            numeric=encoder.numeric,
            cardinalities=encoder.cardinalities,
            categories=len(encoder.preprocessor.cardinalities),
            features=features,
            image_columns=image_columns,
            classes=classes,
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows by the encoder of one fold."""

    encoded: EncodedRows
    """Numbers, levels of categories, and the mean features of the photos: arrays, one row each."""
    layout: Layout
    slots: Int64[np.ndarray, "rows places"] | None = None
    """Number of the photo in each place, -1 = none; None without photos."""
    columns: Int64[np.ndarray, " places"] | None = None
    """Image column of each place."""
    source: ImageSource | FeatureTable | None = None
    """Features of the frozen image network by number of the photo, or pixels where there is none."""
    pixels: ImageSource | None = None
    """Pixels beside features, for models that see them."""
    device: torch.device | None = None
    """Where networks predict; None: where they are."""

    def __len__(self) -> int:
        return len(self.encoded)

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Rows":
        """Those rows, in that order."""
        return replace(self, encoded=self.encoded.take(rows), slots=None if self.slots is None else self.slots[rows])


@dataclass(frozen=True, kw_only=True)
class Components:
    """Principal components of photo features: few directions that hold most of the differences.

    Learnt from the rows that have a photo, weighted as these are. The result is scaled so that the first component has
    variance 1 and the others keep their proportion to it."""

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
        """Learn from the training rows with a photo; none of them are no directions.

        Args:
            most: directions; fewer where the rows differ in fewer.
            seed: of the approximation that is used where there are many rows and many numbers.
            weight: how much each row counts, in any unit.
        """
        from sklearn.utils.extmath import randomized_svd, svd_flip

        values = photos[seen].astype(np.float64)
        if not len(values) or not np.ptp(values, axis=0).any():
            return cls(mean=np.zeros(photos.shape[1], np.float32), axes=np.zeros((0, photos.shape[1]), np.float32))
        counts = np.ones(len(values)) if weight is None else weight[seen].astype(np.float64)
        counts /= counts.sum()
        mean = counts @ values
        # Rows times the root of their share: the products of these columns are the weighted covariances.
        spread = (values - mean) * np.sqrt(counts)[:, None]
        if min(values.shape) <= _FEW:
            left, sizes, axes = np.linalg.svd(spread, full_matrices=False)
            left, axes = svd_flip(left, axes, u_based_decision=False)
        else:
            _, sizes, axes = randomized_svd(spread, most, random_state=seed, flip_sign=True)
        real = sizes > _ROUNDING * sizes[0]
        return cls(mean=mean.astype(np.float32), axes=(axes[real][:most] / sizes[0]).astype(np.float32))

    def first(self, count: int) -> "Components":
        """Only the first ``count`` directions."""
        return Components(mean=self.mean, axes=self.axes[:count])

    def apply(
        self, photos: Float32[np.ndarray, "rows d"], seen: Bool[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows components"]:
        """float64 components of any rows; 0, the mean, for rows without a photo."""
        values = (photos.astype(np.float64) - self.mean) @ self.axes.T.astype(np.float64)
        values[~seen] = 0.0
        return values

    def of(self, encoded: EncodedRows) -> Float[np.ndarray, "rows components"]:
        """float64 components of encoded rows; 0 where none of them has a photo."""
        if encoded.photos is None:
            return np.zeros((len(encoded), len(self.axes)))
        return self.apply(encoded.photos, encoded.seen)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, for the state of a model."""
        return {"components.mean": self.mean, "components.axes": self.axes}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], layout: Layout) -> "Components":
        """Read what ``arrays`` gave.

        Raises:
            DataError: it is something else, or not of the photos of these rows.
        """
        if layout.features is None:
            raise DataError("a model sees photos, and there are no features of photos")
        mean = saved_array(arrays, "components.mean", layout.features)
        return cls(mean=mean, axes=saved_array(arrays, "components.axes", None, layout.features))


_MOST_COMPONENTS = 120
"""As many as any of our models wants."""
_FEW = 600
"""Up to so many rows, or numbers of each, the directions are exact."""
_ROUNDING = 1e-6
"""A direction whose standard deviation is a smaller share of that of the first is made of rounding errors."""


@dataclass(frozen=True, kw_only=True)
class TrainingRows(Rows):
    """The rows of one fold to fit on."""

    unit: Int64[np.ndarray, " rows"]
    """Rows with the same number belong together (a group, copies): what is chosen by leaving rows out leaves out whole
    units."""
    data: MixedData
    """The same rows as the Learner takes them, with those that callbacks may choose by; for networks."""
    found: dict[int, Components] = field(default_factory=dict, repr=False, compare=False)
    """Components by seed, as soon as a model has asked for them."""

    def components(self, count: int, weight: Float[np.ndarray, " rows"] | None, seed: int) -> Components | None:
        """The first components of the photos; None without features.

        They are found once for all models of the fold, which have the same weights."""
        encoded = self.encoded
        if encoded.photos is None:
            return None
        if seed not in self.found:
            found = Components.fit(encoded.photos, encoded.seen, most=_MOST_COMPONENTS, seed=seed, weight=weight)
            self.found[seed] = found
        return self.found[seed].first(count)


@runtime_checkable
class FittedModel(Protocol):
    """What was fitted on the rows of one fold."""

    def predict(self, rows: Rows) -> np.ndarray:
        """float64: scaled numbers ``(rows,)``, or probabilities ``(rows, classes)``, which sum to 1."""

    def state(self) -> State:
        """All that there is to it, for ``Model.load``: arrays of numbers without nan, and what JSON can say."""


@runtime_checkable
class Model(Protocol):
    """A model that competes.

    What it is made with is best the fields of a dataclass: a resumed run fits it again when they have changed."""

    @property
    def name(self) -> str:
        """Which no other model of the run has; letters, digits, spaces and ``, . ( ) + -``."""

    @property
    def sees(self) -> Sees:
        """What it looks at; what it does not see may not change its predictions."""

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
            weight: how much each row counts, in any unit; None for all alike.
            seed: of all that is random.
        """

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> FittedModel:
        """Read what ``FittedModel.state`` gave, maybe out of a file of a stranger.

        Args:
            layout: of the rows that it will predict.
        Raises:
            DataError: it is something else, or not for such rows.
        """


@runtime_checkable
class Trainable(Protocol):
    """A model that learns step by step, and so can be watched, stopped and resumed."""

    @property
    def begins_with(self) -> str | None:
        """Name of the model whose fitted one, of the same rows, it goes on from; None: it begins anew."""

    def ready(self, start: FittedModel | None, callbacks: Sequence[Callback], snapshot: Snapshot | None) -> Model:
        """The same model for one fit.

        Args:
            start: from which it goes on, see ``begins_with``.
            callbacks, snapshot: that watch its training, and where this goes on after it was stopped.
        """


@runtime_checkable
class PredictsMixed(Protocol):
    """A fitted model that does once for each part of mixed rows what it can, and so is many times faster on these.

    Where there is no such method, ``predict_mixed`` puts every row together."""

    def predict_mixed(self, rows: MixedRows) -> np.ndarray:
        """As ``FittedModel.predict``."""


@runtime_checkable
class HasImageNetwork(Protocol):
    """A fitted model that may have an image network of its own."""

    def own_features(self, photos: ImageFiles, cache: Cache | None, device: torch.device) -> FeatureTable | None:
        """What its own image network makes of photos, for ``PredictsMixed``; None where it shares that of the blend."""


def predict_mixed(
    fitted: FittedModel, sees: Sees, rows: MixedRows, layout: Layout, pixels: ImageSource | None = None
) -> np.ndarray:
    """What any fitted model predicts for mixed rows: each distinct part once, where it sees but one of the two."""
    if isinstance(fitted, PredictsMixed):
        return fitted.predict_mixed(rows)
    table_of, photos_of = rows.table_of, rows.photos_of
    match looks(sees), "table" in sees:
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
        encoded=replace(tables, photos=photos.photos, seen=photos.seen),
        layout=layout,
        slots=gallery.slots[photos_of],
        columns=gallery.columns,
        source=gallery.features if gallery.features is not None else pixels,
        pixels=pixels,
    )
    return fitted.predict(whole)[back]


class UnknownModelError(DataError):
    """A folder holds a model that is neither one of ours nor was passed."""


def model_named(name: str, models: Sequence[Model]) -> Model:
    """The one of that name.

    Raises:
        UnknownModelError: there is none.
    """
    for model in models:
        if model.name == name:
            return model
    raise UnknownModelError(
        f"the blend has the model {shown(name)!r}, which is none of this mixfit's own: pass it as "
        "Predictor.load(folder, models=[...]), or train again."
    )


SMALL = 20_000
"""Rows up to which one thread is enough for models on a table and on features of photos."""


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch, BLAS and OpenMP take one thread inside, and as many as before afterwards.

    Many threads would wait for each other longer than they compute: the same results, on a busy machine many times
    sooner, and the same bits whatever the number of threads of the machine."""
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
    """One of the arrays of a saved model, out of a file that may be damaged or come from a stranger.

    Args:
        shape: sizes; None for one that this array decides.
        low, high: least and largest number.
    Raises:
        DataError: it is missing, or is something else.
    """
    if name not in arrays:
        raise DataError(f"there is no tensor {shown(name)!r}")
    values = arrays[name]
    if values.dtype not in _KINDS[kind]:
        raise DataError(f"the tensor {shown(name)!r} holds {values.dtype} in place of {np.dtype(_KINDS[kind][0])}")
    found = values.shape
    if len(found) != len(shape) or any(want not in (None, size) for want, size in zip(shape, found, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(f"the tensor {shown(name)!r} has the shape {found} in place of ({wanted})")
    if not np.isfinite(values).all():
        raise DataError(f"the tensor {shown(name)!r} is not finite")
    if values.size and not (low <= values.min() and values.max() <= high):
        raise DataError(f"the tensor {shown(name)!r} has a number out of its range")
    return values


def saved_number(arrays: Mapping[str, np.ndarray], name: str) -> float:
    """An array of one number; errors as for ``saved_array``."""
    return float(saved_array(arrays, name, 1)[0])


def saved_classes(arrays: Mapping[str, np.ndarray], prefix: str = "") -> int:
    """The array ``classes``: their number, 0 for a number; errors as for ``saved_array``."""
    classes = int(saved_array(arrays, f"{prefix}classes", 1, kind="int", low=0, high=10**6)[0])
    if classes == 1:
        raise DataError("there is only one class")
    return classes


def as_arrays(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, np.ndarray]:
    """Tensors of a file whose names begin so, by the rest of their names.

    Raises:
        DataError: they hold numbers that NumPy does not know, such as bfloat16.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            try:
                found[name.removeprefix(prefix)] = tensor.numpy()
            except TypeError as error:
                raise DataError(f"the tensor {shown(name)!r} holds {tensor.dtype}") from error
    return found


def as_tensors(arrays: Mapping[str, np.ndarray], model: str) -> dict[str, Tensor]:
    """The arrays of a model as a file of safetensors takes them.

    Raises:
        ConfigError: ``state`` of the model gave something else than arrays of numbers.
    """
    found = {}
    for name, values in arrays.items():
        try:
            found[str(name)] = torch.from_numpy(np.array(values, order="C"))
        except TypeError as error:
            raise ConfigError(
                f"The state of the model {model!r} has {name!r}, which is no array of numbers."
            ) from error
    return found
