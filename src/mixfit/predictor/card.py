"""The model card: what a model is for, what it was made from, how good it is, where it is weak, and how to check it.

In: a predictor's schema and the facts that were computed when its training ended. Out: Markdown. Names of columns,
categories and files come from a stranger's table: they stand in code spans, where nothing in them is a link or HTML."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from mixfit.config import ModelConfig
from mixfit.data.columns.schema import Schema
from mixfit.files import Count, Share, Within, from_plain
from mixfit.nn.backbones import has_pretrained_weights
from mixfit.training.metrics import metric_label

LICENCE = "Image network: EfficientNet-Lite0 with ImageNet weights (Apache-2.0)."
OWN_LICENCE = "The network is not mixfit's: whose weights it began with, and under which licence, is not known here."
FROM_SCRATCH = "All weights were initialised at random: there are no pretrained weights in this model."
_SHOWN_COLUMNS, _SHOWN_GROUPS, _LONGEST = 60, 20, 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """What the training rows had in a column."""

    name: str
    role: str
    missing: float
    """Share of empty cells, in [0, 1]."""
    seen: str
    """"3.5 to 80", "2021-01-04 to 2023-12-30", "14 values"; "" where there is nothing to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFacts:
    """A metric on rows that the model did not see, with its 95 % bootstrap interval; None where it has no value."""

    rows: str
    """Which: "out of fold", "validation", "test"."""
    count: int
    metric: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How often intervals, or sets of classes, hold the truth of test rows."""

    rows: str
    """Which rows: "all", "without a photo", "lowest fifth by prediction"."""
    count: Annotated[int, Within(1)]
    inside: Count
    level: Share
    """Share of rows that they are made to hold."""
    share: Share | None = None
    """Of the rows' weight that is inside; None where all count alike."""
    width: float | None = None
    """Median width of the intervals in the unit of the target, or mean number of classes in a set; None where it was
    not measured."""

    @property
    def held(self) -> float:
        """Share of the rows whose truth is inside, by weight where they have weights."""
        return self.inside / self.count if self.share is None else self.share


@dataclass(frozen=True, slots=True, kw_only=True)
class WeakGroup:
    """Rows that are predicted worse than the others, beyond noise."""

    column: str
    value: str
    rows: int
    error: float
    """Mean error of these rows, see ``ModelFacts.error``."""
    rest: float
    """Mean error of all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What was known of a model when its training ended."""

    training_rows: int
    test_rows: int
    columns: tuple[ColumnFacts, ...]
    scores: tuple[ScoreFacts, ...]
    coverage: tuple[Coverage, ...] = ()
    error: str = ""
    """By which error groups were judged: "mape", "share of wrong classes"."""
    judged_rows: str = ""
    """On which rows."""
    groups: int = 0
    """How many groups were large enough to be judged."""
    weak: tuple[WeakGroup, ...] = field(default=())
    photos: str = ""
    """What the folds tell of the photos; "" where it is not known."""

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Any) -> "ModelFacts | None":
        """Read what ``to_dict`` gave; None of a model that has none.

        Raises:
            DataError: it is something else.
        """
        return from_plain(ModelFacts | None, state, "the facts")


def licence_of(config: ModelConfig | None) -> str:
    """Whose weights an image network began with, and under which licence; None for a model without one."""
    if config is None:
        return FROM_SCRATCH
    if config.backbone_weights is not None:
        begun = f"Image network: {code(config.backbone)}, initialised with the weights of"
        return f"{begun} {code(config.backbone_weights.name)}: their licence is not known."
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
    notes: Sequence[str],
    licence: str,
    weights_sha256: str,
) -> str:
    """Write the card.

    Args:
        version: of mixfit.
        facts: None of a model that was put together by hand; the card then has no figures.
        classes: that are predicted; None for a number.
        photos: whether the model looks at them.
        notes: on what kind of model it is.
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
        *_limits(facts, classes=classes, photos=photos),
        "## Licence",
        f"{licence} The licence of the training data is not known to mixfit: ask their owner before you pass this on.",
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
            "Not for rows of another source or a later time before `mixfit evaluate` has shown how good it is there; "
            "not for causal conclusions, as it knows associations only; and not for decisions about people "
            "without somebody who can overrule it."
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
        f"{facts.training_rows:,} training rows; {facts.test_rows:,} rows were held back for the test.",
        _table(["column", "used as", "seen in training", "missing"], rows),
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
    kind = "Intervals" if classes is None else "Sets of classes"
    heading = ["rows", "count", "metric", "value", "95 % interval"]
    found = ["## Metrics", "On rows that the model was not trained on.", _table(heading, rows)]
    if facts.coverage:
        kept = [[one.rows, f"{one.count:,}", f"{one.inside:,}", f"{100 * one.held:.1f} %"] for one in facts.coverage]
        found += [
            f"{kind} at {facts.coverage[0].level:.0%}: how often they hold the truth of test rows.",
            _table(["test rows", "count", "held", "coverage"], kept),
        ]
    return [*found, *filter(None, [facts.photos])]


def _limits(facts: ModelFacts | None, *, classes: Sequence[str] | None, photos: bool) -> list[str]:
    lines = ["## Limits"]
    if facts is not None and facts.groups:
        where = f"{facts.groups} groups of rows, by category{' and by photos' if photos else ''}"
        judged = f"{metric_label(facts.error)} on {facts.judged_rows} rows"
        if not facts.weak:
            lines.append(f"Of {where}, none is predicted worse than the rest beyond noise ({judged}).")
        else:
            are = "1 is" if len(facts.weak) == 1 else f"{len(facts.weak)} are"
            lines.append(f"Of {where}, {are} predicted worse than the rest beyond noise ({judged}):")
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
            lines.append(_table(["column", "value", "rows", "error", "error elsewhere"], rows))
    elif facts is not None:
        lines.append("No group of rows was large enough to tell whether the model is weak there.")
    inputs = [
        (
            "A number beyond what was seen in training is taken as it is, but as no more than 10 standard deviations "
            "from the mean; nothing warns of it, and the prediction is a guess."
        ),
        "A category that no training row had counts as unknown, and the status of the row says so.",
        "An empty cell counts as a middle value, and as missing where training rows had such cells too.",
    ]
    if photos:
        inputs.append("A photo that is missing or cannot be read is left out, and the status of the row says so.")
    if classes is not None:
        inputs.append("It can only answer with its classes: a row of another kind gets one of them all the same.")
    return [*lines, "\n".join(f"- {line}" for line in inputs)]


def _loading(weights_sha256: str, *, photos: bool) -> list[str]:
    images = ', images="folder of photos"' if photos else ""
    return [
        "## Load and verify",
        (
            "In this folder, the first command must print the sum below; loading checks it too, against `mixfit.json`, "
            "and runs no code from the folder."
        ),
        f"```sh\nsha256sum model.safetensors\n# {weights_sha256}\n```",
        (
            f'```python\nimport mixfit\n\npredictor = mixfit.Predictor.load("this folder")\n'
            f"predictor.predict(frame{images})\n```"
        ),
    ]


def code(text: str, *, in_table: bool = False) -> str:
    """A stranger's text as a code span, in which Markdown has neither links nor HTML.

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
