"""What the two pages show, as plain values.

In: values that others computed. Out: ``ReportContent`` and ``InspectContent``, which the pages lay out.
Computes no metric and knows nothing of models, training or the run folder."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from markupsafe import Markup

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Schema
from mixfit.ensemble.photo_rule import PhotoRule
from mixfit.files import Count, Share, Within

SplitName = Literal["train", "valid", "test"]
ModelKind = Literal["ours", "table", "photos", "constant", "candidate"]
Scale = Literal["number", "logarithm", "probability"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How well one model predicts one part of the table."""

    model: str
    """As the reader should see it: "mixfit (table + photos)", "boosted trees (table only)"."""
    kind: ModelKind
    """What it is: "ours" is the model that the run delivers, "table" one without photos that it is compared with,
    "photos" the same model with photos where the delivered one does without, "candidate" one that competed for a share
    in it."""
    split: SplitName
    metrics: dict[str, float]
    """Name -> value in the target's units; nan is shown as "n/a"."""
    seconds: float | None = None
    """Time of the fit; None when it is unknown or not worth a column."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Name -> ends of the 95 % interval, by bootstrap; of some metrics or of none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What photos change on one part of the table, in the headline metric."""

    split: SplitName
    rows: Count
    groups: Count | None
    """How many groups were resampled; None where it was the rows."""
    with_photos: float
    without: float
    gain: float
    """How much better it is with photos; below 0 it is worse."""
    interval: tuple[float, float]
    """Ends of the 95 % interval of ``gain``, by the paired bootstrap; nan where it cannot be computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoGain:
    """What the photos add."""

    differences: list[Difference]
    """The rows that nothing was fitted on first."""
    with_name: str
    without_name: str
    same_kind: bool
    """Both are made in the same way, but for the photos."""
    used: bool
    """Whether the model that the run delivers sees photos."""
    rule: PhotoRule | None = None
    """What was decided by the folds; None of one network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderboardLine:
    """What one of the models that competed is worth on rows it did not see."""

    model: str
    photos: bool
    """Whether it sees them."""
    loss: float
    """Mean over rows that were predicted out of fold: squared error of the scaled target, or log-loss."""
    error: float
    """Standard error of that mean, over rows, or over groups where rows belong together."""
    share: float | None
    """In the blend that predicts; None for a blend."""
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How often intervals, or sets of classes, hold the truth of rows that nothing was fitted on."""

    rows: str
    """Which rows: "all", "without a photo", "lowest fifth by prediction"."""
    count: Annotated[int, Within(1)]
    inside: Count
    share: Share | None = None
    """Of the rows' weight that is inside; None where all count alike."""

    @property
    def held(self) -> float:
        """Share of the rows whose truth is inside, by weight where they have weights."""
        return self.inside / self.count if self.share is None else self.share


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelCoverage:
    """How often intervals, or sets of classes, at one level hold the truth of test rows."""

    level: Share
    """Share of rows that they are made to hold."""
    count: Annotated[int, Within(1)]
    inside: Count
    width: float
    """Median width of the intervals in the unit of the target, or mean number of classes in a set."""
    share: Share | None = None
    """Of the rows' weight that is inside; None where all count alike."""

    @property
    def held(self) -> float:
        """Share of the rows whose truth is inside, by weight where they have weights."""
        return self.inside / self.count if self.share is None else self.share


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
class Check:
    """One finding about a table; a note is worth knowing, an error stands in the way of training."""

    level: Literal["note", "warning", "error"]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoStatistics:
    """The photos that one image column names."""

    column: str
    readable: int
    """Files that decode."""
    broken: int
    """Files that are absent or do not decode."""
    missing: int
    """Empty cells, in rows."""


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
    """All that a report shows as plain values: what ``report.json`` of a run folder holds."""

    title: str
    target: str
    rows: dict[SplitName, Count]
    """Rows used in each part; a part may be empty or absent."""
    headline_metric: str
    """The metric of the first screen, a key of each ``Score.metrics``."""
    higher_is_better: bool
    """Direction of the headline metric."""
    verdict: str
    """What the run showed, in one or two plain sentences."""
    scores: list[Score]
    photos: PhotoGain | None = None
    """None for a table without photos, or where nothing was compared."""
    leaderboard: list[LeaderboardLine] = field(default_factory=list)
    """The best first; empty when only one network was trained."""
    choice: str = ""
    """Why this of all models predicts, in plain words."""
    folds: str = ""
    """What "out of fold" means where it is not every row; "" where it is."""
    coverage: list[Coverage] = field(default_factory=list)
    """Of the intervals or sets at ``coverage_level``, on the test rows."""
    coverage_level: Share = 0.9
    levels: list[LevelCoverage] = field(default_factory=list)
    """The same at several levels, of all test rows."""
    history_of: str = ""
    """Which of several networks ``history`` is of; "" when there is but one."""
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
    predicted_split: SplitName
    """The part that the predictions come from."""
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
    """Lower and upper ends at ``coverage_level``; None where there are none."""
    weight: Shaped[np.ndarray, " rows"] | None = None
    """How much each row counts; None for all alike."""
    older_pictures: bool = False
    """Whether an earlier version kept drawings of what the doctor saw, which are not shown."""
    photo_files: dict[str, str] = field(default_factory=dict)
    """Small pictures as ``data:`` URIs, by the names that ``ShownPhoto.file`` has."""
    bad_inputs: list[BadInput] = field(default_factory=list)
    """Every record of the run; the page shows the first ones and counts them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectContent:
    """All that the page of ``mixfit inspect`` shows."""

    table_name: str
    format_text: str
    """How the file was read: "utf-8, comma"."""
    schema: Schema
    checks: list[Check] = field(default_factory=list)
    photos: list[PhotoStatistics] = field(default_factory=list)
    bad_inputs: list[BadInput] = field(default_factory=list)
    next_command: str = ""
    """What to type next, if there is anything to suggest."""
