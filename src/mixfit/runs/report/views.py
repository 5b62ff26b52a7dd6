"""Views of the report's sections: values, sentences, figures, and positions on a scale from 0 to 100.

In: ``ReportContent``. Out: values for the templates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from markupsafe import Markup
from matplotlib.figure import Figure

from mixfit.choices import NUMBER_TASKS
from mixfit.ensemble.calibration import Bin, calibration_error, chance_range, judged_probability, reliability
from mixfit.ensemble.photo_rule import TEXT_READ_BESIDE_PHOTOS, PhotoRule
from mixfit.evaluation.result import Contest, Part, Result, Score
from mixfit.html import ends_text, number, short
from mixfit.predictor.card import Coverage
from mixfit.runs.report import figures
from mixfit.runs.report.content import Distribution, ReportContent, ShownRow
from mixfit.runs.report.render import percent, plain, plural
from mixfit.training.metrics import METRICS, metric_label

SHOWN_EPOCHS = 500
LARGEST_MATRIX = 20
"""Classes of a confusion matrix that is shown in full."""
SHOWN_PAIRS = 20
LARGEST_HEAT_MAP = 200
_ALONE = 1.05
"""Mean size of a prediction set below which it amounts to the predicted class alone."""
_BAR, _HEIGHT = 7, 30  # of a histogram, in units of its drawing
_IGNORED = 8


def part_heading(result: Result, part: Part) -> str:
    """The name of a part with the number of its rows."""
    return f"{result.part_name(part.split).capitalize()}, {plural(part.rows, 'row')}"


def best_first(result: Result, scores: Sequence[Score]) -> list[Score]:
    """Sort by the headline metric; unknown values come last."""
    sign = -1.0 if METRICS[result.headline].higher_is_better else 1.0
    return sorted(scores, key=lambda score: np.nan_to_num(sign * score.metrics[result.headline], nan=np.inf))


def compared_scores(result: Result) -> list[Score]:
    """The scores of the models that are compared, on the final rows, the best first."""
    # If the delivered blend uses neither text nor photos, it is the blend of the table.
    gains = _gains(result)
    twin = gains[0].without if gains and not any(one.used or not one.same_kind for one in gains) else ""
    return best_first(result, [one for one in result.final.scores if one.kind != "candidate" and one.model != twin])


def answer_view(result: Result) -> dict[str, Any]:
    """The headline metric of the models that are compared, and where it lies between the ends of a scale."""
    scores, part = compared_scores(result), result.final
    ends = [end for one in scores for end in (one.metrics[result.headline], *one.interval(result.headline))]
    finite = [end for end in ends if np.isfinite(end)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    direction = "higher is better" if METRICS[result.headline].higher_is_better else "lower is better"
    return {
        "answer": result.answer,
        "constant": result.answer_of_constant,
        "verdict": " ".join(filter(None, [result.departure, result.findings(values=False)])),
        "heading": f"{metric_label(result.headline)} on {plural(part.rows, f'{result.part_name(part.split)} row')}, "
        f"{direction}",
        "has_intervals": any(result.headline in one.intervals for one in scores),
        "lines": [_line(result, score, low, high) for score in scores],
        "units": "rows" if part.groups is None else "groups",
    }


def _line(result: Result, score: Score, low: float, high: float) -> dict[str, Any]:
    """One model: its value, its interval, and where they lie between the ends of the scale."""
    value, (left, right) = score.metrics[result.headline], score.interval(result.headline)
    room = high - low

    def place(number_: float) -> float:
        return round(100 * (number_ - low) / room, 2) if room > 0 else 50.0

    drawn = np.isfinite(value)
    return {
        "model": score.model,
        "ours": score.kind == "ours",
        "value": value,
        "interval": (left, right) if np.isfinite(left) else None,
        "dot": place(value) if drawn else None,
        "left": place(left) if np.isfinite(left) else None,
        "width": round(place(right) - place(left), 2) if np.isfinite(left) and room > 0 else 0,
    }


def beaten_by_table(result: Result) -> str:
    """A warning that a model without photos or text is better than the delivered one; "" if there is none.

    Compared on the first part with known values: the test rows, or the validation rows."""
    sign = 1.0 if METRICS[result.headline].higher_is_better else -1.0
    for part in result.parts:
        known = [score for score in part.scores if np.isfinite(score.metrics[result.headline])]
        ours = [score for score in known if score.kind == "ours"]
        fewer = [score for score in known if score.kind in ("table", "text")]
        if not ours or not fewer:
            continue
        best = max(fewer, key=lambda score: sign * score.metrics[result.headline])
        if sign * best.metrics[result.headline] <= sign * ours[0].metrics[result.headline]:
            return ""
        left_out = _uses(result) - ({"text"} if best.kind == "text" else set())
        which = f"A model without {' and '.join(sorted(left_out))}" if left_out else "Another model"
        return (
            f"{which} is better on the {result.part_name(part.split)} rows: "
            f"{short(best.model)} has {metric_label(result.headline)} {number(best.metrics[result.headline])}, "
            f"{short(ours[0].model)} {number(ours[0].metrics[result.headline])}."
        )
    return ""


def how_fitted(result: Result, contest: Contest) -> str:
    """How the models were fitted and judged, and what predicts new rows."""
    folds = f"one of {len(contest.fold_scores)} folds" if contest.fold_scores else "one fold"
    said = f"Each model was cross-validated: fitted on all rows but those of {folds}, and scored on these."
    if result.refit:
        return said
    kernels = any(line.share and "kernel ridge" in line.model for line in contest.leaderboard)
    alone = "; kernel ridge regression, which a mean does not improve, is fitted once more on all of these rows"
    mean = "New rows are predicted by the mean of the models of all folds, of every model with a weight above 0"
    return f"{said} {mean}{alone if kernels else ''}."


def _uses(result: Result) -> set[str]:
    """Which of photos and text the delivered model uses; a single network is asked only for photos."""
    lines = [] if result.contest is None else result.contest.leaderboard
    line = next((line for line in lines if line.model == result.ours), None)
    if line is None:
        return {"photos"}
    return {name for name, used in (("photos", line.photos), ("text", line.text)) if used}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gain:
    """Two models whose difference is the effect of the text or of the photos."""

    what: Literal["text", "photos"]
    with_it: str
    without: str
    used: bool
    same_kind: bool
    beside_text: bool
    rule: PhotoRule | None


def _gains(result: Result) -> list[_Gain]:
    """What the text adds to the table, and what the photos add to the table, or to table and text."""
    contest, found = result.contest, list[_Gain]()
    if (text := result.text) is not None:
        rule = None if contest is None else contest.text
        models = {"with_it": text.with_text, "without": text.without}
        found.append(_Gain(what="text", **models, used=text.used, same_kind=True, beside_text=False, rule=rule))
    if (photos := result.photos) is not None:
        found.append(
            _Gain(
                what="photos",
                with_it=photos.with_photos,
                without=photos.without,
                used=photos.used,
                same_kind=photos.same_kind,
                beside_text=photos.beside_text,
                rule=None if contest is None else contest.photos,
            )
        )
    return found


def gain_views(result: Result) -> list[dict[str, Any]]:
    """Effect of the text, and of the photos: the decision, and the difference on each part of the rows."""
    return [_gain_view(result, gain) for gain in _gains(result)]


def _gain_view(result: Result, gain: _Gain) -> dict[str, Any]:
    lines = []
    for part in result.parts:
        found = part.difference(gain.with_it, gain.without, result.headline)
        difference, interval = found.texts
        lines.append(
            {
                "part": part_heading(result, part),
                "groups": part.groups,
                "with_it": part.score(gain.with_it).metrics[result.headline],
                "without": part.score(gain.without).metrics[result.headline],
                "difference": difference,
                "interval": interval,
            }
        )
    return {
        "what": gain.what,
        "heading": f"What the {gain.what} add{'s' if gain.what == 'text' else ''}"
        f"{' beside the text' if gain.beside_text else ''}",
        "sentences": _gain_sentences(result, gain),
        "lines": lines,
        "with_name": gain.with_it,
        "without_name": gain.without,
        "units": "rows" if result.final.groups is None else "groups",
        "by_rule": gain.rule is not None,
        "better": "above" if METRICS[result.headline].higher_is_better else "below",
    }


def _gain_sentences(result: Result, gain: _Gain) -> list[str]:
    """The decision from the folds, and the difference on the final rows.

    Only the rule claims that photos or texts help: an interval on test rows neither makes nor withdraws that claim."""
    if not gain.same_kind:
        how = "--preset quick fits the same models with and without photos"
        return [f"The model without photos is of another kind, {gain.without}: {how}."]
    rule, what = gain.rule, gain.what
    said = [] if rule is None else [rule.why]
    if rule is not None and what == "text" and gain.used and not rule.use:
        said.append(TEXT_READ_BESIDE_PHOTOS)
    _, low, high = result.final.difference(gain.with_it, gain.without, result.headline).gain
    rows, claim = f"the {result.part_name(result.final.split)} rows", rule is not None and rule.claim
    if np.isnan(low):
        said.append(f"No interval on {rows}: too few rows, or the metric cannot be computed.")
    elif high < 0:
        said.append(f"On {rows}, the predictions {'are' if gain.used else 'would have been'} worse with {what}.")
    elif claim and low <= 0:
        said.append(f"The difference on {rows} alone is within noise.")
    elif rule is not None and not claim and low > 0:
        said.append(f"The difference on {rows} is beyond noise, but only out-of-fold rows support such a claim.")
    return said


def unused_columns(content: ReportContent) -> str:
    """One line with the ignored columns and the reasons; "" without ignored columns."""
    ignored = [column for column in content.schema.columns if column.role == "ignored"]
    if not ignored:
        return ""
    named = [f"{short(one.name)} ({short(one.reason)})" if one.reason else short(one.name) for one in ignored]
    more = f"; and {len(named) - _IGNORED} more, listed below" if len(named) > _IGNORED else ""
    return f"Not used: {'; '.join(named[:_IGNORED])}{more}."


def _numbers(history: pd.DataFrame, name: str) -> Float[np.ndarray, " epochs"]:
    return pd.to_numeric(history[name], errors="coerce").to_numpy(dtype=np.float64)


def curves(content: ReportContent) -> list[dict[str, str | Markup]]:
    """Training and validation loss, and the headline metric if the history has it."""
    history, metric = content.history, content.result.headline
    if history.empty:
        return []
    epochs = _numbers(history, "epoch") if "epoch" in history else np.arange(1.0, len(history) + 1)
    colours = {"train": figures.ACCENT, "valid": figures.SECOND}
    losses = [(part, colours[part], f"{part}_loss") for part in ("train", "valid")]
    metrics = [("train", figures.ACCENT, f"train_{metric}"), ("valid", figures.SECOND, f"valid_{metric}")]
    if f"valid_{metric}" not in history:
        metrics = [("valid", figures.SECOND, metric)]
    plans: list[tuple[str, str, list[tuple[str, str, str]], Callable[..., Any]]] = [
        ("curve-loss", "Loss", losses, np.nanargmin),
        (
            "curve-metric",
            metric_label(metric),
            metrics,
            np.nanargmax if METRICS[metric].higher_is_better else np.nanargmin,
        ),
    ]
    found: list[dict[str, str | Markup]] = []
    for name, heading, wanted, best_of in plans:
        lines = [(label, colour, _numbers(history, column)) for label, colour, column in wanted if column in history]
        if not lines:
            continue
        judged = np.where(np.isfinite(lines[-1][2]), lines[-1][2], np.nan)
        mark, caption = None, "No finite values were recorded."
        if not np.isnan(judged).all():
            best = int(best_of(judged))
            mark = float(epochs[best])
            caption = (
                f"Best {'validation' if lines[-1][0] == 'valid' else 'training'} value {number(float(judged[best]))}, "
                f"in epoch {plain(mark)} of {plain(float(epochs[-1]))} (dotted)."
            )
        svg = figures.svg(
            name, f"{heading} by epoch. {caption}", partial(figures.line_figure, epochs, lines, mark=mark)
        )
        found.append({"heading": heading, "svg": svg, "caption": caption})
    return found


def history_heading(name: str) -> str:
    """A column name of the history in readable form.

    >>> history_heading("valid_mae"), history_heading("train_loss"), history_heading("lr")
    ('validation MAE', 'training loss', 'learning rate')
    """
    for start, called in (("train_", "training "), ("valid_", "validation ")):
        if name.startswith(start):
            return called + metric_label(name.removeprefix(start))
    return {"lr": "learning rate", "seconds": "seconds"}.get(name, metric_label(name))


def history_rows(history: pd.DataFrame) -> list[list[str]]:
    """The first epochs as strings, row by row."""
    shown = history.head(SHOWN_EPOCHS)
    columns = [[plain(float(value)) for value in _numbers(shown, name)] for name in shown.columns]
    return [list(cells) for cells in zip(*columns, strict=True)]


def calibration_view(content: ReportContent) -> dict[str, Any]:
    """Calibration of probabilities, and coverage of intervals or sets."""
    return {
        "probabilities": _probabilities(content),
        "levels": coverage_by_level(content.result),
        "coverage": _kinds_of_rows(content.result),
        "sentences": _interval_sentences(content.result),
    }


def calibration_curve(bins: Sequence[Bin]) -> Figure:
    """Observed frequency over predicted probability."""
    return figures.calibration_figure(
        [one.predicted for one in bins],
        [one.observed for one in bins],
        [one.count for one in bins],
        labels=("predicted probability", "observed frequency"),
    )


def _probabilities(content: ReportContent) -> dict[str, Any] | None:
    if content.probabilities is None or not len(content.truth):
        return None
    bins = reliability(
        *judged_probability(content.truth.astype(np.int64), content.probabilities), weight=content.weight
    )
    error = calibration_error(bins)
    what = f"class {short(content.classes[1])}" if len(content.classes) == 2 else "predicted class"
    part = content.result.part_name(content.result.final.split)
    caption = f"n = {len(content.truth):,} {part} rows. The line is perfect calibration; larger dots have more rows."
    title = f"Calibration curve of the {what}. {caption}"
    return {
        "what": what,
        "error": error,
        "bins": bins,
        "caption": caption,
        "svg": figures.svg("reliability-figure", title, partial(calibration_curve, bins)),
        "sentence": (
            f"Expected calibration error of the {what}: {number(error)} over "
            f"{plural(len(content.truth), f'{part} row')} (0 is perfect)."
        ),
    }


def coverage_by_level(result: Result) -> list[Coverage]:
    """Coverage of all test rows by level."""
    return [] if result.contest is None else [one for one in result.contest.coverage if one.rows == "all"]


def _kinds_of_rows(result: Result) -> list[dict[str, Any]]:
    """Coverage by group of rows, with the range expected of exact intervals for that number of rows."""
    found = []
    for part in [] if result.contest is None else result.contest.coverage:
        if part.level != result.coverage_level or part.rows == "all":
            continue
        low, high = chance_range(part.count, part.level)
        found.append(
            {
                "rows": part.rows,
                "held": part.held,
                "chance": f"{100 * low:.0f} to {100 * high:.0f} %",
                "count": f"{part.inside:,} of {part.count:,}",
            }
        )
    return found


def _interval_sentences(result: Result) -> list[str]:
    """The empirical coverage of intervals or sets, and whether it differs from the nominal one beyond chance."""
    chosen = [one for one in coverage_by_level(result) if one.level == result.coverage_level]
    if not chosen:
        return []
    found = chosen[0]
    regression = result.task in NUMBER_TASKS
    what = "prediction intervals" if regression else "prediction sets"
    share, width = found.held, float("nan") if found.width is None else found.width
    error = np.sqrt(found.level * (1 - found.level) / found.count)
    if abs(share - found.level) <= 2 * error:
        verdict = "as expected within noise"
    else:
        verdict = "less than expected" if share < found.level else "more than expected"
    size = f"median width {number(width)}" if regression else f"mean size {number(width)} classes"
    if not regression and share > found.level and width < _ALONE:
        verdict += ", as a set has at least one class, and the predicted class alone is right this often"
    by_weight = "" if found.share is None else " by weight"
    held = f"{found.inside:,} of {found.count:,} test rows ({percent(share)}{by_weight})"
    return [f"The {percent(found.level)} {what} contain the true value of {held}, {verdict}; {size}."]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusedPair:
    """Rows of one class that were predicted as another."""

    truth: int
    prediction: int
    count: int
    share: float
    """Share of the rows of the true class, in (0, 1]."""


def known_rows(
    truth: Shaped[np.ndarray, " rows"], prediction: Shaped[np.ndarray, " rows"], classes: int
) -> tuple[Int[np.ndarray, " known"], Int[np.ndarray, " known"]]:
    """Keep the rows whose two indices are in [0, classes); nan and unknown classes are dropped."""
    known = (truth >= 0) & (truth < classes) & (prediction >= 0) & (prediction < classes)
    return truth[known].astype(np.int64), prediction[known].astype(np.int64)


def confusion_counts(
    truth: Int[np.ndarray, " rows"], prediction: Int[np.ndarray, " rows"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Count rows by (truth, prediction).

    >>> confusion_counts(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(truth * classes + prediction, minlength=classes * classes).reshape(classes, classes)


def row_shares(counts: Int[np.ndarray, "truth prediction"]) -> Float[np.ndarray, "truth prediction"]:
    """Divide each row of counts by its sum; a row without counts is all 0."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def most_confused(
    truth: Int[np.ndarray, " rows"], prediction: Int[np.ndarray, " rows"], *, classes: int, limit: int
) -> list[ConfusedPair]:
    """The most frequent pairs, at most ``limit``; ties in the order of the class indices.

    Counts only pairs that occur, so ten thousand classes need no matrix.
    """
    totals = np.bincount(truth, minlength=classes)
    wrong = truth != prediction
    codes, counts = np.unique(truth[wrong] * classes + prediction[wrong], return_counts=True)
    order = np.lexsort((codes, -counts))[:limit]
    return [
        ConfusedPair(
            truth=int(code // classes),
            prediction=int(code % classes),
            count=int(count),
            share=float(count / totals[code // classes]),
        )
        for code, count in zip(codes[order], counts[order], strict=True)
    ]


def binned_shares(
    truth: Int[np.ndarray, " rows"], prediction: Int[np.ndarray, " rows"], *, classes: int, limit: int
) -> Float[np.ndarray, "bins bins"]:
    """The confusion matrix normalised by row, neighbouring classes merged if there are more than ``limit``."""
    bins = min(classes, limit)
    return row_shares(confusion_counts(truth * bins // classes, prediction * bins // classes, bins))


def predictions_view(content: ReportContent) -> dict[str, Any]:
    """Figure, sentences and tables of the predictions."""
    if len(content.truth) == 0:
        return {"rows": 0}
    return _number_predictions(content) if content.schema.task in NUMBER_TASKS else _class_predictions(content)


def _number_predictions(content: ReportContent) -> dict[str, Any]:
    """Predicted against true values, with a table of errors."""
    truth, prediction = content.truth.astype(np.float64), content.prediction.astype(np.float64)
    finite = np.isfinite(truth) & np.isfinite(prediction)
    part, total = content.result.part_name(content.result.final.split), len(truth)
    view: dict[str, Any] = {"kind": "numbers", "rows": total, "sentences": [], "svg": None, "caption": ""}
    if not finite.all():
        view["sentences"].append(f"{plural(int((~finite).sum()), 'row')} without a finite value are not shown.")
    truth, prediction = truth[finite], prediction[finite]
    if len(truth) == 0:
        return view
    errors = content.result.final.errors  # half of the rows are in the answer
    view["errors"] = [(percent(share), distance) for share, distance in errors if share > 0.5]
    drawn = (truth > 0) & (prediction > 0) if content.log_scale else np.ones(len(truth), dtype=bool)
    if not drawn.any():
        return view
    look = "darker cells have more rows" if drawn.sum() > figures.MOST_DOTS else "one dot per row"
    view["caption"] = f"n = {int(drawn.sum()):,} {part} rows, {look}; the line is a perfect prediction."
    if not drawn.all():
        view["caption"] += f" {plural(int((~drawn).sum()), 'row')} at or below 0 cannot be shown on logarithmic axes."
    title = f"Predicted against true values. {view['caption']}"
    view["svg"] = figures.svg(
        "predictions-figure",
        title,
        partial(figures.scatter_figure, truth[drawn], prediction[drawn], log_scale=content.log_scale),
    )
    return view


def _class_predictions(content: ReportContent) -> dict[str, Any]:
    """The confusion matrix, or with more than ``LARGEST_MATRIX`` classes the worst pairs and a heat map."""
    classes, names, total = len(content.classes), content.classes, len(content.truth)
    truth, prediction = known_rows(content.truth, content.prediction, classes)
    part = content.result.part_name(content.result.final.split)
    view: dict[str, Any] = {"rows": total, "classes": names, "sentences": []}
    if len(truth) < total:
        view["sentences"].append(
            f"{plural(total - len(truth), 'row')} of classes that are not in the training rows are not shown."
        )
    if classes <= LARGEST_MATRIX:
        counts = confusion_counts(truth, prediction, classes)
        return view | {"kind": "matrix", "matrix": _matrix(names, counts)}
    pairs = most_confused(truth, prediction, classes=classes, limit=SHOWN_PAIRS)
    caption = (
        f"n = {len(truth):,} {part} rows, {classes:,} classes in alphabetical order; each row is a true class and "
        "sums to 100 %. The diagonal holds correct predictions."
    )
    title = f"Confusion matrix of {classes} classes. {caption}"
    heat = binned_shares(truth, prediction, classes=classes, limit=LARGEST_HEAT_MAP)
    return view | {
        "kind": "pairs",
        "pairs": [(names[pair.truth], names[pair.prediction], pair.count, pair.share) for pair in pairs],
        "svg": figures.svg("predictions-figure", title, partial(figures.heat_figure, heat)),
        "caption": caption,
    }


def _matrix(names: tuple[str, ...], counts: np.ndarray) -> list[dict[str, Any]]:
    shares = row_shares(counts)
    return [
        {
            "name": name,
            "total": int(counts[i].sum()),
            "cells": [
                {"count": int(counts[i, j]), "share": float(shares[i, j]), "right": i == j} for j in range(len(names))
            ],
        }
        for i, name in enumerate(names)
    ]


def row_view(content: ReportContent, row: ShownRow) -> dict[str, Any]:
    """One row with its photos, and its prediction if known."""
    view: dict[str, Any] = {
        "row": row.row,
        "part": row.part,
        "cells": row.cells,
        "reasons": row.reasons,
        "more_photos": row.more_photos,
        "photos": [
            {
                "name": photo.name,
                "source": content.photo_files.get(photo.file, ""),
                "alt": f"Photo {place} of row {row.row}: {short(photo.name)}",
            }
            for place, photo in enumerate(row.photos, start=1)
        ],
        "facts": [],
    }
    places = [] if content.predicted_rows is None else np.flatnonzero(content.predicted_rows == row.row).tolist()
    if places:
        view["facts"] = prediction_facts(content, places[0])
    return view


def prediction_facts(content: ReportContent, place: int) -> list[tuple[str, str]]:
    """Truth and prediction of one row as text.

    Args:
        place: of the row among the predicted ones.
    """
    truth, prediction = content.truth[place], content.prediction[place]
    if content.schema.task in NUMBER_TASKS:
        facts = [("Truth", number(float(truth))), ("Predicted", number(float(prediction)))]
        if content.interval is not None:
            low, high = (float(ends[place]) for ends in content.interval)
            facts.append((f"{percent(content.result.coverage_level)} interval", ends_text((low, high))))
        return facts
    said = []
    for name, index in (("Truth", int(truth)), ("Predicted", int(prediction))):
        given = "" if content.probabilities is None else probability(float(content.probabilities[place][index]))
        said.append((name, content.classes[index] + (f", given {given}" if given else "")))
    return said


def probability(share: float) -> str:
    """A probability in per cent, to a tenth where that matters.

    >>> probability(0.523), probability(0.0042), probability(0.00001), probability(0.9996)
    ('52 %', '0.4 %', '<0.1 %', '>99.9 %')
    """
    if share < 0.001:
        return "<0.1 %"
    if share > 0.999:
        return ">99.9 %"
    return f"{share:.1%}".replace("%", " %") if share < 0.01 or share > 0.99 else f"{share:.0%}".replace("%", " %")


def distribution_view(found: Distribution) -> dict[str, Any]:
    """A histogram as rectangles, or the most frequent levels with bars."""
    total = sum(found.counts) + found.others
    view: dict[str, Any] = {"kind": found.kind, "summary": found.summary, "sample": found.sample}
    if found.kind in ("levels", "photos"):
        longest = max(found.counts, default=1)
        view["levels"] = [
            {"label": label, "count": count, "share": count / max(total, 1), "width": round(100 * count / longest, 1)}
            for label, count in zip(found.labels, found.counts, strict=True)
        ]
        view["others"] = found.others
        return view
    highest = max(found.counts, default=1)
    heights = [round(_HEIGHT * count / highest, 1) if count else 0.0 for count in found.counts]
    heights = [max(height, 0.8) if count else 0.0 for height, count in zip(heights, found.counts, strict=True)]
    view["bars"] = [
        {"x": place * _BAR, "y": round(_HEIGHT - height, 1), "height": height, "text": f"{label}: {count:,}"}
        for place, (height, label, count) in enumerate(zip(heights, found.labels, found.counts, strict=True))
    ]
    view["width"], view["height"], view["bar"] = max(1, len(heights)) * _BAR, _HEIGHT, _BAR - 1
    view["alt"] = f"{found.summary}; most frequent {found.labels[int(np.argmax(found.counts))]}" if heights else ""
    return view
