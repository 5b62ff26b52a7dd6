"""Shapley values of a function of coalitions: exact for few players, from sampled orders for many.

The Shapley value of a player is its mean marginal contribution over all orders of the players (Shapley 1953).
In: coalitions and their values. Out: one number for each player; their sum is the value of all players minus that of
none. The columns of a table, its texts and its photos are the players."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb, exp
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64

from mixfit.console import tracked
from mixfit.data.checks.texts import one_line
from mixfit.data.columns.cells import Table
from mixfit.data.columns.schema import Schema
from mixfit.data.dataset import FeatureTable
from mixfit.data.photos.cells import photo_name, shown_cell
from mixfit.data.photos.records import Cache
from mixfit.errors import ConfigError, DataError, check_type, did_you_mean, rename_hint
from mixfit.html import Bar, Grid, card
from mixfit.html import number as number_text
from mixfit.models.mixed import Mixture, distinct
from mixfit.predictor import Predictor
from mixfit.predictor.base import RawRows
from mixfit.training.device import default_device

MOST_EXACT = 10
"""Largest number of players for exact values, over 1,024 coalitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """Every coalition of some players."""

    players: int

    @property
    def coalitions(self) -> Bool[np.ndarray, "coalitions players"]:
        """Coalition ``i`` has player ``p`` where bit ``p`` of ``i`` is set: none comes first and all comes last."""
        numbers = np.arange(2**self.players)
        return (numbers[:, None] >> np.arange(self.players) & 1).astype(bool)

    def values(self, worth: Float[np.ndarray, "coalitions ..."]) -> Float[np.ndarray, "players ..."]:
        """Shapley values from the worth of ``coalitions``.

        A coalition of ``s`` players without ``p`` has weight ``1 / (players * C(players - 1, s))``: the share of orders
        in which ``p`` directly follows exactly these players."""
        sizes = self.coalitions.sum(1)
        weight = np.array([1 / (self.players * comb(self.players - 1, s)) for s in range(self.players)])
        found = []
        for player in range(self.players):
            without = np.flatnonzero(~self.coalitions[:, player])
            gains = worth[without + 2**player] - worth[without]  # exactly 0 for a player without effect
            found.append(np.tensordot(weight[sizes[without]], gains, axes=1))
        return np.stack(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Coalitions along some orders of the players: those of the first, the first two, ... of each order."""

    orders: Int64[np.ndarray, "orders players"]

    @classmethod
    def draw(cls, players: int, pairs: int, rng: np.random.Generator) -> "Sampled":
        """Draw ``pairs`` orders, each with its reverse, which reduces the variance (antithetic sampling, Mitchell et
        al. 2022, arXiv:2104.12199)."""
        drawn = np.stack([rng.permutation(players) for _ in range(pairs)])
        return cls(orders=np.stack([drawn, drawn[:, ::-1]], axis=1).reshape(2 * pairs, players))

    @property
    def coalitions(self) -> Bool[np.ndarray, "coalitions players"]:
        """For each order: the empty coalition, then one more player at a time, then all."""
        place = np.argsort(self.orders, axis=1)
        joined = place[:, None, :] < np.arange(self.orders.shape[1] + 1)[None, :, None]
        return joined.reshape(-1, self.orders.shape[1])

    def values(self, worth: Float[np.ndarray, "coalitions ..."]) -> Float[np.ndarray, "players ..."]:
        """Estimates from the worth of ``coalitions``: the mean marginal contribution over orders."""
        orders, players = self.orders.shape
        gains = np.diff(worth.reshape(orders, players + 1, *worth.shape[1:]), axis=1)
        place = np.argsort(self.orders, axis=1)
        return gains[np.arange(orders)[:, None], place].mean(axis=0)


def mean_and_error(
    parts: Float[np.ndarray, "samples ..."],
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The mean over independent samples and its standard error, nan for a single sample."""
    count = len(parts)
    spread = parts.std(axis=0, ddof=1) if count > 1 else np.full(parts.shape[1:], np.nan)
    return np.asarray(parts.mean(axis=0)), np.asarray(spread / np.sqrt(count))


def mean_and_error_in_order(
    parts: Float[np.ndarray, "samples ..."],
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The mean over samples of successive strata, one of each, and its standard error, nan for a single sample.

    The error is estimated from second differences of neighbours (Wolter 2007, Introduction to Variance Estimation,
    chapter 8), which have no part of what grows evenly from stratum to stratum, as that does not affect the variance of
    the mean. Also valid for independent samples."""
    count = len(parts)
    if count < 3:
        return mean_and_error(parts)
    squares = (np.diff(parts, n=2, axis=0) ** 2).sum(axis=0)
    return np.asarray(parts.mean(axis=0)), np.asarray(np.sqrt(squares / (6 * (count - 2) * count)))


SAMPLED_ROWS = 4_096
"""Largest number of mixed rows that are predicted for a row if orders are sampled."""


def affordable_background(columns: int, wanted: int, most: int | None = None, *, sides: int = 2) -> int:
    """The number of background rows, at most ``wanted``, that can have a pair of orders each.

    All if all coalitions are used, and 0 for thousands of columns.

    Args:
        most: largest number of mixed rows for an explained row; None for no limit with at most ``MOST_EXACT``
            columns, and ``SAMPLED_ROWS`` with more.
        sides: number of sides, each of which is also one player: see ``Plan.sides``."""
    if _is_exact(columns, wanted, most, sides):
        return wanted
    return min(wanted, (most or SAMPLED_ROWS) // (2 * (columns + 1) + 2**sides))


def _is_exact(columns: int, background: int, most: int | None, sides: int) -> bool:
    return columns <= MOST_EXACT and (most is None or (2**columns + 2**sides) * background <= most)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowParts:
    """Contributions to one row's prediction relative to each background row, in the scale of the prediction."""

    columns: Float[np.ndarray, "background columns"]
    """Shapley values; they add up to the prediction minus that of the background row."""
    sides: Float[np.ndarray, "background sides"]
    """Shapley values with each side as one player: all table columns, all columns of text if there are any, and all
    photos; they add up to the same as ``columns``."""
    interaction: Float[np.ndarray, " background"]
    """What the sides change together, minus the sum of what each changes alone."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Mixed rows, one for each coalition and background row."""

    table: tuple[str, ...]
    """Columns of the table; in coalitions they come before the image columns."""
    photos: tuple[str, ...]
    background: int
    designs: tuple[Exact | Sampled, ...]
    """One for each background row."""
    texts: tuple[str, ...] = ()
    """Those of ``table`` that hold texts."""

    @classmethod
    def of(
        cls,
        table: tuple[str, ...],
        photos: tuple[str, ...],
        background: int,
        *,
        seed: int,
        most: int | None = None,
        texts: tuple[str, ...] = (),
    ) -> "Plan":
        """All coalitions if possible, else orders sampled separately for each background row.

        Args:
            background: at most ``affordable_background`` rows.
            most: see there.
            texts: those of ``table`` that hold texts.
        """
        players, sides = len(table) + len(photos), 3 if texts else 2
        if _is_exact(players, background, most, sides):
            every = (Exact(players=players),) * background
            return cls(table=table, photos=photos, background=background, designs=every, texts=texts)
        assert 0 < background <= affordable_background(players, background, most, sides=sides)
        pairs = ((most or SAMPLED_ROWS) // background - 2**sides) // (2 * (players + 1))
        rng = np.random.default_rng(seed)
        drawn = tuple(Sampled.draw(players, pairs, rng) for _ in range(background))
        return cls(table=table, photos=photos, background=background, designs=drawn, texts=texts)

    @property
    def exact(self) -> bool:
        """Whether all coalitions are used."""
        return isinstance(self.designs[0], Exact)

    @property
    def orders(self) -> int:
        """Number of orders sampled for each background row; 0 if ``exact``."""
        design = self.designs[0]
        return len(design.orders) if isinstance(design, Sampled) else 0

    @property
    def sides(self) -> Exact:
        """The coalitions of the sides, each of which is one player: table, texts if there are any, and photos."""
        return Exact(players=3 if self.texts else 2)

    @cached_property
    def _rows(self) -> tuple[Bool[np.ndarray, "rows columns"], Int64[np.ndarray, " rows"]]:
        """Coalition and background row of each mixed row: the coalitions of the sides, then the designs."""
        text = np.isin(np.array(self.table, dtype=object), np.array(self.texts, dtype=object))
        side_of = np.concatenate([text.astype(np.int64), np.full(len(self.photos), self.sides.players - 1)])
        corners = self.sides.coalitions[:, side_of]
        members = [np.concatenate([corners, design.coalitions]) for design in self.designs]
        return np.concatenate(members), np.repeat(np.arange(self.background), len(members[0]))

    def mixture(
        self, row: int, first_background: int, same: Bool[np.ndarray, "background columns"]
    ) -> tuple[Mixture, Int64[np.ndarray, " rows"]]:
        """The distinct mixed rows for one row, and the index of each row of the plan among them.

        Args:
            first_background: position of the first background row; the others follow.
            same: whether a background row has the same cell, or the same photos, as the explained row.
        """
        members, background = self._rows
        # Treat equal cells as the row's own, which makes many mixed rows identical.
        own = members | same[background]
        width = len(self.table)
        cells, table_of = _sources(own[:, :width], background, row, first_background)
        photos, photos_of = _sources(own[:, width:], background, row, first_background)
        pair, mixed_of = np.unique(table_of * len(photos) + photos_of, return_inverse=True)
        mixture = Mixture(
            cells=cells,
            columns=self.table,
            photos=photos,
            table_of=pair // len(photos),
            photos_of=pair % len(photos),
        )
        return mixture, mixed_of

    def prediction(self, values: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "1 ..."]:
        """Prediction of the explained row, from the values of its mixed rows."""
        last = len(self.sides.coalitions)
        return values[last - 1 : last]

    def parts(self, values: Float[np.ndarray, " rows"]) -> RowParts:
        """Contributions from the values of a row's mixed rows."""
        by_background = values.reshape(self.background, -1)
        corners, rest = np.split(by_background, [len(self.sides.coalitions)], axis=1)
        columns = [design.values(worth) for design, worth in zip(self.designs, rest, strict=True)]
        alone = corners[:, 2 ** np.arange(self.sides.players)] - corners[:, :1]
        return RowParts(
            columns=np.stack(columns),
            sides=self.sides.values(corners.T).T,
            interaction=corners[:, -1] - corners[:, 0] - alone.sum(axis=1),
        )

    def background_values(self, values: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "background ..."]:
        """Predictions of the background rows, from the values of any row's mixed rows."""
        return values.reshape(self.background, -1, *values.shape[1:])[:, 0]


def _sources(
    own: Bool[np.ndarray, "rows columns"], background: Int64[np.ndarray, " rows"], row: int, first_background: int
) -> tuple[Int64[np.ndarray, "parts columns"], Int64[np.ndarray, " rows"]]:
    """The row that each column of each distinct part comes from, and the part of each row."""
    others = np.where(
        own.all(axis=1), 0, background
    )  # a part with only the row's own values does not depend on the background row
    packed = np.concatenate([np.packbits(own, axis=1), others[:, None].astype(">u4").view(np.uint8)], axis=1)
    first, part_of = distinct(packed)
    return np.where(own[first], row, first_background + others[first][:, None]), part_of


Scale = Literal["number", "logarithm", "probability"]
Side = Literal["table", "text", "photos"]
SIDES: tuple[Side, ...] = ("table", "text", "photos")
BACKGROUND = 32
"""Background rows."""
LONGEST_TEXT = 200
"""Largest number of characters of a text that an explanation has."""
LEAST_BACKGROUND = 2
"""Fewest background rows for an error estimate."""


def part_text(part: float, scale: Scale) -> str:
    """Format a contribution to a prediction with its sign.

    >>> part_text(-0.25, "number"), part_text(0.123, "probability")
    ('-0.2500', '+12.3 points')
    >>> [part_text(part, "logarithm") for part in (0.1823, -0.3, 2.0)]
    ['+20.0 %', '-25.9 %', 'x 7.389']
    """
    match scale:
        case "number":
            return ("+" if part >= 0 else "") + number_text(float(part))
        case "logarithm":
            factor = exp(part)
            return f"x {number_text(factor)}" if factor > 3 else f"{100 * (factor - 1):+.1f} %"
        case "probability":
            return f"{100 * part:+.1f} points"


def size_text(size: float, scale: Scale) -> str:
    """Format the size of a contribution.

    >>> size_text(0.25, "number"), size_text(0.1823, "logarithm"), size_text(0.123, "probability")
    ('0.2500', '20.0 %', '12.3 points')
    """
    return part_text(size, scale).removeprefix("+")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """Shapley values of some rows, and their summary over the model.

    Contributions are in the unit of the target; if the model was fitted to the logarithm, they are natural logarithms
    of factors; for classes they are probabilities of the explained class."""

    target: str
    scale: Scale
    columns: tuple[str, ...]
    is_photo: Bool[np.ndarray, " columns"]
    is_text: Bool[np.ndarray, " columns"]
    rows: Int64[np.ndarray, " rows"]
    """Positions in the table, from 0."""
    cells: tuple[tuple[str, ...], ...]
    """Cells of each row, the beginning of texts, file names for photos; "" if empty."""
    predictions: tuple[float | str, ...]
    """Numbers in the unit of the target, or classes."""
    explained: tuple[str, ...]
    """The explained class of each row; "" for regression."""
    value: Float[np.ndarray, " rows"]
    """The prediction in the scale of the contributions."""
    base: Float[np.ndarray, " rows"]
    """The mean prediction of the background rows in that scale; it depends on the row only by the explained class."""
    parts: Float[np.ndarray, "rows columns"]
    """Contributions; their sum is ``value - base``."""
    errors: Float[np.ndarray, "rows columns"]
    """Standard errors of the contributions due to the choice of background rows, stratified by target, and of orders
    if these are sampled."""
    table: Float[np.ndarray, " rows"]
    """Contribution of all table columns but texts: the Shapley value where each side, table, text and photos, is one
    player; ``table + text + photos = value - base``."""
    text: Float[np.ndarray, " rows"]
    """The same of all columns of text; 0 without any."""
    photos: Float[np.ndarray, " rows"]
    interaction: Float[np.ndarray, " rows"]
    """What the sides change together, minus the sum of what each changes alone; of two sides, each includes half."""
    exact: bool
    """Whether all coalitions of columns were used; else orders were sampled."""
    background: int
    """Number of background rows."""
    orders: int
    """Orders sampled for each background row; 0 if ``exact``."""

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        sizes, _ = self.importance
        largest = max(float(np.nanmax(sizes, initial=0.0)), 1e-300)
        rows = [
            (self.columns[one], Bar(float(sizes[one]) / largest), size_text(float(sizes[one]), self.scale))
            for one in np.argsort(-sizes, kind="stable")
        ]
        shares = {f"share of the {side}": f"{share:.2f}" for side, (share, _) in self.shares.items()}
        facts = {"rows": f"{len(self.rows):,}", "background rows": f"{self.background:,}", **shares}
        head = ("column", "", "mean absolute contribution")
        grid = Grid(heading="contributions of columns (Shapley values)", head=head, rows=rows)
        return card(f"Explanation of {self.target}", facts=facts, grids=[grid])

    @property
    def importance(self) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
        """Mean absolute contribution of each column over the rows, and its standard error (nan for a single row)."""
        return mean_and_error(np.abs(self.parts))

    @property
    def shares(self) -> dict[Side, tuple[float, float]]:
        """Share of each side that has columns in the absolute contributions of all sides, and its standard error."""
        has = {"table": not (self.is_photo | self.is_text).all(), "text": self.is_text.any()}
        has["photos"] = self.is_photo.any()
        return {side: self._share(side) for side in SIDES if has[side]}

    @property
    def photo_share(self) -> tuple[float, float]:
        """Share of the photos in the absolute contributions of all sides, and its standard error."""
        return self._share("photos")

    @property
    def text_share(self) -> tuple[float, float]:
        """The same of the columns of text."""
        return self._share("text")

    def _share(self, side: Side) -> tuple[float, float]:
        sizes = {"table": np.abs(self.table), "text": np.abs(self.text), "photos": np.abs(self.photos)}
        mine, whole = sizes[side], sizes["table"] + sizes["text"] + sizes["photos"]
        if not whole.sum() > 0:
            return float("nan"), float("nan")
        share = float(mine.sum() / whole.sum())
        _, error = mean_and_error(mine - share * whole)  # the error of a ratio of means
        return share, float(error / whole.mean())

    @property
    def interaction_size(self) -> tuple[float, float]:
        """Mean absolute interaction of the sides, and its standard error."""
        mean, error = mean_and_error(np.abs(self.interaction))
        return float(mean), float(error)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers for JSON; None if unknown."""
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
                "text": float(self.text[place]),
                "photos": float(self.photos[place]),
                "interaction": float(self.interaction[place]),
            }
            for place, row in enumerate(self.rows)
        ]
        sizes = {
            name: _known({"mean": size, "error": wrong, "photo": photo, "text": text})
            for name, size, wrong, photo, text in zip(
                self.columns, mean.tolist(), error.tolist(), self.is_photo.tolist(), self.is_text.tolist(), strict=True
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
                "shares": {side: _mean_and_error(one) for side, one in self.shares.items()},
                "photo_share": _mean_and_error(self.photo_share),
                "interaction": _mean_and_error(self.interaction_size),
            },
            "rows": rows,
        }


def explain(
    predictor: Predictor,
    frame: pd.DataFrame | Table,
    *,
    images: str | Path | None = None,
    rows: Sequence[int] | None = None,
    target: str | None = None,
    background: pd.DataFrame | Table | int = BACKGROUND,
    seed: int = 0,
    device: torch.device | str | None = None,
    cache: Cache | None = None,
    most_predictions: int | None = None,
    progress: bool = False,
) -> Explanation:
    """Explain the predictions of some rows.

    Exact for up to ten columns. For more, orders of the columns are sampled, with fewer background rows the more
    columns there are, so that a row needs at most 4,096 predictions: 32 background rows up to 61 columns, 5 at 400.

    Args:
        frame, images, device: as for ``Predictor.predict``.
        rows: positions in ``frame``, from 0; by default all.
        target: the class to explain; by default the predicted one of each row. None for regression.
        background: rows to compare with, preferably training rows, in the order of ``typical_rows`` or sampled
            independently, as errors are estimated from neighbours; or their number, to take them from ``frame``.
        seed: seed of the background rows and of the sampled orders.
        cache: cache of image features.
        most_predictions: limit per row; if it is too low for exact values, orders of the columns are sampled, with
            larger errors. By default as above.
        progress: show a bar on a terminal.
    Raises:
        ConfigError: ``rows`` or ``background`` is empty, ``target`` is not one of the classes, ``seed`` is negative,
            the model has more than a thousand columns, or it uses photos and ``images`` is missing.
        DataError: a column that the model needs is missing.
    """
    check_explained(predictor, frame, rows)
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}.")
    every = predictor.schema.table(frame)
    chosen = list(range(len(every))) if rows is None else list(rows)
    check_rows(chosen, len(every))
    if target is not None:
        class_number(target, predictor.target.classes)
    if isinstance(background, int):
        others = every.select(typical_rows(every, predictor, background, seed=seed))
    else:
        others = predictor.schema.table(background)
    if not chosen or not len(others):
        raise ConfigError(f"Nothing to explain: {len(chosen)} rows, and {len(others)} background rows.")
    others = affordable(others, predictor, seed=seed, most=most_predictions)
    asked = every.select(np.array(chosen, dtype=np.int64))
    needed = predictor.schema.inputs
    _require(every, others, needed)
    return explain_rows(
        predictor,
        predictor.raw_rows(asked.and_then(others, needed), images=images),
        rows=chosen,
        shown=asked,
        target=target,
        seed=seed,
        device=device,
        cache=cache,
        most_predictions=most_predictions,
        progress=progress,
    )


def explain_rows(
    predictor: Predictor,
    raw: RawRows,
    *,
    rows: Sequence[int],
    shown: Table | None = None,
    target: str | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    cache: Cache | None = None,
    features: Mapping[str, FeatureTable] | None = None,
    most_predictions: int | None = None,
    progress: bool = False,
) -> Explanation:
    """As ``explain``, of rows that are parsed already; their photos may have been decoded elsewhere.

    Args:
        raw: the rows to explain, and after them the background rows, as many as ``affordable_background`` says.
        rows: numbers of the rows to explain, one for each.
        shown: the rows to explain as they came; by default as they were parsed.
        features: of the photos, see ``Predictor.mixer``.
    """
    names, texts = _explained_names(predictor), explained_texts(predictor)
    table, photos = explained_columns(predictor)
    classes = predictor.target.classes
    fixed = None if target is None else class_number(target, classes)
    count, cells = len(rows), raw.table if shown is None else shown
    background = len(raw.table) - count
    plan = Plan.of(table, photos, background, seed=seed, most=most_predictions, texts=texts)
    place = default_device() if device is None else torch.device(device)
    mix = predictor.mixer(raw, device=place, cache=cache, features=features)
    alike = _cell_codes(raw, predictor.schema, table, photos)
    found = []
    places: Iterable[int] = range(count)
    for number in tracked(places, total=count, description="explaining rows") if progress else places:
        mixture, mixed_of = plan.mixture(number, count, alike[count:] == alike[number])
        found.append(_explain_row(plan, mix(mixture)[mixed_of], fixed, predictor.decide))
    numbers = [one.number for one in found]
    log = predictor.target.log
    kept = frozenset(texts)
    return Explanation(
        target=predictor.schema.target,
        scale="probability" if classes is not None else "logarithm" if log else "number",
        columns=names,
        is_photo=np.arange(len(names)) >= len(table),
        is_text=np.array([name in kept for name in table] + [False] * len(photos)),
        rows=np.array(rows, dtype=np.int64),
        cells=tuple(
            (
                *(_shown(cells[name].column.iloc[place], text=name in kept) for name in table),
                *(_photo_names(raw, place, name) for name in photos),
            )
            for place in range(count)
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
        table=np.array([one.sides[0] for one in found]),
        text=np.array([one.sides[1] if texts else 0.0 for one in found]),
        photos=np.array([one.sides[-1] for one in found]),
        interaction=np.array([one.interaction for one in found]),
        exact=plan.exact,
        background=background,
        orders=plan.orders,
    )


def _explained_names(predictor: Predictor) -> tuple[str, ...]:
    table, photos = explained_columns(predictor)
    if not (table or photos):
        raise ConfigError("The model uses no columns, so its predictions cannot be explained.")
    return (*table, *photos)


def explained_columns(predictor: Predictor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The explained columns: those of the table, and the image columns if the model uses photos."""
    schema = predictor.schema
    used = {*schema.features, *explained_texts(predictor)}
    cells = [column.name for column in schema.columns if column.name in used]
    return tuple(cells), tuple(schema.names("image")) if predictor.uses_photos else ()


def explained_texts(predictor: Predictor) -> tuple[str, ...]:
    """Those of the explained columns that hold texts."""
    return tuple(predictor.schema.names("text")) if predictor.uses_text else ()


def typical_rows(
    table: pd.DataFrame | Table, predictor: Predictor, count: int, *, seed: int = 0
) -> Int64[np.ndarray, " background"]:
    """Background rows: a random row from each of ``count`` quantile ranges of the target, in the order of the target.

    Stratified by the target, a few rows have nearly the mean prediction of all. Rows without a known target are used
    only if no target is known."""
    if count < 1:
        raise ConfigError(f"At least one background row is needed, got {count}.")
    rng = np.random.default_rng(seed)
    table = predictor.schema.table(table)
    order = rng.permutation(len(table))
    if predictor.schema.target in table:
        truth = predictor.target.truth(table[predictor.schema.target].select(order))
        known = np.isfinite(truth) if predictor.target.classes is None else truth >= 0
        if known.any():
            order = order[known][np.argsort(truth[known], kind="stable")]
    ranges = np.array_split(order, min(count, len(order))) if len(order) else []
    return np.array([int(rng.choice(part)) for part in ranges], dtype=np.int64)


def affordable(background: Table, predictor: Predictor, *, seed: int = 0, most: int | None = None) -> Table:
    """At most as many background rows as are affordable for the columns of a model, see ``affordable_background``.

    Raises:
        ConfigError: not even two are, or the model uses no columns.
    """
    columns = len(_explained_names(predictor))
    sides = 3 if explained_texts(predictor) else 2
    count = affordable_background(columns, len(background), most, sides=sides)
    if count < min(LEAST_BACKGROUND, len(background)):
        fix = "explain a model of at most a thousand columns" if most is None else "raise the limit"
        raise ConfigError(
            f"The model uses {columns:,} columns, and each row would need more than {most or SAMPLED_ROWS:,} "
            f"predictions: {fix}."
        )
    if count == len(background):
        return background
    return background.select(typical_rows(background, predictor, count, seed=seed))


def check_explained(predictor: object, frame: object, rows: object) -> None:
    """Refuse arguments of a wrong type.

    Raises:
        ConfigError: with what may be given."""
    check_type("predictor", predictor, Predictor, "a mixfit.Predictor, such as run.predictor")
    check_type("frame", frame, (pd.DataFrame, Table), "a DataFrame of rows; for a file, use mixfit.explain_run")
    check_positions(rows)


def check_positions(rows: object) -> None:
    """Refuse what are not row numbers.

    Raises:
        ConfigError: with what may be given."""
    if rows is None or (isinstance(rows, Sequence | np.ndarray) and all(isinstance(row, Integral) for row in rows)):
        return
    raise ConfigError(f"rows must be a list of row numbers such as [3, 17], got {rows!r:.80}.")


def check_rows(rows: Sequence[int], count: int) -> None:
    """Refuse rows that are not in a table.

    Raises:
        ConfigError: with the first of them."""
    wrong = [row for row in rows if not 0 <= row < count]
    if wrong:
        raise ConfigError(f"{len(wrong)} of {len(rows)} rows are not in the table of {count} rows, such as {wrong[0]}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """The fields of ``Explanation`` for one row."""

    predicted: int
    number: int
    """Index of the explained class."""
    value: float
    base: float
    parts: np.ndarray
    errors: np.ndarray
    sides: np.ndarray
    interaction: float


def _explain_row(plan: Plan, values: np.ndarray, fixed: int | None, decide: Callable[[np.ndarray], np.ndarray]) -> _Row:
    """Contributions from the values of a row's mixed rows; ``decide`` predicts classes from probabilities."""
    predicted = 0 if values.ndim == 1 else int(decide(plan.prediction(values)[:1])[0])
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
        sides=found.sides.mean(axis=0),
        interaction=float(found.interaction.mean()),
    )


def _cell_codes(
    raw: RawRows, schema: Schema, table: tuple[str, ...], photos: tuple[str, ...]
) -> Int64[np.ndarray, "rows columns"]:
    """Codes that are equal for equal cells, or for the same photos, of a column."""
    codes = [kind.values(raw.table[name]) for name in table if (kind := schema.kind_of(name))]
    for number in range(len(photos)):
        assert raw.photos is not None  # or the model would have no image columns
        codes.append(distinct(raw.photos.slots[:, raw.photos.columns == number])[1])
    return np.stack(codes, axis=1).astype(np.int64)


def class_number(target: str, classes: tuple[str, ...] | None) -> int:
    """The number of a class that is to be explained.

    Raises:
        ConfigError: there is no such class."""
    if classes is None:
        raise ConfigError("The model is a regression model without classes: leave out the target.")
    if target not in classes:
        hint = did_you_mean(target, classes)
        raise ConfigError(f"The target {target!r} is not one of the model's {len(classes)} classes.{hint}")
    return classes.index(target)


def _require(table: Table, background: Table, needed: list[str]) -> None:
    for name, held in (("table", table), ("background", background)):
        missing = [column for column in needed if column not in held]
        if missing:
            hint = rename_hint(missing[0], [str(one) for one in held.names if one not in needed])
            raise DataError(f"The {name} has no column {missing[0]!r}, which the model needs.{hint}")


def _shown(cell: object, *, text: bool) -> str:
    """A cell as text; of a column of text, its beginning on one line."""
    if cell is None or cell is pd.NA or cell is pd.NaT or cell != cell:
        return ""
    return one_line(str(cell), LONGEST_TEXT) if text else shown_cell(cell)


def _photo_names(raw: RawRows, row: int, column: str) -> str:
    """File names of a row's photos in an image column."""
    assert raw.photos is not None
    there = zip(raw.photos.slots[row].tolist(), raw.photos.slot_columns, strict=True)
    return "; ".join(photo_name(raw.photos.files[slot]) for slot, name in there if slot >= 0 and name == column)


def _mean_and_error(found: tuple[float, float]) -> dict[str, Any]:
    return _known(dict(zip(("mean", "error"), found, strict=True)))


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Replace nan, which JSON lacks, by None."""
    return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in values.items()}
