"""Columns that name or hold photos: the photos of a cell are found by ``data/photos``, not converted to arrays here."""

import numpy as np
from jaxtyping import Int64

from mixfit.choices import Role
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import Facts, image_share
from mixfit.data.columns.kind import ColumnState, Guess, Weight, empty_cells, refuse_if, refuse_nested
from mixfit.data.columns.values import Levels
from mixfit.data.photos.cells import content_share

_IMAGE_SHARE = 0.9  # share of the cells that must name or hold an image file


class Image:
    """Paths of image files, several separated by ";", or the bytes of photos."""

    role: Role = "image"
    state = None
    nested = True
    orders = levels = False

    def parse(self, cells: Cells) -> Levels:
        """Parse as names."""
        return cells.levels

    def guess(self, fact: Facts) -> Guess | None:
        """An image column if its cells hold photos, or end with the extension of image files."""
        share, kind = content_share(fact.column)
        if share >= _IMAGE_SHARE:
            return Guess(self.role, kind)
        if fact.cells.nested is not None:
            return None
        share, ending = image_share(fact)
        if share < _IMAGE_SHARE:
            return None
        several = int(fact.keys.str.contains(";", regex=False).sum())
        note = f"{several} cells name several photos" if several else ""
        return Guess(self.role, f"paths that end in {ending}", note)

    def check(self, fact: Facts) -> str:
        """Require that at least half of the cells are photos."""
        if content_share(fact.column)[0] < 0.5:
            refuse_nested(fact, self.role)
            wanted = "paths of image files"
            refuse_if(image_share(fact)[0] < 0.5, fact, self.role, wanted, fact.keys.notna().to_numpy())
        return ""

    def missing(self, cells: Cells) -> int:
        """Empty cells."""
        return empty_cells(cells)

    def fit(self, cells: Cells, weight: Weight) -> ColumnState:
        """Not available: photos have no preprocessing state.

        Raises:
            TypeError: always.
        """
        raise TypeError("a column of photos is used by an image encoder, not by the preprocessing of the table")

    def describe(self, cells: Cells) -> tuple[float, str]:
        """The share of empty cells."""
        return float(cells.column.isna().mean()), ""

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By name."""
        return cells.levels.codes
