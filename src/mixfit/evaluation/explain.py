"""Why a model predicts what it does: for each row the part that each column and its photos have in the prediction.

The parts of a row are Shapley values of its columns, each image column being one: what the prediction gains when the
row's own cell stands in the place of a background row's, averaged over the orders in which the columns can come and
over the background rows (interventional Shapley values, Lundberg and Lee 2017, arXiv:1705.07874). They add up to the
prediction minus the mean prediction of the background rows.

In: a predictor, rows of a table, background rows. Out: ``Explanation``. Draws and writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64

from mixfit.candidates.mixed import distinct
from mixfit.data.cache import Cache
from mixfit.data.photo_cells import photo_name, shown_cell
from mixfit.device import default_device
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation.coalitions import SAMPLED_ROWS, Plan, affordable_background
from mixfit.evaluation.shapley import mean_and_error, mean_and_error_in_order
from mixfit.predictor import Predictor
from mixfit.predictor.base import RawRows
from mixfit.suggest import did_you_mean

Scale = Literal["number", "logarithm", "probability"]
BACKGROUND = 32
"""Background rows."""
LEAST_BACKGROUND = 2
"""Fewer say nothing of the error."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """The parts of the predictions of some rows, and what they say of the model.

    Parts are in the unit of the target; of a number that the model was fitted on by its logarithm they are natural
    logarithms of factors; of classes they are probabilities of the class that is explained."""

    target: str
    scale: Scale
    columns: tuple[str, ...]
    is_photo: Bool[np.ndarray, " columns"]
    rows: Int64[np.ndarray, " rows"]
    """Positions in the table, from 0."""
    cells: tuple[tuple[str, ...], ...]
    """What stands in the columns of each row, of photos the names of their files; "" where nothing does."""
    predictions: tuple[float | str, ...]
    """Numbers in the unit of the target, or classes."""
    explained: tuple[str, ...]
    """The class that the parts of each row are about; "" for a number."""
    value: Float[np.ndarray, " rows"]
    """The prediction in the scale of the parts."""
    base: Float[np.ndarray, " rows"]
    """The mean prediction of the background rows in that scale; rows differ only in the class that is explained."""
    parts: Float[np.ndarray, "rows columns"]
    """They add up to ``value - base``."""
    errors: Float[np.ndarray, "rows columns"]
    """Standard errors of the parts: how far another draw of the background rows, evenly over the target, and of the
    orders where these are sampled, would move them."""
    table: Float[np.ndarray, " rows"]
    """The part of the whole table beside the photos, as two players; with ``photos`` it adds up to ``value - base``."""
    photos: Float[np.ndarray, " rows"]
    interaction: Float[np.ndarray, " rows"]
    """What the row's table and photos give together beyond what each alone does; half of it is in each of the two."""
    exact: bool
    """Whether every coalition of columns was looked at; else orders were sampled."""
    background: int
    """Background rows."""
    orders: int
    """Orders sampled for each background row; 0 if ``exact``."""

    @property
    def importance(self) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
        """The mean size of each column's part over the rows, and its standard error (nan for a single row)."""
        return mean_and_error(np.abs(self.parts))

    @property
    def photo_share(self) -> tuple[float, float]:
        """How much of the sizes of both parts, table and photos, are the photos', and its standard error."""
        photos, whole = np.abs(self.photos), np.abs(self.photos) + np.abs(self.table)
        if not whole.sum() > 0:
            return float("nan"), float("nan")
        share = float(photos.sum() / whole.sum())
        _, error = mean_and_error(photos - share * whole)  # the error of a ratio of means
        return share, float(error / whole.mean())

    @property
    def interaction_size(self) -> tuple[float, float]:
        """The mean size of the interaction of table and photos, and its standard error."""
        mean, error = mean_and_error(np.abs(self.interaction))
        return float(mean), float(error)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, texts and numbers, ready for JSON; None for what is not known."""
        mean, error = self.importance
        rows = [
            {
                "row": int(row),
                "prediction": self.predictions[place],
                **({"explained": self.explained[place]} if self.scale == "probability" else {}),
                "value": float(self.value[place]),
                "base": float(self.base[place]),
                "parts": dict(zip(self.columns, self.parts[place].tolist(), strict=True)),
                "errors": _known(dict(zip(self.columns, self.errors[place].tolist(), strict=True))),
                "table": float(self.table[place]),
                "photos": float(self.photos[place]),
                "interaction": float(self.interaction[place]),
            }
            for place, row in enumerate(self.rows)
        ]
        sizes = {
            name: _known({"mean": size, "error": wrong, "photo": bool(photo)})
            for name, size, wrong, photo in zip(
                self.columns, mean.tolist(), error.tolist(), self.is_photo.tolist(), strict=True
            )
        }
        return {
            "target": self.target,
            "scale": self.scale,
            "exact": self.exact,
            "background_rows": self.background,
            "orders_a_background_row": self.orders,
            "model": {
                "columns": sizes,
                "photo_share": _known(dict(zip(("mean", "error"), self.photo_share, strict=True))),
                "interaction": _known(dict(zip(("mean", "error"), self.interaction_size, strict=True))),
            },
            "rows": rows,
        }


def explain(
    predictor: Predictor,
    frame: pd.DataFrame,
    *,
    images: str | Path | None = None,
    rows: Sequence[int] | None = None,
    target: str | None = None,
    background: pd.DataFrame | int = BACKGROUND,
    seed: int = 0,
    device: torch.device | str | None = None,
    cache: Cache | None = None,
) -> Explanation:
    """Explain the predictions of some rows.

    Exact for up to ten columns; for more, orders of the columns are sampled, and the more columns there are, the fewer
    background rows are used, so that a row needs no more than 4,096 predictions: 32 rows up to 61 columns, 5 at 400.

    Args:
        frame, images, device: as for ``Predictor.predict``.
        rows: positions in ``frame``, from 0; by default all.
        target: the class to explain; by default the predicted one of each row. None for numbers.
        background: rows to compare with, best of training, in the order of ``typical_rows`` or in any order if they
            were drawn one by one, as errors are from neighbours among them; or how many of ``frame`` to take.
        seed: of the choice of background rows and of sampled orders.
        cache: where image features are looked up and kept.
    Raises:
        ConfigError: ``rows`` or ``background`` are no rows, ``target`` is none of the classes, ``seed`` is negative,
            the model sees more than a thousand columns, or it uses photos and ``images`` does not say where they are.
        DataError: a column that the model needs is missing.
    """
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}.")
    chosen = list(range(len(frame))) if rows is None else list(rows)
    check_rows(chosen, len(frame))
    classes = predictor.target.classes
    fixed = None if target is None else _class_number(target, classes)
    table, photos = explained_columns(predictor)
    names = [*table, *photos]
    if not names:
        raise ConfigError("The model sees no column, so that its prediction has no parts.")
    if isinstance(background, int):
        background = frame.iloc[typical_rows(frame, predictor, background, seed=seed)]
    if not chosen or not len(background):
        raise ConfigError(f"There is nothing to explain: {len(chosen)} rows, and {len(background)} to compare with.")
    background = _affordable(background, predictor, len(names), seed)
    plan = Plan.of(table, photos, len(background), seed=seed)
    asked = frame.iloc[chosen].reset_index(drop=True)
    needed = [name for role in ("number", "category", "date", "image") for name in predictor.schema.names(role)]
    _require(frame, background, needed)
    together = pd.concat([asked[needed], background[needed]], ignore_index=True)
    raw = predictor.raw_rows(together, images=images)
    place = default_device() if device is None else torch.device(device)
    mix = predictor.mixer(raw, device=place, cache=cache)
    alike = _cell_codes(raw, table, photos)
    found = []
    for number in range(len(chosen)):
        mixture, mixed_of = plan.mixture(number, len(chosen), alike[len(chosen) :] == alike[number])
        found.append(_explain_row(plan, mix(mixture)[mixed_of], fixed))
    numbers = [one.number for one in found]
    log = predictor.target.log
    return Explanation(
        target=predictor.schema.target,
        scale="probability" if classes is not None else "logarithm" if log else "number",
        columns=tuple(names),
        is_photo=np.arange(len(names)) >= len(table),
        rows=np.array(chosen, dtype=np.int64),
        cells=tuple(
            (*(_shown(asked[name].iloc[place]) for name in table), *(_photo_names(raw, place, name) for name in photos))
            for place in range(len(chosen))
        ),
        predictions=tuple(
            classes[one.predicted] if classes is not None else float(np.exp(one.value) if log else one.value)
            for one in found
        ),
        explained=tuple("" if classes is None else classes[number] for number in numbers),
        value=np.array([one.value for one in found]),
        base=np.array([one.base for one in found]),
        parts=np.stack([one.parts for one in found]),
        errors=np.stack([one.errors for one in found]),
        table=np.array([one.table for one in found]),
        photos=np.array([one.photos for one in found]),
        interaction=np.array([one.interaction for one in found]),
        exact=plan.exact,
        background=len(background),
        orders=plan.orders,
    )


def explained_columns(predictor: Predictor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that have parts: those of the table, and the image columns of a model that looks at photos."""
    schema = predictor.schema
    table = [column.name for column in schema.columns if column.role in ("number", "category", "date")]
    return tuple(table), tuple(schema.names("image")) if predictor.uses_photos else ()


def typical_rows(
    frame: pd.DataFrame, predictor: Predictor, count: int, *, seed: int = 0
) -> Int64[np.ndarray, " background"]:
    """Rows to compare with: one at random from each of ``count`` equal ranges of the target, where it is known of any.

    So few rows have nearly the mean prediction of all. The ranges come in order of the target."""
    if count < 1:
        raise ConfigError(f"At least one background row is needed, got {count}.")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame))
    if predictor.schema.target in frame.columns:
        truth = predictor.target.truth(frame[predictor.schema.target].iloc[order])
        known = np.isfinite(truth) if predictor.target.classes is None else truth >= 0
        if known.any():
            order = order[known][np.argsort(truth[known], kind="stable")]
    ranges = np.array_split(order, min(count, len(order))) if len(order) else []
    return np.array([int(rng.choice(part)) for part in ranges], dtype=np.int64)


def _affordable(background: pd.DataFrame, predictor: Predictor, columns: int, seed: int) -> pd.DataFrame:
    """As many of the background rows as so many columns leave room for."""
    count = affordable_background(columns, len(background))
    if count < min(LEAST_BACKGROUND, len(background)):
        raise ConfigError(
            f"The model sees {columns:,} columns, and each row would need more than {SAMPLED_ROWS:,} predictions: "
            "explain a model of at most a thousand columns."
        )
    if count == len(background):
        return background
    return background.iloc[typical_rows(background, predictor, count, seed=seed)]


def check_rows(rows: Sequence[int], count: int) -> None:
    """Refuse rows that a table does not have.

    Raises:
        ConfigError: with the first of them."""
    wrong = [row for row in rows if not 0 <= row < count]
    if wrong:
        raise ConfigError(f"{len(wrong)} of {len(rows)} rows are not in the table of {count}, as {wrong[0]}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """As the fields of ``Explanation``, of one row."""

    predicted: int
    number: int
    """Of the class that is explained."""
    value: float
    base: float
    parts: np.ndarray
    errors: np.ndarray
    table: float
    photos: float
    interaction: float


def _explain_row(plan: Plan, values: np.ndarray, fixed: int | None) -> _Row:
    """Parts from the values of a row's mixed rows."""
    predicted = 0 if values.ndim == 1 else int(plan.prediction(values)[0].argmax())
    number = predicted if fixed is None else fixed
    of_class = values if values.ndim == 1 else values[:, number]
    found = plan.parts(of_class)
    parts, errors = mean_and_error_in_order(found.columns)
    return _Row(
        predicted=predicted,
        number=number,
        value=float(plan.prediction(of_class)[0]),
        base=float(plan.background_values(of_class).mean()),
        parts=parts,
        errors=errors,
        table=float(found.table.mean()),
        photos=float(found.photos.mean()),
        interaction=float(found.interaction.mean()),
    )


def _cell_codes(raw: RawRows, table: tuple[str, ...], photos: tuple[str, ...]) -> Int64[np.ndarray, "rows columns"]:
    """Equal numbers in a column stand for equal cells, or for the same photos."""
    codes = [pd.factorize(raw.frame[name].astype("str"))[0] for name in table]
    for number in range(len(photos)):
        assert raw.photos is not None  # or the model would have no image columns
        codes.append(distinct(raw.photos.slots[:, raw.photos.columns == number])[1])
    return np.stack(codes, axis=1).astype(np.int64)


def _class_number(target: str, classes: tuple[str, ...] | None) -> int:
    if classes is None:
        raise ConfigError("The model predicts a number, which has no classes: leave out the target.")
    if target not in classes:
        hint = did_you_mean(target, classes)
        raise ConfigError(f"The target {target!r} is none of the {len(classes)} classes of the model.{hint}")
    return classes.index(target)


def _require(frame: pd.DataFrame, background: pd.DataFrame, needed: list[str]) -> None:
    for name, held in (("table", frame), ("background", background)):
        missing = [column for column in needed if column not in held.columns]
        if missing:
            hint = did_you_mean(missing[0], map(str, held.columns))
            raise DataError(f"The {name} has no column {missing[0]!r}, which the model needs.{hint}")


def _shown(cell: object) -> str:
    """A cell as people read it."""
    return "" if cell is None or cell is pd.NA or cell is pd.NaT or cell != cell else shown_cell(cell)


def _photo_names(raw: RawRows, row: int, column: str) -> str:
    """The photos of a row in one of its image columns."""
    assert raw.photos is not None
    there = zip(raw.photos.slots[row].tolist(), raw.photos.slot_columns, strict=True)
    return "; ".join(photo_name(raw.photos.files[slot]) for slot, name in there if slot >= 0 and name == column)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """None in place of nan, which JSON has not."""
    return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in values.items()}
