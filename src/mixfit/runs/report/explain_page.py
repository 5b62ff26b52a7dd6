"""The page of ``mixfit explain``, and the explanation section in the report of a run.

In: an ``Explanation`` and heat maps of photos, or ``ModelExplanation``. Out: one HTML file without script or external
reference, the same bytes for the same content; values for the macro ``explanation_of_model``."""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mixfit.evaluation.explain import Explanation
from mixfit.evaluation.photo_heat import PhotoHeat
from mixfit.hooks.heat import overlay
from mixfit.runs.report.content import ColumnPart, ModelExplanation, Scale
from mixfit.runs.report.render import number, percent, plural, render, write_page

if TYPE_CHECKING:
    import PIL.Image


SHOWN_COLUMNS = 20
SHOWN_PARTS = 8
SHOWN_ROWS = 24
_SECTIONS = [("model", "The model"), ("rows", "Row by row")]


def model_explanation(found: Explanation) -> ModelExplanation:
    """Summarise the explanations of rows over the model."""
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
    """Values for the macro ``explanation_of_model``."""
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
    alone = "The model uses photos only." if found.sees_photos else "The model uses no photos."
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
    """Format a contribution to a prediction with its sign.

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
    """Format the size of a contribution.

    >>> size_text(0.25, "number"), size_text(0.1823, "logarithm"), size_text(0.123, "probability")
    ('0.2500', '20.0 %', '12.3 points')
    """
    return part_text(size, scale).removeprefix("+")


def error_text(size: float, error: float, scale: Scale) -> str:
    """A standard error in the unit of the contribution, approximated for logarithms; "" if unknown."""
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
            unit = f"in percent of {found.target}; the model is fitted to its logarithm, so contributions multiply"
        case "probability":
            unit = "in percentage points of the probability of the predicted class"
    return f"Mean absolute contribution of each column to the predictions, {unit}."


def _how(found: ModelExplanation) -> str:
    if found.exact:
        how = "computed exactly over all combinations of columns"
        error = "the choice of rows"
    else:
        how = f"estimated from {plural(found.orders * found.background, 'order')} of the columns"
        error = "the choice of rows; contributions of single rows have their own"
    against = plural(found.background, "background row")
    return (
        f"Shapley values of {plural(found.rows, 'row')}, each relative to {against} that are typical of the table, "
        f"{how}. ± is one standard error due to {error}. Correlated columns, such as the height and the weight of an "
        "object, share their contribution in a way that depends on the model."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainContent:
    """What the page shows."""

    run_name: str
    table_name: str
    explanation: Explanation
    chosen: str
    """How the rows were chosen."""
    heat: Mapping[int, PhotoHeat] = field(default_factory=dict)
    """By row."""
    heat_note: str = ""
    """Caption of the heat maps, or why there are none."""


def write_explain(content: ExplainContent, path: Path) -> None:
    """Write the page, replacing an older one.

    Raises:
        ResourceError: the file cannot be written.
    """
    write_page(explain_page(content), path)


def explain_page(content: ExplainContent) -> str:
    """Lay out an explanation as one HTML page."""
    found = content.explanation
    shown = range(min(SHOWN_ROWS, len(found.rows)))
    values = {
        "content": {
            "run_name": content.run_name,
            "table_name": content.table_name,
            "target": found.target,
            "rows": len(found.rows),
            "chosen": content.chosen,
            "heat_note": content.heat_note,
        },
        "sections": _SECTIONS,
        "view": explanation_view(model_explanation(found)),
        "rows": [_row_view(found, place, content.heat.get(int(found.rows[place]))) for place in shown],
    }
    return render("explain.html.j2", values)


def _row_view(found: Explanation, place: int, heat: PhotoHeat | None) -> dict[str, Any]:
    parts = found.parts[place]
    order = np.argsort(-np.abs(parts), kind="stable")
    longest = float(np.abs(parts).max()) or 1.0
    others = order[SHOWN_PARTS:]
    scale, total = found.scale, float(found.value[place] - found.base[place])
    return {
        "row": int(found.rows[place]),
        "prediction": _prediction_text(found, place),
        "about": _about(found, place),
        "parts": [_part_view(found, place, column, longest) for column in order[:SHOWN_PARTS].tolist()],
        "others": {"name": plural(len(others), "other column"), "text": part_text(float(parts[others].sum()), scale)}
        if len(others)
        else None,
        "total": part_text(total, scale),
        "sides": f"Table {part_text(float(found.table[place]), scale)}, photos "
        f"{part_text(float(found.photos[place]), scale)}, "
        f"{part_text(float(found.interaction[place]), scale)} interaction."
        if found.is_photo.any() and not found.is_photo.all()
        else "",
        "looks": [] if heat is None else _looks(heat),
    }


def _part_view(found: Explanation, place: int, column: int, longest: float) -> dict[str, Any]:
    part, error = float(found.parts[place, column]), float(found.errors[place, column])
    width = round(50 * abs(part) / longest, 1)
    return {
        "name": found.columns[column],
        "cell": found.cells[place][column] or "missing",
        "photo": bool(found.is_photo[column]),
        "text": part_text(part, found.scale),
        # For exact values the error comes from the choice of background rows, the same for all of them.
        "error": "" if found.exact else error_text(part, error, found.scale),
        "less": part < 0,
        "left": 50.0 if part >= 0 else round(50 - width, 1),
        "width": width,
    }


def _prediction_text(found: Explanation, place: int) -> str:
    said = found.predictions[place]
    return number(said) if isinstance(said, float) else said


def _about(found: Explanation, place: int) -> str:
    base, value = float(found.base[place]), float(found.value[place])
    if found.scale == "probability":
        return f"Probability of {found.explained[place]}: {percent(value)}, typically {percent(base)}."
    typical = math.exp(base) if found.scale == "logarithm" else base
    return f"Typical {found.target}: {number(typical)}; predicted here: {number(float(found.predictions[place]))}."


def _looks(heat: PhotoHeat) -> list[dict[str, str]]:
    """The photos of a row with their heat maps, embedded in the page."""
    several = len(set(heat.columns)) > 1
    return [
        {
            "name": f"{column}: {name}" if several else name,
            "photo": _inside(_picture(photo)),
            "heat": _inside(overlay(photo, warmth)),
        }
        for column, name, photo, warmth in zip(heat.columns, heat.names, heat.photos, heat.heat, strict=True)
    ]


def _picture(photo: Tensor) -> "PIL.Image.Image":
    from PIL import Image

    bytes_ = photo if photo.dtype == torch.uint8 else (255 * photo).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).cpu().numpy())


def _inside(picture: "PIL.Image.Image") -> str:
    """A data URL."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
