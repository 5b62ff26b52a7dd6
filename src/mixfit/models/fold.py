"""What candidates are, and what they are fitted on: the rows of one fold.

In: data by the encoder of a fold. Out: ``Fold``, and the protocol of what is fitted on it."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from mixfit.data.dataset import FeatureTable, ImageSource
from mixfit.data.load import MixedData
from mixfit.models.components import Components
from mixfit.models.encoding import EncodedRows, RowEncoder
from mixfit.models.mixed import MixedRows

Kind = Literal["constant", "linear", "kernels", "trees", "lightgbm", "network"]
COMPONENTS = {"linear": 60, "kernels": 120, "trees": 30, "lightgbm": 30}
"""Directions of the photos' features that each kind of model sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A kind of model and what it sees."""

    kind: Kind
    table: bool = True
    photos: bool = False
    tuned: bool = False
    """Of a network: it learns from pixels, and with it the last blocks of the backbone that is frozen elsewhere."""
    light: bool = False
    """Of a network: an MLP in the place of an ensemble of the table, for when that would take too long."""

    @property
    def name(self) -> str:
        """As people read it."""
        if self.kind == "constant":
            return "constant"
        called = {"kernels": "kernel ridge", "trees": "boosted trees", "lightgbm": "LightGBM"}
        seen = "table and photos" if self.table and self.photos else "photos" if self.photos else "table"
        return f"{'tuned ' if self.tuned else ''}{called.get(self.kind, self.kind)}, {seen}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsToPredict:
    """Rows by the encoder of one fold, for simple models and for networks."""

    encoded: EncodedRows
    slots: np.ndarray | None
    columns: np.ndarray | None
    source: ImageSource | FeatureTable | None
    """Features of the frozen backbone, or pixels where there is none."""
    pixels: ImageSource | None = None
    """Beside features: for networks that have tuned the backbone."""

    def take(self, rows: np.ndarray) -> "RowsToPredict":
        """Those rows, in that order."""
        return replace(self, encoded=self.encoded.take(rows), slots=None if self.slots is None else self.slots[rows])


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What candidates are fitted on; all that is fitted comes from ``fit_rows`` alone."""

    data: MixedData
    """With features in place of pixels, preprocessed by ``encoder.preprocessor``; its training and validation rows
    are those of networks, and among ``fit_rows``."""
    fit_rows: np.ndarray
    """Positions of the rows to fit on."""
    unit: np.ndarray
    """Of each of them; what is chosen by leaving rows out leaves out whole units."""
    encoder: RowEncoder
    rows: RowsToPredict
    """All rows of the table."""
    seed: int

    @cached_property
    def components(self) -> Components | None:
        """Of the photos of the rows to fit on, as many as any candidate wants."""
        encoded = self.rows.encoded.take(self.fit_rows)
        if encoded.photos is None:
            return None
        most = max(COMPONENTS.values())
        return Components.fit(encoded.photos, encoded.seen, most=most, seed=self.seed, weight=self.weight)

    @property
    def truth(self) -> np.ndarray:
        """Scaled numbers or class indices of the rows to fit on."""
        return self.data.arrays.target.numpy()[self.fit_rows]

    @property
    def weight(self) -> np.ndarray | None:
        """How much each row to fit on counts."""
        return None if self.data.arrays.weight is None else self.data.arrays.weight.numpy()[self.fit_rows]

    @property
    def classes(self) -> int:
        """0 for a number."""
        return 0 if self.data.target.classes is None else len(self.data.target.classes)


@runtime_checkable
class Fitted(Protocol):
    """A fitted candidate."""

    def predict(self, rows: RowsToPredict) -> np.ndarray:
        """float64: scaled numbers ``(rows,)``, or probabilities ``(rows, classes)``."""

    def predict_mixed(self, rows: MixedRows) -> np.ndarray:
        """The same for mixed rows, without doing twice what parts have in common."""

    def tensors(self) -> dict[str, Tensor]:
        """All of its arrays."""

    def describe(self) -> dict[str, Any]:
        """What is needed beside the arrays to read it again, for JSON; ``kind`` says which model it is."""
