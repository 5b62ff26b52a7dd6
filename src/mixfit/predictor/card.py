"""The model card: intended use, training data, metrics, weak groups, and how to verify the model.

In: a predictor's schema and the facts computed at the end of training. Out: Markdown. Names of columns, categories and
files are untrusted: they are written as code spans, in which links and HTML have no effect."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from mixfit.config import ModelConfig
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.words import MOST_CHARACTERS
from mixfit.files import Count, Share, Within, from_plain
from mixfit.nn.backbones import has_pretrained_weights
from mixfit.training.metrics import metric_label

LICENCE = "Image network: EfficientNet-Lite0 with ImageNet weights (Apache-2.0)."
OWN_LICENCE = "This is a custom network: the origin and the licence of its initial weights are unknown."
FROM_SCRATCH = "The model has no pretrained weights."
_SHOWN_COLUMNS, _SHOWN_GROUPS, _LONGEST = 60, 20, 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """A column in the training rows."""

    name: str
    role: str
    missing: float
    """Share of empty cells, in [0, 1]."""
    seen: str
    """"3.5 to 80", "2021-01-04 to 2023-12-30", "14 values", "3 to 80 words, median 12"; or ""."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFacts:
    """A metric on validation, out-of-fold or test rows with its 95 % bootstrap interval; None if it has no value."""

    rows: str
    """"out of fold", "validation" or "test"."""
    count: int
    metric: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Coverage of prediction intervals or sets on test rows."""

    rows: str
    """Group of rows: "all", "without a photo", "lowest fifth by prediction"."""
    count: Annotated[int, Within(1)]
    inside: Count
    level: Share
    """Nominal coverage."""
    share: Share | None = None
    """Weighted empirical coverage; None without weights."""
    width: float | None = None
    """Median width of the intervals in the unit of the target, or mean size of the sets; None if not measured."""

    @property
    def held(self) -> float:
        """Empirical coverage, weighted if there are weights."""
        return self.inside / self.count if self.share is None else self.share


@dataclass(frozen=True, slots=True, kw_only=True)
class WeakGroup:
    """A group of rows with significantly worse predictions than the others."""

    column: str
    value: str
    rows: int
    error: float
    """Mean error of these rows, see ``ModelFacts.error``."""
    rest: float
    """Mean error of all other rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts about a model at the end of its training."""

    training_rows: int
    test_rows: int
    columns: tuple[ColumnFacts, ...]
    scores: tuple[ScoreFacts, ...]
    coverage: tuple[Coverage, ...] = ()
    error: str = ""
    """The error by which groups are compared: "mape", "share of wrong classes"."""
    judged_rows: str = ""
    """The rows used to compare groups."""
    groups: int = 0
    """Number of groups that were large enough."""
    weak: tuple[WeakGroup, ...] = field(default=())
    photos: str = ""
    """The decision about photos; "" if unknown."""
    text: str = ""
    """The decision about columns of text; "" if unknown."""
    refit: Count = 0
    """See ``Result.refit``."""
    decision: str = ""
    """How the chosen metric was optimised; "" for the default one."""

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Any) -> "ModelFacts | None":
        """Read the output of ``to_dict``; None for a model without facts.

        Raises:
            DataError: the content is invalid.
        """
        return from_plain(ModelFacts | None, state, "the facts")


def refit_note(rows: int) -> str:
    """That the scores are not those of the delivered model.

    Args:
        rows: that it was fitted on.
    """
    return (
        f"The delivered model was fitted once more on all {rows:,} rows, test rows included. All scores are those of "
        "the models before, on rows that those had not seen; the delivered model can only be evaluated on new rows."
    )


def licence_of(config: ModelConfig | None) -> str:
    """Origin and licence of an image network's initial weights; None for a model without one."""
    if config is None:
        return FROM_SCRATCH
    if config.backbone_weights is not None:
        begun = f"Image network: {code(config.backbone)}, initialised with the weights of"
        return f"{begun} {code(config.backbone_weights.name)}: their licence is unknown."
    if has_pretrained_weights(config.backbone):
        return LICENCE
    if not config.allow_download:
        return f"Image network: {code(config.backbone)}. {FROM_SCRATCH}"
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(config.backbone)
    licence = getattr(found, "license", None) or "not stated there"
    return (
        f"Image network: {code(config.backbone)}, initialised with the weights of timm's model hub; licence: {licence}."
    )


def model_card(
    schema: Schema,
    *,
    version: str,
    facts: ModelFacts | None,
    classes: Sequence[str] | None,
    photos: bool,
    text: bool = False,
    notes: Sequence[str],
    licence: str,
    weights_sha256: str,
) -> str:
    """Write the card.

    Args:
        version: of mixfit.
        facts: None for a manually assembled model; the card then has no metrics.
        classes: None for regression.
        photos, text: whether the model uses photos, and columns of text.
        notes: on the kind of model.
        licence: see ``licence_of``.
        weights_sha256: of ``model.safetensors``.
    """
    target = code(schema.target)
    what = "a number" if classes is None else f"one of {len(classes)} classes"
    parts = [
        f"# Model of {target}",
        f"Made by mixfit {version}. It predicts {target}, {what}, from a row of a table"
        + (" and its photos." if photos else "."),
        *notes,
        *_intended_use(),
        *([] if facts is None else [*_data(facts), *_metrics(facts, classes=classes)]),
        *_limits(facts, schema, classes=classes, photos=photos, text=text),
        "## Licence",
        f"{licence} The licence of the training data is unknown to mixfit: ask their owner before sharing this model.",
        *_loading(weights_sha256, photos=photos),
    ]
    return "\n\n".join(parts) + "\n"


def _intended_use() -> list[str]:
    return [
        "## Intended use",
        (
            "For new rows of the same kind and from the same source as the training rows, with the same columns in the "
            "same units."
        ),
        (
            "Not for rows from another source or a later time without evaluating it there with `mixfit evaluate`; "
            "not for causal conclusions, as it only learns associations; and not for decisions about people "
            "without human oversight."
        ),
    ]


def _data(facts: ModelFacts) -> list[str]:
    more = len(facts.columns) - _SHOWN_COLUMNS
    rows = [
        [code(one.name, in_table=True), one.role, one.seen, f"{100 * one.missing:.3g} %"]
        for one in facts.columns[:_SHOWN_COLUMNS]
    ]
    return [
        "## Data",
        f"{facts.training_rows:,} training rows; {facts.test_rows:,} test rows.",
        _table(["column", "role", "values in training", "missing"], rows),
        *([f"{more} further columns are in `mixfit.json`."] if more > 0 else []),
    ]


def _metrics(facts: ModelFacts, *, classes: Sequence[str] | None) -> list[str]:
    rows = [
        [
            one.rows,
            f"{one.count:,}",
            metric_label(one.metric),
            _number(one.value),
            f"{_number(one.low)} to {_number(one.high)}",
        ]
        for one in facts.scores
    ]
    kind = "Prediction intervals" if classes is None else "Prediction sets"
    heading = ["rows", "count", "metric", "value", "95 % interval"]
    said = refit_note(facts.refit) if facts.refit else "On rows that were not used to fit what is scored."
    found = ["## Metrics", said, _table(heading, rows)]
    if facts.coverage:
        kept = [[one.rows, f"{one.count:,}", f"{one.inside:,}", f"{100 * one.held:.1f} %"] for one in facts.coverage]
        found += [
            f"{kind} at {facts.coverage[0].level:.0%}: empirical coverage on test rows.",
            _table(["test rows", "count", "covered", "coverage"], kept),
        ]
    return [*found, *filter(None, [facts.decision, facts.text, facts.photos])]


def _limits(
    facts: ModelFacts | None, schema: Schema, *, classes: Sequence[str] | None, photos: bool, text: bool
) -> list[str]:
    lines = ["## Limits"]
    if facts is not None and facts.groups:
        where = f"{facts.groups} groups of rows, by category{' and by photos' if photos else ''}"
        judged = f"{metric_label(facts.error)} on {facts.judged_rows} rows"
        if not facts.weak:
            lines.append(f"Of {where}, none is predicted significantly worse than the other rows ({judged}).")
        else:
            are = "1 is" if len(facts.weak) == 1 else f"{len(facts.weak)} are"
            lines.append(f"Of {where}, {are} predicted significantly worse than the other rows ({judged}):")
            rows = [
                [
                    code(g.column, in_table=True),
                    code(g.value, in_table=True),
                    f"{g.rows:,}",
                    f"{g.error:.4g}",
                    f"{g.rest:.4g}",
                ]
                for g in facts.weak[:_SHOWN_GROUPS]
            ]
            lines.append(_table(["column", "value", "rows", "error", "error of other rows"], rows))
    elif facts is not None:
        lines.append("No group of rows was large enough to test for weaknesses.")
    inputs = []
    if schema.names("number") or schema.names("date"):
        inputs += [
            (
                "Numbers outside the training range are clipped only at 10 standard deviations from the mean, without "
                "a warning; such predictions are extrapolations."
            ),
            "A missing number is replaced by the median, and marked as missing if training rows had missing cells too.",
        ]
    if schema.names("category") or schema.names("tags"):
        inputs.append(
            "A category that does not occur in the training rows is treated as unknown; the status of the row says so."
        )
    if text:
        inputs.append(
            "In the counts of words, a word that is not in the training texts counts only by its groups of 2 to 4 "
            "characters; the status of a row without any known word says so. At most the first "
            f"{MOST_CHARACTERS:,} characters of a text are read. `mixfit.json` holds "
            "frequent words of the training texts."
        )
    if photos:
        inputs.append("A photo that is missing or cannot be read is ignored; the status of the row says so.")
    if classes is not None:
        inputs.append("It predicts one of its classes even for a row of another class.")
    return [*lines, "\n".join(f"- {line}" for line in inputs)]


def _loading(weights_sha256: str, *, photos: bool) -> list[str]:
    images = ', images="folder of photos"' if photos else ""
    return [
        "## Load and verify",
        (
            "The first command, run in this folder, must print the checksum below; loading also checks it against "
            "`mixfit.json`, and runs no code from the folder."
        ),
        f"```sh\nsha256sum model.safetensors\n# {weights_sha256}\n```",
        (
            f'```python\nimport mixfit\n\npredictor = mixfit.Predictor.load("this folder")\n'
            f"predictor.predict(frame{images})\n```"
        ),
    ]


def code(text: str, *, in_table: bool = False) -> str:
    """Untrusted text as a code span, in which Markdown has neither links nor HTML.

    >>> code("a`b"), code("<img src=x> [a](http://b)")
    ('``a`b``', '`<img src=x> [a](http://b)`')
    """
    shown = "".join(character if character.isprintable() else " " for character in text)
    shown = " ".join(shown.split()) or "(empty)"
    shown = shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
    if in_table:
        shown = shown.replace("|", "\\|")
    longest = max((len(run) for run in _runs_of_ticks(shown)), default=0)
    fence = "`" * (longest + 1)
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{room}{shown}{room}{fence}"


def _runs_of_ticks(text: str) -> list[str]:
    return "".join(character if character == "`" else " " for character in text).split()


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
