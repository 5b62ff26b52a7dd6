"""The page of ``mixfit explain``.

In: an ``Explanation`` and heat of photos. Out: one HTML file without script or reference to anything outside, the same
bytes for the same content."""

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
from mixfit.runs.report.explanation_view import error_text, explanation_view, model_explanation, part_text
from mixfit.runs.report.render import number, percent, plural, render, write_page

if TYPE_CHECKING:
    import PIL.Image


SHOWN_PARTS = 8
SHOWN_ROWS = 24
_SECTIONS = [("model", "The model"), ("rows", "Row by row")]


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
    """What the heat is of, or why there is none."""


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
        f"{part_text(float(found.photos[place]), scale)}; both together "
        f"{part_text(float(found.interaction[place]), scale)} beyond what each does alone."
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
        # Of exact parts it is the choice of background rows, which readers need not know of every part.
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
    return f"{found.target} is typically {number(typical)}, here predicted {number(float(found.predictions[place]))}."


def _looks(heat: PhotoHeat) -> list[dict[str, str]]:
    """The photos of a row with their heat, as pictures inside the page."""
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
