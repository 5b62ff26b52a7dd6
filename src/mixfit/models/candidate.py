"""The models that compete: what each of them sees, and how it is fitted on the rows of one fold.

In: a ``Fold``. Out: a ``Fitted`` model, which predicts rows it has not seen and can be written down as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, assert_never

import numpy as np
import torch
from torch import Tensor, nn

from mixfit.config import ModelConfig, TrainConfig
from mixfit.errors import DataError
from mixfit.files import Within, from_plain
from mixfit.models.components import Components
from mixfit.models.encoding import EncodedRows, RowEncoder
from mixfit.models.fold import COMPONENTS, Candidate, Fitted, Fold, RowsToPredict
from mixfit.models.kernels import KernelModel, Likeness, fit_kernels
from mixfit.models.lightgbm_trees import grow_lightgbm
from mixfit.models.linear import LinearModel, design_matrix, design_width, find_knots, fit_logistic, fit_ridge
from mixfit.models.mixed import MixedRows
from mixfit.models.network import FittedNetwork, fit_network, read_network
from mixfit.models.saved import below, saved_array
from mixfit.models.tree_model import TreeModel
from mixfit.models.trees import grow_trees
from mixfit.seeding import seeded
from mixfit.training.callback import Callback
from mixfit.training.checkpoint import Snapshot

_TREE_BUDGET = 1_000
"""Most trees of a boosted model: rounds times classes."""


SimpleKind = Literal["linear", "kernels", "trees", "lightgbm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedConstant:
    """The same for every row."""

    value: np.ndarray
    """``(1,)``, or the frequencies of the classes."""
    classes: int

    def predict(self, rows: RowsToPredict) -> np.ndarray:
        """See ``Fitted``."""
        return self._repeated(len(rows.encoded))

    def predict_mixed(self, rows: MixedRows) -> np.ndarray:
        """See ``Fitted``."""
        return self._repeated(len(rows))

    def _repeated(self, count: int) -> np.ndarray:
        many = np.repeat(self.value[None], count, axis=0)
        return many if self.classes else many[:, 0]

    def tensors(self) -> dict[str, Tensor]:
        """See ``Fitted``."""
        return {"value": torch.from_numpy(self.value)}

    def describe(self) -> dict[str, Any]:
        """See ``Fitted``."""
        return {"kind": "constant", "classes": self.classes}


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSimple:
    """A linear model, kernel ridge or boosted trees, with the components of photos that it sees."""

    kind: SimpleKind
    table: bool
    components: Components | None
    cardinalities: tuple[int, ...]
    knots: np.ndarray
    """Of the numbers, for a linear model, see ``find_knots``."""
    model: LinearModel | KernelModel | TreeModel

    def predict(self, rows: RowsToPredict) -> np.ndarray:
        """See ``Fitted``."""
        encoded = rows.encoded
        if isinstance(self.model, KernelModel):
            return self.model.predict(_likeness(encoded, self.components, table=self.table))
        if isinstance(self.model, TreeModel):
            return self.model.predict(_tree_columns(encoded, self.components, table=self.table))
        return self.model.predict(self._design(encoded, _components_of(encoded, self.components), table=self.table))

    def predict_mixed(self, rows: MixedRows) -> np.ndarray:
        """See ``Fitted``."""
        table_of, photos_of = rows.table_of, rows.photos_of
        if self.components is None and isinstance(self.model, TreeModel):
            columns, every = _tree_columns(rows.tables, None, table=self.table), np.arange(len(rows.numeric))
            return self.model.predict_mixed(np.zeros((1, 0)), columns, every, np.zeros_like(every))[table_of]
        if self.components is None:
            return self.predict(RowsToPredict(encoded=rows.tables, slots=None, columns=None, source=None))[table_of]
        if not self.table:
            return self.predict(RowsToPredict(encoded=rows.photos, slots=None, columns=None, source=None))[photos_of]
        found = _components_of(rows.photos, self.components)
        assert found is not None  # there are components
        if isinstance(self.model, KernelModel):
            likeness = _likeness(rows.tables, None, table=True)
            return self.model.predict_mixed(likeness, found, table_of, photos_of)
        if isinstance(self.model, TreeModel):
            columns = np.concatenate([rows.numeric, rows.categorical], axis=1).astype(np.float64)
            return self.model.predict_mixed(found, columns, table_of, photos_of)
        # A linear model adds up what it makes of both parts.
        cells = self._design(rows.tables, None, table=True)
        photos = self._design(rows.photos, found, table=False)
        weights = np.split(self.model.weights, [cells.shape[1]])
        return self.model.linked((cells @ weights[0])[table_of] + (photos @ weights[1])[photos_of])

    def _design(self, encoded: EncodedRows, found: np.ndarray | None, *, table: bool) -> np.ndarray:
        return design_matrix(encoded, self.cardinalities, self.knots, found, table=table)

    @property
    def classes(self) -> int:
        """0 for a number."""
        return 0 if isinstance(self.model, KernelModel) else self.model.classes

    def takes(self, encoder: RowEncoder, features: int | None) -> bool:
        """Whether rows of an encoder, with photo features of this width, have the columns that were fitted."""
        numeric, cardinalities, found = encoder.numeric, encoder.cardinalities, self.components
        if self.cardinalities != cardinalities or self.knots.shape[1] != numeric:
            return False
        if found is not None and len(found.mean) != features:
            return False
        directions = None if found is None else len(found.axes)
        match self.model:
            case LinearModel():
                width = design_width(numeric, cardinalities, len(self.knots), directions, table=self.table)
                return len(self.model.weights) == width
            case KernelModel():
                train = self.model.train
                widths = (numeric, len(cardinalities)) if self.table else (0, 0)
                wanted = (*widths, directions or 0)
                found_widths = train.numbers.shape[1], train.levels.shape[1], train.photos.shape[1]
                counts = np.array(cardinalities if self.table else (), dtype=np.int64)
                return found_widths == wanted and bool(((train.levels >= 0) & (train.levels < counts)).all())
            case _:
                levels = encoder.preprocessor.cardinalities
                width = (directions or 0) + (numeric + len(levels) if self.table else 0)
                # A column of zeros stands for one that is not there, see ``_tree_columns``.
                width += found is None and not (numeric and self.table)
                first = width - (len(levels) if self.table else 0)
                lists = {place: codes for place, codes in enumerate(self.model.codes) if codes is not None}
                columns = self.model.order
                return len(columns) == width and all(columns[place] >= first for place in lists)

    def tensors(self) -> dict[str, Tensor]:
        """See ``Fitted``."""
        found = {f"model.{name}": tensor for name, tensor in self.model.tensors().items()}
        if self.components is not None:
            found["components.mean"] = torch.from_numpy(self.components.mean)
            found["components.axes"] = torch.from_numpy(np.ascontiguousarray(self.components.axes))
        return found | {"knots": torch.from_numpy(np.ascontiguousarray(self.knots))}

    def describe(self) -> dict[str, Any]:
        """See ``Fitted``."""
        return {"kind": self.kind, "table": self.table, "cardinalities": list(self.cardinalities)}


def fit_candidate(
    candidate: Candidate,
    fold: Fold,
    *,
    model: ModelConfig,
    train: TrainConfig,
    backbone: nn.Module | None = None,
    callbacks: Sequence[Callback] = (),
    snapshot: Snapshot | None = None,
    start: FittedNetwork | None = None,
) -> Fitted:
    """Fit a candidate on the rows of a fold.

    Args:
        model, train: settings of networks.
        backbone: the frozen one that made the features, which a network shares; None for networks on pixels.
        callbacks, snapshot: of the training of a network, to watch it and to go on with it.
        start: of a tuned network: the network that was fitted on features of the same rows, if there is one.
    """
    match candidate.kind:
        case "constant":
            return _fit_constant(fold)
        case "linear" | "kernels" | "trees" | "lightgbm":
            return _fit_simple(candidate, fold)
        case "network":
            with seeded(fold.seed):
                return fit_network(candidate, fold, model, train, backbone, callbacks, snapshot, start)
        case _:
            assert_never(candidate.kind)


def _fit_constant(fold: Fold) -> FittedConstant:
    """The best constant for the loss of the leaderboard; those for other metrics are in ``evaluation.baselines``."""
    if not fold.classes:
        return FittedConstant(value=np.array([np.average(fold.truth, weights=fold.weight)]), classes=0)
    return FittedConstant(value=class_frequencies(fold.truth, fold.weight, fold.classes), classes=fold.classes)


def class_frequencies(labels: np.ndarray, weight: np.ndarray | None, classes: int) -> np.ndarray:
    """Weighted shares of the classes ``(classes,)``; one that is not among the labels has nearly none."""
    counts = np.bincount(labels, weights=weight, minlength=classes) + 1e-6
    return counts / counts.sum()


def _fit_simple(candidate: Candidate, fold: Fold) -> FittedSimple:
    encoded = fold.rows.encoded.take(fold.fit_rows)
    components, knots = None, find_knots(encoded.numeric, fold.weight)
    if candidate.photos and fold.components is not None:
        components = fold.components.first(COMPONENTS[candidate.kind])
    model: LinearModel | KernelModel | TreeModel
    if candidate.kind == "kernels":
        likeness = _likeness(encoded, components, table=candidate.table)
        model = fit_kernels(likeness, fold.truth, fold.weight, unit=fold.unit, seed=fold.seed)
    elif candidate.kind in ("trees", "lightgbm"):
        model = _grow(candidate, fold, _tree_columns(encoded, components, table=candidate.table))
    else:
        columns = design_matrix(
            encoded, fold.encoder.cardinalities, knots, _components_of(encoded, components), table=candidate.table
        )
        if fold.classes:
            settings: dict[str, Any] = {"weight": fold.weight, "unit": fold.unit, "seed": fold.seed}
            model = fit_logistic(columns, fold.truth, classes=fold.classes, **settings)
        else:
            model = fit_ridge(columns, fold.truth, fold.weight, unit=fold.unit)
    kind: SimpleKind = candidate.kind  # type: ignore[assignment]
    return FittedSimple(
        kind=kind,
        table=candidate.table,
        components=components,
        cardinalities=fold.encoder.cardinalities,
        knots=knots,
        model=model,
    )


def _grow(candidate: Candidate, fold: Fold, columns: np.ndarray) -> TreeModel:
    most = _TREE_BUDGET // max(fold.classes, 1)
    settings: dict[str, Any] = {
        "levels": tuple(fold.encoder.preprocessor.cardinalities) if candidate.table else (),
        "classes": fold.classes,
        "weight": fold.weight,
        "seed": fold.seed,
    }
    if candidate.kind == "lightgbm":
        rounds, threads = max(20, min(200, 2 * most)), torch.get_num_threads()
        return grow_lightgbm(columns, fold.truth, rounds=rounds, threads=threads, **settings)
    return grow_trees(columns, fold.truth, rounds=max(10, min(100, most)), **settings)


def _components_of(encoded: EncodedRows, components: Components | None) -> np.ndarray | None:
    if components is None:
        return None
    if encoded.photos is None:
        return np.zeros((len(encoded), len(components.axes)))
    return components.apply(encoded.photos, encoded.seen)


def _likeness(encoded: EncodedRows, components: Components | None, *, table: bool) -> Likeness:
    found = _components_of(encoded, components)
    nothing = np.zeros((len(encoded), 0))
    return Likeness(
        numbers=encoded.numeric.astype(np.float64) if table else nothing,
        levels=np.concatenate([encoded.categorical, encoded.prefixes], axis=1) if table else nothing.astype(np.int64),
        photos=nothing if found is None else found,
    )


def _tree_columns(encoded: EncodedRows, components: Components | None, *, table: bool) -> np.ndarray:
    """Components and numbers, then levels; trees want at least one column."""
    found = _components_of(encoded, components)
    parts = [np.zeros((len(encoded), 1))] if found is None and not encoded.numeric.shape[1] else []
    parts += [] if found is None else [found]
    parts += [encoded.numeric, encoded.categorical] if table else []
    return np.concatenate(parts or [np.zeros((len(encoded), 1))], axis=1).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """What ``describe`` of models other than networks gives."""

    kind: Literal["constant", "linear", "kernels", "trees", "lightgbm"]
    classes: Annotated[int, Within(0, 10**6)] = 0
    table: bool = True
    cardinalities: tuple[Annotated[int, Within(1, 10**8)], ...] = ()


def read_fitted(description: dict[str, Any], tensors: dict[str, Tensor], backbone: nn.Module | None) -> Fitted:
    """Read what ``describe`` and ``tensors`` of a fitted candidate gave.

    Raises:
        DataError: it is something else, or its parts do not fit each other.
    """
    if isinstance(description, dict) and description.get("kind") == "network":
        return read_network(description, tensors, backbone)
    said: _Saved = from_plain(_Saved, description, "a model", finite=True)
    if said.kind == "constant":
        return FittedConstant(value=saved_array(tensors, "value", max(said.classes, 1)), classes=said.classes)
    knots, components = saved_array(tensors, "knots", None, None), None
    if "components.mean" in tensors:
        mean = saved_array(tensors, "components.mean", None)
        components = Components(mean=mean, axes=saved_array(tensors, "components.axes", None, len(mean)))
    kinds: dict[str, Any] = {"linear": LinearModel, "kernels": KernelModel, "trees": TreeModel, "lightgbm": TreeModel}
    return FittedSimple(
        kind=said.kind,
        table=said.table,
        components=components,
        cardinalities=said.cardinalities,
        knots=knots,
        model=kinds[said.kind].from_tensors(below(tensors, "model.")),
    )


def check_fits(fitted: Fitted, encoder: RowEncoder, *, classes: int, features: int | None) -> None:
    """Whether a model that was read takes the rows of an encoder, and gives what the target wants.

    Args:
        classes: of the target; 0 for a number.
        features: width of the features of photos; None where there are none.
    Raises:
        DataError: it does not.
    """
    match fitted:
        case FittedConstant():
            fits = fitted.classes == classes
        case FittedSimple():
            fits = fitted.takes(encoder, features) and fitted.classes == classes
        case FittedNetwork():
            fits = fitted.takes(encoder, features) and fitted.classes == classes
        case _:
            raise DataError("a model is of no known kind")
    if not fits:
        raise DataError("a model does not fit the columns, the photos or the classes")
