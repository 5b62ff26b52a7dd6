"""The image network of a file in whole numbers of 8 bits: made with photos of the run, judged, and kept only if good.

In: a finished run, and its image network as ONNX. Out: the network with 8-bit weights and activations (Jacob et al.
2018, arXiv:1712.05877), and how it compares: the loss of test rows, which no model has seen, with its features instead
of those in single precision, and the seconds of a photo on this machine. Photos of training rows set the ranges of the
activations."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from jaxtyping import Float32

from mixfit.config_file import read_config
from mixfit.data.columns.schema import Schema
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import MixedData, load_data
from mixfit.data.photos.rule import images_root
from mixfit.data.table.read import saved_columns
from mixfit.ensemble.blend import row_losses
from mixfit.errors import ConfigError, DataError
from mixfit.export.networks import PIXELS
from mixfit.export.ops import NotExportable
from mixfit.nn.image import ImageEncoder
from mixfit.predictor.base import Predictor, RawRows
from mixfit.predictor.blend import BlendPredictor

MARGIN = 0.01
"""Part of the test loss by which it may grow at most."""
_JUDGED, _CALIBRATION = 256, 64
"""Largest numbers of rows that judge, and of those whose photos set the ranges of activations."""
_AT_ONCE = 16
"""Photos of a batch."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The network in 8 bits beside that in single precision; pairs have single precision first."""

    loss: tuple[float, float]
    """Mean loss of the test rows."""
    seconds: tuple[float, float]
    """Of a photo."""
    rows: int

    @property
    def growth(self) -> float:
        """Part of the loss by which it grows."""
        return self.loss[1] / self.loss[0] - 1.0 if self.loss[0] else float(self.loss[1] > 0)

    def __str__(self) -> str:
        return (
            f"test loss {self.loss[1]:.4g} instead of {self.loss[0]:.4g} ({self.growth:+.2%}, at most "
            f"{MARGIN:+.0%}) on {self.rows} rows; {1e3 * self.seconds[1]:.1f} ms instead of "
            f"{1e3 * self.seconds[0]:.1f} ms a photo"
        )

    def require(self) -> None:
        """Refuse a network that is worse, or no faster.

        Raises:
            ConfigError: it is.
        """
        worse, slower = not self.growth < MARGIN, not self.seconds[1] < self.seconds[0]
        if worse or slower:
            why = " and ".join([*["predicts worse"] * worse, *["is no faster on this machine"] * slower])
            raise ConfigError(
                f"The image network in 8 bits {why}, so nothing is written: {self}. Export without --int8."
            )


def require_shared_network(predictor: Predictor) -> BlendPredictor:
    """A blend whose folds share an image network.

    Raises:
        NotExportable: it is none.
    """
    if not isinstance(predictor, BlendPredictor) or predictor.frozen_encoder is None:
        raise NotExportable(
            "--int8 needs an image network that all folds share, and this model has none: export without --int8."
        )
    return predictor


def quantized(predictor: BlendPredictor, network: onnx.ModelProto, run: Path) -> tuple[onnx.ModelProto, Judged]:
    """The image network in 8 bits.

    Args:
        network: that of the file, in single precision.
        run: folder of the run, for its table and split.
    Raises:
        NotExportable: there are no rows that the model has not seen.
    """
    mixed, images = _data_of(predictor, run)
    judging = _spread(mixed.split.test, _JUDGED)
    ranges, judged = (
        predictor.raw_rows(mixed.table.select(chosen), images=images)
        for chosen in (_spread(mixed.split.train, _CALIBRATION), judging)
    )
    encoder = predictor.photo_encoder
    assert encoder is not None
    for one in (ranges, judged):
        if one.files is None or not len(one.files):
            raise NotExportable("--int8 needs rows with photos that are there: export without --int8.")
    made = _in_8_bits(network, _Pixels(encoder.fast, ranges))
    tables, seconds = _features([_session(one) for one in (network, made)], encoder.fast, judged)
    losses = [_loss(predictor, mixed, judging, judged, table) for table in tables]
    return made, Judged(loss=(losses[0], losses[1]), seconds=seconds, rows=len(judging))


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64))] if len(rows) else rows


def _data_of(predictor: BlendPredictor, run: Path) -> tuple[MixedData, Path]:
    """The data of a run, whose test rows the predictor has not seen, and the folder of its photos."""
    settings = read_config(run / "config.toml") if (run / "config.toml").is_file() else None
    if settings is None or settings.table is None or not settings.table.is_file():
        raise NotExportable(
            "--int8 compares losses of test rows, which needs the run folder and the table of the training: give the "
            "run folder, or export without --int8."
        )
    if predictor.facts is not None and predictor.facts.refit:
        raise NotExportable(
            "--int8 compares losses of test rows, and this model was fitted on all rows: train without --refit, or "
            "export without --int8."
        )
    mixed = load_data(
        settings.table,
        target=predictor.schema.target,
        config=replace(settings.data, roles={}, ignore=(), task=None, order=()),  # the schema has them
        schema=Schema.load(run / "schema.json"),
        seed=settings.train.seed,
        progress=False,
        text_model=None if predictor.text_features is None else predictor.text_features.embedder,
    )
    test = mixed.split.test
    if not len(test):
        raise NotExportable(
            "--int8 compares losses of test rows, and this run has none: train with some, or export without --int8."
        )
    known = saved_columns(run / "predictions_test.parquet", ["row"])["row"].to_numpy()
    if not np.array_equal(np.sort(known), np.sort(mixed.row_numbers[test])):
        raise DataError(
            f"The test rows of {settings.table} are not those of the training, as the table or its photos have "
            "changed: restore them, or export without --int8."
        )
    return mixed, images_root(settings.data.images, settings.table.parent)


@dataclass
class _Pixels:
    """The photos of rows, normalised, in batches, as onnxruntime's calibration reads them."""

    encoder: ImageEncoder
    rows: RawRows

    def __post_init__(self) -> None:
        self._batches = self.batches()

    def batches(self) -> Iterator[tuple[np.ndarray, Float32[np.ndarray, "photos 3 size size"]]]:
        """Numbers of the photos that can be read, and their pixels."""
        assert self.rows.files is not None
        mean, std = self.encoder.pixel_mean, self.encoder.pixel_std
        for start in range(0, len(self.rows.files), _AT_ONCE):
            some = np.arange(start, min(start + _AT_ONCE, len(self.rows.files)))
            pixels, readable = self.rows.files.read(some)
            if readable.any():
                yield some[readable.numpy()], ((pixels[readable].float() / 255 - mean) / std).numpy()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, as inputs of the network."""
        found = next(self._batches, None)
        return None if found is None else {PIXELS: found[1]}


def _in_8_bits(network: onnx.ModelProto, pixels: _Pixels) -> onnx.ModelProto:
    """Quantize the convolutions, with a scale for each channel of the weights."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        plain, path = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        ready = onnx.ModelProto()
        ready.CopyFrom(network)
        # There are no norms left to fold, so onnxruntime's advice to prepare the network does not apply.
        onnx.helper.set_model_props(ready, {"onnx.quant.pre_process": "onnxruntime.quant"})
        onnx.save(ready, plain)
        quantize_static(
            plain,
            path,
            pixels,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add"],
            per_channel=True,
            # Sums of two full products overflow 16 bits on processors without instructions for 8 bits.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


def _session(network: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    return onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _features(
    sessions: list[Any], encoder: ImageEncoder, rows: RawRows
) -> tuple[list[FeatureTable], tuple[float, float]]:
    """Features of the photos of rows by each network, and the median seconds of a photo by each, measured in turn on
    the same batches."""
    assert rows.files is not None
    count, taken = len(rows.files), list[list[float]]()
    values = [torch.zeros(count, encoder.num_features) for _ in sessions]
    readable = torch.zeros(count, dtype=torch.bool)
    for some, pixels in _Pixels(encoder, rows).batches():
        seconds = []
        for session, table in zip(sessions, values, strict=True):
            start = time.perf_counter()
            table[some] = torch.from_numpy(session.run(None, {PIXELS: pixels})[0])
            seconds.append((time.perf_counter() - start) / len(some))
        readable[some] = True
        taken.append(seconds)
    first, second = np.median(np.array(taken[1:] or taken), axis=0).tolist()  # the first batch prepares memory
    return [FeatureTable(values=one, readable=readable) for one in values], (first, second)


def _loss(predictor: BlendPredictor, mixed: MixedData, rows: np.ndarray, raw: RawRows, features: FeatureTable) -> float:
    """Mean loss of rows.

    Args:
        rows: their places in the table.
        raw, features: the same rows, and their photos.
    """
    found = predictor.uncertainty.calibrated(predictor.scaled_outputs(raw, features, torch.device("cpu")))
    losses = row_losses(mixed.arrays.target.numpy()[rows], found, counts=mixed.schema.task == "count")
    weight = mixed.arrays.weight
    return float(np.average(losses, weights=None if weight is None else weight.numpy()[rows]))
