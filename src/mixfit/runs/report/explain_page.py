"""The page of ``mixfit explain``, and the explanation section in the report of a run.

In: an ``Explanation``, heat maps of photos and effects of words, or ``ModelExplanation``. Out: one HTML file without
script or external reference, the same bytes for the same content; values for the macro ``explanation_of_model``."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mixfit.evaluation.explain import Explanation, part_text, size_text
from mixfit.evaluation.photo_heat import PhotoHeat
from mixfit.evaluation.word_effects import WordEffects
from mixfit.evaluation.word_weights import ColumnWords
from mixfit.hooks.heat import overlay
from mixfit.html import number
from mixfit.runs.report.content import ColumnPart, ModelExplanation, Scale
from mixfit.runs.report.render import percent, plural, render, write_page

if TYPE_CHECKING:
    import PIL.Image


SHOWN_COLUMNS = 20
SHOWN_PARTS = 8
SHOWN_ROWS = 24
SHOWN_WORDS = 5
"""Words that are listed below a text, the strongest first."""
SHOWN_CHARACTERS = 1_500
"""Of a text with marked words."""
_MARKED = 0.1
"""Words are marked whose effect is at least this share of the strongest one."""
_SECTIONS = [("model", "The model"), ("rows", "Row by row")]


def model_explanation(found: Explanation) -> ModelExplanation:
    """Summarise the explanations of rows over the model."""
    (share, share_error), (text, text_error) = found.photo_share, found.text_share
    sizes = (one.tolist() for one in found.importance)
    named = zip(found.columns, found.is_photo.tolist(), found.is_text.tolist(), *sizes, strict=True)
    columns = [
        ColumnPart(name=name, photo=photo, text=is_text, mean=mean, error=error)
        for name, photo, is_text, mean, error in named
    ]
    return ModelExplanation(
        target=found.target,
        scale=found.scale,
        columns=sorted(columns, key=lambda column: -column.mean),
        photo_share=share,
        photo_share_error=share_error,
        text_share=text,
        text_share_error=text_error,
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
            "side": _side(photo=column.photo, text=column.text),
            "cell": "",
            "text": size_text(column.mean, found.scale),
            "error": error_text(column.mean, column.error, found.scale),
            "width": _share(column.mean, longest),
            "low": _share(max(0.0, column.mean - _known(column.error)), longest),
            "high": _share(column.mean + _known(column.error), longest),
        }
        for column in shown
    ]
    alone = {"photos": "The model uses photos only.", "text": "The model uses texts only.", "table": ""}
    return {
        "columns": columns,
        "left_out": max(0, len(found.columns) - SHOWN_COLUMNS),
        "sides": _sides_view(found),
        "one_side": alone.get("".join(found.sides), "All contributions are 0."),
        "interaction": size_text(found.interaction, found.scale),
        "reading": reading(found.target, found.scale),
        "how": _how(found),
    }


def words_view(found: Sequence[ColumnWords], target: str, scale: Scale) -> list[dict[str, Any]]:
    """The words that matter most in each column of text, by class: those that raise its score, and that lower it."""
    unit = {
        "number": f"in the unit of {target}",
        "logarithm": f"in percent of {target}",
        "probability": "in percentage points of its estimate of the probability of the class",
    }[scale]
    columns = dict.fromkeys(one.column for one in found)
    return [
        {
            "column": column,
            "classes": [
                {
                    "of_class": one.of_class,
                    "sides": [
                        (said, [{"word": w.word, "part": part_text(w.part, scale), "texts": w.texts} for w in words])
                        for said, words in (("Raise it", one.raises), ("Lower it", one.lowers))
                        if words
                    ],
                }
                for one in found
                if one.column == column and (one.raises or one.lowers)
            ],
            "how": "Words and pairs of neighbouring words in the linear model of the words alone, whose score other "
            f"models get as one of the numbers of a text. The values are their mean parts of that score, {unit}, in "
            f"the training texts that have them; shown are those of at least {plural(first.least, 'text')} of "
            f"{first.texts:,}. They are not effects on the delivered model: mixfit explain shows those row by row.",
        }
        for column in columns
        for first in [next(one for one in found if one.column == column)]
    ]


def share_text(share: float) -> str:
    """Format a share of the total contribution: not in percent, which are those of the target or of probabilities.

    >>> [share_text(share) for share in (0.372, 0.004, 0.996, 0.0, 1.0)]
    ['0.37', '<0.01', '>0.99', '0', '1']
    """
    if share in (0, 1):
        return f"{share:.0f}"
    return "<0.01" if share < 0.01 else ">0.99" if share > 0.99 else f"{share:.2f}"


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
    """The share of each side in the total contribution, as text and as the width of its bar."""
    if len(found.sides) < 2 or math.isnan(found.photo_share):
        return None
    table = max(0.0, 1 - found.text_share - found.photo_share)
    sides = [
        ("table", "Table", table, math.nan),
        ("text", "text", found.text_share, found.text_share_error),
        ("photos", "photos", found.photo_share, found.photo_share_error),
    ]
    shares = [
        {
            "side": side,
            "name": name if place else name.capitalize(),
            "share": share_text(share),
            "error": "" if math.isnan(error) else share_text(error),
            "width": round(100 * share, 1),
        }
        for place, (side, name, share, error) in enumerate(one for one in sides if one[0] in found.sides)
    ]
    return {"shares": shares, "label": ", ".join(f"{one['name']} {one['share']}" for one in shares)}


def reading(target: str, scale: Scale) -> str:
    """What the contributions of columns are, and their unit."""
    match scale:
        case "number":
            unit = f"in the unit of {target}"
        case "logarithm":
            unit = f"in percent of {target}; the model is fitted to its logarithm, so contributions multiply"
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
    words: Mapping[int, Sequence[WordEffects]] = field(default_factory=dict)
    """Effects of the words of texts, by row."""
    words_note: str = ""
    """Caption of the marked words, or why there are none."""


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
            "words_note": content.words_note,
            "words": any(content.words.values()),
        },
        "sections": _SECTIONS,
        "view": explanation_view(model_explanation(found)),
        "rows": [
            _row_view(found, place, content.heat.get(row), content.words.get(row, ()))
            for place in shown
            for row in (int(found.rows[place]),)
        ],
    }
    return render("explain.html.j2", values)


def _row_view(found: Explanation, place: int, heat: PhotoHeat | None, words: Sequence[WordEffects]) -> dict[str, Any]:
    parts = found.parts[place]
    order = np.argsort(-np.abs(parts), kind="stable")
    longest = float(np.abs(parts).max()) or 1.0
    others = order[SHOWN_PARTS:]
    scale, total = found.scale, float(found.value[place] - found.base[place])
    return {
        "row": int(found.rows[place]),
        "prediction": _prediction_text(found, place),
        "about": about_row(found, place),
        "parts": [_part_view(found, place, column, longest) for column in order[:SHOWN_PARTS].tolist()],
        "texts": [_words_view(one, scale) for one in words],
        "others": {"name": plural(len(others), "other column"), "text": part_text(float(parts[others].sum()), scale)}
        if len(others)
        else None,
        "total": part_text(total, scale),
        "sides": _sides_of_row(found, place),
        "looks": [] if heat is None else _looks(heat),
    }


def _sides_of_row(found: Explanation, place: int) -> str:
    """The contributions of the sides to a prediction; "" for a model of one side."""
    sides = list(found.shares)
    if len(sides) < 2:
        return ""
    parts = {"table": found.table, "text": found.text, "photos": found.photos}
    said = ", ".join(f"{side} {part_text(float(parts[side][place]), found.scale)}" for side in sides)
    return f"{said[0].upper()}{said[1:]}, {part_text(float(found.interaction[place]), found.scale)} interaction."


def _side(*, photo: bool, text: bool) -> str:
    """The class of a column's bar."""
    return "photo" if photo else "text" if text else ""


def _part_view(found: Explanation, place: int, column: int, longest: float) -> dict[str, Any]:
    part, error = float(found.parts[place, column]), float(found.errors[place, column])
    width = round(50 * abs(part) / longest, 1)
    return {
        "name": found.columns[column],
        "cell": found.cells[place][column] or "missing",
        "side": _side(photo=bool(found.is_photo[column]), text=bool(found.is_text[column])),
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


def about_row(found: Explanation, place: int) -> str:
    """What is explained of a row, and its typical value."""
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


def _words_view(found: WordEffects, scale: Scale) -> dict[str, Any]:
    """A text in pieces, each with the effect of its word, and its strongest words."""
    largest = float(np.abs(found.effects).max())
    pieces, end = [], 0
    shown = found.text[:SHOWN_CHARACTERS]
    for start, stop, word in found.spans:
        effect = float(found.effects[word])
        if stop > len(shown) or not abs(effect) > _MARKED * largest:
            continue
        pieces.append({"text": shown[end:start], "mark": ""})
        strength = 1 + (abs(effect) > largest / 4) + (abs(effect) > largest / 2)
        mark = f"{'raises' if effect > 0 else 'lowers'} by-{strength}"
        pieces.append({"text": shown[start:stop], "mark": mark, "effect": part_text(effect, scale)})
        end = stop
    pieces.append({"text": shown[end:] + ("…" if len(shown) < len(found.text) else ""), "mark": ""})
    return {
        "column": found.column,
        "pieces": [piece for piece in pieces if piece["text"]],
        "strongest": [
            {"word": word, "text": part_text(effect, scale)} for word, effect in found.strongest[:SHOWN_WORDS] if effect
        ],
        "tried": len(found.words),
        "left_out": found.left_out,
    }


def _picture(photo: Tensor) -> "PIL.Image.Image":
    from PIL import Image

    bytes_ = photo if photo.dtype == torch.uint8 else (255 * photo).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).cpu().numpy())


def _inside(picture: "PIL.Image.Image") -> str:
    """A data URL."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
