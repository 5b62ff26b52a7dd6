"""Networks among the candidates: on features of the frozen backbone, on pixels, or with its last blocks tuned."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.batch import Inputs
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.dataset import FeatureTable, MixedDataset
from mixfit.data.load import MixedData
from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler
from mixfit.errors import ConfigError, DataError
from mixfit.files import Within, from_plain
from mixfit.models.encoding import RowEncoder
from mixfit.models.fold import Candidate, Fold, RowsToPredict
from mixfit.models.mixed import MixedRows
from mixfit.nn.build import ModelShape, make_saved_model
from mixfit.nn.freezing import blocks, freeze
from mixfit.nn.model import MixedInputModel
from mixfit.training.build import build_model, model_shape, sized_for
from mixfit.training.callback import Callback
from mixfit.training.checkpoint import Snapshot
from mixfit.training.choose import choose_optimizer, loss_for
from mixfit.training.learner import Learner

_BACKBONE = "image.backbone."
_BATCH = 64
TUNED_EPOCHS = 4
"""Most passes over the training rows on pixels."""
_TUNED_BLOCKS = 2
"""Last blocks of the backbone that learn."""
_TUNED_RATE, _TUNED_BACKBONE_RATE = 0.3, 0.1
"""Shares of the learning rate: of all that learns in tuning, and of that for the backbone."""


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
    changed: tuple[str, ...] | None = None
    """Tensors of a backbone of its own that are not those of the shared one, where it began; None: it did not."""

    def predict(self, rows: RowsToPredict) -> np.ndarray:
        """See ``Fitted``."""
        encoded = rows.encoded
        device = next(self.model.head.parameters()).device
        numeric, categorical = torch.from_numpy(encoded.numeric), torch.from_numpy(encoded.categorical)
        if not self.table:
            numeric, categorical = numeric[:, :0], categorical[:, :0]
        photos = rows.pixels if self.own_backbone and isinstance(rows.source, FeatureTable) else rows.source
        see = self.shape.photos and rows.slots is not None and rows.source is not None
        if see and photos is None:
            raise ConfigError("A tuned network needs pixels beside features: hand both to it.")
        dataset = MixedDataset(
            numeric=numeric,
            categorical=categorical,
            target=torch.zeros(len(encoded)),
            rows=torch.arange(len(encoded)),
            slots=torch.from_numpy(rows.slots) if see and rows.slots is not None else None,
            columns=torch.from_numpy(rows.columns) if see and rows.columns is not None else None,
            photos=photos if see else None,
        )
        loader = DataLoader(dataset, SequentialSampler(len(encoded), _BATCH), device=device)
        self.model.eval()
        with torch.inference_mode():
            outputs = [self.model(xb).double().cpu() for xb, _ in loader]
        found = torch.cat([torch.zeros((0, self.classes) if self.classes else (0,)), *outputs])
        return (found.softmax(1) if self.classes else found).numpy()

    def takes(self, encoder: RowEncoder, features: int | None) -> bool:
        """Whether it was made for the columns of an encoder, and for photo features of this width."""
        preprocessor, shape = encoder.preprocessor, self.shape
        columns = (encoder.numeric, preprocessor.cardinalities) if self.table else (0, ())
        image = self.model.image
        return (shape.numeric, shape.cardinalities) == columns and (
            image is None or self.own_backbone or image.num_features == features
        )

    def predict_mixed(self, rows: MixedRows) -> np.ndarray:
        """See ``Fitted``; a network on pixels wants features of its own image encoder."""
        numeric, categorical = rows.numeric, rows.categorical
        if not self.table:
            numeric, categorical = numeric[:, :0], categorical[:, :0]
        found = mixed_outputs(self.model, numeric, categorical, rows)
        return (found.softmax(1) if self.classes else found).numpy()

    def tensors(self) -> dict[str, Tensor]:
        """See ``Fitted``; without what the backbone that is shared has."""
        state = self.model.state_dict()
        return {
            name: tensor.detach().cpu()
            for name, tensor in state.items()
            if not name.startswith(_BACKBONE) or (self.own_backbone and (self.changed is None or name in self.changed))
        }

    def describe(self) -> dict[str, Any]:
        """See ``Fitted``."""
        return {
            "kind": "network",
            "shape": asdict(self.shape),
            "model": self.config.to_dict(),
            "table": self.table,
            "classes": self.classes,
            "own_backbone": self.own_backbone,
            "tuned": self.changed is not None,
        }


def mixed_outputs(
    model: MixedInputModel, numeric: np.ndarray, categorical: np.ndarray, rows: MixedRows
) -> Float64[Tensor, "rows ..."]:
    """Raw outputs of a network for mixed rows, on the CPU.

    Args:
        numeric, categorical: of the table parts, as the network takes them.
        rows: with features of the network's image encoder, where it has one.
    """
    gallery, device = rows.gallery, next(model.head.parameters()).device
    tables = Inputs(
        numeric=torch.from_numpy(numeric),
        categorical=torch.from_numpy(categorical),
        rows=torch.arange(len(numeric)),
    )
    dataset = MixedDataset(
        numeric=tables.numeric.new_zeros(len(gallery.slots), 0),
        categorical=tables.categorical.new_zeros(len(gallery.slots), 0),
        target=torch.zeros(len(gallery.slots)),
        rows=torch.arange(len(gallery.slots)),
        slots=None if gallery.features is None else torch.from_numpy(gallery.slots),
        columns=None if gallery.features is None else torch.from_numpy(gallery.columns),
        photos=gallery.features,
    )
    galleries, _ = dataset.__getitems__(dataset.rows)
    if galleries.image_mask is None:
        galleries.image_mask = torch.zeros(len(galleries), 0, dtype=torch.bool)
    places = [torch.from_numpy(part).to(device) for part in (rows.table_of, rows.photos_of)]
    if model.training:  # setting a mode takes longer than a small network
        model.eval()
    with torch.inference_mode():
        return model.forward_mixed(tables.to(device), galleries.to(device), *places).double().cpu()


def restricted(data: MixedData, *, table: bool, photos: bool) -> MixedData:
    """The same data without the columns of the table, or without the photos."""
    arrays, preprocessor = data.arrays, data.preprocessor
    if not table:
        arrays = replace(arrays, numeric=arrays.numeric[:, :0], categorical=arrays.categorical[:, :0])
        preprocessor = TablePreprocessor((), (), ())
    if photos:
        return replace(data, arrays=arrays, preprocessor=preprocessor)
    arrays = replace(arrays, slots=None)
    return replace(data, arrays=arrays, preprocessor=preprocessor, photos=None)


def fit_network(
    candidate: Candidate,
    fold: Fold,
    model_config: ModelConfig,
    train_config: TrainConfig,
    backbone: nn.Module | None,
    callbacks: Sequence[Callback],
    snapshot: Snapshot | None,
    start: "FittedNetwork | None" = None,
) -> FittedNetwork:
    """Train a network on the rows of a fold; its weights, and what is random in training, come from PyTorch's global
    generators.

    Args:
        start: of a tuned network: the one that was fitted on features of the same rows, from which it goes on.
    """
    data = restricted(fold.data, table=candidate.table, photos=candidate.photos)
    if train_config.batch_size is not None:  # else the one that suits the rows of the fold
        data = replace(data, batch_size=train_config.batch_size)
    if candidate.tuned and data.photos is not None:
        data = replace(data, photos=replace(data.photos, decoder=fold.rows.pixels, features=None, cache=None))
    if takes_mlp(candidate, on_features=backbone is not None) and model_config.tabular == "tabm":
        model_config = replace(model_config, tabular="mlp")
    config = sized_for(data, model_config)
    if candidate.tuned and backbone is not None:
        free = min(_TUNED_BLOCKS, len(blocks(backbone)))
        config = replace(config, freeze_backbone=True, train_blocks=free)
    network = build_model(data, config)
    if candidate.tuned:
        _begin_at(network, backbone, start)
    else:
        share_backbone(network, backbone)
    chosen = choose_optimizer(train_config)
    rate = _TUNED_RATE if candidate.tuned and start is not None else 1.0
    learner = Learner(
        network,
        data,
        loss=loss_for(data, train_config.loss),
        optimizer=chosen.make,
        callbacks=callbacks,
        weight_decay=chosen.weight_decay,
        rates={_BACKBONE.rstrip("."): _TUNED_BACKBONE_RATE} if candidate.tuned else None,
        device=data.device,
    )
    fit_epochs: Callable[..., Any] = learner.fit_one_cycle if chosen.one_cycle else learner.fit
    epochs = min(train_config.epochs, TUNED_EPOCHS) if candidate.tuned else train_config.epochs
    fit_epochs(epochs, rate * chosen.lr, resume=snapshot)
    return FittedNetwork(
        model=network.eval(),
        shape=model_shape(data, config),
        config=config,
        table=candidate.table,
        classes=fold.classes,
        own_backbone=candidate.photos and (candidate.tuned or backbone is None),
        changed=_changed(network, backbone) if candidate.tuned and backbone is not None else None,
    )


def takes_mlp(candidate: Candidate, *, on_features: bool) -> bool:
    """Whether a network has an MLP in the place of a TabM for its table.

    Beside features of photos an MLP does better than an ensemble, in half the time (docs/LOG.md)."""
    return candidate.light or (candidate.photos and candidate.table and on_features)


def _begin_at(network: MixedInputModel, backbone: nn.Module | None, start: "FittedNetwork | None") -> None:
    """Give a network copies of the shared backbone and of all else that was trained on its features.

    What lies around the backbone is in place before the backbone learns, whose features are bent less by it
    (Kumar et al. 2022, arXiv:2202.10054)."""
    assert network.image is not None
    if backbone is not None:
        network.image.backbone.load_state_dict(backbone.state_dict())
    # Few steps on few rows may leave statistics between those of then and of now, which fit no weights: the network
    # is to begin as just that which was fitted on features.
    freeze(*(m for m in network.image.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)))
    if start is not None:
        around = {name: t for name, t in start.model.state_dict().items() if not name.startswith(_BACKBONE)}
        network.load_state_dict(around, strict=False)


def _changed(network: MixedInputModel, backbone: nn.Module) -> tuple[str, ...]:
    """Tensors of the network's backbone that are no longer those of the shared one, by their name in the network."""
    assert network.image is not None
    before = backbone.state_dict()
    now = network.image.backbone.state_dict()
    return tuple(_BACKBONE + name for name in now if not torch.equal(now[name].cpu(), before[name].cpu()))


def read_network(description: dict[str, Any], tensors: dict[str, Tensor], backbone: nn.Module | None) -> FittedNetwork:
    """See ``read_fitted``."""
    said: _Saved = from_plain(_Saved, description, "a network", finite=True)
    changed = None
    if said.tuned:
        if backbone is None or not said.shape.photos:
            raise DataError("there is no shared backbone for a tuned network")
        changed = tuple(name for name in tensors if name.startswith(_BACKBONE))
        tensors = {_BACKBONE + name: tensor for name, tensor in backbone.state_dict().items()} | tensors
    own = said.own_backbone or said.tuned
    if said.shape.outputs != max(said.classes, 1) or (said.shape.photos and backbone is None and not own):
        raise DataError("the outputs or the photos of a network are not those of its shape")
    network = make_saved_model(said.shape, said.model, tensors, None if own else backbone)
    return FittedNetwork(
        model=network.eval(),
        shape=said.shape,
        config=said.model,
        table=said.table,
        classes=said.classes,
        own_backbone=said.own_backbone,
        changed=changed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """What ``describe`` gives."""

    shape: ModelShape
    model: ModelConfig
    table: bool
    classes: Annotated[int, Within(0, 10**6)]
    own_backbone: bool
    tuned: bool = False


def share_backbone(network: MixedInputModel, backbone: nn.Module | None) -> None:
    """Let a network use a backbone that is there already, so that many networks hold it but once."""
    if network.image is not None and backbone is not None:
        network.image.backbone = backbone
