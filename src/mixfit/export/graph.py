"""The whole model as one graph: cells and photos in, predictions out.

In: a predictor. Out: an ONNX model, with its inputs and all that is to be known of them in its metadata. The graph
follows ``Predictor.predict`` step by step; what it cannot hold is refused with what to do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import spox.opset.ai.onnx.v20 as op
from spox import Var, build

from mixfit.data.columns.tags import TagsColumn
from mixfit.data.columns.target import SAME, ClassTarget, CountTarget, RegressionTarget
from mixfit.ensemble.intervals import ClassUncertainty, NumberUncertainty, Spread
from mixfit.errors import ConfigError
from mixfit.export.cells import CellInputs, Encoded, encoded_cells
from mixfit.export.estimators import design_sums, linked, predicted, share_components
from mixfit.export.networks import Networks
from mixfit.export.onnx_predict import FORMAT
from mixfit.export.ops import (
    DOUBLE,
    FLOAT,
    INT,
    NotExportable,
    arithmetic,
    as_type,
    at_least,
    clip,
    column,
    columns,
    const,
    repeated,
    softmax,
    total,
    upright,
    where,
)
from mixfit.export.photos import PhotoInputs, in_slots, mean_of_rows, normalized, of_rows, square_photos
from mixfit.export.texts import Vocabulary, text_features
from mixfit.models.encoding import RowEncoder
from mixfit.models.model import TABLE, TEXT, Sees, reads
from mixfit.models.network import FittedNetwork
from mixfit.models.ordered import FittedSteps
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.predictor.base import Predictor
from mixfit.predictor.blend import BlendPredictor
from mixfit.predictor.card import licence_of
from mixfit.predictor.network import NetworkPredictor

_LEVEL = 0.9
"""Default coverage."""
_LARGEST_LOG = 20.0  # of counts, as in ``CountTarget`` and ``objective.bounded``


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model as ONNX."""

    model: onnx.ModelProto
    level: float | None
    """Coverage of its intervals or prediction sets; None if it has none."""
    notes: tuple[str, ...]
    """What the file does not have, or does in another way than ``predict``."""
    meta: Mapping[str, Any]
    """Its metadata."""
    networks: Networks
    image_network: onnx.ModelProto | None
    """The image network that folds share, see ``Networks.image_network``."""


def export_graph(
    predictor: Predictor,
    level: float | None = None,
    *,
    weights_sha256: str = "",
    networks: Networks | None = None,
    instead: onnx.ModelProto | None = None,
) -> Exported:
    """Write a predictor as ONNX.

    Args:
        level: coverage of intervals or prediction sets; by default 0.9, or none if the model has none at that level.
        weights_sha256: of the weights of the model, for the metadata.
        networks: those that were written for the same predictor before, which takes most of the time.
        instead: an image network in the place of that which folds share, see ``Networks.image_network``.
    Raises:
        NotExportable: a part of the model cannot be written.
        ConfigError: the model has no intervals at ``level``.
    """
    notes, networks = list[str](), networks or Networks()
    own: dict[str, Any] = {"networks": networks, "instead": instead}
    with arithmetic():
        match predictor:
            case BlendPredictor():
                graph = _Graph(predictor, [fold.encoder for fold in predictor.folds], **own)
                outputs, level = _blend(predictor, graph, level, notes)
            case NetworkPredictor():
                encoder = RowEncoder(preprocessor=predictor.preprocessor, prefixes=(), text=predictor.text)
                graph = _Graph(predictor, [encoder], **own)
                if level is not None:
                    predictor.check_interval(level)
                notes.append("A single network has no prediction intervals or sets.")
                outputs = _network(predictor, graph, encoder)
            case _:
                raise NotExportable(
                    f"a predictor of the class {type(predictor).__name__} cannot be written as ONNX: predict with "
                    "mixfit."
                )
    model = build(graph.inputs, outputs)
    meta = _metadata(predictor, graph, level, weights_sha256)
    onnx.helper.set_model_props(model, {"mixfit": json.dumps(meta, ensure_ascii=False, allow_nan=False)})
    model.producer_name, model.producer_version = "mixfit", meta["mixfit"]
    shared = graph.shared
    return Exported(
        model=model,
        level=level,
        notes=tuple(notes),
        meta=meta,
        networks=networks,
        image_network=None if shared is None else networks.image_network(shared, predictor.image_size),
    )


@dataclass
class _Graph:
    """Inputs, and what several models share."""

    predictor: Predictor
    encoders: Sequence[RowEncoder]
    cells: CellInputs = field(default_factory=CellInputs)
    photos: PhotoInputs | None = None
    terms: dict[str, Vocabulary] = field(default_factory=dict)
    networks: Networks = field(default_factory=Networks)
    instead: onnx.ModelProto | None = None
    """In the place of the image network that folds share."""

    def __post_init__(self) -> None:
        uncertainty = getattr(self.predictor, "uncertainty", None)
        every = [*self.encoders, *([uncertainty.encoder] if isinstance(uncertainty, NumberUncertainty) else [])]
        for encoder in every:
            for state in encoder.preprocessor.columns:
                if isinstance(state, TagsColumn):
                    known = dict.fromkeys([*self.cells.tags.get(state.name, []), *state.tags])
                    self.cells.tags[state.name] = list(known)
        texts = [encoder.text for encoder in self.encoders if encoder.text is not None]
        for place, name in enumerate(texts[0].names if texts else ()):
            self.terms[name] = Vocabulary.of([one.columns[place] for one in texts])
        if self.predictor.uses_photos:
            self.photos = PhotoInputs.make(len(self.predictor.schema.names("image")))
        # The first encoder makes all inputs, so that the number of rows is known.
        self._cells = {id(one): encoded_cells(one, self.cells) for one in every}
        self._texts = {
            id(one): text_features(one.text, self.terms, self.cells) for one in self.encoders if one.text is not None
        }
        self.rows = self.cells.rows

    @cached_property
    def shared(self) -> ImageEncoder | None:
        """The encoder whose features all folds use."""
        encoder = self.predictor.photo_encoder if isinstance(self.predictor, BlendPredictor) else None
        return None if encoder is None else encoder.fast

    @cached_property
    def models(self) -> list[MixedInputModel]:
        """All networks of a blend that mixfit builds."""
        folds = self.predictor.folds if isinstance(self.predictor, BlendPredictor) else ()
        fitted = [one for fold in folds for one in fold.models.values()]
        steps = [step for one in fitted if isinstance(one, FittedSteps) for step in one.steps]
        networks = [one.model for one in (*fitted, *steps) if isinstance(one, FittedNetwork)]
        return [one for one in networks if isinstance(one, MixedInputModel)]

    @property
    def inputs(self) -> dict[str, Var]:
        """All inputs of the file."""
        return self.cells.inputs | ({} if self.photos is None else self.photos.by_name())

    def pixels(self, encoder: ImageEncoder) -> Var:
        """Normalised photos."""
        assert self.photos is not None
        photos = self.photos
        square = self.cells.once(
            "square", lambda: square_photos(photos, self.predictor.image_size, self.predictor.crop)
        )
        mean, std = (tuple(one.flatten().tolist()) for one in (encoder.pixel_mean, encoder.pixel_std))
        return self.cells.once(("pixels", mean, std), lambda: normalized(square, mean, std))

    def features(self, encoder: ImageEncoder) -> Var:
        """Features of all photos by an image network; once for all models that share it."""
        return self.cells.once(
            ("features", id(encoder.backbone)),
            lambda: self.networks.image_features(
                encoder,
                self.pixels(encoder),
                self.predictor.image_size,
                None if encoder is not self.shared else self.instead,
            ),
        )

    def belongs(self) -> Var:
        """Which photo is of which row."""
        assert self.photos is not None
        photos = self.photos
        return self.cells.once("belongs", lambda: of_rows(photos.rows, self.rows))

    def encoded(self, encoder: RowEncoder, features: Var | None, *, text: bool = True) -> Encoded:
        """Rows by an encoder.

        Args:
            features: of all photos, by the network of the blend.
        """
        numeric, levels = self._cells[id(encoder)]
        photos = seen = scores = None
        if features is not None:
            photos, seen = self.cells.once("means", lambda: mean_of_rows(features, self.belongs()))
            if encoder.photos is not None:
                learnt = encoder.photos
                found = op.matmul(photos, const(learnt.projection, FLOAT)) - const(learnt.middle, FLOAT)
                scores = found * as_type(upright(seen), FLOAT)
        texts = self._texts.get(id(encoder)) if text else None
        shape = (0, 0) if encoder.text is None or texts is None else (len(encoder.text.columns), encoder.text.width)
        return Encoded(
            rows=self.rows,
            numeric=numeric,
            numbers=encoder.numeric,
            levels=levels,
            photos=photos,
            seen=seen,
            photo_scores=scores,
            text=None if texts is None else texts[0],
            text_seen=None if texts is None else texts[1],
            text_shape=shape,
        )

    def network(self, model: MixedInputModel, sees: Sees, categories: int, rows: Encoded, features: Var | None) -> Var:
        """Raw outputs of a network.

        Args:
            categories: levels of ``rows`` that it takes.
            features: of its image network.
        """
        fields = {
            "numeric": repeated(np.zeros(0, FLOAT), self.rows),
            "categorical": repeated(np.zeros(0, INT), self.rows),
        }
        widths = {"numeric": 0, "categorical": 0}
        if "table" in sees and rows.numeric is not None:
            fields["numeric"], widths["numeric"] = rows.numeric, rows.numbers
        if "table" in sees and categories:
            fields["categorical"], widths["categorical"] = columns(rows.levels[:categories]), categories
        if reads(sees) and rows.text is not None and rows.text_seen is not None:
            fields["text"], fields["text_mask"] = rows.text, rows.text_seen
            widths["texts"], widths["text_width"] = rows.text_shape
        if features is not None and self.photos is not None:
            photos, width = self.photos, model.image.num_features
            slots = self.cells.once(("slots", id(features)), lambda: in_slots(photos, features, self.belongs()))
            fields |= {"features": slots.features, "image_mask": slots.mask, "image_column": slots.columns}
            widths["features"] = width
        return self.networks.outputs(model, fields, widths, self.models)


def _require_ours(model: Any) -> MixedInputModel:
    """The network, if it is one that mixfit builds.

    Raises:
        NotExportable: it is another.
    """
    if not isinstance(model, MixedInputModel) or not isinstance(model.image, ImageEncoder | None):
        raise NotExportable(
            "a custom network cannot be written as one file with its cells and photos: export it alone with "
            "torch.onnx.export, or predict with mixfit."
        )
    return model


# --- a blend ----------------------------------------------------------------------------------------------------------


def _blend(
    predictor: BlendPredictor, graph: _Graph, level: float | None, notes: list[str]
) -> tuple[dict[str, Var], float | None]:
    """As ``BlendPredictor.outputs``."""
    features = None if graph.shared is None else graph.features(graph.shared)
    pools: dict[str, Var] = {}
    for fold in predictor.folds:
        rows = graph.encoded(fold.encoder, features)
        share_components(fold.models.values(), rows)

        def network(fitted: FittedNetwork, rows: Encoded, categories: int = fold.layout.categories) -> Var:
            image = fitted.model.image
            its = features if image is None or not fitted.own_backbone else graph.features(image)
            its = None if image is None else its
            return graph.network(_require_ours(fitted.model), fitted.sees, categories, rows, its)

        for name, fitted in fold.models.items():
            found = predicted(fitted, rows, network)
            if predictor.target.classes is not None:
                found = _tempered(found, predictor.temperatures[name])
            if predictor.pool_floor is not None:
                found = op.log(found + predictor.pool_floor)
            part = found * (1 / predictor.fold_counts[name])
            pools[name] = pools[name] + part if name in pools else part
    sums = None
    for name, pool in pools.items():
        if predictor.pool_floor is not None:
            found = at_least(op.exp(pool) - predictor.pool_floor, 0.0)
            pool = found / total(found, keep=True)
        part = pool * predictor.shares[name]
        sums = part if sums is None else sums + part
    assert sums is not None
    level = _level(predictor, level, notes)
    uncertainty = predictor.uncertainty
    if isinstance(uncertainty, ClassUncertainty):
        probabilities = _tempered(sums, uncertainty.temperature)
        outputs, decided = _classes(predictor, probabilities)
        if level is not None:
            outputs["prediction_set"] = _sets(predictor, uncertainty, probabilities, decided, level)
        return outputs, level
    outputs = {"prediction": _decoded(predictor, sums)}
    if level is not None:
        encoded = graph.encoded(uncertainty.encoder, features, text=False)
        outputs["lower"], outputs["upper"] = _interval(predictor, uncertainty, sums, encoded, level)
    return outputs, level


def _level(predictor: BlendPredictor, level: float | None, notes: list[str]) -> float | None:
    """The coverage that the file has."""
    if level is not None:
        predictor.check_interval(level)
        return level
    try:
        predictor.check_interval(_LEVEL)
    except ConfigError as error:
        notes.append(f"The file has no intervals or prediction sets: {error}")
        return None
    return _LEVEL


def _tempered(probabilities: Var, temperature: float) -> Var:
    """As ``intervals.tempered``."""
    return softmax(op.log(at_least(probabilities, 1e-12)) / temperature)


def _classes(predictor: Predictor, probabilities: Var) -> tuple[dict[str, Var], Var]:
    """The predicted class by name, and all probabilities; and its index, int64 ``(rows,)``."""
    classes = predictor.target.classes
    assert classes is not None
    if predictor.schema.task == "ordered":
        below = op.less(op.cumsum(probabilities, const(1, INT)), const(0.5 - 1e-12, DOUBLE))
        decided = op.min([total(as_type(below, INT)), const(len(classes) - 1, INT)])
    elif predictor.threshold is not None:
        decided = as_type(op.greater(column(probabilities, 1), const(predictor.threshold, DOUBLE)), INT)
    else:
        decided = op.arg_max(probabilities, axis=1, keepdims=0)
    names = op.gather(const(np.array(classes, dtype=np.str_)), decided, axis=0)
    return {"prediction": names, "probabilities": probabilities}, decided


def _sets(
    predictor: BlendPredictor, uncertainty: ClassUncertainty, probabilities: Var, decided: Var, level: float
) -> Var:
    """As ``BlendPredictor.sets``, bool ``(rows, classes)``."""
    classes = len(predictor.target.classes or ())
    inside = op.less_or_equal(1.0 - probabilities, const(uncertainty.scores.quantile(level), DOUBLE))
    own = op.equal(upright(decided), const(np.arange(classes)[None]))
    found = op.or_(inside, own)
    if predictor.schema.task != "ordered":
        return found
    number = as_type(found, INT)
    after = op.greater(op.cumsum(number, const(1, INT)), const(0, INT))
    before = op.greater(op.cumsum(number, const(1, INT), reverse=1), const(0, INT))
    return op.and_(after, before)


def _decoded(predictor: Predictor, scaled: Var) -> Var:
    """Numbers in the unit of the target, as ``Target.decode``."""
    match predictor.target:
        case CountTarget(mean=mean, largest=largest):
            rates = op.exp(clip(scaled, -_LARGEST_LOG, _LARGEST_LOG)) * mean
            return op.min([rates, const(10 * largest, DOUBLE)])
        case RegressionTarget(log=log, mean=mean, std=std):
            values = scaled * std + mean
            if log:
                return op.exp(clip(values, -700.0, 700.0))
            largest = float(np.finfo(np.float64).max)
            return clip(values, -largest, largest)
    raise NotExportable("the target is of a custom kind: predict with mixfit.")


def _interval(
    predictor: BlendPredictor, uncertainty: NumberUncertainty, scaled: Var, rows: Encoded, level: float
) -> tuple[Var, Var]:
    """As ``NumberUncertainty.interval`` and ``Target.decode_interval``."""
    if uncertainty.counts:
        scaled = op.exp(clip(scaled, -_LARGEST_LOG, _LARGEST_LOG))
    widths = [uncertainty.scores.quantile(level)] * (len(uncertainty.edges) + 1)
    for place, scores in enumerate(uncertainty.by_prediction):
        if scores.suffice(level):
            widths[place] = scores.quantile(level)
    part = total(as_type(op.less(const(uncertainty.edges[None], DOUBLE), upright(scaled)), INT))
    half = op.gather(const(np.array(widths)), part, axis=0)
    if uncertainty.without_photo.suffice(level):
        alone = const(uncertainty.without_photo.quantile(level), DOUBLE)
        half = half * 0.0 + alone if rows.seen is None else op.where(rows.seen, half, alone)
    if uncertainty.spread is not None:
        half = half * _expected(uncertainty.spread, uncertainty.encoder, rows, scaled)
    low, high = scaled - half, scaled + half
    if not isinstance(predictor.target, CountTarget):
        return _decoded(predictor, low), _decoded(predictor, high)
    mean = predictor.target.mean
    low, high = at_least(low, 0.0) * mean, at_least(high, 0.0) * mean
    first, last = op.ceil(low - SAME) + 0.0, op.floor(high + SAME)
    empty = op.greater(first, last)
    return where(empty, op.floor(low), first), where(empty, op.ceil(high), last)


def _expected(spread: Spread, encoder: RowEncoder, rows: Encoded, predictions: Var) -> Var:
    """As ``Spread.predict``."""
    knots, weights = spread.knots, spread.model.weights
    own = columns(
        [
            predictions,
            *(at_least(predictions - float(knot), 0.0) for knot in knots[:, -1]),
            rows.seen_number,
        ]
    )
    count = len(knots) + 2
    sums = op.matmul(own, const(weights[:count], DOUBLE))
    if spread.table:
        sums = sums + design_sums(rows, weights[count:], encoder.cardinalities, knots[:, :-1])
    return op.exp(clip(linked(spread.model, sums), spread.low, spread.high))


# --- a single network -------------------------------------------------------------------------------------------------


def _network(predictor: NetworkPredictor, graph: _Graph, encoder: RowEncoder) -> dict[str, Var]:
    """As ``NetworkPredictor.outputs``."""
    model = _require_ours(predictor.model)
    features = None if model.image is None else graph.features(model.image)
    rows = graph.encoded(encoder, None)
    raw = graph.network(model, TABLE | TEXT, len(encoder.preprocessor.cardinalities), rows, features)
    found = as_type(raw, DOUBLE)
    if isinstance(predictor.target, ClassTarget):
        return _classes(predictor, softmax(found))[0]
    return {"prediction": _decoded(predictor, found)}


# --- metadata ---------------------------------------------------------------------------------------------------------


def _metadata(predictor: Predictor, graph: _Graph, level: float | None, weights_sha256: str) -> dict[str, Any]:
    """What a reader of the file needs to know, as JSON values."""
    import onnxscript
    import torch

    import mixfit

    schema = predictor.schema
    units = {one.name: one.form.unit for one in schema.columns if one.form.unit}
    photos = None
    if graph.photos is not None:
        photos = {"columns": schema.names("image"), "size": predictor.image_size, "crop": predictor.crop}
    words = {name: {"words": one.words, "pairs": one.pairs, "grams": one.grams} for name, one in graph.terms.items()}
    embedder = predictor.text_features.embedder if predictor.text_features is not None else None
    image = predictor.image_config
    return {
        "format": FORMAT,
        "mixfit": mixfit.__version__,
        "torch": torch.__version__,
        "onnxscript": onnxscript.__version__,
        "weights_sha256": weights_sha256,
        "licence": licence_of(image),
        "image_network": None if image is None else "float32" if graph.instead is None else "int8",
        "target": schema.target,
        "task": schema.task,
        "classes": predictor.target.classes,
        "level": level,
        "units": units,
        "inputs": graph.cells.told,
        "photos": photos,
        "text": words,
        "embedder": None if embedder is None else asdict(embedder.facts),
        "schema": schema.to_dict(),
        "preprocessor": predictor.preprocessor.to_dict(),
    }
