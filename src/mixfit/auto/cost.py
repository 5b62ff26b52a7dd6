"""What the parts of a run cost: seconds of one processor and bytes of memory, from sizes alone.

In: the sizes of a table and a model. Out: ``Work``, numbers of operations by kind, and seconds, which are work times
the coefficients of ``cost_table`` (fitted by ``benchmarks/fit_costs.py``). No clock is read: what is planned by these
costs is the same on every machine. A model of the user has no known cost."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from mixfit.auto.cost_table import SECONDS
from mixfit.data.load import MixedData, default_batch_size
from mixfit.data.scores import MOST_ROWS
from mixfit.models.kernels import EXACT_ROWS, KernelRidge
from mixfit.models.linear import TOGETHER, WIDE, Constant, Linear, knot_shares
from mixfit.models.model import AXES_ROWS, Model, Sees, is_of_all_rows, looks, reads
from mixfit.models.network import Network, tabm_batch_size
from mixfit.models.trees import COMPONENTS as TREE_COMPONENTS
from mixfit.models.trees import BoostedTrees
from mixfit.nn.bins import TREE_ROWS
from mixfit.nn.build import with_sizes
from mixfit.nn.image import ImageEncoder
from mixfit.nn.tabular import embedding_size

Work = dict[str, int | float]
"""Numbers of operations by kind; those that grow with the data in millions."""
_MILLION = 1e6
_COMPONENTS = 60  # of the photos, in linear models
_DOUBLE = 8  # bytes
_GROWN = 0.5  # share of the largest number of trees until early stopping
_BINS = 255  # of a column of boosted trees, each of at least three rows
_CELL = 8  # bytes of a cell in a file
EXTRA_BYTES = 200_000_000
"""Memory that imports and small arrays take on top of the estimates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """All that the cost of a run depends on."""

    rows: int
    """Training and validation rows, which the folds share."""
    test: int
    folds: int
    """Folds, with the one of all rows if they are in time order."""
    numeric: int
    categories: int
    levels: int
    """Levels of all categories together."""
    widest: int
    """Most levels of one category."""
    classes: int
    """Number of classes; 0 for regression."""
    ordered: bool = False
    """Whether the classes have an order, so that linear models and trees fit every step between them."""
    columns: int
    """Columns of the table."""
    texts: int = 0
    """Columns of text."""
    text_width: int = 0
    characters: float = 0.0
    """Of all texts, in thousands."""
    photos: int = 0
    """Photo files."""
    features: int = 0
    """Numbers that describe a photo; 0 without features."""
    scores: bool = True
    """Whether scores of photos are learnt."""
    photo_work: float = 0.0
    """Billions of operations of the image network for a photo."""

    @property
    def fit(self) -> int:
        """Training rows of a fold."""
        return max(1, self.rows * (self.folds - 1) // max(self.folds, 1)) if self.folds > 1 else self.rows

    @property
    def encoded_folds(self) -> int:
        """Folds whose rows are encoded: also that of all rows, if a preset has kernel ridge regressions."""
        return self.folds + (self.photos > 0 or self.fit <= EXACT_ROWS)

    @property
    def predicted(self) -> int:
        """Rows that the model of one fold predicts: those of its fold and the test rows."""
        return self.rows // max(self.folds, 1) + self.test

    @property
    def outputs(self) -> int:
        """Numbers that are fitted for a row."""
        return self.classes if self.classes > 2 else 1

    @classmethod
    def of(cls, data: MixedData, *, folds: int, features: int = 0, photo_work: float = 0.0) -> "Sizes":
        """The sizes of a table.

        Args:
            folds: of the preset; fewer if there are fewer groups of rows.
            features: numbers that the image network gives for a photo.
            photo_work: see ``image_work``.
        """
        names, cardinalities = data.schema.names("text"), data.preprocessor.cardinalities
        text = data.arrays.text
        lengths = [data.frame[name].astype("str").str.len().sum() for name in names]
        return cls(
            rows=len(data.split.train) + len(data.split.valid),
            test=len(data.split.test),
            folds=folds + (data.split_time is not None),
            numeric=data.arrays.numeric.shape[1],
            categories=data.arrays.categorical.shape[1],
            levels=sum(cardinalities),
            widest=max(cardinalities, default=0),
            classes=len(data.target.classes or ()),
            ordered=data.schema.task == "ordered",
            columns=len(data.schema.columns),
            texts=len(names),
            text_width=0 if text is None else text.shape[2],
            characters=float(sum(lengths)) / 1e3,
            photos=0 if data.photos is None else len(data.photos.files),
            features=features,
            photo_work=photo_work,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds of one processor, and the largest memory in bytes at a time."""

    seconds: float
    bytes: float = 0.0


def seconds(work: Work) -> float:
    """Seconds of one processor that some work takes."""
    return sum((SECONDS[kind] * count for kind, count in work.items()), start=0.0)


def total(parts: Iterable[Work]) -> Work:
    """The sum of some work."""
    found: defaultdict[str, int | float] = defaultdict(int)
    for part in parts:
        for kind, count in part.items():
            found[kind] += count
    return dict(found)


def times(work: Work, count: int | float) -> Work:
    """Work that is done several times."""
    return {kind: count * amount for kind, amount in work.items()}


def fit_work(model: Model, s: Sizes) -> Work:
    """The work of fitting a model on the training rows of one fold; none for a model of the user."""
    match model:
        case Linear() | BoostedTrees() if s.ordered:
            return times(fit_work(model, _of_step(s)), s.classes - 1)
        case Linear():
            return _linear(model.sees, s)
        case KernelRidge():
            return _kernels(model, s)
        case BoostedTrees():
            return _trees(model, s)
        case Network():
            return _network(model, s)
        case _:
            return {}


def _of_step(s: Sizes) -> Sizes:
    """The sizes of one step between ordered classes, which tells two classes apart."""
    return replace(s, classes=2, ordered=False)


def predict_work(model: Model, s: Sizes, rows: int | float) -> Work:
    """The work of predicting some rows with the model of one fold."""
    match model:
        case Linear() | BoostedTrees() if s.ordered:
            return times(predict_work(model, _of_step(s), rows), s.classes - 1)
        case Linear():
            width = design_columns(model.sees, s)
            entries = _entries(model.sees, s) if width > WIDE else width
            return {"linear predict": rows * entries / _MILLION, "predict": 1}
        case KernelRidge():
            pairs = rows * model.kept(s.fit)
            return {"kernel predict": pairs * (_kernel_columns(model.sees, s) + s.outputs) / _MILLION, "predict": 1}
        case BoostedTrees():
            return {
                "trees predict": rows
                * model.trees(s.fit, _tree_columns(model.sees, s), s.outputs)[0]
                * _GROWN
                / _MILLION,
                "predict": 1,
            }
        case Network():
            operations, _ = _layers(model, s)
            return {"network predict": rows * operations / _MILLION, "network batches": rows / 256 + 1}
        case _:
            return {}


def model_work(model: Model, s: Sizes) -> Work:
    """The work of cross-validating a model: fits and predictions of all folds."""
    work = times(total([fit_work(model, s), predict_work(model, s, s.predicted)]), s.folds)
    alone = is_of_all_rows(model)
    return total([work, fit_work(model, replace(s, folds=1))]) if alone else work


def design_columns(sees: Sees, s: Sizes) -> int:
    """Columns of the design matrix of a linear model."""
    table = _terms(s) * s.numeric + s.levels if "table" in sees else 0
    return table + _text(sees, s) + (min(_COMPONENTS, s.features) + 1) * looks(sees)


def _terms(s: Sizes) -> int:
    """Columns of the design matrix for each number: the number and its knots."""
    return 1 + len(knot_shares(s.fit, s.numeric, s.levels - s.categories, classes=s.classes > 0))


def _text(sees: Sees, s: Sizes) -> int:
    return s.texts * (s.text_width + 1) if reads(sees) else 0


def _entries(sees: Sees, s: Sizes) -> int:
    """Entries of a row of the design matrix that are not 0."""
    table = _terms(s) * s.numeric + s.categories if "table" in sees else 0
    return table + _text(sees, s) + (min(_COMPONENTS, s.features) + 1) * looks(sees)


def _linear(sees: Sees, s: Sizes) -> Work:
    width, n = design_columns(sees, s), s.fit
    if width > WIDE:
        entries = n * _entries(sees, s) / _MILLION
        if s.classes:
            return {"logistic sparse": entries * s.outputs**0.5, "linear": 1}
        dense = min(TOGETHER, _entries(sees, s) - s.categories * ("table" in sees))
        block = 2 * n * dense**2 + 2 * dense**3  # two products, and a factor for each penalty
        return {"ridge sparse": entries, "ridge block": block / _MILLION, "linear": 1}
    if s.classes:
        # Of many classes penalties are compared on fewer rows, and fits end earlier.
        return {"logistic": n * (width + 30) * s.outputs**0.5 / _MILLION, "linear": 1}
    least = min(n, width)
    return {"ridge product": n * least * width / _MILLION, "ridge eigenvalues": least**3 / _MILLION, "linear": 1}


def _kernel_columns(sees: Sees, s: Sizes) -> int:
    return (s.numeric + s.categories if "table" in sees else 0) + _text(sees, s) + 120 * looks(sees) + 20


def _kernels(model: KernelRidge, s: Sizes) -> Work:
    sees, few, more, kept = model.sees, min(s.fit, 600), min(s.fit, 1_000), model.kept(s.fit)
    kernels = 2 * ("table" in sees or reads(sees)) + 2 * (s.categories > 0 and "table" in sees) + 2 * looks(sees)
    # Landmarks: a triangular solution and a product of each row, which are faster than factoring.
    solve = kept**3 if kept == s.fit else 1.4 * kept**2 * (kept + s.fit)
    return {
        "kernel search": few**3 * max(kernels, 1) / _MILLION,
        "kernel eigenvalues": more**3 / _MILLION,
        "kernel solve": solve / _MILLION,
        "kernel pairs": s.fit * kept * kernels / _MILLION,
        "kernel columns": s.fit * kept * _kernel_columns(sees, s) / _MILLION,
    }


def _trees(model: BoostedTrees, s: Sizes) -> Work:
    columns = _tree_columns(model.sees, s)
    kept, tried = model.trees(s.fit, columns, s.outputs)
    trees = (kept + tried) * _GROWN
    return {
        "tree rows": trees * s.fit * columns / _MILLION,
        "tree columns": trees * columns * min(s.fit / 3, _BINS) / _BINS / _MILLION,
        "trees": trees,
        "tree data": s.fit * columns / _MILLION,
    }


def tree_rounds(model: BoostedTrees, s: Sizes) -> int:
    """Largest number of trees per output."""
    outputs = 1 if s.ordered else s.outputs
    return model.rounds(s.fit, _tree_columns(model.sees, s), outputs)


def _tree_columns(sees: Sees, s: Sizes) -> int:
    table = s.numeric + s.categories if "table" in sees else 0
    return table + _text(sees, s) + min(TREE_COMPONENTS, s.features) * looks(sees)


def _layers(model: Network, s: Sizes) -> tuple[float, float]:
    """Multiplications of a network for one row, and its number of weights."""
    config, table = model.config, "table" in model.sees
    numeric, categories = (s.numeric, s.categories) if table else (0, 0)
    config = with_sizes(config, rows=s.fit, numeric=numeric)
    tabm = model.is_tabm
    of_level = embedding_size(s.levels // max(s.categories, 1))
    of_level = min(of_level, config.category_width) if tabm else of_level
    hidden, members = config.tabular_hidden or (), config.members if tabm else 1
    width = (1 if config.numbers == "plain" else config.number_width or 1) * numeric + of_level * categories
    sizes = [max(width, 1), *hidden]
    dense = float(sum(before * after for before, after in pairwise(sizes)))
    bins = min(config.bins, max(s.fit // 16, 1)) if config.numbers == "piecewise" else 1
    numbers = float(numeric * bins * (config.number_width or 1))
    photos = s.features * config.encoding_dim * looks(model.sees) * max(1.0, s.photos / max(s.rows + s.test, 1))
    texts = s.texts * s.text_width * config.encoding_dim * reads(model.sees)
    outputs = max(sizes[-1], config.encoding_dim) * s.outputs * members
    return members * dense + numbers + photos + texts + outputs, dense + numbers + photos + texts + s.levels * of_level


def _network(model: Network, s: Sizes) -> Work:
    train, n = model.train, s.fit
    epochs = model.epochs(n)
    columns = s.numeric + s.categories if "table" in model.sees else 0
    numbers = s.numeric if "table" in model.sees and model.config.numbers == "piecewise" else 0
    batch = tabm_batch_size(n, columns) if model.is_tabm else default_batch_size(n)
    steps = epochs * -(-n // (train.batch_size or batch))
    operations, weights = _layers(model, s)
    found: Work = {
        "network steps": steps,
        "network categories": steps * (s.categories if "table" in model.sees else 0),
        "network weights": steps * weights / _MILLION,
        "network rows": epochs * n * operations / _MILLION,
        "network bins": min(n, TREE_ROWS) * numbers / _MILLION,
    }
    if "pixels" in model.sees:
        found["photo training"] = epochs * s.photos * s.photo_work
    return found


def shared_work(s: Sizes) -> Work:
    """The work of what models share in all folds: encoded rows, features of texts, components and scores of photos."""
    rows = s.rows + s.test
    narrow, learnt, scored = min(s.fit, s.features), min(s.fit, AXES_ROWS), min(s.fit, MOST_ROWS)
    return {
        "folds": s.encoded_folds,
        "encoding": s.encoded_folds * rows * s.columns / _MILLION,
        "components": s.folds * learnt * s.features * min(narrow, 600) / _MILLION,
        "photo products": s.scores * s.folds * scored * s.features * narrow / _MILLION,
        "photo solutions": s.scores * s.folds * narrow**3 / _MILLION,
        **text_work(s),
    }


def text_work(s: Sizes) -> Work:
    """The work of the features of texts in all folds."""
    exact = min(s.fit, 2_500)
    return {
        "text characters": (s.folds + 1) * s.characters / 1e3,
        "text products": s.encoded_folds * s.texts * exact**3 / _MILLION,
        "text rows": s.encoded_folds * s.texts * min(s.fit, 20_000) / _MILLION * min(max(s.classes, 1), 24),
    }


def photo_pass_work(s: Sizes) -> Work:
    """The work of the image network over all photos, done once."""
    return {"photos": s.photos, "photo network": s.photos * s.photo_work}


def closing_work(s: Sizes, models: int) -> Work:
    """The work of the blend, intervals, scores and report, without explanations."""
    rows, test = s.rows, s.test
    width = min(design_columns(frozenset({"table"}), s), 4_000)
    regression = not s.classes
    return {
        "blend": models * rows * max(s.classes, 1) / _MILLION,
        "interval": regression * rows * width * min(width, WIDE) / _MILLION,
        "interval width": regression * min(width, WIDE) ** 3 / _MILLION,
        "score": (rows + test) * max(s.classes, 1) / _MILLION,
        "report": 1,
        "report columns": s.columns,
        "report rows": rows / 1e3,
        "report cells": (rows + test) * s.columns / _MILLION,
    }


def explanation_work(models: Iterable[Model], s: Sizes, columns: int, rows: int, predictions: int) -> Work:
    """The work of explaining some rows with a blend of these models.

    Args:
        columns: of the table and of photos that it uses.
        predictions: for each row; fewer if all coalitions of a few columns are fewer.
    """
    each, folds = min(predictions, 16 * (2 ** min(columns, 20) + 8)), rows * s.folds
    parts: list[Work] = [{"explained rows": folds, "explained cells": folds * each * (s.columns + 3) / _MILLION}]
    for model in models:
        work = predict_work(model, s, each)
        match model:
            case KernelRidge():
                parts.append({"explained kernels": rows * work["kernel predict"]})  # of all rows alone
            case Network():
                calls = {"explained networks": folds * work["network predict"], "explained calls": folds}
                parts.append(calls)
            case _:
                parts.append(times(work, folds))
    return total(parts)


def seconds_of_reading(file: Path) -> float:
    """Estimated seconds of reading a table that is known by its file alone."""
    return SECONDS["reading cells"] * file.stat().st_size / _CELL / _MILLION if file.is_file() else 0.0


def reading_work(s: Sizes) -> Work:
    """The work of reading the table and preparing its columns."""
    cells = (s.rows + s.test) * s.columns / _MILLION
    return {"reading": 1, "reading columns": s.columns, "reading cells": cells, "reading photos": s.photos / 1e3}


def model_bytes(model: Model, s: Sizes) -> float:
    """The largest memory that fitting a model takes, besides the data, in bytes; 0 for a model of the user."""
    n = s.fit
    match model:
        case Linear():
            width = design_columns(model.sees, s)
            if width > WIDE:
                return 4.0 * n * _entries(model.sees, s) * (_DOUBLE + 4) + 8.0 * width * s.outputs * _DOUBLE
            least = min(n, width)
            return _DOUBLE * (
                5.0 * n * width + 4.0 * least * max(least, width) + 10.0 * width * s.outputs + n * s.outputs * 4
            )
        case KernelRidge():
            return _DOUBLE * (7.0 * model.kept(n) ** 2 + n * (_kernel_columns(model.sees, s) + 3.0 * s.outputs))
        case BoostedTrees():
            return n * _tree_columns(model.sees, s) * (3.0 * _DOUBLE + 2) + 60.0 * n * s.outputs
        case Network():
            operations, weights = _layers(model, s)
            return 4.0 * (6 * weights + 6 * 256 * operations / 64) + 8.0 * n * (s.numeric + s.categories)
        case _:
            return 0.0


def image_work(encoder: ImageEncoder, size: int) -> float:
    """Billions of operations of an image network for a photo with a side length of ``size`` pixels."""
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton with it: a tenth of a second

    training = encoder.training
    encoder.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder.encode(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=encoder.pixel_mean.device))
    encoder.train(training)
    return counter.get_total_flops() / 1e9


def is_unknown(model: Model) -> bool:
    """Whether a model has no known cost, as a model of the user."""
    return not isinstance(model, Constant | Linear | KernelRidge | BoostedTrees | Network)


def data_bytes(s: Sizes) -> float:
    """Memory of the encoded rows of all folds, in bytes."""
    row = 4 * s.numeric + 16 * s.categories + 4 * s.texts * s.text_width + 4 * s.features
    return float(s.encoded_folds * (s.rows + s.test) * row)
