"""A predictor that is one network."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixfit.config import ModelConfig
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
from mixfit.models.mixed import Gallery, Mixture, mix_rows
from mixfit.models.network import mixed_outputs
from mixfit.nn.build import ModelShape, make_model, make_saved_model
from mixfit.nn.model import MixedInputModel
from mixfit.predictor.base import BATCH, Mixer, ModelOutput, Predictor, RawRows, number_or_logarithm
from mixfit.predictor.card import licence_of
from mixfit.predictor.folder import Described, save_folder
from mixfit.training.build import CHUNK, all_features, model_shape, sized_for
from mixfit.training.tta import augmented_outputs

_WIDEST_CATEGORY = 32


@dataclass(frozen=True, kw_only=True)
class NetworkPredictor(Predictor):
    """One trained network."""

    model: MixedInputModel
    shape: ModelShape
    config: ModelConfig

    @classmethod
    def of(
        cls,
        model: MixedInputModel,
        data: MixedData,
        config: ModelConfig | None = None,
        *,
        metrics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> "NetworkPredictor":
        """Put together what was trained.

        Args:
            config: what the model was built with.
        Raises:
            ConfigError: the model was built in another way, so that it could not be loaded again.
        """
        config = sized_for(data, ModelConfig() if config is None else config)
        shape = model_shape(data, config)
        expected = make_model(shape, config, pretrained=False).state_dict()
        found = model.state_dict()
        if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in found.items()}:
            raise ConfigError(
                "The model was not built by build_model with this configuration, so it could not be loaded again: "
                "pass the ModelConfig that it was built with; of a network of your own save the state_dict instead."
            )
        return cls(
            model=model,
            shape=shape,
            config=config,
            schema=data.schema,
            preprocessor=data.preprocessor,
            target=data.target,
            crop=data.crop,
            image_size=shape.image_size,
            metrics={split: json_numbers(values) for split, values in (metrics or {}).items()},
        )

    @property
    def uses_photos(self) -> bool:
        """Whether the network has an image encoder."""
        return self.shape.photos

    def outputs(
        self,
        rows: RawRows,
        *,
        device: torch.device,
        cache: Cache | None,
        augmentations: int,
        interval: float | None = None,
    ) -> ModelOutput:
        """What the network makes of rows."""
        if interval is not None:
            raise ConfigError("One network alone knows no intervals: leave them out, or train with --preset quick.")
        self.model.to(device).eval()
        source = rows.files if rows.files is None or augmentations else self._features_or_files(rows.files, cache)
        loader = DataLoader(self.dataset(rows, source), SequentialSampler(len(rows.frame), BATCH), device=device)
        found = self._run(loader, augmentations)
        values = np.mean([self.target.decode(version) for version in found], axis=0)
        return ModelOutput(values=values, failures={} if source is None else source.failures)

    def dataset(self, rows: RawRows, source: ImageFiles | FeatureTable | None) -> MixedDataset:
        """The rows as the network takes them, with pixels or features."""
        photos, count = rows.photos, len(rows.frame)
        return MixedDataset(
            numeric=torch.from_numpy(rows.arrays.numeric),
            categorical=torch.from_numpy(rows.arrays.categorical),
            target=torch.zeros(count),
            rows=torch.arange(rows.first_row, rows.first_row + count),
            slots=None if photos is None else torch.from_numpy(photos.slots),
            columns=None if photos is None else torch.from_numpy(photos.columns),
            photos=source,
        )

    def mixer(self, rows: RawRows, *, device: torch.device, cache: Cache | None = None) -> Mixer:
        """See ``Predictor``; each photo goes through the image encoder once, frozen or not."""
        self.model.to(device).eval()
        slots = columns = features = None
        if self.model.image is not None and rows.files is not None and rows.photos is not None:
            slots, columns = rows.photos.slots, rows.photos.columns
            features = all_features(self.model.image, rows.files, cache)
        encoder = RowEncoder(preprocessor=self.preprocessor, prefixes=())
        encoded = encoder.encode(rows.frame, arrays=(rows.arrays.numeric, rows.arrays.categorical))

        def mix(mixture: Mixture) -> np.ndarray:
            mixed = mix_rows(mixture, encoded, encoder, Gallery.of(mixture, slots, columns, features))
            found = mixed_outputs(self.model, mixed.numeric, mixed.categorical, mixed).numpy()
            return self.target.decode(found) if self.target.classes else number_or_logarithm(self.target, found)

        return mix

    def _features_or_files(self, files: ImageFiles, cache: Cache | None) -> ImageFiles | FeatureTable:
        """Features by a frozen network, each photo once; pixels for one that is not, or for too few without a cache."""
        encoder = self.model.image
        if encoder is None or not encoder.frozen or (cache is None and len(files) < CHUNK):
            return files
        return all_features(encoder, files, cache)

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
        """Write the model folder, whole or not at all.

        Raises:
            ResourceError: the folder exists or cannot be written.
        """
        description = {
            "kind": "network",
            "model": self.config.to_dict(),
            "shape": asdict(self.shape),
            "crop": self.crop,
            "schema": self.schema.to_dict(),
            "preprocessor": self.preprocessor.to_dict(),
            "target": self.target.to_dict(),
            "metrics": self.metrics,
            "facts": None if self.facts is None else self.facts.to_dict(),
        }
        licence = licence_of(self.config if self.shape.photos else None)
        card = partial(self.model_card, notes=["One network."], licence=licence)
        save_folder(Path(folder), self.model.state_dict(), description, card)

    @classmethod
    def read(cls, described: Described, said: dict[str, Any], tensors: dict[str, Tensor]) -> "NetworkPredictor":
        """Read what ``save`` wrote.

        Raises:
            DataError: it is something else.
        """
        common = described.common()
        mine: _Saved = from_plain(_Saved, said, "mixfit.json", finite=True)
        earlier = {"category_width": _WIDEST_CATEGORY}  # of models from before this could be chosen
        config, shape = ModelConfig.from_dict(earlier | mine.model), mine.shape
        preprocessor, schema, target = common["preprocessor"], common["schema"], common["target"]
        columns = len(preprocessor.numeric_names), preprocessor.cardinalities, target.outputs
        images = len(schema.names("image"))
        if (shape.numeric, shape.cardinalities, shape.outputs) != columns or (
            shape.photos and shape.image_columns != images
        ):
            raise DataError("the shape of the network is not that of the columns and the target")
        model = make_saved_model(shape, config, tensors)
        return cls(model=model.eval(), shape=shape, config=config, image_size=shape.image_size, **common)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """What ``mixfit.json`` says of one network."""

    model: dict[str, Any]
    shape: ModelShape
