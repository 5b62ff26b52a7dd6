"""The predictor of a single network: built by mixfit from a configuration, or a custom module."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mixfit.config import ModelConfig
from mixfit.data.columns.embedded import Embedder, EmbedderFacts
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.dataset import FeatureTable, MixedDataset
from mixfit.data.load import MixedData
from mixfit.data.loader import DataLoader
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import ImageFiles
from mixfit.data.sampler import SequentialSampler
from mixfit.data.transforms.augment import RandomResizedCrop
from mixfit.data.transforms.transform import RandomHorizontalFlip
from mixfit.errors import ConfigError, DataError
from mixfit.files import from_plain, json_numbers
from mixfit.models.encoding import RowEncoder
from mixfit.models.mixed import Gallery, MixedRows, Mixture, mix_rows
from mixfit.models.model import TABLE, TEXT, Model, as_arrays, as_tensors
from mixfit.models.network import mixed_outputs
from mixfit.nn.build import ModelShape, check_state, make_model, make_saved_model
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.predictor.base import BATCH, Mixer, ModelOutput, OwnNetwork, Predictor, RawRows, number_or_logarithm
from mixfit.predictor.card import OWN_LICENCE, licence_of
from mixfit.predictor.folder import SavedModel, save_folder
from mixfit.seeding import seeded
from mixfit.training.build import CHUNK, all_features, model_shape, sized_for
from mixfit.training.tta import augmented_outputs

_WIDEST_CATEGORY = 32
_TEXT, _IMAGE = "text_features.", "image"


@dataclass(frozen=True, kw_only=True)
class NetworkPredictor(Predictor):
    """One trained network."""

    kinds = ("network", "own network")
    model: nn.Module
    shape: ModelShape
    config: ModelConfig
    settings: Mapping[str, Any] | None = None
    """Settings of a custom network; None for one built from ``config``."""
    text: TextFeatures | None = None
    """Features of the columns of text; None without any."""

    @classmethod
    def from_training(
        cls,
        model: nn.Module,
        data: MixedData,
        config: ModelConfig | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> "NetworkPredictor":
        """See ``Predictor``."""
        config = sized_for(data, ModelConfig() if config is None else config)
        shape = model_shape(data, config)
        if settings is None:
            _require_made_from(model, shape, config)
        else:
            _require_json(settings)
        return cls(
            model=model,
            shape=shape,
            config=config,
            settings=settings,
            schema=data.schema,
            preprocessor=data.preprocessor,
            target=data.target,
            crop=data.crop,
            image_size=shape.image_size,
            text=data.text,
            metrics={split: json_numbers(values) for split, values in (metrics or {}).items()},
        )

    @property
    def uses_photos(self) -> bool:
        """Whether the network uses photos."""
        return self.shape.photos

    @property
    def uses_text(self) -> bool:
        """Whether the network gets features of texts."""
        return self.text is not None

    @property
    def text_features(self) -> TextFeatures | None:
        """What was learnt of texts."""
        return self.text

    @property
    def image_config(self) -> ModelConfig | None:
        """Configuration of the image network, for its licence; None without photos."""
        return self.config if self.shape.photos else None

    def check_interval(self, level: float) -> None:
        """Refuse any level."""
        raise ConfigError(
            "A single network has no prediction intervals: leave out interval, or train with --preset quick."
        )

    def outputs(
        self,
        rows: RawRows,
        *,
        device: torch.device,
        cache: Cache | None,
        augmentations: int,
        interval: float | None = None,
    ) -> ModelOutput:
        """Predict rows."""
        if interval is not None:
            self.check_interval(interval)
        self.model.to(device).eval()
        if self.text is not None:
            self.text.use(rows.table, cache, str(device))
        source = rows.files if rows.files is None or augmentations else self._features_or_files(rows.files, cache)
        loader = DataLoader(self.dataset(rows, source), SequentialSampler(len(rows.table), BATCH), device=device)
        found = self._run(loader, augmentations)
        values = np.mean([self.target.decode(version) for version in found], axis=0)
        return ModelOutput(values=values, failures={} if source is None else source.failures)

    def dataset(self, rows: RawRows, source: ImageFiles | FeatureTable | None) -> MixedDataset:
        """The rows as inputs of the network, with pixels or features."""
        photos, count = rows.photos, len(rows.table)
        text, mask = (None, None) if self.text is None else map(torch.from_numpy, self.text.apply(rows.table))
        return MixedDataset(
            numeric=torch.from_numpy(rows.arrays.numeric),
            categorical=torch.from_numpy(rows.arrays.categorical),
            target=torch.zeros(count),
            rows=torch.arange(rows.first_row, rows.first_row + count),
            slots=None if photos is None else torch.from_numpy(photos.slots),
            columns=None if photos is None else torch.from_numpy(photos.columns),
            photos=source,
            text=text,
            text_mask=mask,
        )

    def mixer(
        self,
        rows: RawRows,
        *,
        device: torch.device,
        cache: Cache | None = None,
        features: Mapping[str, FeatureTable] | None = None,
    ) -> Mixer:
        """See ``Predictor``; each photo goes once through an ``ImageEncoder``, frozen or not."""
        self.model.to(device).eval()
        slots = columns = None
        ours = self._ours
        if self.uses_photos and rows.files is not None and rows.photos is not None:
            slots, columns = rows.photos.slots, rows.photos.columns
            if features is None:
                features = self.mixer_features(rows.files, device=device, cache=cache)
        seen = None if features is None else features.get(_IMAGE)
        if self.text is not None:
            self.text.use(rows.table, cache, str(device))
        encoder = RowEncoder(preprocessor=self.preprocessor, prefixes=(), text=self.text)
        encoded = encoder.encode(rows.table, arrays=(rows.arrays.numeric, rows.arrays.categorical))

        def mix(mixture: Mixture) -> np.ndarray:
            mixed = mix_rows(mixture, encoded, encoder, Gallery.of(mixture, slots, columns, seen))
            if ours is not None:
                found = mixed_outputs(ours, mixed, TABLE | TEXT).numpy()
            else:
                found = self._outputs_of_mixed(mixed, rows.files, device)
            return self.target.decode(found) if self.target.classes else number_or_logarithm(self.target, found)

        return mix

    def mixer_features(
        self, files: ImageFiles, *, device: torch.device, cache: Cache | None = None
    ) -> dict[str, FeatureTable]:
        """See ``Predictor``."""
        ours = self._ours
        if ours is None or not isinstance(ours.image, ImageEncoder):
            return {}
        self.model.to(device).eval()
        return {_IMAGE: all_features(ours.image, files, cache)}

    @property
    def _ours(self) -> MixedInputModel | None:
        """The network, if its features of photos can be computed once; None for a custom one."""
        ours = self.model if isinstance(self.model, MixedInputModel) else None
        return ours if ours is not None and isinstance(ours.image, ImageEncoder | None) else None

    @property
    def frozen_encoder(self) -> ImageEncoder | None:
        """That of the network."""
        encoder = self.model.image if isinstance(self.model, MixedInputModel) else None
        return encoder if isinstance(encoder, ImageEncoder) and encoder.frozen else None

    def _features_or_files(self, files: ImageFiles, cache: Cache | None) -> ImageFiles | FeatureTable:
        """Features of a frozen network, each photo once; pixels if not frozen, or for few photos without a cache."""
        encoder = self.frozen_encoder
        if encoder is None or (cache is None and len(files) < CHUNK):
            return files
        return all_features(encoder, files, cache)

    def _outputs_of_mixed(self, mixed: MixedRows, files: ImageFiles | None, device: torch.device) -> np.ndarray:
        """Mixer of a custom network: each mixed row goes through the whole network."""
        gallery = mixed.gallery
        dataset = MixedDataset(
            numeric=torch.from_numpy(mixed.numeric[mixed.table_of]),
            categorical=torch.from_numpy(mixed.categorical[mixed.table_of]),
            target=torch.zeros(len(mixed.table_of)),
            rows=torch.arange(len(mixed.table_of)),
            slots=None if files is None else torch.from_numpy(gallery.slots[mixed.photos_of]),
            columns=None if files is None else torch.from_numpy(gallery.columns),
            photos=files,
            text=None if mixed.text is None else torch.from_numpy(mixed.text[mixed.table_of]),
            text_mask=None if mixed.text_seen is None else torch.from_numpy(mixed.text_seen[mixed.table_of]),
        )
        return self._run(DataLoader(dataset, SequentialSampler(len(dataset), BATCH), device=device), 0)[0]

    def _run(self, loader: DataLoader, augmentations: int) -> np.ndarray:
        """Raw outputs of all rows, float32 ``(1 + augmentations, rows)`` or ``(1 + augmentations, rows, classes)``."""
        copies = augmentations if self.shape.photos else 0
        transforms = (RandomHorizontalFlip(), RandomResizedCrop(scale=(0.8, 1.0)))
        with torch.inference_mode():
            outputs = [augmented_outputs(self.model, xb, transforms, copies=copies).float().cpu() for xb, _ in loader]
        if not outputs:
            return np.zeros((1, 0) if self.shape.outputs == 1 else (1, 0, self.shape.outputs), dtype=np.float32)
        return torch.cat(outputs, dim=1).numpy()

    def save(self, folder: str | Path) -> None:
        """Write the model folder atomically.

        Raises:
            ResourceError: the folder exists or cannot be written.
        """
        own = self.settings is not None
        description = {
            "kind": self.kinds[own],
            "model": self.config.to_dict(),
            "shape": asdict(self.shape),
            "crop": self.crop,
            "schema": self.schema.to_dict(),
            "preprocessor": self.preprocessor.to_dict(),
            "target": self.target.to_dict(),
            "metrics": self.metrics,
            "facts": None if self.facts is None else self.facts.to_dict(),
            **self.decision(),
            **({"settings": dict(self.settings)} if self.settings is not None else {}),
            **({"text": self.text.to_dict()} if self.text is not None else {}),
        }
        arrays = {} if self.text is None else {_TEXT + name: one for name, one in self.text.arrays().items()}
        licence = OWN_LICENCE if own else licence_of(self.image_config)
        notes = ["A custom network: loading it needs the code that builds it." if own else "A single network."]
        card = partial(self.model_card, notes=notes, licence=licence)
        save_folder(Path(folder), {**self.model.state_dict(), **as_tensors(arrays, "")}, description, card)

    @classmethod
    def read(
        cls,
        content: SavedModel,
        *,
        model: OwnNetwork | None = None,
        models: Sequence[Model] = (),
        embedders: Callable[[EmbedderFacts], Embedder] | None = None,
    ) -> "NetworkPredictor":
        """See ``Predictor``."""
        common = content.described.common(content.kinds)
        mine: _Saved = from_plain(_Saved, content.said, "mixfit.json", finite=True)
        earlier = {"category_width": _WIDEST_CATEGORY, "photo_stages": 0}  # of models saved before these settings
        config, shape = ModelConfig.from_dict(earlier | mine.model), mine.shape
        preprocessor, schema, target = common["preprocessor"], common["schema"], common["target"]
        columns = len(preprocessor.numeric_names), preprocessor.cardinalities, target.outputs
        images = len(schema.names("image"))
        if (shape.numeric, shape.cardinalities, shape.outputs) != columns or (
            shape.photos and shape.image_columns != images
        ):
            raise DataError("the shape of the network does not match the columns and the target")
        tensors = {name: tensor for name, tensor in content.tensors.items() if not name.startswith(_TEXT)}
        text = None
        if mine.text is not None:
            text = TextFeatures.read(mine.text, as_arrays(content.tensors, _TEXT), embedders)
        if ([] if text is None else text.names) != schema.names("text"):
            raise DataError("the texts do not match the schema")
        settings = None
        if content.described.kind == "own network":
            settings = mine.settings or {}
            network = _own_network(content.folder, tensors, model, shape, config, settings)
        elif model is None:
            with seeded(0):  # initial weights, replaced below, are drawn from the global generators
                network = make_saved_model(shape, config, tensors)
        else:
            raise ConfigError(f"{content.folder} has a network that mixfit builds itself: leave out model=.")
        return cls(
            model=network.eval(),
            shape=shape,
            config=config,
            settings=settings,
            image_size=shape.image_size,
            text=text,
            **common,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """The entries of ``mixfit.json`` for a single network."""

    model: dict[str, Any]
    shape: ModelShape
    settings: dict[str, Any] | None = None
    text: dict[str, Any] | None = None


def _require_made_from(model: nn.Module, shape: ModelShape, config: ModelConfig) -> None:
    """Refuse a network that cannot be rebuilt from its configuration: with other tensors, or other types of layers.

    Raises:
        ConfigError: it cannot.
    """
    with seeded(0):
        expected = make_model(shape, config, pretrained=False)
    if _layers_of(model) != _layers_of(expected) or _shapes_of(model) != _shapes_of(expected):
        raise ConfigError(
            "The model was not built by build_model with this configuration, so it could not be loaded: "
            "pass its ModelConfig; or, for a custom network, its settings as "
            "settings={...}, which Predictor.load passes to the function that builds it."
        )


def _layers_of(model: nn.Module) -> dict[str, type[nn.Module]]:
    return {name: type(module) for name, module in model.named_modules()}


def _shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _require_json(settings: Mapping[str, Any]) -> None:
    try:
        same = json.loads(json.dumps(dict(settings), allow_nan=False)) == dict(settings)
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ConfigError(
            "The settings of a network must be JSON values: strings, finite numbers, booleans, None, lists, and "
            f"dictionaries with string keys; got {settings!r:.200}."
        )


def _own_network(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    model: OwnNetwork | None,
    shape: ModelShape,
    config: ModelConfig,
    settings: dict[str, Any],
) -> nn.Module:
    """The custom network with the saved weights.

    Raises:
        ConfigError: it is missing, or not the saved one.
    """
    if model is None:
        raise ConfigError(
            f"The network in {folder} is a custom network, whose code is not saved: "
            "pass the module, or a function build(shape, config, settings), as Predictor.load(folder, model=...)."
        )
    network = model if isinstance(model, nn.Module) else model(shape, config, settings)
    try:
        check_state(tensors, network.state_dict())
    except DataError as error:
        raise ConfigError(
            f"The network given as model= is not the one in {folder}: {error}. Build it as for training."
        ) from error
    network.load_state_dict(tensors)
    return network
