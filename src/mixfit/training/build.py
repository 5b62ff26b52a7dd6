"""Build a network for the data, initialise it, and compute the features of its frozen backbone once."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mixfit.config import ModelConfig
from mixfit.console import PlainConsole, tracked
from mixfit.data.dataset import FeatureTable, ImageSource
from mixfit.data.load import MixedData
from mixfit.data.photos.features import FeatureStore
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import ImageFiles
from mixfit.errors import ConfigError
from mixfit.nn.bins import compute_bins
from mixfit.nn.build import ModelShape, make_model, with_sizes
from mixfit.nn.folding import without_norms
from mixfit.nn.fusion import Fusion
from mixfit.nn.image import ImageEncoder
from mixfit.nn.init import Scaled, Stage, lsuv, start_at_target
from mixfit.nn.model import MixedInputModel, PhotoEncoder
from mixfit.seeding import seeded
from mixfit.weighted import weighted_mean

Part = Literal["branches", "output"]
_UNSEEN = 1e-3
"""Share of a uniform distribution in the initial class probabilities, as a fold may lack a class."""
CHUNK = 4
"""Batch size for features, always full, as results may depend on the batch size in the last bits; larger ones are not
faster (docs/LOG.md), and one row has few photos."""
ENCODER_VERSION = 2
"""Increase this when features change in a way that ``encoder_identity`` does not detect."""
_READ = 64
"""Number of photos that are decoded at a time."""


def build_model(
    data: MixedData | ModelShape,
    config: ModelConfig | None = None,
    *,
    seed: int | None = None,
    image_encoder: PhotoEncoder | None = None,
    fusion: Callable[[int, int], Fusion] | None = None,
) -> MixedInputModel:
    """Build a mixed-input network for ``data``, whose initial prediction is the mean of the training rows.

    By default TabM with piecewise-linear embeddings of the numbers, of a width that suits the number of rows.
    With ``seed``, the weights are drawn from it and PyTorch's global generators are not changed; without, they are
    drawn from these. Randomness in training, such as dropout, always comes from the global generators.

    A custom part replaces that of the configuration. Save such a network with
    ``Predictor.from_training(model, data, config, settings={...})``, and load it with
    ``Predictor.load(folder, model=build)``, whose ``build(shape, config, settings)`` calls this function again.

    Args:
        data: the output of ``load_data``; or only its ``ModelShape``, if saved weights are loaded later.
        config: of the other parts.
        image_encoder: a module ``(images, features, mask, mix, column=, query=, normalized=) -> (batch, out_dim)`` with
            that ``out_dim``, see ``PhotoEncoder``. Wrap a custom backbone, which processes single photos, in an
            ``ImageEncoder``.
        fusion: a class or function that returns one, given the widths of the encodings of table and photos: a
            module ``(batch, d_table) or (batch, members, d_table), (batch, d_image) -> (batch, [members,] out_dim)``
            with that ``out_dim``.
    Raises:
        ConfigError: the table has no photos for an image encoder or a fusion.
    """
    config = ModelConfig() if config is None else config
    own: Any = {"image_encoder": image_encoder, "fusion": fusion}
    with nullcontext() if seed is None else seeded(seed):
        if isinstance(data, ModelShape):
            return make_model(data, config, pretrained=False, **own)
        config = sized_for(data, config)
        return built(data, config, model_shape(data, config), **own)


def built(data: MixedData, config: ModelConfig, shape: ModelShape, **own: Any) -> MixedInputModel:
    """``build_model`` with the sizes and the shape that are known already; draws from PyTorch's global generators."""
    model = make_model(shape, config, **own)
    if data.scores is not None and isinstance(model.image, ImageEncoder):
        model.image.set_scores(*map(torch.from_numpy, (data.scores.projection, data.scores.middle)))
    start_well(model, data)
    return model


def model_shape(data: MixedData, config: ModelConfig) -> ModelShape:
    """The properties of a model that depend on the data; computes bins from the training rows, if needed."""
    bins: tuple[tuple[float, ...], ...] = ()
    if config.numbers == "piecewise":
        rows = torch.as_tensor(np.asarray(data.split.train))
        edges = compute_bins(
            data.arrays.numeric[rows],
            bins=config.bins,
            target=data.arrays.target[rows],
            weight=data.weights("train"),
        )
        bins = tuple(tuple(column.tolist()) for column in edges)
    return ModelShape(
        numeric=data.arrays.numeric.shape[1],
        cardinalities=tuple(data.preprocessor.cardinalities),
        photos=data.photos is not None,
        outputs=data.target.outputs,
        image_size=data.image_size,
        image_columns=max(1, len(data.schema.names("image"))),
        bins=bins,
        photo_scores=0 if data.scores is None else len(data.scores.middle),
        text_columns=0 if data.arrays.text is None else data.arrays.text.shape[1],
        text_width=0 if data.arrays.text is None else data.arrays.text.shape[2],
    )


def sized_for(data: MixedData, config: ModelConfig) -> ModelConfig:
    """The configuration with default sizes for the data filled in."""
    return with_sizes(config, rows=len(data.split.train), numeric=data.arrays.numeric.shape[1])


def start_well(model: MixedInputModel, data: MixedData, *, scale: Sequence[Part] = ()) -> list[Scaled]:
    """Let a new model predict the mean of the training rows, and scale parts of it to unit variance on the first batch.

    Args:
        scale: "branches" for the encodings of table, texts and photos where they meet, "output" for the predictions.
    Returns:
        The scaled stages, in the order of the model; print it to see which branch had a large variance.
    """
    scaled: list[Scaled] = []
    if scale:
        xb, _ = next(iter(data.train))
        data.train.set_epoch(0)  # undo taking the batch
        xb = xb.to(model.head.weight.device)
        with torch.no_grad():
            scaled = lsuv(model, lambda: model(xb), _stages(model, scale))
    rows = data.split.train
    target, weight = data.arrays.target.numpy()[rows], data.weights("train")
    if data.target.classes is None:
        mean = weighted_mean(target, weight)
        start_at_target(model.head, mean=math.log(max(mean, _UNSEEN)) if data.schema.task == "count" else mean)
    else:
        shares = np.bincount(target, weights=weight, minlength=data.target.outputs)
        shares = (1 - _UNSEEN) * shares / shares.sum() + _UNSEEN / len(shares)
        start_at_target(model.head, class_share=shares.tolist())
    return scaled


def _stages(model: MixedInputModel, scale: Sequence[Part]) -> list[Stage]:
    stages = []
    photos = model.image if isinstance(model.image, ImageEncoder) else None
    if "branches" in scale and (photos is not None or model.text is not None):
        assert isinstance(model.tabular, nn.Module)
        stages.append(Stage("table", model.tabular, model.tabular.last_layers))
        if model.text is not None:
            stages.append(Stage("text", model.text, model.text.last_layers))
        if photos is not None:
            stages.append(Stage("photos", photos, photos.last_layers))
    if "output" in scale:
        stages.append(Stage("output", model.head, (model.head,), centre=True))
    return stages


def precompute_features(
    data: MixedData,
    model: MixedInputModel,
    *,
    progress: bool = True,
    tell: Callable[[int, int], None] | None = None,
) -> MixedData:
    """Run the frozen backbone once over every photo; the result's batches have the features instead of pixels.

    Data without photos are returned as they are.

    Features in ``data.photos.cache`` are not recomputed. They take 4 bytes per number, 9 kB per photo for the default
    backbone, in memory up to 1 GiB, otherwise in a temporary file.

    Args:
        progress: show a bar on a terminal.
        tell: called with the number of photos that are done, and of all that are not in the cache.
    Raises:
        ConfigError: the model has no image encoder, its backbone is not frozen, or the data have transforms.
    """
    if data.photos is None:
        return data
    if not isinstance(model.image, ImageEncoder) or not model.image.frozen:
        raise ConfigError("Features can be precomputed only for a frozen image encoder.")
    photos = data.photos
    if photos is None or photos.decoder is None or photos.features is not None:
        return data
    if data.transforms:
        raise ConfigError(
            "Features are computed once from the unchanged photos, so transforms would have no effect: load the data "
            "without them, or train the image encoder on pixels."
        )
    store = None
    if photos.cache is not None and isinstance(photos.decoder, ImageFiles):
        store = open_feature_store(model.image, photos.decoder, photos.cache)
    return data.with_features(encode_photos(model.image, photos.decoder, store=store, progress=progress, tell=tell))


def all_features(encoder: ImageEncoder, files: ImageFiles, cache: Cache | None) -> FeatureTable:
    """Features of files, from the cache if possible."""
    if cache is None:
        return encode_photos(encoder, files, full=files.full_chunks)
    encoder = without_norms(encoder, files.size)  # once for both: the identity of the features, and the features
    return encode_photos(encoder, files, store=open_feature_store(encoder, files, cache), progress=cache.progress)


def encode_photos(
    encoder: ImageEncoder,
    source: ImageSource,
    *,
    store: FeatureStore | None = None,
    progress: bool = False,
    tell: Callable[[int, int], None] | None = None,
    full: bool = True,
) -> FeatureTable:
    """Features of all photos of a source, float32 ``(files, num_features)`` on the CPU.

    Only photos that are not in ``store`` are read and encoded; their features are added to it.

    Args:
        progress: show a bar on a terminal.
        tell: see ``precompute_features``.
        full: whether every chunk is filled up, see ``ImageFiles.full_chunks``.
    """
    nothing = FeatureTable.empty(len(source), encoder.num_features)
    everything, fast = np.arange(len(source)), encoder
    with nullcontext((nothing, everything)) if store is None else store.filling() as (table, missing):
        chunks, done = _chunks(missing, _READ), 0
        if progress and len(missing):
            count = -(-len(missing) // _READ)
            chunks = tracked(chunks, total=count, description=" photos", console=PlainConsole())
        for chunk in chunks:
            pixels, readable = source.read(chunk)
            fast = without_norms(fast, pixels.shape[-1])
            features = _encode(fast, pixels, full=full).masked_fill(~readable[:, None], 0)
            table.values[chunk], table.readable[chunk] = features, readable
            failures = {} if readable.all() else source.failures  # sorted on each access
            unreadable = {number: failures[number] for number in chunk[~readable.numpy()].tolist()}
            table.failures.update(unreadable)
            if store is not None:
                store.add(chunk, features, unreadable)
            done += len(chunk)
            if tell is not None:
                tell(done, len(missing))
    return FeatureTable(table.values, table.readable, dict(sorted(table.failures.items())))


def open_feature_store(encoder: ImageEncoder, source: ImageFiles, cache: Cache) -> FeatureStore:
    """The store of the features of these photos by this network."""
    return FeatureStore(
        source.files,
        network=encoder_identity(encoder, source.size),
        d=encoder.num_features,
        size=source.size,
        crop=source.crop,
        cache=cache,
        follow_links=source.follow_links,
        weights="" if cache.stored is None else network_digest(encoder, source.size),
    )


def encoder_identity(encoder: ImageEncoder, size: int) -> str:
    """A digest of everything that affects the features of a photo with a side length of ``size`` pixels.

    It covers weights, buffers, printed layers, versions and the instruction set, and the features of one chunk of
    noise, which depend on everything else: settings that are not printed, and the code of the network."""
    encoder = without_norms(encoder, size)
    digest = _of_weights(encoder)
    device = encoder.pixel_mean.device.type
    versions = f"{ENCODER_VERSION} {torch.__version__} {version('timm')}"
    settings = f"{encoder.stages} {encoder.memory_format} {encoder.precision}"
    digest.update(f"{versions} {settings} {device} {torch.backends.cpu.get_cpu_capability()}".encode())
    noise = np.random.default_rng(0).integers(0, 256, (CHUNK, 3, size, size), dtype=np.uint8)
    digest.update(_bytes(_encode(encoder, torch.from_numpy(noise))))
    return digest.hexdigest()


def network_digest(encoder: ImageEncoder, size: int) -> str:
    """A digest of the weights, layers and settings of the network alone, equal on all machines."""
    digest = _of_weights(without_norms(encoder, size))
    digest.update(f"{ENCODER_VERSION} {encoder.stages} {encoder.precision}".encode())
    return digest.hexdigest()


def _of_weights(encoder: ImageEncoder) -> Any:
    """A sha256, to be updated, of the layers as they are printed and of all tensors."""
    digest = hashlib.sha256(repr(encoder.backbone).encode())
    tensors = {
        **dict(encoder.backbone.named_parameters(prefix="backbone")),
        **dict(encoder.backbone.named_buffers(prefix="backbone")),
        "pixel_mean": encoder.pixel_mean,
        "pixel_std": encoder.pixel_std,
    }
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest


def _encode(encoder: ImageEncoder, pixels: Tensor, *, full: bool = True) -> Tensor:
    """Features on the CPU, with ``full`` bit-identical for a photo whatever the number of others."""
    features = []
    for start in range(0, len(pixels), CHUNK):
        part = pixels[start : start + CHUNK]
        # Convolutions use other algorithms for small batches, which round differently.
        images = part.new_zeros(CHUNK if full else len(part), *part.shape[1:])
        images[: len(part)] = part
        with torch.inference_mode():
            features.append(encoder.encode(images.to(encoder.pixel_mean.device))[: len(part)].float().cpu().clone())
    return torch.cat(features)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _chunks(numbers: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
