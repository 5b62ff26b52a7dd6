"""The predictor of a blend: a weighted mean of several kinds of models, each fitted on every fold, or on all rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from mixfit.config import ModelConfig
from mixfit.data.columns.embedded import Embedder, EmbedderFacts
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.dataset import FeatureTable, ImageSource
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import ImageFiles, open_image_store
from mixfit.ensemble.intervals import (
    ClassUncertainty,
    NumberUncertainty,
    Uncertainty,
    tempered,
    uncertainty_from_dict,
)
from mixfit.ensemble.pool import logarithms_of, probabilities_of
from mixfit.errors import ConfigError, DataError
from mixfit.files import Share, Within, from_plain
from mixfit.models.encoding import PhotoMeans, RowEncoder, mean_features
from mixfit.models.mixed import Gallery, Mixture, mix_rows
from mixfit.models.model import (
    FittedModel,
    HasImageNetwork,
    Layout,
    Model,
    Rows,
    Sees,
    as_arrays,
    as_tensors,
    looks,
    model_named,
    predict_mixed,
    reads,
)
from mixfit.models.network import FittedNetwork
from mixfit.models.ours import our_models
from mixfit.nn.backbones import Backbone
from mixfit.nn.build import ModelShape, as_saved, make_model, make_saved_backbone
from mixfit.nn.folding import without_norms
from mixfit.nn.image import ImageEncoder
from mixfit.predictor.base import Mixer, ModelOutput, OwnNetwork, Predictor, RawRows, number_or_logarithm
from mixfit.predictor.card import licence_of
from mixfit.predictor.folder import SavedModel, check_columns, save_folder
from mixfit.training.build import all_features

_ENCODER = "encoder."
_UNCERTAINTY = "uncertainty."
_SHARED = "shared"


def _own(fold: int, name: str) -> str:
    """The name of a model's own image network."""
    return f"fold{fold}.{name}"


@dataclass(frozen=True, kw_only=True)
class PhotoEncoder:
    """The frozen network that computes photo features for all models."""

    encoder: ImageEncoder
    config: ModelConfig
    image_size: int

    def features(self, files: ImageFiles, cache: Cache | None, device: torch.device) -> FeatureTable:
        """Features of photos, from the cache if possible."""
        if self.fast.pixel_mean.device != device:
            self.encoder.to(device)
            self.fast.to(device)
        return all_features(self.fast, files, cache)

    @cached_property
    def fast(self) -> ImageEncoder:
        """The encoder that computes the features: without batch normalisation."""
        return without_norms(self.encoder, self.image_size)


@dataclass(frozen=True, kw_only=True)
class FoldModels:
    """The models fitted on one fold."""

    encoder: RowEncoder
    layout: Layout
    """Layout of rows encoded by this encoder."""
    models: dict[str, FittedModel]
    """By name; only models with a share, which some have in every fold and others in that of all rows alone."""


@dataclass(frozen=True, kw_only=True)
class BlendPredictor(Predictor):
    """A blend: the weighted mean of models, each pooled over folds, in the scale of the target or of probabilities."""

    kinds = ("blend",)
    shares: dict[str, float]
    """Weights by the name of the model, with sum 1."""
    sees: dict[str, Sees]
    """Inputs of each model."""
    temperatures: dict[str, float]
    """Temperature of each model's probabilities; 1 for regression."""
    folds: Sequence[FoldModels]
    photos: bool
    """Whether a model with a share uses photos."""
    photo_encoder: PhotoEncoder | None
    """None if no model uses photos, or only models trained on pixels do."""
    uncertainty: Uncertainty
    pool_floor: float | None
    """See ``ensemble.pool``; None for numbers, and for the mean of probabilities of blends of an earlier mixfit."""

    @property
    def uses_photos(self) -> bool:
        """Whether a model with a share uses photos."""
        return self.photos

    @property
    def frozen_encoder(self) -> ImageEncoder | None:
        """That of all models."""
        return None if self.photo_encoder is None else self.photo_encoder.fast

    @property
    def uses_text(self) -> bool:
        """Whether a model with a share uses columns of text."""
        return any(reads(sees) for sees in self.sees.values())

    @property
    def text_features(self) -> TextFeatures | None:
        """What was learnt of texts in the first fold."""
        return self.folds[0].encoder.text

    @property
    def fold_texts(self) -> tuple[TextFeatures, ...]:
        """What was learnt of texts, in each fold."""
        return tuple(fold.encoder.text for fold in self.folds if fold.encoder.text is not None)

    @cached_property
    def fold_counts(self) -> dict[str, int]:
        """The number of folds of each model."""
        return {name: sum(name in fold.models for fold in self.folds) for name in self.shares}

    def check_interval(self, level: float) -> None:
        """Refuse a level with too few calibration rows."""
        self.uncertainty.scores.quantile(level)

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
        if augmentations:
            raise ConfigError(
                "A blend uses features of the unchanged photos, so test-time augmentation is not possible: leave out "
                "augmentations, or train with --preset network."
            )
        source: ImageFiles | FeatureTable | None = rows.files
        if self.photo_encoder is not None and rows.files is not None:
            source = self.photo_encoder.features(rows.files, cache, device)
        pixels: ImageSource | None = None
        beside = isinstance(source, FeatureTable) and any("pixels" in sees for sees in self.sees.values())
        if rows.files is not None and beside:
            pixels, size, crop = rows.files, rows.files.size, rows.files.crop
            if cache is not None:  # the network of every fold reads all photos
                pixels = open_image_store(rows.files, size=size, crop=crop, cache=cache)
        scaled = self.scaled_outputs(rows, source, device, pixels=pixels, cache=cache)
        calibrated = self.uncertainty.calibrated(scaled)
        values = calibrated if self.target.classes is not None else self.target.decode(calibrated)
        found = ModelOutput(values=values, failures={} if source is None else source.failures)
        if interval is None:
            return found
        if isinstance(self.uncertainty, ClassUncertainty):
            return replace(found, sets=self.sets(self.uncertainty, calibrated, interval))
        encoded = self.uncertainty.encoder.encode(rows.table, _photo_means(rows, source))
        low, high = self.uncertainty.interval(scaled, encoded, interval)
        return replace(found, interval=self.target.decode_interval(low, high))

    def sets(self, uncertainty: ClassUncertainty, calibrated: np.ndarray, level: float) -> np.ndarray:
        """Prediction sets with the predicted class, bool ``(rows, classes)``; without gaps for ordered classes."""
        found = uncertainty.sets(calibrated, level, self.decide(calibrated))
        if self.schema.task != "ordered":
            return found
        after, before = np.maximum.accumulate(found, 1), np.maximum.accumulate(found[:, ::-1], 1)[:, ::-1]
        filled: np.ndarray = after & before
        return filled

    def scaled_outputs(
        self,
        rows: RawRows,
        source: ImageFiles | FeatureTable | None,
        device: torch.device,
        *,
        pixels: ImageSource | None = None,
        cache: Cache | None = None,
    ) -> np.ndarray:
        """The blend in the scale of the target ``(rows,)``, or probabilities before calibration.

        Args:
            pixels: for models that use them.
            cache: of embeddings of texts.
        """
        means, photos = _photo_means(rows, source), rows.photos
        if self.text_features is not None:
            self.text_features.use(rows.table, cache, str(device))
        blended = _Blended(self)
        for fold in self.folds:
            seen = Rows(
                encoded=fold.encoder.encode(rows.table, means),
                layout=fold.layout,
                slots=None if photos is None else photos.slots,
                columns=None if photos is None else photos.columns,
                source=source,
                pixels=pixels,
                device=device,
            )
            for name, model in fold.models.items():
                blended.add(name, model.predict(seen))
        return blended.total

    def mixer(
        self,
        rows: RawRows,
        *,
        device: torch.device,
        cache: Cache | None = None,
        features: Mapping[str, FeatureTable] | None = None,
    ) -> Mixer:
        """See ``Predictor``; each photo goes once through each image network."""
        slots = columns = None
        if rows.files is not None and rows.photos is not None:
            slots, columns = rows.photos.slots, rows.photos.columns
            if features is None:
                features = self.mixer_features(rows.files, device=device, cache=cache)
        seen_by = features or {}
        if self.text_features is not None:
            self.text_features.use(rows.table, cache, str(device))
        encoded = [fold.encoder.encode(rows.table) for fold in self.folds]

        def mix(mixture: Mixture) -> np.ndarray:
            blended = _Blended(self)
            gallery = Gallery.of(mixture, slots, columns, seen_by.get(_SHARED))
            for place, fold in enumerate(self.folds):
                mixed = mix_rows(mixture, encoded[place], fold.encoder, gallery)
                for name, model in fold.models.items():
                    seen = seen_by.get(_own(place, name))
                    its = mixed if seen is None else replace(mixed, gallery=replace(gallery, features=seen))
                    blended.add(name, predict_mixed(model, self.sees[name], its, fold.layout, rows.files))
            found = self.uncertainty.calibrated(blended.total)
            return found if self.target.classes else number_or_logarithm(self.target, found)

        return mix

    def mixer_features(
        self, files: ImageFiles, *, device: torch.device, cache: Cache | None = None
    ) -> dict[str, FeatureTable]:
        """See ``Predictor``."""
        found = dict[str, FeatureTable]()
        if self.photo_encoder is not None:
            found[_SHARED] = self.photo_encoder.features(files, cache, device)
        for place, fold in enumerate(self.folds):
            for name, model in fold.models.items():
                own = model.own_features(files, cache, device) if isinstance(model, HasImageNetwork) else None
                if own is not None:
                    found[_own(place, name)] = own
        return found

    def save(self, folder: str | Path) -> None:
        """Write the model folder atomically.

        Raises:
            ResourceError: the folder exists or cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        folds = []
        for place, fold in enumerate(self.folds):
            described = {}
            for number, (name, model) in enumerate(fold.models.items()):
                prefix = f"fold{place}.model{number}."
                arrays, config = model.state()
                tensors |= {prefix + key: tensor for key, tensor in as_tensors(arrays, name).items()}
                described[name] = {**config, "tensors": prefix}
            of_encoder = {f"fold{place}.{name}": values for name, values in fold.encoder.arrays().items()}
            tensors |= as_tensors(of_encoder, "")
            folds.append({"encoder": fold.encoder.to_dict(), "models": described})
        encoder = self.photo_encoder
        if encoder is not None:
            tensors |= {_ENCODER + name: tensor for name, tensor in encoder.encoder.backbone.state_dict().items()}
        tensors |= as_tensors({_UNCERTAINTY + name: values for name, values in self.uncertainty.arrays().items()}, "")
        description = {
            "kind": "blend",
            "shares": self.shares,
            "temperatures": self.temperatures,
            "folds": folds,
            "photos": self.photos,
            "photo_encoder": None if encoder is None else encoder.config.to_dict(),
            "image_size": self.image_size,
            "uncertainty": self.uncertainty.describe(),
            "pool_floor": self.pool_floor,
            "crop": self.crop,
            "schema": self.schema.to_dict(),
            "preprocessor": self.preprocessor.to_dict(),
            "target": self.target.to_dict(),
            "metrics": self.metrics,
            "facts": None if self.facts is None else self.facts.to_dict(),
            **self.decision(),
        }
        card = partial(self.model_card, notes=self._card_notes(), licence=licence_of(self.image_config))
        save_folder(Path(folder), tensors, description, card)

    def _card_notes(self) -> list[str]:
        counts, most = self.fold_counts, max(self.fold_counts.values())
        rows = "all rows" if self.facts is not None and self.facts.refit else "all rows but the test rows"
        over = f"over {most} folds" if most > 1 else f"fitted on {rows}"
        alone = {name: f", one fit of {rows}" if counts[name] < most else "" for name in counts}
        listed = ", ".join(f"{name} ({share:.0%}{alone[name]})" for name, share in self.shares.items())
        notes = [f"A blend, {over}, of: {listed}."]
        if any("kernel" in name for name in self.shares):
            notes.append("Kernel ridge regression contains training rows, as scaled numbers.")
        return notes

    @property
    def image_config(self) -> ModelConfig | None:
        """Licence of the image network, shared or separate for each network; None without photos."""
        if self.photo_encoder is not None:
            return self.photo_encoder.config
        models = (model for fold in self.folds for model in fold.models.values())
        return next((one.config for one in models if isinstance(one, FittedNetwork) and one.shape.photos), None)

    @classmethod
    def read(
        cls,
        content: SavedModel,
        *,
        model: OwnNetwork | None = None,
        models: Sequence[Model] = (),
        embedders: Callable[[EmbedderFacts], Embedder] | None = None,
    ) -> "BlendPredictor":
        """See ``Predictor``."""
        if model is not None:
            raise ConfigError(f"{content.folder} has a blend, whose models mixfit builds itself: leave out model=.")
        said, tensors, common = content.said, content.tensors, content.described.common(content.kinds)
        mine: _Saved = from_plain(_Saved, said, "mixfit.json", finite=True)
        classes, task = len(common["target"].classes or ()), common["schema"].task
        photo_encoder = backbone = features = None
        if mine.photo_encoder is not None:
            weights = {name.removeprefix(_ENCODER): t for name, t in tensors.items() if name.startswith(_ENCODER)}
            photo_encoder = _read_encoder(mine.photo_encoder, mine.image_size, weights)
            backbone, features = photo_encoder.encoder.backbone, photo_encoder.encoder.num_features
        shares = mine.shares
        if not mine.folds or set(mine.temperatures) != set(shares) or abs(sum(shares.values()) - 1) > 1e-6:
            raise DataError("the shares do not match the models")
        known = {name: model_named(name, [*our_models(backbone), *models]) for name in shares}
        if any(looks(model.sees) for model in known.values()) != mine.photos:
            raise DataError("the blend and its models disagree on the use of photos")
        folds: list[FoldModels] = []
        for place, saved in enumerate(mine.folds):
            if not saved.models or not set(saved.models) <= set(shares):
                raise DataError("the models of a fold are not those with a share")
            encoder = RowEncoder.from_dict(saved.encoder, content.kinds, as_arrays(tensors, f"fold{place}."), embedders)
            check_columns(encoder.preprocessor, common["schema"])
            texts = [] if encoder.text is None else encoder.text.names
            if texts != (common["schema"].names("text") if any(reads(model.sees) for model in known.values()) else []):
                raise DataError("the texts of an encoder do not match the schema and the models")
            if folds and _text_model(encoder) != _text_model(folds[0].encoder):
                raise DataError("the folds have different text models")
            if encoder.photos is not None and len(encoder.photos.projection) != features:
                raise DataError("the scores of photos of an encoder do not match the image network")
            images = len(common["schema"].names("image"))
            layout = Layout.of(encoder, features=features, image_columns=images, classes=classes, task=task)
            fitted = {
                name: known[name].load(as_arrays(tensors, str(state.get("tensors"))), state, layout)
                for name, state in saved.models.items()
            }
            folds.append(FoldModels(encoder=encoder, layout=layout, models=fitted))
        if {name for fold in folds for name in fold.models} != set(shares):
            raise DataError("a model with a share is missing")
        if mine.pool_floor is not None and not classes:
            raise DataError("the pool of the folds does not match the target")
        uncertainty = uncertainty_from_dict(mine.uncertainty, as_arrays(tensors, _UNCERTAINTY), content.kinds)
        if isinstance(uncertainty, ClassUncertainty) != (classes > 0):
            raise DataError("the uncertainty does not match the target")
        if isinstance(uncertainty, NumberUncertainty) and uncertainty.counts != (task == "count"):
            raise DataError("the uncertainty does not match the task")
        if isinstance(uncertainty, NumberUncertainty):
            check_columns(uncertainty.encoder.preprocessor, common["schema"])
        return cls(
            shares=shares,
            sees={name: model.sees for name, model in known.items()},
            temperatures=mine.temperatures,
            folds=folds,
            photos=mine.photos,
            photo_encoder=photo_encoder,
            uncertainty=uncertainty,
            pool_floor=mine.pool_floor,
            image_size=mine.image_size,
            **common,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _SavedFold:
    """A ``FoldModels`` in JSON."""

    encoder: dict[str, Any]
    models: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """The entries of ``mixfit.json`` for a blend."""

    shares: dict[str, Share]
    temperatures: dict[str, Annotated[float, Within(0.01, 100)]]
    folds: list[_SavedFold]
    photos: bool
    photo_encoder: ModelConfig | None
    image_size: Annotated[int, Within(1, 1024)]
    uncertainty: dict[str, Any]
    pool_floor: Annotated[float, Within(1e-9, 1)] | None = None


def _text_model(encoder: RowEncoder) -> EmbedderFacts | None:
    """The sentence encoder behind the features of texts."""
    return None if encoder.text is None or encoder.text.embedder is None else encoder.text.embedder.facts


def _read_encoder(config: ModelConfig, image_size: int, tensors: Mapping[str, Tensor]) -> PhotoEncoder:
    try:
        backbone = make_saved_backbone(config, image_size, tensors)
        return make_photo_encoder(config, image_size, backbone=backbone)
    except ConfigError as error:
        raise DataError(str(error)) from error


class _Blended:
    """The weighted sum of models, each pooled over folds."""

    def __init__(self, predictor: BlendPredictor) -> None:
        self.predictor = predictor
        self.pools: dict[str, np.ndarray] = {}

    def add(self, name: str, found: np.ndarray) -> None:
        """Add the predictions of a model of one fold."""
        mine = self.predictor
        if mine.target.classes is not None:
            found = tempered(found, mine.temperatures[name])
        if mine.pool_floor is not None:
            found = logarithms_of(found, mine.pool_floor)
        self.pools[name] = self.pools.get(name, 0.0) + found / mine.fold_counts[name]

    @property
    def total(self) -> np.ndarray:
        """Scaled numbers ``(rows,)``, or probabilities ``(rows, classes)``, once all folds are added."""
        mine, pools = self.predictor, self.pools
        if mine.pool_floor is not None:
            pools = {name: probabilities_of(pool, mine.pool_floor) for name, pool in pools.items()}
        return np.sum([mine.shares[name] * pool for name, pool in pools.items()], axis=0)


def make_photo_encoder(config: ModelConfig, image_size: int, *, backbone: Backbone) -> PhotoEncoder:
    """The image encoder of a saved configuration without a table, with minimal layers after its backbone."""
    shape = ModelShape(numeric=0, cardinalities=(), photos=True, outputs=1, image_size=image_size)
    bare = replace(
        as_saved(config), tabular="mlp", numbers="plain", fusion="concat", tabular_hidden=(1,), encoding_dim=1
    )
    encoder = make_model(shape, bare, pretrained=False, backbone=backbone).image
    assert encoder is not None
    return PhotoEncoder(encoder=encoder.eval(), config=config, image_size=image_size)


def _photo_means(rows: RawRows, source: ImageFiles | FeatureTable | None) -> PhotoMeans:
    features = source if isinstance(source, FeatureTable) else None
    return mean_features(len(rows.table), None if rows.photos is None else rows.photos.slots, features)
