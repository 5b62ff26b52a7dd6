"""What the two pages show, as plain values.

In: values that others computed. Out: ``ReportContent`` and ``InspectContent``, which the pages lay out.
Computes no metric and knows nothing of models, training or the run folder."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from markupsafe import Markup

from mixfit.data.bad_inputs import BadInput
from mixfit.data.schema import Schema

SplitName = Literal["train", "valid", "test"]
ModelKind = Literal["ours", "table", "photos", "constant", "candidate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How well one model predicts one part of the table."""

    model: str
    """As the reader should see it: "mixfit (table + photos)", "boosted trees (table only)"."""
    kind: ModelKind
    """What it is: "ours" is the model that the run delivers, "table" the one without photos that it is compared with,
    "candidate" one that competed for a share in it."""
    split: SplitName
    metrics: dict[str, float]
    """Name -> value in the target's units; nan is shown as "n/a"."""
    seconds: float | None = None
    """Time of the fit; None when it is unknown or not worth a column."""


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
    """Which rows: "all", "without a photo", "the highest fifth of the target"."""
    count: int
    inside: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """One fault of the training, in plain language."""

    name: str
    sentence: str
    fix: str


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
class ReportContent:
    """All that the report of one training run shows."""

    title: str
    target: str
    schema: Schema
    rows: dict[SplitName, int]
    """Rows used in each part; a part may be empty or absent."""
    headline_metric: str
    """The metric of the first screen, a key of each ``Score.metrics``."""
    higher_is_better: bool
    """Direction of the headline metric."""
    verdict: str
    """What the run showed, in one or two plain sentences."""
    scores: list[Score]
    leaderboard: list[LeaderboardLine] = field(default_factory=list)
    """The best first; empty when only one network was trained."""
    choice: str = ""
    """Why this of all models predicts, in plain words."""
    coverage: list[Coverage] = field(default_factory=list)
    """Of the intervals or sets at ``coverage_level``, on the test rows."""
    coverage_level: float = 0.9
    history_of: str = ""
    """Which of several networks ``history`` is of; "" when there is but one."""
    diagnoses: list[Diagnosis] | None = None
    """What the doctor found in the training; None when none was asked."""
    pictures: list[Picture] = field(default_factory=list)
    """Of what the doctor saw."""
    history: pd.DataFrame
    """One row per epoch: ``epoch``, ``train_loss``, ``valid_loss``, then metrics, ``lr``, ``seconds``; may be empty."""
    predicted_split: SplitName
    """The part that ``truth`` and ``prediction`` come from."""
    truth: Shaped[np.ndarray, " rows"]
    """The target's values, or class indices."""
    prediction: Shaped[np.ndarray, " rows"]
    """Predicted values or class indices, in the order of ``truth``."""
    classes: tuple[str, ...] = ()
    """Names by class index; empty for regression."""
    log_scale: bool = False
    """Draw truth and prediction on logarithmic axes (regression)."""
    bad_inputs: list[BadInput] = field(default_factory=list)
    """Every record of the run; the page shows the first ones and counts them all."""
    warnings: list[str] = field(default_factory=list)
    """What the reader must know before trusting the numbers, one sentence each."""
    command: str = ""
    """The command that started the run."""
    settings: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


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
