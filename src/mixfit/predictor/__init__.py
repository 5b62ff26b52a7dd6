"""From raw rows of a table to predictions, saved as one folder."""

from mixfit.predictor.base import BATCH, Predictions, Predictor
from mixfit.predictor.blend import BlendPredictor
from mixfit.predictor.network import NetworkPredictor

__all__ = ["BATCH", "BlendPredictor", "NetworkPredictor", "Predictions", "Predictor"]
