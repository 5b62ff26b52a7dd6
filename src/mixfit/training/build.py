"""The network that suits some data, and the features of its frozen part computed once."""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from mixfit.config import ModelConfig
from mixfit.data.dataset import FeatureTable
from mixfit.data.feature_store import FeatureStore
from mixfit.data.load import MixedData
from mixfit.data.store import ImageFiles, ImageSource
from mixfit.errors import ConfigError
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.training.prepare import start_well


def model_shape(data: MixedData) -> ModelShape:
    """What the data decide about their model."""
    return ModelShape(
        numeric=data.arrays.numeric.shape[1],
        cardinalities=tuple(data.preprocessor.cardinalities),
        photos=data.photos is not None,
        outputs=data.target.outputs,
        image_size=data.image_size,
        image_columns=max(1, len(data.schema.names("image"))),
    )


def build_model(data: MixedData, config: ModelConfig | None = None, *, seed: int | None = None) -> MixedInputModel:
    """A mixed-input network for ``data``, whose first prediction is the mean of the training rows.

    ``seed`` sets PyTorch's global generator before the weights are drawn."""
    if seed is not None:
        torch.manual_seed(seed)
    model = make_model(model_shape(data), ModelConfig() if config is None else config)
    start_well(model, data)
    return model


def precompute_features(data: MixedData, model: MixedInputModel, *, progress: bool = False) -> MixedData:
    """Run the frozen backbone once over every photo; the result's batches carry the features in place of pixels.

    Features that an earlier run left in ``data.cache`` are not computed again. All are held in memory, 4 bytes a
    number: 5 kB a photo for the default backbone, half a gigabyte for 100,000 photos.

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
    store = None
    if data.cache is not None and isinstance(data.source, ImageFiles):
        source, encoder = data.source, model.image
        store = FeatureStore(
            source.files,
            network=encoder_identity(encoder),
            d=encoder.num_features,
            size=source.size,
            crop=source.crop,
            cache=data.cache,
        )
    return data.with_features(encode_photos(model.image, data.source, store=store, progress=progress))


def encode_photos(
    encoder: ImageEncoder,
    source: ImageSource,
    *,
    store: FeatureStore | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> FeatureTable:
    """Features of all photos of a source, float32 ``(files, num_features)`` on the CPU.

    Only photos that ``store`` does not hold are read and encoded; their features are added to it."""
    encoder.eval()
    nothing = FeatureTable(
        torch.zeros(len(source), encoder.num_features), torch.zeros(len(source), dtype=torch.bool), {}
    )
    everything = np.arange(len(source))
    with nullcontext((nothing, everything)) if store is None else store.filling() as (table, missing):
        chunks = _chunks(missing, batch_size)
        if progress and len(missing):
            chunks = track(chunks, total=-(-len(missing) // batch_size), description=" photos", transient=True)  # type: ignore[assignment]
        failures = dict(table.failures)
        for chunk in chunks:
            pixels, readable = source.read(chunk)
            features = _encode(encoder, pixels).masked_fill(~readable[:, None], 0)
            table.values[chunk], table.readable[chunk] = features, readable
            unreadable = {number: source.failures[number] for number in chunk[~readable.numpy()].tolist()}
            failures |= unreadable
            if store is not None:
                store.add(chunk, features, unreadable)
    return FeatureTable(table.values, table.readable, dict(sorted(failures.items())))


def encoder_identity(encoder: ImageEncoder) -> str:
    """A digest of all that decides the features of a photo: weights, layers, scale of the pixels, and arithmetic."""
    digest = hashlib.sha256(repr(encoder.backbone).encode())
    tensors = encoder.backbone.state_dict() | {"mean": encoder.pixel_mean, "std": encoder.pixel_std}
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    # Other versions and other instruction sets round differently.
    device = encoder.pixel_mean.device.type
    digest.update(f"{torch.__version__} {device} {torch.backends.cpu.get_cpu_capability()}".encode())
    return digest.hexdigest()


def _encode(encoder: ImageEncoder, pixels: Tensor) -> Tensor:
    """Features on the CPU, with the same bits for a photo whatever other photos are in the chunk."""
    # A single photo may go through another convolution routine than several, which rounds differently.
    images = pixels if len(pixels) > 1 else torch.cat([pixels, pixels])
    with torch.inference_mode():
        return encoder.encode(images.to(encoder.pixel_mean.device))[: len(pixels)].float().cpu().clone()


def _chunks(numbers: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
