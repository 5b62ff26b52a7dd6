"""Blends of chosen models on a small example with two image columns and a column of codes, without a contest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from quick_runs import QUICK_MODEL

from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.load import MixedData, load_data
from mixfit.ensemble.cross_fit import FittedFolds, fit_folds, fit_model
from mixfit.ensemble.intervals import ClassUncertainty, Scores, number_uncertainty
from mixfit.ensemble.pool import FLOOR
from mixfit.models.encoding import RowEncoder
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import BOTH, PHOTOS, PIXELS, TABLE, Model
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees
from mixfit.nn.image import ImageEncoder
from mixfit.predictor.blend import BlendPredictor, FoldModels, PhotoEncoder
from mixfit.training.build import build_model, precompute_features, sized_for

EVERY_KIND: tuple[Model, ...] = (
    Constant(),
    *(kind(sees=sees) for kind in (Linear, KernelRidge, BoostedTrees, Network) for sees in (TABLE, PHOTOS, BOTH)),
    Network(sees=TABLE | PIXELS, tuned=True),
)


def two_image_columns(table: Path, rows: int = 90) -> pd.DataFrame:
    """The example with a column for each of the two photos, some missing, and a postal code."""
    frame = pd.read_csv(table, dtype=str).head(rows).drop(columns="vase_id")
    photos = frame["photos"].str.split(";", expand=True)
    frame["front"], frame["detail"] = photos[0], photos[1]
    frame.loc[5, "front"] = "images/none.jpg"
    frame["code"] = [f"{10000 + 1111 * (row % 13)}" for row in range(rows)]
    return frame.drop(columns="photos")


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Data from which blends are made."""

    data: MixedData
    mixed: MixedData
    image: ImageEncoder
    folds: FittedFolds
    model: ModelConfig

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        images: Path,
        target: str,
        *,
        size: int = 32,
        folds: int = 3,
        model: ModelConfig = QUICK_MODEL,
    ) -> "Workshop":
        """Features of the photos are computed here."""
        roles = {"code": "category"} if "code" in frame.columns else {}
        config = DataConfig(image_size=size, roles=roles)  # type: ignore[arg-type]
        data = load_data(frame, target=target, images=images, config=config)
        network = build_model(data, model, seed=0)
        assert network.image is not None
        mixed = precompute_features(data, network)
        dealt = fit_folds(mixed, folds, seed=0).with_pixels(data.photos.pixels)  # type: ignore[union-attr]
        return cls(data=data, mixed=mixed, image=network.image, folds=dealt, model=sized_for(data, model))

    def blend(self, models: Sequence[Model], *, epochs: int = 1, photos: bool = True) -> BlendPredictor:
        """All with the same share."""
        settings: dict[str, Any] = {"config": self.model, "train": TrainConfig(epochs=epochs)}
        settings["backbone"] = self.image.backbone
        models = [replace(one, **settings) if isinstance(one, Network) else one for one in models]
        mixed, folds = self.mixed, self.folds
        fitted = [{one.name: fit_model(one, fold) for one in models} for fold in folds.folds]
        encoder = RowEncoder.fit(mixed.frame.iloc[folds.rows], mixed.schema)
        if mixed.target.classes is None:
            encoded = encoder.encode(mixed.frame.iloc[folds.rows])
            uncertainty = number_uncertainty(folds.truth, 0.5 * folds.truth, encoded, encoder, folds.number)
        else:
            uncertainty = ClassUncertainty(temperature=1.3, scores=Scores.of(np.linspace(0, 1, 50)))
        return BlendPredictor(
            shares={one.name: 1 / len(models) for one in models},
            sees={one.name: one.sees for one in models},
            temperatures={one.name: 1.0 if mixed.target.classes is None else 0.8 for one in models},
            folds=[
                FoldModels(encoder=fold.encoder, layout=fold.rows.layout, models=those)
                for fold, those in zip(folds.folds, fitted, strict=True)
            ],
            photos=photos,
            photo_encoder=PhotoEncoder(encoder=self.image, config=self.model, image_size=mixed.image_size),
            uncertainty=uncertainty,
            pool_floor=None if mixed.target.classes is None else FLOOR,
            schema=mixed.schema,
            preprocessor=encoder.preprocessor,
            target=mixed.target,
            crop=mixed.crop,
            image_size=mixed.image_size,
        )
