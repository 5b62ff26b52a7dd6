"""What the report of a run shows beside its result, as plain values.

In: values that others computed. Out: ``ReportContent``, which the page lays out.
Computes no metric and knows nothing of models, training or the run folder."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from markupsafe import Markup

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Schema
from mixfit.evaluation.result import Result
from mixfit.files import Count, Share, Within

Scale = Literal["number", "logarithm", "probability"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """What values a column has."""

    column: str
    kind: Literal["numbers", "dates", "levels", "photos"]
    labels: list[str]
    """Of the bins of numbers and dates, or the levels, the most frequent first."""
    counts: list[Count]
    """Rows, in the order of ``labels``."""
    summary: str
    """In words: "12 to 9,583, half of them below 1,800"."""
    others: Count = 0
    """Rows with levels beyond those that are listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownPhoto:
    """One photo of a row."""

    name: str
    file: str
    """Of the small picture among the files of the report; "" where the photo could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRow:
    """One row of the table with its photos."""

    row: Count
    """Position in the table, the first data row is 0."""
    part: str
    """"training rows", "test rows"."""
    cells: list[tuple[str, str]]
    """Column and value as it is in the table; "" is a missing one."""
    photos: list[ShownPhoto]
    more_photos: Count
    """That are not shown."""
    reasons: list[str]
    """What is unusual about it, one sentence each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """What the data are."""

    distributions: list[Distribution]
    """The target first."""
    samples: list[ShownRow]
    notes: list[str]
    """What else is known of table and photos, one sentence each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """One fault of the training, in plain language."""

    name: str
    sentence: str
    fix: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerValues:
    """Where the values of a layer lie, step by step."""

    title: str
    counts: list[list[Annotated[float, Within(0, 1e18)]]]
    """For each column of steps the values in each bin."""
    mean: list[Annotated[float, Within(-1e300, 1e300)]]
    """Of each column; nan where nothing was measured."""
    broken: list[bool]
    """Whether an output was not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerShares:
    """The share of the units of a layer that give nothing, for each column of steps; nan where nothing was measured."""

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
    """What the doctor saw of the layers and the gradients of a network, as numbers that its pictures show."""

    spans: list[tuple[Annotated[int, Within(0, 1e15)], Annotated[int, Within(0, 1e15)]]]
    """First and last step of each column, rising."""
    edges: list[Annotated[float, Within(-1e18, 1e18)]]
    """Of the bins of ``values``, rising."""
    values: list[LayerValues]
    dead_units: list[LayerShares]
    ratios: list[StepLine]
    """Update divided by weight, of each part of the network."""
    modalities: list[StepLine]
    """Norms of the gradients towards the table's encoding and that of the photos; none without photos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure that is drawn already."""

    heading: str
    caption: str
    svg: Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnPart:
    """How far one column moves the predictions of some rows."""

    name: str
    photo: bool
    """Whether it is an image column."""
    mean: float
    """Mean size of its part, in the scale of the explanation."""
    error: float
    """Standard error of that mean over rows; nan for a single row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelExplanation:
    """What moves the predictions of a model, as means over some rows; see ``mixfit.explain``."""

    target: str
    scale: Scale
    columns: list[ColumnPart]
    """The one that moves most first."""
    photo_share: Share
    """Of what moves the predictions; nan where nothing does."""
    photo_share_error: float
    interaction: float
    """Mean size of what table and photos tell only together."""
    rows: Count
    """Explained ones."""
    background: Count
    """Rows that they were compared with."""
    exact: bool
    """Whether every combination of columns was tried; else ``orders`` of them were, for each background row."""
    orders: Count

    @property
    def sees_photos(self) -> bool:
        """Whether any column is one of images."""
        return any(column.photo for column in self.columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFacts:
    """What a report shows beside the result, as plain values: what ``report.json`` of a run folder holds."""

    title: str
    diagnoses: list[Diagnosis] | None = None
    """What the doctor found in the training; None when none was asked."""
    watched: Watched | None = None
    """What it saw; None when none was asked."""
    explanation: ModelExplanation | None = None
    """What moves the predictions; None where that was not computed."""
    explanation_note: str = ""
    """Why there is no explanation; "" where there is one, or nothing to say."""
    data: DataFacts | None = None
    worst: list[ShownRow] = field(default_factory=list)
    """Of the predicted rows, the largest error first."""
    classes: tuple[str, ...] = ()
    """Names by class index; empty for regression."""
    log_scale: bool = False
    """Draw truth and prediction on logarithmic axes (regression)."""
    warnings: list[str] = field(default_factory=list)
    """What the reader must know before trusting the numbers, one sentence each."""
    command: str = ""
    """The command that started the run."""
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    """By which it can be told whether other data are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContent(ReportFacts):
    """All that the report of one training run shows."""

    result: Result
    schema: Schema
    history: pd.DataFrame
    """One row per epoch: ``epoch``, ``train_loss``, ``valid_loss``, then metrics, ``lr``, ``seconds``; may be empty."""
    truth: Shaped[np.ndarray, " rows"]
    """The target's values, or class indices."""
    prediction: Shaped[np.ndarray, " rows"]
    """Predicted values or class indices, in the order of ``truth``."""
    predicted_rows: Shaped[np.ndarray, " rows"] | None = None
    """Position of each in the table."""
    probabilities: Shaped[np.ndarray, "rows classes"] | None = None
    """Of the classes; None for regression."""
    interval: tuple[np.ndarray, np.ndarray] | None = None
    """Lower and upper ends at the coverage level of the result; None where there are none."""
    weight: Shaped[np.ndarray, " rows"] | None = None
    """How much each row counts; None for all alike."""
    photo_files: dict[str, str] = field(default_factory=dict)
    """Small pictures as ``data:`` URIs, by the names that ``ShownPhoto.file`` has."""
    bad_inputs: list[BadInput] = field(default_factory=list)
    """Every record of the run; the page shows the first ones and counts them all."""
