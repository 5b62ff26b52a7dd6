"""The explanation of a model as a section that any page can have.

In: ``ModelExplanation``. Out: what the macro ``explanation_of_model`` of ``explanation.html.j2`` shows; the page has
``explain.css`` in its block ``style``."""

import math
from typing import TYPE_CHECKING, Any

from mixfit.runs.report.content import ColumnPart, ModelExplanation, Scale
from mixfit.runs.report.render import number, percent, plural

if TYPE_CHECKING:
    from mixfit.evaluation.explain import Explanation


SHOWN_COLUMNS = 20


def model_explanation(found: "Explanation") -> ModelExplanation:
    """What the explanations of rows say of the model."""
    share, share_error = found.photo_share
    named = zip(found.columns, found.is_photo.tolist(), *(sizes.tolist() for sizes in found.importance), strict=True)
    columns = [ColumnPart(name=name, photo=photo, mean=mean, error=error) for name, photo, mean, error in named]
    return ModelExplanation(
        target=found.target,
        scale=found.scale,
        columns=sorted(columns, key=lambda column: -column.mean),
        photo_share=share,
        photo_share_error=share_error,
        interaction=found.interaction_size[0],
        rows=len(found.rows),
        background=found.background,
        exact=found.exact,
        orders=found.orders,
    )


def explanation_view(found: ModelExplanation) -> dict[str, Any]:
    """What an explanation says of the model, for the macro ``explanation_of_model``."""
    shown = found.columns[:SHOWN_COLUMNS]
    longest = max((column.mean + _known(column.error) for column in shown), default=0.0) or 1.0
    columns = [
        {
            "name": column.name,
            "photo": column.photo,
            "cell": "",
            "text": size_text(column.mean, found.scale),
            "error": error_text(column.mean, column.error, found.scale),
            "width": _share(column.mean, longest),
            "low": _share(max(0.0, column.mean - _known(column.error)), longest),
            "high": _share(column.mean + _known(column.error), longest),
        }
        for column in shown
    ]
    alone = "The model sees photos alone." if found.sees_photos else "The model looks at no photos."
    return {
        "columns": columns,
        "left_out": max(0, len(found.columns) - SHOWN_COLUMNS),
        "sides": _sides_view(found),
        "one_side": alone,
        "interaction": size_text(found.interaction, found.scale),
        "reading": _reading(found),
        "how": _how(found),
    }


def part_text(part: float, scale: Scale) -> str:
    """Write a part of a prediction with its sign.

    >>> part_text(-0.25, "number"), part_text(0.123, "probability")
    ('-0.2500', '+12.3 points')
    >>> [part_text(part, "logarithm") for part in (0.1823, -0.3, 2.0)]
    ['+20.0 %', '-25.9 %', 'x 7.389']
    """
    match scale:
        case "number":
            return ("+" if part >= 0 else "") + number(float(part))
        case "logarithm":
            factor = math.exp(part)
            return f"x {number(factor)}" if factor > 3 else f"{100 * (factor - 1):+.1f} %"
        case "probability":
            return f"{100 * part:+.1f} points"


def size_text(size: float, scale: Scale) -> str:
    """Write the size of a part.

    >>> size_text(0.25, "number"), size_text(0.1823, "logarithm"), size_text(0.123, "probability")
    ('0.2500', '20.0 %', '12.3 points')
    """
    return part_text(size, scale).removeprefix("+")


def error_text(size: float, error: float, scale: Scale) -> str:
    """A standard error in the unit of its size, near it for a logarithm; "" where it is not known."""
    if math.isnan(error):
        return ""
    match scale:
        case "number":
            return number(error)
        case "logarithm":
            return f"{100 * error * math.exp(size):.1f} %"
        case "probability":
            return f"{100 * error:.1f}"


def _known(error: float) -> float:
    return 0.0 if math.isnan(error) else error


def _share(value: float, whole: float) -> float:
    return round(100 * float(value) / whole, 1)


def _sides_view(found: ModelExplanation) -> dict[str, Any] | None:
    share, error = found.photo_share, found.photo_share_error
    if len({column.photo for column in found.columns}) < 2 or math.isnan(share):
        return None
    return {
        "table": percent(1 - share),
        "photos": percent(share),
        "table_width": round(100 * (1 - share), 1),
        "error": "" if math.isnan(error) else percent(error),
    }


def _reading(found: ModelExplanation) -> str:
    match found.scale:
        case "number":
            unit = f"in the unit of {found.target}"
        case "logarithm":
            unit = f"in percent of {found.target}, as the model was fitted on logarithms: parts of a row multiply"
        case "probability":
            unit = "in percentage points of the probability of the predicted class"
    return f"How far each column moves a prediction from the typical one, on average, {unit}."


def _how(found: ModelExplanation) -> str:
    if found.exact:
        how = "every combination of the columns was tried"
        error = "the choice of rows"
    else:
        how = f"{plural(found.orders * found.background, 'order')} of the columns were sampled"
        error = "the choice of rows; that of a row's own parts stands beside them"
    against = plural(found.background, "background row")
    return (
        f"Shapley values over {plural(found.rows, 'row')}, each against {against} that are typical of the table; "
        f"{how}. Behind ± is one standard error, from {error}. Columns that tell the same, such as the height and the "
        "weight of a thing, share what they tell in a way that only the model knows."
    )
