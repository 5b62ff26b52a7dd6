"""Which mixed rows tell the Shapley values of a row's columns, the same for every row that is explained.

A column that is in a coalition has the explained row's cell or photos, and any other column those of a background row.
In: the columns, and how many background rows there are. Out: mixtures to predict, and parts from what they give."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64

from mixfit.candidates.mixed import Mixture, distinct
from mixfit.evaluation.shapley import MOST_EXACT, Exact, Sampled

SAMPLED_ROWS = 4_096
"""At most so many mixed rows are predicted for a row where orders are sampled."""
_CORNERS = 4
"""Mixed rows of each background row beside those of its design: nothing, the table, the photos and all of the row."""


def affordable_background(columns: int, wanted: int) -> int:
    """How many of the background rows that are wanted can have a pair of orders each, in ``SAMPLED_ROWS`` mixed rows.

    All of them for at most ``MOST_EXACT`` columns, and none for thousands of columns."""
    return wanted if columns <= MOST_EXACT else min(wanted, SAMPLED_ROWS // (2 * (columns + 1) + _CORNERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowParts:
    """What one row's prediction is made of, once for each background row; numbers in the scale of the prediction."""

    columns: Float[np.ndarray, "background columns"]
    """Shapley values; they add up to the prediction minus that of the background row."""
    table: Float[np.ndarray, " background"]
    """Shapley value of all table columns as one player beside the photos."""
    photos: Float[np.ndarray, " background"]
    interaction: Float[np.ndarray, " background"]
    """What table and photos of the row give together beyond what each gives alone."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Mixed rows, each of one coalition and one background row."""

    table: tuple[str, ...]
    """Columns of the table; in coalitions they stand before the image columns."""
    photos: tuple[str, ...]
    background: int
    designs: tuple[Exact | Sampled, ...]
    """One for each background row."""

    @classmethod
    def of(cls, table: tuple[str, ...], photos: tuple[str, ...], background: int, *, seed: int) -> "Plan":
        """Every coalition for at most ``MOST_EXACT`` columns, else sampled orders, others for each background row.

        Args:
            background: at most ``affordable_background`` rows.
        """
        players = len(table) + len(photos)
        if players <= MOST_EXACT:
            every = (Exact(players=players),) * background
            return cls(table=table, photos=photos, background=background, designs=every)
        assert 0 < background <= affordable_background(players, background)
        pairs = (SAMPLED_ROWS // background - _CORNERS) // (2 * (players + 1))
        rng = np.random.default_rng(seed)
        drawn = tuple(Sampled.draw(players, pairs, rng) for _ in range(background))
        return cls(table=table, photos=photos, background=background, designs=drawn)

    @property
    def exact(self) -> bool:
        """Whether every coalition is looked at."""
        return isinstance(self.designs[0], Exact)

    @property
    def orders(self) -> int:
        """How many orders are sampled for each background row; 0 for none."""
        design = self.designs[0]
        return len(design.orders) if isinstance(design, Sampled) else 0

    @cached_property
    def _rows(self) -> tuple[Bool[np.ndarray, "rows columns"], Int64[np.ndarray, " rows"]]:
        """Coalition and background row of each mixed row: the four corners of table and photos, then the designs."""
        players = len(self.table) + len(self.photos)
        of_table = np.arange(players) < len(self.table)
        corners = np.stack([np.zeros(players, dtype=bool), of_table, ~of_table, np.ones(players, dtype=bool)])
        members = [np.concatenate([corners, design.coalitions]) for design in self.designs]
        return np.concatenate(members), np.repeat(np.arange(self.background), len(members[0]))

    def mixture(
        self, row: int, first_background: int, same: Bool[np.ndarray, "background columns"]
    ) -> tuple[Mixture, Int64[np.ndarray, " rows"]]:
        """The distinct mixed rows for one row, and which of them each row of the plan is.

        Args:
            first_background: from here on the background rows stand one after another.
            same: where a background row has the same cell, or the same photos, as the explained row.
        """
        members, background = self._rows
        # What is the same in both may as well be the row's own, and then so many mixed rows are one.
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
        """Of the explained row itself, from the values of its mixed rows."""
        return values[3:4]

    def parts(self, values: Float[np.ndarray, " rows"]) -> RowParts:
        """From the values of a row's mixed rows."""
        by_background = values.reshape(self.background, -1)
        none, table, photos, both = by_background[:, :4].T
        columns = [design.values(worth) for design, worth in zip(self.designs, by_background[:, 4:], strict=True)]
        return RowParts(
            columns=np.stack(columns),
            table=(table - none + both - photos) / 2,
            photos=(photos - none + both - table) / 2,
            interaction=both - table - photos + none,
        )

    def background_values(self, values: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "background ..."]:
        """Predictions of the background rows, from the values of any row's mixed rows."""
        return values.reshape(self.background, -1, *values.shape[1:])[:, 0]


def _sources(
    own: Bool[np.ndarray, "rows columns"], background: Int64[np.ndarray, " rows"], row: int, first_background: int
) -> tuple[Int64[np.ndarray, "parts columns"], Int64[np.ndarray, " rows"]]:
    """The row that each column of each distinct part comes from, and the part of each row."""
    others = np.where(own.all(axis=1), 0, background)  # where all are the row's own, there is but one part
    packed = np.concatenate([np.packbits(own, axis=1), others[:, None].astype(">u4").view(np.uint8)], axis=1)
    first, part_of = distinct(packed)
    return np.where(own[first], row, first_background + others[first][:, None]), part_of
