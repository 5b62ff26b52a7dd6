"""The content of a run's report besides its result, as plain values.

In: computed values. Out: ``ReportContent``, which the page lays out.
Computes no metrics and does not depend on models, training or the run folder."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from markupsafe import Markup

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Schema
from mixfit.evaluation.result import Result
from mixfit.evaluation.word_weights import ColumnWords
from mixfit.files import Count, Share, Within

Scale = Literal["number", "logarithm", "probability"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """The distribution of a column's values."""

    column: str
    kind: Literal["numbers", "dates", "levels", "texts", "photos"]
    labels: list[str]
    """Of the bins of numbers, dates and lengths of texts, or the levels, the most frequent first."""
    counts: list[Count]
    """Rows, in the order of ``labels``."""
    summary: str
    """Such as "12 to 9,583, median 1,800"."""
    others: Count = 0
    """Number of rows with other levels than the listed ones."""
    sample: str = ""
    """The beginning of a text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownPhoto:
    """One photo of a row."""

    name: str
    file: str
    """Name of the thumbnail among the report's files; "" if the photo could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRow:
    """One row of the table with its photos."""

    row: Count
    """Position in the table, the first data row is 0."""
    part: str
    """"training rows", "test rows"."""
    cells: list[tuple[str, str]]
    """Column and value in the table; "" if missing."""
    photos: list[ShownPhoto]
    more_photos: Count
    """Number of photos that are not shown."""
    reasons: list[str]
    """What is unusual about the row, one sentence each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """Description of the data."""

    distributions: list[Distribution]
    """The target first."""
    samples: list[ShownRow]
    notes: list[str]
    """Further notes on table and photos, one sentence each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """One problem of the training, in plain language."""

    name: str
    sentence: str
    fix: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerValues:
    """Histogram of a layer's outputs over time."""

    title: str
    counts: list[list[Annotated[float, Within(0, 1e18)]]]
    """Number of values in each bin, for each column of steps."""
    mean: list[Annotated[float, Within(-1e300, 1e300)]]
    """Mean of each column; nan if not measured."""
    broken: list[bool]
    """Whether an output was not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerShares:
    """Share of dead units of a layer for each column of steps; nan if not measured."""

    title: str
    shares: list[Share]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLine:
    """A line over steps."""

    title: str
    steps: list[Annotated[float, Within(0, 1e15)]]
    values: list[Annotated[float, Within(-1e300, 1e300)]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """The doctor's records of layers and gradients, as the numbers of its figures."""

    spans: list[tuple[Annotated[int, Within(0, 1e15)], Annotated[int, Within(0, 1e15)]]]
    """First and last step of each column, increasing."""
    edges: list[Annotated[float, Within(-1e18, 1e18)]]
    """Edges of the bins of ``values``, increasing."""
    values: list[LayerValues]
    dead_units: list[LayerShares]
    ratios: list[StepLine]
    """Update divided by weight, of each part of the network."""
    modalities: list[StepLine]
    """Gradient norms of the encodings of table and photos; empty without photos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A drawn figure."""

    heading: str
    caption: str
    svg: Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnPart:
    """Mean absolute contribution of one column."""

    name: str
    photo: bool
    """Whether it is an image column."""
    text: bool = False
    """Whether it is a column of text."""
    mean: float
    """Mean absolute contribution, in the scale of the explanation."""
    error: float
    """Standard error of that mean over rows; nan for a single row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelExplanation:
    """Contributions of the columns, as means over some rows; see ``mixfit.explain``."""

    target: str
    scale: Scale
    columns: list[ColumnPart]
    """Sorted by contribution, the largest first."""
    photo_share: Share
    """Share of the photos in the total contribution; nan if all are 0."""
    photo_share_error: float
    text_share: Share = 0.0
    """Share of the texts; nan if all are 0."""
    text_share_error: float = math.nan
    interaction: float
    """Mean absolute interaction of table, text and photos."""
    rows: Count
    """Number of explained rows."""
    background: Count
    """Number of background rows."""
    exact: bool
    """Whether all combinations of columns were used; else ``orders`` random orders for each background row."""
    orders: Count

    @property
    def sides(self) -> frozenset[str]:
        """Those of "table", "text" and "photos" that have columns."""
        return frozenset("photos" if one.photo else "text" if one.text else "table" for one in self.columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFacts:
    """The content of ``report.json``: everything that a report shows besides the result."""

    title: str
    diagnoses: list[Diagnosis] | None = None
    """Findings of the doctor; None without a doctor."""
    watched: Watched | None = None
    """Records of the doctor; None without a doctor."""
    explanation: ModelExplanation | None = None
    """Explanation of the model; None if not computed."""
    explanation_note: str = ""
    """Why there is no explanation, or ""."""
    words: list[ColumnWords] = field(default_factory=list)
    """The words that matter most in the score of each column of text."""
    data: DataFacts | None = None
    worst: list[ShownRow] = field(default_factory=list)
    """Rows with the largest errors, the worst first."""
    classes: tuple[str, ...] = ()
    """Names by class index; empty for regression."""
    log_scale: bool = False
    """Draw truth and prediction on logarithmic axes (regression)."""
    warnings: list[str] = field(default_factory=list)
    """Warnings about the reliability of the scores, one sentence each."""
    command: str = ""
    """The command that started the run."""
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    """Identifies the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContent(ReportFacts):
    """Everything that the report of one run shows."""

    result: Result
    schema: Schema
    history: pd.DataFrame
    """One row per epoch: ``epoch``, ``train_loss``, ``valid_loss``, then metrics, ``lr``, ``seconds``; may be empty."""
    truth: Shaped[np.ndarray, " rows"]
    """The target's values, or class indices."""
    prediction: Shaped[np.ndarray, " rows"]
    """Predicted values or class indices, in the order of ``truth``."""
    predicted_rows: Shaped[np.ndarray, " rows"] | None = None
    """Position of each row in the table."""
    probabilities: Shaped[np.ndarray, "rows classes"] | None = None
    """Class probabilities; None for regression."""
    interval: tuple[np.ndarray, np.ndarray] | None = None
    """Lower and upper ends at the coverage level of the result; None without intervals."""
    weight: Shaped[np.ndarray, " rows"] | None = None
    """Weights of the rows; None for equal weights."""
    photo_files: dict[str, str] = field(default_factory=dict)
    """Thumbnails as ``data:`` URIs by ``ShownPhoto.file``."""
    bad_inputs: list[BadInput] = field(default_factory=list)
    """All records of the run; the page shows the first ones and the counts of all."""
