"""The models that compete: what each of them sees, and how it is fitted on the rows of one fold.

In: a ``Fold``. Out: a ``Fitted`` model, which predicts rows it has not seen and can be written down as arrays."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, assert_never, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from mixfit.candidates.components import Components
from mixfit.candidates.encoding import EncodedRows, RowEncoder
from mixfit.candidates.kernels import KernelModel, Likeness, fit_kernels
from mixfit.candidates.linear import LinearModel, design_matrix, find_knots, fit_logistic, fit_ridge
from mixfit.candidates.trees import TreeModel, grow_trees
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.dataset import FeatureTable, MixedDataset
from mixfit.data.image_source import ImageSource
from mixfit.data.load import MixedData
from mixfit.data.loader import DataLoader
from mixfit.data.preprocess import TablePreprocessor
from mixfit.data.sampler import SequentialSampler
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.model import MixedInputModel
from mixfit.training.build import build_model, model_shape, sized_for
from mixfit.training.callback import Callback
from mixfit.training.choose import choose_optimizer, loss_for
from mixfit.training.learner import Learner
from mixfit.training.snapshot import Snapshot

Kind = Literal["constant", "linear", "kernels", "trees", "network"]
_COMPONENTS = {"linear": 60, "kernels": 120, "trees": 30}
"""Directions of the photos' features that each kind of model sees."""
_TREE_BUDGET = 1_000
"""Most trees of a boosted model: rounds times classes."""
_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A kind of model and what it sees."""

    kind: Kind
    table: bool = True
    photos: bool = False

    @property
    def name(self) -> str:
        """As people read it."""
        if self.kind == "constant":
            return "constant"
        called = {"linear": "linear", "kernels": "kernel ridge", "trees": "boosted trees", "network": "network"}
        seen = "table and photos" if self.table and self.photos else "photos" if self.photos else "table"
        return f"{called[self.kind]}, {seen}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsToPredict:
    """Rows by the encoder of one fold, for simple models and for networks."""

    encoded: EncodedRows
    slots: np.ndarray | None
    columns: np.ndarray | None
    source: ImageSource | FeatureTable | None
    """Features of the frozen backbone, or pixels for networks that have a backbone of their own."""

    def take(self, rows: np.ndarray) -> "RowsToPredict":
        """Those rows, in that order."""
        return replace(self, encoded=self.encoded.take(rows), slots=None if self.slots is None else self.slots[rows])


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What candidates are fitted on: the rows ``data.split.train``; all that is fitted comes from these alone."""

    data: MixedData
    """With features in place of pixels, preprocessed by ``encoder.preprocessor``."""
    encoder: RowEncoder
    rows: RowsToPredict
    """All rows of the table."""
    seed: int

    @property
    def fit_rows(self) -> np.ndarray:
        """Positions of the rows to fit on."""
        return self.data.split.train

    @cached_property
    def components(self) -> Components | None:
        """Of the photos of the rows to fit on, as many as any candidate wants."""
        encoded = self.rows.encoded.take(self.fit_rows)
        if encoded.photos is None:
            return None
        return Components.fit(encoded.photos, encoded.seen, most=max(_COMPONENTS.values()), seed=self.seed)

    @property
    def truth(self) -> np.ndarray:
        """Scaled numbers or class indices of the rows to fit on."""
        return self.data.arrays.target.numpy()[self.fit_rows]

    @property
    def weight(self) -> np.ndarray | None:
        """How much each row to fit on counts."""
        return None if self.data.arrays.weight is None else self.data.arrays.weight.numpy()[self.fit_rows]

    @property
    def classes(self) -> int:
        """0 for a number."""
        return 0 if self.data.target.classes is None else len(self.data.target.classes)


@runtime_checkable
class Fitted(Protocol):
    """A fitted candidate."""

    def predict(self, rows: RowsToPredict) -> np.ndarray:
        """float64: scaled numbers ``(rows,)``, or probabilities ``(rows, classes)``."""

    def tensors(self) -> dict[str, Tensor]:
        """All of its arrays."""

    def describe(self) -> dict[str, Any]:
        """What is needed beside the arrays to read it again, for JSON; ``kind`` says which model it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedConstant:
    """The same for every row."""

    value: np.ndarray
    """``(1,)``, or the frequencies of the classes."""
    classes: int

    def predict(self, rows: RowsToPredict) -> np.ndarray:
        """See ``Fitted``."""
        many = np.repeat(self.value[None], len(rows.encoded), axis=0)
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

    kind: Literal["linear", "kernels", "trees"]
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
        found = _components_of(encoded, self.components)
        return self.model.predict(design_matrix(encoded, self.cardinalities, self.knots, found, table=self.table))

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedNetwork:
    """A network on features of the frozen backbone, which the whole blend has but once, or on pixels."""

    model: MixedInputModel
    shape: ModelShape
    config: ModelConfig
    table: bool
    classes: int
    own_backbone: bool
    """It was trained on pixels, and so its backbone is like no other."""

    def predict(self, rows: RowsToPredict) -> np.ndarray:
        """See ``Fitted``."""
        encoded = rows.encoded
        device = next(self.model.head.parameters()).device
        numeric, categorical = torch.from_numpy(encoded.numeric), torch.from_numpy(encoded.categorical)
        if not self.table:
            numeric, categorical = numeric[:, :0], categorical[:, :0]
        see = self.shape.photos and rows.slots is not None and rows.source is not None
        dataset = MixedDataset(
            numeric=numeric,
            categorical=categorical,
            target=torch.zeros(len(encoded)),
            rows=torch.arange(len(encoded)),
            slots=torch.from_numpy(rows.slots) if see and rows.slots is not None else None,
            columns=torch.from_numpy(rows.columns) if see and rows.columns is not None else None,
            photos=rows.source if see else None,
        )
        loader = DataLoader(dataset, SequentialSampler(len(encoded), _BATCH), device=device)
        self.model.eval()
        with torch.inference_mode():
            outputs = [self.model(xb).double().cpu() for xb, _ in loader]
        found = torch.cat([torch.zeros((0, self.classes) if self.classes else (0,)), *outputs])
        return (found.softmax(1) if self.classes else found).numpy()

    def tensors(self) -> dict[str, Tensor]:
        """See ``Fitted``; without the backbone that is shared."""
        state = self.model.state_dict()
        return {
            name: tensor.detach().cpu()
            for name, tensor in state.items()
            if self.own_backbone or not name.startswith(_BACKBONE)
        }

    def describe(self) -> dict[str, Any]:
        """See ``Fitted``."""
        return {
            "kind": "network",
            "shape": asdict(self.shape),
            "model": asdict(self.config),
            "table": self.table,
            "classes": self.classes,
            "own_backbone": self.own_backbone,
        }


_BACKBONE = "image.backbone."


def fit_candidate(
    candidate: Candidate,
    fold: Fold,
    *,
    model: ModelConfig,
    train: TrainConfig,
    backbone: nn.Module | None = None,
    callbacks: Sequence[Callback] = (),
    snapshot: Snapshot | None = None,
) -> Fitted:
    """Fit a candidate on the rows of a fold.

    Args:
        model, train: settings of networks.
        backbone: the frozen one that made the features, which a network shares; None for networks on pixels.
        callbacks, snapshot: of the training of a network, to watch it and to go on with it.
    """
    match candidate.kind:
        case "constant":
            return _fit_constant(fold)
        case "linear" | "kernels" | "trees":
            return _fit_simple(candidate, fold)
        case "network":
            return _fit_network(candidate, fold, model, train, backbone, callbacks, snapshot)
        case _:
            assert_never(candidate.kind)


def _fit_constant(fold: Fold) -> FittedConstant:
    if not fold.classes:
        return FittedConstant(value=np.array([np.average(fold.truth, weights=fold.weight)]), classes=0)
    counts = np.bincount(fold.truth, weights=fold.weight, minlength=fold.classes) + 1e-6
    return FittedConstant(value=counts / counts.sum(), classes=fold.classes)


def _fit_simple(candidate: Candidate, fold: Fold) -> FittedSimple:
    encoded = fold.rows.encoded.take(fold.fit_rows)
    components, knots = None, find_knots(encoded.numeric)
    if candidate.photos and fold.components is not None:
        components = fold.components.first(_COMPONENTS[candidate.kind])
    model: LinearModel | KernelModel | TreeModel
    if candidate.kind == "kernels":
        likeness = _likeness(encoded, components, table=candidate.table)
        model = fit_kernels(likeness, fold.truth, fold.weight, seed=fold.seed)
    elif candidate.kind == "trees":
        columns = _tree_columns(encoded, components, table=candidate.table)
        levels = fold.encoder.preprocessor.cardinalities if candidate.table else ()
        model = grow_trees(
            columns,
            fold.truth,
            levels=tuple(levels),
            classes=fold.classes,
            weight=fold.weight,
            rounds=max(10, min(100, _TREE_BUDGET // max(fold.classes, 1))),
            seed=fold.seed,
        )
    else:
        columns = design_matrix(
            encoded, fold.encoder.cardinalities, knots, _components_of(encoded, components), table=candidate.table
        )
        if fold.classes:
            model = fit_logistic(columns, fold.truth, classes=fold.classes, weight=fold.weight, seed=fold.seed)
        else:
            model = fit_ridge(columns, fold.truth, fold.weight)
    kind: Literal["linear", "kernels", "trees"] = candidate.kind  # type: ignore[assignment]
    return FittedSimple(
        kind=kind,
        table=candidate.table,
        components=components,
        cardinalities=fold.encoder.cardinalities,
        knots=knots,
        model=model,
    )


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


def restricted(data: MixedData, *, table: bool, photos: bool) -> MixedData:
    """The same data without the columns of the table, or without the photos."""
    arrays, preprocessor = data.arrays, data.preprocessor
    if not table:
        arrays = replace(arrays, numeric=arrays.numeric[:, :0], categorical=arrays.categorical[:, :0])
        preprocessor = TablePreprocessor((), (), ())
    if photos:
        return replace(data, arrays=arrays, preprocessor=preprocessor)
    arrays = replace(arrays, slots=None)
    return replace(data, arrays=arrays, preprocessor=preprocessor, photos=None, source=None)


def _fit_network(
    candidate: Candidate,
    fold: Fold,
    model_config: ModelConfig,
    train_config: TrainConfig,
    backbone: nn.Module | None,
    callbacks: Sequence[Callback],
    snapshot: Snapshot | None,
) -> FittedNetwork:
    data = restricted(fold.data, table=candidate.table, photos=candidate.photos)
    if candidate.photos and candidate.table and backbone is not None and model_config.tabular == "tabm":
        # Beside features of photos an MLP does better than an ensemble, in half the time (docs/LOG.md).
        model_config = replace(model_config, tabular="mlp")
    config = sized_for(data, model_config)
    network = build_model(data, config, seed=fold.seed)
    share_backbone(network, backbone)
    chosen = choose_optimizer(train_config)
    learner = Learner(
        network,
        data,
        loss=loss_for(data, train_config.loss),
        optimizer=chosen.make,
        callbacks=callbacks,
        weight_decay=chosen.weight_decay,
        device=data.device,
    )
    fit_epochs: Callable[..., Any] = learner.fit_one_cycle if chosen.one_cycle else learner.fit
    fit_epochs(train_config.epochs, chosen.lr, resume=snapshot)
    return FittedNetwork(
        model=network.eval(),
        shape=model_shape(data, config),
        config=config,
        table=candidate.table,
        classes=fold.classes,
        own_backbone=candidate.photos and backbone is None,
    )


def share_backbone(network: MixedInputModel, backbone: nn.Module | None) -> None:
    """Let a network use a backbone that is there already, so that many networks hold it but once."""
    if network.image is not None and backbone is not None:
        network.image.backbone = backbone


def read_fitted(description: dict[str, Any], tensors: dict[str, Tensor], backbone: nn.Module | None) -> Fitted:
    """Read what ``describe`` and ``tensors`` of a fitted candidate gave.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError, DataError: it is something else.
    """
    kind = description["kind"]
    if kind == "constant":
        return FittedConstant(value=tensors["value"].numpy(), classes=int(description["classes"]))
    if kind == "network":
        shape, config = ModelShape(**_tuples(description["shape"])), ModelConfig(**_tuples(description["model"]))
        network = make_model(shape, config, pretrained=False)
        own = bool(description["own_backbone"])
        if not own:
            share_backbone(network, backbone)
        missing, unexpected = network.load_state_dict(tensors, strict=False)
        if unexpected or any(own or not name.startswith(_BACKBONE) for name in missing):
            raise ValueError(f"{len(missing) + len(unexpected)} tensors of a network are missing or too many")
        return FittedNetwork(
            model=network.eval(),
            shape=shape,
            config=config,
            table=bool(description["table"]),
            classes=int(description["classes"]),
            own_backbone=own,
        )
    models: dict[str, Any] = {"linear": LinearModel, "kernels": KernelModel, "trees": TreeModel}
    inner = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    components = None
    if "components.mean" in tensors:
        components = Components(mean=tensors["components.mean"].numpy(), axes=tensors["components.axes"].numpy())
    return FittedSimple(
        kind=kind,
        table=bool(description["table"]),
        components=components,
        cardinalities=tuple(int(count) for count in description["cardinalities"]),
        knots=tensors["knots"].numpy(),
        model=models[kind].from_tensors(inner),
    )


def _tuples(value: Any) -> Any:
    """JSON has lists where the settings have tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
