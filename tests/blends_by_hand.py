"""Blends of chosen candidates on a small example with two image columns and a column of codes, without a contest."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import QUICK_MODEL

from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.load import MixedData, load_data
from mixfit.ensemble.cross_fit import FittedFolds, fit_folds
from mixfit.ensemble.intervals import ClassUncertainty, Scores, number_uncertainty
from mixfit.models.candidate import Candidate, fit_candidate
from mixfit.models.encoding import RowEncoder
from mixfit.models.fold import Kind
from mixfit.nn.image import ImageEncoder
from mixfit.predictor.blend import BlendPredictor, FoldModels, PhotoEncoder
from mixfit.training.build import build_model, precompute_features

BOOSTED: tuple[Kind, ...] = ("trees", "lightgbm") if find_spec("lightgbm") else ("trees",)
KINDS: tuple[Kind, ...] = ("linear", "kernels", *BOOSTED, "network")
EVERY_KIND = (
    Candidate(kind="constant"),
    *(
        Candidate(kind=kind, table=table, photos=photos)
        for kind in KINDS
        for table, photos in ((True, False), (False, True), (True, True))
    ),
    Candidate(kind="network", photos=True, tuned=True),
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
    def of(cls, frame: pd.DataFrame, images: Path, target: str, *, size: int = 32, folds: int = 3) -> "Workshop":
        """Features of the photos are computed here."""
        roles = {"code": "category"} if "code" in frame.columns else {}
        config = DataConfig(image_size=size, roles=roles)  # type: ignore[arg-type]
        data = load_data(frame, target=target, images=images, config=config)
        network = build_model(data, QUICK_MODEL, seed=0)
        assert network.image is not None
        mixed = precompute_features(data, network)
        dealt = fit_folds(mixed, folds, seed=0).with_pixels(data.photos.pixels)  # type: ignore[union-attr]
        return cls(data=data, mixed=mixed, image=network.image, folds=dealt, model=QUICK_MODEL)

    def blend(self, candidates: Sequence[Candidate], *, epochs: int = 1, photos: bool = True) -> BlendPredictor:
        """All with the same share."""
        train = TrainConfig(epochs=epochs)
        mixed, folds = self.mixed, self.folds
        fitted = [
            {
                one.name: fit_candidate(one, fold, model=self.model, train=train, backbone=self.image.backbone)
                for one in candidates
            }
            for fold in folds.folds
        ]
        encoder = RowEncoder.fit(mixed.frame.iloc[folds.rows], mixed.schema)
        if mixed.target.classes is None:
            encoded = encoder.encode(mixed.frame.iloc[folds.rows])
            uncertainty = number_uncertainty(folds.truth, 0.5 * folds.truth, encoded, encoder, folds.number)
        else:
            uncertainty = ClassUncertainty(temperature=1.3, scores=Scores.of(np.linspace(0, 1, 50)))
        return BlendPredictor(
            shares={one.name: 1 / len(candidates) for one in candidates},
            temperatures={one.name: 1.0 if mixed.target.classes is None else 0.8 for one in candidates},
            folds=[
                FoldModels(encoder=fold.encoder, models=models)
                for fold, models in zip(folds.folds, fitted, strict=True)
            ],
            photos=photos,
            photo_encoder=PhotoEncoder(encoder=self.image, config=self.model, image_size=mixed.image_size),
            uncertainty=uncertainty,
            schema=mixed.schema,
            preprocessor=encoder.preprocessor,
            target=mixed.target,
            crop=mixed.crop,
            image_size=mixed.image_size,
        )
