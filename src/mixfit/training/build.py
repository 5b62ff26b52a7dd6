"""The network that suits some data, and the features of its frozen part computed once."""

from collections.abc import Iterator

import numpy as np
import torch
from rich.progress import track

from mixfit.config import ModelConfig
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import MixedData
from mixfit.data.store import ImageSource
from mixfit.errors import ConfigError
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel, ModelShape, make_model


def model_shape(data: MixedData) -> ModelShape:
    """What the data decide about their model."""
    return ModelShape(
        numeric=data.arrays.numeric.shape[1],
        cardinalities=tuple(data.preprocessor.cardinalities),
        photos=data.photos is not None,
        outputs=data.target.outputs,
        image_size=data.image_size,
    )


def build_model(data: MixedData, config: ModelConfig | None = None, *, seed: int | None = None) -> MixedInputModel:
    """A mixed-input network for ``data``; ``seed`` sets PyTorch's global generator before the weights are drawn."""
    if seed is not None:
        torch.manual_seed(seed)
    return make_model(model_shape(data), ModelConfig() if config is None else config)


def precompute_features(data: MixedData, model: MixedInputModel, *, progress: bool = False) -> MixedData:
    """Run the frozen backbone once over every photo; the result's batches carry the features in place of pixels.

    Raises:
        ConfigError: the model has no image encoder, its backbone is not frozen, or the data have transforms.
    """
    if model.image is None or not model.image.frozen:
        raise ConfigError("Features can be computed once only for a frozen image encoder.")
    if data.source is None or isinstance(data.source, FeatureTable):
        return data
    if data.transforms:
        raise ConfigError(
            "Features are computed once from the unchanged photos, so transforms would have no effect: load the data "
            "without them, or train the image encoder on pixels."
        )
    return data.with_features(encode_photos(model.image, data.source, progress=progress))


def encode_photos(
    encoder: ImageEncoder, source: ImageSource, *, batch_size: int = 64, progress: bool = False
) -> FeatureTable:
    """Features of all photos of a source, float32 ``(files, num_features)`` on the CPU."""
    device = encoder.pixel_mean.device
    values = torch.zeros(len(source), encoder.num_features)
    readable = torch.zeros(len(source), dtype=torch.bool)
    encoder.eval()
    chunks = _chunks(len(source), batch_size)
    if progress:
        chunks = track(chunks, total=-(-len(source) // batch_size), description=" photos", transient=True)  # type: ignore[assignment]
    with torch.inference_mode():
        for chunk in chunks:
            pixels, readable[chunk] = source.read(chunk)
            values[chunk] = encoder.encode(pixels.to(device)).float().cpu()
    return FeatureTable(values.masked_fill(~readable[:, None], 0), readable)


def _chunks(total: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, total, size):
        yield np.arange(start, min(start + size, total))
