"""Columns that name photos, or hold them: what a cell stands for is found by ``data/photos``, not by an array here."""

import numpy as np
from jaxtyping import Int64

from mixfit.choices import Role
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import Facts, image_share
from mixfit.data.columns.kind import ColumnState, Guess, Weight, empty_cells, refuse_if, refuse_nested
from mixfit.data.columns.values import Levels
from mixfit.data.photos.cells import content_share

_IMAGE_SHARE = 0.9  # of the cells must name an image file, or hold one


class Image:
    """Paths of image files, several separated by ";", or the bytes of photos."""

    role: Role = "image"
    state = None
    nested = True
    orders = levels = False

    def parse(self, cells: Cells) -> Levels:
        """As names."""
        return cells.levels

    def guess(self, fact: Facts) -> Guess | None:
        """Cells that hold photos, or end like image files."""
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
        """Half of the cells must be photos."""
        if content_share(fact.column)[0] < 0.5:
            refuse_nested(fact, self.role)
            wanted = "paths of image files"
            refuse_if(image_share(fact)[0] < 0.5, fact, self.role, wanted, fact.keys.notna().to_numpy())
        return ""

    def missing(self, cells: Cells) -> int:
        """Empty cells."""
        return empty_cells(cells)

    def fit(self, cells: Cells, weight: Weight) -> ColumnState:
        """Photos have no state here.

        Raises:
            TypeError: always.
        """
        raise TypeError("a column of photos is learnt by an image encoder, not by the preprocessing of a table")

    def describe(self, cells: Cells) -> tuple[float, str]:
        """How many cells are empty."""
        return float(cells.column.isna().mean()), ""

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By name."""
        return cells.levels.codes
