"""A kind of column written outside mixfit: bearings such as "NNE" or "270°", as a point on a circle."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import Facts
from mixfit.data.columns.kind import ColumnArrays, Guess, Weight, bad_cells, refuse_if

WINDS = ["N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW"]


@dataclass(frozen=True)
class Angles:
    """Degrees, nan where there are none, and the cells that hold something else."""

    degrees: np.ndarray
    unparsable: np.ndarray

    def take(self, rows: np.ndarray) -> "Angles":
        return Angles(self.degrees[rows], self.unparsable[rows])


def to_angles(column: pd.Series) -> Angles:
    texts = column.astype("str").str.strip()
    winds = texts.map({wind: 22.5 * place for place, wind in enumerate(WINDS)})
    degrees = winds.astype("float64").fillna(pd.to_numeric(texts.str.removesuffix("°"), errors="coerce"))
    return Angles(degrees.to_numpy(), (degrees.isna() & texts.notna()).to_numpy())


@dataclass(frozen=True, kw_only=True)
class BearingColumn:
    role: ClassVar[str] = "bearing"
    saved_as: ClassVar[str] = "bearings"
    cardinality: ClassVar[int] = 0
    name: str
    strength: float
    """Length of the mean vector of the training rows: 1 where all point one way."""

    @property
    def outputs(self) -> list[str]:
        return [f"{self.name} {part}" for part in ("east", "north", "is missing")]

    def transform(self, cells: Cells) -> ColumnArrays:
        degrees = cells.read(to_angles).degrees
        angle, there = np.radians(np.nan_to_num(degrees)), ~np.isnan(degrees)
        return ColumnArrays([there * np.sin(angle), there * np.cos(angle), 1.0 - there])

    def problems(self, cells: Cells) -> list[BadInput]:
        return bad_cells(cells, cells.read(to_angles).unparsable, "not a bearing", "cell treated as missing")

    def check(self) -> None:
        pass


class Bearing:
    role = "bearing"
    state = BearingColumn
    nested = orders = levels = False

    def parse(self, cells: Cells) -> Angles:
        return cells.read(to_angles)

    def guess(self, fact: Facts) -> Guess | None:
        found = self.parse(fact.cells)
        sure = fact.text_like is False and not fact.numeric and not found.unparsable.any()
        return Guess(self.role, "points of the compass") if sure and np.isfinite(found.degrees).any() else None

    def check(self, fact: Facts) -> str:
        found = self.parse(fact.cells)
        refuse_if(bool(np.isnan(found.degrees).all()), fact, self.role, "bearings", found.unparsable)
        return ""

    def missing(self, cells: Cells) -> int:
        found = self.parse(cells)
        return int((np.isnan(found.degrees) & ~found.unparsable).sum())

    def fit(self, cells: Cells, weight: Weight) -> BearingColumn:
        angle = np.radians(self.parse(cells).degrees)
        return BearingColumn(name=cells.name, strength=float(np.abs(np.nanmean(np.exp(1j * angle)))))

    def describe(self, cells: Cells) -> tuple[float, str]:
        return float(np.isnan(self.parse(cells).degrees).mean()), "bearings"

    def values(self, cells: Cells) -> np.ndarray:
        return np.unique(self.parse(cells).degrees, return_inverse=True)[1].astype(np.int64)
