"""From raw rows of a table to predictions, and all that this needs in one folder."""

from mixfit.predictor.base import BATCH, Predictions, Predictor, unreadable_photos

__all__ = ["BATCH", "Predictions", "Predictor", "unreadable_photos"]
