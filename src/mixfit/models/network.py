"""Networks as models: on features of the frozen backbone, on pixels, or with its last blocks fine-tuned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

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
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import ImageFiles
from mixfit.data.sampler import SequentialSampler
from mixfit.errors import ConfigError, DataError
from mixfit.files import from_plain
from mixfit.models.encoding import EncodedRows
from mixfit.models.mixed import MixedRows
from mixfit.models.model import TABLE, FittedModel, Layout, Rows, Sees, State, TrainingRows, looks, name_of, reads
from mixfit.nn.build import ModelShape, make_saved_model
from mixfit.nn.freezing import NORMS, blocks, freeze
from mixfit.nn.model import MixedInputModel
from mixfit.seeding import seeded
from mixfit.training.build import all_features, built, model_shape, sized_for
from mixfit.training.callback import Callback
from mixfit.training.checkpoint import Snapshot
from mixfit.training.choose import choose_optimizer, loss_for
from mixfit.training.learner import Learner

_BACKBONE = "image.backbone."
_BATCH, _TABLE_BATCH = 64, 256
"""Rows predicted at once, with and without photos."""
TUNED_EPOCHS = 4
"""Largest number of epochs on pixels."""
TUNED_BLOCKS = 2
"""Number of last blocks of the backbone that are trained."""
_TUNED_RATE, TUNED_BACKBONE_RATE = 0.3, 0.1
"""Factors of the learning rate in fine-tuning: for everything, and additionally for the backbone."""
_TABM_RATE, _MANY_ROWS = 2.0, 1_500
"""Factor of the default learning rate of a TabM from this number of training rows; it overfits smaller tables."""
_FEATURE_BATCH, _MOST_BATCH = 2, 256
"""Factor of the default batch size for networks on photo features, and the largest batch size. The learning rate grows
with the root of the factor. Half of the steps cost little accuracy (docs/LOG.md)."""
_WIDE = 400  # columns
_ALL_EPOCHS, _FEWEST_EPOCHS = 2_500, 3
"""Number of training rows up to which a TabM trains all epochs, and the smallest number of epochs beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A mixed-input network; ``sees`` says whether it uses texts, and photo features or pixels.

    The settings of the run are not compared between networks: the keeper compares them."""

    sees: Sees = TABLE
    tuned: bool = False
    """Whether it is fine-tuned on pixels, including the last blocks of the backbone that is otherwise frozen."""
    light: bool = False
    """Use an MLP instead of an ensemble for the table."""
    most_epochs: int | None = field(default=None, compare=False)
    """Limit of the epochs by a budget; None for none."""
    config: ModelConfig = field(default_factory=ModelConfig, compare=False, repr=False)
    train: TrainConfig = field(default_factory=TrainConfig, compare=False, repr=False)
    backbone: nn.Module | None = field(default=None, compare=False, repr=False)
    """The frozen backbone of the features, shared by all networks on features; None without."""
    callbacks: Sequence[Callback] = field(default=(), compare=False, repr=False)
    snapshot: Snapshot | None = field(default=None, compare=False, repr=False)
    """The checkpoint to resume from."""
    start: "FittedNetwork | None" = field(default=None, compare=False, repr=False)
    """The starting point of a fine-tuned network: the one fitted on features of the same rows."""

    @property
    def name(self) -> str:
        """See ``Model``."""
        return name_of("tuned network" if self.tuned else "network", self.sees)

    @property
    def takes_mlp(self) -> bool:
        """Whether it uses an MLP instead of TabM for the table.

        With photo features or texts, an MLP is better than an ensemble, in half the time (docs/LOG.md)."""
        return self.light or ("table" in self.sees and (self.tuned or bool(self.sees & {"photos", "text"})))

    @property
    def is_tabm(self) -> bool:
        """Whether it is a TabM on the table alone."""
        return self.config.tabular == "tabm" and not self.takes_mlp and self.sees == TABLE

    def _beside_features(self, data: MixedData) -> bool:
        """Whether it is an MLP on photo features, or its twin on the table alone."""
        on_features = data.photos is not None and data.photos.features is not None
        return on_features and not (self.tuned or self.is_tabm or "pixels" in self.sees)

    def epochs(self, training_rows: int) -> int:
        """Number of epochs."""
        most = self.train.epochs
        if self.tuned:
            most = min(most, TUNED_EPOCHS)
        elif self.is_tabm:
            most = tabm_epochs(most, training_rows)
        return most if self.most_epochs is None else min(most, self.most_epochs)

    @property
    def begins_with(self) -> str | None:
        """See ``Trainable``."""
        features = frozenset("photos" if part == "pixels" else part for part in self.sees)
        return name_of("network", features) if self.tuned else None

    def ready(self, start: FittedModel | None, callbacks: Sequence[Callback], snapshot: Snapshot | None) -> "Network":
        """See ``Trainable``."""
        begin = start if isinstance(start, FittedNetwork) else None
        return replace(self, start=begin, callbacks=callbacks, snapshot=snapshot)

    def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> "FittedNetwork":
        """See ``Model``; truth and weight are taken from ``rows.data``, which may hold out validation rows."""
        with seeded(seed):
            return self._fit(rows)

    def _fit(self, rows: TrainingRows) -> "FittedNetwork":
        """Train; all randomness comes from PyTorch's global generators."""
        config, train, backbone = self.config, self.train, self.backbone
        data, rate = restricted(rows.data, self.sees), 1.0
        if train.batch_size is not None:  # else the default for the rows of the fold
            data = replace(data, batch_size=train.batch_size)
        elif self.is_tabm:
            columns = data.arrays.numeric.shape[1] + data.arrays.categorical.shape[1]
            data = replace(data, batch_size=tabm_batch_size(len(data.split.train), columns))
        elif self._beside_features(rows.data) and _has_default_rate(train):
            larger = min(_MOST_BATCH, _FEATURE_BATCH * data.batch_size)
            data, rate = replace(data, batch_size=larger), (larger / data.batch_size) ** 0.5
        if self.tuned and data.photos is not None:
            data = replace(data, photos=replace(data.photos, decoder=rows.pixels, features=None, cache=None))
        if self.takes_mlp and config.tabular == "tabm":
            config = replace(config, tabular="mlp")
        config = sized_for(data, config)
        if self.tuned and backbone is not None:
            free = min(TUNED_BLOCKS, len(blocks(backbone)))
            config = replace(config, freeze_backbone=True, train_blocks=free)
        shape = model_shape(data, config)
        network = built(data, config, shape, pretrained=backbone is None)  # else it takes those of the shared one
        if self.tuned:
            _begin_at(network, backbone, self.start)
        elif "photos" in self.sees:
            share_backbone(network, backbone)
        chosen = choose_optimizer(train)
        rate = _TUNED_RATE if self.tuned and self.start is not None else rate
        many = len(data.split.train) >= _MANY_ROWS
        if self.is_tabm and many and _has_default_rate(train):
            rate = _TABM_RATE
        learner = Learner(
            network,
            data,
            loss=loss_for(data, train.loss),
            optimizer=chosen.make,
            callbacks=self.callbacks,
            weight_decay=chosen.weight_decay,
            rates={_BACKBONE.rstrip("."): TUNED_BACKBONE_RATE} if self.tuned else None,
            device=data.device,
        )
        fit_epochs: Callable[..., Any] = learner.fit_one_cycle if chosen.one_cycle else learner.fit
        fit_epochs(self.epochs(len(data.split.train)), rate * chosen.lr, resume=self.snapshot)
        return FittedNetwork(
            model=network.eval(),
            shape=shape,
            config=config,
            sees=self.sees,
            classes=rows.layout.classes,
            own_backbone="pixels" in self.sees,
            changed=_changed(network, backbone) if self.tuned and backbone is not None else None,
        )

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> "FittedNetwork":
        """See ``Model``."""
        said: _Saved = from_plain(_Saved, config, "a network", finite=True)
        tensors, changed = {name: torch.from_numpy(values) for name, values in arrays.items()}, None
        shared = None if said.own_backbone else self.backbone
        if said.tuned:
            if self.backbone is None or not said.shape.photos:
                raise DataError("a fine-tuned network has no shared backbone")
            changed = tuple(name for name in tensors if name.startswith(_BACKBONE))
            tensors = {_BACKBONE + name: tensor for name, tensor in self.backbone.state_dict().items()} | tensors
        shape, table = said.shape, "table" in self.sees
        columns = (layout.numeric, layout.cardinalities[: layout.categories]) if table else (0, ())
        texts = layout.text if reads(self.sees) else (0, 0)
        found = (shape.numeric, shape.cardinalities, shape.text_columns, shape.text_width, shape.outputs)
        if found != (*columns, *texts, max(layout.classes, 1)):
            raise DataError("the columns or outputs of a network do not match its shape")
        pixels = "pixels" in self.sees
        if (said.table, said.tuned, said.own_backbone, shape.photos) != (table, self.tuned, pixels, looks(self.sees)):
            raise DataError(f"a network does not match the model {self.name!r}")
        if shape.photo_scores > layout.photo_scores:
            raise DataError("the scores of photos of a network do not match its shape")
        if shape.photos and (shape.image_columns != layout.image_columns or (shared is None and not said.own_backbone)):
            raise DataError("the photos of a network do not match its shape")
        network = make_saved_model(shape, said.model, tensors, shared)
        if network.image is not None and shared is not None and network.image.num_features != layout.features:
            raise DataError("the image network of a network does not match the photos")
        return FittedNetwork(
            model=network.eval(),
            shape=shape,
            config=said.model,
            sees=self.sees,
            classes=layout.classes,
            own_backbone=said.own_backbone,
            changed=changed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedNetwork:
    """A network on features of the frozen backbone, which the blend shares, or on pixels."""

    model: MixedInputModel
    shape: ModelShape
    config: ModelConfig
    sees: Sees
    classes: int
    own_backbone: bool
    """Whether it was trained on pixels, with its own backbone."""
    changed: tuple[str, ...] | None = None
    """Tensors of its backbone that differ from the shared one it was initialised with; None if it was not."""

    def predict(self, rows: Rows) -> np.ndarray:
        """See ``FittedModel``."""
        encoded = rows.encoded
        device = next(self.model.head.parameters()).device
        if rows.device is not None and rows.device != device:
            device = next(self.model.to(rows.device).head.parameters()).device
        numeric, categorical, text, mask = _cells_of(encoded, self.sees)
        photos = rows.pixels if self.own_backbone and isinstance(rows.source, FeatureTable) else rows.source
        see = self.shape.photos and rows.slots is not None and rows.source is not None
        if see and photos is None:
            raise ConfigError("A fine-tuned network needs both pixels and features.")
        dataset = MixedDataset(
            numeric=numeric,
            categorical=categorical,
            target=torch.zeros(len(encoded)),
            rows=torch.arange(len(encoded)),
            slots=torch.from_numpy(rows.slots) if see and rows.slots is not None else None,
            columns=torch.from_numpy(rows.columns) if see and rows.columns is not None else None,
            photos=photos if see else None,
            text=text,
            text_mask=mask,
        )
        loader = DataLoader(dataset, SequentialSampler(len(encoded), _BATCH if see else _TABLE_BATCH), device=device)
        if self.model.training:  # setting a mode takes longer than one row
            self.model.eval()
        with torch.inference_mode():
            outputs = [self.model(xb).double().cpu() for xb, _ in loader]
        found = torch.cat([torch.zeros((0, self.classes) if self.classes else (0,)), *outputs])
        return (found.softmax(1) if self.classes else found).numpy()

    def own_features(self, photos: ImageFiles, cache: Cache | None, device: torch.device) -> FeatureTable | None:
        """See ``HasImageNetwork``."""
        image = self.model.to(device).image
        return all_features(image, photos, cache) if image is not None and self.own_backbone else None

    def predict_mixed(self, rows: MixedRows) -> np.ndarray:
        """See ``PredictsMixed``; a network on pixels needs features of its own image encoder."""
        found = mixed_outputs(self.model, rows, self.sees)
        return (found.softmax(1) if self.classes else found).numpy()

    def state(self) -> State:
        """See ``FittedModel``; without the tensors of the shared backbone."""
        arrays = {
            name: tensor.detach().cpu().numpy()
            for name, tensor in self.model.state_dict().items()
            if not name.startswith(_BACKBONE) or (self.own_backbone and (self.changed is None or name in self.changed))
        }
        return arrays, {
            "shape": asdict(self.shape),
            "model": self.config.to_dict(),
            "table": "table" in self.sees,
            "own_backbone": self.own_backbone,
            "tuned": self.changed is not None,
        }


def _cells_of(encoded: EncodedRows, sees: Sees) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Numbers, categories, texts and their mask, those that a network sees."""
    numeric, categorical = torch.from_numpy(encoded.numeric), torch.from_numpy(encoded.categorical)
    if "table" not in sees:
        numeric, categorical = numeric[:, :0], categorical[:, :0]
    if not reads(sees) or encoded.text is None or encoded.text_seen is None:
        return numeric, categorical, None, None
    return numeric, categorical, torch.from_numpy(encoded.text), torch.from_numpy(encoded.text_seen)


def mixed_outputs(model: MixedInputModel, rows: MixedRows, sees: Sees) -> Float64[Tensor, "rows ..."]:
    """Raw outputs of a network for mixed rows, on the CPU.

    Args:
        rows: with features of the network's image encoder, if it has one.
        sees: which of the table parts it uses.
    """
    gallery, device = rows.gallery, next(model.head.parameters()).device
    numeric, categorical, text, mask = _cells_of(rows.tables, sees)
    tables = Inputs(
        numeric=numeric,
        categorical=categorical,
        rows=torch.arange(len(numeric)),
        text=text,
        text_mask=mask,
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
    if model.training:  # setting a mode is slower than a small network
        model.eval()
    with torch.inference_mode():
        return model.forward_mixed(tables.to(device), galleries.to(device), *places).double().cpu()


def tabm_batch_size(training_rows: int, columns: int = 0) -> int:
    """The power of two next to a thirty-second of the rows, or to 1.4 times their root if there are more than 2,000.

    From 16 to 256. Many small steps are worth more to a TabM than few exact ones (docs/LOG.md). With more than
    ``_WIDE`` columns, whose embeddings cost as much for one row as for many, batches are up to four times as large."""
    wanted = max(16.0, min(training_rows / 32, 1.4 * training_rows**0.5)) * min(4.0, max(1.0, columns / _WIDE))
    return int(min(256, 2 ** round(np.log2(wanted))))


def tabm_epochs(most: int, training_rows: int) -> int:
    """Number of epochs: fewer for many rows, so that the number of steps grows with the cube root of the rows.

    A plan instead of early stopping needs no validation rows and is the same on any machine."""
    share = min(1.0, (_ALL_EPOCHS / max(training_rows, 1)) ** (2 / 3))
    return max(min(most, _FEWEST_EPOCHS), round(most * share))


def _has_default_rate(train: TrainConfig) -> bool:
    """Whether the optimizer and its rate are those by default, which a run fills in."""
    return train.optimizer == "adamw" and train.lr in (None, choose_optimizer(TrainConfig()).lr)


def restricted(data: MixedData, sees: Sees) -> MixedData:
    """The same data without what a network does not see: columns of the table, texts, or photos."""
    arrays, preprocessor = data.arrays, data.preprocessor
    if "table" not in sees:
        arrays = replace(arrays, numeric=arrays.numeric[:, :0], categorical=arrays.categorical[:, :0])
        preprocessor = TablePreprocessor()
    if not reads(sees):
        arrays = replace(arrays, text=None, text_mask=None)
    if looks(sees):
        return replace(data, arrays=arrays, preprocessor=preprocessor)
    arrays = replace(arrays, slots=None, photo_scores=None)
    return replace(data, arrays=arrays, preprocessor=preprocessor, photos=None, scores=None)


def _begin_at(network: MixedInputModel, backbone: nn.Module | None, start: FittedNetwork | None) -> None:
    """Initialise a network with copies of the shared backbone and of the layers trained on its features.

    Training the other layers before the backbone distorts its features less (Kumar et al. 2022, arXiv:2202.10054)."""
    assert network.image is not None
    if backbone is not None:
        network.image.backbone.load_state_dict(backbone.state_dict())
    # A few steps would leave BatchNorm statistics that fit neither the old nor the new weights, so norms stay those
    # that the network on features was fitted with.
    freeze(*(m for m in network.image.backbone.modules() if isinstance(m, NORMS)))
    if start is not None:
        around = {name: t for name, t in start.model.state_dict().items() if not name.startswith(_BACKBONE)}
        network.load_state_dict(around, strict=False)


def _changed(network: MixedInputModel, backbone: nn.Module) -> tuple[str, ...]:
    """Tensors of the network's backbone that differ from the shared one, by their name in the network."""
    assert network.image is not None
    before = backbone.state_dict()
    now = network.image.backbone.state_dict()
    return tuple(_BACKBONE + name for name in now if not torch.equal(now[name].cpu(), before[name].cpu()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """The values of ``FittedNetwork.state`` besides arrays."""

    shape: ModelShape
    model: ModelConfig
    table: bool
    own_backbone: bool
    tuned: bool = False


def share_backbone(network: MixedInputModel, backbone: nn.Module | None) -> None:
    """Let a network use an existing backbone, so that networks share it."""
    if network.image is not None and backbone is not None:
        network.image.backbone = backbone
