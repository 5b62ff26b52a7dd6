"""The report's figures of a finished run for notebooks.

In: a run folder. Out: matplotlib figures made from the files in the folder."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mixfit.choices import NUMBER_TASKS
from mixfit.ensemble.calibration import judged_probability, reliability
from mixfit.errors import ConfigError
from mixfit.evaluation.result import read_result
from mixfit.runs.report import figures
from mixfit.runs.report.content import ReportContent
from mixfit.runs.report.saved import read_content
from mixfit.runs.report.views import (
    calibration_curve,
    compared_scores,
    confusion_counts,
    coverage_by_level,
    prediction_facts,
    row_shares,
)
from mixfit.training.metrics import METRICS, metric_label

_MOST_NAMES = 20


def plot_scores(folder: Path) -> Figure:
    """The headline metric of the models that are compared, with 95 % intervals."""
    result = read_result(folder)
    scores = compared_scores(result)[::-1]  # the best on top
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(scores)), layout="constrained")
    axes = figure.add_subplot()
    for place, score in enumerate(scores):
        value, colour = score.metrics[result.headline], "C0" if score.kind == "ours" else "0.5"
        low, high = score.intervals.get(result.headline, (value, value))
        axes.plot([low, high], [place, place], color=colour, linewidth=4, alpha=0.4, solid_capstyle="butt")
        axes.plot([value], [place], "o", color=colour)
    axes.set_yticks(range(len(scores)), [_text(score.model) for score in scores])
    direction = "higher" if METRICS[result.headline].higher_is_better else "lower"
    rows = f"{result.part_name(result.final.split)} rows"
    axes.set_xlabel(f"{metric_label(result.headline)} of the {rows}, {direction} is better")
    return figure


def plot_loss(folder: Path) -> Figure:
    """Training and validation loss by epoch.

    Raises:
        ConfigError: no network was trained.
    """
    content = read_content(folder)
    history, contest = content.history, content.result.contest
    if history.empty:
        raise ConfigError(f"No network was trained in {folder}, so there is no loss by epoch.")
    wanted = (("training rows", figures.ACCENT, "train_loss"), ("validation rows", figures.SECOND, "valid_loss"))
    lines = [(label, colour, history[name].to_numpy()) for label, colour, name in wanted if name in history]
    figure = figures.line_figure(history["epoch"].to_numpy(dtype=np.float64), lines)
    figure.axes[0].set_ylabel("loss")
    figure.axes[0].set_title(_text("" if contest is None else contest.history_of), fontsize="medium")
    return figure


def plot_predictions(folder: Path) -> Figure:
    """Predicted against true values, or the confusion matrix with the share of each true class."""
    content = read_content(folder)
    if content.schema.task not in NUMBER_TASKS:
        return _confusion(content)
    truth, prediction = content.truth, content.prediction
    drawn = (truth > 0) & (prediction > 0) if content.log_scale else np.ones(len(truth), dtype=bool)
    figure = figures.scatter_figure(truth[drawn], prediction[drawn], log_scale=content.log_scale)
    rows = f"{len(content.truth):,} {content.result.part_name(content.result.final.split)} rows"
    figure.axes[0].set_xlabel(f"true {_text(content.result.target)}")
    figure.axes[0].set_title(rows, fontsize="medium")
    return figure


def _confusion(content: ReportContent) -> Figure:
    classes = len(content.classes)
    counts = confusion_counts(content.truth.astype(np.int64), content.prediction.astype(np.int64), classes)
    side = min(10.0, 3.0 + 0.45 * min(classes, _MOST_NAMES))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(row_shares(counts), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if classes > _MOST_NAMES:
        return figure
    names = [_text(name) for name in content.classes]
    axes.set_xticks(range(classes), names, rotation=45, ha="right")
    axes.set_yticks(range(classes), names)
    shares = row_shares(counts)
    for row, column in np.argwhere(counts > 0).tolist():
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour)
    return figure


def plot_calibration(folder: Path) -> Figure:
    """The calibration curve for classes, or the empirical coverage of intervals for regression.

    Raises:
        ConfigError: there are neither probabilities nor intervals.
    """
    content = read_content(folder)
    if content.probabilities is not None:
        judged = judged_probability(content.truth.astype(np.int64), content.probabilities)
        return calibration_curve(reliability(*judged, weight=content.weight))
    levels = coverage_by_level(content.result)
    if not levels:
        raise ConfigError(
            f"{folder} is a single regression network, which has no prediction intervals: train with --preset quick."
        )
    return figures.calibration_figure(
        [one.level for one in levels],
        [one.held for one in levels],
        [one.count for one in levels],
        labels=("nominal coverage", "empirical coverage"),
    )


def show_worst(folder: Path, count: int = 6) -> Figure:
    """The rows with the largest errors: photos, truth and prediction, and what is unusual about them.

    Raises:
        ConfigError: ``count`` is below 1, or no prediction was wrong.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, got {count}.")
    content = read_content(folder)
    rows = content.worst[:count]
    if not rows or content.predicted_rows is None:
        raise ConfigError(f"All predictions of {folder} are correct.")
    figure = Figure(figsize=(9, 2.1 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False, width_ratios=[1, 2])
    for (picture, text), row in zip(grid, rows, strict=True):
        for axes in (picture, text):
            axes.set_axis_off()
        source = next((content.photo_files[one.file] for one in row.photos if one.file in content.photo_files), None)
        if source is None:
            picture.text(0.5, 0.5, "no photo", ha="center", va="center", color="0.5")
        else:
            picture.imshow(np.asarray(Image.open(BytesIO(base64.b64decode(source.partition(",")[2])))))
        place = int(np.flatnonzero(content.predicted_rows == row.row)[0])
        facts = [f"{name}: {value}" for name, value in prediction_facts(content, place)]
        lines = [f"Row {row.row}", *facts, *row.reasons[:3]]
        text.text(0, 0.95, "\n".join(map(_text, lines)), va="top", fontsize="small", wrap=True)
    return figure


def _text(text: str) -> str:
    """Escape dollar signs, which matplotlib would parse as math."""
    cut = text if len(text) <= 100 else text[:99] + "…"
    return cut.replace("$", r"\$")
